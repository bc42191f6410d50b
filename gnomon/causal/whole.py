"""How a trial is decided: by the right answer's log-probability, or by whole answers that are written and graded.

A program is right when its tests pass, whatever its text: the log-probability of one reference text says nothing of
that, and a target of hundreds of tokens is not what the model would have written. For such rows everything - sweep,
choice, test, controls - rests on answers that were written under the edit and graded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from gnomon.causal.arms import Arm
from gnomon.causal.items import MAX_TARGET, Encode
from gnomon.causal.judged import judged, refuse_logprob, runs_answers
from gnomon.causal.pick import pick
from gnomon.causal.rewrite import writes_text
from gnomon.causal.worker import CLEAN
from gnomon.errors import UserError
from gnomon.methods.effects import Outcomes
from gnomon.store import Artifact

Decided = Literal["logprob", "generate"]


def decided_by(score: str, source: Artifact, table: pd.DataFrame, encode: Encode) -> tuple[Decided, bool]:
    """(what decides, whether the targets are longer than what log-probabilities are scored of).

    auto: generate where the task judges answers by running them, or where more than half of the targets are longer
    than `MAX_TARGET` tokens and the rows hold one answer each; else logprob. UserError where generate is asked for and
    the rows cannot be written again, or where logprob is and they are judged by running them.
    """
    refuse_logprob(score, source.options)
    writes = writes_text(source, table)
    if score == "generate" and not writes:
        raise UserError(
            f"score: generate, and the rows of {source.name} are played in rounds, scored by choices, or appended",
            "one written answer a row", "score: logprob",
        )  # fmt: skip
    cut = table if "finish" not in table else table.loc[np.asarray(table["finish"] != "choice")]  # choices are whole
    lengths = [len(encode(" " + str(target))) for target in cut["target"].unique()[:200]]
    long = bool(np.mean([n > MAX_TARGET for n in lengths] or [False]) > 0.5)
    if score == "auto":
        whole = writes and (long or runs_answers(source.options))
        return ("generate" if whole else "logprob"), long
    return ("generate" if score == "generate" else "logprob"), long


@dataclass(frozen=True)
class Written:
    """Outcomes of whole answers: `base` without an edit `[n, 1]`, `after` under each arm `[n, arms]`; which of the
    latter have no label, and which of those could not be judged, `[n, arms]` bool."""

    base: Outcomes
    after: Outcomes
    unparsed: np.ndarray
    unjudged: np.ndarray


def written(rewritten: pd.DataFrame, table: pd.DataFrame, arms: Sequence[Arm]) -> Written:
    """What the rows of `table` came to. Two answers are the same where their parsed answers are, or else their texts.

    An answer without a label is not right; but one that could not be judged (verdict blocked, unsupported, infra) is
    never counted as wrong: under an edit it counts as unchanged, without one the row's stored label stands.
    """
    rows, names = table["row"].tolist(), [CLEAN.name, *(arm.name for arm in arms)]
    part = pick(rewritten, row=rows, condition=names)
    said = [a if isinstance(a, str) else t for a, t in zip(part["answer"], part["text"], strict=True)]
    labels = part["label"].tolist()
    part = part.assign(
        right=[v is not None and v == v and bool(v) for v in labels],
        unparsed=[v is None or v != v for v in labels],
        unjudged=[not judged(v, m) for v, m in zip(labels, part["meta"], strict=True)],
        said=pd.factorize(np.array(said, dtype=object))[0],
    )

    def grid(column: str) -> np.ndarray:
        return part.pivot(index="row", columns="condition", values=column).loc[list(rows), names].to_numpy()

    right, unparsed, codes = grid("right").astype(bool), grid("unparsed").astype(bool), grid("said").astype(np.int64)
    unjudged = grid("unjudged").astype(bool)
    right[:, 0] = np.where(unjudged[:, 0], table["label"].to_numpy(dtype=bool), right[:, 0])
    right = np.where(unjudged, right[:, :1], right)
    every = Outcomes(np.full(right.shape, np.nan), right, codes)
    after = Outcomes(every.logprob[:, 1:], every.right[:, 1:], every.answer[:, 1:])
    return Written(every.column(0), after, unparsed[:, 1:], unjudged[:, 1:])
