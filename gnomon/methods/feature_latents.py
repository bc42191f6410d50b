"""A dictionary's latents of many rows, as one sparse matrix a site: what a search of latents works on.

    z = encode(x), in blocks of rows;  kept where z > 1e-6 ("active"), the rest is 0

A latent is 0 nearly everywhere, so a site's rows are held as compressed columns: 8 bytes an active entry, not
`[rows, latents]`. Only one site is held at a time. Of a position with many tokens a row's latents are summarised over
its tokens (`max` or `mean`); tokens whose norm is over five times their row's median are left out. Cost: one encoding
of every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from gnomon.errors import UserError
from gnomon.methods.feature_statistics import Matrix
from gnomon.methods.shuffled import MASSIVE, unmasked

ACTIVE = 1e-6
"""A latent is active above this."""
BLOCK = 256
"""Tokens that are encoded at once."""


def encode(dictionary: Any, x: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Latents of `x [tokens, d]` as `[tokens, n]` float32; what is not active is 0.

    UserError where the dictionary is of another width, or makes numbers that are not finite.
    """
    import torch

    if x.shape[1] != dictionary.d_model:
        raise UserError(
            f"a dictionary of width {dictionary.d_model} ({getattr(dictionary, 'name', '') or dictionary.site})",
            f"one of the width of the activations at {dictionary.site}: {x.shape[1]}",
            "give the dictionary that was trained on this model and site",
        )  # fmt: skip
    with torch.no_grad():
        z = dictionary.encode(torch.as_tensor(np.ascontiguousarray(x, dtype=np.float32), device=device))
        out = z.float().cpu().numpy()
    if not np.isfinite(out).all():
        raise UserError(f"latents of {dictionary.site} that are not finite", "finite activations and weights")
    return np.where(out > ACTIVE, out, np.float32(0))


def site_latents(
    dictionary: Any, read: Callable[[np.ndarray], np.ndarray], n: int, device: str = "cpu", block: int = BLOCK
) -> Matrix:
    """Latents `[n, latents]` of the rows 0..n-1 of a dense position; `read(indices)` gives `[len(indices), d]`."""
    parts = [
        sparse.csr_array(encode(dictionary, read(np.arange(start, min(start + block, n))), device))
        for start in range(0, n, block)
    ]
    return sparse.csr_array(sparse.vstack(parts, format="csr", dtype=np.float32))


def pooled_latents(
    dictionary: Any, rows: Iterable[np.ndarray], how: str, device: str = "cpu", block: int = BLOCK
) -> Matrix:
    """Latents `[rows, latents]` of a position with many tokens a row: `max` or `mean` over each row's calm tokens."""
    parts: list[Any] = []
    for x in rows:
        x = x[calm(x)]
        total = np.zeros(dictionary.d_sae, dtype=np.float64)
        for start in range(0, len(x), block):
            z = encode(dictionary, x[start : start + block], device)
            total = np.maximum(total, z.max(axis=0)) if how == "max" else total + z.sum(axis=0, dtype=np.float64)
        parts.append(sparse.csr_array((total if how == "max" else total / max(len(x), 1)).astype(np.float32)[None]))
    return sparse.csr_array(sparse.vstack(parts, format="csr", dtype=np.float32))


def calm(x: np.ndarray) -> np.ndarray:
    """Which tokens `[tokens]` of one text `x [tokens, d]` are no massive activations."""
    return unmasked(x, MASSIVE)[0] if len(x) else np.zeros(0, dtype=bool)


def active_counts(
    dictionary: Any, texts: Sequence[np.ndarray], device: str = "cpu", block: int = BLOCK
) -> tuple[np.ndarray, int]:
    """On how many calm tokens of some texts (`[tokens, d]` each) every latent is active: `[latents]`, and of how many.

    The first token of a text is left out with the massive ones: it is a sink in most models, and a dictionary reads
    it as nothing it was trained on.
    """
    counts, tokens = np.zeros(dictionary.d_sae, dtype=np.int64), 0
    for x in texts:
        x = x[1:][calm(x)[1:]]
        tokens += len(x)
        for start in range(0, len(x), block):
            counts += (encode(dictionary, x[start : start + block], device) > 0).sum(axis=0)
    return counts, tokens
