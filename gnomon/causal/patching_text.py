"""Continuing the prompts of trials under patches: prompt, sampling noise and everything but the patch shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.causal.rewrite import ROWS, WRITING
from gnomon.halving import run_halving
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
        self.halved: list[int] = []
        """Sizes that did not fit, since whoever holds the pen last looked."""

    def write(self, rows: Sequence[dict[str, Any]], edits: Sequence[Intervention | None]) -> list[list[str]]:
        """What follows the rows' prompts under each edit (None: no edit): a list of texts for each."""
        n = len(rows)
        size = max(1, ROWS // n)
        texts = [t for a in range(0, len(edits), size) for t in self._write(rows, edits[a : a + size])]
        return [texts[a : a + n] for a in range(0, len(texts), n)]

    def _write(self, rows: Sequence[dict[str, Any]], edits: Sequence[Intervention | None]) -> list[str]:
        from gnomon.models.sampling import noise

        how = self.writing
        shared = all(e is None or e.where in WRITING for e in edits)

        def write(pairs: Sequence[tuple[int, int]]) -> list[str]:
            """What follows row i's prompt under edit c, for pairs (c, i)."""
            own = [rows[i] for _, i in pairs]
            names = [(str(r["example_id"]), int(r["sample"]), int(r["round"])) for r in own]
            joined = per_row([[] if e is None else [e] for e in edits], [c for c, _ in pairs])
            heat = [float(r["temperature"]) if how.temperature is None else how.temperature for r in own]
            made = self.model.generate(
                [_prompt(r) for r in own], max_new_tokens=how.max_new_tokens, stop=how.stop, top_p=how.top_p,
                temperature=heat, noise=noise(self.seed, names, self.model.d_vocab), edit=joined,
                prefix=self._prefix(rows, [i for _, i in pairs]) if shared else None,
            )  # fmt: skip
            return [response.text for response in made.rows]

        return run_halving(write, [(c, i) for c in range(len(edits)) for i in range(len(rows))], self.halved)

    def _prefix(self, rows: Sequence[dict[str, Any]], picks: Sequence[int]) -> Any:
        """Keys and values of the picked prompts but for their last tokens; None where one has a single token."""
        used = sorted(set(picks))
        prompts = [_prompt(rows[i])[:-1] for i in used]
        if not all(prompts):
            return None
        names = tuple(int(rows[i]["row"]) for i in used)
        if self.prefix[0] != names:
            self.prefix = ((), None)  # before the next one needs its room
            cache = self.model.new_cache(reserve=self.writing.max_new_tokens + 1)
            self.model.forward(prompts, cache=cache)
            cache.align()
            self.prefix = (names, cache)
        return self.prefix[1].select([used.index(i) for i in picks])


def _prompt(row: dict[str, Any]) -> list[int]:
    return [int(i) for i in row["token_ids"]][: int(row["prompt_len"])]
