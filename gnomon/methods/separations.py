"""How far each latent's activation lies apart in two classes: Cohen's d of every latent, the largest of a site on test.

    d  = (m1 - m0) / s,   s^2 = (sum_i y_i (a_i - m1)^2 + sum_i (1 - y_i) (a_i - m0)^2) / (n1 + n0 - 2)
    m1 = sum_i y_i a_i / n1,   n1 = sum_i y_i;   m0, n0 the same of 1 - y;   y: label true, or a prompt's share of them

(Cohen 1988, ch. 2; an inactive row counts as 0.) The `per_layer` latents of a site with the largest |d| on fit are
chosen, and looked at on test once. |d| on fit is too large by the choice: beside the site's largest stands that of fit
labels shuffled by group, and what counts is d on test, in the direction seen on fit. Intervals are percentiles of a
bootstrap over groups: all latents share a draw, which is one product of group counts and group sums, so 1,000
latents cost a second. Cost of the search: two sparse products a label column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse

from gnomon.latents import latent_name
from gnomon.methods.chain_tables import SEPARATIONS
from gnomon.methods.feature_latents import ACTIVE
from gnomon.methods.feature_statistics import Matrix, rates
from gnomon.nulls import p_value
from gnomon.sites import Site
from gnomon.stats import MIN_CLASS, group_weights

TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
BY_SITE = pa.schema(
    [("site", TEXT), ("layer", WHOLE), ("component", TEXT), ("searched", WHOLE), ("kept", WHOLE), ("strongest", TEXT),
     ("largest", NUMBER), ("luck", NUMBER), ("luck_high", NUMBER), ("p", NUMBER), ("fit_mean", NUMBER),
     ("mean", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("excluding", WHOLE), ("note", TEXT)]
)  # fmt: skip
"""`features/separations_by_site`. largest: |d| on fit of the strongest; luck: median of the largest under shuffled fit
labels, luck_high its 95th percentile, p how often luck reaches it. fit_mean: mean |d| of the kept on fit; mean with ci:
their mean d on test in the direction seen on fit (0 where there is nothing); excluding: kept latents whose interval on
test lies beyond 0 in that direction."""
MEASURED = ("d", "ci_low", "ci_high", "separation", "separation_low", "separation_high")
"""Columns of `separations` that test gives."""
SHUFFLES = 19
"""Shuffled labels behind `luck` at most."""
COLUMNS = 4096
"""Latents whose shuffles are held at once."""


def cohens_d(latents: Matrix, y: np.ndarray) -> np.ndarray:
    """d of every latent (columns of sparse `[n, k]`) under every label column of `[n, m]`: `[k, m]`.

    0 where a latent does not vary or a class is empty; about 10^6 where it varies between the classes only.
    """
    y = np.asarray(y, dtype=np.float64)
    values: Any = latents.astype(np.float64)
    squares = values.multiply(values).tocsc()
    total, total2 = (np.asarray(m.sum(axis=0)).reshape(-1, 1) for m in (values, squares))
    one, two, n1 = values.T @ y, squares.T @ y, y.sum(axis=0)
    return d_of(one, total - one, two, total2 - two, n1, len(y) - n1)


def d_of(sum1: Any, sum0: Any, square1: Any, square0: Any, n1: Any, n0: Any) -> np.ndarray:
    """Cohen's d of sums and sums of squares of both classes (any shapes that broadcast); 0 where it is undefined.

    s is held above a millionth of the root mean square: below it, both it and m1 - m0 may be rounding.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        m1, m0 = sum1 / n1, sum0 / n0
        left = np.maximum(square1 - n1 * m1**2, 0) + np.maximum(square0 - n0 * m0**2, 0)
        least = 1e-6 * np.sqrt((square1 + square0) / (n1 + n0))
        d = (m1 - m0) / np.maximum(np.sqrt(left / (n1 + n0 - 2)), least)
    return np.where(np.isfinite(d), d, 0.0)


