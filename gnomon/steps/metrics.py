"""Metrics: what the neuron steps found, against criteria stated beforehand, with case studies token by token.

    sparsity         share of rows that a neuron's effect lies on: a chosen cut, half of its size, what accuracy needs
    concentration    the kept layers' share of all layers' effects, beside layer sets of the same size
    PC1 variance     of each neuron's effects, median and mean over neurons
    accuracy drops   of rank-1, sparse-text and significant-only effects (from neuron_ablation)
    costs            seconds, memory and bytes of each stage, and the speed-up over materialising

Formulas and nulls: gnomon/methods/second_order_metrics.py. The rule of the verdicts is gnomon/methods/verdict.py, the
one of a study file's criteria. Cost: sorting and resampling arrays; the model is loaded for its tokenizer alone.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import pandas as pd
from pydantic import Field

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.lens.cases import CASES, ERRORS, HEAT, STRONG, Cases
from gnomon.lens.measures import METRICS, STAGES, Goals, Measures, stages
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.writer import Writer


class Metrics(Step):
    """Set what the neuron steps measured against stated criteria, and show the strongest neurons at work."""

    name: ClassVar[str] = "metrics"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("second_order",)
    optional: ClassVar[tuple[str, ...]] = (
        "neurons", "pca", "text", "neuron_ablations", "edits", "layers", "generations",
    )  # fmt: skip
    writes: ClassVar[tuple[str, ...]] = ("metrics",)
    clocked: ClassVar[tuple[str, ...]] = ("costs",)

    sparsity: float = Field(default=0.05, gt=0, lt=1)
    """Goal: the share of rows that a neuron's effect lies on is below this."""
    concentration: float = Field(default=0.8, gt=0, lt=1)
    """Goal: the kept layers' share of all layers' effects is above this."""
    accuracy_drop: float = Field(default=0.01, gt=0, lt=1)
    """Goal: accuracy lost to rank-1, sparse-text and significant-only effects is below this."""
    cases: int = Field(default=6, ge=0, le=50)
    """How many of the strongest neurons are shown with their texts."""
    strongest_by: Literal["second", "rank"] = "second"
    """What makes a neuron strong: its mean |score| along the main direction, or its rank."""
    errors: int = Field(default=8, ge=0, le=50)
    """How many wrong rows are shown with the neurons that differ most from right rows."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval."""

    def check(self, plan: Planning) -> None:
        source = plan.inputs.get("generations")
        if source is not None and source.splits and not source.splits.get("test"):
            raise UserError("metrics needs rows in split 'test'", "fit and test", "give generate.splits")

    def cost(self, plan: Planning) -> Cost:
        source = plan.inputs.get("second_order", Cost())
        return Cost(rows=source.rows, memory_bytes=8 * self.draws * max(source.rows, 1))

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source = inputs["second_order"]
        rows = source.table("rows").sort_values("index")
        test = ctx.split(rows, "test", "metrics: sparsity, effect on right and wrong rows")["index"].to_numpy()
        if len(test) < 2:
            raise UserError(f"metrics has {len(test)} test rows", "at least 2", "raise generate.n")
        goals = Goals(self.sparsity, self.concentration, self.accuracy_drop)
        found = Measures(inputs, ctx, goals, test, self.draws)
        found.all()
        texts = _texts(inputs, rows)
        tokens = ctx.model().token_strings if self.cases and len(texts) else None
        studied = Cases(source, next(iter(inputs.all("text")), None), texts, tokens, self.draws, ctx.seed)
        chosen = studied.strongest(self.cases, self.strongest_by)
        cases, heat = studied.tables(chosen)
        errors, farther, n = studied.errors(self.errors)
        found.add("wrong rows lie farther out", "errors", farther, control=0.5, n=n, note="AUROC of the largest |z|")
        table = pd.DataFrame(found.rows, columns=METRICS.names)
        out.table("metrics", table, METRICS)
        out.table("stages", stages(inputs), STAGES)
        out.table("strong", studied.effects(chosen, test), STRONG)
        out.table("cases", cases, CASES)
        out.table("heat", heat, HEAT)
        out.table("errors", errors, ERRORS)

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.metric_blocks import metric_blocks

        return metric_blocks(artifact)


def _texts(inputs: Inputs, rows: pd.DataFrame) -> pd.DataFrame:
    """The generations of second_order's rows, by row; empty where no generation is among the inputs."""
    if "generations" not in inputs:
        return pd.DataFrame(columns=["row"])
    table = inputs.generations()
    table = table.set_index(table["row"].rename(None))
    return table.loc[table.index.isin(rows["row"].tolist())]
