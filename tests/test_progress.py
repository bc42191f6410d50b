"""What is told of work in shards while it goes on: counts from markers, lines in a pipe, bars, the log."""

from __future__ import annotations

import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon.console import Screen
from gnomon.errors import UserError
from gnomon.executors.local import Local
from gnomon.progress import Bars, Lines, bars, left
from gnomon.shards import ShardEvent
from gnomon.step import Context, ModelSpec
from gnomon.tally import Tally
from gnomon.writer import Writer


@dataclass
class Marks:
    """A worker that writes `info[index]` into the marker of each shard, and one array of 100 int64."""

    path: str
    info: dict[int, dict[str, Any]]

    def open(self) -> None: ...

    def __call__(self, shard: tuple[int, Any]) -> None:
        if shard[1] == "bad":
            raise UserError(f"shard {shard[0]} cannot be made")
        files = Writer.attach(self.path).shard(shard[0])
        files.array("part", np.arange(100))
        files.finish(self.info.get(shard[0], {}))


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path, "marks", "f" * 64)


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(tmp_path, ModelSpec("none"), executor=Local())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, to be set by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def said(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def marked(writer: Writer, infos: list[dict[str, Any]]) -> list[int]:
    """Write a shard an info; their files' bytes."""
    work = Marks(str(writer.path), dict(enumerate(infos)))
    for i in range(len(infos)):
        work((i, None))
    return [sum(f["bytes"] for f in marker["files"].values()) for marker in writer.done().values()]


def test_counts_come_from_the_markers(writer: Writer, clock: list[float]):
    infos = [{"rows": 10, "prompt_tokens": 300, "new_tokens": 200}, {"rows": 20, "tokens": 900}, {}]
    sizes = marked(writer, infos)
    tally = Tally(label="generate", folder=writer.path, sizes=[7, 7, 7])
    for i, worker in enumerate(["0", "1", "0"]):
        tally.note(ShardEvent("start", worker, (i, None)))
        clock[0] += i + 1
        tally.note(ShardEvent("done", worker, (i, None)))
        tally.done(i)  # told twice, counted once
    assert (tally.shards, tally.units, tally.rows, tally.tokens) == (3, 21, 10 + 20 + 7, 500 + 900)
    assert tally.bytes == sum(sizes)
    assert tally.took == {0: 1.0, 1: 2.0, 2: 3.0}
    zero, one = tally.workers["0"], tally.workers["1"]
    assert (zero.shards, zero.rows, zero.tokens, one.shards, one.rows, one.tokens) == (2, 17, 500, 1, 20, 900)
    assert zero.bytes + one.bytes == tally.bytes
    clock[0] += 6
    assert tally.words() == f"37 rows, 1,400 tokens (117/s), {sum(sizes) / 1000:.1f} kB, 12 s"
    assert one.speed() == "82 tokens/s"  # 900 in 11 s
    record = tally.record()
    assert record["shard_seconds"] == {"least": 1.0, "median": 2.0, "most": 3.0}
    assert (record["workers"], record["retries"], record["lost"], record["halved"]) == (["0", "1"], 0, 0, {})


def test_without_tokens_rows_have_the_speed_and_a_marker_that_is_not_seen_yet_counts_as_its_size(tmp_path, clock):
    tally = Tally(label="x", folder=tmp_path, sizes=[4])
    tally.note(ShardEvent("start", "0", (0, None)))
    clock[0] += 2
    tally.note(ShardEvent("done", "0", (0, None)))
    tally.note(ShardEvent("retry", "0", (1, None), "it died"))
    assert tally.words() == "4 rows (2.0/s), 2.0 s, 1 retry"
    tally.note(ShardEvent("retry", "0", (1, None), "it died"))
    tally.note(ShardEvent("lost", "0", (1, None), "it died"))
    assert tally.troubles() == "2 retries, 1 lost"


def test_a_worker_that_has_its_next_shard_already_is_on_that(tmp_path: Path):
    tally = Tally(label="x", folder=tmp_path, sizes=[1] * 3)
    tally.note(ShardEvent("start", "0", (0, None)))
    tally.note(ShardEvent("start", "0", (1, None)))
    tally.note(ShardEvent("done", "0", (0, None)))
    assert tally.current == {"0": 1}
    tally.note(ShardEvent("done", "0", (1, None)))
    assert tally.current == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_map_leaves_its_figures_in_the_context_and_the_log(writer, ctx, caplog, workers: int):
    caplog.set_level(logging.DEBUG, "gnomon")
    ctx.executor = Local(workers=workers)
    told: list[ShardEvent] = []
    ctx.watch = told.append
    ctx.map(Marks(str(writer.path), {i: {"rows": 5, "tokens": 50} for i in range(4)}), [None] * 4, writer, "read")
    ctx.executor.close()
    (work,) = ctx.work
    assert {k: work[k] for k in ("label", "shards", "rows", "tokens")} == {
        "label": "read", "shards": 4, "rows": 20, "tokens": 200,
    }  # fmt: skip
    assert work["bytes"] == sum(f["bytes"] for m in writer.done().values() for f in m["files"].values())
    assert len(work["workers"]) == workers
    assert [e.shard[0] for e in told if e.kind == "start"] == [0, 1, 2, 3]
    (line,) = [text for text in said(caplog, logging.DEBUG) if text.startswith("read: ")]
    assert line.startswith("read: 20 rows, 200 tokens (")


def test_what_takes_long_or_had_trouble_is_said_and_run_log_has_the_rest(tmp_path: Path, clock, caplog):
    caplog.set_level(logging.DEBUG, "gnomon")
    log = logging.getLogger("gnomon")
    for seconds, retries, level in ((1, 0, logging.DEBUG), (6, 0, logging.INFO), (1, 1, logging.INFO)):
        tally = Tally(label="x", folder=tmp_path, sizes=[1])
        tally.done(0)
        tally.retries = retries
        clock[0] += seconds
        assert tally.say(log)
        assert caplog.records[-1].levelno == level
    assert not Tally(label="x", folder=tmp_path).say(log)


def test_batches_that_did_not_fit_are_named_once_a_map(writer: Writer, ctx: Context, caplog):
    infos = {1: {"halved": [8, 4]}, 2: {"halved": [8, 8]}, 3: {"halved": []}}
    ctx.map(Marks(str(writer.path), infos), [None] * 4, writer, "generate")
    (line,) = said(caplog, logging.WARNING)
    assert line.startswith("generate: memory ran out in batches of 8 (shards 1, 2), 4 (shard 1);")
    assert "batch_size" in line
    assert ctx.work[0]["halved"] == {"1": [8, 4], "2": [8, 8]}


def test_a_map_that_fails_says_what_it_did_before(writer: Writer, ctx: Context):
    work = Marks(str(writer.path), {0: {"rows": 3}})
    with pytest.raises(UserError, match="shard 1"):
        ctx.map(work, [None, "bad", None], writer, "generate")
    assert [w["shards"] for w in ctx.work] == [1]


def test_a_retry_and_a_loss_are_warned_of(writer: Writer, ctx: Context, caplog):
    class Troubled(Local):
        """Tells of a death."""

        def map(self, worker, shards, watch=None):
            assert watch is not None
            watch(ShardEvent("start", "n/1", shards[0]))
            watch(ShardEvent("retry", "n/1", shards[0], "worker 1 died on shard 0"))
            watch(ShardEvent("lost", "n/1", shards[0], "worker 2 died on shard 0"))
            yield from super().map(worker, shards[1:], watch)

    ctx.executor = Troubled()
    ctx.map(Marks(str(writer.path), {}), [None] * 3, writer, "read")
    assert said(caplog, logging.WARNING) == [
        "read: worker 1 died on shard 0; it is tried again",
        "read: worker 2 died on shard 0; it is given up, the others go on",
    ]
    assert (ctx.work[0]["retries"], ctx.work[0]["lost"], ctx.work[0]["shards"]) == (1, 1, 2)


def test_shards_are_there_already_only_after_a_real_resume(tmp_path: Path, writer: Writer, ctx: Context, caplog):
    caplog.set_level(logging.INFO, "gnomon")
    work = Marks(str(writer.path), {})
    ctx.map(work, [None] * 2, writer, "first")
    ctx.map(work, [None] * 5, writer, "second")  # the first stage's shards are passed again
    assert not any("already" in text for text in said(caplog))
    assert [w["shards"] for w in ctx.work] == [2, 3]
    (writer.path / "_done" / "00004.json").unlink()
    again = Context(tmp_path, ModelSpec("none"))
    again.map(work, [None] * 2, writer, "first")
    again.map(work, [None] * 5, writer, "second")
    again.map(work, [None] * 5, writer, "third")
    assert [text for text in said(caplog) if "already" in text] == [
        "first: 2 of 2 shards are there already", "second: 2 of 3 shards are there already",
    ]  # fmt: skip


def test_in_a_pipe_a_line_a_quarter_of_what_takes_long_with_what_was_done_and_is_left(writer, clock):
    lines: list[str] = []
    marked(writer, [{"rows": 10, "tokens": 1000}] * 8)
    meter, tally = Lines(lines.append, "generate", 100), Tally(label="generate", folder=writer.path, sizes=[10] * 8)
    meter.already(20)
    for i in range(8):
        clock[0] += 2
        tally.note(ShardEvent("done", "0", (i, None)))
        meter.look(tally)
        meter(10)
    assert [line.split(" tokens")[0] for line in lines] == [
        "  generate: 50 of 100, 30 rows, 3,000", "  generate: 80 of 100, 60 rows, 6,000"
    ]  # fmt: skip
    assert "(500/s)" in lines[0]
    assert lines[0].endswith("6.0 s, 10 s left")  # 30 in 6 s; 50 are missing
    assert lines[1].endswith("12 s, 4.0 s left")


def test_what_is_short_or_endless_says_nothing_in_a_pipe(clock):
    lines: list[str] = []
    for total in (4, None):
        meter = Lines(lines.append, "x", total)
        for _ in range(4):
            clock[0] += 1 if total else 100
            meter(1)
    assert lines == []


def test_time_left_is_at_the_speed_so_far():
    assert left(10.0, 5, 20) == 40.0
    assert left(10.0, 0, 20) is None
    assert left(10.0, 5, 0) == 0.0


def drawn(many: int, clock: list[float], folder: Path) -> str:
    """What a terminal shows of 3 of 8 shards done by so many workers."""
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    page = Console(file=(text := io.StringIO()), force_terminal=True, width=140, color_system=None)
    tally = Tally(label="generate", folder=folder, sizes=[10] * 8)
    with bars(console, "[b]generate[/b]", 80) as meter:
        assert isinstance(meter, Bars)
        for i in range(4):
            tally.note(ShardEvent("start", str(i % many), (i, None)))
        for i in range(3):
            clock[0] += 10
            tally.note(ShardEvent("done", str(i % many), (i, None)))
            meter.look(tally)
            meter(10)
        page.print(meter.progress.get_renderable())
    return text.getvalue()


def test_a_terminal_has_a_bar_in_all_and_one_a_worker(writer: Writer, clock: list[float]):
    sizes = marked(writer, [{"rows": 10, "tokens": 3000}] * 3)
    whole, first, second = drawn(2, clock, writer.path).rstrip().splitlines()
    assert "[b]generate[/b]" in whole
    for part in ("30/80", "300 tokens/s", f"{sum(sizes) / 1000:.1f} kB", "50 s left"):
        assert part in whole
    for part in ("worker 0", "20/80", "idle", "200 tokens/s"):
        assert part in first
    for part in ("worker 1", "10/80", "shard 3", "100 tokens/s"):
        assert part in second
    assert len(drawn(1, clock, writer.path).rstrip().splitlines()) == 1


def test_the_screen_gives_meters_that_a_step_may_call():
    for terminal in (True, False):
        with Screen(terminal).bar("x", 3) as meter:
            meter.already(1)
            meter(2)
