"""How a trial reads that was decided by whole answers; selective edits; attention to the parts of the prompt."""

from __future__ import annotations

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.causal.pick import first, has, pick
from gnomon.causal.tables import moved, overall, reach

ACTS = {
    "steer": "Steering along {direction} at {coefficient} times the typical token norm",
    "steer_flip": "The same push the other way ({coefficient} times the norm)",
    "ablate": "Ablating {direction}",
    "orthogonalise": "Taking {direction} out of every matrix that writes into the residual stream",
}
SAID = {
    "raises": "{act} raises accuracy beyond {beside}.",
    "lowers": "{act} lowers accuracy beyond {beside}.",
    "less": "{act} changes accuracy less than {beside}.",
    "not supported": "{act} changes accuracy no more than directions blind to the labels do.",
    "undecided": "{act}: whether it changes accuracy more than its controls do is undecided.",
}
RATES = {
    "corrected_rate": "{value} of {n} wrong answers became right",
    "corrupted_rate": "{value} of {n} right ones became wrong",
    "net_accuracy": "accuracy changed by {value} ({n} test rows)",
}
KINDS = {"random": "random directions", "shuffled": "shuffled-label directions"}
FEW = 20
"""Rows below which a share is warned of."""


def _fact(name: str, column: str = "value", spec: str = "d") -> Ref:
    return Ref("facts", {"fact": name}, column, spec)


def setting() -> Text:
    """What was edited, and what the answers are compared with."""
    return Text(
        "{direction} at {site} (read at {position}) was edited at the tokens {where}. Every number here rests on whole "
        "answers, written and graded: those under an edit beside those that the same run wrote without one, of which "
        "{accuracy} of {n} test rows ({groups} groups) are right; {same} of them are graded as the stored ones. An "
        "answer without a label is not right; one that could not be judged (blocked, unsupported, infra) counts as "
        "unchanged. One unit of steering is {unit}, the median norm of {tokens} fit tokens "
        "at the site; {masked} of them were left out as massive.",
        {
            "direction": _fact("direction", "text", ""), "site": _fact("site", "text", ""),
            "position": _fact("position", "text", ""), "where": _fact("where", "text", ""),
            "accuracy": _fact("test accuracy without edits", spec=".1%"), "n": _fact("test rows"),
            "groups": _fact("test groups"), "unit": _fact("unit", spec=".3g"), "tokens": _fact("fit tokens"),
            "same": _fact("graded as stored", spec=".1%"), "masked": _fact("masked tokens", spec=".1%"),
        },
    )  # fmt: skip


def whole_headline(verdicts: pd.DataFrame, claim: str) -> Text:
    """Correction, corruption and net accuracy of a claim, each beside its controls."""
    refs = {"direction": _fact("direction", "text", "")}
    net = pick(verdicts, claim=claim, metric="net_accuracy")
    verdict = overall(verdicts, claim)
    opening = SAID[moved(verdicts, claim) if verdict == "supported" else verdict]
    refs["coefficient"] = Ref(
        "verdicts", {"claim": claim, "metric": "net_accuracy", "control": str(net["control"].iloc[0])}, "coefficient",
        "+.3g",
    )  # fmt: skip
    said = []
    for metric, words in RATES.items():
        here = pick(verdicts, claim=claim, metric=metric)
        beside = []
        for i, control in enumerate(here["control"]):
            where = {"claim": claim, "metric": metric, "control": control}
            spec = "+.1%" if metric == "net_accuracy" else ".1%"
            names = {c: f"{metric}_{c}_{i}" for c in ("value", "n", "control_mean", "control_low", "control_high", "p")}
            refs |= {
                name: Ref("verdicts", where, c, {"n": "d", "p": ".3f"}.get(c, spec), ci=c == "value")
                for c, name in names.items()
            }
            count = f"{metric}_controls_{i}"
            refs[count] = Ref("verdicts", where, "controls", "d")
            if i == 0:
                said.append(words.replace("{value}", f"{{{names['value']}}}").replace("{n}", f"{{{names['n']}}}"))
            beside.append(
                f"under {{{count}}} {KINDS[control]} {{{names['control_mean']}}} on average "
                f"({{{names['control_low']}}} to {{{names['control_high']}}}; p = {{{names['p']}}})"
            )
        if beside:
            said[-1] += " (" + ", ".join(beside) + ")"
    opening = opening.replace("{act}", ACTS[claim]).replace("{beside}", reach(verdicts, claim))
    text = opening + " Of its answers, " + "; ".join(said) + "."
    used = {name: ref for name, ref in refs.items() if "{" + name + "}" in text}
    return Text(text, used, "headline" if claim != "steer_flip" else "text")


