"""What a decoded batch hands back: responses, their log-probabilities, and activations captured on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from gnomon.errors import UserError
from gnomon.types import Site

Finish = Literal["eos", "stop", "length"]


@dataclass
class Response:
    """One row's answer.

    token_ids: what was kept, without the end token and without tokens that lie behind a stop string (a token that the
    stop string splits is kept). text: cut exactly before the stop string. logprobs `[tokens]`: log-softmax at
    temperature 1 of each kept token. top_ids, top_logits `[tokens, k]`: the k highest logits at each kept token.
    max_prob, entropy (nats), margin (logit of the first minus the second): of the first token's distribution.
    """

    token_ids: list[int]
    text: str
    finish: Finish
    logprobs: np.ndarray
    max_prob: float
    entropy: float
    margin: float
    top_ids: np.ndarray | None = None
    top_logits: np.ndarray | None = None


@dataclass
class Store:
    """Activations as they came: the prompt's, and a stack for every decoding step, sites grouped by width."""

    sites: dict[Site, tuple[int, int]]
    """site -> (group, index within the group's stack)"""
    prompt: dict[Site, torch.Tensor] = field(default_factory=dict)
    """`[rows, width, d]` where prompt tokens are kept, else `[rows, d]` of the last one."""
    whole_prompt: bool = False
    steps: list[tuple[dict[int, int], list[torch.Tensor]] | None] = field(default_factory=list)
    """For each fed response token: (row -> slot, [stack `[sites, slots, d]` of each group]); None where dropped."""

    @classmethod
    def of(cls, sites: Sequence[Site], widths: Sequence[int], whole_prompt: bool) -> Store:
        groups = {width: number for number, width in enumerate(dict.fromkeys(widths))}
        counts = [0] * len(groups)
        table: dict[Site, tuple[int, int]] = {}
        for site, width in zip(sites, widths, strict=True):
            group = groups[width]
            table[site] = (group, counts[group])
            counts[group] += 1
        return cls(table, whole_prompt=whole_prompt)

    def add(self, values: dict[Site, torch.Tensor], rows: Sequence[int], ring: int | None) -> None:
        """Keep one step's `[slots, 1, d]` values; only the newest `ring` steps stay where a ring is given."""
        groups: list[list[torch.Tensor]] = [[] for _ in {group for group, _ in self.sites.values()}]
        for site, (group, _) in self.sites.items():
            groups[group].append(values[site][:, 0])
        stacks = [torch.stack(group) for group in groups]
        self.steps.append(({row: slot for slot, row in enumerate(rows)}, stacks))
        if ring is not None and len(self.steps) > ring:
            self.steps[-ring - 1] = None


@dataclass
class SiteActs:
    """Activations of one site, by row of the batch and token index (counted from the start of the unpadded prompt)."""

    site: Site
    store: Store
    prompt_lens: list[int]
    response_lens: list[int]

    def at(self, row: int, token_index: int) -> torch.Tensor:
        """`[d]` of one token; UserError where it was not captured."""
        step = token_index - self.prompt_lens[row]
        if step < 0:
            prompt = self.store.prompt.get(self.site)
            if prompt is not None and self.store.whole_prompt and token_index >= 0:
                return prompt[row, token_index]
            if prompt is not None and step == -1:
                return prompt[row]
        elif step < len(self.store.steps) and (kept := self.store.steps[step]) is not None and row in kept[0]:
            group, index = self.store.sites[self.site]
            return kept[1][group][index, kept[0][row]]
        raise UserError(f"{self.site} of row {row}, token {token_index} was not captured", "a captured position")

    def last_prompt(self) -> torch.Tensor:
        """`[rows, d]` of the prompts' last tokens."""
        return torch.stack([self.at(row, length - 1) for row, length in enumerate(self.prompt_lens)])

    def last(self) -> torch.Tensor:
        """`[rows, d]` of the last kept response token; of the prompt's last token where the response is empty."""
        ends = [p + r - 1 for p, r in zip(self.prompt_lens, self.response_lens, strict=True)]
        return torch.stack([self.at(row, end) for row, end in enumerate(ends)])

    def values(self, position: str) -> tuple[torch.Tensor, np.ndarray]:
        """Ragged `[tokens, d]` and offsets `[rows + 1]` of the `response`, or of `all` tokens."""
        if position not in ("response", "all"):
            raise UserError(f"position {position!r}", "response or all", "use last_prompt(), last() or at(row, token)")
        rows: list[torch.Tensor] = []
        for row, (prompt, response) in enumerate(zip(self.prompt_lens, self.response_lens, strict=True)):
            if position == "all":
                if not self.store.whole_prompt:
                    raise UserError(f"{self.site} was not captured at all tokens", "positions that name `all`")
                rows.append(self.store.prompt[self.site][row, :prompt])
            if response:
                rows.append(torch.stack([self.at(row, prompt + step) for step in range(response)]))
        first = self.prompt_lens if position == "all" else [0] * len(self.prompt_lens)
        lengths = [f + r for f, r in zip(first, self.response_lens, strict=True)]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if not rows:
            width = next(iter(self.store.prompt.values())).shape[-1] if self.store.prompt else 0
            return torch.empty(0, width), offsets
        return torch.cat(rows), offsets


@dataclass
class Generated:
    """A decoded batch: `rows[i]` answers prompt i; `acts[site]` are its activations (see `SiteActs`)."""

    rows: list[Response]
    prompt_lens: list[int]
    acts: dict[Site, SiteActs] = field(default_factory=dict)
    steps: int = 0
    """Forward passes of one token that were made after the prompt's."""

    def __len__(self) -> int:
        return len(self.rows)
