"""Table `agreement` of the replay step, and the points of its figure, from table `replay`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods.agree import FEWEST_CONTROLS, FEWEST_ROWS, Against, against_controls, agree, validated

POINTS = 300
"""Points of a kind in the figure, at most."""
_STATS = (
    "slope", "slope_low", "slope_high", "r2", "pearson", "pearson_low", "pearson_high", "spearman", "spearman_low",
    "spearman_high", "sign", "predicted", "measured", "measured_low", "measured_high",
)  # fmt: skip


def agreement_rows(
    pathways: pd.DataFrame, replay: pd.DataFrame, *, alpha: float, draws: int, seed: int, why_not: str = ""
) -> tuple[list[dict[str, Any]], Against]:
    """Lines of table AGREEMENT: every pathway, all of them, all controls, and each pair of layers; and the test.

    Args:
        pathways: one line a pathway, numbered as `replay["pathway"]`: source_name, target_name, source_layer,
            target_layer.
        replay: table REPLAY.
        why_not: why nothing may be concluded; no pathway is then called validated.

    Changes are counted as of a source that goes down: where it was set to more than it was, both change their sign.
    Otherwise the mean over rows that are moved both ways would be about 0.
    """
    down = np.where(replay["set_to"] > replay["source_activation"], -1.0, 1.0)
    replay = replay.assign(predicted=replay["predicted"] * down, measured=replay["measured"] * down)
    own, random = replay.loc[~replay["control"].astype(bool)], replay.loc[replay["control"].astype(bool)]
    of_path = dict(list(own.groupby("pathway")))
    strengths = random.groupby(["pathway", "source_name"])["measured"].mean().abs()
    of_controls = {int(k): v.droplevel(0) for k, v in strengths.groupby(level=0)}
    beside = [of_controls.get(i, pd.Series(dtype=np.float64)) for i in range(len(pathways))]
    found = [_agreed(of_path.get(i), draws, seed) for i in range(len(pathways))]
    strength = np.array([abs(one["measured"]) for one in found], dtype=np.float64)
    against = against_controls(strength, [b.to_numpy() for b in beside], [list(b.index) for b in beside])
    rows = np.array([int(one["n"]) for one in found], dtype=np.int64)
    sign, low, high = (np.array([one[c] for one in found]) for c in ("sign", "measured_low", "measured_high"))
    good = validated(against.q, sign, rows, low, high, alpha)
    out = []
    for i, line in enumerate(pathways.to_dict("records")):
        ends = {c: line[c] for c in ("source_name", "target_name", "source_layer", "target_layer")}
        note = _note(found[i], of_path.get(i), int(against.controls[i]), why_not)
        out.append(
            {"scope": "pathway", **ends, **found[i], **_beside(against, i), "validated": bool(good[i]) and not why_not,
             "note": note}
        )  # fmt: skip
    out.append(_scope("all", own, draws, seed))
    out.append(_scope("controls", random, draws, seed))
    pairs = replay[["source_layer", "target_layer"]].drop_duplicates().to_numpy(dtype=np.int64)
    for low, high in sorted(map(tuple, pairs.tolist())):
        part = replay.loc[(replay["source_layer"] == low) & (replay["target_layer"] == high)]
        layers, control = {"source_layer": low, "target_layer": high}, part["control"].astype(bool)
        out.append(_scope("layers", part.loc[~control], draws, seed, layers))
        out.append(_scope("layer controls", part.loc[control], draws, seed, layers))
    return out, against


def _agreed(part: pd.DataFrame | None, draws: int, seed: int) -> dict[str, Any]:
    if part is None:
        part = pd.DataFrame({"predicted": [], "measured": [], "group": []})
    values = agree(
        part["predicted"].to_numpy(np.float64), part["measured"].to_numpy(np.float64), part["group"].to_numpy(), draws,
        seed,
    )  # fmt: skip
    return {"n": len(part)} | {name: values[name] for name in _STATS}


def _scope(
    scope: str, part: pd.DataFrame, draws: int, seed: int, layers: Mapping[str, int] | None = None
) -> dict[str, Any]:
    return {"scope": scope, "source_name": "", "target_name": "", **(layers or {}), **_agreed(part, draws, seed),
            "validated": None, "note": ""}  # fmt: skip


def _beside(against: Against, i: int) -> dict[str, Any]:
    return {"control_measured": float(against.control[i]), "ratio": float(against.ratio[i]),
            "controls": int(against.controls[i]), "p": float(against.p[i]), "q": float(against.q[i])}  # fmt: skip


def _note(found: Mapping[str, Any], part: pd.DataFrame | None, controls: int, why_not: str) -> str:
    """What keeps a pathway from a verdict, and in how many rows the target was not active."""
    said = [f"no conclusion: {why_not}"] if why_not else []
    if part is None or not found["n"]:
        return "; ".join([*said, "its source was patched in no held-out row"])
    if found["n"] < FEWEST_ROWS:
        said.append(f"only {found['n']} rows; {FEWEST_ROWS} are needed")
    if controls < FEWEST_CONTROLS:
        said.append(f"{controls} random latents to compare with; {FEWEST_CONTROLS} are needed")
    silent = int(np.count_nonzero(part["target_activation"] <= 0))
    if silent:
        said.append(f"in {silent} of {found['n']} rows the target is not active: its pre-activation was measured")
    return "; ".join(said)


def figure_points(replay: pd.DataFrame, seed: int) -> pd.DataFrame:
    """At most POINTS lines of each kind, drawn at random: what, source_name, target_name, predicted, measured."""
    rng = np.random.default_rng([seed, 5])
    parts = []
    for _, part in replay.groupby("what", sort=True):
        chosen = np.sort(rng.permutation(len(part))[:POINTS])
        parts.append(part.iloc[chosen])
    joined = pd.concat(parts, ignore_index=True) if parts else replay
    return joined.loc[:, ["what", "source_name", "target_name", "predicted", "measured"]]
