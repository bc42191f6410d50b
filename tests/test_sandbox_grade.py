"""`gnomon grade`: one JSON object a line in, one out, alive after anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fences import needs_a_fence

ROOT = Path(__file__).parent.parent
pytestmark = needs_a_fence


def started(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gnomon.cli", "grade", *options], cwd=ROOT, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_it_answers_each_line_and_stays_alive():
    code = "def f(x): return x"
    lines = [
        ({"code": code, "tests": "assert f(1) == 1", "entry": "f"}, "pass"),
        ({"code": code, "tests": ["assert f(1) == 2"], "id": 7}, "fail"),
        ("not JSON", "infra"),
        ('{"code": 1, "tests": "x"}', "infra"),
        ("[1]", "infra"),
        ('{"code": "x"}', "infra"),
        ('{"code": "x", "tests": "y", "more": 1, "id": "a"}', "infra"),
        ({"code": "import os\nos._exit(0)", "tests": "assert f(1)", "setup": ""}, "fail"),
        ({"code": "while True: pass", "tests": "assert f(1)"}, "timeout"),
        ({"code": code, "tests": "def check(c):\n    assert c('\\ud800') == '\\ud800'", "entry": "f"}, "pass"),
    ]
    with started("--cpu-seconds", "0.3") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, verdict in lines:  # each answer comes before the next question
            process.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert answer["verdict"] == verdict, (line, answer)
            assert isinstance(answer["reason"], str)
            assert answer["cpu_s"] >= 0
            given = line if isinstance(line, dict) else {}
            assert answer.get("id") == given.get("id", "a" if '"id"' in str(line) and not given else None)
        process.stdin.close()
        assert process.wait(20) == 0


def test_unsandboxed_is_said():
    with started("--unsandboxed") as process:
        line = json.dumps({"code": "def f(x): return x", "tests": "assert f(1) == 1"})
        out, err = process.communicate(line + "\n", timeout=60)
    assert json.loads(out)["level"] == "none"
    assert "sandbox: none" in err


def test_a_bad_limit_is_a_message():
    with started("--memory-mb", "1") as process:
        _, err = process.communicate("", timeout=60)
    assert process.returncode == 2
    assert "memory_mb is 1" in err
    assert "Traceback" not in err
