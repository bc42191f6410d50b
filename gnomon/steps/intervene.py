"""Interventions: is the direction a cause? Steer along it and ablate it, beside controls that know nothing.

    steer    x' = x + c * unit * v / |v|           unit: median norm of unmasked fit tokens at the site
    ablate   x' = x - (x . u - mean) u,  u = v / |v|

The coefficient is swept on tune (both signs), chosen there, and reported on test beside at least 19 random directions
of the same length, 19 shuffled-label ones, and its own sign flip. With `score: generate` all of it is decided by whole
answers, written under the edit and graded: wrong ones corrected, right ones corrupted. Sources: Turner et al. 2023
(activation addition), Arditi et al. 2024 (directional ablation, weight orthogonalisation), arXiv 2510.02917 (selective
steering and attention, for code). Cost: every edit reuses the clean prefix and, scored, the layers below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from gnomon.blocks import Block
from gnomon.causal.options import CausalOptions
from gnomon.errors import UserError, unknown
from gnomon.sites import STREAM
from gnomon.step import Context, Inputs
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer


class Intervene(CausalOptions):
    """Steer along a direction, ablate it, or take it out of the weights, beside matched controls."""

    name: ClassVar[str] = "intervene"
    version: ClassVar[int] = 5
    reads: ClassVar[tuple[str, ...]] = ("generations", "directions")
    optional: ClassVar[tuple[str, ...]] = ("activations",)
    writes: ClassVar[tuple[str, ...]] = ("effects",)

    using: str = ""
    """The step whose directions are tried; needed where several earlier ones wrote some."""
    direction: int | str = 0
    """Which of its directions: a number (0 is the headline one) or a name (feature 123 resid_post.15)."""
    at: Literal["", "resid_pre", "resid_mid", "resid_post"] = ""
    """Apply it at another component of its own layer; its own site unless given."""

    def needs(self) -> Mapping[str, str]:
        return {"using": self.using} if self.using else {}

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.causal.trial import Trial

        source = inputs.named(self.using) if self.using else inputs["directions"]
        direction = self.placed(self.chosen(source.directions(), source.name))
        position = str(direction.meta.get("position") or "last_prompt")
        Trial(self, direction, position, inputs, out, ctx, source).run()

    def placed(self, direction: Direction) -> Direction:
        """The direction at the component that `at` names; UserError where its vector is not one of the stream."""
        site = direction.site
        if not self.at or site.component == self.at:
            return direction
        if site.component not in STREAM:
            raise UserError(f"at: {self.at}, for a direction at {site}", "a direction of the residual stream")
        meta = {**direction.meta, "made_at": str(site)}
        return Direction(
            Site(self.at, site.layer), direction.vector, direction.name, direction.kind, direction.score, meta
        )

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
