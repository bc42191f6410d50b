"""Random latents that are used as much as given ones: what a claim about a latent has to be compared with.

Distance of two latents: |log rate - log rate'| + |log mean - log mean'|, rate the share of rows in which a latent is
active and mean its mean activation there. Each stand-in is drawn among the nearest, none of the given ones is drawn,
and no latent stands twice for the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gnomon.errors import UserError

NEAREST = 30


def active_facts(latents: np.ndarray, floor: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """(share of rows in which each latent is active, its mean activation there; 0 where never), `[n]` each, of
    `latents [rows, n]`."""
    on = np.asarray(latents) > floor
    count = on.sum(axis=0)
    total = np.where(on, latents, 0.0).sum(axis=0, dtype=np.float64)
    return count / max(len(on), 1), np.divide(total, count, out=np.zeros(len(count)), where=count > 0)


def stand_ins(
    rate: np.ndarray, mean: np.ndarray, chosen: Sequence[int], draws: int, seed: int | Sequence[int],
    nearest: int = NEAREST,
) -> np.ndarray:  # fmt: skip
    """For each of `chosen` (latent numbers) `draws` other latents of like rate and mean: `[len(chosen), draws]`.

    UserError where a chosen one never fires, or the dictionary has fewer than `draws` others that do.
    """
    rate, mean = np.asarray(rate, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    rng = np.random.default_rng(seed)
    pool = np.setdiff1d(np.flatnonzero(rate > 0), np.asarray(chosen, dtype=np.int64))
    if len(pool) < draws:
        raise UserError(f"{len(pool)} other latents are ever active", f"{draws} to stand for each", "lower controls")
    out = np.zeros((len(chosen), draws), dtype=np.int64)
    for i, latent in enumerate(chosen):
        if rate[latent] <= 0:
            raise UserError(f"latent {latent} is active in no row", "one that fires: nothing is like it")
        far = np.abs(np.log(rate[pool] / rate[latent])) + np.abs(np.log(mean[pool] / mean[latent]))
        near = pool[np.argsort(far, kind="stable")[: max(nearest, draws)]]
        out[i] = rng.choice(near, size=draws, replace=False)
    return out
