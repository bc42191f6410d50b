"""What came out of a confidence pass, as tables: stated, scores, bins, order, totals, skipped.

Type-2 AUROC: P(a right answer is stated with more confidence than a wrong one), ties half (Galvin et al. 2003). Its
control is the same with labels shuffled by group; intervals resample groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gnomon import nulls, stats
from gnomon.rows.confidence_scale import Scale
from gnomon.types import SPLITS

READ = ("row", "group", "split", "confidence", "probs", "mass", "normal", "reversed", "answer_token")
SHUFFLES = 1000
STATED = pa.schema(
    [("split", pa.string()), ("label", pa.string()), ("n", pa.int64()), ("mean", pa.float64()), ("sd", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64())]
)  # fmt: skip
SCORES = pa.schema(
    [("split", pa.string()), ("metric", pa.string()), ("control", pa.string()), ("n", pa.int64()),
     ("n_correct", pa.int64()), ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("p", pa.float64()), ("note", pa.string())]
)  # fmt: skip
BINS = pa.schema(
    [("bin", pa.int64()), ("text", pa.string()), ("midpoint", pa.float64()), ("letter", pa.string()),
     ("letter_reversed", pa.string()), ("mean_prob", pa.float64()), ("share", pa.float64()),
     ("content_free", pa.float64())]
)  # fmt: skip
ORDER = pa.schema(
    [("name", pa.string()), ("n", pa.int64()), ("value", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64())]
)  # fmt: skip
SKIPPED = pa.schema([("reason", pa.string()), ("n", pa.int64()), ("share", pa.float64())])
TOTALS = pa.schema([("name", pa.string()), ("value", pa.float64())])
TENTHS = tuple((i / 10, (i + 1) / 10) for i in range(10))


def read_pass(folder: Path, labels: pd.DataFrame) -> pd.DataFrame:
    """The few columns that counting needs, with each row's label (float: 1, 0, NaN)."""
    parts = [pq.read_table(p, columns=list(READ)) for p in sorted((folder / "confidence").glob("*.parquet"))]
    rows = pa.concat_tables(parts).to_pandas()
    known = labels.set_index("row")["label"].reindex(rows["row"])
    rows["label"] = [float("nan") if pd.isna(v) else float(v) for v in known]
    return rows


def stated(rows: pd.DataFrame) -> pa.Table:
    """Mean confidence of all, right and wrong answers and right minus wrong, in all and by split."""
    lines: list[dict[str, Any]] = []
    for split in ["all", *(s for s in (*SPLITS, "") if s in set(rows["split"]))]:
        part = _known(rows if split == "all" else rows.loc[rows["split"] == split, :])
        c, y = _numbers(part, "confidence"), _numbers(part, "label")
        groups = np.asarray(part["group"])
        for name, here in (("all", np.ones(len(c), bool)), ("correct", y == 1), ("incorrect", y == 0)):
            found = stats.mean_interval(c[here], groups[here]) if here.any() else stats.Interval(float("nan"))
            sd = float(c[here].std(ddof=1)) if here.sum() > 1 else None
            lines.append({"split": split, "label": name, "n": int(here.sum()), "sd": sd, **_cells(found, "mean")})
        right, wrong = (y == 1).astype(float), (y == 0).astype(float)
        gap = _interval(lambda w, c=c, r=right, q=wrong: _mean(w * r, c) - _mean(w * q, c), groups)
        lines.append({"split": split, "label": "difference", "n": int((right + wrong).sum()), "sd": None,
                      **_cells(gap, "mean")})  # fmt: skip
    return pa.Table.from_pylist(lines, schema=STATED)


def scores(rows: pd.DataFrame, seed: int) -> pa.Table:
    """Type-2 AUROC on the rows before test (fit and tune) and on test, each beside shuffled labels."""
    lines: list[dict[str, Any]] = []
    for split, inside in (("fit+tune", ("fit", "tune")), ("test", ("test",)), ("all", (*SPLITS, ""))):
        part = _known(rows.loc[rows["split"].isin(inside), :])
        part = part.loc[np.isfinite(_numbers(part, "label")), :]
        y, c = _numbers(part, "label").astype(bool), _numbers(part, "confidence")
        groups = np.asarray(part["group"])
        shared = {"split": split, "metric": "auroc", "n": len(y), "n_correct": int(y.sum())}
        if not len(y) or y.all() or not y.any():
            note = "no answers" if not len(y) else "all answers are alike"
            lines += [{**shared, "control": k, "note": note} for k in ("", "shuffled")]
            continue
        found = stats.class_interval(lambda w, c=c, y=y: stats.auroc(c, y, w), y, groups, split, "confidence")
        null = nulls.auroc_columns(c, nulls.permuted(y, groups, SHUFFLES, seed))
        low, high = np.quantile(null, [0.025, 0.975])
        p = nulls.p_value(found.value, null)
        lines.append({**shared, "control": "", "p": p, "note": found.note, **_cells(found)})
        lines.append({**shared, "control": "shuffled", "note": "",
                      **_cells(stats.Interval(float(null.mean()), float(low), float(high)))})  # fmt: skip
    return pa.Table.from_pylist(lines, schema=SCORES)


