"""`gnomon unpack`: a packed study becomes a folder again, or nothing at all.

Everything goes into a temporary folder beside the target: names held against pack.json, bytes against their sha256, the
sum against a limit; then each step's own record is read; then one rename. A pack is a stranger's file: see `archive`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.archive import BOMB, Unpacked
from gnomon.disk import sync_folder
from gnomon.errors import UserError
from gnomon.packing import IMPORTABLE, MANIFEST, SUFFIX, TOP, unwritable
from gnomon.reading import MAX_JSON, ordinary, parse_json
from gnomon.recorded import STEP, check_files
from gnomon.store import Study
from gnomon.text import size

GROWTH, ALWAYS = 50, 256 << 20
"""A pack may grow to the first times its own size, and to the second in any case."""


@dataclass(frozen=True)
class Unpacking:
    """What came out of a pack."""

    path: Path
    steps: tuple[str, ...]
    files: int
    bytes: int
    left_out: int
    left_out_bytes: int


def unpack(file: str | Path, folder: str | Path | None = None, most_gb: float | None = None) -> Unpacking:
    """Make the study's folder again from a pack.

    Args:
        folder: where; by default the pack's name under the current folder. It must not be there, or be empty.
        most_gb: how many GB the pack may grow to; by default 50 times its own size (at least 0.27).

    UserError, and no folder, for whatever is not as `gnomon pack` writes it.
    """
    path = Path(file)
    length = ordinary(path)
    most = max(ALWAYS, GROWTH * length) if most_gb is None else int(most_gb * 1e9)
    target = Path(folder) if folder is not None else Path(path.name.removesuffix(SUFFIX))
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UserError(f"{target} is there already", "a new or empty folder", "choose another one")
    target = target.absolute()
    temporary = target.with_name(f".{target.name}.unpacking-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        with Unpacked(path, most) as pack:
            about, written = _extract(pack, temporary)
        _agree(path, temporary, about)
        sync_folder(temporary)
        os.rename(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    left = about["left_out"]
    return Unpacking(target, tuple(about["steps"]), len(about["files"]), written, len(left),
                     sum(record["bytes"] for record in left.values()))  # fmt: skip


def _extract(pack: Unpacked, folder: Path) -> tuple[dict[str, Any], int]:
    """Write every file that the manifest names; returns the manifest and the bytes written."""
    entries = pack.entries()
    about = _manifest(pack, entries)
    files, total, seen = about["files"], sum(record["bytes"] for record in about["files"].values()), set()
    if total > pack.most:
        raise UserError(f"{pack.path} would grow from {pack.size} to {total} bytes", f"{pack.most} at most",
                        f"{BOMB}; raise --most-gb if you trust it")  # fmt: skip
    free = shutil.disk_usage(folder).free
    if total > free:
        raise UserError(f"{pack.path} needs {size(total)}", f"{size(free)} are free", "unpack it on another disk")
    for name, length, chunks in entries:
        record = files.get(name)
        if record is None or name in seen or record["bytes"] != length:
            raise UserError(f"{pack.path} holds {name!r:.80}, which {MANIFEST} does not name so", "each file once")
        seen.add(name)
        place, digest = folder / name, hashlib.sha256()
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(place, "xb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != record["sha256"]:
            raise UserError(f"{pack.path}: {name} is damaged", "the bytes that were packed", "copy the pack again")
    missing = sorted(set(files) - seen)
    if missing:
        raise UserError(f"{pack.path} lacks {missing[0]}", "every file that it names", "copy the pack again")
    return about, total


def _manifest(pack: Unpacked, entries: Iterator[tuple[str, int, Iterator[bytes]]]) -> dict[str, Any]:
    """pack.json, checked: plain names, only where a study keeps files, no code."""
    first = next(entries, ("", 0, iter(())))
    name, length, chunks = first
    if name != MANIFEST or length > MAX_JSON:
        raise UserError(f"{pack.path} does not begin with {MANIFEST}", "a file that gnomon pack made")
    about = parse_json(b"".join(chunks), pack.path)
    good = isinstance(about, dict) and all(isinstance(about.get(k), dict) for k in ("files", "left_out"))
    if not good or about.get("format") != 1 or not isinstance(about.get("steps"), list):
        raise UserError(f"{pack.path}: its {MANIFEST} is none of this gnomon's", "format 1, files, left_out, steps")
    for files in (about["files"], about["left_out"]):
        check_files(pack.path, files)
    for name in about["files"]:
        step, _, below = name.partition("/")
        inside = name in TOP or (below and step in about["steps"] and STEP.fullmatch(step))
        if not inside or name.endswith(IMPORTABLE) or any(part.startswith(".") for part in name.split("/")):
            wanted = "the record, the log, the report, and files of its steps"
            raise UserError(f"{pack.path} holds {name!r:.80}", wanted, "nothing was unpacked")
    return about


def _agree(path: Path, folder: Path, about: Mapping[str, Any]) -> None:
    """The unpacked folder is a study: every step reads, and lacks no file but those that were left out."""
    study = Study(folder)
    try:
        study.run  # noqa: B018 - read for its errors
        for artifact in study:
            for name in artifact.meta["files"]:
                if name not in artifact.left_out and not (artifact.path / name).is_file():
                    raise UserError(f"{artifact.name}/{name} is missing, and not as left out", "whole steps")
    except UserError as error:
        raise UserError(f"{path}: {error.got.replace(f'{folder}/', '')}", error.wanted) from None
    if sorted(study.names()) != sorted(map(str, about["steps"])):
        raise UserError(f"{path} holds the steps {', '.join(study.names())}", f"{', '.join(map(str, about['steps']))}")
