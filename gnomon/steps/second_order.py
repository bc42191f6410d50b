"""The second-order lens: what single MLP neurons add to the output through the attention heads of later layers.

    phi_n(x) = sum_r coef[n, r](x) * basis[n, r],    score_n(x) = phi_n(x) . u

Formulas, identities and costs: gnomon/methods/second_order.py and docs/second-order.md. One forward pass a text leaves
attention rows, norm scales and activations; all scores, coefficients and masses are arithmetic on these. Attention
patterns and norm scales are held, so a score attributes along paths and does not predict what ablating the neuron does:
its correlation with real ablations is measured here and stands beside every score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from gnomon.blocks import Block
from gnomon.causal.options import as_tuple
from gnomon.errors import UserError
from gnomon.lens.directions import DirectionName, TextLists
from gnomon.lens.texts import ReadPosition
from gnomon.lens.worker import MASS_LAYERS
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.writer import Writer


def _layers(value: Any) -> Any:
    return value if isinstance(value, str) else as_tuple(value)


class SecondOrder(Step):
    """Trace every neuron's effect through the attention heads after it, exactly and without materialising."""

    name: ClassVar[str] = "second_order"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("neurons", "layers", "directions")
    writes: ClassVar[tuple[str, ...]] = ("second_order",)
    clocked: ClassVar[tuple[str, ...]] = ("costs",)

    layers: Annotated[tuple[int, ...] | Literal["kept", "all"], BeforeValidator(_layers)] = "kept"
    """Whose neurons: `kept` are the layers of step neurons (or the MLP layers that layer_ablation kept), `all`, or
    numbers. The last layer has no later head, so its effects are 0: it is left out, and refused where it is named."""
    neurons: int = Field(default=100, ge=2)
    """Of how many neurons a layer coefficients and per-token scores are kept: the first by the rank of step neurons;
    without that step, by mean |score| on fit."""
    directions: Annotated[tuple[DirectionName, ...], BeforeValidator(as_tuple)] = ("difference", "logit_lens")
    """Along what effects are scored; the first is the main one. difference (right minus wrong rows), probe (of the step
    `using`), logit_lens (the right answer's own first token), texts (see `texts`)."""
    using: str = ""
    """The step whose headline direction `probe` is; the nearest earlier one that wrote directions, unless given."""
    texts: TextLists = TextLists()
    """The two lists of texts of the direction `texts`."""
    position: ReadPosition = "before_answer"
    """Where effects are read: before_answer (the token that should be followed by the answer), or last_prompt."""
    tokens: Literal["all", "last_k"] = "all"
    """Which tokens' activations count: all, or the last k before the read position (the final generation steps)."""
    last_k: int = Field(default=8, ge=1)
    """How many tokens `tokens: last_k` means."""
    max_rows: int = Field(default=300, ge=4)
    """Rows that are used at most, evenly spaced over all splits."""
    per_token: bool = True
    """Keep the main direction's scores of the kept neurons token by token."""
    effects: bool = False
    """Also write the effects themselves, `[rows, neurons, d_model]` a layer: large, and never needed by later steps."""
    total: bool = False
    """Also write all-order effects (through later MLPs with their gates held): one backward sweep a direction."""
    mass_rows: int = Field(default=16, ge=0)
    """Fit rows over which the mean norm of every neuron's effect in every layer is taken, for the concentration over
    layers; 0 leaves it out."""
    check_rows: int = Field(default=6, ge=0)
    """Fit rows on which single neurons are really set to zero, to say what the scores are worth; 0 leaves it out."""
    check_neurons: int = Field(default=16, ge=4)
    """Neurons a layer that are set to zero one by one: half by rank, half at random."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval."""
    batch_size: int = Field(default=16, ge=1)
    """Rows in a batch."""

    def needs(self) -> Mapping[str, str]:
        return {"using": self.using} if self.using else {}

    def check(self, plan: Planning) -> None:
        n_layers = int(plan.model.facts()["n_layers"])
        if isinstance(self.layers, tuple):
            if not self.layers:
                raise UserError("second_order.layers is empty", "layer numbers, kept or all")
            for layer in self.layers:
                if not 0 <= layer < n_layers:
                    raise UserError(f"second_order.layers holds {layer}", f"layers 0 to {n_layers - 1}")
                if layer == n_layers - 1:
                    raise UserError(
                        f"second_order.layers holds {layer}, the last layer", "a layer with attention after it",
                        "its second-order effects are 0",
                    )  # fmt: skip
        elif self.layers == "kept" and not {"neurons", "layers"} & set(plan.inputs):
            raise UserError(
                "second_order.layers is 'kept', and no earlier step keeps layers", "step neurons or layer_ablation",
                "put one above it, or name the layers",
            )  # fmt: skip
        if len(set(self.directions)) != len(self.directions) or not self.directions:
            raise UserError(f"second_order.directions is {list(self.directions)}", "one or more, each once")
        if "probe" in self.directions and not self.using and "directions" not in plan.inputs:
            raise UserError(
                "second_order.directions holds probe", "an earlier step that finds a direction", "add probe"
            )
        source = plan.inputs.get("generations")
        for split in ("fit", "test"):
            if source is not None and source.splits and not source.splits.get(split):
                raise UserError(f"second_order needs rows in split {split!r}", "fit and test", "give generate.splits")

    def cost(self, plan: Planning) -> Cost:
        source, facts = plan.inputs.get("generations", Cost()), plan.model.facts()
        rows = min(self.max_rows, source.rows or self.max_rows)
        length = (source.prompt_tokens / source.rows if source.rows else 30.0) + 2
        n, d, depth = (int(facts[k]) for k in ("d_mlp", "d_model", "n_layers"))
        heads = int(facts["n_heads"])
        layers = len(self.layers) if isinstance(self.layers, tuple) else depth if self.layers == "all" else 6
        forward = rows * length * (2 + 2 * self.total) + (depth / MASS_LAYERS) * self.mass_rows * length
        forward += layers * self.check_rows * self.check_neurons * length / 2
        a_layer = rows * n * (len(self.directions) * (1 + self.total)) + self.neurons * heads * depth / 2 * (rows + d)
        a_layer += rows * length * self.neurons * self.per_token + rows * d
        a_layer += rows * self.neurons * d * self.effects
        memory = 4 * (a_layer * layers + self.mass_rows * n * heads * depth + self.mass_rows * length * n * MASS_LAYERS)
        return Cost(
            rows=rows, forward_tokens=int(forward), disk_bytes=int(4 * a_layer * layers), memory_bytes=int(memory)
        )

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.lens.trace import Trace

        Trace(self, inputs, out, ctx).run()

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.lens.summary import second_order_blocks

        return second_order_blocks(artifact)
