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

    groups: list[list[Site]]
    """Sites of equal width."""
    prompt: dict[Site, torch.Tensor] = field(default_factory=dict)
    """`[rows, width, d]` where prompt tokens are kept, else `[rows, d]` of the last one."""
    whole_prompt: bool = False
    steps: list[tuple[dict[int, int], list[torch.Tensor]] | None] = field(default_factory=list)
    """For each fed response token: (row -> slot, [stack `[slots, sites, d]` of each group]); None where dropped."""
    pinned: dict[tuple[int, int], list[torch.Tensor]] = field(default_factory=dict)
    """(row, step) -> [`[sites, d]` of each group]: kept when the step itself is dropped."""

    @classmethod
    def of(cls, sites: Sequence[Site], widths: Sequence[int], whole_prompt: bool) -> Store:
        """An empty store for sites of the given widths."""
        groups: dict[int, list[Site]] = {}
        for site, width in dict(zip(sites, widths, strict=True)).items():
            groups.setdefault(width, []).append(site)
        return cls(list(groups.values()), whole_prompt=whole_prompt)

    @property
    def sites(self) -> dict[Site, tuple[int, int]]:
        """site -> (group, index within the group's stack)."""
        return {site: (g, i) for g, group in enumerate(self.groups) for i, site in enumerate(group)}

    def add(self, values: dict[Site, torch.Tensor], rows: Sequence[int], ring: int | None) -> None:
        """Keep one step's `[slots, 1, d]` values; only the newest `ring` steps stay where a ring is given."""
        stacks = [torch.cat([values[site] for site in group], dim=1) for group in self.groups]
        self.steps.append(({row: slot for slot, row in enumerate(rows)}, stacks))
        if ring is not None and len(self.steps) > ring:
            self.steps[-ring - 1] = None

    def pin(self, row: int, step: int) -> None:
        """Keep one row of one step, whatever happens to the step."""
        kept = self.steps[step] if 0 <= step < len(self.steps) else None
        if kept is not None and row in kept[0]:
            self.pinned[row, step] = [stack[kept[0][row]].clone() for stack in kept[1]]

    def token(self, row: int, step: int) -> list[torch.Tensor]:
        """A response token at all sites: `[sites, d]` of each group; UserError where it was not kept."""
        if (row, step) in self.pinned:
            return self.pinned[row, step]
        kept = self.steps[step] if 0 <= step < len(self.steps) else None
        if kept is None or row not in kept[0]:
            raise UserError(f"response token {step} of row {row} was not captured", "a captured position")
        return [stack[kept[0][row]] for stack in kept[1]]

    def find(self, group: int, index: int, row: int, step: int) -> torch.Tensor | None:
        """`[d]` of a response token, or None where it is not there."""
        if (row, step) in self.pinned:
            return self.pinned[row, step][group][index]
        kept = self.steps[step] if 0 <= step < len(self.steps) else None
        return kept[1][group][kept[0][row], index] if kept is not None and row in kept[0] else None


@dataclass
class SiteActs:
    """Activations of one site, by row of the batch and token index (counted from the start of the unpadded prompt)."""

    site: Site
    store: Store
    place: tuple[int, int]
    """(group, index within the group) in the store's stacks."""
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
        elif (found := self.store.find(*self.place, row, step)) is not None:
            return found
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
            rows += [self.at(row, prompt + step)[None] for step in range(response)]
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

    def take(self, picks: Sequence[tuple[int, int, int]]) -> dict[Site, torch.Tensor]:
        """Values of the tokens [start, stop) of rows, `picks` being (row, start, stop): `[tokens, d]` for each site.

        Token indices count from the start of the unpadded prompt. One index a token serves all sites of a width.
        """
        if not self.acts:
            return {}
        store = next(iter(self.acts.values())).store
        steps: list[list[torch.Tensor]] = []
        parts: list[tuple[int, int, int, int, int]] = []  # row, its prompt tokens [a, b), its place [c, d) in `steps`
        for row, start, stop in picks:
            cut, first = self.prompt_lens[row], len(steps)
            steps += [store.token(row, step) for step in range(max(start - cut, 0), stop - cut)]
            parts.append((row, min(start, cut), min(stop, cut), first, len(steps)))
        stacked = [torch.stack(tokens) for tokens in zip(*steps, strict=True)]
        out: dict[Site, torch.Tensor] = {}
        for site, (group, index) in store.sites.items():
            if all(a == b for _, a, b, _, _ in parts):
                out[site] = stacked[group][:, index]
                continue
            pieces: list[torch.Tensor] = []
            for row, a, b, c, d in parts:
                if b > a:
                    held = store.prompt[site][row]
                    pieces.append(held[a:b] if store.whole_prompt else held[None])
                if d > c:
                    pieces.append(stacked[group][c:d, index])
            out[site] = torch.cat(pieces)
        return out
