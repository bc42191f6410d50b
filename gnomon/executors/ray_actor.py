"""A worker of a Ray cluster: an actor that works on a shard at a time and keeps its model through a run's maps."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from gnomon.errors import UserError

LARGEST = 1_000_000
"""Bytes of a shard's result: small records come back, arrays are written to the study's folder by the worker."""


class Seat:
    """The actor: unpickles a map's worker when its first shard comes, opens it, and works."""

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)  # a study may name its folder, and a user's own modules, from where it was started
        sys.path += [path for path in paths if path not in sys.path and os.path.exists(path)]
        self.number = -1
        self.worker: Any = None

    def facts(self) -> dict[str, Any]:
        """Where it sits: node, host, pid."""
        ray: Any = import_module("ray")
        return {"node": ray.get_runtime_context().get_node_id(), "host": socket.gethostname(), "pid": os.getpid()}

    def work(self, number: int, payload: bytes, shard: bytes) -> bytes:
        """Work on a shard of map `number`, whose pickled worker is `payload`.

        Returns, pickled, ("result" | "user" | "error", value): exceptions come back as values, so that whatever Ray
        raises is a death and not a mistake.
        """
        try:
            if self.number != number:
                self.worker = None  # its memory goes before the next one's comes
                worker, model = pickle.loads(payload)
                worker.open()
                _same_model(worker, model)
                self.number, self.worker = number, worker
            answer = pickle.dumps(("result", self.worker(pickle.loads(shard))))
            if len(answer) > LARGEST:
                raise RuntimeError(
                    f"a result of {len(answer):,} bytes: at most {LARGEST:,} may travel, write the rest to the shard"
                )
            return answer
        except UserError as error:
            return pickle.dumps(("user", error))
        except BaseException:  # whatever it is, the driver raises it with this traceback
            return pickle.dumps(("error", traceback.format_exc()))


def model_of(worker: Any) -> str:
    """Fingerprint of the model that a worker names in `spec`; "" where it names none."""
    spec: Any = getattr(worker, "spec", None)
    return str(spec.facts()["fingerprint"]) if hasattr(spec, "facts") else ""


def _same_model(worker: Any, wanted: str) -> None:
    """A node's own cache may hold other weights under the same name."""
    if wanted and (found := model_of(worker)) != wanted:
        raise UserError(
            f"node {socket.gethostname()} has other weights of {worker.spec.name} ({found[:12]}, the driver's are "
            f"{wanted[:12]})",
            "the same model on every node",
            "empty its cache (GNOMON_CACHE), name a revision, or give the model as a shared folder",
        )
