"""The nodes of a Ray cluster: which can hold a worker, and whether each sees the study and runs the same software."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gnomon.errors import UserError
from gnomon.executors import ray_probe

ANSWER_SECONDS = 90.0
"""How long a node may take to begin to answer: a Python process is started there."""


def alive(ray: Any) -> list[Mapping[str, Any]]:
    """The cluster's living nodes, as Ray lists them."""
    return [node for node in ray.nodes() if node["Alive"]]


def name(node: Mapping[str, Any]) -> str:
    """A node in words: host, address and the start of its id (several may be on one host)."""
    return f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"


def room(node: Mapping[str, Any], needs: Mapping[str, float]) -> int:
    """Workers that need `needs` (Ray's names of resources) which a node can hold, were it empty."""
    have = node.get("Resources", {})
    return min((int(have.get(key, 0) / amount + 1e-9) for key, amount in needs.items() if amount > 0), default=1)


def spread(rooms: Sequence[int], workers: int | None) -> list[int]:
    """Workers on each node when they are dealt out evenly; None deals out as many as there is room for."""
    seats = [0] * len(rooms)
    for _ in range(sum(rooms) if workers is None else min(workers, sum(rooms))):
        free = [i for i in range(len(rooms)) if seats[i] < rooms[i]]
        seats[min(free, key=lambda i: seats[i])] += 1
    return seats


def look(ray: Any, nodes: Sequence[Mapping[str, Any]], folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Ask every node at once what it sees of `folder` and what it runs (see ray_probe); one answer a node.

    A token file goes both ways, so that the same path on another disk is found out. `facts["folder"]` says what is
    wrong with the folder, `facts["silent"]` why there is no answer.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray.cloudpickle.register_pickle_by_value(ray_probe)
    token = f"ray-{secrets.token_hex(8)}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / f".{token}.driver.tmp").write_text(token)
        task = ray.remote(ray_probe.seen)
        asked = [
            task.options(num_cpus=0, max_retries=0, scheduling_strategy=On(node["NodeID"], soft=False)).remote(
                str(folder), token, node["NodeID"][:12], seconds
            )
            for node in nodes
        ]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=seconds + ANSWER_SECONDS)
        return [
            _answer(ray, ref, ref in answered, folder / f".{token}.{node['NodeID'][:12]}.tmp", seconds)
            for ref, node in zip(asked, nodes, strict=True)
        ]
    finally:
        for leftover in folder.glob(f".{token}.*.tmp"):
            leftover.unlink(missing_ok=True)


def _answer(ray: Any, ref: Any, answered: bool, file: Path, seconds: float) -> dict[str, Any]:
    """A node's facts; its token file must be seen from here too."""
    if not answered:
        return {"silent": f"did not answer within {seconds + ANSWER_SECONDS:.0f} s"}
    try:
        facts = ray.get(ref)
    except Exception as error:  # a node that died, or that cannot run the probe at all
        return {"silent": f"cannot be asked ({str(error).strip().splitlines()[-1]})"}
    if not facts["folder"] and not _appears(file, seconds):
        facts["folder"] = "is another one: what the node wrote to it is not seen from here"
    return facts


def _appears(file: Path, seconds: float) -> bool:
    """True when a file is seen within `seconds`: network disks show new files late."""
    end = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > end:
            return False
        with suppress(OSError):
            list(file.parent.iterdir())
        time.sleep(0.1)
    return True


def differences(facts: Mapping[str, Any], folder: Path, mine: Mapping[str, Any], gpus: Sequence[str] | None) -> str:
    """What keeps a node from working on the study, in words; "" where nothing does.

    Args:
        facts: the node's answer.
        folder: the study's folder.
        mine: `ray_probe.running()` of the driver.
        gpus: models of GPU that the workers' nodes must have; None compares neither these nor instruction sets.
    """
    if "silent" in facts:
        return str(facts["silent"])
    out = [f"{folder} {facts['folder']}"] if facts["folder"] else []
    if facts["gnomon"] == "none":
        return "; ".join([*out, "gnomon is not installed there"])
    theirs, here = facts["versions"] | {"gnomon": facts["gnomon"]}, mine["versions"] | {"gnomon": mine["gnomon"]}
    out += [f"{key} {theirs.get(key)}, here {value}" for key, value in here.items() if theirs.get(key) != value]
    if facts["source"] != mine["source"] and facts["gnomon"] == mine["gnomon"]:
        out.append(f"gnomon's source at {facts['path']} is not that at {mine['path']}")
    if gpus is not None:
        if facts["instructions"] != mine["instructions"]:
            there, own = " ".join(facts["instructions"]), " ".join(mine["instructions"])
            out.append(f"instruction set {there}, here {own} (mixed: allow takes it)")
        if gpus and facts["gpus"] != list(gpus):
            there, first = ", ".join(facts["gpus"]) or "none", ", ".join(gpus)
            out.append(f"GPUs {there}, another node's are {first} (mixed: allow takes it)")
    return "; ".join(out)


def gone(ray: Any, node: Mapping[str, Any], seconds: float = 15.0) -> bool:
    """True where a node that gave no answer is found dead; Ray takes some seconds to list it as that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if node["NodeID"] not in {other["NodeID"] for other in alive(ray)}:
            return True
        time.sleep(0.5)
    return False


def refused(faults: Mapping[str, str]) -> UserError:
    """The refusal that names every node with what is wrong there."""
    return UserError(
        "; ".join(f"{node}: {text}" for node, text in faults.items()),
        "nodes that share the study's folder and run the same versions",
        "mend them, give the workers a resource that only the right nodes have, or put --out on a shared disk",
    )
