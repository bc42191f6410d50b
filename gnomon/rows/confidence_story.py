"""The report section of a confidence pass: what was stated, does it tell right from wrong, and is it a mere habit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.rows.confidence_prompts import Wording
from gnomon.store import Artifact

if TYPE_CHECKING:
    from gnomon.step import Step

MANY = 0.2
"""Above this share of unread texts the section warns."""
MOST = 0.5
"""A bin with more than this mean probability takes most of the mass."""
STILL = 0.02
"""A standard deviation of confidence under this: the value hardly moves."""
SPILT = 0.5
"""Letters with less than this probability together: the model would rather say something else."""
SETTINGS = pa.schema([("setting", pa.string()), ("value", pa.string())])
SUBJECT = {
    "self": "states a mean confidence of {mean} in OWN answers",
    "other": "gives a random educated person a mean chance of {mean} of answering right",
    "p_true": "gives OWN answers a mean probability of {mean} of being true",
    "verbalised": "writes a mean confidence of {mean} in OWN answers",
    "consistency": "agrees with OWN answers in a mean {mean} of fresh samples",
}
ANSWERED = "answered by"
"""The setting that names the model whose answers were asked about, where it is another than the one asked."""
LABELS = {"ci_low": "95% from", "ci_high": "to"}
PERCENT: dict[str, str] = dict.fromkeys(
    ("mean", "sd", "ci_low", "ci_high", "share", "mean_prob", "content_free", "midpoint", "confidence", "normal",
     "reversed", "mass"), ".1%",
)  # fmt: skip


def answered_by(generation: Artifact) -> str:
    """The model of a generation, with its adapter, in words."""
    model = generation.meta.get("model", {})
    return " with ".join(str(model[key]) for key in ("name", "adapter") if model.get(key))


def settings(step: Step, words: Wording | None, answered: str = "") -> pa.Table:
    """How the model was asked: every option, and the question as it was put; which other model `answered`, if any."""
    options: dict[str, Any] = step.model_dump(mode="json")
    if words is not None:
        options["question"] = words.text("{question}", "{answer}", False, False)
    options[ANSWERED] = answered
    lines = [{"setting": k, "value": v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}
             for k, v in options.items() if v not in (None, "", [], {})]  # fmt: skip
    return pa.Table.from_pylist(lines, schema=SETTINGS)


def blocks(artifact: Artifact) -> list[Block]:
    """The section, from the step's own tables."""
    totals = {line["name"]: line["value"] for line in artifact.table("totals").to_dict("records")}
    ask, order = str(artifact.options.get("ask", "self")), artifact.table("order")
    binned = ask in ("self", "other", "p_true")
    split = _tested(artifact.table("scores"))
    out: list[Block] = [_headline(artifact, ask, split)]
    out += _warnings(artifact, totals, binned)
    if binned:
        out.append(_habit(artifact, order))
    elif artifact.has("content_free") and _free(artifact, "confidence"):
        out.append(Text("Asked about contents without content it writes {free} on average.",
                        {"free": _content_free("confidence")}, "control"))  # fmt: skip
    skipped = artifact.table("skipped")
    for reason in skipped["reason"]:
        at = {"reason": reason}
        out.append(Text("{n} rows ({share}) were not asked: {reason}.", {
            "n": Ref("skipped", at, "n", ",d"), "share": Ref("skipped", at, "share", ".1%"),
            "reason": Ref("skipped", at, "reason", ""),
        }, "limit"))  # fmt: skip
    out += _tables(artifact, binned, order)
    out.append(_method(ask, artifact.options))
    out.append(Table("settings", "How it was asked", ("setting", "value"), limit=40))
    return out


def _tested(scores: pd.DataFrame) -> str:
    """The rows that the headline speaks of: test, or all where test has no AUROC; "" where nothing has one."""
    known = scores.loc[(scores["control"] == "") & scores["value"].notna(), "split"]
    return next((split for split in ("test", "all") if (known == split).any()), "")


