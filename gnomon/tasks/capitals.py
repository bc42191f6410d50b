"""Capitals: "What is the capital of Kenya?", with the country's population as difficulty.

The table `capitals.csv` was compiled for gnomon from general knowledge: the 193 members and two observers of the
United Nations, Kosovo and Taiwan, and, as an option, 25 territories. Capitals are the official ones; seats of
government and other names in use are accepted as aliases (Sucre and La Paz; Kyiv and Kiev). Populations are mid-2020s
figures of the kind published by the United Nations (World Population Prospects) and the World Bank, rounded to about
three digits from memory and not copied from a release: good for ranking by familiarity, not for demography.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from gnomon.errors import UserError
from gnomon.tasks.base import ONE_OR_MORE, Task, log10
from gnomon.tasks.parsing import is_refusal
from gnomon.tasks.parsing_names import folded, parse_name
from gnomon.tasks.prompts import Item, Style
from gnomon.types import Example, Grade

TEMPLATES: tuple[tuple[str, str], ...] = (
    ("What is the capital of {country}?", "The capital of {country} is"),
    ("Which city is the capital of {country}?", "The capital city of {country} is"),
    ("What is the name of {country}'s capital city?", "The name of the capital of {country} is"),
    ("Name the capital city of {country}.", "The city that is the capital of {country} is"),
)


class Capitals(Task):
    """The capital of each country in an embedded table; difficulty is 10 - log10(population)."""

    name: ClassVar[str] = "capitals"
    style: Style = "chat_prefix"
    """plain: "What is the capital of Kenya? ... Answer:"; chat: a user's message; prefix: "The capital of Kenya is" as
    bare text, which the model continues; chat_prefix: a user's message, and that as the beginning of its answer."""
    lengths: ClassVar[dict[str, int]] = {"plain": 16, "chat": 32, "prefix": 12, "chat_prefix": 12}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": ("\n",), "prefix": ("\n",), "chat_prefix": ("\n",)}

    paraphrases: int = Field(default=1, ge=1, le=len(TEMPLATES))
    """How many of the embedded ways of asking are used for each country; they share a group."""
    templates: Annotated[tuple[str, ...], ONE_OR_MORE] = ()
    """Your own ways of asking instead, each with {country}; after a "|" the beginning of the answer for the prefix
    styles: "What is {country}'s capital?|The capital of {country} is"."""
    territories: bool = False
    """Also ask about 25 territories that are not countries (Greenland, Puerto Rico, ...)."""

    @field_validator("templates")
    @classmethod
    def _has_country(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for template in value:
            if any("{country}" not in part for part in template.split("|")):
                raise UserError(f"template {template!r} lacks {{country}}", "text with {country} where the name goes")
        return value

    def items(self, n: int | None, seed: int) -> list[Item]:
        own = [
            (t.split("|")[0].strip(), t.split("|")[1].strip() if "|" in t else TEMPLATES[0][1]) for t in self.templates
        ]
        ways = own or list(TEMPLATES[: self.paraphrases])
        rows = [row for row in table() if self.territories or row["kind"] != "territory"]
        return [self._item(row, i, *way) for row in rows for i, way in enumerate(ways)]

    def grade(self, example: Example, text: str) -> Grade:
        row = _by_country()[example.meta["country"]]
        parsed = parse_name(text, _capital_names(), "capital(?: city)?", _names_of_country(row))
        if parsed is None:
            return Grade(None, reason="refused" if is_refusal(text) else "no name")
        right = accepted(row)
        span = (parsed.start, parsed.end)
        verdicts = {folded(name) in right for name in (text[slice(*span)], *parsed.rivals)}
        if len(verdicts) == 2:
            return Grade(None, text[slice(*span)], "two answers", span)
        return Grade(verdicts.pop(), text[slice(*span)], parsed.how, span)

    def near_miss(self, example: Example) -> str:
        """The capital of the country nearest in population in the same region."""
        row = _by_country()[example.meta["country"]]
        rivals = [r for r in table() if r["region"] == row["region"] and folded(r["capital"]) not in accepted(row)]
        rivals = [r for r in rivals if not accepted(r) & accepted(row)]
        return min(rivals, key=lambda r: abs(log10(float(r["population"])) - log10(float(row["population"]))))[
            "capital"
        ]

    def _item(self, row: Mapping[str, str], way: int, question: str, prefix: str) -> Item:
        country, people = f"{row['the']} {row['country']}".strip(), int(row["population"])
        return Item(
            id=f"capitals:{folded(row['country']).replace(' ', '-')}:{way}", question=question.format(country=country),
            target=row["capital"], prefix=_sentence(prefix.format(country=country)), group=f"capitals:{row['country']}",
            instruction="Answer with the name of the city only.", difficulty=round(10 - log10(people), 6),
            meta={"country": row["country"], "region": row["region"], "kind": row["kind"], "population": people},
            features={"country_chars": float(len(country)), "capital_words": float(len(row["capital"].split()))},
        )  # fmt: skip


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


@cache
def table() -> tuple[Mapping[str, str], ...]:
    """The rows of `capitals.csv`: country, the (its article), capital, aliases and country_aliases (joined by "|"),
    population, region, kind (member, observer or other; territory)."""
    text = resources.files("gnomon.tasks").joinpath("capitals.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def _by_country() -> dict[str, Mapping[str, str]]:
    return {row["country"]: row for row in table()}


@cache
def _capital_names() -> dict[str, str]:
    return {name: row["capital"] for row in table() for name in _names(row)}


def _names(row: Mapping[str, str]) -> list[str]:
    return [row["capital"], *filter(None, row["aliases"].split("|"))]


def _names_of_country(row: Mapping[str, str]) -> list[str]:
    return [row["country"], *filter(None, row["country_aliases"].split("|"))]


def accepted(row: Mapping[str, str]) -> set[str]:
    """The folded names that count as right."""
    return {folded(name) for name in _names(row)}
