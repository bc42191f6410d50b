"""The worker that scores texts under conditions: one shard = some texts x some conditions, with its own marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.items import Item, batched, in_order
from gnomon.halving import in_halves, marked, run_halving
from gnomon.interventions.base import per_row
from gnomon.step import Context, ModelSpec
from gnomon.types import Intervention
from gnomon.writer import Writer

TOKENS = 768
"""Most tokens in one forward of several conditions."""
SCHEMA = pa.schema(
    [("set", pa.string()), ("unit", pa.int64()), ("choice", pa.int64()), ("condition", pa.string()),
     ("logprob", pa.float64()), ("greedy", pa.bool_()), ("first", pa.int64()), ("tokens", pa.int64())]
)  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A name and its edits; none (or strength 0 only) is the clean run."""

    name: str
    edits: tuple[Intervention, ...] = ()

    @property
    def clean(self) -> bool:
        return all(edit.strength == 0 for edit in self.edits)

    @property
    def layer(self) -> int:
        """The lowest block that an edit touches; -1 for the embedding."""
        return min((-1 if e.site.component == "embed" else e.site.layer for e in self.edits if e.strength), default=0)


CLEAN = Condition("clean")


@dataclass(frozen=True)
class Block:
    """One shard: which texts (`set` names their kind), under which conditions."""

    set: str
    items: tuple[Item, ...]
    conditions: tuple[Condition, ...]


@dataclass
class Scorer:
    """Scores a block: clean prefix and lower layers once, then the conditions as copies of the batch."""

    spec: ModelSpec
    path: str
    batch_size: int = 16

    def open(self) -> None:
        """Load the model."""
        self.model = self.spec.load()

    def __call__(self, shard: tuple[int, Block]) -> None:
        """Score one block and write its part of table `outcomes`."""
        index, block = shard
        halved: list[int] = []
        parts: list[pd.DataFrame] = []
        for batch in batched(block.items, self.batch_size):

            def scored(at: Sequence[int], batch: Sequence[Item] = batch) -> list[pd.DataFrame]:
                return self.batch(batch, block, at, halved)

            parts += run_halving(scored, range(len(batch)), halved)
        files = Writer.attach(self.path).shard(index)
        files.table("outcomes", pa.Table.from_pandas(pd.concat(parts), schema=SCHEMA, preserve_index=False))
        files.finish(marked(halved))

    def batch(
        self, batch: Sequence[Item], block: Block, at: Sequence[int] | None = None, halved: list[int] | None = None
    ) -> list[pd.DataFrame]:
        """Outcomes of a batch's texts (`at`: of some) under every condition; edits are told their numbers in it."""
        from gnomon.models.replay import Replay

        at, whole = range(len(batch)) if at is None else at, len(batch)
        items = [batch[i] for i in at]
        replay = Replay(
            self.model, [i.tokens for i in items], [i.keep for i in items], [i.score_from for i in items],
            [i.prompt_len for i in items],
        )  # fmt: skip
        n, out = len(items), []
        clean = replay.run()
        size = max(1, TOKENS // (n * replay.width))
        for condition in block.conditions:
            if condition.clean:  # the same numbers to the last bit: nothing was changed
                out.append(self.rows(block.set, items, [condition], clean))
        edited = sorted((c for c in block.conditions if not c.clean), key=lambda c: c.layer)

        def run(part: Sequence[Condition]) -> pd.DataFrame:
            edits = per_row([c.edits for c in part], np.repeat(np.arange(len(part)), whole))
            told = [c * whole + i for c in range(len(part)) for i in at]
            return self.rows(block.set, items, part, replay.run(edits, len(part), told))

        for part in _parts(edited, size):
            replay.forget(part[0].layer)
            out += in_halves(run, part, halved, n)
        return out

    @staticmethod
    def rows(name: str, items: Sequence[Item], conditions: Sequence[Condition], scored: Any) -> pd.DataFrame:
        """A table of one row per condition and text."""
        k = len(conditions)
        return pd.DataFrame({
            "set": name, "unit": [i.unit for i in items] * k, "choice": [i.choice for i in items] * k,
            "condition": np.repeat([c.name for c in conditions], len(items)),
            "logprob": scored.logprob.reshape(-1), "greedy": scored.greedy.reshape(-1),
            "first": scored.first.reshape(-1).astype(np.int64),
            "tokens": [len(i.tokens) - i.score_from for i in items] * k,
        })  # fmt: skip


def _parts(conditions: Sequence[Condition], size: int) -> list[list[Condition]]:
    """Runs of at most `size` conditions that begin at the same block."""
    out: list[list[Condition]] = []
    for condition in conditions:
        if out and len(out[-1]) < size and out[-1][-1].layer == condition.layer:
            out[-1].append(condition)
        else:
            out.append([condition])
    return out


def blocks_of(name: str, items: Sequence[Item], conditions: Sequence[Condition], units: int = 32) -> list[Block]:
    """Blocks of about `units` texts of similar length; the choices of one question stay together."""
    together: dict[int, list[Item]] = {}
    for item in in_order(items):
        together.setdefault(item.unit, []).append(item)
    names = list(together)
    return [
        Block(name, tuple(i for unit in names[a : a + units] for i in together[unit]), tuple(conditions))
        for a in range(0, len(names), units)
    ]


def score(blocks: Sequence[Block], done: Sequence[Any], out: Writer, ctx: Context, label: str, batch: int) -> None:
    """Score the blocks that have no marker yet; `done` are those of earlier stages, whose shard numbers come first."""
    every = [*done, *blocks]
    sizes = [1] * len(done) + [len(b.items) * len(b.conditions) for b in blocks]
    ctx.map(Scorer(ctx.model_spec, str(out.path), batch), every, out, label, sizes)


def outcomes(out: Writer, table: str = "outcomes") -> pd.DataFrame:
    """All finished shards of the table, in order."""
    return pd.concat([pd.read_parquet(p) for p in sorted((out.path / table).glob("*.parquet"))], ignore_index=True)
