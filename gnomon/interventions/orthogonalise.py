"""Orthogonalising: stop a component from writing a subspace into the stream (Arditi et al. 2024, section 2.4).

    out' = out - strength * Q Q' out,   Q an orthonormal basis of the directions

Applied to everything that writes (embed, every attn_out and mlp_out) this equals replacing each output matrix W by
(I - Q Q') W with its bias: the model can no longer represent the subspace anywhere, and no weight is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, Where, tensor_like
from gnomon.types import Direction, Site

WRITERS = ("embed", "attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class Orthogonalise(Edit):
    """Remove the span of `vectors` (`[d]` or `[k, d]`) from the output of one writer: embed, attn_out.L, mlp_out.L."""

    vectors: np.ndarray

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site.component not in WRITERS:
            raise UserError(
                f"orthogonalise does not apply at {self.site}",
                f"what writes into the stream: {', '.join(WRITERS)}",
                "ablate a direction at a residual site instead",
            )
        raw = np.atleast_2d(np.array(self.vectors, dtype=np.float64))
        if raw.ndim != 2 or not np.all(np.isfinite(raw)):
            raise UserError(f"the vectors have shape {raw.shape}, or are not finite", "[d] or [k, d], finite")
        norms = np.linalg.norm(raw, axis=1)
        if not norms.all():
            raise UserError("one of the vectors is all zeros", "vectors that point somewhere")
        left, sizes, _ = np.linalg.svd((raw / norms[:, None]).T, full_matrices=False)
        basis = np.ascontiguousarray(left[:, sizes > 1e-6 * sizes[0]].T, dtype=np.float32)  # repeats span nothing new
        basis.setflags(write=False)
        object.__setattr__(self, "vectors", basis)

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """-Q Q' x, `[m, d]`."""
        basis = tensor_like(self.vectors, x)
        return -(x @ basis.T) @ basis

    @classmethod
    def of(cls, direction: Direction, **options: Any) -> Orthogonalise:
        """At the direction's own site where that writes, else at the MLP of its layer."""
        site = direction.site
        return cls(site if site.component in WRITERS else Site("mlp_out", site.layer), direction.vector, **options)


def everywhere(
    vectors: np.ndarray | Sequence[Direction], n_layers: int, where: Where = "all", strength: float = 1.0
) -> list[Orthogonalise]:
    """The edits that orthogonalise a model of `n_layers` blocks against `vectors`: `[d]`, `[k, d]` or Directions."""
    raw = vectors if isinstance(vectors, np.ndarray) else np.stack([d.vector for d in vectors])
    sites = [Site("embed"), *(Site(c, layer) for layer in range(n_layers) for c in ("attn_out", "mlp_out"))]
    return [Orthogonalise(site, raw, where=where, strength=strength) for site in sites]
