"""Schemas of the tables that `probe` writes, and the facts its report section speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from gnomon.methods.evidence import Result
    from gnomon.methods.probing import Problem

TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
SCORES = pa.schema(
    [("generation", TEXT), ("target", TEXT), ("site", TEXT), ("position", TEXT), ("predictor", TEXT), ("control", TEXT),
     ("split", TEXT), ("metric", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("n", WHOLE),
     ("n_pos", WHOLE), ("p", NUMBER), ("q", NUMBER), ("selected", pa.bool_()), ("note", TEXT)]
)  # fmt: skip
SWEEP = pa.schema(
    [("site", TEXT), ("component", TEXT), ("layer", WHOLE), ("position", TEXT), ("predictor", TEXT), ("series", TEXT),
     ("control", TEXT), ("split", TEXT), ("metric", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER),
     ("n", WHOLE), ("n_pos", WHOLE), ("p", NUMBER), ("q", NUMBER), ("p_max", NUMBER), ("penalty", NUMBER)]
)  # fmt: skip
NULL = pa.schema([("predictor", TEXT), ("draw", WHOLE), ("value", NUMBER)])
FOLDS = pa.schema(
    [("fold", WHOLE), ("site", TEXT), ("position", TEXT), ("predictor", TEXT), ("penalty", NUMBER), ("n_train", WHOLE),
     ("n", WHOLE), ("value", NUMBER)]
)  # fmt: skip
FACTS = pa.schema([("fact", TEXT), ("value", NUMBER), ("text", TEXT)])
TOKENS = pa.schema([("direction", TEXT), ("side", TEXT), ("rank", WHOLE), ("token", TEXT), ("id", WHOLE),
                    ("effect", NUMBER)])  # fmt: skip


def facts(
    of: Problem, found: Result, verdict: str, labels: pd.Series, smallest: float, moved: Mapping[str, int]
) -> pa.Table:
    """What was asked of which rows, as (fact, value, text).

    Args:
        verdict: what the increment says (`evidence.verdict`), `smallest` its bound.
        labels: the target of all rows that have a split, missing ones included.
        moved: by generation that the probe was transferred to, how many rows it had seen before.
    """
    known = int(labels.notna().sum())
    rows: list[tuple[str, float, str]] = [
        ("rows", len(of.y), ""),
        ("groups", len(np.unique(of.groups)), ""),
        ("candidates", len(found.found.every) // max(len(found.found.choices), 1), ""),
        ("unlabelled", len(labels) - known, ""),
        ("unread", known - len(of.y), ""),
        ("share", float(of.y.mean()), ""),
        ("two classes", float(of.binary), ""),
        ("verdict", np.nan, verdict),
        ("smallest increment", smallest, ""),
        ("target", np.nan, of.target),
        ("generation", np.nan, of.generation),
        ("left out", np.nan, "; ".join(found.dropped)),
        *((f"seen in {name}", float(count), name) for name, count in moved.items()),
    ]
    return pa.Table.from_pylist([dict(zip(FACTS.names, row, strict=True)) for row in rows], schema=FACTS)
