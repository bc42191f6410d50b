# ruff: noqa: E501 - programs, some on one line
"""The sandbox's verdicts on ordinary code: values, arguments, errors, limits, levels."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from fences import BEST, level, needs_a_fence, needs_bubblewrap

from gnomon.errors import UserError
from gnomon.tasks import sandbox as module
from gnomon.tasks.fence import landlock
from gnomon.tasks.sandbox import Limits, Sandbox

LEVEL = level() or None
pytestmark = needs_a_fence


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox(Limits(cpu_s=0.5, wall_s=20.0, memory_mb=256), level=LEVEL) as made:
        yield made


PLAIN = """
import math, datetime, decimal, fractions, collections
for v in (1, -2**70, True, None, 1.5, -0.0, 1j, "", "\\ud800a\\x00", "\\ud83d" + "\\ude00", b"\\x00", (1, (2,)), {1, 2},
          frozenset([1]), {(1, 2): [3], None: {}}, range(3), ..., list(range(100)), [0.5] * 40, [2**80] * 40, [1, "a"] * 40,
          bytearray(b"ab"), datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.timezone.utc), datetime.date(2020, 1, 1),
          datetime.time(1, 2), datetime.timedelta(3), decimal.Decimal("1.20"), fractions.Fraction(1, 3),
          collections.deque([1], maxlen=3), collections.Counter("aab"), collections.OrderedDict([(2, 1), (1, 2)]),
          collections.defaultdict(list, a=[1])):
    got = f(v)
    assert got == v and type(got) is type(v), v
    assert repr(got) == repr(v)
