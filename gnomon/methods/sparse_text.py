"""A direction as a sparse sum of phrases: orthogonal matching pursuit over an embedded lexicon.

    atoms   = rows of (E - mean(E)), each made unit                      E `[P, d]`: one phrase a row
    OMP     : x = sum of m atoms, each the one most correlated with what is left, all coefficients refitted after each
    cosine  = |x| for a unit target (x is the target's projection onto the chosen atoms)

Source: OMP, Pati et al. 1993, by scikit-learn (Cholesky, Rubinstein et al. 2008); neurons as sums of texts, Gandelsman
et al. 2024 (arXiv 2406.04341), section 5. The reference implementation there divides each COLUMN of the centred
matrix by its norm, that is each dimension over the texts; atoms are rows here, as the method's own text has it.

Any lexicon reconstructs something: 400 random atoms in 576 dimensions reach a cosine of .51 with 32 of them. Two
controls: isotropic atoms (their cosine does not depend on the target, so one draw a target serves all), and atoms that
are random mixtures of the lexicon's own (the same subspace and spectrum, but no phrase), which is the harder one.

Cost: Gram matrix P^2 d once, then about P m (m + d) for a target; 600 targets, 400 atoms, m = 32: about 3 seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gnomon.errors import UserError
from gnomon.nulls import permuted


@dataclass(frozen=True)
class Sparse:
    """Targets as sums of atoms, in the order in which the atoms were chosen.

    phrases `[S, m]` (-1 where the pursuit ended early), coefficients `[S, m]` (of the sum of all m), cosine `[S, m]`
    (after each; repeated where it ended early; NaN for a target of zeros), reconstruction `[S, d]`.
    """

    phrases: np.ndarray
    coefficients: np.ndarray
    cosine: np.ndarray
    reconstruction: np.ndarray

    def needed(self, cosine: float) -> np.ndarray:
        """Fewest phrases with which each target reaches `cosine`: `[S]`, 0 where it never does."""
        reached = np.nan_to_num(self.cosine) >= cosine
        return np.where(reached.any(1), reached.argmax(1) + 1, 0)


def unit_atoms(embeddings: np.ndarray) -> np.ndarray:
    """Centred over the lexicon, then every ROW made unit: `[P, d]`; an embedding equal to the mean stays 0."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise UserError(f"a lexicon of shape {embeddings.shape}", "at least 2 embedded phrases [P, d]")
    if not np.isfinite(embeddings).all():
        raise UserError("a lexicon holds NaN or infinite numbers", "finite embeddings")
    centred = embeddings - embeddings.mean(0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    if norms.max() <= 1e-10 * np.linalg.norm(embeddings, axis=1).max():
        raise UserError("every phrase of the lexicon has the same embedding", "phrases that differ")
    return np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-10 * norms.max())


def check_sizes(atoms: int, width: int, m: int, d: int) -> None:
    """UserError for more phrases than there are, or for a lexicon of another model's width."""
    if width != d:
        raise UserError(
            f"a lexicon of width {width} and effects of width {d}", "both from one model", "embed the lexicon with it"
        )
    if m > atoms:
        raise UserError(f"m is {m} phrases", f"at most the lexicon's {atoms}", "lower m, or give more phrases")


def decompose(atoms: np.ndarray, targets: np.ndarray, m: int) -> Sparse:
    """Every target as a sum of m atoms.

    Args:
        atoms: `[P, d]` unit rows (`unit_atoms`).
        targets: `[S, d]`; made unit here. A target of zeros has no phrases and a cosine of NaN.
        m: phrases, at most P.
    """
    check_sizes(len(atoms), atoms.shape[1], m, targets.shape[1])
    targets, zero = _unit(targets)
    gram, products = atoms @ atoms.T, atoms @ targets.T
    phrases, coefficients = np.full((len(targets), m), -1, dtype=np.int64), np.zeros((len(targets), m))
    cosine = np.full((len(targets), m), np.nan)
    for i in np.flatnonzero(~zero):
        path = _pursue(gram, products[:, i], m, path=True).reshape(len(atoms), -1)
        support = path != 0
        order = np.argsort(np.where(support.any(1), support.argmax(1), m), kind="stable")[: path.shape[1]]
        steps = len(order)
        phrases[i, :steps], coefficients[i, :steps] = order, path[order, -1]
        cosine[i, :steps] = np.sqrt(np.maximum(products[:, i] @ path, 0.0))
        cosine[i, steps:] = cosine[i, steps - 1]
    kept = np.where(phrases >= 0, phrases, 0)
    reconstruction = np.einsum("sm,smd->sd", coefficients, atoms[kept]) if len(targets) else np.zeros_like(targets)
    return Sparse(phrases, coefficients, cosine, reconstruction)


