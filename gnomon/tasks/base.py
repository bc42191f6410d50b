"""What every task shares: options, prompt styles, few-shot demonstrations, index ranges, surface baselines.

A task writes four things: `items` (its questions), `grade`, `near_miss` and, where it is generated, `total`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from gnomon.errors import UserError
from gnomon.tasks import parsing, parsing_numbers
from gnomon.tasks.numerals import exact, same, show
from gnomon.tasks.prompts import Item, Style, render
from gnomon.types import Episode, Example, Grade, Mode, Prompt, Turn

ONE_OR_MORE = BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
"""Lets an option that is a list be written as one text."""


class Task(BaseModel):
    """Base of the tasks here, and a convenient one for a user's own: a frozen record of options that makes examples."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the questions or the grading change: part of what a finished step is known by."""
    modes: ClassVar[tuple[Mode, ...]] = ("generate", "episode")
    generated: ClassVar[bool] = False
    """Questions are made from the seed; `items(n, seed)` makes the first n. Otherwise `items` gives all there are."""
    default_n: ClassVar[int | None] = None
    argument: ClassVar[str] = ""
    """The option that takes what follows the colon in `name:...` (`reasoning_gym:leg_counting`)."""
    lengths: ClassVar[dict[str, int]] = {}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {}
    classes: ClassVar[tuple[str, str]] = ("correct", "incorrect")
    """What labels true and false are called in this task's reports: (safe, risky) of a choice between lotteries."""

    mode: Mode = "generate"
    """generate: the model writes and the text is graded; choices: the likeliest of the choices is graded;
    episode: played as an episode, of one turn for a single question."""
    style: Style = "chat"
    """plain: "Question: ... Answer:"; chat: a user's message; prefix: the beginning of the answer, as bare text, which
    the model continues; chat_prefix: a user's message and the beginning of the assistant's answer."""
    shots: int = Field(default=0, ge=0, le=64)
    """Worked examples of the same task put before each question; never the question itself nor one of its group."""
    shot_seed: int = 0
    """Seed that chooses the worked examples; all questions get the same ones unless a group forbids it."""
    system: str = ""
    """A system message, for the chat styles; empty leaves it to the model's own template."""
    instruction: str | None = None
    """Replaces the task's own instruction ("Answer with the number only."); empty text leaves it out."""
    range: str = ""
    """Keep the questions at these places of the data set's own order: "0-162" is the first 162 (the end is not
    included, so 0-50 and 50-100 join); "100-" is all from the 101st."""
    max_new_tokens: int = Field(default=64, ge=1)
    """The longest answer, in tokens; unless given it is chosen by task and style."""
    stop: Annotated[tuple[str, ...], ONE_OR_MORE] = ()
    """Texts at which an answer ends; unless given they are chosen by task and style."""

    @model_validator(mode="before")
    @classmethod
    def _fill_by_style(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        style = str(data.get("style", cls.model_fields["style"].default))
        chosen = {"max_new_tokens": cls.lengths.get(style, 64), "stop": cls.stops.get(style, ())}
        return {**{k: v for k, v in chosen.items() if k in cls.model_fields}, **data}

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, value: Mode) -> Mode:
        if value not in cls.modes:
            raise UserError(f"task {cls.name} has no mode {value!r}", f"its modes are {', '.join(cls.modes)}")
        return value

    @field_validator("range")
    @classmethod
    def _good_range(cls, value: str) -> str:
        _bounds(value)
        return value

    # ---------------------------------------------------------------- for a task to write

    def items(self, n: int | None, seed: int) -> list[Item]:
        """The task's questions: all of them, or the first `n` of this seed where the task is `generated`."""
        raise NotImplementedError

    def prompt(self, item: Item, shots: Sequence[Item]) -> Prompt:
        """What the model reads: the item in the task's style, after the worked examples `shots`."""
        return render(self.style, item, shots, self.system)

    def total(self) -> int:
        """How many different questions exist under these options."""
        return len(self.items(None, 0))

    def grade(self, example: Example, text: str) -> Grade:
        """Read an answer; label None where there is none to read."""
        raise NotImplementedError

    def near_miss(self, example: Example) -> str:
        """A wrong answer that looks like the right one: the grader must tell them apart."""
        raise NotImplementedError

    def data_hash(self) -> str:
        """sha256 of the data the questions come from, 16 hex digits; "" where they are made from the options alone."""
        return ""

    # ---------------------------------------------------------------- what steps use

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        """`n` examples (None: all of `range`, or a generated task's default); the same for the same options and seed.

        Of a data set, `n` are drawn by the hash of (seed, group), and kept in the data set's order: a smaller draw is
        part of a larger one, and the paraphrases of a question come together. Raises UserError for more than exist.
        """
        if n is not None and n < 1:
            raise UserError(f"{self.name} was asked for {n} examples", "at least 1")
        start, end = _bounds(self.range)
        if self.generated:
            total = self.total()
            wanted = end if end is not None else start + (n or min(self.default_n or total, max(1, total - start)))
            self._refuse_more(wanted, total)
            numbered = list(enumerate(self.items(wanted, seed)))[start:wanted]
            self._refuse_more(n or 0, len(numbered))
            numbered = numbered[:n]
        else:
            every = list(enumerate(self.items(None, seed)))
            if end is not None:
                self._refuse_more(end, len(every))
            numbered = every[start:end]
            self._refuse_more(n or 1, len(numbered))
            if n is not None and n < len(numbered):
                order = sorted(numbered, key=lambda p: (_hash("draw", seed, p[1].group or p[1].id), p[0]))
                numbered = sorted(order[:n], key=lambda p: p[0])
        return self._rendered(numbered)

    def baselines(self, example: Example) -> dict[str, float]:
        """Numbers seen without looking inside the model that could explain its success: difficulty, lengths of prompt
        and target, and the task's own surface features (operand sizes, carries, population ...)."""
        text = prompt_text(example.prompt)
        values = {"prompt_chars": float(len(text)), "prompt_words": float(len(text.split()))}
        values["target_chars"] = float(len(example.target))
        if example.difficulty is not None:
            values["difficulty"] = float(example.difficulty)
        return values | {k: float(v) for k, v in example.meta.get("features", {}).items()}

    def episode(self, example: Example, seed: int = 0) -> Episode:
        """The example as an episode: of one turn, unless the task plays rounds."""
        return SingleTurn(self, example)

    def fingerprint(self) -> dict[str, Any]:
        """What the questions and their grades depend on, beside the options: versions and the data's hash."""
        known = {"task": self.name, "version": self.version, "parser": parsing.VERSION}
        return known | ({"data": digest} if (digest := self.data_hash()) else {})

    def variant(self, **options: Any) -> Task:
        """The same task with other options, checked anew; what was left to the style is chosen anew."""
        return type(self)(**{**self.model_dump(exclude_unset=True, exclude={"max_new_tokens", "stop"}), **options})

    # ---------------------------------------------------------------- inside

    def _refuse_more(self, wanted: int, total: int) -> None:
        if wanted > total:
            options = f" in range {self.range}" if self.range and not self.generated else ""
            raise UserError(
                f"task {self.name} was asked for {wanted} examples", f"{total} exist{options} with these options",
                "lower n (or range), or widen the task's options",
            )  # fmt: skip

    def _rendered(self, numbered: Sequence[tuple[int, Item]]) -> list[Example]:
        pool = self._shot_pool() if self.shots else []
        return [self._example(index, self._styled(item), pool) for index, item in numbered]

    def _styled(self, item: Item) -> Item:
        return item if self.instruction is None else replace(item, instruction=self.instruction)

    def _shot_pool(self) -> list[Item]:
        if self.generated:
            pool = self.items(min(self.total(), 4 * self.shots + 32), int(_hash("shots", self.shot_seed)[:8], 16))
        else:
            pool = self.items(None, self.shot_seed)
            pool = sorted(pool, key=lambda i: _hash("shots", self.shot_seed, i.id))
        return [self._styled(item) for item in pool if item.verbatim is None]

    def _example(self, index: int, item: Item, pool: Sequence[Item]) -> Example:
        group = item.group or item.id
        shots: dict[str, Item] = {}
        for other in pool:
            if len(shots) == self.shots:
                break
            if (other.group or other.id) != group and other.question != item.question:
                shots.setdefault(other.group or other.id, other)
        if len(shots) < self.shots:
            raise UserError(
                f"task {self.name} has {len(shots)} worked examples for {item.id!r}",
                f"shots is {self.shots}",
                "lower shots",
            )
        meta = {**item.meta, "index": index, "question": item.question, "features": dict(item.features)}
        if shots:
            meta |= {"shots": [s.id for s in shots.values()], "shot_groups": list(shots)}
        return Example(
            id=item.id, prompt=self.prompt(item, list(shots.values())), target=item.target,
            choices=item.choices, group=group, split=item.split, difficulty=item.difficulty, meta=meta,
        )  # fmt: skip


