"""Neuron ablation: what the answer loses without the chosen neurons, in the model and in output space.

    output space   y' = y + sum_n (replacement_n - phi_n), effects as second_order measured them: full mean
                   ablation, significant rows only, all other rows, rank-1 and text reconstructions, whole layers
    the model      the neurons' activations are replaced by their mean over fit tokens, and everything after follows

A reconstruction exists in output space only: pc and the text reconstruction are vectors in the space of effects on the
final norm's output, which no activation of the model holds; the neuron's own output weight reaches that space along as
many paths as there are later heads. In return, output space has no reaction of later layers, and only the first answer
token. Formulas, source and the arithmetic's cost: gnomon/methods/output_ablation.py. Cost in the model: model_rows *
(4 + 2 * controls) texts from the lowest ablated layer on.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, field_validator

from gnomon.blocks import Block
from gnomon.causal.collect import choice_lengths, right_choices, task_outcomes
from gnomon.causal.items import scored_rows, spread, task_items
from gnomon.causal.measure import component_means
from gnomon.causal.options import as_tuple, check_where
from gnomon.causal.pick import pick
from gnomon.causal.worker import CLEAN, outcomes, score
from gnomon.errors import UserError
from gnomon.interventions.base import Where
from gnomon.lens.arithmetic import Arithmetic, Cuts
from gnomon.methods.ablation_rows import ABLATIONS, COMPARED, CURVE, Rows, Table, Values, all_rows
from gnomon.methods.output_ablation import LEAST, SHARE, SHARES
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer


class NeuronAblation(Step):
    """Ablate the chosen neurons, wholly and in part, in the model and in output space, beside matched controls."""

    name: ClassVar[str] = "neuron_ablation"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("second_order", "pca")
    optional: ClassVar[tuple[str, ...]] = ("text", "generations")
    writes: ClassVar[tuple[str, ...]] = ("neuron_ablations",)

    spaces: Annotated[tuple[Literal["output", "model"], ...], BeforeValidator(as_tuple)] = ("output", "model")
    """Where neurons are ablated: output (arithmetic on their effects), model (their activations are replaced)."""
    top_share: float = Field(default=SHARE, gt=0, lt=1)
    """The share of fit rows that pass a neuron's threshold and make its significant set: a chosen cut."""
    least: int = Field(default=LEAST, ge=1)
    """Fit rows that pass at least."""
    shares: tuple[float, ...] = SHARES
    """Shares of rows whose effects are kept, of the curve on tune."""
    tolerance: float = Field(default=0.01, gt=0, lt=1)
    """The smallest share that keeps accuracy on tune within this of the unmodified is measured on test."""
    controls: int = Field(default=19, ge=19, le=999)
    """Draws of each control: random rows, random directions, random neurons."""
    curve_controls: int = Field(default=5, ge=1)
    """Draws of random rows at each point of the curve."""
    where: str | tuple[int, ...] = "all"
    """At which tokens activations are replaced in the model: prompt, generated, last_prompt, all, or two joined by "+".
    `all` is what second_order counts as sources: everything up to the read position."""
    max_rows: int = Field(default=256, ge=2)
    """Rows of test that are used at most in output space, evenly spaced."""
    model_rows: int = Field(default=48, ge=2)
    """Rows of test that are run at most in the model, evenly spaced."""
    fit_rows: int = Field(default=24, ge=2)
    """Rows of fit whose tokens give the mean activations."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval, and sign flips of a p."""
    batch_size: int = Field(default=16, ge=1)
    """Rows in a batch."""

    @field_validator("where")
    @classmethod
    def _known_place(cls, value: Where) -> Where:
        return check_where(value)

    @field_validator("shares")
    @classmethod
    def _between(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 <= v <= 1 for v in value):
            raise UserError(f"shares are {list(value)}", "numbers from 0 to 1")
        return tuple(sorted({0.0, *value, 1.0}))

    def check(self, plan: Planning) -> None:
        if not self.spaces:
            raise UserError("neuron_ablation has no spaces", "output, model, or both")
        source = plan.inputs.get("generations")
        if "model" in self.spaces and plan.inputs and source is None:
            raise UserError(
                "neuron_ablation in the model reads no generations", "an earlier step that writes them",
                "or set spaces: output",
            )  # fmt: skip
        for split in ("fit", "test"):
            if source is not None and source.splits and not source.splits.get(split):
                raise UserError(f"neuron_ablation needs rows in split {split!r}", "fit and test", "generate.splits")

    def cost(self, plan: Planning) -> Cost:
        facts = plan.model.facts()
        source = plan.inputs.get("generations", Cost())
        length = (source.prompt_tokens / source.rows if source.rows else 30.0) + 3
        d = int(facts["d_model"])
        memory = 4 * d * int(facts["d_vocab"]) + 8 * self.max_rows * d * (2 * self.controls + 10)
        if "model" not in self.spaces:
            return Cost(memory_bytes=memory)
        texts = self.model_rows * (1 + (3 + 2 * self.controls) * 0.6) + self.fit_rows
        return Cost(rows=self.model_rows, forward_tokens=int(texts * length), memory_bytes=memory)

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source = inputs["second_order"]
        table, neurons = source.table("rows").sort_values("index"), source.table("neurons").sort_values("index")
        fit = ctx.split(table, "fit", "neuron ablation: means and thresholds")
        test = spread(ctx.split(table, "test", self.name).assign(example_index=lambda t: t["index"]), self.max_rows)
        if len(fit) < 2 or len(test) < 2:
            raise UserError(
                f"neuron_ablation has {len(fit)} fit rows and {len(test)} test rows", "at least 2 of each",
                "raise generate.n",
            )  # fmt: skip
        known = {"fit rows": len(fit), "test rows": len(test), "neurons": len(neurons)}
        cuts = Cuts(
            self.least, self.top_share, self.shares, self.tolerance, self.controls, self.curve_controls, self.draws,
            "output" in self.spaces,
        )  # fmt: skip
        arithmetic = Arithmetic(cuts, inputs, ctx, table, neurons, known)
        curve, share = arithmetic.curve()
        rows, compared, changes = arithmetic.test(test["index"].to_numpy(), share)
        known |= {"smallest share": share, "significant pairs": changes.significant[:, test["index"]].mean()}
        if "model" in self.spaces:
            more, beside = self._in_the_model(inputs, out, ctx, test, neurons, changes.significant)
            rows, compared = (rows if "output" in self.spaces else []) + more, compared + beside
        out.table("ablations", pd.DataFrame(rows, columns=ABLATIONS.names), ABLATIONS)
        out.table("compared", pd.DataFrame(compared, columns=COMPARED.names), COMPARED)
        out.table("curve", pd.DataFrame(curve, columns=CURVE.names), CURVE)
        layers = ", ".join(map(str, sorted(set(neurons["layer"].tolist()))))
        facts = [{"fact": k, "value": None if v is None else float(v), "text": ""} for k, v in known.items()]
        out.table("facts", pd.DataFrame([*facts, {"fact": "layers", "value": None, "text": layers}]))

    def _in_the_model(
        self, inputs: Inputs, out: Writer, ctx: Context, test: pd.DataFrame, neurons: pd.DataFrame, passed: np.ndarray
    ) -> tuple[Rows, Rows]:
        from gnomon.lens.model_ablation import SET, Chosen, ablation_blocks

        model, some = ctx.model(), spread(test, self.model_rows)
        generations = scored_rows(inputs.generations())
        texts = generations.set_index(generations["row"].rename(None)).loc[some["row"].tolist()]
        fit = ctx.split(generations, "fit", "neuron ablation: mean activations")
        by_layer = {int(k): pick(neurons, layer=k) for k in sorted(set(neurons["layer"].tolist()))}
        sites = [Site("mlp_post", layer) for layer in by_layer]
        means = component_means(ctx, fit, sites, self.where, self.fit_rows, self.batch_size)
        rows = some["index"].to_numpy()
        chosen = Chosen(
            {layer: part["neuron"].to_numpy() for layer, part in by_layer.items()},
            {site.layer: values for site, values in means.items()},
            {layer: passed[part["index"]][:, rows].T for layer, part in by_layer.items()}, texts["row"].tolist(),
        )  # fmt: skip
        items = task_items(texts, self.where, model.encode_text, model.decode)
        blocks = ablation_blocks(items, chosen, self.where, self.controls, self.batch_size, ctx.seed)
        score(blocks, [], out, ctx, "neuron ablation", self.batch_size)
        names = [c.name for c in blocks[0].conditions]
        scored, units = pick(outcomes(out), set=SET), texts["row"].tolist()
        found = task_outcomes(scored, units, names, right_choices(texts), choice_lengths(texts))
        right = found.right.astype(np.float64)

        def values(*columns: int) -> Values:
            at = columns[0] if len(columns) == 1 else list(columns)
            return {"accuracy": right[:, at].T, "target_logprob": found.logprob[:, at].T}

        made = Table("model", "test", values(names.index(CLEAN.name)), some["group"].to_numpy(), self.draws, ctx.seed)
        shares = {"full": 1.0, "significant": passed[:, rows].mean(), "insignificant": 1 - passed[:, rows].mean()}
        single = {name: values(names.index(name)) for name in shares}
        random = {
            kind: values(*(i for i, name in enumerate(names) if name.startswith(kind + " ")))
            for kind in ("random_neurons", "random_pairs")
        }
        return all_rows(made, single, random, shares)

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.ablation_blocks import ablation_blocks

        return ablation_blocks(artifact)