def bins(rows: pd.DataFrame, scale: Scale | None, content_free: pd.DataFrame | None) -> pa.Table:
    """How often each bin is the likeliest and its mean probability; without bins, the values by tenths."""
    part = _known(rows)
    lines: list[dict[str, Any]] = []
    if scale is None:
        c = np.minimum((_numbers(part, "confidence") * 10 + 1e-9).astype(int), 9)
        for i, (low, high) in enumerate(TENTHS):
            lines.append({"bin": i, "text": f"{100 * low:.0f}-{100 * high:.0f}%", "midpoint": (low + high) / 2,
                          "share": float((c == i).mean()) if len(c) else None})  # fmt: skip
        return pa.Table.from_pylist(lines, schema=BINS)
    probs = (
        np.stack([np.asarray(p, dtype=np.float64) for p in part["probs"]]) if len(part) else np.zeros((0, len(scale)))
    )
    free = None
    if content_free is not None:
        free = np.asarray(content_free.loc[content_free["filler"] == "mean", "probs"].iloc[0])
    for b, text in enumerate(scale.texts):
        named = scale.scoring == "letters"
        lines.append({
            "bin": b, "text": text, "midpoint": scale.midpoints[b],
            "letter": scale.letter(b, False) if named else None,
            "letter_reversed": scale.letter(b, True) if named else None,
            "mean_prob": float(probs[:, b].mean()) if len(probs) else None,
            "share": float((probs.argmax(-1) == b).mean()) if len(probs) else None,
            "content_free": None if free is None else float(free[b]),
        })  # fmt: skip
    return pa.Table.from_pylist(lines, schema=BINS)


def order(rows: pd.DataFrame) -> pa.Table:
    """Confidence in each order of the bins, normal minus reversed, and their rank correlation over rows.

    A scale that is read has an effect near 0 and a correlation near 1; a bias to a place moves the first and, where
    nothing else varies, sinks the second. Empty where only one order was asked.
    """
    part = _known(rows)
    a, b = _numbers(part, "normal"), _numbers(part, "reversed")
    both = np.isfinite(a) & np.isfinite(b)
    a, b, groups = a[both], b[both], np.asarray(part["group"])[both]
    if not len(a):
        return pa.Table.from_pylist([], schema=ORDER)
    found = {
        "normal": stats.mean_interval(a, groups),
        "reversed": stats.mean_interval(b, groups),
        "effect": stats.mean_interval(a - b, groups),
        "correlation": _interval(lambda w: stats.spearman(a, b, w), groups),
    }
    return pa.Table.from_pylist([{"name": k, "n": len(a), **_cells(v)} for k, v in found.items()], schema=ORDER)


def totals(rows: pd.DataFrame, skipped: Mapping[str, int], scale: Scale | None, orders: Sequence[bool]) -> pa.Table:
    """Named totals for the sentences of the report; null where a pass has none."""
    part = _known(rows)
    c, mass, y = _numbers(part, "confidence"), _numbers(part, "mass"), _numbers(part, "label")
    values: dict[str, float | int | None] = {
        "asked": len(rows),
        "skipped": sum(skipped.values()),
        "unparsed": len(rows) - len(part),
        "unparsed_share": (len(rows) - len(part)) / len(rows) if len(rows) else None,
        "mean": float(c.mean()) if len(c) else None,
        "sd": float(c.std(ddof=1)) if len(c) > 1 else None,
        "accuracy": float(np.nanmean(y)) if np.isfinite(y).any() else None,
        "mass": float(mass.mean()) if np.isfinite(mass).any() else None,
        "flat": None if scale is None else scale.flat,
        "orders": None if scale is None else len(orders),
        "answer_tokens": int(_numbers(rows, "answer_token").size - np.isnan(_numbers(rows, "answer_token")).sum()),
    }  # fmt: skip
    return pa.Table.from_pylist([{"name": k, "value": v} for k, v in values.items()], schema=TOTALS)


def skipped_table(skipped: Mapping[str, int], rows: int) -> pa.Table:
    """Rows that were not asked, by reason; the share is of all rows of the splits asked."""
    lines = [{"reason": reason, "n": n, "share": n / max(rows, 1)} for reason, n in sorted(skipped.items())]
    return pa.Table.from_pylist(lines, schema=SKIPPED)


def why_skipped(label: Any, text: Any) -> str:
    """Why a row cannot be asked about its answer; "" where it can."""
    if not str(text).strip():
        return "the answer is empty"
    return "the answer could not be parsed" if pd.isna(label) else ""


def reasons(table: pd.DataFrame) -> tuple[list[int], Counter[str]]:
    """Rows to ask, ascending, and how many are left out for which reason."""
    pairs = zip(table["label"], table["text"], strict=True)
    why = [why_skipped(label, text) for label, text in pairs]
    rows = [int(row) for row, reason in zip(table["row"], why, strict=True) if not reason]
    return sorted(rows), Counter(reason for reason in why if reason)


def _known(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.loc[np.isfinite(_numbers(rows, "confidence")), :]


def _numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    return np.asarray(pd.to_numeric(rows[column]), dtype=np.float64)


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    total = weights.sum(-1)
    return np.divide(weights @ values, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def _interval(statistic: Callable[[np.ndarray], np.ndarray], groups: np.ndarray) -> stats.Interval:
    return stats.bootstrap(statistic, groups) if len(groups) else stats.Interval(float("nan"))


def _cells(found: stats.Interval, name: str = "value") -> dict[str, float | None]:
    def cell(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {name: cell(found.value), "ci_low": cell(found.low), "ci_high": cell(found.high)}
