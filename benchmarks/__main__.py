"""Run the benchmarks, each in a process of its own: `python -m benchmarks [NAME ...] [--runs N] [--threads N]`.

Prints one JSON object a row. A run of all of them writes benchmarks/results.md. Exits 1 when a goal is missed or a
benchmark fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processes import ROOT, environment
from benchmarks.results import markdown
from benchmarks.timing import RUNS, Row

NAMES = ("capture", "generate", "memory", "store", "second_order", "agreement", "grading", "pathways", "token_nulls",
         "scaling")  # fmt: skip
PEERS = "lenses"
MINUTES = 25
"""What a whole run may take; a benchmark that would pass it is stopped, which misses its goals."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)}; all without")
    parser.add_argument("--runs", type=int, default=RUNS, help="repeats of every timed job; the least counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; one by default, so that nothing waits")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has requirements-peers.txt: measure them too")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in NAMES]
    if unknown or given.runs < 1 or given.threads < 1:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}" if unknown else "at least 1")
    began, load = time.time(), os.getloadavg()[0]
    deadline = time.monotonic() + 60 * MINUTES
    found: list[Row] = []
    jobs = [(name, sys.executable) for name in given.names or NAMES]
    if given.peers:
        jobs.append((PEERS, given.peers))
    for name, python in jobs:
        found += run(name, python, given.runs, given.threads, deadline - time.monotonic())
    if not given.names:
        text = markdown(found, time.time() - began, given.threads, (load, os.getloadavg()[0]))
        (Path(__file__).parent / "results.md").write_text(text, encoding="utf-8")
    return 0 if all(row.met is not False for row in found) else 1


def run(name: str, python: str, runs: int, threads: int, seconds: float) -> list[Row]:
    """Run one benchmark module and echo its rows; a failed or stopped one adds a row that misses its goal."""
    found: list[Row] = []
    command = [python, "-m", f"benchmarks.{name}", "--runs", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=ROOT) as process:
        assert process.stdout is not None
        stop = threading.Timer(max(seconds, 0.0), process.kill)
        stop.start()
        for line in process.stdout:
            if line.startswith("{"):
                print(line, end="", flush=True)
                found.append(Row.read(line))
        process.wait()
        stopped = not stop.is_alive()
        stop.cancel()
    if process.returncode:
        why = f"stopped: a whole run may take {MINUTES} minutes" if stopped else f"ended with code {process.returncode}"
        found.append(Row(name, None, 0.0, runs=0, unit="", note=why))
        print(found[-1].json(), flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
