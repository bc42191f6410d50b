"""How neuron ablation reads in the report: made from its tables alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact

PLACES = {
    "model": "In the model itself, the right answer (whole, teacher-forced)",
    "output": "In output space, the right answer's first token",
}
OPENING = {
    "supported": "beyond what {control} do",
    "not supported": "no more than {control} do",
    "undecided": "and whether that is more than {control} do is undecided",
}
CONTROLS = {
    "random_neurons": "as many other neurons of the same layers",
    "random_pairs": "as many rows of the same neurons drawn at random",
    "random_direction": "random directions in place of the component",
}
ACTS = {
    "full": "replacing the chosen neurons by their mean on every text",
    "significant": "replacing each neuron by its mean on the texts of its largest effects only",
    "rank1": "keeping of each neuron's effect its first principal component only",
    "text": "keeping of each neuron's effect its text reconstruction only",
}
LABELS = {"ci_low": "low", "ci_high": "high", "recovered_low": "rec. low", "recovered_high": "rec. high"}
COLUMNS = (
    "condition", "metric", "base", "value", "change", "ci_low", "ci_high", "p", "n", "recovered", "recovered_low",
    "recovered_high", "lowest", "highest", "pairs", "note",
)  # fmt: skip


def ablation_blocks(artifact: Artifact) -> list[Block]:
    """Setting, a headline for each space, its conditions and controls, the curve, limits."""
    rows: Any = artifact.table("ablations")
    compared: Any = artifact.table("compared")
    blocks: list[Block] = [_setting()]
    for space in ("model", "output"):
        here = rows[rows["space"] == space]
        if here.empty:
            continue
        metric = "accuracy" if "accuracy" in set(here["metric"]) else "projection"
        blocks.append(_headline(space, metric))
        for condition in ("full", "significant", "rank1", "text"):
            blocks += _beside(compared, space, condition)
        blocks += _recovered(here, space)
        title = f"Conditions in {'the model' if space == 'model' else 'output space'}, on test"
        blocks.append(Table("ablations", title, COLUMNS, {"space": space}, limit=90, labels=LABELS))
    blocks += _curve(artifact.table("curve"), artifact)
    if len(compared):
        blocks.append(Table("compared", "Conditions beside their controls, on test", limit=40, labels=LABELS))
    return blocks + _limits(set(rows["space"]))


def _fact(name: str, column: str = "value", spec: str = "d") -> Ref:
    return Ref("facts", {"fact": name}, column, spec)


def _setting() -> Text:
    return Text(
        "{neurons} neurons of the layers {layers} were ablated: their effects replaced by their mean over {fit} fit "
        "rows, measured on {test} test rows. A neuron's significant set is the rows whose effect lies as far from that "
        "mean as its top fit rows do; it holds {pairs} of the test rows. {left} of all rows have no known first answer "
        "token at the read position and enter no accuracy of output space.",
        {"neurons": _fact("neurons"), "layers": _fact("layers", "text", ""), "fit": _fact("fit rows"),
         "test": _fact("test rows"), "pairs": _fact("significant pairs", spec=".1%"),
         "left": _fact("rows without a target token")},
    )  # fmt: skip


def _cell(space: str, condition: str, metric: str, column: str, spec: str, ci: bool = False) -> Ref:
    return Ref("ablations", {"space": space, "condition": condition, "metric": metric}, column, spec, ci)


def _headline(space: str, metric: str) -> Text:
    spec, what = ("+.1%", "accuracy") if metric == "accuracy" else ("+.3g", "projection on the main direction")
    return Text(
        PLACES[space] + f": without the chosen neurons its {what} changes by {{change}} (95% interval, {{n}} test "
        "rows, p = {p}) from {base}; replaced only on the texts of their largest effects, by {some}; on all other "
        "texts, by {rest}.",
        {"change": _cell(space, "full", metric, "change", spec, ci=True), "n": _cell(space, "full", metric, "n", "d"),
         "p": _cell(space, "full", metric, "p", ".3f"), "base": _cell(space, "full", metric, "base", spec[1:]),
         "some": _cell(space, "significant", metric, "change", spec, ci=True),
         "rest": _cell(space, "insignificant", metric, "change", spec, ci=True)},
        "headline",
    )  # fmt: skip


def _beside(compared: Any, space: str, condition: str) -> list[Block]:
    """The control sentence of a condition: the target's log-probability (else the projection) beside its draws."""
    here = compared[(compared["space"] == space) & (compared["condition"] == condition)]
    metric = next((m for m in ("target_logprob", "projection") if m in set(here["metric"])), None)
    if metric is None:
        return []
    row = {str(k): v for k, v in here[here["metric"] == metric].iloc[0].items()}
    where = {"space": space, "condition": condition, "metric": metric, "control": row["control"]}
    verdict = OPENING[str(row["verdict"])].replace("{control}", CONTROLS[str(row["control"])])
    act = ACTS[condition][0].upper() + ACTS[condition][1:]
    what = "the right answer's log-probability" if metric == "target_logprob" else "the projection"
    return [Text(
        f"{act} changed {what} by {{value}} on {{n}} test rows, {verdict}: these changed it by {{mean}} on average "
        "(from {low} to {high} in {k} draws; p = {p}).",
        {"value": Ref("compared", where, "value", "+.3f", ci=True), "n": Ref("compared", where, "n", "d"),
         "mean": Ref("compared", where, "control_mean", "+.3f"), "low": Ref("compared", where, "control_low", "+.3f"),
         "high": Ref("compared", where, "control_high", "+.3f"), "k": Ref("compared", where, "controls", "d"),
         "p": Ref("compared", where, "p", ".3f")},
        "control",
    )]  # fmt: skip


