"""metrics: measures against numbers made by hand and against their nulls; the step's tables, verdicts and section."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gnomon.errors import UserError
from gnomon.lens.cases import CASES, ERRORS, HEAT, STRONG
from gnomon.lens.measures import METRICS, STAGES
from gnomon.methods.second_order_metrics import (
    NORMAL_HALF,
    allowed_share,
    concentration,
    concentration_interval,
    correlation_interval,
    half_share,
    judged,
    outlying,
    over_neurons,
)
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps.metrics import Metrics
from gnomon.steps.neuron_ablation import NeuronAblation
from gnomon.store import Artifact
from tests import causal_study
from tests.second_order_more import carried, effects, made_neurons, made_pca, made_text
from tests.stepping import data_files, made
from tests.tiny import tiny_model

FOLDERS = {
    "second_order": "second_order", "pca": "pca", "text": "text_decomposition", "neurons": "neurons",
    "neuron_ablations": "neuron_ablation", "generations": "generate",
}  # fmt: skip
RIGHT = 4
"""The selected neuron (index) whose score was made to tell right rows from wrong ones."""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("metrics")
    causal_study.generations(root)
    source = carried(root)
    _tell(source)
    made_pca(root, source)
    made_text(root, Artifact(root / "pca"))
    made_neurons(root, source)
    inputs = {kind: [Artifact(root / FOLDERS[kind])] for kind in ("second_order", "pca", "text", "generations")}
    step = NeuronAblation(spaces="output", draws=400, curve_controls=2)
    made(step, root, causal_study.spec(), "neuron_ablation", inputs)
    return root


def _tell(source: Artifact) -> None:
    """Raise one neuron's score by 1 on right rows, and put a wrong row of tune far out at another neuron."""
    rows, neurons = source.table("rows"), source.table("neurons")
    n = neurons.loc[RIGHT]
    path = source.path / f"scores_layer{n['layer']}.npy"
    scores = np.array(np.load(path))
    scores[0, :, n["neuron"]] += rows["label"].to_numpy()
    far = np.flatnonzero((rows["split"] == "tune") & ~rows["label"])[0]
    scores[0, far, neurons.loc[2, "neuron"]] = 50.0
    np.save(path, scores)
    summary = source.table("summary")
    here = (summary["layer"] == n["layer"]) & (summary["direction"] == "difference")
    summary.loc[here, "second"] = np.abs(scores[0]).mean(0)
    summary.to_parquet(source.path / "summary.parquet")


def run(study: Path, name: str = "metrics", kinds: tuple[str, ...] = tuple(FOLDERS), **options) -> Artifact:
    inputs = {kind: [Artifact(study / FOLDERS[kind])] for kind in kinds}
    return made(Metrics(**({"draws": 400} | options)), study, causal_study.spec(), name, inputs)


@pytest.fixture(scope="module")
def whole(study) -> Artifact:
    return run(study)


@pytest.fixture(scope="module")
def bare(study) -> Artifact:
    return run(study, "bare", ("second_order",))


def row(artifact: Artifact, metric: str) -> pd.Series:
    table = artifact.table("metrics")
    table = table[table["metric"] == metric]
    assert len(table) == 1, metric
    return table.iloc[0]


# ---------------------------------------------------------------- measures


def test_half_of_an_effect():
    n = 200
    spike, even = np.zeros(n), np.ones(n)
    spike[7] = 3.0
    assert half_share(np.stack([spike, even]))[0].tolist() == [1 / n, 0.5]
    assert np.isnan(half_share(np.zeros((1, n)))[0, 0])
    normal = np.random.default_rng(0).normal(size=(1, 200_000)) ** 2
    assert half_share(normal)[0, 0] == pytest.approx(NORMAL_HALF, abs=0.002)
    assert abs(NORMAL_HALF - 0.124) < 0.001
    rng = np.random.default_rng(1)
    squares, weights = rng.gamma(0.3, size=(3, 40)), rng.integers(0, 3, (5, 40))
    drawn = half_share(squares, weights)
    for b in range(5):
        again = half_share(np.repeat(squares, weights[b], axis=1))[0]
        assert np.allclose(drawn[b], again)


