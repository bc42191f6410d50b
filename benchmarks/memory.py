"""Memory against the number of questions: generate and capture hold one shard, however many there are.

The same study is run with few and with twenty times as many questions (short sums, two new tokens, resid_post of every
block; then every token once more by capture), each in a process of its own; a step's peak resident set is what its
meta.json records.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.processes import measured
from benchmarks.setting import MODEL, SITES
from benchmarks.timing import Row, main

FEW, TIMES, SHARD = 32, 20, 32
STEPS = ("generate", "capture")


def rows(runs: int) -> Iterator[Row]:
    """One row a step; memory is no matter of luck, so `runs` is not used."""
    few, many = (measured("memory", "--peak", n) for n in (FEW, FEW * TIMES))
    for step in STEPS:
        yield Row(
            f"peak memory of {step}, {TIMES}x more questions / few", many[step] / few[step], 1.1, runs=1,
            ours=many[step], theirs=few[step], unit="bytes", note=f"{FEW * TIMES} and {FEW} questions, whole process",
        )  # fmt: skip


def peak(n: int) -> dict[str, int]:
    """Peak resident set of both steps with `n` questions."""
    from gnomon.run import run_study

    generate = {
        "task": {"sums": {"digits": "1-3", "style": "plain"}}, "n": n, "max_new_tokens": 2, "shard_rows": SHARD,
        "capture": {"sites": SITES, "positions": ["last_prompt", "last"]},
    }  # fmt: skip
    capture = {"sites": SITES, "positions": ["all"]}
    steps = [{"generate": generate}, {"capture": capture}]
    with tempfile.TemporaryDirectory() as folder:
        study = run_study({"model": MODEL, "device": "cpu", "steps": steps}, folder, log_level="error")
        return {step: int(study[step].meta["peak_memory_bytes"]) for step in STEPS}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(peak(int(sys.argv[2]))))
    else:
        main(rows)
