"""Keyed Gumbel noise: a sample that depends on its name, not on the batch it is drawn in.

argmax(log p + g) with g standard Gumbel is a draw from p (Gumbel 1954; "Gumbel-max trick"). The noise of one token is
drawn by Philox (a counter-based generator), keyed by sha256 of (seed, example, sample, round, position), so it is the
same whatever the batch, the worker and the order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

Noise = Callable[[int, int], np.ndarray]


def gumbel(seed: int, example_id: str, sample: int, round: int, position: int, size: int) -> np.ndarray:
    """Standard Gumbel noise `[size]` float32 of one token: -log(-log u), u uniform on the open unit interval.

    Args:
        seed: the study's seed.
        example_id: the example's id.
        sample: which sample of the example, from 0.
        round: which round of an episode, from 0.
        position: which generated token, from 0.
        size: the vocabulary.
    """
    name = repr((int(seed), str(example_id), int(sample), int(round), int(position)))
    key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8")
    bits = np.random.Philox(key=key.astype(np.uint64)).random_raw((size + 1) // 2)
    # 24 bits a draw, centred in their cell: never 0 or 1, so both logarithms are finite
    draws = np.asarray(bits, dtype="<u8").view("<u4")[:size] >> np.uint32(8)
    uniform = (draws.astype(np.float64) + 0.5) / 2.0**24
    return (-np.log(-np.log(uniform))).astype(np.float32)


def noise(seed: int, names: Sequence[tuple[str, int, int]], size: int) -> Noise:
    """The `noise` argument of `Model.generate`: `names[row]` is (example_id, sample, round) of that row's prompt."""

    def draw(row: int, step: int) -> np.ndarray:
        example_id, sample, round = names[row]
        return gumbel(seed, example_id, sample, round, step, size)

    return draw
