"""Which features are traced, and in which prompts: those of fit where a feature is strongest, one a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gnomon.dictionaries.shelf import Shelf
from gnomon.errors import UserError
from gnomon.halving import run_halving
from gnomon.latents import Latent
from gnomon.methods.chain_tables import PROMPTS
from gnomon.methods.feature_latents import encode
from gnomon.paths.attribution import depth
from gnomon.paths.trace import Goal
from gnomon.step import Inputs, batches
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

NOUNS = ("causal", "strongest", "all")


def chosen_targets(
    asked: str | Sequence[str], separations: pd.DataFrame, causal: pd.DataFrame | None, most: int
) -> tuple[list[Latent], str]:
    """Target latents, and in words how they were chosen.

    causal: those that patching found to be; where it found none (or was not run) the strongest: of each site the `most`
    of largest |d| on fit. all: every separated one. Names are taken as they are.
    """
    if not isinstance(asked, str):
        return [Latent.parse(name) for name in asked], "named in the study file"
    ranked = separations.assign(size=separations["fit_d"].abs()).sort_values(["site", "size"], ascending=[True, False])
    named = [Latent(Site.parse(s), int(f)) for s, f in zip(ranked["site"], ranked["feature"], strict=True)]
    why = ""
    if asked == "all":
        return named, "all latents of the separations"
    if asked == "causal":
        if causal is not None and bool(causal["is_causal"].astype(bool).any()):
            names = causal.loc[causal["is_causal"].astype(bool), "name"].tolist()
            return [Latent.parse(name) for name in names], "those that patching found causal"
        why = "no patching was run, so " if causal is None else "patching found none causal, so "
    places = ranked.groupby("site", sort=False).cumcount().to_numpy()
    strongest = [latent for latent, place in zip(named, places, strict=True) if place < most]
    return strongest, f"{why}the {most} of each site that separate the classes most on fit"


def with_sources(latents: Sequence[Latent], sites: Sequence[Site], named: bool = False) -> list[Latent]:
    """Those at a site with a dictionary that has another below it.

    UserError for one at a site without a dictionary, where none is left, or where one that is `named` falls out.
    """
    for latent in latents:
        if latent.site not in sites:
            raise UserError(f"feature {latent}", f"a site with a dictionary: {', '.join(map(str, sites))}",
                            "give pathways.dictionary")  # fmt: skip
    lowest = min(map(depth, sites))
    kept = [latent for latent in dict.fromkeys(latents) if depth(latent.site) > lowest]
    lowest_of = [latent for latent in latents if latent not in kept]
    if not kept or (named and lowest_of):
        names = ", ".join(map(str, lowest_of[:3])) or "none"
        raise UserError(f"no dictionary lies below {names}", "dictionaries of two sites or more",
                        "train_dictionary: {sites: [...]} with a lower site")  # fmt: skip
    return kept


def prompt_rows(table: pd.DataFrame, at: str) -> tuple[pd.DataFrame, dict[int, tuple[int, ...]]]:
    """One row a prompt (a row, for `last`), and the tokens of each up to where targets are read."""
    once = table.drop_duplicates(["group", "prompt_hash"]) if at == "last_prompt" else table
    once = once.loc[once["prompt_len"] > 1] if at == "last_prompt" else once
    texts = {
        int(row): tuple(int(t) for t in (ids[:n] if at == "last_prompt" else ids))
        for row, ids, n in zip(once["row"], once["token_ids"], once["prompt_len"], strict=True)
    }
    return once.reset_index(drop=True), texts


def activations(
    inputs: Inputs, model: Model, shelf: Shelf, latents: Sequence[Latent], rows: pd.DataFrame,
    texts: Mapping[int, Sequence[int]], at: str, batch_size: int,
) -> dict[Latent, np.ndarray]:  # fmt: skip
    """Each latent's activation in each row `[rows]`: of what was captured there, else of a forward pass."""
    numbers = rows["row"].to_numpy(dtype=np.int64)
    sites = sorted({latent.site for latent in latents}, key=depth)
    held: dict[Site, np.ndarray] = {}
    for site in sites:
        if (site, at) in inputs.sites():
            view = inputs.activations(site, at)
            if np.isin(numbers, view.rows).all():
                held[site] = view.at(numbers)
    missing = [s for s in sites if s not in held]
    if missing:
        held |= _last_values(model, missing, [texts[int(r)] for r in numbers], batch_size)
    out: dict[Latent, np.ndarray] = {}
    for site in sites:
        dictionary, mine = shelf[site], [latent for latent in latents if latent.site == site]
        for latent in mine:
            if latent.index >= dictionary.d_sae:
                raise UserError(f"feature {latent}", f"{site} has latents 0 to {dictionary.d_sae - 1}")
        index = [latent.index for latent in mine]
        parts = [encode(dictionary, held[site][s : s + 256], str(model.device))[:, index]
                 for s in range(0, len(numbers), 256)]  # fmt: skip
        out |= dict(zip(mine, np.concatenate(parts).T, strict=True))
    return out


def _last_values(
    model: Model, sites: Sequence[Site], texts: Sequence[Sequence[int]], batch_size: int
) -> dict[Site, np.ndarray]:
    out = {s: np.zeros((len(texts), model.site_shape(s)), np.float32) for s in sites}
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))

    def read(some: Sequence[int]) -> list[None]:
        found = model.forward([texts[i] for i in some], read=sites)
        for s in sites:
            for j, i in enumerate(some):
                out[s][i] = found.acts[s][j, len(texts[i]) - 1].float().cpu().numpy()
        return []

    for some in batches(order, batch_size):
        run_halving(read, some, None)
    return out


def goals_of(
    latents: Sequence[Latent], z: Mapping[Latent, np.ndarray], rows: pd.DataFrame, texts: Mapping[int, Sequence[int]],
    prompts: int, named: bool,
) -> tuple[list[Goal], pd.DataFrame]:  # fmt: skip
    """Targets with their prompts, and table `prompts`; latents that fire nowhere are left out.

    UserError where a feature that the study file names fires in no prompt of fit, or none of the others does.
    """
    goals, lines, silent = [], [], []
    groups = [str(g) for g in rows["group"]]
    for latent in latents:
        value = z[latent]
        taken: dict[str, int] = {}
        for i in np.argsort(-value, kind="stable").tolist():
            if value[i] > 0 and len(taken) < prompts:
                taken.setdefault(groups[i], i)
        if not taken:
            silent.append(latent)
            continue
        goals.append(Goal(latent, tuple(int(rows["row"].iloc[i]) for i in taken.values())))
        for rank, i in enumerate(taken.values()):
            row = rows.iloc[i]
            lines.append(_line(latent, rank + 1, row, len(texts[int(row["row"])]) - 1, float(value[i])))
    if silent and (named or not goals):
        raise UserError(
            f"feature {silent[0]} is active in none of {len(rows)} prompts of fit", "features that fire there",
            "other targets, or a dictionary trained on such prompts",
        )  # fmt: skip
    return goals, pd.DataFrame(lines, columns=PROMPTS.names)


def _line(latent: Latent, rank: int, row: Any, position: int, value: float) -> dict[str, Any]:
    return {
        "name": str(latent), "site": str(latent.site), "feature": latent.index, "rank": rank, "row": int(row["row"]),
        "example_id": row["example_id"], "split": row["split"],
        "label": None if row["label"] is None or row["label"] != row["label"] else bool(row["label"]),
        "position": position, "activation": value, "prompt": row["prompt"],
    }  # fmt: skip
