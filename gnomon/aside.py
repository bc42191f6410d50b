"""Folders of a study set aside and brought back: replaced results, half-made steps, commits that were cut off."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gnomon.disk import disk_errors, file_size, sync_folder
from gnomon.errors import UserError
from gnomon.reading import read_json
from gnomon.store import META, Artifact


@dataclass(frozen=True)
class Litter:
    """What a stopped run left behind, and what became of it."""

    path: Path
    size: int
    what: str
    """In words: "a temporary file, removed"."""


def _weight(folder: Path) -> int:
    return sum(file_size(p) for p in folder.rglob("*") if p.is_file())


def sweep(study: Path, names: Collection[str]) -> list[Litter]:
    """Remove what stopped runs left in a study's own folder; name, and leave, half-made steps that it no longer has."""
    found = []
    with disk_errors(study):
        for path in sorted(study.glob(".*.tmp")):
            if path.is_file() and not path.name.startswith("..lock"):
                found.append(Litter(path, file_size(path), "a temporary file, removed"))
                path.unlink(missing_ok=True)
        for path in sorted(study.glob(".*.partial")):
            if path.name[1:].removesuffix(".partial") not in names:
                found.append(Litter(path, _weight(path), "no step of this study is called so: gnomon clean removes it"))
    return found


def parked(study: Path, name: str, fingerprint: str) -> Path:
    """Where a half-made step waits for its options to come back."""
    return study / ".old" / f"{name}-{fingerprint[:16]}.partial"


def park(study: Path, name: str) -> list[Litter]:
    """Move a half-made step aside, for its finished shards are work; one that holds nothing goes. Says which."""
    partial = study / f".{name}.partial"
    stamp, size = partial / "fingerprint", _weight(partial)
    fingerprint = stamp.read_text() if stamp.is_file() else ""
    if not fingerprint.isalnum() or not any((partial / "_done").glob("*.json")):
        shutil.rmtree(partial)
        return [Litter(partial, size, "begun with other options, no shard finished: removed")] if size > 64 else []
    place = parked(study, name, fingerprint)
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(partial, place)
    sync_folder(place.parent)
    sync_folder(study)
    return [Litter(place, size, "begun with other options: waits there until they return; gnomon clean removes it")]


def set_aside(study: Path, name: str) -> None:
    """Move a committed folder to `.old/NAME-FINGERPRINT`, where it waits for its options to come back."""
    current = study / name
    if not current.exists():
        return
    try:
        fingerprint = Artifact(current).fingerprint
    except UserError:
        fingerprint = "broken"
    old = study / ".old" / f"{name}-{fingerprint[:16]}"
    with disk_errors(current):
        old.parent.mkdir(exist_ok=True)
        if old.exists():
            shutil.rmtree(old)
        os.replace(current, old)
    sync_folder(old.parent)
    sync_folder(study)


def bring_back(study: Path, name: str, fingerprint: str) -> bool:
    """Return an earlier result of the same fingerprint from `.old`; also repairs a half swap. True when it is there."""
    current, old = study / name, study / ".old" / f"{name}-{fingerprint[:16]}"
    if _fingerprint(current) == fingerprint:
        return True
    if _fingerprint(old) == fingerprint:
        set_aside(study, name)
        with disk_errors(current):
            os.replace(old, current)
        sync_folder(old.parent)
        sync_folder(study)
        return True
    return False


def _fingerprint(folder: Path) -> str:
    """What a finished folder was made of; "" where it is not there, or its meta.json is broken."""
    try:
        return str(read_json(folder / META).get("fingerprint", "")) if (folder / META).is_file() else ""
    except (UserError, AttributeError):
        return ""


def finish_swaps(study: Path) -> list[str]:
    """Rename into place the folders whose commit was cut off after their meta.json; returns the steps' names."""
    finished = []
    for partial in sorted(study.glob(".*.partial")):
        stamp, meta = partial / "fingerprint", partial / META
        name = partial.name[1:].removesuffix(".partial")
        if not meta.is_file():
            continue
        with disk_errors(partial):
            if stamp.is_file() and _fingerprint(partial) == stamp.read_text():
                set_aside(study, name)
                os.replace(partial, study / name)
                finished.append(name)
            else:
                meta.unlink()  # broken: the step goes on from its shards
    if finished:
        sync_folder(study)
    return finished
