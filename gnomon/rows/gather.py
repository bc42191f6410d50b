"""Activations of one shard: picked batch by batch at the wanted tokens, written in row order when it is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.disk import fit_dtype
from gnomon.rows.positions import span_of
from gnomon.sites import RAGGED
from gnomon.types import Site
from gnomon.writer import Shard

if TYPE_CHECKING:
    from gnomon.models.model import Model, Out

Pick = tuple[int, int, int]
"""Row of the batch, first token, token behind the last."""


@dataclass(frozen=True)
class Where:
    """A row's tokens: its number, its place in the batch, and what its positions are counted from."""

    row: int
    slot: int
    prompt_len: int
    length: int
    answer_token: int | None = None


class Gather:
    """Buffers of one shard. `take` is given a function that returns the values of picked tokens of the batch."""

    def __init__(self, model: Model, sites: Sequence[Site], positions: Sequence[str], dtype: str) -> None:
        self.sites, self.positions, self.dtype = list(sites), list(positions) if sites else [], dtype
        self.widths = {site: model.site_shape(site) for site in self.sites}
        self.rows: dict[str, list[int]] = {p: [] for p in self.positions}
        self.counts: dict[str, list[int]] = {p: [] for p in self.positions}
        self.parts: dict[tuple[Site, str], list[np.ndarray]] = {(s, p): [] for s in self.sites for p in self.positions}

    def take(self, batch: Sequence[Where], values: Any) -> None:
        """Pick every position of a batch; `values(picks) -> {site: tensor [tokens, d]}`, tokens in the picks' order."""
        found: list[tuple[str, list[int], list[int], dict[Site, np.ndarray]]] = []
        for position in self.positions:
            spans = [(w, span_of(position, w.prompt_len, w.length, w.answer_token)) for w in batch]
            there = [(w, span) for w, span in spans if span is not None]
            if not there:
                continue
            taken: Mapping[Site, Any] = values([(w.slot, *span) for w, span in there])
            arrays = {site: self._stored(taken[site], site, position) for site in self.sites}
            found.append((position, [w.row for w, _ in there], [b - a for _, (a, b) in there], arrays))
        for position, rows, counts, arrays in found:
            self.rows[position] += rows
            self.counts[position] += counts
            for site, array in arrays.items():
                self.parts[site, position].append(array)

    def _stored(self, values: Any, site: Site, position: str) -> np.ndarray:
        array = values.detach().float().cpu().numpy()
        return fit_dtype(array, self.dtype, f"{site}@{position}")

    def write(self, shard: Shard) -> int:
        """Write everything in ascending row order, freeing as it goes; returns the bytes of values."""
        size = 0
        for position in self.positions:
            rows = np.array(self.rows[position], dtype=np.int64)
            counts = np.array(self.counts[position], dtype=np.int64)
            order = np.argsort(rows, kind="stable")
            moved = None if np.array_equal(order, np.arange(len(order))) else token_order(order, counts)
            offsets = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64) if position in RAGGED else None
            for site in self.sites:
                parts = self.parts.pop((site, position))
                empty = np.zeros((0, self.widths[site]), dtype=np.dtype(self.dtype).newbyteorder("<"))
                values = np.concatenate(parts) if parts else empty
                if moved is not None:
                    values = values[moved]
                shard.activations(site, position, values, rows[order], offsets, self.dtype)
                size += values.nbytes
        return size


def token_order(order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Indices that bring the tokens of rows with `counts` tokens each into the row order `order`."""
    starts = [0, *np.cumsum(counts).tolist()]
    pieces = [np.arange(starts[i], starts[i + 1]) for i in order.tolist()]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


def from_forward(out: Out, picks: Sequence[Pick]) -> dict[Site, Any]:
    """Values of picked tokens of a forward pass (right-padded `[rows, width, d]`): `[tokens, d]` for each site."""
    import torch

    if not out.acts:
        return {}
    width = next(iter(out.acts.values())).shape[1]
    index = np.concatenate([np.arange(slot * width + a, slot * width + b) for slot, a, b in picks])
    where = torch.from_numpy(index).to(next(iter(out.acts.values())).device)
    return {site: x.reshape(-1, x.shape[-1]).index_select(0, where) for site, x in out.acts.items()}
