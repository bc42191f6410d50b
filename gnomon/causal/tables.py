"""Rows of the tables that a trial writes: effects, sweep, tested, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.arms import Arm
from gnomon.causal.collect import grid
from gnomon.causal.pick import has, pick, records
from gnomon.methods.effects import Comparison, Outcomes, compare, effects, net, ratio, share
from gnomon.nulls import benjamini_hochberg

EFFECTS = pa.schema(
    [("direction", pa.string()), ("direction_kind", pa.string()), ("control", pa.string()), ("kind", pa.string()),
     ("site", pa.string()), ("where", pa.string()), ("coefficient", pa.float64()), ("strength", pa.float64()),
     ("score", pa.string()), ("split", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("p", pa.float64()), ("q", pa.float64()),
     ("n", pa.int64()), ("chosen", pa.bool_()), ("note", pa.string())]
)  # fmt: skip
VERDICTS = pa.schema(
    [("claim", pa.string()), ("kind", pa.string()), ("control", pa.string()), ("metric", pa.string()),
     ("coefficient", pa.float64()), *((name, pa.float64()) for name in (
         "value", "ci_low", "ci_high", "control_mean", "control_low", "control_high", "excess", "excess_low",
         "excess_high", "margin", "margin_low", "margin_high", "p", "q")),
     ("n", pa.int64()), ("controls", pa.int64()), ("verdict", pa.string())]
)  # fmt: skip
SWEEP = pa.schema(
    [("series", pa.string()), ("metric", pa.string()), ("coefficient", pa.float64()), ("value", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("n", pa.int64()), ("chosen", pa.bool_())]
)  # fmt: skip

TESTED = pa.schema(
    [("kind", pa.string()), ("series", pa.string()), ("direction", pa.string()), ("metric", pa.string()),
     ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("n", pa.int64())]
)  # fmt: skip
FACTS = pa.schema([("fact", pa.string()), ("value", pa.float64()), ("text", pa.string())])
SERIES = {
    "": "the direction", "sign_flip": "the other sign", "random": "random directions",
    "shuffled": "shuffled-label directions", "isotropic": "isotropic directions",
}  # fmt: skip

DECIDING = {"logprob": "target_logprob_change", "generate": "net_accuracy"}
"""The metric that chooses the coefficient and gives a claim its verdict, by what a trial is decided by."""


def _share(change: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return share(change, np.ones((len(change), 1)), weights)


MEANS = {"net_accuracy": net, "corrected_rate": _share, "corrupted_rate": _share}


def effect_rows(
    arms: Sequence[Arm], base: Outcomes, after: Outcomes, weights: np.ndarray, shared: dict[str, Any]
) -> list[dict[str, Any]]:
    """All metrics of task rows: one row for each arm and metric. `shared` fills the columns that all have in common."""
    found = effects(base, after, weights)
    return [
        arm_columns(arm) | shared | {"metric": metric, "value": value[k], "ci_low": low[k], "ci_high": high[k], "n": n}
        for metric, (value, low, high, n) in found.items()
        for k, arm in enumerate(arms)
    ]


def arm_columns(arm: Arm) -> dict[str, Any]:
    """The columns that say which arm a row is about."""
    return {
        "direction": arm.direction, "direction_kind": arm.direction_kind, "control": arm.control, "kind": arm.kind,
        "site": arm.site, "coefficient": arm.coefficient, "strength": arm.coefficient, "p": np.nan, "q": np.nan,
        "chosen": False, "note": "",
    }  # fmt: skip


def mean_rows(
    arms: Sequence[Arm], metric: str, change: np.ndarray, weights: np.ndarray, shared: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row an arm: the mean over texts of `change [texts, arms]`, with its interval over texts."""
    mean = share if metric.endswith("_rate") else ratio
    whole = net if "accuracy" in metric else lambda c, w: mean(c, np.ones((len(c), 1)), w)
    value, low, high = whole(change, weights)
    return [
        arm_columns(arm) | shared
        | {"metric": metric, "value": value[k], "ci_low": low[k], "ci_high": high[k], "n": len(change)}
        for k, arm in enumerate(arms)
    ]  # fmt: skip


