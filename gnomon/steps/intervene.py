"""Interventions: is the direction a cause? Steer along it and ablate it, beside controls that know nothing.

    steer    x' = x + c * unit * v / |v|           unit: median norm of unmasked fit tokens at the site
    ablate   x' = x - (x . u - mean) u,  u = v / |v|

The coefficient is swept on tune (both signs), chosen there, and reported on test beside at least 19 random directions
of the same length, 19 shuffled-label ones, and its own sign flip. Sources: Turner et al. 2023 (activation addition),
Arditi et al. 2024 (directional ablation). Cost: every edit reuses the clean prefix and the layers below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gnomon.blocks import Block
from gnomon.causal.options import CausalOptions
from gnomon.errors import UserError, unknown
from gnomon.step import Context, Inputs
from gnomon.store import Artifact
from gnomon.types import Direction
from gnomon.writer import Writer


class Intervene(CausalOptions):
    """Steer along a direction and ablate it, beside matched controls."""

    name: ClassVar[str] = "intervene"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("generations", "directions")
    optional: ClassVar[tuple[str, ...]] = ("activations",)
    writes: ClassVar[tuple[str, ...]] = ("effects",)

    using: str = ""
    """The step whose directions are tried; the nearest earlier one that wrote some, unless given."""
    direction: int | str = 0
    """Which of its directions: a number (0 is the headline one) or a name."""

    def needs(self) -> Mapping[str, str]:
        return {"using": self.using} if self.using else {}

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.causal.trial import Trial

        source = inputs.named(self.using) if self.using else inputs["directions"]
        direction = self.chosen(source.directions(), source.name)
        position = str(direction.meta.get("position") or "last_prompt")
        Trial(self, direction, position, inputs, out, ctx).run()

    def chosen(self, directions: list[Direction], source: str) -> Direction:
        """The direction that the option names; UserError where there is none."""
        if isinstance(self.direction, int):
            if not 0 <= self.direction < len(directions):
                raise UserError(f"{source} has no direction {self.direction}", f"{len(directions)} directions, from 0")
            return directions[self.direction]
        named = {d.name: d for d in directions}
        if self.direction not in named:
            raise unknown(f"direction of step {source}", self.direction, named)
        return named[self.direction]

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.causal.summary import trial_blocks

        return trial_blocks(artifact)
