"""The plan of batches: computed before any work, from the lengths and the options only.

Floating point depends on a row's neighbours (a longer neighbour moves it by about 3e-7 in float32), so the plan must
not depend on workers, free memory or calibration: the same plan then gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.errors import UserError

Batch = list[int]
Shard = list[Batch]


def plan(
    lengths: Sequence[int], batch_size: int = 8, shard_rows: int = 50, token_budget: int | None = None
) -> list[Shard]:
    """Cut the length-sorted rows into shards, and each shard into batches.

    Args:
        lengths: tokens of each row.
        batch_size: most rows in a batch.
        shard_rows: rows in a shard (the last may be smaller); a batch never crosses shards.
        token_budget: most padded tokens (longest row x rows) in a batch; a single longer row makes its own batch.

    Returns:
        shards of batches of row indices. Every row occurs once; rows are in order of (length, index), so the position
        of a row in the flattened plan is its `row` number, and shard i starts at row i * shard_rows.
    """
    for name, value in (("batch_size", batch_size), ("shard_rows", shard_rows)):
        if value < 1:
            raise UserError(f"{name} is {value}", "a whole number of at least 1")
    if token_budget is not None and token_budget < 1:
        raise UserError(f"token_budget is {token_budget}", "a whole number of at least 1, or none")
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    shards: list[Shard] = []
    for begin in range(0, len(order), shard_rows):
        batches: Shard = [[]]
        for row in order[begin : begin + shard_rows]:
            current = batches[-1]
            # rows come in ascending length, so this row is the longest of the batch it joins
            over = token_budget is not None and (len(current) + 1) * lengths[row] > token_budget
            if current and (len(current) >= batch_size or over):
                batches.append([row])
            else:
                current.append(row)
        shards.append(batches)
    return shards


def flatten(shards: Sequence[Shard]) -> list[int]:
    """The rows of a plan in their order: position in this list is the generation `row`."""
    return [row for shard in shards for batch in shard for row in batch]


def padding(shards: Sequence[Shard], lengths: Sequence[int]) -> float:
    """Padded tokens over real tokens: 1.0 is no waste."""
    padded = sum(len(batch) * max(lengths[row] for row in batch) for shard in shards for batch in shard)
    return padded / max(1, sum(lengths))
