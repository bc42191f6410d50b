"""Step integrate: joins by name lose and invent nothing, places keep their order, the JSON is what viewers read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon.errors import UserError
from gnomon.methods.graph_json import attribution_graph, cantor
from gnomon.methods.graph_layout import place
from gnomon.methods.integrate_words import shown
from gnomon.report.html import build_report
from gnomon.report.resolve import check, render_text
from gnomon.steps.integrate import Integrate
from gnomon.store import Artifact
from tests import chain_study as chain

HAND = "L9-77"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("integrate") / "study"


@pytest.fixture(scope="module")
def parts(study: Path) -> dict[str, Artifact]:
    return chain.whole(study)


@pytest.fixture(scope="module")
def done(study: Path, parts: dict[str, Artifact]) -> Artifact:
    return chain.integrated(study, parts)


@pytest.fixture(scope="module")
def features(done: Artifact) -> Any:
    return done.table("features").set_index("name")


def sentences(artifact: Artifact, kind: str = "headline") -> str:
    blocks = Integrate(**artifact.options).summary(artifact)
    return "\n".join(render_text(b, artifact) for b in blocks if getattr(b, "kind", "") == kind)


def test_each_feature_stands_once_with_what_its_steps_said(parts, features):
    separations = parts["features"].table("separations").set_index("name")
    causal = parts["causal_features"].table("causal").set_index("name")
    assert sorted(features.index) == sorted(separations.index)  # random latents are no features
    for name, row in features.iterrows():
        assert row["d"] == separations.loc[name, "d"]
        assert row["separation_low"] == separations.loc[name, "separation_low"]
        assert row["change_high"] == causal.loc[name, "ci_high"]
        assert row["verdict"] == causal.loc[name, "verdict"]
        assert bool(row["is_causal"]) == (row["feature"] < 10 + chain.CAUSAL)
    lowest = features.loc["L9-10"]
    assert (pd.isna(lowest["upstream"]), lowest["downstream"], lowest["strongest_downstream"]) == (True, 5, "L15-10")
    middle = features.loc["L15-11"]
    assert (middle["upstream"], middle["downstream"], middle["strongest_upstream"]) == (5, 5, "L9-11")
    assert middle["validated"] == 2  # one on each side
    assert features.loc["L15-13", "validated"] == 0
    assert "not traced" in lowest["note"]


def test_replay_is_pooled_over_a_features_own_pathways(parts, features):
    replay = parts["replay"].table("replay")
    name = "L15-10"
    own = replay[~replay["control"] & ((replay["source_name"] == name) | (replay["target_name"] == name))]
    beside = replay[replay["control"] & ((replay["matches"] == name) | (replay["target_name"] == name))]
    assert features.loc[name, "pearson"] == pytest.approx(np.corrcoef(own["predicted"], own["measured"])[0, 1])
    wanted = np.corrcoef(beside["predicted"], beside["measured"])[0, 1]
    assert features.loc[name, "control_pearson"] == pytest.approx(wanted)


def test_edges_carry_the_replay_of_their_pathway(parts, done):
    edges, kept = done.table("edges"), parts["pathways"].table("pathways")
    assert len(edges) == len(kept)
    agreement = parts["replay"].table("agreement").set_index(["source_name", "target_name"])
    for row in edges.sample(20, random_state=0).to_dict("records"):
        found = agreement.loc[(row["source_name"], row["target_name"])]
        assert row["validated"] == found["validated"]
        assert row["measured"] == found["measured"]
        assert row["replayed"] == chain.ROWS


def test_found_tokens_are_named_and_can_be_seen(features):
    assert features.loc["L9-10", "tokens"].startswith("␣<script>alert(1)</script> +, \\u202egnp. +, \\n +")
    assert features.loc["L9-13", "tokens"] == ""  # tested, none found
    assert shown("  a b\t") == "␣␣a b\\t"


def test_what_no_step_said_is_missing_and_not_zero(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=())
    alone = chain.integrated(tmp_path / "s", parts)
    table = alone.table("features")
    for column in ("is_causal", "verdict", "upstream", "downstream", "validated", "pearson", "tokens", "raises"):
        assert table[column].isna().all(), column
    assert check(Integrate().summary(alone), alone) == []
    assert "Nothing was patched" in sentences(alone)
    assert (alone.path / "attribution_graph.json").is_file() is False
    assert "is not written: no feature has a kept pathway or is causal" in sentences(alone, "limit")


def test_the_section_resolves_and_states_controls(done):
    assert check(Integrate().summary(done), done) == []
    said = sentences(done)
    assert "6 of 15 patched features" in said
    assert "random latents by .020" in said
    assert "4 of 50 replayed pathways are validated" in said
    assert ".950 [.900, .980]; over random latents at .880 [.830, .910]" in said
    assert "30, under those of 6 features; 600 were tested (180 stand in enough responses" in sentences(done, "text")
    assert done.table("facts").set_index("name").loc["tokens", "control"] == 3 * 15 / 15  # found by (latent, feature)
    assert done.meta["ledger"][0]["split"] == "test"


def test_too_few_rows_of_a_class_give_numbers_and_no_verdict(tmp_path):
    parts = chain.whole(tmp_path / "s", chain.Made(n=60), steps=("patch_features",))
    small = chain.integrated(tmp_path / "s", parts)
    assert sentences(small).startswith("No conclusion: ")
    assert "patched features" not in sentences(small)
    assert "patched features" in sentences(small, "text")
    parsed = chain.whole(tmp_path / "p", chain.Made(n=600, parsed=0.7), steps=())
    assert "could be parsed" in sentences(chain.integrated(tmp_path / "p", parsed))


def test_a_step_that_concludes_nothing_is_not_read_as_finding_nothing(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=("pathways",))
    none = {"is_causal": False, "verdict": "no conclusion: 12 safe prompts in tune; 20 are needed"}
    patched = chain.patched(chain.Made())
    patched["causal"] = [r | none for r in patched["causal"]]
    replay = chain.replayed(chain.Made())
    paths = [r for r in replay["agreement"] if r["scope"] == "pathway"]
    for r in paths:
        r |= {"validated": False, "note": "no conclusion: 12 safe rows; 20 are needed; 3 rows"}
    words = chain.tokens(chain.Made())
    for r in [*words["tokens"], *words["comparisons"]]:
        r |= {"note": "12 safe prompts", "found": None}
    for step, tables in (("patch_features", patched), ("replay", replay), ("tokens", words)):
        parts[chain.KINDS[step]] = chain.commit(tmp_path / "s", step, tables, parts)
    done = chain.integrated(tmp_path / "s", parts)
    assert check(Integrate().summary(done), done) == []
    said = sentences(done)
    assert "No conclusion about causes: 12 safe prompts in tune; 20 are needed. The strongest, " in said
    assert "No conclusion about the 50 replayed pathways" in said
    assert "No conclusion about tokens under patches: 12 safe prompts." in sentences(done, "text")
    assert "None of" not in said
    assert done.table("edges")["validated"].isna().all()
    assert done.table("features")["validated"].isna().all()


def test_what_was_never_replayed_is_not_counted_as_failed(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=("pathways",))
    replay = chain.replayed(chain.Made())
    empty = replay["agreement"][2]  # a weak pathway, whose source was active in no held-out row
    empty |= {"n": 0, "validated": False, "pearson": None, "note": "its source was patched in no held-out row"}
    parts["replay"] = chain.commit(tmp_path / "s", "replay", replay, parts)
    done = chain.integrated(tmp_path / "s", parts)
    assert "4 of 49 replayed pathways are validated" in sentences(done)
    ends = ("source_name", "target_name")
    edge = next(e for e in done.table("edges").to_dict("records") if all(e[c] == empty[c] for c in ends))
    assert pd.isna(edge["validated"])
    assert pd.isna(edge["replayed"])
    bare = chain.whole(tmp_path / "b", chain.Made(edges=False))
    assert "0 of 0" not in sentences(chain.integrated(tmp_path / "b", bare))


def test_no_causal_feature_is_said_with_the_strongest_change_beside(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=())
    patched = chain.patched(chain.Made())
    patched["causal"] = [r | {"is_causal": False, "verdict": "no effect found"} for r in patched["causal"]]
    parts["causal_features"] = chain.commit(tmp_path / "s", "patch_features", patched, parts)
    said = sentences(chain.integrated(tmp_path / "s", parts))
    assert "None of 15 patched features is found to move the answers and to stand out from random latents." in said
    assert "changes the share of safe answers by +.350 [+.250, +.450]" in said
    alone = [r | {"control_change": None} for r in patched["causal"]]
    parts["causal_features"] = chain.commit(tmp_path / "s", "patch_features", {"causal": alone}, parts)
    assert "no random latents were patched beside it" in sentences(chain.integrated(tmp_path / "s", parts))


def test_the_same_tables_give_the_same_bytes(study, parts, done):
    before = {n: r["sha256"] for n, r in done.meta["files"].items()}
    again = chain.integrated(study, parts)
    assert {n: r["sha256"] for n, r in again.meta["files"].items()} == before
    assert {"graph.html", "graph.svg", "attribution_graph.json"} <= set(before)


def test_the_folder_of_the_study_is_in_no_file(tmp_path):
    def sums(study: Path) -> dict[str, str]:
        made = chain.integrated(study, chain.whole(study, chain.Made(per_layer=2)))
        return {n: r["sha256"] for n, r in made.meta["files"].items()}

    assert sums(tmp_path / "one") == sums(tmp_path / "Another place")


# ---------------------------------------------------------------- what cannot be joined


def test_a_name_that_does_not_fit_its_columns_is_refused(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=())
    wrong = [{**r, "name": "L9-9999"} if r["name"] == "L9-11" else r for r in chain.patched(chain.Made())["causal"]]
    parts["causal_features"] = chain.commit(tmp_path / "s", "patch_features", {"causal": wrong}, parts)
    with pytest.raises(UserError, match="'L9-9999'; L9-11"):
        chain.integrated(tmp_path / "s", parts)


def test_steps_of_other_features_are_refused(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=("pathways",))
    path = parts["pathways"].path / "meta.json"
    meta = json.loads(path.read_text())
    meta["inputs"]["features"]["fingerprint"] = "another"
    path.write_text(json.dumps(meta))
    parts["pathways"] = Artifact(parts["pathways"].path)
    with pytest.raises(UserError, match="two dictionaries can have one name"):
        chain.integrated(tmp_path / "s", parts)


def test_features_without_separations_are_refused(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=())
    (parts["features"].path / "separations.parquet").unlink()
    with pytest.raises(UserError, match="gnomon run --remake features"):
        chain.integrated(tmp_path / "s", parts)


def test_a_source_that_is_nowhere_separated_is_a_feature_of_unknown_class(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=())
    edges = chain.pathways(chain.Made())["pathways"]
    extra = {**edges[0], "source": 77, "source_name": HAND}
    parts["pathways"] = chain.commit(tmp_path / "s", "pathways", {"pathways": [*edges, extra]}, parts)
    done = chain.integrated(tmp_path / "s", parts)
    row = done.table("features").set_index("name").loc[HAND]
    assert (pd.isna(row["d"]), row["downstream"]) == (True, 1)
    assert "not among the separated ones" in row["note"]
    node = done.table("nodes").set_index("name").loc[HAND]
    assert pd.isna(node["class"])
    assert 0 <= node["x"] <= 1


# ---------------------------------------------------------------- places


@pytest.mark.parametrize("n", [1, 2, 7, 12, 60])
def test_places_keep_order_and_distance(n):
    rng = np.random.default_rng(n)
    d = rng.standard_normal(n)
    d[: n // 5] = np.nan
    x = place(d, gap=0.085)
    assert np.all((x >= 0) & (x <= 1))
    order = np.argsort(np.nan_to_num(d), kind="stable")
    step = np.diff(x[order])
    assert np.all(step >= min(0.085, 1 / max(n - 1, 1)) - 1e-9)


def test_where_there_is_room_a_place_is_the_effect_size():
    d = np.array([-2.0, 0.0, 1.0])
    assert place(d) == pytest.approx([0, 0.5, 0.75])


# ---------------------------------------------------------------- the viewers' JSON

METADATA = {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str, "transcoder_list": list,
            "schema_version": int}  # fmt: skip
QPARAMS = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "jsNodeId": str,
        "clerp": str, "token_prob": float, "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int}  # fmt: skip
LINK = {"source": str, "target": str, "weight": float}


def typed(value: dict[str, Any], wanted: dict[str, type]) -> bool:
    return all(type(value.get(k)) is t for k, t in wanted.items())


def uncantor(feature: int) -> tuple[int, int]:
    """(layer, latent), as Neuronpedia's viewer reads a feature number of schema_version 1."""
    w = int((np.sqrt(8 * feature + 1) - 1) // 2)
    latent = feature - (w * w + w) // 2
    return w - latent, latent


def test_the_json_is_what_the_viewers_read(done):
    graph = done.json("attribution_graph")
    assert set(graph) == {"metadata", "qParams", "nodes", "links"}
    assert typed(graph["metadata"], METADATA)
    assert re.fullmatch(r"m-safe-risky-[0-9a-f]{8}", graph["metadata"]["slug"])
    assert typed(graph["qParams"], QPARAMS)
    assert all(typed(node, NODE) for node in graph["nodes"])
    assert all(typed(link, LINK) for link in graph["links"])
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(ids) == len(set(ids)) == 15
    assert {link[end] for link in graph["links"] for end in ("source", "target")} <= set(ids)
    assert set(graph["qParams"]["pinnedIds"]) <= set(ids)
    assert len(graph["qParams"]["pinnedIds"]) == 6
    for node in graph["nodes"]:
        assert node["ctx_idx"] < len(graph["metadata"]["prompt_tokens"])
        assert uncantor(node["feature"]) == (int(node["layer"]), node["gnomon"]["latent"])
        assert node["node_id"] == f"{node['layer']}_{node['gnomon']['latent']}_{node['ctx_idx']}"
    assert max(int(node["layer"]) for node in graph["nodes"]) > 0  # or the viewer refuses it
    edges = done.table("edges")
    total = edges[edges["kind"] == "total"]
    assert sorted(link["weight"] for link in graph["links"]) == sorted(total["attribution"])
    assert graph["metadata"]["scan"] == "m"  # every link is of one model and set there
    assert graph["metadata"]["feature_details"] == {"neuronpedia_source_set": "set"}


def test_sites_of_one_layer_have_nodes_of_their_own_and_the_first_layer_alone_has_no_graph(tmp_path):
    made = chain.Made(sites=("attn_out.3", "mlp_out.3"), per_layer=3)
    done = chain.integrated(tmp_path / "s", chain.whole(tmp_path / "s", made))
    graph = done.json("attribution_graph")
    assert len({n["node_id"] for n in graph["nodes"]}) == len({n["jsNodeId"] for n in graph["nodes"]}) == 6
    first = chain.whole(tmp_path / "f", replace(made, sites=("attn_out.0", "mlp_out.0")))
    low = chain.integrated(tmp_path / "f", first)
    assert not (low.path / "attribution_graph.json").exists()
    assert "attribution_graph.json is not written" in sentences(low, "limit")


def test_cantor_numbers_are_told_apart():
    pairs = [(a, b) for a in range(40) for b in (0, 1, 7, 4095, 131071)]
    assert [uncantor(cantor(*p)) for p in pairs] == pairs


def test_a_graph_without_pathways_holds_the_causal_features(tmp_path):
    parts = chain.whole(tmp_path / "s", chain.Made(edges=False))
    done = chain.integrated(tmp_path / "s", parts)
    graph = done.json("attribution_graph")
    assert (len(graph["nodes"]), graph["links"]) == (6, [])
    assert check(Integrate().summary(done), done) == []
    empty = done.table("features").iloc[:0]
    assert attribution_graph(empty, done.table("edges"), ("a", "b"), "m")[0] is None


# ---------------------------------------------------------------- the report


def test_the_report_links_the_page_and_shows_its_picture(study, done):
    page = build_report(study).read_text()
    assert 'href="integrate/graph.html"' in page
    assert '<img src="data:image/svg+xml;base64,' in page
    assert "<script>alert" not in page
    (done.path / "graph.svg").rename(done.path / "kept")
    try:
        problems = check(Integrate().summary(done), done)
        assert any("graph.svg" in p for p in problems)
    finally:
        (done.path / "kept").rename(done.path / "graph.svg")
