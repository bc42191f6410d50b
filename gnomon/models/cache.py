"""Keys and values of past tokens, in preallocated buffers where a token's slot is its position in its own row.

Hugging Face's caches concatenate at every step and need left padding for rows of different lengths. Here every row
writes at its own next position, so positions need no offset, no row is padded on the left, and a batch of equal
lengths needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

CHUNK = 64
"""Buffers grow by at least this many slots."""


class KVCache:
    """Keys and values `[rows, kv_heads, slots, d_head]` a layer; `lengths[row]` tokens are filled in each row.

    Hugging Face's attention modules call `update`; everything else is called by the body that runs the blocks.
    """

    def __init__(self, n_layers: int, reserve: int = CHUNK) -> None:
        self.keys: list[torch.Tensor | None] = [None] * n_layers
        self.values: list[torch.Tensor | None] = [None] * n_layers
        self.lengths: list[int] = []
        self.reserve = reserve
        self._slots: torch.Tensor | None = None  # [rows, new tokens], where rows differ in length

    def begin(self, rows: int, width: int, device: torch.device) -> None:
        """Announce a chunk of `width` new slots for each of `rows` rows."""
        if not self.lengths:
            self.lengths = [0] * rows
        if len(self.lengths) != rows:
            raise ValueError(f"the cache holds {len(self.lengths)} rows, the batch {rows}")
        self._slots = None
        if len(set(self.lengths)) > 1:
            starts = torch.tensor(self.lengths, device=device)
            self._slots = starts[:, None] + torch.arange(width, device=device)[None]

    def advance(self, counts: Sequence[int]) -> None:
        """Count the chunk's real tokens; slots written beyond them (padding) are overwritten by the next chunk."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots that are filled in the longest row (part of Hugging Face's cache interface)."""
        return max(self.lengths, default=0)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values and return all of the row's, `[rows, kv_heads, slots so far, d_head]`."""
        return self._store(self.keys, key, layer_idx), self._store(self.values, value, layer_idx)

    def _store(self, buffers: list[torch.Tensor | None], new: torch.Tensor, layer: int) -> torch.Tensor:
        past, width = self.get_seq_length(), new.shape[2]
        end = past + width
        old = buffers[layer]
        if new.requires_grad and past:  # a graph must not run through the shared buffer
            return self._joined(old, new, past)
        if old is None or old.shape[2] < end:
            grown = new.new_zeros(new.shape[0], new.shape[1], end + max(CHUNK, self.reserve), new.shape[3])
            if old is not None:
                grown[:, :, : old.shape[2]] = old
            buffers[layer] = old = grown
        if self._slots is None:
            old[:, :, past:end] = new.detach()
        else:
            rows = torch.arange(new.shape[0], device=new.device)[:, None]
            old[rows, :, self._slots] = new.detach().transpose(1, 2)
        return new if past == 0 else old[:, :, :end]

    def _joined(self, old: torch.Tensor | None, new: torch.Tensor, past: int) -> torch.Tensor:
        if old is None:
            raise ValueError("the cache holds no keys for this layer")
        if self._slots is None:
            return torch.cat([old[:, :, :past], new], dim=2)
        grown = torch.cat([old[:, :, :past], torch.zeros_like(new)], dim=2)
        index = self._slots[:, None, :, None].expand_as(new)
        return grown.scatter(2, index, new)

    def select(self, rows: Sequence[int], copies: int = 1) -> KVCache:
        """A new cache of some rows (a row may be named more than once); the buffers are copied."""
        out = KVCache(len(self.keys), self.reserve)
        out.lengths = [self.lengths[row] for row in rows for _ in range(copies)]
        end = max(out.lengths, default=0)
        for source, target in ((self.keys, out.keys), (self.values, out.values)):
            for layer, buffer in enumerate(source):
                if buffer is None:
                    continue
                index = torch.tensor(list(rows), device=buffer.device).repeat_interleave(copies)
                kept = buffer.new_zeros(len(index), buffer.shape[1], end + max(CHUNK, self.reserve), buffer.shape[3])
                kept[:, :, :end] = buffer[index, :, :end]
                target[layer] = kept
        return out

    def crop(self, lengths: Sequence[int]) -> None:
        """Forget every row's tokens beyond `lengths[row]`."""
        self.lengths = [min(old, new) for old, new in zip(self.lengths, lengths, strict=True)]
