"""The report section of step neurons."""

from __future__ import annotations

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.causal.pick import has, pick
from gnomon.store import Artifact

CALLED = {
    "logprob": "the right answer's log-probability", "logit": "the right answer's logit over the mean logit",
    "margin": "the right answer's logit over its strongest competitor's",
}  # fmt: skip


def neuron_blocks(artifact: Artifact) -> list[Block]:
    """What ranking and search found, what the causal score is worth, the strongest neurons, limits."""
    table = artifact.table("neurons")
    top = pick(table, rank=1).sort_values("grad_act_abs", ascending=False).iloc[0]
    best = {"layer": int(top["layer"]), "neuron": int(top["neuron"])}
    readout = CALLED[str(artifact.options.get("readout", "logprob"))]
    blocks: list[Block] = [
        Text(
            "Of the neurons that rank first in their layer, neuron {neuron} of layer {layer} does most by gradient x "
            "activation: "
            f"{{grad_act}} [{{low}}, {{high}}] of {readout} on average over {{rows}} fit rows; its direct effect along "
            "{direction} is {direct} [{direct_low}, {direct_high}].",
            {"layer": Ref("neurons", best, "layer", "d"), "neuron": Ref("neurons", best, "neuron", "d"),
             "grad_act": _signed(best, "grad_act"), "low": _signed(best, "grad_act_low"),
             "high": _signed(best, "grad_act_high"), "rows": Ref("facts", {"fact": "rows"}, "value", ".0f"),
             "direct": _signed(best, "direct"), "direct_low": _signed(best, "direct_low"),
             "direct_high": _signed(best, "direct_high"),
             "direction": Ref("facts", {"fact": "direction"}, "text", "")},
        )
    ]  # fmt: skip
    blocks = [*_worth(artifact, readout), *_knowing(artifact), *blocks]
    blocks.append(Text(
        "Ranked within each layer by {combine} ({criteria}); {kept} of {neurons} neurons are kept, {silent} were never "
        "active. Effects are read {position}; the tokens that count are {tokens}. Tokens whose stream is over five "
        "times their text's median norm are left out of mean |activation| and variance.",
        {name: Ref("facts", {"fact": fact}, column, form) for name, fact, column, form in (
            ("combine", "combine", "text", ""), ("criteria", "criteria", "text", ""),
            ("kept", "kept", "value", ".0f"), ("neurons", "neurons", "value", ".0f"),
            ("silent", "never active", "value", ".0f"), ("position", "position", "text", ""),
            ("tokens", "tokens", "text", ""))},
        "method",
    ))  # fmt: skip
    blocks.append(Table(
        "neurons", "The first neurons of every layer",
        ["layer", "neuron", "rank", "grad_act", "grad_act_low", "grad_act_high", "direct", "mean_abs", "variance",
         "rank_grad_act", "rank_direct", "rank_mean_abs", "rank_variance"],
        where={"rank": [1, 2, 3, 4, 5]}, sort="layer", limit=60,
        labels={"grad_act": "gradient x activation", "grad_act_low": "low", "grad_act_high": "high",
                "mean_abs": "mean |activation|"},
    ))  # fmt: skip
    blocks.append(Text(
        "A rank says which neurons are used, not what for: mean |activation| and variance know nothing of the answer, "
        "and the direct effect leaves out all that later layers do with a neuron. Gradient x activation is first order "
        "in one neuron: where one writes a large part of the stream at the read position and the answer is in doubt, "
        "the log-probability bends on the way to zero and the estimate is off. Neurons that stand in for each other, "
        "and any that are taken away together, can do more or less than its sum. Zero is far from what many neurons "
        "ever do; the mean may be the fairer absence.",
        kind="limit",
    ))  # fmt: skip
    return blocks


def _signed(where: dict[str, int], column: str) -> Ref:
    return Ref("neurons", where, column, "+.3g")


