"""Fit, tune and test: which example goes where.

Groups (paraphrases, pairs, all samples of one problem) never straddle. `stratified`: groups are ranked by
difficulty, cut into strata, ranked by hash within each, and dealt out so that every stratum holds the asked
proportions as nearly as whole groups allow. `hash`: each group's share of the unit interval decides alone, so that
adding examples moves no other one (with percentages; counts have to be ranked).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from gnomon.errors import UserError
from gnomon.types import SPLITS, Example

How = Literal["auto", "stratified", "hash", "given"]
STRATA = 10
"""At most this many strata of difficulty, each of at least ten groups."""


def assign_splits(
    examples: Sequence[Example], sizes: str | Mapping[str, float] = "50/10/40", seed: int = 0, how: How = "auto"
) -> dict[str, str]:
    """The split of every example id: "fit", "tune", "test", or "" for an example that given counts leave unused.

    Args:
        sizes: "50/10/40" are percentages because they sum to 100; any other three are counts of examples
            ("4500/500/500"), filled by whole groups and never overfilled. A mapping names the three.
        seed: of the hash that ranks groups.
        how: stratified by difficulty, by hash, as the examples' own `split` says (given), or auto: given where the
            examples have splits, stratified where all have a difficulty, else hash.

    Raises UserError for sizes that are not three, negative, or more than there are, for a group that is given two
    splits, and for groups too large to fill a count by more than one group's size.
    """
    if not examples:
        raise UserError("there are no examples to split", "at least one")
    wanted, percent = read_sizes(sizes)
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    if how == "auto":
        known = all(e.difficulty is not None for e in examples)
        how = "given" if all(e.split for e in examples) else "stratified" if known else "hash"
    if how == "given":
        return _given(groups)
    if how == "stratified" and any(e.difficulty is None for e in examples):
        raise UserError("stratified splits need a difficulty for every example", "", "use how: hash")
    if not percent and sum(wanted) > len(examples):
        raise UserError(
            f"splits {sizes!r} need {sum(wanted)} examples", f"there are {len(examples)}", "raise n or lower the sizes"
        )
    needed = sum(size > 0 for size in wanted)
    if len(groups) < needed:
        raise UserError(
            f"{len(groups)} groups cannot fill {needed} splits", "a group never straddles splits", "raise n"
        )
    if how == "hash" and percent:
        return {e.id: _by_share(_unit(seed, g), wanted) for g, members in groups.items() for e in members}
    ranked = _ranked(groups, seed, how)
    dealt = _dealt(
        [len(groups[g]) for g in ranked], wanted, None if percent else [int(w) for w in wanted], len(examples)
    )
    return {e.id: split for g, split in zip(ranked, dealt, strict=True) for e in groups[g]}


def read_sizes(sizes: str | Mapping[str, float]) -> tuple[tuple[int, int, int], bool]:
    """The sizes of fit, tune and test, and whether they are percentages (they sum to 100)."""
    if isinstance(sizes, str):
        parts = [p.strip() for p in sizes.split("/")]
        if len(parts) != 3 or not all(re.fullmatch(r"\d+", p) for p in parts):
            raise UserError(
                f"splits {sizes!r}", 'three whole numbers for fit, tune and test, like "50/10/40" or "4500/500/500"'
            )
        values = [int(p) for p in parts]
    else:
        if set(sizes) != set(SPLITS):
            raise UserError(f"splits name {', '.join(sizes) or 'nothing'}", "fit, tune and test, all three")
        if any(isinstance(v, bool) or v != int(v) or v < 0 for v in sizes.values()):
            raise UserError(f"splits {dict(sizes)}", "whole numbers, none negative")
        values = [int(sizes[s]) for s in SPLITS]
    if not sum(values):
        raise UserError(f"splits {sizes!r} are all zero", "at least one example somewhere")
    return (values[0], values[1], values[2]), sum(values) == 100


def _given(groups: Mapping[str, Sequence[Example]]) -> dict[str, str]:
    for group, members in groups.items():
        if len({e.split for e in members}) > 1:
            names = ", ".join(f"{e.id} is in {e.split or 'none'}" for e in members[:3])
            raise UserError(f"group {group!r} straddles splits ({names})", "one split for all of a group")
    return {e.id: e.split for members in groups.values() for e in members}


def _unit(seed: int, group: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the group's name."""
    return int.from_bytes(hashlib.sha256(f"split\x1f{seed}\x1f{group}".encode()).digest()[:8], "big") / 2**64


def _by_share(unit: float, percents: Sequence[int]) -> str:
    edge = 0
    for split, percent in zip(SPLITS, percents, strict=True):
        edge += percent
        if unit * 100 < edge:
            return split
    return SPLITS[-1]


def _ranked(groups: Mapping[str, Sequence[Example]], seed: int, how: How) -> list[str]:
    """Groups in the order they are dealt: by hash, within strata of difficulty where stratified."""
    names = sorted(groups, key=lambda g: (_unit(seed, g), g))
    if how != "stratified":
        return names
    level = {g: float(np.mean([e.difficulty for e in groups[g] if e.difficulty is not None])) for g in names}
    count = max(1, min(STRATA, len(names) // 10))
    edges = np.unique(np.quantile(list(level.values()), np.linspace(0, 1, count + 1)[1:-1]))
    # equal difficulties fall into one stratum, so the rank within it is by hash alone
    return sorted(names, key=lambda g: int(np.searchsorted(edges, level[g], side="right")))


def _dealt(sizes: Sequence[int], wanted: Sequence[int], counts: list[int] | None, total: int) -> list[str]:
    """Deal groups in order, each to the split that is furthest behind its share and has room for it.

    `counts` are the room of each split in examples; None for percentages, which have no bound.
    """
    names = [*SPLITS, ""]
    shares = [*wanted, 0] if counts is None else [*wanted, total - sum(wanted)]
    room = [float("inf")] * 4 if counts is None else [*counts, total - sum(counts)]
    spare = max(sizes)
    given = [0.0] * 4
    whole, done, out = sum(shares), 0, []
    for size in sizes:
        done += size
        behind = [
            shares[i] * done / whole - given[i] if shares[i] and given[i] + size <= room[i] else -np.inf
            for i in range(4)
        ]
        best = int(np.argmax(behind))
        if behind[best] == -np.inf:
            best = 3  # fits nowhere whole: left out
        given[best] += size
        out.append(names[best])
    if counts is not None:
        short = [
            (n, c, int(g)) for n, c, g in zip(names, counts, given[:3], strict=False) if g <= c - spare or (c and not g)
        ]
        if short:
            name, count, got = short[0]
            raise UserError(
                f"split {name} can get {got} of {count} examples",
                f"groups have up to {spare} examples",
                "raise n or lower the sizes",
            )
    return out
