"""Does the sandbox label as plain execution does? `python -m benchmarks.grading_agreement FOLDER [--mutants N]`.

FOLDER holds MBPP as mbpp.jsonl and sanitized-mbpp.jsonl. Every reference solution has to pass; mutants of them are
graded in the sandbox, three times and twice at once, and run by a plain interpreter with a time limit. Not one of the
benchmarks that `make bench` runs: it needs the data.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gnomon.tasks.fence.layout import ENVIRONMENT, FLAGS, interpreter
from gnomon.tasks.sandbox import Limits, Sandbox, Verdict

LIMITS = Limits(cpu_s=2.0, wall_s=30.0)


@dataclass(frozen=True)
class Problem:
    """One record: reference or mutant, its tests, what runs before them, and the name that they call."""

    name: str
    code: str
    tests: tuple[str, ...]
    setup: str
    entry: str | None = None


def problems(folder: Path) -> list[Problem]:
    """Every record of both files."""
    out: list[Problem] = []
    for file in ("mbpp.jsonl", "sanitized-mbpp.jsonl"):
        for line in (folder / file).read_text("utf-8").splitlines():
            record = json.loads(line)
            setup = record.get("test_setup_code") or "\n".join(record.get("test_imports", ()))
            tests = tuple(record["test_list"])
            out.append(Problem(f"{file}:{record['task_id']}", record["code"], tests, setup,
                               entry(record["code"], tests)))  # fmt: skip
    return out


def entry(code: str, tests: Sequence[str]) -> str | None:
    """The function of the reference that every test names."""
    try:
        names = [n.name for n in ast.parse(code.replace("\r\n", "\n")).body if isinstance(n, ast.FunctionDef)]
    except SyntaxError:
        return None
    named = [name for name in names if all(re.search(rf"\b{name}\b", test) for test in tests)]
    return named[-1] if named else None


class Mutator(ast.NodeTransformer):
    """Makes one small change, at the `at`-th place where one can be made."""

    COMPARE: ClassVar[dict[type, Any]] = {
        ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    }  # fmt: skip
    SUMS: ClassVar[dict[type, Any]] = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.FloorDiv, ast.FloorDiv: ast.Div,
        ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    }  # fmt: skip

    def __init__(self, at: int = -1) -> None:
        self.at, self.seen = at, 0

    def _here(self) -> bool:
        self.seen += 1
        return self.seen - 1 == self.at

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int and self._here():
            return ast.copy_location(ast.Constant(node.value + 1), node)
        if type(node.value) is bool and self._here():
            return ast.copy_location(ast.Constant(not node.value), node)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if type(node.ops[0]) in self.COMPARE and self._here():
            node.ops[0] = self.COMPARE[type(node.ops[0])]()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if type(node.op) in self.SUMS and self._here():
            node.op = self.SUMS[type(node.op)]()
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and not isinstance(node, ast.Module) and self._here():
            body.pop(-2)
        return node


def mutants(found: Sequence[Problem], n: int, seed: int = 0) -> Iterator[Problem]:
    """`n` references with one change each."""
    rng = random.Random(seed)
    made = 0
    order = list(found)
    while made < n:
        rng.shuffle(order)
        for problem in order:
            tree = ast.parse(problem.code.replace("\r\n", "\n"))
            count = Mutator()
            count.visit(tree)
            if not count.seen or made >= n:
                continue
            at = rng.randrange(count.seen)
            changed = ast.fix_missing_locations(Mutator(at).visit(ast.parse(problem.code.replace("\r\n", "\n"))))
            made += 1
            yield Problem(f"{problem.name}#{at}", ast.unparse(changed), problem.tests, problem.setup, problem.entry)


def plainly(problem: Problem, seconds: float = 4.0) -> str:
    """pass, fail or timeout, by an interpreter that runs code, setup and tests in one module. No fence."""
    text = "\n".join([problem.code, problem.setup, *problem.tests]).replace("\r\n", "\n")
    program = f"exec(compile({text!r}, 'program', 'exec'), {{'__name__': 'solution'}})"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run([interpreter(), *FLAGS, "-c", program], cwd=folder,
                                  env=ENVIRONMENT, capture_output=True,
                                  timeout=seconds, stdin=subprocess.DEVNULL)  # fmt: skip
        except subprocess.TimeoutExpired:
            return "timeout"
    return "pass" if done.returncode == 0 else "fail"


def graded(found: Sequence[Problem], limits: Limits = LIMITS) -> list[Verdict]:
    """Verdicts of a Sandbox of its own."""
    with Sandbox(limits) as sandbox:
        return [sandbox.grade(p.code, p.tests, p.entry, p.setup) for p in found]


def at_once(found: Sequence[Problem], copies: int) -> list[list[Verdict]]:
    """The same by several Sandboxes at the same time."""
    out: list[list[Verdict]] = [[] for _ in range(copies)]

    def work(i: int) -> None:
        out[i] = graded(found)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(copies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def main() -> int:
    """Print counts and disagreements; 1 where a reference fails or labels differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutants", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    found = problems(given.folder)
    bad = 0
    for problem, verdict in zip(found, graded(found, Limits()), strict=True):
        if verdict.verdict != "pass":
            bad += plainly(problem) == "pass"
            print(f"reference {problem.name}: {verdict.verdict} {verdict.reason}; plainly {plainly(problem)}")
    print(f"{len(found)} references graded; {bad} that pass plainly do not pass here", flush=True)
    wrong = list(mutants(found, given.mutants))
    runs = [graded(wrong) for _ in range(given.repeats)] + at_once(wrong, 2)
    plain = [plainly(problem) for problem in wrong]
    table = Counter((p, v.verdict) for p, v in zip(plain, runs[0], strict=True))
    print(f"{len(wrong)} mutants, (plainly, here): {dict(table)}")
    for i, problem in enumerate(wrong):
        labels = {run[i].verdict for run in runs}
        if len(labels) > 1 or plain[i] != runs[0][i].verdict:
            print(f"mutant {problem.name}: plainly {plain[i]}, here {sorted(labels)}: {runs[0][i].reason}")
    differ = sum(len({run[i].verdict for run in runs}) > 1 for i in range(len(wrong)))
    other = sum((plain[i] == "pass") != (runs[0][i].verdict == "pass") for i in range(len(wrong)))
    print(f"{differ} labels differ between {len(runs)} runs; {other} pass here and not plainly, or the reverse")
    return 1 if bad or differ or other else 0


if __name__ == "__main__":
    sys.exit(main())
