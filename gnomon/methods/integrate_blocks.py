"""How step integrate reads in the report: what stands at the end of the chain, the graph, the tables behind it."""

from __future__ import annotations

from typing import Literal

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
        "{features} features of {sites} sites are joined here by name; {separated} of them are those that separate "
        "{first} from {second} most, by site.",
        {"features": fact("features", "d"), "sites": fact("sites", "d"), "separated": fact("separated", "d"),
         "first": fact("first", "", column="text"), "second": fact("second", "", column="text")},
    )]  # fmt: skip
    if short:
        blocks.append(Text(
            "No conclusion: {why}. What the steps measured is shown; nothing of it is a verdict.",
            {"why": fact("shortfall", "", column="text")}, "headline",
        ))  # fmt: skip
    if "patched" in has:
        blocks.append(_causal(has, kind))
    elif "strongest d" in has:
        blocks.append(Text(
            "Of the features that separate {first} from {second}, {name} has the largest Cohen's d: {d} on test. "
            "Nothing was patched, so nothing here is known to be a cause.",
            {"first": fact("first", "", column="text"), "second": fact("second", "", column="text"),
             "name": fact("strongest d", "", column="text"), "d": fact("strongest d", ci=True)}, kind,
        ))  # fmt: skip
    if "replayed" in has:
        blocks.append(_replay(has, kind))
    elif known.loc["edges", "value"]:
        blocks.append(Text(
            "{edges} pathways into {targets} features are kept by gradient; none was replayed, so none is validated.",
            {"edges": fact("edges", "d"), "targets": fact("targets", "d")}, kind,
        ))  # fmt: skip
    if "tokens" in has:
        text = "{found} of {tests} tokens tested shift with a patch, under {features} features"
        refs = {"found": fact("tokens", "d"), "tests": fact("token tests", "d"),
                "features": fact("features with tokens", "d")}  # fmt: skip
        if known.loc["tokens", "control"] == known.loc["tokens", "control"]:
            text += "; as many patches of random latents would give {control}"
            refs["control"] = fact("tokens", ".2g", column="control")
        blocks.append(Text(text + ".", refs))
    blocks.append(Page(
        "graph.html", "The graph of features", "graph.svg",
        "Rows are sites, low layers at the bottom; across, by Cohen's d. A ring marks a causal feature. Solid lines "
        "are pathways that replay validated, dashed ones it did not, dotted ones were not replayed; width is "
        "attribution. The page shows every feature and lets you choose.",
    ))  # fmt: skip
    blocks.append(Table("features", "Features", FEATURES, sort="is_causal", descending=True, limit=shown,
                        labels=LABELS))  # fmt: skip
    if known.loc["edges", "value"]:
        blocks.append(Table("edges", "Pathways", EDGES, {"kind": str(known.loc["edges", "text"])}, "validated", True,
                            shown, LABELS))  # fmt: skip
    return blocks + _limits(bool(known.loc["graph", "value"]))


def _causal(has: set[str], kind: Kind) -> Text:
    refs = {"causal": fact("causal", "d"), "patched": fact("patched", "d")}
    if "strongest change" not in has:
        return Text("None of the {patched} patched features moves the answers more than its random latents do.",
                    {"patched": refs["patched"]}, kind)  # fmt: skip
    return Text(
        "{causal} of {patched} patched features move the answers. The strongest, {name}, changes the {measure} by "
        "{change} under {condition}; its matched random latents by {control}.",
        {
            **refs, "name": fact("strongest change", "", column="text"), "measure": fact("measure", "", column="text"),
            "change": fact("strongest change", ci=True), "control": fact("strongest change", column="control"),
            "condition": fact("strongest condition", "", column="text"),
        }, kind,
    )  # fmt: skip


def _replay(has: set[str], kind: Kind) -> Text:
    text = "{validated} of {replayed} replayed pathways are validated."
    refs = {"validated": fact("validated", "d"), "replayed": fact("replayed", "d")}
    if "pearson" in has:
        text += " Predicted and measured change correlate at {pearson}"
        refs["pearson"] = fact("pearson", ci=True)
        if "control pearson" in has:
            text += "; over random latents at {control}, so agreement alone is no importance"
            refs["control"] = fact("control pearson", ci=True)
        text += "."
    return Text(text, refs, kind)


def _limits(json: bool) -> list[Block]:
    out: list[Block] = [
        Text("This step measures nothing: every number is the cell of an earlier step, joined by the feature's name. "
             "What no step said is left empty; empty is not zero.", kind="method"),
        Text("A pathway that is not drawn was not kept or not looked for: only pairs among the dictionaries' sites are "
             "traced, for the targets that were chosen, and the strongest sources of each.", kind="limit"),
    ]  # fmt: skip
    if not json:
        out.append(Text("attribution_graph.json is not written: its viewers need a feature above the first layer.",
                        kind="limit"))  # fmt: skip
    return out
