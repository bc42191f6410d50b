"""Single choices between a safe and a risky option: generated lottery pairs, or risk items from files.

The target is the safe option, so label true is safe and label false risky. What a choice may follow without any
attitude to risk is in the features: which option is worth more, which comes first, how long each is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from gnomon.tasks.choice_order import rank
from gnomon.tasks.choice_records import Question
from gnomon.tasks.choice_task import ChoiceTask
from gnomon.tasks.prompts import Item, Style
from gnomon.tasks.records import data_files, files_hash
from gnomon.tasks.risky_choice_items import Safe, read_items
from gnomon.tasks.risky_choice_pairs import FRAMES, Pair, pairs

SIDES = {"gains": (1,), "losses": (-1,), "both": (1, -1)}


class RiskyChoice(ChoiceTask):
    """A safe option against a risky one; the answer that counts as right is the safe one."""

    name: ClassVar[str] = "risky_choice"
    argument: ClassVar[str] = "path"
    classes: ClassVar[tuple[str, str]] = ("safe", "risky")

    style: Style = "prefix"
    """plain: the two options, "Which one do you take?" and "Answer:"; chat: a user's message; prefix: the options and
    the beginning of the answer ("I take") as bare text; chat_prefix: a user's message, then that beginning."""
    path: str | None = None
    """A file of risk items, or a folder of them, instead of lottery pairs: JSON records with question,
    answer_matching_behavior and answer_not_matching_behavior."""
    safe: Safe = "auto"
    """Which answer of a file's items is the safe one. auto goes by the file's name: matching in risk-averse, not
    matching in risk-seeking; other files need it said, and are left out and counted in a folder."""
    outcomes: Literal["gains", "losses", "both"] = "gains"
    """Lotteries over money won, money lost, or both kinds."""
    sure: Literal["always", "never", "both"] = "both"
    """Whether the safer lottery is a certain amount (100%), a likely one (70% to 90%), or of both kinds."""
    framings: int = Field(default=1, ge=1, le=4)
    """In how many of the four wordings each pair of lotteries is asked, drawn by hash; they share a group."""

    @model_validator(mode="after")
    def _shown_where_needed(self) -> RiskyChoice:
        """Rotations are allowed without a list of options: a lottery's prompt names both in their order."""
        return self

    def questions(self, seed: int) -> list[Question]:
        if self.path is not None:
            return read_items(self.path, self.safe)[0]
        return [
            self._question(pair, side, frame)
            for side, signs in (("gains", 1), ("losses", -1))
            if signs in SIDES[self.outcomes]
            for pair in pairs(signs, self.sure != "never", self.sure != "always")
            for frame in sorted(range(4), key=lambda f, key=pair.key: rank(seed, key, f"frame {f}"))[: self.framings]
        ]

    def _question(self, pair: Pair, side: str, frame: int) -> Question:
        said, asked, opening = FRAMES[side][frame]
        gap = pair.risky.variance - pair.safe.variance
        meta = {
            "ev_safe": pair.safe.ev, "ev_risky": pair.risky.ev, "ev_gap": pair.ev_gap, "variance_gap": round(gap, 4),
            "safe_percent": pair.safe.percent, "risky_percent": pair.risky.percent, "outcomes": side, "frame": frame,
        }  # fmt: skip
        key = f"risky_choice:{pair.key}"
        return Question(
            id=f"{key}:{frame}", group=key, text=f"{said} {asked}", prefix=f"{said} {opening}", opening=opening,
            options=(pair.safe.text, pair.risky.text), target=pair.safe.text, difficulty=pair.ev_gap, meta=meta,
        )  # fmt: skip

    def skipped(self) -> Mapping[str, int]:
        return {} if self.path is None else read_items(self.path, self.safe)[1]

    def data_hash(self) -> str:
        return "" if self.path is None else files_hash(data_files(self.path))

    def _item(self, q: Question, options: Sequence[str], rotation: int) -> Item:
        """The options' order is told by the text itself; and what is seen of them goes into the features."""
        named = {"first": options[0], "second": options[-1]}
        told = replace(q, **{k: getattr(q, k).format(**named) for k in ("text", "prefix")} if self.path is None else {})
        item = super()._item(told, options, rotation)
        other = next(option for option in options if option != q.target)
        features = {"safe_place": float(item.meta["place"]), "safe_longer_chars": float(len(q.target) - len(other))}
        if self.path is None:
            features |= {"ev_gap": q.meta["ev_gap"], "sure": float(q.meta["safe_percent"] == 100)}
            features |= {"log_variance_gap": round(math.log10(q.meta["variance_gap"]), 6)}
            features |= {"risky_percent": float(q.meta["risky_percent"]), "log_ev": _log(q.meta["ev_safe"])}
        else:
            features |= {"safe_is_yes": float(q.target.strip(".").lower() == "yes")}
        return replace(item, features=features)


def _log(value: float) -> float:
    return round(math.log10(abs(value)), 6)
