"""PCA of one neuron's effects in the space of its coefficients: phi = coef @ basis is never held for many neurons.

With coef `[N, R]` (one number a head), basis `[R, d]`, K = basis basis' and c = coef - mean(coef over fit):

    mean effect        = mean(coef) @ basis
    |phi_i - mean|^2   = c_i K c_i'
    top rows           = the k fit rows of largest norm, k = max(20, 2% of the fit rows)
    G                  = c_top K c_top' = u s^2 u' ...;   pc = basis' c_top' u1 / s1,   share of PC1 = s1^2 / trace(G)
    projection_i       = c_i @ (basis @ pc)

The effects are centred on the mean of all fit rows, not again on the mean of the top rows, so that
rank 1 = mean + <phi - mean, pc> pc. The sign of pc makes the majority of the top rows' projections positive.

Source: PCA from a Gram matrix (Schoelkopf et al. 1998); rank-1 effects of neurons, Gandelsman et al. 2024 (arXiv
2406.04341), section 4. Cost for a neuron: N R (R + d) multiplications and an eigenvalue problem of min(k, R); the
materialised way holds N d numbers for each neuron of the layer at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnomon.errors import UserError

NOTHING = 1e-10
"""Centred norms below this share of the largest uncentred one are rounding: the effect does not vary."""


@dataclass(frozen=True)
class NeuronPCA:
    """The first component of one neuron's effects.

    pc `[d]` unit (all 0 where `zero`), mean `[d]`, norms `[N]` and projection `[N]` of every row, top `[k]` fit rows
    by norm, largest first. evr: PC1's share over the top rows; evr_all: over all fit rows (both NaN where `zero`).
    positive: share of the top rows with a positive projection; participation: (sum s^2)^2 / sum s^4 over the top rows,
    the effective number of components. zero: the effect is the same in every fit row (or nothing at all).
    """

    pc: np.ndarray
    mean: np.ndarray
    norms: np.ndarray
    projection: np.ndarray
    top: np.ndarray
    evr: float
    evr_all: float
    positive: float
    participation: float
    zero: bool


def top_count(fit_rows: int, k: int = 20, share: float = 0.02) -> int:
    """max(k, share of the fit rows); UserError where there are fewer fit rows than that."""
    wanted = max(k, int(np.ceil(share * fit_rows)))
    if fit_rows < wanted or fit_rows < 2:
        raise UserError(
            f"the PCA of effects has {fit_rows} rows in fit", f"at least k = {max(wanted, 2)}",
            "raise generate.n (or second_order's rows), or lower pca.k",
        )  # fmt: skip
    return wanted


def gram_norms(coef: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """|coef_i @ basis| of every row `[N]`, from coef `[N, R]` and gram = basis basis' `[R, R]`."""
    return np.sqrt(np.maximum(((coef @ gram) * coef).sum(-1), 0.0))


def neuron_pca(coef: np.ndarray, basis: np.ndarray, fit: np.ndarray, k: int) -> NeuronPCA:
    """PC1 of one neuron.

    Args:
        coef: `[N, R]`; R = 0 (no head above it) is an effect of nothing.
        basis: `[R, d]`.
        fit: `[N]` bool, the rows that the mean and the component are taken from.
        k: rows of largest norm that the component is fitted to (`top_count`).
    """
    coef, basis = np.asarray(coef, dtype=np.float64), np.asarray(basis, dtype=np.float64)
    fit = np.asarray(fit, dtype=bool)
    if coef.ndim != 2 or basis.ndim != 2 or coef.shape[1] != basis.shape[0] or len(fit) != len(coef):
        raise UserError(f"coefficients {coef.shape}, basis {basis.shape}, {len(fit)} rows", "[N, R], [R, d] and N")
    if not np.isfinite(coef).all() or not np.isfinite(basis).all():
        raise UserError("an effect holds NaN or infinite numbers", "finite coefficients and bases")
    rows = np.flatnonzero(fit)
    if len(rows) < max(k, 2):
        raise UserError(f"a PCA over {k} rows has {len(rows)} rows in fit", "as many rows as that")
    gram = basis @ basis.T
    middle = coef[rows].mean(0)
    mean, centred = middle @ basis, coef - middle
    norms = gram_norms(centred, gram)
    order = rows[np.argsort(-norms[rows], kind="stable")]
    top = order[:k]
    size = gram_norms(coef[rows], gram).max(initial=0.0)
    if norms[top].max(initial=0.0) <= NOTHING * size:
        nothing, nan = np.zeros(len(coef)), float("nan")
        return NeuronPCA(np.zeros(basis.shape[1]), mean, nothing, nothing, top, nan, nan, nan, nan, True)
    pc, shares = _first(centred[top], basis, gram)
    projection = centred @ (basis @ pc)
    positive = np.count_nonzero(projection[top] > 0) * 2 - k
    if positive < 0 or (positive == 0 and projection[top].sum() < 0):
        pc, projection = -pc, -projection
    return NeuronPCA(
        pc, mean, norms, projection, top, float(shares.max() / shares.sum()),
        float((projection[rows] ** 2).sum() / (norms[rows] ** 2).sum()), float((projection[top] > 0).mean()),
        float(shares.sum() ** 2 / (shares**2).sum()), False,
    )  # fmt: skip


def _first(centred: np.ndarray, basis: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit first right singular vector `[d]` and all squared singular values of centred @ basis, from the Gram matrix.

    Where there are more rows than heads the problem is solved in R dimensions: gram = q q' with q = Q sqrt(L).
    """
    if len(centred) <= len(gram):
        values, vectors = np.linalg.eigh(centred @ gram @ centred.T)
        left = vectors[:, -1]
    else:
        factor = centred @ _root(gram)
        values, vectors = np.linalg.eigh(factor.T @ factor)
        left = factor @ vectors[:, -1]
    pc = (left @ centred) @ basis
    return pc / np.linalg.norm(pc), np.maximum(values, 0.0)


def _root(gram: np.ndarray) -> np.ndarray:
    """q with q q' = gram, also where gram is singular."""
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def explained(projection: np.ndarray, norms: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the centred effects' energy along the component: `[b]` or `[b, S]`.

    Args:
        projection, norms: `[n]` or `[n, S]` of the same rows (of a split that the component was not fitted to).
        weights: `[b, n]`: ones, or draws of `stats.group_weights`. NaN where nothing varies.
    """
    top, bottom = weights @ (projection**2), weights @ (norms**2)
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def shuffled_heads(coef: np.ndarray, splits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The null of PC1's share: each head's coefficients in another order of the rows (within a split), `[N, R]`.

    Every head keeps its own distribution and its own direction; what is lost is that heads act together in one text.
    """
    out = np.array(coef, dtype=np.float64)
    for name in np.unique(splits):
        rows = np.flatnonzero(splits == name)
        out[rows] = rng.permuted(out[rows], axis=0)
    return out
