"""The laws of a task hold for everything registered; and a task that breaks one is found out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from code_files import humaneval, mbpp
from fences import level
from task_files import camel_math, camel_zip, choice, gsm8k, jsonl, mawps, svamp

from gnomon.errors import UserError
from gnomon.tasks import TASKS
from gnomon.tasks.code import CodeTask
from gnomon.tasks.contract import check_task
from gnomon.tasks.make import make_task
from gnomon.tasks.sums import Sums
from gnomon.types import Example, Grade

CASES: dict[str, tuple[dict[str, Any], Callable[[Path], Path] | None]] = {
    "capitals": ({}, None),
    "capitals all": ({"paraphrases": 4, "territories": True}, None),
    "capitals own": ({"templates": "Tell me {country}'s capital!|{country} is ruled from"}, None),
    "capitals_choice": ({}, None),
    "capitals_choice letters": ({"scoring": "letters", "rotations": 3, "style": "chat", "paraphrases": 2}, None),
    "elements_choice": ({}, None),
    "elements_choice shown": ({"ask": ["number", "name"], "show_options": True, "distractors": 5}, None),
    "elements_choice generate": ({"mode": "generate", "style": "plain"}, None),
    "choice": ({}, choice),
    "choice letters": ({"scoring": "letters", "rotations": 4, "distractors": 2}, choice),
    "risky_choice": ({"sure": "always"}, None),
    "risky_choice both": ({"outcomes": "both", "sure": "always", "rotations": 2, "style": "chat"}, None),
    "slot_machine": ({}, None),
    "slot_machine every": ({"components": "every", "bets": "both", "rounds": 3}, None),
    "slot_machine once": ({"components": "all", "bets": "fixed", "mode": "generate"}, None),
    "sums": ({}, None),
    "sums formats": ({"digits": "1-3", "formats": ["symbol", "words", "question", "spelled"]}, None),
    "sums few": ({"digits": "1", "terms": 3}, None),
    "products": ({}, None),
    "products uneven": ({"digits": "3x1", "style": "plain"}, None),
    "logic": ({}, None),
    "logic choices": ({"kind": "mixed", "mode": "choices"}, None),
    "logic syllogism": ({"kind": "syllogism", "depth": "1-2"}, None),
    "gsm8k": ({}, gsm8k),
    "gsm8k train": ({"split": "train", "style": "chat_prefix"}, gsm8k),
    "svamp": ({"steps": False}, svamp),
    "mawps": ({}, mawps),
    "mbpp": ({}, mbpp),
    "mbpp sanitized": ({"sanitized": True, "style": "prefix", "tests_shown": 1}, mbpp),
    "humaneval": ({}, humaneval),
    "functions": ({}, None),
    "functions chat": ({"style": "chat", "tests_shown": 1}, None),
    "camel_math": ({}, camel_math),
    "camel_math zip": ({"topics": ["Algebra"]}, lambda folder: camel_zip(folder / "math.zip")),
    "jsonl": ({}, jsonl),
    "reasoning_gym:leg_counting": ({}, None),
    "reasoning_gym:spell_backward": ({"style": "plain"}, None),
    "reasoning_gym:propositional_logic": ({}, None),
}


def test_every_registered_task_has_a_case() -> None:
    assert {name.split()[0].split(":")[0] for name in CASES} == set(TASKS)


@pytest.mark.parametrize("case", CASES)
def test_contract(case: str, tmp_path: Path) -> None:
    options, files = CASES[case]
    name = case.split()[0]
    if name.startswith("reasoning_gym") and importlib.util.find_spec("reasoning_gym") is None:
        with pytest.raises(UserError, match=r"gnomon\[reasoning\]"):
            make_task(name).examples(1)
        return
    if files is not None:
        options = options | {"path": str(files(tmp_path))}
    task = make_task({name: options})
    if isinstance(task, CodeTask) and not level():
        pytest.skip("this machine cannot fence programs")
    assert check_task(task, n=12) == []


class Broken(Sums):
    """Sums with one fault, chosen by `fault`."""

    name: ClassVar[str] = "broken"
    fault: str = ""
    """Which law to break."""

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        examples = super().examples(n, seed)
        changed = {
            "ids": lambda e, i: replace(e, id="same"),
            "random": lambda e, i: replace(e, meta={**e.meta, "at": id(e)}),
            "twins": lambda e, i: replace(e, prompt="one prompt"),
            "blank": lambda e, i: replace(e, prompt="What is it? "),
            "empty": lambda e, i: replace(e, prompt="  "),
            "roles": lambda e, i: replace(e, prompt=({"role": "robot", "content": "hi"},)),
            "target": lambda e, i: replace(e, target=str(int(e.target) + 1)) if i == 2 else e,
            "meta": lambda e, i: replace(e, meta={**e.meta, "set": {1}}),
            "choices": lambda e, i: replace(e, choices=("1", "1")),
            "shots": lambda e, i: replace(e, meta={**e.meta, "shots": [e.id, "x"]}) if self.shots else e,
        }.get(self.fault, lambda e, i: e)
        return [changed(e, i) for i, e in enumerate(examples)]

    def grade(self, example: Example, text: str) -> Grade:
        grade = super().grade(example, text)
        if self.fault == "target":
            return Grade(str(sum(example.meta["operands"])) in text, text or "-", "", (0, len(text)))
        if self.fault == "generous" and grade.label is not None:
            return replace(grade, label=True)
        if self.fault == "guess":
            return Grade(bool(grade.label), grade.answer, grade.reason, grade.span)
        if self.fault == "span" and grade.span:
            return replace(grade, span=(grade.span[0], grade.span[1] + 1))
        return grade

    def baselines(self, example: Example) -> dict[str, float]:
        return super().baselines(example) | ({example.id: 1.0} if self.fault == "baselines" else {})


FAULTS = {
    "ids": "two examples have the id", "random": "two calls", "twins": "but different groups",
    "blank": "ends in a space",
    "empty": "empty prompt", "roles": "roles", "target": "is graded False", "meta": "not plain data",
    "choices": "repeat or lack",
    "generous": "near miss", "guess": "it holds no answer",
    "span": "does not cover", "baselines": "different names", "shots": "is shown itself",
}  # fmt: skip


def test_an_unbroken_task_has_no_faults() -> None:
    assert check_task(Broken(), n=6) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    problems = check_task(Broken(fault=fault), n=6)
    assert any(FAULTS[fault] in problem for problem in problems), problems


def test_something_else_is_no_task() -> None:
    assert "lacks" in check_task(object())[0]


def test_a_users_own_task_is_built_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_riddles.py").write_text(
        "from gnomon.tasks.sums import Sums\n\n\nclass Riddles(Sums):\n    name = 'riddles'\n"
    )
    monkeypatch.chdir(tmp_path)
    task = make_task({"my_riddles:Riddles": {"digits": 1}})
    assert task.name == "riddles"
    assert check_task(task, n=6) == []
