"""Your own examples from a file: columns, how each target is graded, and mistakes named by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from task_files import jsonl, lines

from gnomon.errors import UserError
from gnomon.tasks.jsonl import Jsonl
from gnomon.tasks.splits import assign_splits


def refused(build) -> str:
    with pytest.raises(UserError) as raised:
        build()
    return str(raised.value)


def test_jsonl_columns(tmp_path: Path) -> None:
    examples = {e.id: e for e in Jsonl(path=str(jsonl(tmp_path))).examples()}
    assert examples["sky"].group == examples["grass"].group == "colors"
    assert examples["grass"].meta["source"] == "nature"
    assert examples["pick"].target == "apple"
    assert examples["index"].target == "hammer"
    assert examples["legs"].target == "8"


@pytest.mark.parametrize(("id_", "text", "label"), [
    ("sky", "It is blue.", True), ("sky", "Azure!", True), ("sky", "The sky is red", False), ("sky", "Red", False),
    ("sky", "I don't know", None),
    ("legs", "A spider has 8 legs.", True), ("legs", "eight", True), ("legs", "6", False),
    ("half", "The answer is 3.5.", True), ("half", "3.5001", False),
    ("half", "7/2", True), ("round", "Yes, it is.", True), ("round", "No", False), ("pick", "B", True),
    ("pick", "The answer is (C).", False),
    ("pick", "An apple is a fruit.", True), ("pick", "the chair", False), ("pick", "Hmm", None),
    ("index", "hammer", True), ("index", "A) hammer", True),
])  # fmt: skip
def test_jsonl_grades_by_what_the_target_is(id_: str, text: str, label: bool | None, tmp_path: Path) -> None:
    task = Jsonl(path=str(jsonl(tmp_path)))
    example = next(e for e in task.examples() if e.id == id_)
    assert task.grade(example, text).label is label, task.grade(example, text)


def test_jsonl_prompts_of_your_own_are_used_as_they_stand(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Say 5."}, {"role": "assistant", "content": "It is"}]
    path = lines(tmp_path / "a.jsonl", [{"prompt": "1 2 3 4", "target": "5"}, {"prompt": messages, "target": "5"}])
    examples = Jsonl(path=str(path), style="plain").examples()
    assert examples[0].prompt == "1 2 3 4"
    assert examples[1].prompt == tuple(messages)
    assert [e.id for e in examples] == ["jsonl:0", "jsonl:1"]
    assert "shots" in refused(lambda: Jsonl(path=str(path), shots=1).examples())


def test_jsonl_splits_are_carried(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl", [{"question": f"{i}?", "target": "5", "split": "fit" if i else "test"} for i in range(3)]
    )
    assert list(assign_splits(Jsonl(path=str(path)).examples()).values()) == ["test", "fit", "fit"]


@pytest.mark.parametrize(("record", "said"), [
    ({"target": "5"}, "neither prompt and question"), ({"question": "q", "prompt": "p", "target": "5"}, "both"),
    ({"question": "q"}, "no target"),
    ({"question": "q", "target": " "}, "no target"),
    ({"question": "q", "target": "x", "choices": ["a", "b"]}, "not among its choices"),
    ({"question": "q", "target": "a", "choices": ["a"]}, "two or more"),
    ({"question": "q", "target": "a", "choices": ["a", "A."]}, "read alike"),
    ({"question": "q", "target": "5", "difficulty": "hard"}, "finite number"),
    ({"question": "q", "target": "5", "split": "dev"}, "fit, tune or test"),
    ({"prompt": [{"role": "me", "content": "x"}], "target": "5"}, "neither text nor messages"),
    ({"question": "q", "target": "5", "id": "first"}, "has the id 'first'"),
    ({"question": "q", "target": "5", "difficulty": 2}, "no difficulty but others have"),
    ({"question": "q", "target": "..."}, "cannot be graded"),
])  # fmt: skip
def test_jsonl_mistakes_name_the_line(record: dict, said: str, tmp_path: Path) -> None:
    first = {"id": "first", "question": "What is 2 + 3?", "target": "5"}
    path = lines(tmp_path / "mine.jsonl", [first, record])
    text = refused(lambda: Jsonl(path=str(path)).examples())
    assert "mine.jsonl line" in text
    assert said in text


def test_jsonl_mode_choices_needs_choices(tmp_path: Path) -> None:
    assert "no choices" in refused(lambda: Jsonl(path=str(jsonl(tmp_path)), mode="choices").examples())
    assert "cannot be graded as number" in refused(
        lambda: Jsonl(path=str(jsonl(tmp_path)), grade_as="number").examples()
    )


def test_jsonl_columns_that_gnomon_writes_itself_are_kept_under_another_name(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"question": "What is 2 + 3?", "target": "5", "index": 77, "features": "many"}])
    meta = Jsonl(path=str(path)).examples()[0].meta
    assert (meta["own_index"], meta["index"], meta["own_features"]) == (77, 0, "many")
