"""Two workers on two cores against one: a study of generate and capture on SmolLM2, each run in a process of its own.

Wall time, for that is what workers are for, so nothing else may run meanwhile. The study begins with a small `generate`
that starts the worker processes and loads the model in each; what follows, 64 questions answered with 16 tokens and
captured at every token and block, is timed without it and, in a row of its own, with it. Efficiency is the time of one
worker over two times that of two; 1 would be perfect. Both use one thread each. The files must come out the same,
byte for byte. One worker with two threads is what a person would otherwise do with two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.processes import measured
from benchmarks.setting import MODEL
from benchmarks.timing import Row, main

QUESTIONS, NEW, SHARD = 64, 16, 8
SETUPS = {"one": (1, 1), "two": (2, 1), "threads": (1, 2)}
"""Workers, and threads of each."""
GOAL = 0.8


def rows(runs: int) -> Iterator[Row]:
    """The rows of this benchmark: the least times of `runs` repeats, the setups in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SETUPS}
    for _ in range(runs):
        for name, (workers, threads) in SETUPS.items():
            found[name].append(measured("scaling", "--study", workers, threads))
    least = {
        name: {key: min(run[key] for run in those) for key in ("generate", "capture", "work", "whole")}
        for name, those in found.items()
    }
    one, two, threads = (least[name] for name in SETUPS)
    same = len({run["bytes"] for name in ("one", "two") for run in found[name]}) == 1
    tokens = found["one"][0]["tokens"]
    note = (
        f"{tokens / one['work']:.0f} and {tokens / two['work']:.0f} tokens/s; generate {one['generate']:.1f} and "
        f"{two['generate']:.1f} s, capture {one['capture']:.1f} and {two['capture']:.1f} s; files "
        f"{'are the same bytes' if same else 'DIFFER'}"
    )
    yield _row("efficiency of 2 workers x 1 thread against 1 worker x 1 thread", one["work"] / two["work"] / 2,
               GOAL, runs, two["work"], one["work"], note)  # fmt: skip
    yield _row("the same, start of the processes and loading included", one["whole"] / two["whole"] / 2, None, runs,
               two["whole"], one["whole"])  # fmt: skip
    yield _row("1 worker x 2 threads / 2 workers x 1 thread", threads["work"] / two["work"], None, runs, two["work"],
               threads["work"])  # fmt: skip
    yield _row("the two setups' files differ (0: byte for byte the same)", float(not same), 0.0, runs, unit="", at="<=")


def _row(name: str, ratio: float, goal: float | None, runs: int, ours: float | None = None,
         theirs: float | None = None, note: str = "", unit: str = "s", at: Any = ">=") -> Row:  # fmt: skip
    return Row(f"scaling / {name}", ratio, goal, at, runs, ours, theirs, unit, note)


def study(workers: int, threads: int) -> dict[str, Any]:
    """Seconds of a study's steps, of its work without and with the start, its tokens, and a hash of its data files."""
    import time

    from gnomon.run import run_study

    task = {"capitals": {}}
    answer = {"task": task, "max_new_tokens": NEW, "shard_rows": SHARD, "batch_size": SHARD}
    steps: list[dict[str, Any]] = [
        {"generate": answer | {"n": 6, "shard_rows": 3, "max_new_tokens": 2}, "as": "start"},
        {"generate": answer | {"n": QUESTIONS}},
        {"capture": {"sites": "resid_post.*", "positions": ["all"]}, "from": "generate"},
    ]
    content = {"model": MODEL, "device": "cpu", "threads": threads, "executor": {"local": {"workers": workers}}}
    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
        began = time.perf_counter()
        made = run_study(content | {"steps": steps}, Path(folder) / "study", log_level="warning")
        whole = time.perf_counter() - began
        meta = {name: made[name].meta for name in ("start", "generate", "capture")}
    seconds = {name: float(meta[name]["seconds"]) for name in meta}
    work = seconds["generate"] + seconds["capture"]
    return {
        "generate": seconds["generate"], "capture": seconds["capture"], "work": work, "whole": whole,
        "tokens": sum(one["tokens"] for name in ("generate", "capture") for one in meta[name]["work"]),
        "bytes": _digest({f"{n}/{f}": v for n in ("generate", "capture") for f, v in meta[n]["files"].items()}),
    }  # fmt: skip


def _digest(files: dict[str, dict[str, Any]]) -> str:
    from hashlib import sha256

    return sha256(json.dumps({name: file["sha256"] for name, file in sorted(files.items())}).encode()).hexdigest()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--study"]:
        print(json.dumps(study(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(rows)
