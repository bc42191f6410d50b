"""From the responses of all trials to tables `effects` and `causal` (schemas in `chain_tables`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gnomon.latents import Latent
from gnomon.methods import patch_effects as judge
from gnomon.methods.chain_tables import CAUSAL, EFFECTS
from gnomon.methods.effects import DRAWS, weights_of
from gnomon.methods.two_classes import MIN_PARSED
from gnomon.nulls import benjamini_hochberg

PATCH = ["name", "kind", "matches", "patch"]


@dataclass(frozen=True)
class Rules:
    """How effects are measured and judged."""

    measure: judge.Measure
    smallest_effect: float = 0.2
    alpha: float = 0.05
    draws: int = DRAWS
    flips: int = judge.FLIPS
    seed: int = 0


def spread_of(responses: pd.DataFrame) -> float:
    """sd of the unpatched margins over the trials of both classes; NaN for fewer than two."""
    clean = responses.loc[np.asarray(responses["kind"]) == "baseline", "margin"].to_numpy(dtype=np.float64)
    return float(np.std(clean, ddof=1)) if len(clean) > 1 else float("nan")


def effect_table(responses: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Table `effects`: every latent's two patches on the prompts of either class, q over the features' conditions."""
    spread = spread_of(responses)
    parts = [_of_prompts(part, rules, spread) for _, part in responses.groupby("prompt", sort=False)]
    table = pd.concat(parts, ignore_index=True)
    tested = (np.asarray(table["kind"]) == "feature") & (table["unparsed"].to_numpy() <= 1 - MIN_PARSED)
    q = np.full(len(table), np.nan)
    q[tested] = benjamini_hochberg(table["p"].to_numpy(dtype=np.float64)[tested])
    table["q"] = q
    return table.reindex(columns=EFFECTS.names)


