"""What a map over shards has come to: rows, tokens, bytes, seconds, retries - for progress bars, the log and meta.json.

Counts come from the shards' markers and from what the executor tells; results never depend on them.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gnomon.shards import ShardEvent
from gnomon.text import duration, size

LONG = 5.0
"""Seconds from which on a map's figures are said on the screen; run.log has them all."""


@dataclass
class Count:
    """What some shards amount to."""

    shards: int = 0
    units: int = 0
    """What the step counts its shards' sizes in: rows, mostly."""
    rows: int = 0
    tokens: int = 0
    bytes: int = 0
    began: float = field(default_factory=lambda: time.monotonic())
    """When the counting began, by the monotonic clock."""

    def add(self, marker: Mapping[str, Any], units: int) -> None:
        """Count a shard of a size by its marker; the size stands for its rows where that does not tell them.

        Tokens are those of prompts and answers where a marker tells them apart, else its `tokens`.
        """
        info = marker.get("info") or {}
        self.shards += 1
        self.units += units
        self.rows += _whole(info, "rows", units)
        self.tokens += _whole(info, "prompt_tokens") + _whole(info, "new_tokens") or _whole(info, "tokens")
        self.bytes += sum(_whole(file, "bytes") for file in (marker.get("files") or {}).values())

    @property
    def seconds(self) -> float:
        """Since the counting began."""
        return time.monotonic() - self.began

    def speed(self) -> str:
        """Tokens a second, or rows, in words."""
        what, count = ("tokens", self.tokens) if self.tokens else ("rows", self.rows)
        return f"{_rate(count / max(self.seconds, 1e-9))} {what}/s" if count else ""


@dataclass
class Tally(Count):
    """One map's count, by worker too, with what went wrong."""

    label: str = ""
    folder: Path = Path()
    """The step's partial folder, whose markers are read."""
    sizes: Sequence[int] = ()
    """Of each shard, in units."""
    workers: dict[str, Count] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)
    """The shard that each worker is on."""
    retries: int = 0
    lost: int = 0
    halved: dict[int, list[int]] = field(default_factory=dict)
    """Batch sizes that memory ran out at, by shard."""
    took: dict[int, float] = field(default_factory=dict)
    """Seconds of each shard, from its start to its end."""
    _started: dict[int, float] = field(default_factory=dict)
    _counted: set[int] = field(default_factory=set)

    def note(self, event: ShardEvent) -> None:
        """Take in what the executor tells; a shard that is done is counted by its marker."""
        worker = self.workers.setdefault(event.worker, Count())
        if event.shard is None:
            return
        index = int(event.shard[0])
        if event.kind == "start":
            self._started[index] = time.monotonic()
            self.current[event.worker] = index
            return
        if self.current.get(event.worker) == index:  # unless it has its next one already
            self.current.pop(event.worker)
        self.retries += event.kind == "retry"
        self.lost += event.kind == "lost"
        if event.kind == "done":
            marker = self.done(index)
            worker.add(marker, self.sizes[index])
            if index in self._started:
                self.took[index] = time.monotonic() - self._started[index]

    def done(self, index: int) -> Mapping[str, Any]:
        """Count shard `index`, once; returns its marker."""
        marker: Any = {}
        if index in self._counted:
            return marker
        self._counted.add(index)
        with suppress(OSError, ValueError):  # on a network disk it may be seen later: the count then lacks it
            marker = json.loads((self.folder / "_done" / f"{index:05d}.json").read_bytes())
        self.add(marker, self.sizes[index])
        if halved := (marker.get("info") or {}).get("halved"):
            self.halved[index] = [int(n) for n in halved]
        return marker

    def words(self) -> str:
        """600 rows, 41,200 tokens (3,400/s), 12 MB, 12 s, 1 retry."""
        seconds = max(self.seconds, 1e-9)
        rows = f"{self.rows:,} row{'s' * (self.rows != 1)}"
        parts = [rows, f"{self.tokens:,} tokens ({_rate(self.tokens / seconds)}/s)"] if self.tokens else [
            f"{rows} ({_rate(self.rows / seconds)}/s)"
        ]  # fmt: skip
        parts += [size(self.bytes), duration(seconds), self.troubles()]
        return ", ".join(part for part in parts if part)

    def troubles(self) -> str:
        """Retries and lost shards in words; "" without any."""
        retried = f"{self.retries} retr{'ies' if self.retries > 1 else 'y'}" if self.retries else ""
        return ", ".join(part for part in (retried, f"{self.lost} lost" if self.lost else "") if part)

    def halving(self) -> str:
        """Which batch sizes memory ran out at, on which shards; "" where it never did."""
        shards: dict[int, list[int]] = {}
        for index, sizes in sorted(self.halved.items()):
            for each in sorted(set(sizes), reverse=True):
                shards.setdefault(each, []).append(index)
        return ", ".join(f"{each} ({_some(found)})" for each, found in sorted(shards.items(), reverse=True))

    def record(self) -> dict[str, Any]:
        """What a step's meta.json keeps of it."""
        took = sorted(self.took.values())
        spread = {"least": took[0], "median": statistics.median(took), "most": took[-1]} if took else {}
        return {
            "label": self.label, "shards": self.shards, "rows": self.rows, "tokens": self.tokens, "bytes": self.bytes,
            "seconds": round(self.seconds, 3), "shard_seconds": {key: round(s, 3) for key, s in spread.items()},
            "workers": sorted(self.workers), "retries": self.retries, "lost": self.lost,
            "halved": {str(index): sizes for index, sizes in sorted(self.halved.items())},
        }  # fmt: skip

    def say(self, log: logging.Logger) -> bool:
        """Log the figures, and which batches did not fit; False where nothing was done."""
        if not self.shards and not self.retries:
            return False
        level = logging.INFO if self.seconds > LONG or self.troubles() else logging.DEBUG
        log.log(level, "%s: %s", self.label, self.words(), extra={"work": self.record()})
        if self.halved:
            log.warning(
                "%s: memory ran out in batches of %s; they were run in halves, so that their values agree with those "
                "of whole batches within rounding only: a smaller batch_size avoids it", self.label, self.halving(),
                extra={"halved": self.halved},
            )  # fmt: skip
        return True


def warn(log: logging.Logger, label: str, event: ShardEvent) -> None:
    """Log a shard that is tried again, or given up."""
    if event.kind in ("retry", "lost"):
        end = "it is tried again" if event.kind == "retry" else "it is given up, the others go on"
        log.warning("%s: %s; %s", label, event.text, end, extra={"worker": event.worker, "event": event.kind})


class Meter(Protocol):
    """A progress display."""

    def __call__(self, n: int) -> None:
        """`n` more are through."""
        ...

    def already(self, n: int) -> None:
        """`n` were through beforehand: they say nothing of the speed."""
        ...

    def look(self, tally: Tally) -> None:
        """Something happened to a shard or worker."""
        ...


class Silent:
    """A display that shows nothing."""

    def __call__(self, n: int) -> None: ...
    def already(self, n: int) -> None: ...
    def look(self, tally: Tally) -> None: ...


def _whole(values: Mapping[str, Any], key: str, default: int = 0) -> int:
    value = values.get(key, default)
    return value if isinstance(value, int) else default


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _some(shards: Sequence[int], most: int = 6) -> str:
    named = ", ".join(map(str, shards[:most])) + (f" and {len(shards) - most} more" if len(shards) > most else "")
    return f"shard{'s' * (len(shards) > 1)} {named}"
