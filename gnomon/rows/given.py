"""What a finding about right and wrong must add to: difficulty and output confidence, unless others are named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gnomon.methods.baselines import Columns, choose, columns

GIVEN = ("difficulty", "max_prob", "entropy", "margin", "mean_logprob")


def given_columns(table: pd.DataFrame, names: Sequence[str] | None) -> Columns:
    """The named columns of a generations table, `[n]` each, or those of GIVEN that it has; constant ones are left out.

    Where none is left: one constant column, over which a score adds all that it knows. UserError for an unknown name.
    """
    offered = columns(table)
    wanted = names if names is not None else tuple(n for n in GIVEN if n in offered)
    return choose(offered, wanted, "", True)[0] or {"a constant": np.zeros(len(table))}
