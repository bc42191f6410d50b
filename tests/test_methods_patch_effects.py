"""Effects on paired trials and verdicts beside random latents: hand values, two nulls, power."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.methods import patch_effects as judge
from gnomon.methods.effects import weights_of
from gnomon.nulls import benjamini_hochberg

F, C, N, BOUND = 6, 20, 30, 0.2


def weights(n: int) -> np.ndarray:
    return weights_of(np.arange(n), 200, 0)


def test_a_margin_is_paired_and_in_standard_deviations():
    before = np.array([1.0, 2.0, 4.0, 5.0])
    found = judge.effects(before, before[:, None] + [[0.5, -1.0]], "margin", 2.0, weights(4))
    assert np.allclose(found.change, [0.5, -1.0])
    assert np.allclose(found.effect, [0.25, -0.5])
    assert np.allclose(found.baseline, 3.0)
    assert np.allclose(found.low, found.change)  # the same change in every pair: no spread at all


def test_a_rate_counts_pairs_that_were_parsed_and_its_effect_is_cohens_h():
    before = np.array([1, 1, 0, 0, np.nan])
    after = np.array([[1, 1, 1, 0, 1], [np.nan, 1, 0, 0, 1]]).T
    found = judge.effects(before, after, "rate", np.nan, weights(5))
    assert found.n.tolist() == [4, 3]
    assert np.allclose(found.unparsed, [0.2, 0.4])
    assert np.allclose(found.value, [0.75, 1 / 3])
    assert found.effect[0] == pytest.approx(2 * np.arcsin(np.sqrt(0.75)) - 2 * np.arcsin(np.sqrt(0.5)))
    assert found.change[1] == 0
    assert found.low[1] < 0 < found.high[1]  # nothing moved, which is no certainty


def test_flips_are_of_groups():
    before, after = np.zeros(8), np.ones((8, 1))
    alone = judge.flip_p(before, after, np.arange(8), 9999)[0]
    paired = judge.flip_p(before, after, np.repeat(np.arange(4), 2), 9999)[0]
    assert alone == pytest.approx(2 / 2**8, rel=0.3)
    assert paired == pytest.approx(2 / 2**4, rel=0.2)


def test_every_member_is_measured_against_the_others():
    values = np.array([3.0, 1.0, 1.0, 2.0])
    assert np.allclose(judge.standing_out(values, 0.1), [3.0, 0.5, 0.5, 2.0])
    assert np.allclose(judge.standing_out(values, 6.0), values / 6)  # nothing under the bound stands out of noise


def test_sets_of_other_scales_are_pooled_fairly():
    own, sets = np.array([50.0, 0.6]), [np.full(20, 10.0), np.full(20, 0.1)]
    p, _ = judge.against_controls(own, sets, 0.01)
    assert np.allclose(p, 1 / 41)  # both stand out of their own set, though 0.6 is small beside the other's random ones
    p, _ = judge.against_controls(np.array([10.0, 0.6]), sets, 0.01)
    assert p[0] == 1


def test_verdicts():
    q = np.array([[0.01, 0.2], [0.2, 0.3], [0.01, 0.01], [0.01, 1.0], [0.01, 1.0]])
    effect = np.array([[0.5, 0.9], [0.9, 0.9], [0.1, -0.1], [-0.5, 0.0], [0.5, 0.0]])
    control = np.array([0.04, 0.04, 0.04, 0.2, np.nan])
    assert judge.verdicts(q, effect, control / 2, control, 60, BOUND) == [
        judge.CAUSAL, judge.NOTHING, judge.SMALL, judge.ALIKE, judge.UNTRIED,
    ]  # fmt: skip
    beyond, among = judge.verdicts(q[[0, 0]], effect[[0, 0]], np.array([0.1, 0.2]), np.array([0.2, 0.2]), 9, BOUND)
    assert (beyond, among) == (judge.FEW, judge.ALIKE)  # of 9 none reaches the first: that they do is not said
    silent = judge.verdicts(np.full((1, 2), np.nan), effect[:1], control[:1], control[:1], 60, BOUND)
    assert silent == [judge.UNREAD]  # no effect was found, since none could be looked for
    assert judge.strongest(q, effect).tolist() == [0, 0, 0, 0, 0]
    assert judge.strongest(np.full((1, 3), np.nan), np.array([[0.1, -0.4, np.nan]])).tolist() == [1]


def hits(seed: int, moved: np.ndarray, noise: float, planted: float = 0.0) -> np.ndarray:
    """Which of F features are called causal in one simulated study of margins (sd 1).

    `moved [2]`: sd of the mean effects of features, of random latents, each scaled by its layer; `planted` is added to
    the first feature. Trials vary about it with sd `noise`.
    """
    rng = np.random.default_rng([11, seed])
    layer = np.exp(rng.standard_normal(F))  # layers differ in how much any push does
    p, sizes, matched = [], [], []
    random = []
    for _ in range(4):
        mean = layer * rng.standard_normal(F) * moved[0] + planted * (np.arange(F) == 0)
        before = rng.standard_normal(N)
        after = before[:, None] + mean + noise * rng.standard_normal((N, F))
        some = judge.effects(before, after, "margin", 1.0, np.zeros((0, N)))
        p.append(judge.flip_p(before, after, np.arange(N), 999, seed))
        sizes.append(some.effect)
        matched.append(judge.effects(before[:10], after[:10], "margin", 1.0, np.zeros((0, 10))).effect)
        push = layer[:, None] * rng.standard_normal((F, C)) * moved[1]
        random.append(np.abs(push + noise * rng.standard_normal((10, F, C)).mean(0)))
    q = benjamini_hochberg(np.concatenate(p)).reshape(4, F).T
    alone, control = judge.against_controls(np.abs(matched).max(0), list(np.max(random, axis=0)), BOUND)
    said = judge.verdicts(q, np.array(sizes).T, alone, control, F * C, BOUND)
    return np.array([v == judge.CAUSAL for v in said])


@pytest.mark.parametrize(("moved", "noise"), [((0.0, 0.0), 0.5), ((0.5, 0.5), 0.3)])
def test_null_studies_seldom_have_a_causal_feature(moved, noise):
    """Nothing moves anything; and every push moves behaviour, that of a feature no more than a random latent's."""
    assert sum(hits(seed, np.array(moved), noise).any() for seed in range(200)) <= 19


def test_without_the_comparison_most_null_studies_would_have_one():
    """Flips and the bound alone call features causal that do what any push does: the comparison is not for show."""
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(20):
        mean = rng.standard_normal(F) * 0.5
        after = mean + 0.3 * rng.standard_normal((N, F))
        p = judge.flip_p(np.zeros(N), after, np.arange(N), 1999)
        called += bool(np.any((benjamini_hochberg(p) <= 0.05) & (np.abs(after.mean(0)) >= BOUND)))
    assert called >= 18


def test_a_planted_feature_is_found_alone_among_pushes_that_all_move_something():
    found = np.array([hits(1000 + seed, np.array([0.1, 0.1]), 0.3, planted=1.5) for seed in range(40)])
    assert found[:, 0].mean() >= 0.8
    assert found[:, 1:].any(axis=1).mean() <= 0.15