def _of_prompts(part: pd.DataFrame, rules: Rules, spread: float) -> pd.DataFrame:
    """Effects on the prompts of one class."""
    rate = np.array([np.nan if v is None or v != v else float(v) for v in part["outcome"]])
    outcome = rate if rules.measure == "rate" else part["margin"].to_numpy(dtype=np.float64)
    trial, clean = part["trial"].to_numpy(dtype=np.int64), np.asarray(part["kind"]) == "baseline"
    n = int(trial.max()) + 1
    groups = np.empty(n, dtype=object)
    groups[trial[clean]] = part["group"].to_numpy()[clean]
    keys = part.loc[~clean, [*PATCH, "condition", "set_to"]]
    first = keys.drop_duplicates(PATCH)
    which = keys[PATCH].astype(str).agg("\x1f".join, axis=1)
    column = pd.Index(first[PATCH].astype(str).agg("\x1f".join, axis=1)).get_indexer(pd.Index(which))

    def wide(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before, after = np.full(n, np.nan), np.full((n, len(first)), np.nan)
        before[trial[clean]], after[trial[~clean], column] = values[clean], values[~clean]
        ran = np.zeros(after.shape, dtype=bool)
        ran[trial[~clean], column] = True
        return before, after, ran

    before, after, ran = wide(outcome)
    own = np.asarray(first["kind"]) == "feature"
    early = ran[:, ~own].any(axis=1) if (~own).any() else np.ones(n, dtype=bool)
    out = first.reset_index(drop=True).assign(prompt=part["prompt"].iloc[0], measure=rules.measure, note="")
    weights = weights_of(groups, rules.draws, rules.seed)
    for at, rows in ((own, np.ones(n, dtype=bool)), (~own, early)):
        found = judge.effects(before[rows], after[rows][:, at], rules.measure, spread, weights[:, rows])
        pairs = {"baseline": found.baseline, "value": found.value, "change": found.change, "ci_low": found.low,
                 "ci_high": found.high, "effect": found.effect, "n": found.n, "unparsed": found.unparsed}  # fmt: skip
        for name, values in pairs.items():
            out.loc[at, name] = values.astype(np.float64)
    out["matched_effect"] = judge.effects(before[early], after[early], rules.measure, spread, np.zeros((0, 0))).effect
    out["p"] = np.nan
    out.loc[own, "p"] = judge.flip_p(before, after[:, own], groups, rules.flips, rules.seed)
    known, now, _ = wide(rate)
    both = np.isfinite(known)[:, None] & np.isfinite(now)
    with np.errstate(invalid="ignore"):
        for name, values in (("rate_baseline", known[:, None]), ("rate", now)):
            out[name] = np.where(both, values, 0.0).sum(0) / both.sum(0)
    few = (out["unparsed"] > 1 - MIN_PARSED).to_numpy()
    out.loc[few, "note"] = [f"only {1 - u:.0%} of the answers could be parsed" for u in out.loc[few, "unparsed"]]
    out["n"] = out["n"].astype(np.int64)
    places = [Latent.parse(name) for name in out["name"]]
    return out.assign(
        site=[str(p.site) for p in places], layer=[p.site.layer for p in places], feature=[p.index for p in places]
    )


def causal_table(effects: pd.DataFrame, features: pd.DataFrame, rules: Rules, shortfall: str) -> pd.DataFrame:
    """Table `causal`, in the order of `features` (rows of `separations`).

    shortfall: why nothing may be concluded, or "" (see `two_classes.shortfall`).
    """
    own = effects.loc[np.asarray(effects["kind"]) == "feature"]
    controls = effects.loc[np.asarray(effects["kind"]) == "control"]
    names = features["name"].tolist()
    mine = [own.loc[np.asarray(own["name"] == name)] for name in names]
    random = [controls.loc[np.asarray(controls["matches"] == name)] for name in names]
    most = np.array([_largest(part) for part in mine])
    most_random = [np.array([_largest(p) for _, p in part.groupby("name", sort=False)]) for part in random]
    p, q = judge.against_controls(most, most_random, rules.smallest_effect)
    found = np.stack([_padded(part, "q") for part in mine])
    effect = np.stack([_padded(part, "effect") for part in mine])
    tried = int(sum(np.isfinite(some).sum() for some in most_random))
    said = judge.verdicts(found, effect, p, q, tried, rules.smallest_effect, rules.alpha)
    best = judge.strongest(found, effect, rules.alpha)
    lines: list[dict[str, Any]] = []
    for k, row in enumerate(features.to_dict("records")):
        line = mine[k].iloc[int(best[k])].to_dict()
        there = random[k].loc[np.asarray(random[k]["condition"] == line["condition"])]
        beside = np.append(most[k], most_random[k])
        ratio = judge.standing_out(beside, rules.smallest_effect)[0] if np.isfinite(beside[1:]).any() else np.nan
        toward = (line["change"] > 0) == (line["patch"] == row["first"])
        shown = {key: line[key] for key in ("condition", "measure", "change", "ci_low", "ci_high", "effect", "p", "q",
                                            "n", "note")}  # fmt: skip
        lines.append({
            **{key: row[key] for key in ("name", "site", "layer", "feature", "d", "first_mean", "second_mean")},
            **shown,
            "control_change": float(there["change"].abs().mean()) if len(there) else np.nan,
            "control_p": p[k], "control_q": q[k], "ratio": ratio, "controls": len(most_random[k]),
            "way": "" if not line["change"] else "toward" if toward else "away",
            "is_causal": said[k] == judge.CAUSAL and not shortfall,
            "verdict": f"{judge.NONE}: {shortfall}" if shortfall else said[k],
        })  # fmt: skip
    return pd.DataFrame(lines, columns=CAUSAL.names)


def _largest(part: pd.DataFrame) -> float:
    """T: the largest |effect| over a latent's conditions, on the trials that random latents were run on."""
    sizes = part["matched_effect"].abs().to_numpy(dtype=np.float64)
    sizes = sizes[np.isfinite(sizes)]
    return float(sizes.max()) if len(sizes) else float("nan")


def _padded(part: pd.DataFrame, column: str, n: int = 4) -> np.ndarray:
    """A feature's conditions of one column; NaN where a class has no trials."""
    values = part[column].to_numpy(dtype=np.float64)
    return np.append(values, np.full(n - len(values), np.nan))


def random_beyond(effects: pd.DataFrame, bound: float) -> tuple[int, int]:
    """How many random latents move as much as the bound, and how many were tried."""
    controls = effects.loc[np.asarray(effects["kind"]) == "control"]
    sizes = [_largest(part) for _, part in controls.groupby(["name", "matches"], sort=False)]
    return int(sum(size >= bound for size in sizes)), len(sizes)
