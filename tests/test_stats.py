"""Laws of scores, intervals and nulls: against scikit-learn, scipy and statsmodels values, and by simulation."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy import stats as sps
from sklearn import metrics

from gnomon import nulls, stats
from gnomon.errors import UserError


def sample(n: int = 150, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    scores = rng.normal(size=n) + labels
    return (np.round(scores, 1) if ties else scores), labels


# ---------------------------------------------------------------- scores


def test_auroc_is_the_share_of_pairs_won_ties_half():
    s, y = sample(60)
    won = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(s[y], s[~y])]
    assert stats.auroc(s, y) == pytest.approx(np.mean(won), abs=1e-12)
    assert stats.auroc(s, y) == pytest.approx(metrics.roc_auc_score(y, s), abs=1e-12)


def test_auroc_of_constant_scores_is_a_half_and_of_one_class_undefined():
    assert stats.auroc(np.zeros(4), np.array([1, 0, 1, 0])) == 0.5
    assert np.isnan(stats.auroc(np.arange(3.0), np.ones(3)))
    assert np.isnan(stats.auroc(np.zeros(0), np.zeros(0)))


def test_auroc_turns_with_the_sign_and_not_with_the_scale():
    s, y = sample()
    assert stats.auroc(-s, y) == pytest.approx(1 - stats.auroc(s, y))
    assert stats.auroc(np.exp(3 * s), y) == pytest.approx(float(stats.auroc(s, y)))


def test_auroc_refuses_nan_and_labels_that_are_no_classes():
    with pytest.raises(UserError, match="finite"):
        stats.auroc(np.array([0.0, np.nan]), np.array([0, 1]))
    with pytest.raises(UserError, match="two classes"):
        stats.auroc(np.array([0.0, 1.0]), np.array([0, 2]))


def test_auroc_within_folds_counts_the_pairs_of_each_fold():
    s, y = sample()
    fold = np.arange(len(s)) % 3
    wins = pairs = 0.0
    for k in range(3):
        here = fold == k
        count = y[here].sum() * (~y[here]).sum()
        wins, pairs = wins + metrics.roc_auc_score(y[here], s[here]) * count, pairs + count
    assert stats.auroc(s, y, folds=fold) == pytest.approx(wins / pairs, abs=1e-12)
    shifted = s + 100.0 * fold  # folds share no scale: moving one changes nothing
    assert stats.auroc(shifted, y, folds=fold) == pytest.approx(wins / pairs, abs=1e-12)


def test_auroc_of_columns_is_auroc_of_each():
    rng = np.random.default_rng(1)
    s, y, fold = np.round(rng.normal(size=(90, 5)), 1), rng.random((90, 5)) < 0.5, np.arange(90) % 4
    each = [float(stats.auroc(s[:, j], y[:, j], folds=fold)) for j in range(5)]
    np.testing.assert_allclose(nulls.auroc_columns(s, y, fold), each, atol=1e-12)
    one = [float(stats.auroc(s[:, 0], y[:, j], folds=fold)) for j in range(5)]
    np.testing.assert_allclose(nulls.auroc_columns(s[:, 0], y, fold), one, atol=1e-12)
    assert np.isnan(nulls.auroc_columns(np.zeros((0, 2)), np.zeros(0))).all()


S, Y = sample()
REAL = S + np.random.default_rng(5).normal(size=len(S))
FOLD = np.arange(len(S)) % 3
WEIGHTED = {
    "auroc": lambda i, w: stats.auroc(S[i], Y[i], w),
    "auroc in folds": lambda i, w: stats.auroc(S[i], Y[i], w, FOLD[i]),
    "accuracy": lambda i, w: stats.accuracy(S[i] > 0.5, Y[i], w),
    "majority": lambda i, w: stats.majority(Y[i], w),
    "f1": lambda i, w: stats.f1(S[i] > 0.5, Y[i], w),
    "cohens_d": lambda i, w: stats.cohens_d(S[i], Y[i], w),
    "hedges_g": lambda i, w: stats.hedges_g(S[i], Y[i], w),
    "r2": lambda i, w: stats.r2(S[i], REAL[i], w),
    "spearman": lambda i, w: stats.spearman(S[i], REAL[i], w),
    "spearman in folds": lambda i, w: stats.spearman(S[i], REAL[i], w, FOLD[i]),
    "mean": lambda i, w: stats.mean(S[i], w),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weight_of_k_is_the_row_k_times(name):
    score, every = WEIGHTED[name], np.arange(len(S))
    counts = stats.group_weights(np.arange(len(S)) // 3, 4, seed=2)
    repeated = [float(score(np.repeat(every, c.astype(int)), None)) for c in counts]
    np.testing.assert_allclose(score(every, counts), repeated, atol=1e-10)


def test_f1_accuracy_r2_and_spearman_equal_the_libraries():
    guess = S > 0.4
    assert stats.f1(guess, Y) == pytest.approx(metrics.f1_score(Y, guess))
    assert stats.accuracy(guess, Y) == pytest.approx(metrics.accuracy_score(Y, guess))
    assert stats.r2(S, REAL) == pytest.approx(metrics.r2_score(REAL, S))
    assert stats.spearman(S, REAL) == pytest.approx(sps.spearmanr(S, REAL).statistic, abs=1e-12)


def test_the_constant_answer_sets_the_floor_of_accuracy_and_f1():
    y = np.array([1, 1, 1, 0])
    assert stats.majority(y) == 0.75
    assert stats.f1_majority(y) == pytest.approx(2 * 0.75 / 1.75)
    assert stats.f1_majority(y) == pytest.approx(metrics.f1_score(y, np.ones(4)))
    assert stats.f1(np.zeros(4), np.zeros(4)) == 0.0


def test_effect_sizes_by_their_formulas():
    a, b = S[Y], S[~Y]
    pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(S) - 2))
    assert stats.cohens_d(S, Y) == pytest.approx((a.mean() - b.mean()) / pooled)
    assert stats.cohens_d(S + 1e8, Y) == pytest.approx((a.mean() - b.mean()) / pooled, abs=1e-6)
    assert stats.hedges_g(S, Y) == pytest.approx((a.mean() - b.mean()) / pooled * (1 - 3 / (4 * len(S) - 9)))


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (137, 412)])
def test_wilson_equals_scipy(k, n):
    ours, theirs = stats.wilson(k, n), sps.binomtest(k, n).proportion_ci(method="wilson")
    assert (ours.value, ours.low, ours.high) == pytest.approx((k / n, theirs.low, theirs.high), abs=1e-12)


def test_a_draw_takes_groups_whole():
    groups = np.array(list("aabbbcdd"))
    weights = stats.group_weights(groups, 200, seed=0)
    for name in "abcd":
        assert (np.ptp(weights[:, groups == name], axis=1) == 0).all()
    first = [int(np.flatnonzero(groups == g)[0]) for g in "abcd"]
    assert (weights[:, first].sum(axis=1) == 4).all()
    assert weights.mean() == pytest.approx(1.0, abs=0.1)


def test_bootstrap_is_the_plain_loop_over_resampled_groups():
    s, y = sample(80)
    groups = np.arange(80) // 2
    found = stats.bootstrap(lambda w: stats.auroc(s, y, w), groups, 300, seed=3)
    loop = [
        metrics.roc_auc_score(y, s, sample_weight=w) for w in stats.group_weights(groups, 300, np.random.default_rng(3))
    ]
    assert found.value == pytest.approx(metrics.roc_auc_score(y, s))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(loop, (0.025, 0.975))))
    assert found == stats.bootstrap(lambda w: stats.auroc(s, y, w), groups, 300, seed=3)


def test_bca_equals_scipy_on_a_skewed_mean():
    x = np.random.default_rng(4).exponential(size=40)
    ours = stats.mean_interval(x, np.arange(40), draws=20_000, method="bca")
    theirs = sps.bootstrap((x,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.015)
    plain = stats.mean_interval(x, np.arange(40), draws=20_000)
    assert ours.high - plain.high > 0.01  # the correction does something here


def test_intervals_cover_the_truth_and_only_the_grouped_one_does():
    grouped = rowwise = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(40), 5)
        x = rng.normal(size=40)[groups] + 0.3 * rng.normal(size=200)
        grouped += (found := stats.mean_interval(x, groups, draws=300, seed=seed)).low <= 0 <= found.high
        rowwise += (found := stats.mean_interval(x, np.arange(200), draws=300, seed=seed)).low <= 0 <= found.high
    assert 0.89 <= grouped / 150 <= 0.99
    assert rowwise / 150 < 0.75


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    a = rng.normal(size=100)
    b = a + 0.1 + 0.05 * rng.normal(size=100)
    paired = stats.paired_bootstrap(a, b, np.arange(100), draws=500)
    alone = stats.mean_interval(a, np.arange(100), draws=500)
    assert paired.value == pytest.approx((b - a).mean())
    assert paired.low > 0
    assert (paired.high - paired.low) < (alone.high - alone.low) / 5


def test_bootstrap_p_counts_draws_at_or_below_zero():
    found = stats.Interval(1.0, draws=np.array([-1.0, 0.0, 1.0, 2.0, np.nan]))
    assert found.p_above_zero == pytest.approx(3 / 5)
    assert np.isnan(stats.Interval(1.0).p_above_zero)


def test_thousands_of_draws_take_well_under_a_second():
    s, y = sample(600)
    started = time.process_time()
    stats.bootstrap(lambda w: stats.auroc(s, y, w), np.arange(600) // 2, 4000)
    assert time.process_time() - started < 1.0


def test_one_group_or_an_undefined_statistic_has_no_interval():
    assert np.isnan(stats.mean_interval(np.arange(3.0), np.zeros(3)).low)
    assert np.isnan(stats.bootstrap(lambda w: np.full(len(w), np.nan), np.arange(9)).low)


def test_a_thin_class_gets_no_interval_and_says_so():
    s, y = sample(100)
    y[:] = True
    y[:3] = False
    found = stats.class_interval(lambda w: stats.auroc(s, y, w), y, np.arange(100))
    assert np.isfinite(found.value)
    assert np.isnan(found.low)
    assert found.note == ("probe has 3 incorrect rows in split 'test'; 20 are needed for an interval; raise generate.n")
    y[:20] = False
    assert np.isfinite(stats.class_interval(lambda w: stats.auroc(s, y, w), y, np.arange(100), draws=50).low)


# ---------------------------------------------------------------- nulls


def test_permutation_moves_whole_groups_among_their_like():
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 5])
    labels = np.array([1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0])
    shuffled = nulls.permuted(labels, groups, 400, seed=0)
    pairs = {tuple(shuffled[[2 * g, 2 * g + 1], k]) for g in range(3) for k in range(400)}
    assert pairs == {(1, 0), (0, 0), (1, 1)}  # never (0, 1): a vector moves as it is
    assert (np.sort(shuffled, axis=0) == np.sort(labels)[:, None]).all()
    assert (shuffled[8:] == labels[8:, None]).all()  # alone of its size: stays
    assert nulls.movable(groups) == pytest.approx(8 / 11)
    first = [tuple(shuffled[:6:2, k]) for k in range(400)]
    assert len(set(first)) == 3  # the one 0 of (1, 0, 1) reaches every place
    assert min(first.count(f) for f in set(first)) > 90


def test_permutation_stays_within_strata():
    rng = np.random.default_rng(0)
    groups, strata, labels = np.arange(60), np.arange(60) % 3, rng.random(60) < 0.5
    shuffled = nulls.permuted(labels, groups, 50, seed=1, strata=strata)
    for level in range(3):
        assert (shuffled[strata == level].sum(axis=0) == labels[strata == level].sum()).all()
    assert (shuffled != labels[:, None]).any(axis=0).all()


def test_the_group_permutation_keeps_its_level_where_the_row_one_does_not():
    """Labels and scores are both group-wise, and unrelated: shuffling rows would find something far too often."""
    hits = {"group": 0, "row": 0}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(24), 5)
        s = rng.normal(size=24)[groups] + 0.2 * rng.normal(size=120)
        y = rng.random(24)[groups] + 0.1 * rng.normal(size=120) > 0.5
        observed = float(stats.auroc(s, y))
        for name, unit in (("group", groups), ("row", np.arange(120))):
            null = nulls.auroc_columns(np.repeat(s[:, None], 99, 1), nulls.permuted(y, unit, 99, seed))
            hits[name] += nulls.p_value(observed, null) <= 0.05
    assert hits["group"] <= 14
    assert hits["row"] >= 25


def test_p_is_never_zero_and_counts_the_observed():
    assert nulls.p_value(10.0, np.zeros(99)) == pytest.approx(0.01)
    assert nulls.p_value(0.0, np.zeros(99)) == 1.0
    assert nulls.p_value(-2.0, np.array([-1.0, 0.0, 1.0]), "two-sided") == pytest.approx(1 / 4)
    assert np.isnan(nulls.p_value(np.nan, np.zeros(9)))


def test_quantile_strata_are_even_and_keep_few_values_apart():
    level = nulls.quantile_strata(np.random.default_rng(0).normal(size=500))
    assert np.bincount(level).tolist() == [100] * 5
    assert nulls.quantile_strata(np.array([1.0, 2, 1, 2, np.nan])).tolist() == [0, 1, 0, 1, -1]


P = np.array([0.01, 0.04, 0.03, 0.005, 0.2, 0.0002, 0.9])


def test_benjamini_hochberg_equals_scipy():
    np.testing.assert_allclose(nulls.benjamini_hochberg(P), sps.false_discovery_control(P), atol=1e-12)
    random = np.random.default_rng(0).random(300) ** 3
    np.testing.assert_allclose(nulls.benjamini_hochberg(random), sps.false_discovery_control(random), atol=1e-12)


def test_holm_equals_statsmodels():
    # statsmodels.stats.multitest.multipletests(P, method="holm")[1]
    np.testing.assert_allclose(nulls.holm(P), [0.05, 0.12, 0.12, 0.03, 0.4, 0.0014, 0.9], atol=1e-12)


@pytest.mark.parametrize("adjust", [nulls.benjamini_hochberg, nulls.holm])
def test_adjusted_p_leaves_nan_out_and_keeps_the_order(adjust):
    holed = np.insert(P, 2, np.nan)
    found = adjust(holed)
    assert np.isnan(found[2])
    np.testing.assert_allclose(np.delete(found, 2), adjust(P))
    assert (np.argsort(np.delete(found, 2), kind="stable")[:3] == np.argsort(P)[:3]).all()
    assert len(adjust(np.zeros(0))) == 0


def test_max_statistic_guards_the_family():
    """Of 40 null members the largest passes its own 5% test in most runs, and the family's in about 5%."""
    alone = family = 0
    for seed in range(200):
        draws = np.random.default_rng(seed).normal(size=(100, 40))
        observed, null = draws[0], draws[1:]
        alone += min(nulls.p_value(float(v), null[:, j]) for j, v in enumerate(observed)) <= 0.05
        family += nulls.max_statistic(observed, null).min() <= 0.05
    assert alone > 120
    assert family <= 19
    assert nulls.pooled(np.array([9.0]), np.zeros((10, 20)))[0] == pytest.approx(1 / 201)


