"""Prompts that ask for programs, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from code_files import mbpp

from gnomon.tasks.code_prompts import Problem, render
from gnomon.tasks.mbpp import Mbpp

ASKED = (
    "Write a function to get the halve of a number.\n\n"
    "Your code should pass these tests:\n"
    "assert halve(3) == 1\nassert halve(7) == 3\nassert halve(10) == 5\n\n"
    "Write only the Python function, in one ```python block."
)


def user(prompt: Any) -> str:
    """The only message's text."""
    (message,) = prompt
    assert message["role"] == "user"
    return message["content"]


def first(tmp_path: Path, **options):
    return Mbpp(path=str(mbpp(tmp_path)), **options).examples()[0]


def test_chat(tmp_path: Path) -> None:
    assert first(tmp_path).prompt == ({"role": "user", "content": ASKED},)


def test_chat_prefix(tmp_path: Path) -> None:
    prompt = first(tmp_path, style="chat_prefix", system="Be brief.").prompt
    assert prompt == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "```python"},
    )


def test_plain(tmp_path: Path) -> None:
    assert first(tmp_path, style="plain").prompt == ASKED + "\n\nSolution:\n```python\n"


def test_prefix(tmp_path: Path) -> None:
    assert first(tmp_path, style="prefix").prompt == (
        '"""\nWrite a function to get the halve of a number.\n'
        'assert halve(3) == 1\nassert halve(7) == 3\nassert halve(10) == 5\n"""\n'
    )


def test_tests_shown_and_instruction(tmp_path: Path) -> None:
    prompt = first(tmp_path, tests_shown=1, instruction="Code only.").prompt
    assert user(prompt) == (
        "Write a function to get the halve of a number.\n\nYour code should pass these tests:\n"
        "assert halve(3) == 1\n\nCode only."
    )
    none = first(tmp_path, tests_shown=0, instruction="").prompt
    assert user(none) == "Write a function to get the halve of a number."


@pytest.mark.parametrize("style", ["plain", "chat", "prefix", "chat_prefix"])
@pytest.mark.parametrize("shots", [0, 2])
def test_no_assert_is_doubled_and_parts_stand_in_the_prompt(tmp_path: Path, style: str, shots: int) -> None:
    for example in Mbpp(path=str(mbpp(tmp_path)), style=style, shots=shots).examples():  # type: ignore[arg-type]
        prompt = example.prompt if isinstance(example.prompt, str) else "".join(m["content"] for m in example.prompt)
        assert "assert assert" not in prompt
        assert prompt.count("assert ") == 3 * (shots + 1)
        assert prompt.count(example.meta["parts"]["problem"]) == 1
        assert prompt.count(example.meta["parts"]["tests"]) == 1
        assert example.meta["parts"]["tests"] == "\n".join(example.meta["tests"])


def test_worked_examples_in_every_style() -> None:
    shot = Problem("Add one.", ["assert f(1) == 2"], solution="def f(x):\n    return x + 1\n")
    asked = Problem("Add two.", ["assert g(1) == 3"])
    told = "Add one.\n\nYour code should pass these tests:\nassert f(1) == 2\n\nGo."
    tell = "Add two.\n\nYour code should pass these tests:\nassert g(1) == 3\n\nGo."
    answer = "```python\ndef f(x):\n    return x + 1\n```"
    assert render("plain", asked, [shot], "Go.") == (
        f"{told}\n\nSolution:\n{answer}\n\n{tell}\n\nSolution:\n```python\n"
    )
    assert render("chat", asked, [shot], "Go.") == (
        {"role": "user", "content": told}, {"role": "assistant", "content": answer}, {"role": "user", "content": tell},
    )  # fmt: skip
    assert render("prefix", asked, [shot], "Go.") == (
        '"""\nAdd one.\nassert f(1) == 2\n"""\ndef f(x):\n    return x + 1\n\n\n"""\nAdd two.\nassert g(1) == 3\n"""\n'
    )


def test_a_begun_function() -> None:
    shot = Problem("", (), 'def f(x):\n    """One."""\n', 'def f(x):\n    """One."""\n    return 1\n')
    asked = Problem("", (), 'def g(x):\n    """Two."""\n')
    assert render("prefix", asked, [shot], "Go.") == (
        'def f(x):\n    """One."""\n    return 1\n\n\ndef g(x):\n    """Two."""\n'
    )
    assert user(render("chat", asked, [], "Go.")) == (
        'Complete this Python function:\n\n```python\ndef g(x):\n    """Two."""\n```\n\nGo.'
    )
