"""Measurements that need a process of their own: peak memory, and the environment a benchmark starts in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def environment(threads: int) -> dict[str, str]:
    """The environment of a benchmark process: the thread count, and OpenMP threads that sleep while they wait.

    Spinning threads would count waiting as work, most of all on a busy machine.
    """
    count = str(threads)
    own = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return os.environ | own | quiet | {"PYTHONPATH": path}


def measured(module: str, *args: Any) -> dict[str, Any]:
    """Run `python -m benchmarks.MODULE ARGS` and return the JSON object on its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def begin_peak() -> int:
    """Start a peak-memory measurement; returns the bytes held now (the baseline that `peak_above` takes off).

    Where the system cannot reset its high-water mark, the mark so far is the baseline.
    """
    from gnomon.machine import peak_memory, reset_peak

    reset_peak()
    return peak_memory()["peak_memory_bytes"]


def peak_above(baseline: int) -> dict[str, int]:
    """Bytes of the highest resident set since `begin_peak`, whole and above the baseline."""
    from gnomon.machine import peak_memory

    peak = peak_memory()["peak_memory_bytes"]
    return {"peak": peak, "above": peak - baseline, "baseline": baseline}
