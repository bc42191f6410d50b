"""What the command line prints of studies and steps: plain text made from tables, without a model."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from gnomon import cli_arrays as arrays
from gnomon import cli_examples as examples
from gnomon.blocks import Table, Text
from gnomon.budget import folder_size
from gnomon.errors import UserError, unknown
from gnomon.store import META, Artifact, Study
from gnomon.text import duration, size, table

WIDTH = 110


def describe(path: str | Path) -> dict[str, Any]:
    """Facts of a study's folder, or of a step's (STUDY/STEP), as plain JSON."""
    folder = Path(path)
    if (folder / META).is_file():
        return _step(Artifact(folder))
    if not folder.is_dir() and (folder.parent / "run.json").is_file():
        raise unknown(f"step in {folder.parent}", folder.name, Study(folder.parent).names())
    study = Study(folder)
    record = {str(step["name"]): step for step in study.run.get("steps", [])}
    steps = [_brief(artifact) | {"kept": bool(record.get(artifact.name, {}).get("kept"))} for artifact in study]
    waiting = [name for name in record if name not in study.names()]
    report = folder / "report.html"
    return {
        "study": str(folder), "title": study.run.get("title", ""), "status": study.run.get("status", ""),
        "model": study.run.get("model", {}), "seed": study.run.get("seed"), "started": study.run.get("started"),
        "finished": study.run.get("finished"), "command": study.run.get("command", ""), "steps": steps,
        "not_made": waiting, "headlines": _headlines(study), "criteria": study.run.get("criteria", []),
        "report": str(report) if report.is_file() else "",
    }  # fmt: skip


def _brief(artifact: Artifact) -> dict[str, Any]:
    meta = artifact.meta
    return {
        "name": artifact.name, "step": meta.get("step"), "version": meta.get("version"),
        "fingerprint": artifact.fingerprint, "seconds": meta.get("seconds"), "bytes": folder_size(artifact.path),
        "tables": {name: artifact.outline(name)[0] for name in artifact.tables()},
    }  # fmt: skip


def _step(artifact: Artifact) -> dict[str, Any]:
    meta = artifact.meta
    columns = {name: artifact.outline(name)[1] for name in artifact.tables()}
    shapes = {name: list(artifact.array(name).shape) for name in artifact.arrays()}
    return _brief(artifact) | {
        "options": artifact.options, "inputs": meta.get("inputs", {}), "columns": columns, "arrays": shapes,
        "activations": [f"{site}@{position}" for site, position in artifact.sites()], "model": meta.get("model", {}),
        "started": meta.get("started"), "peak_memory_bytes": meta.get("peak_memory_bytes"),
        "ledger": meta.get("ledger", []),
        "findings": [{"kind": kind, "text": text} for kind, text in sentences(artifact)],
    }  # fmt: skip


def sentences(artifact: Artifact) -> list[tuple[str, str]]:
    """(kind, text) of every sentence of a step's own section; one whose cells are not there says so in its place."""
    from gnomon.report.resolve import render_text
    from gnomon.report.sections import summarise

    out = []
    for block in summarise(artifact).blocks:
        if isinstance(block, Text):
            try:
                out.append((block.kind, render_text(block, artifact)))
            except UserError as error:
                out.append(("warning", f"a sentence is withheld: {error}"))
    return out


def _headlines(study: Study) -> list[str]:
    return [text for artifact in study for kind, text in sentences(artifact) if kind == "headline"]


def render(facts: dict[str, Any]) -> str:
    """Facts of a study or a step as text."""
    whole = _render_study if "study" in facts else _render_step
    parts = [facts["error"] if "error" in facts else whole(facts)]
    parts += [examples.render(example) for example in facts.get("examples", [])]
    parts += [arrays.render(facts["array_checks"])] if "array_checks" in facts else []
    if "problems" in facts:
        parts.append("\n".join(facts["problems"]) or "every file is as it was written")
    return "\n\n".join(parts)