def unparsed(effects: pd.DataFrame, claim: str) -> list[Block]:
    """How many answers under the edit have no label; a warning where a rate is of few rows."""
    where = {"kind": claim.split("_")[0], "control": "sign_flip" if claim.endswith("_flip") else "", "split": "test",
             "score": "generate"}  # fmt: skip
    out: list[Block] = [Text(
        "Under this edit {unparsed} of the answers have no label ({unjudged} of all could not be judged) and "
        "{changed} differ from the one without it.",
        {"unparsed": Ref("effects", where | {"metric": "unparsed_rate"}, "value", ".1%", ci=True),
         "unjudged": Ref("effects", where | {"metric": "unjudged_rate"}, "value", ".1%"),
         "changed": Ref("effects", where | {"metric": "answer_changed"}, "value", ".1%", ci=True)},
    )]  # fmt: skip
    for metric, what in (("corrected_rate", "wrong"), ("corrupted_rate", "right")):
        if claim == "steer" and first(effects, **where, metric=metric)["n"] < FEW:
            out.append(Text(
                "Only {n} answers are " + what + " without an edit: shares of so few say little.",
                {"n": Ref("effects", where | {"metric": metric}, "n", "d")}, "warning",
            ))  # fmt: skip
    return out


def whole_limits() -> list[Block]:
    """What whole answers do not show."""
    return [
        Text(line, kind="limit")
        for line in (
            "Whole answers are greedy, or drawn with the row's own noise: one answer a question, so a rate here is of "
            "questions, not of answers.",
            "An edit that moves answers shows that the direction can be used, not that the model uses it; an ablation "
            "without effect may leave copies of the information elsewhere.",
        )
    ]


