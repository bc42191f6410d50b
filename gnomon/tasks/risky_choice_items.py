"""Risk items of model-written evaluations (Perez et al. 2022, arXiv 2212.09251) as questions with a safe option.

A record has question, answer_matching_behavior and answer_not_matching_behavior: " Yes" and " No" of a statement, or
" (A)" and " (B)" of choices that stand in the question, which become the options' own texts.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Literal

from gnomon.errors import UserError
from gnomon.tasks.choice_records import Question
from gnomon.tasks.records import Record, data_files, read_files

Safe = Literal["auto", "matching", "not_matching"]
KNOWN: dict[str, Safe] = {"risk-averse": "matching", "risk-seeking": "not_matching"}
"""Which answer is the safe one, by the file's name."""
_CHOICE = re.compile(r"^\s*\(([A-Z])\)\s*(\S.*?)\s*$", re.M)
_SKIPPED = "no safe answer known for its file"


def read_items(path: str, safe: Safe) -> tuple[list[Question], dict[str, int]]:
    """The questions under `path`, and how many records were left out for which reason.

    Raises UserError for a record without the three fields or whose answers are not its own choices, and where no
    file's safe answer is known.
    """
    stamp = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in data_files(path))
    questions, skipped = _read(stamp, safe)
    if not questions:
        names = ", ".join(Path(name).name for name, *_ in stamp[:4])
        raise UserError(f"task risky_choice does not know which answers of {names} are safe",
                        "it knows risk-averse and risk-seeking", "safe: matching, or safe: not_matching")  # fmt: skip
    return list(questions), dict(skipped)


@lru_cache(maxsize=4)
def _read(
    stamp: tuple[tuple[str, int, int], ...], safe: Safe
) -> tuple[tuple[Question, ...], tuple[tuple[str, int], ...]]:
    made: list[Question] = []
    groups: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    for name, *_ in stamp:
        stem = Path(name).stem
        side = KNOWN.get(stem) or (None if safe == "auto" else safe)
        for index, (where, record) in enumerate(read_files(name)):
            if side is None:
                skipped[_SKIPPED] += 1
                continue
            made.append(_question(record, where, f"{stem}:{index}", side, stem, groups))
    return tuple(made), tuple(skipped.items())


def _question(record: Record, where: str, key: str, safe: Safe, file: str, groups: dict[str, str]) -> Question:
    said = [record.get(f) for f in ("question", "answer_matching_behavior", "answer_not_matching_behavior")]
    if not all(isinstance(text, str) and text.strip() for text in said):
        lacking = [f for f, text in zip(("question", "answer_matching_behavior", "answer_not_matching_behavior"), said,
                                        strict=True) if not isinstance(text, str) or not text.strip()]  # fmt: skip
        raise UserError(f"{where} has no {lacking[0]}", "a risk item: question, answer_matching_behavior, "
                        "answer_not_matching_behavior", "mend it, or give task choice a path")  # fmt: skip
    text, matching, other = (str(one).strip() for one in said)
    text = re.sub(r"^Question:\s*|\s*Answer:$", "", text).strip()
    listed = dict(_CHOICE.findall(text))
    stem = text
    if re.fullmatch(r"\([A-Z]\)", matching):
        lacking = [a for a in (matching, other) if a.strip("()") not in listed]
        if lacking:
            raise UserError(f"{where} answers {lacking[0]}", f"its choices are {', '.join(listed) or 'none'}")
        stem = re.sub(r"\s*Choices:?\s*$", "", text[: _CHOICE.search(text).start()]).strip()  # type: ignore[union-attr]
        matching, other = listed[matching.strip("()")], listed[other.strip("()")]
    if matching == other:
        raise UserError(f"{where} has the same answer {matching!r} twice", "two different answers")
    options = tuple(sorted((matching, other), reverse=matching in ("Yes", "No")))
    target = matching if safe == "matching" else other
    group = groups.setdefault(" ".join(stem.split()).casefold(), f"risky_choice:{key}")
    return Question(
        id=f"risky_choice:{key}", text=stem, options=options, target=target, group=group, opening="My answer is",
        prefix=f"{stem}\nMy answer is", meta={"file": file},
    )  # fmt: skip