def stored_rows(
    table: pd.DataFrame, examples: pd.DataFrame, arms: Sequence[Arm], weights: np.ndarray, shared: dict[str, Any]
) -> list[dict[str, Any]]:
    """Effects of whole answers beside the stored ones of `table`; an unparsed answer is not right."""
    units, names = table["row"].tolist(), [arm.name for arm in arms]
    labels = examples["label"].tolist()
    lines = examples.rename(columns={"row": "unit"}).assign(
        right=[v is not None and v == v and bool(v) for v in labels],
        unparsed=[v is None or v != v for v in labels],
        moved=[change != "same answer" for change in examples["change"]],
    )
    right = grid(lines, "right", units, names).astype(bool)
    moved = grid(lines, "moved", units, names).astype(np.int64)
    before = table["label"].to_numpy(dtype=bool)[:, None]
    unknown = np.full(right.shape, np.nan)
    base = Outcomes(unknown[:, :1], before, np.zeros_like(before, dtype=np.int64))
    shared = shared | {"score": "generate"}
    rows = effect_rows(arms, base, Outcomes(unknown, right, moved), weights, shared)
    unparsed = grid(lines, "unparsed", units, names).astype(np.float64)
    rows += mean_rows(arms, "unparsed_rate", unparsed, weights, shared)
    return [row for row in rows if row["metric"] != "target_logprob_change"]


def comparisons(
    arms: Sequence[Arm], base: Outcomes, after: Outcomes, weights: np.ndarray
) -> list[tuple[str, str, str, float, Comparison]]:
    """Each claim beside each of its controls: (claim, control, metric, coefficient, comparison).

    Claims: steer, steer_flip (the other sign) and orthogonalise against random and shuffled-label directions; ablate
    against shuffled-label ones. Where no log-probabilities are known (whole answers) the shares of wrong answers that
    became right and of right ones that became wrong are compared too, each on its own rows.
    """
    before, now = base.right[:, 0], after.right.astype(np.float64)
    everywhere = np.ones(len(before), dtype=bool)
    change = {"net_accuracy": (now - before[:, None], everywhere)}
    if np.isfinite(after.logprob).all():
        change = {"target_logprob_change": (after.logprob - base.logprob, everywhere)} | change
    else:
        change |= {"corrected_rate": (now, ~before), "corrupted_rate": (1 - now, before)}
    out = []
    for k, arm in enumerate(arms):
        if arm.control not in ("", "sign_flip"):
            continue
        claim = arm.kind + ("_flip" if arm.control else "")
        for control in ("random", "shuffled"):
            others = [j for j, other in enumerate(arms) if other.kind == arm.kind and other.control == control]
            for metric, (values, rows) in change.items():
                if others and rows.any():
                    drawn = weights[:, rows]
                    found = compare(values[rows, k], values[rows][:, others], drawn[drawn.sum(1) > 0])
                    if metric in MEANS:  # where all rows are alike the interval must not have no width
                        _, low, high = MEANS[metric](values[rows][:, [k]], drawn)
                        found = replace(found, low=float(low[0]), high=float(high[0]))
                    out.append((claim, control, metric, arm.coefficient, found))
    return out


def verdict_rows(found: Sequence[tuple[str, str, str, float, Comparison]]) -> pd.DataFrame:
    """The verdict table: one row a claim, control and metric; q by Benjamini-Hochberg over all of a metric's rows."""
    rows = [
        {
            "claim": claim, "kind": claim.split("_")[0], "control": control, "metric": metric,
            "coefficient": coefficient, "value": c.value, "ci_low": c.low, "ci_high": c.high,
            "control_mean": c.control_mean, "control_low": c.control_low, "control_high": c.control_high,
            "excess": c.excess, "excess_low": c.excess_low, "excess_high": c.excess_high, "margin": c.margin,
            "margin_low": c.margin_low, "margin_high": c.margin_high, "p": c.p, "q": np.nan, "n": c.n,
            "controls": c.controls, "verdict": c.verdict,
        }
        for claim, control, metric, coefficient, c in found
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=VERDICTS.names)
    for metric in sorted(set(table["metric"])):
        here = pick(table, metric=metric)
        table.loc[here.index, "q"] = benjamini_hochberg(np.asarray(here["p"]))
    return table


def deciding(verdicts: pd.DataFrame) -> str:
    """The metric that a verdict table stands on: log-probability where it was scored, else net accuracy."""
    return DECIDING["logprob" if has(verdicts, metric=DECIDING["logprob"]) else "generate"]


def overall(table: pd.DataFrame, claim: str) -> str:
    """One word for a claim on the deciding metric: supported only beside every control it has."""
    words = pick(table, claim=claim, metric=deciding(table))["verdict"].tolist()
    if words and all(word == "supported" for word in words):
        return "supported"
    return "not supported" if "not supported" in words else "undecided"


