"""What the word-problem sets share: records from files or the hub, a numeric answer, prompts that ask for it."""

from __future__ import annotations

import hashlib
import itertools
import re
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from gnomon.errors import UserError
from gnomon.tasks.base import Task, grade_number, number_beside
from gnomon.tasks.numerals import exact, find_numbers, show
from gnomon.tasks.parsing_names import folded
from gnomon.tasks.prompts import Item
from gnomon.tasks.records import Record, data_files, files_hash, read_files, read_hub
from gnomon.types import Example, Grade


class WordProblems(Task):
    """Word problems with one number as the answer, from `path` or else from the hub."""

    argument: ClassVar[str] = "path"
    hub: ClassVar[str]
    hub_config: ClassVar[str] = ""
    hub_split: ClassVar[str] = "test"
    lengths: ClassVar[dict[str, int]] = {"plain": 256, "chat": 256, "prefix": 256, "chat_prefix": 256}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": ("\n\n",), "prefix": ("\n\n",)}

    path: str | None = None
    """A file (.jsonl, .json, .csv, .parquet, .zip) or a folder of them; without it the set comes from the hub."""
    split: str = ""
    """The set's own split to take (train, test, valid); "" takes every file of `path`, or what is usual on the hub."""
    repo: str = ""
    """Another hub data set of the same layout."""
    revision: str = ""
    """The hub revision; "" is the newest."""
    steps: bool = True
    """Ask for reasoning before the answer; false asks for the number alone, in far fewer tokens."""

    @abstractmethod
    def read(self, record: Record, where: str) -> Item | None:
        """One record as a question; None leaves it out; UserError (naming `where`) where it has not the layout."""

    def items(self, n: int | None, seed: int) -> list[Item]:
        """All problems, once each: a problem that stands in several files of a folder is taken from the first."""
        if self.path is not None:
            records = read_files(self.path, self.split)
        else:
            records = read_hub(self.repo or self.hub, self.hub_config, self.split or self.hub_split, self.revision)
        made: dict[str, Item] = {}
        seen: set[tuple[str, str]] = set()
        for where, record in records:
            item = self.read(record, where)
            if item is None or (item.question, item.target) in seen:
                continue
            seen.add((item.question, item.target))
            key = next(k for i in itertools.count(1) if (k := item.id if i == 1 else f"{item.id}-{i}") not in made)
            made[key] = replace(item, id=key)
        if not made:
            raise UserError(
                f"task {self.name} found no usable question in {len(records)} records of {self.path or self.hub}",
                "records whose answer is a number",
            )
        return list(made.values())

    def data_hash(self) -> str:
        return "" if self.path is None else files_hash(data_files(self.path, self.split))

    def grade(self, example: Example, text: str) -> Grade:
        return grade_number(example, text, direct=self._direct)

    def near_miss(self, example: Example) -> str:
        return number_beside(example.target)

    @staticmethod
    def key(question: str) -> str:
        """An id for a question that has none: the beginning of its text's hash."""
        return hashlib.sha256(question.encode()).hexdigest()[:12]

    @property
    def _direct(self) -> bool:
        return not self.steps or self.style == "prefix"

    def make(
        self, key: str, question: str, answer: object, difficulty: float, solution: str = "", **meta: object
    ) -> Item | None:
        """The item of a problem; its group is the question with its numbers and case set aside, so that the same
        story told with other numbers does not straddle splits. None where the answer is not a number."""
        value = exact(answer) if isinstance(answer, str | int | float) else None
        question = re.sub(r"\s+", " ", question).strip()
        question = re.sub(r"\s+([.,?!;:])", r"\1", question)
        if value is None or not question:
            return None
        target = show(value)
        numbers = [float(x.value) for x in find_numbers(question)]
        instruction = (
            "Think step by step, then end with: The answer is N." if self.steps else "Answer with the number only."
        )
        worked = f"{solution}\nThe answer is {target}.".strip() if self.steps else ""
        return Item(
            id=f"{self.name}:{key}", question=question, target=target, instruction=instruction,
            prefix=f"{question}\nThe answer is", opening="Let's think step by step." if self.steps else "The answer is",
            solution=worked if self.steps else target, continuation=worked if self.style == "chat_prefix" else "",
            group=f"{self.name}:{story(question)}", difficulty=difficulty,
            meta=meta | ({"solution": solution} if solution else {}),
            features={"numbers": float(len(numbers)), "largest": max(map(abs, numbers), default=0.0)},
        )  # fmt: skip


def story(question: str) -> str:
    """A question with its numbers masked and its case and punctuation dropped."""
    masked = question
    for number in reversed(find_numbers(question)):
        masked = masked[: number.start] + "#" + masked[number.end :]
    return folded(masked)


def operators(equation: str) -> int:
    """How many operations an equation asks for: "X=((22.0-14.0)/4.0)", "( 76.0 - 25.0 )", or prefix "- N_00 N_01"."""
    if re.match(r"\s*[-+*/]\s", equation):
        return sum(token in "+-*/" for token in equation.split())
    return len(re.findall(r"(?<=[\w)\].])\s*[-+*/^]\s*(?=[\w(.])", equation))
