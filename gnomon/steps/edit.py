"""Edit: amplify neurons that go with right answers, suppress those that go with wrong ones, and count what it does.

Neurons and their signs come from fit, the coefficient from tune by a stated rule (gnomon/methods/editing.py), and every
number of the headline from test: answers fixed and broken, their net beside as many random neurons of the same layers
and the same mean |activation|, loss on neutral text, unrelated facts. Cost: as of step intervene; an edit runs the
blocks from the lowest edited one on, and, with the default `where`, only the tokens that write the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from gnomon.blocks import Block
from gnomon.causal.options import as_tuple, check_where
from gnomon.errors import UserError
from gnomon.interventions.base import JOINED, Where
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.writer import Writer


class Edit(Step):
    """Amplify or suppress neurons by the sign of their association with right answers."""

    name: ClassVar[str] = "edit"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("generations", "neurons")
    optional: ClassVar[tuple[str, ...]] = ("second_order",)
    writes: ClassVar[tuple[str, ...]] = ("edits",)

    by: Literal["auroc", "second_order"] = "auroc"
    """The association with right answers, on fit: the AUROC of step neurons, or the correlation of the main
    second-order score with the label."""
    neurons: int = Field(default=20, ge=1)
    """How many neurons are edited: those of the strongest association over all layers."""
    kinds: Annotated[tuple[Literal["amplify", "suppress", "both"], ...], BeforeValidator(as_tuple)] = (
        "amplify", "suppress", "both",
    )  # fmt: skip
    """amplify neurons that go with right answers (times 1 + c), suppress those that go with wrong ones (times 1 - c),
    or both at once. A kind for which there is no neuron is left out."""
    coefficients: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """The c that are swept on tune."""
    max_damage: float = Field(default=0.1, ge=0)
    """Coefficients that raise the loss on neutral text by more than this (nats a token) are not chosen."""
    where: str | tuple[int, ...] = JOINED
    """Which tokens are edited: prompt, generated, last_prompt, all, or two joined by "+"."""
    random_controls: int = Field(default=19, ge=19, le=999)
    """Sets of as many other neurons of the same layers, matched in mean |activation|, that are edited on test."""
    sweep_controls: int = Field(default=2, ge=0)
    """How many of them are swept on tune too."""
    damage_controls: int = Field(default=3, ge=0)
    """How many of them are also run on neutral text and unrelated facts."""
    tune_rows: int = Field(default=48, ge=2)
    """Rows of tune that are used at most, evenly spaced."""
    max_rows: int = Field(default=100, ge=2)
    """Rows of test that are used at most, evenly spaced."""
    generate_rows: int = Field(default=40, ge=0)
    """Rows of test on which the edited model also writes whole answers, which are graded; 0 leaves it out."""
    neutral_texts: int = Field(default=10, ge=2, le=40)
    """Neutral paragraphs whose loss measures off-target damage."""
    unrelated_items: int = Field(default=24, ge=2, le=36)
    """Unrelated facts whose accuracy measures off-target damage."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval."""
    batch_size: int = Field(default=16, ge=1)
    """Rows in a batch."""

    @field_validator("where")
    @classmethod
    def _known_place(cls, value: Where) -> Where:
        return check_where(value)

    @field_validator("coefficients")
    @classmethod
    def _sizes(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < v < float("inf") for v in value):
            raise UserError(f"edit.coefficients are {list(value)}", "sizes above 0")
        return tuple(sorted(set(value)))

    def check(self, plan: Planning) -> None:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise UserError(f"edit.kinds is {list(self.kinds)}", "one or more of amplify, suppress, both, each once")
        if self.sweep_controls > self.random_controls or self.damage_controls > self.random_controls:
            raise UserError("edit has more sweep or damage controls than random_controls", "at most as many")
        if self.by == "second_order" and "second_order" not in plan.inputs:
            raise UserError("edit.by is second_order", "an earlier step second_order", "add it, or by: auroc")
        options: Any = plan.source_options.get("neurons") or {}
        if self.by == "auroc" and options.get("auroc") == "none":
            raise UserError(
                "edit.by is auroc, and step neurons has auroc: none", "neurons.auroc: read or max",
                "or edit.by: second_order",
            )  # fmt: skip
        source = plan.inputs.get("generations")
        for split in ("tune", "test"):
            if source is not None and source.splits and not source.splits.get(split):
                raise UserError(f"edit needs rows in split {split!r}", "fit, tune and test", "give generate.splits")

    def cost(self, plan: Planning) -> Cost:
        source = plan.inputs.get("generations", Cost())
        length = (source.prompt_tokens / source.rows if source.rows else 30.0) + 3
        everything = isinstance(self.where, str) and self.where.split("+")[0] in ("all", "prompt")
        tail, k = length if everything else 4.0, len(self.kinds)
        swept = self.tune_rows * k * len(self.coefficients) * (1 + self.sweep_controls)
        tested = self.max_rows * k * (1 + self.random_controls)
        damage = self.neutral_texts * 25 * k * (len(self.coefficients) + 1 + self.damage_controls)
        new = source.new_tokens / source.rows if source.rows else 16.0
        clean = (self.tune_rows + self.max_rows) * length + self.neutral_texts * 50
        written = self.generate_rows * k * (length + new)
        return Cost(forward_tokens=int(clean + (swept + tested) * tail / 2 + damage / 2 + written))

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.causal.editing import Editing

        Editing(self, inputs, out, ctx).run()

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.causal.edit_blocks import edit_blocks

        return edit_blocks(artifact)
