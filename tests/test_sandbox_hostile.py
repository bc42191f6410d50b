"""No hostile program passes or leaves a trace, an honest one passes after each: as root and a user, at both levels.

147 of them here, all 428 among the long fault tests (`make test-faults`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fences import BEST, level, needs_a_fence, needs_bubblewrap

from tests.hostile import MORE, PROGRAMS

ROOT = Path(__file__).parent.parent
LEVELS = ("kernel", BEST)
HERE = LEVELS if level() == BEST else LEVELS[:1]
USER = 1000


@cache
def ordinary() -> str | None:
    """An interpreter that any user may run."""
    for path in ("/usr/bin/python3", "/usr/bin/python3.11", "/usr/bin/python3.12", "/usr/bin/python3.13"):
        ask = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if os.path.exists(path) and subprocess.run(ask).returncode == 0:
            return path
    return None


Runs = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """What each run of some of them printed."""
    yield from tried("some")


@pytest.fixture(scope="module")
def long_runs() -> Iterator[Runs]:
    """What each run of all of them printed."""
    yield from tried("all")


def tried(which: str) -> Iterator[Runs]:
    """All runs at once, for most of their time is waiting."""
    with tempfile.TemporaryDirectory(prefix="gnomon-hostile-") as folder:  # pytest's own folders are their owner's
        Path(folder).chmod(0o755)
        yield every_run(Path(folder), which)


def every_run(copy: Path, which: str) -> Runs:
    """Each user and fence: what hostile_run.py printed last."""
    shutil.copytree(ROOT / "gnomon" / "tasks", copy / "gnomon" / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tests").mkdir()
    for name in ("gnomon/errors.py", "gnomon/__init__.py", "tests/hostile_run.py",
                 *[f"tests/{path.name}" for path in (ROOT / "tests").glob("hostile*.py")]):  # fmt: skip
        shutil.copy(ROOT / name, copy / name)
    python = ordinary()
    out: Runs = {}
    started: dict[tuple[str, str], subprocess.Popen[str]] = {}
    for who in ("me", "user"):
        command = [sys.executable]
        if who == "user":
            if os.getuid() != 0 or python is None or shutil.which("setpriv") is None:
                continue
            command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", python]
        home = str(Path.home()) if who == "me" else "/nonexistent"
        for each in HERE:
            started[who, each] = subprocess.Popen(
                [*command, str(copy / "tests" / "hostile_run.py"), each, which], cwd="/", text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "HOME": home},
            )  # fmt: skip
    for key, process in started.items():
        said = process.communicate(timeout=900 if which == "all" else 280)[0]
        lines = said.strip().splitlines()
        assert process.returncode == 0, said[-3000:]
        assert lines, said
        out[key] = json.loads(lines[-1])
    return out


@needs_a_fence
@pytest.mark.parametrize("fence", [LEVELS[0], pytest.param(BEST, marks=needs_bubblewrap)])
@pytest.mark.parametrize("who", ["me", "user"])
def test_nothing_passes_and_nothing_is_left(runs: Runs, who: str, fence: str):
    none_passed(runs, who, fence, len(PROGRAMS))


@pytest.mark.faults
@needs_a_fence
@pytest.mark.parametrize("fence", [LEVELS[0], pytest.param(BEST, marks=needs_bubblewrap)])
@pytest.mark.parametrize("who", ["me", "user"])
def test_of_all_none_passes_and_nothing_is_left(long_runs: Runs, who: str, fence: str):
    none_passed(long_runs, who, fence, len(PROGRAMS) + len(MORE))


def none_passed(runs: Runs, who: str, fence: str, count: int) -> None:
    if (who, fence) not in runs:
        pytest.skip("an ordinary user can be tried only by root, with setpriv and a Python that all may run")
    found = runs[who, fence]
    assert found["wrong"] == []
    assert found["programs"] == count
    assert found["user"] == (os.getuid() if who == "me" else USER)
    assert found["verdicts"]["reads passwords"] == "blocked"
    assert found["verdicts"]["loop"] == "timeout"
    assert found["verdicts"]["one large object"] == "memory"
    assert found["verdicts"]["memory bomb"] in ("memory", "timeout")  # which limit comes first: how fast pages are


@needs_bubblewrap
@pytest.mark.parametrize("who", ["me", "user"])
def test_levels_agree(runs: Runs, who: str):
    agreed(runs, who)


@pytest.mark.faults
@needs_bubblewrap
@pytest.mark.parametrize("who", ["me", "user"])
def test_levels_agree_on_all(long_runs: Runs, who: str):
    agreed(long_runs, who)


def agreed(runs: Runs, who: str) -> None:
    if (who, "kernel") not in runs:
        pytest.skip("an ordinary user can be tried only by root, with setpriv and a Python that all may run")
    ours, other = (runs[who, each]["verdicts"] for each in LEVELS)  # of those that were tried at both
    loose = {"timeout", "memory", "unsupported"}  # which limit a bomb meets first depends on the machine
    differ = {n: {ours[n], other[n]} for n in ours if ours[n] != other.get(n, ours[n])}
    differ.pop("threads left spinning", None)  # whether its answer or its time comes first
    assert {n: both for n, both in differ.items() if not both <= loose} == {}
