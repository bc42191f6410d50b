"""Frozen predictors of right and wrong, applied to rows of several generations: directions, features, confidence.

A direction's score is activation . vector + bias at its own site and position. A dictionary's feature is scored by its
activation (the encoder decides whether it fires; the decoder row only says where it writes). At last_prompt a row
without activations of its own takes those of the base generation's row with the same prompt: they are the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gnomon import stats
from gnomon.dictionaries.base import SparseDictionary
from gnomon.dictionaries.load import load_dictionary
from gnomon.dictionaries.of_step import dictionaries_of
from gnomon.errors import UserError
from gnomon.methods.temperature import Predictor
from gnomon.sites import RAGGED
from gnomon.step import Inputs
from gnomon.store import Artifact
from gnomon.types import Activations, Direction, Site

CHEAP = ("difficulty", "max_prob", "entropy", "margin", "mean_logprob")
RESPONSE = ("mean_logprob",)
"""Those that are known only once the response is written."""
ROWS = 1024
"""Activations encoded together."""
SIGNS = {"difficulty": -1.0, "entropy": -1.0}
"""Taken where fit does not say it: harder and less certain questions are answered wrong."""


def cheap_predictors(
    names: Sequence[str], fit: pd.DataFrame, rows: pd.DataFrame
) -> tuple[list[Predictor], dict[str, np.ndarray], list[dict[str, Any]]]:
    """Columns as predictors, each turned so that larger means correct on the graded rows of `fit`.

    Left out: columns that are unknown, or the same everywhere. Returns predictors, their scores of `rows`, and a line
    about each.
    """
    graded = fit.loc[np.asarray(fit["label"].notna()), :]
    label = np.array([bool(v) for v in graded["label"]], dtype=bool)
    out, scores, lines = [], {}, []
    for name in names:
        values, seen = (np.asarray(pd.to_numeric(t[name]), dtype=np.float64) for t in (rows, graded))
        known, early = values[np.isfinite(values)], np.isfinite(seen)
        if not len(known) or np.ptp(known) == 0:
            continue
        area = float(stats.auroc(seen[early], label[early])) if early.any() else np.nan
        sign = SIGNS.get(name, 1.0) if not np.isfinite(area) else 1.0 if area >= 0.5 else -1.0
        area = area if sign > 0 else 1 - area
        late = name in RESPONSE
        out.append(Predictor(name, late, True, f"turned by fit: {'larger' if sign > 0 else 'smaller'} means correct"))
        scores[name] = sign * values
        lines.append({
            "predictor": name, "step": "", "site": "", "position": "last" if late else "last_prompt",
            "kind": "column", "cheap": True, "reads_response": late, "sign": sign, "auroc_fit": area,
        })  # fmt: skip
    return out, scores, lines


def direction_scores(
    directions: Sequence[Direction], step: str, inputs: Inputs, others: Sequence[str], rows: pd.DataFrame
) -> Iterator[tuple[Predictor, np.ndarray, dict[str, Any]]]:
    """Each direction of `step` as a predictor: its scores of `rows` `[n]` (NaN where a row lacks the position).

    `rows` has the columns generation (the base's name, or one of `others`), row and prompt_hash.
    """
    for direction in directions:
        position = str(direction.meta.get("position", ""))
        target = str(direction.meta.get("target", "correct"))
        if target not in ("correct", "pass_rate"):
            raise UserError(f"direction {direction.name!r} of {step} is of {target!r}", "a predictor of correctness")
        if not position or position in RAGGED:
            raise UserError(
                f"direction {direction.name!r} of {step} says no position with one token a row",
                "last_prompt, last or answer", f"it says {position or 'none'}",
            )  # fmt: skip
        x, have = _activations(direction.site, position, inputs, others, rows)
        values = np.full(len(rows), np.nan)
        values[have] = score(direction, x, inputs)
        sign = -1.0 if direction.meta.get("predicts") == "incorrect" else 1.0
        late = position != "last_prompt"
        note = f"{direction.site}@{position}, as it was fitted" + ("; turned: it predicts wrong answers" * (sign < 0))
        predictor = Predictor(f"{step}: {direction.name}", late, False, note)
        yield predictor, sign * values, {
            "predictor": predictor.name, "step": step, "site": str(direction.site), "position": position,
            "kind": direction.kind, "cheap": False, "reads_response": late, "sign": sign, "auroc_fit": np.nan,
        }  # fmt: skip


def score(direction: Direction, x: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Scores of activations `x [n, d]`: a feature's own activation, else x . vector + bias."""
    if direction.kind == "feature":
        return feature_scores(direction, x, inputs)
    if x.shape[1] != direction.d:
        raise UserError(f"direction {direction.name!r} has {direction.d} numbers", f"activations have {x.shape[1]}")
    return x.astype(np.float64) @ direction.vector.astype(np.float64) + float(direction.meta.get("bias") or 0.0)


def feature_scores(direction: Direction, x: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Activation of a direction's latent in its dictionary, `[n]` float64: what the encoder makes of raw `x [n, d]`."""
    import torch

    dictionary, latent = dictionary_of(direction, inputs), int(direction.meta["latent"])
    if x.shape[1] != dictionary.d_model:
        raise UserError(f"dictionary {dictionary.name!r} is {dictionary.d_model} wide", f"{x.shape[1]}, as activations")
    parts = [dictionary.encode(torch.from_numpy(x[i : i + ROWS].copy()))[:, latent] for i in range(0, len(x), ROWS)]
    return np.concatenate([np.zeros(0), *(part.numpy().astype(np.float64) for part in parts)])


def dictionary_of(direction: Direction, inputs: Inputs) -> SparseDictionary:
    """The dictionary that a feature's direction comes from: an earlier step's, or the files that its meta names.

    UserError where it is neither, and where it is another dictionary than the one whose latent was selected.
    """
    named = str(direction.meta.get("dictionary", ""))
    step = next((a for a in inputs.all("dictionary") if a.name == named.split(" ")[0]), None)
    if step is not None:
        found = dictionaries_of(step).get(str(direction.site))
    else:
        found = load_dictionary(named, site=direction.site, d_model=direction.d)
    latent = int(direction.meta.get("latent", -1))
    if found is None or not 0 <= latent < found.d_sae:
        raise UserError(f"{named} has no latent {latent} at {direction.site}", "the dictionary that it was selected in")
    then = str(direction.meta.get("fingerprint", ""))
    changed = bool(then and found.fingerprint) and then != found.fingerprint  # an encoder may change alone
    if changed or not np.allclose(found.decoder[latent], direction.unit, atol=1e-3):
        raise UserError(
            f"latent {latent} of {named} is not the feature {direction.name!r} any more", "the dictionary of then",
            "remake the features step",
        )  # fmt: skip
    return found


def _activations(
    site: Site, position: str, inputs: Inputs, others: Sequence[str], rows: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Activations `[m, d]` of the rows that have them, and which those are (indices into `rows`)."""
    base = inputs.activations(site, position)
    generation, numbers = np.asarray(rows["generation"]), np.asarray(rows["row"], dtype=np.int64)
    parts, places = [], []
    for name in dict.fromkeys(generation.tolist()):
        mine = np.flatnonzero(generation == name)
        view, wanted = base, numbers[mine]
        if name in others:
            found = _captured(inputs.named(name), site, position)
            if found is None:
                wanted = _by_prompt(rows.iloc[mine], inputs["generations"], name, site, position)
            view = base if found is None else found
        held = np.isin(wanted, view.rows)
        parts.append(view.at(wanted[held]))
        places.append(mine[held])
    return np.concatenate(parts), np.concatenate(places)


def _captured(artifact: Artifact, site: Site, position: str) -> Activations | None:
    there = (Site(site.component, site.layer), position) in artifact.sites()
    return artifact.activations(site, position) if there else None


def _by_prompt(rows: pd.DataFrame, base: Artifact, name: str, site: Site, position: str) -> np.ndarray:
    """The base generation's row of each row's prompt, -1 where it has none; only last_prompt is shared by samples."""
    if position != "last_prompt":
        raise UserError(
            f"{name} has no activations at {site}@{position}", "the site and position that the predictor reads",
            f"give {name}  capture: {{sites: {site}, positions: [{position}]}}",
        )  # fmt: skip
    table = base.table("generations", ("row", "prompt_hash", "round"))
    table = table.loc[table["round"] == 0].drop_duplicates("prompt_hash")
    of = dict(zip(table["prompt_hash"], table["row"].tolist(), strict=True))
    return np.array([of.get(h, -1) for h in rows["prompt_hash"]], dtype=np.int64)
