"""Damage to the files of finished steps: found by size or by hash, named with its shard, mended shard by shard.

A damaged folder goes back to `.NAME.partial` without the bad shards and without what the step made of all shards;
the step is run again, finds the other shards there, and makes the rest. Where all bytes are as they were, what follows
is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gnomon.aside import park
from gnomon.disk import disk_errors, file_sha256, sync_folder, write_bytes, write_json
from gnomon.errors import UserError
from gnomon.reading import ordinary
from gnomon.recorded import FORMAT
from gnomon.store import META, Artifact, Study

NOTE = "_done/before"
"""In a folder that is mended: what its files were, and what was wrong with them."""
CARRIED = ("started", "finished", "seconds", "versions", "machine", "threads", "mended")


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written."""

    file: str
    """Relative to the step's folder."""
    found: str
    """In words, after the file's name: "is missing", "has 120 bytes"."""
    wanted: str
    shard: int | None = None
    """The shard whose marker names it; None for what the step made of all shards."""

    def __str__(self) -> str:
        whose = "" if self.shard is None else f" (shard {self.shard})"
        return f"{self.file} {self.found}, {self.wanted}{whose}"


def damage(folder: Path, hashed: bool = False) -> list[Damage]:
    """What is wrong with a finished step's files, [] when they are whole; where meta.json is broken, that comes first.

    By sizes, which takes a moment; `hashed` reads every byte. Raises UserError for a folder of a newer format.
    """
    shards = {file: (index, record) for index, file, record in _markers(folder)}
    try:
        artifact = Artifact(folder)
        files, left_out = artifact.meta["files"], artifact.left_out
    except UserError as error:
        _refuse_newer(folder / META, error)
        words = "is missing" if not (folder / META).exists() else f"is broken ({error.got})"
        found = [_wrong(folder, file, record, True, index) for file, (index, record) in shards.items()]
        return [Damage(META, words, "the record of all files"), *(one for one in found if one)]
    found = [
        _wrong(folder, file, record, hashed, shards.get(file, (None, None))[0])
        for file, record in files.items()
        if file not in left_out or (folder / file).exists()
    ]
    return [one for one in found if one]


def half_made(partial: Path, hashed: bool = True) -> list[Damage]:
    """What is wrong with the finished shards of a half-made step."""
    found = [_wrong(partial, file, record, hashed, index) for index, file, record in _markers(partial)]
    return [one for one in found if one]


def _markers(folder: Path) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """(shard, file, what was written) of every readable marker."""
    for path in sorted((folder / "_done").glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            for file, record in json.loads(path.read_text())["files"].items():
                yield int(path.stem), file, {"bytes": int(record["bytes"]), "sha256": str(record["sha256"])}


def _wrong(folder: Path, file: str, record: Mapping[str, Any], hashed: bool, shard: int | None) -> Damage | None:
    path, wanted = folder / file, f"{record['bytes']:,} bytes were written"
    if not path.exists() and not path.is_symlink():
        return Damage(file, "is missing", wanted, shard)
    try:
        size = ordinary(path, folder)
        if size != record["bytes"]:
            return Damage(file, f"has {size:,} bytes", wanted, shard)
        if hashed and file_sha256(path) != record["sha256"]:
            return Damage(file, "has another sha256", "not that of the bytes that were written", shard)
    except (UserError, OSError) as error:
        return Damage(file, f"cannot be read ({error.got if isinstance(error, UserError) else error})", wanted, shard)
    return None


def _refuse_newer(path: Path, error: UserError) -> None:
    """A folder that another version of gnomon wrote is not broken."""
    with suppress(OSError, ValueError, RecursionError):
        meta = json.loads(path.read_text())
        if isinstance(meta, dict) and "fingerprint" in meta and meta.get("format", FORMAT) != FORMAT:
            raise error


def summary(found: Sequence[Damage]) -> str:
    """The first of some damages in words, and how many more there are."""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0]}{more}"


def reopen(study: Path, name: str, folder: Path, fingerprint: str, found: Sequence[Damage], when: str) -> None:
    """Turn a finished folder into a half-made one without its damaged shards and without what was made of all shards.

    Cut off at any moment, the next start finds a finished folder with the same damage, or a half-made one without it.
    """
    partial = study / f".{name}.partial"
    was: dict[str, Any] = {"files": {file: dict(record) for _, file, record in _markers(folder)}}
    with suppress(UserError):
        meta = Artifact(folder).meta
        was = {key: meta[key] for key in CARRIED if key in meta} | {"files": meta["files"]}
    was["mended"] = was.get("mended", []) + [asdict(one) | {"when": when} for one in found]
    bad = {one.shard for one in found}
    with disk_errors(folder):
        if partial.exists():
            park(study, name)
        write_bytes(folder / "fingerprint", fingerprint.encode())
        os.replace(folder, partial)  # stamp and meta.json are there: a start after a crash puts it back
        write_json(partial / NOTE, was)
        drop(partial, [one for one in found if one.shard is not None])
        kept = {file for index, file, _ in _markers(partial) if index not in bad}
        for path in sorted(p for p in partial.rglob("*") if p.is_file() or p.is_symlink()):
            relative = path.relative_to(partial).as_posix()
            if relative not in kept and relative not in ("fingerprint", META) and not relative.startswith("_done/"):
                path.unlink()
        sync_folder(partial)
        (partial / META).unlink(missing_ok=True)
        sync_folder(partial)
        sync_folder(study)


def drop(partial: Path, found: Sequence[Damage]) -> None:
    """Take damaged shards out of a half-made step: their files first, so that none is left without a trace."""
    with disk_errors(partial):
        for one in found:
            path = partial / one.file
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                path.unlink()
        for index in {one.shard for one in found if one.shard is not None}:
            (partial / "_done" / f"{index:05d}.json").unlink(missing_ok=True)
        if (partial / "_done").is_dir():
            sync_folder(partial / "_done")


def before(folder: Path) -> dict[str, Any]:
    """What a folder that is being mended was; {} for any other."""
    with suppress(OSError, ValueError):
        value = json.loads((folder / NOTE).read_text())
        return value if isinstance(value, dict) else {}
    return {}


def changed(was: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The files of a mended folder that are not the bytes that they were."""
    old = {file: record.get("sha256") for file, record in was.get("files", {}).items()}
    return sorted(file for file, sha in old.items() if files.get(file, {}).get("sha256") != sha)


# ---------------------------------------------------------------- what is said


def problems(path: str | Path) -> list[str]:
    """What is wrong with the files of a study or a step, a line each, every byte read; then the command that mends it.

    The finished shards of half-made steps are looked at too.
    """
    folder = Path(path)
    single = (folder / META).exists() or (folder / "fingerprint").exists()
    study = folder.parent if single else Study(folder).path
    steps = (
        [folder] if single else sorted({p.parent for mark in (META, "fingerprint") for p in study.glob(f"*/{mark}")})
    )
    lines = []
    for step in (step for step in steps if not step.name.startswith(".")):
        lines += [f"{step.name}/{one}" for one in damage(step, hashed=True)]
    for partial in [] if single else sorted(study.glob(".*.partial")):
        lines += [f"{partial.name}/{one}; the step is not finished" for one in half_made(partial)]
    if lines:
        lines.append(f"only these are made anew by: gnomon run {study / 'study.yaml'} --verify")
    return lines
