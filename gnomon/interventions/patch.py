"""Patching: replace activations by those of another run, or by a mean (Vig et al. 2020; Zhang & Nanda 2024).

    x' = x + strength * (donor - x)

A donor `[d]` (a mean: mean ablation; zeros: zero ablation) serves every token; `[rows, d]` gives each row of the call
its own; `[rows, tokens, d]` each token its own, by its index in the unpadded text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, tensor_like


@dataclass(frozen=True, eq=False)
class Patch(Edit):
    """Replace the activation by `values`: `[d]`, `[rows, d]` or `[rows, tokens, d]`."""

    values: np.ndarray

    def __post_init__(self) -> None:
        super().__post_init__()
        values = np.array(self.values, dtype=np.float32, copy=True)
        if values.ndim not in (1, 2, 3):
            raise UserError(f"patch values have shape {values.shape}", "[d], [rows, d] or [rows, tokens, d]")
        if not np.all(np.isfinite(values)):
            raise UserError("patch values hold NaN or infinite numbers", "finite numbers")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """donor - x, `[m, d]`; UserError where the donor has no such row or token."""
        donor = tensor_like(self.values, x)
        if donor.ndim == 1:
            return donor - x
        for what, wanted, size in (("row", rows, donor.shape[0]), ("token", positions, donor.shape[1])):
            if (what == "row" or donor.ndim == 3) and len(wanted) and int(wanted.max()) >= size:
                raise UserError(f"the patch at {self.site} has no {what} {int(wanted.max())}", f"it has {size} {what}s")
        return (donor[rows] if donor.ndim == 2 else donor[rows, positions]) - x
