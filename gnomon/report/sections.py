"""Each step's section: the blocks of its own summary made ready for the page, or its tables as they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gnomon.blocks import Block, Figure, Heat, Page, Table, Text, Tokens
from gnomon.errors import UserError
from gnomon.registry import recorded
from gnomon.report.charts import chart
from gnomon.report.escape import clip
from gnomon.report.formats import seconds, size
from gnomon.report.graph_link import page_view
from gnomon.report.heat import heat_view
from gnomon.report.resolve import pieces, source
from gnomon.report.rows import columns
from gnomon.report.tables import table_view, token_view
from gnomon.step import Step
from gnomon.store import Artifact

log = logging.getLogger("gnomon")
OPTION = 2000
TITLES = {"pca": "PCA"}
"""Steps whose name is no word."""
INTERNAL = ("directions",)
"""Tables that a generic section leaves to those who open the folder."""


@dataclass(frozen=True)
class Summary:
    """A step's blocks; `reason` says why they are generic ones, where they are."""

    blocks: list[Block]
    kind: type | None
    reason: str = ""


@dataclass(frozen=True)
class View:
    """One block made ready: `kind` is the block's name in lower case, or withheld; `data` what its template reads."""

    kind: str
    data: Any
    anchor: str = ""
    title: str = ""


@dataclass(frozen=True)
class Option:
    """One option of a step as it was run; `given` where it differs from the default, when that is known."""

    name: str
    value: str
    given: bool
    help: str = ""


@dataclass(frozen=True)
class Sentence:
    """A Text block ready for the page: words and numbers, each number with the cell that it comes from."""

    kind: str
    parts: list[tuple[str, str]]
    """(text, source): source is "" for typed words."""

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)


@dataclass(frozen=True)
class Section:
    """One step of the report."""

    name: str
    step: str
    anchor: str
    title: str
    lead: str
    reason: str
    views: list[View] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def sentences(self, kind: str) -> list[Sentence]:
        """The section's texts of one kind, in order."""
        return [v.data for v in self.views if v.kind == "text" and v.data.kind == kind]


def summarise(artifact: Artifact) -> Summary:
    """A step's own blocks, found by its class; generic ones where that is missing, too old, or fails.

    A module that only meta.json names is not imported: see `gnomon.registry.recorded`.
    A user's class may raise anything: the error is logged, and the report prints it in the section.
    """
    meta = artifact.meta
    name = str(meta.get("step", artifact.name))
    kind = None
    try:
        kind = recorded("step", name)
        if not issubclass(kind, Step):  # a name in a stranger's meta.json is called only where it is a step
            raise UserError(f"{name!r} is no step")
        known, written = getattr(kind, "version", 0), meta.get("version", 0)
        if isinstance(written, int) and written > known:
            reason = f"It was written by version {written} of this step, and version {known} is installed."
        else:
            return Summary(list(kind(**artifact.options).summary(artifact)), kind)
    except UserError as error:
        reason = f"Its own section could not be made: {error}."
    except Exception as error:
        log.warning("%s: the section of step %s failed: %s: %s", artifact.path, name, type(error).__name__, error)
        reason = f"Its own section could not be made: {type(error).__name__}: {clip(str(error), 300)}."
    return Summary(generic(artifact), kind, reason)


def generic(artifact: Artifact) -> list[Block]:
    """The tables of a step as they are, for a step whose class cannot speak for it."""
    names = [t for t in artifact.tables() if t not in INTERNAL]
    return [Table(name, title=name, columns=columns(artifact, name)[:14]) for name in names]


def make_section(artifact: Artifact, record: Mapping[str, Any], strict: bool = False) -> Section:
    """A step's section. A block that cannot be made is withheld and says why; with `strict` it raises UserError."""
    summary = summarise(artifact)
    if strict and summary.reason:
        raise UserError(f"step {artifact.name} has no section of its own", summary.reason)
    anchor = "step-" + artifact.name
    views = []
    for i, block in enumerate(summary.blocks):
        try:
            views.append(_view(block, artifact, f"{anchor}-{i}"))
        except UserError as error:
            if strict:
                raise
            log.warning("%s: a block of step %s is withheld: %s", artifact.path, artifact.name, error)
            views.append(View("withheld", str(error)))
    step = str(artifact.meta.get("step", artifact.name))
    doc = (summary.kind.__dict__.get("__doc__") or "") if summary.kind else ""
    title = TITLES.get(artifact.name) or artifact.name.replace("_", " ").capitalize()
    return Section(
        artifact.name, step, anchor, title, " ".join(doc.split("\n\n")[0].split()),
        summary.reason, views, _options(artifact, summary.kind), _facts(artifact, record),
    )  # fmt: skip


def _view(block: Block, artifact: Artifact, anchor: str) -> View:
    if isinstance(block, Text):
        parts = [(p.text, "" if p.ref is None else f"{artifact.name}/{source(p.ref)}") for p in pieces(block, artifact)]
        return View("text", Sentence(block.kind, parts), anchor)
    if isinstance(block, Table):
        return View("table", table_view(block, artifact), anchor, block.title)
    if isinstance(block, Figure):
        return View("figure", {"chart": chart(block, artifact), "caption": block.caption}, anchor, block.title)
    if isinstance(block, Tokens):
        return View("tokens", token_view(block, artifact), anchor, block.title)
    if isinstance(block, Heat):
        return View("heat", heat_view(block, artifact), anchor, block.title)
    if isinstance(block, Page):
        return View("page", page_view(block, artifact), anchor, block.title)
    raise UserError(f"{type(block).__name__} is no block", "Text, Table, Figure, Tokens, Heat or Page")


def _options(artifact: Artifact, kind: type | None) -> list[Option]:
    fields: Mapping[str, Any] = getattr(kind, "model_fields", {})
    out = []
    for name, value in artifact.options.items():
        known = fields.get(name)
        default = known.get_default(call_default_factory=True) if known is not None else None
        if default is not None and hasattr(default, "model_dump"):
            default = default.model_dump(mode="json")
        same = known is not None and json.dumps(value, default=str) == json.dumps(default, default=str)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        out.append(Option(str(name), clip(text, OPTION), not same, (known.description or "") if known else ""))
    return out


def _facts(artifact: Artifact, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    meta = artifact.meta
    inputs = meta.get("inputs") or {}
    read = dict.fromkeys(str(v.get("name", k)) if isinstance(v, dict) else str(v) for k, v in inputs.items())
    facts = [
        ("step", f"{meta.get('step', '')}, version {meta.get('version', '?')}"),
        ("read", ", ".join(read)),
        ("time", seconds(meta.get("seconds"))),
        ("peak memory", size(meta.get("peak_memory_bytes"))),
        ("files", file_count(artifact)),
        ("fingerprint", artifact.fingerprint[:12]),
        ("this run", "kept from an earlier run" if record.get("kept") else ""),
    ]
    return [(k, v) for k, v in facts if v]


def file_count(artifact: Artifact) -> str:
    """`12 files, 3.4 MB`: what meta.json lists, each with its sha256."""
    files = artifact.meta.get("files") or {}
    total = sum(int(f.get("bytes", 0)) for f in files.values())
    return f"{len(files)} file{'' if len(files) == 1 else 's'}, {size(total)}" if files else ""
