"""Probes on arrays: equal to the libraries, silent on null data, and never claiming what a baseline explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gnomon import stats
from gnomon.errors import UserError
from gnomon.methods import folds as folding
from gnomon.methods.baselines import choose, columns, combine, residuals
from gnomon.methods.controls import COLUMNS, Setting, best_threshold
from gnomon.methods.direction import direction_controls
from gnomon.methods.evidence import Result, evaluate, verdict
from gnomon.methods.folds import grouped_folds
from gnomon.methods.linear import Difference, Logistic, Ridge, difference, fitter
from gnomon.methods.probing import Options, Problem, problem
from tests.synthetic import Planted, rows

QUICK = Options(
    predictors=("difference",), permutations=39, random=20, draws=300, nested_below=0, penalties=(10.0, 100.0, 1000.0)
)


def run(planted: Planted, options: Options = QUICK, target: str = "correct") -> Result:
    table, acts = rows(planted)
    return evaluate(problem(table, target), lambda place, at: acts[place][at], list(acts), options)


def cell(result: Result, predictor: str, metric: str = "auroc", control: str = "", split: str = "test") -> pd.Series:
    s = result.scores
    here = s[(s.predictor == predictor) & (s.metric == metric) & (s.control == control) & (s.split == split)]
    assert len(here) == 1, (predictor, metric, control, split, len(here))
    return here.iloc[0]


# ---------------------------------------------------------------- fitting


def activations(n: int = 120, d: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a steep spectrum, offsets and unequal scales, as a residual stream has."""
    rng = np.random.default_rng(seed)
    mix = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = (rng.normal(size=(n, d)) * np.exp(-np.arange(d) / 30)) @ mix * rng.exponential(size=d) * 20 + rng.normal(
        size=d
    ) * 5
    y = (x @ rng.normal(size=d) * 0.02 + rng.logistic(size=n) > 0).astype(float)
    return x, y - (y - (np.arange(n) % 2)) * (y.min() == y.max())


@pytest.mark.parametrize("shape", [(120, 200), (200, 40)])
@pytest.mark.parametrize("penalty", [1.0, 30.0, 1e3, 1e5])
def test_logistic_equals_scikit_learn(shape, penalty):
    x, y = activations(*shape)
    new, _ = activations(30, shape[1], seed=1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, tol=1e-10, solver="newton-cholesky"))
    want = theirs.fit(x, y).decision_function(new)
    model = Logistic(x)
    np.testing.assert_allclose(model.probe(y, penalty).scores(new), want, atol=1e-5 * np.abs(want).max())
    flipped = np.column_stack([1 - y, y])
    np.testing.assert_allclose(
        model.held_out(new, flipped, np.full(2, penalty)),
        np.column_stack([-want, want]),
        atol=1e-3 * np.abs(want).max(),
    )


@pytest.mark.parametrize("shape", [(120, 200), (200, 40)])
def test_ridge_equals_scikit_learn(shape):
    x, _ = activations(*shape)
    y = x @ np.random.default_rng(3).normal(size=shape[1])
    new, _ = activations(30, shape[1], seed=1)
    want = make_pipeline(StandardScaler(), SklearnRidge(alpha=100.0)).fit(x, y).predict(new)
    np.testing.assert_allclose(Ridge(x).probe(y, 100.0).scores(new), want, atol=1e-8 * np.abs(want).max())


def test_difference_in_means_equals_numpy():
    x, y = activations()
    want = x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)
    np.testing.assert_allclose(difference(x, y), want, atol=1e-12 * np.abs(want).max())
    np.testing.assert_allclose(Difference(x).probe(y).vector, want, atol=1e-12 * np.abs(want).max())


