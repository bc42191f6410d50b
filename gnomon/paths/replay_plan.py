"""What is replayed: the strongest pathways of each target, the held-out rows of each, and random latents beside them.

A pathway is replayed in rows in which its source is active, those first in which its target is active too. Random
latents of the source's site that are active as often and as strongly over the same rows stand for it, in rows chosen by
the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.errors import UserError
from gnomon.latents import Latent
from gnomon.methods.matched_latents import stand_ins

ACTIVITY = pa.schema(
    [("row", pa.int64()), ("site", pa.string()), ("latent", pa.int64()), ("tokens", pa.int64()),
     ("total", pa.float64()), ("last", pa.float64())]
)  # fmt: skip
"""`replay/activity`: which latents are active in which held-out row. tokens: at how many of the positions that are
patched; total: their sum there; last: activation at the position where targets are read."""


@dataclass(frozen=True)
class Leg:
    """One source to be set to a value in one row, and the target that is looked at. control: -1 for the pathway's own
    source, else the number of a random latent that stands for it."""

    pathway: int
    control: int
    source: Latent
    target: Latent
    set_to: float
    matches: str = ""
    """Of a random latent: the source that it stands for."""


@dataclass(frozen=True)
class Row:
    """One held-out row: its text up to where targets are read."""

    row: int
    example_id: str
    group: str
    split: str
    label: bool | None
    tokens: tuple[int, ...]


def kept_pathways(pathways: pd.DataFrame, top: int) -> pd.DataFrame:
    """The `top` sources of each target by rank of the total, one line a pathway, with `source_latent`, `target_latent`.

    UserError where the table has pathways and none of kind total: only a total can be measured.
    """
    total = pathways.loc[pathways["kind"] == "total"]
    if len(pathways) and total.empty:
        raise UserError("pathways of no kind total", "totals: nothing else can be replayed", "pathways.kinds: [total]")
    order = total.sort_values(["target_layer", "target_name", "rank", "source_name"], kind="stable")
    return order.groupby("target_name", sort=False).head(top).reset_index(drop=True)


class Activity:
    """Table ACTIVITY by latent."""

    def __init__(self, table: pd.DataFrame, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        """All rows that were looked at, in the order in which they are taken."""
        self._place = {row: i for i, row in enumerate(self.rows)}
        self._by_site: dict[str, dict[str, np.ndarray]] = {}
        for site, part in table.groupby("site", sort=True):
            part = part.sort_values(["latent", "row"], kind="stable")
            self._by_site[str(site)] = {c: part[c].to_numpy() for c in ("latent", "row", "tokens", "total", "last")}

    @property
    def sites(self) -> list[str]:
        """Sites at which anything was active."""
        return list(self._by_site)

    def of(self, latent: Latent) -> dict[str, np.ndarray]:
        """Its lines of the table: row, tokens, total, last."""
        held = self._by_site.get(str(latent.site))
        if held is None:
            return {c: np.zeros(0) for c in ("row", "tokens", "total", "last")}
        begin, end = np.searchsorted(held["latent"], [latent.index, latent.index + 1])
        return {c: v[begin:end] for c, v in held.items()}

    def mean(self, latent: Latent) -> float:
        """Its mean sum over the rows in which it can be patched; NaN where there is none."""
        lines = self.of(latent)
        used = lines["total"][lines["tokens"] > 0]
        return float(used.mean()) if len(used) else float("nan")

    def facts(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """(share of rows in which each latent of a site can be patched, its mean sum there), `[latents]` each."""
        held = self._by_site[site]
        used = held["tokens"] > 0
        latent, n = held["latent"][used], int(held["latent"].max(initial=-1)) + 1
        count = np.bincount(latent, minlength=n)
        total = np.bincount(latent, weights=held["total"][used], minlength=n)
        mean = np.divide(total, count, out=np.zeros(n), where=count > 0)
        return count / max(len(self.rows), 1), mean

    def rows_for(self, source: Latent, target: Latent, most: int, allowed: frozenset[int]) -> list[int]:
        """Rows in which the source can be patched, `most` at most: first those in which the target is active."""
        lines, at_target = self.of(source), self.of(target)
        there = {int(r) for r, last in zip(at_target["row"], at_target["last"], strict=True) if last > 0}
        mine = [int(r) for r, n in zip(lines["row"], lines["tokens"], strict=True) if n > 0 and int(r) in allowed]
        return sorted(mine, key=lambda row: (row not in there, self._place[row]))[:most]


def stands_for(
    pathways: pd.DataFrame, activity: Activity, draws: int, seed: int
) -> tuple[dict[tuple[str, int], np.ndarray], int]:
    """For each (site, source) `draws` random latents (fewer where a site has fewer that fire), and the fewest there are
    of any. A source that is active in no row has none."""
    out: dict[tuple[str, int], np.ndarray] = {}
    fewest = draws
    for number, (site, part) in enumerate(pathways.groupby("source_site", sort=True)):
        chosen = sorted({int(s) for s in part["source"]})
        if str(site) not in activity.sites:
            continue
        rate, mean = activity.facts(str(site))
        active = [s for s in chosen if s < len(rate) and rate[s] > 0]
        others = int((rate > 0).sum()) - len(active)
        fewest = min(fewest, others)
        if active and others:
            found = stand_ins(rate, mean, active, min(draws, others), [seed, number])
            out |= {(str(site), s): drawn for s, drawn in zip(active, found, strict=True)}
    return out, fewest


def legs(
    pathways: pd.DataFrame, activity: Activity, controls: Mapping[tuple[str, int], np.ndarray], most: int,
    rows: Mapping[int, Row], means: Mapping[str, tuple[float, float]] | None,
) -> dict[int, list[Leg]]:  # fmt: skip
    """What is replayed in each row.

    Args:
        pathways: as `kept_pathways`.
        controls: as `stands_for`.
        most: rows of a pathway, and of each of its controls, at most.
        rows: every row that was looked at, by number.
        means: class means of sources by name (first, second): a source is set to that of the other class than the
            row's; a random latent that stands for it to the same times its mean over the source's, so that it is moved
            by as large a part of what it is. None: all are set to 0.
    """
    labelled = frozenset(r for r, one in rows.items() if means is None or one.label is not None)
    out: dict[int, list[Leg]] = {}
    for number, line in enumerate(pathways.to_dict("records")):
        name = str(line["source_name"])
        if means is not None and name not in means:
            continue
        source, target = Latent.parse(name), Latent.parse(str(line["target_name"]))
        drawn = controls.get((str(source.site), source.index), np.zeros(0, np.int64))
        for control, latent in enumerate([source.index, *drawn.tolist()], start=-1):
            one = Latent(source.site, int(latent))
            share = activity.mean(one) / activity.mean(source) if control >= 0 else 1.0
            for row in activity.rows_for(one, target, most, labelled):
                value = 0.0 if means is None else share * float(means[name][1 if rows[row].label else 0])
                out.setdefault(row, []).append(Leg(number, control, one, target, value, name if control >= 0 else ""))
    return out
