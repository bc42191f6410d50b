"""Schemas of the tables that `features` writes, and how its findings become them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

TEXT, NUMBER, WHOLE, FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()
FEATURES = pa.schema(
    [("site", TEXT), ("feature", WHOLE), ("split", TEXT), ("f_correct", NUMBER), ("f_incorrect", NUMBER),
     ("separation", NUMBER), ("t", NUMBER), ("auroc", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("f1", NUMBER),
     ("z", NUMBER), ("p", NUMBER), ("q", NUMBER), ("max_t_p", NUMBER), ("discovered", FLAG), ("general_rate", NUMBER),
     ("n", WHOLE)]
)  # fmt: skip
"""One row a latent and split: on fit those with the smallest p (q: Benjamini-Hochberg over all searched; f1: of firing
at all; no interval, for they were chosen there), on test the selected ones (ci: of auroc; q: Holm; f1: at the
threshold). z: the statistic in standard deviations of its own shuffles."""
_ENDS = ("", "_low", "_high")
MEASURES = ("separation", "t", "auroc", "f1", "f1_always", "f1_gain", "f_correct", "f_incorrect")
SELECTED = pa.schema(
    [("predictor", TEXT), ("predicts", TEXT), ("rank", WHOLE), ("site", TEXT), ("feature", WHOLE),
     *((f"{m}{end}", NUMBER) for m in MEASURES for end in _ENDS),
     ("threshold", NUMBER), ("threshold_on", TEXT), ("p", NUMBER), ("holm", NUMBER), ("confirmed", FLAG),
     ("discovered", FLAG), ("q", NUMBER), ("max_t_p", NUMBER),
     *((f"fit_{c}", NUMBER) for c in ("separation", "t", "auroc", "f_correct", "f_incorrect")),
     ("general_rate", NUMBER), ("n", WHOLE), ("n_pos", WHOLE), ("dictionary", TEXT), ("link", TEXT), ("note", TEXT),
     ("class", TEXT)]
)  # fmt: skip
"""One row a selected latent: what it is worth on test. predicts: correct (label true) or incorrect; class: its name.
 f1_always: of always answering `predicts`; f1_gain: f1 less
that, paired. p: permutation on test, holm: over those discovered on fit; q and max_t_p: of the search on fit."""
PREDICTIONS = pa.schema(
    [("row", WHOLE), ("predictor", TEXT), ("site", TEXT), ("feature", WHOLE), ("score", NUMBER), ("threshold", NUMBER),
     ("fires", FLAG), ("split", TEXT)]
)  # fmt: skip
FAMILY = pa.schema([("what", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("n", WHOLE)])
BY_DIFFICULTY = pa.schema(
    [("target", TEXT), ("split", TEXT), ("predictor", TEXT), ("bin", WHOLE), ("easiest", NUMBER), ("hardest", NUMBER),
     ("metric", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("n", WHOLE), ("n_pos", WHOLE),
     ("selected", FLAG), ("note", TEXT)]
)  # fmt: skip
TOP_ROWS = pa.schema(
    [("case", TEXT), ("predictor", TEXT), ("site", TEXT), ("feature", WHOLE), ("rank", WHOLE), ("row", WHOLE),
     ("example_id", TEXT), ("split", TEXT), ("label", FLAG), ("activation", NUMBER), ("largest", NUMBER),
     ("prompt", TEXT), ("target", TEXT), ("answer", TEXT)]
)  # fmt: skip
"""The rows of fit and tune in which a latent is strongest; `activation` where it was read, `largest` at any token."""
TOPS = pa.schema(
    [("case", TEXT), ("site", TEXT), ("feature", WHOLE), ("rank", WHOLE), ("row", WHOLE), ("position", WHOLE),
     ("token", TEXT), ("activation", NUMBER)]
)  # fmt: skip
LOGITS = pa.schema(
    [("site", TEXT), ("feature", WHOLE), ("side", TEXT), ("rank", WHOLE), ("token", TEXT), ("id", WHOLE),
     ("effect", NUMBER)]
)  # fmt: skip
HISTOGRAM = pa.schema(
    [("site", TEXT), ("feature", WHOLE), ("kind", TEXT), ("low", NUMBER), ("high", NUMBER), ("middle", NUMBER),
     ("count", WHOLE)]
)  # fmt: skip
"""kind: the name of a class (rows of fit and tune in which it is active), logit (tokens by effect)."""
RATES = pa.schema(
    [("predictor", TEXT), ("site", TEXT), ("feature", WHOLE), ("class", TEXT), ("split", TEXT), ("value", NUMBER),
     ("ci_low", NUMBER), ("ci_high", NUMBER), ("n", WHOLE)]
)  # fmt: skip


def features_table(found: pd.DataFrame, selected: pd.DataFrame, n_fit: int, keep: int) -> pd.DataFrame:
    """Rows of `features`: the `keep` latents of smallest p on fit, all discovered and selected ones; then test."""
    chosen = set(zip(selected["site"], selected["feature"], strict=True)) if len(selected) else set()
    strong = (np.arange(len(found)) < keep) | found["discovered"].to_numpy(dtype=bool)
    named = np.array([pair in chosen for pair in zip(found["site"], found["feature"], strict=True)], dtype=bool)
    fit = found.loc[strong | named].assign(split="fit", n=n_fit, ci_low=np.nan, ci_high=np.nan)
    parts = [fit.reindex(columns=FEATURES.names)]
    if len(selected):
        test = selected.assign(split="test", ci_low=selected["auroc_low"], ci_high=selected["auroc_high"],
                               z=np.nan, q=selected["holm"], max_t_p=np.nan)  # fmt: skip
        parts.append(test.drop_duplicates(["site", "feature"]).reindex(columns=FEATURES.names))
    return pd.concat(parts, ignore_index=True)


def rates_table(selected: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """Firing rates by class on test, one row a class: what a page shows. names: of label true, of label false."""
    out: list[dict[str, Any]] = []
    for r in selected.to_dict("records"):
        for name, column in zip(names, ("f_correct", "f_incorrect"), strict=True):
            out.append({
                "predictor": r["predictor"], "site": r["site"], "feature": r["feature"], "class": name, "split": "test",
                "value": r[column], "ci_low": r[f"{column}_low"], "ci_high": r[f"{column}_high"],
                "n": r["n_pos"] if column == "f_correct" else r["n"] - r["n_pos"],
            })  # fmt: skip
    return pd.DataFrame(out, columns=RATES.names)


def predictions_table(
    selected: pd.DataFrame, columns: list[np.ndarray], rows: np.ndarray, split: np.ndarray
) -> pd.DataFrame:
    """One line a generation row and selected latent; `columns` are activations `[rows]` in the order of `selected`."""
    parts = [
        pd.DataFrame({
            "row": rows, "predictor": r["predictor"], "site": r["site"], "feature": r["feature"], "score": a,
            "threshold": r["threshold"], "fires": a > r["threshold"], "split": split,
        })
        for r, a in zip(selected.to_dict("records"), columns, strict=True)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=PREDICTIONS.names)
