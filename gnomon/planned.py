"""A step as the run plans it: its entry, its inputs, its fingerprint, and what will be done with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.config import Entry, Loaded
from gnomon.lineage import Node
from gnomon.repair import Damage
from gnomon.step import Cost, Inputs, ModelSpec, Planning, Step
from gnomon.store import Artifact

KEEP, BACK, RESUME, MAKE, REMAKE, REPAIR = "keep", "bring back", "resume", "make", "remake", "repair"


@dataclass(eq=False)
class Planned:
    """One step of the plan."""

    entry: Entry
    step: Step
    spec: ModelSpec
    node: Node
    kinds: dict[str, list[Node]]
    named: dict[str, Node]
    """Steps that options name, by option."""
    identity: dict[str, Any]
    planning: Planning
    """What its check and its cost looked at."""
    action: str = MAKE
    reason: str = ""
    conditional: bool = False
    """Kept only if what it reads, made anew before it, turns out the same."""
    forced: bool = False
    """Remade because the user said --remake."""
    verify: bool = False
    """Every byte of its files is read before they are kept."""
    looked: dict[Path, list[Damage]] = field(default_factory=dict)
    """What was found wrong with its folders, by folder, every byte read."""
    broken: Path | None = None
    """The folder that is to be mended."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def fingerprint(self) -> str:
        return self.node.fingerprint

    def sources(self) -> dict[str, tuple[str, Node]]:
        """Everything it reads: key -> (kind or "", node); a kind's second folder has the key `kind.1`."""
        out: dict[str, tuple[str, Node]] = {}
        for kind, nodes in self.kinds.items():
            for i, node in enumerate(nodes):
                out[kind if i == 0 else f"{kind}.{i}"] = (kind, node)
        for option, node in self.named.items():
            out[f"option {option}" if option in out else option] = ("", node)
        return out

    @property
    def folder(self) -> Path:
        """Where its finished folder is now: its own place, or set aside under .old, waiting to be brought back."""
        own = self.node.path
        return own.parent / ".old" / f"{own.name}-{self.fingerprint[:16]}" if self.action == BACK else own

    def inputs(self) -> Inputs:
        """The folders it reads, opened."""
        kinds = {kind: [Artifact(node.path) for node in nodes] for kind, nodes in self.kinds.items()}
        return Inputs(kinds, {node.name: Artifact(node.path) for node in self.named.values()})


@dataclass(frozen=True)
class Plan:
    """What a run will do, step by step."""

    loaded: Loaded
    out: Path
    steps: tuple[Planned, ...]

    def to_do(self) -> list[Planned]:
        """The steps that work is needed for."""
        return [p for p in self.steps if p.action not in (KEEP, BACK)]


def total_cost(steps: Sequence[Planned]) -> Cost:
    """Costs added up; memory is the largest, for one step runs at a time."""
    all_costs = [p.node.cost for p in steps]
    return Cost(
        rows=sum(c.rows for c in all_costs),
        prompt_tokens=sum(c.prompt_tokens for c in all_costs),
        new_tokens=sum(c.new_tokens for c in all_costs),
        forward_tokens=sum(c.forward_tokens for c in all_costs),
        disk_bytes=sum(c.disk_bytes for c in all_costs),
        memory_bytes=max((c.memory_bytes for c in all_costs), default=0),
    )


def relative(node: Node, out: Path) -> str:
    """How meta.json names an input: a neighbour's name, or ../other-study/step."""
    return os.path.relpath(node.path, out) if node.external else node.name
