"""Splits: whole groups, exact proportions, balanced difficulty, and stability when examples are added."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.tasks.splits import assign_splits, read_sizes
from gnomon.types import Example


def make(n: int, per_group: int = 1, hard: bool = True, split: str = "") -> list[Example]:
    rng = np.random.default_rng(3)
    levels = rng.normal(size=n)
    return [
        Example(
            f"e{i}-{k}", f"p{i}-{k}", "t", group=f"g{i}", difficulty=float(levels[i]) if hard else None, split=split
        )
        for i in range(n)
        for k in range(per_group)
    ]


def sizes_of(splits: dict[str, str]) -> Counter[str]:
    return Counter(splits.values())


@pytest.mark.parametrize("how", ["auto", "stratified", "hash"])
@pytest.mark.parametrize("per_group", [1, 3])
def test_groups_never_straddle_and_everything_is_placed(how: str, per_group: int) -> None:
    examples = make(200, per_group)
    splits = assign_splits(examples, "50/10/40", 0, how)  # type: ignore[arg-type]  # a parametrized literal
    assert set(splits) == {e.id for e in examples}
    assert set(splits.values()) == {"fit", "tune", "test"}
    of_group = defaultdict(set)
    for e in examples:
        of_group[e.group].add(splits[e.id])
    assert all(len(s) == 1 for s in of_group.values())


@pytest.mark.parametrize(
    ("n", "wanted"), [(100, (50, 10, 40)), (217, (108, 22, 87)), (10, (5, 1, 4)), (1000, (500, 100, 400))]
)
def test_stratified_percentages_are_as_exact_as_whole_groups_allow(n: int, wanted: tuple[int, int, int]) -> None:
    counts = sizes_of(assign_splits(make(n), "50/10/40"))
    assert all(abs(counts[s] - w) <= 1 for s, w in zip(("fit", "tune", "test"), wanted, strict=True))


def test_strata_hold_the_proportions_at_every_difficulty() -> None:
    examples = make(1000)
    splits = assign_splits(examples, "50/10/40", 5)
    ordered = sorted(examples, key=lambda e: e.difficulty or 0)
    for tenth in range(10):
        counts = Counter(splits[e.id] for e in ordered[100 * tenth : 100 * tenth + 100])
        assert abs(counts["fit"] - 50) <= 2
        assert abs(counts["tune"] - 10) <= 2
        assert abs(counts["test"] - 40) <= 2


def test_within_a_stratum_the_hash_decides() -> None:
    """With one difficulty for all, neither the order of the examples nor their place says where they go."""
    examples = [Example(f"e{i}", "p", "t", difficulty=1.0) for i in range(400)]
    splits = assign_splits(examples)
    assert splits == assign_splits(examples[::-1])
    assert splits != assign_splits(examples, seed=1)
    first = Counter(splits[e.id] for e in examples[:200])
    assert 70 <= first["fit"] <= 130


@pytest.mark.parametrize("seed", range(3))
def test_hash_is_stable_when_examples_are_added(seed: int) -> None:
    small, large = make(300, hard=False), make(900, hard=False)
    before, after = assign_splits(small, seed=seed), assign_splits(large, seed=seed)
    assert all(after[k] == v for k, v in before.items())
    counts = sizes_of(after)
    assert abs(counts["fit"] / 900 - 0.5) < 0.06
    assert abs(counts["tune"] / 900 - 0.1) < 0.04


def test_auto_is_stratified_only_where_difficulty_exists() -> None:
    assert assign_splits(make(50)) == assign_splits(make(50), how="stratified")
    assert assign_splits(make(50, hard=False)) == assign_splits(make(50, hard=False), how="hash")


@pytest.mark.parametrize("how", ["stratified", "hash"])
def test_counts_are_exact_and_the_rest_is_unused(how: str) -> None:
    counts = sizes_of(assign_splits(make(600), "300/60/200", 1, how))  # type: ignore[arg-type]  # a parametrized literal
    assert counts == {"fit": 300, "tune": 60, "test": 200, "": 40}


def test_counts_are_never_overfilled_by_groups() -> None:
    counts = sizes_of(assign_splits(make(100, 3), {"fit": 100, "tune": 50, "test": 101}))
    assert 98 <= counts["fit"] <= 100
    assert 48 <= counts["tune"] <= 50
    assert 99 <= counts["test"] <= 101


def test_given_splits_are_kept_and_may_not_straddle() -> None:
    examples = make(4, split="test")
    assert set(assign_splits(examples).values()) == {"test"}
    torn = [Example("a", "p", "t", group="g", split="fit"), Example("b", "q", "t", group="g", split="test")]
    with pytest.raises(UserError, match="straddles"):
        assign_splits(torn)


@pytest.mark.parametrize(
    "sizes",
    [
        "50/50",
        "50/10/40/0",
        "a/b/c",
        "-50/110/40",
        "",
        "0/0/0",
        {"fit": 50, "tune": 50},
        {"fit": 0.5, "tune": 0.1, "test": 0.4},
        {"fit": -1, "tune": 61, "test": 40},
    ],
)
def test_sizes_that_cannot_be_read(sizes: object) -> None:
    with pytest.raises(UserError):
        read_sizes(sizes)  # type: ignore[arg-type]  # the mistake under test


def test_sizes() -> None:
    assert read_sizes("50/10/40") == ((50, 10, 40), True)
    assert read_sizes("4500/500/500") == ((4500, 500, 500), False)
    assert read_sizes({"test": 40, "fit": 50, "tune": 10}) == ((50, 10, 40), True)


def test_impossible_sizes_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"600.*there are 500"):
        assign_splits(make(500), "400/100/100")
    with pytest.raises(UserError, match="2 groups cannot fill 3 splits"):
        assign_splits(make(2))
    with pytest.raises(UserError, match="can get"):
        assign_splits(make(3, 40), "40/5/40")
    with pytest.raises(UserError, match="no examples"):
        assign_splits([])
    with pytest.raises(UserError, match="difficulty"):
        assign_splits(make(30, hard=False), how="stratified")
