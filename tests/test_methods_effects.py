"""Effects on arrays: definitions against plain loops, intervals, exact ranks, and the decision rule on null data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.methods.effects import (
    Outcomes,
    choose_coefficient,
    compare,
    effects,
    rank_p,
    ratio,
    sign_flip_p,
    weights_of,
)
from gnomon.stats import wilson


def outcomes(rng, n: int, k: int) -> Outcomes:
    return Outcomes(rng.standard_normal((n, k)), rng.random((n, k)) < 0.5, rng.integers(0, 4, (n, k)))


def test_every_metric_equals_its_definition():
    rng = np.random.default_rng(0)
    base, after = outcomes(rng, 50, 1), outcomes(rng, 50, 3)
    found = effects(base, after, weights_of(np.arange(50), 300))
    for k in range(3):
        was, now = base.right[:, 0], after.right[:, k]
        wanted = {
            "target_logprob_change": (after.logprob[:, k] - base.logprob[:, 0]).mean(),
            "accuracy": now.mean(), "net_accuracy": now.mean() - was.mean(),
            "corrected_rate": now[~was].mean(), "corrupted_rate": (~now)[was].mean(),
            "answer_changed": (after.answer[:, k] != base.answer[:, 0]).mean(),
        }  # fmt: skip
        for metric, value in wanted.items():
            values, low, high, _ = found[metric]
            assert values[k] == pytest.approx(value), metric
            assert low[k] <= value <= high[k]
    assert found["corrected_rate"][3] == (~base.right).sum()
    net, corrected, corrupted = (found[m][0] for m in ("net_accuracy", "corrected_rate", "corrupted_rate"))
    assert np.allclose(net * 50, corrected * (~base.right).sum() - corrupted * base.right.sum())


def test_nothing_changed_is_exactly_zero():
    base = outcomes(np.random.default_rng(0), 30, 1)
    found = effects(base, base, weights_of(np.arange(30), 200))
    for metric in ("target_logprob_change", "net_accuracy", "corrected_rate", "corrupted_rate", "answer_changed"):
        value, low, high, _ = found[metric]
        assert value[0] == 0
        assert (low[0] < 0) == (metric == "net_accuracy"), "a difference of 0 has an interval both ways"
        assert (high[0] == 0) == (metric == "target_logprob_change"), "a share of 0 has an interval"


def test_a_rate_without_rows_has_no_value():
    right = Outcomes(np.zeros((5, 1)), np.ones((5, 1), dtype=bool), np.zeros((5, 1), dtype=int))
    value, low, _, n = effects(right, right, weights_of(np.arange(5), 200))["corrected_rate"]
    assert n == 0
    assert np.isnan([value[0], low[0]]).all()


def test_intervals_resample_groups():
    """Each row eight times over: eight times the rows must not make a narrower interval."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 1))
    ones = np.ones((40, 1))
    _, low, high = ratio(x, ones, weights_of(np.arange(40), 4000, seed=1))
    many = np.repeat(x, 8, axis=0)
    groups = np.repeat(np.arange(40), 8)
    _, low8, high8 = ratio(many, np.ones((320, 1)), weights_of(groups, 4000, seed=1))
    assert (high8 - low8)[0] == pytest.approx((high - low)[0], rel=0.05)
    assert (high - low)[0] == pytest.approx(2 * 1.96 * x.std() / np.sqrt(40), rel=0.1)
    assert weights_of(np.zeros(9), 100).shape == (0, 9)