def test_concentration_beside_every_set_of_layers():
    mass = np.array([1.0, 5, 6, 1, 2, np.nan])
    kept = np.array([0, 1, 1, 0, 0, 0], dtype=bool)
    found = concentration(mass, kept)
    shares = [mass[list(s)].sum() / 15 for s in combinations(range(5), 2)]
    assert found.value == pytest.approx(11 / 15)
    assert found.expected == pytest.approx(np.mean(shares)) == pytest.approx(0.4)
    assert (found.p, found.sets, found.exact) == (pytest.approx(1 / 10), 10, True)
    assert np.isnan(concentration(np.full(4, np.nan), np.ones(4, bool)).value)
    many = np.random.default_rng(0).gamma(1.0, size=60)
    top = np.isin(np.arange(60), np.argsort(-many)[:10])
    drawn = concentration(many, top, seed=1)
    assert not drawn.exact
    assert drawn.p < 0.001
    assert drawn.expected == pytest.approx(1 / 6, abs=0.01)
    null = [concentration(many, np.isin(np.arange(60), np.random.default_rng(i).permutation(60)[:2])).p
            for i in range(200)]  # fmt: skip
    assert np.mean(np.array(null) <= 0.05) < 0.1
    by_row = np.random.default_rng(2).gamma(5.0, size=(4, 30)) * np.array([8, 1, 1, 8])[:, None]
    weights = np.random.default_rng(3).integers(0, 3, (300, 30)).astype(float)
    low, high = concentration_interval(by_row, np.array([1, 0, 0, 1], bool), weights)
    assert 0.8 < low < 16 / 18 < high < 0.95


def test_the_share_that_accuracy_needs_inverts_the_curve():
    cuts = np.array([0.0, 0.02, 0.1, 0.5, 1.0])
    change = np.array([-0.3, -0.1, -0.005, -0.002, 0.0])
    low, high = change - 0.04, change + 0.04
    low[-1] = high[-1] = 0
    found = allowed_share(cuts, change, low, high, 0.01)
    assert (found.value, found.low, found.high) == (0.1, 0.1, 1.0)
    found = allowed_share(cuts, change, change - 0.002, change + 0.1, 0.01)
    assert (found.value, found.low, found.high) == (0.1, 0.02, 0.1)
    bumpy = np.array([0.0, -0.3, -0.005, -0.002, 0.0])
    assert allowed_share(cuts, bumpy, bumpy, bumpy, 0.01).value == 0.1, "a lucky point below does not count"
    assert np.isnan(allowed_share(cuts[:0], change[:0], low[:0], high[:0], 0.01).value)


