"""`gnomon diff A B`: what it takes and prints; `diffs` does the work."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gnomon.errors import UserError
from gnomon.text import printable, table

if TYPE_CHECKING:
    from gnomon.diffs.arrays import ArrayDiff
    from gnomon.diffs.studies import Diff, Difference, StepDiff
    from gnomon.diffs.tables import Move

WIDTH = 110
STORY = ("versions", "machine", "environment", "executor")
"""Kinds that every step repeats: told once for the study where each step says the same."""


def diff_command(
    a: Annotated[Path, typer.Argument(help="A study's folder, or STUDY/STEP.")],
    b: Annotated[Path, typer.Argument(help="What it is held against: another study, or another STUDY/STEP.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Numbers nearer than this share of the larger count as the same.")
    ] = 0.0,
    most: Annotated[int, typer.Option("--most", help="Cells shown of each table, the furthest moved first.")] = 5,
) -> None:
    """Say what differs between two studies: options, inputs, models, versions - and which numbers moved.

    For a study made twice (another seed, option, version, machine): steps are matched by name, cells are held against
    each other as they stand. For two models that answered the same questions use `gnomon compare`, which pairs the
    questions and gives each difference its interval and test.

    Exit code 0 where every number is the same, 1 where one is not.
    """
    from gnomon.diffs.studies import diff

    if not 0 <= tolerance < 1 or most < 0:
        raise UserError(f"--tolerance {tolerance} --most {most}", "a share from 0 to below 1, and a number from 0 up")
    found = diff(a, b, tolerance, most)
    typer.echo(json.dumps(_strict(found.facts()), indent=2, ensure_ascii=False) if as_json else render(found))
    if not found.same_numbers:
        raise typer.Exit(1)


def render(found: Diff) -> str:
    """The comparison as text: what was asked, then headline numbers, then tables and their furthest cells."""
    told = set(found.study)
    rows = [_row("study", d) for d in found.study]
    for step in found.steps:
        if step.there != "both":
            rows.append((step.name, "only in", step.there.upper(), ""))
        rows += [_row(step.name, d) for d in step.differences if not (d.kind in STORY and d in told)]
    parts = [f"A  {found.a}\nB  {found.b}"]
    parts.append("what differs\n" + table(rows, ("", "", "A", "B"), "  ") if rows else "asked in the same way")
    parts.append("numbers\n" + table([line for step in found.steps for line in _lines(step)],
                                     ("step", "table", "rows A", "rows B", "cells", "moved", "outside A's interval"),
                                     "  "))  # fmt: skip
    headlines = [line for step in found.steps for line in _headlines(step)]
    parts += ["headline numbers that moved\n" + "\n".join(headlines)] if headlines else []
    moves = [line for step in found.steps for line in _moves(step)]
    parts += ["cells that moved furthest\n" + "\n".join(moves)] if moves else []
    parts.append("the same numbers" if found.same_numbers else "the numbers differ")
    return printable("\n\n".join(parts))


def _row(owner: str, difference: Difference) -> tuple[str, ...]:
    name = difference.name if difference.name != difference.kind else ""
    return owner, f"{difference.kind} {name}".strip(), shown(difference.a), shown(difference.b)


def _lines(step: StepDiff) -> list[tuple[str, ...]]:
    if step.there != "both":
        return [(step.name, f"only in {step.there.upper()}", "", "", "", "", "")]
    if step.same_files:
        return [(step.name, "every file is the same", "", "", "", "", "")]
    out = []
    for t in step.numbers.tables:
        if not t.same:
            lone = f" (columns of one side: {', '.join(t.columns)})" if t.columns else ""
            out.append((step.name, t.table + lone, *("none" if rows is None else str(rows) for rows in t.rows),
                        str(t.cells), str(t.moved), str(t.outside)))  # fmt: skip
    captured = [array for array in step.numbers.arrays if array.array.startswith("activations/")]
    for array in (array for array in step.numbers.arrays if array not in captured):
        out.append((step.name, f"array {array.array}{_largest([array])}", *map(_shape, array.shapes), "", "", ""))
    if captured:
        sites = sorted({array.array.split("/")[1] for array in captured})
        named = ", ".join(sites[:3]) + (f" and {len(sites) - 3} more" if len(sites) > 3 else "")
        out.append((step.name, f"activations {named}{_largest(captured)}", "", "", "", "", ""))
    return out or [(step.name, "every number is the same", "", "", "", "", "")]


def _largest(arrays: Sequence[ArrayDiff]) -> str:
    known = [array.largest for array in arrays if array.largest is not None]
    return f" (by {max(known):.3g} at most)" if known else ""


def _shape(shape: Any) -> str:
    return shape if isinstance(shape, str) else "none" if shape is None else " x ".join(map(str, shape))


def _headlines(step: StepDiff) -> list[str]:
    out = []
    for h in step.headlines:
        before, after = (text or shown(value) for text, value in ((h.text_a, h.a), (h.text_b, h.b)))
        out.append(_filled(f"{step.name}: {h.source}: {before} -> {after}{_beyond(h.outside)}"))
    return out


def _moves(step: StepDiff) -> list[str]:
    return [_filled(f"{step.name}/{t.table}{_where(move)}.{move.column}: {shown(move.a)} -> {shown(move.b)}"
                    f"{_beyond(move.outside, move.interval)}")
            for t in step.numbers.tables for move in t.moves]  # fmt: skip


def _where(move: Move) -> str:
    held = ", ".join(f"{key}={shown(value)}" for key, value in move.where.items() if value not in (None, ""))
    return f"[{held}]"


def _beyond(outside: bool | None, interval: Sequence[float] | None = None) -> str:
    if outside is None:
        return ""
    bounds = f" [{interval[0]:.6g}, {interval[1]:.6g}]" if interval else ""
    return f", {'outside' if outside else 'within'} A's interval{bounds}"


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def shown(value: Any) -> str:
    """A value in a line of text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return "none" if value is None else text if len(text) <= 60 else f"{text[:57]}..."


def _strict(value: Any) -> Any:
    """Numbers that JSON has none for as null."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list | tuple) else value