def _worth(artifact: Artifact, readout: str) -> list[Block]:
    """Gradient x activation beside real ablations; the headline is the layer in which it agrees least."""
    checks = artifact.table("checks")
    if not has(checks, score="grad_act", measure="pearson"):
        return [Text("No neuron was really ablated (check_rows: 0), so nothing says what gradient x activation is "
                     "worth here.", kind="warning")]  # fmt: skip
    worst = pick(checks, measure="pearson").sort_values("value", na_position="first").iloc[0]
    cell = {"layer": int(worst["layer"])}
    refs = {
        f"{measure}_{kind}": Ref("checks", cell | {"measure": measure, "chosen": kind}, "value", ".2f", ci=True)
        for measure in ("pearson", "slope")
        for kind in ("random", "rank")
    }
    one = cell | {"measure": "pearson", "chosen": "random"}
    refs |= {"layer": Ref("checks", one, "layer", "d"), "n": Ref("checks", one, "n", "d"),
             "neurons": Ref("checks", one, "neurons", "d")}  # fmt: skip
    return [
        Text(
            "Gradient x activation against really setting single neurons to zero, in the layer in which they agree "
            "least (layer {layer}): r = {pearson_random} and slope {slope_random} for {neurons} neurons drawn at "
            "random ({n} pairs of a neuron and a text), r = {pearson_rank} and slope {slope_rank} for as many of the "
            "highest rank.",
            refs, "headline",
        ),
        Figure(
            "scatter", "pairs", x="grad_act", y="effect", color="chosen", title="Estimated and real effect of a neuron",
            x_title="gradient x activation", y_title="taken away by setting it to zero",
            caption=f"Each point: one neuron in one text. The effect is on {readout}.",
        ),
        Table(
            "checks", "Gradient x activation against real ablations, by layer",
            ["layer", "chosen", "measure", "value", "ci_low", "ci_high", "n", "neurons", "texts"], sort="layer",
            limit=60, labels={"ci_low": "low", "ci_high": "high", "n": "pairs"},
        ),
        Table(
            "prompts", "The same within each text alone",
            ["layer", "chosen", "measure", "value", "lowest", "highest", "texts"], sort="layer", limit=60,
            labels={"value": "median"},
        ),
    ]  # fmt: skip


def _knowing(artifact: Artifact) -> list[Block]:
    """Single neurons that tell right from wrong."""
    if "auroc" not in artifact.tables():
        return []
    auroc = artifact.table("auroc")
    first = auroc.sort_values("order").iloc[0]
    best = {"layer": int(first["layer"]), "neuron": int(first["neuron"])}

    def family(what: str, form: str = ".0f", ci: bool = False) -> Ref:
        return Ref("auroc_family", {"what": what}, "value", form, ci=ci)

    return [
        Text(
            "Single neurons that tell right from wrong: of {neurons} searched on fit, {discovered} are found "
            "(Benjamini-Hochberg; under shuffled labels {null} of searches find any); of {looked} looked "
            "at on test, {confirmed} are confirmed (Holm). The strongest on fit, neuron {neuron} of layer {layer}, "
            "has AUROC {fit} there and {test} on {n} test rows.",
            {"neurons": family("neurons"), "discovered": family("discovered"),
             "null": family("shuffles that discover any", ".1%", ci=True), "looked": family("looked at on test"),
             "confirmed": family("confirmed"), "layer": Ref("auroc", best, "layer", "d"),
             "neuron": Ref("auroc", best, "neuron", "d"), "fit": Ref("auroc", best, "fit_auroc", ".3f"),
             "test": Ref("auroc", best, "test_auroc", ".3f", ci=True), "n": Ref("auroc", best, "n", "d")},
            "headline",
        ),
        Text(
            "The search has its own null: with labels shuffled by group the farthest neuron lies {null} from .5, and "
            "the farthest of this search {observed}; {movable} of the rows are in a group that can be shuffled.",
            {"null": family("largest |AUROC - .5| under shuffled labels", ".3f", ci=True),
             "observed": family("largest |AUROC - .5| on fit", ".3f"),
             "movable": family("rows whose group can be shuffled", ".0%")},
            "control",
        ),
        Table(
            "auroc", "Neurons with the smallest p on fit, and on test",
            ["layer", "neuron", "fit_auroc", "q", "max_t_p", "discovered", "test_auroc", "ci_low", "ci_high", "holm",
             "confirmed"],
            where={"order": list(range(1, 21))}, sort="order", limit=20,
            labels={"ci_low": "low", "ci_high": "high", "max_t_p": "max-T p"},
        ),
        Text(
            "A neuron that tells right from wrong may follow the difficulty of a question, or the answer itself: this "
            "search has none of the baselines that step probe puts beside a direction.",
            kind="limit",
        ),
    ]  # fmt: skip
