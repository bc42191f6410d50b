"""Confidence in the model's own words: it writes a number, and the number is read.

Nothing is guessed: a text without one number between 0 and 100 (or a share, or a ratio) is unparsed and counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gnomon.rows.confidence_read import Question, Stated, Stating, places
from gnomon.rows.gather import Gather
from gnomon.tasks.numerals import Number, find_numbers
from gnomon.tasks.parsing import readable_end, tidy

if TYPE_CHECKING:
    from gnomon.models.model import Model

STOP = ("\n",)
_OF = re.compile(r"\s*%?\s*(?:out\s+of|of|in|on\s+a\s+scale\s+of)\s+(?:a\s+)?$", re.IGNORECASE)
_SCALE = re.compile(r"\bscale\s+(?:of|from|between)\s+$", re.IGNORECASE)
_TO = re.compile(r"\s*%?\s*(?:-|to|and)\s*$", re.IGNORECASE)


def parse_percent(text: str) -> float | None:
    """A stated confidence as a share 0 to 1; None where the text states none.

    "85%", "85", "ninety percent" are percents; "80 out of 100", "8 in 10", "9/10" ratios; "0.85" (a decimal up to 1)
    a share; "80-90%" the middle of its range; of "on a scale of 1 to 10, 8" the number behind the scale is a share of
    its top. Otherwise the first number counts; one outside 0 to 100 makes the text unparsed.
    """
    text = tidy(text)
    text = text[: readable_end(text)]
    numbers = find_numbers(text, spelled=True)
    if len(numbers) > 1 and _SCALE.search(text[: numbers[0].start]) and _TO.match(_between(numbers, text)):
        top, said = numbers[1].value, numbers[2:3]
        value = float(said[0].value / top) if said and top else None
        return value if value is not None and 0 <= value <= 1 else None
    if not numbers:
        return None
    first, value = numbers[0], _share(numbers[0], text)
    if len(numbers) > 1:
        second = numbers[1]
        between = _between(numbers, text)
        if _OF.match(between) and "scale" in between.lower() and len(numbers) > 2:
            value = float(first.value / numbers[2].value) if numbers[2].value else None  # 8 on a scale of 1 to 10
        elif _OF.match(between):
            value = float(first.value / second.value) if second.value else None
        elif _TO.match(between):
            ends = [_share(n, text) for n in (first, second)]
            value = None if None in ends or ends[0] > ends[1] else sum(ends) / 2  # pyright: ignore
    return value if value is not None and 0 <= value <= 1 else None


def _between(numbers: Sequence[Number], text: str) -> str:
    """What stands between the first two numbers."""
    return text[numbers[0].end : numbers[1].start]


def _share(number: Number, text: str) -> float | None:
    value = float(number.value)
    ratio = "/" in text[number.start : number.end]
    if not number.percent and (ratio or (number.decimals and value <= 1)):
        return value
    return value / 100 if 0 <= value <= 100 else None


def state_batch(model: Model, questions: Sequence[Question], how: Stating, gather: Gather) -> list[Stated]:
    """Let the model write its confidence, greedily, to a batch of questions; read the numbers, keep activations."""
    main = how.orders[0]
    wanted = tuple(gather.positions)
    if {"answer", "all"} & set(wanted):
        wanted = ("all",)  # tokens inside the prompt
    made = model.generate(
        [list(q.asked[main].tokens) for q in questions], max_new_tokens=how.max_new_tokens, stop=STOP,
        read=how.sites, positions=wanted if how.sites else (),
    )  # fmt: skip
    stated = []
    for said in made.rows:
        value = parse_percent(said.text)
        parsed = None if value is None else f"{100 * value:g}%"
        stated.append(Stated(list(said.token_ids), said.text, parsed, value, meta={"finish": said.finish}))
    gather.take(places(questions, stated, main), made.take)
    return stated
