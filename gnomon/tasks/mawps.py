"""MAWPS (Koncel-Kedziorski et al. 2016, N16-1136): a repository of one-unknown word problems, and its many layouts.

Hub: mwpt5/MAWPS. Local, in files of any of these layouts, mixed as they come:

    sQuestion, lEquations, lSolutions (iIndex)      the original; also AddSub, MultiArith, SingleEq
    original_text, equation, ans (id)               MWPToolkit
    Question with N_00, Numbers, Equation, Answer   the parquet shard of mwpt5/MAWPS
    question, result or answer (id, equation)       the parquet shards of Calc-mawps and others
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from gnomon.errors import UserError
from gnomon.tasks.numerals import exact, show
from gnomon.tasks.prompts import Item
from gnomon.tasks.records import Record
from gnomon.tasks.word_problems import WordProblems, operators

QUESTION = ("squestion", "original_text", "question", "problem", "text")
ANSWER = ("lsolutions", "ans", "answer", "result", "result_float", "solution")
EQUATION = ("lequations", "equation", "equations", "expression")
KEY = ("iindex", "id", "index")


class Mawps(WordProblems):
    """Word problems of one unknown; difficulty is the operations of the equation."""

    name: ClassVar[str] = "mawps"
    hub: ClassVar[str] = "mwpt5/MAWPS"
    hub_split: ClassVar[str] = "train"

    def read(self, record: Record, where: str) -> Item | None:
        fields = {str(k).lower(): v for k, v in record.items()}
        question, answer = _first(fields, QUESTION), _only(_first(fields, ANSWER))
        if not isinstance(question, str) or answer is None:
            raise UserError(
                f"{where} has fields {', '.join(map(str, record))}", "one of the MAWPS layouts: a question "
                "(sQuestion, original_text, Question) and its answer (lSolutions, ans, Answer)",
            )  # fmt: skip
        numbers = fields.get("numbers")
        if numbers is not None and re.search(r"\bN_\d\d\b", question):
            question = _filled(question, numbers, where)
        equation = str(_only(_first(fields, EQUATION)) or "")
        key = _first(fields, KEY)
        # two layouts number their problems from 0: the text joins the key, so that they do not collide
        key = self.key(question) if key is None else f"{key}-{self.key(question)[:4]}"
        return self.make(key, question, answer, float(operators(equation)), equation=equation)


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _only(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value[0] if len(value) else None
    return value


def _filled(question: str, numbers: Any, where: str) -> str:
    """Put the numbers of "8.0 2.0" (or a list) in the places N_00, N_01, ..."""
    values = [
        str(v) for v in (numbers if isinstance(numbers, list | tuple) else str(numbers).replace(",", " ").split())
    ]

    def put(match: re.Match[str]) -> str:
        place = int(match[1])
        value = exact(values[place]) if place < len(values) else None
        if value is None:
            raise UserError(f"{where} has no number for N_{match[1]}", f"its Numbers are {' '.join(values)!r}")
        return show(value)

    return re.sub(r"\bN_(\d\d)\b", put, question)
