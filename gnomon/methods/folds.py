"""Cross-validation folds that keep groups whole, and a map over sites in threads with one BLAS thread each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits


def grouped_folds(groups: np.ndarray, k: int, seed: int, strata: np.ndarray | None = None) -> np.ndarray:
    """Fold 0..k-1 of each row: a group lies in one fold, and groups of each stratum are dealt out evenly.

    Labels are not looked at: folds that balance the true labels would treat them unlike their shuffles, and the
    permutation null would no longer be of the same procedure.
    """
    names, first, which = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    rng = np.random.default_rng([seed, 104729])
    level = np.zeros(len(names)) if strata is None else np.asarray(strata)[first]
    order = np.lexsort((rng.permutation(len(names)), level))
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % k
    return fold[which]


def widening(k: int) -> float:
    """What half-widths of intervals over k outer folds are multiplied by, 1.5 for 5: folds share training rows.

    sqrt(1 + k n_test / n_train) (Nadeau & Bengio 2003).
    """
    return float(np.sqrt(1 + k / (k - 1)))


def threads() -> int:
    """Cores this process may use, eight at most: each holds a site's activations a few times over."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def map_threads(
    work: Callable[[Any], Any], items: Sequence[Any], done: Callable[[int], Any] | None = None
) -> list[Any]:
    """`[work(item) ...]` in order, over the cores; one BLAS thread each: results do not depend on their number."""
    out = []
    with threadpool_limits(limits=1), ThreadPoolExecutor(max_workers=threads()) as pool:
        for result in pool.map(work, items):
            out.append(result)
            if done is not None:
                done(1)
    return out
