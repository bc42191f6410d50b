"""SVAMP (Patel et al. 2021, arXiv 2103.07191): one-step problems with misleading numbers and varied questions.

Hub: ChilleD/SVAMP. Local: SVAMP.json of the original release (a JSON array), or one record a line.
"""

from __future__ import annotations

from typing import ClassVar

from gnomon.errors import UserError
from gnomon.tasks.prompts import Item
from gnomon.tasks.records import Record
from gnomon.tasks.word_problems import WordProblems, operators


class Svamp(WordProblems):
    """Short word problems with a number too many; difficulty is the operations of the equation."""

    name: ClassVar[str] = "svamp"
    hub: ClassVar[str] = "ChilleD/SVAMP"
    hub_split: ClassVar[str] = "train+test"

    def read(self, record: Record, where: str) -> Item | None:
        lacking = [field for field in ("Body", "Question", "Answer") if record.get(field) is None]
        if lacking:
            raise UserError(
                f"{where} lacks {', '.join(lacking)}", "SVAMP's fields Body, Question, Answer (ID, Equation, Type)"
            )
        body = str(record["Body"]).strip()
        text = f"{body}{'' if body[-1:] in ('.', '?', '!', ',', '') else '.'} {record['Question']}"
        equation = str(record.get("Equation") or "")
        key = str(record.get("ID") or self.key(text))
        return self.make(
            key, text, record["Answer"], float(operators(equation)), equation=equation, type=record.get("Type")
        )
