"""Which tokens stand in more responses under one condition than under another, and by how much.

    presence   a response holds the token or not: the response is the unit, however often it repeats the token
    p          an exact test (token_exact): Fisher's, within prompts, or sign flips of pairs by group
    q          Benjamini-Hochberg in two stages over the tokens of a family that could reach alpha at all: which
               features have any (Simes' p of each), then which of their tokens; one stage where a family is one name
    log-odds   d_w = log((y1 + a_w) / (n1 + a_0 - y1 - a_w)) - the same of side 2
    z          d_w / sqrt(1 / (y1 + a_w) + 1 / (y2 + a_w))

y: occurrences of token w among the n tokens of a side; a_w: its share of both sides' tokens times a_0, the weight of
the prior. The interval is a bootstrap over groups. Sources: Monroe, Colaresi & Quinn 2008 (eq. 15-22); Tarone 1990 and
Gilbert 2005 (which of discrete tests can reach alpha; that depends on margins which the tests hold fixed); Benjamini &
Bogomolov 2014 (two stages: pooled tests would let one feature that shifts much carry others that shift nothing).
Cost: one product of draws x responses x tokens shown a comparison; 60 responses and 200 tokens take 20 ms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy import sparse

from gnomon import stats
from gnomon.methods import token_exact as exact
from gnomon.nulls import benjamini_hochberg

Design = Literal["fisher", "within", "paired"]
MIN_MIXED = 20
"""Prompts (or groups) with responses on both sides from which on the test is within them."""


@dataclass(frozen=True)
class Samples:
    """Responses of two sides. `counts [responses, vocabulary]`: how often each holds each token."""

    counts: sparse.csr_array
    side: np.ndarray
    """`[responses]` bool: the condition; else what it is held against."""
    group: np.ndarray
    """`[responses]` str: what is resampled, and what is flipped."""
    unit: np.ndarray
    """`[responses]`: within which sides may swap (a prompt; a pair)."""
    design: Design = "fisher"
    note: str = ""

    def take(self, rows: np.ndarray) -> Samples:
        """These responses only."""
        counts: Any = self.counts
        return replace(self, counts=counts[rows], side=self.side[rows], group=self.group[rows], unit=self.unit[rows])


def unpaired(counts: Any, side: np.ndarray, group: np.ndarray, prompt: np.ndarray) -> Samples:
    """Samples of two sides that answer their own prompts, by the design that the data allow.

    Within prompts, where at least 20 have responses on both sides (others drop out: they cannot tell the side from the
    prompt); else within groups, of one response a prompt (samples of one prompt share its words); else Fisher's test of
    one response a group. Which response stands for its prompt or group goes by a hash of its place.
    """
    side, group, prompt = np.asarray(side, dtype=bool), np.asarray(group).astype(str), np.asarray(prompt).astype(str)
    plain = len(set(group.tolist())) == len(group)
    for what, unit, kept in (("prompts", prompt, np.arange(len(side))), ("groups", group, _one_of_each(prompt))):
        codes = np.unique(unit[kept], return_inverse=True)[1]
        size, drawn = np.bincount(codes), np.bincount(codes, weights=side[kept])
        mixed = (drawn > 0) & (drawn < size)
        if not plain and mixed.sum() >= MIN_MIXED:
            rows, codes = kept[mixed[codes]], codes[mixed[codes]]
            note = f"within {int(mixed.sum())} {what} that have both sides; {len(side) - len(rows)} responses drop out"
            return Samples(counts[rows], side[rows], group[rows], codes, "within", note)
    same = Samples(counts, side, group, np.zeros(len(side), dtype=np.int64), "fisher")
    if plain:
        return same
    rows = _one_of_each(group)
    return replace(same.take(rows), note=f"one response a group: {len(rows)} of {len(side)}")


def _one_of_each(unit: np.ndarray) -> np.ndarray:
    """The place of one response of each unit, ascending."""
    order = sorted(range(len(unit)), key=lambda i: _hash(f"{unit[i]} {i}"))
    return np.array(sorted({unit[i]: i for i in reversed(order)}.values()), dtype=np.int64)


def paired(counts: Any, other: Any, group: np.ndarray) -> Samples:
    """Row i of `counts` against row i of `other`: the same prompt and seed under two conditions."""
    n = int(counts.shape[0])
    pair = np.arange(n)
    both: Any = sparse.vstack([counts, other], format="csr")
    side, group = np.repeat([True, False], n), np.asarray(group).astype(str)
    return Samples(both, side, np.concatenate([group, group]), np.concatenate([pair, pair]), "paired")


@dataclass(frozen=True)
class Tested:
    """The tokens of one comparison that stand in at least `min_count` responses."""

    samples: Samples
    columns: np.ndarray
    """`[tokens]`: their columns of `counts`."""
    test: exact.Exact
    statistic: np.ndarray
    margin: Any = field(repr=False)
    """`[units or groups, tokens]`."""

    @cached_property
    def p(self) -> np.ndarray:
        return self.test.p(self.statistic)

    @property
    def least(self) -> np.ndarray:
        return self.test.least

    def shuffled(self, draws: int, seed: int) -> np.ndarray:
        """p of every token when the sides are swapped at random, `[draws, tokens]`: what chance alone gives.

        Flips of a group are the same in every comparison, which may share their unpatched responses.
        """
        s = self.samples
        if s.design == "paired":
            flip = np.stack([_signs(g, draws, seed) for g in np.unique(s.group)], axis=1)
            return self.test.p(flip @ self.margin)
        order = np.argsort(s.unit, kind="stable")
        rng, made = np.random.default_rng([seed, 7]), np.zeros((draws, len(s.side)))
        for i in range(draws):
            made[i, np.lexsort((rng.random(len(order)), s.unit))] = s.side[order]
        return self.test.p((self.margin.T @ made.T).T)


def compared(samples: Samples, min_count: int = 5) -> Tested:
    """The exact test of every token that stands in at least `min_count` responses."""
    present = _presence(samples.counts)
    columns = np.flatnonzero(np.asarray(present.sum(axis=0)).reshape(-1) >= min_count)
    held = present[:, columns]
    side = samples.side
    if samples.design == "paired":
        codes = np.unique(samples.group, return_inverse=True)[1]
        signs = _sum_by(codes, np.where(side, 1.0, -1.0))
        differences = np.asarray((signs @ held).toarray())
        return Tested(samples, columns, exact.flips(differences), differences.sum(axis=0), differences)
    codes = np.unique(samples.unit, return_inverse=True)[1]
    hits = np.asarray((_sum_by(codes, np.ones(len(side))) @ held).toarray())
    size, drawn = np.bincount(codes), np.bincount(codes, weights=side)
    statistic = np.asarray(held.T @ side.astype(np.float64)).reshape(-1)
    return Tested(samples, columns, exact.strata(hits, size, drawn), statistic, held)


def _presence(counts: Any) -> Any:
    """1 where a response holds a token."""
    return (counts > 0).astype(np.float64)


def _sum_by(codes: np.ndarray, weights: np.ndarray) -> sparse.csr_array:
    """`[units, responses]`: sums responses by unit."""
    return sparse.csr_array((weights, (codes, np.arange(len(codes)))), shape=(codes.max(initial=-1) + 1, len(codes)))


# ---------------------------------------------------------------- families


def attainable(least: np.ndarray, alpha: float) -> np.ndarray:
    """Which of discrete tests can be significant at all at false discovery rate `alpha` (Tarone's K, Gilbert's set).

    K is the smallest k such that at most k tests can reach alpha / k; those that can reach alpha / K are tested.
    """
    least = np.asarray(least, dtype=np.float64)
    if not len(least):
        return np.zeros(0, dtype=bool)
    k = np.arange(1, len(least) + 1)
    reach = np.searchsorted(np.sort(least), alpha / k, side="right")
    first = k[reach <= k]
    return least <= alpha / first[0]


def adjusted(p: np.ndarray, least: np.ndarray, alpha: float, names: np.ndarray | None = None) -> np.ndarray:
    """q of each p of a family; NaN for a token that could not reach alpha however its responses fell.

    `names [tokens]`: whole numbers, the feature of each; none: one stage. A token's q is the larger of its feature's
    (Benjamini-Hochberg over the features' Simes p) and its own within the feature times features over those found.
    """
    kept = np.where(attainable(least, alpha), np.asarray(p, dtype=np.float64), np.nan)
    if names is None or len(np.unique(names)) < 2:
        return benjamini_hochberg(kept)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    within = [benjamini_hochberg(kept[at]) for at in members]
    simes = np.array([np.nanmin(q) if np.isfinite(q).any() else np.nan for q in within])
    whole = benjamini_hochberg(simes)
    with np.errstate(invalid="ignore"):
        factor = np.isfinite(simes).sum() / max(int((whole <= alpha).sum()), 1)
    out = np.full(len(kept), np.nan)
    for at, q, least_q in zip(members, within, whole, strict=True):
        out[at] = np.minimum(np.maximum(q * factor, least_q), 1.0)
    return out


def chance(
    found: Sequence[Tested], alpha: float, draws: int, seed: int, names: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """Tokens of a family with q at most alpha when its sides are swapped at random: `[draws]`."""
    if not draws or not found:
        return np.zeros(0, dtype=np.int64)
    least = np.concatenate([t.least for t in found])
    p = np.concatenate([t.shuffled(draws, seed) for t in found], axis=1)
    with np.errstate(invalid="ignore"):
        return np.array([int((adjusted(one, least, alpha, names) <= alpha).sum()) for one in p], dtype=np.int64)


# ---------------------------------------------------------------- sizes


def log_odds(
    y1: np.ndarray, n1: np.ndarray | float, y2: np.ndarray, n2: np.ndarray | float, prior: np.ndarray, total: float
) -> tuple[np.ndarray, np.ndarray]:
    """(log-odds ratio, its z) of tokens that occur `y1`, `y2` times among `n1`, `n2` tokens; arrays broadcast.

    `prior [tokens]`: the Dirichlet prior's pseudo-counts, `total` their sum over the whole vocabulary.
    """
    a, b = y1 + prior, y2 + prior
    d = np.log(a) - np.log(n1 + total - a) - np.log(b) + np.log(n2 + total - b)
    return d, d / np.sqrt(1 / a + 1 / b)


@dataclass(frozen=True)
class Sizes:
    """Of each token shown: responses that hold it, log-odds with the cluster bootstrap's interval, z; `[tokens]`."""

    count: np.ndarray
    against: np.ndarray
    log_odds: np.ndarray
    low: np.ndarray
    high: np.ndarray
    z: np.ndarray


def sizes(samples: Samples, columns: np.ndarray, prior: float = 0.1, draws: int = 1000, seed: int = 0) -> Sizes:
    """Effect sizes of some columns of `samples.counts`.

    `prior`: pseudo-tokens for each token of the smaller side. Within prompts each prompt weighs as much on one side as
    on the other, so that a token of the prompt's topic is no effect. `draws` 0: no interval.
    """
    side, counts = samples.side, samples.counts
    weight = _balance(samples) if samples.design == "within" else np.ones(len(side))
    held: Any = counts[:, columns]
    occurs, present = held.toarray().astype(np.float64), (held > 0).toarray()
    length = np.asarray(counts.sum(axis=1)).reshape(-1).astype(np.float64)
    one, two = weight * side, weight * ~side
    n1, n2 = float(one @ length), float(two @ length)
    total = prior * max(min(n1, n2), 1.0)
    share = (one @ occurs + two @ occurs) / max(n1 + n2, 1.0)
    d, z = log_odds(one @ occurs, n1, two @ occurs, n2, total * share, total)
    low = high = np.full(len(columns), np.nan)
    if draws and len(np.unique(samples.group)) > 1 and len(columns):
        drawn = stats.group_weights(samples.group, draws, [seed, 11])
        w1, w2 = drawn * one, drawn * two
        with np.errstate(divide="ignore", invalid="ignore"):
            made, _ = log_odds(
                w1 @ occurs, (w1 @ length)[:, None], w2 @ occurs, (w2 @ length)[:, None], total * share, total
            )
        good = made[np.isfinite(made).all(axis=1)]
        if len(good) >= draws / 2:
            low, high = np.quantile(good, (0.025, 0.975), axis=0)
    return Sizes(present[side].sum(axis=0), present[~side].sum(axis=0), d, low, high, z)


def _balance(samples: Samples) -> np.ndarray:
    """Weights by which a unit counts as much on one side as on the other: its smaller side's responses."""
    codes = np.unique(samples.unit, return_inverse=True)[1]
    size = np.bincount(codes).astype(np.float64)
    drawn = np.bincount(codes, weights=samples.side)
    fewer = np.minimum(drawn, size - drawn)
    own = np.where(samples.side, drawn[codes], size[codes] - drawn[codes])
    return fewer[codes] / own


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _signs(group: str, draws: int, seed: int) -> np.ndarray:
    """+1 or -1, `[draws]`, for a group: the same wherever the group appears."""
    return np.random.default_rng([seed, _hash(group)]).integers(0, 2, size=draws) * 2.0 - 1
