"""A shelf of dictionaries on the device: as many as fit into a stated budget, the least lately used put back first.

    bytes of a dictionary = 4 (2 d n + 3 n + d)       encoder, decoder; bias, scale, threshold; decoder bias; float32
    total = model + shelf + graph + gathered rows     (`estimate`)

A model's dictionaries together are larger than the model (31 of LlamaScope 8x: 33 GB). One pass over a text needs only
the rows of the latents that are active in it, so that dictionaries are visited one after the other and let go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gnomon.dictionaries.base import SparseDictionary
from gnomon.errors import UserError, unknown
from gnomon.types import Site

SLACK = 1.05
"""A model's buffers, beside its weights."""
TENSORS_A_BLOCK = 14
"""Tensors of width d_model that one block's graph keeps of a token, about."""
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Loadable(Protocol):
    """What a shelf is filled from: a site's name, and how to load its dictionary."""

    @property
    def site(self) -> str: ...

    @property
    def load(self) -> Any: ...


def dictionary_bytes(d: int, n: int, item: int = 4) -> int:
    """Bytes of a dictionary of `n` latents and width `d` in its canonical form, `item` bytes a number."""
    return item * (2 * d * n + 3 * n + d)


class Shelf:
    """Dictionaries by site, at most `budget` bytes of their tensors on the device at once (None: no limit).

    `loads`, `evictions`, `held` (bytes now) and `peak` (most bytes at once) count what happened.
    """

    def __init__(self, sources: Sequence[Loadable], budget: int | None = None, item: int = 4) -> None:
        self.budget, self.item = budget, item
        self._sources = {str(Site.parse(s.site)): s for s in sources}
        if len(self._sources) != len(sources):
            raise UserError(f"dictionaries of {', '.join(s.site for s in sources)}", "one a site")
        self._here: OrderedDict[str, SparseDictionary] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self.loads = self.evictions = self.held = self.peak = 0

    @property
    def sites(self) -> list[Site]:
        """Sites that have a dictionary, in order."""
        return sorted(Site.parse(name) for name in self._sources)

    def __getitem__(self, site: Site | str) -> SparseDictionary:
        """The dictionary of a site, loaded where it is not here; others leave until the budget holds.

        UserError where it alone is larger than the budget, or the site has none.
        """
        name = str(Site.parse(site))
        if name not in self._sources:
            raise unknown("site with a dictionary", name, list(self._sources))
        if name not in self._here:
            # what is read is in memory too: room is made before, by its own size where that is known
            self._make_room(self._sizes.get(name, max(self._sizes.values(), default=0)))
            one: SparseDictionary = self._sources[name].load()
            size = self._sizes[name] = self._size(one)
            if self.budget is not None and size > self.budget:
                raise UserError(
                    f"the dictionary of {name} takes {size / 1e9:.3g} GB, and the budget is {self.budget / 1e9:.3g} GB",
                    "a budget that holds one dictionary at least", "raise budget_gb",
                )  # fmt: skip
            self._make_room(size)
            self._here[name] = one
            self.loads, self.held = self.loads + 1, self.held + size
            self.peak = max(self.peak, self.held)
        self._here.move_to_end(name)
        return self._here[name]

    def _make_room(self, size: int) -> None:
        while self.budget is not None and self._here and self.held + size > self.budget:
            self._put_back(self._here.popitem(last=False)[1])

    def clear(self) -> None:
        """Put every dictionary back."""
        while self._here:
            self._put_back(self._here.popitem()[1])

    def _put_back(self, one: SparseDictionary) -> None:
        one._kept.clear()  # the tensors on the device; the arrays go with the last reference
        self.held -= self._size(one)
        self.evictions += 1

    def _size(self, one: SparseDictionary) -> int:
        return dictionary_bytes(one.d_model, one.d_sae, self.item)


@dataclass(frozen=True)
class Estimate:
    """Bytes that tracing pathways takes, part by part."""

    model: int
    shelf: int
    """Dictionaries on the device at once."""
    gathered: int
    """Encoder and decoder rows of the latents that are active in one batch of texts, at every site."""
    graph: int
    """What the backward pass keeps, and one chunk of gradients."""
    dictionaries: int
    """How many dictionaries are on the shelf at once."""

    @property
    def total(self) -> int:
        """Bytes together."""
        return self.model + self.shelf + self.gathered + self.graph

    def require(self, limit: int) -> None:
        """UserError where it is more than `limit` bytes."""
        if self.total > limit:
            raise UserError(
                f"pathways takes about {self.total / 1e9:.1f} GB: model {self.model / 1e9:.1f}, dictionaries "
                f"{self.shelf / 1e9:.1f}, rows of active latents {self.gathered / 1e9:.1f}, "
                f"gradients {self.graph / 1e9:.1f}",
                f"{limit / 1e9:.1f} GB at most", "a smaller budget_gb, batch_size or chunk, or fewer sites",
            )  # fmt: skip


def estimate(
    facts: Mapping[str, Any], widths: Sequence[tuple[int, int]], budget: int | None = None, *, dtype: str = "float32",
    tokens: int = 64, active: int = 50, chunk: int = 16,
) -> Estimate:  # fmt: skip
    """Memory of tracing, before anything is loaded.

    Args:
        facts: of the model: parameters, n_layers, d_model, d_mlp.
        widths: (d, n) of every dictionary.
        budget: bytes for dictionaries on the device.
        dtype: of the model; dictionaries are float32 (float64 in a float64 model).
        tokens: of the texts traced at once; active: latents active on a token; chunk: targets of one backward.

    UserError where the budget is smaller than one dictionary.
    """
    item = BYTES[dtype]
    wide = 8 if item == 8 else 4
    sizes = [dictionary_bytes(d, n, wide) for d, n in widths]
    limit = sum(sizes) if budget is None else budget
    if sizes and max(sizes) > limit:
        raise UserError(
            f"one dictionary takes {max(sizes) / 1e9:.3g} GB, and the budget is {limit / 1e9:.3g} GB",
            "a budget that holds one dictionary at least", "raise budget_gb",
        )  # fmt: skip
    held = int(np.searchsorted(np.cumsum(sorted(sizes, reverse=True)), limit, side="right"))
    rows = sum(2 * d * min(n, tokens * active) * wide for d, n in widths)
    layers, d, mlp = int(facts["n_layers"]), int(facts["d_model"]), int(facts.get("d_mlp") or 4 * facts["d_model"])
    graph = tokens * layers * (TENSORS_A_BLOCK * d + 4 * mlp) * item
    graph += chunk * tokens * (sum(d for d, _ in widths) + 4 * (d + mlp)) * item
    model = int(SLACK * int(facts["parameters"]) * item)
    return Estimate(model, min(sum(sizes), limit), rows, graph, held)
