"""Table and Tokens blocks as rows of ready cells: chosen, ordered, formatted, value and interval in one column."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gnomon.blocks import Table, Tokens
from gnomon.report.escape import clip
from gnomon.report.formats import COUNTS, NO_INTERVAL, P_VALUES, automatic, interval, is_missing, number, short
from gnomon.report.rows import column, columns, keep, plain, records, require, select
from gnomon.store import Artifact

CELL = 240
SIZES = ("n", "n_pos")
"""Columns that say why there is no interval, shown or not."""
VERDICTS = {"pass": "good", "ok": "good", "fail": "bad", "undecided": "unsure", "warn": "unsure"}
MARKS = {"right": "good", "wrong": "bad", "unparsed": "unsure"}


@dataclass(frozen=True)
class Cell:
    """`text` as shown; `key` is what sorting compares; `kind` is number, text, chip or missing."""

    text: str
    key: str = ""
    kind: str = "text"
    tone: str = ""
    aside: str = ""
    """The interval beside a value."""


@dataclass(frozen=True)
class TableView:
    """A table ready for the page: `total` rows matched, of which `rows` are shown; `source` is the file."""

    title: str
    headers: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]
    total: int
    source: str


@dataclass(frozen=True)
class Transcript:
    """One answer with its mark; `mark` is right, wrong, unparsed, or the table's own word."""

    mark: str
    tone: str
    prompt: str
    text: str
    target: str
    answer: str
    name: str = ""
    extra: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class TokensView:
    """Transcripts ready for the page; `counts` are of all matching rows, by mark."""

    title: str
    items: list[Transcript]
    counts: list[tuple[str, str, int]]
    total: int
    source: str


def table_view(block: Table, artifact: Artifact) -> TableView:
    """Choose, order and format the rows of a Table block. An unknown table or column is a UserError."""
    names = list(block.columns if block.columns is not None else columns(artifact, block.table))
    needed = [*names, *([block.sort] if block.sort else [])]
    require(artifact, block.table, needed)
    rows = select(artifact, block.table, block.where, [*needed, *SIZES])
    if block.sort:
        rows = rows.sort_values(block.sort, ascending=not block.descending, kind="stable", na_position="last")
    merged = {"value": ("ci_low", "ci_high")} if "value" in names else {}
    if "share" in names:
        merged["share"] = ("ci_low", "ci_high")
    merged = {v: ends for v, ends in list(merged.items())[:1] if all(e in names for e in ends)}
    before = names[max(names.index("ci_low") - 1, 0)] if merged else ""
    if before and before not in merged and pd.api.types.is_float_dtype(rows[before]):
        merged = {}  # the interval of another number: it stays behind that one
    ends = {e for pair in merged.values() for e in pair}
    shown = rows.head(block.limit)
    names = [n for n in names if n not in ends]
    specs = {n: block.formats.get(n) or _spec(column(shown, n), n) for n in names}
    cells = [[_cell(r, n, specs[n], merged.get(n), block.marks) for n in names] for r in records(shown)]
    headers = [block.labels.get(n, n.replace("_", " ")) + (" [95% interval]" if n in merged else "") for n in names]
    numeric = [is_numeric(column(shown, n)) for n in names]
    return TableView(block.title, headers, numeric, cells, len(rows), f"{artifact.name}/{block.table}")


def is_numeric(column: pd.Series) -> bool:
    """True for a column of numbers (booleans are none)."""
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def _spec(column: pd.Series, name: str) -> str:
    """One format for a whole column of real numbers, by its largest; "" where number() knows better."""
    if not pd.api.types.is_float_dtype(column) or P_VALUES.fullmatch(name) or COUNTS.fullmatch(name):
        return ""
    sizes = column.abs().replace([np.inf], np.nan).dropna()
    if sizes.empty or (sizes % 1 == 0).all():
        return ".0f" if len(sizes) else ""
    if sizes.max() > 100 * sizes[sizes > 0].min():
        return ""  # values of different kinds: each in its own format
    return automatic(float(sizes.max()))


