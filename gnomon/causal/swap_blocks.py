"""How a swap reads in the report: made from its tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.causal.pick import first, has, pick
from gnomon.causal.swap_items import RANDOM
from gnomon.store import Artifact

PLACES = {"answer": "the last token of the model's own answer", "confidence": "the confidence position"}
FAR = 0.1
"""Share of the gap by which stated confidence, asked again, may differ from the pass's own."""
NARROW = 0.05
"""Gap of stated confidence between sure and unsure items under which a reader would see none."""


def swap_blocks(artifact: Artifact) -> list[Block]:
    """Test headlines beside their controls, the sweep, depth, the answer, limits."""
    effects, facts = artifact.table("effects"), artifact.table("facts")
    if not has(effects, set="sweep"):
        return [_nothing(facts), _method()]
    blocks: list[Block] = []
    for position in PLACES:
        if has(effects, set="test", measure="confidence", position=position):
            blocks.append(_headline(effects, position))
    if not has(effects, set="test"):
        blocks.append(Text(
            "No pair of test rows differs enough in stated confidence ({rows} rows): the sweep below is not confirmed.",
            {"rows": _fact("test rows", "d")}, "warning",
        ))  # fmt: skip
    few = pick(facts, fact="least p")["value"].to_numpy(dtype=np.float64)
    if len(few) and few[0] > 0.05:
        blocks.append(Text(
            "With {pairs} pairs of test no p under {p} is possible, corrected for the positions: nothing can be "
            "confirmed.", {"pairs": _fact("test pairs", "d"), "p": _fact("least p", ".3f")}, "warning",
        ))  # fmt: skip
    narrow = pick(facts, fact="sweep gap")["value"].to_numpy(dtype=np.float64)
    if len(narrow) and narrow[0] < NARROW:
        blocks.append(Text(
            "Stated confidence hardly spreads: sure and unsure items are {gap} apart on a scale from 0 to 1 "
            "(standard deviation {sd}). All shares here are of that small gap: they say where it is carried, not that "
            "the model tells its sure answers from unsure ones in words that a reader would notice.",
            {"gap": _fact("sweep gap", ".4f"), "sd": _fact("sd", ".4f")}, "warning",
        ))  # fmt: skip
    blocks += _answer(effects)
    blocks.append(_pairs(effects))
    blocks += _depth(artifact.table("depth"))
    blocks += _figures(effects)
    blocks.append(Table(
        "effects", "On test, at the layers that the sweep chose", where={"set": "test", "way": "both"}, sort="position",
        columns=["measure", "position", "layer", "kind", "value", "ci_low", "ci_high", "shift", "p", "q", "pairs",
                 "verdict"],
        labels={"ci_low": "low", "ci_high": "high", "value": "share of the gap"}, limit=40,
    ))  # fmt: skip
    rebuilt = pick(facts, fact="rebuilt")["value"].to_numpy(dtype=np.float64)
    if len(rebuilt) and len(narrow) and rebuilt[0] > FAR * narrow[0]:
        blocks.append(Text(
            "Asked again, the pass's stated confidence differs by up to {far} from what its table holds, where sure "
            "and unsure items are {gap} apart: that is how exact the shares are. (Half precision, or another machine.)",
            {"far": _fact("rebuilt", ".4f"), "gap": _fact("sweep gap", ".4f")}, "warning",
        ))  # fmt: skip
    blocks.append(_method())
    blocks.append(Text(
        "The last layers at the confidence position hold the outcome itself, so that a swap there must work: what says "
        "something is from which layer on it does, and the answer's token. A vector is exchanged whole: whatever else "
        "differs between the two items goes with it, which donors of the recipient's own kind show; carriers at "
        "several tokens, each enough by itself, are missed.", kind="limit",
    ))  # fmt: skip
    return blocks


def _fact(name: str, format: str = ".3f", column: str = "value") -> Ref:
    return Ref("facts", {"fact": name}, column, format)