class SingleTurn:
    """A single question as an episode of one turn."""

    def __init__(self, task: Any, example: Example) -> None:
        self.task, self.example = task, example
        self.text: str | None = None

    def first(self) -> Prompt:
        return self.example.prompt

    def reply(self, text: str) -> Turn:
        self.text = text
        return Turn(None)

    def grade(self) -> Grade:
        if self.text is None:
            return Grade(None, reason="no answer was given")
        return self.task.grade(self.example, self.text)


def prompt_text(prompt: Prompt) -> str:
    """A prompt's words alone, chat messages joined by blank lines."""
    return prompt if isinstance(prompt, str) else "\n\n".join(str(m["content"]) for m in prompt)


def grade_number(example: Example, text: str, echo: Sequence[str] = (), direct: bool = False) -> Grade:
    """Grade a text against a numeric target."""
    parsed = parsing_numbers.parse_number(text, echo, direct)
    if parsed is None:
        return Grade(None, reason="refused" if parsing.is_refusal(text) else "no number")
    target = exact(example.target)
    if target is None:
        raise ValueError(f"target {example.target!r} of {example.id!r} is not a number")
    return Grade(same(parsed.value, target), text[parsed.start : parsed.end], parsed.how, (parsed.start, parsed.end))


def number_beside(target: str) -> str:
    """The number one above: a near miss (a tenth above for one that is not whole)."""
    value = exact(target)
    if value is None:
        raise ValueError(f"{target!r} is not a number")
    return show(value + (1 if value.denominator == 1 else Fraction(1, 10)))


def _bounds(text: str) -> tuple[int, int | None]:
    if not text:
        return 0, None
    match = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", str(text))
    if not match or (match[2] and int(match[2]) <= int(match[1])):
        raise UserError(
            f"range {text!r} is not a range", 'two places in ascending order like "0-162" (the end is left out)'
        )
    return int(match[1]), int(match[2]) if match[2] else None


def _hash(*parts: Any) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def log10(value: float) -> float:
    """log10 with 0 and below at 0, rounded to 6 places: a size as a baseline."""
    return round(math.log10(value), 6) if value >= 1 else 0.0
