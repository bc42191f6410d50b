"""Tiny steps for tests of the run loop: they make numbers without a model, in shards, and remember that they ran."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from gnomon.blocks import Block, Ref, Table, Text
from gnomon.errors import UserError
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer

SCHEMA = pa.schema([("row", pa.int64()), ("value", pa.float64()), ("split", pa.string()), ("note", pa.string())])
RAN: list[str] = []
"""Classes whose run() was called in this process, in order."""


@dataclass
class CountWorker:
    """Writes one shard of rows; `trouble` names what goes wrong on which shard."""

    path: str
    seed: int
    rows: int
    width: int
    trouble: Mapping[str, int]

    def open(self) -> None:
        with open(Path(self.path).parent / "opened", "a") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self, task: tuple[int, list[int]]) -> int:
        index, rows = task
        marker = Path(self.path).parent / "no-more-trouble"
        if not marker.exists():
            if self.trouble.get("kill") == index:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble.get("kill_once") == index:
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trouble.get("user_error") == index:
                raise UserError(f"shard {index} cannot be made", "another number", "choose n below 10")
            if self.trouble.get("bug") == index:
                raise ZeroDivisionError(f"shard {index}")
            if self.trouble.get("interrupt") == index:
                raise KeyboardInterrupt
            if self.trouble.get("full_disk") == index:
                raise OSError(28, "No space left on device", f"{self.path}/x")
            if self.trouble.get("sleep", 0):
                time.sleep(self.trouble["sleep"] / 1000)
        rng = np.random.default_rng([self.seed, index])
        shard = Writer.attach(self.path).shard(index)
        note = None if index == 0 else f"shard {index}"
        table = pd.DataFrame({"row": rows, "value": rng.random(len(rows)), "note": note,
                              "split": [("fit", "tune", "test")[r % 3] for r in rows]})  # fmt: skip
        shard.table("generations", table, SCHEMA)
        if self.width:
            values = rng.standard_normal((len(rows), self.width))
            shard.activations(Site("resid_post", 1), "last", values, np.array(rows), None, "float32")
        shard.finish({"rows": len(rows)})
        return len(rows)


class Nested(BaseModel):
    """Options inside an option."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    sites: str | list[str] = "resid_post.*"
    """Where."""
    positions: tuple[str, ...] = ("last",)


