"""The numbers that headlines stand on, by the cell that each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gnomon.blocks import Ref, Text
from gnomon.diffs.cells import alike, interval_of, plain
from gnomon.errors import UserError
from gnomon.report.resolve import resolve, row, source
from gnomon.report.sections import summarise
from gnomon.store import Artifact


@dataclass(frozen=True)
class Headline:
    """A number that a headline stands on, on both sides; None where a side's table has no such row."""

    source: str
    a: float | None
    b: float | None
    text_a: str
    text_b: str
    outside: bool | None


def compare_headlines(a: Artifact, b: Artifact, tolerance: float = 0.0) -> list[Headline]:
    """Numbers of the headlines of either side that moved, by the cell that they come from."""

    refs = {}
    for artifact in (a, b):
        for block in summarise(artifact).blocks:
            if isinstance(block, Text) and block.kind == "headline":
                refs |= {source(ref): ref for ref in block.refs.values()}
    out = []
    for name, ref in refs.items():
        found = [_cells(artifact, ref) for artifact in (a, b)]
        x, y = (None if cells is None else plain(cells[ref.column]) for cells in found)
        if alike(x, y, tolerance):
            continue
        texts = ["" if cells is None else resolve(artifact, ref) for cells, artifact in zip(found, (a, b), strict=True)]
        first = found[0]
        ends = first is not None and (ref.ci or interval_of(ref.column, a.schema(ref.table).names)[0] == "ci_low")
        bounds = [plain(first[end]) for end in ("ci_low", "ci_high")] if first is not None and ends else []
        known = isinstance(y, int | float) and bounds and None not in bounds
        outside = not bounds[0] <= y <= bounds[1] if known else None
        out.append(Headline(name, x, y, texts[0], texts[1], outside))
    return out


def _cells(artifact: Artifact, ref: Ref) -> Mapping[str, Any] | None:
    """The row that a reference points at; None where there is none, or no such table."""
    try:
        return row(artifact, ref)
    except UserError:
        return None