def _headline(artifact: Artifact, ask: str, split: str) -> Text:
    model = str(artifact.meta.get("model", {}).get("name", "The model")).rstrip("/").rpartition("/")[2]
    if not np.any(np.asarray(artifact.table("stated")["n"]) > 0):
        return Text(f"{model}: no confidence could be read from any of {{asked}} answers.",
                    {"asked": _total("asked", ",.0f")}, "headline")  # fmt: skip
    refs = {"mean": _stated("all"), "accuracy": _total("accuracy")}
    own = "another model's" if _other(artifact) else "its own"
    text = f"{model} {SUBJECT[ask].replace('OWN', own)}; {{accuracy}} of the answers are right. "
    if not split:
        return Text(
            text + "All answers are alike, so nothing can be said of telling right from wrong.", refs, "headline"
        )
    refs |= {
        "right": _stated("correct"), "wrong": _stated("incorrect"),
        "auroc": Ref("scores", {"split": split, "control": ""}, "value", ".3f", ci=True),
        "null": Ref("scores", {"split": split, "control": "shuffled"}, "value", ".3f", ci=True),
        "p": Ref("scores", {"split": split, "control": ""}, "p", ".3f"),
    }  # fmt: skip
    scores = artifact.table("scores")
    line = scores.loc[(scores["split"] == split) & (scores["control"] == ""), :].iloc[0]
    low, high = float(line["ci_low"]), float(line["ci_high"])
    where = "on test" if split == "test" else "on all rows"
    if pd.isna(low):
        said = f"Whether it tells right from wrong cannot be said from so few rows {where}"
    elif low > 0.5:
        said = f"It tells right from wrong answers {where}"
    elif high < 0.5:
        said = f"It is surer of wrong answers than of right ones {where}"
    else:
        said = f"It does not measurably tell right from wrong answers {where}"
    return Text(
        text + f"{said}: AUROC {{auroc}}, with labels shuffled by group {{null}} (p = {{p}}). Over all rows "
        "the mean is {right} where the answer is right and {wrong} where it is wrong.", refs, "headline",
    )  # fmt: skip


def _other(artifact: Artifact) -> bool:
    return ANSWERED in set(artifact.table("settings")["setting"])


def _warnings(artifact: Artifact, totals: dict[str, Any], binned: bool) -> list[Block]:
    out: list[Block] = []
    if _other(artifact):
        out.append(Text("The answers are those of another model ({who}): this is no confidence of the model that gave "
                        "them.", {"who": Ref("settings", {"setting": ANSWERED}, "value", "")}, "limit"))  # fmt: skip
    if (totals["unparsed_share"] or 0) > MANY:
        out.append(Text("In {share} of the texts no confidence could be read; what is said here is of the others.",
                        {"share": _total("unparsed_share")}, "warning"))  # fmt: skip
    if totals["sd"] == totals["sd"] and totals["sd"] is not None and totals["sd"] < STILL:
        out.append(Text("Confidence hardly moves from answer to answer: its standard deviation is {sd}.",
                        {"sd": _total("sd", ".2%")}, "warning"))  # fmt: skip
    if not binned:
        return out
    bins = artifact.table("bins")
    probs = np.asarray(pd.to_numeric(bins["mean_prob"]), dtype=np.float64)
    if len(bins) > 2 and np.nanmax(probs, initial=0.0) > MOST:
        at = {"bin": int(bins["bin"].iloc[int(np.nanargmax(probs))])}
        out.append(Text("One bin takes most of the mass: {text} has a mean probability of {prob}.", {
            "text": Ref("bins", at, "text", ""), "prob": Ref("bins", at, "mean_prob", ".1%"),
        }, "warning"))  # fmt: skip
    if totals["mass"] is not None and totals["mass"] < SPILT:
        out.append(Text(
            "The bins together have {mass} of the probability: the model would rather go on otherwise, and its "
            "distribution over them says the less. Another wording, or scoring: likelihood, may serve better.",
            {"mass": _total("mass")}, "warning",
        ))  # fmt: skip
    order: Any = artifact.table("order").set_index("name")
    if "effect" in order.index and totals["sd"] is not None and abs(order.loc["effect", "value"]) > totals["sd"]:
        out.append(Text(
            "The order in which the bins are listed moves confidence by {effect}, more than the answers do (standard "
            "deviation {sd}).", {"effect": _order("effect", "+.1%"), "sd": _total("sd")}, "warning",
        ))  # fmt: skip
    return out