class Count(Step):
    """Counts: a generation of random numbers, in shards of `size` rows."""

    name: ClassVar[str] = "count"
    writes: ClassVar[tuple[str, ...]] = ("generations", "activations")
    uses_model: ClassVar[bool] = False

    n: int = 12
    """Rows."""
    size: int = 4
    width: int = 0
    """Width of the activations; 0 writes none."""
    scale: float = 1e-3
    flag: bool = False
    task: str | dict[str, Any] = "numbers"
    capture: Nested | None = None
    document: Path | None = None
    """A file."""
    trouble: dict[str, int] = Field(default_factory=dict)
    """What goes wrong on which shard."""
    like: str | None = None
    """An earlier step to copy the rows of."""

    def needs(self) -> Mapping[str, str]:
        return {"like": self.like} if self.like else {}

    def check(self, plan: Planning) -> None:
        if self.n < 1:
            raise UserError(f"n is {self.n}", "at least 1", "raise n")

    def cost(self, plan: Planning) -> Cost:
        sites = ("resid_post.1@last",) if self.width else ()
        return Cost(rows=self.n, prompt_tokens=5 * self.n, disk_bytes=100 * self.n, memory_bytes=1000, sites=sites,
                    splits={"fit": self.n // 3, "tune": self.n // 3, "test": self.n // 3})  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return {k: v for k, v in self.model_dump(mode="json").items() if k != "trouble"}

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        rows = list(range(self.n))
        shards = [rows[i : i + self.size] for i in range(0, self.n, self.size)]
        worker = CountWorker(str(out.path), ctx.seed, self.n, self.width, self.trouble)
        ctx.log.info("counting to %d", self.n, extra={"n": self.n})
        ctx.map(worker, shards, out, "count", [len(s) for s in shards])


class Mean(Step):
    """The mean of a generation's values."""

    name: ClassVar[str] = "mean"
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("scores",)
    uses_model: ClassVar[bool] = False

    add: float = 0.0
    """What is added."""
    fail: bool = False

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        table = ctx.split(inputs.generations(), "test", "the mean")
        if self.fail:
            raise UserError("the mean is not defined", "numbers", "set fail: false")
        value = float(table["value"].mean()) + self.add
        scores = pd.DataFrame([
            {"metric": "mean", "split": "test", "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1,
             "n": len(table)},
            {"metric": "thin", "split": "test", "value": value, "ci_low": np.nan, "ci_high": np.nan, "n": 1},
        ])  # fmt: skip
        out.table("scores", scores)

    def summary(self, artifact: Artifact) -> list[Block]:
        return [Text("The mean is {m}.", {"m": Ref("scores", {"metric": "mean"}, ci=True)}, kind="headline")]


class More(Step):
    """A capture: further activations of a generation."""

    name: ClassVar[str] = "more"
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("activations",)
    uses_model: ClassVar[bool] = False

    layer: int = 2

    def cost(self, plan: Planning) -> Cost:
        return Cost(rows=plan.inputs["generations"].rows, sites=(f"resid_post.{self.layer}@last",))

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        rows = inputs.generations()["row"].to_numpy()
        shard = out.shard(0)
        shard.activations(Site("resid_post", self.layer), "last", np.ones((len(rows), 3)), rows, None, "float32")
        shard.finish()


class Sites(Step):
    """Lists the activations it is given."""

    name: ClassVar[str] = "sites"
    reads: ClassVar[tuple[str, ...]] = ("generations", "activations")
    optional: ClassVar[tuple[str, ...]] = ("scores",)
    writes: ClassVar[tuple[str, ...]] = ("audit",)
    uses_model: ClassVar[bool] = False

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        scores = inputs["scores"].path.name if "scores" in inputs else ""
        found = [{"site": f"{site}@{position}", "scores": scores} for site, position in inputs.sites()]
        out.table("sites", pd.DataFrame(found))


class Ends(Step):
    """Shards, and then a table made of all of them."""

    name: ClassVar[str] = "ends"
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    uses_model: ClassVar[bool] = False

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        shards = [[i] for i in range(3)]
        ctx.map(CountWorker(str(out.path), 1, 3, 0, {}), shards, out, "ends")
        parts = [pd.read_parquet(path) for path in sorted((out.path / "generations").glob("*.parquet"))]
        out.table("total", pd.DataFrame({"n": [len(pd.concat(parts))]}))


class Several(Step):
    """Reads more than one generation."""

    name: ClassVar[str] = "several"
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    several: ClassVar[tuple[str, ...]] = ("generations",)
    uses_model: ClassVar[bool] = False

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        out.table("rows", pd.DataFrame({"n": [len(a.table("generations")) for a in inputs.all("generations")]}))


class Dice(Step):
    """Numbers that are not the same when made again: what a step should not be."""

    name: ClassVar[str] = "dice"
    writes: ClassVar[tuple[str, ...]] = ("generations",)
    uses_model: ClassVar[bool] = False

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        throws = ctx.study / "throws"
        throws.write_text(throws.read_text() + "x" if throws.exists() else "x")
        value = float(len(throws.read_text()))
        table = pd.DataFrame({"row": range(3), "value": value, "split": ["fit", "tune", "test"], "note": None})
        out.table("generations", table, SCHEMA)


class Timed(Dice):
    """The same numbers each time, and beside them what it took, which is never the same."""

    name: ClassVar[str] = "timed"
    clocked: ClassVar[tuple[str, ...]] = ("took",)

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        out.table("took", pd.DataFrame({"seconds": [time.perf_counter()]}))
        table = pd.DataFrame({"row": range(3), "value": 1.0, "split": ["fit", "tune", "test"], "note": None})
        out.table("generations", table, SCHEMA)


class Claim(Step):
    """Stands for audit_claim: reads a direction's file and a study's rows."""

    name: ClassVar[str] = "audit_claim"
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    uses_model: ClassVar[bool] = False

    direction: str
    site: str = ""
    times: float = 1.0

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        value = self.times * float(np.load(self.direction).sum())
        out.table("claims", pd.DataFrame({"claim": ["reads"], "verdict": ["fail"], "value": [value]}))

    def summary(self, artifact: Artifact) -> list[Block]:
        return [Text("It sums to {v}.", {"v": Ref("claims", {})}, kind="headline"), Table("claims", "Claims"),
                Text("Nobody looked at {x}.", {"x": Ref("claims", {"claim": "none"})}, kind="limit")]  # fmt: skip


class Asks(Step):
    """Uses the model, as far as the plan goes."""

    name: ClassVar[str] = "asks"
    writes: ClassVar[tuple[str, ...]] = ("generations",)

    def cost(self, plan: Planning) -> Cost:
        return Cost(rows=10, forward_tokens=1000, memory_bytes=10**6, disk_bytes=10**6)

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        RAN.append(type(self).__name__)
        table = pd.DataFrame({"row": range(3), "value": 1.0, "split": "test", "note": None})
        out.table("generations", table, SCHEMA)