assert math.isnan(f(float("nan"))) and f(float("-inf")) == float("-inf")
assert list(f({1: 2}).items()) == [(1, 2)] and f(int) is int and f(len) is len
assert f(collections.deque([1], maxlen=3)).maxlen == 3 and f(collections.defaultdict(list))["x"] == []
"""
SAME = {
    "plain data": ("def f(x): return x", PLAIN),
    "changes in place": (
        "def f(a, d, s, b):\n    a.append([1])\n    d['k'] = a\n    s.discard(1)\n    b.extend(b'x')\n    return a",
        "a, d, s, b = [0], {}, {1, 2}, bytearray()\nr = f(a, d, s, b)\nassert r is a and d['k'] is a and s == {2}\n"
        "assert a == [0, [1]] and b == b'x'",
    ),
    "changes before an error": (
        "def f(a):\n    a.append(1)\n    raise KeyError('k')",
        "a = []\ntry:\n    f(a)\n    assert False\nexcept KeyError as e:\n    assert e.args == ('k',)\nassert a == [1]",
    ),
    "identity inside": ("def f(x): return x.pop()", "b = [2]\na = [1, b]\nassert f(a) is b"),
    "cycles": ("def f(d):\n    d['x'] = d\n    return d", "q = {}\nassert f(q) is q and q['x'] is q"),
    "own exception": (
        "class Mine(ValueError): pass\ndef f(x): raise Mine('no', x)",
        "for kind in (Mine, ValueError):\n    try:\n        f(3)\n        assert False\n    except kind as e:\n"
        "        assert e.args == ('no', 3) and type(e).__name__ == 'Mine'",
    ),
    "own class": (
        "class Pair:\n    def __init__(s, a, b): s.a, s.b = a, b\ndef f(ps): return max(p.b for p in ps)",
        "p = Pair(1, 5)\nassert p.a == 1\np.b = 7\nassert f([p, Pair(2, 6)]) == 7",
    ),
    "a stack": (
        "class Stack:\n    def __init__(s): s.xs = []\n    def push(s, x): s.xs.append(x)\n    def __len__(s): return len(s.xs)",
        "s = Stack()\ns.push(1)\ns.push([2])\nassert len(s) == 2 and s.xs == [1, [2]] and 1 in s.xs",
    ),
    "the tests' own class": (
        "def f(n):\n    n.val += 1\n    return n.next",
        "class Node:\n    def __init__(s, v): s.val, s.next = v, None\na = Node(3)\na.next = Node(4)\n"
        "assert f(a) is a.next and a.val == 4",
    ),
    "functions of the tests": (
        "def f(g): return [g(i) for i in range(3)]",
        "seen = []\ndef g(i):\n    seen.append(i)\n    return i * 2\nassert f(g) == [0, 2, 4] and seen == [0, 1, 2]\n"
        "assert f(str) == ['0', '1', '2'] and f(lambda i: i) == [0, 1, 2]",
    ),
    "generators": ("def f():\n    yield 1\n    yield 2", "g = f()\nassert next(g) == 1 and list(g) == [2] and sum(f()) == 3"),
    "map": ("def f(x): return map(str, x)", "assert list(f([1, 2])) == ['1', '2']"),
    "match": ("import re\ndef f(x): return re.match('a', x)", "assert f('ab')\nassert not f('b')\nassert f('ab').group() == 'a'"),
    "globals": ("n = 0\ndef f():\n    global n\n    n += 1", "f()\nf()\nassert n == 2"),
    "a builtin's name": ("def sum(a, b): return a + b", "assert sum(1, 2) == 3"),
    "a module of the code": ("import math\ndef f(x): return x", "assert math.isclose(f(0.3), 0.1 + 0.2)"),
    "seeded": ("import random\ndef f(): return random.randint(0, 10 ** 9)", "assert f() == 906691059"),
    "asyncio": ("import asyncio\nasync def g(): return 3\ndef f(): return asyncio.run(g())", "assert f() == 3"),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n    with ThreadPoolExecutor(4) as e: return list(e.map(abs, x))",
        "assert f([-1, 2]) == [1, 2]",
    ),
    "the library": (
        "import csv, hashlib, sqlite3, uuid, zoneinfo\ndef f(): return sqlite3.connect(':memory:').execute('select 1').fetchone()",
        "assert f() == (1,)",
    ),
    "recursion to the usual depth": ("def f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(970) == 970"),
    "carriage returns": ("def f(x):\r\n    return x\r\n", "assert f(1) == 1\r\nassert f(2) == 2"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(2)", "assert f().x == 2\nassert str(f()) == 'P(x=2)'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_runs_as_one_program_would(box: Sandbox, name: str):
    code, tests = SAME[name]
    plain: dict[str, object] = {"__name__": "plain"}
    if name not in ("dataclass", "seeded", "recursion to the usual depth"):  # a module, a seed, a stack of their own
        exec(code.replace("\r\n", "\n"), plain)
        exec(tests.replace("\r\n", "\n"), plain)
    found = box.grade(code, tests)
    assert (found.verdict, found.reason, found.level) == ("pass", "", LEVEL)


OTHER = {
    "wrong": ("def f(x): return x", "assert f(1) == 2", "fail", "assert f(1) == 2: AssertionError"),
    "message": ("def f(x): return x", "assert f(1) == 2, 'one is ' + str(f(1))", "fail", "one is 1"),
    "last of many": ("def f(x): return x", ["assert f(1) == 1", "assert f(2) == 3"], "fail", "assert f(2) == 3"),
    "error": ("def f(x): return 1 / 0", "f(1)", "fail", "ZeroDivisionError: division by zero"),
    "no such name": ("def g(x): return x", "assert f(1) == 1", "fail", "NameError"),
    "no such module": ("import numpy", "f(1)", "fail", "No module named 'numpy'"),
    "an exit that the tests would welcome": ("import sys\ndef f(x): sys.exit(0)", "f(1)", "fail", "SystemExit"),
    "an end that map would take for its own": (
        "def f(x): raise StopIteration", "assert list(map(f, [1])) == []", "fail", "StopIteration"),
    "a loop": ("def f(x):\n    while True: pass", "f(1)", "timeout", "0.5 CPU seconds"),
    "a loop in the tests": ("def f(x): return iter(int, 1)", "list(f(1))", "timeout", "CPU seconds"),
    "memory": ("def f(x): return [0] * 10 ** 10", "f(1)", "memory", "MemoryError"),
    "memory in the tests": ("def f(x): return range(10 ** 9)", "list(f(1))", "memory", "MemoryError"),
    "a file": ("def f(x): return open('/etc/passwd')", "f(1)", "blocked", "/etc/passwd"),
    "a missing file": ("def f(x): return open('no.txt')", "f(1)", "fail", "no.txt"),
    "a socket": ("import socket\nsocket.socket()", "f(1)", "blocked", "PermissionError"),
    "a process": ("import os\ndef f(x): return os.fork()", "f(1)", "blocked", "Permission"),
    "a refusal of its own": ("def f(x): raise PermissionError('no')", "f(1)", "fail", "PermissionError: no"),
    "order of objects": ("class A: pass\ndef f(x): return A()", "f(1) < f(2)", "unsupported", "lt"),
    "truth of an object": ("class A:\n    def __bool__(s): return True\ndef f(x): return A()", "assert f(1)",
                           "unsupported", "truth"),
    "equal objects": ("class A:\n    def __eq__(s, o): return True\ndef f(x): return A()", "assert f(1) == f(2)",
                      "unsupported", "=="),
    "much output": ("def f(x):\n    while True: print('x' * 9999)", "f(1)", "fail", "output limit"),
    "a module that the tests lack": ("def f(x): return x", "import numpy\nassert f(1) == 1", "unsupported", "numpy"),
    "no test": ("def f(x): return x", "", "infra", "there is no test"),
    "tests that do not compile": ("def f(x): return x", "assert f(", "infra", "does not compile"),
    "a check without a name": ("def f(x): return x", "def check(c):\n    assert c(1) == 1", "infra", "entry"),
    "a module's function of its own": (
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(x): return x",
        "assert math.isclose(f(1), 2)", "fail", "NameError"),
    "an own sorted": ("def sorted(x): return [1, 2]\ndef f(x): return x", "assert sorted(f([3])) == [1, 2]", "fail", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_other_verdicts_say_why(box: Sandbox, name: str):
    code, tests, verdict, reason = OTHER[name]
    found = box.grade(code, tests)
    assert found.verdict == verdict, found
    assert reason in found.reason
    assert "\n" not in found.reason


def test_check_is_called_with_the_entry(box: Sandbox):
    check = "def check(candidate):\n    assert candidate(2) == 4\n"
    assert box.grade("def double(x): return 2 * x", check, "double").verdict == "pass"
    assert box.grade("def double(x): return x", check, "double").verdict == "fail"


def test_setup_runs_beside_the_tests(box: Sandbox):
    code = "class Node:\n    def __init__(s, v): s.v, s.left = v, None\ndef f(n): return n.v + n.left.v"
    setup = "import operator\nroot = Node(1)\nroot.left = Node(2)"
    assert box.grade(code, "assert operator.eq(f(root), 3)", "f", setup).verdict == "pass"
    assert box.grade(code, "assert f(root) == 4", "f", setup).verdict == "fail"
    assert box.grade("x = 1", "assert x == 1", None, setup).reason.startswith("setup: root = Node(1): NameError")


def test_stderr_is_short_and_repeats(box: Sandbox):
    code = "import sys\nprint('y' * 9000, file=sys.stderr)\ndef f(x):\n    raise ValueError(repr(x))"
    first, second = (box.grade(code, "f(object)\nf(f)", "f") for _ in range(2))
    assert first.stderr == second.stderr
    assert len(first.stderr.encode()) <= 2048
    assert "ValueError: <class 'object'>" in first.stderr
    known = box.grade("def f(x):\n    raise ValueError(repr(f))", "f(1)")
    assert "0x..." in known.reason
    assert "0x..." in known.stderr


def test_cpu_time_is_kept_and_counted(box: Sandbox):
    began = time.monotonic()
    found = box.grade("def f(x):\n    while True: pass", "f(1)")
    assert found.verdict == "timeout"
    assert 0.5 <= found.cpu_s < 0.8
    assert time.monotonic() - began < 15


def test_sleep_ends_with_the_wall():
    with Sandbox(Limits(cpu_s=1.0, wall_s=0.5)) as short:
        found = short.grade("import time\ndef f(x): time.sleep(60)", "f(1)")
        assert (found.verdict, found.reason) == ("timeout", "more than 0.5 seconds")


def test_a_killed_server_is_started_anew(box: Sandbox):
    assert box.grade("def f(x): return x", "assert f(1) == 1").verdict == "pass"
    assert box._servers is not None
    os.kill(box._servers[0].process.pid, signal.SIGKILL)
    assert box.grade("def f(x): return x", "assert f(1) == 1").verdict == "pass"


def test_an_interrupted_grade_spoils_no_other(box: Sandbox):
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    assert box.level == LEVEL
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.4)
    try:
        with pytest.raises(KeyboardInterrupt):
            box.grade("import time\ndef f(x): time.sleep(60)", "f(1)")
    finally:
        signal.signal(signal.SIGALRM, before)
    for _ in range(2):
        assert box.grade("def f(x): return x", "assert f(1) == 1").verdict == "pass"
        assert box.grade("def f(x): return x", "assert f(1) == 2").verdict == "fail"


def test_it_outlives_the_thread_that_started_it():
    made = Sandbox(level=LEVEL)
    starter = threading.Thread(target=lambda: made.level)
    starter.start()
    starter.join()
    servers = made._servers
    assert made.grade("def f(x): return x", "assert f(1) == 1").verdict == "pass"
    assert made._servers is servers
    made.close()


def test_a_forked_process_starts_its_own(box: Sandbox):
    assert box.level == LEVEL
    pid = os.fork()
    if pid == 0:
        os._exit(0 if box.grade("def f(x): return x", "assert f(1) == 1").verdict == "pass" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert box.grade("def f(x): return x", "assert f(1) == 1").verdict == "pass"


def test_without_bubblewrap_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(module, "bwrap", lambda: None)
    with caplog.at_level(logging.WARNING, "gnomon"), Sandbox() as made:
        assert made.grade("def f(x): return x", "assert f(1) == 1").level == "kernel"
    assert "sandbox: kernel only: bubblewrap (bwrap) is not installed" in caplog.text
    with pytest.raises(UserError, match="bubblewrap"):
        assert Sandbox(level=BEST).level


@needs_bubblewrap
def test_with_bubblewrap_it_uses_it(box: Sandbox):
    assert box.level == BEST


def test_it_refuses_where_it_cannot_fence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    with pytest.raises(UserError, match="no Landlock"):
        assert Sandbox().level
    monkeypatch.setattr(module.sys, "platform", "darwin")
    with pytest.raises(UserError, match="name unsandboxed"):
        Sandbox().grade("", "assert True")


def test_unsandboxed_is_named_and_stamped(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "gnomon"), Sandbox(unsandboxed=True) as made:
        assert made.grade("def f(x): return x", "assert f(1) == 1").level == "none"
        found = made.grade("def f(x): return open('/etc/hostname').read()", "assert len(f(1)) > 0")
        assert (found.verdict, found.level) == ("pass", "none")
        assert made.grade("def f(x): raise PermissionError(13, 'x')", "f(1)").verdict == "fail"
    assert "sandbox: none" in caplog.text
    with pytest.raises(UserError, match="unsandboxed"):
        Sandbox(level="none")


@pytest.mark.parametrize("wrong", [{"cpu_s": 0}, {"memory_mb": "512"}, {"wall_s": -1.0}, {"threads": True}])
def test_limits_are_checked(wrong: dict):
    with pytest.raises(UserError):
        Limits(**wrong)


def test_texts_are_checked(box: Sandbox):
    with pytest.raises(UserError, match="not int"):
        box.grade("x = 1", ["assert True", 3])  # type: ignore[list-item]
