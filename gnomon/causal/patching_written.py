"""Trials in which the model writes: its answer, or one round of an episode, is graded by the generation's task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.causal.patching import Patcher, PatchShard
from gnomon.causal.patching_text import Pen, Writing
from gnomon.causal.rewrite import example_of
from gnomon.tasks.make import make_task
from gnomon.types import Intervention


@dataclass
class Scribe(Patcher):
    """Lets the model write under every patch; outcome: the class of what it wrote, null where it cannot be parsed.

    A prompt out of an episode is one decision: its round's prompt is continued, and the reply alone is graded.
    """

    task: Any = None
    """The generation's `task` option."""
    writing: Writing = field(default_factory=lambda: Writing(1))

    def open(self) -> None:
        """Load the model and build the task."""
        super().open()
        self.made, self.pen = make_task(self.task), Pen(self.model, self.writing, self.seed)
        self.pen.halved = self.halved
        self.graded: dict[tuple[str, int, str], bool | None] = {}

    def baselines(self, shard: PatchShard) -> list[dict[str, Any]]:
        return self._lines(shard, [None], [None])

    def patches(self, shard: PatchShard) -> list[dict[str, Any]]:
        every = self.edits(shard)
        return self._lines(shard, [(one, to) for one, to, _ in every], [edit for _, _, edit in every])

    def _lines(
        self, shard: PatchShard, patches: Sequence[Any], edits: Sequence[Intervention | None]
    ) -> list[dict[str, Any]]:
        texts = self.pen.write(shard.rows, edits)
        return [
            self.line(shard, at, patch, outcome=self._grade(row, said[at]), margin=None, text=said[at])
            for patch, said in zip(patches, texts, strict=True)
            for at, row in enumerate(shard.rows)
        ]

    def _grade(self, row: dict[str, Any], text: str) -> bool | None:
        key = (str(row["example_id"]), int(row["row"]), text)
        if key not in self.graded:
            self.graded[key] = self.made.grade(example_of(row), text).label
        return self.graded[key]
