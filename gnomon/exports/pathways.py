"""The layout of the older plan for pathways and tokens of causal features: its folders, file names and fields.

    data/causal_features.json  data/prompts_sample.json
    results/audit/data_validation.json  results/prototype/single_feature_test.json
    results/pathways/validated_pathways.json  results/tokens/token_associations.json
    results/integrated/integrated_results.json  results/integrated/attribution_graph.json

The older fields keep their names; what gnomon knows beside them (q, intervals, controls) stands in the same record.
docs/export.md lists the fields. No model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gnomon.exports.folder import Folder, latest, source
from gnomon.exports.pathways_checks import validation
from gnomon.store import Artifact, Study

COUNTS = {"upstream", "downstream", "validated", "replayed", "n", "controls", "rank", "source_layer", "target_layer"}
PER_LAYER = 50
"""Causal features of a layer that are written, as in the older plan."""
CAUSAL, PROMPTS = "data/causal_features.json", "data/prompts_sample.json"
VALIDATION, PROTOTYPE = "results/audit/data_validation.json", "results/prototype/single_feature_test.json"
PATHWAYS, TOKENS = "results/pathways/validated_pathways.json", "results/tokens/token_associations.json"
INTEGRATED, GRAPH = "results/integrated/integrated_results.json", "results/integrated/attribution_graph.json"


def export(study: Study, folder: Folder) -> None:
    """Write what the study has; name what it lacks. Every step is of the same features step."""
    features = latest(study, "features")
    if features is not None and "separations" not in features.tables():
        features = None
    reads = {"features": features}
    patched, replay, tokens, integrated = (
        latest(study, step, reads) for step in ("patch_features", "replay", "tokens", "integrate")
    )
    traced, prototype = _traced(study, features)
    _causal(folder, patched)
    _validation(folder, features, patched, traced)
    _prompts(folder, traced or prototype)
    _prototype(folder, prototype or traced)
    _pathways(folder, traced, replay)
    _tokens(folder, tokens)
    _integrated(folder, integrated)


def _traced(study: Study, features: Artifact | None) -> tuple[Artifact | None, Artifact | None]:
    """(the last full pathways step, the last one with a prototype alone)."""
    full = prototype = None
    for artifact in study:
        if artifact.meta.get("step") != "pathways":
            continue
        read = (artifact.meta.get("inputs") or {}).get("features")
        of = read.get("fingerprint") if isinstance(read, dict) else None
        if features is not None and of not in (None, features.fingerprint):
            continue
        if artifact.options.get("prototype"):
            prototype = artifact
        else:
            full = artifact
    return full, prototype


def _causal(folder: Folder, patched: Artifact | None) -> None:
    """Causal features, the PER_LAYER of largest |d| of each layer."""
    if patched is None:
        folder.leave_out(CAUSAL, "step patch_features")
        return
    rows = patched.table("causal")
    rows = rows.loc[np.asarray(rows["is_causal"].fillna(False), dtype=bool)]
    size = -np.abs(np.nan_to_num(np.asarray(rows["d"], dtype=np.float64)))
    rows = rows.iloc[np.lexsort((np.asarray(rows["feature"]), size, np.asarray(rows["layer"])))]
    found = [causal_record(r) for r in rows.groupby("layer", sort=True).head(PER_LAYER).to_dict("records")]
    folder.json(CAUSAL, found, source(patched, "causal"), f"causal features only, {PER_LAYER} a layer by |cohen_d|")


def causal_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """One feature under the older names, and what stands beside."""
    rest = ("site", "first_mean", "second_mean", "condition", "measure", "change", "ci_low", "ci_high", "effect", "p",
            "q", "control_change", "control_p", "control_q", "controls", "verdict", "n", "note")  # fmt: skip
    return {
        "feature": row["name"], "layer": row["layer"], "feature_id": row["feature"], "is_causal": row["is_causal"],
        "cohen_d": row["d"], **{c: row[c] for c in rest if c in row},
    }  # fmt: skip


def _validation(
    folder: Folder, features: Artifact | None, patched: Artifact | None, traced: Artifact | None
) -> None:  # fmt: skip
    if patched is None or features is None:
        folder.leave_out(VALIDATION, "steps features and patch_features")
        return
    causal, responses, separations = (
        a.table(t) for a, t in ((patched, "causal"), (patched, "responses"), (features, "separations"))
    )
    edges = None if traced is None else traced.table("pathways")
    made = [source(patched, "causal", "responses"), source(features, "separations")]
    folder.json(VALIDATION, validation(causal, responses, separations, edges), ", ".join(made))


def _prompts(folder: Folder, traced: Artifact | None) -> None:
    """The rows in which each target was traced."""
    if traced is None:
        folder.leave_out(PROMPTS, "step pathways")
        return
    rows = traced.table("prompts").sort_values(["name", "rank"], kind="stable")
    columns = ("rank", "prompt", "row", "example_id", "split", "label", "position", "activation")
    found = [{"feature": r["name"], **{c: r[c] for c in columns}} for r in rows.to_dict("records")]
    folder.json(PROMPTS, found, source(traced, "prompts"))


def _prototype(folder: Folder, traced: Artifact | None) -> None:
    """One feature: what it comes from, and what it took."""
    edges = None if traced is None else _total(traced.table("pathways"))
    if traced is None or edges is None or not len(edges):
        folder.leave_out(PROTOTYPE, "step pathways (prototype: true) with a kept pathway")
        return
    chosen = traced.options.get("prototype")
    size: Any = (
        pd.Series(np.abs(np.asarray(edges["share"], dtype=np.float64))).groupby(list(edges["target_name"])).sum()
    )
    name = chosen if isinstance(chosen, str) else str(size.idxmax())
    own = edges.loc[np.asarray(edges["target_name"] == name)].sort_values("rank", kind="stable")
    cost = traced.table("cost").to_dict("records") if "cost" in traced.tables() else []
    peak = max((float(r["peak_bytes"]) for r in cost if not pd.isna(r["peak_bytes"])), default=None)
    if peak is None:
        peak = traced.meta.get("peak_memory_bytes")
    more = ("kind", "gradient", "attribution", "share", "ci_low", "ci_high", "rank")
    folder.json(PROTOTYPE, {
        "feature": name,
        "upstream_candidates": [
            {"source": r["source_name"], "source_layer": r["source_layer"],
             "activation": r.get("source_activation"), **{c: r[c] for c in more}}
            for r in own.to_dict("records")
        ],
        "memory_usage_gb": None if peak is None else float(peak) / 1e9,
        "prototype_only": bool(chosen), "seconds": traced.meta.get("seconds"), "cost": cost,
    }, source(traced, "pathways"), "" if chosen else "the target with the strongest sources of a full run")  # fmt: skip


def _total(edges: pd.DataFrame) -> pd.DataFrame:
    return edges.loc[np.asarray(edges["kind"] == "total")]


def _pathways(folder: Folder, traced: Artifact | None, replay: Artifact | None) -> None:
    """Every replayed pathway, with whether it was validated; the gradient's own figures where they are there."""
    if replay is None or traced is None:
        folder.leave_out(PATHWAYS, "steps pathways and replay")
        return
    rows = replay.table("agreement")
    rows = rows.loc[np.asarray(rows["scope"] == "pathway")]
    edges = _total(traced.table("pathways")).drop_duplicates(["source_name", "target_name"])
    columns = ["source_site", "target_site", "gradient", "attribution", "share", "rank"]
    joined = rows.merge(edges[["source_name", "target_name", *columns]], on=["source_name", "target_name"], how="left")
    joined = joined.sort_values(["target_layer", "target_name", "rank", "source_name"], kind="stable")
    rest = [c for c in joined if c not in ("scope", "source_name", "target_name", "gradient", "attribution", "pearson")]
    found = [
        {"source": r["source_name"], "target": r["target_name"], "gradient": r["gradient"],
         "attribution": r["attribution"], "correlation": r["pearson"], **{str(c): r[c] for c in rest}}
        for r in _records(joined)
    ]  # fmt: skip
    note = "every replayed pathway; `validated` says which stand beside random latents"
    folder.json(PATHWAYS, found, ", ".join((source(replay, "agreement"), source(traced, "pathways"))), note)


