"""Ray on clusters of two and three nodes of this machine: the files of `local`, byte for byte; dead workers, nodes and
drivers cost the shard in hand; nodes that see another folder or run another gnomon are refused by name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import UserError
from gnomon.executors.ray import Ray
from gnomon.shards import ShardEvent
from gnomon.store import Study
from gnomon.writer import Writer
from tests.fake_steps import CountWorker
from tests.light_workers import Dies, Unsendable
from tests.ray_workers import Around, Slow
from tests.stepping import data_files
from tests.test_executors import dead, opened, waited
from tests.test_resume import finish, start, study, wait_for_markers

pytestmark = pytest.mark.ray

F = "f" * 64
HERE = Path(__file__).parent
GENERATE = {
    "task": "own_tasks:Letters", "n": 48, "samples": 2, "temperatures": [1.0], "max_new_tokens": 20, "shard_rows": 8,
    "batch_size": 4, "capture": {"sites": "resid_post.*", "positions": ["last"]},
}  # fmt: skip
STEPS = [{"generate": GENERATE}, {"capture": {"sites": "z.*"}}]
QUICK = {"patience": 20, "disk_delay": 2}


@pytest.fixture(autouse=True, scope="module")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread as in the drivers' studies; no key file in the home folder for the clusters of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")  # on a busy machine the nodes would wait for ever
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))
        yield


@contextmanager
def nodes(*resources: dict[str, float]) -> Iterator[Any]:
    """A cluster with an empty head and a node of one CPU for each of `resources`; `cluster.added` lists them."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.added = [cluster.add_node(num_cpus=1, resources=each) for each in resources]
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with nodes({"first": 1}, {"second": 1}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def dying() -> Iterator[Any]:
    """Three nodes, of which tests remove one each."""
    with nodes({"a": 1}, {"b": 1}, {"c": 1}) as cluster:
        yield cluster


@pytest.fixture
def two(cluster: Any, tmp_path: Path) -> Iterator[Ray]:
    """Two workers, prepared for the test's folder."""
    ray = Ray(address=cluster.address, workers=2, **QUICK)
    try:
        ray.prepare(tmp_path)
        yield ray
    finally:
        ray.close()


def slow(folder: Path, name: str = "slow", **trouble: Any) -> Slow:
    return Slow(str(Writer(folder, name, F).path), **trouble)


def shards(n: int) -> list[tuple[int, Any]]:
    return [(i, []) for i in range(n)]


def starts(folder: Path, n: int) -> list[int]:
    """How often each shard was begun."""
    return [len((folder / f"started-{i}").read_text().split()) for i in range(n)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study made by `local`, in one process."""
    root = tmp_path_factory.mktemp("whole")
    finish(start(root, study(STEPS), root / "out"))
    return Study(root / "out")


def same(one: Study, other: Study, steps: Sequence[str] = ("generate", "capture")) -> None:
    for step in steps:
        assert data_files(one[step]) == data_files(other[step])
        assert len(data_files(one[step])) > 20
    assert one.verify() == []


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "run.log").read_text().splitlines()]


def test_two_nodes_write_the_bytes_of_one_process(cluster: Any, whole: Study, tmp_path: Path):
    options = {"address": cluster.address, "workers": 2, **QUICK}
    said = finish(start(tmp_path, study(STEPS, executor={"ray": options}), tmp_path / "out"))
    same(Study(tmp_path / "out"), whole)
    lines = log_of(tmp_path / "out")
    workers = [line["message"] for line in lines if line["message"].startswith("worker ")]
    assert len(workers) == 2, "both steps by the same two workers"
    assert len({text.rpartition("node ")[2] for text in workers}) == 2, "one on each node"
    assert any("room for 2 of 2 workers on 2 nodes" in line["message"] for line in lines)
    assert "raylet" not in said
    assert "_ray" not in (tmp_path / "out" / "run.log").read_text()
    assert not list((tmp_path / "out").glob(".ray-*"))
    assert not (tmp_path / "out" / "generate").is_symlink()


def test_a_node_removed_in_mid_run_costs_its_shard_only(dying: Any, whole: Study, tmp_path: Path):
    out, options = tmp_path / "out", {"address": dying.address, "workers": 3, **QUICK}
    run = start(tmp_path, study(STEPS[:1], executor={"ray": options}), out)
    wait_for_markers(run, out / ".generate.partial", 2)
    gone = next(line["message"] for line in log_of(out) if line["message"].startswith("worker ")).rpartition("node ")[2]
    remove(dying, gone)
    finish(run)
    same(Study(out), whole, ["generate"])
    messages = [line["message"] for line in log_of(out)]
    assert any("3 workers on 3 nodes" in text for text in messages)
    assert sum("it is tried again" in text for text in messages) == 1, "a node of one worker holds one shard"


def remove(cluster: Any, node_id: str) -> None:
    """Cut a node off, by the start of its id."""
    (gone,) = [node for node in cluster.added if node.node_id.startswith(node_id)]
    cluster.added.remove(gone)
    cluster.remove_node(gone, allow_graceful=False)


def test_a_dead_node_is_seen_and_its_shard_done_by_another(dying: Any, tmp_path: Path):
    import ray as module

    events: list[ShardEvent] = []
    ray = Ray(address=dying.address, workers=2, **QUICK)
    try:
        ray.prepare(tmp_path)
        assert ray.processes() == 1
        done = []
        for shard, (_, node) in ray.map(slow(tmp_path, seconds=0.5), shards(12), events.append):
            done.append(shard[0])
            mine = module.get_runtime_context().get_node_id()  # whose end would be the driver's
            if len(done) > 2 and node != mine and len(dying.added) > 1:
                remove(dying, node)
        assert sorted(done) == list(range(12))
        assert len(dying.added) == 1
    finally:
        ray.close()
    (retry,) = [event for event in events if event.kind == "retry"]
    assert "died with its node" in retry.text or "is no longer reached" in retry.text
    counts = starts(tmp_path, 12)
    assert [i for i, count in enumerate(counts) if count > 1] in ([retry.shard[0]], [])
    assert sum(counts) <= 13, "at most the shard in hand is begun again"


def test_a_killed_worker_is_replaced_and_its_shard_done_again(two: Ray, tmp_path: Path):
    events: list[ShardEvent] = []
    results = list(two.map(slow(tmp_path, seconds=0.2, deadly=(2,)), shards(12), events.append))
    assert sorted(shard[0] for shard, _ in results) == list(range(12))
    assert starts(tmp_path, 12) == [1, 1, 2, *[1] * 9]
    (retry,) = [event for event in events if event.kind == "retry"]
    assert retry.shard[0] == 2
    assert any(f"(pid {pid}) was killed, or crashed, on shard 2" in retry.text for pid in opened(tmp_path))
    counts = [sum(event.kind == kind for event in events) for kind in ("done", "lost")]
    assert counts == [12, 0]
    names = {event.worker for event in events if event.kind == "open"}
    assert names >= {event.worker for event in events if event.kind == "done"}
    assert sorted(Writer(tmp_path, "slow", F).done()) == list(range(12))


def test_a_shard_that_kills_every_worker_is_given_up_and_the_rest_done(two: Ray, tmp_path: Path):
    writer = Writer(tmp_path, "count", F)
    worker = CountWorker(str(writer.path), 0, 24, 3, {"kill": 2})
    with pytest.raises(UserError) as caught:
        list(two.map(worker, [(i, [4 * i]) for i in range(6)]))
    assert "on shard 2, as did 2 before it; 1 of 6 shards are missing" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert sorted(writer.done()) == [0, 1, 3, 4, 5]
    (tmp_path / "no-more-trouble").touch()
    assert [shard[0] for shard, _ in two.map(worker, [(2, [8])])] == [2]


def test_when_every_worker_dies_the_run_ends(two: Ray):
    with pytest.raises(UserError, match=r"7 workers died one after another.*; 50 of 50 shards are missing"):
        list(two.map(Dies(), shards(50)))


def test_mistakes_cross_unchanged_and_bugs_with_their_traceback(two: Ray, tmp_path: Path):
    path, rows = str(Writer(tmp_path, "count", F).path), [(i, [i]) for i in range(6)]
    with pytest.raises(UserError) as caught:
        list(two.map(CountWorker(path, 0, 24, 3, {"user_error": 3}), rows))
    assert (caught.value.got, caught.value.do) == ("shard 3 cannot be made", "choose n below 10")
    with pytest.raises(RuntimeError, match=r"failed on shard 3:\n(.|\n)*ZeroDivisionError: shard 3"):
        list(two.map(CountWorker(path, 0, 24, 3, {"bug": 3}), rows))
    with pytest.raises(RuntimeError, match=r"failed on shard [01]"):
        list(two.map(Unsendable(), shards(2)))
    with pytest.raises(RuntimeError, match=r"1,000,\d+ bytes: at most 1,000,000 may travel"):
        list(two.map(Around(1_000_000), shards(2)))
    assert [len(result) for _, result in two.map(Around(900_000), shards(3))] == [900_000] * 3


def test_workers_live_through_maps_and_have_the_drivers_threads(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ray = Ray(address=cluster.address, workers=2, environment={"MINE": "yes"}, **QUICK)
    try:
        first = [result for _, result in ray.map(Around(), shards(8))]
        second = [result for _, result in ray.map(Around(), shards(8))]
        assert {r["pid"] for r in first} | {r["pid"] for r in second} == {r["pid"] for r in first + second}
        assert len({r["pid"] for r in first + second}) <= 2
        assert {(r["OMP_NUM_THREADS"], r["CUDA_VISIBLE_DEVICES"], r["MINE"]) for r in first} == {("1", "", "yes")}
        assert {r["cwd"] for r in first} == {os.getcwd()}
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        monkeypatch.setenv("MKL_NUM_THREADS", "2")
        third = [result for _, result in ray.map(Around(), shards(4))]
        assert {(r["OMP_NUM_THREADS"], r["MKL_NUM_THREADS"]) for r in third} == {("2", "2")}
        pids = {r["pid"] for r in first + second + third}
        assert not {r["pid"] for r in third} & {r["pid"] for r in first}
    finally:
        ray.close()
    assert waited(lambda: all(dead(pid) for pid in pids))


def test_an_abandoned_map_leaves_nobody_at_work(two: Ray, tmp_path: Path):
    results = two.map(slow(tmp_path, seconds=0.3), shards(50))
    next(iter(results))
    results.close()  # type: ignore[attr-defined]
    assert waited(lambda: all(dead(pid) for pid in opened(tmp_path)))
    assert len(list(two.map(slow(tmp_path, "next"), shards(3)))) == 3


def test_resources_choose_the_node(cluster: Any, tmp_path: Path):
    ray = Ray(address=cluster.address, workers=4, resources={"cpu": 0.25, "second": 0.25}, **QUICK)
    try:
        ray.prepare(tmp_path)
        assert ray.processes() == 4, "four of them share a node"
        seen = {node for _, (_, node) in ray.map(slow(tmp_path), shards(8))}
        assert seen == {cluster.added[1].node_id}
    finally:
        ray.close()


def test_no_room_is_said_with_what_there_is(cluster: Any, tmp_path: Path):
    ray = Ray(address=cluster.address, workers=2, resources={"gpu": 1}, patience=1)
    try:
        with pytest.raises(UserError, match=r"no node .* has room for a worker of \{gpu: 1\}.*second 1"):
            ray.prepare(tmp_path)
        with pytest.raises(UserError, match=r"no worker could start within 1 s: .*no room for \{gpu: 1\}"):
            list(ray.map(Around(), shards(2)))
    finally:
        ray.close()


def test_a_study_that_the_caller_is_connected_for_leaves_him_connected(cluster: Any, tmp_path: Path):
    import ray as module

    module.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        ray = Ray(workers=1, **QUICK)
        ray.prepare(tmp_path)
        assert len(list(ray.map(Around(), shards(2)))) == 2
        ray.close()
        assert module.is_initialized()
    finally:
        module.shutdown()


@contextmanager
def strange_node(cluster: Any, command: list[str]) -> Iterator[None]:
    """A node of the cluster that is started by a command of its own, as on another machine."""
    import ray as module

    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address, "--num-cpus", "1",
             "--resources", '{"strange": 1}', "--object-store-memory", "100000000", "--block"]  # fmt: skip
    process = subprocess.Popen([*command, "--die-with-parent", *start], start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def there() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return sum("strange" in node["Resources"] for node in module.nodes() if node["Alive"]) == 1

    try:
        module.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            assert waited(there, 40)
        finally:
            module.shutdown()
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_nodes_with_another_disk_or_another_gnomon_are_refused_by_name(cluster: Any, tmp_path: Path):
    hidden, changed, stats = tmp_path / "hidden", tmp_path / "changed.py", HERE.parent / "gnomon" / "stats.py"
    hidden.mkdir()
    changed.write_text(stats.read_text() + "\n# changed\n")
    wall = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", str(hidden), "--ro-bind", str(changed), str(stats)]
    with strange_node(cluster, wall):
        ray = Ray(address=cluster.address, workers=1, resources={"cpu": 1}, **QUICK)
        with pytest.raises(UserError, match=rf"{hidden}/out is not there; gnomon's source at .* is not that") as caught:
            refused(ray, hidden / "out")
        assert str(caught.value).count("node ") == 1, "nodes that see the folder and run the same are not named"
        (hidden / "out").rmdir()
        with pytest.raises(UserError, match=rf"{hidden} lacks the file that was just written to it"):
            refused(ray, hidden)
        assert list(hidden.iterdir()) == []
        with pytest.raises(UserError, match=r"node \S+ \(\S+, \w{6}\): gnomon's source at \S+/gnomon is not that at"):
            refused(ray, tmp_path / "seen")
        refused(Ray(address=cluster.address, resources={"first": 1}, **QUICK), tmp_path / "seen")


def refused(ray: Ray, folder: Path) -> None:
    try:
        ray.prepare(folder)
    finally:
        ray.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_a_driver_that_ends_leaves_no_worker_and_a_study_that_local_finishes(
    cluster: Any, whole: Study, tmp_path: Path, number: signal.Signals
):
    out, options = tmp_path / "out", {"address": cluster.address, "workers": 2, **QUICK}
    run = start(tmp_path, study(STEPS, executor={"ray": options}), out)
    wait_for_markers(run, out / ".generate.partial", 2)
    run.send_signal(number)
    run.communicate(timeout=60)
    pids = [int(line["message"].split("pid ")[1].split(",")[0]) for line in log_of(out)
            if line["message"].startswith("worker ")]  # fmt: skip
    assert len(pids) == 2
    assert waited(lambda: all(dead(pid) for pid in pids), 30)
    finished = {p.name: p.stat().st_mtime_ns for p in (out / ".generate.partial" / "_done").glob("*.json")}
    assert 0 < len(finished) < 12, "it came too late to prove anything"
    finish(start(tmp_path, study(STEPS), out))
    assert {n: (out / "generate" / "_done" / n).stat().st_mtime_ns for n in finished} == finished
    same(Study(out), whole)


def test_a_cluster_of_ones_own_ends_with_the_run_by_ctrl_c_too(tmp_path: Path):
    script = f"""
if __name__ == "__main__":
    from pathlib import Path
    from gnomon.executors.ray import Ray
    from gnomon.writer import Writer
    from tests.ray_workers import Slow
    folder = Path({str(tmp_path)!r})
    ray = Ray(address="local", workers=1)
    try:
        ray.prepare(folder)
        list(ray.map(Slow(str(Writer(folder, "slow", "f" * 64).path), 0.3), [(i, []) for i in range(200)]))
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        ray.close()
"""
    file, token = tmp_path / "driver.py", tmp_path / "token"
    file.write_text(script)
    driver = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"RAY_AUTH_TOKEN_PATH": str(token)}, start_new_session=True)  # fmt: skip
    assert waited(lambda: driver.poll() is not None or (tmp_path / "started-2").is_file(), 60)
    os.killpg(driver.pid, signal.SIGINT)
    said, errors = driver.communicate(timeout=60)
    assert said.strip() == "interrupted", errors
    assert errors.strip() == ""
    assert waited(lambda: all(dead(pid) for pid in opened(tmp_path)))
    assert waited(lambda: alone(driver.pid), 20), "Ray's own processes end too"
    assert sorted(Writer(tmp_path, "slow", F).done())[:3] == [0, 1, 2]


def alone(group: int) -> bool:
    """True when no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_events_can_be_watched_from_another_thread(cluster: Any, tmp_path: Path):
    found: list[Any] = []

    def work() -> None:
        ray = Ray(address=cluster.address, workers=1, **QUICK)
        try:
            ray.prepare(tmp_path)
            found.extend(ray.map(Around(), shards(2)))
        finally:
            ray.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert len(found) == 2
