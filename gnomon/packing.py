"""`gnomon pack`: a study as one file that moves: configuration, record, log, tables, directions, report.

pack.json is its first entry: every file with its bytes and sha256, and what was left out. Activations stay behind as a
rule: they are most of the bytes, and the report, `diff` and every table do without. Each file is held against the hash
in its step's meta.json while it is read; the same study gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon import archive
from gnomon.disk import sync_folder
from gnomon.errors import UserError
from gnomon.reading import ordinary
from gnomon.recorded import META, PACKED
from gnomon.store import Artifact, Study

MANIFEST = "pack.json"
SUFFIX = ".tar.zst"
TOP = ("study.yaml", "run.json", "run.log", "report.html")
"""Files of the study itself that go along."""
IMPORTABLE = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pth", ".pkl", ".pickle", ".zip", ".egg", ".sh")
"""Never packed, never unpacked: what Python, or a shell, would run."""


@dataclass(frozen=True)
class Pack:
    """What a pack holds."""

    path: Path
    files: int
    bytes: int
    """Of the files themselves."""
    packed_bytes: int
    left_out: int
    """Files that stay behind: activations."""
    left_out_bytes: int
    notes: tuple[str, ...] = ()
    """What the study needs beyond itself."""


def pack(study: str | Path, out: str | Path | None = None, activations: bool = False) -> Pack:
    """Write a study into `out` (NAME.tar.zst), in one go: a stopped pack leaves nothing.

    Args:
        activations: take the folders activations/ along too.

    UserError where there is no study, `out` is there already, or a file is not the one that was written.
    """
    found = Study(study)
    target = Path(out) if out is not None else Path(f"{found.path.resolve().name}{SUFFIX}")
    if not target.name.endswith(SUFFIX):
        raise UserError(f"the pack is called {target.name}", f"a name that ends in {SUFFIX}")
    if target.exists():
        raise UserError(f"{target} is there already", "a new file", "choose another name, or remove it")
    small: dict[str, bytes] = {}
    large: dict[str, tuple[Path, dict[str, Any]]] = {}
    left: dict[str, dict[str, Any]] = {}
    for name in TOP:
        if (found.path / name).exists():
            small[name] = _read(found.path / name, found.path)
    for artifact in found:
        _gather(artifact, activations, small, large, left)
    files = {name: _record(data) for name, data in small.items()}
    files |= {name: record for name, (_, record) in large.items()}
    about = {"format": 1, "study": found.path.resolve().name, "steps": found.names(),
             "files": dict(sorted(files.items())), "left_out": dict(sorted(left.items()))}  # fmt: skip
    head = (json.dumps(about, indent=1, allow_nan=False) + "\n").encode()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with archive.writing(temporary) as stream:
            archive.put(stream, MANIFEST, len(head), [head])
            for name in sorted(files):
                chunks = [small[name]] if name in small else _checked(large[name][0], files[name], found.path)
                archive.put(stream, name, files[name]["bytes"], chunks)
            archive.finish(stream)
        _place(temporary, target)
        sync_folder(target.parent)
    except FileExistsError:
        raise UserError(f"{target} is there already", "a new file", "choose another name, or remove it") from None
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    total = sum(record["bytes"] for record in files.values())
    return Pack(target, len(files), total, target.stat().st_size, len(left),
                sum(record["bytes"] for record in left.values()), _notes(found))  # fmt: skip


def _place(temporary: Path, target: Path) -> None:
    """Give a finished file its name; never over a file that came meanwhile, where the disk has links."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        os.rename(temporary, target)


def unwritable(target: Path, error: OSError) -> UserError:
    """A full disk or a missing right, in words."""
    return UserError(f"cannot write {target}: {error.strerror or error}", "a writable folder with space left",
                     "nothing was left behind")  # fmt: skip


def _gather(
    artifact: Artifact, activations: bool, small: dict[str, bytes], large: dict[str, tuple[Path, dict[str, Any]]],
    left: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Sort a step's files: kept in memory (records), streamed (data), left out."""
    step, root = artifact.name, artifact.path
    out: dict[str, dict[str, Any]] = {}
    for name, record in artifact.meta["files"].items():
        record = {"bytes": record["bytes"], "sha256": record["sha256"]}
        gone = name in artifact.left_out and not (root / name).exists()
        if gone or (name.startswith("activations/") and not activations):
            out[name] = record
        elif name.endswith(IMPORTABLE):
            raise UserError(f"{step}/{name} is a program or a pickle", "tables, arrays, JSON, pages and weights",
                            "a pack carries no code")  # fmt: skip
        else:
            large[f"{step}/{name}"] = (root / name, record)
    for path in (root / META, root / "fingerprint", *sorted((root / "_done").glob("*"))):
        if path.exists():
            small[f"{step}/{path.relative_to(root).as_posix()}"] = _read(path, root)
    if out:
        small[f"{step}/{PACKED}"] = (json.dumps({"left_out": dict(sorted(out.items()))}, indent=1) + "\n").encode()
        left |= {f"{step}/{name}": record for name, record in out.items()}


def _read(path: Path, root: Path) -> bytes:
    ordinary(path, root)
    return path.read_bytes()


def _record(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _checked(path: Path, record: dict[str, Any], root: Path) -> Iterator[bytes]:
    """A file in chunks; UserError where it is not the one that was written."""
    wrong = UserError(f"{path.relative_to(root)} is not the file that was written", "whole steps",
                      f"gnomon show {root} --verify names what is damaged")  # fmt: skip
    if ordinary(path, root) != record["bytes"]:
        raise wrong
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(archive.CHUNK):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != record["sha256"]:
        raise wrong


def _notes(study: Study) -> tuple[str, ...]:
    """What the study was made of that does not come along."""
    notes = []
    if study.run.get("status") == "running":
        notes.append("a run of it is under way or was killed: only the steps that were finished come along")
    for artifact in study:
        outside = {str(r["name"]) for r in artifact.meta.get("inputs", {}).values() if "/" in str(r["name"])}
        notes += [f"step {artifact.name} was made of {name}, which stays behind" for name in sorted(outside)]
        if ":" in str(artifact.meta.get("step")):
            notes.append(f"step {artifact.name} is a step of your own ({artifact.meta['step']}): its code stays behind")
    return tuple(notes)
