"""One step made: its folder found, mended or begun, its work done with fixed threads, and committed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gnomon import budget, machine, provenance, repair
from gnomon.aside import Litter, parked, set_aside, stamped
from gnomon.console import Screen
from gnomon.disk import disk_errors, write_json
from gnomon.errors import UserError
from gnomon.fingerprints import INPUTS, contents, is_clocked, moved, recorded
from gnomon.halving import release_memory
from gnomon.lock import Lock
from gnomon.planned import Plan, Planned, relative
from gnomon.record import now
from gnomon.step import Context
from gnomon.store import Artifact
from gnomon.text import duration, size
from gnomon.writer import Writer

TRIES = "_done/tries"
"""In a step's folder: each time that it was worked on: since when, where, by how many, how long."""


def make(planned: Planned, plan: Plan, command: str, lock: Lock, log: logging.Logger, screen: Screen) -> None:
    """Run one step into its partial folder and commit it; a damaged folder is opened again for that."""
    study, out, executor = plan.loaded.study, plan.out, plan.loaded.executor
    log.info("[%d/%d] %s: %s", plan.steps.index(planned) + 1, len(plan.steps), planned.name, planned.action,
             extra={"step": planned.name})  # fmt: skip
    computes = getattr(executor, "device_class", machine.device_class)  # an executor's workers may be elsewhere
    device = computes(planned.spec.device) if planned.step.uses_model else "cpu"
    threads = study.threads or machine.default_threads(executor.processes())
    mixed = study.mixed == "allow"
    if planned.forced:
        _forget(out, planned)
    if planned.broken is not None:
        _reopen(planned, out, device, threads, mixed, log)
    elif planned.verify and (partial := out / f".{planned.name}.partial").is_dir():
        _drop(planned.name, partial, log)
    made_of = contents(planned)
    _leave(planned, out, made_of, log)
    writer = Writer(out, planned.name, planned.fingerprint)
    write_json(writer.path / INPUTS, made_of)
    tell_litter(writer.litter, out, log)
    threads = machine.same_class(writer.path, device, threads, mixed)
    tries = _begin(writer, planned, executor.processes(), threads, log)
    limits = {key: value for key, value in study.limits.model_dump().items() if value is not None}
    ctx = Context(out, planned.spec, study.seed, executor, logging.getLogger(f"gnomon.{planned.name}"), screen.bar,
                  limits=limits)  # fmt: skip
    clock = time.perf_counter()
    machine.reset_peak()
    with machine.threads(threads):
        environment = machine.environment()
        planned.step.run(planned.inputs(), writer, ctx)
    if device != "cpu":
        release_memory(cycles=True)  # what this step let go of is the next one's, and that of workers beside it
    tries[-1]["seconds"] = round(time.perf_counter() - clock, 3)
    seconds = sum(float(one.get("seconds") or 0) for one in tries)
    was = repair.before(writer.path)
    lock.check()
    write_json(writer.path / TRIES, tries)
    artifact = writer.commit({
        "step": planned.entry.step, "name": planned.name, "version": planned.step.version,
        "options": planned.step.model_dump(mode="json"), "writes": list(planned.node.writes),
        "inputs": _inputs(planned, out, made_of), "identity": planned.identity, "model": _model(planned),
        "seed": study.seed,
        "started": tries[0]["started"], "finished": now(), "seconds": round(seconds, 3), **machine.peak_memory(),
        **provenance.worker_peak(writer.done().values()), "source": provenance.source(),
        "cost": asdict(planned.node.cost), "ledger": ctx.ledger, "device": device, "threads": threads,
        "executor": study.executor, "workers": executor.processes(), "host": socket.gethostname(),
        "hosts": _hosts(writer), "work": ctx.work, "tries": tries, "command": command,
        "versions": machine.versions(), "machine": machine.machine(), "environment": environment,
        **({"mended": was["mended"]} if was.get("mended") else {}), **_clocked(planned),
    })  # fmt: skip
    weight = size(budget.folder_size(artifact.path))
    log.info("%s: made in %s, %s", planned.name, duration(tries[-1]["seconds"]), weight,
             extra={"step": planned.name, "seconds": tries[-1]["seconds"]})  # fmt: skip
    if was:
        _tell_mended(planned.name, was, artifact, log)


def _clocked(planned: Planned) -> dict[str, Any]:
    tables = planned.step.clocked
    return {"clocked": list(tables)} if tables else {}


def _inputs(planned: Planned, out: Path, made_of: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: {"name": relative(node, out), "kind": kind, "fingerprint": node.fingerprint,
              "content": made_of[key]}
        for key, (kind, node) in planned.sources().items()
    }  # fmt: skip


def _model(planned: Planned) -> dict[str, Any]:
    """What the step ran on: how it was loaded, its sizes and its fingerprint; {} where it used no model."""
    if not planned.step.uses_model:
        return {}
    return asdict(planned.spec) | planned.spec.facts()


