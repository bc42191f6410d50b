"""How a trial reads in the report: made from its tables alone."""

from __future__ import annotations

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text, Tokens
from gnomon.causal.pick import has, pick, records
from gnomon.causal.tables import deciding, moved, overall, reach
from gnomon.causal.whole_blocks import (
    attention_blocks,
    selective_blocks,
    setting,
    unparsed,
    whole_headline,
    whole_limits,
)
from gnomon.store import Artifact

CLAIMS = {
    "steer": "adding {coefficient} times the typical token norm along it",
    "steer_flip": "the same push the other way ({coefficient} times the norm)",
    "ablate": "removing it",
    "orthogonalise": "taking it out of every matrix that writes into the residual stream",
}
OPENING = {
    ("steer", "supported"): "Steering along {direction} {moves} the right answer's probability {beyond}.",
    ("steer", "not supported"): "Steering along {direction} does no more than directions blind to the labels do.",
    ("steer", "undecided"): "Whether steering along {direction} does more than its controls is undecided.",
    ("steer_flip", "supported"): "With the sign flipped, it {moves} it {beyond}.",
    ("steer_flip", "not supported"): "With the sign flipped, it does no more than its controls.",
    ("steer_flip", "undecided"): "With the sign flipped, it is undecided.",
    ("ablate", "supported"): "Ablating {direction} {moves} the right answer's probability {beyond}.",
    ("ablate", "not supported"): "Ablating {direction} does no more than ablating a shuffled-label direction.",
    ("ablate", "undecided"): "Whether ablating {direction} does more than ablating shuffled-label ones is undecided.",
    ("orthogonalise", "supported"): "Taking {direction} out of the weights {moves} the right answer's probability "
    "{beyond}.",
    ("orthogonalise", "not supported"): "Taking {direction} out of the weights does no more than taking out directions "
    "blind to the labels.",
    ("orthogonalise", "undecided"): "Whether taking {direction} out of the weights does more than its controls is "
    "undecided.",
}
METRIC = "target_logprob_change"
YIELD = {
    METRIC: ("the right answer's log-probability", "nats"),
    "net_accuracy": ("accuracy of whole answers", "share of rows"),
}  # fmt: skip
EDITS = {"steer": "Steering", "ablate": "Ablation", "orthogonalise": "Orthogonalising the weights"}
RULE = (
    "Rule, fixed beforehand: a claim is supported where its change lies farther from the median of all than the 95th "
    "percentile of its controls do, with a paired 95% bootstrap interval of that margin above 0 and rank p at most .05 "
    "(smallest possible: 1 / (1 + number of controls)), beside every kind of control; not supported where the margin's "
    "interval lies below 0 beside one of them; undecided else."
)


def trial_blocks(artifact: Artifact) -> list[Block]:
    """Headlines, dose and response, the test beside its controls, damage, examples, limits."""
    verdicts, effects = artifact.table("verdicts"), artifact.table("effects")
    facts = set(artifact.table("facts")["fact"])
    metric = deciding(verdicts)
    whole = metric != METRIC
    blocks: list[Block] = [setting() if whole else _setting()]
    if has(verdicts, kind="orthogonalise"):
        blocks.append(Text(
            "Orthogonalised weights write nothing along the direction, at any token: the embedding, and every output "
            "matrix of attention and MLPs with its bias; the unembedding stays as it is.", kind="method",
        ))  # fmt: skip
    for claim in CLAIMS:
        if has(verdicts, claim=claim):
            blocks.append(whole_headline(verdicts, claim) if whole else _headline(verdicts, claim))
            blocks += unparsed(effects, claim) if whole else _accuracy(effects, claim)
    blocks.append(Text(RULE, kind="method"))
    if artifact.has("selective"):
        blocks += selective_blocks(artifact.table("selective"))
    if has(verdicts, kind="steer"):
        blocks += _doses(artifact.table("sweep"), metric)
    blocks += [_beside(kind, metric) for kind in EDITS if has(verdicts, kind=kind)]
    blocks += _damage(effects)
    if f"energy_removed by {_OWN}" in facts:
        blocks.append(_energy(facts))
    if artifact.has("attention"):
        blocks += attention_blocks(artifact.table("attention"))
    numbers: list[str] = ["value", "ci_low", "ci_high", "control_mean", "control_low", "control_high"]
    formats = dict.fromkeys(numbers, "+.1%") if whole else {}
    blocks.append(Table(
        "verdicts", "Every comparison on test", sort="claim", formats=formats,
        columns=["claim", "metric", "control", "controls", "value", "ci_low", "ci_high", "control_mean", "control_low",
                 "control_high", "p", "q", "verdict", "n"],
        labels={"ci_low": "low", "ci_high": "high", "control_mean": "controls' mean", "control_low": "lowest control",
                "control_high": "highest control"},
    ))  # fmt: skip
    blocks += _generated(effects, artifact.table("examples"))
    return blocks + (whole_limits() if whole else _limits(effects))


