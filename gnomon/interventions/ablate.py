"""Directional ablation: remove what an activation says along a direction (Arditi et al. 2024).

    x' = x - strength * (x . u - to) u,   u = v / |v|

`to` 0 removes the component (zero ablation); `to` = the mean of x . u over fit tokens removes only what varies
(mean ablation). At strength 1 it is a projection: ablating twice is ablating once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, frozen_unit, tensor_like


@dataclass(frozen=True, eq=False)
class Ablate(Edit):
    """Set the component along `vector` to `to` (in the activation's own units)."""

    vector: np.ndarray
    to: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "vector", frozen_unit(self.vector, "the ablated vector"))
        if not np.isfinite(self.to):
            raise UserError(f"ablation replaces the component by {self.to}", "a finite number")

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """(to - x . u) u, `[m, d]`."""
        unit = tensor_like(self.vector, x)
        return (self.to - x @ unit)[:, None] * unit
