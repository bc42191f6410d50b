"""References to table cells: found, formatted and put into sentences. No number of a headline is typed by hand."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Heat, Page, Ref, Table, Text, Tokens
from gnomon.errors import UserError, unknown
from gnomon.report.formats import interval, number
from gnomon.report.rows import column, plain, records, require, select
from gnomon.store import Artifact, Study

log = logging.getLogger("gnomon")


@dataclass(frozen=True)
class Piece:
    """A stretch of a sentence: typed words (`ref` None), or the text of one resolved reference."""

    text: str
    ref: Ref | None = None
    value: Any = None


def row(artifact: Artifact, ref: Ref) -> Mapping[str, Any]:
    """The one row that a reference points at; none or several raise UserError, which names the condition at fault."""
    require(artifact, ref.table, [*ref.where, ref.column])
    rows = select(artifact, ref.table, ref.where, [ref.column, "ci_low", "ci_high", "n", "n_pos"])
    if len(rows) != 1:
        raise UserError(
            f"reference {source(ref)} of step {artifact.name} matches {len(rows)} rows",
            "exactly one",
            _why(artifact, ref) if rows.empty else _what_differs(select(artifact, ref.table, ref.where)),
        )
    return records(rows)[0]


def _why(artifact: Artifact, ref: Ref) -> str:
    """Name the first condition that leaves no row, and what its column holds there instead."""
    done: dict[str, Any] = {}
    for name, wanted in ref.where.items():
        before = select(artifact, ref.table, done, ref.where)
        done[name] = wanted
        if select(artifact, ref.table, done, []).empty:
            held = sorted({str(plain(v)) for v in column(before, name).head(10_000)})[:8]
            return f"no row has {name}={wanted!r}; {name} there: {', '.join(held) or 'no rows'}"
    return "the table has no rows"


def _what_differs(rows: pd.DataFrame) -> str:
    differing = [str(c) for c in rows.columns if len({str(v) for v in column(rows, c).head(100)}) > 1]
    return f"add a condition; the rows differ in {', '.join(differing[:8])}" if differing else "the rows are equal"


def source(ref: Ref) -> str:
    """Where a number comes from, in words: `scores.value where predictor='difference', split='test'`."""
    conditions = ", ".join(f"{c}={v!r}" for c, v in ref.where.items())
    return f"{ref.table}.{ref.column}" + (f" where {conditions}" if conditions else "")


def value(artifact: Artifact, ref: Ref) -> Any:
    """The raw cell that a reference points at."""
    return row(artifact, ref)[ref.column]


def resolve(artifact: Artifact, ref: Ref) -> str:
    """The text of a reference: the formatted cell, with its interval where `ref.ci` asks for it.

    Raises UserError unless exactly one row matches, and where `ci` is asked of a table without ci_low and ci_high.
    """
    found = row(artifact, ref)
    text = number(found[ref.column], ref.format, ref.column)
    if not ref.ci:
        return text
    if "ci_low" not in found or "ci_high" not in found:
        raise UserError(
            f"reference {source(ref)} of step {artifact.name} asks for an interval",
            f"a table with ci_low and ci_high (it has {', '.join(found)})",
        )
    return f"{text} {interval(found['ci_low'], found['ci_high'], ref.format, found)}"


def pieces(block: Text, artifact: Artifact) -> list[Piece]:
    """A sentence taken apart: `{name}` resolved, `{{` and `}}` read as braces, a name without a reference refused."""
    out: list[Piece] = []
    for part in re.split(r"(\{\{|\}\}|\{\w+\})", block.text):
        if part in ("{{", "}}"):
            out.append(Piece(part[0]))
        elif re.fullmatch(r"\{\w+\}", part):
            name = part[1:-1]
            if name not in block.refs:
                raise unknown(f"reference in {block.text[:60]!r} of step {artifact.name}", name, block.refs)
            ref = block.refs[name]
            text = resolve(artifact, ref)
            if text.startswith("<") and out and out[-1].ref is None and re.search(r"=\s*$", out[-1].text):
                out[-1] = Piece(re.sub(r"=\s*$", "< ", out[-1].text))  # "p = <.001" reads "p < .001"
                text = text[1:]
            out.append(Piece(text, ref, value(artifact, ref)))
        elif part:
            out.append(Piece(part))
    return out


def render_text(block: Text, artifact: Artifact) -> str:
    """The block's sentence with every reference in its place, as plain text."""
    return "".join(piece.text for piece in pieces(block, artifact))


def headlines(study: Study | str | Path) -> list[str]:
    """The headline findings of every step, in the study's order, as plain sentences for a terminal.

    A sentence whose cells are not there is withheld, as in the report, and logged.
    """
    from gnomon.report.sections import summarise

    opened = study if isinstance(study, Study) else Study(study)
    lines = []
    for artifact in opened:
        for block in summarise(artifact).blocks:
            if isinstance(block, Text) and block.kind == "headline":
                try:
                    lines.append(render_text(block, artifact))
                except UserError as error:
                    log.warning("%s: a headline of step %s is withheld: %s", opened.path, artifact.name, error)
    return lines


def check(blocks: Iterable[Block], artifact: Artifact) -> list[str]:
    """What is wrong with a section, a line each: references that do not resolve, numbers typed into a headline,
    tables or columns that are not there, charts that cannot be drawn. [] when all is well.
    """
    from gnomon.report.charts import chart
    from gnomon.report.graph_link import page_view
    from gnomon.report.heat import heat_view
    from gnomon.report.tables import table_view, token_view

    problems = []
    for block in blocks:
        try:
            if isinstance(block, Text):
                render_text(block, artifact)
                problems += [
                    f"{artifact.name}: {typed!r} is typed into the headline {block.text[:60]!r}; use a Ref"
                    for typed in typed_numbers(block)
                ]
            elif isinstance(block, Table):
                table_view(block, artifact)
            elif isinstance(block, Figure):
                chart(block, artifact)
            elif isinstance(block, Tokens):
                token_view(block, artifact)
            elif isinstance(block, Heat):
                heat_view(block, artifact)
            elif isinstance(block, Page):
                page_view(block, artifact)
        except UserError as error:
            problems.append(f"{artifact.name}: {error}")
    return problems


def typed_numbers(block: Text) -> list[str]:
    """Numbers written by hand in a headline (the level of an interval, 95%, and names such as GPT-2 aside)."""
    if block.kind != "headline":
        return []
    words = re.sub(r"\{\w+\}", " ", block.text)
    words = re.sub(r"\b95\s?%", " ", words)
    return re.findall(r"(?<![\w.-])[-+]?(?:\d[\d,]*\.?\d*|\.\d+)%?(?![\w-])", words)
