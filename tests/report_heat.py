"""A step for tests of the report whose section is one Heat block."""

from __future__ import annotations

from gnomon.blocks import Block, Heat
from gnomon.step import Step
from gnomon.store import Artifact


class Metrics(Step):
    """Shows cases token by token."""

    def summary(self, artifact: Artifact) -> list[Block]:
        extra = ("layer", "neuron", "kind", "label", "score", "prompt")
        return [Heat("heat", "Cases", cases="cases", extra=extra, caption="Blue raises the score, orange lowers it.")]
