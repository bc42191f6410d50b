"""What a dictionary must be before anything is concluded from it: shapes, finite numbers, unit rows, and, on a sample
of activations of its site, sparse and reconstructing.

    L0    latents that fire on a token, mean                 FVU   sum |x - x^|^2 / sum |x - mean x|^2
    dead  latents that fire on no token of the sample

Massive-activation tokens (norm over 5 times the median) are left out of the sample: they carry most of the variance and
no dictionary is made for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.dictionaries.base import SparseDictionary
from gnomon.errors import UserError

MASSIVE = 5.0
L0_FACTOR = 5.0
"""How far L0 may lie from the one that the files state, either way."""
BATCH = 512
ACTIVE = 1e-6
"""A latent fires where its activation is above this."""


@dataclass(frozen=True)
class Check:
    """One check: its name, the value measured, whether it passed, and what was wanted."""

    name: str
    value: float
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Measured:
    """A dictionary on a sample. fires `[n]`: tokens on which each latent fires."""

    l0: float
    fvu: float
    dead: float
    tokens: int
    masked: int
    fires: np.ndarray


def unmasked(x: np.ndarray, factor: float = MASSIVE) -> np.ndarray:
    """Which tokens of `x [tokens, d]` are not massive: `[tokens]` bool."""
    norms = np.linalg.norm(np.asarray(x, dtype=np.float64), axis=-1)
    return norms <= factor * np.median(norms) if len(norms) else np.zeros(0, bool)


def measure(dictionary: SparseDictionary, x: np.ndarray) -> Measured:
    """L0, FVU and dead share on a sample `x [tokens, d]`, massive tokens left out; in batches, so memory is bounded."""
    import torch

    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2 or not len(x):
        raise UserError(f"a sample of shape {x.shape}", "[tokens, d]")
    if x.shape[1] != dictionary.d_model:
        raise UserError(
            f"{_name(dictionary)} is of width {dictionary.d_model}, and the activations are of {x.shape[1]}",
            "activations of its own model and site",
        )  # fmt: skip
    if not np.all(np.isfinite(x)):
        raise UserError("the sample holds NaN or infinite numbers", "finite activations")
    keep = unmasked(x)
    kept = x[keep]
    fires, error = np.zeros(dictionary.d_sae, np.int64), 0.0
    with torch.no_grad():
        for start in range(0, len(kept), BATCH):
            part = torch.from_numpy(np.ascontiguousarray(kept[start : start + BATCH]))
            z = dictionary.encode(part)
            fires += (z > ACTIVE).sum(0).numpy()
            error += float((part - dictionary.decode(z)).double().square().sum())
    spread = float(np.square(kept.astype(np.float64) - kept.astype(np.float64).mean(0)).sum())
    return Measured(
        float(fires.sum() / len(kept)), error / spread if spread > 0 else float("nan"), float((fires == 0).mean()),
        len(kept), int((~keep).sum()), fires,
    )  # fmt: skip


def check_dictionary(dictionary: SparseDictionary, x: np.ndarray | None = None) -> list[Check]:
    """The checks, in order; those on a sample `x [tokens, d]` (its own site's activations) where one is given."""
    d, n = dictionary.d_model, dictionary.d_sae
    given: dict[str, tuple[Any, tuple[int, ...]]] = {
        "encoder": (dictionary.encoder, (d, n)), "encoder_bias": (dictionary.encoder_bias, (n,)),
        "decoder": (dictionary.decoder, (n, d)), "decoder_bias": (dictionary.decoder_bias, (d,)),
        "threshold": (dictionary.threshold, (n,)), "scale": (dictionary.scale, (n,)),
    }  # fmt: skip
    here = {name: (np.asarray(a), shape) for name, (a, shape) in given.items() if a is not None}
    wrong = [f"{name} {a.shape} not {shape}" for name, (a, shape) in here.items() if a.shape != shape]
    checks = [Check("shapes", len(wrong), not wrong, "; ".join(wrong) or f"{n} latents of width {d}")]
    if wrong:
        return checks
    bad = sum(int((~np.isfinite(a)).sum()) for a, _ in here.values())
    checks.append(Check("finite", bad, not bad, "NaN or infinite weights"))
    norms = np.linalg.norm(dictionary.decoder.astype(np.float64), axis=1)
    off = float(np.abs(norms[norms > 0] - 1).max(initial=0.0))
    checks.append(Check("unit rows", off, off < 1e-4, "largest distance of a decoder row's length from 1"))
    none = int((norms == 0).sum())
    checks.append(Check("empty rows", none, none < n, "latents that decode to nothing"))
    checks.append(_activation(dictionary))
    return checks if x is None or not all(c.passed for c in checks) else checks + _on_sample(dictionary, x)


def _activation(dictionary: SparseDictionary) -> Check:
    kind, k = dictionary.activation, dictionary.k
    if kind == "topk":
        return Check("k", float(k or 0), k is not None and 1 <= k <= dictionary.d_sae, "latents that a token keeps")
    if kind == "jumprelu":
        low = float("nan") if dictionary.threshold is None else float(np.median(dictionary.threshold))
        return Check("threshold", low, dictionary.threshold is not None, "median, in canonical units")
    return Check("activation", 0.0, kind == "relu", kind)


def _on_sample(dictionary: SparseDictionary, x: np.ndarray) -> list[Check]:
    found = measure(dictionary, x)
    n, said = dictionary.d_sae, expected_l0(dictionary.meta)
    detail = f"latents that fire on a token, of {n}"
    good = 0 < found.l0 <= n / 2
    if dictionary.activation == "topk":
        good = 0 < found.l0 <= (dictionary.k or 0)
        detail += f"; at most {dictionary.k}"
    elif said is not None:
        good = good and said / L0_FACTOR <= found.l0 <= said * L0_FACTOR
        detail += f"; its files say {said:g}"
    return [
        Check("tokens", found.tokens, found.tokens >= 2, f"{found.masked} massive ones left out"),
        Check("L0", found.l0, good, detail),
        Check("unexplained variance", found.fvu, found.fvu < 1, "FVU; 1 is what the mean leaves"),
        Check("dead", found.dead, found.dead < 1, "share of latents that fire on no token of the sample"),
    ]


def expected_l0(meta: Mapping[str, Any]) -> float | None:
    """The L0 that a dictionary's files state, if any."""
    value = meta.get("expected_l0")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def require(dictionary: SparseDictionary, x: np.ndarray | None = None) -> SparseDictionary:
    """The dictionary, once all checks pass; UserError naming those that fail."""
    failed = [c for c in check_dictionary(dictionary, x) if not c.passed]
    if failed:
        raise UserError(
            f"{_name(dictionary)} fails {', '.join(f'{c.name} = {c.value:.4g} ({c.detail})' for c in failed)}",
            f"a dictionary of {dictionary.site} of the model whose activations these are",
            "gnomon check-dictionary shows all checks",
        )  # fmt: skip
    return dictionary


def require_fit(dictionary: SparseDictionary, site: str, width: int, n_layers: int, model: str = "the model") -> None:
    """UserError where the dictionary is of another site, width, or of a layer that the model lacks."""
    own = dictionary.site
    if own.layer >= n_layers:
        raise UserError(f"{_name(dictionary)} is of {own}, and {model} has layers 0 to {n_layers - 1}", "its own model")
    if str(own) != site:
        raise UserError(f"{_name(dictionary)} is of {own}, and {site} is wanted", "a dictionary of that site")
    if dictionary.d_model != width:
        raise UserError(
            f"{_name(dictionary)} is of width {dictionary.d_model}, and {site} of {model} has {width}", "its own model"
        )


def rows(checks: Sequence[Check]) -> list[tuple[str, str, str, str]]:
    """Lines of the table that check-dictionary prints."""
    return [("ok" if c.passed else "FAIL", c.name, f"{c.value:.4g}", c.detail) for c in checks]


def _name(dictionary: SparseDictionary) -> str:
    return dictionary.name or dictionary.source or "the dictionary"
