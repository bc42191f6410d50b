"""generate.only: the splits are those of the whole data set, whichever of them are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.step import ModelSpec, Planning
from gnomon.steps.generate import Generate
from tests.stepping import made
from tests.tiny import tiny_folder

N = 22


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def spec() -> ModelSpec:
    return ModelSpec(str(tiny_folder("llama")), device="cpu")


def letters(**options: Any) -> Generate:
    return Generate(task="own_tasks:Letters", **{"n": N, "shard_rows": 10, "batch_size": 4, **options})


@pytest.mark.parametrize("how", ["stratified", "hash"])
def test_rows_are_those_of_the_whole_generation_in_the_same_splits(tmp_path, how):
    every = made(letters(split_by=how), tmp_path, spec(), "every").table("generations").set_index("example_id")
    for only in (["test"], ["fit", "tune"], "tune"):
        some = made(letters(split_by=how, only=only), tmp_path, spec(), f"some {only}").table("generations")
        asked = [only] if isinstance(only, str) else only
        assert set(some["example_id"]) == set(every.index[every["split"].isin(asked)])
        assert 0 < len(some) < N
        same = every.loc[some["example_id"]]
        for column in ("split", "example_index", "group", "prompt_hash", "text", "target"):
            assert some[column].tolist() == same[column].tolist(), column
        assert [v is True for v in some["label"]] == [v is True for v in same["label"]]
        assert some["row"].tolist() == list(range(len(some)))  # rows are numbered anew: axis 0 of this step's arrays


def test_samples_at_higher_temperatures_are_those_of_a_run_over_everything(tmp_path):
    hot = {"temperatures": [0.6, 1.2], "samples": 2}
    keys = ["example_id", "temperature", "sample"]
    every = made(letters(**hot), tmp_path, spec(), "every").table("generations").set_index(keys).sort_index()
    some = made(letters(only="test", **hot), tmp_path, spec(), "some").table("generations").set_index(keys)
    assert len(some) == 4 * some.index.get_level_values(0).nunique()
    assert every.loc[some.index, "text"].tolist() == some["text"].tolist()


def test_the_cost_and_the_plan_follow(tmp_path):
    step = letters(only="test", capture={"sites": "resid_post.*", "positions": ["last_prompt"]}, samples=2)
    plan = Planning(spec(), 0, {})
    step.check(plan)
    cost, whole = step.cost(plan), letters(samples=2).cost(plan)
    table = made(step, tmp_path, spec()).table("generations")
    assert cost.rows == len(table) == cost.splits["test"] == whole.splits["test"]
    assert cost.splits == {"fit": 0, "tune": 0, "test": len(table)}
    assert cost.prompt_tokens == table["prompt_len"].sum() < whole.prompt_tokens


def test_choices_and_appended_rows_keep_their_numbers(tmp_path):
    pick = Generate(task="own_tasks:Pick", n=N, only=["tune", "test"], split_by="hash")
    chosen = made(pick, tmp_path, spec(), "chosen").table("generations")
    assert set(chosen["split"]) == {"tune", "test"}
    assert all(len(s) == len(c) for s, c in zip(chosen["scores"], chosen["choices"], strict=True))
    first = made(letters(n=9, split_by="hash"), tmp_path, spec(), "first")
    both = made(letters(only="test", split_by="hash", append="first"), tmp_path, spec(), "both", named={"first": first})
    table = both.table("generations")
    assert table.groupby("example_index")["example_id"].nunique().max() == 1
    assert table["row"].tolist() == list(range(len(table)))


def test_asking_everything_is_the_same_generation_as_before_and_a_part_of_it_another():
    assert "only" not in letters().identity()
    assert letters(only="test").identity()["only"] == ["test"]
    assert letters(only="test").identity() != letters(only="fit").identity()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"only": []}, "own questions"), ({"task": None, "append": ["a"], "only": "test"}, "own questions")],
)
def test_only_of_nothing_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        letters(**options) if "task" not in options else Generate(**options)


def test_a_split_without_questions_is_refused_with_the_counts():
    step = letters(splits="60/0/40", only="tune")
    with pytest.raises(UserError, match=r"leaves no question to ask.*0 in tune"):
        step.check(Planning(spec(), 0, {}))
    with pytest.raises(Exception, match="tst"):
        letters(only="tst")


def test_a_seed_changes_splits_of_both_alike(tmp_path):
    every = made(letters(), tmp_path, spec(), "every", seed=3).table("generations")
    some = made(letters(only="test"), tmp_path, spec(), "some", seed=3).table("generations")
    assert set(some["example_id"]) == set(every.loc[every["split"] == "test", "example_id"])
    assert np.array_equal(np.sort(some["example_index"]), np.sort(every.loc[every["split"] == "test", "example_index"]))
