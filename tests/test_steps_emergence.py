"""emergence: the step on planted studies, end to end: tables, ledger, report section and refusals."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gnomon.errors import UserError
from gnomon.methods.emergence_blocks import _lead
from gnomon.model_spec import _FACTS
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning
from gnomon.steps.emergence import Emergence
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests import synthetic
from tests.confidence_study import Sure, make, rows, save_pass
from tests.stepping import data_files, sentences

QUICK = {"permutations": 19, "draws": 200}
APART = Sure(n=200, layers=6, d=8, says=0, mood=1, layer_knows=1, layer_states=4, knows=4, strength=3)


def emerged(study: Path, artifacts: dict[str, Artifact], name: str = "emergence", **options) -> Artifact:
    step = Emergence(**(QUICK | options))
    ctx, writer = Context(study, ModelSpec("none"), seed=0), Writer(study, name, name)
    base = artifacts["generate"]
    passes = [a for a in artifacts.values() if a.name != "generate"]
    step.run(Inputs({"generations": [base], "activations": [base], "confidence": passes}), writer, ctx)
    meta = {"step": "emergence", "name": name, "options": step.model_dump(mode="json"), "ledger": ctx.ledger}
    return writer.commit(meta)


section = partial(sentences, Emergence)


def cell(artifact: Artifact, target: str, quantity: str) -> pd.Series:
    table = artifact.table("emergence")
    return table[(table["target"] == target) & (table["quantity"] == quantity)].iloc[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, dict[str, Artifact]]:
    """Base activations hold correctness from layer 1 on, and stated confidence, which is unrelated, from layer 4 on."""
    path = tmp_path_factory.mktemp("apart")
    return path, make(path, APART)


@pytest.fixture(scope="module")
def planted(study) -> Artifact:
    return emerged(*study)


def test_the_planted_layers_are_found(planted):
    assert cell(planted, "self", "emergence")["value"] == 4
    correct = cell(planted, "correct", "emergence")
    assert correct["ci_low"] <= 1 <= correct["ci_high"] < 4
    for name in ("entropy", "margin"):
        assert not cell(planted, name, "peak")["rises"]
        assert pd.isna(cell(planted, name, "emergence")["value"])
    assert cell(planted, "self", "first site")["p"] > 0.05
    curves = planted.table("curves").query("target == 'self' and control == ''").set_index("layer")
    assert curves.loc[4, "of_peak"] >= 0.9
    assert curves.loc[3, "of_peak"] < 0.5
    shuffled = planted.table("curves").query("target == 'self' and control == 'shuffled'")
    assert shuffled["value"].abs().max() < 0.1


def test_the_lag_says_which_leads(planted):
    lags = planted.table("lags")
    main = lags[lags["main"]].iloc[0]
    assert (main["a"], main["b"], main["leads"]) == ("self", "correct", "correct")
    assert main["ci_low"] > 0
    assert main["value"] == cell(planted, "self", "emergence")["value"] - cell(planted, "correct", "emergence")["value"]
    assert main["control"] < main["value"]
    assert len(lags) == 10
    said = section(planted)["headline"]
    assert said[0].startswith("self (confidence stated in self) emerges at layer 4")
    assert said[1].startswith("correct (correctness of the answer) emerges at layer")
    assert "So correct leads: it can be read before self." in said[2]
    assert any("what is there where the curve begins" in t for t in section(planted)["control"])


def test_few_groups_are_cross_validated_and_the_ledger_says_so(planted):
    assert [line["why"] for line in planted.meta["ledger"]] == ["emergence: all rows are cross-validated, few groups"]
    assert cell(planted, "self", "peak")["n"] == 200
    assert any("Rows of all splits are cross-validated" in t for t in section(planted)["method"])


def test_with_many_groups_test_confirms_and_has_no_part_in_the_curves(study, tmp_path):
    path, artifacts = study
    first = emerged(path, artifacts, "held", nested_below=0, targets=["correct", "self"])
    assert [line["why"] for line in first.meta["ledger"]] == ["emergence: the probes of the layers of emergence"]
    test = cell(first, "self", "test")
    assert test["ci_low"] > 0.5
    assert abs(test["control"]) < 0.2
    assert test["p"] <= 0.05
    assert test["n"] + cell(first, "self", "peak")["n"] == 200
    assert any("On test rows the probe of that layer comes to" in t for t in section(first)["headline"])

    table, told = rows(APART)
    late = table["split"] == "test"
    table.loc[late, "label"] = [not y for y in table.loc[late, "label"]]
    told["self"][late] = told["self"][late][::-1]
    base = artifacts["generate"]
    acts = {(str(s), p): base.activations(s, p).at(table["row"].to_numpy()) for s, p in base.sites()}
    other = synthetic.save(tmp_path, table, acts)
    passed = save_pass(tmp_path, table, told["self"], APART, "self", "self")
    again = emerged(tmp_path, {"generate": other, "self": passed}, nested_below=0, targets=["correct", "self"])
    pd.testing.assert_frame_equal(first.table("curves"), again.table("curves"))
    pd.testing.assert_frame_equal(first.table("lags"), again.table("lags"))
    assert cell(again, "self", "test")["value"] < test["value"]


def test_a_pass_is_read_at_its_own_positions(study):
    """The pass's own activations hold its confidence from layer 2 on; named by what it asks, whatever its step."""
    path, artifacts = study
    found = emerged(path, artifacts, "own", of="self", targets=["self", "correct"], sites="resid_post.1-3")
    assert cell(found, "self", "emergence")["value"] == 2
    assert not cell(found, "correct", "peak")["rises"]
    headlines = section(found)["headline"]
    assert any(
        h.startswith("correct (correctness of the answer) is read at no layer beyond its shuffles") for h in headlines
    )
    assert any("neither leads" in h for h in headlines)
    assert found.table("facts").set_index("fact").loc["of", "text"] == "self"


