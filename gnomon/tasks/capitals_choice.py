"""Capitals as choices: "What is the capital of Kenya?" with other capitals of the same region beside Nairobi.

The countries, the ways of asking and the difficulty (10 - log10 of the population) are those of the task `capitals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

from pydantic import Field

from gnomon.tasks.capitals import TEMPLATES, Capitals, accepted, table
from gnomon.tasks.choice_order import rank
from gnomon.tasks.choice_records import Question
from gnomon.tasks.choice_task import ChoiceTask
from gnomon.tasks.prompts import Style


class CapitalsChoice(ChoiceTask):
    """The capital of each country in an embedded table, among capitals of its region."""

    name: ClassVar[str] = "capitals_choice"

    style: Style = "prefix"
    """plain: "What is the capital of Kenya?" and "Answer:"; chat: a user's message; prefix: "The capital of Kenya is"
    as bare text, which the options continue; chat_prefix: a user's message, and that as the beginning of its answer."""
    distractors: int | None = Field(default=3, ge=1, le=25)
    """Capitals of the same region beside the right one, drawn by sha256 of seed and country; null: all of them."""
    paraphrases: int = Field(default=1, ge=1, le=len(TEMPLATES))
    """How many of the embedded ways of asking are used for each country; they share a group and the options."""
    territories: bool = False
    """Also ask about 25 territories that are not countries (Greenland, Puerto Rico, ...)."""

    def questions(self, seed: int) -> list[Question]:
        return list(_questions(self.paraphrases, self.territories, self.distractors, seed))


@lru_cache(maxsize=8)
def _questions(paraphrases: int, territories: bool, distractors: int | None, seed: int) -> tuple[Question, ...]:
    asked = Capitals(paraphrases=paraphrases, territories=territories).items(None, 0)
    rows = {row["country"]: row for row in table() if territories or row["kind"] != "territory"}
    names = {country: accepted(row) for country, row in rows.items()}
    rivals = {country: _rivals(row, rows, names, seed)[:distractors] for country, row in rows.items()}
    return tuple(
        Question(
            id=item.id.replace("capitals:", "capitals_choice:", 1), text=item.question, target=item.target,
            options=(item.target, *rivals[item.meta["country"]]), group=item.group,
            prefix=item.prefix, instruction=item.instruction, difficulty=item.difficulty, meta=item.meta,
        )
        for item in asked
    )  # fmt: skip


def _rivals(
    row: Mapping[str, str], rows: Mapping[str, Mapping[str, str]], names: Mapping[str, set[str]], seed: int
) -> list[str]:
    """Capitals of the same region, the least hash first, none of them a name of the right one."""
    near = [r["capital"] for country, r in rows.items()
            if r["region"] == row["region"] and not names[country] & names[row["country"]]]  # fmt: skip
    return sorted(near, key=lambda name: rank(seed, row["country"], name))
