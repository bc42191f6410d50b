"""Replaying pathways in one text: the source set to another value, and what becomes of the target, really.

    x_a[s] <- x_a[s] + (z' - z_u[s]) d_u          at every position s at which u is active (or the last one alone)
    predicted = sum_s (z' - z_u[s]) G[s]          G: this text's own gradient (gnomon/paths/attribution.py)
    measured  = (x_b'[t] - x_b[t]) . e_v          of v's pre-activation, which is its activation where it is active

The dictionary's error term stays, since only one latent's part is moved. All sources of a text, and the random latents
beside them, go up the blocks in one sweep (gnomon/models/sweep.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gnomon.dictionaries.shelf import Shelf
from gnomon.halving import marked, run_halving
from gnomon.latents import Latent
from gnomon.lens.feature_sources import Option
from gnomon.methods.chain_tables import REPLAY
from gnomon.paths.active import Active, active_latents
from gnomon.paths.attribution import CHUNK, Target, depth, gradients
from gnomon.paths.pathway_work import found_sources
from gnomon.paths.replay_plan import ACTIVITY, Leg, Row
from gnomon.step import ModelSpec, batches
from gnomon.types import Site
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model

PATHWAY, RANDOM = "pathway", "random latent"


@dataclass(frozen=True)
class Scan:
    """Which latents of some sites are active in some rows: nothing is patched."""

    rows: tuple[Row, ...]
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class Job:
    """Everything that is replayed in one row."""

    row: Row
    legs: tuple[Leg, ...]


@dataclass(frozen=True)
class Moved:
    """What one leg did: activations before, predicted and measured change of the target."""

    leg: Leg
    source: float
    target: float
    predicted: float
    measured: float


class Replayer:
    """Scans and replays texts of one model with the dictionaries of one shelf."""

    def __init__(
        self, model: Model, shelf: Shelf, *, last_only: bool = False, chunk: int = CHUNK, batch_size: int = 8
    ) -> None:
        self.model, self.shelf = model, shelf
        self.last_only, self.chunk, self.batch_size = last_only, chunk, batch_size
        self.rounding = 0.0
        """Largest change of a target under a patch of nothing, over its own size."""
        self.patches = 0
        self.halved: list[int] = []
        """Sizes that did not fit: rows of a scan, targets of a backward, patches of a pass."""

    def scan(self, rows: Sequence[Row], sites: Sequence[Site]) -> list[dict[str, Any]]:
        """Lines of table ACTIVITY."""

        def some_rows(some: Sequence[Row]) -> list[dict[str, Any]]:
            out: list[dict[str, Any]] = []
            found = self.model.forward([r.tokens for r in some], read=list(sites))
            for site in sorted(sites, key=depth):
                for i, row in enumerate(some):
                    one = active_latents(self.shelf[site], found.acts[site][i, : len(row.tokens)])
                    out += self._activity(row, one)
            return out

        ordered = batches(sorted(rows, key=lambda r: (len(r.tokens), r.row)), self.batch_size)
        return [line for some in ordered for line in run_halving(some_rows, some, self.halved)]

    def _activity(self, row: Row, one: Active) -> list[dict[str, Any]]:
        used, last = one.z.clone(), one.z.clone()
        last[:-1] = 0
        if self.last_only:
            used = last
        tokens, total, now = (one.summed(v) for v in ((used > 0).to(one.z.dtype), used, last))
        return [
            {"row": row.row, "site": str(one.site), "latent": int(u), "tokens": int(n), "total": float(t),
             "last": float(z)}
            for u, n, t, z in zip(one.index, tokens, total, now, strict=True) if n > 0 or z > 0
        ]  # fmt: skip

    def replay(self, tokens: Sequence[int], legs: Sequence[Leg]) -> list[Moved]:
        """Make every leg's change in one text and measure its target at the last token. A leg whose source is active at
        no position there has no line."""
        from gnomon.models.sweep import SitePatch, Sweep

        sites = sorted({s for leg in legs for s in (leg.source.site, leg.target.site)}, key=depth)
        sweep = Sweep(self.model, tokens, sites)
        active = {s: active_latents(self.shelf[s], sweep.clean[s]) for s in sites}
        targets = {leg.target: Target.of(self.shelf[leg.target.site], leg.target.index, sweep.at,
                                         sweep.clean[leg.target.site]) for leg in legs}  # fmt: skip
        below = sorted({leg.source.site for leg in legs}, key=depth)
        order = list(targets)
        slopes = gradients(self.model, [tokens], [active], [list(targets.values())], "total", self.chunk, below,
                           self.halved)[0]  # fmt: skip
        by_patch: dict[tuple[Latent, float], list[int]] = {}
        for i, leg in enumerate(legs):
            by_patch.setdefault((leg.source, leg.set_to), []).append(i)
        made, patches = [], []
        for (source, value), mine in by_patch.items():
            at, z = self._places(active[source.site], source, sweep.at)
            if not len(at):
                continue
            own = active[source.site]
            row = own.decoder[int(np.searchsorted(own.index, source.index))]
            reads = tuple(dict.fromkeys(legs[i].target.site for i in mine))
            made.append((source, value, z, mine))
            patches.append(SitePatch(source.site, tuple(at.tolist()), (value - z)[:, None] * row, reads))
        still = [SitePatch(p.site, p.positions, p.delta * 0, p.reads) for p in patches[:1]]
        found = sweep.run([*patches, *still], halved=self.halved)
        self.patches += len(patches)
        self._round(sweep.clean, found[len(patches) :], sweep.at, targets)
        out: dict[int, Moved] = {}
        for (source, value, z, mine), after in zip(made, found, strict=False):
            for i in mine:
                target = targets[legs[i].target]
                places, slope = active[source.site].of(source.index, slopes[source.site])
                slope = slope[order.index(legs[i].target)]
                slope = slope[places == sweep.at] if self.last_only else slope
                predicted = float(((value - z).double() * slope.double()).sum())
                before = sweep.clean[target.site][sweep.at]
                out[i] = Moved(legs[i], float(z.double().sum()), self._now(active[target.site], target),
                               predicted, _along(after[target.site] - before, target))  # fmt: skip
        return [out[i] for i in sorted(out)]

    def _places(self, active: Active, latent: Latent, at: int) -> tuple[np.ndarray, Any]:
        """Positions at which a source is patched, and its activations there."""
        places, z = active.of(latent.index, active.z)
        return (places[places == at], z[places == at]) if self.last_only else (places, z)

    def _now(self, active: Active, target: Target) -> float:
        places, z = active.of(target.index, active.z)
        return float(z[-1]) if len(places) and places[-1] == target.position else 0.0

    def _round(self, clean: Mapping[Site, Any], still: Sequence[Mapping[Site, Any]], at: int,
               targets: Mapping[Latent, Target]) -> None:  # fmt: skip
        for after in still:
            for target in targets.values():
                if target.site in after:
                    size = float((clean[target.site][at].double().norm() * target.encoder.double().norm()).clamp_min(1))
                    moved = abs(_along(after[target.site] - clean[target.site][at], target))
                    self.rounding = max(self.rounding, moved / size)


def _along(change: Any, target: Target) -> float:
    return float(change.double() @ target.encoder.double())


@dataclass
class Replaying:
    """The worker: one shard is a scan of some rows, or the replay of one."""

    spec: ModelSpec
    path: str
    option: Option
    trained: str | None
    last_only: bool
    batch_size: int
    chunk: int
    budget: int | None

    def open(self) -> None:
        """Load the model; dictionaries are loaded when they are first used."""
        model = self.spec.load()
        item = 8 if str(model.dtype).endswith("float64") else 4
        self.shelf = Shelf(found_sources(self.option, self.trained), self.budget, item)
        self.model = model

    def __call__(self, shard: tuple[int, Scan | Job]) -> None:
        """Do one shard and write its files."""
        index, job = shard
        worker = Replayer(self.model, self.shelf, last_only=self.last_only, chunk=self.chunk,
                          batch_size=self.batch_size)  # fmt: skip
        files = Writer.attach(self.path).shard(index)
        if isinstance(job, Scan):
            files.table("activity", pa.Table.from_pylist(worker.scan(job.rows, job.sites), schema=ACTIVITY))
        else:
            moved = run_halving(lambda one: worker.replay(one[0].row.tokens, one[0].legs), [job], worker.halved)
            files.table("replay", pa.Table.from_pylist([line(job.row, one) for one in moved], schema=REPLAY))
        files.finish({"rounding": worker.rounding, "patches": worker.patches} | marked(worker.halved))


def line(row: Row, one: Moved) -> dict[str, Any]:
    """One line of table REPLAY."""
    leg = one.leg
    ends = {
        f"{end}{column}": value
        for end, latent in (("source", leg.source), ("target", leg.target))
        for column, value in (("_site", str(latent.site)), ("", latent.index), ("_name", str(latent)),
                              ("_layer", latent.site.layer))
    }  # fmt: skip
    return ends | {
        "pathway": leg.pathway, "control": leg.control >= 0, "matches": leg.matches,
        "what": RANDOM if leg.control >= 0 else PATHWAY, "row": row.row, "example_id": row.example_id,
        "group": row.group, "split": row.split, "position": len(row.tokens) - 1, "source_activation": one.source,
        "set_to": leg.set_to, "target_activation": one.target, "predicted": one.predicted, "measured": one.measured,
    }  # fmt: skip
