"""The chemical elements: "What is the chemical symbol of gold?", and back.

`elements.csv`: atomic number, symbol and name (the spellings of the United States: aluminum, cesium, sulfur) of the 118
named elements. Difficulty is the rarity of the name in real text, 8 - its Zipf frequency (see `surface`).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from gnomon.errors import UserError
from gnomon.tasks.base import ONE_OR_MORE
from gnomon.tasks.choice_order import rank
from gnomon.tasks.choice_records import Question
from gnomon.tasks.choice_task import ChoiceTask
from gnomon.tasks.prompts import Style
from gnomon.tasks.surface import rarity

Asked = Literal["symbol", "name", "number"]
WORDING: dict[str, tuple[str, str, str]] = {
    "symbol": (
        "What is the chemical symbol of {name}?",
        "The chemical symbol of {name} is",
        "Answer with the symbol only.",
    ),
    "name": (
        "Which element has the chemical symbol {symbol}?",
        "The element with the chemical symbol {symbol} is",
        "Answer with the element's name only.",
    ),
    "number": (
        "What is the atomic number of {name}?",
        "The atomic number of {name} is",
        "Answer with the number only.",
    ),
}
NEAREST = 12
"""Atomic numbers are drawn from this many neighbours in the table."""


class ElementsChoice(ChoiceTask):
    """The symbol of each element, or the element of each symbol, among others that begin alike."""

    name: ClassVar[str] = "elements_choice"

    style: Style = "prefix"
    """plain: "What is the chemical symbol of gold?" and "Answer:"; chat: a user's message; prefix: "The chemical
    symbol of gold is" as bare text; chat_prefix: a user's message, and that as the beginning of its answer."""
    distractors: int | None = Field(default=3, ge=1, le=25)
    """Wrong options, drawn by sha256 of seed and element: half of them (rounded up) begin with the letter of the right
    one or of what was asked about, where there are such; null: every other element's."""
    ask: Annotated[tuple[Asked, ...], ONE_OR_MORE] = ("symbol", "name")
    """What is asked: the symbol of a name, the name of a symbol, the atomic number of a name. An element's questions
    share a group."""

    @field_validator("ask")
    @classmethod
    def _something(cls, value: tuple[Asked, ...]) -> tuple[Asked, ...]:
        if not value or len(set(value)) < len(value):
            raise UserError(f"ask {list(value)}", "one or more of symbol, name, number, each once")
        return value

    def questions(self, seed: int) -> list[Question]:
        return list(_questions(self.ask, self.distractors, seed))


@lru_cache(maxsize=8)
def _questions(ask: tuple[Asked, ...], distractors: int | None, seed: int) -> tuple[Question, ...]:
    return tuple(_question(row, what, distractors, seed) for row in table() for what in ask)


def _question(row: Mapping[str, str], what: Asked, distractors: int | None, seed: int) -> Question:
    question, prefix, instruction = (text.format(**row) for text in WORDING[what])
    return Question(
        id=f"elements_choice:{row['number']}:{what}", text=question, target=row[what],
        options=(row[what], *_rivals(row, what, distractors, seed)), group=f"elements_choice:{row['number']}",
        prefix=prefix, instruction=instruction, difficulty=rarity(row["name"]),
        meta={"element": row["name"], "symbol": row["symbol"], "number": int(row["number"]), "asks": what},
    )  # fmt: skip


def _rivals(row: Mapping[str, str], what: Asked, distractors: int | None, seed: int) -> list[str]:
    """Wrong options, at most `distractors`: those alike first, each part in the order of its hashes."""
    others = sorted((r for r in table() if r is not row), key=lambda r: rank(seed, row["number"] + what, r["name"]))
    if what == "number":
        by_distance = sorted(others, key=lambda r: abs(int(r["number"]) - int(row["number"])))
        near = {r["number"] for r in by_distance[:NEAREST]}
        return [r[what] for r in sorted(others, key=lambda r: r["number"] not in near)[:distractors]]
    initials = {row["symbol"][0], row["name"][0].upper()}
    alike = [r for r in others if r[what][0].upper() in initials]
    if distractors is not None:
        alike = alike[: (distractors + 1) // 2]
    first = {r["number"] for r in alike}
    return [r[what] for r in sorted(others, key=lambda r: r["number"] not in first)[:distractors]]


@cache
def table() -> tuple[Mapping[str, str], ...]:
    """The rows of `elements.csv`: number, symbol, name."""
    text = resources.files("gnomon.tasks").joinpath("elements.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
