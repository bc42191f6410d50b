"""What came out of a generation, as tables: `counts`, `difficulty`, `temperatures`, `totals`, `skipped`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.stats import Interval, mean_interval, wilson
from gnomon.types import SPLITS

READ = (
    "row", "example_id", "group", "split", "difficulty", "sample", "round", "temperature", "label", "prompt_len",
    "target", "choices", "finish",
)  # fmt: skip
LABELS: dict[str, bool | None] = {"correct": True, "incorrect": False, "unparsed": None}
COUNTS = pa.schema(
    [("split", pa.string()), ("label", pa.string()), ("n", pa.int64()), ("share", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64())]
)  # fmt: skip
SHARES = [("n", pa.int64()), ("accuracy", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
          ("unparsed", pa.float64())]  # fmt: skip
DIFFICULTY = pa.schema(
    [("bin", pa.int64()), ("low", pa.float64()), ("high", pa.float64()), ("mean", pa.float64()), *SHARES]
)
TEMPERATURES = pa.schema([("temperature", pa.float64()), *SHARES])
TOTALS = pa.schema([("name", pa.string()), ("value", pa.float64())])
SKIPPED = pa.schema([("reason", pa.string()), ("n", pa.int64())])
BINS = 5
TRANSCRIPTS = ("row", "example_id", "temperature", "prompt", "text", "target", "answer", "label", "reason")
SHOWN = 4


def read_rows(folder: Path) -> pd.DataFrame:
    """The few columns that counting needs, of every shard under `folder`, one row an answer.

    An episode counts once, by its last round.
    """
    parts = [pq.read_table(p, columns=list(READ)) for p in sorted((folder / "generations").glob("*.parquet"))]
    rows = pa.concat_tables(parts).to_pandas()
    return rows.sort_values("row").drop_duplicates(["example_id", "sample", "temperature"], keep="last")


def share(hit: np.ndarray, groups: np.ndarray) -> Interval:
    """A share of answers with its 95% interval: Wilson's where every group has one answer, else a group bootstrap.

    Where every answer is alike the bootstrap has no width, and Wilson's interval on the number of groups is given.
    """
    hit, names = np.asarray(hit, dtype=bool), np.unique(groups)
    if len(names) == len(hit):
        return wilson(int(hit.sum()), len(hit))
    if hit.all() or not hit.any():
        return wilson(len(names) if hit.all() else 0, len(names))
    return mean_interval(hit.astype(np.float64), groups)


def where(rows: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows where `mask` is true."""
    return cast(pd.DataFrame, rows[mask])


def labelled(rows: pd.DataFrame, label: bool | None) -> np.ndarray:
    """Where the label is True, False, or missing (None)."""
    return np.array([(None if pd.isna(value) else bool(value)) is label for value in rows["label"]], dtype=bool)


def counts(rows: pd.DataFrame) -> pa.Table:
    """n and share of correct, incorrect and unparsed answers, in all and by split; the share is of all answers."""
    lines: list[dict[str, Any]] = []
    present = set(rows["split"])
    there = [s for s in (*SPLITS, "") if s in present]
    for split in ["all", *there]:
        part = rows if split == "all" else where(rows, rows["split"] == split)
        for name, label in LABELS.items():
            hit = labelled(part, label)
            found = share(hit, np.asarray(part["group"]))
            lines.append({"split": split, "label": name, "n": int(hit.sum()), "share": _number(found.value),
                          "ci_low": _number(found.low), "ci_high": _number(found.high)})  # fmt: skip
    return pa.Table.from_pylist(lines, schema=COUNTS)


