"""The report section of step edit."""

from __future__ import annotations

from gnomon.blocks import Block, Figure, Ref, Table, Text, Tokens
from gnomon.causal.pick import first, has
from gnomon.store import Artifact

DONE = {
    "amplify": "Amplifying {size} neurons that go with right answers (times one plus {c})",
    "suppress": "Suppressing {size} neurons that go with wrong answers (times one minus {c})",
    "both": "Amplifying and suppressing all {size} neurons ({c})",
}
WORDS = {
    "supported": "more than random neurons do", "not supported": "no more than random neurons do",
    "undecided": "whether that is more than random neurons do is undecided",
}  # fmt: skip


def edit_blocks(artifact: Artifact) -> list[Block]:
    """Fixed and broken answers beside random neurons, damage, the sweep, the neurons, limits."""
    edits, verdicts = artifact.table("edits"), artifact.table("verdicts")
    blocks: list[Block] = []
    for kind in dict.fromkeys(verdicts["kind"]):
        blocks += _headline(artifact, str(kind))
    blocks.append(Text(
        "Neurons by {by} on fit: {n} of them, {up} of which go with right answers; edited at the tokens {where}. Of "
        "the coefficients swept on tune, the one with the largest net accuracy was taken whose neutral-text loss stays "
        "under the bound (ties: the larger log-probability of the right answer). Controls: {controls} sets of as many "
        "other neurons of the same layers, matched in mean |activation|, with the same factors. Right: greedy decoding "
        "would write the right answer's text, which it does on {base} of {rows} test rows without an edit.",
        {"by": Ref("facts", {"fact": "by"}, "text", ""), "n": _fact("neurons"), "up": _fact("with right answers"),
         "where": Ref("facts", {"fact": "where"}, "text", ""), "controls": _fact("controls"),
         "base": _fact("test accuracy without edits", ".1%"), "rows": _fact("test rows")},
        "method",
    ))  # fmt: skip
    for metric, title in (("net_accuracy", "Net accuracy"), ("neutral_loss_change", "Loss on neutral text")):
        blocks.append(Figure(
            "line", "edits", x="coefficient", y="value", color="kind", low="ci_low", high="ci_high",
            where={"split": "tune", "metric": metric, "control": ""}, reference=0.0, reference_label="no change",
            title=f"{title}, by coefficient, on tune", x_title="coefficient", y_title=title.lower(),
        ))  # fmt: skip
    blocks.append(Table(
        "edits", "The chosen coefficients on test",
        ["kind", "coefficient", "score", "metric", "value", "ci_low", "ci_high", "p", "q", "n", "neurons"],
        where={"split": "test", "control": ""}, sort="kind", limit=60, labels={"ci_low": "low", "ci_high": "high"},
    ))  # fmt: skip
    blocks.append(Table(
        "verdicts", "Beside random neurons",
        ["kind", "metric", "value", "ci_low", "ci_high", "control_mean", "control_low", "control_high", "p", "q",
         "controls", "verdict"],
        sort="kind", labels={"ci_low": "low", "ci_high": "high", "control_mean": "controls' mean",
                             "control_low": "lowest control", "control_high": "highest control"},
    ))  # fmt: skip
    blocks.append(Table(
        "chosen", "The edited neurons",
        ["layer", "neuron", "association", "sign", "mean_abs", "control_mean_abs"], sort="order", limit=20,
        labels={"mean_abs": "mean |activation|", "control_mean_abs": "of its controls"},
    ))  # fmt: skip
    if len(artifact.table("examples")):
        blocks.append(Tokens(
            "examples", "Whole answers under the edit", extra=("kind", "change", "before"), limit=6
        ))  # fmt: skip
    limit = (
        "An association is no cause: a neuron may go with right answers because it follows easy questions. Rows on "
        "which greedy decoding changes are few, so net accuracy is coarse. The neurons need not be ones that step "
        "neurons confirmed on test."
    )
    if not has(edits, score="generate"):
        limit += " No whole answers were written: accuracy is of the right answer's text after the model's own words."
    return [*blocks, Text(limit, kind="limit")]


def _fact(name: str, form: str = ".0f") -> Ref:
    return Ref("facts", {"fact": name}, "value", form)


def _headline(artifact: Artifact, kind: str) -> list[Block]:
    word = str(first(artifact.table("verdicts"), kind=kind, metric="net_accuracy")["verdict"])
    beside = {"kind": kind, "metric": "net_accuracy"}

    def at(metric: str, column: str = "value", form: str = "+.3f", ci: bool = True) -> Ref:
        where = {"kind": kind, "control": "", "split": "test", "score": "logprob", "metric": metric}
        return Ref("edits", where, column, form, ci=ci)

    return [
        Text(
            DONE[kind] + " changed accuracy on {n} test rows by {net}, " + WORDS[word] + " ({mean} on average, from "
            "{low} to {high}; p = {p}): it fixed {fixed} of the wrong answers and broke {broken} of the right ones.",
            {"size": at("net_accuracy", "neurons", "d", False), "c": at("net_accuracy", "coefficient", "g", False),
             "n": at("net_accuracy", "n", "d", False), "net": at("net_accuracy", form="+.1%"),
             "mean": Ref("verdicts", beside, "control_mean", "+.1%"),
             "low": Ref("verdicts", beside, "control_low", "+.1%"),
             "high": Ref("verdicts", beside, "control_high", "+.1%"), "p": Ref("verdicts", beside, "p", ".3f"),
             "fixed": at("corrected_rate", form=".1%"), "broken": at("corrupted_rate", form=".1%")},
            "headline",
        ),
        Text(
            f"Elsewhere, under the same edit ({kind}): the loss on neutral text changed by {{loss}} nats a token, "
            "accuracy on unrelated facts by {other}; the right answer's own log-probability by {logprob} nats.",
            {"loss": at("neutral_loss_change"), "other": at("unrelated_accuracy_change", form="+.1%"),
             "logprob": at("target_logprob_change")},
            "control",
        ),
    ]  # fmt: skip
