"""The search for latents that tell right from wrong: site after site, with the same search under shuffled labels.

Stage one, on the rows of `fit`: every latent of every dictionary, by one statistic (`feature_statistics`), beside its
value under labels shuffled by group:

    z = (statistic - mean) / sd                          mean and sd of the latent's own statistic over the shuffles
    p = (1 + #{|z'| >= |z|}) / (1 + latents x shuffles)  over all shuffles of all latents (pooled)

with Benjamini-Hochberg over all latents of all sites, and the family-wise p of |z| against the largest |z| of each
shuffle (max-T, Westfall & Young 1993). z' of a shuffle is by the mean and sd of the other ones: by its own as well it
could not lie far out, and the largest of many true z would pass for a finding (of 3,000 normal numbers in 13% of
searches with 199 shuffles, in 55% with 49). p is not the normal's: of a latent that is active in five rows, all five
lie in a class of a tenth of the rows once in 10^5, and that is 6.7 normal deviations out; 400,000 latents have many of
these. Latents that are general language, or active in too few fit rows, are set aside first, without a look at the
labels. Stage two is in `feature_heldout`.

The search is repeated on other parts of the rows (without each fold, for nested cross-validation; without each inner
fold, for scores that did not take part in the choice), and under each shuffle, which gives the null of the whole
procedure. A site is looked at once and let go: what stays are the columns of the latents that lead somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from gnomon.methods.feature_statistics import Matrix, Statistic, firing_f1, grouped_t, rates, statistics
from gnomon.nulls import benjamini_hochberg

COLUMNS = 4096
"""Latents whose shuffles are held at once."""
ALPHA = 0.05
WAYS = ("correct", "incorrect")
_EDGES = np.linspace(0.0, 40.0, 8001)
_SIZES = np.linspace(0.0, 1.0, 1001)


@dataclass(frozen=True)
class Part:
    """Rows on which a search is made (`train`) and rows that it has not seen (`new`), indices of labelled rows.

    `labels [n, 1 + shuffles + more]`: the true ones, `shuffles` sets shuffled by group, more within difficulty.
    """

    name: str
    train: np.ndarray
    new: np.ndarray
    labels: np.ndarray
    shuffles: int = 0
    keep: int = 1
    """How many latents of each way lead."""
    inner: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Leader:
    """A latent that leads a search, by its statistic there."""

    site: str
    latent: int
    value: float


@dataclass
class _Lead:
    """Who leads one part: with the true labels `keep` of each way, under each shuffle the one best of each way."""

    top: tuple[list[Leader], list[Leader]]
    value: np.ndarray
    site: np.ndarray
    latent: np.ndarray


@dataclass
class Search:
    """Feed it every site's latents (`add`), then read `leaders`, `column`, `discovery`."""

    parts: Sequence[Part]
    groups: np.ndarray
    """Of the labelled rows."""
    kind: Statistic = "separation"
    fewest: int = 5
    limit: float = 0.02
    random: int = 100
    seed: int = 0
    every: list[Part] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)
    used: dict[str, np.ndarray] = field(default_factory=dict)  # by site, the latents that are searched on fit
    columns: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    matched: dict[tuple[str, str, int], Matrix] = field(default_factory=dict)
    """By part, site and latent: columns of latents of that site that are active as often."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("latents", "general", "rare", "dead"), 0))
    frames: list[pd.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.every = [p for part in self.parts for p in (part, *part.inner)]
        self.leads = {}
        for part in self.every:
            draws = part.labels.shape[1] - 1
            shape = (2, draws)
            self.leads[part.name] = _Lead(([], []), np.zeros(shape), np.full(shape, -1), np.full(shape, -1))
        first = self.parts[0]
        self.null_z = np.zeros(len(_EDGES))
        self.null_s = np.zeros(len(_SIZES))
        self.largest_z, self.largest_s = np.zeros(first.shuffles), np.zeros(first.shuffles)

    # ---------------------------------------------------------------- one site

    def add(self, site: str, latents: Matrix, labelled: np.ndarray, general: np.ndarray, alive: np.ndarray) -> None:
        """Search one site.

        Args:
            latents: `[rows, n]`, of all rows; `labelled` are the indices of the rows the parts speak of.
            general: `[n]`, each latent's rate on general text (NaN where it was not measured).
            alive: `[n]` bool, False for a latent that decodes to nothing.
        """
        self.sites.append(site)
        common = np.nan_to_num(general) > self.limit
        for place, part in enumerate(self.every):
            rows = sparse.csc_array(latents[labelled[part.train]])
            often = np.diff(rows.indptr)
            used = np.flatnonzero((often >= self.fewest) & ~common & alive)
            if place == 0:
                self.used[site] = used
                self.counts["latents"] += len(alive)
                self.counts["dead"] += int((~alive).sum())
                self.counts["general"] += int((common & alive).sum())
                self.counts["rare"] += int(((often < self.fewest) & ~common & alive).sum())
            for start in range(0, len(used), COLUMNS):
                here = used[start : start + COLUMNS]
                block = rows[:, here]
                value = statistics(block, part.labels[part.train], self.kind)
                self._lead(part, site, here, value)
                if place == 0:
                    self._discover(part, site, here, block, value, general[here])
            if part.inner or place == 0:
                self._match(part, site, used, often, latents)
        self._keep(site, latents)

    def _lead(self, part: Part, site: str, here: np.ndarray, value: np.ndarray) -> None:
        lead = self.leads[part.name]
        for way, sign in enumerate((1.0, -1.0)):
            mine = sign * value
            order = np.argsort(-mine[:, 0], kind="stable")[: part.keep]
            more = [Leader(site, int(here[i]), float(value[i, 0])) for i in order if mine[i, 0] > 0]
            lead.top[way].extend(more)
            lead.top[way].sort(key=lambda f: -sign * f.value)  # stable: the earlier site of equals
            del lead.top[way][part.keep :]
            if mine.shape[1] > 1:
                at = mine[:, 1:].argmax(axis=0)
                best = mine[at, 1 + np.arange(len(at))]
                better = best > lead.value[way]
                lead.value[way, better] = best[better]
                lead.site[way, better], lead.latent[way, better] = len(self.sites) - 1, here[at[better]]

    def _discover(
        self, part: Part, site: str, here: np.ndarray, block: Matrix, value: np.ndarray, general: np.ndarray
    ) -> None:
        y = part.labels[part.train]
        draws = slice(1, 1 + part.shuffles)
        null = value[:, draws]
        mean, sd = null.mean(axis=1, keepdims=True), null.std(axis=1, ddof=1, keepdims=True)
        still = sd < 1e-12
        z = np.where(still, 0.0, (value[:, :1] - mean) / np.where(still, 1.0, sd))[:, 0]
        null_z = np.abs(_without_itself(np.where(still, 0.0, (null - mean) / np.where(still, 1.0, sd))))
        self.null_z += np.bincount(_bin(null_z, _EDGES).reshape(-1), minlength=len(_EDGES))
        self.largest_z = np.maximum(self.largest_z, null_z.max(axis=0))
        separated = value if self.kind == "separation" else statistics(block, y[:, : 1 + part.shuffles], "separation")
        null_s = np.abs(separated[:, draws])
        self.null_s += np.bincount(_bin(null_s, _SIZES).reshape(-1), minlength=len(_SIZES))
        self.largest_s = np.maximum(self.largest_s, null_s.max(axis=0))
        true = y[:, 0]
        f_right, f_wrong = rates(block, true)
        s, share = separated[:, 0], float(true.mean())
        area = value[:, 0] if self.kind == "auroc" else statistics(block, y[:, :1], "auroc")[:, 0]
        f1 = np.where(s >= 0, firing_f1(f_right, f_wrong, share), firing_f1(f_wrong, f_right, 1 - share))
        self.frames.append(pd.DataFrame({
            "site": site, "feature": here, "f_correct": f_right, "f_incorrect": f_wrong, "separation": s,
            "t": grouped_t(block, true, self.groups[part.train]), "auroc": area + 0.5, "f1": f1, "z": z,
            "statistic": value[:, 0], "general_rate": general,
        }))  # fmt: skip

    def _match(self, part: Part, site: str, used: np.ndarray, often: np.ndarray, latents: Matrix) -> None:
        """Latents of the site that are active in about as many rows as each leader, drawn from the nearest."""
        for leader in (f for side in self.leads[part.name].top for f in side if f.site == site):
            others = used[used != leader.latent]
            rng = np.random.default_rng([self.seed, 7103, leader.latent])
            far = np.abs(np.log(often[others]) - np.log(often[leader.latent]))
            near = others[np.lexsort((rng.random(len(others)), far))][: 2 * self.random]
            drawn = np.sort(rng.permutation(near)[: self.random])
            self.matched[part.name, site, leader.latent] = sparse.csc_array(latents[:, drawn])

    def _keep(self, site: str, latents: Matrix) -> None:
        """Keep the columns of those that lead now; let go of those that no longer do."""
        wanted: set[tuple[str, int]] = set()
        tops: set[tuple[str, str, int]] = set()
        for part in self.every:
            lead = self.leads[part.name]
            for leader in (f for side in lead.top for f in side):
                wanted.add((leader.site, leader.latent))
                tops.add((part.name, leader.site, leader.latent))
            known = lead.site >= 0
            pairs = np.unique(np.stack([lead.site[known], lead.latent[known]]), axis=1)
            wanted.update((self.sites[s], int(i)) for s, i in pairs.T.tolist())
        new = sorted(i for s, i in wanted if s == site)
        values = latents[:, new].toarray() if new else np.zeros((latents.shape[0], 0))
        self.columns |= {(site, i): values[:, j].astype(np.float32) for j, i in enumerate(new)}
        self.columns = {key: v for key, v in self.columns.items() if key in wanted}
        self.matched = {key: v for key, v in self.matched.items() if key in tops}

    # ---------------------------------------------------------------- what was found

    def leaders(self, part: str, way: int) -> list[Leader]:
        """The latents that lead a part with the true labels, best first; way 0 predicts correct, 1 incorrect."""
        return self.leads[part].top[way]

    def column(self, leader: Leader) -> np.ndarray:
        """A leading latent's activations in all rows `[rows]`, float64."""
        return self.columns[leader.site, leader.latent].astype(np.float64)

    def by_luck(self, part: Part, way: int, rows: np.ndarray) -> np.ndarray:
        """Activations `[len(rows), shuffles + more]` of the latent that led under each shuffle; 0 where none did."""
        lead = self.leads[part.name]
        out = np.zeros((len(rows), lead.site.shape[1]))
        for draw, (s, i) in enumerate(zip(lead.site[way].tolist(), lead.latent[way].tolist(), strict=True)):
            if s >= 0:
                out[:, draw] = self.columns[self.sites[s], i][rows]
        return out

    def discovery(self) -> pd.DataFrame:
        """Every latent searched on fit, with p, q (Benjamini-Hochberg) and max_t_p; best p first."""
        if not self.frames:
            return pd.DataFrame()
        table: Any = pd.concat(self.frames, ignore_index=True)
        z = np.abs(table["z"].to_numpy())
        beyond = np.cumsum(self.null_z[::-1])[::-1]
        table["p"] = (1 + beyond[_bin(z, _EDGES)]) / (1 + self.null_z.sum())
        table["q"] = benjamini_hochberg(table["p"].to_numpy())
        largest = np.sort(self.largest_z)
        reached = len(largest) - np.searchsorted(largest, z - 1e-12, side="left")
        table["max_t_p"] = (1 + reached) / (1 + len(largest))
        table["discovered"] = table["q"] <= ALPHA
        order = np.lexsort((-z, table["p"].to_numpy()))
        return table.iloc[order].reset_index(drop=True)

    def reached_by_luck(self, size: float) -> float:
        """How many latents have |separation| of at least `size` in a shuffle, on average."""
        beyond = self.null_s[int(_bin(np.array([size]), _SIZES)[0]) :].sum()
        return float(beyond / max(len(self.largest_s), 1))


