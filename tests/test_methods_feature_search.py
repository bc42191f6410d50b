"""The search: what luck finds is large on fit and nothing on test; what is planted is found; one pass is the whole."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from gnomon import nulls
from gnomon.methods import feature_statistics as fs
from gnomon.methods.feature_heldout import confirm, out_of_fold, parts_of
from gnomon.methods.feature_rivals import score_rows
from gnomon.methods.feature_search import Part, Search, family
from gnomon.methods.probing import Options
from gnomon.stats import auroc
from tests.feature_study import latents, problem, searched, splits, two_stages

OPTIONS = Options(permutations=99, nested_below=0, draws=200, random=19)
QUICK = replace(OPTIONS, draws=20, folds=3)


def simulated(seed: int, push: float = 0.0, n: int = 120, k: int = 400) -> tuple:
    """Questions, their latents, and one latent (7) that is active in `push` more of the right ones."""
    rng = np.random.default_rng([seed, 5])
    y = rng.random(n) < 0.5
    a = latents(rng, n, k)
    a[:, 7] = np.where(rng.random(n) < 0.1 + push * y, rng.exponential(size=n), 0)
    return problem(y, splits(n, rng)), {"resid_post.1": a}


def test_200_searches_of_nothing_confirm_in_at_most_19():
    hits = discovered = 0
    gaps, fit, test = [], [], []
    for seed in range(200):
        of, sites = simulated(seed)
        table = two_stages(of, sites, QUICK)
        hits += bool(table["confirmed"].any())
        discovered += bool(table["discovered"].any())
        best = table.loc[table["fit_separation"].abs().idxmax()]
        side = np.sign(best["fit_separation"])
        fit.append(side * best["fit_separation"])
        test.append(side * best["separation"])
        gaps.append(fit[-1] - test[-1])
    assert hits <= 19
    assert discovered <= 19  # p is calibrated as well: q at .05 finds something in about one search of twenty
    assert np.median(fit) > 0.25  # the warning: the best of 400 latents that know nothing
    assert abs(np.mean(test)) < 0.02  # and what is left of it on test
    assert np.median(gaps) > 0.2


def test_a_planted_latent_is_confirmed_in_most_runs():
    found = sum(
        bool((t["confirmed"] & (t["feature"] == 7) & (t["predicts"] == "correct")).any())
        for t in (two_stages(*simulated(seed, push=0.6), replace(QUICK, permutations=199)) for seed in range(25))
    )
    assert found >= 20


def test_the_best_of_many_latents_looks_large_with_labels_that_mean_nothing():
    """487 questions, latents of several sites: the null's own largest |separation| says how large luck is."""
    rng = np.random.default_rng(11)
    of = problem(rng.random(487) < 0.4, splits(487, rng))
    sites = {f"resid_post.{layer}": latents(rng, 487, 3000, 0.01, 0.3) for layer in range(4)}
    search = searched(of, sites, replace(OPTIONS, permutations=39), top=1)
    found = search.discovery()
    known = pd.DataFrame(family(search, found, 1)).set_index("what")["value"]
    assert known["latents"] == 12_000
    luck = known["largest |separation| under shuffled labels"]
    assert luck > 0.14
    assert known["largest |separation| on fit"] == pytest.approx(luck, abs=0.05)
    table = confirm(of, search, np.arange(487), found, OPTIONS)
    assert (table["fit_separation"].abs() > 0.12).all()
    sides = np.sign(table["fit_separation"]) * table["separation"]
    assert sides.abs().max() < 0.11
    assert not table["confirmed"].any()


