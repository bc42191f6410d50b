"""Ranks, combinations, the two-stage search and the agreement of a score with ablations: arrays only."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as reference

from gnomon.errors import UserError
from gnomon.methods.agreement import agreement
from gnomon.methods.neuron_auroc import Rows, aurocs, midranks, two_stage
from gnomon.methods.neuron_ranking import CRITERIA, Moments, rank_layer, ranks
from gnomon.stats import auroc


def moments(acts: np.ndarray) -> Moments:
    return Moments(np.abs(acts).sum(0), acts.sum(0), (acts**2).sum(0), len(acts))


def rows(seed: int, n: int = 80, m: int = 60, planted: float = 0.0, pairs: bool = True) -> Rows:
    """Both rows of a group share label and most of their activations; neuron 5 knows the label by `planted` sd."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // (2 if pairs else 1)
    label = rng.permutation(np.arange(groups.max() + 1) % 2 == 0)[groups]
    acts = rng.normal(size=(groups.max() + 1, m))[groups] + 0.3 * rng.normal(size=(n, m))
    acts[:, 5] += planted * label
    return Rows(acts, label, groups)


def search(seed: int, planted: float = 0.0, m: int = 60, n: int = 80):
    fit, test = rows(2 * seed, n, m, planted), rows(2 * seed + 1, n, m, planted)
    return two_stage(fit, test, np.zeros(m, int), np.arange(m), 199, 10, seed)


def test_ranks_and_their_combination():
    assert ranks(np.array([3.0, 5.0, 3.0, 9.0])).tolist() == [3, 2, 4, 1]
    rng = np.random.default_rng(0)
    acts, direct, grad = rng.normal(size=(50, 4)) * [1, 2, 3, 4], rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    direct[:, 0] = 9
    grad[:, 1] = [9, -9, 9, -9, 9, -9]  # large, though its mean is 0
    table = rank_layer(7, moments(acts), direct, grad, np.ones((0, 6)), "mean_rank", CRITERIA, 2)
    np.testing.assert_allclose(table["variance"], acts.var(0))
    assert table["rank_variance"].tolist() == ranks(acts.var(0)).tolist()
    assert (int(table["rank_direct"][0]), int(table["rank_grad_act"][1])) == (1, 1)
    columns = [f"rank_{name}" for name in CRITERIA]
    assert np.allclose(table["score"], table[columns].mean(axis=1))
    assert table["selected"].sum() == 2
    assert table["direct_low"].isna().all()
    for name in CRITERIA:
        one = rank_layer(7, moments(acts), direct, grad, np.ones((0, 6)), name, CRITERIA, 2)
        assert one["rank"].tolist() == one[f"rank_{name}"].tolist()
    two = rank_layer(7, moments(acts), direct, grad, np.ones((0, 6)), "mean_rank", ("direct", "variance"), 2)
    assert np.allclose(two["score"], two[["rank_direct", "rank_variance"]].mean(axis=1))


def test_silence_and_infinity_are_refused():
    zero = np.zeros((5, 3))
    with pytest.raises(UserError, match="all activations of layer 2 are 0"):
        rank_layer(2, moments(zero), zero, zero, np.ones((0, 5)), "grad_act", CRITERIA, 2)
    bad = np.ones((5, 3))
    bad[0, 0] = np.inf
    with pytest.raises(UserError, match="grad_act of layer 2"):
        rank_layer(2, moments(np.ones((5, 3))), zero, bad, np.ones((0, 5)), "grad_act", CRITERIA, 2)


def test_aurocs_equal_the_slow_one_and_keep_ties():
    rng = np.random.default_rng(1)
    acts = np.round(rng.normal(size=(31, 7)), 0)
    labels = rng.random((31, 3)).argsort(0) < 12
    found = aurocs(midranks(acts), labels)
    for k in range(3):
        for n in range(7):
            assert found[k, n] == pytest.approx(float(auroc(acts[:, n], labels[:, k])), abs=1e-6)