def test_rows_without_a_stated_confidence_are_left_out_of_that_target_alone(tmp_path):
    artifacts = make(tmp_path, Sure(n=150, layers=3, d=8, missing=0.3))
    found = emerged(tmp_path, artifacts, targets=["correct", "self"], classes="logistic", permutations=19)
    stated = len(artifacts["self"].table("confidence"))
    assert stated < 150
    assert cell(found, "self", "peak")["n"] == stated
    assert cell(found, "correct", "peak")["n"] == 150
    inside = emerged(tmp_path, artifacts, "inside", of="self", targets=["correct"])
    assert cell(inside, "correct", "peak")["n"] == stated
    assert any(f"{150 - stated} rows have no activations" in t for t in section(inside)["limit"])


def test_what_has_emerged_at_the_first_site_is_a_warning(tmp_path):
    artifacts = make(tmp_path, Sure(n=150, layers=3, d=8, layer_knows=0, knows=4))
    found = emerged(tmp_path, artifacts, targets=["correct"], share=0.7)
    assert any("correct has emerged at resid_post.0 already" in t for t in section(found)["warning"])


def test_the_same_inputs_give_the_same_bytes(study, planted):
    assert data_files(emerged(*study, "again")) == data_files(planted)


def test_the_embedding_comes_before_layer_0(tmp_path):
    table, _ = rows(Sure(n=60))
    rng = np.random.default_rng(0)
    acts = {(s, "last_prompt"): rng.normal(size=(60, 3)).astype(np.float32) for s in ("resid_post.0", "embed")}
    acts["embed", "last_prompt"][:, 0] += 9 * table["difficulty"].to_numpy()
    source = synthetic.save(tmp_path, table, acts)
    found = emerged(tmp_path, {"generate": source}, targets=["difficulty"])
    assert cell(found, "difficulty", "first site")["site"] == "embed"
    assert cell(found, "difficulty", "emergence")["value"] == -1
    said = section(found)
    assert "difficulty (difficulty of the item) emerges at the embedding, layer -1 [" in said["headline"][0]
    assert "what the token at that position gives away by itself" in said["control"][0]


# ---------------------------------------------------------------- refusals


def plan(*sites: str, **passes: tuple[str, ...]) -> Planning:
    costs = {"generations": Cost(rows=10)} | ({"activations": Cost(sites=sites)} if sites else {})
    costs |= {name: Cost(sites=there) for name, there in passes.items()}
    return Planning(ModelSpec("none"), 0, costs, {name: {"ask": name} for name in passes})


def test_what_cannot_work_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(_FACTS, ModelSpec("none"), {"n_layers": 2})
    here = ("resid_post.0@last_prompt", "resid_post.1@last_prompt")
    Emergence().check(plan(*here))
    Emergence(of="self", targets=["self", "correct"]).check(plan(self=here))
    for options, planned, match in (
        ({"position": "all"}, plan(*here), "many tokens a row"),
        ({"position": "lst"}, plan(*here), "did you mean 'last"),
        ({"position": "answer"}, plan(*here), "position answer"),
        ({"sites": "mlp_out.*"}, plan(*here), r"at mlp_out\.\*"),
        ({"sites": ["resid_post.0", "mlp_out.0"]}, plan(*here, "mlp_out.0@last_prompt"), "several components"),
        ({"sites": "resid_post.1"}, plan("resid_post.0@last_prompt"), r"resid_post\.1"),
        ({"targets": ["corect"]}, plan(*here), "did you mean 'correct'"),
        ({"targets": ["self"]}, plan(*here), "unknown target 'self'"),
        ({"targets": ["generations"]}, plan(*here), "unknown target 'generations'"),
        ({"targets": ["margin", "margin"]}, plan(*here), "name one thing twice"),
        ({"of": "self"}, plan(*here), "confidence pass 'self'"),
        ({"of": "self"}, plan(*here, self=()), "keeps no activations"),
        ({}, plan(), "no step captures activations"),
    ):
        with pytest.raises(UserError, match=match):
            Emergence(**options).check(planned)


