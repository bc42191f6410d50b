"""Each selected latent as Neuronpedia's feature JSON: `SOURCE/INDEX.json`, and `features.jsonl` of all.

Fields, as Neuronpedia's feature endpoint has them:

    modelId, layer, index         model name, source id (LAYER-SET), latent
    hookName, vector              TransformerLens hook, decoder row of length 1
    pos_str, pos_values           tokens whose logits it raises most, and by how much (norm's scale left out)
    neg_str, neg_values           tokens that it lowers most
    frac_nonzero                  share of general text's tokens on which it is active; absent where not measured
    freq_hist_data_bar_values     middle of each bin of the active values; ..._bar_heights: rows in it (same length)
    logits_hist_data_bar_values   middle of each bin of the effects on all tokens; ..._bar_heights: tokens in it
    activations                   texts: tokens, values, maxValue, maxValueTokenIndex, minValue
    maxActApprox                  the largest of these
    explanations                  none: nobody has looked at it

Under `gnomon` stands what Neuronpedia has no field for: what it predicts, with its test figures. The study's own
dictionaries have no id there: their source is LAYER-gnomon-COMPONENT.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from gnomon.errors import UserError
from gnomon.exports.folder import Folder, latest, source
from gnomon.exports.rows import model_of, name_part
from gnomon.methods.feature_links import PAGES
from gnomon.store import Study
from gnomon.types import Direction

NEEDS = "step features"
FIGURES = ("separation", "auroc", "t", "f1", "f1_always")


def export(study: Study, folder: Folder) -> None:
    """Write one JSON a selected latent of the study's last `features` step, and all of them as lines."""
    artifact = latest(study, "features")
    if artifact is None:
        folder.leave_out("SOURCE/INDEX.json", NEEDS)
        return
    model = model_of(study, artifact)
    selected: Any = artifact.table("selected")
    tables: dict[str, Any] = {name: artifact.table(name) for name in ("tops", "top_rows", "logits", "histogram")}
    where = source(artifact, "selected", *tables, "directions")
    every = []
    for row, direction in zip(selected.to_dict("records"), artifact.directions(), strict=True):
        found = feature(row, direction, tables, model)
        name = f"{name_part(found['layer'], 'source')}/{found['index']}.json"
        if name in folder.files:
            continue
        folder.json(name, found, where)
        every.append(found)
        if not found["activations"]:
            folder.leave_out(f"{name}: activations", "a page of that latent (raise features.pages)")
    if every:
        folder.lines("features.jsonl", every, where)
    else:
        folder.leave_out("SOURCE/INDEX.json", "a latent that step features selected")


def feature(row: dict[str, Any], direction: Direction, tables: dict[str, pd.DataFrame], model: str) -> dict[str, Any]:
    """One latent's JSON from its row of `selected`, its direction and its page's tables."""
    if int(direction.meta["latent"]) != int(row["feature"]):
        raise UserError(f"direction {direction.name} beside feature {row['feature']}", "one order of both")
    mine = {name: _of(table, row) for name, table in tables.items()}
    bars = mine["histogram"]
    active = bars[bars["kind"] != "logit"].groupby("middle", sort=True)["count"].sum()
    effects: Any = bars[bars["kind"] == "logit"]
    logits = mine["logits"]
    texts = _texts(mine["top_rows"], mine["tops"])
    model_id, layer = _identity(row, direction, model)
    out: dict[str, Any] = {
        "modelId": model_id, "layer": layer, "index": str(int(row["feature"])),
        "hookName": direction.site.lens_name, "vector": direction.vector.tolist(),
    }  # fmt: skip
    if pd.notna(row["general_rate"]):  # their field is a number, never null
        out["frac_nonzero"] = float(row["general_rate"])
    for name, side in (("pos", "top"), ("neg", "bottom")):
        part = logits[logits["side"] == side].sort_values("rank")
        out |= {f"{name}_str": part["token"].tolist(), f"{name}_values": part["effect"].tolist()}
    return out | {
        "freq_hist_data_bar_heights": [int(v) for v in active.tolist()],
        "freq_hist_data_bar_values": [float(v) for v in active.index.tolist()],
        "logits_hist_data_bar_heights": effects["count"].tolist(),
        "logits_hist_data_bar_values": effects["middle"].tolist(),
        "activations": texts, "maxActApprox": max((t["maxValue"] for t in texts), default=0.0), "explanations": [],
        "gnomon": {
            "predicts": row["predicts"], "threshold": row["threshold"], "confirmed": bool(row["confirmed"]),
            "dictionary": row["dictionary"], "n": row["n"],
            **{name: {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]} for name in FIGURES},
        },
    }  # fmt: skip


def _of(table: pd.DataFrame, row: dict[str, Any]) -> Any:
    return table.loc[(table["site"] == row["site"]) & (table["feature"] == row["feature"])]


def _texts(cases: Any, tokens: Any) -> list[dict[str, Any]]:
    """The texts of a page, strongest first."""
    out = []
    for case in cases.drop_duplicates("case").sort_values("rank")["case"].tolist():
        part = tokens[tokens["case"] == case].sort_values("position")
        values = [float(v) for v in part["activation"].tolist()]
        if values:
            most = max(values)
            out.append({"tokens": part["token"].tolist(), "values": values, "maxValue": most,
                        "maxValueTokenIndex": values.index(most), "minValue": min(values)})  # fmt: skip
    return out


def _identity(row: dict[str, Any], direction: Direction, model: str) -> tuple[str, str]:
    """Model id and source id: Neuronpedia's own where the dictionary is there, else made up here."""
    if row["link"]:
        model_id, layer, _ = str(row["link"]).removeprefix(f"{PAGES}/").split("/")
        return model_id, layer
    site = direction.site
    return model, f"{site.layer}-gnomon-{site.component}"