# ---------------------------------------------------------------- what n can show


@pytest.mark.parametrize(("n_pos", "n_neg"), [(60, 60), (30, 120)])
def test_the_detectable_auroc_is_found_four_times_in_five(n_pos, n_neg):
    area = nulls.detectable_auroc(n_pos, n_neg)
    shift, found = float(sps.norm.ppf(area) * np.sqrt(2)), 0
    y = np.arange(n_pos + n_neg) < n_pos
    for seed in range(400):
        s = np.random.default_rng(seed).normal(size=len(y)) + shift * y
        found += sps.mannwhitneyu(s[y], s[~y]).pvalue <= 0.05
    assert 0.72 <= found / 400 <= 0.88


def test_the_detectable_difference_is_found_four_times_in_five():
    change, found, paired = nulls.detectable_difference(200, 0.5), 0, 0
    disagree = 0.3
    smaller = nulls.detectable_difference(200, disagree=disagree)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        a, b = rng.random(200) < 0.5, rng.random(200) < 0.5 + change
        z = (b.mean() - a.mean()) / np.sqrt(2 * (m := (a.mean() + b.mean()) / 2) * (1 - m) / 200)
        found += abs(z) >= 1.96
        kind = rng.random(200)  # better on (disagree + change) / 2 of the rows, worse on the rest of the discordant
        up = (kind < (disagree + smaller) / 2).sum()
        down = (kind < disagree).sum() - up
        paired += abs(up - down) / np.sqrt(up + down) >= 1.96
    assert 0.72 <= found / 400 <= 0.88
    assert 0.72 <= paired / 400 <= 0.88


def test_more_rows_detect_less_and_too_few_detect_nothing():
    areas = [nulls.detectable_auroc(n, n) for n in (10, 40, 160)]
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] < 0.6 < areas[0]
    assert np.isnan(nulls.detectable_auroc(2, 3))
    assert np.isnan(nulls.detectable_difference(4, 0.9))
    assert nulls.auroc_se(0.5, 30, 50) == pytest.approx(np.sqrt(81 / (12 * 30 * 50)))


def test_thin_notes_says_each_sentence_once():
    said = stats.thin_class(np.array([True] * 3 + [False] * 30), "test")
    notes = [f"{said}; paired", f"{said}; of a probe", "19 shuffles", said]
    assert stats.thin_notes(notes) == [said]
