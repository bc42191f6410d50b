"""Noise of the same size: replace an activation by a random direction at its own norm.

    x' = x + strength * (|x| * v / |v| - x)

The matched control of an ablation that replaces a component's output: it pushes the stream as far, and says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.interventions.base import Edit, frozen_unit, tensor_like


@dataclass(frozen=True, eq=False)
class Noise(Edit):
    """Replace the activation by `vector` at the activation's own norm."""

    vector: np.ndarray

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "vector", frozen_unit(self.vector, "the noise vector"))

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """|x| v - x, `[m, d]`."""
        return x.norm(dim=-1, keepdim=True) * tensor_like(self.vector, x) - x
