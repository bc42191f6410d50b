"""Single neurons that tell right from wrong: searched on fit, confirmed on test, beside shuffled labels.

    AUROC_n = P(act_n of a right row > act_n of a wrong row)
    z_n     = (AUROC_n - mean) / sd        mean and sd of the neuron's own AUROC under labels shuffled by group

Discovery on fit: p from z (normal), Benjamini-Hochberg over all neurons of all layers searched, and the family-wise p
of |z| against the largest |z| of each shuffle (max-T, Westfall & Young 1993). Shuffling whole groups gives the spread
that dependent rows have, which Mann-Whitney's own formula would understate. Confirmation on test of those that were
found (at most `confirm`): one-sided permutation p in the direction seen on fit, Holm. Cost: one matrix product of ranks
`[rows, neurons]` and shuffled labels `[rows, draws]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import special

from gnomon.errors import UserError
from gnomon.methods.effects import weights_of
from gnomon.nulls import benjamini_hochberg, holm, max_statistic, movable, permuted
from gnomon.stats import MIN_CLASS, auroc, wilson

ALPHA = 0.05
AUROC = pa.schema(
    [("layer", pa.int64()), ("neuron", pa.int64()), ("fit_auroc", pa.float64()), ("z", pa.float64()),
     ("p", pa.float64()), ("q", pa.float64()), ("max_t_p", pa.float64()), ("order", pa.int64()),
     ("discovered", pa.bool_()), ("test_auroc", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("test_p", pa.float64()), ("holm", pa.float64()), ("confirmed", pa.bool_()), ("n", pa.int64())]
)  # fmt: skip
"""order: 1 for the smallest p on fit; test columns are NaN for neurons that were not looked at on test."""
FAMILY = pa.schema(
    [("what", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("n", pa.int64())]
)  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """One split: activations `[n, m]` (columns in the order of the neurons), labels `[n]` bool, groups `[n]`."""

    acts: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def check(self, split: str) -> None:
        """UserError where a class has fewer than 2 rows."""
        right = int(self.labels.sum())
        if min(right, len(self.labels) - right) < 2:
            raise UserError(
                f"the AUROC of neurons has {right} right and {len(self.labels) - right} wrong rows in {split}",
                "at least 2 of each", "raise generate.n or max_rows",
            )  # fmt: skip


def midranks(acts: np.ndarray) -> np.ndarray:
    """Ranks of every column of `[n, m]` from 1, ties sharing their mean, float32 (exact: halves of whole numbers)."""
    from scipy.stats import rankdata

    return rankdata(acts, axis=0).astype(np.float32)


def aurocs(ranked: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC `[k, m]` of every column's ranks `[n, m]` under every label vector of `[n, k]` of equal class sizes."""
    y = np.asarray(labels, dtype=np.float32)
    right = y.sum(0)[:, None]
    return ((y.T @ ranked) - right * (right + 1) / 2) / (right * (len(y) - right))


