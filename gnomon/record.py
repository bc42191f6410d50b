"""run.json: what a run is, and what became of it; written when it begins and when it ends, however it ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from gnomon import machine
from gnomon.disk import write_bytes, write_json
from gnomon.errors import UserError
from gnomon.planned import BACK, KEEP, Plan, Planned
from gnomon.provenance import source
from gnomon.store import Artifact

PEAKS = ("peak_memory_bytes", "peak_worker_memory_bytes", "peak_device_memory_bytes")


class Record:
    """The record of one run; study.yaml beside it holds the study with every default filled in."""

    def __init__(self, plan: Plan, command: str) -> None:
        self.plan, self.command = plan, command
        self.started = now()
        self.criteria: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        study = plan.loaded.study
        self.model: dict[str, Any] = asdict(study.spec())
        if any(p.step.uses_model and p.spec == study.spec() for p in plan.steps):
            self.model |= study.spec().facts()
        write_bytes(plan.out / "study.yaml", plan.loaded.text().encode())
        self.write("running")

    def write(self, status: str) -> None:
        """Write run.json; `status` is running, finished, interrupted or failed."""
        study = self.plan.loaded.study
        begun = [s["name"] for s in self.steps]
        later = [
            {"name": p.name, "step": p.entry.step, "fingerprint": p.fingerprint, "kept": False, "action": "waiting"}
            for p in self.plan.steps
            if p.name not in begun
        ]
        write_json(self.plan.out / "run.json", {
            "title": study.title, "status": status, "command": self.command, "started": self.started,
            "finished": None if status == "running" else now(), "steps": [*self.steps, *later],
            "criteria": self.criteria, "model": self.model, "seed": study.seed, "executor": study.executor,
            "study": study.model_dump(mode="json", exclude={"steps", "criteria"}), "versions": machine.versions(),
            "machine": machine.machine(), "environment": machine.environment(), "gnomon": machine.versions()["gnomon"],
            "host": socket.gethostname(), "source": source(), "workers": self.plan.loaded.executor.processes(),
        })  # fmt: skip

    def step(self, planned: Planned, action: str, reason: str) -> None:
        """Note what was done with a step."""
        meta = Artifact(planned.node.path).meta
        self.steps.append({
            "name": planned.name, "step": planned.entry.step, "fingerprint": planned.fingerprint, "action": action,
            "reason": reason, "kept": action in (KEEP, BACK), "seconds": meta.get("seconds"),
            **{key: meta[key] for key in PEAKS if key in meta},
        })  # fmt: skip

    @contextmanager
    def kept_to_the_end(self) -> Iterator[None]:
        """Within: the run. run.json is written when it is left."""
        try:
            yield
        except BaseException as error:
            with suppress(UserError):  # a disk that is full for the step is full for its record: the first is told
                self.write("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self.write("finished")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
