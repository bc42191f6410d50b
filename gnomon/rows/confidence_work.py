"""The worker of `confidence`: one shard of a generation's rows asked about their answers, captured and written.

Rows whose prompts are alike run once. Batches are sorted by length within a shard; shards and batches follow from the
table and the options only, so that workers, kills and resumes cannot change a byte.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.halving import marked, run_halving
from gnomon.models.batching import plan
from gnomon.reading import read_table
from gnomon.rows.confidence_prompts import COLUMNS, FILLERS, Asked, ask_about, without_content
from gnomon.rows.confidence_read import Question, Stated, Stating, read_batch
from gnomon.rows.confidence_scale import BINNED
from gnomon.rows.confidence_table import CONFIDENCE
from gnomon.rows.gather import Gather
from gnomon.rows.stating import state_batch
from gnomon.rows.stating_samples import QUESTION_COLUMNS, base_prompt, sample_batch
from gnomon.step import ModelSpec
from gnomon.store import META
from gnomon.tasks.make import make_task
from gnomon.types import Site
from gnomon.writer import Writer

CONTENT_FREE = pa.schema(
    [("filler", pa.string()), ("form", pa.string()), ("prompt", pa.string()), ("text", pa.string()),
     ("confidence", pa.float64()), ("normal", pa.float64()), ("reversed", pa.float64()), ("mass", pa.float64()),
     ("probs", pa.list_(pa.float64()))]
)  # fmt: skip


@dataclass(frozen=True)
class Neutral:
    """The shard that asks about contents without content: for text and for chat prompts, where rows have both, a row
    that is like them, and how many they are."""

    forms: tuple[tuple[int, int], ...]


def neutral(messages: pd.Series) -> Neutral:
    """The content-free prompts of these rows, by their `messages` (index: row; null where the prompt is text)."""
    rows, chat = np.asarray(messages.index), np.asarray(messages.notna())
    held = (rows[~chat], rows[chat])
    return Neutral(tuple((int(some.min()), len(some)) for some in held if len(some)))


Shard = tuple[int, ...] | Neutral
"""Rows of the generation, ascending; or the content-free prompts."""


@dataclass
class Stater:
    """Picklable: what a process needs to ask about the answers of the generation in folder `source`."""

    spec: ModelSpec
    how: Stating
    source: Path
    path: Path
    model: Any = field(default=None, repr=False, compare=False)
    task: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"model": None, "task": None}

    def open(self) -> None:
        """Load the model, and build the task where samples are graded, once a process."""
        self.model = self.spec.load()
        self.task = make_task(self.how.task) if self.how.task is not None else None

    def __call__(self, shard: tuple[int, Shard]) -> dict[str, Any]:
        """Ask about one shard's rows and write them under `index`, the marker last."""
        index, rows = shard
        began = time.perf_counter()
        files = Writer.attach(self.path).shard(index)
        if isinstance(rows, Neutral):
            files.table("content_free", self._content_free(rows))
            info: dict[str, Any] = {"fillers": len(FILLERS) * len(rows.forms)}
        else:
            lines = lines_of(self.source, rows, self.how.ask == "consistency")
            gather = Gather(self.model, [Site.parse(s) for s in self.how.sites], self.how.positions, self.how.dtype)
            halved: list[int] = []
            questions = self.questions(lines)
            said = self._said(questions, lines, self.how, gather, halved)
            out = [
                _line(line, self.how, question, stated)
                for question, stated in zip(questions, said, strict=True)
                for line in (lines[row] for row, _ in question.rows)
            ]
            out.sort(key=lambda each: each["row"])
            files.table("confidence", pa.Table.from_pylist(out, schema=CONFIDENCE))
            info = {"rows": len(out), "prompts": len(questions), "activation_bytes": gather.write(files)}
            info |= marked(halved)
        files.finish(info | {"seconds": round(time.perf_counter() - began, 3)})
        return info

    def questions(self, lines: Mapping[int, dict[str, Any]]) -> list[Question]:
        """The prompts of a shard, each once, in order of length and of their first row."""
        held: dict[tuple[Any, ...], tuple[dict[bool, Asked], list[tuple[int, int | None]]]] = {}
        for row, line in lines.items():
            if self.how.ask == "consistency":
                asked = {False: base_prompt(line)}
                key: tuple[Any, ...] = (asked[False].tokens, line["example_id"], line["answer"], line["text"])
            else:
                asked = {r: ask_about(self.model.tokenizer, line, self.how.words, r) for r in self.how.orders}
                key = tuple(one.tokens for one in asked.values())
            held.setdefault(key, (asked, []))[1].append((row, asked[self.how.orders[0]].answer_token))
        found = [Question(asked, tuple(rows)) for asked, rows in held.values()]
        return sorted(found, key=lambda q: (len(q.asked[self.how.orders[0]].tokens), q.rows[0][0]))

    def _said(
        self, questions: Sequence[Question], lines: Mapping[int, dict[str, Any]], how: Stating, gather: Gather,
        halved: list[int],
    ) -> list[Stated]:  # fmt: skip
        model = self.model

        def work(some: Sequence[Question]) -> list[Stated]:
            if how.ask in BINNED:
                return read_batch(model, some, how, gather)
            if how.ask == "verbalised":
                return state_batch(model, some, how, gather)
            return sample_batch(model, self.task, some, how, lines)

        lengths = [len(q.asked[how.orders[0]].tokens) for q in questions]
        batches = plan(lengths, how.batch_size, len(questions))[0] if questions else []
        return [s for batch in batches for s in run_halving(work, [questions[i] for i in batch], halved)]

    def _content_free(self, neutral: Neutral) -> pa.Table:
        """What the pass says of contents without content: a line a filler and form, and their mean by rows."""
        bare, nothing = replace(self.how, sites=(), positions=()), Gather(self.model, [], (), self.how.dtype)
        out: list[dict[str, Any]] = []
        for row, _ in neutral.forms:
            like = lines_of(self.source, (row,))[row]
            for filler in FILLERS:  # one by one: no neighbour moves a number
                question = self.questions({row: without_content(like, filler)})[0]
                said = self._said([question], {}, bare, nothing, [])[0]
                out.append({"filler": filler, "form": "text" if like["messages"] is None else "chat",
                            "prompt": question.asked[self.how.orders[0]].prompt, "text": said.text,
                            "confidence": said.confidence, "normal": said.normal, "reversed": said.reversed,
                            "mass": said.mass, "probs": said.probs})  # fmt: skip
        weights = np.repeat([n for _, n in neutral.forms], len(FILLERS)).astype(np.float64)
        mean: dict[str, Any] = {"filler": "mean", "form": "", "prompt": "", "text": ""}
        for name in ("confidence", "normal", "reversed", "mass"):
            known = [i for i, line in enumerate(out) if line[name] is not None]
            mean[name] = float(np.average([out[i][name] for i in known], weights=weights[known])) if known else None
        probs = [line["probs"] for line in out]
        mean["probs"] = np.average(probs, axis=0, weights=weights).tolist() if probs[0] else []
        return pa.Table.from_pylist([*out, mean], schema=CONTENT_FREE)


