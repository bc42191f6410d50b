"""From the worker's table of outcomes to arrays: rows of the task, texts, unrelated facts, by condition."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gnomon.causal.pick import pick
from gnomon.errors import UserError
from gnomon.methods.effects import Outcomes


def grid(table: pd.DataFrame, column: str, units: Sequence[int], conditions: Sequence[str]) -> np.ndarray:
    """`column` as `[units, conditions]`, for texts without choices."""
    wide = table.pivot(index="unit", columns="condition", values=column)
    return wide.loc[list(units), list(conditions)].to_numpy()


def task_outcomes(
    table: pd.DataFrame, units: Sequence[int], conditions: Sequence[str], targets: Mapping[int, int] | None = None,
    lengths: Mapping[int, Sequence[float]] | None = None,
) -> Outcomes:  # fmt: skip
    """Outcomes `[units, conditions]` of one set of task rows.

    Without choices: right where greedy decoding would write the right answer token by token; the answer is the first
    token it would write. With choices (`targets[unit]`: the right one's index): the answer is the choice of the
    highest log-probability divided by its length (`lengths[unit]` of each choice; its tokens where there are none), and
    the log-probability is that of the right choice's whole text.
    """
    if not targets:
        return Outcomes(
            grid(table, "logprob", units, conditions).astype(np.float64),
            grid(table, "greedy", units, conditions).astype(bool),
            grid(table, "first", units, conditions).astype(np.int64),
        )
    wanted = np.array([targets[int(unit)] for unit in table["unit"]])
    places, over = np.asarray(table["choice"], dtype=np.int64), table["tokens"].to_numpy(dtype=np.float64)
    if lengths:
        triples = zip(table["unit"], places, over, strict=True)
        over = np.array([lengths[int(u)][k] if int(u) in lengths else n for u, k, n in triples])
    scored = table.assign(mean=table["logprob"] / over, right=places == wanted)
    best = scored.loc[scored.groupby(["unit", "condition"])["mean"].idxmax()]
    right = pick(scored, right=True)
    return Outcomes(
        grid(right, "logprob", units, conditions).astype(np.float64),
        grid(best, "right", units, conditions).astype(bool),
        grid(best, "choice", units, conditions).astype(np.int64),
    )


def losses(table: pd.DataFrame, units: Sequence[int], conditions: Sequence[str]) -> np.ndarray:
    """Mean loss per token (nats) of each text under each condition, `[units, conditions]`."""
    scored = table.assign(loss=-table["logprob"] / table["tokens"])
    return grid(scored, "loss", units, conditions).astype(np.float64)


def right_choices(table: pd.DataFrame) -> dict[int, int]:
    """Row -> index of the target among its choices, for generation rows that were scored by choices."""
    out = {}
    for row, choices, scores, target in zip(
        table["row"], table["choices"], table["scores"], table["target"], strict=True
    ):
        names = [str(c) for c in choices] if choices is not None else []
        if names and scores is not None and len(scores):
            if str(target) not in names:
                raise UserError(f"row {row} has the target {target!r}", f"one of its choices: {', '.join(names)}")
            out[int(row)] = names.index(str(target))
    return out


def choice_lengths(table: pd.DataFrame) -> dict[int, list[float]]:
    """Row -> what each choice's log-probability is divided by, for generation rows whose `normalise` (in their meta)
    was chars or none."""
    out = {}
    metas = table["meta"] if "meta" in table else [""] * len(table)
    for row, choices, meta in zip(table["row"], table["choices"], metas, strict=True):
        how = json.loads(meta).get("normalise", "") if '"normalise":' in str(meta) else ""
        if how == "chars":
            out[int(row)] = [float(max(len(str(choice).strip()), 1)) for choice in choices]
        elif how == "none":
            out[int(row)] = [1.0] * len(choices)
    return out
