"""How the step emergence reads in the report: which leads, where each emerges, what was there already, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.stats import thin_notes
from gnomon.store import Artifact

LABELS = {"ci_low": "95% from", "ci_high": "to", "control": "shuffled", "a": "target", "b": "behind"}
METRIC = {"auroc": "AUROC", "spearman": "rank correlation"}


def emergence_blocks(artifact: Artifact) -> list[Block]:
    """Setting, headlines, curves, every number, lags, limits."""
    table: Any = artifact.table("emergence")
    lags: Any = artifact.table("lags")
    facts = artifact.table("facts").set_index("fact")
    names = list(dict.fromkeys(table["target"]))
    rising = [n for n in names if bool(table.loc[table["target"] == n, "rises"].iloc[0])]
    few = bool(facts.loc["cross-validated", "value"])
    out: list[Block] = [_setting()]
    main = lags.loc[lags["main"]].to_dict("records") if len(lags) else []
    order = [*dict.fromkeys([*(n for r in main for n in (r["a"], r["b"])), *names])]
    for name in order[:2]:
        out += _target(table, name, name in rising, few)
    if main:
        out.append(_lead(main[0]))
    out += _text_alone(table, [n for n in order if n in rising])
    out += _figures(artifact, rising)
    columns = ("target", "quantity", "metric", "site", "value", "ci_low", "ci_high", "control", "p", "n", "groups",
               "note")  # fmt: skip
    out.append(Table("emergence", "Every target", columns, limit=60, labels=LABELS))
    if len(lags):
        columns = ("a", "b", "value", "ci_low", "ci_high", "control", "p", "q", "leads", "note")
        labels = LABELS | {"value": "lag, layers", "control": "between halves"}
        out.append(Table("lags", "Lags: layers by which one target emerges behind another", columns, limit=60,
                         labels=labels))  # fmt: skip
    return [*out, _method(few), *_limits(table, facts)]


def _fact(name: str, column: str = "value", spec: str = ",.0f") -> Ref:
    return Ref("facts", {"fact": name}, column, spec)


def _cell(target: str, quantity: str, column: str = "value", spec: str = ".3f", ci: bool = False) -> Ref:
    return Ref("emergence", {"target": target, "quantity": quantity}, column, spec, ci)


def _setting() -> Text:
    return Text(
        "Linear probes read each target from the activations of {of} at {layers} sites, position {position}: {rows} "
        "rows ({groups} groups), each scored by a probe that did not see its group.",
        {"of": _fact("of", "text", ""), "position": _fact("position", "text", ""), "layers": _fact("layers"),
         "rows": _fact("rows"), "groups": _fact("groups")},
    )  # fmt: skip


def _target(table: Any, name: str, rises: bool, few: bool) -> list[Block]:
    """Where one target emerges, or that it never does."""
    rows = table.loc[table["target"] == name]
    refs = {
        "name": _cell(name, "peak", "target", ""), "text": _cell(name, "peak", "text", ""),
        "peak": _cell(name, "peak", ci=True),
        "site": _cell(name, "peak", "site", ""), "null": _cell(name, "peak", "control"),
        "p": _cell(name, "peak", "p", ".3f"),
    }  # fmt: skip
    metric = METRIC[str(rows.loc[rows["quantity"] == "peak", "metric"].iloc[0])]
    if not rises:
        return [Text(
            f"{{name}} ({{text}}) is read at no layer beyond its shuffles: the best, {{site}}, has {metric} {{peak}}, "
            "the best layers of shuffled targets {null} on average (p = {p}). So it has no layer of emergence.",
            refs, "headline",
        )]  # fmt: skip
    layer = rows.loc[rows["quantity"] == "emergence"].iloc[0]
    known = bool(np.isfinite(layer["ci_low"]))
    refs |= {"layer": _cell(name, "emergence", "value", ".0f", ci=known), "there": _cell(name, "score there")}
    place = "the embedding, layer" if layer["site"] == "embed" else "layer"
    extent = "95% interval over groups" if known else "no interval: too few rows of a class"
    text = (
        f"{{name}} ({{text}}) emerges at {place} {{layer}} ({extent}): {metric} {{there}} there, "
        "{peak} at the peak, {site}; the best layers of shuffled targets come to {null} on average (p = {p})."
    )
    if not few and "test" not in set(rows["quantity"]):
        text += " Test rows hold one value of it or none, and confirm nothing."
    elif not few:
        refs |= {"test": _cell(name, "test", ci=True), "test_null": _cell(name, "test", "control")}
        text += " On test rows the probe of that layer comes to {test}, of shuffled targets to {test_null}."
    return [Text(text, refs, "headline")]


def _lead(row: dict[str, Any]) -> Text:
    """Which of the main two leads."""
    where = {"a": row["a"], "b": row["b"]}
    refs = {"a": Ref("lags", where, "a", ""), "b": Ref("lags", where, "b", "")}
    if row["leads"] == "":
        return Text("Of {a} and {b} neither leads: one of them is never read above its null.", refs, "headline")
    if not np.isfinite(row["ci_low"]):
        return Text(
            "{a} emerges {lag} layers behind {b}, without an interval ({note}): which of them leads is undecided.",
            refs | {"lag": Ref("lags", where, "value", "+.0f"), "note": Ref("lags", where, "note", "")}, "headline",
        )  # fmt: skip
    refs |= {
        "lag": Ref("lags", where, "value", "+.0f", ci=True), "p": Ref("lags", where, "p", ".3f"),
        "noise": Ref("lags", where, "control", ".1f"),
    }  # fmt: skip
    said = {
        "undecided": "The interval does not lie on one side of zero: which of them leads is undecided.",
        row["a"]: "So {a} leads: it can be read before {b}.",
        row["b"]: "So {b} leads: it can be read before {a}.",
    }[row["leads"]]
    return Text(
        "The lag of {a} behind {b} is {lag} layers (paired resamples of groups, p = {p}); one and the same target "
        f"differs between random halves of the groups by {{noise}} layers on average. {said}", refs, "headline",
    )  # fmt: skip


def _text_alone(table: Any, rising: list[str]) -> list[Block]:
    """What the first site says already: what the text itself gives away."""
    out: list[Block] = []
    for name in rising[:2]:
        refs = {
            "name": _cell(name, "first site", "target", ""), "site": _cell(name, "first site", "site", ""),
            "value": _cell(name, "first site", ci=True), "null": _cell(name, "first site", "control"),
            "p": _cell(name, "first site", "p", ".3f"),
        }  # fmt: skip
        rows = table.loc[table["target"] == name].set_index("quantity")
        first = "what the token at that position gives away by itself"
        if rows.loc["first site", "site"] != "embed":
            first = "what is there where the curve begins; the embedding was not kept"
        out.append(Text(
            "At the first site that was kept, {site}, {name} comes to {value} (shuffled {null}, p = {p}): "
            f"{first}.", refs, "control",
        ))  # fmt: skip
        if rows.loc["emergence", "site"] == rows.loc["first site", "site"]:
            refs = {k: refs[k] for k in ("name", "site")}
            out.append(Text(
                "{name} has emerged at {site} already, the first site that was kept: the curve does not show where it "
                "begins, or the text itself says it.", refs, "warning",
            ))  # fmt: skip
    return out


def _figures(artifact: Artifact, rising: list[str]) -> list[Block]:
    curves: Any = artifact.table("curves")
    out: list[Block] = []
    if rising:
        share = artifact.table("facts").set_index("fact").loc["share", "value"]
        out.append(Figure(
            "line", "curves", "layer", "of_peak", "Share of each target's own peak, by layer", "target",
            where={"control": "", "target": rising}, reference=float(str(share)), reference_label="emergence",
            x_title="layer (-1: embedding)", y_title="share of the peak above shuffled targets",
            caption="Targets that never rise above their shuffles are left out.",
        ))  # fmt: skip
    for metric in dict.fromkeys(curves["metric"]):
        named = METRIC[str(metric)]
        out.append(Figure(
            "line", "curves", "layer", "value", f"{named} by layer", "series", "ci_low", "ci_high",
            where={"metric": metric}, reference=0.5 if metric == "auroc" else 0.0, reference_label="chance",
            x_title="layer (-1: embedding)", y_title=named,
            caption="Out of fold. Bands: 95% intervals over groups; for shuffled targets, 95% of the shuffles.",
        ))  # fmt: skip
    return out


def _method(few: bool) -> Text:
    rows = (
        "Rows of all splits are cross-validated, since groups are few; nothing is chosen by it, and the ledger says so."
        if few
        else "Curves are of fit and tune; test rows are read once, at the layers of emergence."
    )
    return Text(
        "Emergence: the first layer whose score above the mean of its shuffles has {share} of the peak's; only of "
        "targets whose best layer beats the best layers of the shuffles (max-T, p at most .05). Lag: the difference of "
        f"two such layers, its interval from the same resamples of groups for both. {rows} Shuffles swap whole groups: "
        "what tells the rows of one group apart (two kinds of question on one thing, say) stays in them, and counts as "
        "known without the model.",
        {"share": _fact("share", spec=".0%")}, "method",
    )  # fmt: skip


def _limits(table: Any, facts: pd.DataFrame) -> list[Block]:
    out: list[Block] = [Text(note, kind="warning") for note in thin_notes(table["note"])]
    if facts.loc["left out", "value"]:
        out.append(Text("Targets left out: {names}.", {"names": _fact("left out", "text", "")}, "limit"))
    if facts.loc["unread", "value"]:
        out.append(Text("{n} rows have no activations at this position and were left out.", {"n": _fact("unread")},
                        "limit"))  # fmt: skip
    out.append(Text(
        "A curve shows what a linear probe can read of one token, not what the model uses: `swap` asks that. The peak "
        "of a noisy curve is found too high and its emergence so too late; the intervals allow for it, the point does "
        "not.", kind="limit",
    ))  # fmt: skip
    return out