def test_difference_of_a_number_points_along_its_slope():
    x, _ = activations()
    y = np.random.default_rng(0).normal(size=len(x))
    want = np.cov(np.column_stack([y, x]).T, bias=True)[0, 1:] / y.std()
    np.testing.assert_allclose(difference(x, y), want, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("shape", [(60, 150), (150, 20)])
@pytest.mark.parametrize("kind", ["difference", "logistic", "ridge"])
def test_out_of_fold_scores_come_from_models_without_the_fold(kind, shape):
    x, y = activations(*shape)
    folds = np.arange(len(x)) % 4
    labels = np.column_stack([y, y[::-1]])
    scores, penalty = fitter(kind, x, [50.0]).out_of_fold(labels, folds)
    assert (penalty == 50.0).all() or kind == "difference"
    standard = StandardScaler().fit_transform(x)
    for k in range(4):
        train, test = folds != k, folds == k
        for j in range(2):
            if kind == "difference":
                want = (x[test] - x.mean(axis=0)) @ difference(x[train], labels[train, j])
            elif kind == "logistic":
                model = LogisticRegression(C=1 / 50, tol=1e-10, solver="newton-cholesky")
                want = model.fit(standard[train], labels[train, j]).decision_function(standard[test])
            else:
                want = SklearnRidge(alpha=50.0).fit(standard[train], labels[train, j]).predict(standard[test])
            np.testing.assert_allclose(scores[test, j], want, atol=2e-3 * np.abs(want).max())


def test_a_column_of_one_class_is_fitted_by_nothing():
    x, y = activations(40, 60)
    scores, _ = Logistic(x).out_of_fold(np.column_stack([y, np.ones(40)]), np.arange(40) % 4)
    assert (scores[:, 1] == 0).all()
    assert np.abs(scores[:, 0]).max() > 0


def test_folds_keep_groups_whole_and_spread_each_stratum():
    groups = np.repeat(np.arange(50), 3)
    strata = (np.arange(50) // 10)[groups]
    fold = grouped_folds(groups, 5, seed=0, strata=strata)
    assert all(len(set(fold[groups == g])) == 1 for g in range(50))
    for level in range(5):
        assert np.bincount(fold[strata == level], minlength=5).tolist() == [6] * 5
    assert (fold != grouped_folds(groups, 5, seed=1, strata=strata)).any()


@pytest.mark.parametrize("metric", ["f1", "accuracy"])
def test_the_best_threshold_beats_every_other(metric):
    score = {"f1": stats.f1, "accuracy": stats.accuracy}[metric]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        s, y = np.round(rng.normal(size=25), 1), (rng.random(25) < rng.random()).astype(float)
        found = float(score(s > best_threshold(s, y, metric), y))
        others = [float(score(s > t, y)) for t in [-9.0, *s, *(s + 0.05)]]
        assert found == pytest.approx(max(others))


# ---------------------------------------------------------------- baselines


def test_baselines_come_from_the_table_and_its_json():
    table, _ = rows(Planted(n=50))
    offered = columns(table)
    assert {
        "difficulty",
        "prompt_len",
        "max_prob",
        "entropy",
        "margin",
        "mean_logprob",
        "words",
        "response_len",
    } <= set(offered)
    before, _ = choose(offered, None, "correct", after_response=False)
    after, dropped = choose(offered, None, "correct", after_response=True)
    assert set(after) - set(before) == {"mean_logprob"}
    assert "response_len: the same everywhere" in dropped
    twice, dropped = choose(offered | {"again": 2 * offered["words"] + 1}, None, "entropy", after_response=False)
    assert "again" not in twice
    assert "again: repeats words" in dropped
    assert "entropy" not in twice
    with pytest.raises(UserError, match="did you mean 'difficulty'"):
        choose(offered, ["dificulty"], "correct", after_response=True)


def test_a_missing_baseline_value_is_flagged_not_guessed():
    rng = np.random.default_rng(0)
    y = (rng.random(200) < 0.5).astype(float)
    value = np.where((y == 1) & (rng.random(200) < 0.8), np.nan, rng.normal(size=200))  # missing tells the class
    folds = np.arange(200) % 5
    fit, test = np.arange(200) < 120, np.arange(200) >= 120
    found = combine(
        {"x": value[fit]}, y[fit], folds[fit], rng.normal(size=120), {"x": value[test]}, rng.normal(size=80)
    )
    assert stats.auroc(found.base, y[test]) > 0.8


def simulate(seed: int, in_sample: bool, d: int = 300, n: int = 200) -> float:
    """Increment of a probe on pure noise over an informative baseline, with the combiner fitted either way."""
    rng = np.random.default_rng(seed)
    baseline = rng.normal(size=2 * n)
    y = (1.2 * baseline + rng.logistic(size=2 * n) > 0).astype(float)
    x, fit = rng.normal(size=(2 * n, d)), np.arange(2 * n) < n
    folds = grouped_folds(np.arange(n), 5, seed)
    model = fitter("logistic", x[fit], [100.0, 1000.0])
    out_of_fold, penalty = model.out_of_fold(y[fit][:, None], folds)
    probe = model.probe(y[fit], float(penalty[0]))
    score = probe.scores(x[fit]) if in_sample else out_of_fold[:, 0]
    found = combine({"b": baseline[fit]}, y[fit], folds, score, {"b": baseline[~fit]}, probe.scores(x[~fit]))
    return float(stats.auroc(found.both, y[~fit]) - stats.auroc(found.base, y[~fit]))


def test_the_combiner_must_see_out_of_fold_scores():
    in_sample, out_of_fold = (np.mean([simulate(s, way) for s in range(12)]) for way in (True, False))
    assert in_sample < -0.05
    assert abs(out_of_fold) < 0.01


def test_the_partial_correlation_is_that_of_the_residuals():
    rng = np.random.default_rng(0)
    b, noise = rng.normal(size=(2, 4000))
    y = b + rng.normal(size=4000)
    fit, test, folds = np.arange(4000) < 2000, np.arange(4000) >= 2000, np.arange(2000) % 5
    s = 3 * b + noise  # nothing but the baseline and noise
    found = combine({"b": b[fit]}, y[fit], folds, s[fit], {"b": b[test]}, s[test])
    assert abs(np.corrcoef(*residuals(found, y[test]))[0, 1]) < 0.05
    s = 3 * b + noise + (y - b)  # and half of what the baseline leaves
    found = combine({"b": b[fit]}, y[fit], folds, s[fit], {"b": b[test]}, s[test])
    assert np.corrcoef(*residuals(found, y[test]))[0, 1] == pytest.approx(np.sqrt(0.5), abs=0.05)


# ---------------------------------------------------------------- the whole decision


def test_a_planted_signal_is_found_where_it_is():
    options = replace(QUICK, predictors=("difference", "logistic"), permutations=199)
    result = run(Planted(n=600, signal=2.5, layer=2, layers=4), options)
    assert {f.choice.candidate for f in result.fitted} == {("resid_post.2", "last")}
    assert verdict(result.scores) == "pass"
    for kind in ("difference", "logistic"):
        own, null = cell(result, kind), cell(result, kind, control="shuffled")
        assert own.ci_low > 0.57 > null.value
        assert own.p <= 0.01
        assert null.p <= 0.05
        assert own.value > cell(result, kind, control="random").ci_high
    sweep = result.sweep[result.sweep.control == ""]
    assert set(sweep[sweep.q <= 0.05].site) == {"resid_post.2"}
    first = result.fitted[0].probe.vector
    assert abs(first[0]) > 2 * np.abs(first[3:]).max()  # the latent lies along the first coordinate
    assert first[0] > 0


NULLS = {
    "plain": (Planted(n=160, d=12, layers=2), QUICK, 90),
    "nested": (Planted(n=110, d=12, layers=2), replace(QUICK, nested_below=500, draws=200, random=5), 60),
    "samples of one problem": (Planted(n=240, groups=80, d=12, layers=2), QUICK, 50),
}


def test_two_hundred_null_runs_have_at_most_nineteen_hits():
    """Labels follow difficulty, activations nothing: each kind of claim is counted over all ways of running."""
    hits = dict.fromkeys(("auroc", "increment", "partial", "verdict", "sweep", "shuffled"), 0)
    runs = 0
    for planted, options, count in NULLS.values():
        small = replace(options, baselines=("difficulty",))
        for seed in range(count):
            result = run(replace(planted, seed=seed), replace(small, seed=seed))
            split = "cv" if options.nested_below else "test"
            hits["auroc"] += cell(result, "difference", split=split).ci_low > 0.5
            hits["increment"] += cell(result, "increment", split=split).ci_low > 0
            hits["partial"] += cell(result, "increment", "partial", split=split).ci_low > 0
            hits["shuffled"] += cell(result, "difference", control="shuffled", split=split).p <= 0.05
            hits["sweep"] += bool((result.sweep.q <= 0.05).any())
            hits["verdict"] += verdict(result.scores) == "pass"
            runs += 1
    assert runs == 200
    assert {name: count for name, count in hits.items() if count > 19} == {}


@pytest.mark.parametrize("nested", [0, 1000])
def test_a_planted_signal_is_found_in_four_runs_of_five(nested):
    n = 400 if nested else 600
    options = replace(QUICK, nested_below=nested, baselines=("difficulty", "entropy"), random=5)
    found = [
        verdict(run(Planted(n=n, d=12, layers=2, signal=2.0, strength=2.5, seed=s), replace(options, seed=s)).scores)
        for s in range(10)
    ]
    assert found.count("pass") >= 8


@pytest.mark.parametrize("bend", [False, True])
def test_a_probe_of_difficulty_claims_nothing_beyond_it(bend):
    """Activations hold difficulty (and its bend) loudly; the label knows nothing else. The AUROC is high."""
    planted = Planted(n=500, d=12, layers=2, difficulty_effect=1.5, encode=3.0, bend=bend)
    options = replace(QUICK, baselines=("difficulty", "entropy", "words"), random=5)
    results = [run(replace(planted, seed=s), options) for s in range(12)]
    assert min(cell(r, "difference").value for r in results) > 0.65
    assert sum(verdict(r.scores) == "pass" for r in results) <= 1
    assert np.mean([cell(r, "increment").value for r in results]) < 0.01


def test_without_the_baseline_the_same_probe_would_claim():
    planted = Planted(n=500, d=12, layers=2, difficulty_effect=1.5, encode=3.0)
    result = run(planted, replace(QUICK, baselines=("words",), random=5))
    assert verdict(result.scores) == "pass"


def test_shuffling_within_difficulty_keeps_what_difficulty_explains():
    result = run(Planted(n=600, d=12, layers=2, difficulty_effect=1.5, encode=3.0))
    own, free, within = (
        cell(result, "difference"), cell(result, "difference", control="shuffled"),
        cell(result, "difference", "auroc_strata", "shuffled"),
    )  # fmt: skip
    assert own.value > free.ci_high
    assert within.value > free.ci_high
    assert within.p > free.p


def test_the_sweep_and_the_choice_never_read_test():
    table, acts = rows(Planted(n=300, signal=1.0))
    of = problem(table)
    test, order = set(of.rows[of.split == "test"]), []

    def read(place, at):
        order.append(bool(test & set(at)))
        return acts[place][at]

    said: list[str] = []
    first = evaluate(of, read, list(acts), QUICK, on_test=lambda why: said.append(f"{why} after {sum(order)} reads"))
    assert len(said) == 1
    assert said[0].endswith("after 0 reads")
    assert sum(order) == 1  # the best candidate, once
    for x in acts.values():
        x[of.split == "test"] = np.random.default_rng(9).normal(size=x[of.split == "test"].shape)
    second = evaluate(of, read, list(acts), QUICK)
    pd.testing.assert_frame_equal(first.sweep, second.sweep)
    np.testing.assert_array_equal(first.fitted[0].probe.vector, second.fitted[0].probe.vector)
    assert cell(first, "difference").value != cell(second, "difference").value


def test_few_groups_are_cross_validated_with_the_choice_inside():
    options = replace(QUICK, nested_below=500, predictors=("difference", "logistic"))
    said: list[str] = []
    table, acts = rows(Planted(n=300, signal=1.5))
    result = evaluate(problem(table), lambda place, at: acts[place][at], list(acts), options, on_test=said.append)
    assert "300 groups are fewer than 500" in said[1]
    head = result.scores[result.scores.selected & (result.scores.metric == "auroc") & (result.scores.control == "")]
    assert set(head.split) == {"cv"}
    assert set(head.n) == {300}
    assert len(result.folds) == 5
    assert result.folds.n.sum() == 300
    assert {"cv", "test"} == set(result.scores.split)  # the plain test number stands beside it
    cv, test = cell(result, "difference", split="cv"), cell(result, "difference", split="test")
    assert cv.value > 0.6
    assert test.n == 120


def test_nothing_depends_on_the_number_of_threads(monkeypatch):
    options = replace(QUICK, predictors=("difference", "logistic"), nested_below=500, random=5)
    results = []
    for count in (1, 3):
        monkeypatch.setattr(folding, "threads", lambda count=count: count)
        results.append(run(Planted(n=120, d=30, signal=1.0), options))
    pd.testing.assert_frame_equal(results[0].scores, results[1].scores, check_exact=True)
    pd.testing.assert_frame_equal(results[0].sweep, results[1].sweep, check_exact=True)


def test_a_real_valued_target_is_regressed():
    result = run(Planted(n=500, encode=1.5), replace(QUICK, predictors=("difference", "logistic")), "difficulty")
    assert {f.choice.predictor for f in result.fitted} == {"difference", "ridge"}
    own = cell(result, "ridge", "spearman")
    assert own.ci_low > 0.7
    assert cell(result, "ridge", "r2").value > 0.6
    assert abs(cell(result, "ridge", "spearman", "shuffled").value) < 0.15
    assert cell(result, "increment", "spearman").ci_low > 0
    assert "difficulty" not in set(result.scores.predictor)
    nothing = run(Planted(n=500), replace(QUICK, predictors=("ridge",)), "margin")
    assert nothing.scores[nothing.scores.selected].value.abs().max() < 0.35
    assert verdict(nothing.scores) != "pass"


def test_a_thin_test_class_has_a_value_and_no_interval():
    table, acts = rows(Planted(n=300))
    wrong = np.flatnonzero(table["split"] == "test")
    table["label"] = True
    table.loc[np.flatnonzero(table["split"] != "test")[::3], "label"] = False
    table.loc[wrong[:5], "label"] = False
    result = evaluate(problem(table), lambda place, at: acts[place][at], list(acts), QUICK)
    own = cell(result, "difference")
    assert np.isfinite(own.value)
    assert np.isnan(own.ci_low)
    assert "probe has 5 incorrect rows in split 'test'; 20 are needed" in own.note
    assert verdict(result.scores) == "undecided"


def test_a_perfect_score_still_has_an_interval():
    table, acts = rows(Planted(n=300))
    for x in acts.values():
        x[:, 0] += 100 * table["label"].astype(float)
    result = evaluate(problem(table), lambda place, at: acts[place][at], list(acts), QUICK)
    own = cell(result, "difference")
    assert own.value == own.ci_high == 1.0
    assert 0.85 < own.ci_low < 1.0


def test_a_class_that_cannot_be_fitted_is_refused():
    table, acts = rows(Planted(n=60))
    table["label"] = True
    with pytest.raises(UserError, match="probe has 0 incorrect rows in split 'fit'; at least 5"):
        evaluate(problem(table), lambda place, at: acts[place][at], list(acts), QUICK)


def test_targets_are_classes_numbers_or_refused():
    table, _ = rows(Planted(n=40, unparsed=0.2))
    of: Problem = problem(table)
    assert len(of.y) == int(table["label"].notna().sum())
    assert of.binary
    two = problem(table.assign(side=np.where(table.row % 2, 7, 3)), "side")
    assert two.y.tolist() == (table.row % 2).tolist()
    assert not problem(table, "entropy").binary
    with pytest.raises(UserError, match="did you mean 'entropy'"):
        problem(table, "entrop")
    with pytest.raises(UserError, match="not a number"):
        problem(table, "prompt")
    with pytest.raises(UserError, match="1 value"):
        problem(table, "round")


# ---------------------------------------------------------------- anybody's direction


def given(seed: int, signal: float, vector: Sequence[float] | None = None, encode: float = 0.0) -> pd.DataFrame:
    table, acts = rows(Planted(n=500, signal=signal, encode=encode, seed=seed))
    x = acts["resid_post.1", "last"].astype(float)
    v = np.eye(x.shape[1])[0] if vector is None else np.asarray(vector)
    of = problem(table)
    random = np.random.default_rng(1).normal(size=(x.shape[1], 40))
    known, _ = choose(of.offered, ("difficulty", "entropy"), "correct", after_response=True)
    return direction_controls(
        x @ v, of.y, of.groups, of.split, known, difficulty=of.difficulty, random_scores=x @ random,
        where={"site": "resid_post.1", "selected": True}, setting=Setting(300, 199),
    )  # fmt: skip


def value(frame: pd.DataFrame, predictor: str, metric: str = "auroc", control: str = "") -> pd.Series:
    here = frame[(frame.predictor == predictor) & (frame.metric == metric) & (frame.control == control)]
    assert len(here) == 1
    return here.iloc[0]


def test_a_given_direction_passes_or_fails_every_control():
    good = given(0, signal=2.0)
    assert tuple(good.columns) == COLUMNS
    assert value(good, "given").ci_low > 0.6
    assert value(good, "given", control="shuffled").p <= 0.01
    assert value(good, "given", control="random").ci_high < value(good, "given").value
    assert verdict(good) == "pass"
    poor = given(0, signal=2.0, vector=np.eye(24)[5])
    assert value(poor, "given").ci_low < 0.5
    assert value(poor, "given", control="shuffled").p > 0.05
    assert verdict(poor) != "pass"


def test_a_score_that_the_combination_drops_is_no_proof_against_it():
    good = given(0, signal=2.0)
    gain = (good.predictor == "increment") & (good.metric == "auroc")
    good.loc[gain, ["value", "ci_low", "ci_high"]] = 0.0
    assert verdict(good) == "undecided"  # it correlates given the baselines
    good.loc[(good.predictor == "increment") & (good.metric == "partial"), "ci_low"] = -0.1
    assert verdict(good) == "fail"


def test_a_given_direction_of_difficulty_adds_nothing():
    frames = [given(s, signal=0.0, vector=np.eye(24)[1], encode=3.0) for s in range(6)]
    assert min(value(f, "given").ci_low for f in frames) > 0.55
    assert sum(verdict(f) == "pass" for f in frames) == 0
    assert max(abs(value(f, "increment").value) for f in frames) < 0.02


def test_the_orientation_of_a_given_direction_is_its_own():
    up, down = given(3, signal=2.0), given(3, signal=2.0, vector=-np.eye(24)[0])
    assert value(down, "given").value == pytest.approx(1 - value(up, "given").value)
    assert value(down, "given", control="shuffled").p > 0.9
