"""Setting one latent of a dictionary, with what the dictionary leaves unexplained kept as it is.

    x' = x + strength * (value - z_j(x)) d_j        z_j: the latent's activation in x, d_j: its decoder row

Replacing x by decode(z') instead would also take away the reconstruction error x - decode(z), and measure that. `read`
gives z_j, so that this room needs no dictionary; with another latent's row as `vector` the same edit, token by token as
long, is made along that row: a matched control.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, frozen_vector, tensor_like

Reader = Callable[[Any], Any]
"""Token vectors `[m, d]` -> a latent's activation in each, `[m]`."""


@dataclass(frozen=True, eq=False)
class SetLatent(Edit):
    """Set a latent to `value`: its decoder row is `vector` (its length counts), its activation what `read` says.

    Unless given, `read` is relu(x . vector) / |vector|^2. Tokens whose norm is over `most` are left alone.
    """

    vector: np.ndarray
    value: float = 0.0
    read: Reader | None = None
    most: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "vector", frozen_vector(self.vector, "the latent's decoder row"))
        if not np.any(self.vector):
            raise UserError("the latent's decoder row is all zeros", "a latent that decodes to something")
        if not math.isfinite(self.value):
            raise UserError(f"the latent is set to {self.value}", "a finite number")
        if math.isnan(self.most) or self.most <= 0:
            raise UserError(f"tokens up to a norm of {self.most} are edited", "a positive norm")

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """(value - z_j(x)) d_j, `[m, d]`; 0 for tokens of a larger norm than `most`."""
        row = tensor_like(self.vector, x)
        now = (x @ row).clamp_min(0) / (row @ row) if self.read is None else self.read(x).to(x.dtype)
        step = self.value - now
        if math.isfinite(self.most):
            step = step * (x.norm(dim=-1) <= self.most)
        return step[:, None] * row
