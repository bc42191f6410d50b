"""Neurons: which MLP neurons of the kept layers matter, what that ranking is worth, and which tell right from wrong.

Ranked within each layer, on fit rows, by mean |activation|, variance, direct effect on a direction, and gradient x
activation of the right answer (formulas: gnomon/methods/neuron_ranking.py). Gradient x activation is the causal score:
it is checked here against really setting single neurons to zero, half of them drawn at random and half by rank. Single
neurons that tell right from wrong are searched on fit and confirmed on test (gnomon/methods/neuron_auroc.py). Cost: one
forward and one backward pass over the fit rows, one forward pass over the test rows, half a pass for each ablation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from gnomon.blocks import Block
from gnomon.causal.options import as_tuple
from gnomon.errors import UserError
from gnomon.lens.neurons import ReadoutName
from gnomon.lens.texts import ReadPosition
from gnomon.methods.neuron_ranking import CRITERIA, Criterion
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.writer import Writer


def _layers(value: Any) -> Any:
    return value if isinstance(value, str) else as_tuple(value)


class Neurons(Step):
    """Rank the MLP neurons of chosen layers, check the ranking by real ablations, find those that know right."""

    name: ClassVar[str] = "neurons"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("layers", "directions")
    writes: ClassVar[tuple[str, ...]] = ("neurons",)

    layers: Annotated[tuple[int, ...] | Literal["kept", "all"], BeforeValidator(_layers)] = "kept"
    """Whose neurons: `kept` are the MLP layers that layer_ablation kept, `all`, or numbers."""
    top_k: int = Field(default=100, ge=1)
    """How many neurons a layer are marked `selected` for later steps."""
    combine: Literal["mean_rank", "mean_abs", "variance", "direct", "grad_act"] = "mean_rank"
    """What orders the neurons: the mean of their ranks by `criteria`, or one criterion alone. Equal scores are ordered
    by gradient x activation. Every criterion's own rank is kept in the table."""
    criteria: Annotated[tuple[Criterion, ...], BeforeValidator(as_tuple)] = CRITERIA
    """Which ranks `mean_rank` averages, each with the same weight."""
    direction: Literal["difference", "probe", "logit_lens"] = "difference"
    """Along what the direct effect is taken: difference (right minus wrong fit rows of the final norm's output), probe
    (of the step `using`), logit_lens (each row's own right answer over the other answers)."""
    using: str = ""
    """The step whose headline direction `probe` is; the nearest earlier one that wrote directions, unless given."""
    readout: ReadoutName = "logprob"
    """What gradient x activation and the real ablations are of: the right answer's first token's log-probability
    (logprob), its logit over the mean logit (logit), or over its strongest competitor's (margin)."""
    position: ReadPosition = "before_answer"
    """Where effects are read: before_answer (the token that should be followed by the answer), or last_prompt."""
    tokens: Literal["all", "last_k"] = "all"
    """Which tokens' activations count, in every criterion and in the ablations: all, or the last k before the read
    position (the final generation steps)."""
    last_k: int = Field(default=8, ge=1)
    """How many tokens `tokens: last_k` means."""
    max_rows: int = Field(default=120, ge=4)
    """Rows of fit that are used at most, evenly spaced."""
    check_neurons: int = Field(default=200, ge=4)
    """How many single neurons are really set to zero, shared by the layers; in each, half by rank, half at random."""
    check_rows: int = Field(default=4, ge=0)
    """Fit rows in which each of them is set to zero; 0 leaves the check out."""
    auroc: Literal["read", "max", "none"] = "read"
    """Which activation is put to telling right from wrong: at the read position, the largest over the counted tokens,
    or none (the search is left out)."""
    test_rows: int = Field(default=240, ge=4)
    """Rows of test that are used at most for the confirmation, evenly spaced."""
    permutations: int = Field(default=499, ge=199)
    """Shuffles of the labels, by group, on fit and on test."""
    confirm: int = Field(default=20, ge=1)
    """How many neurons, those with the smallest p on fit, are looked at on test."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in a batch."""

    @property
    def k(self) -> int | None:
        """How many last tokens count; None for all."""
        return self.last_k if self.tokens == "last_k" else None

    def needs(self) -> Mapping[str, str]:
        return {"using": self.using} if self.using else {}

    def check(self, plan: Planning) -> None:
        n_layers = int(plan.model.facts()["n_layers"])
        if isinstance(self.layers, tuple):
            if not self.layers:
                raise UserError("neurons.layers is empty", "layer numbers, kept or all")
            for layer in self.layers:
                if not 0 <= layer < n_layers:
                    raise UserError(f"neurons.layers holds {layer}", f"layers 0 to {n_layers - 1}")
        elif self.layers == "kept" and "layers" not in plan.inputs:
            raise UserError(
                "neurons.layers is 'kept', and no earlier step keeps layers", "step layer_ablation",
                "put it above, or name the layers",
            )  # fmt: skip
        if not self.criteria or len(set(self.criteria)) != len(self.criteria):
            raise UserError(f"neurons.criteria is {list(self.criteria)}", "one or more, each once")
        if self.direction == "probe" and not self.using and "directions" not in plan.inputs:
            raise UserError("neurons.direction is probe", "an earlier step that finds a direction", "add probe")
        source = plan.inputs.get("generations")
        for split in ("fit", "test") if self.auroc != "none" else ("fit",):
            if source is not None and source.splits and not source.splits.get(split):
                raise UserError(f"neurons needs rows in split {split!r}", "fit and test", "give generate.splits")

    def cost(self, plan: Planning) -> Cost:
        source, facts = plan.inputs.get("generations", Cost()), plan.model.facts()
        splits = source.splits or {}
        fit = min(self.max_rows, splits.get("fit", self.max_rows))
        test = min(self.test_rows, splits.get("test", self.test_rows)) if self.auroc != "none" else 0
        length = (source.prompt_tokens / source.rows if source.rows else 30.0) + 2
        n, depth = int(facts["d_mlp"]), int(facts["n_layers"])
        layers = len(self.layers) if isinstance(self.layers, tuple) else depth if self.layers == "all" else 6
        forward = length * (3 * fit + test + (self.check_neurons + 1) * self.check_rows / 2)
        memory = 4 * n * layers * (3 * fit + test + (3 * self.permutations if self.auroc != "none" else 0))
        return Cost(rows=fit + test, forward_tokens=int(forward), disk_bytes=n * layers * 120, memory_bytes=memory)

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.lens.ranking import Ranking

        Ranking(self, inputs, out, ctx).run()

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.lens.neuron_blocks import neuron_blocks

        return neuron_blocks(artifact)
