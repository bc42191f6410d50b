"""A sparse autoencoder in its one canonical form.

    pre = x W_enc + b_enc                     x: the raw activation; a subtracted bias is folded into b_enc
    z   = act(pre)                            relu | topk (by pre / scale) | jumprelu (pre > threshold, else 0)
          (a topk trained to rank by pre itself, decoder norms included, says `by_norm`)
    x^  = z W_dec + b_dec                     rows of W_dec have length 1

A latent of a dictionary whose decoder rows had length `scale` is `scale` times what it was there, so that a steering
coefficient, an activation and an ablation mean the same whichever tool trained the dictionary. Every on-disk format is
turned into this form when it is loaded. torch is imported when something is encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gnomon.errors import UserError
from gnomon.types import Direction, Site

Activation = Literal["relu", "topk", "jumprelu"]
BLOCK = 8192
"""Latents that are converted at once."""
TINY = 1e-30
"""Decoder rows shorter than this are taken for 0: float32 cannot tell their direction."""


@dataclass(frozen=True, eq=False)
class SparseDictionary:
    """Latents `[., n]` of activations `[., d]` at one site, and back (types.Dictionary)."""

    site: Site
    encoder: np.ndarray
    """`[d, n]` float32."""
    encoder_bias: np.ndarray
    """`[n]`."""
    decoder: np.ndarray
    """`[n, d]`; rows of length 1 (0 for a latent that decodes to nothing)."""
    decoder_bias: np.ndarray
    """`[d]`."""
    activation: Activation = "relu"
    k: int | None = None
    """How many latents a token keeps, for topk."""
    threshold: np.ndarray | None = None
    """`[n]`, for jumprelu, in canonical units."""
    scale: np.ndarray | None = None
    """`[n]`: length of each decoder row before it was made 1; ones unless given."""
    by_norm: bool = False
    """A topk ranks by the canonical pre-activations, not by those of the file's own units."""
    name: str = ""
    format: str = ""
    source: str = ""
    fingerprint: str = ""
    """sha256 over the files it was read from."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What else its files say: model, hook, dataset, release, Neuronpedia id, expected L0 ..."""
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def d_sae(self) -> int:
        """Latents."""
        return int(self.encoder.shape[1])

    @property
    def d_model(self) -> int:
        """Width of the site."""
        return int(self.encoder.shape[0])

    def pre(self, x: Any, columns: Sequence[int] | None = None) -> Any:
        """Pre-activations of raw activations `x [., d]` -> `[., n]`, or of some latents only."""
        w = self._tensors(x)
        if columns is None:
            return x.to(w["encoder"].dtype) @ w["encoder"] + w["encoder_bias"]
        at = list(columns)
        return x.to(w["encoder"].dtype) @ w["encoder"][:, at] + w["encoder_bias"][at]

    def encode(self, x: Any) -> Any:
        """Latents of raw activations `x [., d]` -> `[., n]`, in float32 (float64 for float64)."""
        import torch

        pre, w = self.pre(x), self._tensors(x)
        if self.activation == "topk":
            at = (pre if self.by_norm else pre / w["scale"]).topk(int(self.k or 0), dim=-1).indices
            return torch.zeros_like(pre).scatter_(-1, at, pre.gather(-1, at).clamp_min(0))
        if self.activation == "jumprelu":
            return torch.where(pre > w["threshold"], pre, 0.0).clamp_min(0)
        return pre.clamp_min(0)

    def decode(self, z: Any) -> Any:
        """What latents `z [., n]` stand for, `[., d]`."""
        w = self._tensors(z)
        return z.to(w["decoder"].dtype) @ w["decoder"] + w["decoder_bias"]

    def error(self, x: Any) -> Any:
        """The error term x - decode(encode(x)), `[., d]`."""
        return x.to(self._tensors(x)["decoder"].dtype) - self.decode(self.encode(x))

    def direction(self, i: int) -> Direction:
        """Latent `i`'s decoder row as a direction of length 1. UserError for a latent that is not there, or is dead."""
        if not 0 <= i < self.d_sae:
            raise UserError(f"latent {i} of {self.name or 'the dictionary'}", f"0 to {self.d_sae - 1}")
        if not np.any(self.decoder[i]):
            raise UserError(f"latent {i} of {self.name or 'the dictionary'} decodes to nothing", "a latent that lives")
        meta = {"latent": int(i), "dictionary": self.name, "fingerprint": self.fingerprint}
        return Direction(self.site, self.decoder[i], f"feature {i} {self.site}", "feature", None, meta)

    def _tensors(self, x: Any) -> dict[str, Any]:
        """The arrays on x's device, in float32 or float64; kept for the next call."""
        import torch

        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        key = (str(x.device), dtype)
        if key not in self._kept:
            ones = np.ones(self.d_sae, np.float32)
            arrays = {
                "encoder": self.encoder, "encoder_bias": self.encoder_bias, "decoder": self.decoder,
                "decoder_bias": self.decoder_bias, "scale": ones if self.scale is None else self.scale,
                "threshold": 0 * ones if self.threshold is None else self.threshold,
            }  # fmt: skip
            self._kept[key] = {
                k: torch.as_tensor(np.asarray(v), dtype=dtype, device=x.device) for k, v in arrays.items()
            }
        return self._kept[key]