_OWN = "the direction"


def _fact(name: str, column: str = "value", spec: str = "d") -> Ref:
    return Ref("facts", {"fact": name}, column, spec)


def _setting() -> Text:
    return Text(
        "{direction} at {site} (read at {position}) was edited at the tokens {where}. Without an edit the right "
        "answer's text is what greedy decoding writes on {accuracy} of {n} test rows ({groups} groups); its mean "
        "log-probability is {logprob} nats. One unit of steering is {unit}, the median norm of {tokens} fit tokens at "
        "the site; {masked} of them were left out as massive.",
        {
            "direction": _fact("direction", "text", ""), "site": _fact("site", "text", ""),
            "position": _fact("position", "text", ""), "where": _fact("where", "text", ""),
            "accuracy": _fact("test accuracy without edits", spec=".1%"), "n": _fact("test rows"),
            "groups": _fact("test groups"), "unit": _fact("unit", spec=".3g"), "tokens": _fact("fit tokens"),
            "logprob": _fact("right answer's log-probability without edits", spec=".2f"),
            "masked": _fact("masked tokens", spec=".1%"),
        },
    )  # fmt: skip


def _headline(verdicts: pd.DataFrame, claim: str) -> Text:
    refs: dict[str, Ref] = {"direction": _fact("direction", "text", "")}
    here = pick(verdicts, claim=claim, metric=METRIC)
    way, beside = moved(verdicts, claim), reach(verdicts, claim)
    moves, beyond = ("moves", f"less than {beside}") if way == "less" else (way, f"beyond {beside}")
    words = [OPENING[claim, overall(verdicts, claim)].replace("{moves}", moves).replace("{beyond}", beyond)]
    for i, control in enumerate(here["control"]):
        where = {"claim": claim, "metric": METRIC, "control": control}
        names = {c: f"{c}_{i}" for c in ("value", "mean", "low", "high", "p", "k", "n", "coefficient")}
        refs |= {
            names["value"]: Ref("verdicts", where, "value", "+.3f", ci=True),
            names["mean"]: Ref("verdicts", where, "control_mean", "+.3f"),
            names["low"]: Ref("verdicts", where, "control_low", "+.3f"),
            names["high"]: Ref("verdicts", where, "control_high", "+.3f"),
            names["p"]: Ref("verdicts", where, "p", ".3f"), names["k"]: Ref("verdicts", where, "controls", "d"),
            names["n"]: Ref("verdicts", where, "n", "d"),
            names["coefficient"]: Ref("verdicts", where, "coefficient", "+.3g"),
        }  # fmt: skip
        named = {c: "{" + name + "}" for c, name in names.items()}
        if i == 0:
            act = CLAIMS[claim].replace("{coefficient}", named["coefficient"])
            words.append(
                f"{act[0].upper()}{act[1:]} changed the right answer's log-probability by {named['value']} nats "
                f"(95% interval, {named['n']} test rows)"
            )
        kind = "random directions of the same length" if control == "random" else "shuffled-label directions"
        joint = ", where" if i == 0 else ", and"
        words[-1] += (
            f"{joint} {named['k']} {kind} changed it by {named['mean']} on average "
            f"(from {named['low']} to {named['high']}; p = {named['p']})"
        )
    text = " ".join(words) + "."
    used = {name: ref for name, ref in refs.items() if "{" + name + "}" in text}
    return Text(text, used, "headline" if claim != "steer_flip" else "text")


def _accuracy(effects: pd.DataFrame, claim: str) -> list[Block]:
    """What the edit did to answers: corrected and corrupted, by log-probability and, where there, as whole answers."""
    kind, control = claim.split("_")[0], "sign_flip" if claim.endswith("_flip") else ""
    out: list[Block] = []
    for score in ("logprob", "generate"):
        where = {"kind": kind, "control": control, "split": "test", "score": score}
        here = pick(effects, **where)
        if not {"corrected_rate", "corrupted_rate", "net_accuracy"} <= set(here["metric"]):
            continue
        how = "Greedy decoding of the right answer, scored without writing" if score == "logprob" else "Whole answers"
        refs = {m: Ref("effects", where | {"metric": m}, "value", ".1%", ci=True) for m in
                ("corrected_rate", "corrupted_rate", "net_accuracy")}  # fmt: skip
        refs["n"] = Ref("effects", where | {"metric": "net_accuracy"}, "n", "d")
        undefined = {r["metric"]: r["value"] != r["value"] for r in records(here, ("metric", "value"))}
        parts = [
            "" if undefined["corrected_rate"] else "{corrected_rate} of the wrong ones became right",
            "" if undefined["corrupted_rate"] else "{corrupted_rate} of the right ones became wrong",
            "accuracy changed by {net_accuracy} ({n} test rows)",
        ]
        out.append(Text(f"{how}: " + ", ".join(p for p in parts if p) + ".", refs))
    return out