def test_outlying_rows_are_found_and_null_rows_are_not():
    rng = np.random.default_rng(0)
    x, right = rng.normal(size=(60, 12)), np.arange(60) < 40
    x[50, 3] = 9.0
    z, p = outlying(x, right)
    assert np.abs(z[50]).argmax() == 3
    assert p[50] == pytest.approx(1 / 41)
    assert np.isnan(p[:40]).all()
    others = np.arange(40) != 5
    by_hand = (x[5] - x[:40][others].mean(0)) / x[:40][others].std(0, ddof=1)
    assert np.allclose(z[5], by_hand), "a right row is compared with the others"
    null = np.concatenate([outlying(np.random.default_rng(i).normal(size=(60, 12)), right)[1][40:] for i in range(60)])
    assert np.mean(null <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.isnan(outlying(x, np.arange(60) < 2)[1]).all()


def test_intervals_over_neurons_and_of_correlations():
    values = np.random.default_rng(0).normal(0.4, 0.1, 300)
    found = over_neurons(np.append(values, np.nan), np.median)
    assert found.low < 0.4 < found.high
    assert found.high - found.low < 0.05
    a, b = np.random.default_rng(1).normal(size=(2, 200))
    assert correlation_interval(a, a + 0.1 * b).low > 0.95
    null = [correlation_interval(*np.random.default_rng(i).normal(size=(2, 200)), 400, i) for i in range(200)]
    assert sum(r.low > 0 or r.high < 0 for r in null) <= 19
    assert np.isnan(correlation_interval(a, np.ones(200)).value)


def test_verdicts_are_by_the_interval():
    def word(low: float, high: float, goal: float | None = 0.05) -> str:
        value = (low + high) / 2
        return judged({"value": value, "ci_low": low, "ci_high": high}, goal, "below")["verdict"]

    assert word(0.01, 0.04) == "pass"
    assert word(0.01, 0.06) == "undecided"
    assert word(0.06, 0.08) == "fail"
    assert word(0.01, 0.04, None) == ""
    assert judged({"value": 0.01, "ci_low": np.nan, "ci_high": np.nan}, 0.05, "below")["verdict"] == "undecided"
    assert judged({"value": np.nan, "ci_low": np.nan, "ci_high": np.nan}, 0.05, "below")["verdict"] == "not measured"


# ---------------------------------------------------------------- the step


def test_tables_have_what_was_promised(whole):
    schemas = {"metrics": METRICS, "stages": STAGES, "strong": STRONG, "cases": CASES,
               "heat": HEAT, "errors": ERRORS}  # fmt: skip
    for name, schema in schemas.items():
        assert list(whole.table(name).columns) == schema.names
        assert len(whole.table(name)), name
    metrics = whole.table("metrics")
    assert not metrics["metric"].duplicated().any()
    known = metrics[metrics["ci_low"].notna()]
    assert (known["ci_low"] <= known["value"] + 1e-12).all()
    assert (known["value"] <= known["ci_high"] + 1e-12).all()
    goals = metrics[metrics["goal"].notna()]
    assert set(goals["verdict"]) <= {"pass", "fail", "undecided", "not measured"}
    assert (metrics[metrics["goal"].isna()]["verdict"].isin(["", "not measured"])).all()
    assert [(e["split"], e["rows"]) for e in whole.meta["ledger"]] == [("test", 68)]


def test_measures_equal_those_made_by_hand(study, whole):
    source = Artifact(study / "second_order")
    rows = source.table("rows")
    fit, test = (np.flatnonzero(rows["split"] == s) for s in ("fit", "test"))
    phi = effects(source)
    norm = np.linalg.norm(phi - phi[:, fit].mean(1)[:, None], axis=2)
    passed = norm >= np.sort(norm[:, fit], axis=1)[:, -20][:, None]
    assert row(whole, "sparsity, chosen cut")["value"] == pytest.approx(passed[:, test].mean())
    shares = []
    for own in norm[:, test] ** 2:
        ordered = np.sort(own)[::-1]
        shares.append((np.flatnonzero(np.cumsum(ordered) >= own.sum() / 2)[0] + 1) / len(test))
    assert row(whole, "sparsity, half of the effect")["value"] == pytest.approx(np.median(shares))
    needed = row(whole, "sparsity, what accuracy needs")
    curve = Artifact(study / "neuron_ablation").table("curve")
    own = curve[(curve["metric"] == "accuracy") & (curve["series"] == "largest effects kept")].set_index("cut")
    assert own.loc[needed["value"], "change"] >= -0.01
    assert (own.loc[: needed["value"] - 1e-9, "change"] < -0.01).all()
    assert needed["control"] > needed["value"]
    concentrated = row(whole, "layer concentration")
    assert concentrated["value"] == pytest.approx(10 / 12)
    assert (concentrated["p"], concentrated["control"]) == (pytest.approx(1 / 6), pytest.approx(0.5))
    assert concentrated["verdict"] == "undecided", "no interval, no verdict"
    evr = Artifact(study / "pca").table("neurons")["evr"]
    assert row(whole, "PC1 variance, median, largest fit rows")["value"] == pytest.approx(evr.median())
    drops = {"full ablation": "full", "rank-1": "rank1", "sparse text": "text",
             "significant effects only": "insignificant"}  # fmt: skip
    ablations = Artifact(study / "neuron_ablation").table("ablations").query("metric == 'accuracy'")
    for name, condition in drops.items():
        found = row(whole, f"accuracy drop, {name}")
        source_row = ablations[ablations["condition"] == condition].iloc[0]
        assert found["value"] == pytest.approx(-source_row["change"])
        assert found["ci_low"] == pytest.approx(-source_row["ci_high"])
    assert row(whole, "neurons that tell right from wrong")["value"] == 1
    assert row(whole, "best neuron's AUROC on test")["ci_low"] == 0.65


def test_a_kept_mass_by_row_gives_the_concentration_an_interval(study):
    source = Artifact(study / "second_order")
    rng = np.random.default_rng(0)
    mass = np.array([0.2, 5, 5, 0.2])[:, None] * rng.gamma(20.0, size=(4, 40)) / 20
    np.save(source.path / "mass_rows.npy", mass)
    layers = source.table("layers")
    whole = layers["mass"].copy()
    layers["mass"] = mass.mean(1)
    layers.to_parquet(source.path / "layers.parquet")
    try:
        found = row(run(study, "massive", ("second_order",)), "layer concentration")
    finally:
        (source.path / "mass_rows.npy").unlink()
        layers.assign(mass=whole).to_parquet(source.path / "layers.parquet")
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert found["verdict"] == "pass"


def test_what_is_not_there_is_said_to_be_missing(bare):
    metrics = bare.table("metrics").set_index("metric")
    for metric in ("sparsity, half of the effect", "sparsity, what accuracy needs", "accuracy drop, rank-1",
                   "accuracy drop, sparse text", "accuracy drop, significant effects only"):  # fmt: skip
        assert metrics.loc[metric, "verdict"] == "not measured", metric
        assert "needs" in metrics.loc[metric, "note"]
    section = make_section(bare, {}, strict=True)
    assert sum("was not measured" in s.text for s in section.sentences("warning")) == 5
    assert bare.table("heat").empty
    assert bare.table("cases").empty, "no generations, no texts"
    assert len(bare.table("strong")) == 6


def test_the_planted_neuron_differs_between_right_and_wrong_rows(study, whole):
    source = Artifact(study / "second_order")
    neurons, rows = source.table("neurons"), source.table("rows")
    strong = whole.table("strong")
    assert len(strong) == 6
    assert strong["second"].is_monotonic_decreasing
    told = strong[strong["neuron"] == neurons.loc[RIGHT, "neuron"]].iloc[0]
    assert told["q"] <= 0.05
    assert told["difference_low"] > 0.5
    test = np.flatnonzero(rows["split"] == "test")
    x = np.array(source.array(f"scores_layer{told['layer']}"))[0, :, told["neuron"]]
    label = rows["label"].to_numpy()
    assert told["right"] == pytest.approx(x[test][label[test]].mean(), abs=1e-6)
    assert told["wrong"] == pytest.approx(x[test][~label[test]].mean(), abs=1e-6)
    others = strong[strong["neuron"] != told["neuron"]]
    assert (others["q"] > 0.05).all()
    assert told["phrases"] == f"phrase 0 of {RIGHT} (+0.50), phrase 1 of {RIGHT} (-0.50)"


def test_cases_are_the_largest_texts_and_their_tokens_sum_to_the_score(study, whole):
    source, generations = Artifact(study / "second_order"), Artifact(study / "generate").table("generations")
    cases, heat, rows = whole.table("cases"), whole.table("heat"), source.table("rows")
    assert set(cases["kind"]) == {"top", "right", "wrong"}
    assert (cases["label"][cases["kind"] == "right"]).all()
    assert not (cases["label"][cases["kind"] == "wrong"]).any()
    model, shown = tiny_model("llama"), np.flatnonzero(rows["split"] != "test")
    for case in cases.to_dict("records"):
        scores = np.array(source.array(f"scores_layer{case['layer']}"))[0, :, case["neuron"]]
        index = int(np.flatnonzero(rows["row"] == case["row"])[0])
        assert index in shown
        if case["kind"] == "top":
            assert abs(case["score"]) == np.abs(scores[shown]).max()
        said = generations[generations["row"] == case["row"]].iloc[0]
        assert (case["prompt"], case["target"], case["answer"]) == (said["prompt"], said["target"], said["answer"])
        own = heat[heat["case"] == case["case"]]
        ids = [int(i) for i in said["token_ids"]][: int(rows.loc[index, "read_at"]) + 1]
        assert own["token"].tolist() == model.token_strings(ids)
        if case["layer"] == 2:  # layer 1's scores were changed by hand above, its token scores were not
            assert own["value"].sum() == pytest.approx(case["score"], abs=1e-4)


def test_the_row_that_went_far_out_is_first_among_errors(study, whole):
    source = Artifact(study / "second_order")
    rows, errors = source.table("rows"), whole.table("errors")
    far = np.flatnonzero((rows["split"] == "tune") & ~rows["label"])[0]
    first = errors.iloc[0]
    assert first["row"] == rows.loc[far, "row"]
    n = source.table("neurons").loc[2]
    assert first["name"] == f"layer {n['layer']}, neuron {n['neuron']}"
    assert first["p"] == pytest.approx(1 / (1 + first["n"]))
    labels = rows.set_index("row")["label"]
    assert not labels.loc[errors["row"].tolist()].any()
    assert (rows.set_index("row")["split"].loc[errors["row"].tolist()] != "test").all()
    found = row(whole, "wrong rows lie farther out")
    assert found["ci_low"] > 0.9, "the planted neuron puts every wrong row outside"


@pytest.mark.parametrize("which", ["whole", "bare"])
def test_the_section_of_the_report_is_made_whole(which, request):
    section = make_section(request.getfixturevalue(which), {}, strict=True)
    headlines = [s.text for s in section.sentences("headline")]
    assert all("goal" in h and "{" not in h for h in headlines)
    assert len(headlines) == (6 if which == "whole" else 1)
    assert section.sentences("limit")
    assert any(v.kind == "heat" for v in section.views) == (which == "whole")


def test_a_reconstruction_of_nothing_is_warned_of(study, whole):
    """Where full ablation loses nothing sure, a kept accuracy is called no evidence; where it does, nothing is said."""
    said = [s.text for s in make_section(whole, {}, strict=True).sentences("warning")]
    assert not any("Full mean ablation itself" in s for s in said)
    source = Artifact(study / "neuron_ablation")
    before = source.table("ablations")
    full = (before["condition"] == "full") & (before["metric"] == "accuracy")
    table = before.copy()
    table.loc[full, ["change", "ci_low", "ci_high"]] = [-0.01, -0.05, 0.03]
    table.to_parquet(source.path / "ablations.parquet")
    try:
        vacuous = run(study, "vacuous")
    finally:
        before.to_parquet(source.path / "ablations.parquet")
    said = [s.text for s in make_section(vacuous, {}, strict=True).sentences("warning")]
    assert sum("Full mean ablation itself lowers accuracy by 1.0% [-3.0%, 5.0%]" in s for s in said) == 1


def test_it_runs_again_to_the_same_bytes_and_options_count(study, whole):
    assert data_files(run(study, "again")) == data_files(whole)
    other = run(study, "fewer", cases=2, errors=1, strongest_by="rank", sparsity=0.9)
    assert len(other.table("strong")) == 2
    assert other.table("errors")["row"].nunique() == 1
    assert row(other, "sparsity, half of the effect")["verdict"] == "pass"
    none = run(study, "none", cases=0, errors=0)
    assert none.table("strong").empty
    make_section(none, {}, strict=True)


def test_mistakes_are_named(study):
    thin = Planning(causal_study.spec(), 0, {"generations": Cost(splits={"fit": 5})})
    with pytest.raises(UserError, match="split 'test'"):
        Metrics().check(thin)
