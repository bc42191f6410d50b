"""A direction of high against low, chosen and fitted on some rows, and what it says of others.

Where to read is chosen by the AUROC of high against low, each row scored by a direction that did not see it. Held-out
rows answer three questions: does the direction tell high from low (`high`), does it follow the value of all rows
(`value`), does it tell right from wrong (`correct`)? Beside each: directions of shuffled values, isotropic ones, and
what it adds to difficulty and output confidence (increment, and partial correlation; see `baselines`). From
`nested_below` groups on, held out is the test split, once; below that, five outer folds of all rows, each with its
own ends of high and low, its own place and its own direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gnomon import nulls
from gnomon.errors import UserError
from gnomon.methods.baselines import Columns, combine, take
from gnomon.methods.contrast import cuts, sides
from gnomon.methods.controls import Held, Setting, held_out_rows, shuffled_labels, signed
from gnomon.methods.folds import grouped_folds, map_threads, widening
from gnomon.methods.linear import Difference, contrast
from gnomon.methods.nested import join
from gnomon.methods.probing import Candidate

Read = Callable[[Candidate], np.ndarray]
"""Activations `[n, d]` of a candidate, of the rows in their order."""
TARGETS = ("high", "value", "correct")


@dataclass(frozen=True)
class Values:
    """Rows with a real-valued target, `[n]` each: what high and low are made of, whether right (NaN: unknown)."""

    value: np.ndarray
    correct: np.ndarray
    groups: np.ndarray
    split: np.ndarray
    baselines: Columns
    share: float = 0.3

    def ends(self, train: np.ndarray) -> tuple[float, float]:
        """Ends of low and high on training rows; UserError where the value hardly moves."""
        found = cuts(self.value[train], self.share)
        if found is None:
            raise UserError("the value is the same for nearly all rows", "values that differ")
        return found

    def target(self, name: str, high: np.ndarray) -> np.ndarray:
        """What a direction is asked about, `[n]`, NaN where it is not asked; `high` is `sides` of all rows."""
        return {"high": high, "value": self.value, "correct": self.correct}[name]


@dataclass(frozen=True)
class Parts:
    """Training rows and held-out rows, once (`split` test) or in outer folds (cv)."""

    split: str
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]
    widen: float = 1.0


@dataclass(frozen=True)
class Options:
    """How directions are chosen and controlled."""

    shuffles: int = 199
    random: int = 100
    draws: int = 2000
    folds: int = 5
    nested_below: int = 500
    seed: int = 0


@dataclass(frozen=True)
class Chosen:
    """A place and how it did on training rows; `own[n_train]` are scores by directions that had not seen the row."""

    candidate: Candidate
    auroc: float
    own: np.ndarray = field(repr=False)


def parts_of(groups: np.ndarray, split: np.ndarray, options: Options) -> Parts:
    """Fit and test, or outer folds over all rows where there are fewer groups than `nested_below`.

    Half-widths of the folds' intervals grow by sqrt(1 + k n_test / n_train), since folds share training rows (Nadeau
    & Bengio 2003). UserError where the test split is wanted and has no rows.
    """
    k = options.folds
    if len(np.unique(groups)) >= options.nested_below:
        if not (split == "test").any():
            raise UserError("there are no rows in split 'test'", "held-out rows", "give generate.splits")
        return Parts("test", ((np.flatnonzero(split == "fit"), np.flatnonzero(split == "test")),))
    outer = grouped_folds(groups, k, options.seed + 1)
    pairs = tuple((np.flatnonzero(outer != i), np.flatnonzero(outer == i)) for i in range(k))
    return Parts("cv", pairs, widening(k))


def thin(of: Values, rows: np.ndarray, folds: int) -> str:
    """Why no direction can be fitted to these rows; "" where one can."""
    if not len(rows):
        return "there are no rows to make it of"
    found = cuts(of.value[rows], of.share)
    if found is None:
        return "it is the same for nearly all rows"
    high = sides(of.value[rows], found)
    for name, wanted in (("low", 0.0), ("high", 1.0)):
        count = len(np.unique(of.groups[rows][high == wanted]))
        if count < 2 * folds:
            return f"{count} questions are {name}, and {2 * folds} are needed"
    return ""


def choose(of: Values, read: Read, candidates: Sequence[Candidate], train: np.ndarray, options: Options) -> Chosen:
    """The place whose directions tell high from low best on training rows that they have not seen."""
    high = sides(of.value, of.ends(train))[train]
    folds = grouped_folds(of.groups[train], options.folds, options.seed)
    known = np.isfinite(high)

    def work(candidate: Candidate) -> Chosen:
        x = np.asarray(read(candidate), dtype=np.float64)[train]
        own = out_of_fold(x, high, folds)
        area = nulls.auroc_columns(own[known], high[known], folds[known])
        return Chosen(candidate, float(area[0]), own)

    found = map_threads(work, candidates)
    return max(found, key=lambda c: c.auroc if np.isfinite(c.auroc) else -np.inf)


def out_of_fold(x: np.ndarray, high: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Scores `[n]` of all rows, those between high and low too, by directions fitted without their fold."""
    out, known = np.zeros(len(x)), np.isfinite(high)
    for k in np.unique(folds):
        here, train = folds == k, known & (folds != k)
        out[here] = Difference(x[train]).probe(high[train]).scores(x[here])
    return out