def _begin(writer: Writer, planned: Planned, workers: int, threads: int, log: logging.Logger) -> list[dict[str, Any]]:
    """Note that work begins; says what is there of earlier tries, whose ends are told by their last markers."""
    tries: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        value = json.loads((writer.path / TRIES).read_text())
        tries = [one for one in value if isinstance(one, dict) and "started" in one]
    done = writer.done()
    if tries and tries[-1].get("seconds") is None:
        ends = [path.stat().st_mtime for path in (writer.path / "_done").glob("*.json")]
        tries[-1]["seconds"] = round(max(0.0, max(ends, default=0.0) - float(tries[-1].get("clock", 0.0))), 3)
    if tries:
        last = tries[-1]
        log.info("%s: %d shards are there, begun %s on %s (try %d)", planned.name, len(done), tries[0]["started"],
                 last.get("host"), len(tries) + 1, extra={"step": planned.name, "shards": len(done)})  # fmt: skip
    tries.append({"started": now(), "clock": round(time.time(), 3), "host": socket.gethostname(), "pid": os.getpid(),
                  "workers": workers, "threads": threads, "found": len(done), "seconds": None})  # fmt: skip
    write_json(writer.path / TRIES, tries)
    return tries


def _hosts(writer: Writer) -> dict[str, int]:
    """How many shards each host made."""
    return dict(sorted(Counter(str(marker.get("host", "")) for marker in writer.done().values()).items()))


def _leave(planned: Planned, out: Path, made_of: Mapping[str, str], log: logging.Logger) -> None:
    """Remove half-made shards of this step that were made of other files of its inputs: rows of both would mix."""
    for partial in (out / f".{planned.name}.partial", parked(out, planned.name, planned.fingerprint)):
        if stamped(partial) == planned.fingerprint and (others := moved(planned, recorded(partial), made_of)):
            log.warning("%s: the shards of %s were made of other files of %s: they are removed", planned.name,
                        partial.relative_to(out), ", ".join(others), extra={"step": planned.name})  # fmt: skip
            with disk_errors(partial):
                shutil.rmtree(partial)


# ---------------------------------------------------------------- mending


def _reopen(planned: Planned, out: Path, device: str, threads: int, mixed: bool, log: logging.Logger) -> None:
    """Open a damaged folder again; one of another class of machine is refused before it is touched."""
    folder = planned.broken or planned.folder
    if (folder / "_done" / "machine").is_file():
        machine.same_class(folder, device, threads, mixed)
    found = planned.looked.get(folder) or repair.damage(folder)
    for one in found:
        log.warning("%s/%s: it is made anew", planned.name, one, extra={"step": planned.name, **asdict(one)})
    repair.reopen(out, planned.name, folder, planned.fingerprint, found, now())
    done = len(Writer.attach(out / f".{planned.name}.partial").done())
    log.info("%s: %d shards are whole and stay", planned.name, done)


def _drop(name: str, partial: Path, log: logging.Logger) -> None:
    """Take the shards out of a half-made step whose bytes are not those that were written."""
    found = repair.half_made(partial)
    for one in found:
        log.warning("%s/%s: it is made anew", name, one, extra={"step": name, **asdict(one)})
    repair.drop(partial, found)


def _tell_mended(name: str, was: Mapping[str, Any], artifact: Artifact, log: logging.Logger) -> None:
    """Say whether a mended folder is what it was."""
    changed = repair.changed(was, artifact.meta["files"])
    other = [file for file in changed if not is_clocked(file, artifact.meta.get("clocked", ()))]
    if not other:
        but = f" but for what was measured anew: {', '.join(changed)}" if changed else ""
        log.info("%s: mended, every file has the bytes that it had%s", name, but, extra={"step": name})
        return
    here = machine.versions()
    updated = [f"{key} {value}, now {here.get(key, 'none')}" for key, value in was.get("versions", {}).items()
               if here.get(key) != value]  # fmt: skip
    more = f" and {len(other) - 1} more" if len(other) > 1 else ""
    why = f" (made with {'; '.join(updated)})" if updated else ""
    log.warning("%s: mended, but %s%s has other bytes than before%s: what reads them is made anew", name, other[0],
                more, why, extra={"step": name, "changed": other})  # fmt: skip


def _forget(out: Path, planned: Planned) -> None:
    """Move a folder that is to be made anew out of the way, so that a stopped run does not take it for finished."""
    old = out / ".old" / f"{planned.name}-{planned.fingerprint[:16]}"
    current = out / planned.name
    with disk_errors(current):
        if current.is_dir() and _is_of(current, planned.fingerprint):
            set_aside(out, planned.name)
        if old.exists():
            replaced = out / ".old" / f"{planned.name}-replaced"
            shutil.rmtree(replaced, ignore_errors=True)
            old.rename(replaced)
        for partial in (out / f".{planned.name}.partial", parked(out, planned.name, planned.fingerprint)):
            if partial.exists():
                shutil.rmtree(partial)


def _is_of(folder: Path, fingerprint: str) -> bool:
    """Whether a folder would be taken for the finished step of a fingerprint, or for a broken one of it."""
    with suppress(UserError):
        return Artifact(folder).fingerprint == fingerprint
    return True


# ---------------------------------------------------------------- what is said


def tell_litter(litter: Sequence[Litter], out: Path, log: logging.Logger) -> None:
    """Log what stopped runs left: each file in run.log, and one line a kind on the screen."""
    kinds: dict[str, list[Litter]] = {}
    for one in litter:
        kinds.setdefault(one.what, []).append(one)
        log.debug("swept: %s, %s: %s", one.path.relative_to(out), size(one.size) or "0 B", one.what)
    for what, some in kinds.items():
        where = str(some[0].path.relative_to(out)) + (f" and {len(some) - 1} more" if len(some) > 1 else "")
        log.info("left by a stopped run: %s, %s: %s", where, size(sum(one.size for one in some)) or "0 B", what)


def is_memory(error: Exception) -> bool:
    """True where the host's or a device's memory ran out (torch says it in classes of its own, or in words)."""
    name = type(error).__name__
    return name in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)
