"""The two sides of a comparison: a generation each, with its captures, its confidence passes and its signals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gnomon.errors import UserError
from gnomon.rows.signals import signals, stated
from gnomon.sites import RAGGED
from gnomon.step import Inputs
from gnomon.store import Artifact
from gnomon.types import Activations, Site

PROBABILITIES = ("max_prob", "mean_prob")
"""Output signals that claim to be a probability of being right."""
Couples = Mapping[str, tuple[Artifact, Artifact]]
"""Name -> the passes of a and of b that ask the same."""


@dataclass(frozen=True)
class Side:
    """One generation."""

    letter: str
    """a or b."""
    generation: Artifact
    captured: tuple[Artifact, ...]
    """The generation, and captures of it."""
    passes: Mapping[str, Artifact]
    """Confidence passes about it, by step name."""

    @property
    def name(self) -> str:
        return self.generation.name

    def facts(self) -> dict[str, Any]:
        """A line of table `models`."""
        meta = self.generation.meta.get("model") or {}
        text = {k: str(meta.get(k) or "") for k in ("adapter", "revision", "dtype", "fingerprint")}
        folder = str(self.generation.path.resolve().parent.name)
        return text | {"side": self.letter, "step": self.name, "folder": folder, "model": str(meta.get("name") or ""),
                       "n_layers": meta.get("n_layers")}  # fmt: skip


def side_of(letter: str, name: str, inputs: Inputs, wanted: Sequence[str]) -> Side:
    """The side called `name` among the inputs; `wanted` names passes that must be about it."""
    generation = inputs.named(name)
    if "generations" not in generation.tables():
        raise UserError(f"compare.{letter}: {name} holds no generations", "a generate step")
    own = generation.path.resolve()
    captured = [x for x in inputs.all("activations") if x.meta.get("step") == "capture" and made_of(x) == own]
    mine = {p.name: p for p in inputs.all("confidence") if made_of(p) == own}  # two studies may both have a `self`
    for each in wanted:
        found = inputs.named(each)
        if "confidence" not in found.tables() or made_of(found) != own:
            raise UserError(
                f"compare.confidence: {each} is no confidence pass about {name}",
                f"passes about it: {', '.join(mine) or 'none'}", "[[pass of a, pass of b], ...]",
            )  # fmt: skip
        mine[each] = found
    return Side(letter, generation, (generation, *captured), mine)


def made_of(artifact: Artifact) -> Path | None:
    """The folder of the generation that an artifact recorded as its input."""
    record = (artifact.meta.get("inputs") or {}).get("generations") or {}
    name = record.get("name") if isinstance(record, Mapping) else None
    return (artifact.path.parent / str(name)).resolve() if name else None


def names(a: Side, b: Side) -> tuple[str, str]:
    """How messages call the two: by step, or by study and step where the steps have one name."""
    if a.name != b.name:
        return a.name, b.name
    first, second = (f"{s.generation.path.resolve().parent.name}/{s.name}" for s in (a, b))
    return first, second


def couples(
    a: Side, b: Side, given: Sequence[tuple[str, str]], log: logging.Logger
) -> dict[str, tuple[Artifact, Artifact]]:
    """Passes that are compared with each other, by what they ask (by a's name where two ask the same).

    Without `given`: each pass of a with the pass of b that asks the same, equal options first; where several fit,
    none is taken and the log says so.
    """
    two = [(a.passes[x], b.passes[y]) for x, y in given]
    for mine in () if given else a.passes.values():
        same = [p for p in b.passes.values() if p.options.get("ask") == mine.options.get("ask")]
        fit = [p for p in same if p.options == mine.options] or same
        if len(fit) == 1:
            two.append((mine, fit[0]))
        elif fit:
            log.warning("compare: several passes of %s ask %s; say which: confidence: [[%s, ...]]", b.name,
                        mine.options.get("ask"), mine.name)  # fmt: skip
    asks = [str(x.options.get("ask") or x.name) for x, _ in two]
    return {ask if asks.count(ask) == 1 else x.name: (x, y) for ask, (x, y) in zip(asks, two, strict=True)}


def told(a: Side, b: Side, by_ask: Couples, rows: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Output signals that both sides know and stated confidence, `[n]` of each side, for paired rows."""
    each: list[dict[str, np.ndarray]] = []
    for i, side in enumerate((a, b)):
        numbers = np.asarray(rows[f"row_{side.letter}"])
        table, known = signals(Inputs({"generations": [side.generation]}))
        table = table.set_index("row")
        found = {s.name: table[s.name].reindex(numbers).to_numpy(dtype=np.float64) for s in known if s.kind == "output"}
        each.append(found | {ask: stated(two[i], numbers) for ask, two in by_ask.items()})
    return {name: (each[0][name], each[1][name]) for name in each[0] if name in each[1]}


# ---------------------------------------------------------------- activations


def shared_sites(left: Sequence[Artifact], right: Sequence[Artifact]) -> list[tuple[str, str]]:
    """(site, position) with one token a row that both captured, in order."""
    there = [{pair for artifact in side for pair in artifact.sites()} for side in (left, right)]
    return [(str(site), position) for site, position in sorted(there[0] & there[1]) if position not in RAGGED]


def captured(artifacts: Sequence[Artifact], site: str, position: str) -> Activations:
    """Activations at a site and position, from the first artifact that has them."""
    return next(x for x in artifacts if (Site.parse(site), position) in x.sites()).activations(site, position)
