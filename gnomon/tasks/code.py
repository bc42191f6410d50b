"""What the tasks that ask for a program share: prompts, the program read from a text, grading in the sandbox.

A program is right when it passes every test. A failed test, too much time and too much memory are wrong; where the
sandbox could not judge (blocked, unsupported, infra), and where a text holds no program, there is no label.
"""

from __future__ import annotations

import ast
import atexit
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import Field

from gnomon.errors import UserError
from gnomon.tasks import code_extract
from gnomon.tasks.base import Task
from gnomon.tasks.code_prompts import INSTRUCTION, Problem, render, shown
from gnomon.tasks.parsing import is_refusal
from gnomon.tasks.prompts import Item
from gnomon.types import Example, Grade, Prompt

LABELS: dict[str, bool | None] = {"pass": True, "fail": False, "timeout": False, "memory": False}
"""The label of each verdict; of any other there is none."""
FENCED = ("\n```",)


class CodeTask(Task):
    """Programs, graded by running their tests in a sandbox."""

    executable: ClassVar[bool] = True
    """Answers are judged by running them: only whole ones can be, so interventions write whole answers."""

    cpu_seconds: float = Field(default=4.0, gt=0, le=600)
    """CPU time that a program and its tests may use."""
    wall_seconds: float | None = Field(default=None, gt=0, le=3600)
    """Wall time that they may use; unless given it is looser than the CPU time: a busy machine decides nothing."""
    memory_mb: int = Field(default=512, ge=64)
    """Memory that a program may use, in MB."""
    output_kb: int = Field(default=64, ge=0)
    """What a program may print, in kB."""
    open_files: int = Field(default=32, ge=8)
    """Files that a program may hold open."""
    threads: int = Field(default=32, ge=1)
    """Threads that a program may run at once."""
    unsandboxed: bool = False
    """Run what the model wrote without any fence, with your rights; each record is stamped with it."""

    # ---------------------------------------------------------------- prompts

    def prompt(self, item: Item, shots: Sequence[Item]) -> Prompt:
        asked = [_problem(i) for i in (*shots, item)]
        return render(self.style, asked[-1], asked[:-1], item.instruction, self.system)

    def problem_item(
        self, key: str, words: str, entry: str, reference: str, tests: Sequence[str], *, head: str = "",
        shown_tests: Sequence[str] = (), parts: dict[str, str] | None = None, group: str = "", **meta: Any,
    ) -> Item:  # fmt: skip
        """The item of a problem.

        `parts` says which texts of the prompt are the problem's words and its tests (unless given: `words`, and
        `shown_tests`, the first of the tests); `head` is the function's beginning where the set has one.
        """
        reference = code_extract.plain_lines(reference).rstrip() + "\n"
        problem = Problem(words, tuple(shown_tests), head, reference)
        size, features = measures(reference, entry, tests)
        return Item(
            id=f"{self.name}:{key}", question=words, target=reference, prefix=head or words, instruction=INSTRUCTION,
            solution=reference, group=group or f"{self.name}:{key}", difficulty=size, features=features,
            meta={
                "parts": parts or {"problem": words, "tests": shown(problem)}, "entry": entry, "reference": reference,
                "tests": list(tests), "shown": len(shown_tests), "head": head, **meta,
            },
        )  # fmt: skip

    # ---------------------------------------------------------------- grades

    def extract(self, example: Example, text: str) -> code_extract.Code | None:
        """The program in a text that answers `example`. One that begins the function anew runs after what the problem
        gives before it (imports, other functions), as its continuation would."""
        head, entry = example.meta["head"], example.meta["entry"]
        opened = self.style in ("plain", "chat_prefix")
        code = code_extract.extract(text, entry, head if self.style == "prefix" else "", opened)
        if code is None or code.how.startswith("continued") or "from __future__" in code.program:
            return code
        return replace(code, program=given(head, entry) + code.program)

    def grade(self, example: Example, text: str) -> Grade:
        code = self.extract(example, text)
        if code is None:
            return Grade(None, reason="refused" if is_refusal(text) else "no code", meta={"verdict": "", "code": ""})
        tests = example.meta["tests"]
        verdict = self.sandbox().grade(
            code.program, tests[0] if example.meta.get("check") else tests,
            example.meta["entry"] if example.meta.get("check") else None, example.meta.get("setup", ""),
        )  # fmt: skip
        meta = {
            "verdict": verdict.verdict, "verdict_reason": verdict.reason, "stderr": verdict.stderr,
            "sandbox": verdict.level, "extracted": code.how, "code": code.program,
        }  # fmt: skip
        reason = f"{verdict.verdict}: {verdict.reason}" if verdict.reason else verdict.verdict
        return Grade(LABELS.get(verdict.verdict), text[code.start : code.end], reason, (code.start, code.end), meta)

    def near_miss(self, example: Example) -> str:
        """The reference under a name that is one letter off: every call of the asked one fails."""
        entry = example.meta["entry"]
        return re.sub(rf"\b{re.escape(entry)}\b", entry + "s", example.target)

    def sandbox(self) -> Any:
        """This process's sandbox of these limits."""
        limits = (self.cpu_seconds, self.wall_seconds, self.memory_mb, self.output_kb, self.open_files, self.threads)
        return _sandbox(os.getpid(), limits, self.unsandboxed)

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"extraction": code_extract.VERSION}


