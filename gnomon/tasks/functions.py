"""Small embedded functions: 358 original problems with tests, which a small model partly solves.

The model reads the signature and a line of words and writes the body; nothing has to be downloaded.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, ClassVar

from pydantic import Field

from gnomon.tasks.code import FENCED, CodeTask
from gnomon.tasks.code_mutants import mutants
from gnomon.tasks.functions_data import Function, functions
from gnomon.tasks.prompts import Item, Style
from gnomon.types import Example

BODY_ENDS = (
    "\ndef ", "\nclass ", "\nif __name__", "\nprint", "\nassert", "\n#", "\n@", "\n```", '\n"""', "\n>>>", "\nimport ",
    "\nfrom ",
)  # fmt: skip
"""What ends the body of a function that the model continues: the next thing in the first column."""


class Functions(CodeTask):
    """Functions of one to ten lines; difficulty is the reference's cyclomatic complexity, then its length."""

    name: ClassVar[str] = "functions"
    lengths: ClassVar[dict[str, int]] = {"plain": 160, "chat": 192, "prefix": 96, "chat_prefix": 160}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": FENCED, "prefix": BODY_ENDS, "chat_prefix": FENCED}

    style: Style = "prefix"
    """prefix: signature and docstring, whose body the model writes; the others ask for the whole function."""
    tests_shown: int = Field(default=0, ge=0)
    """How many of a problem's tests are shown, as lines of the docstring in style prefix."""
    max_complexity: int | None = Field(default=None, ge=1)
    """Keep the problems whose reference has at most this cyclomatic complexity (1: no decision); unless given all."""

    def items(self, n: int | None, seed: int) -> list[Item]:
        most = self.max_complexity or float("inf")
        return [i for i in map(self._item, functions()) if i.features["complexity"] <= most]

    def data_hash(self) -> str:
        return _data_hash()

    def near_miss(self, example: Example) -> str:
        """The reference with its first small change, or with a body that is known to be wrong."""
        function = next(f for f in functions() if f.name == example.meta["entry"])
        return wrong(function)

    def _item(self, function: Function) -> Item:
        shown = function.tests[: self.tests_shown]
        head, parts = function.head, None
        if shown and self.style == "prefix":
            told = "\n    ".join(shown)
            head = f'def {function.signature}:\n    """{function.words}\n\n    {told}\n    """'
            parts = {"problem": function.words, "tests": told}
        return self.problem_item(
            function.name, function.words, function.name, f"{head}\n{function.body}", function.tests, head=head,
            shown_tests=shown, parts=parts, group=f"functions:{function.group}",
        )  # fmt: skip


def wrong(function: Function) -> str:
    """A whole program that looks like the reference and that the tests refuse."""
    return f"{function.head}\n{function.wrong}" if function.wrong else mutants(function.reference)[0]


@cache
def _data_hash() -> str:
    data: list[Any] = [(f.reference, f.tests, f.group) for f in functions()]
    return hashlib.sha256(repr(data).encode()).hexdigest()[:16]
