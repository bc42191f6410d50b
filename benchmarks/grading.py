"""What a grade costs: the sandbox's fork servers, and beside them a fresh `python -I` for every grade.

The peer runs the program and its tests together with a time limit and no fence: the least that any grader must do
who does not keep a server. Both grade the same programs in the same order,
in turns; a median is of one turn, and the least of the turns counts.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator

from benchmarks.timing import Row, main
from gnomon.tasks.fence.layout import interpreter
from gnomon.tasks.sandbox import Sandbox

GRADES = 100
PROGRAMS = (
    ("def add(a, b):\n    return a + b\n", ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"], True),
    (
        "import math\ndef root(n):\n    return math.isqrt(n) + 1\n",
        ["assert root(16) == 4", "assert root(2) == 1"],
        False,
    ),
    (
        "def tally(words):\n    out = {}\n    for w in words:\n        out[w] = out.get(w, 0) + 1\n    return out\n",
        ["assert tally(['a', 'b', 'a']) == {'a': 2, 'b': 1}", "assert tally([]) == {}"],
        True,
    ),
    ("def sort(xs):\n    xs.sort()\n", ["xs = [3, 1, 2]\nsort(xs)\nassert xs == [1, 2, 3]"], True),
)


def rows(runs: int) -> Iterator[Row]:
    """The rows of this benchmark."""
    ours: list[float] = []
    theirs: list[float] = []
    rates: list[float] = []
    python = interpreter()
    with Sandbox() as sandbox:
        for code, tests, right in PROGRAMS:
            assert (sandbox.grade(code, tests).verdict == "pass") == right
        for _ in range(runs):
            began = time.perf_counter()
            times: list[float] = []
            for i in range(GRADES):
                code, tests, right = PROGRAMS[i % len(PROGRAMS)]
                start = time.perf_counter()
                assert (sandbox.grade(code, tests).verdict == "pass") == right
                times.append(time.perf_counter() - start)
            ours.append(statistics.median(times))
            rates.append(GRADES / (time.perf_counter() - began))
            times = []
            for i in range(GRADES // 4):
                code, tests, right = PROGRAMS[i % len(PROGRAMS)]
                start = time.perf_counter()
                text = "\n".join([code, *tests])
                done = subprocess.run([python, "-I", "-c", text], capture_output=True, timeout=30)
                assert (done.returncode == 0) == right
                times.append(time.perf_counter() - start)
            theirs.append(statistics.median(times))
        level = sandbox.level
    middle, other = 1000 * min(ours), 1000 * min(theirs)
    yield Row("milliseconds a grade, median", middle, 25.0, "<=", runs, middle, other, "ms",
              f"level {level}; that: a fresh python -I a grade, no fence")  # fmt: skip
    yield Row("grades a second, one worker", max(rates), 60.0, ">=", runs, 1 / max(rates), other / 1000, "s", "")
    yield Row("a grade / a fresh python -I a grade", middle / other, None, "<=", runs, middle, other, "ms")


if __name__ == "__main__":
    main(rows)
