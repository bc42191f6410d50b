"""Folders of a study set aside and brought back: replaced results, half-made steps, commits that were cut off."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gnomon.disk import disk_errors, file_size, sync_folder
from gnomon.errors import UserError
from gnomon.reading import read_json
from gnomon.recorded import PACKED
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


def stamped(folder: Path) -> str:
    """The fingerprint that a folder is stamped with, as it stands there; "" without a stamp."""
    stamp = folder / "fingerprint"
    return stamp.read_text(errors="replace") if stamp.is_file() else ""


def parked(study: Path, name: str, fingerprint: str) -> Path:
    """Where a half-made step waits for its options to come back."""
    return study / ".old" / f"{name}-{fingerprint[:16]}.partial"


def park(study: Path, name: str) -> list[Litter]:
    """Move a half-made step aside, for its finished shards are work; one that holds nothing goes. Says which."""
    partial = study / f".{name}.partial"
    size, fingerprint = _weight(partial), stamped(partial)
    if not any((partial / "_done").glob("*.json")):
        shutil.rmtree(partial)
        return [Litter(partial, size, "begun with other options, no shard finished: removed")] if size > 64 else []
    legible = re.fullmatch("[0-9a-f]{16,}", fingerprint) is not None
    place = parked(study, name, fingerprint if legible else "broken")
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(partial, place)
    sync_folder(place.parent)
    sync_folder(study)
    what = "begun with other options: waits there until they return" if legible else "its stamp is broken: set aside"
    return [Litter(place, size, f"{what}; gnomon clean removes it")]


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


def discard(partial: Path) -> None:
    """Remove what only the making needed: files that meta.json does not name, markers whose shards left nothing.

    Cut off anywhere it can be begun again: meta.json, written before, says what stays.
    """
    files = read_json(partial / META)["files"]
    done = partial / "_done"
    for marker in done.glob("*.json"):
        with suppress(UserError, AttributeError):  # a broken one is no record of anything
            made = read_json(marker).get("files")
            if made and not any(file in files for file in made):
                marker.unlink()
    folders = []
    for path in partial.rglob("*"):
        relative = path.relative_to(partial).as_posix()
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
        elif relative not in files and relative not in (META, PACKED, "fingerprint") and path.parent != done:
            path.unlink()
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):
            folder.rmdir()  # of those that are empty


def finish_swaps(study: Path) -> list[str]:
    """Rename into place the folders whose commit was cut off after their meta.json; returns the steps' names."""
    finished = []
    for partial in sorted(study.glob(".*.partial")):
        meta = partial / META
        name = partial.name[1:].removesuffix(".partial")
        if not meta.is_file():
            continue
        with disk_errors(partial):
            if (stamp := stamped(partial)) and _fingerprint(partial) == stamp:
                discard(partial)
                set_aside(study, name)
                os.replace(partial, study / name)
                finished.append(name)
            else:
                meta.unlink()  # broken: the step goes on from its shards
    if finished:
        sync_folder(study)
    return finished