def _nothing(facts: Any) -> Text:
    if not float(first(facts, fact="enough")["value"]):
        return Text(
            "There are too few items to swap: {rows} rows of fit and tune that pass {pass} has a confidence for, of "
            "which {share} count as sure, half of them donors only.",
            {"rows": _fact("rows", "d"), "pass": _fact("pass", "", "text"), "share": _fact("share", ".0%")}, "headline",
        )  # fmt: skip
    return Text(
        "There is nothing to swap: the confidence that pass {pass} states hardly differs between items (standard "
        "deviation {sd} over {rows} rows of fit and tune), and fewer than two pairs lie {gap} or more apart.",
        {"pass": _fact("pass", "", "text"), "sd": _fact("sd", ".5f"), "rows": _fact("rows", "d"),
         "gap": _fact("least gap", ".4f")}, "headline",
    )  # fmt: skip


def _headline(effects: Any, position: str) -> Text:
    cell = {"set": "test", "measure": "confidence", "position": position, "way": "both"}
    layer = int(first(effects, kind="excess", **cell)["layer"])
    at = {**cell, "layer": layer}
    refs = {
        "layer": Ref("effects", at | {"kind": "excess"}, "layer", "d"),
        "excess": Ref("effects", at | {"kind": "excess"}, "value", ".1%", ci=True),
        "other": Ref("effects", at | {"kind": "other"}, "value", ".1%"),
        "same": Ref("effects", at | {"kind": "same"}, "value", ".1%"),
        "verdict": Ref("effects", at | {"kind": "excess"}, "verdict", ""),
        "q": Ref("effects", at | {"kind": "excess"}, "q", ".3f"),
        "pairs": Ref("effects", at | {"kind": "excess"}, "pairs", "d"),
    }
    text = (
        f"A donor's activation at {PLACES[position]}, layer {{layer}}, moves stated confidence {{other}} of the way to "
        "the donor's, one of the recipient's own kind {same} of that way; the difference is {excess} of how far the "
        "two donors differ (test, {pairs} pairs; q = {q}); verdict: {verdict}"
    )
    if has(effects, **at, kind="beyond"):
        refs |= {
            "random": Ref("effects", at | {"position": RANDOM, "kind": "excess"}, "value", ".1%"),
            "beyond": Ref("effects", at | {"kind": "beyond"}, "value", ".1%", ci=True),
            "against": Ref("effects", at | {"kind": "beyond"}, "verdict", ""),
        }
        text += "; at a random token of the same texts it is {random}, {beyond} less; verdict: {against}"
    return Text(text + ".", refs, "headline")


def _answer(effects: Any) -> list[Block]:
    cell = {"set": "test", "measure": "answer", "position": "last_prompt", "way": "both"}
    if not has(effects, **cell):
        return []
    at = {**cell, "layer": int(first(effects, kind="excess", **cell)["layer"])}
    return [Text(
        "The answer: the same donors at the last prompt token of the generation, layer {layer}, change the probability "
        "of the model's own answer by {other}; donors of the recipient's own kind by {same}; the difference {excess} "
        "(q = {q}); verdict on the donor's confidence: {verdict}. (Of the former donors {alike} gave the recipient's "
        "very answer, of the latter {control}.)",
        {"layer": Ref("effects", at | {"kind": "excess"}, "layer", "d"),
         "other": Ref("effects", at | {"kind": "other"}, "value", "+.3f", ci=True),
         "same": Ref("effects", at | {"kind": "same"}, "value", "+.3f", ci=True),
         "excess": Ref("effects", at | {"kind": "excess"}, "value", "+.3f", ci=True),
         "q": Ref("effects", at | {"kind": "excess"}, "q", ".3f"),
         "verdict": Ref("effects", at | {"kind": "excess"}, "verdict", ""),
         "alike": _fact("test same answer", ".0%"), "control": _fact("test same answer, control", ".0%")},
    )]  # fmt: skip


