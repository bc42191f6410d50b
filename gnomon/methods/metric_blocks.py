"""How the metrics step reads in the report: stated criteria, what they rest on, cases token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gnomon.blocks import Block, Heat, Ref, Table, Text
from gnomon.store import Artifact

WORDS = {
    "pass": "meets its goal", "fail": "misses its goal", "undecided": "is undecided against its goal",
    "not measured": "was not measured",
}  # fmt: skip
BESIDE = {
    "sparsity": "by the measure's control", "layers": "for random layer sets of as many",
    "accuracy": "under full ablation",
}  # fmt: skip
"""What the column `control` is, by what a criterion is about."""
COLUMNS = ("metric", "value", "ci_low", "ci_high", "goal", "sense", "verdict", "control", "p", "n", "note")
LABELS = {"ci_low": "low", "ci_high": "high", "control": "by chance or control"}


def metric_blocks(artifact: Artifact) -> list[Block]:
    """Criteria, sparsity, layers, components, accuracy, AUROC, costs, cases, errors, limits."""
    metrics = artifact.table("metrics")
    blocks: list[Block] = _criteria(metrics)
    blocks.append(Text(
        "Rule, fixed beforehand: pass where the whole 95% interval meets the goal, fail where it misses it as a whole, "
        "undecided else, and where there is no interval.", kind="method",
    ))  # fmt: skip
    for metric in ("sparsity, chosen cut", "sparsity, half of the effect", "layer concentration"):
        blocks += _beside(metrics, metric)
    blocks += _vacuous(metrics)
    blocks.append(Table("metrics", "Every measure beside its goal and control", COLUMNS, limit=60, labels=LABELS))
    blocks += _auroc(metrics)
    blocks += _costs(metrics)
    blocks += _cases(artifact)
    blocks += _errors(metrics, artifact.table("errors"))
    return blocks + _limits()


def _row(metrics: pd.DataFrame, metric: str) -> dict[str, Any] | None:
    found = metrics[(metrics["metric"] == metric) & np.isfinite(metrics["value"])]
    return {str(k): v for k, v in found.iloc[0].items()} if len(found) == 1 else None


def _ref(metric: str, column: str = "value", spec: str = ".1%", ci: bool = False) -> Ref:
    return Ref("metrics", {"metric": metric}, column, spec, ci)


def _criteria(metrics: Any) -> list[Block]:
    out: list[Block] = []
    for row in metrics[metrics["goal"].notna()].to_dict("records"):
        metric, verdict = row["metric"], row["verdict"]
        name = metric[0].upper() + metric[1:]
        if verdict == "not measured":
            out.append(Text(f"{name} {WORDS[verdict]}: it {row['note']}.", kind="warning"))
            continue
        whole = bool(np.isfinite(row["ci_low"]) and np.isfinite(row["ci_high"]))
        how = "95% interval" if whole else "without an interval"
        said, refs = f"{name} {WORDS[verdict]}: {{value}} ({how}), goal {row['sense']} {{goal}}", {}
        if np.isfinite(row["control"]):
            said, refs = said + f"; {BESIDE[row['about']]} it is {{control}}", {"control": _ref(metric, "control")}
        refs |= {"value": _ref(metric, ci=whole), "goal": _ref(metric, "goal")}
        out.append(Text(said + ".", refs, "headline"))
    return out


def _vacuous(metrics: pd.DataFrame) -> list[Block]:
    """A warning where full ablation itself loses nothing sure: then keeping accuracy is no feat."""
    metric = "accuracy drop, full ablation"
    row = _row(metrics, metric)
    if row is None or row["ci_low"] > 0:
        return []
    return [Text(
        "Full mean ablation itself lowers accuracy by {drop}, an interval that does not exclude zero: that rank-1, "
        "text or significant effects keep accuracy, and how few rows accuracy needs, says little here.",
        {"drop": _ref(metric, ci=True)}, "warning",
    )]  # fmt: skip


def _beside(metrics: pd.DataFrame, metric: str) -> list[Block]:
    """A control sentence for a measure of concentration."""
    if _row(metrics, metric) is None:
        return []
    refs = {"value": _ref(metric), "control": _ref(metric, "control")}
    text = {
        "sparsity, chosen cut": "The cut lets {control} of fit rows pass by definition and {value} of test rows: that "
        "share is chosen, and says nothing about how sparse effects are.",
        "sparsity, half of the effect": "Half of the median neuron's squared effect lies on {value} of test rows; of a "
        "normal variable of one dimension, which is not sparse, it lies on {control}, and of one with more dimensions "
        "on more.",
        "layer concentration": "The kept layers hold {value} of all layers' effects; sets of as many layers hold "
        "{control} on average, and the share of sets that hold as much is p = {p}.",
    }[metric]
    if "{p}" in text:
        refs["p"] = _ref(metric, "p", ".3f")
    return [Text(text, refs, "control")]


def _auroc(metrics: pd.DataFrame) -> list[Block]:
    metric = "neurons that tell right from wrong"
    if _row(metrics, metric) is None:
        return [Text("Single neurons' AUROC of right against wrong was not searched.", kind="warning")]
    fit, test = "best neuron's AUROC on fit", "best neuron's AUROC on test"
    text = (
        "Of {n} neurons, {value} told right from wrong on test after Holm's correction; the best one on fit has AUROC "
        "{fit} there, family-wise p = {p} by permutation"
    )
    refs = {
        "n": _ref(metric, "n", "d"), "value": _ref(metric, spec="d"), "fit": _ref(fit, spec=".3f"),
        "p": _ref(fit, "p", ".3f"),
    }  # fmt: skip
    if _row(metrics, test) is not None:
        text, refs["test"] = text + ", and {test} on test", _ref(test, spec=".3f", ci=True)
    return [Text(text + ".", refs)]


def _costs(metrics: pd.DataFrame) -> list[Block]:
    out: list[Block] = []
    stem = "speed-up over materialising, "
    for metric in [str(m) for m in metrics["metric"] if str(m).startswith(stem)]:
        if _row(metrics, metric) is not None:
            out.append(Text(
                f"Stage {metric.removeprefix(stem)} took {{value}} times less time than materialising the effects of "
                "its {n} neurons would have (scaled up from a few).",
                {"value": _ref(metric, spec=",.0f"), "n": _ref(metric, "n", ",d")},
            ))  # fmt: skip
    out.append(Table("stages", "Time, peak memory and size of each stage", limit=40))
    return out


def _cases(artifact: Artifact) -> list[Block]:
    strong, heat = artifact.table("strong"), artifact.table("heat")
    if strong.empty:
        return []
    out: list[Block] = [Table(
        "strong", "The strongest neurons: mean score on right and on wrong test rows",
        ("name", "second", "ablation_r", "right", "right_low", "right_high", "wrong", "wrong_low", "wrong_high",
         "difference", "difference_low", "difference_high", "p", "q", "n", "phrases", "note"),
        labels={"ablation_r": "r with real ablation"},
    )]  # fmt: skip
    extra = ("name", "kind", "label", "target", "answer", "score", "ablation_r", "phrases")
    cases = artifact.table("cases")
    if len(heat):
        out.append(Heat(
            "heat", "Case studies: what moves the strongest neurons", cases="cases", extra=extra, limit=len(cases),
            caption="Each token's part of the neuron's score along the main direction; a text's tokens sum to its "
            "score. Kinds: top is the text of the largest score of either sign, right and wrong those among right and "
            "wrong answers. Texts are of fit and tune. ablation_r: the correlation of the layer's scores with really "
            "setting neurons to zero.",
        ))  # fmt: skip
    elif len(cases):
        out.append(Table("cases", "Case studies: the texts that move the strongest neurons", extra))
    return out


def _errors(metrics: pd.DataFrame, errors: pd.DataFrame) -> list[Block]:
    metric = "wrong rows lie farther out"
    out: list[Block] = []
    if _row(metrics, metric) is not None:
        out.append(Text(
            "How far a row's largest neuron score lies from right rows tells wrong rows from right ones with AUROC "
            "{value} ({n} rows of fit and tune; {control} without any relation).",
            {"value": _ref(metric, spec=".3f", ci=True), "n": _ref(metric, "n", "d"),
             "control": _ref(metric, "control", ".1f")},
        ))  # fmt: skip
    if len(errors):
        out.append(Table(
            "errors", "Wrong rows farthest from right ones, and the neurons that differ most",
            ("example_id", "prompt", "target", "answer", "name", "score", "ablation_r", "right_mean", "z", "p", "q",
             "n"), limit=24,
            labels={"ablation_r": "r with real ablation", "right_mean": "mean of right rows", "n": "right rows"},
        ))  # fmt: skip
    return out


def _limits() -> list[Block]:
    return [
        Text(
            "Second-order scores attribute along paths with attention and norms held; they do not predict what "
            "ablating a neuron does (their correlation with real ablations stands in the second_order section). The "
            "strongest neurons are those of the largest scores, not of the largest causal effect, and a text's colours "
            "are parts of that score.",
            kind="limit",
        ),
        Text(
            "Sparsity by what accuracy needs is read off a curve of tune, in output space, for all neurons at once, on "
            "a coarse grid. Times are of one run on one machine. Error rows are picked as the most extreme of many, "
            "which q over all wrong rows allows for and a look at single neurons does not.",
            kind="limit",
        ),
    ]