def difficulty(rows: pd.DataFrame) -> pa.Table:
    """Accuracy by difficulty: one bin a value up to eight values, else `BINS` bins of about equal size."""
    rows = where(rows, rows["difficulty"].notna())
    values = np.asarray(rows["difficulty"], dtype=np.float64)
    distinct = np.unique(values)
    if len(distinct) <= 8:
        bins = np.searchsorted(distinct, values)
    else:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
        bins = np.searchsorted(edges, values, side="right")
    lines = []
    for number, which in enumerate(np.unique(bins)):
        part = where(rows, bins == which)
        inside = values[bins == which]
        lines.append({"bin": number, "low": float(inside.min()), "high": float(inside.max()),
                      "mean": float(inside.mean()), **_accuracy(part)})  # fmt: skip
    return pa.Table.from_pylist(lines, schema=DIFFICULTY)


def temperatures(rows: pd.DataFrame) -> pa.Table:
    """Accuracy by temperature."""
    lines = [{"temperature": float(t), **_accuracy(where(rows, rows["temperature"] == t))}
             for t in sorted(set(rows["temperature"]))]  # fmt: skip
    return pa.Table.from_pylist(lines, schema=TEMPERATURES)


def skipped_table(skipped: Mapping[str, int]) -> pa.Table:
    """Records that the task left out, by reason, the commonest first."""
    lines = sorted(({"reason": reason, "n": n} for reason, n in skipped.items()), key=lambda x: (-x["n"], x["reason"]))
    return pa.Table.from_pylist(lines, schema=SKIPPED)


def totals(rows: pd.DataFrame, dropped: int, skipped: Mapping[str, int], tokens: Mapping[str, int]) -> pa.Table:
    """Named totals, for the sentences of the report. `majority`: the share that one fixed answer would get right."""
    targets = Counter(rows["target"])
    picks = np.array([len(choices) for choices in rows["choices"]])
    cut = np.asarray(rows["finish"]) == "length"
    values = {
        "answers": len(rows),
        "questions": len(set(rows["example_id"])),
        "groups": len(set(rows["group"])),
        "dropped": dropped,
        "skipped": sum(skipped.values()),
        "samples": len(set(rows["sample"])),
        "majority": targets.most_common(1)[0][1] / len(rows) if len(rows) else None,
        "guessing": float((1 / picks).mean()) if len(rows) and (picks > 0).all() else None,
        "cut_share": float(np.mean(cut)) if len(rows) else None,
        **tokens,
    }
    return pa.Table.from_pylist([{"name": k, "value": _number(v)} for k, v in values.items()], schema=TOTALS)


def transcripts(rows: pd.DataFrame, folder: Path) -> pa.Table:
    """A few answers of each label, for reading: drawn by the hash of their names, so nobody picked them."""

    def drawn(part: pd.DataFrame) -> list[int]:
        names = zip(part["example_id"], part["sample"], part["temperature"], part["row"], strict=True)
        return [row for _, row in sorted((sha256(repr(n[:3]).encode()).digest(), int(n[3])) for n in names)[:SHOWN]]

    wanted = [row for label in LABELS.values() for row in drawn(where(rows, labelled(rows, label)))]
    parts = [
        pq.read_table(path, columns=list(TRANSCRIPTS), filters=[("row", "in", wanted)])
        for path in sorted((folder / "generations").glob("*.parquet"))
    ]
    return pa.concat_tables(parts)


def _accuracy(part: pd.DataFrame) -> dict[str, Any]:
    found = share(labelled(part, True), np.asarray(part["group"]))
    return {"n": len(part), "accuracy": _number(found.value), "ci_low": _number(found.low),
            "ci_high": _number(found.high), "unparsed": float(labelled(part, None).mean())}  # fmt: skip


def _number(value: float | int | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def token_sums(folder: Path) -> dict[str, int]:
    """Tokens of all prompts and of all responses, over every row (an episode's rounds each count)."""
    prompt = response = 0
    for path in sorted((folder / "generations").glob("*.parquet")):
        part = pq.read_table(path, columns=["prompt_len", "logprobs"])
        prompt += int(np.asarray(part.column("prompt_len")).sum())
        response += sum(len(chunk.values) for chunk in part.column("logprobs").chunks)
    return {"prompt_tokens": prompt, "response_tokens": response}
