"""What a step is, what it is given, and what it says it will cost.

A step is a frozen pydantic model: its fields are the study file's options, the command line's help and the saved
record. `run.py` builds every step, plans it, and calls `run` with the folders it reads and a writer for its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.model_spec import ModelSpec
from gnomon.shards import Executor, ShardEvent, Watch, Worker
from gnomon.store import Artifact
from gnomon.tally import Meter, Silent, Tally, warn
from gnomon.types import Activations, Site, Split
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model

KINDS = (
    "generations", "activations", "directions", "layers", "scores", "effects", "audit",
    "neurons", "second_order", "pca", "lexicon", "text", "neuron_ablations", "edits", "metrics", "pairs",
    "dictionary", "features", "temperatures",
    "confidence", "calibration", "emergence", "surface", "self_other", "swap", "comparison",
    "risk", "causal_features", "pathways", "replay", "tokens", "integrated",
)  # fmt: skip
LOGITS = ("top_ids", "top_logits")
"""Columns of generations that hold kilobytes a row: read where they are asked for."""


@dataclass
class Cost:
    """What a step will take, before any work: shown by --dry-run, checked against `limits`."""

    rows: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    forward_tokens: int = 0
    """Tokens pushed through the whole model (a forward of half the blocks counts half)."""
    disk_bytes: int = 0
    memory_bytes: int = 0
    sites: tuple[str, ...] = ()
    """`site@position` that the step will have written."""
    splits: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planning:
    """What a step may look at when it is checked and costed: no activations, no weights."""

    model: ModelSpec
    seed: int
    inputs: Mapping[str, Cost]
    """Expected cost (rows, sites, splits) of the earlier step by the kind it writes, and by its name."""
    source_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of those same steps, by the same keys."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of the models that those steps ran, by the same keys; "" where they ran none."""


def rows_of(generation: Artifact, logits: bool = False) -> pd.DataFrame:
    """The generations table of a step, ordered by row; `logits`: with `top_ids` and `top_logits` too."""
    names = [name for name in generation.schema("generations").names if logits or name not in LOGITS]
    return generation.table("generations", names).sort_values("row").reset_index(drop=True)


class Inputs:
    """The folders a step reads: by kind (`inputs["generations"]`), or by an option's name (`inputs.named(...)`)."""

    def __init__(self, kinds: Mapping[str, Sequence[Artifact]], named: Mapping[str, Artifact] | None = None) -> None:
        self._kinds, self._named = dict(kinds), dict(named or {})

    def __getitem__(self, kind: str) -> Artifact:
        found = self._kinds.get(kind) or ()
        if not found:
            raise UserError(f"no input of kind {kind!r}", f"inputs: {', '.join(self._kinds) or 'none'}")
        return found[0]

    def __contains__(self, kind: str) -> bool:
        return bool(self._kinds.get(kind))

    def all(self, kind: str) -> list[Artifact]:
        """Every input of a kind (a generation and its later captures all hold `activations`)."""
        return list(self._kinds.get(kind) or ())

    def named(self, name: str) -> Artifact:
        """The step that an option names (`using: probe`, `transfer_to: other`)."""
        if name not in self._named:
            raise UserError(f"no step named {name!r} among the inputs", f"named: {', '.join(self._named) or 'none'}")
        return self._named[name]

    def generations(self, logits: bool = False) -> pd.DataFrame:
        """The generations table, ordered by row, row as a column (axis 0 of every array made from it).

        logits: with the columns `top_ids` and `top_logits` too, which hold kilobytes a row.
        """
        return rows_of(self["generations"], logits)

    def sites(self) -> list[tuple[Site, str]]:
        """(site, position) pairs of the generation and all of its captures, in order."""
        return sorted({pair for artifact in self.all("activations") for pair in artifact.sites()})

    def activations(self, site: Site | str, position: str | None = None) -> Activations:
        """Values at a site and position, wherever they were captured."""
        text = str(site) if position is None else f"{site}@{position}"
        name, _, where = text.partition("@")
        parsed = Site.parse(name)
        whole = (Site(parsed.component, parsed.layer), where)
        for artifact in self.all("activations"):
            if whole in artifact.sites():
                return artifact.activations(text)
        known = ", ".join(f"{s}@{p}" for s, p in self.sites()[:6]) or "none"
        raise UserError(
            f"no activations at {text}", f"captured: {known}, ...", "add it to generate.capture, or a capture step"
        )