@lru_cache(maxsize=4)
def _sandbox(pid: int, limits: tuple[Any, ...], unsandboxed: bool) -> Any:
    from gnomon.tasks.sandbox import Limits, Sandbox

    box = Sandbox(Limits(*limits), unsandboxed=unsandboxed)
    atexit.register(box.close)
    return box


def _problem(item: Item) -> Problem:
    meta = item.meta
    return Problem(item.question, tuple(meta["tests"][: meta["shown"]]), meta["head"], item.solution)


def given(head: str, entry: str) -> str:
    """What stands in a function's beginning before the function itself; "" where nothing does."""
    found = re.search(rf"^(?:@.*\n)*(?:async[ \t]+)?def[ \t]+{re.escape(entry)}\b", head, re.MULTILINE)
    before = head[: found.start()] if found else ""
    return before if before.strip() else ""


# ---------------------------------------------------------------- difficulty


def measures(reference: str, entry: str, tests: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Difficulty of a problem, and its surface features: complexity, lines and characters of the reference, number
    and characters of the tests.

    Difficulty is the reference's cyclomatic complexity (McCabe 1976: decisions + 1, those of helper functions added)
    plus a part below 1 that grows with its length, so that problems of one complexity are still ordered.
    """
    value = float(complexity(reference, entry))
    chars = len(reference)
    lines = sum(bool(line.strip()) for line in reference.split("\n"))
    features = {
        "complexity": value, "reference_lines": float(lines), "reference_chars": float(chars),
        "tests": float(len(tests)), "test_chars": float(sum(map(len, tests))),
    }  # fmt: skip
    return round(value + chars / (chars + 400), 4), features


def complexity(reference: str, entry: str) -> int:
    """Cyclomatic complexity of a program by the `mccabe` package: 1, and 1 for each decision in any function.

    Raises UserError for a reference that is not Python.
    """
    import mccabe

    try:
        tree = ast.parse(reference)
    except SyntaxError as error:
        raise UserError(f"the reference of {entry} is not Python ({error.msg}, line {error.lineno})") from None
    visitor = mccabe.PathGraphingAstVisitor()
    visitor.preorder(tree, visitor)
    return 1 + sum(graph.complexity() - 1 for graph in visitor.graphs.values())


def called(test: str) -> list[str]:
    """Names of the functions that a test calls, in order of appearance."""
    try:
        nodes = ast.walk(ast.parse(test))
    except SyntaxError:
        return []
    calls = [n.func for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return [f.id for f in sorted(calls, key=lambda f: (f.lineno, f.col_offset))]


def defined(program: str) -> set[str]:
    """Names that a program binds at its top level."""
    try:
        tree = ast.parse(program)
    except SyntaxError:
        return set()
    return {name for node in tree.body for name in code_extract.bound(node)}
