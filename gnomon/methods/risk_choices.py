"""Single choices between safe and risky: shares, their curve over the gap of expected values, and cheap explanations.

    share safe              of the choices that were read
    agrees with EV          chosen is the option of the larger expected value
    first place             share safe where the safe option stands first, minus where it stands second
    EV gap                  share safe where the safe option is worth more, minus where the risky one is

p of the differences: the attribute is shuffled by groups. The expected-value maximiser stands beside every share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gnomon import nulls
from gnomon.stats import Interval, bootstrap, mean, mean_interval, wilson


def choice_rows(rows: pd.DataFrame, draws: int, permutations: int, seed: int) -> list[dict[str, Any]]:
    """Lines of measures; `rows` has label (bool), group, ev_gap, place and safe_is_yes (NaN where unknown)."""
    safe, groups = rows["label"].to_numpy(dtype=np.float64), np.asarray(rows["group"].astype(str))
    gap = rows["ev_gap"].to_numpy(dtype=np.float64)
    lines = [_line("share_safe", safe, groups, draws, seed)]
    known = np.isfinite(gap)
    if known.any():
        maximiser = (gap[known] < 0).astype(np.float64)
        lines.append(_line("share_safe", maximiser, groups[known], draws, seed, control="EV maximiser"))
        agrees = (safe[known] == maximiser).astype(np.float64)
        lines.append(_line("agrees_with_ev", agrees, groups[known], draws, seed))
    for name, attribute in (
        ("ev_effect", np.where(known, gap < 0, np.nan)), ("place_effect", 1 - rows["place"].to_numpy(dtype=np.float64)),
        ("yes_effect", rows["safe_is_yes"].to_numpy(dtype=np.float64)),
    ):  # fmt: skip
        here = np.isfinite(attribute)
        if here.any() and len(np.unique(attribute[here])) == 2:
            lines.append(_difference(name, safe[here], attribute[here] > 0.5, groups[here], draws, permutations, seed))
    return lines


def curve_rows(rows: pd.DataFrame, bins: int, draws: int, seed: int) -> list[dict[str, Any]]:
    """Share safe by quantiles of the EV gap, and what an EV maximiser would choose there."""
    known = rows.loc[rows["ev_gap"].notna()]
    if known.empty:
        return []
    strata = nulls.quantile_strata(known["ev_gap"].to_numpy(dtype=np.float64), bins)
    out = []
    for number in np.unique(strata):
        part = known.loc[strata == number]
        gap = part["ev_gap"].to_numpy(dtype=np.float64)
        groups = np.asarray(part["group"].astype(str))
        for chooser, values in (("model", part["label"].to_numpy(dtype=np.float64)), ("EV maximiser", gap < 0)):
            one = _share(np.asarray(values, dtype=np.float64), groups, draws, seed)
            out.append({"chooser": chooser, "bin": int(number), "ev_gap": float(gap.mean()), "value": one.value,
                        "ci_low": one.low, "ci_high": one.high, "n": len(part)})  # fmt: skip
    return out


def _share(values: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> Interval:
    """A share with its interval; Wilson's over groups where all or none do, since a bootstrap has no width there."""
    one, many = mean_interval(values, groups, draws=draws, seed=seed), len(np.unique(groups))
    return wilson(many * int(one.value), many) if many > 1 and one.value in (0.0, 1.0) else one


def _line(
    name: str, values: np.ndarray, groups: np.ndarray, draws: int, seed: int, control: str = ""
) -> dict[str, Any]:
    one = _share(values, groups, draws, seed)
    return {"condition": "all", "control": control, "measure": name, "value": one.value, "ci_low": one.low,
            "ci_high": one.high, "p": np.nan, "n": len(values), "groups": len(np.unique(groups)),
            "note": one.note}  # fmt: skip


def _difference(
    name: str, safe: np.ndarray, side: np.ndarray, groups: np.ndarray, draws: int, permutations: int, seed: int
) -> dict[str, Any]:
    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return mean(safe, weights * side) - mean(safe, weights * ~side)

    one = bootstrap(statistic, groups, draws=draws, seed=seed)
    shuffled = nulls.permuted(side, groups, permutations, seed).T.astype(np.float64)
    null = mean(safe, shuffled) - mean(safe, 1 - shuffled)
    p = nulls.p_value(one.value, null, "two-sided")
    return {"condition": "all", "control": "", "measure": name, "value": one.value, "ci_low": one.low,
            "ci_high": one.high, "p": p, "n": len(safe), "groups": len(np.unique(groups)),
            "note": one.note}  # fmt: skip
