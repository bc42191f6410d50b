"""What the chosen probe is worth on rows that had no part in choosing it.

From `nested_below` groups on (500): the probe chosen on fit and tune is refitted on fit and scored on test, once. Below
that, test is too small to say much, and the number to go by is nested cross-validation over all groups (`nested`). Test
was then used, and the ledger says so; the plain test number is reported beside it, and the saved directions have seen
fit rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from gnomon import nulls
from gnomon.methods.controls import COLUMNS, Setting, baseline_rows, held_out_rows
from gnomon.methods.heldout import baselines_at, held_out, shuffles_of, singles_of
from gnomon.methods.linear import LinearProbe
from gnomon.methods.nested import nested as nested_rows
from gnomon.methods.probing import Candidate, Choice, Options, Problem, Read, Sweep, kinds, require_classes, sweep

TestRead = Callable[[str], Any]
"""Called with the reason before test is read: the ledger."""


@dataclass(frozen=True)
class Fitted:
    """A probe of fit rows: the model, where it reads, and its thresholds."""

    choice: Choice
    probe: LinearProbe
    thresholds: dict[str, float]
    n_fit: int


@dataclass(frozen=True)
class Result:
    """Everything that `evaluate` found; `fitted[0]` is the headline's probe."""

    scores: pd.DataFrame
    sweep: pd.DataFrame
    null: pd.DataFrame
    folds: pd.DataFrame
    dropped: list[str]
    fitted: list[Fitted]
    found: Sweep


def evaluate(
    of: Problem,
    read: Read,
    candidates: Sequence[Candidate],
    options: Options | None = None,
    on_test: TestRead = lambda why: None,
    done: Callable[[int], Any] | None = None,
) -> Result:
    """The whole decision: sweep, choice, test, and nested cross-validation where there are few groups.

    Args:
        of: labelled rows (`probing.problem`).
        read: gives the activations of a candidate at generation rows.
        candidates: (site, position) pairs to search.
        on_test: called with a reason before test rows are read.
        done: called with 1 for each candidate finished.
    """
    with threadpool_limits(limits=1):  # the last bits of a result must not depend on the number of cores
        return _evaluate(of, read, candidates, options or Options(), on_test, done)


def _evaluate(
    of: Problem,
    read: Read,
    candidates: Sequence[Candidate],
    options: Options,
    on_test: TestRead,
    done: Callable[[int], Any] | None,
) -> Result:
    require_classes(of, options.folds)
    found = sweep(of, read, candidates, options, done)
    where = {"generation": of.generation, "target": of.target}
    setting = Setting(options.draws, max(options.permutations * 10, 99), options.seed)
    nested = len(np.unique(of.groups)) < options.nested_below
    on_test(f"scores of the best {' and '.join(found.choices)} probe, refitted on fit")
    rows, fitted = _test(of, read, found, options, where | {"split": "test"}, setting, selected=not nested)
    folds = pd.DataFrame(columns=["fold", "site", "position", "predictor", "penalty", "n_train", "n", "value"])
    if nested:
        why = f"nested cross-validation: {len(np.unique(of.groups))} groups are fewer than {options.nested_below}"
        on_test(f"{why}; every row is scored by probes that were chosen and fitted without its fold")
        more, folds = nested_rows(of, read, candidates, options, where | {"split": "cv"}, setting, done)
        rows = more + rows
    scores = pd.DataFrame(rows, columns=list(COLUMNS))
    probes = [*kinds(of, options), "probe"]
    main = scores["predictor"].isin(probes) & (scores["control"] == "") & (scores["metric"] == of.metric.name)
    for split in scores["split"].unique():
        family = main & (scores["split"] == split)
        scores.loc[family, "q"] = nulls.holm(scores.loc[family, "p"].to_numpy(np.float64))
    _, dropped = baselines_at(of, options.baselines, *{c.candidate[1] for c in found.choices.values()})
    return Result(scores, found.table, found.null, folds, dropped, fitted, found)


def _test(
    of: Problem, read: Read, found: Sweep, options: Options, where: dict[str, Any], setting: Setting, selected: bool
) -> tuple[list[dict[str, Any]], list[Fitted]]:
    train, new = np.flatnonzero(of.split == "fit"), np.flatnonzero(of.split == "test")
    shuffles, rows, fitted, bases = shuffles_of(of, options, of.split), [], [], {}
    fit = of.split[found.dev] == "fit"
    for choice in sorted(found.choices.values(), key=lambda c: c is not found.headline):
        x = np.asarray(read(choice.candidate, of.rows), dtype=np.float64)
        in_fit = replace(choice, scores=choice.scores[fit])
        held, probe, thresholds = held_out(
            of, x, train, new, in_fit, (choice.scores, of.y[found.dev]), shuffles, options, bases
        )  # fmt: skip
        fitted.append(Fitted(choice, probe, thresholds, len(train)))
        first = choice is found.headline
        place = where | {"site": choice.candidate[0], "position": choice.candidate[1], "selected": selected and first}
        if len(new):
            name = "increment" if first else f"increment of {choice.predictor}"
            rows += held_out_rows(held, choice.predictor, place, setting, name)
            if first:
                held = replace(held, singles=singles_of(of, [(train, new)], {choice.candidate[1]}, options)[0])
                rows += baseline_rows(held, place | {"selected": False}, setting)
    return rows, fitted


def verdict(scores: pd.DataFrame, smallest: float = 0.02) -> str:
    """`pass`, `fail` or `undecided`: does the headline's increment show more than the baselines know?

    pass: both the increment's and the partial correlation's intervals lie above 0. fail: the increment's interval lies
    below `smallest`. Else undecided, as where a class is too thin for an interval, or where the combination dropped the
    score (an increment of exactly 0 in every draw) that still correlates given the baselines.
    """
    gain = scores.loc[scores["selected"].astype(bool) & (scores["predictor"] == "increment"), :]
    if len(gain) != 1:
        return "undecided"
    low, high, split = (gain.iloc[0][c] for c in ("ci_low", "ci_high", "split"))
    rest = scores.loc[(scores["predictor"] == "increment") & (scores["metric"] == "partial"), :]
    rest = rest.loc[(rest["split"] == split) & (rest["generation"] == gain.iloc[0]["generation"]), :]
    beyond = len(rest) == 1 and bool(rest.iloc[0]["ci_low"] > 0)
    if low > 0 and beyond:
        return "pass"
    if low == high and beyond:
        return "undecided"
    return "fail" if high < smallest else "undecided"
