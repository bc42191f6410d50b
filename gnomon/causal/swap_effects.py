"""From swaps to effects: how far a donor moves what is measured, beside donors of one's own kind and random tokens.

    shift   = s (after - before), s = +1 where the recipient is unsure, -1 where it is sure (of answers always +1)
    share   = sum shift / sum gap, gap = s (donor's own confidence - recipient's): 1 is all the way to the donors
    excess  = shift under donors of the other confidence - shift under donors of one's own, the same recipients; as a
              share of s (confidence of the one donor - of the other), so that 1 is a vector that carries all of it
    beyond  = excess at a position - excess at random tokens of the same texts, the same layer

Resampled and flipped by pair, recipients and layers together; no item is in two pairs, as donor or as recipient. Pairs
are few, so the ends of an interval lie farther out than 2.5% (`tail`). Of answers the gap is 1: changes of probability.
Sources: activation patching Vig et al. 2020, Zhang & Nanda 2024 (arXiv 2309.16042); sign flips Fisher 1935; expanded
percentiles Hesterberg 2015 (The American Statistician 69:371).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.pick import pick
from gnomon.causal.swap_items import RANDOM
from gnomon.methods.effects import sign_flip_p, weights_of
from gnomon.nulls import benjamini_hochberg, holm

EFFECTS = pa.schema(
    [("set", pa.string()), ("measure", pa.string()), ("position", pa.string()), ("layer", pa.int64()),
     ("kind", pa.string()), ("way", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("shift", pa.float64()), ("p", pa.float64()), ("q", pa.float64()),
     ("n", pa.int64()), ("pairs", pa.int64()), ("verdict", pa.string())]
)  # fmt: skip
"""kind: other, same (donors), excess, beyond. way: both, up, down. value: share of the gap; shift: mean, as measured.
q: of excess and beyond, way both, within set and measure: Benjamini-Hochberg in the sweep, Holm on test."""
DEPTH = pa.schema(
    [("measure", pa.string()), ("position", pa.string()), ("statistic", pa.string()), ("value", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("layers", pa.int64()), ("pairs", pa.int64())]
)  # fmt: skip
"""statistic: spearman (excess against layer, over the swept layers) or handover (see `handover`)."""
KINDS = ("other", "same", "excess", "beyond")
FEWEST = 6
"""Pairs under which nothing is judged: the least p of five is .06, and their range misses a median as often."""
FLAT = 0.01
"""A curve that spans less than this share of the gap does not vary with depth."""
MOVES, STILL, OPEN = "moves it", "does not move it", "undecided"
MORE, NO_MORE = "more than a random token", "no more than a random token"
"""What is said of `beyond` instead of `MOVES` and `STILL`."""


@dataclass(frozen=True)
class Curve:
    """Swaps of one measure at one position, `[recipients, layers]`: shifts by donor.

    gap, apart `[recipients]`: how far the other donor is from the recipient, and from the donor of one's own kind.
    """

    layers: tuple[int, ...]
    recipients: tuple[tuple[int, str], ...]
    """(pair, way) of each row."""
    other: np.ndarray
    same: np.ndarray
    gap: np.ndarray
    apart: np.ndarray

    @property
    def excess(self) -> np.ndarray:
        return self.other - self.same

    def of(self, recipients: Sequence[tuple[int, str]]) -> Curve:
        """The same with these rows only."""
        at = [self.recipients.index(r) for r in recipients]
        return Curve(self.layers, tuple(recipients), self.other[at], self.same[at], self.gap[at], self.apart[at])


def curve(swaps: pd.DataFrame, measure: str, position: str) -> Curve | None:
    """The swaps at one place as arrays; None where there are none."""
    part = pick(swaps, measure=measure, position=position)
    if part.empty:
        return None
    sign = np.where((part["way"] == "up") | (measure == "answer"), 1.0, -1.0)
    part = part.assign(
        shift=sign * (part["after"] - part["before"]),
        gap=sign * (part["donor_value"] - part["before"]) if measure == "confidence" else 1.0,
    )
    wide = {
        donors: pick(part, donors=donors).pivot(index=["pair", "way"], columns="layer", values="shift")
        for donors in ("other", "same")
    }
    rows = [(int(pair), str(way)) for pair, way in wide["other"].index]
    far = {d: pick(part, donors=d).groupby(["pair", "way"])["gap"].first().loc[rows].to_numpy(dtype=np.float64)
           for d in ("other", "same")}  # fmt: skip
    return Curve(
        tuple(int(layer) for layer in wide["other"].columns), tuple(rows), wide["other"].to_numpy(),
        wide["same"].to_numpy(), far["other"], far["other"] - far["same"] * (measure == "confidence"),
    )  # fmt: skip


def effect_rows(swaps: pd.DataFrame, name: str, least: float, draws: int, seed: int) -> pd.DataFrame:
    """Every effect of one set of swaps as lines of `EFFECTS`, verdicts of the excess included.

    A verdict needs `FEWEST` pairs, and the whole interval of the share beyond `least` and q <= .05: moves it (more than
    a random token); the interval below `least`: does not; else undecided.
    """
    lines: list[dict[str, Any]] = []
    for measure in ("confidence", "answer"):
        chance = curve(swaps, measure, RANDOM)
        for position in dict.fromkeys(pick(swaps, measure=measure)["position"]):
            own = curve(swaps, measure, position)
            assert own is not None
            for way in ("both", "up", "down"):
                shared = {"set": name, "measure": measure, "position": position, "way": way}
                some = own.of([r for r in own.recipients if way in ("both", r[1])])
                for kind in KINDS:
                    found = _kind(some, chance if position != RANDOM else None, kind)
                    if found is not None:
                        whole = some.gap if kind in ("other", "same") else found[0].apart
                        lines += [shared | {"kind": kind} | line for line in _lines(*found, whole, draws, seed)]
    table = pd.DataFrame(lines, columns=[*EFFECTS.names]).assign(verdict="")
    correct = benjamini_hochberg if name == "sweep" else holm
    for measure in ("confidence", "answer"):
        for kind in ("excess", "beyond"):
            part = pick(table, measure=measure, kind=kind, way="both")
            for control in (False, True):  # random tokens are no claim: they are a family of their own
                at = part.index[np.asarray(part["position"] == RANDOM) == control]
                table.loc[at, "q"] = correct(table.loc[at, "p"].to_numpy(dtype=np.float64))
    judged = pick(table, kind=["excess", "beyond"], way="both").index
    table.loc[judged, "verdict"] = [_verdict(table.loc[i], least) for i in judged]
    return table


def _kind(own: Curve, chance: Curve | None, kind: str) -> tuple[Curve, np.ndarray] | None:
    """The shifts `[recipients, layers]` of one kind, and whose they are."""
    if not own.recipients:
        return None
    if kind != "beyond":
        return own, getattr(own, kind)
    if chance is None:
        return None
    both = [r for r in own.recipients if r in chance.recipients]
    layers = [layer for layer in own.layers if layer in chance.layers]
    if not both or not layers:
        return None
    own, chance = own.of(both), chance.of(both)
    left = own.excess[:, [own.layers.index(layer) for layer in layers]]
    right = chance.excess[:, [chance.layers.index(layer) for layer in layers]]
    return Curve(tuple(layers), own.recipients, left, right, own.gap, own.apart), left - right


def _lines(own: Curve, shift: np.ndarray, whole: np.ndarray, draws: int, seed: int) -> list[dict[str, Any]]:
    pairs = np.array([pair for pair, _ in own.recipients])
    value, low, high = _ratio(shift, whole, weights_of(pairs, draws, seed), len(set(pairs)))
    p = sign_flip_p(shift, pairs, draws, seed) if len(set(pairs)) > 1 else np.full(shift.shape[1], np.nan)
    return [
        {"layer": layer, "value": value[k], "ci_low": low[k], "ci_high": high[k], "shift": shift[:, k].mean(),
         "p": p[k], "q": np.nan, "n": len(shift), "pairs": len(set(pairs))}
        for k, layer in enumerate(own.layers)
    ]  # fmt: skip


def tail(units: int) -> float:
    """Share of the draws beyond each end of a 95% interval of that many units: 2.5% where they are many.

    A bootstrap of n units is too narrow by sqrt((n - 1) / n), and its ends are a normal's instead of a t's: 8 units
    would cover .88. The share is Phi(-sqrt(n / (n - 1)) t(.975, n - 1)).
    """
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-np.sqrt(units / (units - 1)) * stdtrit(units - 1, 0.975)))


def _ratio(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray, units: int) -> tuple[np.ndarray, ...]:
    """sum(top) / sum(bottom) of each column of `[n, k]` with its interval: values, low, high, each `[k]`."""
    drawn = _shares(top, bottom, weights)
    ends = [_ends(column, units) for column in drawn.T]
    return (_shares(top, bottom, np.ones((1, len(top))))[0], np.array([e["ci_low"] for e in ends]),
            np.array([e["ci_high"] for e in ends]))  # fmt: skip


def _verdict(line: Any, least: float) -> str:
    low, high = float(line["ci_low"]), float(line["ci_high"])
    if not np.isfinite(low) or int(line["pairs"]) < FEWEST:
        return OPEN
    away = low > least or (line["measure"] == "answer" and high < -least)
    if away and float(line["q"]) <= 0.05:
        return MORE if line["kind"] == "beyond" else MOVES
    if high < least and (line["measure"] != "answer" or low > -least):
        return NO_MORE if line["kind"] == "beyond" else STILL
    return OPEN


def depth_rows(swaps: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """Spearman of excess and layer at each place of the sweep, and the handover, as lines of `DEPTH`."""
    lines: list[dict[str, Any]] = []
    curves: dict[tuple[str, str], Curve] = {}
    for measure in ("confidence", "answer"):
        for position in dict.fromkeys(pick(swaps, measure=measure)["position"]):
            own = curve(swaps, measure, position)
            assert own is not None
            curves[measure, position] = own
            pairs = np.array([pair for pair, _ in own.recipients])
            drawn = rank_correlations(_shares(own.excess, own.apart, weights_of(pairs, draws, seed)))
            value = rank_correlations(_shares(own.excess, own.apart, np.ones((1, len(pairs)))))[0]
            lines.append(
                {"measure": measure, "position": position, "statistic": "spearman", "value": value,
                 **_ends(drawn if np.isfinite(value) else [], len(set(pairs))), "layers": len(own.layers),
                 "pairs": len(set(pairs))}
            )  # fmt: skip
    here, there = curves.get(("confidence", "answer")), curves.get(("confidence", "confidence"))
    if here is not None and there is not None and here.layers == there.layers:
        lines.append(_handover(here, there, draws, seed))
    return pd.DataFrame(lines, columns=DEPTH.names)


def _handover(here: Curve, there: Curve, draws: int, seed: int) -> dict[str, Any]:
    both = [r for r in here.recipients if r in there.recipients]
    here, there = here.of(both), there.of(both)
    pairs = np.array([pair for pair, _ in both])
    curves = [[_shares(c.excess, c.apart, w) for c in (here, there)]
              for w in (weights_of(pairs, draws, seed), np.ones((1, len(both))))]  # fmt: skip
    found, value = ([handover(a, b, here.layers) for a, b in zip(*two, strict=True)] for two in curves)
    return {"measure": "confidence", "position": "answer to confidence", "statistic": "handover", "value": value[0],
            **_ends(found, len(set(pairs))), "layers": len(here.layers), "pairs": len(set(pairs))}  # fmt: skip


def handover(answer: np.ndarray, confidence: np.ndarray, layers: Sequence[int]) -> float:
    """The first swept layer from which on the confidence position carries more than the answer's; NaN where none is."""
    ahead = np.asarray(confidence) > np.asarray(answer)
    kept = np.flatnonzero(~ahead)
    first = 0 if not len(kept) else int(kept[-1]) + 1
    return float(layers[first]) if first < len(layers) else float("nan")


