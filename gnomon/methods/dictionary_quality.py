"""How well activations are rebuilt, text by text, so that an interval resamples groups of texts and never tokens.

    explained variance = 1 - sum |x - x^|^2 / sum |x - mean x|^2     over the tokens of the texts that were drawn

Controls at the same sparsity: the first k principal components, and a dictionary of random directions of the same size
(each token's k best, at the one scale that fits the fit tokens best). The mean alone explains 0 or less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from gnomon.stats import Interval, bootstrap

Rebuild = Callable[[np.ndarray], np.ndarray]
ACTIVE = 1e-6
BATCH = 1024


@dataclass(frozen=True)
class Sums:
    """Per text: squared error by predictor and square of x `[rows]`, sum of x `[rows, d]`, tokens `[rows]`."""

    error: dict[str, np.ndarray]
    square: np.ndarray
    total: np.ndarray
    count: np.ndarray


def text_sums(texts: Iterable[np.ndarray], rebuild: dict[str, Rebuild], d: int) -> Sums:
    """Sums over the tokens of each text `[tokens, d]`; a text without tokens counts as 0."""
    error: dict[str, list[float]] = {name: [] for name in rebuild}
    square, total, count = [], [], []
    for x in texts:
        wide = np.asarray(x, dtype=np.float64)
        square.append(float((wide**2).sum()))
        total.append(wide.sum(0) if len(wide) else np.zeros(d))
        count.append(float(len(wide)))
        for name, one in rebuild.items():
            error[name].append(float(((wide - one(x).astype(np.float64)) ** 2).sum()) if len(wide) else 0.0)
    return Sums({k: np.array(v) for k, v in error.items()}, np.array(square), np.array(total), np.array(count))


def explained(sums: Sums, name: str, weights: np.ndarray) -> np.ndarray:
    """Explained variance of a predictor under row weights `[b, rows]`: `[b]`, NaN where nothing varies."""
    tokens = np.maximum(weights @ sums.count, 1e-12)
    spread = weights @ sums.square - ((weights @ sums.total) ** 2).sum(1) / tokens
    left = weights @ sums.error[name]
    return 1 - np.divide(left, spread, out=np.full(len(weights), np.nan), where=spread > 1e-12)


def explained_interval(sums: Sums, name: str, groups: np.ndarray, draws: int, seed: int) -> Interval:
    """Explained variance with a bootstrap interval over groups of texts."""
    return bootstrap(lambda w: explained(sums, name, w), groups, draws, seed)


def principal(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[d]` and first k principal components `[k, d]` of `x [tokens, d]`, in float64."""
    mean = np.asarray(x, dtype=np.float64).mean(0)
    spread = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), 8192):
        part = np.asarray(x[start : start + 8192], dtype=np.float64) - mean
        spread += part.T @ part
    vectors = np.linalg.eigh(spread)[1]
    return mean, vectors[:, ::-1][:, : min(k, x.shape[1])].T.copy()


def by_components(mean: np.ndarray, components: np.ndarray) -> Rebuild:
    """Reconstruction by principal components."""
    return lambda x: mean + ((x - mean) @ components.T) @ components


def by_random_rows(x: np.ndarray, mean: np.ndarray, n: int, k: int, seed: int) -> Rebuild:
    """Reconstruction by the k best of n random directions, at the scale that fits a sample of `x` best."""
    rows = np.random.default_rng([seed, 49979687]).standard_normal((n, x.shape[1])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def raw(y: np.ndarray) -> np.ndarray:
        out = np.empty_like(y)
        for start in range(0, len(y), BATCH):
            pre = y[start : start + BATCH] @ rows.T
            at = np.argpartition(-pre, k - 1, axis=1)[:, :k]
            best = np.maximum(np.take_along_axis(pre, at, axis=1), 0)
            for i, (values, index) in enumerate(zip(best, at, strict=True)):
                out[start + i] = values @ rows[index]
        return out

    some = np.asarray(x[:: max(1, len(x) // 2000)], dtype=np.float32) - mean.astype(np.float32)
    guess = raw(some)
    scale = float((some * guess).sum() / max(float((guess**2).sum()), 1e-30))
    return lambda y: mean + scale * raw(np.asarray(y, np.float32) - mean.astype(np.float32))