def _habit(artifact: Artifact, order: Any) -> Text:
    """What the pass says where there is nothing to know: flat, content-free, the order of the bins."""
    refs = {"flat": _total("flat")}
    text = "A flat distribution over the bins would give {flat}"
    if artifact.has("content_free"):
        refs["free"] = _content_free("confidence")
        text += "; contents without content (N/A and the like) get {free}"
    if len(order):
        refs |= {"effect": _order("effect", "+.1%"), "correlation": _order("correlation", ".2f")}
        text += "; listing the bins upwards instead of downwards changes confidence by {effect}"
        if order.loc[order["name"] == "correlation", "value"].notna().all():
            text += ", and over the answers the two orders agree with a rank correlation of {correlation}"
        else:
            del refs["correlation"]
    return Text(text + ".", refs, "control")


def _tables(artifact: Artifact, binned: bool, order: pd.DataFrame) -> list[Block]:
    out: list[Block] = [
        Figure("bar", "bins", "text", "mean_prob" if binned else "share",
               "Mean probability of each bin" if binned else "Stated confidence", x_title="confidence",
               y_title="mean probability" if binned else "share of answers",
               caption="Mean of the orders asked, over all answers." if binned else "Share of answers in each tenth."),
        Table("stated", "Confidence of right and wrong answers",
              ("split", "label", "n", "mean", "sd", "ci_low", "ci_high"), limit=30, labels=LABELS, formats=PERCENT),
        Table("scores", "AUROC of confidence against correctness, beside shuffled labels",
              ("split", "control", "n", "n_correct", "value", "ci_low", "ci_high", "p", "note"), limit=12,
              labels=LABELS),
    ]  # fmt: skip
    if binned:
        columns = ["text", "midpoint", "letter", "letter_reversed", "mean_prob", "share", "content_free"]
        held: Any = artifact.table("bins")
        out.append(Table("bins", "The bins", [c for c in columns if held[c].notna().any()], limit=30, formats=PERCENT,
                         labels={"share": "likeliest in", "letter_reversed": "reversed",
                                 "mean_prob": "mean probability", "content_free": "content-free"}))  # fmt: skip
    if len(order):
        out.append(Table("order", "The order of the bins", ("name", "n", "value", "ci_low", "ci_high"), labels=LABELS))
    if artifact.has("content_free"):
        shown = [
            c for c in ("filler", "form", "confidence", "normal", "reversed", "mass", "text") if _free(artifact, c)
        ]
        out.append(Table("content_free", "Contents without content", shown, formats=PERCENT))
    return out


def _method(ask: str, options: dict[str, Any]) -> Text:
    where = "in the conversation, behind the answer" if options.get("context") == "conversation" else "alone"
    how = {
        "verbalised": f"The model was asked {where} and wrote greedily; its number was parsed, nothing was guessed.",
        "consistency": "Fresh samples of the same prompt were read by the task's own grading; confidence is the share "
        "of the readable ones that agree with the answer. It measures how peaked the answers are, not what the model "
        "says of itself.",
    }.get(ask)
    if how is None:
        read = ("the letters' probabilities, summed over a letter's tokens" if options.get("scoring") == "letters"
                else "the likelihoods of the bins' texts")  # fmt: skip
        how = (f"The model was asked {where}; confidence is the sum of p times midpoint over the bins, p being {read}, "
               "renormalised and averaged over the orders asked.")  # fmt: skip
    return Text(
        how + " Intervals resample groups; the control shuffles labels by group. This section sets confidence against "
        "nothing but correctness: whether it says more than the item's difficulty and the output's own probabilities "
        "is for the step calibration.", kind="method",
    )  # fmt: skip


def _free(artifact: Artifact, column: str) -> bool:
    return bool(artifact.table("content_free")[column].notna().any())


def _stated(label: str) -> Ref:
    return Ref("stated", {"split": "all", "label": label}, "mean", ".1%", ci=True)


def _order(name: str, fmt: str) -> Ref:
    return Ref("order", {"name": name}, "value", fmt, ci=True)


def _total(name: str, fmt: str = ".1%") -> Ref:
    return Ref("totals", {"name": name}, "value", fmt)


def _content_free(column: str) -> Ref:
    return Ref("content_free", {"filler": "mean"}, column, ".1%")
