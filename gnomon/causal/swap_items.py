"""What is swapped: texts with their places, who gives to whom, and where each swap lies in its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

SWAPS = pa.schema(
    [("set", pa.string()), ("measure", pa.string()), ("position", pa.string()), ("layer", pa.int64()),
     ("pair", pa.int64()), ("way", pa.string()), ("donors", pa.string()), ("recipient", pa.int64()),
     ("donor", pa.int64()), ("at", pa.int64()), ("donor_at", pa.int64()), ("before", pa.float64()),
     ("after", pa.float64()), ("donor_value", pa.float64())]
)  # fmt: skip
"""One swap. measure: confidence (expected, in the pass) or answer (probability of the model's own answer, geometric
mean over its tokens, in the generation). way: up (the recipient is unsure) or down. donors: other (of the other
confidence) or same (of the recipient's own kind)."""
RANDOM = "random"


@dataclass(frozen=True)
class Read:
    """What is measured at the end of a text: the expected value over bins, or how likely the text's own tokens are.

    Bins: `options[b]` are the tokens that say bin b at the text's last position, each by itself; or, with `lengths`,
    its text's tokens one after the other, whose log-likelihood is divided by lengths[b]. `values[b]` is what it stands
    for. Without options: the mean log-probability of tokens[score_from:], as a probability.
    """

    options: tuple[tuple[int, ...], ...] = ()
    values: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    score_from: int = -1


@dataclass(frozen=True)
class View:
    """One text of an item. `places`: position name -> token index; several views of one item are averaged."""

    tokens: tuple[int, ...]
    read: Read
    places: Mapping[str, int]

    @property
    def run(self) -> tuple[int, ...]:
        """The tokens that are run: the last of an answer predicts nothing that is measured."""
        return self.tokens if self.read.options else self.tokens[:-1]

    @property
    def reads(self) -> range:
        """Indices whose next-token distributions are measured."""
        last = len(self.tokens) - 1
        return range(last, last + 1) if self.read.options else range(self.read.score_from - 1, last)

    @property
    def end(self) -> int:
        """Index of the last token that a swap can still matter at: random places are counted back from it."""
        return self.reads[0]


@dataclass(frozen=True)
class Exchange:
    """Recipient, and its donors by kind."""

    pair: int
    way: str
    recipient: int
    donors: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Place:
    """Where and at which layers swaps are made, and what is measured."""

    measure: str
    position: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """One shard: swaps and the items that they touch, `items[measure][row]` the views of a row."""

    set: str
    swaps: tuple[Exchange, ...]
    places: tuple[Place, ...]
    items: Mapping[str, Mapping[int, tuple[View, ...]]]

    @property
    def size(self) -> int:
        """Swaps in all."""
        return sum(len(p.layers) for p in self.places) * sum(len(s.donors) for s in self.swaps)


@dataclass(frozen=True)
class Spot:
    """A swap's places in one view: the recipient's token, and each donor's."""

    swap: Exchange
    view: int
    at: int
    donor_at: tuple[int, ...]


def spots(block: Block, place: Place, seed: int) -> list[Spot]:
    """Where `place` lies in the block's swaps; a swap of which one text lacks the position is left out."""
    held = block.items[place.measure]
    out = []
    for swap in block.swaps:
        texts = [held[row] for row in (swap.recipient, *(d for _, d in swap.donors))]
        for view, views in enumerate(zip(*texts, strict=True)):
            if place.position == RANDOM:
                at = random_place(views, seed, swap.recipient)
            else:
                named = [v.places.get(place.position) for v in views]
                at = None if any(i is None or i < 1 for i in named) else [int(i or 0) for i in named]
            if at is not None:
                out.append(Spot(swap, view, at[0], tuple(at[1:])))
    return out


def random_place(views: Sequence[View], seed: int, row: int) -> list[int] | None:
    """A token of each text, equally far from its end, none of them first or a named place; None where there is none.

    Drawn by (seed, row) alone, so it is the same for every layer and in every order of the bins.
    """
    far = min(v.end for v in views)
    free = [back for back in range(1, far) if all(v.end - back not in v.places.values() for v in views)]
    if not free:
        return None
    back = free[int(np.random.default_rng([seed, 15485863, row]).random() * len(free))]
    return [v.end - back for v in views]
