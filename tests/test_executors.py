"""Laws of the executors: the same results and files with one worker or many; errors, kills and interrupts leave whole
shards and say what happened; no process is left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gnomon.cores import physical_cores
from gnomon.errors import UserError
from gnomon.executors import crew_devices
from gnomon.executors.local import Local
from gnomon.registry import find, table
from gnomon.shards import Executor, ShardEvent, Watch, Worker
from gnomon.writer import Writer
from tests.fake_steps import CountWorker
from tests.light_workers import Dies, Holds, KilledBy, Marks, Slow, Threads, Unsendable

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


def marks(
    folder: Path, workers: int, shards: int = 6, watch: Watch | None = None, retries: int = 2, **trouble: int
) -> list[Any]:
    """The like with processes that import nothing heavy: shards that have a file already are not made again."""
    tasks = [(i, [i] * 4) for i in range(shards) if i not in marked(folder)]
    worker = Marks(str(folder), trouble)
    return [(shard[0], result) for shard, result in Local(workers=workers, retries=retries).map(worker, tasks, watch)]


def marked(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.done"))


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
        marks(tmp_path, workers, user_error=3)
    assert (caught.value.got, caught.value.do) == ("shard 3 cannot be made", "choose n below 10")
    assert 3 not in marked(tmp_path)


def test_any_other_error_comes_with_the_workers_traceback(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"failed on shard 3:\n(.|\n)*ZeroDivisionError: shard 3"):
        marks(tmp_path, 2, bug=3)
    assert waited(lambda: all(dead(pid) for pid in opened(tmp_path)))


def test_a_shard_that_kills_every_worker_is_named_and_the_rest_finishes(tmp_path: Path):
    told: list[ShardEvent] = []
    with pytest.raises(UserError) as caught:
        marks(tmp_path, 2, kill=2, watch=told.append, retries=1)
    text = str(caught.value)
    assert "was killed by SIGKILL on shard 2, the last of 2 tries" in text
    assert any(f"(pid {pid})" in text for pid in opened(tmp_path))
    assert "1 of 6 shards are missing" in text
    assert "run the same command again" in text
    assert marked(tmp_path) == [0, 1, 3, 4, 5]
    assert [(e.kind, e.shard[0]) for e in told if e.kind in ("retry", "lost")] == [("retry", 2), ("lost", 2)]
    assert all("was killed by SIGKILL" in e.text for e in told if e.kind in ("retry", "lost"))
    (tmp_path / "no-more-trouble").touch()
    assert marks(tmp_path, 1) == [(2, 4)]
    assert marked(tmp_path) == list(range(6))


def test_a_shard_whose_worker_died_is_tried_again_by_another(tmp_path: Path):
    told: list[ShardEvent] = []
    local = Local(workers=2)
    worker = KilledBy((2,), str(tmp_path / "killed"))
    found = dict(local.map(worker, [(i, None) for i in range(8)], told.append))
    assert sorted(index for index, _ in found) == list(range(8))
    assert [e.shard[0] for e in told if e.kind == "retry"] == [2]
    assert [e.kind for e in told].count("lost") == 0
    starts = [e.shard[0] for e in told if e.kind == "start"]
    assert sorted(starts) == [0, 1, 2, 2, 3, 4, 5, 6, 7]
    assert [s for i, s in enumerate(starts) if s not in starts[:i]] == list(range(8))  # handed out in order
    assert {e.worker for e in told} == {"0", "1"}  # the dead one was replaced
    (dead_one,) = [e.text.split("pid ")[1].split(")")[0] for e in told if e.kind == "retry"]
    assert int(dead_one) != found[(2, None)]


def test_many_deaths_are_not_replaced_for_ever_but_the_others_finish():
    told: list[ShardEvent] = []
    with pytest.raises(UserError) as caught:
        list(Local(workers=2, retries=1).map(KilledBy((0, 3, 5)), [(i, None) for i in range(7)], told.append))
    assert "3 of 7 shards are missing" in str(caught.value)
    assert "no worker is left" not in str(caught.value)
    assert sorted(e.shard[0] for e in told if e.kind == "done") == [1, 2, 4, 6]
    assert sorted(e.shard[0] for e in told if e.kind == "lost") == [0, 3, 5]
    assert [e.kind for e in told].count("retry") == 3


def test_without_retries_a_death_loses_its_shard():
    told: list[ShardEvent] = []
    with pytest.raises(UserError, match="on shard 1; 1 of 4 shards"):
        list(Local(workers=2, retries=0).map(KilledBy((1,)), [(i, None) for i in range(4)], told.append))
    assert sorted(e.shard[0] for e in told if e.kind == "done") == [0, 2, 3]


@pytest.fixture
def local() -> Iterator[Local]:
    made = Local(workers=2)
    yield made
    made.close()


def test_the_worker_processes_stay_from_map_to_map_and_end_with_close(tmp_path: Path, local: Local):
    file = tmp_path / "left"
    first, second = Holds(str(file)), Holds(str(file))
    before = {pid for _, (pid, _) in local.map(first, [(i, 0) for i in range(6)])}
    assert waited(lambda: file.is_file() and len(file.read_text().splitlines()) == 2)  # what an idle one has let go
    assert not any(dead(pid) for pid in before)
    again = {pid for _, (pid, _) in local.map(second, [(i, 0) for i in range(6)])}
    alone = {pid for _, (pid, _) in local.map(second, [(0, 0)])}  # a single shard, too: the model is loaded there
    opened = [int(line) for line in Path(f"{file}.opened").read_text().split()]
    assert len(opened) == len(set(opened)) + 3
    assert again | alone <= set(opened)
    assert os.getpid() not in opened
    local.close()
    assert waited(lambda: all(dead(pid) for pid in opened))
    local.close()
    assert {pid for _, (pid, _) in local.map(second, [(0, 0), (1, 0)])}.isdisjoint(opened)  # it starts anew


def test_other_threads_start_the_processes_anew(tmp_path: Path, local: Local, monkeypatch: pytest.MonkeyPatch):
    def those(threads: str) -> set[tuple[int, str | None]]:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        return {said for _, said in local.map(Holds(str(tmp_path / "left")), [(i, 0) for i in range(6)])}

    one, same, other = those("1"), those("1"), those("2")
    assert {threads for _, threads in one | same} == {"1"}
    assert {threads for _, threads in other} == {"2"}
    assert {pid for pid, _ in other}.isdisjoint({pid for pid, _ in one | same})


def test_one_that_died_while_it_was_idle_is_replaced(tmp_path: Path, local: Local):
    found = {pid for _, pid in local.map(Slow(), [(i, 0.05) for i in range(6)])}
    os.kill(min(found), signal.SIGKILL)
    os.waitid(os.P_PID, min(found), os.WEXITED | os.WNOWAIT)
    told: list[ShardEvent] = []
    assert len(list(local.map(Slow(), [(i, 0.05) for i in range(6)], told.append))) == 6
    assert {e.kind for e in told} == {"open", "start", "done"}


def test_a_run_that_is_not_closed_leaves_no_process_either():
    local = Local(workers=2)
    found = {pid for _, pid in local.map(Slow(), [(i, 0.01) for i in range(4)])}
    assert not any(dead(pid) for pid in found)
    del local
    assert waited(lambda: all(dead(pid) for pid in found))


def test_shards_go_to_whoever_is_free(local: Local):
    told: list[ShardEvent] = []
    seconds = [1.0] + [0.02] * 9
    list(local.map(Slow(), list(enumerate(seconds)), told.append))
    done = [(e.worker, e.shard[0]) for e in told if e.kind == "done"]
    (slow,) = [worker for worker, shard in done if shard == 0]
    assert sum(worker == slow for worker, _ in done) < 5  # fixed halves would be five each


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_told_of_every_shard(workers: int):
    told: list[ShardEvent] = []
    local = Local(workers=workers)
    found = [shard for shard, _ in local.map(Slow(), [(i, 0.02) for i in range(5)], told.append)]
    local.close()
    assert sorted(found) == [(i, 0.02) for i in range(5)]
    by_worker: dict[str, list[str]] = {}
    for event in told:
        by_worker.setdefault(event.worker, []).append(event.kind)
    assert len(by_worker) == workers
    assert [e.kind for e in told].count("open") == workers
    for shard in range(5):
        kinds = [e.kind for e in told if e.shard == (shard, 0.02)]
        assert kinds == ["start", "done"]


def test_auto_is_one_a_core_if_memory_allows_or_one_a_group_of_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crew_devices, "physical_cores", lambda: 8)
    monkeypatch.setattr(crew_devices, "memory_bytes", lambda: 10**11)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Local(workers="auto").processes() == 8
    assert Local(workers="auto").processes(10**9) == 8
    assert Local(workers="auto").processes(15 * 10**9) == 5  # and one for the driver: 90 of 100 GB
    assert Local(workers="auto").processes(80 * 10**9) == 1
    settled = Local(workers="auto")
    assert settled.processes(15 * 10**9) == settled.processes() == settled.processes(1) == 5
    assert Local(workers=3).processes(80 * 10**9) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")
    assert Local(workers="auto").processes(80 * 10**9) == 5
    assert Local(workers="auto", gpus=2).processes() == 2
    assert crew_devices.groups(2) == ["4,5", "6,7"]


def test_gpus_are_neither_counted_nor_handed_out_where_the_study_computes_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from gnomon.config import load

    monkeypatch.setattr(crew_devices, "physical_cores", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")

    def executor(device: str, **options: Any) -> Executor:
        study = {"model": "tiny", "device": device, "executor": {"local": {"workers": "auto", **options}}}
        return load({**study, "steps": [{"generate": {"task": "capitals", "n": 3}}]}).executor

    assert {d: executor(d).processes() for d in ("auto", "cuda", "cuda:1", "cpu", "mps")} == {
        "auto": 2, "cuda": 2, "cuda:1": 1, "cpu": 3, "mps": 3
    }  # fmt: skip
    seen = {result[1] for _, result in executor("cpu").map(Threads(), [(i, 0.05) for i in range(3)])}
    assert seen == {"4,5"}  # as the run itself has it
    with pytest.raises(UserError, match="2 CUDA devices, but there are 0 here on device cpu"):
        executor("cpu", gpus=2).prepare(tmp_path)


class NotOne:
    """An executor that was written for other methods."""

    def __init__(self, fast: bool = False) -> None: ...
    def processes(self) -> int:
        return 1

    def map(self, worker: Worker, shards: Any, watch: Any = None) -> Iterator[Any]:
        return iter(())


class Half(NotOne):
    def processes(self, memory_bytes: int = 0) -> int:
        return 1


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("NotOne", {}, r"too many positional arguments; processes\(.*memory_bytes"), ("Half", {}, "'prepare'"),
     ("NotOne", {"slow": 1}, "slow")],
)  # fmt: skip
def test_a_users_own_class_that_is_no_executor_is_refused_when_the_study_is_read(
    name: str, options: dict[str, Any], said: str
):
    from gnomon.config import load

    steps = [{"generate": {"task": "capitals", "n": 3}}]
    with pytest.raises(UserError, match=f"executor tests.test_executors:{name}.*{said}"):
        load({"model": "tiny", "executor": {f"tests.test_executors:{name}": options}, "steps": steps})


def test_a_worker_has_a_group_of_devices_to_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    seen = {result[1] for _, result in Local(workers="auto", gpus=2).map(Threads(), [(i, 0.1) for i in range(4)])}
    assert seen == {"4,5", "6,7"}


def test_more_devices_than_there_are_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="3 CUDA devices, but there are 2 here"):
        Local(gpus=3, workers=2).prepare(tmp_path)
    with pytest.raises(UserError, match="3 CUDA devices, but there are 2 here"):
        Local(gpus=3, workers="auto").processes()
    Local(gpus=2, workers=2).prepare(tmp_path)


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
    seen = {result for _, result in Local(workers=3).map(Threads(), [(i, 0) for i in range(12)])}
    assert {threads for threads, _, _ in seen} == {"3"}
    assert {device for _, device, _ in seen} <= {"4", "7"}
    assert {deaf for _, _, deaf in seen} == {True}  # Ctrl-C is for the driver
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    ((_, (threads, device, _)), _) = Local(workers=2).map(Threads(), [(0, 0), (1, 0)])
    assert int(threads or 0) == max(1, physical_cores() // 2)
    assert device == ""


def test_an_abandoned_map_leaves_no_process(tmp_path: Path):
    results = Local(workers=2).map(Marks(str(tmp_path), {"sleep": 50}), [(i, [i]) for i in range(50)])
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
    from gnomon.executors.local import Local
    from tests.light_workers import Marks
    try:
        list(Local(workers=2).map(Marks({str(tmp_path)!r}, {{"sleep": {sleep}}}), [(i, [i]) for i in range(100)]))
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
    assert len(marked(tmp_path)) < 100


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="workers"):
        Local(workers=0)
