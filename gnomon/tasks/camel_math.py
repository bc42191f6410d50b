"""CAMEL math (Li et al. 2023, arXiv 2303.17760): problems and solutions written by a model, by topic.

Hub: camel-ai/math. Local: its math.zip or the unpacked folder (one JSON record a file), or one list. A record has
role_1, "topic;" (so spelled), sub_topic, message_1 (the problem) and message_2 (the solution). The target is read
out of the solution, which a model wrote: some are wrong, and only those that state a single number are asked.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from gnomon.errors import UserError
from gnomon.tasks.base import ONE_OR_MORE
from gnomon.tasks.numerals import show
from gnomon.tasks.parsing_numbers import parse_number, value_of
from gnomon.tasks.prompts import Item
from gnomon.tasks.records import Record
from gnomon.tasks.word_problems import WordProblems


class CamelMath(WordProblems):
    """Model-written mathematics with a numeric answer; difficulty is the number of lines of the solution."""

    name: ClassVar[str] = "camel_math"
    hub: ClassVar[str] = "camel-ai/math"
    hub_split: ClassVar[str] = "train"

    topics: Annotated[tuple[str, ...], ONE_OR_MORE] = ()
    """Keep these topics only ("Algebra", ...)."""

    def read(self, record: Record, where: str) -> Item | None:
        problem, solution = record.get("message_1"), record.get("message_2")
        if not isinstance(problem, str) or not isinstance(solution, str):
            raise UserError(
                f"{where} has fields {', '.join(map(str, record))}", "message_1 and message_2, as CAMEL's records have"
            )
        topic = str(record.get("topic;", record.get("topic")) or "")
        if self.topics and topic not in self.topics:
            return None
        parsed = parse_number(solution)
        if parsed is None or parsed.how not in ("####", "boxed", "tag", "answer", "equation"):
            return None
        if parsed.end < len(solution.rstrip()) - 200 and parsed.how == "equation":
            return None
        lines = [line for line in solution.split("\n") if line.strip()]
        return self.make(
            self.key(problem), problem, show(value_of(parsed)), float(len(lines)), topic=topic,
            sub_topic=str(record.get("sub_topic") or ""), role_1=str(record.get("role_1") or ""), solution=solution,
        )  # fmt: skip
