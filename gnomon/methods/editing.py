"""Editing neurons: which, how far, and beside which others. Arrays only.

    factor of a neuron that goes with right answers:  1 + c        (amplify)
    factor of a neuron that goes with wrong answers:  1 - c        (suppress; c = 1 removes it, c > 1 turns it round)

The association is AUROC - .5 of its activation, or the correlation of its second-order score with the label, on fit.
Controls are other neurons of the same layers, each drawn among those nearest in mean |activation| to the neuron it
stands for, with that neuron's own factor: the same push on as many neurons that are used as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.errors import UserError

NEAREST = 30
CHOSEN = pa.schema(
    [("order", pa.int64()), ("layer", pa.int64()), ("neuron", pa.int64()), ("association", pa.float64()),
     ("sign", pa.int64()), ("mean_abs", pa.float64()), ("control_mean_abs", pa.float64())]
)  # fmt: skip
"""control_mean_abs: mean |activation| of the neurons that stood for it in the control sets."""


def correlations(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pearson correlation of every column of `[rows, m]` with labels `[rows]`; 0 for a column that never varies.

    UserError where labels are of one class.
    """
    y = np.asarray(labels, dtype=np.float64) - np.mean(labels)
    if not np.any(y):
        raise UserError("all rows have one label", "right and wrong rows", "raise generate.n")
    x = scores - scores.mean(0, dtype=np.float64)
    size = np.sqrt((x**2).sum(0) * (y**2).sum())
    return np.divide(y @ x, size, out=np.zeros(x.shape[1]), where=size > 1e-12)


def strongest(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """The `n` rows (layer, neuron, association, mean_abs) of largest |association|, with order and sign.

    UserError where no association is other than 0.
    """
    known: Any = table[table["association"].abs() > 0]
    if known.empty:
        raise UserError("no neuron has any association with right answers", "neurons whose activations vary")
    size = known["association"].abs().to_numpy()
    order = np.lexsort((known["neuron"].to_numpy(), known["layer"].to_numpy(), -size))[:n]
    out = known.iloc[order].reset_index(drop=True)
    return out.assign(order=np.arange(1, len(out) + 1), sign=np.sign(out["association"]).astype(np.int64))


def matched_sets(
    chosen: pd.DataFrame, every: pd.DataFrame, draws: int, seed: int, nearest: int = NEAREST
) -> list[np.ndarray]:
    """`draws` sets of neurons, each `[n]` in the order of `chosen`, of the same layers and like mean |activation|.

    Args:
        chosen: layer, neuron, mean_abs of the edited neurons.
        every: the same columns, of all neurons of these layers.

    No chosen neuron is in a set and none is in it twice. UserError where a layer has too few others.
    """
    rng = np.random.default_rng([seed, 3571])
    pools: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for layer in sorted(set(chosen["layer"])):
        here: Any = every[every["layer"] == layer]
        own: Any = chosen[chosen["layer"] == layer]
        rest = here[~here["neuron"].isin(own["neuron"].tolist())]
        if len(rest) < len(own):
            raise UserError(
                f"{len(own)} of layer {layer}'s {len(here)} neurons are edited", "at most half of a layer",
                "lower edit.neurons",
            )  # fmt: skip
        pools[int(layer)] = (rest["neuron"].to_numpy(), rest["mean_abs"].to_numpy())
    out = []
    for _ in range(draws):
        used: dict[int, set[int]] = {layer: set() for layer in pools}
        found = np.zeros(len(chosen), dtype=np.int64)
        for i in rng.permutation(len(chosen)):
            layer = int(chosen["layer"].iloc[i])
            names, sizes = pools[layer]
            free = np.flatnonzero(~np.isin(names, list(used[layer])))
            far = np.abs(sizes[free] - float(chosen["mean_abs"].iloc[i]))
            near = free[np.argsort(far, kind="stable")[:nearest]]
            found[i] = names[rng.choice(near)]
            used[layer].add(int(found[i]))
        out.append(found)
    return out


def factors(sign: np.ndarray, kind: str, coefficient: float) -> np.ndarray:
    """The factor of each neuron `[n]` under a kind of edit; 1 for one that this kind leaves alone."""
    up = np.where(sign > 0, 1.0 + coefficient, 1.0) if kind in ("amplify", "both") else np.ones(len(sign))
    return np.where(sign < 0, 1.0 - coefficient, up) if kind in ("suppress", "both") else up


def choose(
    coefficients: Sequence[float], net: np.ndarray, logprob: np.ndarray, damage: np.ndarray, bound: float
) -> int:
    """Which coefficient of a sweep on tune goes to test: an index.

    Among those whose neutral-text loss rises by at most `bound` nats a token: the largest net accuracy, then the
    largest change of the right answer's log-probability, then the smaller coefficient. Where none stays under the
    bound: the one with the least damage.
    """
    sizes, damage = np.asarray(coefficients, dtype=np.float64), np.asarray(damage)
    allowed = np.flatnonzero(damage <= bound)
    if not len(allowed):
        return int(np.lexsort((sizes, damage))[0])
    best = np.lexsort((sizes[allowed], -np.asarray(logprob)[allowed], -np.round(np.asarray(net)[allowed], 9)))
    return int(allowed[best[0]])
