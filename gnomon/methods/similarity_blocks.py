"""How `self_other` reads in the report."""

from __future__ import annotations

import numpy as np

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.methods.increment import SMALL
from gnomon.methods.probe_blocks import fact
from gnomon.stats import thin_notes
from gnomon.store import Artifact

LABELS = {"ci_low": "low", "ci_high": "high", "n_pos": "positive"}
CARRIES = {
    "both": "So each probe reads the other pass: what they follow lies along shared directions.",
    "one": "So only one of the two probes reads the other pass.",
    "none": "So neither probe was found to read the other pass.",
}
TELLS = {
    "yes": "So what the two passes say apart knows more about being right than these do.",
    "no": "So what the two passes say apart is no evidence of knowledge beyond these.",
    "undecided": "Whether what they say apart knows more than these is undecided at this size.",
}


def self_other_blocks(artifact: Artifact) -> list[Block]:
    """What is stated, similarity, directions, transfer; curves by layer, tables, rules."""
    known = artifact.table("facts")
    facts = dict(zip(known["fact"].astype(str), known["text"].astype(str), strict=True))
    a, b, split = facts["a"], facts["b"], facts["split"]
    blocks: list[Block] = [Text(
        "Two passes over {rows} rows ({groups} groups): {a} (ask: {ask_a}) and {b} (ask: {ask_b}); activations of each "
        "at its own {position}. {unasked} rows without both confidences and {unread} without both activations were "
        "left out.",
        {"rows": fact("rows"), "groups": fact("groups"), "unasked": fact("unasked"), "unread": fact("unread"),
         **{k: fact(k.replace("_", " "), "text", "") for k in ("a", "b", "ask_a", "ask_b", "position")}},
    )]  # fmt: skip
    blocks += _stated(artifact, a, b, facts)
    blocks.append(_similar(artifact))
    if facts["nothing"]:
        blocks.append(Text("No directions and no transfer: {why}.", {"why": fact("nothing", "text", "")}, "warning"))
    else:
        blocks += [*_directions(artifact), *_transfer(a, b, facts, split)]
    blocks += _figures(not facts["nothing"])
    blocks.append(Table("stated", "What the two passes state, beside right and wrong", (
        "predictor", "metric", "control", "split", "value", "ci_low", "ci_high", "p", "n", "n_pos", "note",
    ), limit=30, labels=LABELS))  # fmt: skip
    blocks += [Text(note, kind="warning") for note in thin_notes(artifact.table("stated")["note"])]
    return [*blocks, *_rules(split == "cv")]


def _stated(artifact: Artifact, a: str, b: str, facts: dict[str, str]) -> list[Block]:
    gap = f"{a} - {b}"

    def cell(predictor: str, metric: str, control: str = "", spec: str = ".3f", ci: bool = False, col: str = "value"):
        return Ref("stated", {"predictor": predictor, "metric": metric, "control": control}, col, spec, ci)

    out: list[Block] = [Text(
        "{a} states {mean_a} on average, {b} {mean_b}: a difference of {gap}. Over rows the two go together with rank "
        "correlation {rho}.",
        {"a": fact("a", "text", ""), "b": fact("b", "text", ""), "mean_a": cell(a, "mean", spec=".1%"),
         "mean_b": cell(b, "mean", spec=".1%"), "gap": cell(gap, "mean", spec="+.3f", ci=True),
         "rho": cell(f"{a}, {b}", "spearman", ci=True)}, "headline",
    )]  # fmt: skip
    table = artifact.table("stated")
    predictors = set(table.loc[np.asarray(table["metric"] == "auroc"), "predictor"])
    if gap not in predictors:
        return [*out, Text("All answers are of one class: nothing is said of right and wrong.", kind="warning")]
    said = (
        "Right from wrong answers: {a} AUROC {first}, {b} {second}, a paired difference of {better}. Their difference, "
        f"{gap}, comes to {{value}} (shuffled labels {{null}}, p = {{p}})."
    )
    refs = {
        "a": fact("a", "text", ""), "b": fact("b", "text", ""), "first": cell(a, "auroc", ci=True),
        "second": cell(b, "auroc", ci=True), "better": cell(f"{a} over {b}", "auroc", spec="+.3f", ci=True),
        "value": cell(gap, "auroc", ci=True), "null": cell(gap, "auroc", "shuffled"),
        "p": cell(gap, "auroc", "shuffled", col="p"),
    }  # fmt: skip
    if "increment" in predictors:
        said += " Beside {given} it adds {gain}, and given them correlates with being right by {partial}. "
        said += TELLS[facts["tells"]]
        refs |= {"given": fact("given", "text", ""), "gain": cell("increment", "auroc", spec="+.3f", ci=True),
                 "partial": cell("increment", "partial", spec="+.3f", ci=True)}  # fmt: skip
    return [*out, Text(said, refs, "headline")]


def _similar(artifact: Artifact) -> Text:
    table = artifact.table("similarity")
    late = next(s for s in ("test", "all") if s in set(table["split"]))

    def cell(measure: str, control: str = "", column: str = "value", ci: bool = True) -> Ref:
        where = {"split": late, "measure": measure, "control": control, "chosen": True}
        return Ref("similarity", where, column, "" if column == "site" else ".3f", ci)

    return Text(
        "At {site} the two passes' representations have debiased CKA {cka} (other rows' partners {null}, p = {p}); "
        "rows have cosine {cosine} with their partner ({other} with others'), and {centred} once each pass's mean "
        "is taken off ({rest}).",
        {"site": cell("cka", column="site", ci=False), "cka": cell("cka"), "null": cell("cka", "shuffled"),
         "p": cell("cka", column="p", ci=False), "cosine": cell("cosine"),
         "other": cell("cosine", "shuffled", ci=False), "centred": cell("cosine_centred"),
         "rest": cell("cosine_centred", "shuffled", ci=False)}, "headline",
    )  # fmt: skip