def two_stage(
    fit: Rows, test: Rows, layers: np.ndarray, neurons: np.ndarray, draws: int, confirm: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables `auroc` and `auroc_family`; layers and neurons `[m]` name the columns.

    Intervals are given where both classes of test have 20 rows. UserError where a class has fewer than 2.
    """
    fit.check("fit")
    test.check("test")
    ranked = midranks(fit.acts)
    observed = aurocs(ranked, fit.labels[:, None])[0].astype(np.float64)
    null = aurocs(ranked, permuted(fit.labels, fit.groups, draws, [seed, 4409])).astype(np.float64)
    mean, sd = null.mean(0), null.std(0, ddof=1)
    still = sd < 1e-9
    z = np.where(still, 0.0, (observed - mean) / np.where(still, 1.0, sd))
    null_z = np.abs(np.where(still, 0.0, (null - mean) / np.where(still, 1.0, sd)))
    p = np.where(still, 1.0, 2 * special.ndtr(-np.abs(z)))
    q = benjamini_hochberg(p)
    table = pd.DataFrame({
        "layer": layers, "neuron": neurons, "fit_auroc": observed, "z": z, "p": p, "q": q,
        "max_t_p": max_statistic(np.abs(z), null_z), "discovered": q <= ALPHA, "test_auroc": np.nan,
        "ci_low": np.nan, "ci_high": np.nan, "test_p": np.nan, "holm": np.nan, "confirmed": False,
        "n": len(test.labels),
    })  # fmt: skip
    order = np.argsort(p, kind="stable")
    table["order"] = 0
    table.loc[order, "order"] = np.arange(1, len(order) + 1)
    found = _confirm(table, order[:confirm], test, draws, seed)
    largest = null_z.max(1)
    farthest = np.abs(null - 0.5).max(1)
    any_found = sum(bool((benjamini_hochberg(2 * special.ndtr(-row)) <= ALPHA).any()) for row in null_z)
    by_luck = wilson(any_found, draws)
    family = [
        _line("neurons", len(table), len(fit.labels)), _line("right rows", fit.labels.sum(), len(fit.labels)),
        _line("discovered", float(table["discovered"].to_numpy().sum()), len(fit.labels)),
        {"what": "shuffles that discover any", "value": by_luck.value, "ci_low": by_luck.low,
         "ci_high": by_luck.high, "n": draws},
        _line("looked at on test", min(confirm, len(table)), len(test.labels)),
        _line("confirmed", found, len(test.labels)),
        _line("largest |AUROC - .5| on fit", np.abs(observed - 0.5).max(), len(fit.labels)),
        _line("largest |AUROC - .5| under shuffled labels", np.median(farthest), draws, farthest),
        _line("largest |z| on fit", np.abs(z).max(), len(fit.labels)),
        _line("largest |z| under shuffled labels", np.median(largest), draws, largest),
        _line("rows whose group can be shuffled", movable(fit.groups), len(fit.labels)),
    ]  # fmt: skip
    return table.loc[:, AUROC.names], pd.DataFrame(family, columns=FAMILY.names)


def _confirm(table: pd.DataFrame, columns: np.ndarray, test: Rows, draws: int, seed: int) -> int:
    """Fill the test columns of a few neurons in place; how many are confirmed."""
    ranked = midranks(test.acts[:, columns])
    observed = aurocs(ranked, test.labels[:, None])[0].astype(np.float64)
    null = aurocs(ranked, permuted(test.labels, test.groups, draws, [seed, 5077])).astype(np.float64)
    side = np.sign(table.loc[columns, "fit_auroc"].to_numpy() - 0.5)
    hits = (side * (null - 0.5) >= side * (observed - 0.5) - 1e-7).sum(0)
    p = (1 + hits) / (1 + draws)
    found = table.loc[columns, "discovered"].to_numpy(dtype=bool)
    adjusted = np.full(len(columns), np.nan)
    adjusted[found] = holm(p[found])
    table.loc[columns, "test_auroc"], table.loc[columns, "test_p"] = observed, p
    table.loc[columns, "holm"] = adjusted
    table.loc[columns, "confirmed"] = adjusted <= ALPHA
    right = int(test.labels.sum())
    if min(right, len(test.labels) - right) >= MIN_CLASS:
        weights = weights_of(test.groups, 1000, seed)
        for column in columns if len(weights) else ():
            drawn = auroc(test.acts[:, column], test.labels, weights)
            low, high = np.nanquantile(drawn, [0.025, 0.975])
            table.loc[column, ["ci_low", "ci_high"]] = [low, high]
    return int((adjusted <= ALPHA).sum())


def _line(what: str, value: float, n: int, draws: np.ndarray | None = None) -> dict[str, object]:
    low, high = (np.nan, np.nan) if draws is None else np.quantile(draws, [0.025, 0.975])
    return {"what": what, "value": float(value), "ci_low": low, "ci_high": high, "n": int(n)}