def _tokens(folder: Folder, tokens: Artifact | None) -> None:
    """Tokens that were found; an empty list where none was."""
    if tokens is None:
        folder.leave_out(TOKENS, "step tokens")
        return
    rows = tokens.table("tokens")
    own = np.asarray(rows["comparison"] != "controls")  # what random latents find is no association
    rows = rows.loc[own & np.asarray(rows["found"].fillna(False), dtype=bool)]
    rest = [c for c in ("comparison", "condition", "against", "n", "against_n", "rate", "against_rate", "ci_low",
                        "ci_high", "z", "q", "test", "note") if c in rows]  # fmt: skip
    found = [
        {"feature": r["name"] or None, "token": r["token"], "token_id": r["token_id"], "odds_ratio": r["log_odds"],
         "p_value": r["p"], "baseline_count": r["against_count"], "patched_count": r["count"],
         **{c: r[c] for c in rest}}
        for r in rows.to_dict("records")
    ]  # fmt: skip
    folder.json(
        TOKENS, found, source(tokens, "tokens"), "odds_ratio is a log-odds ratio, as it was; counts are responses"
    )


def _integrated(folder: Folder, integrated: Artifact | None) -> None:
    if integrated is None:
        folder.leave_out(INTEGRATED, "step integrate")
        folder.leave_out(GRAPH, "step integrate")
        return
    features, edges, facts = (_records(integrated.table(t)) for t in ("features", "edges", "facts"))
    named = [{"feature": r.pop("name"), "feature_id": r.pop("feature"), "cohen_d": r.pop("d"), **r} for r in features]
    value = {"features": named, "pathways": edges, "facts": facts, "page": f"{integrated.name}/graph.html"}
    folder.json(INTEGRATED, value, source(integrated, "features", "edges", "facts"))
    if (integrated.path / "attribution_graph.json").is_file():
        folder.json(GRAPH, integrated.json("attribution_graph"), source(integrated, "attribution_graph.json"))
    else:
        folder.leave_out(GRAPH, "a feature with a kept pathway, or a causal one, above the first layer")


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Records whose counts are whole numbers, where pandas made them 5.0 for the sake of missing ones."""
    out: list[dict[str, Any]] = [{str(k): v for k, v in r.items()} for r in rows.to_dict("records")]
    for record in out:
        for name in COUNTS & set(record):
            if not isinstance(
                record[name], bool | np.bool_
            ):  # an edge is validated or not; of features they are counted
                record[name] = None if pd.isna(record[name]) else int(record[name])
    return out
