"""The report section of step pathways: what features come from, how far prompts agree, what it took, what it is not."""

from __future__ import annotations

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact

LABELS = {
    "source_name": "from", "target_name": "to", "kind": "kind", "attribution": "attribution", "share": "share",
    "gradient": "gradient", "active_prompts": "active in", "prompts": "prompts", "same_sign": "same sign",
    "listed": "separates too", "ci_low": "low", "ci_high": "high",
}  # fmt: skip
FORMATS = {
    "attribution": ".3f",
    "share": ".1%",
    "gradient": ".4f",
    "same_sign": ".0%",
    "ci_low": ".3f",
    "ci_high": ".3f",
}
LIMIT = (
    "A gradient says what a small change of the source does, in the prompts in which the edge was chosen; it says "
    "nothing of how much of the target's activation would be missing without it where the model is not linear, and "
    "edges of random latents look alike. What happens when the source is really changed, on held-out prompts and "
    "beside random latents that are as active, is what step replay measures."
)


def pathway_blocks(artifact: Artifact) -> list[Block]:
    """Headline, edges, kinds by layer, prompts, cost, limits."""
    facts = artifact.table("facts").set_index("fact")
    text, found = facts["text"].to_dict(), artifact.table("pathways")
    blocks: list[Block] = list(_headline(artifact, text, found))
    blocks.append(Text(
        "Targets: {targets} features ({chosen}), each traced in the prompts of fit where it is strongest, one a group. "
        "Kept are the sources of largest |share|: {edges} edges, {beside} of whose intervals over prompts exclude 0 "
        "({listed} of the sources separate the classes too).",
        {"targets": _fact("targets"), "chosen": Ref("facts", {"fact": "chosen"}, "text", ""), "edges": _fact("edges"),
         "beside": _fact("edges beside 0"), "listed": _fact("listed sources")}, "method",
    ))  # fmt: skip
    if len(found):
        blocks += _edges(found)
    blocks += [
        Table("targets", "Targets", sort="share", descending=True, formats={"activation": ".2f", "share": ".1%",
              "kept_share": ".1%"}),
        Table("prompts", "Prompts in which targets were traced", ["name", "rank", "row", "label", "activation",
              "prompt"], limit=10, formats={"activation": ".2f"}, marks=(str(text["first"]), str(text["second"]))),
        _cost(),
    ]  # fmt: skip
    if text.get("silent names"):
        blocks.append(Text("Not traced, for in no prompt of fit are they active on a token of ordinary norm: {n} "
                           "features ({names}).", {
            "n": _fact("silent"), "names": Ref("facts", {"fact": "silent names"}, "text", "")}, "warning"))  # fmt: skip
    if float(facts["value"].to_dict().get("lowest", 0)) > 0:
        blocks.append(Text("Not traced either: {n} features of the lowest site, for no dictionary lies below it.", {
            "n": _fact("lowest")}))  # fmt: skip
    if text.get("other dictionary"):
        blocks.append(Text("The features were found in other dictionaries ({which}) than those that are traced: the "
                           "same number need not be the same latent.", {
            "which": Ref("facts", {"fact": "other dictionary"}, "text", "")}, "warning"))  # fmt: skip
    if text.get("features at"):
        blocks.append(Text("The features were chosen at another position ({at}) than the one that is traced.", {
            "at": Ref("facts", {"fact": "features at"}, "text", "")}, "warning"))  # fmt: skip
    return [*blocks, Text(LIMIT, kind="limit")]


def _fact(name: str, spec: str = ".0f") -> Ref:
    return Ref("facts", {"fact": name}, "value", spec)


def _headline(artifact: Artifact, text: dict[str, str], found: pd.DataFrame) -> list[Block]:
    if text.get("no conclusion"):
        return [Text("No conclusion about classes: {why}. The edges below say what features come from, not that they "
                     "matter to either class.",
                     {"why": Ref("facts", {"fact": "no conclusion"}, "text", "")}, "headline")]  # fmt: skip
    total = found.loc[found["kind"] == "total"] if len(found) else found
    if not len(total):
        return [Text("No source passes the thresholds: none of the {targets} targets keeps an edge.",
                     {"targets": _fact("targets")}, "headline")]  # fmt: skip
    top = total.loc[total["share"].abs().idxmax()]
    where = {"source_name": top["source_name"], "target_name": top["target_name"], "kind": "total"}
    return [Text(
        "The strongest edge: {source} brings {share} of the activation of {target} (attribution {attribution}), by "
        "gradient; not yet replayed.",
        {"source": Ref("pathways", where, "source_name", ""), "target": Ref("pathways", where, "target_name", ""),
         "share": Ref("pathways", where, "share", ".1%"),
         "attribution": Ref("pathways", where, "attribution", ".3f", ci=True)}, "headline",
    )]  # fmt: skip


def _edges(found: pd.DataFrame) -> list[Block]:
    total = found.loc[found["kind"] == "total"]
    target = str(total.loc[total["share"].abs().idxmax(), "target_name"])
    out: list[Block] = [
        Table("pathways", "Strongest edges", ["source_name", "target_name", "attribution", "ci_low", "ci_high", "share",
              "gradient", "active_prompts", "prompts", "same_sign", "listed"], {"kind": "total"}, sort="share",
              descending=True, limit=25, labels=LABELS, formats=FORMATS),
        Figure("bar", "pathways", "source_name", "attribution", f"What {target} comes from", low="ci_low",
               high="ci_high", color="kind", where={"target_name": target}, reference=0.0, x_title="source",
               y_title="attribution",
               caption="total: all paths; mediated: by way of latents of the dictionaries between; dark: through what "
               "these leave over or past them; mixed: both. 95% intervals over prompts."),
    ]  # fmt: skip
    if len(set(zip(found["source_site"], found["target_site"], strict=True))) > 1:
        out.append(Figure("heatmap", "layers", "target_site", "source_site", "Mean |share| of the kept edges",
                          value="value", where={"kind": "total"}))  # fmt: skip
    return out


def _cost() -> Block:
    def cell(what: str, column: str, spec: str) -> Ref:
        return Ref("cost", {"what": what}, column, spec)

    return Text(
        "Took {seconds} s for {n} targets of {every} ({whole} s for all); a thousand features would take {thousand} s, "
        "and {full} with {pathways} pathways {all} s, on this machine at {peak} bytes of memory at its peak, the model "
        "included.",
        {"every": cell("all targets", "features", "d"), "whole": cell("all targets", "seconds", ",.1f"),
         "seconds": cell("measured", "seconds", ".1f"), "n": cell("measured", "features", "d"),
         "thousand": cell("1,000 features", "seconds", ",.0f"), "full": cell("full run", "features", ",d"),
         "pathways": cell("full run", "pathways", ",d"), "all": cell("full run", "seconds", ",.0f"),
         "peak": cell("measured", "peak_bytes", ",d")},
    )  # fmt: skip