def lines_of(source: Path, rows: Sequence[int], graded: bool = False) -> dict[int, dict[str, Any]]:
    """Lines of the generations table by row, in ascending order; `graded` adds what a task's grade needs."""
    columns = [*COLUMNS, *(QUESTION_COLUMNS if graded else ())]
    wanted = set(rows)
    stamp = (source / META).stat().st_mtime_ns  # a folder may be made anew while this process lives
    files = [f for f, low, high in _ranges(source, stamp) if low <= max(wanted) and high >= min(wanted)]
    parts = [read_table(f, columns, filters=[("row", "in", wanted)]) for f in files]
    found = {int(line["row"]): line for part in parts for line in part.to_pylist()}
    return dict(sorted(found.items()))


@functools.lru_cache(maxsize=4)
def _ranges(source: Path, stamp: int) -> list[tuple[Path, int, int]]:
    """Files of the generations table with the first and the last row in each: a shard reads those it needs."""
    out = []
    for path in sorted((source / "generations").glob("*.parquet")):
        rows = read_table(path, ["row"]).column("row").to_numpy()
        if len(rows):
            out.append((path, int(rows.min()), int(rows.max())))
    return out


def _line(line: Mapping[str, Any], how: Stating, question: Question, stated: Stated) -> dict[str, Any]:
    """One line of the table `confidence`."""
    asked = question.asked[how.orders[0]]
    answer = dict(question.rows)[int(line["row"])]
    meta = {**stated.meta, "context": how.words.context} if how.ask != "consistency" else stated.meta
    return {
        **{name: line[name] for name in ("row", "example_id", "group", "split", "sample", "temperature")},
        "ask": how.ask,
        "prompt": asked.prompt,
        "prompt_hash": asked.prompt_hash,
        "prompt_len": len(asked.tokens),
        "token_ids": [*asked.tokens, *stated.ids],
        "text": stated.text,
        "parsed": stated.parsed,
        "confidence": stated.confidence,
        "choices": stated.choices,
        "logits": stated.logits,
        "probs": stated.probs,
        "mass": stated.mass,
        "entropy": stated.entropy,
        "margin": stated.margin,
        "normal": stated.normal,
        "reversed": stated.reversed,
        "answer_token": answer,
        "confidence_token": len(asked.tokens) - 1,
        "meta": json.dumps(meta, sort_keys=True, ensure_ascii=False),
    }
