"""The worker of `generate`: one shard of rows asked, graded, captured and written, its marker last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gnomon.errors import UserError
from gnomon.rows import table
from gnomon.rows.ask import Asking, ask_batch
from gnomon.rows.choose import choose_batch
from gnomon.rows.choose_letters import choose_letters, scores_letters
from gnomon.rows.gather import Gather
from gnomon.rows.merge import Copied, copy_shard
from gnomon.rows.plan import Shard
from gnomon.rows.play import play_shard
from gnomon.rows.table import Answer, line
from gnomon.step import ModelSpec
from gnomon.tasks.make import make_task
from gnomon.types import Site
from gnomon.writer import Writer

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Asker:
    """Picklable: what a process needs to answer shards of the plan. Without a task there are only shards to copy."""

    spec: ModelSpec
    option: Any
    asking: Asking | None
    path: Path
    model: Any = field(default=None, repr=False, compare=False)
    task: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"model": None, "task": None}

    def open(self) -> None:
        """Load the model and build the task, once a process."""
        if self.asking is not None:
            self.model, self.task = self.spec.load(), make_task(self.option)

    def __call__(self, shard: tuple[int, Shard | Copied]) -> dict[str, Any]:
        """Answer (or copy) shard `index` and write its files and marker; returns what the marker records."""
        index, batches = shard
        if isinstance(batches, Copied):
            return copy_shard(self.path, index, batches)
        assert self.asking is not None
        began = time.perf_counter()
        sites = [Site.parse(site) for site in self.asking.sites]
        gather = Gather(self.model, sites, self.asking.positions, self.asking.dtype)
        halved: list[int] = []
        answers = self._answer(batches, self.asking, gather, halved)
        files = Writer.attach(self.path).shard(index)
        baselines = getattr(self.task, "baselines", lambda example: {})
        lines = [line(answer, self.asking.condition, baselines(answer.row.example)) for answer in answers]
        files.table("generations", table.to_table(lines))
        info = {
            "rows": len(answers),
            "prompt_tokens": sum(len(a.prompt_ids) for a in answers),
            "new_tokens": sum(len(a.ids) for a in answers),
            "batches": [[row.row for row in batch] for batch in batches],
            "activation_bytes": gather.write(files),
            "seconds": round(time.perf_counter() - began, 3),
        }
        if halved:
            info["halved"] = halved
        files.finish(info)
        return info

    def _answer(self, batches: Shard, asking: Asking, gather: Gather, halved: list[int]) -> list[Answer]:
        model, task = self.model, self.task

        def run(work: Callable[[Sequence[Any]], list[R]], batch: Sequence[Any]) -> list[R]:
            return run_halving(work, batch, halved)

        if task.mode == "episode":
            return play_shard(model, task, batches, asking, gather, run)
        one = ask_batch
        if task.mode == "choices":
            one = choose_letters if scores_letters(task) else choose_batch
        return [a for batch in batches for a in run(lambda some: one(model, task, some, asking, gather), batch)]


def run_halving(work: Callable[[Sequence[T]], list[R]], batch: Sequence[T], halved: list[int]) -> list[R]:
    """Run a batch; where the device has no memory for it, run its halves, and note the size that failed.

    A halved batch has other neighbours, so its values agree with the plan's only within rounding: the marker says so.
    """
    try:
        return work(batch)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        if len(batch) == 1:
            raise UserError(
                f"out of memory on a batch of one row ({error})", "a device with more memory free",
                "lower max_length or max_new_tokens, capture fewer sites, or take dtype: bfloat16",
            ) from error  # fmt: skip
    release_memory()
    halved.append(len(batch))
    half = (len(batch) + 1) // 2
    return run_halving(work, batch[:half], halved) + run_halving(work, batch[half:], halved)


def out_of_memory(error: RuntimeError) -> bool:
    """True for torch's out-of-memory errors: CUDA's, MPS's, and the CPU allocator's."""
    text = str(error)
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "can't allocate memory" in text


def release_memory() -> None:
    """Give cached device memory back before a smaller try."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
