"""Fair clocks: interleaved repeats, the least of them, processor time; and the row that a benchmark prints.

Two programs are compared by running A B A B A B in one process and dividing the least time of A by the least of B, so
that a busy neighbour or a warm cache meets both. Processor time is user plus system time of all threads of the
process; `processes.environment` lets waiting threads sleep, for a spinning one would count as work.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RUNS = 3


@dataclass(frozen=True)
class Row:
    """One measured claim. `ratio` is what the name says over what it says; `goal` is met where `ratio sense goal`.

    A row without a goal is information: `met` is then None and never fails a run. `ours` and `theirs` are the least
    of `runs` repeats, in `unit`.
    """

    name: str
    ratio: float | None
    goal: float | None
    sense: Literal["<=", ">="] = "<="
    runs: int = RUNS
    ours: float | None = None
    theirs: float | None = None
    unit: str = "cpu s"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """True or False where there is a goal; a ratio that could not be measured misses it."""
        if self.goal is None:
            return None
        if self.ratio is None or self.ratio != self.ratio:
            return False
        return self.ratio <= self.goal if self.sense == "<=" else self.ratio >= self.goal

    def json(self) -> str:
        """The row as one line of strict JSON."""

        def short(value: float | None) -> float | None:
            return None if value is None or value != value else float(f"{value:.4g}")

        fields = {
            "name": self.name, "ratio": short(self.ratio), "goal": self.goal, "met": self.met, "runs": self.runs,
            "sense": self.sense, "ours": short(self.ours), "theirs": short(self.theirs), "unit": self.unit,
            "note": self.note,
        }  # fmt: skip
        return json.dumps(fields, allow_nan=False)

    @classmethod
    def read(cls, line: str) -> Row:
        """The inverse of `json`, but for rounding."""
        return cls(**{key: value for key, value in json.loads(line).items() if key != "met"})


@dataclass
class Times:
    """Seconds of every repeat of one job: of the processor, and by the clock on the wall."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @property
    def least(self) -> float:
        """The least processor time."""
        return min(self.cpu)

    @property
    def spread(self) -> float:
        """The greatest processor time over the least: how far the repeats disagree."""
        return max(self.cpu) / min(self.cpu)


def cpu_seconds() -> float:
    """User and system time of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def interleave(
    jobs: Mapping[str, Callable[[], Any]], runs: int, see: Callable[[str, Any], None] | None = None
) -> dict[str, Times]:
    """Run every job once, then every job again, `runs` times. `see(name, result)` is called untimed, the first round.

    Warm up before: the first job would otherwise pay for loading code and touching weights.

    A result is freed before the next job begins.
    """
    out = {name: Times() for name in jobs}
    for turn in range(runs):
        for name, job in jobs.items():
            gc.collect()
            cpu, wall = cpu_seconds(), time.perf_counter()
            result = job()
            out[name].cpu.append(cpu_seconds() - cpu)
            out[name].wall.append(time.perf_counter() - wall)
            if see is not None and turn == 0:
                see(name, result)
            del result
    return out


def cpu_row(
    name: str, ours: Times, theirs: Times, goal: float | None, sense: Literal["<=", ">="] = "<=", note: str = ""
) -> Row:
    """The row of two jobs' least processor times: ours over theirs, or (`>=`: a speed-up) theirs over ours."""
    ratio = ours.least / theirs.least if sense == "<=" else theirs.least / ours.least
    wall = f"wall {min(ours.wall):.1f} and {min(theirs.wall):.1f} s"
    spread = f"repeats within {max(ours.spread, theirs.spread):.2f}x"
    notes = "; ".join(filter(None, (note, wall, spread)))
    return Row(name, ratio, goal, sense, len(ours.cpu), ours.least, theirs.least, note=notes)


def main(rows: Callable[[int], Iterable[Row]]) -> None:
    """A benchmark module run by itself: print its rows, one JSON object a line, as they are found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=RUNS, help="repeats of every job; the least counts")
    for row in rows(parser.parse_args().runs):
        print(row.json(), flush=True)
