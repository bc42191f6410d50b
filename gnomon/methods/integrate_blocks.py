"""How step integrate reads in the report: what stands at the end of the chain, the graph, the tables behind it."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from gnomon.blocks import Block, Page, Ref, Table, Text
from gnomon.store import Artifact

Kind = Literal["text", "headline"]
FEATURES = ("name", "site", "d", "separation", "verdict", "change", "change_low", "change_high", "control_change",
            "upstream", "downstream", "validated", "pearson", "control_pearson", "tokens", "raises")  # fmt: skip
EDGES = ("source_name", "target_name", "attribution", "share", "gradient", "slope", "pearson", "measured",
         "control_measured", "q", "validated")  # fmt: skip
LABELS = {
    "name": "feature", "change_low": "low", "change_high": "high", "control_change": "random latents' change",
    "upstream": "fed by", "downstream": "feeds", "pearson": "replay's Pearson",
    "control_pearson": "random latents' Pearson", "raises": "decoder raises", "source_name": "source",
    "target_name": "target", "measured": "measured change", "control_measured": "random latents' |change|",
}  # fmt: skip


def fact(name: str, spec: str = ".3f", ci: bool = False, column: str = "value") -> Ref:
    """A reference to one line of table `facts`."""
    return Ref("facts", {"name": name}, column, spec, ci=ci)


def integrate_blocks(artifact: Artifact, shown: int) -> list[Block]:
    """Headlines by the steps that are there, the graph, tables of features and pathways, limits."""
    known = artifact.table("facts").set_index("name")
    has = set(known.index)
    short = bool(known.loc["shortfall", "text"])
    kind: Kind = "text" if short else "headline"
    blocks: list[Block] = [Text(
        "Features joined here by name: {features}, of {sites} "
        + ("site" if known.loc["sites", "value"] == 1 else "sites")
        + "; {separated} of them are those that separated {first} from {second} most on fit, by site.",
        {"features": fact("features", "d"), "sites": fact("sites", "d"), "separated": fact("separated", "d"),
         "first": fact("first", "", column="text"), "second": fact("second", "", column="text")},
    )]  # fmt: skip
    if short:
        blocks.append(Text(
            "No conclusion: {why}. What the steps measured is shown; nothing of it is a verdict.",
            {"why": fact("shortfall", "", column="text")}, "headline",
        ))  # fmt: skip
    if "patched" in has:
        blocks.append(_causal(known, kind))
    elif "strongest d" in has:
        blocks.append(Text(
            "{name} separated {first} from {second} most on fit; on test its Cohen's d is {d}. Nothing was patched, so "
            "nothing here is known to be a cause.",
            {"first": fact("first", "", column="text"), "second": fact("second", "", column="text"),
             "name": fact("strongest d", "", column="text"), "d": fact("strongest d", ci=True)}, kind,
        ))  # fmt: skip
    if "replayed" in has:
        blocks.append(_replay(known, kind))
    elif known.loc["edges", "value"]:
        blocks.append(Text(
            "{edges} pathways into {targets} features are kept by gradient; none was replayed, so none is validated.",
            {"edges": fact("edges", "d"), "targets": fact("targets", "d")}, kind,
        ))  # fmt: skip
    if "tokens" in has:
        blocks.append(_tokens(known))
    blocks.append(Page(
        "graph.html", "The graph of features", "graph.svg",
        "Rows are sites, low layers at the bottom; across, by Cohen's d. A ring marks a causal feature. Solid lines "
        "are pathways that replay validated, dashed ones it did not, dotted ones were not replayed or nothing is "
        "concluded of them; width is attribution. The page shows every feature and lets you choose.",
    ))  # fmt: skip
    blocks.append(Table("features", "Features", FEATURES, sort="is_causal", descending=True, limit=shown,
                        labels=LABELS))  # fmt: skip
    if known.loc["edges", "value"]:
        blocks.append(Table("edges", "Pathways", EDGES, {"kind": str(known.loc["edges", "text"])}, "validated", True,
                            shown, LABELS))  # fmt: skip
    return blocks + _limits(str(known.loc["graph", "text"]))


def _causal(known: pd.DataFrame, kind: Kind) -> Text:
    refs = {"patched": fact("patched", "d")}
    if known.loc["no causes", "text"]:
        refs["why"] = fact("no causes", "", column="text")
        text = "No conclusion about causes: {why}."
    elif known.loc["causal", "value"]:
        refs["causal"] = fact("causal", "d")
        text = "{causal} of {patched} patched features are found causal."
    else:
        text = "None of {patched} patched features is found to move the answers and to stand out from random latents."
    if "strongest change" in known.index:
        text += " The strongest, {name}, changes the {measure} by {change} under {condition}"
        refs |= {
            "name": fact("strongest change", "", column="text"), "measure": fact("measure", "", column="text"),
            "change": fact("strongest change", "+.3f", ci=True),
            "condition": fact("strongest condition", "", column="text"),
        }  # fmt: skip
        control = known.loc["strongest change", "control"]
        text += "; no random latents were patched beside it." if control != control else (
            "; its matched random latents by {control} on average, up or down.")  # fmt: skip
        if control == control:
            refs["control"] = fact("strongest change", column="control")
    return Text(text, refs, kind)


def _replay(known: pd.DataFrame, kind: Kind) -> Text:
    refs = {"replayed": fact("replayed", "d")}
    if not known.loc["replayed", "value"]:
        return Text("No pathway was replayed: none was kept, or no held-out row had its source active.")
    if known.loc["judged", "value"]:
        text = "{validated} of {replayed} replayed pathways are validated."
        refs["validated"] = fact("validated", "d")
    else:
        text = "No conclusion about the {replayed} replayed pathways; the section of step replay says why."
    if "pearson" in known.index and known.loc["pearson", "value"] == known.loc["pearson", "value"]:
        text += " Predicted and measured change correlate at {pearson}"
        refs["pearson"] = fact("pearson", ci=True)
        if "control pearson" in known.index and known.loc["control pearson", "n"] > 0:
            text += "; over random latents at {control}, so agreement alone is no importance"
            refs["control"] = fact("control pearson", ci=True)
        text += "."
    return Text(text, refs, kind)


def _tokens(known: pd.DataFrame) -> Text:
    if known.loc["no tokens", "text"]:
        why = {"why": fact("no tokens", "", column="text")}
        return Text("No conclusion about tokens under patches: {why}.", why)
    refs = {"found": fact("tokens", "d"), "features": fact("features with tokens", "d")}
    text = "Tokens that shift under a patch: {found}, under those of {features} features"
    if "token tests" in known.index:
        text += "; {tests} were tested ({able} stand in enough responses to tell)"
        refs |= {"tests": fact("token tests", "d"), "able": fact("telling tests", "d")}
    if known.loc["tokens", "control"] == known.loc["tokens", "control"]:
        text += "; as many patches of random latents would give {control}"
        refs["control"] = fact("tokens", ".2g", column="control")
    return Text(text + ".", refs)


def _limits(no_graph: str) -> list[Block]:
    out: list[Block] = [
        Text("This step measures nothing: every number is the cell of an earlier step, joined by the feature's name. "
             "What no step said is left empty; empty is not zero.", kind="method"),
        Text("A pathway that is not drawn was not kept or not looked for: only pairs among the dictionaries' sites are "
             "traced, for the targets that were chosen, and the strongest sources of each.", kind="limit"),
    ]  # fmt: skip
    if no_graph:
        why = {"why": fact("graph", "", column="text")}
        out.append(Text("attribution_graph.json is not written: {why}.", why, "limit"))
    return out
