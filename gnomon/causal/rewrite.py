"""Whole answers under an edit: arms write again what the model wrote, and the task grades it.

What all arms share is done once: the keys and values of a prompt before its last token (where no edit touches them),
and the grading of an answer that was graded already, letter for letter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.arms import Arm
from gnomon.causal.judged import judged
from gnomon.causal.pick import has, pick, records
from gnomon.causal.worker import CLEAN, Condition
from gnomon.disk import plain
from gnomon.halving import marked, run_halving
from gnomon.interventions.base import per_row
from gnomon.step import Context, ModelSpec
from gnomon.store import Artifact
from gnomon.tasks.make import make_task
from gnomon.types import Example, Grade
from gnomon.writer import Writer

SCHEMA = pa.schema(
    [("condition", pa.string()), ("row", pa.int64()), ("text", pa.string()), ("answer", pa.string()),
     ("label", pa.bool_()), ("reason", pa.string()), ("meta", pa.string())]
)  # fmt: skip
EXAMPLES = pa.schema(
    [("condition", pa.string()), ("kind", pa.string()), ("control", pa.string()), ("coefficient", pa.float64()),
     ("row", pa.int64()), ("example_id", pa.string()), ("prompt", pa.string()), ("target", pa.string()),
     ("before", pa.string()), ("answer_before", pa.string()), ("label_before", pa.bool_()),
     ("text", pa.string()), ("answer", pa.string()), ("label", pa.bool_()), ("change", pa.string()),
     ("reason_before", pa.string()), ("reason", pa.string()), ("meta", pa.string())]
)  # fmt: skip
"""before: the stored answer, or the one written again without an edit (`before_and_after`); meta: JSON of the grade."""
ROWS = 48
"""Sequences that are decoded together at most."""
WRITING = ("last_prompt", "generated")
"""Places of edits that leave a prompt as it is, but for its last token."""
SHARED_ROWS = 6
"""Rows of a shard that many conditions share: their prompts are run once for all of them."""


@dataclass(frozen=True)
class Rewriting:
    """One shard: rows (dictionaries of the generations table) under conditions."""

    rows: tuple[dict[str, Any], ...]
    conditions: tuple[Condition, ...]


@dataclass
class Rewriter:
    """Greedy where the row was greedy, else with the row's own keyed noise, so that only the edit differs."""

    spec: ModelSpec
    path: str
    option: Any
    """The generation's `task` option."""
    max_new_tokens: int
    stop: tuple[str, ...]
    top_p: float = 1.0

    def open(self) -> None:
        """Load the model and build the task."""
        self.model, self.task = self.spec.load(), make_task(self.option)
        self.graded: dict[tuple[str, str], Grade] = {}
        self.prefix: tuple[tuple[int, ...], Any] = ((), None)

    def __call__(self, shard: tuple[int, Rewriting]) -> None:
        """Write and grade one shard: table `rewritten`."""
        from gnomon.models.sampling import noise

        index, part = shard
        rows, k = part.rows, len(part.conditions)

        def write(pairs: Sequence[tuple[int, int]]) -> list[str]:
            """What is written under condition c in row i, for pairs (c, i)."""
            which, own = [c for c, _ in pairs], [rows[i] for _, i in pairs]
            names = [(str(r["example_id"]), int(r["sample"]), int(r["round"])) for r in own]
            edits = per_row([c.edits for c in part.conditions], which)
            made = self.model.generate(
                [_prompt(r) for r in own], max_new_tokens=self.max_new_tokens, stop=self.stop, top_p=self.top_p,
                temperature=[float(r["temperature"]) for r in own],
                noise=noise(int(rows[0]["seed"]), names, self.model.d_vocab), edit=edits,
                prefix=self._prefix(rows, [i for _, i in pairs]) if all(e.where in WRITING for e in edits) else None,
            )  # fmt: skip
            return [response.text for response in made.rows]

        halved: list[int] = []
        pairs = [(c, i) for c in range(k) for i in range(len(rows))]
        lines = []
        for text, (condition, i) in zip(run_halving(write, pairs, halved), pairs, strict=True):
            grade = self._grade(rows[i], text)
            lines.append({
                "condition": part.conditions[condition].name, "row": int(rows[i]["row"]), "text": text,
                "answer": grade.answer, "label": grade.label, "reason": grade.reason,
                "meta": json.dumps(dict(grade.meta), sort_keys=True, default=plain, ensure_ascii=False),
            })  # fmt: skip
        files = Writer.attach(self.path).shard(index)
        files.table("rewritten", pa.Table.from_pylist(lines, schema=SCHEMA))
        files.finish(marked(halved))

    def _prefix(self, rows: Sequence[dict[str, Any]], picks: Sequence[int]) -> Any:
        """Keys and values of the prompts but for their last tokens, of the picked rows; None where there are none.

        The rows of the last shard are kept, for the next conditions of the same rows; how they came about does not
        depend on the shard that asks.
        """
        used = sorted(set(picks))
        prompts = [_prompt(rows[i])[:-1] for i in used]
        if not all(prompts):
            return None
        names = tuple(int(rows[i]["row"]) for i in used)
        if self.prefix[0] != names:
            self.prefix = ((), None)  # before the next one needs its room
            cache = self.model.new_cache(reserve=self.max_new_tokens + 1)
            self.model.forward(prompts, cache=cache)
            cache.align()
            self.prefix = (names, cache)
        return self.prefix[1].select([used.index(i) for i in picks])

    def _grade(self, row: dict[str, Any], text: str) -> Grade:
        key = (str(row["example_id"]), text)
        if key not in self.graded:
            self.graded[key] = self.task.grade(example_of(row), text)
        return self.graded[key]


