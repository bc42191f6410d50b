"""Neurons: set chosen coordinates of an activation to given values, or scale them; all others stay as they are.

    x_n' = x_n + strength * (value_n - x_n)        a value: 0 (zero ablation), a mean (mean ablation), any other
    x_n' = x_n + strength * (factor_n - 1) * x_n   a factor: 0 removes a neuron, 2 doubles it

With a mask `[rows, neurons]` a neuron is changed only in the rows of the call in which its entry is true. Cost: the
chosen coordinates of the edited tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, tensor_like
from gnomon.types import Direction


@dataclass(frozen=True, eq=False)
class Neurons(Edit):
    """Change the coordinates `indices [n]`: to `values` (one number, or `[n]`), or times `factor` (the same).

    UserError where both or neither is given, an index is negative or named twice, or a shape does not fit; an index
    beyond the site's width is refused when the edit meets an activation.
    """

    indices: np.ndarray
    values: Any = None
    mask: np.ndarray | None = None
    factor: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        indices = np.array(self.indices, copy=True)
        whole = indices.ndim == 1 and len(indices) > 0 and np.issubdtype(indices.dtype, np.integer)
        if not whole or indices.min() < 0 or len(np.unique(indices)) < len(indices):
            raise UserError(
                f"neurons at {self.site}: {np.array2string(indices, threshold=8)}", "different whole numbers from 0"
            )
        if (self.values is None) == (self.factor is None):
            raise UserError(f"neurons at {self.site} with both or neither of values and factor", "one of the two")
        for name in ("values", "factor"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _numbers(given, len(indices), f"{name} of neurons at {self.site}"))
        if self.mask is not None:
            mask = np.array(self.mask, copy=True)
            if mask.dtype != bool or mask.ndim != 2 or mask.shape[1] != len(indices):
                raise UserError(
                    f"a mask of {mask.dtype} {mask.shape} for {len(indices)} neurons", "booleans [rows, neurons]"
                )
            mask.setflags(write=False)
            object.__setattr__(self, "mask", mask)
        indices.setflags(write=False)
        object.__setattr__(self, "indices", indices.astype(np.int64))

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """`[m, d]`: 0 but for the chosen coordinates. UserError for an index or a row that is not there."""
        import torch

        if int(self.indices.max()) >= x.shape[-1]:
            raise UserError(
                f"neuron {int(self.indices.max())} at {self.site}", f"neurons are 0 to {x.shape[-1] - 1}"
            )  # fmt: skip
        at = torch.tensor(self.indices, device=x.device)
        own = x[:, at]
        if self.factor is not None:
            moved = (tensor_like(self.factor, x) - 1) * own
        else:
            moved = tensor_like(self.values, x) - own
        if self.mask is not None:
            if len(rows) and int(rows.max()) >= len(self.mask):
                raise UserError(f"the mask at {self.site} has no row {int(rows.max())}", f"{len(self.mask)} rows")
            chosen = torch.tensor(self.mask, device=x.device)[rows]
            moved = torch.where(chosen, moved, torch.zeros_like(moved))
        return torch.zeros_like(x).index_copy(1, at, moved)

    @classmethod
    def of(cls, direction: Direction, **options: Any) -> Neurons:
        """Every coordinate in which the direction is not 0 is set to the direction's own number there."""
        at = np.flatnonzero(direction.vector)
        return cls(direction.site, at, direction.vector[at], **options)


def _numbers(given: Any, n: int, what: str) -> np.ndarray:
    """One number for each of n neurons, read-only float32; UserError for another shape or no finite numbers."""
    array = np.array(given, dtype=np.float32, copy=True)
    if array.shape not in ((), (n,)):
        raise UserError(f"{what} have shape {array.shape}", f"one number, or [{n}]")
    if not np.all(np.isfinite(array)):
        raise UserError(f"{what} hold NaN or infinite numbers", "finite numbers")
    array = np.broadcast_to(array, (n,)).copy()
    array.setflags(write=False)
    return array
