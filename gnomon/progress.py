"""Progress as it is shown: bars on a terminal, one in all and one a worker; in a pipe a line at each quarter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gnomon.tally import Meter, Tally
from gnomon.text import duration, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

QUIET = 5.0
"""Seconds below which nothing is said in a pipe."""
REFRESH = 2
"""Redraws a second: more would cost what it measures."""


class Lines:
    """In a pipe: a line at each quarter of what takes long."""

    def __init__(self, line: Callable[[str], None], label: str, total: int | None) -> None:
        self.line, self.label, self.total = line, label, total
        self.began, self.done, self.before, self.quarter = time.monotonic(), 0, 0, 0
        self.tally: Tally | None = None

    def __call__(self, n: int) -> None:
        self.done += n
        quarter = 4 * self.done // self.total if self.total else 0
        if self.total and self.quarter < quarter < 4:
            seconds = time.monotonic() - self.began
            if seconds > QUIET:
                self.quarter = quarter
                words = self.tally.words() if self.tally else duration(seconds)
                ahead = left(seconds, self.done - self.before, self.total - self.done)
                words += f", {duration(ahead)} left" if ahead is not None else ""
                self.line(f"  {self.label}: {self.done} of {self.total}, {words}")

    def already(self, n: int) -> None:
        self.done += n
        self.before += n
        self.quarter = 4 * self.done // self.total if self.total else 0

    def look(self, tally: Tally) -> None:
        self.tally = tally


class Bars:
    """On a terminal: a bar in all, and below it one a worker where several work."""

    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self.progress, self.total = progress, total
        self.began, self.done, self.before = time.monotonic(), 0, 0
        self.task = progress.add_task(label, total=total, said="", left=None)
        self.rows: dict[str, TaskID] = {}

    def __call__(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        ahead = left(now - self.began, self.done - self.before, self.total - self.done) if self.total else None
        self.progress.update(self.task, advance=n, left=None if ahead is None else now + ahead)

    def already(self, n: int) -> None:
        self.done += n
        self.before += n
        self.progress.update(self.task, advance=n)

    def look(self, tally: Tally) -> None:
        said = [tally.speed(), size(tally.bytes), tally.troubles()]
        self.progress.update(self.task, said=", ".join(part for part in said if part))
        if len(tally.workers) < 2:
            return
        for name, count in sorted(tally.workers.items()):
            if name not in self.rows:
                self.rows[name] = self.progress.add_task(f"  worker {name}", total=self.total, said="", left=None)
            on = f"shard {tally.current[name]}" if name in tally.current else "idle"
            said = ", ".join(part for part in (on, count.speed(), size(count.bytes)) if part)
            self.progress.update(self.rows[name], completed=count.units, said=said)


@contextmanager
def bars(console: Console, label: str, total: int | None) -> Iterator[Meter]:
    """Bars on a terminal, gone when it is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """Time left, counted down between two shards."""

        max_refresh = 0.5

        def render(self, task: Any) -> Text:
            end = task.fields["left"]
            return Text(f"{duration(max(0.0, end - time.monotonic()))} left" if end is not None else "")

    columns = (
        TextColumn("  {task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("{task.fields[said]}", markup=False), TimeElapsedColumn(), Left(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, refresh_per_second=REFRESH) as progress:
        yield Bars(progress, label, total)


def left(seconds: float, done: int, missing: int) -> float | None:
    """Seconds that `missing` will take at the speed so far; None before anything is done."""
    return seconds / done * missing if done > 0 else None
