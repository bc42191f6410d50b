"""The last whole run as a page: every row, when, and on what class of machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import Row

UNITS = {"bytes": 2**20}


def markdown(rows: Sequence[Row], seconds: float, threads: int, load: tuple[float, float]) -> str:
    """results.md. `load`: the machine's one-minute load average at the beginning and at the end."""
    missed = [row.name for row in rows if row.met is False]
    verdict = f"{len(missed)} of {len(rows)} goals missed: {', '.join(missed)}." if missed else "Every goal is met."
    lines = [
        "# Benchmark results",
        "",
        f"Written by `make bench` on {time.strftime('%Y-%m-%d')}; the run took {seconds / 60:.0f} minutes. {verdict}",
        "",
        *(f"- {fact}" for fact in (*machine_class(), f"threads: {threads}; load average {load[0]:.1f} before and "
                                   f"{load[1]:.1f} after")),
        "",
        "A ratio is what the name says over what it says: the least of the repeats, interleaved in one process.",
        "",
        "| benchmark | ratio | goal | met | this | that | unit | runs | note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(line(row) for row in rows),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def line(row: Row) -> str:
    """One row of the table. A `>=` row is a speed-up: that over this."""
    scale = UNITS.get(row.unit, 1)
    unit = "MiB" if row.unit == "bytes" else row.unit

    def number(value: float | None, digits: int) -> str:
        if value is None:
            return ""
        return f"{value:.1e}" if 0 < abs(value) < 10**-digits else f"{value:.{digits}f}"

    goal = "" if row.goal is None else f"{row.sense} {row.goal:g}"
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    sides = [number(None if v is None else v / scale, 2) for v in (row.ours, row.theirs)]
    return "| " + " | ".join([row.name, number(row.ratio, 3), goal, met, *sides, unit, str(row.runs), row.note]) + " |"


def machine_class() -> list[str]:
    """What decides the speed, without naming a machine: processor family, cores, memory, versions."""
    from importlib.metadata import version

    from gnomon.machine import machine

    facts = machine()
    memory = round(facts["memory_bytes"] / 2**30)
    return [
        f"processor: {facts['processor']}, {family()}; instructions {', '.join(facts['instructions'])}",
        f"cores: {facts['cores']}; memory: {memory} GiB; {facts['system']}",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy")),
    ]


def family() -> str:
    """Vendor, family and model numbers of the processor, where the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line
    )
    parts = [fields.get("vendor_id", ""), "family", fields.get("cpu family", ""), "model", fields.get("model", "")]
    return " ".join(parts) if fields.get("cpu family") else platform.machine()
