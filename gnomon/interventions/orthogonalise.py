"""Orthogonalising: stop a component from writing a subspace into the stream (Arditi et al. 2024, section 2.4).

    out' = out - strength * Q Q' out,   Q an orthonormal basis of the directions

Applied to everything that writes (embed, every attn_out and mlp_out) this equals replacing each output matrix W by
(I - Q Q') W with its bias, while the unembedding stays as it is (tied weights are untied): no weight is changed.

Where a norm stands between the matrix and the stream (Gemma: out = g * u / s(u), s(u) = sqrt(mean(u^2) + eps), u the
matrix's output), it is u that loses the subspace, as an edit of the weights would have it. With w = out / g = u / s(u):

    out' = g * (w - Q Q' w) / sqrt(1 - |Q' w|^2 / d)        since mean(w^2) = 1 - eps / s(u)^2

so the norm's eps is accounted for exactly. The gain g puts some of the subspace back into the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.errors import UserError
from gnomon.interventions.base import Edit, Where, frozen_vector, tensor_like
from gnomon.types import Direction, Site

WRITERS = ("embed", "attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class Orthogonalise(Edit):
    """Remove the span of `vectors` (`[d]` or `[k, d]`) from the output of one writer: embed, attn_out.L, mlp_out.L."""

    vectors: np.ndarray
    gain: np.ndarray | None = None
    """Gain `[d]` of a root-mean-square norm between the writer's matrix and the stream; None where there is none."""

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
        if self.gain is not None:
            gain = frozen_vector(self.gain, f"the gain at {self.site}")
            if not gain.all():
                raise UserError(f"a gain of 0 at {self.site}", "gains from which the writer's output can be read back")
            object.__setattr__(self, "gain", gain)

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """-Q Q' x, `[m, d]`; behind a norm what that does to the norm's output."""
        basis = tensor_like(self.vectors, x)
        if self.gain is None:
            return -(x @ basis.T) @ basis
        gain = tensor_like(self.gain, x)
        written = x / gain
        along = written @ basis.T
        left = (1 - along.pow(2).sum(-1, keepdim=True) / x.shape[-1]).clamp(min=1e-6)
        return gain * (written - along @ basis) * left.rsqrt() - x

    @classmethod
    def of(cls, direction: Direction, **options: Any) -> Orthogonalise:
        """At the direction's own site where that writes, else at the MLP of its layer."""
        site = direction.site
        return cls(site if site.component in WRITERS else Site("mlp_out", site.layer), direction.vector, **options)


def everywhere(
    vectors: np.ndarray | Sequence[Direction],
    n_layers: int,
    where: Where = "all",
    strength: float = 1.0,
    gains: Mapping[Site, np.ndarray] | None = None,
) -> list[Orthogonalise]:
    """The edits that orthogonalise a model of `n_layers` blocks against `vectors`: `[d]`, `[k, d]` or Directions.

    gains: of the norms behind the writers (`gains_of`), for families that have such; without them the subspace is
    taken out of what such a norm puts into the stream, which no edit of weights does.
    """
    raw = vectors if isinstance(vectors, np.ndarray) else np.stack([d.vector for d in vectors])
    sites = [Site("embed"), *(Site(c, layer) for layer in range(n_layers) for c in ("attn_out", "mlp_out"))]
    gains = gains or {}
    return [Orthogonalise(site, raw, gains.get(site), where=where, strength=strength) for site in sites]


def gains_of(model: Any) -> dict[Site, np.ndarray]:
    """Gains of the norms that stand between a model's output matrices and the stream; none in most families."""
    out: dict[Site, np.ndarray] = {}
    for component, name in (("attn_out", "ln1_post"), ("mlp_out", "ln2_post")):
        if getattr(model.body.family, name):
            for layer in range(model.n_layers):
                out[Site(component, layer)] = model.norm(name, layer).gain.float().cpu().numpy()
    return out
