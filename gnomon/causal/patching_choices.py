"""Trials of a choice: every option is scored behind its prompt, many patches as copies of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.causal.patching import Patcher, PatchShard
from gnomon.causal.patching_text import Pen, Writing
from gnomon.errors import UserError
from gnomon.halving import in_halves, run_halving
from gnomon.interventions.base import per_row
from gnomon.types import Intervention

TOKENS = 768
"""Most tokens in one forward of several patches."""


@dataclass
class Chooser(Patcher):
    """Scores every option of a choice; outcome: whether the likeliest is the first class's (the target).

    With `writing` the model also writes after the prompt, without a patch and under every feature's: the line's text.
    """

    writing: Writing | None = None

    def open(self) -> None:
        """Load the model; the last trials' clean run is kept for the next patches of the same trials."""
        super().open()
        self.clean: tuple[tuple[Any, ...], Any] = ((), None)
        self.pen = Pen(self.model, self.writing, self.seed) if self.writing is not None else None
        if self.pen is not None:
            self.pen.halved = self.halved

    def replay(self, shard: PatchShard, at: Sequence[int]) -> Any:
        """Some of the shard's texts (all that fit), run once without a patch; how they came about does not depend on
        the shard that asks."""
        from gnomon.models.replay import Replay

        key = (tuple(int(row["row"]) for row in shard.rows), tuple(at))
        if self.clean[0] != key:
            self.clean = ((), None)  # before the next one needs its room
            items = [shard.items[i] for i in at]
            self.clean = (key, Replay(
                self.model, [i.tokens for i in items], [i.keep for i in items], [i.score_from for i in items],
                [i.prompt_len for i in items],
            ))  # fmt: skip
        return self.clean[1]

    def baselines(self, shard: PatchShard) -> list[dict[str, Any]]:
        return self._written(shard, self.lines(shard, [None], self.scores(shard, [None])), [None])

    def patches(self, shard: PatchShard) -> list[dict[str, Any]]:
        every = self.edits(shard)
        out = self.lines(shard, [(one, to) for one, to, _ in every], self.scores(shard, [edit for _, _, edit in every]))
        return self._written(shard, out, [edit for one, _, edit in every if one.kind == "feature"])

    def scores(self, shard: PatchShard, edits: Sequence[Intervention | None]) -> np.ndarray:
        """Every text's log-probability under each edit (None: no edit), `[edits, items]`."""

        def under(at: Sequence[int]) -> list[np.ndarray]:
            replay, n = self.replay(shard, at), len(at)
            size = max(1, TOKENS // (n * replay.width))

            def run(part: Sequence[Intervention | None]) -> np.ndarray:
                joined = per_row([[] if e is None else [e] for e in part], np.repeat(np.arange(len(part)), n))
                return replay.run(joined, len(part)).logprob

            parts = [edits[a : a + size] for a in range(0, len(edits), size)]
            found = np.concatenate([x for part in parts for x in in_halves(run, part, self.halved, n)])
            replay.forget(min((e.site.layer for e in edits if e is not None), default=0))
            return list(found.T)

        return np.stack(run_halving(under, range(len(shard.items)), self.halved), axis=1)

    def _written(
        self, shard: PatchShard, lines: list[dict[str, Any]], edits: Sequence[Intervention | None]
    ) -> list[dict[str, Any]]:
        """The lines of baselines and features with what was written in place of the option's text."""
        if self.pen is None:
            return lines
        texts = iter(text for some in self.pen.write(shard.rows, edits) for text in some)
        return [line if line["kind"] == "control" else line | {"text": next(texts)} for line in lines]

    def lines(self, shard: PatchShard, patches: Sequence[Any], logprob: np.ndarray) -> list[dict[str, Any]]:
        """Lines of the trials from every option's log-probability `[patches, items]`."""
        places: dict[int, list[int]] = {}
        for at, item in enumerate(shard.items):
            places.setdefault(item.unit, []).append(at)
        out = []
        for k, patch in enumerate(patches):
            for at, row in enumerate(shard.rows):
                number = int(row["row"])
                score = logprob[k, places[number]] / np.asarray(shard.lengths[number], dtype=np.float64)
                best, target = int(np.argmax(score)), shard.target[number]
                out.append(self.line(
                    shard, at, patch, outcome=best == target, margin=margin(score, target),
                    text=str(row["choices"][best]),
                ))  # fmt: skip
        return out


def margin(scores: np.ndarray, target: int) -> float:
    """Score of option `target` minus that of the best other one, nats."""
    if len(scores) < 2:
        raise UserError("a choice of one option", "two or more")
    return float(scores[target] - np.delete(scores, target).max())