def selective_blocks(table: pd.DataFrame) -> list[Block]:
    """The edit where the predictor fires, beside the edit everywhere and on as many random rows."""
    out: list[Block] = []
    for kind in dict.fromkeys(table["kind"]):
        own = {"kind": kind, "control": ""}
        refs: dict[str, Ref] = {
            "edited": Ref("selective", own | {"selection": "predictor", "metric": "net_accuracy"}, "edited", "d"),
            "n": Ref("selective", own | {"selection": "predictor", "metric": "net_accuracy"}, "n", "d"),
            "predictor": Ref("selective", own | {"selection": "predictor", "metric": "net_accuracy"}, "predictor", ""),
            "masks": Ref("selective", own | {"selection": "random rows", "metric": "net_accuracy"}, "masks", "d"),
            "gain": Ref("selective", own | {"selection": "predictor - everything", "metric": "net_accuracy"}, "value",
                        "+.1%", ci=True),
        }  # fmt: skip
        if not first(table, **own, selection="predictor", metric="net_accuracy")["edited"]:
            out.append(Text(
                "The predictor {predictor} says of none of the {n} test rows that the answer will be wrong: nothing "
                "is edited, and an edit only where it fires cannot be judged here.",
                {name: refs[name] for name in ("predictor", "n")}, "warning",
            ))  # fmt: skip
            continue
        parts = []
        for metric, words, spec in (
            ("corrected_rate", "of the wrong answers became right", ".1%"),
            ("corrupted_rate", "of the right ones became wrong", ".1%"),
            ("net_accuracy", "is the change of accuracy", "+.1%"),
        ):
            value = first(table, **own, selection="predictor", metric=metric)["value"]
            if value != value:
                continue
            for name, selection in (("p", "predictor"), ("e", "everything"), ("r", "random rows")):
                refs[f"{metric}_{name}"] = Ref(
                    "selective", own | {"selection": selection, "metric": metric}, "value", spec, ci=True
                )
            refs[f"{metric}_rank"] = Ref("selective", own | {"selection": "predictor", "metric": metric}, "p", ".3f")
            parts.append(
                f"{{{metric}_p}} {words} (edited everywhere {{{metric}_e}}, on random rows {{{metric}_r}}, "
                f"p = {{{metric}_rank}})"
            )
        act = {"steer": "Steering", "ablate": "Ablating", "orthogonalise": "Taking the direction out of the weights"}
        out.append(Text(
            act[str(kind)] + " only where the predictor {predictor} says that the answer will be wrong ({edited} of "
            "{n} test rows): " + "; ".join(parts) + ". Beside editing everything, accuracy differs by {gain}. Random "
            "rows: {masks} choices of as many rows, with the range of their middle 95%.",
            refs, "control" if kind != "steer" else "text",
        ))  # fmt: skip
    fired = table.loc[(table["selection"] == "predictor") & (table["metric"] == "net_accuracy"), "edited"]
    if not fired.any():
        return out
    out.append(Table(
        "selective", "The edit where a predictor fires", limit=60,
        columns=["kind", "control", "coefficient", "selection", "metric", "value", "ci_low", "ci_high", "p", "n",
                 "edited"],
        labels={"ci_low": "low", "ci_high": "high"}, formats=dict.fromkeys(("value", "ci_low", "ci_high"), "+.1%"),
    ))  # fmt: skip
    return out


def attention_blocks(table: pd.DataFrame) -> list[Block]:
    """Shares of attention to each part of the prompt, before and under steering, and by layer."""
    named = {"last_prompt": "the last token of the prompt", "last": "the last token of the response"}
    out: list[Block] = []
    for position, token in named.items():
        words, refs = [], {}
        for part in sorted(set(pick(table, position=position)["part"])):
            key = f"{position}_{part}".replace(" ", "_")
            where = {"position": position, "part": part, "scope": "mean"}
            for name, condition in (("before", "before"), ("steered", "steered"), ("change", "steered - before"),
                                    ("random", "random - before")):  # fmt: skip
                spec = "+.2%" if name in ("change", "random") else ".1%"
                refs[f"{key}_{name}"] = Ref(
                    "attention", where | {"condition": condition}, "value", spec, ci=name in ("change", "random")
                )
            refs[f"{key}_n"] = Ref("attention", where | {"condition": "before"}, "n", "d")
            refs[f"{key}_missing"] = Ref("attention", where | {"condition": "before"}, "missing", "d")
            words.append(
                f"to the {part} {{{key}_before}} goes before and {{{key}_steered}} under steering, a change of "
                f"{{{key}_change}}, where random directions change it by {{{key}_random}} ({{{key}_n}} rows; "
                f"{{{key}_missing}} have no such text)"
            )
        if words:
            out.append(Text(
                f"Attention from {token}, averaged over heads and layers: " + "; ".join(words) + ".", refs, "control"
            ))  # fmt: skip
        for part in sorted(set(pick(table, position=position)["part"])):
            if not has(table, position=position, part=part, scope="layer"):
                continue
            out.append(Figure(
                "line", "attention", x="layer", y="value", color="condition", low="ci_low", high="ci_high",
                where={"position": position, "part": part, "scope": "layer"},
                title=f"Share of attention to the {part}, from {token}", x_title="layer",
                y_title="share of attention",
                caption="Mean over heads; the model's own unedited text in every condition.",
            ))  # fmt: skip
    return out
