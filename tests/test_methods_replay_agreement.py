"""Agreement of predicted and measured changes: exact cases, intervals, and the rule of null and power."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gnomon.errors import UserError
from gnomon.methods.agree import against_controls, agree, validated

ROWS = 8


def test_known_numbers():
    p = np.array([1.0, 2.0, -1.0, 4.0, -3.0])
    exact = agree(p, p, np.arange(5))
    assert [exact[k] for k in ("slope", "r2", "pearson", "spearman", "sign")] == pytest.approx([1, 1, 1, 1, 1])
    half = agree(p, p / 2, np.arange(5))
    assert half["slope"] == pytest.approx(0.5)
    assert half["r2"] == pytest.approx(1 - (0.5**2) / (0.5**2))  # the prediction itself is judged, not a fit of it
    assert half["pearson"] == pytest.approx(1)
    m = np.array([1.5, -2.0, -1.0, 3.0, 0.5])
    found = agree(p, m, np.arange(5))
    assert found["slope"] == pytest.approx((p @ m) / (p @ p))
    assert found["r2"] == pytest.approx(1 - ((m - p) @ (m - p)) / (m @ m))
    assert found["pearson"] == pytest.approx(stats.pearsonr(p, m)[0])
    assert found["spearman"] == pytest.approx(stats.spearmanr(p, m)[0])
    assert found["sign"] == pytest.approx(3 / 5)
    assert (found["predicted"], found["measured"]) == pytest.approx((p.mean(), m.mean()))


def test_what_never_varies_or_is_not_there_is_nan():
    flat = agree(np.ones(4), np.ones(4), np.arange(4))
    assert np.isnan(flat["pearson"])
    assert flat["slope"] == pytest.approx(1)
    nothing = agree(np.zeros(4), np.zeros(4), np.arange(4))
    assert np.isnan([nothing["slope"], nothing["r2"], nothing["pearson"]]).all()
    assert nothing["sign"] == 1
    assert np.isnan(list(agree(np.zeros(0), np.zeros(0), np.zeros(0)).values())).all()
    one = agree(np.arange(4.0), np.arange(4.0), np.zeros(4))
    assert np.isnan([one["slope_low"], one["measured_high"]]).all()
    with pytest.raises(UserError, match="finite"):
        agree(np.array([1.0, np.nan]), np.ones(2), np.arange(2))
    with pytest.raises(UserError, match="one of each"):
        agree(np.ones(3), np.ones(2), np.arange(3))


def test_intervals_cover_and_widen_with_groups():
    rng = np.random.default_rng(0)
    covered = narrow = 0
    for seed in range(60):
        group = np.repeat(np.arange(30), 4)
        p = rng.standard_normal(120)
        m = 0.8 * p + np.repeat(rng.standard_normal(30), 4)
        by_group, by_row = agree(p, m, group, 200, seed), agree(p, m, np.arange(120), 200, seed)
        covered += by_group["measured_low"] <= 0 <= by_group["measured_high"]
        narrow += np.ptp([by_group["measured_low"], by_group["measured_high"]]) > np.ptp(
            [by_row["measured_low"], by_row["measured_high"]]
        )
        assert by_group["slope_low"] < by_group["slope"] < by_group["slope_high"]
    assert covered >= 50
    assert narrow >= 58


def test_p_by_hand():
    found = against_controls(np.array([6.0, 1.0, np.nan, 3.0]), [
        np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, np.nan]), np.array([1.0, 1.0]), np.array([5.0]),
    ])  # fmt: skip
    assert found.control[:2] == pytest.approx([2, 1])
    assert found.ratio[:2] == pytest.approx([3, 1])
    assert found.controls.tolist() == [3, 2, 2, 1]
    # the null: 1 / 2.5, 2 / 2, 3 / 1.5 of the first set, 1 / 1 twice of the second
    assert found.p[:2] == pytest.approx([1 / 6, (1 + 4) / 6])
    assert np.isnan(found.p[2:]).all()
    assert np.isnan(found.q[2:]).all()
    nothing = against_controls(np.array([0.0]), [np.zeros(3)])
    assert nothing.p == pytest.approx([1.0])


def simulated(
    rng: np.random.Generator, sources: int, controls: int, planted: int, size: float, targets: int = 1
) -> np.ndarray:
    """Which pathways of `sources`, each to every one of `targets`, come out validated. Each source (random or not) has
    a strength of its own, larger where its set is more active; the scale of targets differs. Planted ones are larger.
    """
    scale = np.exp(rng.standard_normal((1, targets, 1)))
    effect = rng.standard_normal((sources, 1, 1 + controls)) * np.exp(0.5 * rng.standard_normal((sources, 1, 1)))
    effect[:planted, 0, 0] = size * rng.choice([-1, 1], planted)
    effect = (effect * scale).reshape(-1, 1 + controls)
    measured = effect[..., None] + 0.3 * np.abs(effect)[..., None] * rng.standard_normal((*effect.shape, ROWS))
    predicted = effect[:, 0, None] * (1 + 0.2 * rng.standard_normal((len(effect), ROWS)))
    strength = np.abs(measured.mean(-1))
    names = [[(i // targets, k) for k in range(controls)] for i in range(len(effect))]
    found = against_controls(strength[:, 0], list(strength[:, 1:]), names)
    sign = (predicted * measured[:, 0] > 0).mean(-1)
    spread = 2 * measured[:, 0].std(-1) / ROWS**0.5
    middle = measured[:, 0].mean(-1)
    return validated(found.q, sign, np.full(len(effect), ROWS), middle - spread, middle + spread)


@pytest.mark.parametrize("controls", [5, 10])
def test_sources_like_random_ones_are_seldom_validated_and_planted_ones_are(controls):
    rng = np.random.default_rng(controls)
    null = sum(simulated(rng, 40, controls, 0, 0).any() for _ in range(200))
    assert null <= 19
    power, others = [], []
    for _ in range(50):
        found = simulated(rng, 40, controls, 12, 12.0)
        power.append(found[:12].mean())
        others.append(found[12:].sum() / max(found.sum(), 1))
    assert np.mean(power) >= 0.8
    assert np.mean(others) <= 0.07


@pytest.mark.parametrize(("sources", "targets"), [(10, 4), (4, 10)])
def test_a_source_of_many_targets_is_one_draw_and_not_many(sources, targets):
    rng = np.random.default_rng(1)
    null = sum(simulated(rng, sources, 5, 0, 0, targets).any() for _ in range(200))
    assert null <= 19
    power = [simulated(rng, sources, 20, sources // 2, 12.0, targets)[: sources // 2 * targets].mean()
             for _ in range(20)]  # fmt: skip
    assert np.mean(power) >= 0.8


def test_a_latent_that_stands_in_two_sets_counts_once():
    strength, sets = np.array([9.0, 9.0]), [np.array([1.0, 2.0, 3.0])] * 2
    apart = against_controls(strength, sets)
    shared = against_controls(strength, sets, [["a", "b", "c"]] * 2)
    assert (apart.drawn, shared.drawn) == (6, 3)
    assert apart.p == pytest.approx([1 / 7] * 2)
    assert shared.p == pytest.approx([1 / 4] * 2)
    assert (apart.fewest(0.3), shared.fewest(0.3)) == (1, 2)  # 2 / (.3 * 7) and 2 / (.3 * 4) of 2 pathways
    low = against_controls(np.array([1.5, 9.0]), sets, [["a", "b", "c"]] * 2)
    assert low.p[0] == pytest.approx((1 + 2 / 2 + 2 / 2) / 4)  # ratio .75: 2 / 2 and 3 / 1.5 are as large, of both sets


def test_a_wrong_sign_an_interval_around_0_or_too_few_rows_is_not_validated():
    q, low, high = np.full(5, 0.001), np.array([1.0, 1, 1, 1, -1]), np.full(5, 2.0)
    found = validated(q, np.array([1.0, 0.7, 1.0, np.nan, 1.0]), np.array([8, 8, 2, 0, 8]), low, high)
    assert found.tolist() == [True, False, False, False, False]
    assert validated(q[:1], np.ones(1), np.array([3]), -high[:1], -low[:1]).tolist() == [True]
    assert not validated(np.array([0.06, np.nan]), np.ones(2), np.array([8, 8]), low[:2], high[:2]).any()
