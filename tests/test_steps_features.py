"""Step features on a tiny model: what is planted is found, shuffled labels are not; tables, pages, report, export."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon.dictionaries.base import SparseDictionary
from gnomon.errors import UserError
from gnomon.exports import export_study
from gnomon.lens import feature_sources
from gnomon.lens.feature_reading import captured, general_texts, general_tokens
from gnomon.methods import feature_tables as tables
from gnomon.methods.feature_blocks import _headline
from gnomon.methods.feature_latents import active_counts, encode
from gnomon.methods.feature_links import neuronpedia_id, page
from gnomon.methods.probe_tables import SCORES
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps.features import Features
from gnomon.store import Artifact
from tests.features_study import LATENTS, OTHER, PLANTED, SITE, D, dictionary, generation, labels, spec
from tests.stepping import data_files, made
from tests.tiny import tiny_model

OPTIONS: dict[str, Any] = {
    "dictionary": {SITE: "a", OTHER: "b"}, "permutations": 49, "random": 19, "draws": 200, "general_tokens": 400,
    "general_limit": 0.4, "nested_below": 0, "top": 2, "keep": 40, "pages": 3, "examples": 2, "probes": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def made_dictionaries(monkeypatch):
    monkeypatch.setattr(feature_sources, "load_dictionary", lambda source, site: dictionary(site or SITE))


def run(
    folder: Path, rows: Artifact, name: str = "", more: dict[str, list[Artifact]] | None = None, **options
) -> Artifact:
    inputs = {"generations": [rows], "activations": [rows]} | (more or {})
    return made(Features(**(OPTIONS | options)), folder, spec(), name, inputs)


@functools.cache
def study() -> tuple[Path, Artifact, Artifact]:
    folder = Path(tempfile.mkdtemp())
    rows = generation(folder, labels(240))
    return folder, rows, run(folder, rows, probes=True)


def again(name: str, **options) -> Artifact:
    folder, rows, _ = study()
    return run(folder, rows, name, **options)


def family(artifact: Artifact) -> dict[str, float]:
    table = artifact.table("family")
    return dict(zip(table["what"], table["value"], strict=True))


def test_the_planted_latent_is_found_confirmed_and_saved():
    _, _, artifact = study()
    first = artifact.table("selected").iloc[0]
    assert (first["predictor"], first["site"], first["feature"]) == ("correct 1", SITE, PLANTED)
    assert first["discovered"]
    assert first["confirmed"]
    assert first["separation_low"] > 0.15
    assert first["auroc_low"] > 0.6
    assert first["f1_always"] == pytest.approx(2 * first["n_pos"] / (first["n"] + first["n_pos"]))
    direction = artifact.directions()[0]
    assert (direction.kind, direction.name, str(direction.site)) == ("feature", f"feature {PLANTED} {SITE}", SITE)
    np.testing.assert_allclose(direction.vector, dictionary(SITE).decoder[PLANTED])
    assert direction.meta["predicts"] == "correct"
    assert direction.meta["position"] == "last_prompt"
    assert direction.meta["selected_on"] == "fit"
    assert direction.meta["dictionary"] == "a"
    assert direction.meta["latent"] == PLANTED
    assert direction.meta["threshold"] == pytest.approx(first["threshold"])
    assert len(artifact.directions()) == len(artifact.table("selected"))
    assert [e["why"].split(":")[0] for e in artifact.meta["ledger"]] == ["features"]


def test_shuffled_labels_find_nothing(tmp_path):
    y = labels(240)
    rows = generation(tmp_path, y)
    table = rows.table("generations")
    table["label"] = np.random.default_rng(5).permutation(table["label"].to_numpy())
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gnomon.rows.table import SCHEMA

    pq.write_table(
        pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False), rows.path / "generations" / "00000.parquet"
    )
    artifact = run(tmp_path, rows)
    assert not artifact.table("selected")["confirmed"].any()
    assert family(artifact)["discovered"] <= 1
    scores = artifact.table("scores")
    gain = scores[(scores["predictor"] == "increment") & (scores["metric"] == "auroc")]
    assert (gain["ci_low"] < 0.02).all()
    facts = artifact.table("facts").set_index("fact")["text"]
    assert "pass" not in (facts["verdict correct"], facts["verdict incorrect"])


def test_tables_have_what_was_promised():
    _, rows, artifact = study()
    for name, schema in (
        ("features", tables.FEATURES), ("selected", tables.SELECTED), ("predictions", tables.PREDICTIONS),
        ("family", tables.FAMILY), ("by_difficulty", tables.BY_DIFFICULTY), ("top_rows", tables.TOP_ROWS),
        ("tops", tables.TOPS), ("logits", tables.LOGITS), ("histogram", tables.HISTOGRAM), ("rates", tables.RATES),
        ("scores", SCORES),
    ):  # fmt: skip
        assert list(artifact.table(name).columns) == schema.names, name
        assert len(artifact.table(name)), name
    selected, predictions = artifact.table("selected"), artifact.table("predictions")
    assert sorted(selected["predictor"]) == ["correct 1", "correct 2", "incorrect 1", "incorrect 2"]
    assert len(predictions) == 240 * len(selected)
    x = rows.activations(SITE, "last_prompt")
    z = encode(dictionary(SITE), x.at(np.arange(240)))[:, PLANTED]
    mine = predictions[predictions["predictor"] == "correct 1"].sort_values("row")
    np.testing.assert_allclose(mine["score"], z, atol=1e-5)
    assert (mine["fires"] == (mine["score"] > mine["threshold"])).all()
    test = mine[mine["split"] == "test"]
    y = rows.table("generations").set_index("row")["label"].astype(bool).loc[test["row"]].to_numpy()
    first = selected.iloc[0]
    assert first["f_correct"] == pytest.approx((test["score"].to_numpy() > 0)[y].mean())
    assert first["separation"] == pytest.approx(first["f_correct"] - first["f_incorrect"])
    said = test["fires"].to_numpy()
    assert first["f1"] == pytest.approx(2 * (said & y).sum() / (said.sum() + y.sum()))
    features = artifact.table("features")
    assert set(features["split"]) == {"fit", "test"}
    assert features.loc[features["split"] == "fit", "ci_low"].isna().all()
    assert features.loc[features["split"] == "test", "ci_low"].notna().all()
    scores = artifact.table("scores")
    assert {"feature", "increment", "baselines", "difference", "logistic", "feature minus logistic", "prevalence",
            "max_prob", "difficulty", "entropy", "margin"} <= set(scores["predictor"])  # fmt: skip
    assert set(scores["target"]) == {"correct", "incorrect"}
    bins = artifact.table("by_difficulty")
    assert set(bins["predictor"]) == {"feature", "difference", "logistic"}
    part = bins[(bins["predictor"] == "feature") & (bins["target"] == "correct")]
    assert part["n"].sum() == 96


def test_the_report_holds_together():
    _, _, artifact = study()
    step = Features(**OPTIONS)
    blocks = step.summary(artifact)
    assert check(blocks, artifact) == []
    headlines = " ".join(b.text for b in blocks if getattr(b, "kind", "") == "headline")
    assert "always answering" in headlines
    assert "shuffled labels" in headlines
    section = make_section(artifact, {"name": artifact.name, "step": "features"}, strict=True)
    assert section is not None
    nested = again("nested", nested_below=500, pages=0, folds=3)
    assert check(step.summary(nested), nested) == []
    assert nested.table("tops").empty
    scores = nested.table("scores")
    assert set(scores.loc[scores["selected"], "split"]) == {"cv"}
    assert len(nested.meta["ledger"]) == 2


def test_pages_show_the_rows_as_the_model_runs_them():
    _, rows, artifact = study()
    top, tokens, model = artifact.table("top_rows"), artifact.table("tops"), tiny_model("llama")
    table = rows.table("generations").set_index("row")
    assert set(top["split"]) <= {"fit", "tune"}
    assert top.groupby("predictor")["activation"].apply(lambda a: a.is_monotonic_decreasing).all()
    for case in top.to_dict("records")[:3]:
        part = tokens[tokens["case"] == case["case"]].sort_values("position")
        ids = [int(t) for t in table.loc[case["row"], "token_ids"]]
        x = captured(model, [ids], [case["site"]], 1)[case["site"]][0]
        np.testing.assert_allclose(
            part["activation"], encode(dictionary(case["site"]), x)[:, case["feature"]], atol=1e-4
        )
        assert part["token"].tolist() == model.token_strings(ids)
        assert case["largest"] == pytest.approx(part["activation"].max())
    logits = artifact.table("logits")
    first = logits[(logits["feature"] == PLANTED) & (logits["site"] == SITE)]
    u = dictionary(SITE).decoder[PLANTED] * model.norm("ln_final").gain.numpy()
    effects = u @ model.unembed.numpy()
    np.testing.assert_allclose(first["effect"], effects[first["id"]], atol=1e-4)
    assert first.loc[first["side"] == "top", "id"].iloc[0] == effects.argmax()
    bars = artifact.table("histogram")
    mine = bars[(bars["feature"] == PLANTED) & (bars["site"] == SITE)]
    assert mine.loc[mine["kind"] == "logit", "count"].sum() == model.d_vocab
    shown = artifact.table("predictions").query("predictor == 'correct 1' and split != 'test' and score > 0")
    assert mine.loc[mine["kind"] != "logit", "count"].sum() == len(shown)


def test_general_language_is_set_aside():
    _, _, artifact = study()
    model = tiny_model("llama")
    tokens = general_tokens(model, general_texts("neutral", "text", "train"), 400)
    assert sum(map(len, tokens)) == 400
    counts, n = active_counts(dictionary(SITE), captured(model, tokens, [SITE], 4)[SITE])
    first = artifact.table("selected").iloc[0]
    assert first["general_rate"] == pytest.approx(counts[PLANTED] / n)
    assert family(artifact)["general tokens"] == n
    everything = again("strict", general_limit=float(counts[PLANTED] / n) - 1e-6, pages=0)
    assert family(everything)["set aside: general language"] > family(artifact)["set aside: general language"]
    assert (SITE, PLANTED) not in set(
        zip(everything.table("features")["site"], everything.table("features")["feature"], strict=True)
    )
    without = again("without", general_text=None, pages=0)
    assert family(without)["set aside: general language"] == 0
    assert without.table("selected")["general_rate"].isna().all()


def test_general_text_from_a_file(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("One paragraph\nof two lines.\n\nAnother.\n")
    assert general_texts(str(file), "text", "train") == ["One paragraph\nof two lines.", "Another."]
    with pytest.raises(UserError, match="no general text at"):
        general_texts(str(tmp_path / "none.txt"), "text", "train")


def test_the_same_bytes_twice_and_another_file_another_identity(tmp_path):
    _, _, artifact = study()
    assert data_files(again("twice", probes=True)) == data_files(artifact)
    weights = tmp_path / "sae.safetensors"
    weights.write_bytes(b"one")
    before = Features(dictionary=str(weights)).identity()
    weights.write_bytes(b"two")
    assert Features(dictionary=str(weights)).identity() != before


def test_samples_of_a_question_count_as_one_and_a_pass_rate_is_a_target(tmp_path):
    rng = np.random.default_rng(6)
    rate = np.repeat(rng.choice([0.1, 0.5, 0.9], size=120), 3)
    rows = generation(tmp_path, rng.random(360) < rate, samples=3)
    artifact = run(tmp_path, rows, "rates", target="pass_rate", pages=1)
    first = artifact.table("selected").iloc[0]
    assert (first["site"], first["feature"]) == (SITE, PLANTED)
    assert first["n"] == 48  # prompts, not samples
    scores = artifact.table("scores")
    assert set(scores["target"]) == {"pass_rate", "fail_rate"}
    assert "spearman" in set(scores["metric"])
    assert len(artifact.table("predictions")) == 360 * len(artifact.table("selected"))
    assert check(Features(**OPTIONS).summary(artifact), artifact) == []
    plain = run(tmp_path, rows, "rows", pages=0)
    same = plain.table("selected").iloc[0]
    assert same["n"] == 144
    assert same["f_correct"] == pytest.approx(first["f_correct"])  # equal samples: rows or rates, one share
    wide = (same["separation_high"] - same["separation_low"]) / (first["separation_high"] - first["separation_low"])
    assert 0.8 < wide < 1.25  # three samples of a question are no three questions


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_positions_with_many_tokens(tmp_path, pool):
    rows = generation(tmp_path, labels(160), position="response")
    artifact = run(tmp_path, rows, position="response", pool=pool, pages=0)
    first = artifact.table("selected").iloc[0]
    assert (first["site"], first["feature"]) == (SITE, PLANTED)


def test_two_pass_rates_are_rates_and_no_classes(tmp_path):
    rng = np.random.default_rng(6)
    rows = generation(tmp_path, np.tile([True, False, False], 120) | np.repeat(rng.random(120) < 0.5, 3), samples=3)
    labels_ = rows.table("generations").groupby("group")["label"].mean()
    assert len(set(labels_)) == 2
    artifact = run(tmp_path, rows, target="pass_rate", pages=0)
    assert set(artifact.table("scores")["metric"]) >= {"spearman"}
    facts = artifact.table("facts").set_index("fact")["value"]
    assert facts["share"] == pytest.approx(labels_.mean())


def test_what_stands_beside_a_latent_is_named_as_it_is(tmp_path, monkeypatch):
    given = again("given", baselines="prompt_len", pages=0)
    said = " ".join(s.text for s in section(given) if "cheap explanations" in s.text)
    assert "(prompt_len)" in said
    assert "difficulty" not in said
    monkeypatch.setattr(feature_sources, "load_dictionary", lambda source, site: dictionary(SITE, n=1))
    alone = again("alone", dictionary="a", general_text=None, pages=0)
    scores = alone.table("scores")
    random = scores[scores["control"] == "random"]
    assert len(random)
    assert random["value"].isna().all()  # one latent: there is no other one
    assert set(random["note"]) == {"no other latent of the site to draw from"}
    way = alone.table("selected")["predicts"].iloc[0]
    untested = alone.table("scores").assign(selected=False)
    texts = [b.text for b in _headline(untested, alone.table("selected"), way, "", False, way)]
    assert "lead on fit, but" in texts[0]


def section(artifact: Artifact) -> list[Any]:
    made_section = make_section(artifact, {"name": artifact.name, "step": "features"}, strict=True)
    assert made_section is not None
    return made_section.sentences("headline")


def planning(sites: tuple[str, ...]) -> Planning:
    return Planning(spec(), 0, {"activations": Cost(sites=sites), "generations": Cost(rows=100)})


def test_bad_input_is_told_before_and_at_work(tmp_path, monkeypatch):
    step = Features(**OPTIONS)
    step.check(planning((f"{SITE}@last_prompt", f"{OTHER}@last_prompt")))
    with pytest.raises(UserError, match="no activations at"):
        step.check(planning((f"{SITE}@last_prompt",)))
    with pytest.raises(UserError, match="no dictionary"):
        Features().check(planning((f"{SITE}@last_prompt",)))
    with pytest.raises(UserError, match="position last"):
        Features(dictionary="x", position="last").check(planning((f"{SITE}@last_prompt",)))
    with pytest.raises(UserError, match="pass_rate"):
        Features(dictionary="x", position="last", target="pass_rate").check(planning(("resid_post.1@last",)))
    bare = Planning(spec(), 0, {"activations": Cost(sites=(f"{SITE}@last_prompt",)),
                                "generations": Cost(rows=100, splits={"fit": 60, "tune": 40, "test": 0})})  # fmt: skip
    with pytest.raises(UserError, match="needs rows in split 'test'"):
        Features(dictionary="x").check(bare)
    rows = study()[1]

    def given(make) -> None:
        monkeypatch.setattr(feature_sources, "load_dictionary", make)

    given(lambda source, site: dictionary(site, d=D + 1))
    with pytest.raises(UserError, match=f"width {D + 1}"):
        run(tmp_path, rows, "width")
    given(lambda source, site: dictionary("resid_post.3"))
    with pytest.raises(UserError, match=r"is of resid_post\.3"):
        run(tmp_path, rows, "layer")
    with pytest.raises(UserError, match=r"no activations at resid_post\.3"):
        run(tmp_path, rows, "site", dictionary="x")
    given(lambda source, site: silent(site))
    with pytest.raises(UserError, match="no latent is left"):
        run(tmp_path, rows, "silent")


def silent(site: str) -> SparseDictionary:
    from gnomon.dictionaries.base import canonical

    rows = np.eye(LATENTS, D) + 0.1
    return canonical(site, rows.T, np.full(LATENTS, -1e6), rows, np.zeros(D))


def test_dictionaries_of_an_earlier_step(tmp_path, monkeypatch):
    rows = study()[1]
    monkeypatch.setattr(feature_sources, "dictionaries_of", lambda artifact: {SITE: dictionary(SITE)})
    artifact = run(tmp_path, rows, "trained", {"dictionary": [rows]}, dictionary=None, pages=0)
    assert set(artifact.table("selected")["dictionary"]) == {rows.name}
    assert family(artifact)["sites"] == 1


def test_links_to_neuronpedia():
    for said, wanted in (
        ("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "gemma-2-2b/20-gemmascope-res-16k"),
        ("gemma-scope-9b-it-res/layer_31/width_131k/average_l0_63", "gemma-2-9b-it/31-gemmascope-res-131k"),
        ("fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x", "llama3.1-8b/15-llamascope-res-32k"),
        ("Llama3_1-8B-Base-L7M-32x", "llama3.1-8b/7-llamascope-mlp-131k"), ("mine/sae", ""),
    ):  # fmt: skip
        assert neuronpedia_id({}, said) == wanted
    assert neuronpedia_id({"neuronpedia_id": "gpt2-small/6-res-jb"}, "x") == "gpt2-small/6-res-jb"
    assert neuronpedia_id({"neuronpedia_id": "javascript:alert(1)"}, "x") == ""
    assert page("gpt2-small/6-res-jb", 7) == "https://www.neuronpedia.org/gpt2-small/6-res-jb/7"


def test_the_export_is_neuronpedias_json(tmp_path):
    artifact = run(tmp_path / "study", generation(tmp_path / "study", labels(160)), pages=6)
    assert export_study(tmp_path / "study", "neuronpedia", tmp_path / "out").left_out == {}
    selected = artifact.table("selected")
    lines = [json.loads(line) for line in (tmp_path / "out" / "features.jsonl").read_text().splitlines()]
    assert len(lines) == len(selected)
    found = json.loads((tmp_path / "out" / "2-gnomon-resid_post" / f"{PLANTED}.json").read_text())
    assert found in lines
    assert found["hookName"] == "blocks.2.hook_resid_post"
    assert (found["index"], found["layer"]) == (str(PLANTED), "2-gnomon-resid_post")
    np.testing.assert_allclose(found["vector"], dictionary(SITE).decoder[PLANTED], atol=1e-6)
    assert len(found["pos_str"]) == len(found["pos_values"]) == len(found["neg_str"]) == 10
    assert found["pos_values"] == sorted(found["pos_values"], reverse=True)
    assert found["neg_values"] == sorted(found["neg_values"])
    for kind in ("freq", "logits"):
        heights, values = found[f"{kind}_hist_data_bar_heights"], found[f"{kind}_hist_data_bar_values"]
        assert len(heights) == len(values) > 0  # parallel, or their page breaks
        assert values == sorted(values)
    assert found["frac_nonzero"] == pytest.approx(selected.iloc[0]["general_rate"])
    assert found["activations"]
    for text in found["activations"]:
        assert len(text["tokens"]) == len(text["values"])
        assert text["maxValue"] == max(text["values"]) == text["values"][text["maxValueTokenIndex"]]
        assert text["minValue"] == min(text["values"])
    assert found["gnomon"]["separation"]["value"] == pytest.approx(selected.iloc[0]["separation"])


def test_a_study_without_features_says_what_it_needs(tmp_path):
    generation(tmp_path / "study", labels(20))
    with pytest.raises(UserError, match="step features"):
        export_study(tmp_path / "study", "neuronpedia", tmp_path / "out")
