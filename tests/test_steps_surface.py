"""surface: the step on planted studies, end to end: blocks, increments, ledger, report section and refusals."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gnomon.errors import UserError
from gnomon.model_spec import _FACTS
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning
from gnomon.steps.surface import Surface
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests import synthetic
from tests.confidence_study import Sure, make, rows
from tests.stepping import data_files, sentences

QUICK = {"permutations": 19, "draws": 200, "nested_below": 0, "folds": 3}


def explained(
    study: Path, artifacts: dict[str, Artifact], name: str = "surface", captured: bool = True, **options
) -> Artifact:
    step = Surface(**(QUICK | options))
    ctx, writer = Context(study, ModelSpec("none"), seed=0), Writer(study, name, name)
    base = artifacts["generate"]
    passes = [a for a in artifacts.values() if a.name != "generate"]
    kinds = {"generations": [base], "confidence": passes} | ({"activations": [base]} if captured else {})
    step.run(Inputs(kinds), writer, ctx)
    meta = {"step": "surface", "name": name, "options": step.model_dump(mode="json"), "ledger": ctx.ledger}
    return writer.commit(meta)


section = partial(sentences, Surface)


def cell(artifact: Artifact, target: str, block: str, kind: str, metric: str = "r2") -> pd.Series:
    table = artifact.table("explained")
    for column, value in {"target": target, "block": block, "kind": kind, "metric": metric}.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture(scope="module")
def knowing(tmp_path_factory) -> tuple[Path, dict[str, Artifact]]:
    """Confidence follows knowledge that the activations hold, and nothing outside."""
    path = tmp_path_factory.mktemp("knowing")
    return path, make(path, Sure(n=240, layers=3, d=8))


@pytest.fixture(scope="module")
def planted(knowing) -> Artifact:
    return explained(*knowing, targets=["correct", "self"])


def test_knowledge_inside_is_beyond_the_outside(planted):
    inside = cell(planted, "self", "internal", "adds")
    assert inside["ci_low"] > 0.3
    assert inside["verdict"] == "beyond"
    assert abs(inside["control"]) < 0.05
    assert inside["p"] == pytest.approx(0.05)
    assert cell(planted, "self", "surface", "adds")["ci_high"] < 0.05
    assert cell(planted, "correct", "internal", "adds", "deviance")["ci_low"] > 0
    assert cell(planted, "correct", "internal", "adds", "auroc")["ci_low"] > 0
    assert cell(planted, "self", "internal", "partial", "partial")["ci_low"] > 0.5
    assert set(planted.table("sites")["site"]) <= {"resid_post.1", "resid_post.2"}
    names = planted.table("features").set_index("feature")["block"]
    assert names["words"] == "surface"
    assert names["difficulty"] == "difficulty"
    assert names["max_prob"] == "output"


def test_the_report_says_what_was_found(planted):
    said = section(planted)
    assert any(t.startswith("self (confidence stated in self): surface features explain") for t in said["headline"])
    beyond = [t for t in said["headline"] if t.startswith("Beyond surface features, item difficulty and the output's")]
    assert len(beyond) == 2
    assert all("So the activations hold something of it that these explanations do not." in t for t in beyond)
    assert "in AUROC" in beyond[0]
    assert "in AUROC" not in beyond[1]
    assert any("Rule, fixed beforehand." in t for t in said["method"])


def test_confidence_in_how_a_question_looks_is_found_outside(tmp_path):
    """Stated confidence follows the number of words alone, which no activation holds."""
    artifacts = make(tmp_path, Sure(n=240, layers=2, d=8, says=0, mood=0.3, looks=1.0))
    found = explained(tmp_path, artifacts, targets=["self"])
    looks = cell(found, "self", "surface", "adds")
    assert looks["ci_low"] > 0.6
    assert looks["p"] == pytest.approx(0.05)
    assert cell(found, "self", "internal", "adds")["verdict"] != "beyond"
    assert not any("hold something" in t for t in section(found)["headline"])


def test_test_rows_are_read_once_and_not_chosen_on(knowing, planted, tmp_path):
    assert [line["why"] for line in planted.meta["ledger"]] == ["surface: regressions of fit and tune, scored"]
    artifacts = knowing[1]
    base = artifacts["generate"]
    table, _ = rows(Sure(n=240, layers=3, d=8))
    late = table["split"] == "test"
    table.loc[late, "label"] = [not y for y in table.loc[late, "label"]]
    acts = {(str(s), p): base.activations(s, p).at(table["row"].to_numpy()) for s, p in base.sites()}
    other = synthetic.save(tmp_path, table, acts)
    again = explained(tmp_path, {"generate": other}, targets=["correct"])
    before = planted.table("sites").query("target == 'correct'").reset_index(drop=True)
    pd.testing.assert_frame_equal(again.table("sites"), before)
    assert cell(again, "correct", "internal", "alone", "deviance")["value"] < 0


def test_few_groups_are_cross_validated(tmp_path):
    artifacts = make(tmp_path, Sure(n=120, groups=60, layers=2, d=6, missing=0.2))
    found = explained(tmp_path, artifacts, targets=["self"], order=("output", "internal"), nested_below=500)
    asked = artifacts["self"].table("confidence")
    inside = cell(found, "self", "internal", "adds")
    assert (inside["split"], inside["n"]) == ("cv", len(asked))
    assert inside["groups"] == asked["group"].nunique()
    assert len(found.table("sites")) == 3
    assert [line["why"] for line in found.meta["ledger"]] == ["surface: all rows are cross-validated, few groups"]
    assert any("nested cross-validation" in t for t in section(found)["method"])
    inner = explained(tmp_path, artifacts, "inner", of="other", order=("internal",), targets=["correct"])
    assert inner.table("facts").set_index("fact").loc["unread", "value"] == 120 - len(
        artifacts["other"].table("confidence")
    )


def test_without_activations_the_outside_is_still_told(knowing):
    path, artifacts = knowing
    found = explained(
        path, artifacts, "outside", False, targets=["entropy"], order=("difficulty", "output"), permutations=19
    )
    table = found.table("explained")
    assert list(dict.fromkeys(table["block"])) == ["difficulty", "output"]
    assert (table["verdict"] == "").all()
    assert "entropy" not in set(found.table("features")["feature"])
    assert cell(found, "entropy", "output", "adds")["ci_low"] > 0.3
    assert len(found.table("sites")) == 0
    assert section(found)["headline"]


def test_a_thin_class_gets_no_interval_and_a_warning(tmp_path):
    table, _ = rows(Sure(n=150))
    table["label"] = np.arange(150) % 7 == 0
    acts = {("resid_post.0", "last_prompt"): np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)}
    found = explained(tmp_path, {"generate": synthetic.save(tmp_path, table, acts)}, targets=["correct"])
    inside = cell(found, "correct", "internal", "adds", "deviance")
    assert np.isnan(inside["ci_low"])
    assert inside["verdict"] == "undecided"
    assert any("are needed for an interval" in t for t in section(found)["warning"])


def test_the_same_inputs_give_the_same_bytes(knowing):
    path, artifacts = knowing
    few = {"targets": ["self"], "order": ("output", "internal")}
    one, two = (explained(path, artifacts, name, **few) for name in ("one", "two"))
    assert data_files(one) == data_files(two)


# ---------------------------------------------------------------- refusals


def plan(*sites: str, **passes: tuple[str, ...]) -> Planning:
    costs = {"generations": Cost(rows=10)} | ({"activations": Cost(sites=sites)} if sites else {})
    costs |= {name: Cost(sites=there) for name, there in passes.items()}
    return Planning(ModelSpec("none"), 0, costs, {name: {"ask": name} for name in passes})


def test_what_cannot_work_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(_FACTS, ModelSpec("none"), {"n_layers": 2})
    here = ("resid_post.0@last_prompt", "resid_post.1@last_prompt")
    Surface().check(plan(*here))
    Surface(order=("surface", "output")).check(plan())
    Surface(of="self", targets=["self"]).check(plan(self=here))
    for options, planned, match in (
        ({"order": ("surface", "surface")}, plan(*here), "names a block twice"),
        ({"positions": "response"}, plan(*here), "many tokens a row"),
        ({"positions": ["last_prompt", "last"]}, plan(*here), "position last"),
        ({"targets": ["slef"]}, plan(*here, self=here), "did you mean 'self'"),
        ({"of": "other"}, plan(*here, self=here), "confidence pass 'other'"),
        ({"targets": ["activations"]}, plan(*here), "unknown target 'activations'"),
        ({}, plan(), "no step captures activations"),
    ):
        with pytest.raises(UserError, match=match):
            Surface(**options).check(planned)


def test_nothing_to_explain_is_refused(tmp_path):
    table, _ = rows(Sure(n=60))
    table["label"] = True
    acts = {("resid_post.0", "last_prompt"): np.ones((60, 2), dtype=np.float32)}
    with pytest.raises(UserError, match="nothing to explain: correct: the same everywhere"):
        explained(tmp_path, {"generate": synthetic.save(tmp_path, table, acts)}, targets=["correct"])


def test_rows_of_few_questions_explain_nothing(tmp_path):
    """A bootstrap of four questions has no width: 120 rows of them are refused, not called nothing."""
    table, _ = rows(Sure(n=120, groups=4))
    acts = {("resid_post.0", "last_prompt"): np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)}
    found = {"generate": synthetic.save(tmp_path, table, acts)}
    for nested, why in ((500, "margin: 4 questions$"), (0, "margin: [123] questions in fit and tune")):
        with pytest.raises(UserError, match=why.replace("$", ";")):
            explained(tmp_path, found, str(nested), targets=["margin"], nested_below=nested)
    table["group"], table["split"] = [f"q{i}" for i in range(120)], ["fit"] * 119 + ["test"]
    late = {"generate": synthetic.save(tmp_path / "late", table, acts)}
    with pytest.raises(UserError, match="margin: 1 questions in test"):
        explained(tmp_path / "late", late, targets=["margin"])


def test_controls_cannot_be_turned_down_below_the_rules():
    for option in ({"permutations": 18}, {"draws": 100}, {"folds": 2}):
        with pytest.raises(ValueError, match="greater than or equal"):
            Surface(**option)


def test_every_option_is_described():
    for name, field in Surface.model_fields.items():
        assert field.description, name
