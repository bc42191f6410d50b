"""Which rows are tried, which latents are patched beside which random ones, and how that is cut into shards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from gnomon.causal.items import Decode, Encode, Item, task_items
from gnomon.causal.patching import Patched, PatchShard
from gnomon.causal.pick import pick, records
from gnomon.causal.scoring import choice_lengths, right_choices
from gnomon.errors import UserError
from gnomon.latents import Latent
from gnomon.methods.matched_latents import NEAREST, stand_ins

COLUMNS = (
    "row", "token_ids", "prompt_len", "example_id", "sample", "round", "temperature", "prompt", "target", "choices",
    "group", "split", "difficulty", "meta", "trial", "first", "slot",
)  # fmt: skip
"""What a trial keeps of its row; slot: its place in the table of candidates."""


def draw_trials(table: pd.DataFrame, trials: int, seed: int) -> pd.DataFrame:
    """Of each class at most `trials` rows, one a group, by the hash of the group: `table` with `first` and `trial`.

    A group that holds rows of both classes may be drawn once for each. The draw depends on names and the seed only.
    """

    def key(*name: object) -> str:
        return hashlib.sha256(repr((seed, *name)).encode()).hexdigest()

    parts = []
    labels = [None if v is None or v != v else bool(v) for v in table["label"]]
    for first in (True, False):
        mine = table.loc[np.array([v is first for v in labels], dtype=bool)]
        groups = mine["group"].astype(str).tolist()
        rank = [(key("group", g), key("row", g, int(r))) for g, r in zip(groups, mine["row"], strict=True)]
        order = sorted(range(len(mine)), key=rank.__getitem__)
        best = [at for k, at in enumerate(order) if k == 0 or groups[at] != groups[order[k - 1]]]
        part = mine.iloc[best[:trials]]
        parts.append(part.assign(first=first, trial=np.arange(len(part))))
    return pd.concat(parts, ignore_index=True)


def chosen_features(separations: pd.DataFrame, names: Sequence[str] | None, top: int) -> pd.DataFrame:
    """Rows of table `separations`: those named, or each site's `top` first, by layer, site and rank.

    UserError for a name that the table does not hold.
    """
    ordered = separations.sort_values(["layer", "site", "rank"], kind="stable")
    if names is None:
        found = ordered.loc[np.asarray(ordered["rank"]) <= top]
        if found.empty:
            raise UserError("step features kept no latent", "one at least", "lower features.fewest")
        return found.reset_index(drop=True)
    wanted, known = [str(Latent.parse(name)) for name in names], ordered["name"].tolist()
    for name in wanted:
        if name not in known:
            raise UserError(
                f"feature {name} is not in table separations of step features", f"one of its {len(known)} latents",
                "raise features.per_layer",
            )  # fmt: skip
    return pick(ordered, name=wanted).reset_index(drop=True)


def rates_and_means(latents: Any) -> tuple[np.ndarray, np.ndarray]:
    """(share of rows in which each latent is active, its mean activation there) of sparse latents `[rows, n]`."""
    columns: Any = sparse.csc_array(latents)
    count = np.diff(columns.indptr)
    total = np.asarray(columns.sum(axis=0, dtype=np.float64)).reshape(-1)
    return count / max(columns.shape[0], 1), np.divide(total, count, out=np.zeros(len(count)), where=count > 0)


def patched_latents(
    features: pd.DataFrame, latents: Any, decodes: np.ndarray, controls: int, most: float, seed: int
) -> list[tuple[Patched, list[Patched]]]:
    """Each feature of one site with its matched random latents.

    Args:
        features: rows of `separations` of that site.
        latents: `[fit rows, n]`, sparse: how often each latent is active, and how strongly.
        decodes: `[n]`, which latents decode to something.
        most: norm over which tokens are left alone.
    """
    rate, mean = rates_and_means(latents)
    rate = np.where(decodes, rate, 0.0)
    own = features["feature"].astype(int).tolist()
    for name, latent in zip(features["name"], own, strict=True):
        if rate[latent] <= 0:
            raise UserError(f"feature {name} is active in no row of fit (or decodes to nothing)",
                            "a feature that fires: no random latent is like it", "leave it out")  # fmt: skip
    drawn = np.zeros((len(own), 0), dtype=np.int64)
    if controls:
        drawn = stand_ins(rate, mean, own, controls, [seed, 4409], max(NEAREST, controls))
    out = []
    for k, row in enumerate(records(features)):
        site, values = str(row["site"]), (float(row["first_mean"]), float(row["second_mean"]))
        feature = Patched(site, own[k], own[k], values, most)
        out.append((feature, [Patched(site, int(c), own[k], values, most) for c in drawn[k]]))
    return out


@dataclass(frozen=True)
class Trials:
    """The drawn rows and what scoring them takes: `choices` False where the model writes."""

    table: pd.DataFrame
    choices: bool
    where: str
    encode: Encode
    decode: Decode

    def batches(self, size: int, most_trials: int) -> tuple[list[PatchShard], list[PatchShard]]:
        """Shards without latents: of trials below `most_trials` (those random latents are run on), and of the rest.

        Rows of similar prompt length, `size` a shard; those whose prompt is one token do not mix with others.
        """
        early = np.asarray(self.table["trial"]) < most_trials
        return self._cut(self.table.loc[early], size), self._cut(self.table.loc[~early], size)

    def _cut(self, table: pd.DataFrame, size: int) -> list[PatchShard]:
        rows = records(table.sort_values(["prompt_len", "row", "first"]), COLUMNS)
        out: list[list[dict[str, Any]]] = []
        for row in rows:
            alone = out and (out[-1][-1]["prompt_len"] == 1) != (row["prompt_len"] == 1)
            if not out or len(out[-1]) == size or alone:
                out.append([])
            out[-1].append(row)
        if not self.choices:
            return [PatchShard(tuple(part)) for part in out]
        return [self._scored(part) for part in out]

    def _scored(self, rows: Sequence[dict[str, Any]]) -> PatchShard:
        part = self.table.loc[np.asarray(self.table["row"].isin([row["row"] for row in rows]))]
        items = tuple(task_items(part.drop_duplicates("row"), self.where, self.encode, self.decode))
        return PatchShard(tuple(rows), items=items, lengths=lengths_of(part, items), target=right_choices(part))


def lengths_of(table: pd.DataFrame, items: Sequence[Item]) -> dict[int, list[float]]:
    """What each option's log-probability is divided by, by row: as the generation did (its tokens unless it says)."""
    own = choice_lengths(table)
    tokens: dict[int, list[float]] = {}
    for item in items:
        tokens.setdefault(item.unit, []).append(float(len(item.tokens) - item.score_from))
    return {row: own.get(row, found) for row, found in tokens.items()}


def shards_of(
    sets: Sequence[tuple[Patched, Sequence[Patched]]], early: Sequence[PatchShard], late: Sequence[PatchShard],
    active: Mapping[tuple[str, int], np.ndarray],
) -> list[PatchShard]:  # fmt: skip
    """All shards: baselines, then for each batch of trials every feature, with its random latents on the early ones.

    active: (site, latent) -> its activation in every candidate row, by `slot`.
    """
    out = [*early, *late]
    for batch, controls in [(b, True) for b in early] + [(b, False) for b in late]:
        slots = [row["slot"] for row in batch.rows]
        for feature, random in sets:
            latents = (feature, *random) if controls else (feature,)
            found = {one.name: active[one.site, one.latent][slots].tolist() for one in latents}
            out.append(PatchShard(batch.rows, latents, found, batch.items, batch.lengths, batch.target))
    return out
