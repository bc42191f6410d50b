"""Tracing targets in their prompts: what is active at every site, gradients by kind, and the strongest sources kept.

    attribution(u, v) = mean over v's prompts of sum_s z_u[s] G[s]      0 in a prompt in which u is not active

A batch of texts runs once without a graph; then the shelf hands out one dictionary after the other, of which only the
rows of active latents stay; then one forward and its batched backwards a kind. A target's sources are ranked over all
its prompts before any is dropped, so the mean is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.dictionaries.shelf import Shelf
from gnomon.errors import UserError
from gnomon.halving import run_halving
from gnomon.latents import Latent
from gnomon.paths.active import Active, active_latents
from gnomon.paths.attribution import CHUNK, Target, by_kind, depth
from gnomon.step import batches
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.model import Model


@dataclass(frozen=True)
class Goal:
    """A target latent, and the generation rows in which it is traced."""

    latent: Latent
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Keep:
    """Which sources of a target are kept: the `top` of largest |attribution| that pass both thresholds."""

    top: int = 25
    min_gradient: float = 0.0
    """Least |gradient|, in the dictionaries' own scale."""
    min_share: float = 0.0
    """Least |attribution| over the target's mean activation."""


@dataclass(frozen=True)
class Traced:
    """One target: in which rows it was active, how strongly, and its kept sources.

    rows, activations `[r]`; sites, sources `[e]`; z `[r, e]`: a source's activation summed over positions; attribution
    by kind `[r, e]`, NaN where the kind says nothing.
    """

    latent: Latent
    rows: np.ndarray
    activations: np.ndarray
    sites: list[Site]
    sources: np.ndarray
    z: np.ndarray
    attribution: dict[str, np.ndarray]
    candidates: int
    """Sources that were active in any of its prompts."""


@dataclass(frozen=True, eq=False)
class _Read:
    """One target in one text: its activation, and by site (numbers, z, attribution by kind) of what was active."""

    row: int
    activation: float
    by_site: dict[Site, tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]