def _prompt(row: dict[str, Any]) -> list[int]:
    return [int(i) for i in row["token_ids"]][: int(row["prompt_len"])]


def writes_text(source: Artifact, table: pd.DataFrame) -> bool:
    """False where there is no single answer to write again: rows scored by choices, played in rounds, or appended from
    several generations."""
    known = source.options.get("task") is not None and not source.options.get("append")
    return known and not has(table, finish="choice") and not np.any(np.asarray(table["round"]) > 0)


def rewriter(source: Artifact, ctx: Context, path: str) -> Rewriter:
    """The worker that writes as the generation `source` did: its task, stop strings, lengths and sampling."""
    options = source.options
    task = make_task(options["task"])
    stop, most = options.get("stop"), options.get("max_new_tokens")
    return Rewriter(
        ctx.model_spec, path, options["task"], most if most is not None else task.max_new_tokens,
        tuple(task.stop if stop is None else stop), float(options.get("top_p") or 1.0),
    )  # fmt: skip


def example_of(row: dict[str, Any]) -> Example:
    """The example behind a generation row, as far as grading needs it."""
    difficulty = float("nan") if row["difficulty"] is None else float(row["difficulty"])
    return Example(
        str(row["example_id"]), str(row["prompt"]), str(row["target"]), tuple(map(str, row["choices"])),
        str(row["group"]), str(row["split"]), None if difficulty != difficulty else difficulty,
        json.loads(row["meta"] or "{}"),
    )  # fmt: skip


def rewritings(
    table: pd.DataFrame, arms: Sequence[Arm], batch_size: int, others: Sequence[Condition] = ()
) -> list[Rewriting]:
    """Shards of rows of similar prompt length under `others`, then all arms, at most `ROWS` sequences together.

    A shard holds conditions that all leave the prompts alone, or none such, so that the former share the prompts.
    """
    every = [*others, *(arm.condition for arm in arms)]
    light = [c for c in every if all(e.where in WRITING for e in c.edits)]
    heavy = [c for c in every if not all(e.where in WRITING for e in c.edits)]
    most = min(batch_size, SHARED_ROWS) if len(every) > ROWS // SHARED_ROWS else batch_size
    columns = ["row", "token_ids", "prompt_len", "example_id", "sample", "round", "temperature", "seed", "prompt",
               "target", "choices", "group", "split", "difficulty", "meta"]  # fmt: skip
    ordered = records(table.sort_values(["prompt_len", "row"]), columns)
    out = []
    for a in range(0, len(ordered), most):
        rows = tuple(ordered[a : a + most])
        size = max(1, ROWS // len(rows))
        for some in (light, heavy):
            out += [Rewriting(rows, tuple(some[b : b + size])) for b in range(0, len(some), size)]
    return out


def before_and_after(
    table: pd.DataFrame, rewritten: pd.DataFrame, arms: Sequence[Arm], again: bool = False
) -> pd.DataFrame:
    """The rows of `table` beside what each arm wrote: schema `EXAMPLES`, changed answers first.

    Before: the stored answer; with `again`, the one that the condition `clean` wrote on the same path as the arms
    (unparsed where it has no label; where it could not be judged the stored label stands).
    """
    was = {r["row"]: r for r in records(table)}
    old = {r["row"]: r for r in records(pick(rewritten, condition=CLEAN.name))} if again else was
    lines = []
    by_name = {arm.name: arm for arm in arms}
    for r in records(pick(rewritten, condition=list(by_name), row=list(was))):
        row, first, arm = was[r["row"]], old[r["row"]], by_name[r["condition"]]
        before, after = _label(first["label"]), _label(r["label"])
        if again and not judged(before, first.get("meta")):
            before = _label(row["label"])
        same = _text(first["answer"]) == _text(r["answer"]) and before == after
        change = (
            "not judged" if not judged(after, r.get("meta"))
            else "unparsed" if after is None
            else "corrected" if after and not before
            else "corrupted" if before and not after
            else "same answer" if same else "other answer"
        )  # fmt: skip
        lines.append({
            "condition": r["condition"], "kind": arm.kind, "control": arm.control, "coefficient": arm.coefficient,
            "row": r["row"], "example_id": row["example_id"], "prompt": row["prompt"], "target": row["target"],
            "before": first["text"], "answer_before": _text(first["answer"]), "label_before": before,
            "text": r["text"], "answer": _text(r["answer"]), "label": after, "change": change,
            "reason_before": first.get("reason"), "reason": r.get("reason"), "meta": r.get("meta"),
        })  # fmt: skip
    out = pd.DataFrame(lines, columns=EXAMPLES.names)
    rank = {"corrected": 0, "corrupted": 1, "other answer": 2, "unparsed": 3, "not judged": 4, "same answer": 5}
    out["_rank"] = [rank[change] for change in out["change"]]
    return out.sort_values(["_rank", "row"], kind="stable", ignore_index=True).loc[:, EXAMPLES.names]


def now_right(examples: pd.DataFrame) -> pd.Series:
    """By row: whether an answer of `EXAMPLES` is right; one that could not be judged counts as unchanged."""
    kept = np.asarray(examples["change"] == "not judged")
    labels = np.where(kept, examples["label_before"], examples["label"])
    return pd.Series([_label(v) is True for v in labels], index=list(examples["row"]), dtype=bool)


def _label(value: Any) -> bool | None:
    return bool(value) if isinstance(value, bool | np.bool_) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
