"""A few batches of a step's own plan, run to see how long it takes: part of a calibration."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon.calibration import Job


def try_batches(job: Job, left: Callable[[], float], say: Callable[[dict[str, Any]], None]) -> None:
    """Run a few batches of a step's own plan, the middle one first, then those between, until the time is up."""
    from gnomon.config import Entry, build_step
    from gnomon.rows.work import Asker
    from gnomon.writer import Writer

    step: Any = build_step(Entry(step=job.step, name=job.step, options=dict(job.options)))
    _, asking, shards = step.planned(job.spec, job.seed)
    batches = [batch for shard in shards for batch in shard]
    asked, tokens, spent, of = 0, 0, 0.0, sum(map(len, batches))
    with tempfile.TemporaryDirectory(prefix="gnomon-calibration-") as scratch:
        out = Writer(Path(scratch), job.step, "calibration")
        worker = Asker(job.spec, step.task, asking, out.path)
        worker.open()
        for index in between(len(batches)):
            clock = time.perf_counter()
            info = worker((index, [batches[index]]))
            took = time.perf_counter() - clock
            asked, tokens, spent = asked + len(batches[index]), tokens + int(info["new_tokens"]), spent + took
            say({"trials": {job.fingerprint: {"seconds": spent, "rows": asked, "of": of, "new_tokens": tokens}}})
            if left() < 2 * took or asked >= max(64, of // 20):
                return


def between(count: int) -> list[int]:
    """0 to count - 1, so that every beginning of the list is spread evenly: the middle, the quarters, the eighths."""
    out: dict[int, None] = {}
    parts = 1
    while len(out) < count:
        parts *= 2
        out |= dict.fromkeys(count * i // parts for i in range(1, parts, 2))
        if parts > count:
            out |= dict.fromkeys(range(count))
    return list(out)
