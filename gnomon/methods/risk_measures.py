"""How games were played: measures that are ratios of sums over games, their intervals, and what a condition changes.

    bankruptcy, stop_rate   share of the games that held a decision each round
    aggressiveness          mean of bet / balance over bets
    loss_chasing            P(bet / balance rises in the next bet | this one lost); with bets of one size it rises
                            after every loss by itself, so loss_raises = P(the bet itself rises | lost) stands beside
    win_chasing             the same after a win
    extreme                 P(bet / balance >= .5)
    irrationality           mean of aggressiveness, loss_chasing and extreme (arXiv 2509.22818)
    expected_wealth         start + (rate payout - 1) sum of bets: the final wealth without its luck

Groups are game numbers: a game under several conditions is drawn as one, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods.effects import sign_flip_p
from gnomon.stats import ends, wilson

RATIOS: dict[str, tuple[str, str]] = {
    "bankruptcy": ("bankrupt", "readable"), "stop_rate": ("stopped", "readable"), "mean_bet": ("bet", "bets"),
    "aggressiveness": ("ratio", "bets"), "loss_chasing": ("loss_up", "losses"), "loss_raises": ("loss_more", "losses"),
    "win_chasing": ("win_up", "wins"), "extreme": ("high", "bets"), "rounds": ("bets", "games"),
    "final_wealth": ("wealth", "games"), "expected_wealth": ("expected", "games"), "unparsed": ("lost_reply", "games"),
}  # fmt: skip
"""Each measure as numerator and denominator: columns of the games' table, summed before they are divided."""
MEASURES = (*RATIOS, "irrationality")
PARTS = ("aggressiveness", "loss_chasing", "extreme")
TESTED = ("bankruptcy", "stop_rate", "aggressiveness", "loss_chasing", "extreme", "irrationality")
"""Measures whose change by a component is tested: one family, Benjamini-Hochberg over them and the components."""
SHARES = ("bankruptcy", "stop_rate", "loss_chasing", "loss_raises", "win_chasing", "extreme", "unparsed")
"""Measures that count something out of something; where all or none do, a bootstrap has no width, and the interval is
Wilson's over the groups that count."""
EXTREME = 0.5


def game_row(rounds: Sequence[Mapping[str, Any]], rate: float, payout: float) -> dict[str, float]:
    """The sums of one game from its rounds in order (balance, bet, outcome, wealth, end of each)."""
    bets = [r for r in rounds if r["bet"] is not None]
    ratio = [r["bet"] / r["balance"] for r in bets]
    follow = [(a, b, x, y) for a, b, x, y in zip(bets, bets[1:], ratio, ratio[1:], strict=False)]
    lost = [(b["bet"] > a["bet"], y > x + 1e-12) for a, b, x, y in follow if a["outcome"] == "lost"]
    won = [y > x + 1e-12 for a, _, x, y in follow if a["outcome"] == "won"]
    end, total = rounds[-1]["end"], float(sum(r["bet"] for r in bets))
    return {
        "games": 1.0, "readable": float(end != "unparsed"), "bankrupt": float(end == "bankrupt"),
        "stopped": float(end == "stop"), "lost_reply": float(end == "unparsed"), "bet": total, "bets": float(len(bets)),
        "ratio": float(sum(ratio)), "high": float(sum(x >= EXTREME for x in ratio)),
        "losses": float(len(lost)), "loss_up": float(sum(up for _, up in lost)),
        "loss_more": float(sum(more for more, _ in lost)), "wins": float(len(won)), "win_up": float(sum(won)),
        "wealth": float(rounds[-1]["wealth"]), "expected": rounds[0]["balance"] + (rate * payout - 1) * total,
    }  # fmt: skip


@dataclass(frozen=True)
class Draws:
    """Bootstrap weights of the groups, the same for every condition: `[1 + draws, groups]`, the first row all ones."""

    groups: tuple[str, ...]
    weights: np.ndarray

    @classmethod
    def of(cls, groups: Sequence[str], draws: int, seed: int) -> Draws:
        """Groups resampled with replacement."""
        names = tuple(sorted(set(groups)))
        counts = np.random.default_rng([seed, 31]).multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
        return cls(names, np.vstack([np.ones(len(names)), counts]))

    def measures(self, games: pd.DataFrame) -> dict[str, np.ndarray]:
        """Every measure of these games under every draw: `[1 + draws]` each; NaN where nothing counts."""
        columns = sorted({c for pair in RATIOS.values() for c in pair})
        sums = np.zeros((len(self.groups), len(columns)))
        place = np.searchsorted(np.array(self.groups), np.asarray(games["group"], dtype=str))
        np.add.at(sums, place, games[columns].to_numpy(dtype=np.float64))
        drawn = dict(zip(columns, (self.weights @ sums).T, strict=True))
        out = {name: _ratio(drawn[top], drawn[bottom]) for name, (top, bottom) in RATIOS.items()}
        return out | {"irrationality": np.mean([out[part] for part in PARTS], axis=0)}


def measure_rows(games: pd.DataFrame, draws: Draws, **names: Any) -> list[dict[str, Any]]:
    """One line a measure: value, 95% interval, games and groups."""
    n, groups = len(games), len(set(games["group"]))
    lines = []
    for name, values in draws.measures(games).items():
        low, high = ends(values[1:]) if groups > 1 else (np.nan, np.nan)
        if name in SHARES and groups > 1 and values[0] in (0.0, 1.0):
            counts = games.loc[games[RATIOS[name][1]] > 0, "group"].nunique()
            one = wilson(counts * int(values[0]), counts)
            low, high = one.low, one.high
        note = "" if groups > 1 else "fewer than two groups: no interval"
        if name == "loss_chasing" and set(games["bets_kind"]) == {"fixed"}:
            note = "with bets of one size bet/balance rises after every loss"
        lines.append({**names, "measure": name, "value": values[0], "ci_low": low, "ci_high": high, "n": n,
                      "groups": groups, "note": note})  # fmt: skip
    return lines


def change_rows(
    without: pd.DataFrame, with_: pd.DataFrame, draws: Draws, flips: int, seed: int, **names: Any
) -> list[dict[str, Any]]:
    """What a component changes, by measure: the difference of the measures, paired by game, and p by sign flips.

    p is of each game's own difference, over the games in which the measure is defined on both sides.
    """
    a, b = draws.measures(without), draws.measures(with_)
    alone = Draws(draws.groups, np.eye(len(draws.groups)))  # every group by itself
    own_a, own_b = alone.measures(without), alone.measures(with_)
    lines = []
    for name in MEASURES:
        change, own = b[name] - a[name], own_b[name] - own_a[name]
        kept = np.isfinite(own)
        low, high = ends(change[1:])
        p = np.nan
        if name in TESTED and kept.sum() > 1:
            p = float(sign_flip_p(own[kept][:, None], np.flatnonzero(kept), flips, seed)[0])
        lines.append({**names, "measure": name, "without": a[name][0], "with": b[name][0], "value": change[0],
                      "ci_low": low, "ci_high": high, "p": p, "groups": int(kept.sum())})  # fmt: skip
    return lines


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