def _doses(sweep: pd.DataFrame, metric: str) -> list[Block]:
    shared = {"x": "coefficient", "y": "value", "color": "series", "low": "ci_low", "high": "ci_high"}
    what, unit = YIELD[metric]
    out: list[Block] = [
        Figure(
            "line", "sweep", title=f"Dose and response on tune: {what}",
            where={"metric": metric}, reference=0.0, reference_label="no change", x_title="coefficient (median norms)",
            y_title=f"change ({unit})",
            caption="Both signs. The coefficient was chosen here and nowhere else; the band of the random directions "
            "runs from the lowest to the highest of them, mirrored to both signs.", **shared,
        )
    ]  # fmt: skip
    if has(sweep, metric="neutral_loss_change"):
        out.append(Figure(
            "line", "sweep", title="Off-target damage by dose: loss on neutral text",
            where={"metric": "neutral_loss_change"}, reference=0.0, reference_label="no change",
            x_title="coefficient (median norms)", y_title="change of loss (nats a token)", **shared,
        ))  # fmt: skip
    return out


def _beside(kind: str, metric: str) -> Figure:
    what, unit = YIELD[metric]
    return Figure(
        "scatter", "tested", x="series", y="value", low="ci_low", high="ci_high", color="series",
        title=f"{EDITS[kind]} on test, beside its controls", where={"kind": kind, "metric": metric}, reference=0.0,
        reference_label="no change", x_title="", y_title=f"change of {what} ({unit})",
        caption="One point a direction, all on the same rows, with its paired 95% interval.",
    )  # fmt: skip


def _damage(effects: pd.DataFrame) -> list[Block]:
    out: list[Block] = []
    for kind, act in EDITS.items():
        where = {"kind": kind, "control": "", "split": "test"}
        if not has(effects, **where, metric="neutral_loss_change"):
            continue
        out.append(Text(
            act + " changed the loss on {texts} neutral texts by {loss} nats a token, and accuracy on {items} "
            "unrelated facts by {facts}.",
            {"loss": Ref("effects", where | {"metric": "neutral_loss_change"}, "value", "+.3f", ci=True),
             "texts": Ref("effects", where | {"metric": "neutral_loss_change"}, "n", "d"),
             "facts": Ref("effects", where | {"metric": "unrelated_accuracy_change"}, "value", "+.1%", ci=True),
             "items": Ref("effects", where | {"metric": "unrelated_accuracy_change"}, "n", "d")},
            "control",
        ))  # fmt: skip
    if out:
        out.append(Table(
            "tested", "Off-target damage beside the controls", where={"metric": "neutral_loss_change"},
            columns=["kind", "series", "direction", "value", "ci_low", "ci_high", "n"],
            labels={"value": "loss change (nats a token)", "ci_low": "low", "ci_high": "high", "n": "texts"},
        ))  # fmt: skip
    return out


def _energy(facts: set[str]) -> Text:
    words, refs = ["The ablation took {own} of the squared norm of the tokens it edited"], {}
    refs["own"] = _fact(f"energy_removed by {_OWN}", spec=".2%")
    for name, series in (("shuffled", "shuffled-label directions"), ("isotropic", "isotropic directions")):
        if f"energy_removed by {series}" in facts:
            refs[name] = _fact(f"energy_removed by {series}", spec=".2%")
            words.append(f"{series} took {{{name}}}")
    return Text("; ".join(words) + " on average (fit tokens, massive ones left out).", refs, "control")


def _generated(effects: pd.DataFrame, examples: pd.DataFrame) -> list[Block]:
    if not len(examples):
        return []
    out: list[Block] = [
        Table(
            "effects", "Whole answers under the edit", where={"score": "generate", "split": "test"},
            columns=["kind", "control", "coefficient", "metric", "value", "ci_low", "ci_high", "n"], limit=40,
            labels={"ci_low": "low", "ci_high": "high"},
        )
    ]  # fmt: skip
    for kind, act in EDITS.items():
        if has(examples, kind=kind, control=""):
            out.append(Tokens(
                "examples", f"Before and after {act.lower()}", where={"kind": kind, "control": ""},
                extra=("before", "answer_before", "label_before", "change"), limit=6,
            ))  # fmt: skip
    return out


def _limits(effects: pd.DataFrame) -> list[Block]:
    lines = [
        "Log-probability scores are of the right answer's own text after the model's own words before it: they see "
        "a shift that no sampled answer shows yet, and miss right answers in other words.",
        "An edit that moves answers shows that the direction can be used, not that the model uses it; an ablation "
        "without effect may leave copies of the information elsewhere.",
    ]
    if not has(effects, score="generate"):
        lines.append("No whole answers were generated under the edits.")
    elif not has(effects, score="generate", control="random"):
        lines.append("Whole answers were generated for the direction alone; its controls were scored without writing.")
    return [Text(line, kind="limit") for line in lines]
