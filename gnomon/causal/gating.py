"""Selective edits: what an edit does when it is applied only where a predictor says that the answer will be wrong.

    outcome = outcome under the edit where the predictor fires, else the clean outcome

No answer is written anew: each row has both outcomes already. The control is a random choice of as many rows: a
predictor that knows something saves right answers from the edit and gives it to the wrong ones. Source: conditional
steering (arXiv 2510.02917).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.arms import Arm
from gnomon.causal.measure import activations
from gnomon.causal.options import CausalOptions
from gnomon.causal.pick import pick
from gnomon.errors import UserError, unknown
from gnomon.methods.effects import Outcomes, effects, rank_p, ratio
from gnomon.step import Context, Inputs
from gnomon.store import Artifact
from gnomon.types import Direction

SELECTIVE = pa.schema(
    [("kind", pa.string()), ("control", pa.string()), ("coefficient", pa.float64()), ("selection", pa.string()),
     ("predictor", pa.string()), ("score", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("p", pa.float64()), ("n", pa.int64()),
     ("edited", pa.int64()), ("masks", pa.int64())]
)  # fmt: skip
"""selection: everything | predictor | random rows (interval: 2.5 to 97.5 % of the masks) | predictor - everything (net
accuracy, paired). edited: rows that get the edit. p of the predictor: its rank among the masks."""
METRICS = ("net_accuracy", "accuracy", "corrected_rate", "corrupted_rate")


@dataclass(frozen=True)
class Gate:
    """Says which rows are edited: a predictor's table, or a probe with a threshold."""

    name: str
    table: pd.DataFrame | None = None
    """Columns row and fires."""
    inverted: bool = False
    """The predictor fires on answers that will be right: the others are edited."""
    probe: Direction | None = None

    def fires(self, table: pd.DataFrame, inputs: Inputs, ctx: Context, batch_size: int) -> np.ndarray:
        """Which rows of `table` are predicted to be wrong: `[n]` bool; False where nothing was predicted."""
        rows = table["row"].to_numpy()
        if self.table is not None:
            known = dict(zip(self.table["row"].tolist(), self.table["fires"].tolist(), strict=True))
            return np.array([row in known and bool(known[row]) != self.inverted for row in rows.tolist()])
        assert self.probe is not None
        meta = self.probe.meta
        position = str(meta.get("position") or "last_prompt")
        x, here = activations(inputs, ctx, table, self.probe.site, position, batch_size)
        scores = x.astype(np.float64) @ self.probe.vector.astype(np.float64) + float(meta.get("bias") or 0.0)
        out = np.zeros(len(rows), dtype=bool)
        out[here] = scores <= float(meta["threshold"])
        return out


def gate_of(options: CausalOptions, direction: Direction, source: Artifact | None) -> Gate | None:
    """The gate that the options ask for; None where selection is off, or unasked for and impossible.

    The predictor: `options.when`; else the tried direction's own if it predicts wrong answers, else the source's first
    that does, else the tried direction's own (rows on which it stays silent). UserError where selective: true or a
    name cannot be met.
    """
    if options.selective is False:
        return None
    if source is not None and source.has("predictions") and len(source.table("predictions")):
        return _of_predictions(options.when, direction, source)
    wanted = options.selective or bool(options.when)
    if not wanted:
        return None
    if options.when or direction.meta.get("threshold") is None or direction.meta.get("target") != "correct":
        raise UserError(
            "selective: true, and the direction comes without predictions",
            "a step features in `using`, or a probe of the target correct with a threshold",
        )  # fmt: skip
    return Gate(f"{direction.name or 'probe'} at or below its threshold", probe=direction)