def _recovered(here: Any, space: str) -> list[Block]:
    out: list[Block] = []
    rows = here[(here["metric"] == "accuracy") & here["recovered"].notna()]
    for condition, words in (("rank1", "rank-1 effects"), ("text", "text reconstructions"),
                             ("insignificant", "the largest effects alone")):  # fmt: skip
        if condition in set(rows["condition"]):
            ref = Ref("ablations", {"space": space, "condition": condition, "metric": "accuracy"}, "recovered", ".1%")
            ends = {end: Ref("ablations", ref.where, f"recovered_{end}", ".1%") for end in ("low", "high")}
            out.append(Text(
                f"Of the accuracy that full ablation takes, {words} give back {{share}} [{{low}}, {{high}}].",
                {"share": ref, **ends},
            ))  # fmt: skip
    full = here[(here["metric"] == "accuracy") & (here["condition"] == "full")]
    if len(full) and not (full["ci_high"].iloc[0] < 0 or full["ci_low"].iloc[0] > 0):
        out.append(Text(
            "No recovered fraction of accuracy is given: the full ablation's own change does not exclude zero.",
            kind="warning",
        ))  # fmt: skip
    return out


def _curve(curve: pd.DataFrame, artifact: Artifact) -> list[Block]:
    out: list[Block] = []
    for metric, title in (("accuracy", "accuracy"), ("projection", "projection on the main direction")):
        if metric in set(curve["metric"]):
            out.append(Figure(
                "line", "curve", x="cut", y="change", color="series", low="ci_low", high="ci_high",
                where={"metric": metric}, reference=0.0, reference_label="unmodified",
                title=f"Functional curve: {title} by the share of rows whose effects are kept",
                x_title="share of fit rows above a neuron's cut", y_title="change from the unmodified",
                caption="On tune, in output space. Largest effects: 95 % interval over groups; random rows: mean, "
                "lowest and highest of their draws.",
            ))  # fmt: skip
    rows: Any = artifact.table("ablations")
    names = [n for n in sorted(set(rows["condition"])) if str(n).startswith("kept ")]
    if names and "accuracy" in set(curve["metric"]):
        out.append(Text(
            "The smallest share on the curve that keeps accuracy within the tolerance on tune is {share}; on test "
            "that share changes accuracy by {change}.",
            {"share": _fact("smallest share", spec=".0%"),
             "change": _cell("output", names[0], "accuracy", "change", "+.1%", ci=True)},
        ))  # fmt: skip
    return out


def _limits(spaces: set[str]) -> list[Block]:
    out: list[Block] = []
    if "output" in spaces:
        out.append(Text(
            "Output space is arithmetic on second-order effects: attention and norm scales stay as they were, later "
            "MLPs do not answer, and accuracy is of the first answer token alone. What a rank-1 or text "
            "reconstruction loses there is not measured in the model, where no activation holds such a vector.",
            kind="limit",
        ))  # fmt: skip
    if "model" in spaces:
        out.append(Text(
            "In the model the activations are replaced, so the neurons' direct effect and everything later layers make "
            "of them go too; the change there is not of second-order effects alone.",
            kind="limit",
        ))  # fmt: skip
    out.append(Text(
        "Means and thresholds are of fit rows, the curve is of tune. The significant set is a chosen cut, so how few "
        "rows matter is read off the curve. Neurons are ablated together: one that another stands in for shows less "
        "than it would alone. An interval that spans zero is no proof of no effect.",
        kind="limit",
    ))  # fmt: skip
    return out
