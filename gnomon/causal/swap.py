"""The worker of `swap`: one shard of swaps made, measured and written, its marker last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.pick import pick
from gnomon.causal.swap_items import SWAPS, Block, Exchange, Place, Spot, View, spots
from gnomon.causal.swap_texts import Clean, donated
from gnomon.halving import in_halves, marked, run_halving
from gnomon.step import ModelSpec
from gnomon.writer import Writer

if TYPE_CHECKING:
    import torch


@dataclass
class Swapper:
    """Picklable: makes the swaps of a block and writes its part of table `swaps`."""

    spec: ModelSpec
    path: str
    seed: int
    batch_size: int = 8

    def open(self) -> None:
        """Load the model."""
        self.model = self.spec.load()

    def __call__(self, shard: tuple[int, Block]) -> None:
        """Make one block's swaps."""
        index, block = shard
        self.halved: list[int] = []
        lines = [line for measure in block.items for line in self.measure(block, measure)]
        files = Writer.attach(self.path).shard(index)
        table = pd.DataFrame(lines, columns=SWAPS.names)
        files.table("swaps", pa.Table.from_pandas(table, schema=SWAPS, preserve_index=False))
        files.finish(marked(self.halved))

    def measure(self, block: Block, measure: str) -> list[dict[str, Any]]:
        """All swaps that are measured in one way, views averaged."""
        held = block.items[measure]
        found = {p: spots(block, p, self.seed) for p in block.places if p.measure == measure}
        layers = sorted({layer for p in found for layer in p.layers})
        if not layers or not any(found.values()):
            return []
        wanted = {(d, s.view, at) for some in found.values() for s in some
                  for (_, d), at in zip(s.swap.donors, s.donor_at, strict=True)}  # fmt: skip
        vectors, clean = donated(self.model, held, wanted, layers, self.halved)
        lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for place, layer, spot, kind, before, after in self._swapped(held, found, layers, vectors):
            donor = dict(spot.swap.donors)[kind]
            line = {
                "set": block.set, "measure": measure, "position": place.position, "layer": layer,
                "pair": spot.swap.pair, "way": spot.swap.way, "donors": kind, "recipient": spot.swap.recipient,
                "donor": donor, "at": spot.at, "donor_at": spot.donor_at[_number(spot.swap, kind)], "before": before,
                "after": after, "donor_value": clean[donor, spot.view] if measure == "confidence" else np.nan,
            }  # fmt: skip
            key = (place.position, layer, spot.swap.pair, spot.swap.way, kind)
            lines.setdefault(key, []).append(line)
        return [_mean(some) for some in lines.values()]

    def _swapped(
        self, held: Mapping[int, tuple[View, ...]], found: Mapping[Place, list[Spot]], layers: Sequence[int],
        vectors: Mapping[tuple[int, int, int], torch.Tensor],
    ) -> Iterable[tuple[Place, int, Spot, str, float, float]]:  # fmt: skip
        """(place, layer, spot, kind of donor, value before, value after), recipients in batches of similar length."""
        texts = sorted({(s.swap.recipient, s.view) for some in found.values() for s in some},
                       key=lambda t: (len(held[t[0]][t[1]].run), t))  # fmt: skip

        def swapped(part: Sequence[tuple[int, int]]) -> list[tuple[Place, int, Spot, str, float, float]]:
            out = []
            batch = Clean(self.model, [held[row][view] for row, view in part], layers)
            for place, some in found.items():
                here = [(part.index((s.swap.recipient, s.view)), s) for s in some
                        if (s.swap.recipient, s.view) in part]  # fmt: skip
                if not here:
                    continue
                rows, starts = [r for r, _ in here], [s.at for _, s in here]
                kinds = [kind for kind, _ in here[0][1].swap.donors]
                for layer in place.layers:
                    number = list(layers).index(layer)
                    new = [[vectors[s.swap.donors[k][1], s.view, s.donor_at[k]][number] for _, s in here]
                           for k in range(len(kinds))]  # fmt: skip
                    made = partial(batch.swapped, rows, starts, layer)
                    after = np.concatenate(in_halves(made, new, self.halved, len(rows)))
                    for k, kind in enumerate(kinds):
                        for i, (row, spot) in enumerate(here):
                            out.append((place, layer, spot, kind, float(batch.values[row]), float(after[k, i])))
            return out

        for begin in range(0, len(texts), self.batch_size):
            yield from run_halving(swapped, texts[begin : begin + self.batch_size], self.halved)


def _number(swap: Exchange, kind: str) -> int:
    return [k for k, _ in swap.donors].index(kind)


def _mean(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line for all views of a swap; tokens are those of the first."""
    return lines[0] | {key: float(np.mean([line[key] for line in lines])) for key in ("before", "after", "donor_value")}


def made_swaps(out: Writer, name: str) -> pd.DataFrame:
    """The finished swaps of one set."""
    paths = sorted((out.path / "swaps").glob("*.parquet"))
    parts = [pd.read_parquet(p) for p in paths] or [pd.DataFrame(columns=SWAPS.names)]
    return pick(pd.concat(parts, ignore_index=True), set=name)
