"""The loop that gives shards to a cluster's workers, on a cluster that is acted: no Ray is needed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gnomon.errors import UserError
from gnomon.executors.ray_crew import Crew
from tests.light_workers import Slow


class Acted:
    """Stands for the module ray: every actor is ready at once, on the node n1 of host h."""

    exceptions = SimpleNamespace(RayError=ConnectionError)

    def __init__(self) -> None:
        self.asked = self.killed = 0

    def put(self, value: Any) -> Any:
        return value

    def remote(self, cls: type) -> Any:
        return SimpleNamespace(options=lambda **given: SimpleNamespace(remote=self.actor))

    def actor(self, *given: Any) -> Any:
        self.asked += 1
        return SimpleNamespace(facts=SimpleNamespace(remote=object))

    def wait(self, refs: Sequence[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return list(refs[:1]), list(refs[1:])

    def get(self, ref: Any) -> dict[str, Any]:
        return {"host": "h", "node": "n1", "pid": 1}

    def kill(self, handle: Any) -> None:
        self.killed += 1


def test_where_every_node_is_turned_away_the_map_ends_at_once_and_says_why():
    ray = Acted()
    crew = Crew(ray, {"CPU": 1}, {}, lambda node: f"node {node}: numpy 1, here 2", 2, 2, patience=5)
    began = time.monotonic()
    with pytest.raises(UserError, match="no worker is left: node n1: numpy 1, here 2; 3 of 3 shards are missing"):
        list(crew.run(2, Slow(), [(i, 0) for i in range(3)], None))
    assert time.monotonic() - began < 2
    assert ray.asked == ray.killed == 2
