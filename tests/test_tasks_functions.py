"""The embedded problems: every reference is proved by its tests, and every test by a mutant that fails it."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from types import FrameType
from typing import Any

import pytest
from code_files import Plain

from gnomon.tasks.code_mutants import mutants
from gnomon.tasks.functions import Functions, wrong
from gnomon.tasks.functions_data import functions, read
from gnomon.tasks.splits import assign_splits

STEPS = 3_000
"""Lines that a program may run for one test: a mutant that runs on fails it."""


def passes(program: str, tests: tuple[str, ...]) -> list[bool]:
    """Which of the tests a program passes; only our own programs are run here."""
    left = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise TimeoutError
        return count

    space: dict[str, Any] = {}
    exec(program, space)
    out = []
    before = sys.gettrace()
    for test in tests:
        left = STEPS
        sys.settrace(count)
        try:
            exec(test, space)
            out.append(True)
        except Exception:
            out.append(False)
        finally:
            sys.settrace(before)
    return out


def test_there_are_many_and_they_differ() -> None:
    every = functions()
    assert len(every) >= 350
    assert len({f.group for f in every}) >= 250
    assert max(Counter(f.group for f in every).values()) <= 4
    assert len({f.name for f in every}) == len(every)
    assert len({f.words for f in every}) == len(every), "no two problems are told alike"
    for f in every:
        assert len(f.tests) >= 4, f.name
        assert len(set(f.tests)) == len(f.tests), f.name
        assert f.name.isidentifier()
        assert '"""' not in f.words
        assert f.words[-1] in ".:", f.name
        assert isinstance(ast.parse(f.reference).body[0], ast.FunctionDef)


def test_every_reference_passes_and_every_test_fails_a_mutant() -> None:
    alive, made = 0, 0
    for f in functions():
        assert all(passes(f.reference, f.tests)), f.name
        results = [passes(m, f.tests) for m in mutants(f.reference)]
        assert results, f.name
        for test, *seen in zip(f.tests, *results, strict=True):
            assert not all(seen), f"no mutant fails {test}"
        assert not all(passes(wrong(f), f.tests)), f"the wrong body of {f.name} passes"
        assert wrong(f).startswith(f'def {f.signature}:\n    """{f.words}"""\n')
        alive += sum(map(all, results))
        made += len(results)
    assert made > 1500
    assert alive / made < 0.03, "mutants that pass are few, and such as mean the same"


def test_the_fault_of_a_reference_is_noticed() -> None:
    f = next(f for f in functions() if f.name == "factorial")
    assert passes(f.reference.replace("*=", "+="), f.tests) == [False, True, True, False]
    assert passes("def factorial(n):\n    while True:\n        n += 1\n", f.tests) == [False] * 4


def test_mutants_are_single_changes() -> None:
    made = mutants("def f(x):\n    '''Doc.'''\n    return x + 1 if x < 3 else None\n")
    bodies = {m.split('"""')[-1].strip() for m in made}
    assert bodies == {
        "return x - 1 if x < 3 else None", "return x + 2 if x < 3 else None", "return x + 1 if x <= 3 else None",
        "return x + 1 if x < 4 else None", "return x + 1 if x < 3 else 0", "return None if x < 3 else x + 1",
        "return None",
    }  # fmt: skip
    assert all('"""Doc."""' in m for m in made)


def test_the_prompt_is_signature_and_docstring() -> None:
    examples = {e.meta["entry"]: e for e in Functions().examples()}
    add = examples["add"]
    assert add.prompt == 'def add(a, b):\n    """Return the sum of a and b."""'
    assert add.target == 'def add(a, b):\n    """Return the sum of a and b."""\n    return a + b\n'
    assert add.meta["parts"] == {"problem": "Return the sum of a and b.", "tests": ""}
    assert add.meta["tests"] == ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 1) == 0",
                                 "assert add(10, 5) == 15"]  # fmt: skip
    assert (Functions().max_new_tokens, "\ndef " in Functions().stop, "\n```" in Functions().stop) == (96, True, True)
    shown = {e.meta["entry"]: e for e in Functions(tests_shown=1).examples()}["add"]
    assert shown.prompt == ('def add(a, b):\n    """Return the sum of a and b.\n\n    assert add(1, 2) == 3\n    """')
    assert shown.meta["parts"]["tests"] == "assert add(1, 2) == 3"
    chat = {e.meta["entry"]: e for e in Functions(style="chat").examples()}["add"].prompt
    assert chat[0] == {
        "role": "user",
        "content": 'Complete this Python function:\n\n```python\ndef add(a, b):\n    """Return the sum of a and b."""\n'
        "```\n\nWrite only the Python function, in one ```python block.",
    }


def test_difficulty_splits_into_strata_and_groups_stay_together() -> None:
    examples = Functions().examples()
    assert len({e.difficulty for e in examples}) > 100
    assert max(e.difficulty or 0 for e in examples) > 5
    split = assign_splits(examples, "50/10/40", seed=0)
    counts = Counter(split.values())
    assert abs(counts["fit"] / len(examples) - 0.5) < 0.03
    assert abs(counts["test"] / len(examples) - 0.4) < 0.03
    for group in {e.group for e in examples}:
        assert len({split[e.id] for e in examples if e.group == group}) == 1
    means = {s: sum(e.difficulty or 0 for e in examples if split[e.id] == s) / counts[s] for s in ("fit", "test")}
    assert means["fit"] == pytest.approx(means["test"], abs=0.25)


def test_easy_problems_can_be_had_alone() -> None:
    kept = Functions(max_complexity=1).examples()
    assert 150 < len(kept) < len(functions())
    assert {e.meta["features"]["complexity"] for e in kept} == {1.0}
    assert len(Functions(max_complexity=2).examples()) > len(kept)


def test_bodies_are_graded_as_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Plain()
    monkeypatch.setattr(Functions, "sandbox", lambda self: box)
    task = Functions()
    add = next(e for e in task.examples() if e.meta["entry"] == "add")
    right = task.grade(add, "\n    return b + a\n```\n\nIt adds.")
    assert (right.label, right.answer) == (True, "    return b + a")
    assert box.asked[-1]["code"] == f"{add.prompt}\n    return b + a\n"
    assert right.meta["code"] == box.asked[-1]["code"]
    assert task.grade(add, "\n    return a - b").label is False
    assert task.grade(add, "\n\nThis function adds.").label is None


def test_a_block_out_of_the_notation_is_refused() -> None:
    for block in (
        "f(x) Return x.\n    return x\n1 -> 1",
        "f(x) | Return x.\n1 -> 1",
        "f(x) | Go.\n    return x\n1 = 1",
    ):
        with pytest.raises(ValueError, match="not a problem"):
            list(read(block))
