"""Tiny files in the layouts of the public sets of programs, written for the tests, and a grader without a fence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from task_files import lines

WORDS = ("Double", "Triple", "Square", "Negate", "Halve", "Next", "Before", "Tenfold", "Absolute", "Sign", "Even",
         "Odd", "Digits", "Last")  # fmt: skip
BODIES = ("2 * x", "3 * x", "x * x", "-x", "x // 2", "x + 1", "x - 1", "10 * x", "abs(x)", "(x > 0) - (x < 0)",
          "x % 2 == 0", "x % 2 == 1", "len(str(x))", "x % 10")  # fmt: skip


def problems() -> list[tuple[int, str, str, str, list[str]]]:
    """(task_id, words, entry, code, tests) of problems in each of MBPP's splits: 1-4, 11-18, 511, 601."""
    ids = [1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 17, 18, 511, 601]
    made = []
    for key, word, body in zip(ids, WORDS, BODIES, strict=True):
        entry = word.lower()
        tests = [
            f"assert {entry}({x}) == {eval(body, {'x': x, 'abs': abs, 'len': len, 'str': str})!r}" for x in (3, 7, 10)
        ]
        made.append(
            (
                key,
                f"Write a function to get the {entry} of a number.",
                entry,
                f"def {entry}(x):\n\treturn {body}",
                tests,
            )
        )
    return made


def mbpp(folder: Path) -> Path:
    """A folder with both layouts; the full one has Windows line ends, and the sanitized one lacks two problems."""
    full = [
        {"text": words, "code": code.replace("\n", "\r\n"), "task_id": key, "test_setup_code": "", "test_list": tests,
         "challenge_test_list": [f"assert {entry}(0) == {entry}(0)"] if key == 11 else []}
        for key, words, entry, code, tests in problems()
    ]  # fmt: skip
    checked = [
        {"source_file": "a.ipynb", "task_id": key, "prompt": words.replace("a number", "the given number"),
         "code": code, "test_imports": ["import math"] if key == 12 else [], "test_list": tests}
        for key, words, _, code, tests in problems() if key not in (2, 13)
    ]  # fmt: skip
    lines(folder / "mbpp.jsonl", full)
    lines(folder / "sanitized-mbpp.jsonl", checked)
    (folder / "README.md").write_text("not data")
    return folder


def humaneval(folder: Path) -> Path:
    """A file in HumanEval's layout: two functions, one with an import and a helper before it."""
    heads = (
        "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n"
        '    """ Add up the numbers.\n    >>> total([1, 2])\n    3\n    """\n',
        "def helper(x):\n    return x + 1\n\n\ndef after(x):\n    '''\n    Give the next number.\n    '''\n    ",
    )
    solutions = ("    return sum(xs)\n", "return helper(x)\n")
    tests = (
        "\n\nMETADATA = {}\n\n\ndef check(candidate):\n"
        "    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
        "def check(candidate):\n    for x in range(3):\n        assert candidate(x) == x + 1\n",
    )
    records = [
        {"task_id": f"HumanEval/{i}", "prompt": heads[i], "canonical_solution": solutions[i], "test": tests[i],
         "entry_point": ("total", "after")[i]}
        for i in range(2)
    ]  # fmt: skip
    return lines(folder / "HumanEval.jsonl", records)


@dataclass
class Verdict:
    verdict: str
    reason: str = ""
    cpu_s: float = 0.0
    stderr: str = ""
    level: str = "fake"


class Plain:
    """Stands for the sandbox: runs trusted programs here and now, and remembers what it was asked."""

    def __init__(self, verdict: Verdict | None = None) -> None:
        self.asked: list[dict] = []
        self.verdict = verdict

    def grade(self, code: str, tests: str | list[str], entry: str | None = None, setup: str = "") -> Verdict:
        self.asked.append(json.loads(json.dumps({"code": code, "tests": tests, "entry": entry, "setup": setup})))
        if self.verdict is not None:
            return self.verdict
        return run(code, [tests] if isinstance(tests, str) else tests, entry, setup)


def run(code: str, tests: list[str], entry: str | None = None, setup: str = "") -> Verdict:
    """Run a trusted program and its tests in this process."""
    space: dict = {"__name__": "program"}
    try:
        exec(code, space)
        exec(setup, space)
        for test in tests:
            exec(test, space)
        if entry is not None:
            space["check"](space[entry])
    except Exception as error:
        return Verdict("fail", type(error).__name__)
    return Verdict("pass")