def reconstruct(atoms: np.ndarray, targets: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Reconstructions `[S, d]` of the unit targets and their cosines `[S]` (NaN for zeros): for controls, which need
    no order of phrases."""
    check_sizes(len(atoms), atoms.shape[1], m, targets.shape[1])
    targets, zero = _unit(targets)
    products = atoms @ targets.T
    found = _pursue(atoms @ atoms.T, products, m, path=False).reshape(len(atoms), -1)
    cosine = np.sqrt(np.maximum((found * products).sum(0), 0.0))
    return found.T @ atoms, np.where(zero, np.nan, cosine)


def _unit(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    targets = np.asarray(targets, dtype=np.float64)
    norms = np.linalg.norm(targets, axis=1)
    return targets / np.where(norms > 0, norms, 1.0)[:, None], norms == 0


def _pursue(gram: np.ndarray, products: np.ndarray, m: int, path: bool) -> np.ndarray:
    from sklearn.linear_model import orthogonal_mp_gram

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "ended prematurely": the target is reconstructed exactly
        return np.asarray(orthogonal_mp_gram(gram, products, n_nonzero_coefs=m, return_path=path))


def random_atoms(atoms: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Isotropic unit atoms `[atoms, d]`."""
    return unit_atoms(rng.standard_normal((atoms, d)))


def mixed_atoms(atoms: np.ndarray, rng: np.random.Generator, draws: int) -> Iterator[np.ndarray]:
    """Random mixtures of the lexicon's atoms, as many as there are: `draws` times `[P, d]`, unit rows.

    With centred atoms = U S V', a draw is Q S V', Q orthonormal at random: exactly the lexicon's covariance without its
    phrases. (Gaussian mixtures would scatter around it, and lose to any lexicon.)
    """
    _, size, right = np.linalg.svd(atoms - atoms.mean(0), full_matrices=False)
    kept = np.flatnonzero(size > 1e-10 * size[0])[: len(atoms) - 1]
    factor = size[kept, None] * right[kept]
    for _ in range(draws):
        noise = rng.standard_normal((len(atoms), len(kept)))
        yield unit_atoms(np.linalg.qr(noise - noise.mean(0))[0] @ factor)


def isotropic_cosines(atoms: int, d: int, m: int, draws: int, seed: int) -> np.ndarray:
    """Cosines `[draws]` that m of `atoms` isotropic atoms reach: a new lexicon and a new target in each draw."""
    rng = np.random.default_rng([seed, 31])
    drawn = (reconstruct(random_atoms(atoms, d, rng), rng.standard_normal((1, d)), m)[1][0] for _ in range(draws))
    return np.fromiter(drawn, dtype=np.float64, count=draws)


def standardised_p(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided p `[S]` of each observed value against its own few draws `[S, D]`, with the draws of all pooled.

    Values are standardised by their own draws' mean and sd (a draw by those of the other draws), so that S * D draws
    serve every member: families of one shape. NaN for a member whose value or draws are missing or all alike.
    """
    observed, null = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    draws = null.shape[1]
    if draws < 3:
        raise UserError(f"{draws} draws of a null", "at least 3")
    mean, sd = null.mean(1), null.std(1, ddof=1)
    others = (null.sum(1, keepdims=True) - null) / (draws - 1)
    squares = (null**2).sum(1, keepdims=True) - null**2 - (draws - 1) * others**2
    spread = np.sqrt(np.maximum(squares, 0.0) / (draws - 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(sd > 1e-12, (observed - mean) / sd, np.nan)
        pool = np.where(spread > 1e-12, (null - others) / spread, np.nan).reshape(-1)
    pool = np.sort(pool[np.isfinite(pool)])
    hits = len(pool) - np.searchsorted(pool, own - 1e-12, side="left")
    return np.where(np.isfinite(own) & (len(pool) > 0), (1 + hits) / (1 + len(pool)), np.nan)


# ---------------------------------------------------------------- do phrases and prompts agree?


def cosines(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Cosine of every row of `[n, d]` with one direction `[d]`; 0 where either is 0."""
    size = np.linalg.norm(vectors, axis=1) * np.linalg.norm(direction)
    return np.divide(vectors @ direction, size, out=np.zeros(len(vectors)), where=size > 0)


def top_rows(projection: np.ndarray, k: int) -> np.ndarray:
    """The k rows of largest signed projection: `[n]` bool."""
    out = np.zeros(len(projection), dtype=bool)
    out[np.argsort(-projection, kind="stable")[:k]] = True
    return out


def agreement_p(cosine: np.ndarray, top: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """Mean cosine of the top rows, and its one-sided p: which rows are "top" is shuffled by group.

    Args:
        cosine: `[n]`, between the neuron's text reconstruction and each prompt's embedding.
        top: `[n]` bool, the top-activating prompts.
        groups: `[n]`; groups of one size swap their marks, so prompts of one problem stay together.
    """
    if not top.any():
        return float("nan"), float("nan")
    value = float(cosine[top].mean())
    null = cosine @ permuted(top, groups, draws, [seed, 37]) / top.sum()
    return value, (1 + int((null >= value - 1e-12).sum())) / (1 + draws)
