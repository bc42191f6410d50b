"""The one loop: keep, make, commit. Steps run in the order of the study file, each from the folders it reads.

A step whose fingerprint stands in the study already is kept; one that was replaced earlier is brought back; the others
are made in `.NAME.partial` and renamed into place. Then the criteria, run.json and the report.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gnomon import budget, criteria, machine
from gnomon.aside import bring_back, finish_swaps, set_aside
from gnomon.config import Loaded, load
from gnomon.console import Screen, level_number, logged
from gnomon.decide import decide
from gnomon.disk import disk_error
from gnomon.errors import UserError
from gnomon.fingerprints import content
from gnomon.lock import study_lock
from gnomon.plan import named, plan_study
from gnomon.planned import BACK, KEEP, Plan, Planned, relative
from gnomon.record import Record, now
from gnomon.step import Context
from gnomon.store import META, Artifact, Study
from gnomon.text import duration, size
from gnomon.writer import Writer

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def run_study(
    study: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    remake: Sequence[str] = (),
    log_level: str = "info",
    screen: Screen | None = None,
) -> Study:
    """Run a study file (or a mapping of the same shape) into `out`, keeping every step that stands there already.

    Args:
        study: path of a study file, or its content; steps may be given as `Step` objects.
        out: the study's folder; by default studies/NAME under the current folder, NAME being the file's.
        overrides: `generate.n=40`, `seed=1`, ... as on the command line.
        remake: names of steps to make anew though nothing changed; what follows them is made anew where they differ.
        log_level: what is shown while it runs; run.log in the study's folder holds everything.

    Returns the finished study. Raises UserError for a mistake (nothing is lost: finished steps and shards stay),
    KeyboardInterrupt when stopped; the same call goes on where it stopped.
    """
    level_number(log_level)
    loaded = load(study, overrides)
    folder = folder_of(loaded, out)
    screen = screen or Screen()
    plan = plan_study(loaded, folder, remake)
    doubts = criteria.check(plan)
    budget.refuse(plan)
    with study_lock(folder), logged(folder / "run.log", log_level, screen) as log:
        for name in finish_swaps(folder):
            log.info("%s: an earlier commit was cut off; it is finished now", name)
        record = Record(plan, command(loaded, folder, overrides))
        _announce(plan, log)
        for doubt in doubts:
            log.warning(doubt)
        with record.kept_to_the_end(), _prepared(plan):
            for planned in plan.steps:
                _do(planned, plan, record, log, screen)
            record.criteria = criteria.evaluate(loaded.study, Study(folder))
        from gnomon.report.html import build_report

        log.debug("report: %s", build_report(folder))
    return Study(folder)


def folder_of(loaded: Loaded, out: str | Path | None) -> Path:
    """The study's folder: `out`, or studies/NAME; the saved study.yaml of a study belongs to its own folder."""
    if out is None:
        if loaded.file is None:
            raise UserError("a study given as a mapping has no folder", "out=", "say where it goes")
        own = loaded.file.name == "study.yaml" and (loaded.folder / "run.json").is_file()
        out = loaded.folder if own else Path("studies") / loaded.file.stem
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "a folder for the study", "choose another --out")
    strange = folder.is_dir() and any(folder.iterdir())
    marks = ("run.json", ".lock", "run.log", f"*/{META}", ".*.partial")
    if strange and not any(any(folder.glob(mark)) for mark in marks):
        raise UserError(f"{folder} holds other things than a study", "a new or empty folder", "choose another --out")
    return folder


def command(loaded: Loaded, folder: Path, overrides: Sequence[str] = ()) -> str:
    """The command that makes, or goes on with, a study."""
    if loaded.file is None:
        return shlex.join(["gnomon", "run", str(folder / "study.yaml")])
    file = os.path.relpath(loaded.file)
    return shlex.join(["gnomon", "run", file if len(file) < len(str(loaded.file)) else str(loaded.file),
                       "--out", str(folder), *overrides])  # fmt: skip


@contextmanager
def _prepared(plan: Plan) -> Iterator[None]:
    """Within: the executor works on the study's folder; its processes are gone when it is left."""
    executor = plan.loaded.executor
    try:
        if plan.to_do():
            executor.prepare(plan.out.absolute())
        yield
    finally:
        executor.close()


def _announce(plan: Plan, log: logging.Logger) -> None:
    """Say beforehand what is kept, made and remade, and why."""
    study = plan.loaded.study
    log.info(
        "%s: %d steps, %s in %s -> %s",
        study.title or plan.out.name,
        len(plan.steps),
        study.model,
        study.dtype,
        plan.out,
    )
    width = max(len(planned.name) for planned in plan.steps)
    for planned in plan.steps:
        log.info("  %s  %s  (%s)", planned.name.ljust(width), planned.action.ljust(10), planned.reason)


