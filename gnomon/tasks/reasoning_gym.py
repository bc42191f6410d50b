"""Reasoning Gym (Stojanovski et al. 2025, arXiv 2505.24760): any of its generated data sets, as `reasoning_gym:NAME`.

Its own scorer judges an answer; what is handed to it is the part of the text that states the answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import Field

from gnomon.errors import UserError, unknown
from gnomon.tasks.base import Task, number_beside
from gnomon.tasks.numerals import exact
from gnomon.tasks.parsing import ANSWER_CUE, Parsed, is_refusal, read
from gnomon.tasks.parsing_numbers import parse_number
from gnomon.tasks.prompts import Item
from gnomon.types import Example, Grade


class ReasoningGym(Task):
    """Generated questions of one of Reasoning Gym's data sets; difficulty is the number of words of the question."""

    name: ClassVar[str] = "reasoning_gym"
    generated: ClassVar[bool] = True
    default_n: ClassVar[int | None] = 500
    argument: ClassVar[str] = "dataset"
    lengths: ClassVar[dict[str, int]] = {"plain": 128, "chat": 256, "prefix": 64, "chat_prefix": 128}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"prefix": ("\n\n",)}

    dataset: str
    """The data set's name in Reasoning Gym (leg_counting, chain_sum, propositional_logic, ...)."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Options of that data set (min_terms, max_terms, ...); size and seed are set by the run."""
    threshold: float = Field(default=1.0, gt=0, le=1)
    """The least score of Reasoning Gym's scorer that counts as right; some give part of a point for a near answer."""

    def total(self) -> int:
        """Generated on demand, so without a known end; a data set that repeats itself is refused while making it."""
        return 10**9

    def items(self, n: int | None, seed: int) -> list[Item]:
        n = 500 if n is None else n
        made: dict[str, Item] = {}
        size = 2 * n + 64
        source = _dataset(self.dataset, json.dumps(self.config, sort_keys=True), size, seed)
        for index in range(size):
            item = self._item(source[index], {"dataset": self.dataset, "place": index, "size": size, "seed": seed})
            made.setdefault(item.id, item)
            if len(made) == n:
                return list(made.values())
        raise UserError(
            f"task reasoning_gym:{self.dataset} was asked for {n} examples",
            f"{len(made)} different ones came in {size} draws", "lower n, or widen config",
        )  # fmt: skip

    def grade(self, example: Example, text: str) -> Grade:
        numeric = exact(example.target) is not None
        parsed = parse_number(text) if numeric else _phrase(text, example.target)
        if parsed is None:
            return Grade(None, reason="refused" if is_refusal(text) else "no answer")
        answer = text[parsed.start : parsed.end]
        given = str(answer).replace(",", "") if numeric else answer
        meta = example.meta
        source = _dataset(self.dataset, json.dumps(self.config, sort_keys=True), meta["size"], meta["seed"])
        try:
            score = float(source.score_answer(given, source[meta["place"]]))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, ZeroDivisionError) as error:
            return Grade(
                False, answer, f"the scorer could not read it: {type(error).__name__}", (parsed.start, parsed.end)
            )
        return Grade(score >= self.threshold, answer, parsed.how, (parsed.start, parsed.end))

    def near_miss(self, example: Example) -> str:
        if exact(example.target) is not None:
            return number_beside(example.target)
        swap = {"true": "False", "false": "True", "yes": "No", "no": "Yes", "valid": "invalid", "invalid": "valid"}
        return swap.get(example.target.strip().lower(), f"{example.target} {example.target}"[1:])

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "reasoning_gym": _library().__version__}

    def _item(self, entry: dict[str, Any], meta: dict[str, Any]) -> Item:
        question, answer = str(entry["question"]).strip(), entry["answer"]
        if answer is None:  # some data sets have many right answers, and keep one of them here
            answer = entry["metadata"].get("example_answer")
        if answer is None:
            raise UserError(f"Reasoning Gym's {self.dataset} has no known answers", "", "choose another data set")
        target = answer.strip() if isinstance(answer, str) else json.dumps(answer)
        key = hashlib.sha256(question.encode()).hexdigest()[:12]
        return Item(
            id=f"reasoning_gym:{self.dataset}:{key}", question=question, target=target,
            instruction="End with: The answer is X." if self.style != "plain" else "Give only the answer.",
            prefix=f"{question}\nThe answer is", opening="The answer is",
            solution=f"The answer is {target}." if self.style == "chat" else "",
            difficulty=float(len(question.split())), meta=meta,
        )  # fmt: skip


def _phrase(text: str, target: str) -> Parsed | None:
    """The words that state an answer that is no number: in <answer> tags, after "the answer is", or else all of a
    short text; several lines where the target has several."""

    def find(text: str, begin: int) -> Parsed | None:
        spans = [
            (m.span(1), "tag") for m in re.compile(r"<answer>(.*?)(?:</answer>|$)", re.I | re.S).finditer(text, begin)
        ]
        spans += [((m.end(), len(text)), "answer") for m in ANSWER_CUE.finditer(text, begin)]
        (start, end), how = spans[-1] if spans else ((begin, len(text)), "leading")
        start += len(text[start:end]) - len(text[start:end].lstrip(" \t\n*:`\"'"))
        if "\n" not in target:
            end = min([end, *[i for i in [text.find("\n", start)] if i >= 0]])
        end = start + len(text[start:end].rstrip(" \t\n*`\"'"))
        if not target.endswith(".") and text[start:end].endswith("."):
            end -= 1
        return Parsed(text[start:end], start, end, how) if end > start else None

    return read(text, find, marked=("tag", "answer"))


def _library() -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise UserError("task reasoning_gym needs its library", "", "pip install 'gnomon[reasoning]'") from None
    return reasoning_gym


@lru_cache(maxsize=8)
def _dataset(name: str, config: str, size: int, seed: int) -> Any:
    library = _library()
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise unknown("Reasoning Gym data set", name, DATASETS)
    try:
        return library.create_dataset(name, size=size, seed=seed, **json.loads(config))
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(
            f"Reasoning Gym refuses config {config} for {name} ({error})", "options of that data set"
        ) from None
