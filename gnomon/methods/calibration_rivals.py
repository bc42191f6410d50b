"""A confidence signal beside what it must beat, on held-out rows: difficulty, output confidence, both together.

The combination of the cheap ones, alone and with the signal, is learned on fit (`baselines.combine`); which output
signal stands for all is chosen by AUROC before test. No line of a table is made here: see `calibration_increments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon import stats
from gnomon.methods.baselines import Columns, Combined, combine, take
from gnomon.methods.calibration_signals import Column
from gnomon.methods.folds import grouped_folds

DIFFICULTY, OUTPUT, BOTH = "difficulty", "output", "cheap"
TOGETHER = "difficulty and output together"
Bases = dict[tuple[Any, ...], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """Graded rows `[n]` and what could tell right from wrong in them."""

    y: np.ndarray
    groups: np.ndarray
    split: np.ndarray
    claims: Sequence[Column]
    """The signals that are asked about: stated ones, or output ones where nothing was stated."""
    difficulty: Sequence[Column]
    output: Sequence[Column]
    cheap: Columns
    """Baselines of the combination."""
    probes: Sequence[Column] = ()
    """Fitted on fit, so compared on test alone."""
    level: np.ndarray | None = None
    """Difficulty bin `[n]`: folds are dealt out evenly over it."""


@dataclass(frozen=True)
class Options:
    """As in the step."""

    draws: int = 2000
    permutations: int = 999
    seed: int = 0
    folds: int = 5
    smallest: float = 0.02


@dataclass(frozen=True)
class Part:
    """One signal on the held-out rows of one fold: arrays over the rows `rows` where it is known."""

    rows: np.ndarray
    choice: str
    values: np.ndarray
    against: Mapping[str, tuple[str, np.ndarray]]
    """By what it is over: the name and the values (NaN where unknown) of the one compared with."""
    combined: Combined | None


def best(of: Sequence[Column], y: np.ndarray, rows: np.ndarray) -> Column | None:
    """The signal with the largest AUROC on those rows (each where it is known); the first of equals."""
    areas = []
    for column in of:
        known = rows[np.isfinite(column.values[rows])]
        area = float(stats.auroc(column.values[known], y[known])) if len(known) else np.nan
        areas.append(-1.0 if np.isnan(area) else area)
    return of[int(np.argmax(areas))] if len(areas) else None


def held_out(
    of: Problem, signal: Column, train: np.ndarray, choose: np.ndarray, new: np.ndarray, o: Options, bases: Bases
) -> Part:  # fmt: skip
    """One signal on rows `new`: the combination learned on `train`, the output signal chosen on `choose`.

    `bases` keeps what the cheap ones alone say, for the next signal that is known on the same rows.
    """
    known, rows = train[np.isfinite(signal.values[train])], new[np.isfinite(signal.values[new])]
    against: dict[str, tuple[str, np.ndarray]] = {}
    for over, offered in ((DIFFICULTY, of.difficulty), (OUTPUT, [c for c in of.output if c is not signal])):
        rival = best(offered, of.y, choose)
        if rival is not None:
            against[over] = (rival.name, rival.values[rows])
    combined = None
    cheap = {name: values for name, values in of.cheap.items() if name != signal.name}
    if cheap and len(rows) and 0 < of.y[known].sum() < len(known):
        folds = grouped_folds(of.groups[known], o.folds, o.seed, of.level[known] if of.level is not None else None)
        key = (*cheap, known.tobytes(), rows.tobytes())
        combined = combine(
            take(cheap, known), of.y[known].astype(np.float64), folds, signal.values[known], take(cheap, rows),
            signal.values[rows], bases.get(key),
        )  # fmt: skip
        bases[key] = combined.base
        against[BOTH] = (TOGETHER, combined.base)
    return Part(rows, signal.name, signal.values[rows], against, combined)
