"""What is asked of a cluster's nodes, and what is wrong with them, in words - without Ray."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gnomon.config import load
from gnomon.errors import UserError
from gnomon.executors import ray_nodes, ray_probe
from gnomon.executors.ray import Ray, _reachable
from gnomon.executors.ray_actor import Seat
from gnomon.executors.ray_crew import Crew, cause
from tests.light_workers import Threads

STUDY = {"model": "smollm2-135m", "steps": [{"generate": {"task": "capitals", "n": 20}}]}


def test_options_of_the_study_file():
    ray = load(STUDY | {"executor": {"ray": {"workers": 8, "resources": {"gpu": 1}}}, "mixed": "allow"}).executor
    assert isinstance(ray, Ray)
    assert (ray.workers, ray.resources, ray.address, ray.mixed) == (8, {"gpu": 1}, "auto", "allow")
    assert load(STUDY | {"executor": "ray"}).executor == Ray()
    own = load(STUDY | {"executor": {"ray": {"mixed": "refuse"}}, "mixed": "allow"}).executor
    assert isinstance(own, Ray)
    assert own.mixed == "refuse"


@pytest.mark.parametrize(
    "bad",
    [{"workers": 0}, {"workers": "all"}, {"resources": {}}, {"resources": {"gpu": -1}}, {"resources": {"cpu": 0}},
     {"in_flight": 0}, {"retries": -1}, {"adress": "auto"}],
)  # fmt: skip
def test_bad_options_are_refused(bad):
    with pytest.raises(UserError):
        load(STUDY | {"executor": {"ray": bad}})


def test_no_shards_need_no_ray_and_close_is_always_right(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    ray = Ray()
    assert list(ray.map(Threads(), [])) == []
    ray.close()
    ray.close()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'gnomon\[ray\]'"):
        Ray().prepare(tmp_path)
    with pytest.raises(UserError, match=r"pip install 'gnomon\[ray\]'"):
        list(Ray().map(Threads(), [(0, [])]))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "here", "ray://127.0.0.1:x"])
def test_an_address_where_nothing_is_is_refused_at_once(address: str):
    with pytest.raises(UserError, match=rf"no Ray cluster at address {address}.*ray start --head"):
        _reachable(address)


def test_an_address_in_the_environment_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match="no Ray cluster at address auto"):
        _reachable("auto")
    monkeypatch.delenv("RAY_ADDRESS")
    _reachable("auto")
    _reachable("local")


def node(**resources: float) -> dict:
    return {"NodeID": "abcdef0123", "NodeManagerHostname": "n1", "NodeManagerAddress": "10.0.0.1",
            "Resources": resources}  # fmt: skip


def test_room_of_a_node():
    assert ray_nodes.room(node(CPU=8, GPU=2), {"GPU": 1, "CPU": 2}) == 2
    assert ray_nodes.room(node(CPU=3, GPU=2), {"GPU": 1, "CPU": 2}) == 1
    assert ray_nodes.room(node(CPU=3), {"GPU": 1}) == 0
    assert ray_nodes.room(node(GPU=1), {"GPU": 0.1}) == 10
    assert ray_nodes.room(node(CPU=4, fast=1), {"CPU": 1, "fast": 1, "GPU": 0}) == 1


def test_workers_are_dealt_out_evenly():
    assert ray_nodes.spread([4, 4, 4], 6) == [2, 2, 2]
    assert ray_nodes.spread([1, 4, 4], 6) == [1, 3, 2]
    assert ray_nodes.spread([1, 2], 8) == [1, 2]
    assert ray_nodes.spread([1, 2], None) == [1, 2]


FACTS = {
    "folder": "", "versions": {"python": "3.12.1", "torch": "2.9"}, "gnomon": "1", "source": "s", "path": "/a",
    "instructions": ["x86_64", "avx2"], "gpus": ["H200"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, ""),
        ({"silent": "did not answer"}, "did not answer"),
        ({"folder": "is not there"}, "/study is not there"),
        ({"gnomon": "none"}, "gnomon is not installed there"),
        ({"gnomon": "2", "source": "t"}, "gnomon 2, here 1"),
        ({"source": "t", "path": "/b"}, "gnomon's source at /b is not that at /a"),
        ({"versions": {"python": "3.12.1", "torch": "2.8"}}, "torch 2.8, here 2.9"),
        ({"instructions": ["x86_64"]}, "instruction set x86_64, here x86_64 avx2 (mixed: allow takes it)"),
        ({"gpus": ["A100"]}, "GPUs A100, another node's are H200 (mixed: allow takes it)"),
        ({"folder": "is not there", "source": "t"}, "/study is not there; gnomon's source at /a is not that at /a"),
    ],
)  # fmt: skip
def test_what_differs_is_said_in_words(change: dict, wanted: str):
    assert ray_nodes.differences(FACTS | change, Path("/study"), FACTS, ["H200"]) == wanted


def test_mixed_nodes_may_be_allowed():
    other = FACTS | {"instructions": [], "gpus": ["A100"]}
    assert ray_nodes.differences(other, Path("/study"), FACTS, None) == ""
    assert (
        ray_nodes.differences(FACTS | {"gpus": []}, Path("/study"), FACTS, []) == ""
    )  # work on the CPU: no GPU counts


def test_a_probe_sees_the_token_and_writes_its_own(tmp_path: Path):
    (tmp_path / ".t.driver.tmp").write_text("t")
    facts = ray_probe.seen(str(tmp_path), "t", "me", 0)
    assert facts["folder"] == ""
    assert (tmp_path / ".t.me.tmp").read_text() == "me"
    assert facts["versions"]["python"].startswith("3.")
    assert len(facts["source"]) == 16
    assert facts["instructions"]
    (tmp_path / "other").mkdir()
    assert ray_probe.seen(str(tmp_path / "other"), "t", "me", 0)["folder"].startswith("lacks the file")
    assert not list((tmp_path / "other").iterdir())
    assert ray_probe.seen(str(tmp_path / "none"), "t", "me", 0)["folder"] == "is not there"


class Spec:
    name = "m"

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def facts(self) -> dict[str, str]:
        return {"fingerprint": self.fingerprint}


class WithModel:
    def __init__(self, fingerprint: str) -> None:
        self.spec = Spec(fingerprint)

    def open(self) -> None: ...

    def __call__(self, shard: int) -> int:
        return shard + 1


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path):
    import pickle

    seat, shard = Seat(str(tmp_path / "none"), []), pickle.dumps(1)
    kind, value = pickle.loads(seat.work(0, pickle.dumps((WithModel("aa"), "aa")), shard))
    assert (kind, value) == ("result", 2)
    kind, value = pickle.loads(seat.work(1, pickle.dumps((WithModel("aa"), "bb")), shard))
    assert kind == "user"
    assert "other weights of m (aa, the driver's are bb)" in str(value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("The actor died because its node has died. Node Id: ab", "died with its node"),
     ("Worker exit type: SYSTEM_ERROR Worker exit detail: End of file", "was killed, or crashed,"),
     ("Task was killed due to the node running low on memory.", "was killed as its node ran out of memory"),
     ("something\n  else\n", "died (else)")],
)  # fmt: skip
def test_deaths_in_words(text: str, wanted: str):
    assert cause(RuntimeError(text)) == wanted


def test_threads_before_and_after_a_cluster_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gnomon.executors.ray.physical_cores", lambda: 8)
    ray = Ray(workers=4, resources={"cpu": 4})
    assert ray.processes() == 2
    ray._state["seats"] = [1, 3]
    assert ray.processes() == 3
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert ray._environment()["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    given = Ray(workers=1, environment={"A": "1"})._environment()
    assert (given["OMP_NUM_THREADS"], given["A"], given["CUDA_VISIBLE_DEVICES"]) == ("5", "1", "")
    assert "CUDA_VISIBLE_DEVICES" not in Ray(resources={"gpu": 1})._environment()


def test_where_the_workers_compute():
    ray = Ray(resources={"gpu": 1})
    ray._state["gpus"] = ["NVIDIA H200"]
    assert (ray.device_class("auto"), ray.device_class("cpu")) == ("NVIDIA H200", "cpu")
    assert Ray().device_class("auto") == "cpu"


def test_a_crew_says_what_it_lacked():
    crew = Crew(None, {"CPU": 1, "GPU": 2, "fast": 1}, {}, lambda node: "", 2, 2, 5)
    assert crew._nobody(0).endswith("no room for {cpu: 1, gpu: 2, fast: 1}")
    assert crew._nobody(3).startswith("3 workers died one after another")
