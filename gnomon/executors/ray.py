"""Shards on a Ray cluster: an actor a worker, its model loaded once a run, its arrays written straight to the study.

Only shards and small records pass through Ray. Before work every node shows that it sees the study's folder, from both
sides, and runs the same gnomon, libraries and instruction set; a dead worker or node costs the shard it was on.
Files are those of `local` with the same threads, byte for byte.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from gnomon.cores import physical_cores
from gnomon.errors import UserError
from gnomon.executors import ray_nodes, ray_probe
from gnomon.executors.ray_crew import Crew
from gnomon.shards import Watch, Worker

log = logging.getLogger("gnomon.ray")

CARRIED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "OMP_WAIT_POLICY", "CUBLAS_WORKSPACE_CONFIG",
           "HF_HUB_OFFLINE", "GNOMON_CACHE")  # fmt: skip
"""Environment variables of the driver that its workers get: threads decide the last digits of the results."""


class Ray(BaseModel):
    """Works on a Ray cluster; needs the extra: pip install 'gnomon[ray]'."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    address: str = "auto"
    """auto: the cluster of this machine or of RAY_ADDRESS; local: one that is started here and ended with the run;
    host:6379, or ray://host:10001."""
    workers: int | Literal["auto"] = "auto"
    """Actors; auto: as many as the cluster has room for when the run begins. Where there is less room, the rest join
    when it comes."""
    resources: dict[str, float] = {"cpu": 1}
    """What each worker takes: cpu, gpu, or a resource of the cluster's own (for choosing nodes)."""
    retries: int = Field(default=2, ge=0)
    """How often a shard is tried again after the death of the worker on it."""
    in_flight: int = Field(default=2, ge=1)
    """Shards handed to a worker at a time: the one it is on and those behind it."""
    environment: dict[str, str] = {}
    """More environment variables of the workers."""
    patience: float = Field(default=60, ge=0)
    """Seconds to wait for room in the cluster while there is no worker at all."""
    disk_delay: float = Field(default=15, ge=0)
    """Seconds within which a file written on one node must be seen on the others (network disks cache)."""
    mixed: Literal["refuse", "allow"] = "refuse"
    """Nodes of several instruction sets or GPUs, whose results differ in their last digits; the study's own `mixed`
    where it is not given."""
    _state: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("workers")
    @classmethod
    def _some(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least 1 worker, or auto")
        return value

    @field_validator("resources")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or not any(value.values()) or min(value.values()) < 0:
            raise ValueError("amounts of what each worker takes, such as {cpu: 1} or {gpu: 1, cpu: 4}")
        return {key.lower() if key in ("CPU", "GPU") else key: amount for key, amount in value.items()}

    def processes(self, memory_bytes: int = 0) -> int:
        """The most workers on one node; before `prepare` as many as would be here, were every node like this one."""
        if "seats" in self._state:
            return max(1, *self._state["seats"])
        cpu = self.resources.get("cpu", 1) or 1
        here = max(1, int(physical_cores() / cpu))
        return here if self.workers == "auto" else min(self.workers, here)

    def device_class(self, device: str) -> str:
        """Where the workers compute when the study says `device`: cpu, or the GPU's name; known after `prepare`."""
        gpus: Sequence[str] = self._state.get("gpus", ())
        return "cpu" if device == "cpu" or not self.resources.get("gpu") else ", ".join(gpus) or "cuda"

    def prepare(self, folder: Path) -> None:
        """Connect, find nodes with room, and have every one show that it can work on the study in `folder`.

        Raises UserError without ray, without a cluster, without room for a single worker, and naming each node that
        sees another folder, or runs something else.
        """
        ray = self._connect()
        nodes = self._nodes_with_room(ray)
        state = self._state
        state["folder"], state["mine"] = folder, ray_probe.running()
        answers = ray_nodes.look(ray, nodes, folder, self.disk_delay)
        here = [i for i, facts in enumerate(answers) if "silent" not in facts or not ray_nodes.gone(ray, nodes[i])]
        nodes, answers = [nodes[i] for i in here], [answers[i] for i in here]
        state["gpus"] = sorted({gpu for facts in answers for gpu in facts.get("gpus", ())})
        first = next((facts["gpus"] for facts in answers if facts.get("gpus")), [])
        state["same"] = None if self.mixed == "allow" else first if self.resources.get("gpu") else []
        faults = {
            ray_nodes.name(node): text
            for node, facts in zip(nodes, answers, strict=True)
            if (text := ray_nodes.differences(facts, folder, state["mine"], state["same"]))
        }
        if faults:
            raise ray_nodes.refused(faults)
        state["checked"] = dict.fromkeys((node["NodeID"] for node in nodes), "")
        workers = None if self.workers == "auto" else self.workers
        state["seats"] = ray_nodes.spread([ray_nodes.room(node, self._needs()) for node in nodes], workers)
        held, asked = sum(state["seats"]), "" if workers is None else f" of {workers}"
        log.info("ray: room for %d%s workers on %d nodes that see %s", held, asked, len(nodes), folder)

    def map(self, worker: Worker, shards: Sequence[Any], watch: Watch | None = None) -> Iterator[tuple[Any, Any]]:
        """Run `worker` over `shards`; yields (shard, result) as they finish.

        Raises the worker's own UserError unchanged; RuntimeError with the worker's traceback for any other exception,
        and for a result of more than a megabyte; UserError naming worker, cause and shard where a shard was given up,
        after the others have finished, or where nobody is left to work.
        """
        shards = list(shards)
        if not shards:
            return
        ray = self._connect()
        environment = self._environment()
        crew: Crew | None = self._state.get("crew")
        if crew is None or crew.environment != environment:
            if crew is not None:
                crew.close()
            crew = Crew(ray, self._needs(), environment, self._fault, self.retries, self.in_flight, self.patience)
            self._state["crew"] = crew
        yield from crew.run(self._workers(ray), worker, shards, watch)

    def close(self) -> None:
        """End the workers, leave the cluster; one that was started here ends too, others go on."""
        crew: Crew | None = self._state.pop("crew", None)
        if crew is not None:
            crew.close()
        if self._state.pop("connected", False):
            sys.modules["ray"].shutdown()
        self._state.clear()

    def _needs(self) -> dict[str, float]:
        """`resources` by Ray's names."""
        return {{"cpu": "CPU", "gpu": "GPU"}.get(key, key): amount for key, amount in self.resources.items()}

    def _workers(self, ray: Any) -> int:
        """How many actors to ask for."""
        if self.workers != "auto":
            return self.workers
        seats = self._state.get("seats") or [ray_nodes.room(node, self._needs()) for node in ray_nodes.alive(ray)]
        return max(1, sum(seats))

    def _environment(self) -> dict[str, str]:
        """The workers' environment: the driver's threads, and no GPU where none was asked for."""
        out = {name: os.environ[name] for name in CARRIED if name in os.environ}
        out.setdefault("OMP_NUM_THREADS", str(max(1, physical_cores() // self.processes())))
        if not self.resources.get("gpu"):
            out["CUDA_VISIBLE_DEVICES"] = ""
        return out | self.environment

    def _fault(self, node_id: str) -> str:
        """What keeps a node from working on the study; one that joined after `prepare` is asked now."""
        checked: dict[str, str] = self._state.setdefault("checked", {})
        if node_id not in checked and "folder" in self._state:
            ray, folder = sys.modules["ray"], self._state["folder"]
            found = [node for node in ray_nodes.alive(ray) if node["NodeID"] == node_id]
            answers = ray_nodes.look(ray, found, folder, self.disk_delay)
            mine, same = self._state["mine"], self._state["same"]
            texts = [ray_nodes.differences(facts, folder, mine, same) for facts in answers]
            named = [f"{ray_nodes.name(node)}: {text}" for node, text in zip(found, texts, strict=True) if text]
            checked[node_id] = named[0] if named else "" if found else f"node {node_id[:6]} is gone"
        return checked.get(node_id, "")

    def _nodes_with_room(self, ray: Any) -> list[Mapping[str, Any]]:
        """Nodes that can hold a worker, waited for: a cluster may grow when it is asked to."""
        end = time.monotonic() + (0 if self.address == "local" else self.patience)
        while True:
            nodes = [node for node in ray_nodes.alive(ray) if ray_nodes.room(node, self._needs())]
            if nodes or time.monotonic() > end:
                break
            time.sleep(0.5)
        if not nodes:
            have = "; ".join(f"{ray_nodes.name(node)}: {_resources(node)}" for node in ray_nodes.alive(ray))
            wanted = ", ".join(f"{key}: {amount:g}" for key, amount in self.resources.items())
            raise UserError(
                f"no node of the Ray cluster has room for a worker of {{{wanted}}}", have, "change executor.resources"
            )
        return nodes

    def _connect(self) -> Any:
        """The module ray, connected to the cluster; one that the caller is connected to already is used and left so."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        records = logging.getLogRecordFactory()
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise UserError(f"executor ray needs the package ray ({error})", "", "pip install 'gnomon[ray]'") from None
        logging.setLogRecordFactory(records)  # Ray's own adds a field of its own to every line of run.log
        if ray.is_initialized():
            return ray
        _reachable(self.address)
        here = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM)
        logging.getLogger("ray").setLevel(logging.ERROR)
        own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 300 * 2**20}
        try:
            ray.init(
                address=self.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False,
                **own if self.address == "local" else {},
            )  # fmt: skip
        except ImportError as error:
            do = "pip install 'ray[client]', or run on a node of the cluster with address: auto"
            raise UserError(f"address {self.address} needs more of Ray ({error})", "", do) from None
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_cluster(self.address, str(error).strip().splitlines()[0]) from error
        finally:
            if here and handler is not None:
                signal.signal(signal.SIGTERM, handler)  # Ray's own would end the run without a word
        self._state["connected"] = True
        _quiet()
        return ray


def _resources(node: Mapping[str, Any]) -> str:
    shown = {key.lower(): amount for key, amount in node["Resources"].items() if ":" not in key and "memory" not in key}
    return ", ".join(f"{key} {amount:g}" for key, amount in shown.items()) or "nothing"


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(
        f"no Ray cluster at address {address} ({why})",
        "a cluster that runs",
        "start one (ray start --head), mend executor.address, or take address: local",
    )


def _reachable(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself tries for minutes, or ends the process."""
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, colon, port = where.removeprefix("ray://").rpartition(":")
    if not colon:
        if where not in ("", "auto", "local"):
            raise _no_cluster(address, "it is no auto, local, host:port or ray://host:port")
        return
    if not port.isdigit():
        raise _no_cluster(address, "it has no port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from None


def _quiet() -> None:
    """Ray prints what happens in the cluster to the driver's terminal: to the log instead, at level debug."""
    import ray

    def told(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        for line in data.get("lines", ()):
            log.debug("%s", line)

    with suppress(AttributeError):
        ray._private.worker.print_to_stdstream = told  # type: ignore[attr-defined]
