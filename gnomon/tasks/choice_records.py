"""Records of multiple-choice sets in the layouts that are about, read into one form.

    question    question, question_stem, Question, ctx, ...; or question.stem (CommonsenseQA)
    options     choices (or options, endings): texts; {"text": [...], "label": [...]} (ARC, OpenBookQA); a list of
                {"label", "text"} (CommonsenseQA); {"A": "...", "B": "..."}; a list written as text (MMLU-Redux)
                mc1_targets: {text: 0 or 1}, or {"choices": [...], "labels": [0, 1, ...]} (TruthfulQA)
                correct_answer with distractors (PopMC), incorrect_answers, or distractor1, distractor2, ... (SciQ)
    target      answerKey, answer, target, label, ...: a label of the options, their text, a letter, or an index from 0

A record that cannot be read raises `Unusable` with its reason; nothing is guessed where two readings differ.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gnomon.tasks.records import Record

NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "question.stem", "question_stem", "stem", "Question", "query", "problem", "ctx"),
    "choices": ("choices", "question.choices", "options", "endings", "mc1_targets"),
    "target": ("answerKey", "answer", "target", "correct_answer", "label", "answer_index", "answer_idx", "gold"),
    "distractors": ("distractors", "incorrect_answers", "wrong_answers"),
    "id": ("id", "question_id", "qid", "ind"),
    "group": ("group",),
    "difficulty": ("difficulty",),
    "split": (),
}
"""Fields that are looked for, in this order; "a.b" is field b of the record in field a. (A set's own "split" is train
or test, not ours: it counts only where the option `fields` names it.)"""
Reading = Literal["auto", "index", "label", "text"]
_WRITTEN = {"index", "features", "shots", "shot_groups", "question", "question_type", "rotation", "place", "choice",
            "letter", "letters", "target_letter", "letter_mass", "normalise"}  # fmt: skip
_LONGEST = 200


class Unusable(Exception):
    """A record that is no question: `reason` is counted, the text says what was found."""

    def __init__(self, reason: str, found: str = "") -> None:
        self.reason, self.found = reason, found
        super().__init__(f"{reason}: {found}" if found else reason)


@dataclass(frozen=True)
class Question:
    """A question with its options in the set's own order; exactly one, `target`, is right."""

    id: str
    text: str
    options: tuple[str, ...]
    target: str
    group: str = ""
    prefix: str = ""
    """The beginning of the answer as bare text, question included; made from the question where empty."""
    opening: str = ""
    instruction: str | None = None
    split: str = ""
    difficulty: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """The other options."""
        return [option for option in self.options if option != self.target]


def read(record: Record, fields: Mapping[str, str], target_is: Reading, key: str) -> Question:
    """A record as a question; `fields` names fields instead of the usual ones, `key` is its id where it has none.

    Raises Unusable.
    """
    text = _found(record, "question", fields)
    if not isinstance(text, str) or not text.strip():
        raise Unusable("no question", f"fields {', '.join(map(str, record))}")
    options, target = _options(record, fields, target_is)
    options = [option.strip() for option in options]
    if len(options) < 2:
        raise Unusable("fewer than two options", str(options))
    if not all(options):
        raise Unusable("an empty option", str(options))
    if len(set(options)) < len(options):
        raise Unusable("two options alike", str(options))
    given = _found(record, "id", fields)
    difficulty = _found(record, "difficulty", fields)
    try:
        difficulty = None if difficulty in (None, "") else float(difficulty)
    except (TypeError, ValueError):
        raise Unusable("a difficulty that is no number", repr(difficulty)) from None
    if difficulty is not None and not -1e300 < difficulty < 1e300:
        raise Unusable("a difficulty that is no number", repr(difficulty))
    split = str(_found(record, "split", fields) or "")
    if split not in ("", "fit", "tune", "test"):
        raise Unusable("a split that is not fit, tune or test", split)
    return Question(
        id=key if given in (None, "") else str(given), text=text.strip(), options=tuple(options),
        target=target.strip(), group=str(_found(record, "group", fields) or ""), split=split, difficulty=difficulty,
        meta=_meta(record),
    )  # fmt: skip


def _found(record: Record, what: str, fields: Mapping[str, str]) -> Any:
    """The first field that is there, or the one that `fields` names; None where there is none."""
    for name in (fields[what],) if what in fields else NAMES[what]:
        value: Any = record
        for part in (name,) if name in record else name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if what == "question" and not isinstance(value, str):
            continue
        if value is not None:
            return value
    return None


def _options(record: Record, fields: Mapping[str, str], target_is: Reading) -> tuple[list[str], str]:
    """The options' texts and the right one's."""
    raw = _found(record, "choices", fields)
    if raw is None or "distractors" in fields:
        return _with_distractors(record, fields)
    texts, labels, marks = _texts(_listed(raw))
    if marks is not None and "target" not in fields:
        right = [text for text, mark in zip(texts, marks, strict=True) if mark]
        if len(right) != 1:
            raise Unusable("no right option" if not right else "several right options", str(right))
        return texts, right[0]
    return texts, _target(_found(record, "target", fields), texts, labels, target_is)


