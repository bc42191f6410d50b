"""Tails of one text laid end to end in one sequence: where their tokens stand, and what each of them sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gnomon.models.body import Body
from gnomon.models.cache import KVCache


class CleanKeys(KVCache):
    """Clean keys and values of a text's first `past` tokens in front of a pack's own; nothing is kept."""

    def __init__(self, clean: KVCache, past: int) -> None:
        super().__init__(len(clean.keys))
        self.clean, self._past = clean, past

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[1, kv_heads, past + tokens, d_head]` each."""
        keys, values = self.clean.keys[layer_idx], self.clean.values[layer_idx]
        assert keys is not None
        assert values is not None
        return (torch.cat([keys[:, :, : self._past], key], dim=2),
                torch.cat([values[:, :, : self._past], value], dim=2))  # fmt: skip


class Packed:
    """Tail i holds the text's tokens `firsts[i]` to `at`. A token sees the clean keys before its own tail's first
    position, and its own tail up to itself; where the layer has a window, the nearest ones only.

    positions `[tokens]`; keys: the cache to run a block with; masks: a layer's boolean mask `[1, 1, tokens, slots]`;
    given: the same as the attention in use wants it.
    """

    def __init__(self, body: Body, clean: KVCache, firsts: Sequence[int], at: int) -> None:
        held = next(keys for keys in clean.keys if keys is not None)
        device, past = body.home, max(firsts)
        sizes = torch.tensor([at - first + 1 for first in firsts], device=device)
        self.positions = torch.cat([torch.arange(first, at + 1, device=device) for first in firsts])
        self.keys = CleanKeys(clean, past)
        first = torch.tensor(list(firsts), device=device).repeat_interleave(sizes)
        owner = torch.arange(len(firsts), device=device).repeat_interleave(sizes)
        slots = torch.cat([torch.arange(past, device=device), self.positions])
        query = self.positions[:, None]
        own = (owner[:, None] == owner[None]) & (self.positions[None] <= query)
        seen = torch.cat([slots[None, :past] < first[:, None], own], dim=1)
        made = {w: seen if w is None else seen & (slots[None] > query - w) for w in set(body.windows)}
        self.masks: list[torch.Tensor] = [made[window][None, None] for window in body.windows]
        self.given: list[torch.Tensor] = self.masks
        if body.config._attn_implementation == "eager":
            low = torch.full((), torch.finfo(held.dtype).min, dtype=held.dtype, device=device)
            self.given = [torch.where(mask, torch.zeros_like(low), low) for mask in self.masks]
