"""Who is swapped with whom: sure and unsure items of different groups, alike in length, and donors of one's own kind.

Items are ranked by stated confidence; the top and the bottom share are the sure and the unsure ones. A pair joins one
of each so that the sum of differences in length (prompt and answer, in tokens) is smallest; of more pairs than are
wanted those that fit best are kept. The control donor of an item is another item of its own kind, matched likewise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

PAIRS = pa.schema(
    [("set", pa.string()), ("pair", pa.int64()), ("high", pa.int64()), ("low", pa.int64()),
     ("high_confidence", pa.float64()), ("low_confidence", pa.float64()), ("gap", pa.float64()),
     ("high_control", pa.int64()), ("low_control", pa.int64()), ("length_difference", pa.int64())]
)  # fmt: skip
FAR = 1e9


def pairs_of(items: pd.DataFrame, share: float, most: int, least_gap: float) -> pd.DataFrame:
    """Pairs as lines of `PAIRS` (without `set`), by length.

    Args:
        items: row, group, confidence (finite), prompt_len, answer_len. The first row of a group stands for it.
        share: of the items that count as sure, and as many that count as unsure.
        most: pairs at most.
        least_gap: pairs whose stated confidence differs by less are none.

    Returns:
        no line at all where fewer than two pairs are left: nobody could then be compared with one's own kind.
    """
    own = items.sort_values("row").drop_duplicates("group").sort_values(["confidence", "row"], kind="stable")
    count = int(share * len(own))
    low, high = own.iloc[:count], own.iloc[len(own) - count :]
    length = _distances(high, low)
    gap = np.asarray(high["confidence"])[:, None] - np.asarray(low["confidence"])[None]
    found = [(i, j) for i, j in _assigned(np.where(gap >= least_gap, length, FAR)) if gap[i, j] >= least_gap]
    found = sorted(sorted(found, key=lambda ij: (length[ij], ij))[:most])
    if len(found) < 2:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in PAIRS.names[1:]})
    high, low = high.iloc[[i for i, _ in found]], low.iloc[[j for _, j in found]]
    size = np.asarray(high["prompt_len"]) + np.asarray(low["prompt_len"])
    order = np.lexsort((np.asarray(high["row"]), size))
    high, low = high.iloc[order], low.iloc[order]
    return pd.DataFrame({
        "pair": np.arange(len(high)), "high": high["row"].to_numpy(), "low": low["row"].to_numpy(),
        "high_confidence": high["confidence"].to_numpy(), "low_confidence": low["confidence"].to_numpy(),
        "gap": high["confidence"].to_numpy() - low["confidence"].to_numpy(),
        "high_control": _others(high), "low_control": _others(low),
        "length_difference": np.diagonal(_distances(high, low)).astype(np.int64),
    })  # fmt: skip


def _distances(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """Difference in prompt tokens plus difference in answer tokens, `[a, b]`."""
    parts = [
        np.abs(np.asarray(a[c], dtype=np.float64)[:, None] - np.asarray(b[c], dtype=np.float64)[None])
        for c in ("prompt_len", "answer_len")
    ]
    return parts[0] + parts[1]


def _assigned(cost: np.ndarray) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment

    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True)]


def _others(items: pd.DataFrame) -> np.ndarray:
    """For each item another one of the same kind, each once, alike in length; row numbers `[n]`."""
    cost = _distances(items, items)
    np.fill_diagonal(cost, FAR)
    return items["row"].to_numpy()[[j for _, j in _assigned(cost)]]
