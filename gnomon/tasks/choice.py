"""Any set of multiple-choice questions, from files or the hub: MMLU, ARC, TruthfulQA MC1, CommonsenseQA, OpenBookQA,
PopMC, SciQ, HellaSwag, your own. The layouts that are known are listed in `choice_records`; `fields` names others.

Questions of the same text share a group, so that no split straddles them, unless their own `group` says otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, field_validator, model_validator

from gnomon.errors import UserError, nearest
from gnomon.tasks.choice_records import NAMES, Question, Reading, Unusable, read
from gnomon.tasks.choice_task import ChoiceTask
from gnomon.tasks.records import Record, data_files, files_hash, read_files, read_hub


class Choice(ChoiceTask):
    """Questions with options from a file, a folder of files, or the hub."""

    name: ClassVar[str] = "choice"
    argument: ClassVar[str] = "path"

    path: str | None = None
    """A file (.jsonl, .json, .csv, .parquet, .zip) or a folder of them."""
    hub: str = ""
    """Instead of path: a hub data set, like allenai/ai2_arc."""
    config: str = ""
    """The hub data set's configuration, like ARC-Challenge."""
    split: str = ""
    """The set's own split: of a folder the files that tell it by name ("" takes all), of the hub ("" is test)."""
    revision: str = ""
    """The hub revision; "" is the newest."""
    fields: Annotated[Mapping[str, str], BeforeValidator(lambda value: dict(value) if value else {})] = {}
    """Fields of a record by what they hold, where they are not found: {question: stem, choices: opts, target: key};
    also distractors, id, group, difficulty, split. "a.b" is field b inside field a."""
    target_is: Reading = "auto"
    """How the target says which option: its index from 0, its label (or letter), its text; auto takes the one that is
    possible and refuses a record where two are and differ."""
    skip_bad: bool = False
    """Leave records out that are no question (two options alike, a target not among them, ...) and count them by
    reason; otherwise the first one is an error."""

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name in value:
            if name not in NAMES:
                raise UserError(
                    f"fields has {name!r}", nearest(name, NAMES) or f"it may have {', '.join(NAMES)}"
                )  # fmt: skip
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Choice:
        if (self.path is None) == (not self.hub):
            raise UserError(
                f"task choice has {'neither path nor hub' if self.path is None else 'both path and hub'}",
                "one of them", "choice: {path: questions.jsonl}",
            )  # fmt: skip
        return self

    def questions(self, seed: int) -> list[Question]:
        return list(self._read()[0])

    def skipped(self) -> Mapping[str, int]:
        return dict(self._read()[1])

    def data_hash(self) -> str:
        return "" if self.path is None else files_hash(data_files(self.path, self.split))

    def _read(self) -> tuple[tuple[Question, ...], tuple[tuple[str, int], ...]]:
        fields = tuple(sorted(self.fields.items()))
        if self.path is None:
            stamp: tuple[str, ...] = (self.hub, self.config, self.split, self.revision)
        else:
            files = data_files(self.path, self.split)
            stamp = tuple(f"{f} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)
        most = len(self.letters) if self.lettered and self.distractors is None else 0
        return _all(self.path, stamp, fields, self.target_is, self.skip_bad, most, self.split)


@lru_cache(maxsize=4)
def _all(
    path: str | None, stamp: tuple[str, ...], fields: tuple[tuple[str, str], ...], target_is: Reading, skip_bad: bool,
    most: int, split: str,
) -> tuple[tuple[Question, ...], tuple[tuple[str, int], ...]]:  # fmt: skip
    """The usable questions, and how many records were left out for which reason."""
    if path is not None:
        records = read_files(path, split)
    else:
        hub, config, own_split, revision = stamp
        records = read_hub(hub, config, own_split or "test", revision)
    made: dict[str, Question] = {}
    groups: dict[str, str] = {}
    skipped: Counter[str] = Counter()
    for index, (where, record) in enumerate(records):
        try:
            question = _one(record, dict(fields), target_is, f"choice:{index}", most)
            if question.id in made:
                raise Unusable("an id that occurs twice", repr(question.id))
        except Unusable as bad:
            if not skip_bad:
                raise UserError(
                    f"{where} has {bad.reason}" + (f" ({bad.found})" if bad.found else ""), "",
                    "mend it, name other fields, or skip and count such records with skip_bad: true",
                ) from None  # fmt: skip
            skipped[bad.reason] += 1
            continue
        text = " ".join(question.text.split()).casefold()
        group = groups.setdefault(text, question.group or question.id)
        made[question.id] = replace(question, group=question.group or group)
    if not made:
        why = ", ".join(f"{n} with {reason}" for reason, n in skipped.items()) or "no records"
        raise UserError(f"task choice found no usable question in {path or stamp[0]}", why, "see its option fields")
    for column, there in (("difficulty", [q.difficulty is not None for q in made.values()]),
                          ("split", [bool(q.split) for q in made.values()])):  # fmt: skip
        if any(there) and not all(there):
            lacking = list(made)[there.index(False)]
            raise UserError(f"{lacking!r} has no {column} but others have", f"{column} in every record or in none")
    return tuple(made.values()), tuple(sorted(skipped.items()))


def _one(record: Record, fields: Mapping[str, str], target_is: Reading, key: str, most: int) -> Question:
    question = read(record, fields, target_is, key)
    if most and len(question.options) > most:
        raise Unusable("more options than letters", f"{len(question.options)} for {most}")
    return question
