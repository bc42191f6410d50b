"""The plan of rows: which example is asked when, at which temperature, in which shard and batch.

It is made before any work, from data and options only, so workers, kills and resumes cannot change a byte (floating
point depends on a row's neighbours in its batch). rows = examples x temperatures x samples, in order of the prompt's
token length, then of the data set; `row` is the place in that order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gnomon.models.batching import plan
from gnomon.types import Example


@dataclass(frozen=True)
class Reused:
    """A label taken over from an earlier generation instead of this row's own grade."""

    label: bool | None
    reason: str
    source: str


@dataclass(frozen=True)
class Row:
    """One place in the plan. `tokens` are the prompt's ids (int32); `index` is the example's place in the data set."""

    row: int
    index: int
    example: Example
    tokens: np.ndarray
    sample: int = 0
    temperature: float = 0.0
    reused: Reused | None = None


Batch = list[Row]
Shard = list[Batch]


def lay_out(
    examples: Sequence[Example],
    tokens: Sequence[np.ndarray],
    temperatures: Sequence[float],
    samples: int,
    batch_size: int,
    shard_rows: int,
    stride: int = 1,
    places: Sequence[int] | None = None,
) -> list[Shard]:
    """Plan the rows: shards of batches; a batch never crosses shards.

    `tokens[i]` are the prompt ids of `examples[i]`. `stride` is how many row numbers each place takes: 1, or an
    episode's greatest number of rounds (round r of place p is row p * stride + r). `places[i]`: the place of
    `examples[i]` in the data set, where not all of it is asked.
    """
    rows = [
        Row(0, index, example, ids, sample, float(temperature))
        for index, (example, ids) in zip(
            range(len(examples)) if places is None else places, zip(examples, tokens, strict=True), strict=True
        )
        for temperature in temperatures
        for sample in range(samples)
    ]
    shards = plan([len(row.tokens) for row in rows], batch_size, shard_rows)
    out: list[Shard] = []
    place = 0
    for shard in shards:
        batches: Shard = []
        for batch in shard:
            batches.append([replace(rows[i], row=(place + k) * stride) for k, i in enumerate(batch)])
            place += len(batch)
        out.append(batches)
    return out


def environment_seed(seed: int, example_id: str, sample: int) -> int:
    """Seed of an episode's environment, 0 to 2**63 - 1: keyed like the sampling noise, with a key of its own.

    Neither the temperature nor the condition is part of it: conditions are compared on the same environments.
    """
    name = repr(("environment", int(seed), str(example_id), int(sample)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
