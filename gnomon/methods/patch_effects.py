"""Whether setting a latent moves behaviour: effects on paired trials, and features beside matched random latents.

    change  = mean over trials of (outcome under the patch - the same prompt and seed without)
    effect  = change / sd of the unpatched margins         (margin, nats)
              2 asin sqrt(p') - 2 asin sqrt(p)             (rate of the first class: Cohen's h, 1988, ch. 6)
    p       by flipping the signs of whole groups; q: Benjamini-Hochberg over all features x conditions
    T       = the largest |effect| of a latent's conditions;   r = T / max(median T of the others of its set, bound)
    control_p = (1 + #{r of random latents >= r}) / (1 + #random latents);   control_q: Benjamini-Hochberg over features

A set is a feature and the random latents that stand for it. Every member is measured against the median of the others,
so that under the null (the feature is one of them) all r are alike, and the sets of all layers, whose scales differ,
can be pooled. A feature is causal where some condition has q <= alpha and |effect| >= bound, and control_q <= alpha:
in a choice by log-likelihood nearly every patch has a small effect that flips of signs find, so without the last rule
most random latents would be called causal too. n features need 20 n random latents for one of them to pass alone.
Sources: Fisher 1935 (sign flips); Phipson & Smyth 2010 (p of draws); Benjamini & Hochberg 1995.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gnomon.methods.effects import ratio, sign_flip_p
from gnomon.nulls import benjamini_hochberg
from gnomon.stats import wilson

Measure = Literal["rate", "margin"]
FLIPS = 9999
COLUMNS = 128
"""Conditions whose sign flips are held at once."""
ENOUGH = 20
"""Random latents a feature, of which one feature alone can pass Benjamini-Hochberg at .05."""


@dataclass(frozen=True)
class Effects:
    """k conditions against the same trials unpatched: `[k]` each; low and high NaN where there is no interval.

    unparsed: share of trials in which either answer could not be parsed; the others count.
    """

    baseline: np.ndarray
    value: np.ndarray
    change: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effect: np.ndarray
    n: np.ndarray
    unparsed: np.ndarray


def cohens_h(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """2 asin sqrt(after) - 2 asin sqrt(before) of shares."""
    return 2 * np.arcsin(np.sqrt(np.clip(after, 0, 1))) - 2 * np.arcsin(np.sqrt(np.clip(before, 0, 1)))


def _differences(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paired changes `[n, k]` (0 where either is not known) and where both are known."""
    known = np.isfinite(before)[:, None] & np.isfinite(after)
    return np.where(known, after - before[:, None], 0.0), known


def effects(
    before: np.ndarray, after: np.ndarray, measure: Measure, spread: float, weights: np.ndarray
) -> Effects:  # fmt: skip
    """Effects of k conditions on n trials.

    Args:
        before: `[n]` outcomes without a patch: margins, or 1 (first class), 0 (second), NaN (unparsed).
        after: `[n, k]` the same under each condition.
        spread: sd of the unpatched margins (used by measure margin).
        weights: `[draws, n]` of `methods.effects.weights_of`; `[0, n]` for no interval.
    """
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    change, known = _differences(before, after)
    seen = known.astype(np.float64)
    mean, low, high = ratio(change, seen, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        baseline = np.where(known, before[:, None], 0.0).sum(0) / seen.sum(0)
        value = np.where(known, after, 0.0).sum(0) / seen.sum(0)
        effect = cohens_h(baseline, value) if measure == "rate" else mean / spread
    if measure == "rate" and len(weights):  # nothing moved: no resample does either, and 0 would have no width
        still = ~np.any(change, axis=0) & np.isfinite(low)
        reach = np.array([wilson(0, int(k)).high for k in seen.sum(0)])
        low, high = np.where(still, -reach, low), np.where(still, reach, high)
    unparsed = 1 - known.mean(0) if len(known) else np.full(known.shape[1], np.nan)
    return Effects(baseline, value, mean, low, high, effect, seen.sum(0).astype(np.int64), unparsed)


def flip_p(before: np.ndarray, after: np.ndarray, groups: np.ndarray, draws: int = FLIPS, seed: int = 0) -> np.ndarray:
    """Two-sided p `[k]` that a condition's mean change is 0, by flipping signs of groups; NaN without known trials."""
    change, known = _differences(np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64))
    parts = [change[:, a : a + COLUMNS] for a in range(0, change.shape[1], COLUMNS)]
    p = np.concatenate([sign_flip_p(part, groups, draws, seed) for part in parts] or [np.zeros(0)])
    return np.where(known.any(0), p, np.nan)


def standing_out(values: np.ndarray, floor: float) -> np.ndarray:
    """r of every member of one set: its value over the median of the others', which is taken for `floor` at least.

    values: `[m]`, a feature's T and those of the random latents that stand for it; NaN stays NaN.
    """
    values = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    out = np.full(len(values), np.nan)
    if len(known) < 2:
        out[known] = values[known] / floor
        return out
    some = values[known]
    others = np.broadcast_to(some, (len(some), len(some)))[~np.eye(len(some), dtype=bool)]
    out[known] = some / np.maximum(np.median(others.reshape(len(some), -1), axis=1), floor)
    return out


def against_controls(
    own: np.ndarray, controls: Sequence[np.ndarray], floor: float
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """control_p and control_q `[features]` of features' T beside those of their random latents (`[m]` for each).

    Every feature is compared with the random latents of all; NaN where there are none.
    """
    ratios = [standing_out(np.append(t, c), floor) for t, c in zip(np.asarray(own), controls, strict=True)]
    null = np.concatenate([r[1:] for r in ratios] or [np.zeros(0)])
    null = null[np.isfinite(null)]
    p = np.full(len(ratios), np.nan)
    for i, found in enumerate(ratios):
        if len(null) and np.isfinite(found[0]):
            p[i] = (1 + int((null >= found[0] * (1 - 1e-12)).sum())) / (1 + len(null))
    return p, benjamini_hochberg(p)


CAUSAL, ALIKE, SMALL, NOTHING = "causal", "no more than random latents", "below the bound", "no effect found"
UNTRIED, NONE = "no random latents to compare with", "no conclusion"
FEW = "beyond all random latents, too few to tell"
UNREAD = "too few answers could be parsed"


def verdicts(
    q: np.ndarray, effect: np.ndarray, control_p: np.ndarray, control_q: np.ndarray, random: int, bound: float,
    alpha: float = 0.05,
) -> list[str]:  # fmt: skip
    """The verdict of each feature.

    Args:
        q, effect: `[features, conditions]`; q NaN where a condition was not tested.
        control_p, control_q: `[features]`, beside `random` random latents. A feature that none of them reaches is not
            said to be like them where they are too few for any q to reach alpha.
    """
    known = np.isfinite(q)
    found = known & (np.asarray(q) <= alpha)
    large = found & (np.abs(effect) >= bound)
    out = []
    for i in range(len(found)):
        beyond = control_p[i] * (1 + random) < 1.5
        out.append(
            UNREAD if not known[i].any() else NOTHING if not found[i].any() else SMALL if not large[i].any()
            else UNTRIED if not np.isfinite(control_q[i]) else CAUSAL if control_q[i] <= alpha
            else FEW if beyond else ALIKE
        )  # fmt: skip
    return out


def strongest(q: np.ndarray, effect: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Of each feature its condition of largest |effect| among those found (of all, where none is): `[features]`."""
    size = np.where(np.isfinite(effect), np.abs(effect), -1.0)
    return np.argmax(np.where(np.asarray(q) <= alpha, size + 1e6, size), axis=1)
