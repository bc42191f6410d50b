"""Clamping: hold the component along a direction inside an interval (Templeton et al. 2024 clamp features to a value).

    x' = x + strength * (min(max(x . u, low), high) - x . u) u,   u = v / |v|

`low` = `high` sets the component to that value on every token; low = -inf or high = inf leaves that side open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, frozen_unit, tensor_like


@dataclass(frozen=True, eq=False)
class Clamp(Edit):
    """Keep the component along `vector` within [low, high], in the activation's own units."""

    vector: np.ndarray
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "vector", frozen_unit(self.vector, "the clamped vector"))
        if math.isnan(self.low) or math.isnan(self.high) or self.low > self.high:
            raise UserError(f"clamp has low {self.low} and high {self.high}", "low <= high")

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """(clamped - x . u) u, `[m, d]`."""
        unit = tensor_like(self.vector, x)
        along = x @ unit
        return (along.clamp(self.low, self.high) - along)[:, None] * unit
