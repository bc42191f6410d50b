"""Heat blocks: a text's tokens coloured by signed numbers, with the scale, and the largest ones in words.

Colour is never the only sign: a token above 0 has a solid line under it, one below 0 a dashed one, each value stands
in the token's title, and the strongest tokens are listed with their values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from gnomon.blocks import Heat
from gnomon.errors import UserError
from gnomon.report.escape import clip, visible
from gnomon.report.formats import automatic, is_missing, number
from gnomon.report.rows import column, columns, keep, matches, plain, read, records, require
from gnomon.report.tables import MARKS, is_numeric, mark_of, words
from gnomon.store import Artifact

MOST_TOKENS = 400
"""Tokens shown of one case: its last ones, where the read position is; how many are left out is said."""
STRONGEST = 6
FAINT = 4
"""Percent of full colour under which a token is left plain."""
LONG = 90
"""A fact above the tokens that is longer than this has a line of its own."""
GLYPHS = {"\n": "⏎", "\t": "⇥"}


@dataclass(frozen=True)
class HeatToken:
    """One token: `html` as shown, `share` its colour in percent of the case's largest size, `tone` up, down or ""."""

    html: Markup
    tone: str
    share: int
    title: str

    @property
    def short(self) -> HeatToken:
        """The same on one line, for lists: a newline is its sign alone."""
        return replace(self, html=Markup(str(self.html).replace("\n", "")))  # was escaped when it was made


@dataclass(frozen=True)
class HeatCase:
    """One text: what is known of it, its tokens, the scale's end (`most`), and its strongest tokens with values."""

    name: str
    mark: str
    tone: str
    facts: list[tuple[str, str]]
    long: list[tuple[str, str]]
    tokens: list[HeatToken]
    left_out: int
    most: str
    strongest: list[tuple[HeatToken, str]]


@dataclass(frozen=True)
class HeatView:
    """Cases ready for the page; `total` are those that match, of which `items` are shown."""

    title: str
    items: list[HeatCase]
    total: int
    source: str
    caption: str


def heat_view(block: Heat, artifact: Artifact) -> HeatView:
    """Choose the cases of a Heat block and colour their tokens.

    Cases come in the order of `cases` (of the token table, where there is none). A condition of `where` holds in each
    of the two tables that has its column. UserError: an unknown table or column, values that are no numbers, a case
    that stands twice in `cases`.
    """
    require(artifact, block.table, [block.case, block.token, block.value])
    tokens = _chosen(block, artifact, block.table, [block.case, block.token, block.value])
    values = column(tokens, block.value)
    if len(tokens) and not is_numeric(values):
        raise UserError(
            f"column {block.value!r} of {artifact.name}/{block.table} holds {values.dtype}", "numbers to colour by"
        )
    by_case = dict(iter(tokens.groupby(block.case, sort=False)))
    if block.cases:
        about = _about(block, artifact)
    elif block.extra:
        raise UserError(f"Heat of {artifact.name}/{block.table} shows {', '.join(block.extra)}", "a table in `cases`")
    else:
        about = [{block.case: plain(key)} for key in by_case]
    items = [_case(block, facts, by_case.get(facts[block.case])) for facts in about[: block.limit]]
    return HeatView(
        block.title or "Tokens by value", items, len(about), f"{artifact.name}/{block.table}", block.caption
    )


def _chosen(block: Heat, artifact: Artifact, table: str, names: list[str]) -> pd.DataFrame:
    """Rows of one of the block's tables under those conditions that name a column of it."""
    have = set(columns(artifact, table))
    known = have | set(columns(artifact, block.table)) | set(columns(artifact, block.cases) if block.cases else ())
    for name in block.where:
        if name not in known:
            require(artifact, block.table, [name])
    rows = read(artifact, table, [*names, *block.where])
    for name, wanted in block.where.items():
        if name in have:
            rows = keep(rows, matches(column(rows, name), wanted))
    return rows


def _about(block: Heat, artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of `cases`, one a case."""
    require(artifact, block.cases, [block.case, *block.extra])
    rows = _chosen(block, artifact, block.cases, [block.case, *block.extra])
    keys = [record[block.case] for record in records(rows)]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise UserError(f"{artifact.name}/{block.cases} has {block.case} {twice!r} twice", "one row a case")
    return records(rows)


def _case(block: Heat, facts: Mapping[str, Any], rows: pd.DataFrame | None) -> HeatCase:
    values = np.zeros(0) if rows is None else column(rows, block.value).to_numpy(dtype=float)
    texts = [] if rows is None else ["" if is_missing(t) else str(t) for t in column(rows, block.token)]
    sizes = np.abs(values[np.isfinite(values)])
    most = float(sizes.max()) if sizes.size else 0.0
    spec = "+" + automatic(most)
    tokens = [_token(t, float(v), most, spec, i) for i, (t, v) in enumerate(zip(texts, values, strict=True))]
    order = np.argsort(-np.where(np.isfinite(values), np.abs(values), -1), kind="stable")[:STRONGEST]
    strongest = [(tokens[i].short, number(float(values[i]), spec)) for i in order if tokens[i].tone]
    shown = [(name.replace("_", " "), _fact(facts[name], name)) for name in block.extra if name != "label"]
    shown = [(name, text) for name, text in shown if text]
    mark = mark_of(facts["label"]) if "label" in block.extra else ""
    return HeatCase(
        f"{block.case.replace('_', ' ')} {words(facts[block.case])}", mark, MARKS.get(mark, ""),
        [(k, v) for k, v in shown if len(v) <= LONG and "\n" not in v],
        [(k, v) for k, v in shown if len(v) > LONG or "\n" in v],
        tokens[-MOST_TOKENS:], max(len(tokens) - MOST_TOKENS, 0), number(most, spec).removeprefix("+"), strongest,
    )  # fmt: skip


def _fact(value: Any, name: str) -> str:
    if is_missing(value):
        return ""
    return value if isinstance(value, str) else number(value, "", name) if np.isscalar(value) else words(value)


def _token(text: str, value: float, most: float, spec: str, place: int) -> HeatToken:
    if is_missing(value):
        return HeatToken(token_html(text), "", 0, f"token {place}: no value")
    share = round(100 * abs(value) / most) if most else 0
    tone = "" if share < FAINT else "up" if value > 0 else "down"
    return HeatToken(token_html(text), tone, share, f"{number(value, spec)} (token {place})")


def token_html(text: str) -> Markup:
    """A token as HTML: escaped, newlines and tabs drawn as signs (and still acting), a blank token's spaces as dots."""
    if text == "":
        return Markup('<span class="hid" title="a token without text of its own">empty</span>')
    if text.strip(" ") == "":
        return Markup('<span class="ws">{}</span>').format("·" * len(text) if len(text) < 9 else f"·×{len(text)}")
    out = []
    for part in re.split(r"([\n\t])", clip(text, 200)):
        if part in GLYPHS:
            out.append(Markup('<span class="ws" aria-hidden="true">{}</span>{}').format(GLYPHS[part], part))
        elif part:
            out.append(visible(part))
    return Markup("").join(out)
