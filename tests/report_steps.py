"""Steps that exist for tests of the report: every kind of block, and the ways in which a section can fail."""

from __future__ import annotations

from typing import Any, ClassVar

from gnomon.blocks import Block, Figure, Ref, Table, Text, Tokens
from gnomon.step import Step
from gnomon.store import Artifact


class Generate(Step):
    """Asks the model and labels its answers."""

    n: int = 240
    task: str | dict[str, Any] = "capitals"
    """Where the questions come from."""
    temperatures: tuple[float, ...] = (0.0,)

    def summary(self, artifact: Artifact) -> list[Block]:
        right = {"split": "all", "label": "correct"}
        return [
            Text(
                "The model was right on {share} of {n} answers; {unparsed} could not be parsed. Always answering with "
                "the most common capital, the control, is right on {base}.",
                {
                    "share": Ref("counts", right, "share", ".1%", ci=True),
                    "n": Ref("facts", {"name": "answers"}),
                    "unparsed": Ref("counts", {"split": "all", "label": "unparsed"}, "n"),
                    "base": Ref("facts", {"name": "majority"}, format=".1%"),
                },
                kind="headline",
            ),
            Text(
                "Each question was asked once, greedily, with the answer prefix “The capital of X is”.", kind="method"
            ),
            Table(
                "counts",
                "Answers by split",
                ["split", "label", "n", "share", "ci_low", "ci_high"],
                formats={"share": ".1%"},
            ),
            Tokens("generations", "Answers", extra=("difficulty",), limit=40),
            Text("Easy and hard countries differ in more than population.", kind="limit"),
        ]


class Probe(Step):
    """Looks for a direction that tells right answers from wrong ones, layer by layer, against its controls."""

    version: ClassVar[int] = 2
    site: str = "resid_post.*"
    position: str = "last_prompt"
    permutations: int = 199

    def summary(self, artifact: Artifact) -> list[Block]:
        def at(predictor: str, control: str = "", metric: str = "auroc") -> dict[str, Any]:
            return {"predictor": predictor, "control": control, "metric": metric}

        refs = {
            "site": Ref("scores", at("difference"), "site"),
            "auroc": Ref("scores", at("difference"), "value", ".2f", ci=True),
            "base": Ref("scores", at("baselines"), "value", ".2f", ci=True),
            "gain": Ref("scores", at("baselines+difference", metric="increment"), "value", ".3f", ci=True),
            "p": Ref("scores", at("difference"), "p"),
            "null": Ref("scores", at("difference", "shuffled"), "value", ".2f"),
        }
        return [
            Text(
                "The difference in means at {site} tells right from wrong answers with AUROC {auroc} on test "
                "(p = {p} against shuffled labels, which reach {null}).",
                refs,
                kind="headline",
            ),
            Text(
                "Over the baselines (population, prompt length, the model's own confidence), which reach {base}, the "
                "probe adds {gain}.",
                refs,
                kind="headline",
            ),
            Figure(
                "line",
                "sweep",
                "layer",
                "value",
                "AUROC by layer (tune)",
                color="predictor",
                low="ci_low",
                high="ci_high",
                reference=0.5,
                reference_label="chance",
                y_title="AUROC",
                caption="Chosen on tune; bands are 95% intervals over groups.",
            ),
            Table(
                "scores",
                "Scores on test",
                [
                    "predictor",
                    "control",
                    "metric",
                    "value",
                    "ci_low",
                    "ci_high",
                    "n",
                    "n_pos",
                    "p",
                    "q",
                    "selected",
                    "note",
                ],
            ),
            Figure(
                "histogram",
                "null",
                "value",
                "",
                "Permutation null",
                reference=0.79,
                reference_label="measured",
                x_title="AUROC under shuffled labels",
            ),
            Figure(
                "scatter",
                "projections",
                "difficulty",
                "projection",
                "Projection against difficulty",
                color="mark",
                x_title="log10 population",
                y_title="projection on the direction",
            ),
            Text("Shuffled labels and a random direction stay at chance.", kind="control"),
        ]


class Intervene(Step):
    """Steers along the direction and ablates it."""

    coefficients: tuple[float, ...] = (-4.0, -2.0, 2.0, 4.0)

    def summary(self, artifact: Artifact) -> list[Block]:
        steer = {"direction": "probe", "control": "", "coefficient": 4.0}
        return [
            Text(
                "Steering by {c} median norms along the probe changed the answer's log-probability by {x}; random "
                "directions of the same norm changed it by {r}.",
                {
                    "c": Ref("effects", steer, "coefficient", ".0f"),
                    "x": Ref("effects", steer, "value", "+.2f", ci=True),
                    "r": Ref("effects", {**steer, "control": "random"}, "value", "+.2f", ci=True),
                },
                kind="headline",
            ),
            Figure(
                "bar",
                "effects",
                "coefficient",
                "value",
                "Effect of steering",
                color="control",
                low="ci_low",
                high="ci_high",
                reference=0,
                y_title="change of log-probability",
            ),
            Figure("heatmap", "grid", "coefficient", "site", "Effect by site and coefficient", value="value"),
            Figure("bar", "components", "component", "value", "Ablation by component", low="ci_low", high="ci_high"),
            Text("Neutral text got worse at the largest coefficient.", kind="warning"),
            Text("Six coefficients were tried on tune.", kind="limit"),
        ]


class Audit(Step):
    """Checks the data for what would make the findings wrong."""

    def summary(self, artifact: Artifact) -> list[Block]:
        return [Table("checks", "Checks", sort="check")]


class Failing(Step):
    """Its summary cannot be made."""

    def summary(self, artifact: Artifact) -> list[Block]:
        raise ZeroDivisionError("a step of the user's own that fails <b>here</b>")


class Bent(Step):
    """Its references and columns are not there."""

    def summary(self, artifact: Artifact) -> list[Block]:
        return [
            Text("Nothing {here}.", {"here": Ref("checks", {"check": "none"})}, kind="headline"),
            Text("A sentence that stands.", kind="headline"),
            Figure("line", "checks", "check", "detail"),
            Table("absent"),
        ]
