"""One line of an audit, and whether every feature was asked under every condition often enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the audit: `value` against `limit` (both in the check's own unit), and what to do."""

    check: str
    level: Level
    value: float
    limit: float | None = None
    detail: str = ""
    low: float | None = None
    high: float | None = None

    def row(self) -> dict[str, Any]:
        return {"check": self.check, "level": self.level, "value": float(self.value), "limit": self.limit,
                "ci_low": self.low, "ci_high": self.high, "detail": self.detail}  # fmt: skip


@dataclass(frozen=True)
class Coverage:
    """Conditions x trials of some features."""

    conditions: tuple[str, ...]
    """Those that were wanted."""
    missing: dict[str, list[str]] = field(default_factory=dict)
    """Feature -> wanted conditions that it lacks altogether."""
    short: dict[str, dict[str, int]] = field(default_factory=dict)
    """Feature -> conditions that it has, with too few trials, and how many."""
    trials: tuple[int, float, int] = (0, 0.0, 0)
    """Least, median and most trials of a feature and a condition that it has."""


def six_conditions(classes: Sequence[str]) -> tuple[str, ...]:
    """The conditions of a feature: each class's prompts as they are, and patched to either class's mean."""
    return tuple(name for own in classes for name in (f"{own}_baseline", *(f"{own}_with_{to}_patch" for to in classes)))


def coverage(
    trials: Mapping[tuple[str, str], int], features: Iterable[str], conditions: Sequence[str], wanted: int
) -> Coverage:
    """Which of `features` lack one of `conditions`, or have it with fewer than `wanted` trials.

    trials: number of different trials by feature and condition.
    """
    missing: dict[str, list[str]] = {}
    short: dict[str, dict[str, int]] = {}
    counts = []
    for feature in features:
        have = {c: trials.get((feature, c), 0) for c in conditions}
        if lacks := [c for c, n in have.items() if not n]:
            missing[feature] = lacks
        if few := {c: n for c, n in have.items() if 0 < n < wanted}:
            short[feature] = few
        counts += [n for n in have.values() if n]
    said = (min(counts), float(np.median(counts)), max(counts)) if counts else (0, 0.0, 0)
    return Coverage(tuple(conditions), missing, short, said)


def coverage_checks(found: Coverage, features: int, wanted: int) -> list[Check]:
    """Lines for conditions that are missing and trials that are too few."""
    out = []
    if found.missing:
        name, lacks = next(iter(found.missing.items()))
        out.append(Check("conditions", "fail", len(found.missing), 0,
                         f"{len(found.missing)} of {features} features lack a condition, such as {shown(name)}: "
                         f"{', '.join(shown(c) for c in lacks[:6])}"))  # fmt: skip
    else:
        out.append(Check("conditions", "ok", 0, 0, f"all {features} features have all {len(found.conditions)}"))
    least, middle, most = found.trials
    said = f"{least} to {most} trials a feature and condition (median {middle:g})"
    if found.short:
        name, few = next(iter(found.short.items()))
        said += (f"; {sum(map(len, found.short.values()))} cells have under {wanted}, such as {shown(name)}, "
                 + ", ".join(f"{shown(c)}: {n}" for c, n in list(few.items())[:3]))  # fmt: skip
    out.append(Check("trials", "warn" if found.short else "ok", least, wanted, said))
    return out


def shown(text: str, limit: int = 60) -> str:
    """A name from a file as one harmless piece of a line: control characters and lone surrogates written out."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return plain if len(plain) <= limit else plain[: limit - 3] + "..."
