"""The logit lens on a direction: which tokens it would write, and how far it is one token against another.

    effect(token) = W_U[:, token] . (gain * C v),  v of length 1, C = centring for LayerNorm, identity for RMSNorm

the change of the token's logit per unit of v in the last residual, the final norm's scale left out. Early layers write
in other coordinates, so at an early site this is a sanity check and no reading of the direction's meaning.
Sources: nostalgebraist 2020 (logit lens); Dar et al. 2023 (arXiv 2209.02535). Cost: one product with the unembedding.
"""

from __future__ import annotations

import numpy as np

from gnomon.errors import UserError


def token_effects(vector: np.ndarray, unembed: np.ndarray, gain: np.ndarray, centred: bool) -> np.ndarray:
    """Effect of a direction `[d]`, at length 1, on the logit of every token: `[d_vocab]`.

    `unembed [d, d_vocab]`, `gain [d]` of the final norm; `centred` for LayerNorm.
    """
    v = np.asarray(vector, dtype=np.float64)
    if v.shape != (unembed.shape[0],):
        raise UserError(f"a direction of {v.shape[0]} numbers", f"{unembed.shape[0]}: only the residual stream is read")
    v = v / np.linalg.norm(v)
    if centred:
        v = v - v.mean()
    return np.asarray((np.asarray(gain, dtype=np.float64) * v).astype(np.float32) @ unembed, dtype=np.float64)


def logit_direction(
    unembed: np.ndarray, gain: np.ndarray, centred: bool, plus: list[int], minus: list[int]
) -> np.ndarray:
    """The direction `[d]` along which the mean logit of `plus` rises over that of `minus`.

    Averages are over tokens; without `minus` the competitor is the mean of the whole vocabulary.
    """
    if not plus:
        raise UserError("no token to look for", "one token at least")
    other = unembed[:, minus].mean(axis=1) if minus else unembed.mean(axis=1)
    rise = np.asarray(gain, dtype=np.float64) * (unembed[:, plus].mean(axis=1) - other)
    return rise - rise.mean() if centred else rise


def extremes(effects: np.ndarray, k: int) -> list[tuple[str, int, int]]:
    """(side, rank, token) of the `k` tokens that rise most and the `k` that fall most."""
    order = np.argsort(-effects, kind="stable")
    top = [("top", i + 1, int(t)) for i, t in enumerate(order[:k])]
    return top + [("bottom", i + 1, int(t)) for i, t in enumerate(order[::-1][:k])]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors `[d]`; two random ones in d dimensions have a standard deviation of 1 / sqrt(d)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