def class_facts(a: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Of activations `[n, k]` in both classes: means, shares in which they are active, pooled sd: `[k]` each."""
    a, y = np.asarray(a, dtype=np.float64), np.asarray(y, dtype=np.float64)[:, None]
    n1, n0 = y.sum(), (1 - y).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        m1, m0 = (y * a).sum(axis=0) / n1, ((1 - y) * a).sum(axis=0) / n0
        left = (y * (a - m1) ** 2).sum(axis=0) + ((1 - y) * (a - m0) ** 2).sum(axis=0)
        on = a > ACTIVE
        return {"first_mean": m1, "second_mean": m0, "sd": np.sqrt(left / (n1 + n0 - 2)),
                "first_rate": (y * on).sum(axis=0) / n1, "second_rate": ((1 - y) * on).sum(axis=0) / n0}  # fmt: skip


def held_out(a: np.ndarray, y: np.ndarray, groups: np.ndarray, draws: int, seed: Any) -> tuple[np.ndarray, np.ndarray]:
    """d and separation of `a [n, k]` in rows that had no part in the choice, and under `draws` resamples of groups.

    Returns `[k, 1 + draws]` twice, column 0 the rows themselves; NaN where a class is empty.
    """
    a, y = np.asarray(a, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not len(a):
        return np.full((a.shape[1], 1 + draws), np.nan), np.full((a.shape[1], 1 + draws), np.nan)
    on = (a > ACTIVE).astype(np.float64)
    which = np.unique(np.asarray(groups), return_inverse=True)[1]
    k = which.max() + 1
    counts = np.concatenate([np.ones((1, k)), group_weights(np.arange(k), draws, seed)])
    collect: Any = sparse.csr_array((np.ones(len(which)), (which, np.arange(len(which)))), shape=(k, len(which)))

    def by_draw(rows: np.ndarray) -> np.ndarray:
        return (counts @ (collect @ rows)).T

    def both(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return by_draw(y[:, None] * rows), by_draw((1 - y)[:, None] * rows)

    n1, n0 = (n[0] for n in both(np.ones((len(y), 1))))
    empty = (n1 <= 0) | (n0 <= 0)
    sum1, sum0 = both(a)
    square1, square0 = both(a**2)
    d = d_of(sum1, sum0, square1, square0, n1, n0)
    on1, on0 = both(on)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = on1 / n1 - on0 / n0
    return np.where(empty, np.nan, d), np.where(empty, np.nan, apart)


def between(draws: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval along the last axis; NaN where under half of the draws are defined."""
    if not draws.size:
        return np.zeros(draws.shape[:-1]), np.zeros(draws.shape[:-1])
    good = np.isfinite(draws)
    enough = good.mean(axis=-1) > 0.5
    filled = np.where(enough[..., None], np.where(good, draws, np.nan), 0.0)
    low, high = np.nanquantile(filled, (0.5 - confidence / 2, 0.5 + confidence / 2), axis=-1)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


@dataclass
class Separations:
    """Feed it every site's latents (`add`), then read `tables`."""

    y: np.ndarray
    groups: np.ndarray
    split: np.ndarray
    names: tuple[str, str]
    """Of label true, of label false."""
    per_layer: int = 50
    draws: int = 2000
    seed: int = 0
    position: str = ""
    chosen: list[dict[str, Any]] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)
    """Activations `[labelled rows]` of the chosen ones."""
    sites: list[dict[str, Any]] = field(default_factory=list)

    def add(self, site: str, latents: Matrix, used: np.ndarray, general: np.ndarray, shuffled: np.ndarray) -> None:
        """Choose among one site's latents, on fit.

        Args:
            latents: sparse `[labelled rows, n]`.
            used: numbers of the latents that may be chosen.
            general: `[n]`, each latent's rate on general text (NaN where it was not measured).
            shuffled: `[labelled rows, m]` labels shuffled by group within the splits.
        """
        fit = self.split == "fit"
        rows = sparse.csc_array(latents[np.flatnonzero(fit)])
        y = np.column_stack([self.y, shuffled[:, :SHUFFLES]])[fit]
        blocks = [used[start : start + COLUMNS] for start in range(0, len(used), COLUMNS)]
        d = np.concatenate([cohens_d(rows[:, here], y) for here in blocks]) if blocks else np.zeros((0, y.shape[1]))
        order = np.argsort(-np.abs(d[:, 0]), kind="stable")[: self.per_layer]
        best, place = used[order], Site.parse(site)
        found = rates(rows[:, best], self.y[fit]) if len(best) else (np.zeros(0), np.zeros(0))
        values = latents[:, best].toarray().astype(np.float64) if len(best) else np.zeros((len(self.y), 0))
        facts = class_facts(values[fit], self.y[fit])
        for rank, (latent, at) in enumerate(zip(best.tolist(), order.tolist(), strict=True)):
            self.chosen.append({
                "name": latent_name(site, latent), "site": site, "layer": place.layer, "feature": latent,
                "rank": rank + 1, "fit_d": d[at, 0], "fit_separation": float(found[0][rank] - found[1][rank]),
                "general_rate": float(general[latent]), **{key: float(value[rank]) for key, value in facts.items()},
            })  # fmt: skip
            self.columns.append(values[:, rank].astype(np.float32))
        largest = np.abs(d).max(axis=0) if len(d) else np.full(y.shape[1], np.nan)
        luck = largest[1:]
        self.sites.append({
            "site": site, "layer": place.layer, "component": place.component, "searched": len(used), "kept": len(best),
            "strongest": latent_name(site, int(best[0])) if len(best) else "", "largest": largest[0],
            "luck": float(np.median(luck)) if len(luck) else np.nan,
            "luck_high": float(np.quantile(luck, 0.95)) if len(luck) else np.nan,
            "p": p_value(largest[0], luck) if len(luck) and len(best) else np.nan,
        })  # fmt: skip

    def thin(self) -> str:
        """Why test gives no intervals, by class; "" where both have enough rows."""
        y = self.y[self.split == "test"]
        for name, count in zip(self.names, (y.sum(), (1 - y).sum()), strict=True):
            if count < MIN_CLASS:
                return (f"features has {round(float(count))} {name} rows in split 'test'; {MIN_CLASS} are needed for "
                        "an interval; raise generate.n")  # fmt: skip
        return ""

    def tables(
        self, dictionaries: Mapping[str, str], links: Mapping[str, str], page: Callable[[str, int], str]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tables `separations` and `separations_by_site`: test is read here, once.

        Args:
            dictionaries: by site, whose latents these are.
            links: by site, what `page` makes the address of a latent's page from.
        """
        test, note = self.split == "test", self.thin()
        fit_y, y, start = self.y[self.split == "fit"], self.y[test], 0
        measured: list[np.ndarray] = []
        sites = []
        for line in self.sites:  # one after the other: draws of all latents of all sites would be much
            part = self.chosen[start : start + line["kept"]]
            a = [c[test] for c in self.columns[start : start + line["kept"]]]
            values, more = self._site(part, np.stack(a, axis=1) if a else np.zeros((len(y), 0)), y, note)
            measured.append(values)
            sites.append(line | more)
            start += line["kept"]
        frame = pd.DataFrame(self.chosen, columns=SEPARATIONS.names)
        frame[list(MEASURED)] = np.concatenate(measured) if measured else np.zeros((0, len(MEASURED)))
        frame = frame.assign(
            first=self.names[0], second=self.names[1], position=self.position, note=note,
            n_first=_rows(fit_y), n_second=_rows(1 - fit_y), test_first=_rows(y), test_second=_rows(1 - y),
            dictionary=[dictionaries[s] for s in frame["site"]],
            link=[page(links[s], int(f)) for s, f in zip(frame["site"], frame["feature"], strict=True)],
        )  # fmt: skip
        return frame, pd.DataFrame(sites, columns=BY_SITE.names)

    def _site(
        self, chosen: list[dict[str, Any]], a: np.ndarray, y: np.ndarray, note: str
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Of one site's kept latents, test activations `[n, kept]`: MEASURED `[kept, 6]`, and their means."""
        d, apart = held_out(a, y, self.groups[self.split == "test"], self.draws, [self.seed, 7207])
        fit_d = np.array([c["fit_d"] for c in chosen])
        along = (np.sign(fit_d)[:, None] * d).mean(axis=0) if len(a.T) else np.full(1 + self.draws, np.nan)
        ends = [(np.full(np.shape(v)[:-1], np.nan),) * 2 if note else between(v[..., 1:]) for v in (d, apart, along)]
        (d_low, d_high), (low, high), (mean_low, mean_high) = ends
        beyond = np.where(fit_d > 0, d_low > 0, d_high < 0)
        means = {"fit_mean": float(np.abs(fit_d).mean()) if len(fit_d) else np.nan, "mean": float(along[0]),
                 "ci_low": float(mean_low), "ci_high": float(mean_high), "excluding": int(beyond.sum()),
                 "note": note}  # fmt: skip
        return np.column_stack([d[:, 0], d_low, d_high, apart[:, 0], low, high]), means


def _rows(weights: np.ndarray) -> int:
    return round(float(weights.sum()))
