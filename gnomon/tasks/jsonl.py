"""Your own examples: a file of records (.jsonl, .json, .csv, .parquet) with these columns:

    prompt      used exactly as it stands: text, or a list of {"role", "content"} messages; or instead
    question    put into the chosen style
    target      the right answer (or `answer`); `aliases` lists others that count as right
    id          unique; the record's number unless given
    choices     a list of options, the target among them (or the target is a letter, or an index into them)
    group       joins paraphrases and pairs: a group never straddles splits
    difficulty  a number, in every record or in none
    split       fit, tune or test, in every record or in none

Any other column is kept in `meta` (index, features, shots and shot_groups, which gnomon writes itself,
as own_index and so on).
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar, Literal

from gnomon.errors import UserError
from gnomon.tasks.base import Task, grade_number, number_beside
from gnomon.tasks.numerals import exact
from gnomon.tasks.parsing import is_refusal
from gnomon.tasks.parsing_choices import parse_bool, parse_choice
from gnomon.tasks.parsing_names import folded, parse_name
from gnomon.tasks.prompts import Item
from gnomon.tasks.records import Record, data_files, files_hash, read_files
from gnomon.types import SPLITS, Example, Grade, Mode, Prompt

Kind = Literal["number", "bool", "choice", "text"]
_COLUMNS = (
    "id",
    "prompt",
    "question",
    "target",
    "answer",
    "aliases",
    "choices",
    "group",
    "difficulty",
    "split",
    "prefix",
)
_WRITTEN = ("index", "features", "shots", "shot_groups")
_TRUE, _FALSE = {"yes", "true"}, {"no", "false"}


class Jsonl(Task):
    """Your own questions, from a file."""

    name: ClassVar[str] = "jsonl"
    modes: ClassVar[tuple[Mode, ...]] = ("generate", "choices", "episode")
    argument: ClassVar[str] = "path"
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": ("\n\n",), "prefix": ("\n",)}

    path: str
    """The file, or a folder of files."""
    grade_as: Literal["auto", "number", "bool", "choice", "text"] = "auto"
    """How an answer is read: as a number, yes/no or true/false, one of the choices, or a name or phrase; auto goes by
    each record's choices and target."""
    direct: bool = True
    """For numbers: the answer is expected at once; false reads the last one, after reasoning."""

    def items(self, n: int | None, seed: int) -> list[Item]:
        made: dict[str, Item] = {}
        first: dict[str, str] = {}
        for index, (where, record) in enumerate(read_files(self.path)):
            item = self._read(index, where, record)
            if item.id in made:
                raise UserError(f"{where} has the id {item.id!r} of {first[item.id]}", "ids that are unique")
            made[item.id], first[item.id] = item, where
        if not made:
            raise UserError(f"{self.path} holds no records", "one JSON record a line")
        for column, present in (("difficulty", [i.difficulty is not None for i in made.values()]),
                                ("split", [bool(i.split) for i in made.values()])):  # fmt: skip
            if any(present) and not all(present):
                where = list(first.values())[present.index(False)]
                raise UserError(f"{where} has no {column} but others have", f"{column} in every record or in none")
        return list(made.values())

    def data_hash(self) -> str:
        return files_hash(data_files(self.path))

    def grade(self, example: Example, text: str) -> Grade:
        kind = self._kind(example.target, example.choices)
        if kind == "number":
            return grade_number(example, text, direct=self.direct)
        if kind == "bool":
            parsed = parse_bool(text)
            right = parsed is not None and parsed.value == (example.target.strip().lower() in _TRUE)
        elif kind == "choice":
            parsed = parse_choice(text, example.choices)
            right = parsed is not None and parsed.value == example.choices.index(example.target)
        else:
            accepted = [example.target, *example.meta.get("aliases", [])]
            parsed = parse_name(text, accepted)
            right = parsed is not None and folded(str(parsed.value)) in {folded(a) for a in accepted}
            if parsed and right and parsed.rivals:
                return Grade(None, text[parsed.start : parsed.end], "two answers", (parsed.start, parsed.end))
        if parsed is None and is_refusal(text):
            return Grade(None, reason="refused")
        if parsed is None and kind == "text" and (said := re.search(r"\S[^\n]*", text)):
            return Grade(False, said[0], "other words", said.span())  # an answer in words is wrong, not unreadable
        if parsed is None:
            return Grade(None, reason="no answer")
        return Grade(right, text[parsed.start : parsed.end], parsed.how, (parsed.start, parsed.end))

    def near_miss(self, example: Example) -> str:
        kind = self._kind(example.target, example.choices)
        if kind == "number":
            return number_beside(example.target)
        if kind == "bool":
            swap = {"yes": "No", "no": "Yes", "true": "False", "false": "True"}
            return swap[example.target.strip().lower()]
        if kind == "choice":
            return next(c for c in example.choices if c != example.target)
        return "Quux " + example.target.split()[-1][:1].upper()

    def _kind(self, target: str, choices: tuple[str, ...]) -> Kind:
        if self.grade_as != "auto":
            return self.grade_as
        if target.strip().lower() in _TRUE | _FALSE:
            return "bool"
        if choices:
            return "choice"
        return "number" if exact(target) is not None else "text"

    def _read(self, index: int, where: str, record: Record) -> Item:
        prompt, question = record.get("prompt"), record.get("question")
        if (prompt is None) == (question is None):
            raise UserError(
                f"{where} has {'neither' if prompt is None else 'both'} prompt and question", "one of the two"
            )
        if self.shots and prompt is not None:
            raise UserError(
                f"{where} has a prompt of its own, and shots is {self.shots}", "question instead of prompt, or shots: 0"
            )
        choices = _choices(record.get("choices"), where)
        target = _target(record.get("target", record.get("answer")), choices, where)
        kind = self._kind(target, choices)
        wrong = {
            "number": exact(target) is None,
            "bool": target.strip().lower() not in _TRUE | _FALSE,
            "choice": not choices,
        }
        if wrong.get(kind, not folded(target)):
            raise UserError(
                f"{where}: target {target!r} cannot be graded as {kind}", "", "mend the record or set grade_as"
            )
        if self.mode == "choices" and len(choices) < 2:
            raise UserError(f"{where} has no choices", "mode choices needs two or more in every record")
        split = str(record.get("split") or "")
        if split and split not in SPLITS:
            raise UserError(f"{where} has split {split!r}", "fit, tune or test")
        aliases = record.get("aliases") or []
        meta = {f"own_{k}" if k in _WRITTEN else k: v for k, v in record.items() if k not in _COLUMNS}
        meta |= {"aliases": [str(a) for a in (aliases if isinstance(aliases, list) else [aliases])]} if aliases else {}
        own_prefix = record.get("prefix")
        text = str(question if question is not None else prompt if isinstance(prompt, str) else index)
        return Item(
            id=f"jsonl:{index}" if record.get("id") is None else str(record["id"]), question=text, target=target,
            prefix=str(own_prefix or f"{text}\nThe answer is"), opening="" if own_prefix else "The answer is",
            verbatim=None if prompt is None else _prompt(prompt, where), choices=choices,
            group=str(record.get("group") or ""), split=split, difficulty=_number(record.get("difficulty"), where),
            meta=meta,
        )  # fmt: skip


