"""How alike two sets of activations of the same rows are: linear CKA, plain and debiased, and cosines row by row.

    plain      |Xc' Yc|^2 / (|Xc' Xc| |Yc' Yc|), columns centred (Kornblith et al. 2019, arXiv 1905.00414)
    debiased   HSIC_u(K, L) / sqrt(HSIC_u(K, K) HSIC_u(L, L)),  K = X X', L = Y Y'
               HSIC_u = mean K_ij L_ij - 2 mean K_ij L_iq + mean K_ij L_qr   over distinct i, j, q, r (Song et al. 2012)
    cosine     mean over rows of x_i . y_i / (|x_i| |y_i|); centred: each side's own mean taken off first

With fewer rows than dimensions plain CKA is near 1 for pure noise, and debiased CKA is 0: that one is the headline.
Rows of one group (samples of one question) are never compared with each other: "distinct" means of distinct groups.
A bootstrap draw counts groups, and a group's own copies stay uncompared as well, since they would bring the bias back;
plain CKA, which compares everything, has a delete-a-block jackknife over groups instead. CKA does not change when
either side is rotated, shifted or scaled; the two sides may differ in width. Cost: O(n^2 d), then O(n^2) a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gnomon import nulls, stats
from gnomon.errors import UserError

MEASURES = ("cka", "cka_plain", "cosine", "cosine_centred")
COLUMNS = ("measure", "control", "value", "ci_low", "ci_high", "p", "n", "groups", "note")
"""Keys of the rows that `similarity` gives."""


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Plain linear CKA of `[n, p]` and `[n, q]`: 0 to 1; NaN where a side never varies."""
    return float(Pairs(x, y).plain()[0])