def _with_distractors(record: Record, fields: Mapping[str, str]) -> tuple[list[str], str]:
    wrong = _found(record, "distractors", fields)
    numbered = sorted((k for k in record if re.fullmatch(r"(?:distractor|incorrect_answer)_?\d+", k)), key=_natural)
    if wrong is None:
        wrong = [record[k] for k in numbered]
    texts, _, _ = _texts(_listed(wrong)) if wrong else ([], None, None)
    if not texts:
        raise Unusable("no options", f"fields {', '.join(map(str, record))}")
    target = _found(record, "target", fields)
    if not isinstance(target, str | int | float) or isinstance(target, bool) or not str(target).strip():
        raise Unusable("no target", repr(target))
    return [str(target), *texts], str(target)


def _listed(raw: Any) -> Any:
    """A list or mapping that was written as text ("['a', 'b']"), read; anything else as it is."""
    if not isinstance(raw, str) or raw.strip()[:1] not in ("[", "{"):
        return raw
    for parse, errors in ((json.loads, (ValueError,)), (ast.literal_eval, (ValueError, SyntaxError, MemoryError))):
        try:
            return parse(raw)
        except errors:
            continue
    raise Unusable("options that cannot be read", raw[:80])


def _texts(raw: Any) -> tuple[list[str], list[str] | None, list[bool] | None]:
    """(texts, labels, marks of the right one) of options in any of the layouts; None where they have none."""
    if isinstance(raw, Mapping):
        columns = {str(k).lower(): list(v) for k, v in raw.items() if isinstance(v, list | tuple)}
        texts = columns.get("text", columns.get("texts", columns.get("choices")))
        if texts is not None:
            labels = columns.get("label", columns.get("labels"))
            if labels is not None and len(labels) != len(texts):
                raise Unusable("options and labels of different numbers", f"{len(texts)} and {len(labels)}")
            if "choices" in columns and labels is not None and set(labels) <= {0, 1}:
                return [_text(t) for t in texts], None, [bool(x) for x in labels]
            return [_text(t) for t in texts], None if labels is None else [str(x) for x in labels], None
        if raw and all(isinstance(v, int | float) and v in (0, 1) for v in raw.values()):
            return [str(k) for k in raw], None, [bool(v) for v in raw.values()]
        if raw and all(isinstance(v, str) for v in raw.values()):
            return [str(v) for v in raw.values()], [str(k) for k in raw], None
        raise Unusable("options that cannot be read", str(dict(raw))[:80])
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise Unusable("options that cannot be read", str(raw)[:80])
    if raw and all(isinstance(one, Mapping) and "text" in one for one in raw):
        labels = [str(one["label"]) for one in raw if "label" in one]
        return [_text(one["text"]) for one in raw], labels if len(labels) == len(raw) else None, None
    return [_text(one) for one in raw], None, None


def _text(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple) or value is None:
        raise Unusable("options that cannot be read", str(value)[:80])
    return str(value)


def _target(value: Any, texts: Sequence[str], labels: Sequence[str] | None, target_is: Reading) -> str:
    """The text of the right option."""
    if value is None or isinstance(value, Mapping | list | tuple | bool) or str(value).strip() == "":
        raise Unusable("no target", repr(value))
    readings = _readings(value, texts, labels)
    if target_is != "auto":
        readings = {target_is: readings[target_is]} if target_is in readings else {}
    elif isinstance(value, int) and not labels:
        readings = {k: v for k, v in readings.items() if k == "index"} or readings
    elif labels and "label" in readings:
        readings = {"label": readings["label"]}
    if not readings:
        raise Unusable("a target that is not among the options", f"{value!r} of {list(texts)}")
    if len(set(readings.values())) > 1:
        said = ", ".join(f"{text!r} as {how}" for how, text in readings.items())
        raise Unusable("a target with two readings (set target_is)", f"{value!r} is {said}")
    return next(iter(readings.values()))


def _readings(value: Any, texts: Sequence[str], labels: Sequence[str] | None) -> dict[str, str]:
    """What a target could mean: the option that it is the index, the label (or letter) or the text of."""
    said, out = str(value).strip(), {}
    if re.fullmatch(r"\d+(?:\.0)?", said) and int(float(said)) < len(texts):
        out["index"] = texts[int(float(said))]
    if labels is not None:
        if said in labels:
            out["label"] = texts[list(labels).index(said)]
    elif re.fullmatch(r"[A-Za-z]", said) and ord(said.upper()) - ord("A") < len(texts):
        out["label"] = texts[ord(said.upper()) - ord("A")]
    exact = [text for text in texts if text.strip() == said]
    alike = [text for text in texts if text.strip().casefold() == said.casefold()]
    for found in (exact, alike):
        if len(found) == 1:
            out["text"] = found[0]
            break
    return out


def _meta(record: Record) -> dict[str, Any]:
    """Short plain fields of a record (a subject, a source), for the row's meta."""
    used = {name for names in NAMES.values() for name in names}
    short = {str(k): v for k, v in record.items()
             if k not in used and isinstance(v, str | int | float | bool) and len(str(v)) <= _LONGEST}  # fmt: skip
    finite = {k: v for k, v in short.items() if not isinstance(v, float) or v - v == 0}
    return {f"own_{k}" if k in _WRITTEN else k: v for k, v in finite.items()}


def _natural(name: str) -> int:
    return int(re.sub(r"\D", "", name))
