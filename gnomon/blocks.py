"""What a report section is made of. Blocks hold references to table cells, never numbers typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Ref:
    """One cell: the row of `table` where every column of `where` has that value, and its `column`.

    `format` is a Python format spec (".3f", ".1%", "d"); `ci=True` appends the interval from `ci_low`, `ci_high`.
    Exactly one row must match; the report refuses otherwise, and a test resolves every one of them.
    """

    table: str
    where: Mapping[str, Any]
    column: str = "value"
    format: str = ".3f"
    ci: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph; `{name}` in it is replaced by the cell that `refs[name]` points at. Plain text, no markup."""

    text: str
    refs: Mapping[str, Ref] = field(default_factory=dict)
    kind: Literal["text", "headline", "warning", "control", "limit", "method"] = "text"


@dataclass(frozen=True)
class Table:
    """Rows of a table file, chosen and ordered; `columns` None shows all. `labels` renames columns for reading."""

    table: str
    title: str = ""
    columns: Sequence[str] | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    sort: str = ""
    descending: bool = False
    limit: int = 20
    labels: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    marks: Sequence[str] = ("right", "wrong")
    """What true and false of a column `label` are called."""


@dataclass(frozen=True)
class Figure:
    """A chart of a table's columns; `low`/`high` draw the interval. `color` names the column that splits series.

    kinds: line, bar, scatter, histogram, heatmap (x, y, value). `reference` draws a horizontal line (chance = .5).
    """

    kind: Literal["line", "bar", "scatter", "histogram", "heatmap"]
    table: str
    x: str
    y: str
    title: str = ""
    color: str = ""
    low: str = ""
    high: str = ""
    value: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    reference: float | None = None
    reference_label: str = ""
    x_title: str = ""
    y_title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Tokens:
    """Transcripts from a table: prompt, response, target, parsed answer, and a right/wrong/unparsed mark."""

    table: str
    title: str = ""
    prompt: str = "prompt"
    text: str = "text"
    target: str = "target"
    answer: str = "answer"
    label: str = "label"
    extra: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    limit: int = 8
    marks: Sequence[str] = ("right", "wrong")
    """What labels true and false are called."""


@dataclass(frozen=True)
class Heat:
    """Texts coloured token by token: one row of `table` a token, in reading order, `case` telling the texts apart.

    `cases` names a table with one row a case, in the order wanted; its columns `extra` are shown above the tokens. A
    condition of `where` may name a column of either table. Both colours run to the largest |value| of a case, so that
    equal strength of colour is equal size.
    """

    table: str
    title: str = ""
    case: str = "case"
    token: str = "token"
    value: str = "value"
    cases: str = ""
    extra: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    limit: int = 12
    caption: str = ""


@dataclass(frozen=True)
class Page:
    """A page of its own that the step wrote into its folder, as a link; `picture`, an SVG beside it, is shown here."""

    file: str
    title: str = ""
    picture: str = ""
    caption: str = ""


Block = Text | Table | Figure | Tokens | Heat | Page
