"""High against low: difference-in-means directions of a real-valued target, and how far two of them agree.

    d = mean(x | high) - mean(x | low),    high, low: the top and bottom `share` of the training rows
    cosine(d, e) = <d, e> / sqrt(<d, d> <e, e>),   each product without the terms of one group with itself

Two directions from the same rows share those rows' noise: high confidence and right answers go together, so the plain
cosine of their directions is above 0 where nothing but noise is in the activations, and that of two noisy estimates of
one direction is far below 1. Every product here is a sum of four products of class means, each a mean over pairs of
rows of different groups (a U-statistic; Hoeffding 1948), which is unbiased for <E d, E e>. Its error has three parts,
each direction's noise with the other one and noise with noise, the last up to twice as large where the labels go
together; so a draw of the null adds a product with the first's labels shuffled by group and one with the second's.
Cost: O(n d) a draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon import nulls, stats
from gnomon.errors import UserError


def cuts(values: np.ndarray, share: float) -> tuple[float, float] | None:
    """The ends (low, high) of the bottom and top `share` of `values [n]`: low is `<=` the first, high `>=` the second.

    Where both fall on one value that many rows share, that value is in the middle. None where no row is left on a side.
    """
    low, high = (float(v) for v in np.quantile(values, (share, 1 - share)))
    if low >= high:
        low, high = float(np.nextafter(low, -np.inf)), float(np.nextafter(high, np.inf))
    return (low, high) if (values <= low).any() and (values >= high).any() else None


def sides(values: np.ndarray, cut: tuple[float, float]) -> np.ndarray:
    """1 for high, 0 for low, NaN between (and where unknown): `[n]`."""
    low, high = cut
    return np.where(values >= high, 1.0, np.where(values <= low, 0.0, np.nan))


@dataclass(frozen=True)
class Contrast:
    """Sums of high and low rows by group: `high`, `low` `[groups, d]`, their counts `[groups]`."""

    high: np.ndarray
    low: np.ndarray
    n_high: np.ndarray
    n_low: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, which: np.ndarray, k: int) -> Contrast:
        """Of rows `x [n, d]` with labels `y [n]` (1, 0, or NaN: left out) in groups `which [n]` of `k`."""
        parts, counts = [], []
        for value in (1.0, 0.0):
            here = y == value
            total = np.zeros((k, x.shape[1]))
            np.add.at(total, which[here], x[here])
            parts.append(total)
            counts.append(np.bincount(which[here], minlength=k).astype(np.float64))
        return cls(*parts, *counts)

    @property
    def classes(self) -> tuple[tuple[float, np.ndarray, np.ndarray], ...]:
        """(sign, sums, counts) of the two classes."""
        return (1.0, self.high, self.n_high), (-1.0, self.low, self.n_low)


def product(p: Contrast, q: Contrast, counts: np.ndarray) -> np.ndarray:
    """Unbiased `<E d, E e>` for each draw of groups `counts [b, groups]`: `[b]`; NaN where a class has no pair."""
    out, c2 = np.zeros(len(counts)), counts**2
    left = [(s, counts @ a, a, n) for s, a, n in p.classes]
    right = [(s, counts @ b, b, n) for s, b, n in q.classes]
    for s, total, a, n in left:
        for t, other, b, m in right:
            top = (total * other).sum(axis=1) - c2 @ (a * b).sum(axis=1)
            pairs = (counts @ n) * (counts @ m) - c2 @ (n * m)
            out += s * t * np.divide(top, pairs, out=np.full(len(top), np.nan), where=pairs > 0.5)
    return out


def cosine(p: Contrast, q: Contrast, counts: np.ndarray) -> np.ndarray:
    """Debiased cosine for each draw, `[b]`, at most 1 in size; NaN where a direction is not above its own noise."""
    first, second = product(p, p, counts), product(q, q, counts)
    with np.errstate(invalid="ignore"):
        good = (first > 0) & (second > 0)
        scale = np.sqrt(np.where(good, first * second, 1.0))
        return np.where(good, np.clip(product(p, q, counts) / scale, -1, 1), np.nan)


def shuffled_products(x: np.ndarray, labels: np.ndarray, which: np.ndarray, q: Contrast) -> np.ndarray:
    """`product` with the direction of other labels on rows `x [n, d]`, a column of `labels [n, s]` each: `[s]`."""
    out = np.zeros(labels.shape[1])
    for t, b, m in q.classes:
        near = np.einsum("nd,nd->n", x, b.sum(axis=0) - b[which])  # of each row with all rows of other groups
        pairs = m.sum() - m[which]
        for s, y in ((1.0, labels), (-1.0, 1 - labels)):
            total = y.T @ pairs
            out += s * t * np.divide(y.T @ near, total, out=np.full(len(total), np.nan), where=total > 0.5)
    return out


def plain_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors `[d]`; NaN where one is all zeros."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else float("nan")


def cosine_rows(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    groups: np.ndarray,
    draws: int = 500,
    shuffles: int = 199,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Cosine of two directions, and beside it (control "shuffled") what shuffled labels give.

    Args:
        first, second: activations `[n, d]` and labels `[n]` (1, 0, NaN), over the same n rows.
        groups: `[n]`; the interval is of a bootstrap over them, labels are shuffled among them.

    Returns two rows: value, ci_low, ci_high, p (two-sided), plain (the cosine of the plain directions), n, groups,
    note. Labels of one class, or a direction within its noise, give NaN and a note.
    """
    (x, y), (z, u) = first, second
    if np.shape(x) != np.shape(z) or len(x) != len(y) or len(z) != len(u):
        raise UserError(f"activations {np.shape(x)} beside {np.shape(z)}", "the same rows and width, a label for each")
    names, which = np.unique(np.asarray(groups), return_inverse=True)
    x, z = (np.asarray(v, dtype=np.float64) for v in (x, z))
    common = {"n": int(np.isfinite(y).sum()), "groups": len(np.unique(which[np.isfinite(y)]))}
    empty = {"value": np.nan, "ci_low": np.nan, "ci_high": np.nan, "p": np.nan, "plain": np.nan}
    if not all((labels == side).any() for labels in (y, u) for side in (0, 1)):
        note = "a class without rows: no direction"
        return [common | empty | {"control": c, "note": note} for c in ("", "shuffled")]
    x, z = x - x[np.isfinite(y)].mean(axis=0), z - z[np.isfinite(u)].mean(axis=0)
    p, q = (Contrast.of(v, t, which, len(names)) for v, t in ((x, y), (z, u)))
    one = np.ones((1, len(names)))
    vectors = [c.high.sum(0) / c.n_high.sum() - c.low.sum(0) / c.n_low.sum() for c in (p, q)]
    null = np.zeros(shuffles)
    for i, (v, t, partner) in enumerate(((x, y, q), (z, u, p))):
        rows = np.isfinite(t)
        labels = nulls.permuted(t[rows], which[rows], shuffles, [seed, 41, i])
        null += shuffled_products(v[rows], labels, which[rows], partner)
    own = {"plain": plain_cosine(*vectors), "p": nulls.p_value(float(product(p, q, one)[0]), null, "two-sided")}
    control = {"note": f"{shuffles} times a shuffle of the first's labels and one of the second's, added"}
    value, note = float(cosine(p, q, one)[0]), "a direction is not above its own noise: no cosine"
    if np.isfinite(value):
        low, high = stats.ends(cosine(p, q, stats.group_weights(np.arange(len(names)), draws, [seed, 42])))
        own, note = own | {"value": value, "ci_low": low, "ci_high": high}, ""
        null = np.clip(null / float(np.sqrt(product(p, p, one) * product(q, q, one))[0]), -1, 1)
        low, high = stats.ends(null)
        control |= {"value": float(null.mean()), "ci_low": low, "ci_high": high}
    return [common | empty | own | {"control": "", "note": note}, common | empty | control | {"control": "shuffled"}]
