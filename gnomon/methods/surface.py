"""How much of a target the outside of a question explains, the output's confidence, and the activations beyond both.

    explained    1 - error / error of the best constant, on held-out rows: R2 for a number, the share of deviance
                 (log loss; McFadden 1974) for two classes
    alone        by one block of features;  together: by it and all blocks before it, in a fixed order
    adds         together - together without the last block: the increment, paired
    control      of an increment: the same after the added block's rows were swapped between groups and everything was
                 fitted again, what as many features add that know nothing; else: predictions swapped between groups
    partial      corr(s - E[s | earlier blocks], y - E[y | earlier blocks]) of the last block's score s, 0 for a
                 score that only repeats them well (see gnomon/methods/baselines)

Blocks enter with ranks and squares through an L1-penalised regression (`baselines.Basis`, `surface_fit`). The internal
block is one number a row: the score of a ridge probe of the target, out of fold on training rows, with the site chosen
there. Order matters: what two blocks share is the earlier one's. Everything is learned on training rows: fit and tune,
with test held out, or each four fifths of nested grouped cross-validation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon import nulls
from gnomon.methods.baselines import Basis, Columns, Combined, choose, take
from gnomon.methods.controls import metric_of
from gnomon.methods.folds import grouped_folds, map_threads
from gnomon.methods.linear import PENALTIES, fitter
from gnomon.methods.surface_fit import Lasso

BLOCKS = ("surface", "difficulty", "output", "internal")
OUTPUT = ("max_prob", "entropy", "margin", "mean_logprob")
Part = tuple[np.ndarray, np.ndarray]
"""Indices of the training rows, and of the held-out ones."""


@dataclass(frozen=True)
class Setting:
    """How regressions are fitted, and how intervals and nulls are drawn."""

    order: tuple[str, ...] = BLOCKS
    permutations: int = 19
    draws: int = 2000
    folds: int = 5
    penalties: tuple[float, ...] = PENALTIES
    seed: int = 0
    smallest: float = 0.02
    """Less than this is nothing worth speaking of."""


def partition(offered: Columns, target: str, order: Sequence[str]) -> tuple[dict[str, Columns], list[str]]:
    """The known columns of each block but the internal one, and a line for each column that was left out."""
    kept, dropped = choose(offered, None, target, after_response=True)
    blocks: dict[str, Columns] = {name: {} for name in order if name != "internal"}
    for name, values in kept.items():
        block = "output" if name in OUTPUT else "difficulty" if name == "difficulty" else "surface"
        if block in blocks:
            blocks[block][name] = values
    dropped += [f"block {name}: nothing in it" for name, members in blocks.items() if not members]
    return {name: members for name, members in blocks.items() if members}, dropped


@dataclass(frozen=True)
class Internal:
    """The probe of one part: which candidate was chosen on its training rows, and scores there and on new rows."""

    candidate: int
    value: float
    """AUROC or rank correlation of its out-of-fold scores, on which it was chosen."""
    train: np.ndarray
    new: np.ndarray


def internal(
    read: Callable[[int], np.ndarray],
    candidates: int,
    targets: Sequence[np.ndarray],
    parts: Sequence[Part],
    inner: Sequence[np.ndarray],
    penalties: Sequence[float],
    done: Callable[[int], object] | None = None,
) -> list[list[Internal]]:
    """The best candidate's probe of each target `[n]` in each part: `[target][part]`; ridge throughout.

    Args:
        read: activations `[n, d]` of a candidate for all rows.
        inner: folds of each part's training rows.
    """
    y = np.stack(targets, axis=1)

    def one(candidate: int) -> list[tuple[np.ndarray, np.ndarray, list[float]]]:
        x, out = np.asarray(read(candidate)), []
        for (train, new), folds in zip(parts, inner, strict=True):
            model = fitter("ridge", x[train], penalties)
            scores, penalty = model.out_of_fold(y[train], folds)
            values = [
                float(metric_of(y[train, i]).one(scores[:, i], y[train, i], None, folds)) for i in range(len(targets))
            ]
            out.append((scores, model.held_out(x[new], y[train], penalty), values))
        return out

    found = map_threads(one, range(candidates), done)
    best: list[list[Internal]] = []
    for i in range(len(targets)):
        chosen = []
        for k in range(len(parts)):
            values = [found[c][k][2][i] for c in range(candidates)]
            at = int(np.argmax(np.nan_to_num(values, nan=-np.inf)))
            scores, new, _ = found[at][k]
            chosen.append(Internal(at, values[at], scores[:, i], new[:, i]))
        best.append(chosen)
    return best


@dataclass(frozen=True)
class Explained:
    """Predictions `[m]` of held-out rows (logits for classes), one after the other over the parts."""

    y: np.ndarray
    groups: np.ndarray
    folds: np.ndarray
    order: tuple[str, ...]
    alone: Mapping[str, np.ndarray]
    together: Mapping[str, np.ndarray]
    swapped: Mapping[str, np.ndarray]
    """`[m, permutations]`: together, refitted with the last block's rows swapped between groups."""
    combined: Combined | None
    """The internal score beside the earlier blocks; None where it stands alone, or is not there."""

    @property
    def binary(self) -> bool:
        return bool(np.isin(self.y, (0, 1)).all())