def _pairs(effects: Any) -> Text:
    text = (
        "Pass {pass}: {pairs} pairs of fit and tune for the sweep (sure {sure}, unsure {unsure} on average; lengths "
        "differ by {far} tokens on average)"
    )
    refs = {
        "pass": _fact("pass", "", "text"), "pairs": _fact("sweep pairs", "d"), "sure": _fact("sweep sure", ".1%"),
        "unsure": _fact("sweep unsure", ".1%"), "far": _fact("sweep length difference", ".1f"),
    }  # fmt: skip
    if has(effects, set="test"):
        text += ", {tested} of test ({high} and {low})"
        refs |= {"tested": _fact("test pairs", "d"), "high": _fact("test sure", ".1%"),
                 "low": _fact("test unsure", ".1%")}  # fmt: skip
    return Text(text + ".", refs)


def _depth(depth: Any) -> list[Block]:
    blocks: list[Block] = []
    found = [p for p in (*PLACES, RANDOM) if has(depth, measure="confidence", position=p, statistic="spearman")]
    known = [p for p in found if np.isfinite(first(depth, measure="confidence", position=p)["value"])]
    if known:
        where = {p: {"measure": "confidence", "position": p, "statistic": "spearman"} for p in known}
        names = {**PLACES, RANDOM: "random tokens"}
        blocks.append(Text(
            "Correlation of the effect with layer depth (Spearman, over the swept layers, interval over pairs): "
            + "; ".join(f"{names[p]} {{{p}}}" for p in known) + ".",
            {p: Ref("depth", where[p], "value", "+.2f", ci=True) for p in known},
        ))  # fmt: skip
    hand = pick(depth, statistic="handover")["value"].to_numpy(dtype=np.float64)
    if len(hand) and np.isfinite(hand[0]):
        blocks.append(Text(
            "From layer {layer} on the confidence position carries more of it than the answer's token.",
            {"layer": Ref("depth", {"statistic": "handover"}, "value", ".0f", ci=True)},
        ))  # fmt: skip
    return blocks


def _figures(effects: Any) -> list[Block]:
    sweep = {"set": "sweep", "way": "both"}
    blocks: list[Block] = [Figure(
        "line", "effects", x="layer", y="value", color="position", low="ci_low", high="ci_high",
        where=sweep | {"measure": "confidence", "kind": "excess"}, reference=0.0, reference_label="no effect",
        title="How far a swap moves stated confidence toward the donor's (fit and tune)", x_title="layer",
        y_title="share of the gap, beyond donors of the same kind",
    )]  # fmt: skip
    for position in PLACES:
        if has(effects, **sweep, measure="confidence", position=position):
            blocks.append(Figure(
                "line", "effects", x="layer", y="value", color="kind", low="ci_low", high="ci_high",
                where=sweep | {"measure": "confidence", "position": position, "kind": ["other", "same"]},
                reference=0.0, reference_label="no effect", x_title="layer", y_title="share of the gap",
                title=f"Donors of the other confidence and of the same, at {PLACES[position]}",
            ))  # fmt: skip
    if has(effects, **sweep, measure="answer"):
        blocks.append(Figure(
            "line", "effects", x="layer", y="value", color="kind", low="ci_low", high="ci_high",
            where=sweep | {"measure": "answer", "position": "last_prompt", "kind": ["other", "same", "excess"]},
            reference=0.0, reference_label="no change", x_title="layer", y_title="change of probability",
            title="What a swap at the last prompt token does to the model's own answer (fit and tune)",
        ))  # fmt: skip
    return blocks


def _method() -> Text:
    return Text(
        "Sure and unsure items are the {share} with the highest and the lowest stated confidence, one row a group, "
        "paired by length; control donors are in no pair. Share of the gap: summed shifts toward the donor over summed "
        "differences of donor and recipient; of what one donor does beyond the other, over differences of the two. "
        "Layers were swept on fit and tune, and chosen (answer: the largest effect; confidence position: the first "
        "layer at half of the largest); test saw only those. Intervals resample pairs (percentiles expanded for their "
        "number); two-sided p by flipping the signs of pairs, q by Benjamini-Hochberg over the layers and positions "
        "swept, by Holm on test. Moves: six pairs, q <= .05 and the interval beyond {least}; does not: six pairs and "
        "the interval below {least}; else undecided.",
        {"share": _fact("share", ".0%"), "least": _fact("least", ".2f")}, "method",
    )  # fmt: skip
