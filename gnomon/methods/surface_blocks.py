"""How the step surface reads in the report: what explains each target, alone and in order, and what is left inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.stats import thin_notes
from gnomon.store import Artifact

LABELS = {"ci_low": "95% from", "ci_high": "to", "control": "swapped", "control_high": "swapped, 97.5%",
          "n_pos": "positive"}  # fmt: skip
NAMES = {
    "surface": "surface features", "difficulty": "item difficulty", "output": "the output's confidence",
    "internal": "the activations",
}  # fmt: skip
PLURAL = ("surface", "internal")
LOSS = {"r2": "of the variance (R2)", "deviance": "of the deviance"}
VERDICTS = {
    "beyond": "So the activations hold something of it that these explanations do not.",
    "nothing": "So a probe of the activations adds nothing worth speaking of to these explanations.",
    "undecided": "Whether the activations hold anything of it beyond these explanations is undecided at this size.",
}


def surface_blocks(artifact: Artifact) -> list[Block]:
    """Setting, a headline a target, figures, every number, where was read, limits."""
    table: Any = artifact.table("explained")
    facts = artifact.table("facts").set_index("fact")
    features: Any = artifact.table("features")
    inside = bool((table["block"] == "internal").any())
    out: list[Block] = [_setting(inside)]
    for name in dict.fromkeys(table["target"]):
        out += _target(table.loc[table["target"] == name], str(name))
    if inside:
        out.append(_rule(bool((table["kind"] == "partial").any())))
    for kind, title in (("alone", "Explained by each block alone"), ("adds", "Added by each block, in order")):
        out.append(Figure(
            "bar", "explained", "block", "value", title, "target", "ci_low", "ci_high",
            where={"kind": kind, "metric": ["r2", "deviance"]}, y_title="share explained",
            caption="Held-out rows; R2 of a number, share of deviance of a class. 95% intervals over groups.",
        ))  # fmt: skip
    columns = ("target", "block", "kind", "metric", "value", "ci_low", "ci_high", "control", "control_high", "p", "n",
               "n_pos", "groups", "note")  # fmt: skip
    out.append(Table("explained", "Every number beside its control", columns, limit=120, labels=LABELS))
    if inside:
        out.append(Table("sites", "Where the activations were read, chosen on training rows", limit=40))
    if len(features):
        out.append(Table("features", "What is in each block", limit=60))
    return [*out, _method(bool(facts.loc["cross-validated", "value"])), *_limits(table, facts)]


def _fact(name: str, column: str = "value", spec: str = ",.0f") -> Ref:
    return Ref("facts", {"fact": name}, column, spec)


def _setting(inside: bool) -> Text:
    refs = {"rows": _fact("rows"), "groups": _fact("groups")}
    text = "What explains each target on held-out rows: {rows} rows, {groups} groups."
    if inside:
        text += " The activations are those of {of}, read at the best of {candidates} sites and positions."
        refs |= {"of": _fact("of", "text", ""), "candidates": _fact("candidates")}
    return Text(text, refs)


def _target(rows: Any, name: str) -> list[Block]:
    """What each block explains of one target alone, what it adds, and whether the activations go beyond."""
    metric = next(m for m in LOSS if (rows["metric"] == m).any())

    def ref(block: str, kind: str, column: str = "value", spec: str = ".1%", ci: bool = False, of: str = metric) -> Ref:
        return Ref("explained", {"target": name, "block": block, "kind": kind, "metric": of}, column, spec, ci)

    order = list(dict.fromkeys(rows.loc[rows["kind"] == "adds", "block"]))
    first = order[0]
    refs = {"name": ref(first, "alone", "target", ""), "text": ref(first, "alone", "text", "")}
    refs |= {f"alone_{b}": ref(b, "alone", ci=True) for b in order}
    alone = _listed([f"{NAMES[b]} explain{'' if b in PLURAL else 's'} {{alone_{b}}}" for b in order])
    text = f"{{name}} ({{text}}): {alone} {LOSS[metric]}, each alone."
    if len(order) > 1:
        refs |= {f"adds_{b}": ref(b, "adds", spec="+.1%", ci=True) for b in order[1:]}
        refs["all"] = ref(order[-1], "together")
        added = _listed([f"{NAMES[b]} add{'' if b in PLURAL else 's'} {{adds_{b}}}" for b in order[1:]])
        text += f" In this order {added}; all together explain {{all}}."
    out: list[Block] = [Text(text, refs, "headline")]
    judged = rows.loc[rows["verdict"] != ""].to_dict("records")
    if judged:
        out.append(_beyond(ref, order[: order.index("internal")], metric, judged[0]["verdict"]))
    return out


def _beyond(ref: Callable[..., Ref], before: list[str], metric: str, verdict: str) -> Text:
    """What the activations add to the blocks before them."""
    refs = {
        "gain": ref("internal", "adds", spec="+.1%", ci=True), "null": ref("internal", "adds", "control", "+.1%"),
        "p": ref("internal", "adds", "p", ".3f"), "name": ref("internal", "adds", "target", ""),
        "partial": ref("internal", "partial", spec="+.3f", ci=True, of="partial"),
    }  # fmt: skip
    rank = ""
    if metric == "deviance":
        rank, refs["rank"] = " ({rank} in AUROC)", ref("internal", "adds", spec="+.3f", ci=True, of="auroc")
    return Text(
        f"Beyond {_listed([NAMES[b] for b in before])} the activations add {{gain}} of {{name}}{rank}; with their "
        "scores swapped between groups they add {null} (p = {p}). Given the blocks before, their score and the target "
        f"correlate by {{partial}}. {VERDICTS[verdict]}", refs, "headline",
    )  # fmt: skip


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _rule(partial: bool) -> Text:
    more = ", and so does that of the partial correlation given the blocks before" if partial else ""
    return Text(
        f"Rule, fixed beforehand. Beyond: the 95% interval of the activations' increment lies above zero{more}. "
        f"Nothing: it ends below {{smallest}}{' and the partial one does not lie above zero' if partial else ''}. "
        "Undecided: else.", {"smallest": _fact("smallest", spec=".0%")}, "method",
    )  # fmt: skip


def _method(few: bool) -> Text:
    rows = (
        "Groups are few, so this is nested cross-validation: site, penalties and regressions are chosen anew without "
        "each fold; intervals are widened by half, as folds share training rows (Nadeau and Bengio). Test rows take "
        "part, and the ledger says so."
        if few
        else "Sites, penalties and regressions are chosen on fit and tune; test rows are read once."
    )
    return Text(
        "Blocks enter an L1-penalised regression with their ranks and squares; the activations enter as one number, "
        "the out-of-fold score of a ridge probe of the target. What two blocks share is counted for the earlier one. "
        f"Control: the added block's rows are swapped between groups and all is fitted again. {rows}", kind="method",
    )  # fmt: skip


def _limits(table: Any, facts: pd.DataFrame) -> list[Block]:
    out: list[Block] = [Text(note, kind="warning") for note in thin_notes(table["note"])]
    if facts.loc["left out", "value"]:
        out.append(Text("Left out: {names}.", {"names": _fact("left out", "text", "")}, "limit"))
    if facts.loc["unread", "value"]:
        out.append(Text("{n} rows have no activations there and were left out.", {"n": _fact("unread")}, "limit"))
    out.append(Text(
        "A share explained is no cause: a block may explain confidence because both follow the question. Features that "
        "nobody thought of count for whichever later block carries them, the activations above all.", kind="limit",
    ))  # fmt: skip
    return out
