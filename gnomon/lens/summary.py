"""The report section of the second-order lens."""

from __future__ import annotations

import numpy as np

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.causal.pick import first, has, pick
from gnomon.store import Artifact


def second_order_blocks(artifact: Artifact) -> list[Block]:
    """Headline, what the scores are worth, strongest neurons, layers, directions compared, cost, limits."""
    summary, facts = artifact.table("summary"), artifact.table("facts")
    main = str(first(facts, fact="main direction")["text"])
    top = pick(summary, direction=main).sort_values("fit_second", ascending=False).iloc[0]
    best = {"direction": main, "layer": int(top["layer"]), "neuron": int(top["neuron"])}
    refs = {
        "direction": Ref("facts", {"fact": "main direction"}, "text", ""), "layer": Ref("summary", best, "layer", "d"),
        "neuron": Ref("summary", best, "neuron", "d"), "mean": Ref("summary", best, "mean", "+.3g", ci=True),
        "second": Ref("summary", best, "second", ".3g"), "share": Ref("summary", best, "share_of_mass", ".1%"),
    }  # fmt: skip
    said = (
        "Along the direction {direction}, the neuron with the largest second-order effect (chosen on fit) is neuron "
        "{neuron} of layer {layer}: on test rows its effect is {mean} on average and {second} in size, {share} of its "
        "layer's."
    )
    cell = {"layer": best["layer"], "chosen": "random", "measure": "pearson"}
    if has(artifact.table("checks"), score="second", **cell):
        said += (
            " The layer's scores correlate {worth} with really setting random neurons to zero; gradient x activation "
            "does {causal}."
        )
        refs["worth"] = Ref("checks", cell | {"score": "second"}, "value", ".2f", ci=True)
        refs["causal"] = Ref("checks", cell | {"score": "grad_act"}, "value", ".2f", ci=True)
    blocks: list[Block] = [Text(said, refs, "headline")]
    blocks += _worth(artifact, int(top["layer"]), main)
    blocks.append(_method(artifact))
    blocks.append(Table(
        "strongest", f"The strongest neurons along {main}, measured on test rows (ordered on fit)",
        ["layer", "neuron", "ablation_r", "mean", "ci_low", "ci_high", "second", "direct", "share_of_mass", "sparsity"],
        sort="fit_second", descending=True, limit=20,
        labels={"ci_low": "low", "ci_high": "high", "second": "mean |second|", "direct": "mean |direct|",
                "share_of_mass": "share of its layer", "sparsity": "rows holding half",
                "ablation_r": "r with real ablation"},
        formats={"share_of_mass": ".1%", "sparsity": ".1%"},
    ))  # fmt: skip
    blocks += _layers(artifact)
    blocks += _compared(artifact)
    blocks.append(Table(
        "costs", "What it took, beside materialising the same effects",
        ["stage", "seconds", "bytes", "materialised_seconds", "materialised_bytes", "speedup", "neurons", "note"],
        sort="seconds", descending=True,
        labels={"materialised_seconds": "materialised, s", "materialised_bytes": "materialised, bytes"},
    ))  # fmt: skip
    blocks.append(Text(
        "Attention patterns and norm scales are held at their values: a score says what flows along the paths from a "
        "neuron through one later attention layer to the output, not what would happen without the neuron. Effects "
        "through later MLPs, through changed attention patterns and through changed norm scales are not in it. The "
        "correlation with real ablations above is what it is worth as a prediction; gradient x activation is the "
        "causal score.",
        kind="limit",
    ))  # fmt: skip
    return blocks


def _worth(artifact: Artifact, layer: int, main: str) -> list[Block]:
    """How each score agrees with real ablations: beside the headline, in a figure, in a table."""
    checks = artifact.table("checks")
    if not has(checks, score="second", measure="pearson"):
        return [Text("No neuron was really ablated (check_rows: 0), so nothing says what these scores are worth.",
                     kind="warning")]  # fmt: skip
    cell = {"direction": main, "layer": layer, "measure": "pearson"}
    refs = {
        f"{score}_{kind}": Ref("checks", cell | {"score": score, "chosen": kind}, "value", ".2f", ci=True)
        for score in ("second", "grad_act")
        for kind in ("random", "rank")
    } | {"n": Ref("checks", cell | {"score": "second", "chosen": "random"}, "n", "d"),
         "layer": Ref("checks", cell | {"score": "second", "chosen": "random"}, "layer", "d")}  # fmt: skip
    return [
        Text(
            "What that is worth: in layer {layer} second-order scores correlate {second_random} with really setting "
            "neurons drawn at random to zero, and {second_rank} for neurons of high rank ({n} pairs of a neuron and a "
            "text each); gradient x activation correlates {grad_act_random} and {grad_act_rank}.",
            refs, "control",
        ),
        Figure(
            "line", "worth", x="layer", y="value", color="score", low="ci_low", high="ci_high", reference=0.0,
            reference_label="no relation", title="Agreement of each score with real ablations (random neurons)",
            x_title="layer", y_title="Pearson correlation",
            caption="Each point: pairs of a neuron drawn at random and a text; the neuron was set to zero at every "
                    "token. Intervals resample texts.",
        ),
        Table("checks", "Scores against real single-neuron ablations: Pearson correlations",
              ["layer", "chosen", "score", "value", "ci_low", "ci_high", "n"], {"measure": "pearson"}, "layer",
              limit=60,
              labels={"ci_low": "low", "ci_high": "high", "n": "pairs"}),
    ]  # fmt: skip


def _method(artifact: Artifact) -> Text:
    return Text(
        "Effects are read {position}, from {tokens} tokens of each text, on {rows} rows; coefficients are kept for "
        "{neurons} neurons of {layers} layers. Directions and neurons are chosen on fit, the table is of test rows.",
        {name: Ref("facts", {"fact": fact}, column, form)
         for name, fact, column, form in (
            ("position", "position", "text", ""), ("tokens", "tokens", "text", ""), ("rows", "rows", "value", ".0f"),
            ("neurons", "neurons kept", "value", ".0f"), ("layers", "layers kept", "value", ".0f"))},
        "method",
    )  # fmt: skip


def _layers(artifact: Artifact) -> list[Block]:
    if not np.isfinite(artifact.table("layers")["share"].to_numpy()).any():
        return []
    return [Figure(
        "bar", "layers", x="layer", y="share", color="which", title="Where the effects are: share of all layers' norms",
        x_title="layer", y_title="share of the summed mean |effect|",
        caption="All neurons of every layer, on a sample of fit rows. Later layers have fewer heads after them; the "
                "last has none.",
    )]  # fmt: skip


def _compared(artifact: Artifact) -> list[Block]:
    if not len(artifact.table("compared")):
        return []
    return [Table(
        "compared", "Directions compared",
        ["a", "b", "cosine", "random_sd", "correlation", "ci_low", "ci_high", "neurons"],
        labels={"random_sd": "sd of random cosines", "correlation": "correlation of the neurons' mean scores",
                "ci_low": "low", "ci_high": "high"},
    )]  # fmt: skip
