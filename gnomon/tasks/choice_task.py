"""What the tasks of choices share: scoring, the options' order, how they are shown, grading by option.

A task gives `questions(seed)`; here each becomes one item a rotation. Two scorings (see `rows.choose`): `likelihood`
compares the options' own texts, `letters` the letters that stand before them in the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from gnomon.errors import UserError
from gnomon.tasks import surface
from gnomon.tasks.base import Task
from gnomon.tasks.choice_order import draw, ordered, turns
from gnomon.tasks.choice_records import Question
from gnomon.tasks.parsing import is_refusal
from gnomon.tasks.parsing_choices import parse_choice
from gnomon.tasks.parsing_names import folded, parse_name
from gnomon.tasks.prompts import Item, Style, render
from gnomon.types import Example, Grade, Mode, Prompt

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ChoiceTask(Task):
    """Questions with options, one of them right."""

    modes: ClassVar[tuple[Mode, ...]] = ("choices", "generate", "episode")
    lengths: ClassVar[dict[str, int]] = {"plain": 24, "chat": 48, "prefix": 24, "chat_prefix": 24}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": ("\n",), "prefix": ("\n",), "chat_prefix": ("\n",)}

    mode: Mode = "choices"
    """choices: the options are scored, the likeliest is the answer; generate: the model writes, and the option that its
    text names is the answer; episode: as generate, played as an episode of one turn."""
    style: Style = "plain"
    """plain: "What is ...?" and "Answer:" on the next line; chat: a user's message; prefix: the beginning of the
    answer, as bare text; chat_prefix: a user's message and the beginning of the assistant's answer."""
    scoring: Literal["likelihood", "letters"] = "likelihood"
    """likelihood: the options' texts are compared by log p after the prompt (generate's `normalise` divides it by their
    length); letters: the options are listed with letters, and log p of each letter is compared. Small models answer
    letters at chance."""
    show_options: bool | None = None
    """List the options in the prompt; unless given only where letters are scored or the model writes."""
    letters: str = LETTERS
    """The letters that stand before the options, in this order; each must be a single token of the model."""
    rotate: bool = True
    """Put the options in an order drawn by sha256 of seed, id and option; false keeps the order of the data."""
    rotations: int = Field(default=1, ge=1, le=26)
    """Ask each question in this many orders (at most one a place), each turned by one place; they share a group, and
    generate's `n` counts each."""
    distractors: int | None = Field(default=None, ge=1)
    """At most this many wrong options, drawn by hash where there are more; unless given all of them."""

    @field_validator("letters")
    @classmethod
    def _good_letters(cls, value: str) -> str:
        if len(value) < 2 or len(set(value)) < len(value) or not value.isalnum():
            raise UserError(f"letters {value!r}", 'two or more different letters or digits, like "ABCD"')
        return value

    @model_validator(mode="after")
    def _shown_where_needed(self) -> ChoiceTask:
        if self.scoring == "letters" and self.show_options is False:
            raise UserError("letters are scored and the options not shown", "", "leave show_options out")
        if self.rotations > 1 and not self.shows:
            raise UserError(
                f"rotations: {self.rotations} of options that the prompt does not show", "every order the same prompt",
                "scoring: letters, show_options: true, or rotations: 1",
            )  # fmt: skip
        return self

    @property
    def shows(self) -> bool:
        """Whether the options stand in the prompt."""
        wanted = self.scoring == "letters" or self.mode != "choices"
        return wanted if self.show_options is None else self.show_options

    @property
    def lettered(self) -> bool:
        """Whether a letter stands before each option (else a dash, where they are shown)."""
        return self.scoring == "letters" or (self.shows and self.mode != "choices")

    # ---------------------------------------------------------------- for a task to write

    def questions(self, seed: int) -> list[Question]:
        """All questions, in the order of the data."""
        raise NotImplementedError

    def skipped(self) -> Mapping[str, int]:
        """Records left out, by reason."""
        return {}

    # ---------------------------------------------------------------- items

    def items(self, n: int | None, seed: int) -> list[Item]:
        return [item for question in self.questions(seed) for item in self._rotated(question, seed)]

    def _rotated(self, q: Question, seed: int) -> list[Item]:
        kept = {q.target, *draw(q.wrong, self.distractors, seed, q.group or q.id)}
        options = [option for option in q.options if option in kept]
        if self.lettered and len(options) > len(self.letters):
            raise UserError(
                f"{q.id!r} has {len(options)} options and there are {len(self.letters)} letters", "",
                "more letters, fewer distractors, or scoring: likelihood without letters",
            )  # fmt: skip
        return [
            self._item(q, ordered(options, seed, q.id, self.rotate, r), r)
            for r in range(turns(options, self.rotations))
        ]

    def _item(self, q: Question, options: Sequence[str], rotation: int) -> Item:
        place = list(options).index(q.target)
        meta = {**q.meta, "rotation": rotation, "place": place, "question_type": surface.question_type(q.text)}
        if self.scoring == "letters":
            meta |= {"letters": list(self.letters[: len(options)]), "target_letter": self.letters[place]}
        said = self.letters[place] if self.scoring == "letters" else ""
        stem = q.text[-1:].isalnum() or q.text.endswith(",")
        return Item(
            id=f"{q.id}#{rotation}" if rotation else q.id, question=q.text, target=q.target, choices=tuple(options),
            prefix=q.prefix or (q.text if stem else f"{q.text}\nThe answer is"),
            opening=q.opening or q.prefix or "The answer is", instruction=self._instruction(q),
            solution=said, continuation=said, group=q.group or q.id, split=q.split, difficulty=q.difficulty, meta=meta,
        )  # fmt: skip

    def _instruction(self, q: Question) -> str:
        if self.scoring == "letters":
            return "Answer with the letter only."
        if q.instruction is not None:
            return q.instruction
        return "Answer with one of the options." if self.shows else ""

    def _example(self, index: int, item: Item, pool: Sequence[Item]) -> Example:
        """The surface features are looked up here, so that a large set pays for the questions drawn only."""
        return super()._example(index, replace(item, features=surface.features(item.question) | item.features), pool)

    def prompt(self, item: Item, shots: Sequence[Item]) -> Prompt:
        return render(self.style, self._listed(item), [self._listed(shot) for shot in shots], self.system)

    def _listed(self, item: Item) -> Item:
        """The item with its options in the question and in the prefix, and the instruction on a line of its own."""
        if not self.shows:
            return item
        marks = [f"{letter}." for letter in self.letters[: len(item.choices)]] if self.lettered else []
        listed = zip(marks or ["-"] * len(item.choices), item.choices, strict=True)
        listing = "\n".join(f"{mark} {text}" for mark, text in listed)
        question, rest = f"{item.question}\n{listing}", item.prefix.removeprefix(item.question)
        if self.scoring == "letters":
            prefix, opening = f"{question}\nThe answer is", "The answer is"
        else:  # a stem, or a sentence of its own, is what the option continues: it stays last
            continued = rest in ("", item.prefix)
            prefix, opening = f"{listing}\n{item.prefix}" if continued else question + rest, item.opening
        asked = f"{question}\n{item.instruction}" if item.instruction else question
        return replace(item, question=asked, instruction="", prefix=prefix, opening=opening)

    # ---------------------------------------------------------------- grading

    def grade(self, example: Example, text: str) -> Grade:
        """An option word for word, or (of written text) the option named first, or its letter where they are shown."""
        said = text.strip()
        if said in example.choices:
            start = text.index(said)
            return Grade(said == example.target, said, "option", (start, start + len(said)))
        if len({folded(choice) for choice in example.choices}) < len(example.choices):
            return Grade(None, reason="no option word for word, and two read alike")
        if self.shows and LETTERS.startswith(self.letters):
            parsed = parse_choice(text, example.choices)
        else:
            named = {choice: place for place, choice in enumerate(example.choices)}
            parsed = parse_name(text, named, free=False)
        if parsed is None or not 0 <= int(parsed.value) < len(example.choices):
            return Grade(None, reason="refused" if is_refusal(text) else "no option")
        right = example.choices[int(parsed.value)] == example.target
        return Grade(right, text[parsed.start : parsed.end], parsed.how, (parsed.start, parsed.end))

    def near_miss(self, example: Example) -> str:
        return next(choice for choice in example.choices if choice != example.target)

    def baselines(self, example: Example) -> dict[str, float]:
        """As of every task, with the surface features, how many options there are and their mean length."""
        lengths = [len(choice) for choice in example.choices]
        shape = {"options": float(len(lengths)), "options_chars": round(sum(lengths) / len(lengths), 6)}
        return super().baselines(example) | shape
