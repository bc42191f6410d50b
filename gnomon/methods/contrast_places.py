"""The two places where stated confidence may be a direction: the answer, and the position that is about to state it.

At each a curve over its sites on fit and tune, the directions that are saved, and their cosines by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods import probing
from gnomon.methods.contrast import cosine_rows
from gnomon.methods.contrast_held import Chosen, Options, Values
from gnomon.methods.contrast_tables import PAIRS
from gnomon.methods.controls import best_threshold
from gnomon.methods.linear import Difference
from gnomon.store import Artifact
from gnomon.types import Activations, Direction, Site

EARLY = ("fit", "tune")


@dataclass
class Place:
    """One of the two places: which sites, at which position, of whose activations."""

    name: str
    artifacts: Sequence[Artifact]
    position: str
    sites: list[str]
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def view(self, site: str) -> Activations:
        """The activations at one of its sites."""
        wanted = (Site.parse(site), self.position)
        owner = next(a for a in self.artifacts if wanted in a.sites())
        return owner.activations(f"{site}@{self.position}")

    def read(self, candidate: tuple[str, str]) -> np.ndarray:
        """Values `[n, d]` of the rows that are studied."""
        return self.view(candidate[0]).at(self.rows)


def sweep(of: Values, place: Place, high: np.ndarray, options: Options) -> tuple[pd.DataFrame, Chosen]:
    """High against low at every site, on fit and tune, with its null; and the best of them."""
    known = np.flatnonzero(np.isfinite(high) & np.isin(of.split, EARLY))
    problem = probing.Problem(
        known, high[known], of.groups[known], of.split[known], np.full(len(known), np.nan), {}, "high"
    )
    plan = probing.Options(
        ("difference",), permutations=options.shuffles, draws=options.draws, folds=options.folds, seed=options.seed
    )
    candidates = [(site, place.position) for site in place.sites]
    found = probing.sweep(problem, lambda c, rows: place.read(c)[rows], candidates, plan)
    words = {"answer": "at the answer", "confidence": "at the confidence position"}[place.name]
    table, several = found.table.assign(place=place.name), len({s.split(".")[0] for s in place.sites}) > 1
    table["series"] = [
        words + (", shuffled" if control else "") + (f", {component}" if several else "")
        for control, component in zip(table["control"], table["component"], strict=True)
    ]
    choice = found.headline
    return table, Chosen(choice.candidate, choice.value, choice.scores)


def place_directions(
    of: Values, place: Place, high: np.ndarray, best: Chosen, meta: Mapping[str, Any], every: bool
) -> list[Direction]:
    """The chosen direction, that of correctness beside it, and (`every`) those of the other sites; of fit rows."""
    chosen, out = best.candidate[0], []
    order = [(chosen, "confidence", high), (chosen, "correct", of.correct)]
    order += [(site, "confidence", high) for site in place.sites if every and site != chosen]
    for site, target, y in order:
        rows = np.flatnonzero((of.split == "fit") & np.isfinite(y))
        if len(np.unique(y[rows])) < 2:
            continue
        x = place.read((site, place.position)).astype(np.float64)
        probe, early = Difference(x[rows]).probe(y[rows]), np.isin(of.split, EARLY) & np.isfinite(y)
        own = {
            "target": target, "position": place.position, "place": place.name, "predictor": "difference",
            "orientation": f"larger means {'surer' if target == 'confidence' else 'correct'}", "split": "fit",
            "n": len(rows), "bias": probe.bias, "chosen_on": "fit+tune",
            "threshold": best_threshold(probe.scores(x[early]), y[early], "accuracy"),
        }  # fmt: skip
        name = f"{target} {site}@{place.position}" + ("" if place.name == "answer" else f" of {meta['of']}")
        score = best.auroc if (site, target) == (chosen, "confidence") and np.isfinite(best.auroc) else None
        out.append(Direction(Site.parse(site), probe.vector, name, "difference", score, {**own, **meta}))
    return out


def cosines(
    of: Values, places: Sequence[Place], high: np.ndarray, best: Mapping[str, str], options: Options
) -> list[dict[str, Any]]:
    """Cosines of directions at every site, on fit and tune: nothing is chosen by them."""
    dev, out, known = np.isin(of.split, EARLY), [], {place.name: place for place in places}
    for pair, where in PAIRS.items():
        needed = ("answer", "confidence") if where == "both" else (where,)
        if any(name not in known for name in needed):
            continue
        first, second = known[needed[0]], known[needed[-1]]
        for site in [s for s in first.sites if s in second.sites]:
            x, z = (p.read((site, p.position))[dev] for p in (first, second))
            other = high if where == "both" else of.correct
            made = cosine_rows(
                (x, high[dev]), (z, other[dev]), of.groups[dev], options.draws // 4, options.shuffles, options.seed
            )
            at = {"pair": pair, "site": site, "layer": probing.layer_of(site), "chosen": site == best[first.name]}
            out += [at | row | {"series": pair + (", shuffled" if row["control"] else "")} for row in made]
    return out