def explain(
    y: np.ndarray,
    groups: np.ndarray,
    blocks: Mapping[str, Columns],
    probes: Sequence[Internal] | None,
    parts: Sequence[Part],
    inner: Sequence[np.ndarray],
    setting: Setting,
) -> Explained:
    """Fit every block alone and in order, and with swapped rows, in each part."""
    from sklearn.exceptions import ConvergenceWarning

    order = tuple(b for b in setting.order if b in blocks or (b == "internal" and probes is not None))

    def part(k: int) -> dict[str, Any]:
        (train, new), folds = parts[k], inner[k]
        designs: dict[str, Part] = {}
        for name in order:
            if name == "internal":
                assert probes is not None
                scale = max(float(probes[k].train.std()), 1e-300)
                designs[name] = probes[k].train[:, None] / scale, probes[k].new[:, None] / scale
            else:
                basis = Basis.learn(take(blocks[name], train))
                old, held = (basis.features(take(blocks[name], r), len(r)) for r in (train, new))
                designs[name] = old, held
        return _fits(designs, y[train], folds, groups[train], groups[new], setting, k)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ConvergenceWarning)
        found = map_threads(part, range(len(parts)))
    new = np.concatenate([rows for _, rows in parts])

    def join(what: str) -> dict[str, np.ndarray]:
        return {name: np.concatenate([f[what][name] for f in found]) for name in order}

    combined = None
    if found[0]["combined"] is not None:
        fields = Combined.__dataclass_fields__
        combined = Combined(*(np.concatenate([getattr(f["combined"], name) for f in found]) for name in fields))
    return Explained(
        y[new], groups[new], np.repeat(np.arange(len(parts)), [len(r) for _, r in parts]), order, join("alone"),
        join("together"), join("swapped"), combined,
    )  # fmt: skip


def _fits(
    designs: Mapping[str, Part], y: np.ndarray, folds: np.ndarray, groups: np.ndarray, new_groups: np.ndarray,
    setting: Setting, part: int,
) -> dict[str, Any]:  # fmt: skip
    """All regressions of one part; `designs` holds training and new rows of each block."""
    out: dict[str, Any] = {what: {} for what in ("alone", "together", "swapped")}
    width = len(new_groups)
    before: Part = np.zeros((len(y), 0)), np.zeros((width, 0))
    combined, draws = None, setting.permutations

    def predict(train: np.ndarray, new: np.ndarray) -> np.ndarray:
        return Lasso(train, y, folds).predict(new)

    for number, (name, (x, x_new)) in enumerate(designs.items()):
        seed = [setting.seed, 31, part, number]
        swaps = nulls.permuted(np.arange(len(y)), groups, draws, seed)
        new_swaps = nulls.permuted(np.arange(width), new_groups, draws, [*seed, 1])
        out["alone"][name] = predict(x, x_new)
        both = np.column_stack([before[0], x]), np.column_stack([before[1], x_new])
        out["together"][name] = predict(*both) if number else out["alone"][name]
        moved = (
            (np.column_stack([before[0], x[swaps[:, i]]]), np.column_stack([before[1], x_new[new_swaps[:, i]]]))
            for i in range(draws)
        )
        out["swapped"][name] = np.stack([predict(*pair) for pair in moved], axis=1)
        if name == "internal" and number:
            earlier = out["together"][list(designs)[number - 1]]
            s, s_new = x[:, 0] - x[:, 0].mean(), x_new[:, 0] - x[:, 0].mean()
            combined = Combined(earlier, out["together"][name], s_new, Lasso(before[0], s, folds).predict(before[1]))
        before = both
    return out | {"combined": combined}


def parts_of(
    groups: np.ndarray, split: np.ndarray, level: np.ndarray | None, nested: bool, setting: Setting
) -> tuple[list[Part], list[np.ndarray]]:
    """Training and held-out rows, and folds of the training rows: test held out, or each fold of all groups."""
    if nested:
        outer = grouped_folds(groups, setting.folds, setting.seed + 1, level)
        parts = [(np.flatnonzero(outer != k), np.flatnonzero(outer == k)) for k in range(setting.folds)]
    else:
        parts = [(np.flatnonzero(split != "test"), np.flatnonzero(split == "test"))]
    inner = [
        grouped_folds(groups[train], setting.folds, setting.seed, level[train] if level is not None else None)
        for train, _ in parts
    ]
    return parts, inner