def _prompt(prompt: Any, where: str) -> Prompt:
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if (
        isinstance(prompt, list)
        and prompt
        and all(
            isinstance(m, dict)
            and isinstance(m.get("content"), str)
            and m.get("role") in ("system", "user", "assistant")
            for m in prompt
        )
    ):
        return tuple({"role": m["role"], "content": m["content"]} for m in prompt)
    raise UserError(
        f"{where} has a prompt that is neither text nor messages", 'text, or [{"role": "user", "content": "..."}]'
    )


def _choices(value: Any, where: str) -> tuple[str, ...]:
    if value in (None, "", []):
        return ()
    if isinstance(value, dict):  # the layout {"text": [...], "label": [...]} of several public sets
        value = value.get("text")
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise UserError(f"{where} has choices {value!r}", "a list of two or more texts")
    choices = tuple(str(v) for v in value)
    if len({folded(c) for c in choices}) < len(choices):
        raise UserError(f"{where} has two choices that read alike: {list(choices)}", "choices that differ")
    return choices


def _target(value: Any, choices: tuple[str, ...], where: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{where} has no target", "the right answer, as target or answer")
    if not choices or str(value) in choices:
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return choices[value]
    text = str(value).strip()
    if len(text) == 1 and 0 <= ord(text.upper()) - ord("A") < len(choices):
        return choices[ord(text.upper()) - ord("A")]
    alike = [c for c in choices if folded(c) == folded(text)]
    if not alike:
        raise UserError(
            f"{where}: target {text!r} is not among its choices {list(choices)}", "one of them, its letter or its index"
        )
    return alike[0]


def _number(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where} has difficulty {value!r}", "a finite number")
    return number
