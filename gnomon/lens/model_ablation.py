"""Mean ablation of chosen neurons in the model itself: which texts run under which edits.

Each neuron's activation (its coordinate of mlp_post) is replaced by its mean over fit tokens: on all texts (`full`), on
those of its significant set (`significant`), on all others (`insignificant`). Controls: as many other neurons of the
same layers; as many rows of the same neurons drawn at random. A batch is a shard, since a mask belongs to its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.causal.items import Item, batched
from gnomon.causal.worker import CLEAN, Block, Condition
from gnomon.interventions.base import Where, places
from gnomon.interventions.neurons import Neurons
from gnomon.types import Intervention, Site

SET = "model"
CONDITIONS = ("full", "significant", "insignificant")


@dataclass(frozen=True)
class Repeated:
    """An edit made for the rows of one batch, in a call that holds several copies of it: row c * n + i is row i."""

    inner: Any
    n: int

    @property
    def site(self) -> Site:
        return self.inner.site

    @property
    def where(self) -> Where:
        return self.inner.where

    @property
    def strength(self) -> float:
        return self.inner.strength

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        """The inner edit, with the rows of one copy."""
        return self.inner.edit(x, rows % self.n, positions)


@dataclass(frozen=True)
class Chosen:
    """The neurons, by layer, their means, and the rows of their significant sets.

    neurons[layer] `[n_l]`; means[layer] `[d_mlp]`; significant[layer] `[units, n_l]` bool, in the order of `units`.
    """

    neurons: Mapping[int, np.ndarray]
    means: Mapping[int, np.ndarray]
    significant: Mapping[int, np.ndarray]
    units: Sequence[int]

    def others(self, draw: int, seed: int) -> dict[int, np.ndarray]:
        """As many neurons of each layer, none of them chosen where enough are left."""
        out = {}
        for layer, own in self.neurons.items():
            rng, width = np.random.default_rng([seed, 6271, layer, draw]), len(self.means[layer])
            rest = np.setdiff1d(np.arange(width), own)
            pool = rest if len(rest) >= len(own) else np.arange(width)
            out[layer] = np.sort(rng.choice(pool, len(own), replace=False))
        return out

    def shuffled(self, draw: int, seed: int) -> dict[int, np.ndarray]:
        """As many rows of each neuron, drawn at random."""
        return {
            layer: np.random.default_rng([seed, 7919, layer, draw]).permuted(mask, axis=0)
            for layer, mask in self.significant.items()
        }


def ablation_blocks(
    items: Sequence[Item], chosen: Chosen, where: Where, controls: int, batch_size: int, seed: int
) -> list[Block]:
    """One block a batch: the clean run, the three conditions, and `controls` draws of each kind."""
    at = {unit: i for i, unit in enumerate(chosen.units)}
    others = [chosen.others(i, seed) for i in range(controls)]
    shuffled = [chosen.shuffled(i, seed) for i in range(controls)]
    blocks = []
    for batch in batched(items, batch_size):
        rows = np.array([at[item.unit] for item in batch])

        def edits(
            neurons: Mapping[int, np.ndarray], masks: Mapping[int, np.ndarray] | None = None, rows: np.ndarray = rows
        ) -> tuple[Intervention, ...]:
            return _edits(chosen, neurons, masks, rows, where)

        own = chosen.neurons
        conditions = [
            CLEAN, Condition("full", edits(own)), Condition("significant", edits(own, chosen.significant)),
            Condition("insignificant", edits(own, {k: ~v for k, v in chosen.significant.items()})),
            *(Condition(f"random_neurons {i}", edits(some)) for i, some in enumerate(others)),
            *(Condition(f"random_pairs {i}", edits(own, some)) for i, some in enumerate(shuffled)),
        ]  # fmt: skip
        blocks.append(Block(SET, tuple(batch), tuple(conditions)))
    return blocks


def _edits(
    chosen: Chosen,
    neurons: Mapping[int, np.ndarray],
    masks: Mapping[int, np.ndarray] | None,
    rows: np.ndarray,
    where: Any,
) -> tuple[Intervention, ...]:
    out: list[Intervention] = []
    for layer, indices in neurons.items():
        site, values = Site("mlp_post", layer), chosen.means[layer][indices]
        for place in places(where):
            if masks is None:
                out.append(Neurons(site, indices, values, where=place))
            else:
                inner = Neurons(site, indices, values, mask=masks[layer][rows], where=place)
                out.append(Repeated(inner, len(rows)))
    return tuple(out)
