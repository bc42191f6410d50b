"""Does a score know more than the baselines? One rule, from the increment and the partial correlation given them.

    yes         both intervals lie above 0
    no          the increment's ends below `smallest`, and the partial correlation's does not lie above 0
    undecided   else, and wherever there is no interval

Why both: of few rows, baselines are combined badly and a score that repeats them well adds to them; and a sparse
combination may leave out a score that knows a little more, whose increment then is 0 with an interval of no width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

SMALL = 0.02
"""An increment whose whole interval lies below this is none worth speaking of."""


def knows_more(
    gain: Mapping[str, Any] | None, partial: Mapping[str, Any] | None, smallest: float = SMALL, either: bool = False
) -> Literal["yes", "no", "undecided"]:
    """The rule for lines with `ci_low` and `ci_high`; `either`: the score may point either way, so that a partial
    correlation below 0 counts as one above."""
    if gain is None or partial is None:
        return "undecided"
    low, high = float(gain["ci_low"]), float(gain["ci_high"])
    if not np.isfinite([low, high, partial["ci_low"], partial["ci_high"]]).all():
        return "undecided"
    related = bool(partial["ci_low"] > 0 or (either and partial["ci_high"] < 0))
    if low > 0 and related:
        return "yes"
    return "no" if high < smallest and not related else "undecided"
