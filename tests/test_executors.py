"""Laws of the executors: the same results and files with one worker or many; errors, kills and interrupts leave whole
shards and say what happened; no process is left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import UserError
from gnomon.executors.local import Local
from gnomon.registry import find, table
from gnomon.shards import Executor, ShardEvent, Watch, Worker
from gnomon.writer import Writer
from tests.fake_steps import CountWorker
from tests.light_workers import Dies, Threads, Unsendable

ROOT = Path(__file__).parent.parent
F = "f" * 64


def work(
    folder: Path, workers: int, shards: int = 6, watch: Watch | None = None, retries: int = 2, **trouble: int
) -> tuple[Writer, list[Any]]:
    writer = Writer(folder, "count", F)
    rows = [list(range(4 * i, 4 * i + 4)) for i in range(shards)]
    done = writer.done()
    tasks = [(i, r) for i, r in enumerate(rows) if i not in done]
    worker = CountWorker(str(writer.path), 0, 4 * shards, 3, trouble)
    return writer, [
        (shard[0], result) for shard, result in Local(workers=workers, retries=retries).map(worker, tasks, watch)
    ]


def opened(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "opened").read_text().split()]


def dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def waited(law: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not law() and time.monotonic() < end:
        time.sleep(0.05)
    return law()


def test_every_registered_executor_is_one():
    for name in table("executor"):
        executor: Executor = find("executor", name)()
        assert list(executor.map(Threads(), [])) == []


def test_one_worker_or_many_give_the_same_results_and_the_same_files(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, first = work(tmp_path / "a", 1)
    two, second = work(tmp_path / "b", 2)
    assert sorted(first) == sorted(second) == [(i, 4) for i in range(6)]
    assert one.commit({}).meta["files"] == two.commit({}).meta["files"]
    assert opened(tmp_path / "a") == [os.getpid()]  # in this process, once
    assert len(opened(tmp_path / "b")) == 2  # once in each of two others
    assert os.getpid() not in opened(tmp_path / "b")
    assert waited(lambda: all(dead(pid) for pid in opened(tmp_path / "b")))


def test_no_shards_open_nothing(tmp_path: Path):
    assert list(Local(workers=2).map(CountWorker(str(tmp_path / "x"), 0, 0, 0, {}), [])) == []
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_workers_user_error_crosses_unchanged(tmp_path: Path, workers: int):
    with pytest.raises(UserError) as caught:
        work(tmp_path, workers, user_error=3)
    assert (caught.value.got, caught.value.do) == ("shard 3 cannot be made", "choose n below 10")
    assert 3 not in Writer(tmp_path, "count", F).done()


def test_any_other_error_comes_with_the_workers_traceback(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"failed on shard 3:\n(.|\n)*ZeroDivisionError: shard 3"):
        work(tmp_path, 2, bug=3)
    assert waited(lambda: all(dead(pid) for pid in opened(tmp_path)))


def test_a_shard_that_kills_every_worker_is_named_and_the_rest_finishes(tmp_path: Path):
    told: list[ShardEvent] = []
    with pytest.raises(UserError) as caught:
        work(tmp_path, 2, kill=2, watch=told.append, retries=1)
    text = str(caught.value)
    assert "was killed by SIGKILL on shard 2, the last of 2 tries" in text
    assert any(f"(pid {pid})" in text for pid in opened(tmp_path))
    assert "1 of 6 shards are missing" in text
    assert "run the same command again" in text
    assert sorted(Writer(tmp_path, "count", F).done()) == [0, 1, 3, 4, 5]
    assert [(e.kind, e.shard[0]) for e in told if e.kind in ("retry", "lost")] == [("retry", 2), ("lost", 2)]
    assert all("was killed by SIGKILL" in e.text for e in told if e.kind in ("retry", "lost"))
    (tmp_path / "no-more-trouble").touch()
    resumed, results = work(tmp_path, 1)
    (tmp_path / "whole").mkdir()
    whole, _ = work(tmp_path / "whole", 1)
    assert results == [(2, 4)]
    assert resumed.commit({}).meta["files"] == whole.commit({}).meta["files"]


def test_a_shard_whose_worker_died_is_tried_again_by_another(tmp_path: Path):
    told: list[ShardEvent] = []
    writer, results = work(tmp_path, 2, kill_once=2, watch=told.append)
    assert sorted(results) == [(i, 4) for i in range(6)]
    assert sorted(writer.done()) == list(range(6))
    assert [e.shard[0] for e in told if e.kind == "retry"] == [2]
    assert [e.kind for e in told].count("lost") == 0
    assert len(opened(tmp_path)) == 3  # the dead one was replaced
    starts = [e.shard[0] for e in told if e.kind == "start"]
    assert sorted(starts) == [0, 1, 2, 2, 3, 4, 5]
    assert [s for i, s in enumerate(starts) if s not in starts[:i]] == list(range(6))  # handed out in order


def test_when_every_worker_dies_the_run_ends(tmp_path: Path):
    worker: Worker = Dies()
    told: list[ShardEvent] = []
    with pytest.raises(UserError, match=r"ended with code 3 on shard [01].*5 of 5.*no worker is left"):
        list(Local(workers=2, retries=1).map(worker, [(i, []) for i in range(5)], told.append))
    assert [e.kind for e in told].count("start") == 3  # two, and one in place of the first


def test_a_result_that_cannot_travel_is_an_error_not_a_hang():
    with pytest.raises(RuntimeError, match=r"failed on shard [01]"):
        list(Local(workers=2).map(Unsendable(), [(0, []), (1, [])]))


def test_workers_get_their_own_device_and_the_runs_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seen = {result for _, result in Local(workers=3).map(Threads(), [(i, []) for i in range(12)])}
    assert {threads for threads, _, _ in seen} == {"3"}
    assert {device for _, device, _ in seen} <= {"4", "7"}
    assert {deaf for _, _, deaf in seen} == {True}  # Ctrl-C is for the driver
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    ((_, (threads, device, _)), _) = Local(workers=2).map(Threads(), [(0, []), (1, [])])
    assert int(threads or 0) == max(1, (os.cpu_count() or 1) // 2)
    assert device == ""


def test_an_abandoned_map_leaves_no_process(tmp_path: Path):
    writer = Writer(tmp_path, "count", F)
    worker = CountWorker(str(writer.path), 0, 0, 0, {"sleep": 50})
    results = Local(workers=2).map(worker, [(i, [i]) for i in range(50)])
    next(iter(results))
    results.close()  # type: ignore[attr-defined]
    assert waited(lambda: all(dead(pid) for pid in opened(tmp_path)))


@pytest.mark.parametrize(
    ("number", "group", "sleep", "wanted"),
    [(signal.SIGINT, True, 100, "interrupted"), (signal.SIGINT, False, 60_000, "interrupted"),
     (signal.SIGKILL, False, 60_000, "")],
    ids=["ctrl-c in a terminal", "in the middle of a shard", "driver killed in the middle of a shard"],
)  # fmt: skip
def test_workers_end_with_their_driver(tmp_path: Path, number: signal.Signals, group: bool, sleep: int, wanted: str):
    script = f"""
if __name__ == "__main__":
    from pathlib import Path
    from tests.test_executors import work
    try:
        work(Path({str(tmp_path)!r}), 2, 100, sleep={sleep})
    except KeyboardInterrupt:
        print("interrupted")
"""
    file = tmp_path / "driver.py"
    file.write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=environment, text=True, start_new_session=True)  # fmt: skip
    assert waited(lambda: (tmp_path / "opened").is_file() and len(opened(tmp_path)) == 2, 60)
    time.sleep(0.2)
    if group:
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    said, errors = driver.communicate(timeout=30)
    assert said.strip() == wanted
    assert "Traceback" not in errors
    assert waited(lambda: all(dead(pid) for pid in opened(tmp_path)))
    assert len(Writer(tmp_path, "count", F).done()) < 100


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="workers"):
        Local(workers=0)