def held_rows(
    of: Values,
    read: Read,
    candidates: Sequence[Candidate],
    parts: Parts,
    where: dict[str, Any],
    options: Options,
    chosen: Chosen | None,
    bases: dict[int, dict[str, np.ndarray]],
) -> list[dict[str, Any]]:
    """Rows of the scores table for every target.

    `chosen` is the place, where it was chosen on fit and tune; without it each part chooses on its training rows.
    `bases` keeps what the baselines alone say, for the next call on the same parts. A target of one class, or without
    rows, is left out.
    """
    places = candidates if chosen is None else [chosen.candidate]
    picks = [choose(of, read, places, train, options) for train, _ in parts.pairs]

    def part(i: int) -> dict[str, Held | None]:
        train, new = parts.pairs[i]
        return _part(of, read, train, new, picks[i], options, bases.setdefault(i, {}))

    done = map_threads(part, range(len(picks)))
    places = [pick.candidate for pick in picks]
    setting = Setting(options.draws, options.shuffles, options.seed, parts.widen, "confidence_directions")
    sites = {f"{s}@{p}": places.count((s, p)) for s, p in places}
    note = f"place chosen anew in each of {len(places)} folds: " + ", ".join(f"{k} ({v})" for k, v in sites.items())
    site, position = places[0] if len(sites) == 1 else ("per fold", places[0][1])
    rows = []
    for target in TARGETS:
        held = [found[target] for found in done]
        if any(h is None for h in held):
            continue
        whole = join([h for h in held if h is not None])
        null = "directions of values shuffled by group" if target != "high" else whole.null
        fixed = where | {"target": target, "site": site, "position": position, "split": parts.split,
                         "note": note if parts.split == "cv" else ""}  # fmt: skip
        made = held_out_rows(replace(whole, null=null), "difference", fixed, setting)
        rows += [_named(row, target) for row in made]
    return rows


def _named(row: dict[str, Any], target: str) -> dict[str, Any]:
    """A row with its ends inside what the metric can be (widening may pass it), and classes by their names here."""
    note = str(row["note"])
    if target == "high":
        note = note.replace(" incorrect rows", " low rows").replace(" correct rows", " high rows")
    if row["metric"] in ("auroc", "spearman", "partial") and row["predictor"] != "increment":
        row = row | {"ci_low": max(row["ci_low"], -1.0), "ci_high": min(row["ci_high"], 1.0)}
    return row | {"note": note}


def _part(
    of: Values, read: Read, train: np.ndarray, new: np.ndarray, pick: Chosen, options: Options,
    bases: dict[str, np.ndarray],
) -> dict[str, Held | None]:  # fmt: skip
    high = sides(of.value, of.ends(train))
    x = np.asarray(read(pick.candidate), dtype=np.float64)
    known = train[np.isfinite(high[train])]
    model = Difference(x[known])
    scores = model.probe(high[known]).scores(x[new])
    labels = nulls.permuted(high[known], of.groups[known], options.shuffles, [options.seed, 2])
    refits = (x[new] - model.mean) @ (model.x.T @ contrast(labels))
    isotropic = np.random.default_rng([options.seed, 17]).standard_normal((x.shape[1], options.random))
    turned = signed(model.x @ isotropic, high[known], (x[new] - model.mean) @ isotropic)
    scored = (scores, refits, turned)
    return {t: _held(of, of.target(t, high), t, train, new, pick.own, scored, options, bases) for t in TARGETS}


def _held(
    of: Values, y: np.ndarray, target: str, train: np.ndarray, new: np.ndarray, own: np.ndarray,
    scored: tuple[np.ndarray, np.ndarray, np.ndarray], options: Options, bases: dict[str, np.ndarray],
) -> Held | None:  # fmt: skip
    fit, out = np.isfinite(y[train]), np.isfinite(y[new])
    early, late = train[fit], new[out]
    classes = (0.0, 1.0) if target != "value" else ()
    if not len(late) or any((y[early] == c).sum() < 5 or not (y[late] == c).any() for c in classes):
        return None
    combined, shuffled = None, y[late][:, None]
    if target != "high":  # the value of all rows says it better
        folds = grouped_folds(of.groups[early], options.folds, options.seed)
        known, fresh = take(of.baselines, early), take(of.baselines, late)
        combined = combine(known, y[early], folds, own[fit], fresh, scored[0][out], bases.get(target))
        bases[target] = combined.base
    else:
        shuffled = shuffled_labels(y[late], of.groups[late], options.shuffles, [options.seed, 3])
    return Held(
        y=y[late], groups=of.groups[late], scores=scored[0][out], folds=np.zeros(len(late), dtype=np.int64),
        calibrated=np.polyval(np.polyfit(own[fit], y[early], 1), scored[0][out]), combined=combined,
        random=scored[2][out], shuffled=(scored[1][out], np.broadcast_to(shuffled, scored[1][out].shape)),
    )  # fmt: skip