def _cell(record: Mapping[str, Any], name: str, spec: str, ends: tuple[str, str] | None, marks: Sequence[str]) -> Cell:
    value = record[name]
    if is_missing(value) and name == "label":
        return Cell("unparsed", kind="chip", tone="unsure")
    if is_missing(value) and name in ("ci_low", "ci_high"):
        return Cell(interval(None, None, row=record), kind="missing")
    if is_missing(value):
        return Cell("–", kind="missing")
    if isinstance(value, bool) and name == "label":
        return Cell(*((marks[0], "", "chip", "good") if value else (marks[1], "", "chip", "bad")))
    if isinstance(value, str) and name in ("level", "verdict") and value in VERDICTS:
        return Cell(value, kind="chip", tone=VERDICTS[value])
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(int(value)))
    if isinstance(value, int | float):
        aside = interval(record[ends[0]], record[ends[1]], spec, record) if ends else ""
        return Cell(number(value, spec, name), repr(value), "number", aside=aside)
    return Cell(clip(words(value), CELL))


def words(value: Any) -> str:
    """A cell of any type as text: lists as their first members and their length, mappings as JSON."""
    if isinstance(value, list):
        head = ", ".join(words(v) for v in value[:8])
        return f"{head}, … ({len(value)})" if len(value) > 8 else head
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, float) and not is_missing(value):
        return short(f"{value:.4g}")
    return number(value) if isinstance(value, int | float) else str(value)


def token_view(block: Tokens, artifact: Artifact) -> TokensView:
    """Choose the transcripts of a Tokens block: the first of each mark in turn, shown in the table's order."""
    require(artifact, block.table, [block.prompt, block.text, *block.extra])
    optional = [block.target, block.answer, block.label, "example_id"]
    rows = select(artifact, block.table, block.where, [block.prompt, block.text, *block.extra, *optional])
    labelled = block.label in rows.columns
    tones = {block.marks[0]: "good", block.marks[1]: "bad", "unparsed": "unsure"}
    marks = [mark_of(plain(v), block.marks) for v in column(rows, block.label)] if labelled else [""] * len(rows)
    order = list(dict.fromkeys([m for m in tones if m in marks] + marks))
    by_mark = {m: [i for i, mark in enumerate(marks) if mark == m] for m in order}
    chosen: list[int] = []
    depth = 0
    while len(chosen) < min(block.limit, len(rows)):
        layer = [places[depth] for places in by_mark.values() if depth < len(places)]
        chosen += layer[: block.limit - len(chosen)]
        depth += 1
    items = [
        _transcript(block, r, marks[i], tones)
        for i, r in zip(sorted(chosen), records(rows.iloc[sorted(chosen)]), strict=True)
    ]
    counts = [(m, tones.get(m, ""), len(by_mark[m])) for m in order if m]
    return TokensView(block.title or "Transcripts", items, counts, len(rows), f"{artifact.name}/{block.table}")


def mark_of(label: Any, marks: Sequence[str] = ("right", "wrong")) -> str:
    """The mark of a label that is true or false, unparsed for a missing one; a word of the table's own stays itself."""
    if is_missing(label):
        return "unparsed"
    if isinstance(label, str):
        return {"correct": marks[0], "true": marks[0], "incorrect": marks[1], "false": marks[1]}.get(
            label.lower(), label
        )
    return marks[0] if label else marks[1]


def _transcript(block: Tokens, record: Mapping[str, Any], mark: str, tones: Mapping[str, str]) -> Transcript:
    def get(column: str) -> str:
        value = record.get(column)
        return "" if is_missing(value) else words(value) if not isinstance(value, str) else value

    extra = [(name.replace("_", " "), get(name)) for name in block.extra]
    return Transcript(
        mark, tones.get(mark, ""), get(block.prompt), get(block.text), get(block.target), get(block.answer),
        get("example_id"), [(k, v) for k, v in extra if v],
    )  # fmt: skip


def no_interval_rows(table: pd.DataFrame) -> int:
    """Rows of a table that would have an interval but for their size: ci columns that are missing, a small class."""
    if not {"ci_low", "ci_high", "n"} <= {str(c) for c in table.columns}:
        return 0
    missing = table["ci_low"].isna() | table["ci_high"].isna()
    return sum(interval(None, None, row=r) == NO_INTERVAL for r in records(keep(table, missing)))