@dataclass
class Context:
    """What the run lends a step: the model, the executor, the seed, the log, progress, and the ledger of test reads."""

    study: Path
    model_spec: ModelSpec
    seed: int = 0
    executor: Executor | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("gnomon"))
    bar: Callable[[str, int | None], AbstractContextManager[Meter]] | None = None
    ledger: list[dict[str, Any]] = field(default_factory=list)
    limits: Mapping[str, float] = field(default_factory=dict)
    watch: Watch | None = None
    """Told what happens to shards and workers."""
    work: list[dict[str, Any]] = field(default_factory=list)
    """What each map did (`Tally.record`): rows, tokens, bytes, seconds, workers, retries."""
    _known: dict[Path, set[int]] = field(default_factory=dict)
    """Shards that a map of this run was given, by folder."""

    def model(self) -> Model:
        """The study's (or the entry's own) model, loaded on first use."""
        return self.model_spec.load()

    def progress(self, label: str, total: int | None) -> AbstractContextManager[Meter]:
        """A progress bar: `with ctx.progress("generate", n) as advance: advance(3)`; silent without a terminal."""
        return self.bar(label, total) if self.bar is not None else nullcontext(Silent())

    def split(self, table: pd.DataFrame, split: Split, why: str) -> pd.DataFrame:
        """Rows of one split. Reading `test` is written into the ledger, which the report prints."""
        here = np.asarray(table["split"]) == split
        if split == "test":
            self.ledger.append({"split": split, "rows": int(here.sum()), "why": why})
        return table.loc[here]

    def map(
        self, worker: Worker, shards: Sequence[Any], out: Writer, label: str, sizes: Sequence[int] | None = None
    ) -> None:
        """Run the worker over the shards that have no marker yet. `shards[i]` is shard i; the worker writes its files.

        The worker gets `(index, shard)`, writes its files through `Writer.attach(path).shard(index)` and calls
        `finish()`; a killed step resumes at its missing shards, whatever number of workers made the others.
        """
        done = out.done()
        missing = [(i, s) for i, s in enumerate(shards) if i not in done]
        counts = list(sizes) if sizes is not None else [1] * len(shards)
        known = self._known.setdefault(out.path, set())  # an earlier stage's shards, passed again, are no news
        new = set(range(len(shards))) - known
        known |= new
        if left := len(new & set(done)):
            self.log.info("%s: %d of %d shards are there already", label, left, len(new))
        if self.executor is None:
            from gnomon.executors.local import Local

            executor: Executor = Local()
        else:
            executor = self.executor
        tally = Tally(label=label, folder=out.path, sizes=counts)
        try:
            with self.progress(label, sum(counts)) as meter:
                meter.already(sum(counts[i] for i in range(len(shards)) if i in done))

                def watch(event: ShardEvent) -> None:
                    tally.note(event)
                    warn(self.log, label, event)
                    meter.look(tally)
                    if self.watch is not None:
                        self.watch(event)

                for (index, _), _ in executor.map(worker, missing, watch):
                    tally.done(index)
                    meter(counts[index])
                out.wait_for([i for i, _ in missing], getattr(executor, "disk_delay", 0.0))
        finally:
            if tally.say(self.log):
                self.work.append(tally.record())


class Step(BaseModel):
    """Base of every step: options as fields, what it reads and writes, how it runs and how it reads in the report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    """Raised whenever the same options would give other numbers: part of the fingerprint."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Kinds (see KINDS) that an earlier step must have written."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Kinds that are used where an earlier step wrote them."""
    writes: ClassVar[tuple[str, ...]] = ()
    """Kinds it may write; `activations` counts where `cost(plan).sites` names some."""
    several: ClassVar[tuple[str, ...]] = ()
    """Kinds of which `from: [a, b]` may give it more than one (`inputs.all(kind)`); otherwise that is refused."""
    gathers: ClassVar[tuple[str, ...]] = ()
    """Kinds of which every earlier step of the same generation is read, unless `from` names some (all confidence
    passes of the same answers, say); `plan.inputs` has each of them by its name."""
    clocked: ClassVar[tuple[str, ...]] = ()
    """Tables of measured seconds and bytes, other each time: what reads this step is kept when only they differ."""
    uses_model: ClassVar[bool] = True
    """False for a step that never calls `ctx.model()`: another model then does not remake it by itself."""

    def needs(self) -> Mapping[str, str]:
        """Earlier steps that options name, by option: {"using": "probe"}; they join the fingerprint's inputs."""
        return {}

    def check(self, plan: Planning) -> None:
        """Refuse, before any work, what cannot work (a site the model lacks, a position not captured, ...)."""

    def cost(self, plan: Planning) -> Cost:
        """Predict what running will take."""
        return Cost()

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same beside model, seed and inputs: the options, and hashes of data they name."""
        return self.model_dump(mode="json")

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        """Do the work: read `inputs`, write tables and arrays to `out`. The run commits."""
        raise UserError(f"step {type(self).__name__} has no run()", "a class that defines run(inputs, out, ctx)")

    def summary(self, artifact: Artifact) -> list[Block]:
        """This step's section of the report, made from its tables alone (no model, no torch)."""
        return []


def expand_positions(positions: Sequence[str]) -> list[str]:
    """Check position names (last_prompt, last, answer, response, all) and drop repeats."""
    from gnomon.errors import unknown
    from gnomon.sites import POSITIONS

    for position in positions:
        if position not in POSITIONS:
            raise unknown("position", position, POSITIONS)
    return list(dict.fromkeys(positions))


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive slices of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