def _do(planned: Planned, plan: Plan, record: Record, log: logging.Logger, screen: Screen) -> None:
    """Keep, bring back or make one step."""
    decide(planned, {p.node.path: p for p in plan.steps}, plan.out)  # its inputs are known now
    action, reason = planned.action, planned.reason
    if action == KEEP:
        _say_differences(planned, log)
    elif action == BACK:
        bring_back(plan.out, planned.name, planned.fingerprint)
        log.info("%s: brought back", planned.name)
    else:
        try:
            _make(planned, plan, log, screen)
        except UserError as error:
            log.error("%s failed", planned.name, extra={"step": planned.name, "error": str(error)})
            raise named(planned.name, error) from error
        except OSError as error:
            if error.errno in NO_SPACE:
                raise named(planned.name, disk_error(Path(error.filename or plan.out), error)) from error
            raise
        except Exception as error:
            if _is_memory(error):
                do = "lower batch_size or choose a smaller dtype; finished shards are kept"
                raise UserError(f"step '{planned.name}' ran out of memory ({error})", "", do) from error
            log.exception("%s failed", planned.name, extra={"step": planned.name})
            raise
    planned.action, planned.reason, planned.forced = KEEP, "made in this run", False
    record.step(planned, action, reason)


def _make(planned: Planned, plan: Plan, log: logging.Logger, screen: Screen) -> None:
    """Run one step into its partial folder and commit it."""
    study, out = plan.loaded.study, plan.out
    if planned.forced:
        _forget(out, planned)
    writer = Writer(out, planned.name, planned.fingerprint)
    executor = plan.loaded.executor
    computes = getattr(executor, "device_class", machine.device_class)  # an executor's workers may be elsewhere
    device = computes(planned.spec.device) if planned.step.uses_model else "cpu"
    threads = study.threads or machine.default_threads(executor.processes())
    threads = machine.same_class(writer.path, device, threads, study.mixed == "allow")
    limits = {key: value for key, value in study.limits.model_dump().items() if value is not None}
    ctx = Context(out, planned.spec, study.seed, executor, logging.getLogger(f"gnomon.{planned.name}"), screen.bar,
                  limits=limits)  # fmt: skip
    log.info("[%d/%d] %s: %s", plan.steps.index(planned) + 1, len(plan.steps), planned.name, planned.action,
             extra={"step": planned.name})  # fmt: skip
    started, clock = now(), time.perf_counter()
    machine.reset_peak()
    with machine.threads(threads):
        environment = machine.environment()
        planned.step.run(planned.inputs(), writer, ctx)
    seconds = time.perf_counter() - clock
    facts = planned.spec.facts() if planned.step.uses_model else {}
    inputs = {
        key: {"name": relative(node, out), "kind": kind, "fingerprint": node.fingerprint,
              "content": content(Artifact(node.path))}
        for key, (kind, node) in planned.sources().items()
    }  # fmt: skip
    artifact = writer.commit({
        "step": planned.entry.step, "name": planned.name, "version": planned.step.version,
        "options": planned.step.model_dump(mode="json"), "writes": list(planned.node.writes), "inputs": inputs,
        "identity": planned.identity, "model": (asdict(planned.spec) | facts) if facts else {}, "seed": study.seed,
        "started": started, "finished": now(), "seconds": round(seconds, 3), **machine.peak_memory(),
        "cost": asdict(planned.node.cost), "ledger": ctx.ledger, "device": device, "threads": threads,
        "executor": study.executor, "versions": machine.versions(), "machine": machine.machine(),
        "environment": environment,
    })  # fmt: skip
    weight = size(budget.folder_size(artifact.path))
    log.info("%s: made in %s, %s", planned.name, duration(seconds), weight,
             extra={"step": planned.name, "seconds": round(seconds, 3)})  # fmt: skip


def _is_memory(error: Exception) -> bool:
    """True where the host's or a device's memory ran out (torch says it in classes of its own, or in words)."""
    name = type(error).__name__
    return name in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


def _forget(out: Path, planned: Planned) -> None:
    """Move a folder that is to be made anew out of the way, so that a stopped run does not take it for finished."""
    old = out / ".old" / f"{planned.name}-{planned.fingerprint[:16]}"
    current = out / planned.name
    if (current / META).is_file() and Artifact(current).fingerprint == planned.fingerprint:
        set_aside(out, planned.name)
    if old.exists():
        replaced = out / ".old" / f"{planned.name}-replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        old.rename(replaced)
    partial = out / f".{planned.name}.partial"
    if partial.exists():
        shutil.rmtree(partial)


def _say_differences(planned: Planned, log: logging.Logger) -> None:
    """A kept folder may come from other versions, another machine or device: said, not acted upon."""
    meta = Artifact(planned.node.path).meta
    here = machine.versions()
    changed = [f"{name} {version}, now {here.get(name, 'none')}" for name, version in meta.get("versions", {}).items()
               if here.get(name) != version]  # fmt: skip
    if meta.get("machine", {}).get("instructions") != machine.machine()["instructions"]:
        changed.append("another instruction set")
    level = logging.INFO if changed else logging.DEBUG
    log.log(level, "%s: kept%s", planned.name, f", made with {'; '.join(changed)}" if changed else "",
            extra={"step": planned.name})  # fmt: skip
