"""Exact tests of many tokens at once: is a token present in more responses of one side than of the other?

    strata   T = responses of the condition that hold the token; given how many of each unit's responses hold it, T is
             a sum of hypergeometric counts, one a unit. One unit: Fisher's exact test. A unit a prompt: the exact
             within-prompt permutation test (of pairs: McNemar's).
    flips    T = sum over groups of (patched - unpatched responses that hold it); each group's difference may as well
             have the other sign. One pair a group: McNemar's exact test.

Distributions are convolved, not sampled, so p has no floor of 1 / draws, and the p of every value that T could take is
kept: shuffles of the sides cost a look-up. p of strata sums what is no likelier than T (as Fisher's two-sided test
does), p of flips is P(|T*| >= |T|). `least` is the smallest p that a token's counts can reach at all.
Sources: Fisher 1935; McNemar 1947; Mantel & Haenszel 1959 (exact: Mehta, Patel & Gray 1985). Cost: a few convolutions
a token; tokens of the same counts share them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

SMALLEST = float(np.finfo(np.float64).tiny)
"""A p below this is written as this: no p is 0."""
SLACK = 1 + 1e-7
"""Outcomes whose probabilities differ by rounding count as equally likely (as in R and scipy)."""


@dataclass(frozen=True)
class Exact:
    """p of each token `v` for every value `t` of its statistic: `flat[start[v] + t]`."""

    flat: np.ndarray
    start: np.ndarray
    """`[tokens]`."""
    least: np.ndarray
    """`[tokens]`: the smallest p that is possible."""

    def p(self, values: np.ndarray) -> np.ndarray:
        """p of statistics `[..., tokens]` (whole numbers)."""
        return self.flat[self.start + np.rint(values).astype(np.int64)]


def no_likelier(pmf: np.ndarray) -> np.ndarray:
    """For each outcome the probability of all that are no likelier than it."""
    ordered = np.sort(pmf)
    total = np.concatenate([[0.0], np.cumsum(ordered)])
    return np.minimum(total[np.searchsorted(ordered, pmf * SLACK, side="right")], 1.0)


def as_far(pmf: np.ndarray) -> np.ndarray:
    """For each outcome of a symmetric distribution about its middle, the probability of lying as far from it."""
    middle = len(pmf) // 2
    tail = np.cumsum(pmf[::-1])[: middle + 1][::-1]  # P(T >= t) for t = 0 ... middle
    both = np.concatenate([[1.0], np.minimum(2 * tail[1:], 1.0)])
    return both[np.abs(np.arange(len(pmf)) - middle)]


@lru_cache(maxsize=10_000)
def hypergeometric(size: int, drawn: int, hits: int) -> np.ndarray:
    """P(k of `hits` are among `drawn` of `size`) for k = 0 ... min(drawn, hits)."""
    k = np.arange(min(drawn, hits) + 1, dtype=np.float64)
    possible = size - drawn >= hits - k
    log = _choose(hits, k) + _choose(size - hits, np.where(possible, drawn - k, 0)) - _choose(size, drawn)
    pmf = np.where(possible, np.exp(log), 0.0)
    return pmf / pmf.sum()


def _choose(n: float, k: np.ndarray | float) -> np.ndarray:
    return special.gammaln(n + 1) - special.gammaln(np.asarray(k) + 1) - special.gammaln(n - np.asarray(k) + 1)


def strata(hits: np.ndarray, size: np.ndarray, drawn: np.ndarray) -> Exact:
    """The test within units. `hits [units, tokens]`: responses of each unit that hold the token; `size [units]` its
    responses, `drawn [units]` those of the condition."""
    hits, size, drawn = (np.asarray(v, dtype=np.int64) for v in (hits, size, drawn))
    always = (drawn[:, None] * (hits == size[:, None])).sum(axis=0)
    open_units = (hits > 0) & (hits < size[:, None]) & ((drawn > 0) & (drawn < size))[:, None]
    fixed = (hits * (drawn == size)[:, None] * (hits < size[:, None])).sum(axis=0)
    made = _Shared()
    for v in range(hits.shape[1]):
        at = np.flatnonzero(open_units[:, v])
        kinds = Counter(zip(size[at].tolist(), drawn[at].tolist(), hits[at, v].tolist(), strict=True))
        made.add(tuple(sorted(kinds.items())), _sum_of_counts, int(-(always[v] + fixed[v])))
    return made.table()


def _sum_of_counts(kinds: tuple[tuple[tuple[int, int, int], int], ...]) -> np.ndarray:
    pmf, fewest = np.ones(1), 0
    for (size, drawn, hits), times in kinds:
        one, fewest = hypergeometric(size, drawn, hits), fewest + times * max(0, drawn + hits - size)
        for _ in range(times):
            pmf = np.convolve(pmf, one)
    p = np.maximum(no_likelier(pmf), SMALLEST)
    return np.where(np.arange(len(p)) < fewest, 1.0, p)  # what cannot be must not pass for the least p


def flips(differences: np.ndarray) -> Exact:
    """The test by sign flips. `differences [groups, tokens]`: whole numbers, patched less unpatched."""
    sizes = np.abs(np.rint(differences)).astype(np.int64)
    made = _Shared()
    for v in range(sizes.shape[1]):
        kinds = Counter(sizes[sizes[:, v] > 0, v].tolist())
        made.add(tuple(sorted(kinds.items())), _sum_of_signs, int(sizes[:, v].sum()))
    return made.table()


def _sum_of_signs(kinds: tuple[tuple[int, int], ...]) -> np.ndarray:
    pmf = np.ones(1)
    for size, times in kinds:
        ups = np.arange(times + 1)
        one = np.zeros(2 * size * times + 1)
        one[:: 2 * size] = np.exp(_choose(times, ups) - times * np.log(2.0))
        pmf = np.convolve(pmf, one)
    return np.maximum(as_far(pmf / pmf.sum()), SMALLEST)


class _Shared:
    """One array of p for each distinct kind of counts."""

    def __init__(self) -> None:
        self.held: dict[tuple, tuple[int, float]] = {}
        self.parts: list[np.ndarray] = []
        self.starts: list[int] = []
        self.leasts: list[float] = []
        self.length = 0

    def add(self, key: tuple, make, shift: int) -> None:
        if key not in self.held:
            values = make(key)
            self.held[key] = (self.length, float(values.min()))
            self.parts.append(values)
            self.length += len(values)
        base, least = self.held[key]
        self.starts.append(base + shift)
        self.leasts.append(least)

    def table(self) -> Exact:
        flat = np.concatenate(self.parts) if self.parts else np.zeros(0)
        return Exact(flat, np.array(self.starts, dtype=np.int64), np.array(self.leasts))