def test_a_planted_neuron_is_found_and_confirmed():
    found = [search(seed, planted=2.2) for seed in range(20)]
    hit = [bool(table.loc[table["neuron"] == 5, "confirmed"].iloc[0]) for table, _ in found]
    assert np.mean(hit) >= 0.8
    table, family = found[0]
    one = table[table["neuron"] == 5].iloc[0]
    assert one["ci_low"] <= one["test_auroc"] <= one["ci_high"]
    counts = family.set_index("what")["value"]
    assert counts["largest |z| on fit"] == pytest.approx(table["z"].abs().max())
    assert table["test_auroc"].notna().sum() == 10
    assert table.loc[~table["discovered"], "holm"].isna().all()
    assert table.loc[table["order"] == 1, "p"].iloc[0] == table["p"].min()


def test_null_runs_rarely_confirm_and_seldom_discover():
    """200 runs of labels that mean nothing, in groups of two alike rows: Mann-Whitney's p would be far too small."""
    found = [search(seed, m=20, n=36) for seed in range(200)]
    assert sum(table["discovered"].any() for table, _ in found) <= 19
    assert sum((table["max_t_p"] <= 0.05).any() for table, _ in found) <= 19
    assert sum(table["confirmed"].any() for table, _ in found) <= 19


def test_a_neuron_that_never_changes_is_no_finding():
    fit, test = rows(0), rows(1)
    fit.acts[:, 8] = test.acts[:, 8] = 0
    table, _ = two_stage(fit, test, np.zeros(60, int), np.arange(60), 199, 60, 0)
    one = table.loc[8]
    assert (one["fit_auroc"], one["p"], one["test_auroc"], bool(one["confirmed"])) == (0.5, 1.0, 0.5, False)


def test_one_class_is_refused_and_few_rows_have_no_interval():
    fit = rows(0)
    alone = Rows(fit.acts, np.ones(80, dtype=bool), fit.groups)
    for a, b, split in ((alone, fit, "fit"), (fit, alone, "test")):
        with pytest.raises(UserError, match=f"0 wrong rows in {split}"):
            two_stage(a, b, np.zeros(60, int), np.arange(60), 199, 5, 0)
    table, _ = two_stage(fit, rows(1, n=30), np.zeros(60, int), np.arange(60), 199, 5, 0)
    assert table["test_auroc"].notna().sum() == 5
    assert table["ci_low"].isna().all()


def test_agreement_is_pearson_spearman_and_the_slope_of_what_was_taken_away():
    rng = np.random.default_rng(3)
    texts = np.repeat(np.arange(12), 9)
    score = rng.normal(size=108)
    change = -(0.7 * score + 0.2 + 0.1 * rng.normal(size=108))
    found = agreement(score, change, texts, draws=400)
    assert found["pearson"][0] == pytest.approx(np.corrcoef(score, -change)[0, 1])
    assert found["spearman"][0] == pytest.approx(float(reference.spearmanr(score, -change).statistic))
    assert found["slope"][0] == pytest.approx(float(np.polyfit(score, -change, 1)[0]))
    for value, low, high in found.values():
        assert low < value < high
    assert found["slope"][1] < 0.7 < found["slope"][2]
    # what all pairs of a text share is one draw, not nine
    a, b = (np.repeat(rng.normal(size=12), 9) + 0.1 * rng.normal(size=108) for _ in range(2))
    wide, narrow = agreement(a, b, texts, draws=400)["pearson"], agreement(a, b, np.arange(108), draws=400)["pearson"]
    assert wide[2] - wide[1] > 1.5 * (narrow[2] - narrow[1])


def test_agreement_of_nothing():
    texts = np.arange(5)
    found = agreement(np.zeros(5), np.arange(5.0), texts, draws=50)
    assert all(np.isnan(v[0]) for v in found.values())
    one = agreement(np.arange(5.0), -np.arange(5.0), np.zeros(5), draws=50)
    assert one["pearson"][0] == pytest.approx(1)
    assert np.isnan(one["pearson"][1])
    with pytest.raises(UserError, match="3 pairs"):
        agreement(np.arange(2.0), np.arange(2.0), np.arange(2))
    with pytest.raises(UserError, match="beside"):
        agreement(np.arange(5.0), np.arange(4.0), texts)
