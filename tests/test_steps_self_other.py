"""self_other: two planted passes whose confidence is one direction, or two; what they state; refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon import stats
from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.methods.contrast_held import Options, parts_of
from gnomon.methods.similarity_pairs import Pass, partial, stated_rows, tells
from gnomon.report.resolve import check as unresolved
from gnomon.report.resolve import render_text
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning
from gnomon.steps.self_other import SelfOther
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.confidence_study import Sure, make
from tests.confidence_study import rows as planted_rows

QUICK = {"shuffles": 99, "draws": 200, "nested_below": 0, "given": ("difficulty",)}


def run(study: Path, found: dict[str, Artifact], name: str = "self_other", **options: Any) -> Artifact:
    step = SelfOther(**(QUICK | options))
    ctx, writer = Context(study, ModelSpec("none"), seed=0), Writer(study, name, name)
    passes = [a for a in found.values() if "confidence" in a.meta["writes"]]
    step.run(Inputs({"generations": [found["generate"]], "confidence": passes}), writer, ctx)
    meta = {"step": step.name, "name": name, "options": step.model_dump(mode="json"), "ledger": ctx.ledger}
    return writer.commit(meta | {"writes": list(step.writes)})


def said(artifact: Artifact) -> str:
    blocks = SelfOther(**artifact.options).summary(artifact)
    assert unresolved(blocks, artifact) == []
    return " ".join(render_text(b, artifact) for b in blocks if isinstance(b, Text))


def one(artifact: Artifact, table: str, **where: Any) -> pd.Series:
    rows = artifact.table(table)
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, (where, len(rows))
    return rows.iloc[0]


def fact(artifact: Artifact, name: str) -> Any:
    row = one(artifact, "facts", fact=name)
    return row["text"] if row["text"] else row["value"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> tuple[Path, dict[str, Artifact], Artifact]:
    """Both passes hold their confidence in dimension 1, from layer 1 of 3 on."""
    folder = tmp_path_factory.mktemp("shared")
    found = make(folder, Sure(n=240, layers=3, layer_says=1))
    return folder, found, run(folder, found)


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Artifact:
    """The passes hold it in dimensions of their own."""
    folder = tmp_path_factory.mktemp("apart")
    return run(folder, make(folder, Sure(n=240, layers=2, layer_says=1, same=False)))


# ---------------------------------------------------------------- shared or apart


def test_one_direction_of_both_is_found_to_be_one(shared):
    made = shared[2]
    cosine = one(made, "cosines", chosen=True, control="")
    assert cosine["value"] > 0.9
    assert cosine["p"] <= 0.02
    held = {"split": "test", "metric": "spearman"}
    for probe, read in (("self", "other"), ("other", "self")):
        across = one(made, "transfer", probe=probe, read=read, control="", **held)
        assert across["ci_low"] > 0.5
        assert across["p"] == pytest.approx(0.02)
        loss = one(made, "transfer", probe=probe, read=read, split="test", metric="loss")
        assert abs(loss["value"]) < 0.1
        assert loss["ci_low"] <= 0.05
    assert fact(made, "carries") == "both"
    assert "shared directions" in said(made)


def test_two_directions_are_told_apart(apart):
    cosine = one(apart, "cosines", chosen=True, control="")
    assert cosine["ci_low"] < 0.15
    assert cosine["ci_high"] < 0.5
    own = one(apart, "transfer", probe="self", read="self", split="test", control="", metric="spearman")
    assert own["ci_low"] > 0.6  # a probe of its own is found all the same
    assert fact(apart, "carries") == "none"
    loss = one(apart, "transfer", probe="self", read="other", split="test", metric="loss")
    assert loss["ci_low"] > 0.3
    assert "neither probe" in said(apart)


def test_likeness_is_of_the_layers_that_hold_it(shared):
    table = shared[2].table("similarity").query("measure == 'cka' and control == '' and split == 'fit+tune'")
    by_layer = table.set_index("layer")
    assert by_layer.loc[0, "p"] > 0.05
    assert by_layer.loc[1, "ci_low"] > by_layer.loc[0, "value"]
    assert by_layer.loc[1, "p"] == pytest.approx(0.01)
    assert fact(shared[2], "site") in ("resid_post.1", "resid_post.2")
    late = one(shared[2], "similarity", split="test", measure="cka", control="")
    assert late["chosen"]
    assert late["n"] < 120


def test_the_curve_is_of_fit_and_tune_and_test_is_in_the_ledger(shared):
    _, found, made = shared
    assert [e["split"] for e in made.meta["ledger"]] == ["test"]
    kept = found["generate"].table("generations")
    curve = made.table("transfer").query("split == 'fit+tune'")
    assert set(curve["n"]) == {int((kept["split"] != "test").sum())}
    assert len(curve) == 12  # three layers, two probes, each read twice


def test_few_groups_are_cross_validated_and_say_so(shared):
    folder, found, _ = shared
    made = run(folder, found, name="nested", nested_below=500, sites="resid_post.1", folds=3)
    assert set(made.table("transfer")["split"]) == {"fit+tune", "cv"}
    assert set(one(made, "transfer", probe="self", read="other", split="cv", metric="loss")[["n"]]) == {240}
    assert one(made, "similarity", split="all", measure="cka", control="")["n"] == 240
    assert "nested cross-validation" in said(made)


# ---------------------------------------------------------------- what is stated


def test_stated_differences_are_those_of_the_passes(shared):
    _, found, made = shared
    table = found["generate"].table("generations")
    test = np.asarray(table["split"] == "test")
    a, b = (found[n].table("confidence")["confidence"].to_numpy()[test] for n in ("self", "other"))
    right = np.array([bool(v) for v in table["label"]])[test]
    assert one(made, "stated", predictor="self - other", metric="mean")["value"] == pytest.approx(np.mean(a - b))
    for name, score in (("self", a), ("other", b), ("self - other", a - b)):
        row = one(made, "stated", predictor=name, metric="auroc", control="")
        assert row["value"] == pytest.approx(float(stats.auroc(score, right)))
        assert row["split"] == "test"
    better = one(made, "stated", predictor="self over other", metric="auroc")
    assert better["value"] == pytest.approx(float(stats.auroc(a, right) - stats.auroc(b, right)))
    assert better["ci_low"] < better["value"] < better["ci_high"]


def passes(seed: int, gap: float) -> tuple[Pass, Pass, np.ndarray, np.ndarray]:
    """Self says what other says, and `gap` of being right beyond it."""
    rng = np.random.default_rng(seed)
    right, told = (rng.random(160) < 0.5).astype(float), rng.normal(size=160)
    told_of_self = told + gap * right + rng.normal(size=160)

    def read(site: str) -> np.ndarray:
        return np.zeros((160, 2))

    return Pass("self", told_of_self, read), Pass("other", told, read), right, rng.normal(size=160)


@pytest.mark.parametrize(("gap", "wanted"), [(2.0, "yes"), (0.0, "not yes")])
def test_a_difference_that_knows_is_told_from_one_that_does_not(gap, wanted):
    found = []
    for seed in range(3):
        a, b, right, noise = passes(seed, gap)
        options = Options(99, 19, 200, nested_below=1000)
        parts = parts_of(np.arange(160), np.full(160, "fit"), options)
        found.append(tells(stated_rows(a, b, right, np.arange(160), parts, {"noise": noise}, options)))
    assert found == ["yes"] * 3 if wanted == "yes" else "yes" not in found


def test_passes_that_state_the_same_have_no_difference_to_judge():
    a, _, right, noise = passes(0, 1.0)
    options = Options(99, 19, 200, nested_below=1000)
    parts = parts_of(np.arange(160), np.full(160, "fit"), options)
    found = stated_rows(a, Pass("other", a.told, a.read), right, np.arange(160), parts, {"noise": noise}, options)
    assert "increment" not in {r["predictor"] for r in found}
    assert tells(found) == "undecided"


def test_answers_of_one_class_give_no_auroc():
    a, b, _, noise = passes(0, 1.0)
    options = Options(99, 19, 200, nested_below=1000)
    parts = parts_of(np.arange(160), np.full(160, "fit"), options)
    rows = stated_rows(a, b, np.ones(160), np.arange(160), parts, {"noise": noise}, options)
    assert {r["metric"] for r in rows} == {"mean", "spearman"}


def test_partial_rank_correlation_is_that_of_the_residuals():
    rng = np.random.default_rng(0)
    given, folds = rng.normal(size=4000), np.zeros(4000)
    score, target = given + rng.normal(size=4000), given + rng.normal(size=4000)
    once = np.ones((1, 4000))
    assert abs(partial(score, target, given, once, folds)[0]) < 0.05
    assert float(stats.spearman(score, target)) > 0.4
    assert partial(target, target + 0.1 * rng.normal(size=4000), given, once, folds)[0] > 0.9


# ---------------------------------------------------------------- nothing there, few rows, refusals


def test_confidence_that_never_moves_leaves_similarity(tmp_path):
    found = make(tmp_path, Sure(n=120, layers=2, says=0.0, mood=0.0))
    made = run(tmp_path, found)
    assert made.table("transfer").empty
    assert len(made.table("similarity")) == 24
    text = said(made)
    assert "nearly all rows" in text
    assert "debiased CKA" in text


def test_rows_that_one_pass_lacks_are_left_out_and_counted(tmp_path):
    s = Sure(n=240, layers=1, missing=0.2, layer_says=0)
    found = make(tmp_path, s)
    made = run(tmp_path, found, most=60)
    both = set(found["self"].table("confidence")["row"]) & set(found["other"].table("confidence")["row"])
    assert fact(made, "rows") == len(both) < 200
    assert fact(made, "unasked") == 240 - len(both)
    assert made.table("similarity")["n"].max() == 60  # most
    planted = planted_rows(s)[1]
    assert one(made, "stated", predictor="self", metric="mean")["value"] == pytest.approx(
        planted["self"][sorted(both & _test_rows(found))].mean()
    )


def _test_rows(found: dict[str, Artifact]) -> set[int]:
    table = found["generate"].table("generations")
    return set(table.loc[np.asarray(table["split"] == "test"), "row"])


def test_too_few_questions_are_refused(tmp_path):
    with pytest.raises(UserError, match="6 questions"):
        run(tmp_path, make(tmp_path, Sure(n=6, layers=1)))


class FourLayers(ModelSpec):
    """A model of which only the number of layers is asked."""

    def facts(self) -> dict[str, Any]:
        return {"n_layers": 4}


def test_what_cannot_work_is_refused_before_any_work():
    asks = {
        "self": {"ask": "self"},
        "other": {"ask": "other"},
        "bare": {"ask": "p_true"},
        "late": {"ask": "verbalised"},
    }
    two = ("resid_post.0@last_prompt", "resid_post.1@last_prompt", "resid_post.1@all")
    sites = {"self": two, "other": two, "bare": (), "late": ("resid_post.3@last_prompt",)}
    plan = Planning(FourLayers("none"), 0, {n: Cost(sites=s) for n, s in sites.items()}, asks)
    SelfOther().check(plan)
    for options, match in (
        ({"b": "self"}, "with itself"),
        ({"b": "consistency"}, "confidence pass"),
        ({"b": "p_true"}, "pass bare has no activations"),
        ({"b": "late"}, "no site in common"),
        ({"position": "last"}, "no activations at position 'last'"),
        ({"sites": "resid_post.7"}, "layer 7"),
        ({"sites": "resid_post.2"}, "both passes captured"),
    ):
        with pytest.raises(UserError, match=match):
            SelfOther(**options).check(plan)