def _of_predictions(when: str, direction: Direction, source: Artifact) -> Gate:
    predictions = source.table("predictions")
    makers = source.directions() if source.has("directions") else [direction]
    says = {(str(d.site), int(d.meta["latent"])): str(d.meta.get("predicts")) for d in makers if "latent" in d.meta}
    known: dict[str, tuple[str, int]] = {}
    for name, site, feature in zip(predictions["predictor"], predictions["site"], predictions["feature"], strict=True):
        known.setdefault(str(name), (str(site), int(feature)))
    if when:
        if when not in known:
            raise unknown(f"predictor of step {source.name}", when, known)
        chosen = when
    else:
        own = [n for n, key in known.items() if key[1] == direction.meta.get("latent") and _same_layer(key, direction)]
        wrong = [n for n, key in known.items() if says.get(key) == "incorrect"]
        chosen = next(iter([n for n in own if n in wrong] or wrong or own or list(known)))
    inverted = says.get(known[chosen]) == "correct"
    name = f"{chosen}{' (where it does not fire)' if inverted else ''}"
    return Gate(name, pick(predictions, predictor=chosen).loc[:, ["row", "fires"]], inverted)


def _same_layer(key: tuple[str, int], direction: Direction) -> bool:
    """A direction may be tried at another component of its own layer."""
    return key[0].rpartition(".")[2] == str(direction.site).rpartition(".")[2]


def where(mask: np.ndarray, edited: Outcomes, clean: Outcomes) -> Outcomes:
    """Outcomes `[n, k]` with the edit where `mask [n, k]` is True, without it elsewhere."""

    def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(mask, a, b)

    return Outcomes(
        join(edited.logprob, clean.logprob), join(edited.right, clean.right), join(edited.answer, clean.answer)
    )


def selective_rows(
    arms: Sequence[Arm], base: Outcomes, after: Outcomes, fires: np.ndarray, weights: np.ndarray, masks: int, seed: int,
    shared: dict[str, Any],
) -> pd.DataFrame:  # fmt: skip
    """Rows of `SELECTIVE` for each arm: the edit everywhere, where the predictor fires, and on random rows.

    Args:
        arms: k arms.
        base: outcomes without an edit, `[n, 1]`.
        after: under the arms, `[n, k]`.
        fires: `[n]` bool.
        weights: bootstrap weights `[draws, n]`.
        masks: how many random choices of as many rows.
        seed: of those choices.
        shared: values of the columns predictor and score.
    """
    n, lines = len(fires), []
    rng = np.random.default_rng([seed, 104729])
    random = np.stack([rng.permutation(fires) for _ in range(masks)], axis=1)
    for k, arm in enumerate(arms):
        one = after.column(k)
        chosen = where(fires[:, None], one, base)
        drawn = effects(base, where(random, one, base), np.zeros((0, n)))
        first = {"kind": arm.kind, "control": arm.control, "coefficient": arm.coefficient, **shared, "masks": masks}
        for selection, outcome, edited in (("everything", one, n), ("predictor", chosen, int(fires.sum()))):
            found = effects(base, outcome, weights)
            for metric in METRICS:
                value, low, high, rows = found[metric]
                p = rank_p(float(value[0]), drawn[metric][0]) if selection == "predictor" else np.nan
                lines.append(first | {
                    "selection": selection, "metric": metric, "value": value[0], "ci_low": low[0], "ci_high": high[0],
                    "p": p, "n": rows, "edited": edited,
                })  # fmt: skip
        for metric in METRICS:
            values, *_, rows = drawn[metric]
            known = values[np.isfinite(values)]
            low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
            lines.append(first | {
                "selection": "random rows", "metric": metric, "value": known.mean() if len(known) else np.nan,
                "ci_low": low, "ci_high": high, "p": np.nan, "n": rows, "edited": int(fires.sum()),
            })  # fmt: skip
        change = chosen.right.astype(np.float64) - one.right.astype(np.float64)
        value, low, high = ratio(change, np.ones((n, 1)), weights)
        lines.append(first | {
            "selection": "predictor - everything", "metric": "net_accuracy", "value": value[0], "ci_low": low[0],
            "ci_high": high[0], "p": np.nan, "n": n, "edited": int(fires.sum()),
        })  # fmt: skip
    return pd.DataFrame(lines, columns=SELECTIVE.names)
