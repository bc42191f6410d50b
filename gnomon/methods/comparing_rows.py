"""The same questions in two generations: joined by example, sample, temperature and prompt hash; what does not join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gnomon.errors import UserError

KEYS = ["example_id", "sample", "temperature"]
KEPT = ["row", "prompt_hash", "label", "answer", "text", "target", "split", "group", "prompt"]
FIX = "the same task, options, n and seed in both, and the same chat template"
ALLOW = "allow_missing: true leaves these out and counts them"


@dataclass(frozen=True)
class Paired:
    """Rows that both generations have: `table` has the columns of KEYS, split and group (of a), prompt, target, and
    row, label, answer and text of each side (`row_a`, `row_b`); `counts` say what did not join."""

    table: pd.DataFrame
    counts: list[dict[str, Any]]


def paired(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str], allow_missing: bool = False) -> Paired:
    """Join two generations tables, in the order of a's rows; an episode counts once, by its last round.

    UserError where no question is shared, where a shared one has another target, and, unless `allow_missing`, where
    a question is missing on a side or was asked with another prompt.
    """
    left, right = _once(a), _once(b)
    joined = left.merge(right, on=KEYS, how="outer", suffixes=("_a", "_b"), indicator=True)
    here = np.asarray(joined["_merge"] == "both")
    shared = joined.loc[here]
    if shared.empty:
        raise UserError(
            f"{names[1]} answers none of the questions of {names[0]}",
            f"the same questions; {_example(left)} beside {_example(right)}", FIX,
        )  # fmt: skip
    other = np.asarray(shared["prompt_hash_a"] != shared["prompt_hash_b"])
    counts = [
        {"what": f"rows of {names[0]}", "n": len(left), "first": ""},
        {"what": f"rows of {names[1]}", "n": len(right), "first": ""},
        _count("paired", shared.loc[~other]),
        _count(f"missing in {names[1]}", joined.loc[np.asarray(joined["_merge"] == "left_only")]),
        _count(f"missing in {names[0]}", joined.loc[np.asarray(joined["_merge"] == "right_only")]),
        _count("asked with another prompt", shared.loc[other]),
    ]
    if not allow_missing:
        _refuse(counts, names, len(shared))
    both = shared.loc[~other]
    if both.empty:
        raise UserError(f"{names[1]} asks every question of {names[0]} with another prompt", "equal prompt hashes", FIX)
    wrong = np.asarray(both["target_a"] != both["target_b"])
    if wrong.any():
        first = both.loc[wrong].iloc[0]
        raise UserError(
            f"{int(wrong.sum())} questions have another right answer in {names[1]} than in {names[0]}, the first: "
            f"{first['example_id']!r} ({first['target_b']!r}, {first['target_a']!r})", "the same questions", FIX,
        )  # fmt: skip
    moved = np.asarray(both["split_a"] != both["split_b"])
    counts.append(_count(f"in another split in {names[1]} (that of {names[0]} counts)", both.loc[moved]))
    for side, name in zip("ab", names, strict=True):
        unparsed = np.asarray(both[f"label_{side}"].isna())
        counts.append(_count(f"answers of {name} that could not be parsed", both.loc[unparsed]))
    table = both.sort_values("row_a").reset_index(drop=True)
    table = table.rename(columns={"split_a": "split", "group_a": "group", "prompt_a": "prompt", "target_a": "target"})
    table["row_a"], table["row_b"] = table["row_a"].astype(np.int64), table["row_b"].astype(np.int64)
    dropped = ["_merge", "split_b", "group_b", "prompt_b", "target_b", "prompt_hash_b"]
    return Paired(table.drop(columns=dropped).rename(columns={"prompt_hash_a": "prompt_hash"}), counts)


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """One row a question, sample and temperature: of an episode the last round."""
    return table.sort_values("row").drop_duplicates(KEYS, keep="last").loc[:, [*KEYS, *KEPT]]


def _count(what: str, rows: pd.DataFrame) -> dict[str, Any]:
    return {"what": what, "n": len(rows), "first": str(rows["example_id"].iloc[0]) if len(rows) else ""}


def _refuse(counts: list[dict[str, Any]], names: tuple[str, str], shared: int) -> None:
    bad = [c for c in counts if c["n"] and (c["what"].startswith("missing") or c["what"].startswith("asked"))]
    if bad:
        said = "; ".join(f"{c['n']} questions {c['what']}, the first: {c['first']!r}" for c in bad)
        raise UserError(
            f"{names[0]} and {names[1]} do not hold the same questions ({shared} are shared): {said}", FIX, ALLOW
        )


def _example(table: pd.DataFrame) -> str:
    return repr(str(table["example_id"].iloc[0])) if len(table) else "nothing"


def flipped(rows: pd.DataFrame, right: Sequence[np.ndarray], confidence: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Lines of the questions that became right (gained) or wrong (lost), with a confidence of each side `[n]`."""
    out = []
    for i, row in enumerate(rows.to_dict("records")):
        if right[0][i] != right[1][i]:
            answers = {f"answer_{s}": str(row[f"answer_{s}"] or row[f"text_{s}"] or "") for s in "ab"}
            out.append(answers | {
                "example_id": row["example_id"], "kind": "gained" if right[1][i] else "lost", "prompt": row["prompt"],
                "target": row["target"], "confidence_a": confidence[0][i], "confidence_b": confidence[1][i],
                "row_a": row["row_a"], "row_b": row["row_b"],
            })  # fmt: skip
    return out