class Tracer:
    """Traces targets on one model with the dictionaries of one shelf."""

    def __init__(
        self, model: Model, shelf: Shelf, kinds: Sequence[str] = ("total",), keep: Keep | None = None, *,
        batch_size: int = 4, chunk: int = CHUNK, last_only: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.shelf, self.keep = model, shelf, keep or Keep()
        self.kinds = tuple(dict.fromkeys(("total", *kinds)))
        self.batch_size, self.chunk, self.last_only = batch_size, chunk, last_only
        self.halved: list[int] = []
        """Sizes that did not fit."""

    def trace(self, goals: Sequence[Goal], texts: Mapping[int, Sequence[int]]) -> list[Traced]:
        """Trace every goal in its rows' texts, at each text's last token."""
        of_row: dict[int, list[int]] = {}
        for g, goal in enumerate(goals):
            for row in goal.rows:
                of_row.setdefault(row, []).append(g)
        found: list[list[_Read]] = [[] for _ in goals]
        # a batch takes as many backwards as its text of most targets, and as many tokens as its longest
        order = sorted(of_row, key=lambda row: (len(of_row[row]), len(texts[row]), row))
        for some in batches(order, self.batch_size):

            def read(part: Sequence[int]) -> list[list[_Read | None]]:
                wanted = [[goals[g].latent for g in of_row[row]] for row in part]
                return self.read(part, [texts[r] for r in part], wanted)

            for row, reads in zip(some, run_halving(read, some, self.halved), strict=True):
                for g, one in zip(of_row[row], reads, strict=True):
                    if one is not None:
                        found[g].append(one)
        return [
            self._ranked(goal, sorted(reads, key=lambda r: goal.rows.index(r.row)))
            for goal, reads in zip(goals, found, strict=True)
        ]

    def active(
        self, texts: Sequence[Sequence[int]], wanted: Sequence[Sequence[Latent]], every: bool = False
    ) -> tuple[list[dict[Site, Active]], list[list[Target]]]:
        """What is active in each text at every site up to the highest target (or at `every` site), and the targets,
        read at the texts' last tokens."""
        top = max((depth(latent.site) for some in wanted for latent in some), default=(-1, 0))
        sites = [s for s in sorted(self.shelf.sites, key=depth) if every or depth(s) <= top]
        found = self.model.forward(texts, read=sites)
        active: list[dict[Site, Active]] = [{} for _ in texts]
        made: list[dict[Latent, Target]] = [{} for _ in texts]
        for site in sites:
            dictionary = self.shelf[site]
            for i, text in enumerate(texts):
                x = found.acts[site][i, : len(text)]
                active[i][site] = active_latents(dictionary, x)
                for latent in wanted[i]:
                    if latent.site == site:
                        made[i][latent] = Target.of(dictionary, latent.index, len(text) - 1, x)
        missing = [latent for some, own in zip(wanted, made, strict=True) for latent in some if latent not in own]
        if missing:
            raise UserError(f"feature {missing[0]}", f"a site with a dictionary: {', '.join(map(str, sites))}")
        return active, [[own[latent] for latent in some] for some, own in zip(wanted, made, strict=True)]

    def read(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], wanted: Sequence[Sequence[Latent]]
    ) -> list[list[_Read | None]]:
        """Each text's targets: None for one that is not active at the text's last token."""
        active, targets = self.active(texts, wanted)
        found = by_kind(self.model, texts, active, targets, self.kinds, self.chunk, self.halved)
        out: list[list[_Read | None]] = []
        for i, row in enumerate(rows):
            reads: list[_Read | None] = []
            for j, target in enumerate(targets[i]):
                at, z = active[i][target.site].of(target.index, active[i][target.site].z)
                now = float(z[-1]) if len(at) and at[-1] == target.position else 0.0
                by_site = {} if now == 0 else {
                    s: self._summed(active[i][s], {k: found[k][i][s][j] for k in self.kinds})
                    for s in found["total"][i] if depth(s) < depth(target.site)
                }  # fmt: skip
                reads.append(_Read(row, now, by_site) if now else None)
            out.append(reads)
        return out

    def _summed(self, one: Active, g: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        z = one.z.clone()
        if self.last_only:
            z[:-1] = 0
        used = z > 0
        sums = {k: one.summed((z * value).where(used, z.new_zeros(()))) for k, value in g.items()}
        for kind, value in g.items():
            if value.numel() and bool(value.isnan().all()):
                sums[kind] = np.full(len(one.index), np.nan)
        return one.index, one.summed(z), sums

    def _ranked(self, goal: Goal, reads: Sequence[_Read]) -> Traced:
        """The kept sources of one target over all its prompts, strongest first."""
        sites = sorted({s for r in reads for s in r.by_site}, key=depth)
        place: dict[tuple[Site, int], int] = {}
        for r in reads:
            for s in sites:
                for u in r.by_site[s][0].tolist():
                    place.setdefault((s, u), len(place))
        shape = (len(reads), len(place))
        z, values = np.zeros(shape), {k: np.zeros(shape) for k in self.kinds}
        silent = {k: np.zeros(len(place), bool) for k in self.kinds}
        for i, r in enumerate(reads):
            for s in sites:
                index, own, sums = r.by_site[s]
                at = [place[s, u] for u in index.tolist()]
                z[i, at] = own
                for k in self.kinds:
                    values[k][i, at] = sums[k]
                    silent[k][at] |= np.isnan(sums[k])
        for k in self.kinds:
            values[k][:, silent[k]] = np.nan
        keys, now = list(place), np.array([r.activation for r in reads])
        order = self._kept(values["total"], z, now, keys) if len(reads) else np.zeros(0, np.int64)
        return Traced(
            goal.latent, np.array([r.row for r in reads], dtype=np.int64), now, [keys[e][0] for e in order],
            np.array([keys[e][1] for e in order], dtype=np.int64), z[:, order],
            {k: v[:, order] for k, v in values.items()}, int((z.sum(0) > 0).sum()),
        )  # fmt: skip

    def _kept(self, total: np.ndarray, z: np.ndarray, now: np.ndarray, keys: Sequence[Any]) -> np.ndarray:
        size, active = np.abs(total.mean(0)), z.sum(0)
        gradient = np.divide(np.abs(total.sum(0)), active, out=np.zeros(len(active)), where=active > 0)
        good = (active > 0) & (gradient >= self.keep.min_gradient) & (size >= self.keep.min_share * now.mean())
        order = sorted(np.flatnonzero(good).tolist(), key=lambda e: (-size[e], depth(keys[e][0]), keys[e][1]))
        return np.array(order[: self.keep.top], dtype=np.int64)