@pytest.mark.parametrize("kind", ["separation", "t", "auroc"])
def test_one_pass_over_the_sites_is_the_whole_matrix(kind):
    rng = np.random.default_rng(2)
    n = 90
    of = problem(rng.random(n) < 0.5, splits(n, rng), np.repeat(np.arange(45), 2))
    sites = {f"resid_post.{i}": latents(rng, n, 150) for i in range(3)}
    options = replace(OPTIONS, nested_below=500)
    search = searched(of, sites, options, kind=kind, top=2)
    whole = np.concatenate(list(sites.values()), axis=1)
    for part in search.every:
        rows = sparse.csc_array(whole[part.train])
        used = np.flatnonzero(np.diff(rows.indptr) >= 5)
        value = fs.statistics(rows, part.labels[part.train], kind)[used]
        for way, sign in enumerate((1, -1)):
            order = used[np.argsort(-sign * value[:, 0], kind="stable")][: part.keep]
            got = [int(f.site[-1]) * 150 + f.latent for f in search.leaders(part.name, way)]
            assert got == order.tolist()
            if part.shuffles:
                lucky = used[(sign * value[:, 1:]).argmax(0)]
                np.testing.assert_allclose(search.by_luck(part, way, part.new), whole[part.new][:, lucky], rtol=1e-6)
    found = search.discovery()
    assert len(found) == len(np.flatnonzero((whole[of.split == "fit"] > 0).sum(0) >= 5))
    first = search.parts[0]
    rows = sparse.csc_array(whole[first.train])
    y = first.labels[first.train]
    null = fs.statistics(rows, y[:, 1 : 1 + first.shuffles], kind)
    place = [int(s[-1]) * 150 + f for s, f in zip(found["site"], found["feature"], strict=True)]
    sd = np.maximum(null.std(1, ddof=1), 1e-300)  # never active: not searched
    z = (fs.statistics(rows, y[:, :1], kind)[:, 0] - null.mean(1)) / sd
    np.testing.assert_allclose(found["z"], z[place], rtol=1e-8)
    others = [np.delete(null, j, 1) for j in range(null.shape[1])]  # a shuffle is measured by the other ones
    null_z = np.stack([np.abs(null[:, j] - o.mean(1)) / np.maximum(o.std(1, ddof=1), 1e-300)
                       for j, o in enumerate(others)], axis=1)  # fmt: skip
    null_z = np.minimum(null_z, 40)[place]
    exact = np.array([(1 + (null_z >= abs(v)).sum()) / (1 + null_z.size) for v in found["z"]])
    assert (found["p"] >= exact - 1e-12).all()  # bins are never optimistic
    np.testing.assert_allclose(found["p"], exact, rtol=0.05, atol=2e-4)
    np.testing.assert_allclose(
        found["max_t_p"], [(1 + (null_z.max(0) >= abs(v) - 1e-12).sum()) / 100 for v in found["z"]]
    )
    np.testing.assert_allclose(found["t"], fs.grouped_t(rows, y[:, 0], of.groups[first.train])[place], rtol=1e-9)


def test_what_is_held_does_not_grow_with_the_sites():
    rng = np.random.default_rng(3)
    of = problem(rng.random(80) < 0.5, splits(80, rng))
    options = replace(OPTIONS, permutations=19, random=19)
    sizes = []
    search = Search(parts_of(of, options, 2)[0], of.groups, random=19)
    for i in range(12):
        a = latents(rng, 80, 2000)
        search.add(f"resid_post.{i}", sparse.csr_array(a), np.arange(80), np.full(2000, np.nan), np.ones(2000, bool))
        sizes.append(len(search.columns))
        assert len(search.columns) <= sum(2 * p.keep + 2 * (p.labels.shape[1] - 1) for p in search.every)
        assert len(search.matched) <= 4
    assert max(sizes[6:]) <= max(sizes[:6]) + 4
    assert len({site for site, _ in search.columns}) > 3


@pytest.mark.parametrize("draws", [19, 49])
def test_few_shuffles_of_many_latents_find_no_more_than_many(draws):
    """The shuffles' z must lie as far out as true ones: 5% of searches of nothing find something, not most of them."""
    largest = discovered = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 77])
        y = rng.random(80) < 0.5
        labels = nulls.permuted(y.astype(np.float64), np.arange(80), draws, [seed, 1])
        part = Part("fit", np.arange(80), np.arange(0), np.column_stack([y, labels]), draws)
        search = Search([part], np.arange(80), "auroc", random=19)
        values = sparse.csr_array(rng.exponential(size=(80, 2000)))
        search.add("resid_post.1", values, np.arange(80), np.full(2000, np.nan), np.ones(2000, bool))
        found = search.discovery()
        largest += bool((found["max_t_p"] <= 0.05).any())
        discovered += bool(found["discovered"].any())
    assert largest <= 7  # of 40, 2 expected; by the mean and sd of all shuffles it was 40 (of 19) and 17 (of 49)
    assert discovered <= 7


def test_general_and_rare_and_dead_latents_are_set_aside_without_a_look_at_the_labels():
    of, sites = simulated(1, push=0.8)
    a = sites["resid_post.1"]
    a[:, 9] = 0
    a[np.flatnonzero(of.split == "fit")[:4], 9] = 1
    general = np.zeros(400)
    assert searched(of, sites, OPTIONS).leaders("fit", 0)[0].latent == 7
    general[7] = 0.021
    search = searched(of, sites, OPTIONS, general={"resid_post.1": general}, limit=0.02)
    assert search.counts["general"] == 1
    assert 7 not in set(search.discovery()["feature"])
    assert search.counts["rare"] == int(((a[of.split == "fit"] > 0).sum(0) < 5).sum())
    assert 9 not in set(search.discovery()["feature"])
    general[7] = 0.02
    assert 7 in set(searched(of, sites, OPTIONS, general={"resid_post.1": general}).discovery()["feature"])


