"""confidence_directions: laws of debiased cosines, and the step on planted passes: found, not found, refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.methods.contrast import Contrast, cosine_rows, cuts, plain_cosine, product, sides
from gnomon.methods.contrast_held import Options, Parts, Values, choose, held_rows, parts_of
from gnomon.report.resolve import check as unresolved
from gnomon.report.resolve import render_text
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning
from gnomon.steps.confidence_directions import ConfidenceDirections
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests import synthetic
from tests.confidence_study import Sure, make, rows, save_pass

QUICK = {"shuffles": 99, "random": 19, "draws": 200, "nested_below": 0, "given": ("difficulty",)}

# ---------------------------------------------------------------- high and low


def test_high_and_low_are_the_ends_of_the_training_rows():
    values = np.arange(10.0)
    cut = cuts(values, 0.3)
    assert cut is not None
    assert sides(values, cut).tolist()[:3] == [0, 0, 0]
    assert sides(values, cut).tolist()[-3:] == [1, 1, 1]
    assert np.isnan(sides(values, cut)[3:7]).all()
    assert np.isnan(sides(np.array([np.nan]), cut)).all()


def test_a_value_that_most_rows_share_is_neither_high_nor_low():
    values = np.array([0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9])
    cut = cuts(values, 0.3)
    assert cut is not None
    assert np.nansum(sides(values, cut)) == 1
    assert np.isnan(sides(values, cut)).sum() == 8
    assert cuts(np.full(10, 0.5), 0.3) is None


# ---------------------------------------------------------------- cosines of directions


def planted(seed: int, n: int = 150, d: int = 80, size: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations, high or low confidence, right or wrong; both follow a knowledge that dimension 0 holds."""
    rng = np.random.default_rng(seed)
    knowledge, x = rng.normal(size=n), rng.normal(size=(n, d))
    x[:, 0] += size * knowledge
    confidence = knowledge + 0.5 * rng.normal(size=n)
    cut = cuts(confidence, 0.3)
    assert cut is not None
    return x, sides(confidence, cut), (knowledge + rng.normal(size=n) > 0).astype(float)


def test_products_are_means_over_pairs_of_other_groups():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(12, 5)), rng.normal(size=(12, 5))
    y, u = np.array([1, 0, np.nan] * 4), np.array([0, 1, 1, 0] * 3)
    which = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    counts = np.array([2.0, 1, 0, 1, 3, 1])

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        pairs = [(i, j) for i in np.flatnonzero(a) for j in np.flatnonzero(b) if which[i] != which[j]]
        w = [counts[which[i]] * counts[which[j]] for i, j in pairs]
        return float(np.average([x[i] @ z[j] for i, j in pairs], weights=w))

    wanted = mean(y == 1, u == 1) - mean(y == 1, u == 0) - mean(y == 0, u == 1) + mean(y == 0, u == 0)
    p, q = Contrast.of(x, y, which, 6), Contrast.of(z, u, which, 6)
    assert product(p, q, counts[None])[0] == pytest.approx(wanted, rel=1e-9)


def test_noise_has_no_cosine_though_labels_go_together():
    plain, p = [], []
    for seed in range(40):
        x, high, right = planted(seed, size=0)
        row = cosine_rows((x, high), (x, right), np.arange(150), 50, 99, seed)[0]
        plain.append(row["plain"])
        p.append(row["p"])
    assert np.mean(plain) > 0.35  # what the usual cosine says of pure noise
    assert sum(v <= 0.05 for v in p) <= 6
    assert 0.35 < np.mean(p) < 0.65


def test_one_direction_under_noise_has_cosine_one():
    rows = []
    for seed in range(20):
        x, high, right = planted(seed)
        rows.append(cosine_rows((x, high), (x, right), np.arange(150), 100, 99, seed)[0])
    assert np.mean([r["plain"] for r in rows]) < 0.8
    assert np.nanmean([r["value"] for r in rows]) > 0.9
    assert sum(r["ci_high"] >= 0.999 for r in rows) >= 16
    assert sum(r["p"] <= 0.05 for r in rows) >= 16


def test_two_directions_have_their_angle_and_its_interval_covers():
    hits, values = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(200, 30))
        y, u = (rng.random(200) < 0.5).astype(float), (rng.random(200) < 0.5).astype(float)
        x[:, 0] += 1.5 * y
        x[:, :2] += 1.5 * np.array([0.6, 0.8]) * u[:, None]
        row = cosine_rows((x, y), (x, u), np.arange(200), 200, 99, seed)[0]
        values.append(row["value"])
        hits += row["ci_low"] <= 0.6 <= row["ci_high"]
    assert np.mean(values) == pytest.approx(0.6, abs=0.06)
    assert hits >= 33
    assert plain_cosine(np.zeros(3), np.ones(3)) != plain_cosine(np.zeros(3), np.ones(3))  # NaN