def _without_itself(z: np.ndarray) -> np.ndarray:
    """z `[k, m]` of m draws by the mean and sd of the other m - 1, from z by those of all; at most the last edge."""
    m = z.shape[1]
    left = np.maximum((m - 1) - z**2 * m / (m - 1), 0.0) / max(m - 2, 1)
    size = np.sqrt(np.maximum(left, (z * m / (m - 1) / _EDGES[-1]) ** 2))
    return np.divide(z * m / (m - 1), size, out=np.zeros_like(z), where=size > 0)


def _bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin of each value: the last edge at or below it, so that a count from a bin on is never too small."""
    step = edges[1] - edges[0]
    return np.minimum(np.floor(np.maximum(values, 0) / step + 1e-9).astype(np.int64), len(edges) - 1)


def family(search: Search, table: Any, n: int) -> list[dict[str, Any]]:
    """How large the search was, what it found, and what it finds when labels are shuffled: rows of table `family`."""

    def line(what: str, value: float, count: int = n, draws: np.ndarray | None = None) -> dict[str, Any]:
        low, high = (np.nan, np.nan) if draws is None or not len(draws) else np.quantile(draws, [0.025, 0.975])
        return {"what": what, "value": float(value), "ci_low": float(low), "ci_high": float(high), "n": int(count)}

    draws = len(search.largest_s)
    out = [
        line("sites", len(search.sites)), line("latents", search.counts["latents"]),
        line("set aside: general language", search.counts["general"]),
        line("set aside: active in too few rows", search.counts["rare"]),
        line("set aside: decode to nothing", search.counts["dead"]), line("searched", len(table)),
    ]  # fmt: skip
    if not len(table) or not draws:
        return out
    best = float(np.abs(table["separation"].to_numpy()).max())
    z = np.abs(table["z"].to_numpy())
    return [
        *out,
        line("discovered", float(table["discovered"].sum())),
        line("p at most .05 one by one", float((table["p"] <= ALPHA).sum())),
        line("p at most .05 one by one, by luck", ALPHA * len(table)),
        line("largest |separation| on fit", best),
        line("largest |separation| under shuffled labels", np.median(search.largest_s), draws, search.largest_s),
        line("largest |separation| under shuffled labels, 95th percentile", np.quantile(search.largest_s, 0.95), draws),
        line("latents that reach the largest |separation| by luck", search.reached_by_luck(best), draws),
        line("largest |z| on fit", float(z.max())),
        line("largest |z| under shuffled labels", np.median(search.largest_z), draws, search.largest_z),
    ]
