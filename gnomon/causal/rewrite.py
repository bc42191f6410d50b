"""Whole answers under an edit: the chosen arms write again what the model wrote, and the task grades it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.arms import Arm
from gnomon.causal.pick import has, pick, records
from gnomon.causal.worker import Condition
from gnomon.interventions.base import per_row
from gnomon.step import Context, ModelSpec
from gnomon.store import Artifact
from gnomon.tasks.make import make_task
from gnomon.types import Example
from gnomon.writer import Writer

SCHEMA = pa.schema(
    [("condition", pa.string()), ("row", pa.int64()), ("text", pa.string()), ("answer", pa.string()),
     ("label", pa.bool_()), ("reason", pa.string())]
)  # fmt: skip
EXAMPLES = pa.schema(
    [("condition", pa.string()), ("kind", pa.string()), ("control", pa.string()), ("coefficient", pa.float64()),
     ("row", pa.int64()), ("example_id", pa.string()), ("prompt", pa.string()), ("target", pa.string()),
     ("before", pa.string()), ("answer_before", pa.string()), ("label_before", pa.bool_()),
     ("text", pa.string()), ("answer", pa.string()), ("label", pa.bool_()), ("change", pa.string())]
)  # fmt: skip
ROWS = 48
"""Sequences that are decoded together at most."""


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

    def __call__(self, shard: tuple[int, Rewriting]) -> None:
        """Write and grade one shard: table `rewritten`."""
        from gnomon.models.sampling import noise

        index, part = shard
        rows, k = part.rows, len(part.conditions)
        which = np.repeat(np.arange(k), len(rows))
        names = [(str(r["example_id"]), int(r["sample"]), int(r["round"])) for r in rows] * k
        made = self.model.generate(
            [[int(i) for i in r["token_ids"]][: int(r["prompt_len"])] for r in rows] * k,
            max_new_tokens=self.max_new_tokens, stop=self.stop, top_p=self.top_p,
            temperature=[float(r["temperature"]) for r in rows] * k,
            noise=noise(int(rows[0]["seed"]), names, self.model.d_vocab),
            edit=per_row([c.edits for c in part.conditions], which),
        )  # fmt: skip
        lines = []
        for response, condition, row in zip(made.rows, which, list(rows) * k, strict=True):
            grade = self.task.grade(example_of(row), response.text)
            lines.append({
                "condition": part.conditions[condition].name, "row": int(row["row"]), "text": response.text,
                "answer": grade.answer, "label": grade.label, "reason": grade.reason,
            })  # fmt: skip
        files = Writer.attach(self.path).shard(index)
        files.table("rewritten", pa.Table.from_pylist(lines, schema=SCHEMA))
        files.finish()


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


def rewritings(table: pd.DataFrame, arms: Sequence[Arm], batch_size: int) -> list[Rewriting]:
    """Shards of rows of similar prompt length under all arms, at most `ROWS` sequences together."""
    columns = ["row", "token_ids", "prompt_len", "example_id", "sample", "round", "temperature", "seed", "prompt",
               "target", "choices", "group", "split", "difficulty", "meta"]  # fmt: skip
    ordered = records(table.sort_values(["prompt_len", "row"]), columns)
    out = []
    for a in range(0, len(ordered), batch_size):
        rows = tuple(ordered[a : a + batch_size])
        size = max(1, ROWS // len(rows))
        for b in range(0, len(arms), size):
            out.append(Rewriting(rows, tuple(arm.condition for arm in arms[b : b + size])))
    return out


def before_and_after(table: pd.DataFrame, rewritten: pd.DataFrame, arms: Sequence[Arm]) -> pd.DataFrame:
    """The rows of `table` beside what each arm wrote: schema `EXAMPLES`, changed answers first."""
    old = {r["row"]: r for r in records(table)}
    lines = []
    by_name = {arm.name: arm for arm in arms}
    for r in records(pick(rewritten, condition=list(by_name))):
        was, arm = old[r["row"]], by_name[r["condition"]]
        before, after = bool(was["label"]), bool(r["label"]) if isinstance(r["label"], bool | np.bool_) else None
        same = _text(was["answer"]) == _text(r["answer"])
        change = (
            "unparsed" if after is None
            else "corrected" if after and not before
            else "corrupted" if before and not after
            else "same answer" if same else "other answer"
        )  # fmt: skip
        lines.append({
            "condition": r["condition"], "kind": arm.kind, "control": arm.control, "coefficient": arm.coefficient,
            "row": r["row"], "example_id": was["example_id"], "prompt": was["prompt"], "target": was["target"],
            "before": was["text"], "answer_before": _text(was["answer"]), "label_before": before,
            "text": r["text"], "answer": _text(r["answer"]), "label": after, "change": change,
        })  # fmt: skip
    out = pd.DataFrame(lines, columns=EXAMPLES.names)
    rank = {"corrected": 0, "corrupted": 1, "other answer": 2, "unparsed": 3, "same answer": 4}
    out["_rank"] = [rank[change] for change in out["change"]]
    return out.sort_values(["_rank", "row"], kind="stable", ignore_index=True).loc[:, EXAMPLES.names]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
