"""Criteria: what must hold, stated in the study file before the data is seen; the verdict is by the interval.

at_least b   pass: ci_low >= b    fail: ci_high < b        above b   pass: ci_low > b    fail: ci_high <= b
at_most b    pass: ci_high <= b   fail: ci_low > b         below b   pass: ci_high < b   fail: ci_low >= b
Anything else is undecided, and so is a value without its interval (too few rows in a class), or without its row.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from gnomon.config import Criterion, StudyFile
from gnomon.disk import plain
from gnomon.errors import UserError, unknown
from gnomon.methods.verdict import RULES, verdict
from gnomon.planned import BACK, KEEP, Plan
from gnomon.store import META, Artifact, Study

COUNTS = ("n", "n_pos", "p", "q")
"""Columns that ci_low and ci_high do not speak of: judged by their value."""


def check(plan: Plan) -> list[str]:
    """Refuse, before any work, a criterion on a table or column that a kept step does not have.

    Of a step that will be made anew only its earlier folder can be asked: what that lacks is returned, a line each.
    """
    steps = {planned.name: planned for planned in plan.steps}
    doubts = []
    for criterion in plan.loaded.study.criteria:
        planned = steps[criterion.step]
        kept = planned.action in (KEEP, BACK)
        folder = planned.folder if kept else planned.node.path
        if not (folder / META).is_file():
            continue  # nothing is known of its tables yet
        try:
            _look(criterion, Artifact(folder))
        except UserError as error:
            if kept:
                raise
            doubts.append(f"going by the earlier {criterion.step}: {error}")
    return doubts


def _look(criterion: Criterion, artifact: Artifact) -> None:
    """Raise UserError where a folder lacks what a criterion reads."""
    what = f"in criterion {name(criterion)!r}:"
    if criterion.table not in artifact.tables():
        raise unknown(f"table of step {criterion.step} {what}", criterion.table, artifact.tables())
    columns = list(artifact.table(criterion.table).columns)
    for column in (criterion.column, *criterion.where):
        if column not in columns:
            raise unknown(f"column of {criterion.step}/{criterion.table} {what}", column, columns)


def name(criterion: Criterion) -> str:
    """What a criterion is called: its own name, or its statement."""
    return criterion.name or text(criterion)


def text(criterion: Criterion) -> str:
    """A criterion in words: probe/scores.value ≥ 0.6 where split = test."""
    where = ", ".join(f"{column} = {value if value != '' else repr('')}" for column, value in criterion.where.items())
    return f"{criterion.step}/{criterion.table}.{criterion.column} {bound(criterion)}" + (
        f" where {where}" if where else ""
    )


def bound(criterion: Criterion) -> str:
    """The bounds in signs: > 0.5, ≤ 0.9."""
    return ", ".join(f"{RULES[key][0]} {value:g}" for key, value in criterion.bounds.items())


def evaluate(study: StudyFile, folder: Study) -> list[dict[str, Any]]:
    """Every criterion with its value, interval, verdict and a word on what was lacking; plain JSON for run.json."""
    return [_evaluate(criterion, folder) for criterion in study.criteria]


def _evaluate(criterion: Criterion, folder: Study) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": name(criterion), "text": text(criterion), "bound": bound(criterion), "verdict": "undecided",
        "value": None, "ci_low": None, "ci_high": None, "n": None, "detail": "",
    }  # fmt: skip
    try:
        row = _row(criterion, folder)
    except UserError as error:
        return out | {"detail": str(error)}
    value = _number(row.get(criterion.column))
    if value is None:
        return out | {"detail": f"{criterion.column} is {row.get(criterion.column)!r}, no number"}
    out |= {"value": value, "n": row["n"] if isinstance(row.get("n"), int | float) else None}
    if not criterion.low or criterion.column in COUNTS:
        return out | {"verdict": verdict(criterion.bounds, value, value), "detail": "by the value alone"}
    if criterion.low not in row or criterion.high not in row:
        return out | {"detail": f"{criterion.table} has no columns {criterion.low} and {criterion.high}"}
    low, high = _number(row[criterion.low]), _number(row[criterion.high])
    if low is None or high is None:
        return out | {"detail": "the value has no interval: too few rows in a class"}
    if not low <= value <= high:
        return out | {"detail": f"{criterion.low} and {criterion.high} are not the interval of {criterion.column}"}
    return out | {"ci_low": low, "ci_high": high, "verdict": verdict(criterion.bounds, low, high)}


def _row(criterion: Criterion, folder: Study) -> dict[str, Any]:
    """The one row that a criterion picks."""
    table: Any = folder[criterion.step].table(criterion.table)
    for column, wanted in criterion.where.items():
        if column not in table.columns:
            raise unknown(f"column of {criterion.step}/{criterion.table}:", column, map(str, table.columns))
        values = table[column]
        table = table[values.isna() if wanted is None else values == wanted]
    if len(table) != 1:
        raise UserError(
            f"{len(table)} rows of {criterion.step}/{criterion.table} match", "exactly one", "change where:"
        )
    if criterion.column not in table.columns:
        raise unknown(f"column of {criterion.step}/{criterion.table}:", criterion.column, map(str, table.columns))
    return {str(key): plain(value) if hasattr(value, "item") else value for key, value in table.iloc[0].items()}


def _number(value: Any) -> float | None:
    """A finite number, or None; True counts as 1."""
    if value is None or isinstance(value, str) or pd.isna(value):
        return None
    return float(value) if math.isfinite(float(value)) else None