def test_a_class_without_rows_has_no_direction():
    x, high, _ = planted(0)
    row = cosine_rows((x, high), (x, np.ones(150)), np.arange(150), 50, 99)[0]
    assert np.isnan(row["value"])
    assert "class without rows" in row["note"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(cosine_rows((x, high), (x, np.full(150, np.nan)), np.arange(150), 50, 99)[0]["p"])
    with pytest.raises(UserError, match="activations"):
        cosine_rows((x, high), (x[:, :5], high), np.arange(150))


# ---------------------------------------------------------------- held out


def values_of(n: int = 200, seed: int = 0, size: float = 1.5) -> tuple[Values, dict[tuple[str, str], np.ndarray]]:
    rng = np.random.default_rng(seed)
    told = rng.normal(size=n)
    acts = {(f"resid_post.{layer}", "last"): rng.normal(size=(n, 12)) for layer in range(3)}
    acts["resid_post.1", "last"][:, 4] += size * told
    split = np.array(["fit", "fit", "tune", "test", "test"] * (n // 5))
    right = (told + rng.normal(size=n) > 0).astype(float)
    return Values(told, right, np.arange(n).astype(str), split, {"noise": rng.normal(size=n)}), acts


@pytest.mark.parametrize("nested_below", [0, 1000])
def test_the_place_is_found_in_every_part(nested_below):
    of, acts = values_of()
    options = Options(99, 19, 200, nested_below=nested_below)
    parts = parts_of(of.groups, of.split, options)
    assert parts.split == ("cv" if nested_below else "test")
    rows = held_rows(of, lambda c: acts[c], list(acts), parts, {}, options, None, {})
    own = {r["target"]: r for r in rows if (r["predictor"], r["control"]) == ("difference", "")
           and r["metric"] in ("auroc", "spearman")}  # fmt: skip
    assert {r["site"] for r in rows} == {"resid_post.1"}
    assert own["high"]["value"] > 0.9
    assert own["value"]["value"] > 0.6
    assert own["correct"]["ci_low"] > 0.5
    if nested_below:
        assert own["value"]["n"] == 200
        assert "5 folds" in own["high"]["note"]


def test_rows_of_the_test_split_choose_nothing():
    of, acts = values_of()
    options = Options(99, 19, 200, nested_below=0)
    train = np.flatnonzero(of.split == "fit")
    before = choose(of, lambda c: acts[c], list(acts), train, options)
    changed = {k: np.where((of.split == "test")[:, None], 1e3, v) for k, v in acts.items()}
    after = choose(of, lambda c: changed[c], list(acts), train, options)
    assert before.candidate == after.candidate
    np.testing.assert_array_equal(before.own, after.own)


def test_a_row_is_scored_by_directions_that_did_not_see_it():
    rng = np.random.default_rng(0)
    of, _ = values_of(100)
    x = rng.normal(size=(100, 400))  # more dimensions than rows: a direction tells its own rows apart perfectly
    found = choose(of, lambda c: x, [("resid_post.0", "last")], np.arange(100), Options(99, 19, 200))
    assert found.auroc < 0.75


def test_no_signal_is_found_where_none_is():
    found = 0
    for seed in range(6):
        of, acts = values_of(80, seed, size=0)
        options = Options(99, 19, 200, nested_below=0)
        parts = Parts("test", ((np.flatnonzero(of.split != "test"), np.flatnonzero(of.split == "test")),))
        rows = held_rows(of, lambda c, acts=acts: acts[c], list(acts), parts, {}, options, None, {})
        own = next(r for r in rows if (r["target"], r["metric"], r["control"]) == ("value", "spearman", "")
                   and r["predictor"] == "difference")  # fmt: skip
        found += own["p"] <= 0.05
    assert found <= 2


def test_a_test_split_without_rows_is_refused():
    of, _ = values_of(50)
    with pytest.raises(UserError, match="no rows in split 'test'"):
        parts_of(of.groups, np.full(50, "fit"), Options(nested_below=0))


# ---------------------------------------------------------------- the step


def run(study: Path, found: dict[str, Artifact], name: str = "directions", **options) -> Artifact:
    step = ConfidenceDirections(**(QUICK | options))
    ctx, writer = Context(study, ModelSpec("none"), seed=0), Writer(study, name, name)
    passes = [a for a in found.values() if "confidence" in a.meta["writes"]]
    kinds = {"generations": [found["generate"]], "activations": [found["generate"]], "confidence": passes}
    step.run(Inputs(kinds), writer, ctx)
    meta = {"step": step.name, "name": name, "options": step.model_dump(mode="json"), "ledger": ctx.ledger}
    return writer.commit(meta | {"writes": list(step.writes)})


def said(artifact: Artifact) -> list[str]:
    blocks = ConfidenceDirections(**artifact.options).summary(artifact)
    assert unresolved(blocks, artifact) == []
    return [render_text(b, artifact) for b in blocks if isinstance(b, Text)]


def one(artifact: Artifact, table: str, **where) -> pd.Series:
    rows = artifact.table(table)
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, (where, len(rows))
    return rows.iloc[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, dict[str, Artifact]]:
    folder = tmp_path_factory.mktemp("sure")
    return folder, make(folder, Sure(n=320, layers=3, layer_says=2))


@pytest.fixture(scope="module")
def made(study) -> Artifact:
    return run(*study)


def test_planted_directions_are_found_at_both_places(made):
    facts = made.table("facts").set_index("fact")["text"]
    assert facts["holds at answer"] == facts["holds at confidence"] == "yes"
    assert facts["site at confidence"] == "resid_post.2"  # the first layer that holds what is said
    assert facts["site at answer"] in ("resid_post.1", "resid_post.2")  # knowledge, from layer 1 on
    where = {"target": "high", "predictor": "difference", "metric": "auroc"}
    for place in ("answer", "confidence"):
        assert one(made, "scores", place=place, control="", **where)["ci_low"] > 0.75
        assert one(made, "scores", place=place, control="shuffled", **where)["ci_high"] < 0.8
    curve = made.table("sweep").query("place == 'confidence' and control == ''").set_index("layer")["value"]
    assert curve[2] > 0.9 > 0.7 > curve[0]


def test_the_direction_knows_more_than_difficulty_and_output_confidence(made):
    assert made.table("facts").set_index("fact")["text"]["beyond at answer"] == "yes"
    gain = one(made, "scores", place="answer", target="correct", predictor="increment", metric="partial")
    assert gain["ci_low"] > 0.2


def test_cosines_say_what_is_shared(made):
    pairs = made.table("cosines").query("layer == 2 and control == ''").set_index("pair")
    assert pairs.loc["confidence and correctness, at the answer", "value"] > 0.9  # both are knowledge there
    apart = pairs.loc["confidence at the answer and at the confidence position"]
    assert apart["ci_low"] < 0.1  # dimension 0 there, dimension 1 here
    assert apart["ci_high"] < 0.6


def test_directions_can_be_steered_and_are_of_fit_rows(made, study):
    directions = {d.name: d for d in made.directions()}
    assert len(directions) == 4
    own = directions[next(n for n in directions if n.startswith("confidence") and n.endswith("of self"))]
    assert abs(own.unit[1]) > 0.9
    assert own.meta["position"] == "last_prompt"
    assert own.meta["generation"] == own.meta["of"] == "self"
    first = made.directions()[0]
    assert (first.meta["place"], first.meta["position"], first.meta["split"]) == ("answer", "answer", "fit")
    assert abs(first.unit[0]) > 0.9
    many = run(*study, name="many", save="all").directions()
    assert len(many) == 8
    np.testing.assert_array_equal(many[0].vector, first.vector)


def test_test_rows_are_in_the_ledger_and_every_reference_resolves(made):
    assert [e["split"] for e in made.meta["ledger"]] == ["test", "test"]
    texts = said(made)
    assert any("tells high from low stated confidence" in t and "can be read there" in t for t in texts)
    assert any("knows more about being right" in t for t in texts)


def test_few_groups_are_cross_validated_and_say_so(tmp_path):
    made = run(tmp_path, make(tmp_path, Sure(n=120, layers=1, layer_says=0)), nested_below=500, folds=3)
    assert set(made.table("scores")["split"]) == {"cv"}
    assert any("nested cross-validation" in t for t in said(made))


def test_a_direction_that_is_not_there_is_not_found(tmp_path):
    found = make(tmp_path, Sure(n=240, layers=2, layer_knows=9, layer_says=9, seed=3))
    made = run(tmp_path, found)
    facts = made.table("facts").set_index("fact")["text"]
    assert "yes" not in {facts["holds at answer"], facts["holds at confidence"], facts["beyond at answer"]}
    assert any("was not found there" in t for t in said(made))


def test_confidence_that_never_moves_is_said_and_nothing_is_made(tmp_path):
    found = make(tmp_path, Sure(n=120, layers=2, says=0.0, mood=0.0))
    made = run(tmp_path, found)
    assert made.directions() == []
    assert any("nearly all rows" in t for t in said(made))
    one_line = run(tmp_path, make(tmp_path / "few", Sure(n=24, layers=2)), name="few")
    assert any("are needed" in t for t in said(one_line))


def test_a_fold_whose_rows_nearly_all_say_the_same_makes_nothing(tmp_path):
    """Half of the fit rows say more than the least, and no other row does: too few of the folds' training rows."""
    s = Sure(n=100, layers=1)
    table, _ = rows(s)
    more = np.asarray(table["split"] == "fit") & (np.arange(100) % 2 == 0)
    confidence = np.where(more, np.linspace(0.5, 0.9, 100), 0.1)
    found = {"generate": make(tmp_path, s)["generate"]}
    found["self"] = save_pass(tmp_path, table, confidence, s, "self", "told")
    made = run(tmp_path, found, nested_below=500)
    assert made.directions() == []
    assert any("nearly all rows" in t for t in said(made))


def test_the_embedding_has_a_layer_of_its_own(tmp_path):
    s = Sure(n=150, layers=1)
    table, told = rows(s)
    rng = np.random.default_rng(0)
    acts = {(site, "last"): rng.normal(size=(150, 16)).astype(np.float32) for site in ("embed", "resid_post.0")}
    found = {"generate": synthetic.save(tmp_path, table, acts)}
    found["self"] = save_pass(tmp_path, table, told["self"], s, "self", "self")
    made = run(tmp_path, found, folds=3)
    for name in ("sweep", "cosines"):
        layers = made.table(name)[["site", "layer"]].drop_duplicates().set_index("site")["layer"]
        assert layers.to_dict() == {"embed": -1, "resid_post.0": 0}


def test_one_place_alone_will_do(study):
    folder, found = study
    step = ConfidenceDirections(**QUICK)
    writer = Writer(folder, "alone", "alone")
    inputs = Inputs({"generations": [found["generate"]], "confidence": [found["self"]]})
    step.run(inputs, writer, Context(folder, ModelSpec("none")))
    made = writer.commit({"step": step.name, "name": "alone", "options": step.model_dump(mode="json"), "writes": []})
    assert set(made.table("scores")["place"]) == {"confidence"}
    assert said(made)


def test_rows_that_a_pass_has_no_line_for_are_counted(tmp_path):
    found = make(tmp_path, Sure(n=240, layers=2, missing=0.2))
    made = run(tmp_path, found, of="other", share=0.4)
    facts = made.table("facts").set_index("fact")
    lost = 240 - len(found["other"].table("confidence"))
    assert lost > 20
    assert facts.loc["unasked", "value"] == lost
    assert facts.loc["rows", "value"] == 240 - lost
    assert facts.loc["of", "text"] == "other"


class FourLayers(ModelSpec):
    """A model of which only the number of layers is asked."""

    def facts(self) -> dict[str, int]:
        return {"n_layers": 4}


def planning(**sites: tuple[str, ...]) -> Planning:
    asks = {"self": {"ask": "self"}, "mine": {"ask": "other"}, "theirs": {"ask": "other"}}
    inputs = {"activations": Cost(sites=sites.get("base", ())), "confidence": Cost(),
              **{n: Cost(sites=sites.get(n, ())) for n in asks}}  # fmt: skip
    return Planning(FourLayers("none"), 0, inputs, asks | {"confidence": asks["self"]})


def test_what_cannot_work_is_refused_before_any_work():
    good = planning(base=("resid_post.0@last", "resid_post.1@all"), self=("resid_post.1@last_prompt",))
    ConfidenceDirections().check(good)
    ConfidenceDirections(of="mine", sites="resid_post.0").check(good)  # type: ignore[arg-type]
    for options, match in (
        ({"of": "p_true"}, "confidence pass"),
        ({"of": "other"}, "several confidence passes"),
        ({"position": "answer"}, "no activations at position 'answer'"),
        ({"sites": "resid_post.9"}, "layer 9"),
        ({"sites": "mlp_out.0"}, "site among those captured"),
    ):
        with pytest.raises(UserError, match=match):
            ConfidenceDirections(**options).check(good)
    with pytest.raises(UserError, match="neither of the answers nor of the pass"):
        ConfidenceDirections().check(planning(base=("resid_post.1@all",), self=("resid_post.1@last",)))
