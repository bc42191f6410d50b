"""Simulated latents of questions, for tests of the search: sparse, some of them alike, some planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from gnomon.methods.feature_heldout import confirm, parts_of
from gnomon.methods.feature_search import Search
from gnomon.methods.probing import Options, Problem


def latents(rng: np.random.Generator, n: int, k: int, low: float = 0.02, high: float = 0.4) -> np.ndarray:
    """`[n, k]` float32: each latent has its own firing rate; active values are exponential."""
    rate = np.exp(rng.uniform(np.log(low), np.log(high), size=k))
    return ((rng.random((n, k)) < rate) * rng.exponential(size=(n, k))).astype(np.float32)


def problem(y: np.ndarray, split: np.ndarray, groups: np.ndarray | None = None, **offered: np.ndarray) -> Problem:
    n = len(y)
    groups = np.arange(n) if groups is None else groups
    difficulty = np.asarray(offered.get("difficulty", np.full(n, np.nan)), dtype=np.float64)
    return Problem(np.arange(n), y.astype(np.float64), groups.astype(str), split, difficulty, dict(offered))


def splits(n: int, rng: np.random.Generator, shares: tuple[float, float, float] = (0.5, 0.1, 0.4)) -> np.ndarray:
    order = np.repeat(["fit", "tune", "test"], np.diff(np.round(np.cumsum([0, *shares]) * n)).astype(int))
    return rng.permutation(order)


def searched(of: Problem, sites: dict[str, np.ndarray], options: Options | None = None, **more: Any) -> Search:
    """The search over `sites` (name -> `[n, k]`), none set aside by general text unless `general` says so."""
    options = options or Options(permutations=199, nested_below=0, draws=200)
    top, general = more.pop("top", 3), more.pop("general", {})
    search = Search(parts_of(of, options, top)[0], of.groups, seed=options.seed, **more)
    for name, values in sites.items():
        rate = general.get(name, np.full(values.shape[1], np.nan))
        search.add(name, sparse.csr_array(values), np.arange(len(values)), rate, np.ones(values.shape[1], dtype=bool))
    return search


def two_stages(of: Problem, sites: dict[str, np.ndarray], options: Options | None = None, **more: Any) -> pd.DataFrame:
    """Table `selected`."""
    options = options or Options(permutations=199, nested_below=0, draws=200)
    search = searched(of, sites, options, **more)
    return confirm(of, search, np.arange(len(of.y)), search.discovery(), options)
