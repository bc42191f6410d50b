"""A frozen probe on another generation: same model, other questions, nothing fitted again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from gnomon.errors import UserError
from gnomon.methods.baselines import take
from gnomon.methods.controls import Setting
from gnomon.methods.direction import direction_controls
from gnomon.methods.evidence import Fitted
from gnomon.methods.heldout import baselines_at
from gnomon.methods.probing import Options, problem


def transfer(
    fitted: Fitted,
    table: pd.DataFrame,
    activations: np.ndarray,
    seen: set[str],
    generation: str,
    target: str,
    options: Options,
    on_test: Callable[[str], object] = lambda why: None,
) -> tuple[pd.DataFrame, int]:
    """Score rows of a probe on another generation's test split, with its thresholds, beside all controls there.

    Args:
        table: the other generation's rows, `activations [len(table), d]` theirs at the probe's site and position.
        seen: prompt hashes of the rows that the probe was fitted or chosen on; such rows are left out.

    Returns the rows of the scores table, and how many rows were left out as seen. Only the combination with the
    baselines is learned on the other generation's own fit rows. UserError where no test row is new.
    """
    known = np.asarray(table["prompt_hash"].isin(list(seen)))
    fresh = table.loc[~known, :].assign(row=np.flatnonzero(~known))
    of = problem(fresh, target, generation)
    test, fit = of.split == "test", of.split == "fit"
    if not test.any():
        raise UserError(
            f"transfer_to: {generation} has no labelled test row that the probe has not seen",
            "other questions than the probe's own", "point it at another task, or at more examples",
        )  # fmt: skip
    x = np.asarray(activations, dtype=np.float64)[of.rows]
    scores = fitted.probe.scores(x)
    site, position = fitted.choice.candidate
    baselines, _ = baselines_at(of, options.baselines, position)
    combinable = all((of.y[fit] == c).sum() >= options.folds for c in (0, 1)) if of.binary else fit.sum() >= 10
    directions = np.random.default_rng([options.seed, 17]).standard_normal((x.shape[1], options.random))
    projected = (x - x[~test].mean(axis=0)) @ directions if (~test).any() else None
    on_test(f"transfer of the {fitted.choice.predictor} probe at {site}@{position}")
    rows = direction_controls(
        scores,
        of.y,
        of.groups,
        of.split,
        take(baselines, np.arange(len(of.y))) if combinable else None,
        difficulty=of.difficulty,
        random_scores=projected if fit.any() else None,
        thresholds=fitted.thresholds,
        predictor=fitted.choice.predictor,
        where={"generation": generation, "target": target, "site": site, "position": position},
        setting=Setting(options.draws, max(options.permutations * 10, 99), options.seed),
    )
    return rows, int(known.sum())
