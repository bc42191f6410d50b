"""Statistics of latents against scipy and their definitions, with groups, soft labels and weights; thresholds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import rankdata, ttest_ind

from gnomon.methods import feature_statistics as fs
from gnomon.methods.controls import best_threshold
from gnomon.methods.feature_latents import ACTIVE, active_counts, calm, encode, pooled_latents, site_latents
from gnomon.stats import auroc, f1
from tests.features_study import dictionary

N, K = 120, 30


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = (rng.random((N, K)) < 0.3) * rng.exponential(size=(N, K)).round(1)  # ties among the active, too
    a[:, 0] = rng.exponential(size=N).round(1) + 0.5  # never 0
    a[:, 1] = 0
    return a, (rng.random((N, 4)) < 0.4).astype(float)


def columns(a: np.ndarray) -> sparse.csc_array:
    return sparse.csc_array(a)


def test_separation_is_the_difference_of_firing_rates(data):
    a, y = data
    got = fs.statistics(columns(a), y, "separation")
    wanted = [[(a[y[:, j] == 1, i] > 0).mean() - (a[y[:, j] == 0, i] > 0).mean() for j in range(4)] for i in range(K)]
    np.testing.assert_allclose(got, wanted, atol=1e-13)
    right, wrong = fs.rates(columns(a), y[:, 0])
    np.testing.assert_allclose(right - wrong, got[:, 0], atol=1e-13)


def test_auroc_is_that_of_mann_whitney(data):
    a, y = data
    got = 0.5 + fs.statistics(columns(a), y, "auroc")
    n1 = y.sum(0)
    r = rankdata(a, axis=0)
    wanted = (r.T @ y - n1 * (n1 + 1) / 2) / (n1 * (N - n1))
    np.testing.assert_allclose(got, wanted, atol=1e-13)
    assert got[1] == pytest.approx([0.5] * 4)


def test_t_is_scipys_welch_and_so_is_the_grouped_one_where_rows_are_groups(data):
    a, y = data
    got = fs.statistics(columns(a), y, "t")
    for j in range(4):
        wanted = np.nan_to_num(ttest_ind(a[y[:, j] == 1], a[y[:, j] == 0], equal_var=False).statistic)
        np.testing.assert_allclose(got[:, j], wanted, atol=1e-10)
        grouped = fs.grouped_t(columns(a), y[:, j], np.arange(N))
        np.testing.assert_allclose(grouped, wanted, atol=1e-10)


def test_rows_that_repeat_one_another_add_nothing_to_the_grouped_t(data):
    a, y = data
    often = np.repeat(np.arange(N), 4)
    plain, grouped = fs.welch(columns(a), y[:, :1])[:, 0], fs.grouped_t(columns(a[often]), y[often, 0], often)
    some = np.abs(plain) > 0.3
    np.testing.assert_allclose(grouped[some], plain[some], rtol=0.02)  # the factor n / (n - 1) sees four times the rows
    naive = fs.welch(columns(a[often]), y[often, :1])[:, 0]
    assert (np.abs(naive[some]) > 1.9 * np.abs(plain[some])).all()


def test_a_clustered_variance_by_hand():
    a, y = np.array([1.0, 3, 2, 0, 1, 4]), np.array([1.0, 1, 0, 0, 1, 0])
    groups = np.array([0, 0, 1, 1, 2, 2])
    c = (y - 0.5) / 1.5
    e = a - np.where(y == 1, a[y == 1].mean(), a[y == 0].mean())
    v = c / np.sqrt(1 - 1 / 3)
    error = np.sqrt(sum((v * e)[groups == g].sum() ** 2 for g in range(3)))
    got = fs.grouped_t(columns(a[:, None]), y, groups)
    assert got == pytest.approx([(a[y == 1].mean() - a[y == 0].mean()) / error])


def test_soft_labels_are_the_rows_that_they_stand_for(data):
    """A pass rate of 3 in 4 is four rows of one activation, three of them right."""
    a, _ = data
    rate = np.random.default_rng(1).integers(0, 5, size=N) / 4
    rows = np.repeat(np.arange(N), 4)
    y = (np.tile(np.arange(4), N) < 4 * rate[rows]).astype(float)
    for kind in ("separation", "auroc"):
        soft = fs.statistics(columns(a), rate[:, None], kind)
        np.testing.assert_allclose(soft, fs.statistics(columns(a[rows]), y[:, None], kind), atol=1e-12)
    w = np.ones((1, N))
    for i in (0, 3, 9):
        assert fs.soft_auroc(a[:, i], rate, w)[0] == pytest.approx(float(auroc(a[rows, i], y == 1)))
        on = (a[:, i] > 0).astype(float)
        said = a[:, i] > 0.5
        assert fs.soft_separation(on, rate, w)[0] == pytest.approx(
            fs.statistics(columns(a), rate[:, None], "separation")[i, 0]
        )
        assert fs.soft_f1(said, rate, w)[0] == pytest.approx(float(f1(said[rows], y == 1)))


def test_weights_are_counts(data):
    a, y = data
    counts = np.random.default_rng(2).integers(0, 3, size=N)
    rows, w = np.repeat(np.arange(N), counts), counts[None].astype(float)
    x, label = a[:, 4], y[:, 0]
    again = ttest_ind(x[rows][label[rows] == 1], x[rows][label[rows] == 0], equal_var=False).statistic
    assert fs.soft_t(x, label, np.arange(N), w)[0] == pytest.approx(float(again))
    groups, twice = np.arange(N) // 3, np.random.default_rng(3).integers(0, 3, size=N // 3)
    again = np.concatenate([np.flatnonzero(groups == g) for g in np.repeat(np.arange(N // 3), twice)])
    drawn = np.repeat(np.arange(twice.sum()), 3)  # a group that is drawn twice is two groups
    wanted = fs.grouped_t(columns(a[again]), label[again], drawn)
    w2 = np.stack([np.ones(N), twice[groups]])
    for i in (0, 4, 9):
        both = [fs.grouped_t(columns(a), label, groups)[i], wanted[i]]
        np.testing.assert_allclose(fs.soft_t(a[:, i], label, groups, w2), both, rtol=1e-9)
    assert np.isnan(fs.soft_t(x, np.ones(N), groups, w2)).all()
    assert fs.soft_rate((x > 0).astype(float), label, w)[0] == pytest.approx((x[rows] > 0)[label[rows] == 1].mean())


def test_f1_of_firing_is_at_the_natural_share(data):
    a, y = data
    right, wrong = fs.rates(columns(a), y[:, 0])
    got = fs.firing_f1(right, wrong, float(y[:, 0].mean()))
    np.testing.assert_allclose(got, [float(f1(a[:, i] > 0, y[:, 0] == 1)) for i in range(K)], atol=1e-13)


def test_a_threshold_is_the_best_one_at_which_the_latent_is_active(data):
    a, y = data
    for i in (0, 5, 8):
        cut = fs.active_threshold(a[:, i], y[:, 0])
        every = [float(f1(a[:, i] > c, y[:, 0] == 1)) for c in np.r_[1e-6, np.unique(a[:, i])]]
        assert float(f1(a[:, i] > cut, y[:, 0] == 1)) == pytest.approx(max(every))
        assert cut >= 1e-6
        exact = [float((y[:, 0] == (a[:, i] > c)).mean()) for c in np.r_[1e-6, np.unique(a[:, i])]]
        right = float((y[:, 0] == (a[:, i] > fs.active_threshold(a[:, i], y[:, 0], "accuracy"))).mean())
        assert right == pytest.approx(max(exact))
    assert fs.active_threshold(np.zeros(9), np.ones(9)) == 1e-6
    weak = (np.arange(100) < 3).astype(float)  # always yes would have the better F1, but a silent latent says nothing
    label = (np.arange(100) < 90).astype(float)
    assert best_threshold(weak, label) < 0 < fs.active_threshold(weak, label)
    assert fs.active_threshold(weak, 1 - label, "accuracy") >= 1  # never yes is the most accurate here


def test_a_threshold_of_many_rows_needs_no_square_of_them():
    rng = np.random.default_rng(5)
    tracemalloc.start()
    fs.active_threshold(rng.random(6000), (rng.random(6000) < 0.5).astype(float))
    assert tracemalloc.get_traced_memory()[1] < 3e6  # 6000 x 6000 bytes are 36 MB
    tracemalloc.stop()


def test_encoding_in_blocks_is_encoding_at_once():
    made, x = dictionary(), np.random.default_rng(3).standard_normal((70, 32)).astype(np.float32)
    whole = np.where((z := encode(made, x)) > ACTIVE, z, 0)
    for block in (1, 7, 70, 500):
        got = site_latents(made, lambda i: x[i], 70, block=block)
        np.testing.assert_allclose(got.toarray(), whole, atol=1e-6)
    assert 0.02 < (whole > 0).mean() < 0.3


def test_tokens_become_a_row_without_the_sink():
    made, rng = dictionary(), np.random.default_rng(4)
    rows = [rng.standard_normal((n, 32)).astype(np.float32) for n in (3, 9, 14)]
    for x in rows:
        x[0] *= 100
    for how, of in (("max", np.max), ("mean", np.mean)):
        got = pooled_latents(made, rows, how, block=4).toarray()
        np.testing.assert_allclose(got, [of(encode(made, x[1:]), axis=0) for x in rows], atol=1e-5)
    assert not calm(rows[1])[0]
    counts, tokens = active_counts(made, rows, block=5)
    assert tokens == sum(len(x) - 1 for x in rows)
    np.testing.assert_array_equal(counts, sum((encode(made, x[1:]) > 0).sum(0) for x in rows))
