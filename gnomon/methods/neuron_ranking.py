"""Which neurons of a layer matter: four criteria, each a rank within the layer, and their combination.

    mean_abs   mean |act_n| over tokens                     how much it is used
    variance   var act_n over tokens                        how much it tells texts apart
    direct     mean over texts of |act_n(q) w_n . N'u s|    what it writes along a direction u at the read position q,
                                                            through the final norm with its scale s held (first order)
    grad_act   mean over texts of |sum_i act_n(i) dL/dact_n(i)|   what taking it away would cost the readout L

Massive-activation tokens are left out of the first two. The combination is the mean of the ranks, or one criterion.
Source: attribution towards zero, Molchanov et al. 2017 (arXiv 1611.06440); direct effect as a logit lens on one neuron,
Geva et al. 2022 (arXiv 2203.14680). Cost: sorting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.errors import UserError

Criterion = Literal["mean_abs", "variance", "direct", "grad_act"]
CRITERIA: tuple[Criterion, ...] = ("mean_abs", "variance", "direct", "grad_act")
NEURONS = pa.schema(
    [("layer", pa.int64()), ("neuron", pa.int64()), ("mean_abs", pa.float64()), ("variance", pa.float64()),
     ("direct", pa.float64()), ("direct_low", pa.float64()), ("direct_high", pa.float64()),
     ("grad_act", pa.float64()), ("grad_act_low", pa.float64()), ("grad_act_high", pa.float64()),
     ("direct_abs", pa.float64()), ("grad_act_abs", pa.float64()),
     *((f"rank_{name}", pa.int64()) for name in CRITERIA),
     ("score", pa.float64()), ("rank", pa.int64()), ("selected", pa.bool_())]
)  # fmt: skip
"""direct, grad_act: signed means over texts, with intervals over groups; *_abs: mean sizes, which rank."""


@dataclass
class Moments:
    """Sums over tokens of one layer's activations, `[d_mlp]` each, and how many tokens there were."""

    absolute: np.ndarray
    plain: np.ndarray
    square: np.ndarray
    tokens: int

    def add(self, other: Moments) -> Moments:
        """Both together."""
        return Moments(
            self.absolute + other.absolute, self.plain + other.plain, self.square + other.square,
            self.tokens + other.tokens,
        )  # fmt: skip

    @property
    def mean_abs(self) -> np.ndarray:
        return self.absolute / max(self.tokens, 1)

    @property
    def variance(self) -> np.ndarray:
        mean = self.plain / max(self.tokens, 1)
        return np.maximum(self.square / max(self.tokens, 1) - mean**2, 0.0)


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the largest of `values [n]`, n for the smallest; equal values in their order."""
    out = np.empty(len(values), dtype=np.int64)
    out[np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")] = np.arange(1, len(values) + 1)
    return out


def rank_layer(
    layer: int, moments: Moments, direct: np.ndarray, grad_act: np.ndarray, weights: np.ndarray,
    combine: str, criteria: Sequence[Criterion], top_k: int,
) -> pd.DataFrame:  # fmt: skip
    """The rows of one layer of the table `neurons`.

    Args:
        moments: of the layer's activations.
        direct, grad_act: `[texts, d_mlp]`.
        weights: bootstrap weights `[draws, texts]` (by group); none gives no intervals.
        combine: mean_rank (over `criteria`) or the name of one criterion.

    UserError where no neuron of the layer was ever active, or a value is not finite.
    """
    if not moments.absolute.any():
        raise UserError(
            f"all activations of layer {layer} are 0", "a layer whose neurons are active", "leave the layer out"
        )
    table = pd.DataFrame({
        "layer": layer, "neuron": np.arange(len(moments.absolute)), "mean_abs": moments.mean_abs,
        "variance": moments.variance, "direct": direct.mean(0), "direct_abs": np.abs(direct).mean(0),
        "grad_act": grad_act.mean(0), "grad_act_abs": np.abs(grad_act).mean(0),
    })  # fmt: skip
    for name, values in (("direct", direct), ("grad_act", grad_act)):
        table[f"{name}_low"], table[f"{name}_high"] = _interval(values, weights)
    used = {"mean_abs": "mean_abs", "variance": "variance", "direct": "direct_abs", "grad_act": "grad_act_abs"}
    for name, column in used.items():
        values = table[column].to_numpy()
        if not np.all(np.isfinite(values)):
            raise UserError(f"{name} of layer {layer} has NaN or infinite values", "finite activations and gradients")
        table[f"rank_{name}"] = ranks(values)
    chosen = list(criteria) if combine == "mean_rank" else [combine]
    table["score"] = table[[f"rank_{name}" for name in chosen]].to_numpy(dtype=np.float64).mean(1)
    order = np.lexsort((table["rank_grad_act"].to_numpy(), table["score"].to_numpy()))
    table["rank"] = 0
    table.loc[order, "rank"] = np.arange(1, len(table) + 1)
    table["selected"] = table["rank"] <= top_k
    return table.loc[:, NEURONS.names]


def _interval(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval of each column's mean over rows resampled by group."""
    if not len(weights):
        nan = np.full(values.shape[1], np.nan)
        return nan, nan
    drawn = weights @ values / weights.sum(1, keepdims=True)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def direct_effects(acts: np.ndarray, along: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """First-order effects `[texts, n]`: acts at the read position `[texts, n]` times what a unit of each neuron writes
    along the direction (`along [n]`, or `[texts, n]` where each text has its own), times the scales `[texts]`."""
    return acts * along * np.asarray(scale)[:, None]