def test_rank_p_is_exact_when_the_observed_is_one_of_the_controls():
    """Over all 20 choices of which of 20 numbers is "observed", p takes each value k/20 at most k times."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.standard_normal(20)
        p = [rank_p(values[i], np.delete(values, i)) for i in range(20)]
        for k in range(1, 21):
            assert sum(v <= k / 20 + 1e-12 for v in p) <= k
    assert rank_p(100.0, np.arange(19.0)) == 1 / 20
    assert rank_p(-100.0, np.arange(19.0)) == 1 / 20
    assert rank_p(9.0, np.arange(19.0)) == 1.0
    assert np.isnan(rank_p(np.nan, np.arange(19.0)))


def test_sign_flip_p_against_all_sign_patterns():
    x = np.array([0.9, -0.2, 1.4, 0.3, 0.8, 0.5, -0.1, 0.7])
    signs = np.array(list(itertools.product([-1, 1], repeat=8)))
    exact = (np.abs(signs @ x) >= abs(x.sum()) - 1e-12).mean()
    assert sign_flip_p(x[:, None], np.arange(8), 20_000)[0] == pytest.approx(exact, abs=0.01)
    grouped = sign_flip_p(np.repeat(x, 5)[:, None], np.repeat(np.arange(8), 5), 20_000)[0]
    assert grouped == pytest.approx(exact, abs=0.01)


def simulated(rng, effect: float, n: int = 120, m: int = 19, spread: float = 0.2, noise: float = 1.0):
    """Changes of n rows: every direction has its own mean (spread), rows share a part, and `effect` is the planted one.

    Groups of two rows share half of their noise.
    """
    means = spread * rng.standard_normal(m + 1)
    means[0] += effect
    shared = rng.standard_normal((n, 1))
    pairs = np.repeat(rng.standard_normal((n // 2, m + 1)), 2, axis=0)
    x = means + noise * (0.5 * shared + 0.5 * pairs + 0.7 * rng.standard_normal((n, m + 1)))
    return x[:, 0], x[:, 1:], np.repeat(np.arange(n // 2), 2)


def test_null_runs_rarely_hit_and_planted_ones_are_found():
    hits, found, refused = 0, 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        mine, controls, groups = simulated(rng, 0.0)
        hits += compare(mine, controls, weights_of(groups, 200, seed)).verdict == "supported"
        mine, controls, groups = simulated(rng, 1.5)
        verdict = compare(mine, controls, weights_of(groups, 200, seed)).verdict
        found, refused = found + (verdict == "supported"), refused + (verdict == "not supported")
    assert hits <= 19
    assert found >= 160
    assert refused == 0


def test_a_direction_like_its_controls_is_refused_when_there_are_rows_enough():
    refused = 0
    for seed in range(50):
        mine, controls, groups = simulated(np.random.default_rng(seed), 0.0, n=400, m=39)
        refused += compare(mine, controls, weights_of(groups, 200, seed)).verdict == "not supported"
    assert refused >= 25


def test_layer_search_keeps_its_false_discovery_rate():
    """60 layers without effect, 200 runs: the smallest q is at most .05 in no more than 19."""
    from gnomon.nulls import benjamini_hochberg

    hits = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 1])
        change = rng.standard_t(4, (30, 60)) + 0.5 * rng.standard_t(4, (30, 1))
        hits += benjamini_hochberg(sign_flip_p(change, np.arange(30), 499, seed)).min() <= 0.05
    assert hits <= 19


def test_compare_needs_19_controls_and_reports_them():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="at least 19"):
        compare(rng.standard_normal(9), rng.standard_normal((9, 18)), weights_of(np.arange(9), 200))
    mine, controls = rng.standard_normal(50) + 5, rng.standard_normal((50, 19))
    c = compare(mine, controls, weights_of(np.arange(50), 500))
    means = controls.mean(0)
    assert (c.n, c.controls, c.p) == (50, 19, 0.05)
    assert (c.control_low, c.control_high) == (pytest.approx(means.min()), pytest.approx(means.max()))
    assert c.excess == pytest.approx(mine.mean() - means.mean())
    assert c.excess_low < c.excess < c.excess_high
    assert c.verdict == "supported"
    mirrored = compare(-mine, -controls, weights_of(np.arange(50), 500))
    assert (mirrored.p, mirrored.margin) == (c.p, pytest.approx(c.margin))


def test_the_coefficient_is_the_largest_excess_within_the_damage_bound():
    size = np.array([1.0, -1.0, 2.0, -2.0])
    change, control = np.array([0.2, -0.1, 0.1, -3.0]), np.array([-0.1, -0.1, -0.5, -0.5])
    damage = np.array([0.0, 0.01, 0.05, 2.0])
    assert choose_coefficient(size, change, control, damage, 0.1) == 2  # .6 beyond the controls, and allowed
    assert choose_coefficient(size, change, control, damage, 5.0) == 3
    assert choose_coefficient(size, change, control, damage, 0.02) == 0
    assert choose_coefficient(size, change, control, damage, -1.0) == 0  # none allowed: the least damage
    assert choose_coefficient(size, control + 1, control, damage, 5.0) in (0, 1)  # equal: the smaller push


def test_rows_that_are_all_alike_still_have_an_interval_of_some_width():
    base = Outcomes(np.zeros((60, 1)), np.zeros((60, 1), bool), np.zeros((60, 1)))
    groups = np.repeat(np.arange(30), 2)
    value, low, high, n = effects(base, base, weights_of(groups))["corrected_rate"]
    assert (value[0], low[0], n) == (0.0, 0.0, 60)
    assert high[0] == pytest.approx(wilson(0, 30).high)  # 30 groups, not 60 rows


def test_an_accuracy_that_no_row_changes_has_an_interval():
    """No resample differs where nothing changed: the interval is Wilson's, both ways, on groups and not on rows."""
    from gnomon.methods.effects import net
    from gnomon.stats import wilson

    groups = np.repeat(np.arange(20), 3)
    change = np.zeros((60, 2))
    change[:9, 1] = 1
    value, low, high = net(change, weights_of(groups, 500))
    assert value[0] == 0
    assert -low[0] == high[0] == pytest.approx(wilson(0, 20).high)
    assert 0 <= low[1] < value[1] < high[1]