def test_a_pass_that_several_steps_ask_for_is_named_by_its_step(monkeypatch):
    monkeypatch.setitem(_FACTS, ModelSpec("none"), {"n_layers": 2})
    here = ("resid_post.0@last_prompt",)
    costs = {"activations": Cost(sites=here), "mine": Cost(sites=here), "again": Cost(sites=here)}
    planned = Planning(ModelSpec("none"), 0, costs, {"mine": {"ask": "self"}, "again": {"ask": "self"}})
    Emergence(targets=["mine", "again"], of="again").check(planned)
    for options in ({"targets": ["self"]}, {"of": "self"}):
        with pytest.raises(UserError, match="several confidence passes ask for 'self': mine, again"):
            Emergence(**options).check(planned)
    planned = Planning(ModelSpec("none"), 0, costs, {"mine": {"ask": "self"}})
    with pytest.raises(UserError, match="targets name one thing twice"):
        Emergence(targets=["mine", "self"]).check(planned)


def planted_on(path: Path, labels: list[bool], **changes) -> dict[str, Artifact]:
    """A base generation of these answers, which its activations hold; `changes` are columns of the table."""
    table = rows(Sure(n=len(labels)))[0].assign(label=labels, **changes)
    x = np.random.default_rng(0).normal(size=(len(table), 4)).astype(np.float32)
    x[:, 0] += 4 * np.array(labels)
    return {"generate": synthetic.save(path, table, {("resid_post.0", "last_prompt"): x})}


@pytest.mark.filterwarnings("error")
def test_an_embedding_of_one_token_is_no_site_to_read(tmp_path):
    """Every prompt ends in the same token: a score of 0 with an interval, and no warnings of numpy's."""
    found = planted_on(tmp_path, [i % 2 == 0 for i in range(100)])
    table = found["generate"].table("generations")
    acts = {("embed", "last_prompt"): np.ones((100, 4), dtype=np.float32)}
    x = found["generate"].activations("resid_post.0@last_prompt").at(table["row"].to_numpy())
    x[:, 1] += 5 * table["difficulty"].to_numpy()
    again = synthetic.save(tmp_path / "again", table, acts | {("resid_post.0", "last_prompt"): x})
    made = emerged(tmp_path / "again", {"generate": again}, targets=["difficulty", "correct"])
    for name, chance in (("difficulty", 0.0), ("correct", 0.5)):
        assert cell(made, name, "first site")[["value", "ci_low", "ci_high"]].tolist() == [chance] * 3
        assert cell(made, name, "emergence")["value"] == 0


def test_rows_of_few_questions_are_no_rows(tmp_path):
    """120 answers to 5 questions, of which each is answered in one way: folds of one class, and no AUROC."""
    which = np.arange(120) % 5
    found = planted_on(tmp_path, [bool(v) for v in which > 1], group=[f"q{v}" for v in which], split="fit")
    with pytest.raises(UserError, match="correct: 2 questions of one class"):
        emerged(tmp_path, found, targets=["correct"])
    with pytest.raises(UserError, match="difficulty: 5 questions"):
        emerged(tmp_path, found, "difficulty", targets=["difficulty"])


def test_a_thin_class_has_no_interval_and_no_lead(tmp_path):
    found = planted_on(tmp_path, [i % 9 == 0 for i in range(150)])
    made = emerged(tmp_path, found, targets=["correct"])
    said = section(made)
    assert "emerges at layer 0 (no interval: too few rows of a class)" in said["headline"][0]
    assert any("17 correct rows in split 'all'" in t for t in said["warning"])
    lag = {"a": "self", "b": "correct", "leads": "undecided", "ci_low": np.nan}
    text = _lead(lag)
    assert "without an interval" in text.text
    assert "p" not in text.refs


def test_test_rows_that_cannot_confirm_are_said(tmp_path):
    labels = [i % 2 == 0 for i in range(150)]
    split = np.array(["fit", "tune", "test"] * 50)
    one = [bool(y or s == "test") for y, s in zip(labels, split, strict=True)]
    made = emerged(tmp_path, planted_on(tmp_path, one, split=split), targets=["correct"], nested_below=0)
    assert "Test rows hold one value of it or none, and confirm nothing." in section(made)["headline"][0]
    none = planted_on(tmp_path / "none", labels, split="fit")
    with pytest.raises(UserError, match="no rows in split 'test'"):
        emerged(tmp_path / "none", none, targets=["correct"], nested_below=0)


def test_nothing_to_read_and_one_thing_twice_are_refused(study, tmp_path):
    path, artifacts = study
    with pytest.raises(UserError, match="name one thing twice"):
        emerged(path, artifacts, "twice", targets=["difficulty", "difficulty"])
    table, _ = rows(APART)
    table["label"] = table["row"] < 4
    acts = {("resid_post.0", "last_prompt"): np.zeros((len(table), 2), dtype=np.float32)}
    with pytest.raises(UserError, match="nothing to read: correct: 4 questions of one class"):
        emerged(tmp_path, {"generate": synthetic.save(tmp_path, table, acts)}, targets=["correct"])


def test_every_option_is_described():
    for name, field in Emergence.model_fields.items():
        assert field.description, name