def _shares(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the gap by layer under each draw, `[draws, layers]`, of shifts `[n, layers]` and gaps `[n]`."""
    above, below = weights @ top, weights @ bottom
    return np.divide(above, below[:, None], out=np.full(above.shape, np.nan), where=below[:, None] > 0)


def rank_correlations(curves: np.ndarray) -> np.ndarray:
    """Spearman of each curve `[n, layers]` with depth, mid-ranks at ties; NaN for under three layers, for an undefined
    value, and for a curve that is `FLAT`: the order of rounding errors is no depth."""
    from scipy.stats import rankdata  # slow to import

    curves = np.asarray(curves, dtype=np.float64)
    out = np.full(len(curves), np.nan)
    good = np.isfinite(curves).all(1) & (np.ptp(curves, axis=1) > FLAT)
    if curves.shape[1] >= 3 and good.any():
        ranks = rankdata(curves[good], axis=1) - (curves.shape[1] + 1) / 2
        depth = np.arange(curves.shape[1]) - (curves.shape[1] - 1) / 2
        out[good] = ranks @ depth / np.sqrt((ranks**2).sum(1) * (depth**2).sum())
    return out


def _ends(drawn: Sequence[float] | np.ndarray, units: int) -> dict[str, float]:
    """The 95% interval of draws over so many units; none where more than half of them are undefined."""
    good = np.array([v for v in drawn if np.isfinite(v)])
    if units < 2 or len(good) < max(2, len(drawn) / 2):
        return {"ci_low": float("nan"), "ci_high": float("nan")}
    low, high = np.quantile(good, [tail(units), 1 - tail(units)])
    return {"ci_low": float(low), "ci_high": float(high)}


def chosen_layers(effects: pd.DataFrame) -> dict[tuple[str, str], int]:
    """The layer of each place that goes to test, from the sweep's excess (ways together).

    confidence position: the first layer at half of the largest excess, since its last layers hold the outcome itself;
    other places: the layer of the largest excess (of answers: the largest either way).
    """
    out: dict[tuple[str, str], int] = {}
    part = pick(effects, set="sweep", kind="excess", way="both")
    for measure, position in dict.fromkeys(zip(part["measure"], part["position"], strict=True)):
        if position == RANDOM:
            continue
        own = pick(part, measure=measure, position=position).sort_values("layer")
        values = own["value"].to_numpy(dtype=np.float64)
        values = np.nan_to_num(np.abs(values) if measure == "answer" else values, nan=-np.inf)
        best = int(np.argmax(values))
        if position == "confidence" and values[best] > 0:
            best = int(np.flatnonzero(values >= values[best] / 2)[0])
        out[str(measure), str(position)] = int(own["layer"].iloc[best])
    return out
