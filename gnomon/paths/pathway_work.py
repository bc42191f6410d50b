"""The worker that traces targets: one shard = some targets of one site in all their prompts, with its own marker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from gnomon.dictionaries.of_step import dictionary_of, sites_of
from gnomon.dictionaries.shelf import Shelf
from gnomon.halving import marked
from gnomon.latents import latent_name
from gnomon.lens.feature_sources import Option, Source, sources
from gnomon.paths.trace import Goal, Keep, Traced, Tracer
from gnomon.step import Inputs, ModelSpec
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer

TRACES = pa.schema(
    [("target", pa.string()), ("source_site", pa.string()), ("source", pa.int64()), ("source_name", pa.string()),
     ("rank", pa.int64()), ("kind", pa.string()), ("row", pa.int64()), ("attribution", pa.float64()),
     ("source_activation", pa.float64())]
)  # fmt: skip
"""`pathways/traces`: one row a kept edge, kind and prompt. source_activation: summed over positions."""
TRACED = pa.schema(
    [("target", pa.string()), ("row", pa.int64()), ("activation", pa.float64()), ("candidates", pa.int64())]
)
"""`pathways/traced`: one row a target and prompt in which it was active."""


@dataclass(frozen=True)
class Job:
    """Some targets, and the tokens of the rows in which they are traced."""

    goals: tuple[Goal, ...]
    texts: Mapping[int, tuple[int, ...]]


def found_sources(option: Option, trained: str | None) -> list[Source]:
    """The dictionaries of the option, or those of the step in folder `trained`; none is loaded before it is asked for,
    so that a shelf's budget bounds what is in memory."""
    if option is not None or trained is None:
        return sources(option, Inputs({}))
    made = Artifact(trained)
    return [Source(str(Site.parse(s)), made.name, partial(dictionary_of, made, s)) for s in sites_of(made)]


def item_bytes(model: Any) -> int:
    """Bytes of a number of the dictionaries beside this model."""
    return 8 if str(model.dtype).endswith("float64") else 4


@dataclass
class Tracing:
    """Traces the targets of a job and writes its part of tables `traces` and `traced`."""

    spec: ModelSpec
    path: str
    option: Option
    trained: str | None
    kinds: tuple[str, ...]
    keep: Keep
    batch_size: int
    chunk: int
    last_only: bool
    budget: int | None

    def open(self) -> None:
        """Load the model; dictionaries are loaded when they are first used."""
        model = self.spec.load()
        shelf = Shelf(found_sources(self.option, self.trained), self.budget, item_bytes(model))
        self.tracer = Tracer(
            model, shelf, self.kinds, self.keep, batch_size=self.batch_size, chunk=self.chunk, last_only=self.last_only
        )

    def close(self) -> None:
        """Let go of model and dictionaries: a worker travels to other processes without them."""
        self.tracer.shelf.clear()
        del self.tracer

    def measure(self, job: Job) -> tuple[list[Traced], dict[str, Any]]:
        """Trace, and tell what it took: seconds, peak bytes, dictionaries' peak bytes and loads."""
        shelf, began = self.tracer.shelf, time.perf_counter()
        loads = shelf.loads
        self.tracer.halved.clear()
        forget_peak(self.spec.device)
        found = self.tracer.trace(job.goals, job.texts)
        return found, {
            "seconds": time.perf_counter() - began, "features": len(job.goals), "shelf_bytes": shelf.peak,
            "loads": shelf.loads - loads, "prompts": sum(len(g.rows) for g in job.goals),
            "peak_bytes": peak_bytes(self.spec.device),
        } | marked(self.tracer.halved)  # fmt: skip

    def __call__(self, shard: tuple[int, Job]) -> None:
        """Trace one job and write its files."""
        index, job = shard
        found, info = self.measure(job)
        files = Writer.attach(self.path).shard(index)
        files.table("traces", pa.Table.from_pylist([line for one in found for line in traces(one)], schema=TRACES))
        lines = [
            {"target": str(one.latent), "row": int(row), "activation": float(z), "candidates": one.candidates}
            for one in found
            for row, z in zip(one.rows, one.activations, strict=True)
        ]
        files.table("traced", pa.Table.from_pylist(lines, schema=TRACED))
        files.finish(info)


def traces(one: Traced) -> list[dict[str, Any]]:
    """Lines of table `traces` of one target."""
    out = []
    for e, (site, source) in enumerate(zip(one.sites, one.sources.tolist(), strict=True)):
        for kind, values in one.attribution.items():
            if np.isnan(values[:, e]).any():
                continue
            out += [
                {"target": str(one.latent), "source_site": str(site), "source": source,
                 "source_name": latent_name(site, source), "rank": e + 1, "kind": kind, "row": int(row),
                 "attribution": float(values[i, e]), "source_activation": float(one.z[i, e])}
                for i, row in enumerate(one.rows)
            ]  # fmt: skip
    return out


def jobs(goals: Sequence[Goal], texts: Mapping[int, tuple[int, ...]], size: int) -> list[Job]:
    """Jobs of up to `size` targets of one site each."""
    by_site: dict[Any, list[Goal]] = {}
    for goal in goals:
        by_site.setdefault(goal.latent.site, []).append(goal)
    out = []
    for _, some in sorted(by_site.items()):
        for start in range(0, len(some), size):
            part = tuple(some[start : start + size])
            rows = sorted({row for goal in part for row in goal.rows})
            out.append(Job(part, {row: texts[row] for row in rows}))
    return out


def peak_bytes(device: str) -> int:
    """Most bytes in use since the step began (of the GPU, where the model is on one: since `forget_peak`), the model
    included."""
    import resource
    import sys

    import torch

    if device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: str) -> None:
    """Begin a new count of the GPU's peak; that of a process is the whole step's."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
