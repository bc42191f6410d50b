"""Prompts that ask for a program. A problem has words, tests that may be shown, and, for some sets, the beginning of
the function (`head`: imports, signature, docstring).

    plain        words, tests, instruction, "Solution:", and a fence that the model's program continues
    chat         [user] words, tests, instruction
    chat_prefix  [user] as chat  [assistant] ```python
    prefix       with a head: the head, whose body the model writes; without: a docstring of words and tests

A test stands in the prompt exactly as in the data set: those of MBPP begin with "assert" themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gnomon.tasks.prompts import Style
from gnomon.types import Prompt

SHOWN = "Your code should pass these tests:"
INSTRUCTION = "Write only the Python function, in one ```python block."
OPENING = "```python"


@dataclass(frozen=True)
class Problem:
    """What a prompt is built from. `solution` is the whole program that a worked example shows."""

    words: str
    tests: Sequence[str] = field(default_factory=tuple)
    head: str = ""
    solution: str = ""


def render(
    style: Style, problem: Problem, shots: Sequence[Problem] = (), instruction: str = "", system: str = ""
) -> Prompt:
    """The prompt of `problem` after worked examples, in a style; no text ends in a space."""
    if style == "plain":
        told = [f"{asked(p, instruction)}\n\nSolution:\n{OPENING}\n" for p in (*shots, problem)]
        return "\n\n".join([*(t + closed(p.solution) for t, p in zip(told, shots, strict=False)), told[-1]])
    if style == "prefix":
        begun = [begin(p) for p in (*shots, problem)]
        shown = [p.solution if p.head else b + p.solution for b, p in zip(begun, shots, strict=False)]
        return "\n\n\n".join([*(s.strip("\n") for s in shown), begun[-1]])
    messages = [{"role": "system", "content": system}] if system else []
    for shot in shots:
        messages.append({"role": "user", "content": asked(shot, instruction)})
        messages.append({"role": "assistant", "content": f"{OPENING}\n{closed(shot.solution)}"})
    messages.append({"role": "user", "content": asked(problem, instruction)})
    if style == "chat_prefix":
        messages.append({"role": "assistant", "content": OPENING})
    return tuple(messages)


def asked(problem: Problem, instruction: str) -> str:
    """The words, the head in a fence, the tests shown, and the instruction, parted by empty lines."""
    if problem.head:
        parts = [f"Complete this Python function:\n\n{OPENING}\n{problem.head.rstrip()}\n```"]
    else:
        parts = [problem.words]
    if problem.tests:
        parts.append(f"{SHOWN}\n{shown(problem)}")
    return "\n\n".join([*parts, instruction] if instruction else parts)


def begin(problem: Problem) -> str:
    """What the model continues in style prefix: the head, or a docstring above the function to be written."""
    if problem.head:
        return problem.head
    quoted = "\n".join([problem.words, *([shown(problem)] if problem.tests else [])])
    return '"""\n' + quoted.replace('"""', "'''") + '\n"""\n'


def shown(problem: Problem) -> str:
    """The tests as they stand in the prompt, one a line."""
    return "\n".join(problem.tests)


def closed(solution: str) -> str:
    return solution.strip("\n") + "\n```"
