"""The one loop: keep, make, commit. Steps run in the order of the study file, each from the folders it reads.

A step whose fingerprint stands in the study already is kept, or mended where files are missing; one that was replaced
earlier is brought back; the others are made in `.NAME.partial` and renamed into place. Then criteria, run.json, report.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gnomon import budget, criteria, machine
from gnomon.aside import bring_back, finish_swaps, sweep
from gnomon.config import Loaded, load
from gnomon.console import Screen, level_number, logged
from gnomon.decide import decide
from gnomon.disk import disk_error
from gnomon.errors import UserError
from gnomon.lock import Lock, study_lock
from gnomon.make import is_memory, make, tell_litter
from gnomon.plan import named, plan_study
from gnomon.planned import BACK, KEEP, Plan, Planned
from gnomon.record import Record
from gnomon.store import META, Artifact, Study

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ESTALE,
        errno.ENOTCONN)  # fmt: skip
"""What a disk answers that is full, read-only, broken or away."""


def run_study(
    study: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    remake: Sequence[str] = (),
    verify: bool = False,
    log_level: str = "info",
    screen: Screen | None = None,
) -> Study:
    """Run a study file (or a mapping of the same shape) into `out`, keeping every step that stands there already.

    Args:
        study: path of a study file, or its content; steps may be given as `Step` objects.
        out: the study's folder; by default studies/NAME under the current folder, NAME being the file's.
        overrides: `generate.n=40`, `seed=1`, ... as on the command line.
        remake: names of steps to make anew though nothing changed; what follows them is made anew where they differ.
        verify: read every byte of the steps that are kept, and make anew the shards whose files changed; without it
            only missing files and other sizes are seen.
        log_level: what is shown while it runs; run.log in the study's folder holds everything.

    Returns the finished study. Raises UserError for a mistake (nothing is lost: finished steps and shards stay),
    KeyboardInterrupt when stopped; the same call goes on where it stopped.
    """
    level_number(log_level)
    loaded = load(study, overrides)
    folder = folder_of(loaded, out)
    screen = screen or Screen()
    with ExitStack() as stack, _disk(folder):
        lock = stack.enter_context(study_lock(folder)) if (folder / ".lock").exists() else None
        plan = plan_study(loaded, folder, remake, verify)
        doubts = criteria.check(plan)
        budget.refuse(plan)
        lock = lock or stack.enter_context(study_lock(folder))  # a new study's folder is made only for a sound plan
        log = stack.enter_context(logged(folder / "run.log", log_level, screen))
        _tidy(plan, lock, log)
        record = Record(plan, command(loaded, folder, overrides))
        _announce(plan, log)
        for doubt in doubts:
            log.warning(doubt)
        with record.kept_to_the_end(), _prepared(plan):
            for planned in plan.steps:
                _do(planned, plan, record, lock, log, screen)
            record.criteria = criteria.evaluate(loaded.study, Study(folder))
        from gnomon.report.html import build_report

        log.debug("report: %s", build_report(folder))
    return Study(folder)


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Within: a disk that is full, away or read-only is a UserError, whoever meets it first."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK:
            raise disk_error(Path(error.filename or folder), error) from error
        raise


def _tidy(plan: Plan, lock: Lock, log: logging.Logger) -> None:
    """Finish what a stopped run began, sweep what it left, and say both."""
    if lock.taken_from:
        log.warning("%s: its run is gone (%s); its lock is taken over", plan.out, lock.taken_from)
    with suppress(UserError):
        last = Study(plan.out).run
        if last.get("status") == "running":
            log.info("the last run, begun %s, was cut off: what it finished is kept", last.get("started"))
    for name in finish_swaps(plan.out):
        log.info("%s: an earlier commit was cut off; it is finished now", name)
    tell_litter(sweep(plan.out, [planned.name for planned in plan.steps]), plan.out, log)


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


def _do(planned: Planned, plan: Plan, record: Record, lock: Lock, log: logging.Logger, screen: Screen) -> None:
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
            make(planned, plan, record.command, lock, log, screen)
        except UserError as error:
            log.error("%s failed", planned.name, extra={"step": planned.name, "error": str(error)})
            raise named(planned.name, error) from error
        except OSError as error:
            if error.errno in DISK:
                raise named(planned.name, disk_error(Path(error.filename or plan.out), error)) from error
            raise
        except Exception as error:
            if is_memory(error):
                do = "lower batch_size or choose a smaller dtype; finished shards are kept"
                raise UserError(f"step '{planned.name}' ran out of memory ({error})", "", do) from error
            log.exception("%s failed", planned.name, extra={"step": planned.name})
            raise
    planned.action, planned.reason, planned.forced = KEEP, "made in this run", False
    planned.looked.clear()
    record.step(planned, action, reason)


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