def debiased_cka(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Debiased linear CKA of `[n, p]` and `[n, q]`: 0 in expectation for independent sides (it may fall below), 1 for
    a side and itself; NaN for fewer than four groups, or where a side does not vary between them."""
    return float(Pairs(x, y, groups).debiased()[0])


def row_cosines(x: np.ndarray, y: np.ndarray, centred: bool = False) -> np.ndarray:
    """Cosine of each row of `[n, d]` with its row of the other side: `[n]`; NaN for a row of zeros.

    `centred` takes each side's mean over rows off first: what all rows share is then no likeness.
    """
    return np.einsum("nd,nd->n", *(_unit(side, centred) for side in _same_width(x, y)))


@dataclass(frozen=True)
class Pairs:
    """Two sides of the same rows, `x [n, p]` and `y [n, q]`; `groups [n]` (unless given, each row its own)."""

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        for side in (self.x, self.y):
            if np.ndim(side) != 2 or len(side) != len(self.x) or not len(side):
                raise UserError(
                    f"activations {np.shape(self.x)} beside {np.shape(self.y)}", "the same rows, one or more"
                )
        if self.groups is not None and len(self.groups) != len(self.x):
            raise UserError(f"{len(self.groups)} groups for {len(self.x)} rows", "a group for each row")

    @cached_property
    def which(self) -> np.ndarray:
        """Number of each row's group, `[n]`."""
        n = len(self.x)
        return np.arange(n) if self.groups is None else np.unique(np.asarray(self.groups), return_inverse=True)[1]

    @cached_property
    def grams(self) -> tuple[np.ndarray, np.ndarray]:
        """Inner products `[n, n]` of the centred rows of each side."""
        sides = (np.asarray(s, dtype=np.float64) for s in (self.x, self.y))
        k, m = (_gram(s) for s in sides)
        return k, m

    @cached_property
    def _between(self) -> tuple[np.ndarray, np.ndarray]:
        """The same with 0 for rows of one group."""
        apart = self.which[:, None] != self.which[None, :]
        return self.grams[0] * apart, self.grams[1] * apart

    def plain(self, counts: np.ndarray | None = None) -> np.ndarray:
        """Plain CKA for each row of `counts [b, groups]` (how often a group is drawn): `[b]`."""
        (k, m), w = self.grams, self._counts(counts)[:, self.which]
        return _ratio(_biased(k, m, w), _biased(k, k, w), _biased(m, m, w))

    def debiased(self, counts: np.ndarray | None = None) -> np.ndarray:
        """Debiased CKA, likewise `[b]`; NaN for fewer than four groups."""
        (k, m), c = self._between, self._counts(counts)
        if c.shape[1] < 4:
            return np.full(len(c), np.nan)
        return _ratio(*(_unbiased(a, b, c, self.which) for a, b in ((k, m), (k, k), (m, m))))

    def shuffled(self, orders: np.ndarray, debiased: bool) -> np.ndarray:
        """CKA where row i of x is beside row `orders[s, i]` of y: `[s]`. Orders move whole groups to the place of
        others of their size, so that each side's own term stays as it is."""
        k, m = self._between if debiased else self.grams
        c = self._counts(None)
        if debiased and c.shape[1] < 4:
            return np.full(len(orders), np.nan)

        def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return _unbiased(a, b, c, self.which) if debiased else _biased(a, b, c[:, self.which])

        cross = np.array([of(k, m[np.ix_(order, order)])[0] for order in orders])
        return _ratio(cross, of(k, k), of(m, m))

    def _counts(self, counts: np.ndarray | None) -> np.ndarray:
        return np.ones((1, int(self.which.max()) + 1)) if counts is None else np.asarray(counts, dtype=np.float64)


def similarity(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None = None,
    draws: int = 500,
    shuffles: int = 199,
    seed: int = 0,
    measures: Sequence[str] = MEASURES,
) -> list[dict[str, Any]]:
    """Every measure with its interval, and beside it (control "shuffled") what other rows' partners give.

    Args:
        x, y: `[n, p]` and `[n, q]`, the same rows; cosines are left out where p and q differ.
        groups: `[n]`; intervals are of a bootstrap over groups, shuffles exchange whole groups of equal size.
        draws, shuffles: bootstrap draws behind an interval, shuffles of the pairing behind a p (one-sided, greater).

    Returns rows with the keys COLUMNS. A control's interval is the central 95% of its shuffles. What has no value
    (a side that never varies, fewer than four groups) is NaN with a note.
    """
    pairs = Pairs(x, y, groups)
    names = pairs.which
    orders = nulls.permuted(np.arange(len(names)), names, shuffles, [seed, 31]).T
    counts = _drawn(int(names.max()) + 1, draws, [seed, 32])
    same = np.shape(x)[1] == np.shape(y)[1]
    out: list[dict[str, Any]] = []
    for measure in measures:
        if measure.startswith("cosine") and same:
            matrix = _cosine_matrix(x, y, measure == "cosine_centred")
            own = np.diag(matrix)
            value, ends = float(own.mean()), stats.ends(stats.mean(own, counts[:, names]))
            null = np.array([float(matrix[np.arange(len(own)), order].mean()) for order in orders])
        elif measure.startswith("cka"):
            of = pairs.plain if measure == "cka_plain" else pairs.debiased
            value = float(of()[0])
            ends = _jackknifed(pairs, value, seed) if measure == "cka_plain" else stats.ends(of(counts))
            null = pairs.shuffled(orders, measure == "cka")
        else:
            continue
        out += _rows(measure, value, ends, null, names)
    return out


def _jackknifed(pairs: Pairs, value: float, seed: int, blocks: int = 100) -> tuple[float, float]:
    """The ends of plain CKA's interval, value -+ 1.96 standard errors, inside 0 to 1."""
    k = int(pairs.which.max()) + 1
    blocks = min(blocks, k)
    block = np.random.default_rng([seed, 33]).permutation(k) % blocks
    left = pairs.plain((block != np.arange(blocks)[:, None]).astype(np.float64))
    error = float(np.sqrt((blocks - 1) * left.var()))
    return max(value - 1.96 * error, 0.0), min(value + 1.96 * error, 1.0)


def _rows(
    measure: str, value: float, ends: tuple[float, float], null: np.ndarray, names: np.ndarray
) -> list[dict[str, Any]]:
    k = int(names.max()) + 1
    note = ""
    if not np.isfinite(value):
        note = "fewer than four groups" if k < 4 else "a side never varies, or holds a row of zeros"
    elif nulls.movable(names) < 0.5:
        note = "most groups share their size with no other: the shuffled pairing is mostly the true one"
    common = {"measure": measure, "n": len(names), "groups": k}
    low, high = ends if k >= 4 and np.isfinite(value) else (np.nan, np.nan)
    p = nulls.p_value(value, null)
    null_low, null_high = stats.ends(null)
    middle = float(np.nanmean(null)) if np.isfinite(null).any() else np.nan
    shuffled = {"value": middle, "ci_low": null_low, "ci_high": null_high, "p": np.nan}
    return [
        common | {"control": "", "value": value, "ci_low": low, "ci_high": high, "p": p, "note": note},
        common | {"control": "shuffled"} | shuffled | {"note": f"{len(null)} shuffles of the pairing, by group"},
    ]


def _drawn(k: int, draws: int, seed: Sequence[int]) -> np.ndarray:
    """Counts `[draws, k]` of k groups drawn with replacement, the same ones for every measure."""
    return stats.group_weights(np.arange(k), draws, seed)


# ---------------------------------------------------------------- dependence of two Gram matrices


def _biased(k: np.ndarray, m: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Trace of the product of the doubly centred matrices under row weights `[b, n]`, over the squared total: `[b]`."""
    total = np.maximum(w.sum(axis=1), 1e-300)
    wk, wm = w @ k, w @ m
    pair = ((w @ (k * m)) * w).sum(axis=1) / total**2
    one = (w * wk * wm).sum(axis=1) / total**3
    none = (wk * w).sum(axis=1) * (wm * w).sum(axis=1) / total**4
    return pair - 2 * one + none


def _unbiased(k: np.ndarray, m: np.ndarray, c: np.ndarray, which: np.ndarray) -> np.ndarray:
    """HSIC over rows of distinct groups: `k`, `m` `[n, n]` are 0 within groups, `c [b, groups]` counts the groups.

    Sums over distinct indices are whole sums less those in which two coincide. With counts of 1 and groups of one row
    it is the estimator of Song et al. (2012), eq. 5.
    """
    sizes = np.bincount(which).astype(np.float64)
    single = len(sizes) == len(which)
    kb, mb = (k, m) if single else (_to_groups(k, which), _to_groups(m, which))  # [n, groups]
    kg, mg = (kb, mb) if single else (_rows_to_groups(kb, which), _rows_to_groups(mb, which))  # [groups, groups]
    pair = k * m if single else _rows_to_groups(_to_groups(k * m, which), which)
    star = pair if single else _rows_to_groups(kb * mb, which)
    both = pair if single else kg * mg
    c2, rows = c**2, c[:, which]
    ka, ma = c @ kb.T, c @ mb.T  # [b, n]: sums of each row over all groups
    kt, mt = (ka, ma) if single else (c @ kg.T, c @ mg.T)
    two = ((c @ pair) * c).sum(axis=1)
    three = (rows * ka * ma).sum(axis=1) - ((c @ star) * c2).sum(axis=1)
    four = (kt * c).sum(axis=1) * (mt * c).sum(axis=1) - 4 * (c2 * kt * mt).sum(axis=1)
    four += 2 * ((c2 @ both) * c2).sum(axis=1)
    p1, p2, p3, p4 = ((c * sizes) ** np.arange(1, 5)[:, None, None]).sum(axis=2)
    terms = [
        (1, two, p1**2 - p2),
        (-2, three, p1**3 - 3 * p1 * p2 + 2 * p3),
        (1, four, p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4),
    ]
    return np.sum(
        [s * np.divide(t, n, out=np.full(len(c), np.nan), where=n > 0.5) for s, t, n in terms], axis=0
    )  # counts are whole numbers: below .5 there are no such rows


def _to_groups(a: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Columns of `[m, n]` summed by group: `[m, groups]`."""
    return _rows_to_groups(a.T, which).T


def _rows_to_groups(a: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Rows of `[n, m]` summed by group: `[groups, m]`."""
    out = np.zeros((int(which.max()) + 1, a.shape[1]))
    np.add.at(out, which, a)
    return out


def _ratio(cross: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """cross / sqrt(first second); NaN where a side does not vary (its own term is not above rounding)."""
    good = (first > 1e-12 * np.max(np.abs(first), initial=0)) & (second > 1e-12 * np.max(np.abs(second), initial=0))
    scale = np.sqrt(np.where(good, first * second, 1.0))
    return np.where(good, cross / scale, np.nan)


def _gram(x: np.ndarray) -> np.ndarray:
    """Inner products of the centred rows at a mean diagonal of 1; zeros where rows differ by rounding only."""
    raw, x = float((x**2).mean()), x - x.mean(axis=0)
    if float((x**2).mean()) <= 1e-12 * raw:
        return np.zeros((len(x), len(x)))
    k = x @ x.T
    return k * (len(k) / np.trace(k))


# ---------------------------------------------------------------- rows


def _same_width(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(x) != np.shape(y) or np.ndim(x) != 2:
        raise UserError(f"activations {np.shape(x)} beside {np.shape(y)}", "two of one shape")
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


def _unit(x: np.ndarray, centred: bool) -> np.ndarray:
    x = x - x.mean(axis=0) if centred else x
    size = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, size, out=np.full(x.shape, np.nan), where=size > 0)


def _cosine_matrix(x: np.ndarray, y: np.ndarray, centred: bool) -> np.ndarray:
    """Cosine of every row of x with every row of y, `[n, n]`."""
    a, b = _same_width(x, y)
    return _unit(a, centred) @ _unit(b, centred).T
