"""Run one step into a folder without a study file: `made(step, study, spec)` gives its committed artifact.

`InTurn` stands for two worker processes and `stopped` for a kill where a file asks what a *step* makes of them; that
processes and kills are so is shown once for all, in tests/test_executors.py and tests/test_faults_*.py.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

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


class InTurn:
    """An executor of two workers in this process, each unpickled; the shards go to them in turn, the last first."""

    def processes(self, memory_bytes: int = 0) -> int:
        return 2

    def prepare(self, folder: Path) -> None: ...

    def close(self) -> None: ...

    def map(self, worker: Any, shards: Sequence[Any], watch: Any = None) -> Iterator[tuple[Any, Any]]:
        workers = [pickle.loads(pickle.dumps(worker)) for _ in range(2)]
        for one in workers:
            one.open()
        for i, shard in enumerate(reversed(shards)):
            yield shard, pickle.loads(pickle.dumps(workers[i % 2](pickle.loads(pickle.dumps(shard)))))


class Stopped(BaseException):
    """What ends a step in the middle; nobody catches it."""


@contextmanager
def stopped(worker: type, after: int) -> Iterator[None]:
    """A step in this block ends once `worker` has made `after` shards."""
    made_so_far, real = [], worker.__call__

    def call(self: Any, job: Any) -> Any:
        if len(made_so_far) == after:
            raise Stopped
        made_so_far.append(job)
        return real(self, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "__call__", call)
        with pytest.raises(Stopped):
            yield


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
