"""Laws of calibration scores, against scikit-learn, values by hand and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.calibration import _sigmoid_calibration, calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from gnomon import stats
from gnomon.errors import UserError
from gnomon.methods import calibration as cal
from gnomon.methods import calibration_gaps as gaps
from gnomon.methods import calibration_risk as risk
from gnomon.methods import calibration_scaling as scaling

KEPT = np.array([0.25, 1.0])


def sample(n: int = 300, seed: int = 0, off: float = 1.0, round_to: int | None = None):
    """Confidences, and outcomes whose chance is the sigmoid of `off` times their logit."""
    rng = np.random.default_rng(seed)
    p = expit(rng.normal(size=n) * 1.5)
    p = p if round_to is None else np.round(p, round_to)
    return p, (rng.random(n) < expit(off * scaling.logit(p))).astype(float), rng


# ---------------------------------------------------------------- bins and ECE


def test_bins_have_equal_mass_and_do_not_depend_on_the_order_of_rows():
    p, _, rng = sample(307)
    which = cal.equal_mass_bins(p)
    size = np.bincount(which)
    assert len(size) == 10
    assert size.max() - size.min() <= 1
    assert all(p[which == i].max() < p[which == i + 1].min() for i in range(9))
    order = rng.permutation(307)
    assert np.array_equal(cal.equal_mass_bins(p[order]), which[order])


def test_equal_confidences_share_a_bin():
    p = np.repeat([0.2, 0.5, 0.95], [50, 3, 47])
    assert cal.equal_mass_bins(p).tolist() == np.repeat([0, 1, 2], [50, 3, 47]).tolist()
    assert set(cal.equal_mass_bins(np.full(8, 0.3))) == {0}


def test_ece_is_that_of_scikit_learns_quantile_bins_and_of_a_sum_by_hand():
    p, y, _ = sample(400, off=0.4)
    share, said = calibration_curve(y, p, n_bins=10, strategy="quantile")
    assert cal.ece(p, y) == pytest.approx(np.abs(share - said).mean(), abs=1e-12)
    assert cal.ece(np.array([0.1, 0.2, 0.9, 0.6]), np.array([0, 1, 1, 0]), bins=2) == pytest.approx(
        0.5 * abs(0.15 - 0.5) + 0.5 * abs(0.75 - 0.5)
    )


def test_ece_of_bins_that_say_their_accuracy_is_zero_and_of_certain_errors_one():
    assert cal.ece(np.repeat([0.25, 0.75], 4), np.array([1, 0, 0, 0, 1, 1, 1, 0])) == 0
    assert cal.ece(np.ones(6), np.zeros(6)) == 1


def test_weights_are_repeated_rows():
    p, y, rng = sample(120, off=0.5, round_to=1)
    w = rng.integers(0, 4, size=(3, 120))
    bins = cal.equal_mass_bins(p)
    for i in range(3):
        again = np.repeat(np.arange(120), w[i])
        assert cal.ece(p, y, w, bins)[i] == pytest.approx(float(cal.ece(p[again], y[again], bins=bins[again])))
        assert cal.brier(p, y, w)[i] == pytest.approx(float(cal.brier(p[again], y[again])))
        assert cal.nll(p, y, w)[i] == pytest.approx(float(cal.nll(p[again], y[again])))
        assert risk.aurc(p, y, w)[i] == pytest.approx(float(risk.aurc(p[again], y[again])))
        assert risk.risk_at(p, y, KEPT, w)[i] == pytest.approx(risk.risk_at(p[again], y[again], KEPT))
        parts = cal.decomposition(p[again], y[again], bins=bins[again])
        for name, value in cal.decomposition(p, y, w, bins).items():
            assert value[i] == pytest.approx(float(parts[name]))


# ---------------------------------------------------------------- Brier, NLL


@pytest.mark.parametrize("off", [0.0, 1.0, -2.0])
@pytest.mark.parametrize("bins", [1, 3, 10, 50])
def test_the_five_terms_add_up_to_the_brier_score(off, bins):
    p, y, rng = sample(200, off=off)
    signs = cal.TERMS
    parts = cal.decomposition(p, y, bins=bins)
    assert sum(signs[k] * float(v) for k, v in parts.items()) == pytest.approx(float(cal.brier(p, y)), abs=1e-14)
    w = rng.integers(0, 3, size=(20, 200))
    drawn = cal.decomposition(p, y, w, cal.equal_mass_bins(p, bins))
    assert sum(signs[k] * v for k, v in drawn.items()) == pytest.approx(cal.brier(p, y, w), abs=1e-13)
    assert all((drawn[k] >= -1e-15).all() for k in ("reliability", "resolution", "within_variance"))


def test_without_spread_in_the_bins_the_decomposition_is_murphys():
    p, y = np.repeat([0.2, 0.9], [10, 30]), np.r_[np.arange(10) < 3, np.arange(30) < 20]
    parts = cal.decomposition(p, y)
    assert float(parts["within_variance"]) == pytest.approx(0, abs=1e-15)
    assert float(parts["within_covariance"]) == pytest.approx(0, abs=1e-15)
    base = 23 / 40
    assert float(parts["reliability"]) == pytest.approx(0.25 * (0.2 - 0.3) ** 2 + 0.75 * (0.9 - 2 / 3) ** 2)
    assert float(parts["resolution"]) == pytest.approx(0.25 * (0.3 - base) ** 2 + 0.75 * (2 / 3 - base) ** 2)
    assert float(parts["uncertainty"]) == pytest.approx(base * (1 - base))


def test_brier_and_nll_are_those_of_scikit_learn():
    p, y, _ = sample()
    assert float(cal.brier(p, y)) == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert float(cal.nll(p, y)) == pytest.approx(log_loss(y, p), abs=1e-9)
    assert float(cal.nll(np.array([1.0, 0.0]), np.array([0, 1]))) == pytest.approx(-np.log(cal.LIMIT))


@pytest.mark.parametrize("score", [cal.ece, cal.brier, cal.nll])
def test_what_is_no_probability_is_refused(score):
    for p, y, word in (
        ([0.2, 1.4], [0, 1], "between 0 and 1"),
        ([0.2, np.nan], [0, 1], "between 0 and 1"),
        ([0.2, 0.4], [0, 2], "right or wrong"),
        ([0.2], [0, 1], "one of each a row"),
    ):
        with pytest.raises(UserError, match=word):
            score(np.array(p), np.array(y))


# ---------------------------------------------------------------- under perfect calibration


def test_ece_of_calibrated_confidence_is_what_is_expected_of_it():
    groups = np.arange(250)
    own, low, high = [], 0, 0
    for seed in range(60):
        p, y, _ = sample(250, seed=seed)
        null = cal.expected_ece(p, groups, 199, seed)
        own.append(float(cal.ece(p, y)) - null.mean())
        low, high = low + (cal.ece(p, y) < np.quantile(null, 0.025)), high + (cal.ece(p, y) > np.quantile(null, 0.975))
    assert abs(np.mean(own)) < 3 * np.std(own) / np.sqrt(60)
    assert low + high <= 10  # 3 of 60 expected


def test_overconfidence_lies_above_what_is_expected_of_calibration():
    p, y, _ = sample(250, off=0.2)
    assert float(cal.ece(p, y)) > cal.expected_ece(p, np.arange(250), 199).max()


def test_rows_of_one_group_widen_what_calibration_allows():
    p = np.repeat(np.linspace(0.1, 0.9, 40), 5)
    alone = cal.expected_ece(p, np.arange(200), 300)
    together = cal.expected_ece(p, np.repeat(np.arange(40), 5), 300)
    assert together.mean() > 1.5 * alone.mean()
    drawn = cal.calibrated_outcomes(p, np.repeat(np.arange(40), 5), 4000)
    assert drawn.mean(axis=0) == pytest.approx(p, abs=0.04)
    assert (drawn.reshape(4000, 40, 5).std(axis=2) == 0).all()


@pytest.mark.parametrize(("off", "n"), [(1.0, 150), (0.3, 150), (0.3, 500)])
def test_the_interval_of_ece_covers_the_error_that_was_planted(off, n):
    far, _, _ = sample(200_000, seed=99)
    bins = cal.equal_mass_bins(far)
    gap = far - expit(off * scaling.logit(far))
    true = np.mean([abs(gap[bins == i].mean()) for i in range(10)])
    hits = above = 0
    for seed in range(1000, 1080):
        p, y, _ = sample(n, seed=seed, off=off)
        found = gaps.ece_interval(p, y, np.arange(n), draws=300, seed=seed)
        assert found.low <= found.high
        hits += found.low - 1e-9 <= true <= found.high + 1e-9
        above += found.low > 0
    assert hits >= 68  # of 80; a percentile bootstrap has about none where calibration is perfect
    assert above <= 6 if off == 1 else n < 500 or above >= 76


@pytest.mark.parametrize(
    ("off", "n", "above"), [((1.0, 1.0), 150, (0, 6)), ((1.0, 0.3), 150, (0, 60)), ((1.0, 0.3), 400, (50, 60))]
)
def test_the_interval_of_a_difference_of_two_ece_covers_it(off, n, above):
    """A percentile bootstrap covers the second in 60% and the third in 35%."""

    def both(n: int, seed: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
        rng = np.random.default_rng([n, seed])
        z, u = rng.normal(size=n) * 1.2, rng.random(n)
        z = [z + rng.normal(size=n) * 0.5 for _ in off]
        right = [expit(o * v) for o, v in zip(off, z, strict=True)]
        return [(expit(v), (u < r).astype(float)) for v, r in zip(z, right, strict=True)], right

    true = []
    for (p, _), r in zip(*both(200_000, 0), strict=True):
        bins = cal.equal_mass_bins(p)
        true.append(np.mean([abs((p - r)[bins == i].mean()) for i in range(10)]))
    one = both(n, 1)[0][0]
    same = gaps.ece_difference(one, one, np.arange(n), draws=200)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    hits = found_above = 0
    for seed in range(60):
        a, b = both(n, seed)[0]
        found = gaps.ece_difference(a, b, np.arange(n), draws=200, seed=seed)
        assert found.value == pytest.approx(float(cal.ece(*b) - cal.ece(*a)))
        hits += found.low - 1e-9 <= true[1] - true[0] <= found.high + 1e-9
        found_above += found.low > 0 or found.high < 0
    assert hits >= 50
    assert above[0] <= found_above <= above[1]


def test_one_group_has_no_interval():
    p, y, _ = sample(30)
    found = gaps.ece_interval(p, y, np.zeros(30))
    two = gaps.ece_difference((p, y), (p, y), np.zeros(30))
    for each in (found, two):
        assert np.isnan(each.low)
        assert "two groups" in each.note


def test_reliability_bins_hold_every_row_once():
    p, y, _ = sample(200, off=0.2)
    bins = cal.reliability(p, y, np.arange(200))
    assert sorted(np.concatenate([b.rows for b in bins]).tolist()) == list(range(200))
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    gap = sum(len(b.rows) * abs(b.confidence - b.accuracy) for b in bins) / 200
    assert gap == pytest.approx(float(cal.ece(p, y)))
    assert all(b.expected_low <= b.confidence + 0.05 and b.expected_high >= b.confidence - 0.05 for b in bins)
    assert bins[0].accuracy > bins[0].expected_high  # low confidence was too low


# ---------------------------------------------------------------- risk and coverage


def test_aurc_is_the_mean_risk_over_all_coverages():
    p, y, _ = sample(80)
    order = np.argsort(-p)
    by_hand = np.mean(np.cumsum(1 - y[order]) / np.arange(1, 81))
    assert float(risk.aurc(p, y)) == pytest.approx(by_hand, abs=1e-12)
    assert risk.risk_at(p, y, KEPT) == pytest.approx([1 - y[order][:20].mean(), 1 - y.mean()])


def test_aurc_of_ties_is_the_mean_over_their_orders():
    p, y, rng = sample(40, round_to=1)
    drawn = [float(risk.aurc(p + 1e-9 * rng.random(40), y)) for _ in range(4000)]
    assert float(risk.aurc(p, y)) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(4000))


def test_aurc_of_no_knowledge_is_the_error_rate_and_of_all_knowledge_the_best():
    y = np.arange(50) % 3 > 0
    assert float(risk.aurc(np.zeros(50), y)) == pytest.approx(1 - y.mean())
    wrong, n = int((~y).sum()), 50
    best = sum(j / (n - wrong + j) for j in range(1, wrong + 1)) / n
    assert float(risk.aurc(y + 0.0, y)) == pytest.approx(best)
    assert float(risk.best_aurc(y)) == pytest.approx(best)
    assert float(risk.aurc(-(y + 0.0), y)) > 0.5 + best


def test_aurc_knows_the_order_alone():
    p, y, _ = sample(60)
    assert float(risk.aurc(p, y)) == pytest.approx(float(risk.aurc(np.exp(5 * p) - 3, y)))


# ---------------------------------------------------------------- scaling


def test_platt_is_scikit_learns():
    rng = np.random.default_rng(3)
    s = rng.normal(3, 20, size=150)
    y = rng.random(150) < expit(0.1 * s - 1)
    a, b = _sigmoid_calibration(s, y.astype(int))
    found = scaling.fit_platt(s, y)
    assert found.apply(s) == pytest.approx(expit(-(a * s + b)), abs=1e-4)
    p = found.apply(s)
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))
    assert abs((p - target).mean()) < 1e-9
    assert abs(((p - target) * s).mean()) < 1e-6  # a stationary point of the likelihood


def test_platt_stays_finite_where_a_score_separates_or_says_nothing():
    s = np.r_[np.zeros(10), np.ones(10)]
    p = scaling.fit_platt(s, s > 0.5).apply(s)
    assert p[0] == pytest.approx(1 / 12, abs=1e-3)
    assert p[-1] == pytest.approx(11 / 12, abs=1e-3)
    assert scaling.fit_platt(np.ones(20), s > 0.5).apply(np.ones(2)) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("off", [0.25, 1.0, 2.5])
def test_temperature_undoes_what_was_planted(off):
    p, y, _ = sample(6000, off=off)
    found = scaling.fit_temperature(p, y)
    assert 1 / found.temperature == pytest.approx(off, rel=0.12)
    grid = [float(cal.nll(expit(b * scaling.logit(p)), y)) for b in np.linspace(0.05, 4, 80)]
    assert float(cal.nll(found.apply(p), y)) <= min(grid) + 1e-9
    assert float(cal.nll(found.apply(p), y)) <= float(cal.nll(p, y)) + 1e-12
    assert stats.auroc(found.apply(p), y) == pytest.approx(float(stats.auroc(p, y)))


def test_temperature_is_infinite_where_surer_is_not_righter_and_least_where_it_always_is():
    p = np.array([0.1, 0.2, 0.8, 0.9])
    found = scaling.fit_temperature(p, np.array([1, 1, 0, 0]))
    assert found.temperature == np.inf
    assert found.apply(p) == pytest.approx(np.full(4, 0.5))
    assert scaling.fit_temperature(p, np.array([0, 0, 1, 1])).temperature == pytest.approx(1 / scaling.COLDEST)


def test_temperature_of_options_is_that_of_the_drawn_ones_and_leaves_missing_options_out():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(5000, 4)) * 2
    scores[:2000, 3] = -np.inf
    truth = softmax(scores / 2.5, axis=1)
    right = (rng.random((5000, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    found = scaling.fit_options(scores, right)
    assert found.temperature == pytest.approx(2.5, rel=0.06)
    p = scaling.options_confidence(found, scores)
    assert p == pytest.approx(softmax(scores / found.temperature, axis=1).max(axis=1))
    assert float(cal.ece(p, right == scores.argmax(axis=1))) < 0.04


def test_nothing_is_fitted_on_no_rows():
    for fit in (scaling.fit_platt, scaling.fit_temperature):
        with pytest.raises(UserError, match="no rows"):
            fit(np.zeros(0), np.zeros(0))
