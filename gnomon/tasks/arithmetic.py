"""What `sums` and `products` share: operands by their digits, ways of writing a question, grading of a number.

Questions are drawn stratum by stratum (one stratum for each choice of digit counts), so that "1-3" asks as many
short sums as long ones; within a stratum without repetition.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from gnomon.errors import UserError
from gnomon.tasks.base import ONE_OR_MORE, Task, grade_number, log10, number_beside
from gnomon.tasks.numerals import int_to_words
from gnomon.tasks.prompts import Item, Style
from gnomon.types import Example, Grade

Format = Literal["symbol", "words", "question", "spelled"]


class Arithmetic(Task):
    """Whole numbers joined by one operation."""

    generated: ClassVar[bool] = True
    default_n: ClassVar[int | None] = 600
    lengths: ClassVar[dict[str, int]] = {"plain": 16, "chat": 64, "prefix": 12, "chat_prefix": 12}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": ("\n",), "prefix": ("\n",), "chat_prefix": ("\n",)}
    symbol: ClassVar[str]
    word: ClassVar[str]
    noun: ClassVar[str]
    other_signs: ClassVar[tuple[str, ...]]
    """More ways in which an answer repeats the question ("12 x 34"): the numbers in them are no answer."""

    style: Style = "chat_prefix"
    """plain: "What is 12 + 34? ... Answer:"; chat: a user's message; prefix: "12 + 34 =" as bare text, which the model
    continues; chat_prefix: a user's message, and "12 + 34 =" as the beginning of the assistant's answer."""
    digits: int | str = "1-2"
    """Digits of the operands: "2" (10 to 99), "1-3" (each from one to three), or one for each operand: "3x1"."""
    terms: int = Field(default=2, ge=2, le=8)
    """How many numbers are joined; with digits like "3x1" it is their count."""
    formats: Annotated[tuple[Format, ...], ONE_OR_MORE] = ("symbol",)
    """Ways of writing a question: symbol "12 + 34", words "12 plus 34", question "the sum of 12 and 34", spelled
    "twelve plus thirty-four". With several, each problem is asked in all of them and they share a group."""

    @field_validator("digits")
    @classmethod
    def _good_digits(cls, value: int | str) -> int | str:
        for part in str(value).split("x"):
            low, _, high = part.partition("-")
            if not (low.strip().isdigit() and (not high or high.strip().isdigit())):
                raise UserError(f"digits {value!r} cannot be read", 'like "2", "1-3" or "3x1"')
            if not 1 <= int(low) <= int(high or low) <= 12:
                raise UserError(f"digits {value!r}", "from 1 to 12 digits, the smaller first")
        return value

    @field_validator("formats")
    @classmethod
    def _some_format(cls, value: tuple[Format, ...]) -> tuple[Format, ...]:
        if not value or len(set(value)) < len(value):
            raise UserError(f"formats {list(value)}", "at least one of symbol, words, question, spelled, each once")
        return value

    def answer(self, operands: tuple[int, ...]) -> int:
        """The right answer."""
        raise NotImplementedError

    def measure(self, operands: tuple[int, ...]) -> tuple[float, dict[str, float]]:
        """Difficulty of a problem, and its surface features."""
        raise NotImplementedError

    def total(self) -> int:
        return sum(math.prod(_count(d) for d in stratum) for stratum in self._strata()) * len(self.formats)

    def items(self, n: int | None, seed: int) -> list[Item]:
        n = self.total() if n is None else n
        problems = itertools.islice(self._problems(seed), -(-n // len(self.formats)))
        made = [self._item(operands, style) for operands in problems for style in self.formats]
        return made[:n]

    def grade(self, example: Example, text: str) -> Grade:
        return grade_number(example, text, self._echoes(tuple(example.meta["operands"])), direct=True)

    def near_miss(self, example: Example) -> str:
        return number_beside(example.target)

    def _strata(self) -> list[tuple[int, ...]]:
        parts = str(self.digits).split("x")
        parts = parts if len(parts) > 1 else parts * self.terms
        ranges = []
        for part in parts:
            low, _, high = part.partition("-")
            ranges.append(range(int(low), int(high or low) + 1))
        return list(itertools.product(*ranges))

    def _problems(self, seed: int) -> Iterator[tuple[int, ...]]:
        """Operands in turn from each stratum, none twice, until all strata are empty."""
        draws = [_without_repeats(s, random.Random(f"{self.name}/{seed}/{s}")) for s in self._strata()]
        random.Random(f"{self.name}/{seed}").shuffle(draws)
        while draws:
            for draw in list(draws):
                operands = next(draw, None)
                if operands is None:
                    draws.remove(draw)
                else:
                    yield operands

    def _written(self, operands: tuple[int, ...], style: Format) -> str:
        if style == "question":
            *head, last = map(str, operands)
            return f"the {self.noun} of {', '.join(head)} and {last}"
        if style == "spelled":
            return f" {self.word} ".join(map(int_to_words, operands))
        return f" {self.symbol if style == 'symbol' else self.word} ".join(map(str, operands))

    def _echoes(self, operands: tuple[int, ...]) -> list[str]:
        numbers = list(map(str, operands))
        signs = [self.symbol, self.word, "and", *self.other_signs]
        echoes = [f" {sign} ".join(order) for sign in signs for order in (numbers, numbers[::-1])]
        echoes.append(", ".join(numbers[:-1]) + " and " + numbers[-1])
        echoes.append(", ".join(numbers[:-1]) + ", and " + numbers[-1])
        return [*echoes, self._written(operands, "spelled")]

    def _item(self, operands: tuple[int, ...], style: Format) -> Item:
        written, answer = self._written(operands, style), self.answer(operands)
        difficulty, features = self.measure(operands)
        group = f"{self.name}:" + ",".join(map(str, sorted(operands)))
        prefix = f"{written} =" if style == "symbol" else f"{written[0].upper()}{written[1:]} is"
        return Item(
            id=f"{self.name}:{style}:" + ",".join(map(str, operands)), question=f"What is {written}?",
            target=str(answer), continuation=str(answer), instruction="Answer with the number only.", prefix=prefix,
            group=group,
            difficulty=difficulty, meta={"operands": list(operands), "format": style},
            features={**features, "largest_log10": log10(max(operands)), "smallest_log10": log10(min(operands))},
        )  # fmt: skip


def _count(digits: int) -> int:
    return 9 * 10 ** (digits - 1)


def _without_repeats(stratum: tuple[int, ...], rng: random.Random) -> Iterator[tuple[int, ...]]:
    """Tuples of operands of the given digit counts in random order, each once."""
    size = math.prod(_count(d) for d in stratum)
    if size <= 200_000:
        order = list(range(size))
        rng.shuffle(order)
        for code in order:
            yield _decode(code, stratum)
        return
    seen: set[int] = set()
    while len(seen) < size:
        code = rng.randrange(size)
        if code not in seen:
            seen.add(code)
            yield _decode(code, stratum)


def _decode(code: int, stratum: tuple[int, ...]) -> tuple[int, ...]:
    operands = []
    for digits in stratum:
        code, rest = divmod(code, _count(digits))
        operands.append(10 ** (digits - 1) + rest)
    return tuple(operands)
