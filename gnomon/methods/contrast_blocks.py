"""How `confidence_directions` reads in the report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.methods.contrast_tables import PAIRS
from gnomon.methods.increment import SMALL
from gnomon.methods.probe_blocks import fact
from gnomon.stats import thin_notes
from gnomon.store import Artifact

LABELS = {"ci_low": "low", "ci_high": "high", "n_pos": "positive"}
WORDS = {"answer": "at the answer, before any question about confidence,",
         "confidence": "at the confidence position, whose next token states it,"}  # fmt: skip
HOLDS = {
    "yes": "So how sure it will say it is can be read there.",
    "no": "So how sure it will say it is was not found there.",
    "undecided": "Whether it can be read there is undecided at this size.",
}
BEYOND = {
    "yes": "So this direction knows more about being right than these do.",
    "no": "So it is no evidence of knowledge beyond these.",
    "undecided": "Whether it knows more than these is undecided at this size.",
}


def contrast_blocks(artifact: Artifact) -> list[Block]:
    """Headline for each place, cosines, curves, every score beside its controls, rules and limits."""
    known = artifact.table("facts")
    facts = dict(zip(known["fact"].astype(str), known["text"].astype(str), strict=True))
    if facts["nothing"]:
        return [Text(
            "No direction of stated confidence ({of}) was made: {why}. It has a standard deviation of {spread} over "
            "{rows} rows.",
            {"of": fact("of", "text", ""), "why": fact("nothing", "text", ""), "spread": fact("spread", spec=".3f"),
             "rows": fact("rows")}, "headline",
        ), _method()]  # fmt: skip
    scores, cosines = artifact.table("scores"), artifact.table("cosines")
    places = [name for name in WORDS if f"holds at {name}" in facts]
    blocks: list[Block] = [_setting()]
    for place in places:
        blocks += _place(place, scores, facts)
    blocks += _cosines(cosines)
    blocks.append(Figure(
        "line", "sweep", "layer", "value", "High against low stated confidence by layer, on fit and tune", "series",
        "ci_low", "ci_high", reference=0.5, reference_label="chance", x_title="layer", y_title="AUROC",
        caption="Each row is scored by a direction that did not see it; test is not used. Bands: 95% intervals over "
        "groups; for shuffled confidence, the range of 95% of the shuffles.",
    ))  # fmt: skip
    columns = ("place", "target", "site", "predictor", "control", "metric", "value", "ci_low", "ci_high", "n", "n_pos",
               "p", "q", "note")  # fmt: skip
    blocks.append(
        Table("scores", "Every score on held-out rows, beside its controls", columns, limit=80, labels=LABELS)
    )
    blocks += [Text(note, kind="warning") for note in thin_notes(scores["note"])]
    return [*blocks, *_limits(facts["split"] == "cv"), _method()]


def _setting() -> Text:
    return Text(
        "High and low are the top and bottom {share} of the stated confidence of {of} ({high_n} and {low_n} of {rows} "
        "rows, from {high} up and up to {low}). {unasked} rows without a stated confidence and {unread} without "
        "activations at every place were left out.",
        {"share": fact("share", spec=".0%"), "of": fact("of", "text", ""), "high_n": fact("high"), "low_n": fact("low"),
         "rows": fact("rows"), "high": fact("high end", spec=".1%"), "low": fact("low end", spec=".1%"),
         "unasked": fact("unasked"), "unread": fact("unread")},
    )  # fmt: skip


def _place(place: str, scores: pd.DataFrame, facts: dict[str, str]) -> list[Block]:
    here = scores.loc[scores["place"] == place, :]

    def cell(target: str, metric: str, control: str = "", predictor: str = "difference", **how: Any) -> Ref:
        where = {"place": place, "target": target, "metric": metric, "control": control, "predictor": predictor}
        return Ref("scores", where, how.get("column", "value"), how.get("format", ".3f"), how.get("ci", False))

    refs = {
        "site": fact(f"site at {place}", "text", ""), "n": cell("high", "auroc", column="n", format="d"),
        "value": cell("high", "auroc", ci=True), "null": cell("high", "auroc", "shuffled"),
        "random": cell("high", "auroc", "random"), "p": cell("high", "auroc", "shuffled", column="p"),
    }  # fmt: skip
    targets = set(here["target"])
    if "high" not in targets:
        return [Text(f"Too few rows are high or low {WORDS[place]} to be held out: nothing is said.", kind="warning")]
    said = (
        f"A direction {WORDS[place]} (best on fit and tune: {{site}}) tells high from low stated confidence with AUROC "
        "{value} on {n} held-out rows; directions of shuffled confidence come to {null} (p = {p}), random ones to "
        "{random}. " + HOLDS[facts[f"holds at {place}"]]
    )
    out: list[Block] = [Text(said, refs, "headline")]
    if "correct" in targets:
        refs = {
            "value": cell("correct", "auroc", ci=True), "null": cell("correct", "auroc", "shuffled"),
            "random": cell("correct", "auroc", "random"), "p": cell("correct", "auroc", "shuffled", column="p"),
            "base": cell("correct", "auroc", predictor="baselines+difference"),
            "gain": cell("correct", "auroc", predictor="increment", format="+.3f", ci=True),
            "partial": cell("correct", "partial", predictor="increment", format="+.3f", ci=True),
            "given": fact("given", "text", ""),
        }  # fmt: skip
        out.append(Text(
            "The same direction tells right from wrong answers with AUROC {value} (directions of shuffled confidence "
            "{null}, p = {p}; random ones {random}). Beside {given} it comes to {base}, an increment of {gain}; given "
            "them, it still correlates with being right by {partial}. " + BEYOND[facts[f"beyond at {place}"]],
            refs, "headline",
        ))  # fmt: skip
    return out


def _cosines(cosines: pd.DataFrame) -> list[Block]:
    out: list[Block] = []
    for pair in PAIRS:
        own = cosines.loc[(cosines["pair"] == pair) & cosines["chosen"] & (cosines["control"] == ""), :]
        if len(own) != 1:
            continue
        where = {"pair": pair, "chosen": True}
        if own["note"].iloc[0]:
            out.append(Text(
                f"Cosine of the directions of {pair}, at {{site}}: {{note}} (p = {{p}} for any likeness).",
                {"site": Ref("cosines", where | {"control": ""}, "site", ""),
                 "note": Ref("cosines", where | {"control": ""}, "note", ""),
                 "p": Ref("cosines", where | {"control": ""}, "p", ".3f")},
            ))  # fmt: skip
            continue
        out.append(Text(
            f"Cosine of the directions of {pair}, at {{site}}: {{value}}; with shuffled labels {{null}} "
            "(p = {p}). The plain cosine, which counts shared noise, is {plain}.",
            {"site": Ref("cosines", where | {"control": ""}, "site", ""),
             "value": Ref("cosines", where | {"control": ""}, "value", "+.2f", ci=True),
             "null": Ref("cosines", where | {"control": "shuffled"}, "value", "+.2f", ci=True),
             "p": Ref("cosines", where | {"control": ""}, "p", ".3f"),
             "plain": Ref("cosines", where | {"control": ""}, "plain", "+.2f")}, "headline",
        ))  # fmt: skip
    if not cosines.empty:
        out.append(Figure(
            "line", "cosines", "layer", "value", "Cosines of the directions by layer", "series", "ci_low", "ci_high",
            reference=0.0, x_title="layer", y_title="debiased cosine",
            caption="On fit and tune. A gap: a direction there is not above its own noise, and has no cosine.",
        ))  # fmt: skip
    return out


def _limits(nested: bool) -> list[Block]:
    out: list[Block] = [Text(
        "At the confidence position late layers hold what is about to be said, so that high against low is no "
        "discovery there: what counts is from which layer on, and whether the direction knows right from wrong. A "
        "direction that can be read is not yet one that the model uses: swap and intervene ask that.", kind="limit",
    )]  # fmt: skip
    if nested:
        out.append(Text(
            "With fewer groups than nested_below the held-out numbers are nested cross-validation: the ends of high "
            "and low, the layer, the direction and the combination with the baselines are made anew inside the "
            "training groups of each fold. Folds share training rows, so intervals are widened by half (Nadeau and "
            "Bengio). The saved directions have seen fit rows only.", kind="method",
        ))  # fmt: skip
    return out


def _method() -> Text:
    return Text(
        "Directions are differences of means. Rules, fixed beforehand. Read: the AUROC's interval lies above .5 and "
        "shuffles by group are beaten (p <= .05). Beyond the baselines: the intervals of the increment and of the "
        f"partial correlation lie above 0; no evidence: the increment's ends below {SMALL}, and the partial one's does "
        "not lie above 0. Cosines are "
        "debiased: products of class means over pairs of rows of different groups, so that noise shared by both "
        "directions counts for nothing and noise of either does not shrink them.",
        kind="method",
    )
