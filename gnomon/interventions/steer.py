"""Steering: add a multiple of a unit vector (Turner et al. 2023, activation addition; Rimsky et al. 2024).

    x' = x + strength * unit * v / |v|

`unit` is the median norm of unmasked fit tokens at the site, so `strength` means the same at every layer and model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, frozen_unit, tensor_like


@dataclass(frozen=True, eq=False)
class Steer(Edit):
    """Add `strength * unit` along `vector` (its length does not matter)."""

    vector: np.ndarray
    unit: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "vector", frozen_unit(self.vector, "the steering vector"))
        if not (np.isfinite(self.unit) and self.unit > 0):
            raise UserError(f"the steering unit is {self.unit}", "a positive length (the median norm at the site)")

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """unit * v, `[d]`: the same for every token."""
        return self.unit * tensor_like(self.vector, x)
