"""Keys and values of past tokens, in preallocated buffers.

Hugging Face's caches concatenate at every step. Here a row's token at position p lies in slot p + shift of its row:
shifts are 0 until `align` moves shorter rows to the right once, so that all rows end at the same slot and every
decoding step writes one slice. A batch of equal lengths needs no shift and no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gnomon.errors import UserError
from gnomon.types import Intervention

CHUNK = 64
"""Slots by which a full buffer grows."""


class KVCache:
    """Keys and values `[rows, kv_heads, slots, d_head]` a layer; row i holds `lengths[i]` tokens from slot shifts[i].

    Hugging Face's attention modules call `update`; everything else is called by the body that runs the blocks.
    """

    def __init__(self, n_layers: int, reserve: int = 0) -> None:
        self.keys: list[torch.Tensor | None] = [None] * n_layers
        self.values: list[torch.Tensor | None] = [None] * n_layers
        self.lengths: list[int] = []
        self.shifts: list[int] = []
        self.reserve = reserve
        self._past = 0  # slots before this chunk, in the row that reaches furthest
        self._slots: torch.Tensor | None = None  # [rows, new tokens], where rows do not end at the same slot

    def begin(self, rows: int, width: int, device: torch.device) -> None:
        """Announce a chunk of `width` new tokens for each of `rows` rows."""
        self.lengths = self.lengths or [0] * rows
        self.shifts = self.shifts or [0] * rows
        if len(self.lengths) != rows:
            raise ValueError(f"the cache holds {len(self.lengths)} rows, the batch {rows}")
        ends = [length + shift for length, shift in zip(self.lengths, self.shifts, strict=True)]
        self._past, self._slots = max(ends), None
        if min(ends) != self._past:
            self._slots = torch.tensor(ends, device=device)[:, None] + torch.arange(width, device=device)[None]

    def advance(self, counts: Sequence[int]) -> None:
        """Count the chunk's real tokens; slots written beyond them (padding) are overwritten by the next chunk."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots before this chunk (part of Hugging Face's cache interface)."""
        return self._past

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values and return all of the row's, `[rows, kv_heads, slots so far, d_head]`."""
        return self._store(self.keys, key, layer_idx), self._store(self.values, value, layer_idx)

    def _store(self, buffers: list[torch.Tensor | None], new: torch.Tensor, layer: int) -> torch.Tensor:
        past, old = self._past, buffers[layer]
        end = past + new.shape[2]
        if new.requires_grad and past:  # a graph must not run through the shared buffer
            return self._joined(old, new)
        if old is None or old.shape[2] < end:
            old = buffers[layer] = self._grown(old, new, end)
        if self._slots is None:
            old[:, :, past:end] = new.detach()
        else:
            rows = torch.arange(new.shape[0], device=new.device)[:, None]
            old[rows, :, self._slots.to(new.device)] = new.detach().transpose(1, 2)
        return new if past == 0 else old[:, :, :end]

    def _grown(self, old: torch.Tensor | None, like: torch.Tensor, end: int) -> torch.Tensor:
        room = self.reserve if old is None else CHUNK
        grown = like.new_zeros(like.shape[0], like.shape[1], end + room, like.shape[3])
        if old is not None:
            grown[:, :, : old.shape[2]] = old
        return grown

    def _joined(self, old: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        if old is None:
            raise ValueError("the cache holds no keys for this layer")
        if self._slots is None:
            return torch.cat([old[:, :, : self._past], new], dim=2)
        grown = torch.cat([old[:, :, : self._past], torch.zeros_like(new)], dim=2)
        return grown.scatter(2, self._slots.to(new.device)[:, None, :, None].expand_as(new), new)

    def align(self) -> None:
        """Move shorter rows to the right, once, so that every row ends at the same slot."""
        ends = [length + shift for length, shift in zip(self.lengths, self.shifts, strict=True)]
        moves = [max(ends) - end for end in ends]
        if not any(moves):
            return
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                if buffer is None:
                    continue
                slots = torch.arange(buffer.shape[2], device=buffer.device)[None]
                source = (slots - torch.tensor(moves, device=buffer.device)[:, None]).clamp(min=0)
                index = source[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
                buffers[layer] = buffer.gather(2, index)
        self.shifts = [shift + move for shift, move in zip(self.shifts, moves, strict=True)]

    def select(self, rows: Sequence[int], copies: int = 1) -> KVCache:
        """A new cache of some rows, each `copies` times over; the buffers are copied."""
        out = KVCache(len(self.keys), self.reserve)
        chosen = [row for row in rows for _ in range(copies)]
        out.lengths = [self.lengths[row] for row in chosen]
        out.shifts = [self.shifts[row] for row in chosen]
        for source, target in ((self.keys, out.keys), (self.values, out.values)):
            for layer, buffer in enumerate(source):
                if buffer is not None:
                    target[layer] = buffer[torch.tensor(chosen, device=buffer.device)]
        return out

    def crop(self, lengths: Sequence[int]) -> None:
        """Forget every row's tokens beyond `lengths[row]`."""
        self.lengths = [min(old, new) for old, new in zip(self.lengths, lengths, strict=True)]


def check_continued(
    prefix: KVCache, prompts: Sequence[Sequence[int]], positions: Sequence[str], edit: Sequence[Intervention]
) -> None:
    """Refuse a prefix that is not one of these prompts, and an edit or a capture that would need its tokens."""
    if list(prefix.lengths) != [len(p) - 1 for p in prompts] or not all(prefix.lengths):
        raise UserError("a prefix of other lengths", "all but the last token of every prompt, at least one")
    early = [str(e.where) for e in edit if e.strength and e.where not in ("last_prompt", "generated")]
    if early or "all" in positions:
        raise UserError(
            f"a prefix, and {'edits at ' + early[0] if early else 'the position all'}",
            "edits of the last prompt token and of generated ones",
        )  # fmt: skip