def test_thresholds_come_from_tune():
    of, sites = simulated(4, n=300)
    rng = np.random.default_rng(4)
    size = np.where(of.y == 1, 1 + rng.random(300), 0.6 * rng.random(300))  # active in both classes, stronger in one
    sites["resid_post.1"][:, 7] = np.where(rng.random(300) < 0.9, size, 0)
    two = partial(two_stages, options=OPTIONS, kind="auroc")
    before = two(of, sites)
    moved = {s: a.copy() for s, a in sites.items()}
    moved["resid_post.1"][of.split == "test", 7] *= 50
    assert two(of, moved)["threshold"].tolist() == before["threshold"].tolist()
    moved["resid_post.1"][of.split == "tune", 7] *= 50
    after = two(of, moved)
    assert (before["threshold_on"] == "tune").all()
    first = before["feature"] == 7
    assert first.any()
    assert (after.loc[first, "threshold"] > before.loc[first, "threshold"]).all()
    thin = replace(of, split=np.where(of.split == "tune", "test", of.split))
    assert (two(thin, sites)["threshold_on"] == "fit+tune").all()


def rows_of(seed: int, push: float, n: int = 200, probes: bool = False, **offered) -> pd.DataFrame:
    of, sites = simulated(seed, push, n)
    of = replace(of, offered=offered or {"noise": np.random.default_rng(seed).random(n)})
    options = replace(OPTIONS, permutations=39, nested_below=500, draws=200)
    search = searched(of, sites, options, random=19)
    x = np.random.default_rng([seed, 8]).standard_normal((n, 16)) + of.y[:, None] * 0.1
    return pd.DataFrame(score_rows(of, search, np.arange(n), lambda site: x, "last_prompt", options, probes, []))


def value(rows: pd.DataFrame, **where) -> pd.Series:
    where = {"target": "correct", "split": "cv", "metric": "auroc", "control": ""} | where
    keep = np.logical_and.reduce([rows[c] == v for c, v in where.items()])
    assert keep.sum() == 1, where
    return rows[keep].iloc[0]


def test_beside_its_rivals_a_planted_latent_wins_and_nothing_does_not():
    strong = rows_of(3, 0.7, probes=True)
    assert value(strong, predictor="feature")["ci_low"] > 0.6
    assert value(strong, predictor="increment")["ci_low"] > 0
    assert value(strong, predictor="feature minus logistic")["ci_low"] > 0
    assert value(strong, predictor="feature", control="shuffled")["p"] < 0.05
    random = value(strong, predictor="feature", control="random")
    assert random["ci_high"] < value(strong, predictor="feature")["value"]
    assert "19 random latents" in random["note"]
    assert value(strong, predictor="prevalence", metric="f1_majority")["n"] == 200
    assert value(strong, predictor="feature", split="test")["n"] == 80
    assert strong["selected"].sum() > 0
    assert (strong.loc[strong["selected"], "split"] == "cv").all()
    weak = rows_of(3, 0.0)
    assert value(weak, predictor="increment")["ci_low"] < 0.02
    assert 0.35 < value(weak, predictor="feature")["value"] < 0.65
    assert abs(value(weak, predictor="feature", control="shuffled")["value"] - 0.5) < 0.06


def test_a_baseline_that_the_latent_repeats_leaves_it_no_increment():
    sites = simulated(3, 0.7, 200)[1]
    rows = rows_of(3, 0.7, difficulty_like=sites["resid_post.1"][:, 7].astype(float))
    assert value(rows, predictor="increment")["ci_low"] <= 0.0
    assert value(rows, predictor="baselines")["value"] == pytest.approx(
        value(rows, predictor="feature")["value"], abs=0.1
    )
    assert abs(value(rows, predictor="increment", metric="partial")["value"]) < 0.15


def test_scores_of_the_combination_had_no_part_in_the_choice():
    """On its own rows the best of many that know nothing seems to know; out of fold it does not."""
    inside, outside = [], []
    for seed in range(10):
        of, sites = simulated(seed)
        search = searched(of, sites, replace(QUICK, permutations=19))
        part, every = search.parts[0], np.arange(len(of.y))
        y = of.y[part.train] == 1
        inside.append(float(auroc(search.column(search.leaders("fit", 0)[0])[part.train], y)))
        scores, folds = out_of_fold(search, part, 0, every), np.zeros(len(y))
        for k, inner in enumerate(part.inner):
            folds[np.isin(part.train, inner.new)] = k
        outside.append(float(auroc(scores, y, folds=folds)))
    assert min(inside) > 0.55
    assert abs(np.mean(outside) - 0.5) < 0.05
