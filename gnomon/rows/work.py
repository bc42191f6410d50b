"""The worker of `generate`: one shard of rows asked, graded, captured and written, its marker last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gnomon.halving import marked, run_halving
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
        } | marked(halved)
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