def _render_study(facts: dict[str, Any]) -> str:
    model = facts["model"]
    head = [
        facts["title"] or facts["study"],
        f"{model.get('name', '')} in {model.get('dtype', '')}, seed {facts['seed']}",
    ]
    head.append(f"{facts['status']}, begun {facts['started']}")
    rows = [(s["name"], str(s["step"]), duration(s["seconds"] or 0), size(s["bytes"]),
             ", ".join(f"{table} {rows}" for table, rows in s["tables"].items())) for s in facts["steps"]]  # fmt: skip
    parts = ["\n".join(head), table(rows, ("name", "step", "time", "size", "tables and rows"), "  ")]
    if facts["not_made"]:
        parts.append(f"not made yet: {', '.join(facts['not_made'])}; go on with: {facts['command']}")
    parts += [text for text in (_findings(facts["headlines"]), _criteria(facts["criteria"])) if text]
    return "\n\n".join([*parts, *([f"report: {facts['report']}"] if facts["report"] else [])])


def _render_step(facts: dict[str, Any]) -> str:
    head = f"{facts['name']}: step {facts['step']}, version {facts['version']}, fingerprint {facts['fingerprint'][:16]}"
    cost = f"made {facts['started']} in {duration(facts['seconds'] or 0)}, {size(facts['bytes'])}"
    parts = [head + "\n" + cost]
    parts += [_sentence(finding["kind"], finding["text"]) for finding in facts["findings"]]
    parts.append(
        "options\n"
        + table([(key, json.dumps(value, ensure_ascii=False)) for key, value in facts["options"].items()], indent="  ")
    )
    inputs = [(key, record["name"], str(record["fingerprint"])[:16]) for key, record in facts["inputs"].items()]
    parts += ["reads\n" + table(inputs, indent="  ")] if inputs else []
    tables = [(name, f"{rows}", ", ".join(facts["columns"][name])) for name, rows in facts["tables"].items()]
    parts += ["tables\n" + table(tables, ("name", "rows", "columns"), "  ")] if tables else []
    arrays = [(name, " x ".join(map(str, shape))) for name, shape in facts["arrays"].items()]
    parts += ["arrays\n" + table(arrays, indent="  ")] if arrays else []
    parts += [f"activations: {', '.join(facts['activations'])}"] if facts["activations"] else []
    reads = [(f"{entry.get('rows')}", str(entry.get("why"))) for entry in facts["ledger"]]
    parts += ["reads of the test split\n" + table(reads, ("rows", "why"), "  ")] if reads else []
    return "\n\n".join(parts)


def _sentence(kind: str, text: str) -> str:
    mark = {"headline": "* ", "text": ""}.get(kind, f"{kind}: ")
    return textwrap.fill(mark + text, WIDTH, subsequent_indent="  " if kind == "headline" else "")


def findings(study: Study) -> str:
    """What a run says at its end: headline findings, criteria, and where the report lies."""
    parts = [_findings(_headlines(study)), _criteria(study.run.get("criteria", []))]
    return "\n\n".join([*(part for part in parts if part), f"report: {study.path / 'report.html'}"])


def _findings(headlines: list[str]) -> str:
    return "\n".join(_sentence("headline", line) for line in headlines)


def _criteria(criteria: list[dict[str, Any]]) -> str:
    rows = []
    for c in criteria:
        value = "" if c.get("value") is None else f"{c['value']:.3f}"
        value += "" if c.get("ci_low") is None else f" [{c['ci_low']:.3f}, {c['ci_high']:.3f}]"
        rows.append((c["verdict"], c["name"], value, c.get("bound", ""), c.get("detail", "")))
    return "criteria\n" + table(rows, indent="  ") if rows else ""


def page(artifact: Artifact) -> str:
    """A step's own section as text, and where the report lies."""
    return f"{section(artifact)}\n\nthe whole: {artifact.path.parent / 'report.html'}"


def section(artifact: Artifact) -> str:
    """A step's own section as text: sentences and tables; charts stay in the report."""
    from gnomon.report.sections import summarise
    from gnomon.report.tables import table_view

    said = iter(sentences(artifact))
    parts = []
    for block in summarise(artifact).blocks:
        if isinstance(block, Text):
            parts.append(_sentence(*next(said)))
        elif isinstance(block, Table):
            view = table_view(block, artifact)
            rows = [[f"{cell.text} {cell.aside}".strip() for cell in row] for row in view.rows]
            parts.append("\n".join(filter(None, (view.title, table(rows, view.headers, "  ")))))
    return "\n\n".join(parts)
