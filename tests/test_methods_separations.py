"""Cohen's d of latents: against the plain formula, soft classes, intervals by group, what is chosen, and the null."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from gnomon import stats
from gnomon.methods.feature_search import Part, Search
from gnomon.methods.separations import BY_SITE, SEPARATIONS, Separations, between, class_facts, cohens_d, held_out
from gnomon.nulls import permuted

DRAWS = 300


def latents(n: int, k: int, seed: int = 0, rate: float = 0.4) -> np.ndarray:
    """Random activations, active in about `rate` of the rows."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, k)) < rate, rng.exponential(size=(n, k)), 0.0).astype(np.float32)


def test_d_is_the_plain_formula_for_every_latent_and_label():
    a, rng = latents(120, 7), np.random.default_rng(1)
    y = rng.random((120, 4)) < 0.4
    found = cohens_d(sparse.csc_array(a), y)
    wanted = [[stats.cohens_d(a[:, i], y[:, j]) for j in range(4)] for i in range(7)]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    facts = class_facts(a, y[:, 0])
    np.testing.assert_allclose(facts["first_mean"], a[y[:, 0]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(facts["second_mean"], a[~y[:, 0]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(facts["first_rate"], (a[y[:, 0]] > 0).mean(axis=0))
    apart = facts["first_mean"] - facts["second_mean"]
    np.testing.assert_allclose(apart / facts["sd"], found[:, 0], rtol=1e-9)


def test_a_share_counts_as_that_many_rows_of_each_class():
    a = latents(40, 3)
    share = np.random.default_rng(2).choice([0.25, 0.5, 1.0], size=40)
    four = np.repeat(a, 4, axis=0)
    labels = np.concatenate([[True] * int(4 * s) + [False] * int(4 - 4 * s) for s in share])
    soft, hard = cohens_d(sparse.csc_array(a), share[:, None])[:, 0], class_facts(four, labels)
    facts = class_facts(a, share)
    for name in ("first_mean", "second_mean", "first_rate", "second_rate"):
        np.testing.assert_allclose(facts[name], hard[name], rtol=1e-6)
    np.testing.assert_allclose(soft, (facts["first_mean"] - facts["second_mean"]) / facts["sd"], rtol=1e-9)


def test_what_does_not_vary_has_none_and_what_only_the_classes_tell_is_far_out():
    y = np.arange(40) % 2 == 0
    a = np.stack([np.zeros(40), np.full(40, 3.7), 2.0 * y, np.full(40, 1e5)], axis=1)
    d = cohens_d(sparse.csc_array(a), y[:, None])[:, 0]
    assert abs(d[[0, 1, 3]]).max() < 1e-6
    assert d[2] > 1e5
    one = np.zeros((40, 1))
    one[3] = 1e-3  # in most resamples that row is missing: nothing, not infinity
    assert np.isfinite(held_out(one, y, np.arange(40), DRAWS, 0)[0]).all()
    assert abs(held_out(one, y, np.arange(40), DRAWS, 0)[0]).max() < 2
    empty = held_out(a, np.ones(40), np.arange(40), DRAWS, 0)
    assert np.isnan(empty[0]).all()
    assert held_out(a[:0], y[:0], np.arange(0), DRAWS, 0)[1].shape == (4, 1 + DRAWS)


def test_intervals_are_those_of_the_bootstrap_over_groups():
    a, rng = latents(90, 3), np.random.default_rng(3)
    y, groups = rng.random(90) < 0.5, np.repeat(np.arange(30), 3)
    d, apart = held_out(a, y, groups, 4000, 5)
    low, high = between(d[:, 1:])
    for i in range(3):
        want = stats.bootstrap(lambda w, i=i: stats.cohens_d(a[:, i], y, w), groups, 4000, 6)
        assert d[i, 0] == pytest.approx(want.value)
        assert abs(low[i] - want.low) < 0.06
        assert abs(high[i] - want.high) < 0.06
        assert apart[i, 0] == pytest.approx((a[y, i] > 0).mean() - (a[~y, i] > 0).mean())
    rows = between(held_out(a, y, np.arange(90), 4000, 5)[0][:, 1:])
    same = np.repeat(a[:30], 3, axis=0)
    thrice = between(held_out(same, np.repeat(y[:30], 3), groups, 4000, 5)[0][:, 1:])
    once = between(held_out(a[:30], y[:30], np.arange(30), 4000, 5)[0][:, 1:])
    assert (high - low).mean() == pytest.approx((rows[1] - rows[0]).mean(), rel=0.4)
    assert (thrice[1] - thrice[0]).mean() == pytest.approx((once[1] - once[0]).mean(), rel=0.1)


def searched(n: int, k: int, planted: float, seed: int, per_layer: int = 5) -> tuple[Separations, np.ndarray]:
    rng = np.random.default_rng([seed, 11])
    y = rng.random(n) < 0.5
    a = latents(n, k, seed)
    a[:, 3] += (planted * y * (rng.random(n) < 0.8)).astype(np.float32)
    split = rng.permutation(np.repeat(["fit", "test"], n // 2))
    made = Separations(y.astype(float), np.arange(n), split, ("safe", "risky"), per_layer, DRAWS, seed, "last_prompt")
    shuffled = permuted(y.astype(float), np.arange(n), 19, seed, split)
    made.add("resid_post.4", sparse.csr_array(a), np.arange(k), np.full(k, 0.01), shuffled)
    return made, a


def test_the_planted_latent_leads_and_holds_up_on_test():
    made, a = searched(200, 60, 2.0, 0)
    table, sites = made.tables({"resid_post.4": "mine"}, {"resid_post.4": "m/4-x"}, lambda link, i: f"{link}/{i}")
    assert list(table.columns) == SEPARATIONS.names
    assert list(sites.columns) == BY_SITE.names
    first = table.iloc[0]
    assert (first["name"], first["rank"], first["link"]) == ("L4-3", 1, "m/4-x/3")
    assert (first["first"], first["second"], first["dictionary"]) == ("safe", "risky", "mine")
    assert first["ci_low"] > 0.5
    assert first["separation_low"] > 0.1
    fit = made.split == "fit"
    y = made.y.astype(bool)
    assert first["fit_d"] == pytest.approx(float(stats.cohens_d(a[fit, 3], y[fit])))
    assert first["d"] == pytest.approx(float(stats.cohens_d(a[~fit, 3], y[~fit])))
    assert first["first_mean"] == pytest.approx(a[fit & y, 3].mean(), rel=1e-5)
    assert (first["n_first"] + first["n_second"], first["test_first"]) == (100, int(y[~fit].sum()))
    assert table["fit_d"].abs().is_monotonic_decreasing
    assert len(table) == 5
    site = sites.iloc[0]
    assert site["p"] == 0.05
    assert site["largest"] > 2 * site["luck_high"]
    assert (site["searched"], site["kept"], site["component"]) == (60, 5, "resid_post")
    up = table["fit_d"] > 0
    assert site["excluding"] == (table["ci_low"][up] > 0).sum() + (table["ci_high"][~up] < 0).sum() >= 1


def test_labels_without_a_signal_hold_nothing_up():
    """d on fit is large by choice; in test it is about 0, and the site's largest is what luck gives."""
    mean, p, inside = [], [], []
    for seed in range(20):
        table, sites = searched(120, 80, 0.0, seed)[0].tables({"resid_post.4": ""}, {"resid_post.4": ""}, lambda *_: "")
        assert table["fit_d"].abs().min() > 0.25
        mean.append(sites["mean"].iloc[0])
        p.append(sites["p"].iloc[0])
        inside += ((table["ci_low"] <= 0) & (table["ci_high"] >= 0)).tolist()
    assert abs(np.mean(mean)) < 0.06
    assert np.mean(np.array(p) <= 0.05) <= 0.2
    assert np.mean(inside) > 0.88


def test_a_thin_class_of_test_gives_no_interval():
    made, _ = searched(60, 20, 2.0, 0)
    table, sites = made.tables({"resid_post.4": ""}, {"resid_post.4": ""}, lambda *_: "")
    assert table["d"].notna().all()
    assert table[["ci_low", "ci_high", "separation_low", "separation_high"]].isna().all(axis=None)
    assert "20 are needed for an interval" in sites["note"].iloc[0]
    assert stats.thin_notes(table["note"]) == [sites["note"].iloc[0]]
    assert sites["note"].iloc[0].split(" has ")[1].split()[1] in ("safe", "risky")
    assert sites["excluding"].iloc[0] == 0


def test_only_what_the_search_may_take_is_chosen():
    """General language, what fires in too few rows and what decodes to nothing is set aside before |d| is looked at."""
    rng = np.random.default_rng(4)
    y = (rng.random(200) < 0.5).astype(float)
    a = latents(200, 30)
    strong = (3 * y).astype(np.float32)
    a[:, 0] = a[:, 1] = strong
    a[:, 2] = 0
    a[np.flatnonzero(y)[:4], 2] = 50.0
    general, alive = np.full(30, 0.0), np.ones(30, dtype=bool)
    general[0], alive[1] = 0.5, False
    labels = np.column_stack([y, permuted(y, np.arange(200), 19, 0, np.repeat([0, 1], 100))])
    part = Part("fit", np.arange(100), np.arange(100, 200), labels, 19)
    search = Search([part], np.arange(200))
    search.add("mlp_out.2", sparse.csr_array(a), np.arange(200), general, alive)
    used = search.used["mlp_out.2"]
    assert not np.isin([0, 1, 2], used).any()
    split = np.repeat(["fit", "test"], 100)
    made = Separations(y, np.arange(200), split, ("a", "b"), 50, DRAWS)
    made.add("mlp_out.2", sparse.csr_array(a), used, general, labels[:, 1:])
    table = made.tables({"mlp_out.2": ""}, {"mlp_out.2": ""}, lambda *_: "")[0]
    assert len(table) == len(used) == 27
    assert set(table["name"]) == {f"mlp_out.2-{i}" for i in used}
    nothing = Separations(y, np.arange(200), split, ("a", "b"), 50, DRAWS)
    nothing.add("mlp_out.2", sparse.csr_array(a), used[:0], general, y[:, None])
    frame, sites = nothing.tables({"mlp_out.2": ""}, {"mlp_out.2": ""}, lambda *_: "")
    assert len(frame) == 0
    assert (sites["kept"].iloc[0], sites["strongest"].iloc[0]) == (0, "")
