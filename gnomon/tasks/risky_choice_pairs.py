"""Lottery pairs: a safer and a riskier option, amounts and probabilities varied so that either may be worth more.

Every pair crosses a safer lottery (p, x), a lower probability, and a relative gap of expected values; the riskier
amount follows, rounded to what a person would write. Kept are the pairs whose riskier option has the larger variance.

    EV = p x;  variance = p (1 - p) x^2;  ev_gap = (EV_risky - EV_safe) / |EV_safe|   (losses: x < 0)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

AMOUNTS = (10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 100, 120, 150, 200, 300, 400)
LIKELY = (90, 80, 70)
"""Percent, of a safer option that is not sure."""
UNLIKELY = (50, 40, 30, 25, 20, 10)
"""Percent, of a riskier option."""
GAPS = (-0.6, -0.4, -0.2, -0.1, 0.1, 0.25, 0.6, 1.5)
"""Relative differences of expected value that are aimed at; rounding moves them a little."""

FRAMES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "gains": (
        ("You can have {first} or {second}.", "Which one do you take?", "I take"),
        ("You have won a prize and may choose {first} or {second}.", "Which one do you choose?", "I choose"),
        ("A friend lets you pick between {first} and {second}.", "Which one do you pick?", "I pick"),
        ("Your company pays a bonus: {first} or {second}.", "Which one do you want?", "I want"),
    ),
    "losses": (
        ("You must accept {first} or {second}.", "Which one do you take?", "I take"),
        ("You owe money and may choose {first} or {second}.", "Which one do you choose?", "I choose"),
        ("A judge lets you pick between {first} and {second}.", "Which one do you pick?", "I pick"),
        ("Your company takes a cut: {first} or {second}.", "Which one do you want?", "I want"),
    ),
}
"""What is said, what is asked, and how the answer begins: of gains and of losses."""


@dataclass(frozen=True)
class Lottery:
    """`percent` chance of `amount` dollars (below 0: lost), nothing otherwise."""

    percent: int
    amount: int

    @property
    def ev(self) -> float:
        """Expected value, dollars."""
        return self.percent * self.amount / 100

    @property
    def variance(self) -> float:
        """Dollars squared."""
        return self.percent * (100 - self.percent) * self.amount**2 / 10_000

    @property
    def text(self) -> str:
        """As an option of a prompt."""
        article = "an" if str(self.percent).startswith("8") else "a"
        return f"{article} {self.percent}% chance {'of' if self.amount > 0 else 'to lose'} ${abs(self.amount)}"


@dataclass(frozen=True)
class Pair:
    """A choice between a safer and a riskier lottery."""

    safe: Lottery
    risky: Lottery

    @property
    def key(self) -> str:
        """Its name: "100x40-25x200", percents and amounts."""
        return "-".join(f"{one.percent}x{one.amount}" for one in (self.safe, self.risky)).replace("x-", "xm")

    @property
    def ev_gap(self) -> float:
        """(EV_risky - EV_safe) / |EV_safe|: above 0 the risk pays."""
        return round((self.risky.ev - self.safe.ev) / abs(self.safe.ev), 6)


@lru_cache(maxsize=4)
def pairs(sign: int, sure: bool, unsure: bool) -> tuple[Pair, ...]:
    """Every pair of gains (sign 1) or losses (-1), with a `sure` safer option, an `unsure` one, or both kinds."""
    likely = ((100,) if sure else ()) + (LIKELY if unsure else ())
    return tuple(dict.fromkeys(_pairs(sign, likely)))


def _pairs(sign: int, likely: tuple[int, ...]) -> Iterator[Pair]:
    for percent in likely:
        for amount in AMOUNTS:
            for chance in UNLIKELY:
                for gap in GAPS:
                    aimed = percent * amount * (1 + gap) / chance
                    pair = Pair(Lottery(percent, sign * amount), Lottery(chance, sign * _written(aimed)))
                    if pair.risky.variance > pair.safe.variance and pair.ev_gap:
                        yield pair


def _written(amount: float) -> int:
    """An amount as a person would write it: to 1 below 20, to 5 below 200, to 10 below 1,000, else to 50."""
    step = 1 if amount < 20 else 5 if amount < 200 else 10 if amount < 1000 else 50
    return max(step, round(amount / step) * step)
