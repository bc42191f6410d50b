"""A stated bound and an interval: pass, fail or undecided. One rule for criteria of a study file and goals of a step.

at_least b   pass: low >= b    fail: high < b        above b   pass: low > b    fail: high <= b
at_most b    pass: high <= b   fail: low > b         below b   pass: high < b   fail: low >= b
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

RULES: Mapping[str, tuple[str, Callable[[float, float, float], bool], Callable[[float, float, float], bool]]] = {
    "at_least": ("≥", lambda low, high, b: low >= b, lambda low, high, b: high < b),
    "above": (">", lambda low, high, b: low > b, lambda low, high, b: high <= b),
    "at_most": ("≤", lambda low, high, b: high <= b, lambda low, high, b: low > b),
    "below": ("<", lambda low, high, b: high < b, lambda low, high, b: low >= b),
}


def verdict(bounds: Mapping[str, float], low: float, high: float) -> str:
    """`pass` where the whole interval meets every bound, `fail` where it misses one as a whole, else `undecided`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "undecided"
    if any(RULES[name][2](low, high, bound) for name, bound in bounds.items()):
        return "fail"
    return "pass" if all(RULES[name][1](low, high, bound) for name, bound in bounds.items()) else "undecided"