def moved(table: pd.DataFrame, claim: str) -> str:
    """How a supported claim's change reads beside its controls: raises | lowers | less (it went the way of the
    controls, but less far)."""
    here = pick(table, claim=claim, metric=deciding(table))
    value, excess = float(np.mean(here["value"])), float(np.mean(here["excess"]))
    return "less" if value * excess <= 0 else "raises" if excess > 0 else "lowers"


def reach(table: pd.DataFrame, claim: str) -> str:
    """Beside what a supported claim stands out: with many controls the 95th percentile may leave some farther out."""
    here = pick(table, claim=claim, metric=deciding(table))
    alone = bool((np.asarray(here["p"]) <= 1 / (1 + np.asarray(here["controls"])) + 1e-12).all())
    return "every control" if alone else "95% of its controls"


def sweep_rows(effect_table: pd.DataFrame) -> pd.DataFrame:
    """Dose and response on tune: the direction with its interval; random directions as their mean, with the smallest
    and the largest as ends. An isotropic direction has no sign, so its sizes serve both sides."""
    tune = pick(effect_table, split="tune", kind="steer")
    rows: list[dict[str, Any]] = []
    for metric, coefficient in sorted(set(zip(tune["metric"], tune["coefficient"], strict=True))):
        part = pick(tune, metric=metric, coefficient=coefficient)
        rows += [
            {"series": "direction", "metric": metric, "coefficient": coefficient, "value": r["value"],
             "ci_low": r["ci_low"], "ci_high": r["ci_high"], "n": r["n"], "chosen": r["chosen"]}
            for r in records(pick(part, control=""))
        ]  # fmt: skip
        band = pick(part, control="random")
        if len(band):
            for sign in (1, -1):
                rows.append({
                    "series": f"{len(band)} random directions: mean, lowest, highest", "metric": metric,
                    "coefficient": sign * coefficient, "value": band["value"].mean(), "ci_low": band["value"].min(),
                    "ci_high": band["value"].max(), "n": band["n"].max(), "chosen": False,
                })  # fmt: skip
    metrics = {r["metric"] for r in rows}
    zero = {"target_logprob_change", "net_accuracy", "neutral_loss_change", "answer_changed", "corrected_rate",
            "corrupted_rate"} & metrics  # fmt: skip
    series = {(r["series"], r["metric"]) for r in rows}
    rows += [
        {"series": s, "metric": m, "coefficient": 0.0, "value": 0.0, "ci_low": 0.0, "ci_high": 0.0, "n": 0,
         "chosen": False}
        for s, m in sorted(series) if m in zero
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=SWEEP.names)
    return table.sort_values(["metric", "series", "coefficient"], ignore_index=True)


def with_p(effect_table: pd.DataFrame, verdicts: pd.DataFrame, score: str = "logprob") -> pd.DataFrame:
    """Put p and q beside the direction's own effects on test (the larger p of two controls), and mark the chosen."""
    ordered = verdicts.sort_values("p")  # the larger p is written last
    for v in records(ordered):
        flip = "sign_flip" if v["claim"].endswith("_flip") else ""
        here = pick(effect_table, split="test", score=score, kind=v["kind"], control=flip, metric=v["metric"]).index
        effect_table.loc[here, "p"] = v["p"]
        effect_table.loc[here, "q"] = v["q"]
    effect_table.loc[pick(effect_table, split="test", control="").index, "chosen"] = True
    return effect_table


def tested_rows(effect_table: pd.DataFrame, score: str) -> pd.DataFrame:
    """What was run on test, one row an arm and metric, under names for reading."""
    rows = pick(effect_table, split="test", score=[score, "logprob"])
    named = rows.assign(
        series=[SERIES[c] for c in rows["control"]], _order=[list(SERIES).index(c) for c in rows["control"]]
    )
    ordered = named.sort_values(["kind", "metric", "_order"], kind="stable", ignore_index=True)
    return ordered.loc[:, TESTED.names]


def facts(known: dict[str, Any], effect_table: pd.DataFrame) -> pd.DataFrame:
    """Settings and base rates, one a row, for the report to point at, and how much each kind of ablation took."""
    rows: list[dict[str, Any]] = [
        {"fact": k, "value": None, "text": v} if isinstance(v, str)
        else {"fact": k, "value": None if v is None else float(v), "text": ""}
        for k, v in known.items()
    ]  # fmt: skip
    fit = pick(effect_table, split="fit")
    for metric, control in sorted(set(zip(fit["metric"], fit["control"], strict=True))):
        mean = float(np.mean(pick(fit, metric=metric, control=control)["value"]))
        rows.append({"fact": f"{metric} by {SERIES[control]}", "value": mean, "text": ""})
    return pd.DataFrame(rows, columns=FACTS.names)
