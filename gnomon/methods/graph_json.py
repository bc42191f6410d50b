"""The graph of features as the attribution-graph JSON that Neuronpedia's and circuit-tracer's viewers read.

One graph of the whole study, not one a prompt: attributions here are means over each target's own prompts, summed over
source positions. So what the viewer draws as prompt positions are classes: column 0 holds features that are more
active in the second class, column 1 those of the first, column 2 those of which no step says it. Links carry the total
attribution (the first kind there is, where none is total), from source to target. There are no embedding, error or
logit nodes: nothing upstream of the lowest dictionary was traced.

    node_id   LAYER_LATENT_COLUMN (with a component at the end for all but resid_post)
    feature   Cantor pairing (l + i)(l + i + 1)/2 + i of layer and latent, as schema_version 1 has it
    clerp     the feature's name, class, verdict and first words

Schema: graph-schema.json of Neuronpedia and graph_models.py of circuit-tracer (both version 1). A layer number above 0
is needed: their viewers divide by the highest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods.integrate import main_kind
from gnomon.sites import Site

PAGE = re.compile(r"https://www\.neuronpedia\.org/([\w.-]+)/(\d+)-([\w.-]+)/(\d+)")
FEATURE_TYPE = "cross layer transcoder"
"""What the viewers call any latent of a dictionary; they draw it as a dot and look its page up."""
LINK = ("source_name", "target_name", "attribution", "share", "pearson", "validated")
PINNED = 24
"""Features that the viewer pins at first: the causal ones, strongest change first."""


def cantor(layer: int, latent: int) -> int:
    """One number for a layer and a latent."""
    return (layer + latent) * (layer + latent + 1) // 2 + latent


def attribution_graph(
    features: pd.DataFrame, edges: pd.DataFrame, classes: tuple[str, str], model: str
) -> tuple[dict[str, Any] | None, str]:
    """(the graph of features with a kept pathway and of causal ones, ready for JSON, ""), or (None, why not).

    Its slug is made of the model, the classes, and a digest of the graph: the same tables give the same bytes in
    whatever folder.
    """
    kind = main_kind(edges)
    links = edges.loc[np.asarray(edges["kind"] == kind)]
    joined = sorted({*links["source_name"], *links["target_name"]})
    causal = np.asarray(features["is_causal"].fillna(False), dtype=bool)
    shown = features.loc[np.asarray(features["name"].isin(joined)) | causal]
    if not len(shown):
        return None, "no feature has a kept pathway or is causal"
    if int(shown["layer"].max()) < 1:
        return None, "its viewers need a feature above the first layer"
    nodes = [_node(r, classes) for r in shown.to_dict("records")]
    ids = dict(zip(shown["name"], (n["node_id"] for n in nodes), strict=True))
    found = {str(r["link"]): PAGE.fullmatch(str(r["link"] or "")) for r in shown.to_dict("records")}
    sets = {(m[1], m[3]) for m in found.values() if m is not None}
    columns = [f"[{classes[1]}]", f"[{classes[0]}]", "[class unknown]"]
    about = (
        f"An aggregate over prompts. Columns are no tokens but classes: features more active in {classes[1]}, in "
        f"{classes[0]}, and those of which it is not known. Links are {kind} attributions, means over each "
        "target's prompts."
    )
    metadata: dict[str, Any] = {
        "slug": "", "scan": model, "prompt_tokens": columns, "prompt": about, "transcoder_list": [],
        "schema_version": 1, "info": {"description": about, "generator": {"name": "gnomon"}},
        "generation_settings": {"kind": kind},
    }  # fmt: skip
    if len(sets) == 1 and all(str(r["link"] or "") == "" or found[str(r["link"])] for r in shown.to_dict("records")):
        metadata["scan"], one = next(iter(sets))
        metadata["feature_details"] = {"neuronpedia_source_set": one}
    change = np.abs(np.nan_to_num(np.asarray(shown["change"], dtype=np.float64)))
    best = shown.iloc[np.argsort(-change, kind="stable")]
    pinned = best.loc[np.asarray(best["is_causal"].fillna(False), dtype=bool), "name"].head(PINNED)
    graph: dict[str, Any] = {
        "metadata": metadata,
        "qParams": {"linkType": "both", "pinnedIds": [ids[n] for n in pinned], "clickedId": "", "supernodes": [],
                    "sg_pos": ""},
        "nodes": nodes,
        "links": [_link(r, ids) for r in links[list(LINK)].to_dict("records") if np.isfinite(r["attribution"])],
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()[:8]
    metadata["slug"] = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in (
        metadata["scan"], *classes, digest))  # fmt: skip
    return graph, ""


def _node(row: Mapping[str, Any], classes: tuple[str, str]) -> dict[str, Any]:
    site, latent, d = Site.parse(str(row["site"])), int(row["feature"]), row["d"]
    column = 2 if pd.isna(d) or d == 0 else int(d > 0)
    base = f"{site.layer}_{latent}_{column}"
    own = "" if site.component == "resid_post" else f"_{site.component}"
    said = [str(row["name"])]
    if column < 2:
        said.append(f"more in {(classes[1], classes[0])[column]}")
    said += [str(row[c]) for c in ("verdict", "tokens") if isinstance(row[c], str) and row[c]]
    return {
        "node_id": base + own, "feature": cantor(site.layer, latent), "layer": str(site.layer), "ctx_idx": column,
        "feature_type": FEATURE_TYPE, "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0,
        "jsNodeId": f"{site.layer}_{latent}{own}-0", "clerp": ", ".join(said),
        "gnomon": {"name": str(row["name"]), "site": str(site), "latent": latent, "d": _number(d),
                   "is_causal": None if pd.isna(row["is_causal"]) else bool(row["is_causal"])},
    }  # fmt: skip


def _link(row: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    validated = row["validated"]
    return {
        "source": ids[str(row["source_name"])], "target": ids[str(row["target_name"])],
        "weight": float(row["attribution"]),
        "gnomon": {"share": _number(row["share"]), "pearson": _number(row["pearson"]),
                   "validated": None if pd.isna(validated) else bool(validated)},
    }  # fmt: skip


def _number(value: Any) -> float | None:
    return None if pd.isna(value) or not np.isfinite(value) else float(value)
