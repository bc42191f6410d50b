"""Layout pathways, read with json alone as the older tools read it: fields, the study's numbers, what is missing."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gnomon.cli import app
from gnomon.exports import export_study
from gnomon.store import Artifact
from tests import chain_study as chain

FILES = {
    "causal": "data/causal_features.json", "prompts": "data/prompts_sample.json",
    "validation": "results/audit/data_validation.json", "prototype": "results/prototype/single_feature_test.json",
    "pathways": "results/pathways/validated_pathways.json", "tokens": "results/tokens/token_associations.json",
    "integrated": "results/integrated/integrated_results.json",
    "graph": "results/integrated/attribution_graph.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pathways") / "study"
    chain.integrated(root, chain.whole(root))
    return root


@pytest.fixture(scope="module")
def files(study: Path, tmp_path_factory) -> dict[str, Any]:
    out = export_study(study, "pathways", tmp_path_factory.mktemp("out") / "files")
    assert out.left_out == {}
    assert set(out.files) == set(FILES.values())
    return {name: json.loads((out.path / path).read_text()) for name, path in FILES.items()}


def table(study: Path, step: str, name: str) -> Any:
    return Artifact(study / step).table(name)


def test_causal_features_have_the_older_fields(study, files):
    causal = table(study, "patch_features", "causal").set_index("name")
    assert len(files["causal"]) == 6
    for record in files["causal"]:
        assert {"feature", "layer", "feature_id", "is_causal", "cohen_d", "q", "ci_low"} <= set(record)
        assert record["is_causal"] is True
        assert record["feature"] == f"L{record['layer']}-{record['feature_id']}"
        assert record["cohen_d"] == causal.loc[record["feature"], "d"]
    sizes = [(r["layer"], -abs(r["cohen_d"])) for r in files["causal"]]
    assert sizes == sorted(sizes)


def test_no_more_than_fifty_of_a_layer(tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.exports.pathways.PER_LAYER", 1)
    chain.whole(tmp_path / "s", steps=("patch_features",))
    out = export_study(tmp_path / "s", "pathways").path
    assert [r["layer"] for r in json.loads((out / FILES["causal"]).read_text())] == [9, 15, 21]


def test_the_validation_counts_joins_and_checks(study, files):
    found = files["validation"]
    assert found["causal_by_layer"] == {"9": 2, "15": 2, "21": 2}
    assert found["joinable_features"] == sorted(r["feature"] for r in files["causal"])
    assert found["validated"] is True
    assert len(found["conditions"]) == 6
    assert found["trials"] == {"least": 30, "median": 30.0, "most": 30}
    assert {c["level"] for c in found["checks"]} <= {"ok", "warn"}


def test_a_missing_condition_is_no_validation(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=("patch_features",))
    made = chain.patched(chain.Made())
    made["responses"] = [
        r for r in made["responses"] if (r["name"], r["condition"]) != ("L9-10", "safe_with_safe_patch")
    ]
    parts.pop("causal_features")
    chain.commit(tmp_path / "s", "patch_features", made, parts)
    out = export_study(tmp_path / "s", "pathways").path
    found = json.loads((out / FILES["validation"]).read_text())
    assert found["validated"] is False
    assert any(c["level"] == "fail" and "1 conditions are missing" in c["detail"] for c in found["checks"])


def test_without_a_causal_feature_nothing_joins_and_nothing_is_validated(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=())
    made = chain.patched(chain.Made())
    made["causal"] = [r | {"is_causal": False} for r in made["causal"]]
    chain.commit(tmp_path / "s", "patch_features", made, parts)
    found = json.loads((export_study(tmp_path / "s", "pathways").path / FILES["validation"]).read_text())
    assert (found["joinable_features"], found["validated"]) == ([], False)


def test_pathways_have_gradient_attribution_and_correlation(study, files):
    agreement = table(study, "replay", "agreement").set_index(["source_name", "target_name"])
    edges = table(study, "pathways", "pathways")
    total = edges[edges["kind"] == "total"].set_index(["source_name", "target_name"])
    assert len(files["pathways"]) == 50
    for record in files["pathways"]:
        key = (record["source"], record["target"])
        assert record["correlation"] == agreement.loc[key, "pearson"]
        assert record["validated"] == agreement.loc[key, "validated"]
        assert record["gradient"] == total.loc[key, "gradient"]
        assert record["attribution"] == total.loc[key, "attribution"]
        assert type(record["source_layer"]) is type(record["target_layer"]) is int
    assert sum(r["validated"] for r in files["pathways"]) == 4


def test_tokens_are_those_that_were_found(study, files):
    found = table(study, "tokens", "tokens")
    assert len(files["tokens"]) == 30
    assert int(found["found"].sum()) == 33  # three of random latents, which are no associations
    first = files["tokens"][0]
    assert {"token", "token_id", "odds_ratio", "p_value", "baseline_count", "patched_count"} <= set(first)
    assert (first["baseline_count"], first["patched_count"]) == (3, 24)
    assert first["token"] == chain.HOSTILE[0]  # as it is: JSON escapes what it must


def test_the_prototype_names_the_upstream_candidates(files):
    found = files["prototype"]
    assert found["prototype_only"] is False
    assert math.isclose(found["memory_usage_gb"], 1.5)
    assert len(found["upstream_candidates"]) == 5
    strongest = found["upstream_candidates"][0]
    assert strongest["source"].endswith(found["feature"].split("-")[1])
    assert strongest["source_layer"] < int(found["feature"].split("-")[0][1:])


def test_a_prototype_step_goes_before_the_full_run(tmp_path):
    parts = chain.whole(tmp_path / "s", steps=("pathways",))
    own = [e for e in chain.pathways(chain.Made())["pathways"] if e["target_name"] == "L15-13"]
    tables = {"pathways": own, "prompts": chain.pathways(chain.Made())["prompts"][:1]}
    parts.pop("pathways")
    full = tmp_path / "s" / "pathways"
    full.rename(tmp_path / "kept")
    chain.commit(tmp_path / "s", "pathways", tables, parts, {"prototype": "L15-13"}).path.rename(tmp_path / "s" / "one")
    (tmp_path / "kept").rename(full)
    out = export_study(tmp_path / "s", "pathways").path
    found = json.loads((out / FILES["prototype"]).read_text())
    assert (found["feature"], found["prototype_only"]) == ("L15-13", True)
    assert len(json.loads((out / FILES["prompts"]).read_text())) == 40  # of the full run


def test_integrated_results_and_the_graph_are_the_steps(study, files):
    assert len(files["integrated"]["features"]) == 15
    one = next(f for f in files["integrated"]["features"] if f["feature"] == "L15-11")
    assert (one["upstream"], one["feature_id"], one["is_causal"]) == (5, 11, True)
    assert len(files["integrated"]["pathways"]) == 150
    assert files["integrated"]["page"] == "integrate/graph.html"
    assert files["graph"] == Artifact(study / "integrate").json("attribution_graph")


def test_the_same_study_gives_the_same_bytes(study, tmp_path):
    def sums(name: str) -> dict[str, str]:
        path = export_study(study, "pathways", tmp_path / name).path
        found = (p for p in sorted(path.rglob("*")) if p.is_file())
        return {p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    assert sums("a") == sums("b")


def test_what_a_study_lacks_is_left_out_with_the_step_that_gives_it(tmp_path):
    chain.whole(tmp_path / "s", steps=("pathways",))
    folder = export_study(tmp_path / "s", "pathways")
    assert set(folder.files) == {FILES["prompts"], FILES["prototype"]}
    assert folder.left_out[FILES["tokens"]] == "step tokens"
    assert folder.left_out[FILES["pathways"]] == "steps pathways and replay"


def test_a_study_with_nothing_of_it_says_what_it_takes(tmp_path):
    chain.generation(tmp_path / "s", chain.Made(n=40))
    result = CliRunner().invoke(app, ["export", str(tmp_path / "s"), "--layout", "pathways"])
    assert result.exit_code != 0
    assert "has nothing that layout 'pathways' takes" in result.output
    assert not (tmp_path / "s" / "exports").exists() or not list((tmp_path / "s" / "exports").iterdir())
