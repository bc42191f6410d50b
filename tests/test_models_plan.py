"""The plan of batches is a function of lengths and options, covers every row once, and wastes little."""

from __future__ import annotations

import random

import pytest

from gnomon.errors import UserError
from gnomon.models.batching import flatten, padding, plan


def _lengths(n=203, seed=0):
    draw = random.Random(seed)
    return [draw.randint(1, 300) for _ in range(n)]


def test_every_row_once_in_order_of_length():
    lengths = _lengths()
    rows = flatten(plan(lengths, batch_size=8, shard_rows=50))
    assert sorted(rows) == list(range(len(lengths)))
    assert rows == sorted(range(len(lengths)), key=lambda i: (lengths[i], i))


def test_shards_are_ranges_and_batches_never_cross_them():
    shards = plan(_lengths(), batch_size=8, shard_rows=50)
    assert [sum(map(len, shard)) for shard in shards] == [50, 50, 50, 50, 3]
    assert all(1 <= len(batch) <= 8 for shard in shards for batch in shard)


def test_a_token_budget_bounds_the_padded_size():
    lengths = _lengths()
    for shard in plan(lengths, batch_size=100, token_budget=1000):
        for batch in shard:
            assert len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= 1000


def test_padding_is_small_when_sorted():
    lengths = _lengths(400)
    assert padding(plan(lengths, 8), lengths) < 1.06
    unsorted = [[list(range(i, i + 8)) for i in range(0, 400, 8)]]
    assert padding(unsorted, lengths) > 1.5


def test_nothing_to_plan_and_bad_options():
    assert plan([]) == []
    for options in ({"batch_size": 0}, {"shard_rows": 0}, {"token_budget": 0}):
        with pytest.raises(UserError, match="at least 1"):
            plan([3], **options)
