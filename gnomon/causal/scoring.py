"""What every trial scores, and what it reads back: task rows, neutral text, unrelated facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gnomon.causal.arms import Arm
from gnomon.causal.collect import choice_lengths, losses, right_choices, task_outcomes
from gnomon.causal.items import Item, pair_items, text_items
from gnomon.causal.pick import pick
from gnomon.causal.worker import CLEAN, outcomes
from gnomon.interventions.base import Where
from gnomon.methods.effects import Outcomes
from gnomon.methods.neutral import neutral_texts, unrelated_items
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model


def neutral(model: Model, where: Where, n: int) -> list[Item]:
    """`n` neutral texts."""
    return text_items(neutral_texts(n), where, model.tokenize)


def unrelated(model: Model, where: Where, n: int, rows: pd.DataFrame) -> list[Item]:
    """`n` facts that have nothing to do with the task of `rows`: no sums where most targets hold digits."""
    numeric = np.mean([any(c.isdigit() for c in str(t)) for t in rows["target"]]) > 0.5
    return pair_items(unrelated_items(n, numbers=not bool(numeric)), where, model.tokenize, model.encode_text)


def found(out: Writer, name: str, rows: pd.DataFrame, arms: Sequence[Arm]) -> tuple[Outcomes, Outcomes]:
    """Outcomes of the set `name`: without an edit `[n, 1]`, and under each arm `[n, arms]`."""
    names = [CLEAN.name, *(arm.name for arm in arms)]
    scored, units = pick(outcomes(out), set=name), rows["row"].tolist()
    every = task_outcomes(scored, units, names, right_choices(rows), choice_lengths(rows))
    part = slice(1, None)
    return every.column(0), Outcomes(every.logprob[:, part], every.right[:, part], every.answer[:, part])


def found_unrelated(out: Writer, arms: Sequence[Arm]) -> tuple[Outcomes, Outcomes]:
    """`found` of the unrelated facts (there may be fewer than were asked for)."""
    facts = sorted(set(pick(outcomes(out), set="unrelated")["unit"]))
    return found(out, "unrelated", pd.DataFrame({"row": facts, "choices": None, "scores": None, "target": ""}), arms)


def damage(out: Writer, name: str, arms: Sequence[Arm]) -> np.ndarray:
    """Loss change on neutral text under each arm, nats a token, `[texts, arms]`."""
    scored = pick(outcomes(out), set=name)
    loss = losses(scored, sorted(set(scored["unit"])), [CLEAN.name, *(arm.name for arm in arms)])
    return loss[:, 1:] - loss[:, :1]
