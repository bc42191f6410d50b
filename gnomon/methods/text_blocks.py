"""How the text decomposition reads in the report: sentences and tables made of the step's own tables."""

from __future__ import annotations

from typing import Any

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact


def overall(measure: str, against: str, column: str = "value", spec: str = ".3f", ci: bool = False) -> Ref:
    """A reference to one line of the table `overall`."""
    return Ref("overall", {"measure": measure, "against": against}, column, spec, ci)


def count(what: str, column: str = "neurons") -> Ref:
    """A reference to one count of neurons."""
    return Ref("counts", {"what": what}, column, "d")


def text_blocks(artifact: Artifact) -> list[Block]:
    """Headlines, rules, the neurons with their phrases, the polysemantic ones, limits."""
    return [*_headlines(artifact), *_rules(artifact), *_tables(artifact), _limits()]


def _headlines(artifact: Artifact) -> list[Block]:
    counts: Any = artifact.table("counts").set_index("what")["neurons"]
    mixed, shuffled, other = ("cosine", "mixtures"), ("agreement", "shuffled rows"), ("agreement", "other neurons")
    blocks: list[Block] = [
        Text(
            "With {m} of {lexicon} phrases a neuron's direction is reconstructed to a median cosine of {value}, "
            "against {random} with as many isotropic vectors and {mixed} with random mixtures of the same phrases (p = "
            "{p}); {beyond} of {of} neurons are closer to phrases than to such mixtures (Benjamini-Hochberg).",
            {"m": overall(*mixed, "m", "d"), "lexicon": overall(*mixed, "lexicon", "d"), "value": overall(*mixed),
             "random": overall("cosine", "isotropic", "control"), "mixed": overall(*mixed, "control"),
             "p": overall(*mixed, "p"), "beyond": count("beyond mixtures"), "of": count("beyond mixtures", "of")},
            "headline",
        ),
        Text(
            "On test rows the reconstruction explains a median of {share} of a neuron's effects (95% interval), "
            "against {control} for the mixtures.",
            {"share": overall("test_share", "mixtures", "value", ".1%", True),
             "control": overall("test_share", "mixtures", "control", ".1%")},
            "text",
        ),
        Text(
            "Phrases and top-activating test prompts: mean cosine {value} (95% interval), {null} with the rows "
            "shuffled (p = {p}) and {other} with other neurons' prompts; {agree} of {of} neurons agree by their own "
            "permutation test (Benjamini-Hochberg over the neurons).",
            {"value": overall(*shuffled, spec="+.3f", ci=True), "null": overall(*shuffled, "control", "+.3f"),
             "p": overall(*shuffled, "p"), "other": overall(*other, "control", "+.3f"), "agree": count("agreement"),
             "of": count("agreement", "of")},
            "headline",
        ),
        Text(
            "{poly} of {of} neurons are polysemantic by the rule below.",
            {"poly": count("polysemantic"), "of": count("polysemantic", "of")}, "text",
        ),
    ]  # fmt: skip
    if int(counts["zero"]):
        blocks.append(Text(
            "{zero} neurons have no effect that varies: they have no phrases and are left out of all numbers.",
            {"zero": count("zero")}, "warning",
        ))  # fmt: skip
    return blocks


def _rules(artifact: Artifact) -> list[Block]:
    o = artifact.options
    return [
        Text(
            "Phrases are chosen by orthogonal matching pursuit over the centred lexicon, each phrase made unit. "
            "Agreement is the mean cosine of the reconstruction with the final-norm output (less the neuron's own "
            "second-order effect, centred on fit) at the test rows of largest projection; its p shuffles which rows "
            "those are, by group, and is one-sided.", kind="method",
        ),
        Text(
            "Rule of polysemanticity, fixed beforehand: the neuron's largest effects fall into clusters more clearly "
            "than clouds of the same covariance do (silhouette of lines, q at most .05: {clusters} neurons), and PC1 "
            f"explains less than {float(o.get('max_evr', 0.5)):.0%} of them ({{low}} neurons) or more than "
            f"{int(o.get('many_phrases', 16))} phrases are needed for a cosine of {float(o.get('reach', 0.8)):g} "
            "({many} neurons; {reached} reach it at all). Each number counts one condition alone.",
            {"clusters": count("clusters"), "low": count("low PC1"), "many": count("many phrases"),
             "reached": count("reached")}, "method",
        ),
    ]  # fmt: skip


def _tables(artifact: Artifact) -> list[Block]:
    blocks: list[Block] = [
        Table(
            "overall", "Reconstruction and agreement beside their controls",
            ["measure", "against", "value", "ci_low", "ci_high", "control", "control_low", "control_high", "p",
             "neurons", "n"], labels={"ci_low": "low", "ci_high": "high"},
        ),
        Table(
            "neurons", "Neurons whose phrases agree best with their prompts", sort="q", where={"zero": False},
            columns=["layer", "neuron", "phrases", "cosine", "mixed_cosine", "agreement", "agreement_other", "p", "q"],
        ),
        Table(
            "neurons", "Neurons that phrases describe best", sort="cosine", descending=True, where={"zero": False},
            columns=["layer", "neuron", "phrases", "cosine", "random_cosine", "mixed_cosine", "needed", "test_share",
                     "ci_low", "ci_high", "mixed_test_share"],
            labels={"ci_low": "test low", "ci_high": "test high"},
        ),
        Figure(
            "scatter", "neurons", x="mixed_cosine", y="cosine", color="layer",
            title="Cosine with phrases beside mixtures of them, by neuron", x_title="mixtures", y_title="phrases",
        ),
    ]  # fmt: skip
    if bool(artifact.table("neurons")["polysemantic"].any()):
        blocks.append(Table(
            "neurons", "Polysemantic neurons", sort="q_clusters", where={"polysemantic": True},
            columns=["layer", "neuron", "clusters", "silhouette", "null_silhouette", "q_clusters", "largest_cluster",
                     "evr", "needed", "phrases"],
        ))  # fmt: skip
    return blocks


def _limits() -> Text:
    return Text(
        "The lexicon names only what is on it, and a phrase is chosen for the part of the direction that others leave, "
        "so later phrases and negative signs are corrections more often than meanings. Cosines count every dimension "
        "alike, also those that the unembedding hardly reads. Agreement says that the prompts lie where the phrases "
        "point, not that the model uses the neuron so: the neuron's direct effect and what its fellows write are still "
        "in the output, and prompts of one task are alike.",
        kind="limit",
    )
