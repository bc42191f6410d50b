"""Schemas of the tables that `confidence_directions` writes, and the verdicts that its section speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gnomon import nulls
from gnomon.methods.increment import knows_more
from gnomon.methods.probe_tables import FACTS, SCORES, SWEEP

TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
PLACED_SCORES = pa.schema([("place", TEXT), *(column for column in SCORES if column.name != "selected")])
"""place: answer (the base generation's activations) or confidence (the pass's own)."""
PLACED_SWEEP = pa.schema([("place", TEXT), *SWEEP])
COSINES = pa.schema(
    [("pair", TEXT), ("site", TEXT), ("layer", WHOLE), ("series", TEXT), ("control", TEXT), ("value", NUMBER),
     ("ci_low", NUMBER), ("ci_high", NUMBER), ("p", NUMBER), ("q", NUMBER), ("plain", NUMBER), ("n", WHOLE),
     ("groups", WHOLE), ("chosen", pa.bool_()), ("note", TEXT)]
)  # fmt: skip
PAIRS = {
    "confidence and correctness, at the answer": "answer",
    "confidence and correctness, at the confidence position": "confidence",
    "confidence at the answer and at the confidence position": "both",
}
"""The pairs of directions whose cosine is taken, and the place that chooses the layer shown first."""


def holds(rows: Sequence[dict[str, Any]]) -> str:
    """Do the activations tell high from low? yes: interval above .5 and p <= .05; no: it reaches .5, or p > .05."""
    own = _one(rows, "high", "auroc")
    if own is None or not np.isfinite(own["ci_low"]):
        return "undecided"
    return "yes" if own["ci_low"] > 0.5 and own["p"] <= 0.05 else "no"


def beyond(rows: Sequence[dict[str, Any]]) -> str:
    """Does the direction tell right from wrong beyond the baselines? yes, no or undecided; see `increment`."""
    return knows_more(*(_one(rows, "correct", m, "increment") for m in ("auroc", "partial")))


def _one(rows: Sequence[dict[str, Any]], target: str, metric: str, predictor: str = "difference") -> Any:
    found = [
        r for r in rows if (r["target"], r["metric"], r["predictor"], r["control"]) == (target, metric, predictor, "")
    ]
    return found[0] if len(found) == 1 else None


def scores_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """All rows, with Holm's q over the directions' own scores."""
    main = [r for r in rows if r["predictor"] == "difference" and r["control"] == "" and np.isfinite(r["p"])]
    for row, q in zip(main, nulls.holm(np.array([r["p"] for r in main])), strict=True):
        row["q"] = float(q)
    lines = [{c: r.get(c) for c in PLACED_SCORES.names} for r in rows]
    return pa.Table.from_pylist(lines, schema=PLACED_SCORES)


def facts_table(facts: Sequence[tuple[str, float, str]]) -> pa.Table:
    """What was asked of which rows: (fact, value, text)."""
    return pa.Table.from_pylist([dict(zip(FACTS.names, row, strict=True)) for row in facts], schema=FACTS)
