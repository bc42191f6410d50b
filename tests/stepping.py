"""Run one step into a folder without a study file: `made(step, study, spec)` gives its committed artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gnomon.blocks import Text
from gnomon.report.resolve import check, render_text
from gnomon.step import Context, Inputs, ModelSpec, Step
from gnomon.store import Artifact
from gnomon.writer import Writer


def made(
    step: Step,
    study: Path,
    spec: ModelSpec,
    name: str = "",
    inputs: Mapping[str, Sequence[Artifact]] | None = None,
    named: Mapping[str, Artifact] | None = None,
    executor: Any = None,
    seed: int = 0,
) -> Artifact:
    """Run and commit; the fingerprint is the step's name, which tests of resuming do not use."""
    name = name or step.name
    study.mkdir(parents=True, exist_ok=True)
    writer = Writer(study, name, name)
    ctx = Context(study, spec, seed, executor)
    step.run(Inputs(inputs or {}, named), writer, ctx)
    return writer.commit({
        "step": step.name, "name": name, "options": step.model_dump(mode="json"),
        "model": asdict(spec) | spec.facts(), "ledger": ctx.ledger, "writes": list(step.writes),
    })  # fmt: skip


def data_files(artifact: Artifact) -> dict[str, str]:
    """sha256 of every table and array of a step, by name."""
    files = artifact.meta["files"]
    return {name: record["sha256"] for name, record in files.items() if name.endswith((".parquet", ".npy"))}


def sentences(step: type[Step], artifact: Artifact) -> dict[str, list[str]]:
    """Sentences of the report section by kind, after every reference was resolved."""
    blocks = step(**artifact.options).summary(artifact)
    assert check(blocks, artifact) == []
    out: dict[str, list[str]] = {}
    for block in blocks:
        if isinstance(block, Text):
            out.setdefault(block.kind, []).append(render_text(block, artifact))
    return out