def _directions(artifact: Artifact) -> list[Block]:
    own = artifact.table("cosines").query("chosen and control == ''").iloc[0]
    here = {"chosen": True, "control": ""}
    refs = {"site": Ref("cosines", here, "site", ""), "p": Ref("cosines", here, "p", ".3f"),
            "pair": Ref("cosines", here, "pair", "")}  # fmt: skip
    if own["note"]:
        refs["note"] = Ref("cosines", here, "note", "")
        return [Text("Cosine of the directions of {pair} at {site}: {note} (p = {p} for any likeness).", refs)]
    refs |= {"value": Ref("cosines", here, "value", "+.2f", ci=True), "plain": Ref("cosines", here, "plain", "+.2f"),
             "null": Ref("cosines", here | {"control": "shuffled"}, "value", "+.2f", ci=True)}  # fmt: skip
    return [Text(
        "Cosine of the directions of {pair} at {site}: {value}; with shuffled labels {null} (p = {p}). The plain "
        "cosine, which counts shared noise, is {plain}.", refs, "headline",
    )]  # fmt: skip


def _transfer(a: str, b: str, facts: dict[str, str], split: str) -> list[Block]:
    def cell(probe: str, read: str, metric: str = "spearman", control: str = "", column: str = "value") -> Ref:
        where = {"probe": probe, "read": read, "metric": metric, "control": control, "split": split}
        return Ref("transfer", where, column, ".3f", ci=column == "value" and control == "")

    out: list[Block] = []
    for probe, read in ((a, b), (b, a)):
        text = (
            f"A probe of {probe}'s stated confidence follows it on held-out rows with rank correlation {{own}}; read "
            f"on {read}'s activations it follows {read}'s with {{across}} (probes of shuffled confidence {{null}}, "
            f"p = {{p}}). {read}'s own probe comes to {{within}}, so that {{loss}} is lost; given {probe}'s stated "
            "value {partial} is left."
        )
        refs = {
            "own": cell(probe, probe), "across": cell(probe, read), "null": cell(probe, read, control="shuffled"),
            "p": cell(probe, read, column="p"), "within": cell(read, read), "loss": cell(probe, read, "loss"),
            "partial": cell(probe, read, "partial"),
        }  # fmt: skip
        out.append(Text(text + (f" {CARRIES[facts['carries']]}" if probe == b else ""), refs, "headline"))
    columns = ("probe", "read", "metric", "control", "site", "value", "ci_low", "ci_high", "p", "n", "note")
    return [*out, Table("transfer", "Probes on held-out rows", columns, {"split": split}, limit=30, labels=LABELS)]


def _figures(moved: bool) -> list[Block]:
    out: list[Block] = [Figure(
        "line", "similarity", "layer", "value", "Likeness of the two passes by layer", "series", "ci_low", "ci_high",
        where={"split": "fit+tune"}, reference=0.0, x_title="layer", y_title="likeness",
        caption="On fit and tune. CKA that is not debiased is above 0 for pure noise.",
    )]  # fmt: skip
    if moved:
        out.append(Figure(
            "line", "transfer", "layer", "value", "Probes of stated confidence, within and across", "series", "ci_low",
            "ci_high", where={"split": "fit+tune"}, reference=0.0, x_title="layer", y_title="rank correlation",
            caption="Out of fold on fit and tune; across, nothing is fitted again.",
        ))  # fmt: skip
        out.append(Figure(
            "line", "cosines", "layer", "value", "Cosine of the two directions by layer", "series", "ci_low", "ci_high",
            reference=0.0, x_title="layer", y_title="debiased cosine",
            caption="On fit and tune. A gap: a direction there is not above its own noise, and has no cosine.",
        ))  # fmt: skip
    return out


def _rules(nested: bool) -> list[Block]:
    out: list[Block] = [Text(
        "Both prompts hold the same question and answer, so that likeness is expected of them: other rows' partners "
        "say how much of it is the row's own. Probes and directions carry over as well where both confidences follow "
        "what both prompts hold (the kind of question, its difficulty): shared is not yet the same.", kind="limit",
    )]  # fmt: skip
    if nested:
        out.append(Text(
            "With fewer groups than nested_below transfer is nested cross-validation (site, penalty and probe are made "
            "anew inside the training groups of each fold, intervals widened by half), and what fits nothing is taken "
            "of all rows.", kind="method",
        ))  # fmt: skip
    return [*out, Text(
        "CKA: linear, debiased, over pairs of rows of different groups. Probes: ridge, the penalty by cross-"
        "validation; the site by how well both read their own pass. Rules, fixed beforehand. A probe reads the other "
        "pass: the interval of its rank correlation lies above 0 and shuffles are beaten (p <= .05). The stated "
        "difference knows more: the interval of its increment lies above 0 and that of its partial correlation leaves "
        f"0 out; no evidence: the increment's ends below {SMALL} and the partial one's holds 0.", kind="method",
    )]  # fmt: skip