def canonical(
    site: Site | str,
    encoder: np.ndarray,
    encoder_bias: np.ndarray,
    decoder: np.ndarray,
    decoder_bias: np.ndarray,
    *,
    subtracted: bool = False,
    input_scale: float = 1.0,
    threshold: np.ndarray | float | None = None,
    **more: Any,
) -> SparseDictionary:
    """The canonical form of pre = (s x - [b_dec]) W_enc + b_enc, x^ = (z W_dec + b_dec) / s, with s the input_scale.

    Args:
        encoder: `[d, n]`; encoder_bias: `[n]`; decoder: `[n, d]`; decoder_bias: `[d]`, any float dtype.
        subtracted: the input has b_dec taken away before it is encoded.
        threshold: of jumprelu, in the units of the file's own pre-activations.
        more: other fields of SparseDictionary.

    A row shorter than TINY decodes to nothing. UserError where a number would be too large for float32.
    """
    d, n = np.shape(encoder)
    w, rows = np.empty((d, n), np.float32), np.empty((n, d), np.float32)
    b, scale = np.empty(n, np.float32), np.empty(n, np.float32)
    base = np.asarray(decoder_bias, dtype=np.float64)
    for start in range(0, n, BLOCK):  # float64 for some latents at a time: the whole would double the memory
        part = slice(start, start + BLOCK)
        columns, own = np.asarray(encoder[:, part], np.float64), np.asarray(decoder[part], np.float64) / input_scale
        bias = np.asarray(encoder_bias[part], np.float64) - (base @ columns if subtracted else 0.0)
        length = np.linalg.norm(own, axis=1)
        dead = length < TINY
        length = np.where(dead, 1.0, length)
        own = np.where(dead[:, None], 0.0, own) if dead.any() else own
        columns, bias = columns * (input_scale * length), bias * length
        _finite(columns, bias)
        w[:, part], b[part], rows[part], scale[part] = columns, bias, own / length[:, None], length
    if threshold is not None:
        wide = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (n,)) * scale
        _finite(wide)
        threshold = wide.astype(np.float32)
    _finite(base / input_scale)
    return SparseDictionary(
        Site.parse(site), w, b, rows, (base / input_scale).astype(np.float32), threshold=threshold, scale=scale, **more
    )


def _finite(*arrays: np.ndarray) -> None:
    """UserError where float32 cannot hold these float64 numbers."""
    most = float(np.finfo(np.float32).max)
    for array in arrays:
        if not (array.max() <= most and array.min() >= -most):  # NaN is neither
            raise UserError("the dictionary's weights multiply to numbers beyond float32", "weights that do not")
