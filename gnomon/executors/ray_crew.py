"""The workers of a Ray cluster and the shards they are on: handed out in order, tried again where a worker dies.

Shards go out by demand, in order, a few ahead for each worker: a slow or lost worker then delays only what it holds,
while fixed ranges would leave the range of a lost one to be done at the end, alone.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gnomon.errors import UserError
from gnomon.executors.ray_actor import Seat, model_of
from gnomon.shards import ShardEvent, Watch, Worker, label

log = logging.getLogger("gnomon.ray")


@dataclass
class Member:
    """A worker: its actor, and the shards (by index) that were handed to it, the one it is on first."""

    name: str
    node: str
    pid: int
    handle: Any
    shards: list[int] = field(default_factory=list)


class Crew:
    """Actors that live through every map of a run, and the loop that gives them shards.

    Args:
        ray: the module, connected.
        needs: resources of one worker, by Ray's names (CPU, GPU, others).
        environment: environment variables of the workers; others need other workers.
        fault: what keeps a node (by id) from working on the study, "" where nothing does.
    """

    def __init__(
        self, ray: Any, needs: Mapping[str, float], environment: Mapping[str, str], fault: Callable[[str], str],
        retries: int, in_flight: int, patience: float,
    ) -> None:  # fmt: skip
        self.ray, self.environment, self.fault = ray, dict(environment), fault
        self.retries, self.in_flight, self.patience = retries, in_flight, patience
        custom = {key: amount for key, amount in needs.items() if key not in ("CPU", "GPU")}
        self.options = {
            "num_cpus": needs.get("CPU", 0), "num_gpus": needs.get("GPU", 0), "resources": custom, "max_restarts": 0,
            "scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": self.environment},
        }  # fmt: skip
        self.members: list[Member] = []
        self.joining: dict[Any, Any] = {}
        self.turned_away: list[str] = []
        self.hired = self.maps = 0

    def run(
        self, workers: int, worker: Worker, shards: Sequence[Any], watch: Watch | None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (shard, result) as they finish; whoever is on a shard when this ends early is ended too."""
        ray = self.ray
        self.maps += 1
        payload = ray.put(pickle.dumps((worker, model_of(worker))))
        waiting, running = deque(range(len(shards))), dict[Any, tuple[Member, int]]()
        tries, lost, deaths, done, seen = Counter[int](), list[str](), 0, 0, time.monotonic()
        wanted = min(workers, len(shards))
        try:
            while waiting or running:
                self._hire(wanted)
                self._hand_out(payload, shards, waiting, running, watch)
                if self.members:
                    seen = time.monotonic()
                nobody = not running and not self.joining  # all were turned away: none is asked for any more
                if nobody or deaths > wanted * (self.retries + 1) or time.monotonic() - seen > self.patience:
                    lost.append(self._nobody(deaths))
                    break
                for ref in ray.wait([*running, *self.joining], num_returns=1, timeout=1.0)[0]:
                    if ref in self.joining:
                        deaths += self._join(ref, watch)
                        continue
                    member, index = running.pop(ref)
                    try:
                        kind, value = pickle.loads(ray.get(ref))
                    except ray.exceptions.RayError as error:
                        deaths += 1
                        lost += self._bury(member, error, shards, waiting, running, tries, watch)
                        continue
                    member.shards.remove(index)
                    if kind == "user":
                        raise value
                    if kind == "error":
                        raise RuntimeError(f"worker {member.name} failed on {label(shards[index])}:\n{value}")
                    deaths, done = 0, done + 1
                    tell(watch, ShardEvent("done", member.name, shards[index]))
                    if member.shards:
                        tell(watch, ShardEvent("start", member.name, shards[member.shards[0]]))
                    yield shards[index], value
        finally:
            for member in [member for member in self.members if member.shards]:
                self._dismiss(member)
        if lost:
            raise UserError(
                "; ".join(lost),
                f"{len(shards) - done} of {len(shards)} shards are missing",
                "finished shards are kept: run the same command again, with more memory for each worker if it ran out",
            )

    def close(self) -> None:
        """End every actor."""
        for member in list(self.members):
            self._dismiss(member)
        for handle in self.joining.values():
            with suppress(Exception):  # the cluster may be gone: so are they
                self.ray.kill(handle)
        self.joining.clear()

    def _hire(self, wanted: int) -> None:
        """Ask for actors until there are `wanted`; those the cluster has no room for yet join when it has."""
        for _ in range(wanted - len(self.members) - len(self.joining) - len(self.turned_away)):
            handle = self.ray.remote(Seat).options(**self.options).remote(os.getcwd(), [p for p in sys.path if p])
            self.joining[handle.facts.remote()] = handle

    def _join(self, ref: Any, watch: Watch | None) -> int:
        """Take in an actor that is ready; 1 where it died instead."""
        handle = self.joining.pop(ref)
        try:
            facts = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            log.warning("a worker could not start: %s", cause(error))
            log.debug("%s", error)
            return 1
        fault = self.fault(facts["node"])
        if fault:  # a node that came later: it is not used, the others go on
            self.turned_away.append(fault)
            log.warning("a worker is not used; %s", fault)
            self.ray.kill(handle)
            return 0
        member = Member(f"{facts['host']}/{self.hired}", facts["node"], facts["pid"], handle)
        self.hired += 1
        self.members.append(member)
        log.debug("worker %s: pid %d, node %s", member.name, member.pid, member.node[:6])
        tell(watch, ShardEvent("open", member.name))
        return 0

    def _hand_out(
        self, payload: Any, shards: Sequence[Any], waiting: deque[int], running: dict[Any, tuple[Member, int]],
        watch: Watch | None,
    ) -> None:  # fmt: skip
        """Give each worker its next shards; near the end one at a time, so that nobody waits behind another's."""
        depth = self.in_flight if len(waiting) > len(self.members) else 1
        for ahead in range(depth):
            for member in self.members:
                if waiting and len(member.shards) <= ahead:
                    index = waiting.popleft()
                    ref = member.handle.work.remote(self.maps, payload, pickle.dumps(shards[index]))
                    running[ref] = (member, index)
                    member.shards.append(index)
                    if len(member.shards) == 1:
                        tell(watch, ShardEvent("start", member.name, shards[index]))

    def _bury(
        self, member: Member, error: Exception, shards: Sequence[Any], waiting: deque[int],
        running: dict[Any, tuple[Member, int]], tries: Counter[int], watch: Watch | None,
    ) -> list[str]:  # fmt: skip
        """Give a dead worker's shards to others: the one it was on counts as tried, those behind it do not."""
        for ref in [ref for ref, (who, _) in running.items() if who is member]:
            del running[ref]
        held, member.shards = sorted(member.shards), []
        self._dismiss(member)
        first, text = held[0], cause(error)
        log.debug("worker %s: %s", member.name, error)
        waiting.extendleft(reversed(held[1:]))
        tries[first] += 1
        said = f"worker {member.name} (pid {member.pid}) {text} on {label(shards[first])}"
        if tries[first] > self.retries:
            tell(watch, ShardEvent("lost", member.name, shards[first], said))
            return [said if not self.retries else f"{said}, as did {self.retries} before it"]
        waiting.appendleft(first)
        tell(watch, ShardEvent("retry", member.name, shards[first], said))
        return []

    def _dismiss(self, member: Member) -> None:
        """End an actor: it has nothing to save, for a shard counts only once its marker is there."""
        self.members.remove(member)
        with suppress(Exception):  # the cluster may be gone, and the actor with it
            self.ray.kill(member.handle)

    def _nobody(self, deaths: int) -> str:
        """Why there is no worker."""
        if self.turned_away:
            return f"no worker is left: {'; '.join(dict.fromkeys(self.turned_away))}"
        if deaths:
            return f"{deaths} workers died one after another, and none finished a shard"
        return f"no worker could start within {self.patience:g} s: the cluster has no room for {needs(self.options)}"


def tell(watch: Watch | None, event: ShardEvent) -> None:
    """Tell who watches; without anybody, deaths still go to the log."""
    if watch is not None:
        watch(event)
    elif event.kind in ("retry", "lost"):
        log.warning("%s%s", event.text, "; it is tried again" if event.kind == "retry" else "; it is given up")


def needs(options: Mapping[str, Any]) -> str:
    """Resources of a worker in words."""
    named = {"cpu": options["num_cpus"], "gpu": options["num_gpus"], **options["resources"]}
    return "{" + ", ".join(f"{key}: {amount:g}" for key, amount in named.items() if amount) + "}"


def cause(error: Exception) -> str:
    """How an actor died, in words; Ray's own text goes to the log at level debug."""
    text = str(error)
    low = text.lower()
    if "low on memory" in low or "memory pressure" in low or type(error).__name__ == "OutOfMemoryError":
        return "was killed as its node ran out of memory"
    if "node has died" in low or "node died" in low or "node was" in low or "node failure" in low:
        return "died with its node"
    if type(error).__name__ == "ActorUnavailableError":
        return "is no longer reached"
    if "exit type" in low:
        return "was killed, or crashed,"
    return (
        f"died ({next((line.strip() for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)})"
    )
