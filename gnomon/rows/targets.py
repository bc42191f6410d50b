"""What of an answer is to be explained, and where activations are read for it: shared by emergence and surface.

Targets are correctness, numbers of the output (entropy, margin), and the stated confidence of each pass. Activations
are those of the base generation, or a pass's own. Rows are the generation's throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from gnomon import nulls
from gnomon.errors import UserError, unknown
from gnomon.rows.passes import planned_pass, planned_passes
from gnomon.rows.signals import pass_called, passes, signals
from gnomon.sites import POSITIONS, RAGGED
from gnomon.step import Inputs, Planning
from gnomon.store import Artifact
from gnomon.types import Site

COLUMNS = {
    "correct": "correctness of the answer",
    "entropy": "entropy of the answer's distribution",
    "margin": "margin of the two best",
    "max_prob": "probability of the answer",
    "mean_logprob": "mean log-probability of the answer's tokens",
    "difficulty": "difficulty of the item",
    "prompt_len": "length of the prompt",
}


@dataclass(frozen=True)
class Told:
    """One target: `y` is `[n]` for the rows of the joined table, NaN where unknown; two values become 0 and 1."""

    name: str
    text: str
    y: np.ndarray
    stated: bool = False


@dataclass(frozen=True)
class Where:
    """Activations of the base generation, or of a pass (`name`), at one site and position each."""

    name: str
    pairs: list[tuple[Site, str]]
    read: Callable[[str, str, np.ndarray], np.ndarray] = field(repr=False)
    """(site, position, generation rows) -> `[len(rows), d]`."""
    held: Callable[[str, str], np.ndarray] = field(repr=False)
    """(site, position) -> generation rows that have it."""


def check_targets(names: Sequence[str] | None, plan: Planning) -> None:
    """Refuse a target that is neither a column nor one pass, or that is named twice, before any work."""
    asks, named = planned_passes(plan), []
    for name in names or ():
        if name not in {*COLUMNS, *asks, *asks.values()}:
            raise unknown("target", name, [*COLUMNS, *dict.fromkeys((*asks, *asks.values()))])
        named.append(name if name in COLUMNS else planned_pass(plan, name))
    once(named)


def once(names: Sequence[str]) -> None:
    """Refuse a target that is named twice (a pass by its step and by what it asks, say)."""
    if len(set(names)) < len(names):
        raise UserError(f"targets name one thing twice: {', '.join(names)}", "each once")


def told(inputs: Inputs, names: Sequence[str] | None, default: Sequence[str]) -> tuple[pd.DataFrame, list[Told]]:
    """The joined table (rows that have a split), and the targets; unless named, `default` and every pass."""
    table, _ = signals(inputs)
    found = passes(inputs)
    every = list(names) if names is not None else [*default, *found]
    out: list[Told] = []
    for name in every:
        if name in COLUMNS:
            column = "label" if name == "correct" else name
            out.append(Told(name, COLUMNS[name], _numbers(np.asarray(table[column], dtype=object))))
        else:
            artifact = pass_called(inputs, name)
            text = f"confidence stated in {artifact.name}"
            stated = table.get(artifact.name)  # a pass without one number is no column of the joined table
            values = np.full(len(table), np.nan) if stated is None else np.asarray(stated, dtype=np.float64)
            out.append(Told(artifact.name, text, values, True))
    once([t.name for t in out])
    return table, out


def _numbers(values: np.ndarray) -> np.ndarray:
    return np.array([np.nan if pd.isna(v) else float(v) for v in values], dtype=np.float64)


def classes(y: np.ndarray) -> np.ndarray:
    """A target of exactly two values as 0 and 1 (the larger is 1), NaN kept; others as they are."""
    values = np.unique(y[np.isfinite(y)])
    return np.where(np.isfinite(y), (y == values[1]).astype(np.float64), np.nan) if len(values) == 2 else y


def where(inputs: Inputs, of: str) -> Where:
    """Where activations are read: of the base generation ("") or of a pass by its step name or what it asks."""
    if not of:
        return Where(
            inputs["generations"].name, inputs.sites(), lambda s, p, rows: inputs.activations(s, p).at(rows),
            lambda s, p: inputs.activations(s, p).rows,
        )  # fmt: skip
    artifact: Artifact = pass_called(inputs, of)
    return Where(
        artifact.name, artifact.sites(), lambda s, p, rows: artifact.activations(s, p).at(rows),
        lambda s, p: artifact.activations(s, p).rows,
    )  # fmt: skip


def planned_sites(plan: Planning, of: str) -> list[tuple[str, str]] | None:
    """(site, position) pairs that will be there; None where planning does not know. UserError for an unknown pass."""
    if not of:
        cost = plan.inputs.get("activations")
        if cost is None:
            raise UserError("no step captures activations", "activations of the answers, or of: a confidence pass",
                            "add capture: {sites: resid_post.*} to generate")  # fmt: skip
    else:
        name = planned_pass(plan, of)
        cost = plan.inputs[name]
        if not cost.sites:
            raise UserError(f"pass {name} keeps no activations", "activations of the pass itself",
                            f"add capture: {{sites: resid_post.*, positions: [last_prompt]}} to {name}")  # fmt: skip
    pairs = [tuple(s.split("@")) for s in cost.sites]
    return [(p[0], p[1]) for p in pairs] or None


def dense(position: str) -> str:
    """The position, refused where it is none or has many tokens a row."""
    if position not in POSITIONS:
        raise unknown("position", position, POSITIONS)
    if position in RAGGED:
        raise UserError(f"position {position!r} has many tokens a row", "last_prompt, last or answer")
    return position


def by_depth(
    pairs: Sequence[tuple[Site | str, str]], wanted: Sequence[str] | None, position: str, of: str, n_layers: int
) -> list[Site]:
    """The captured sites among `wanted` patterns at a position, by depth: the embedding first, then one component.

    Unless given: embed and resid_post.*, as far as they are there. UserError where a site that is named is not there,
    and where sites of one layer stand side by side (their order would mean nothing).
    """
    there = {s if isinstance(s, Site) else Site.parse(s) for s, p in pairs if p == position}
    patterns = wanted or ("embed", "resid_post.*")
    named = Site.expand([p for p in wanted or () if not p.endswith("*")], n_layers)
    sites = [s for s in Site.expand(patterns, n_layers) if Site(s.component, s.layer) in there]
    kept = sorted(dict.fromkeys(sites), key=depth)
    if not kept or set(named) - set(kept):
        known = ", ".join(dict.fromkeys(f"{s}@{p}" for s, p in pairs)) or "none"
        known = known if len(known) < 200 else known[:200] + ", ..."
        raise UserError(
            f"no activations of {of or 'the answers'} at {', '.join(patterns)}, position {position}",
            f"captured: {known}", "capture them, or name another position",
        )  # fmt: skip
    if len({depth(s) for s in kept}) < len(kept) or len({s.component for s in kept} - {"embed"}) > 1:
        raise UserError(
            f"sites {', '.join(patterns)} are of several components", "one component, by layer",
            "sites: resid_post.* (a second step can read another)",
        )  # fmt: skip
    return kept


def depth(site: Site) -> int:
    """The layer's number; the embedding lies before layer 0."""
    return -1 if site.component == "embed" else site.layer


def too_few(y: np.ndarray, groups: np.ndarray, folds: int) -> str:
    """Why a target `y [n]` (NaN where unknown) cannot be cross-validated; "" where it can.

    Two questions a fold are needed, of each class where it has two values: rows of one question are not independent.
    """
    known = np.isfinite(y)
    values = np.unique(y[known])
    if len(values) < 2:
        return "the same everywhere" if len(values) else "unknown everywhere"
    sides = [y == v for v in values] if len(values) == 2 else [known]
    least = min(len(np.unique(groups[side])) for side in sides)
    return f"{least} questions{' of one class' if len(values) == 2 else ''}" if least < 2 * folds else ""


def difficulty_bins(table: pd.DataFrame) -> np.ndarray | None:
    """Difficulty bins, over which folds are spread evenly; None where difficulty is unknown or the same for all."""
    values = _numbers(np.asarray(table["difficulty"], dtype=object))
    known = values[np.isfinite(values)]
    return nulls.quantile_strata(values) if len(known) and np.ptp(known) > 0 else None
