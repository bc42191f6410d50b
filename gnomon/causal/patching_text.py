"""Continuing the prompts of trials under patches: prompt, sampling noise and everything but the patch shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.causal.rewrite import ROWS, WRITING
from gnomon.interventions.base import per_row
from gnomon.types import Intervention


@dataclass(frozen=True)
class Writing:
    """How the model writes; `temperature` None: as the row was written."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float = 1.0


class Pen:
    """Writes after prompts. Keys and values of the last prompts (but for their last tokens) are kept for the next."""

    def __init__(self, model: Any, writing: Writing, seed: int) -> None:
        self.model, self.writing, self.seed = model, writing, seed
        self.prefix: tuple[tuple[int, ...], Any] = ((), None)

    def write(self, rows: Sequence[dict[str, Any]], edits: Sequence[Intervention | None]) -> list[list[str]]:
        """What follows the rows' prompts under each edit (None: no edit): a list of texts for each."""
        n = len(rows)
        size = max(1, ROWS // n)
        texts = [t for a in range(0, len(edits), size) for t in self._write(rows, edits[a : a + size])]
        return [texts[a : a + n] for a in range(0, len(texts), n)]

    def _write(self, rows: Sequence[dict[str, Any]], edits: Sequence[Intervention | None]) -> list[str]:
        from gnomon.models.sampling import noise

        k, how = len(edits), self.writing
        names = [(str(r["example_id"]), int(r["sample"]), int(r["round"])) for r in rows] * k
        joined = per_row([[] if e is None else [e] for e in edits], np.repeat(np.arange(k), len(rows)))
        heat = [float(r["temperature"]) if how.temperature is None else how.temperature for r in rows] * k
        shared = all(e is None or e.where in WRITING for e in edits)
        made = self.model.generate(
            [_prompt(r) for r in rows] * k, max_new_tokens=how.max_new_tokens, stop=how.stop, top_p=how.top_p,
            temperature=heat, noise=noise(self.seed, names, self.model.d_vocab), edit=joined,
            prefix=self._prefix(rows, k) if shared else None,
        )  # fmt: skip
        return [response.text for response in made.rows]

    def _prefix(self, rows: Sequence[dict[str, Any]], copies: int) -> Any:
        """Keys and values of the prompts but for their last tokens, repeated; None where one has a single token."""
        prompts = [_prompt(r)[:-1] for r in rows]
        if not all(prompts):
            return None
        names = tuple(int(r["row"]) for r in rows)
        if self.prefix[0] != names:
            cache = self.model.new_cache(reserve=self.writing.max_new_tokens + 1)
            self.model.forward(prompts, cache=cache)
            cache.align()
            self.prefix = (names, cache)
        return self.prefix[1].select(list(range(len(rows))) * copies)


def _prompt(row: dict[str, Any]) -> list[int]:
    return [int(i) for i in row["token_ids"]][: int(row["prompt_len"])]
