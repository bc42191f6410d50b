"""Which slots of a padded batch hold which tokens, and what an intervention's `where` selects among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gnomon.errors import UserError

Where = str | tuple[int, ...]
PLACES = ("all", "prompt", "generated", "last_prompt")


@dataclass(frozen=True)
class Selection:
    """Selected tokens: `index` into the flattened [rows * width] batch (None: every slot), their rows and positions."""

    index: torch.Tensor | None
    rows: torch.Tensor
    positions: torch.Tensor


class Layout:
    """A right-padded chunk: slot t of row i holds the token at position starts[i] + t, for t < counts[i].

    `prompt_lens[i]` counts the prompt's tokens; a later position is generated. `rows[i]` is the row's number in the
    caller's batch, which stays the same when finished rows leave. `shifts[i]`: how far to the right of its position a
    cached token of row i lies.
    """

    def __init__(
        self,
        counts: Sequence[int],
        width: int,
        device: torch.device,
        starts: Sequence[int] | None = None,
        prompt_lens: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
        shifts: Sequence[int] | None = None,
    ) -> None:
        self.counts, self.width, self.device = list(counts), width, device
        self.starts = list(starts) if starts is not None else [0] * len(self.counts)
        ends = [start + count for start, count in zip(self.starts, self.counts, strict=True)]
        self.prompt_lens = list(prompt_lens) if prompt_lens is not None else ends
        self.rows = list(rows) if rows is not None else list(range(len(self.counts)))
        self.shifts = list(shifts) if shifts else [0] * len(self.counts)
        self._cache: dict[Where, Selection | None] = {}

    def select(self, where: Where) -> Selection | None:
        """The tokens that `where` names, or None where it names none of this chunk; UserError for an unknown place."""
        key = where if isinstance(where, str) else tuple(int(i) for i in where)
        if key not in self._cache:
            self._cache[key] = self._select(key)
        return self._cache[key]

    def _slots(self, where: Where, row: int) -> Sequence[int]:
        start, count, prompt = self.starts[row], self.counts[row], self.prompt_lens[row]
        cut = min(max(prompt - start, 0), count)
        match where:
            case "all":
                return range(count)
            case "prompt":
                return range(cut)
            case "generated":
                return range(cut, count)
            case "last_prompt":
                return range(prompt - 1 - start, prompt - start) if 0 <= prompt - 1 - start < count else ()
            case str():
                raise UserError(f"unknown place {where!r}", f"one of {', '.join(PLACES)}, or token indices")
        if any(i < 0 for i in where):
            raise UserError(f"token indices {where} are negative", "indices counted from the start of the text")
        return [i - start for i in where if 0 <= i - start < count]

    def _select(self, where: Where) -> Selection | None:
        index: list[int] = []
        rows: list[int] = []
        positions: list[int] = []
        for row in range(len(self.counts)):
            for slot in self._slots(where, row):
                index.append(row * self.width + slot)
                rows.append(self.rows[row])
                positions.append(self.starts[row] + slot)
        if not index:
            return None
        full = len(index) == len(self.counts) * self.width

        def tensor(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, device=self.device)

        return Selection(None if full else tensor(index), tensor(rows), tensor(positions))

    @property
    def real(self) -> torch.Tensor:
        """Flat indices of every real token, row by row: `values.reshape(-1, d)[real]` is ragged, without padding."""
        selection = self.select("all")
        if selection is None:
            return torch.empty(0, dtype=torch.long, device=self.device)
        if selection.index is None:
            return torch.arange(len(self.counts) * self.width, device=self.device)
        return selection.index


def positions_of(layout: Layout) -> torch.Tensor:
    """Token positions, `[1, width]` where all rows start alike and `[rows, width]` otherwise."""
    steps = torch.arange(layout.width, device=layout.device)[None]
    if len(set(layout.starts)) <= 1:
        return steps + (layout.starts[0] if layout.starts else 0)
    return torch.tensor(layout.starts, device=layout.device)[:, None] + steps


def causal_mask(
    layout: Layout, positions: torch.Tensor, window: int | None, always: bool = False
) -> torch.Tensor | None:
    """The boolean attention mask `[1 or rows, 1, width, slots]`, or None where plain causality already says it.

    Right padding needs none: a padded slot lies after every real token of its row, which never looks ahead. A mask is
    needed where cached rows differ in length, where a chunk of several tokens follows cached ones, and where a
    sliding window (a query sees `window` tokens, itself included) is shorter than the text. `always` builds it anyway.
    """
    past = max((a + b for a, b in zip(layout.starts, layout.shifts, strict=True)), default=0)
    total = past + layout.width
    windowed = window is not None and total > window
    ragged = len(set(layout.starts)) > 1 or any(layout.shifts)
    if not (always or windowed or ragged or (past and layout.width > 1)):
        return None
    keys = torch.arange(total, device=layout.device)
    if any(layout.shifts):
        keys = keys - torch.tensor(layout.shifts, device=layout.device)[:, None, None, None]
    query = positions[:, None, :, None]
    mask = keys <= query
    if any(layout.shifts):
        mask = mask & (keys >= 0)
    if window is not None:
        mask = mask & (keys > query - window)
    return mask
