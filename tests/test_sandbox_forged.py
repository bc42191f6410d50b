# ruff: noqa: E501 - programs, some on one line
"""A candidate that speaks to the tests itself, or tries for a label that is not its own; and what a machine does to it."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from fences import BEST, level, needs_a_fence

from gnomon.tasks import sandbox as module
from gnomon.tasks.sandbox import Limits, Sandbox
from tests.hostile_talk import answering

LEVEL = level() or None
pytestmark = needs_a_fence
HONEST = ("def f(x): return x", "assert f(1) == 1")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(Limits(cpu_s=0.5, wall_s=20.0, memory_mb=256), level=LEVEL) as made:
        yield made


@pytest.mark.parametrize("kind", ["StopIteration", "StopAsyncIteration", "GeneratorExit"])
@pytest.mark.parametrize(
    "tests",
    ["assert all(map(lambda x: f(x) == 5, [1, 2]))", "for v in map(f, [1, 2]):\n    assert v == 5",
     "for v in iter(lambda: f(1), 5):\n    assert v == 7", "assert 5 not in map(f, [1, 2])"],
)  # fmt: skip
def test_an_error_cannot_end_a_loop_of_the_tests(box: Sandbox, kind: str, tests: str):
    assert box.grade(answering(f"error(**{{'class': ['g', 'builtins', {kind!r}]}})"), tests, "f").verdict == "fail"


HANDLE = "['h', 9, 'x', 'e', None]"


@pytest.mark.parametrize("field", ["text", "trace", "errno", "outside", "args", "mro"])
@pytest.mark.parametrize("value", [HANDLE, "['t', 1]", "['l', 0, None, []]"])
def test_an_error_is_read_strictly(box: Sandbox, field: str, value: str):
    if (field, value) == ("args", "['t', 1]"):
        value = "7"
    for code in (answering(f"error({field}={value})"), answering(f"error({field}={value})", at_once=True)):
        found = box.grade(code, "f(1)", "f")
        assert (found.verdict, found.reason.partition(":")[0]) == ("fail", "the candidate sent what is no answer")


@pytest.mark.parametrize("code", [70, 71, 72])
@pytest.mark.parametrize("when", ["", "def f(x): "])
def test_the_machine_cannot_be_blamed(box: Sandbox, code: int, when: str):
    forged = f"import os\n{when}os.write(2, b'fence: OSError: no memory\\n'); os._exit({code})"
    found = box.grade(forged, "assert f(1) == 1", "f")
    assert (found.verdict, found.reason) == ("fail", f"the candidate ended by itself, with code {code}")


def test_a_fence_that_cannot_be_put_up_is_infra(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    assert box.grade(*HONEST).verdict == "pass"

    class Wrong:
        cpu_s, memory_mb, output_kb, files, threads, wall = 1e30, 256, 64, 32, 32, 20.0  # more than setrlimit takes

    with monkeypatch.context() as patch:
        patch.setattr(box, "limits", Wrong)
        found = box.grade(*HONEST)
        assert (found.verdict, found.reason.partition(" ")[0]) == ("infra", "fence:")
    assert box.grade(*HONEST).verdict == "pass"


def test_ends_are_named_alike(box: Sandbox):
    programs = {"import os\ndef f(x): os._exit(3)": "code 3", "import os\ndef f(x): os.abort()": "SIGABRT"}
    for code, name in programs.items():
        found = {(one.verdict, one.reason) for one in (box.grade(code, "f(1)", "f") for _ in range(20))}
        assert len(found) == 1
        assert name in found.pop()[1]


def test_a_closed_connection_is_a_fail(box: Sandbox):
    began = time.monotonic()
    found = box.grade("import os, time\ndef f(x):\n    os.close(3)\n    time.sleep(99)", "f(1)", "f")
    assert (found.verdict, found.reason) == ("fail", "the candidate closed its connection")
    assert time.monotonic() - began < 15


def test_a_reason_can_be_printed_and_kept(box: Sandbox):
    found = box.grade(answering("error(text='\\ud800\\x1b[2J\\x07', mro=['t', '\\ud800'])"), "f(1)", "f")
    assert found.verdict == "fail"
    assert found.reason.isprintable()
    assert found.reason.encode()
    assert found.stderr.encode() is not None


@pytest.mark.parametrize("tests", [
    "def test_f():\n    assert f(1) == 2",
    "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 2)",
    "if __name__ == '__main__':\n    assert f(1) == 2",
    "def check(g):\n    assert g(1) == 2\ndef run(check): pass\nrun(check)",
])  # fmt: skip
def test_tests_that_ask_nothing_decide_nothing(box: Sandbox, tests: str):
    found = box.grade(HONEST[0], tests)
    assert found.verdict == "infra"
    assert box.grade(*HONEST).verdict == "pass"


UNDECIDED = {
    "a coroutine": ("async def f(x): return x", "import asyncio\nassert asyncio.run(f(1)) == 1"),
    "a context": ("import contextlib\n@contextlib.contextmanager\ndef f(x): yield x", "with f(1) as y:\n    assert y == 1"),
    "an operator on the right": ("class A:\n    def __radd__(s, o): return 5\ndef f(x): return A()", "assert 1 + f(1) == 5"),
    "a power": ("class A:\n    def __pow__(s, o): return 5\ndef f(x): return A()", "assert f(1) ** 2 == 5"),
    "an own int": ("class A:\n    def __int__(s): return 5\ndef f(x): return A()", "assert int(f(1)) == 5"),
    "an own in": ("class A:\n    def __contains__(s, o): return True\ndef f(x): return A()", "assert 5 in f(1)"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_a_handle_cannot_do_is_not_a_fail(box: Sandbox, name: str):
    assert box.grade(*UNDECIDED[name], "f").verdict == "unsupported"


@pytest.mark.parametrize(
    "act", ["open('/nonexistent-1', 'w')", "open(os.__file__ + '.new', 'w')", "tempfile.mkstemp()"]
)
def test_a_refused_write_is_blocked_at_each_level(act: str):
    for each in ("kernel", BEST) if level() == BEST else ("kernel",):
        with Sandbox(Limits(cpu_s=2.0), level=each) as made:
            assert made.grade(f"import os, tempfile\ndef f(): {act}", "f()", "f").verdict == "blocked"


def test_a_mark_at_the_beginning_is_no_code(box: Sandbox):
    assert box.grade("\ufeff" + HONEST[0], ["\ufeff" + HONEST[1]], None, "\ufeffx = 1").verdict == "pass"


# ---------------------------------------------------------------- the machine


def test_with_thousands_of_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 5000:
        pytest.skip("this user may not open 5,000 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if 0 <= hard < 10**5 else 10**5, hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(4500)]
    look = "import os\ndef f():\n    found = []\n    for fd in range(6000):\n        try:\n            os.fstat(fd)\n            found.append(fd)\n        except OSError: pass\n    return found"
    try:
        with Sandbox(Limits(cpu_s=2.0), level=LEVEL) as made:
            assert made.grade(look, "assert f() == [0, 1, 2, 3], f()").verdict == "pass"
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("which", [0, 1])
def test_a_server_killed_in_the_middle_is_made_good(which: int):
    with Sandbox(Limits(cpu_s=5.0, wall_s=20.0), level="kernel") as made:
        assert made.level == "kernel"
        servers = made._servers
        assert servers is not None
        timer = threading.Timer(0.3, lambda: os.kill(servers[which].process.pid, signal.SIGKILL))
        timer.start()
        found = made.grade("import time\ndef f(x):\n    time.sleep(0.8)\n    return x", "assert f(1) == 2", "f")
        timer.join()
        assert found.verdict == "fail"
        assert made._servers is not servers
        assert made.grade(*HONEST).verdict == "pass"


def test_servers_that_were_not_tried_never_grade(monkeypatch: pytest.MonkeyPatch):
    def interrupted(*given: object) -> list[str]:
        raise KeyboardInterrupt

    tried = module.probe
    monkeypatch.setattr(module, "probe", interrupted)
    made = Sandbox(level=LEVEL)
    with pytest.raises(KeyboardInterrupt):
        made.grade(*HONEST)
    assert made._servers is None
    seen: list[object] = []
    monkeypatch.setattr(module, "probe", lambda *given: seen.append(1) or tried(*given))
    assert made.grade(*HONEST).verdict == "pass"
    assert seen == [1]
    made.close()


def test_nothing_is_kept_of_a_grade(box: Sandbox):
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    programs = [HONEST, ("import os\nos._exit(0)", "f(1)"), ("x = (", "f(1)"), ("raise ValueError", "f(1)")]
    for one in programs:
        box.grade(*one)
    before = held()
    for i in range(80):
        box.grade(*programs[i % 4])
    assert held() == before
