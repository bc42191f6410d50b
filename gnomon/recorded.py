"""gnomon's own JSON files, checked on reading: meta.json of a step, packed.json beside it, run.json of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from gnomon.errors import UserError
from gnomon.reading import read_json

FORMAT = 1
"""Of a step's folder; raised when a reader of this one could not read the next."""
META, RUN, PACKED = "meta.json", "run.json", "packed.json"
STEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SHAPES: dict[str, type] = {
    "options": dict, "inputs": dict, "model": dict, "cost": dict, "identity": dict, "versions": dict, "machine": dict,
    "environment": dict, "ledger": list, "writes": list, "clocked": list,
}  # fmt: skip


def read_meta(path: Path) -> dict[str, Any]:
    """A step's meta.json. UserError that names the file where it is another tool's, of another format, or names files
    outside its folder."""
    meta = _mapping(path)
    if "fingerprint" not in meta or not isinstance(meta.get("files"), dict):
        raise UserError(f"{path} is no {META} of gnomon's", "a step's folder that gnomon wrote", "")
    if meta.get("format", FORMAT) != FORMAT or isinstance(meta.get("format"), bool):
        raise UserError(
            f"{path} is of format {meta['format']!r}", f"format {FORMAT}", "read it with the gnomon that made it"
        )
    for key in ("step", "name", "fingerprint"):
        if not isinstance(meta.get(key, ""), str):
            raise UserError(f"{path}: {key} is {meta[key]!r:.60}", "text")
    name = meta.get("name", path.parent.name)
    if not STEP.fullmatch(name or "-"):
        raise UserError(f"{path}: name is {name!r:.60}", "letters, digits, _ and -")
    for key, shape in _SHAPES.items():
        if not isinstance(meta.get(key, shape()), shape):
            raise UserError(f"{path}: {key} is {meta[key]!r:.60}", "a list" if shape is list else "a mapping")
    for key, record in meta.get("inputs", {}).items():
        if not isinstance(record, dict) or not isinstance(record.get("name"), str):
            raise UserError(f"{path}: inputs.{key} is {record!r:.60}", "name, kind and fingerprint")
    check_files(path, meta["files"])
    return meta


def check_files(path: Path, files: Mapping[str, Any]) -> None:
    """UserError unless every file has a plain relative name, a size and a sha256."""
    for name, record in files.items():
        plain_path(name, path)
        size = record.get("bytes") if isinstance(record, dict) else None
        digest = record.get("sha256") if isinstance(record, dict) else None
        if type(size) is not int or size < 0 or not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
            raise UserError(f"{path}: the file {name!r:.80} is recorded as {record!r:.80}", "its bytes and sha256")


def plain_path(name: str, source: Path) -> str:
    """The same relative path, once it can only stand for something inside its folder; UserError that names `source`."""
    path = PurePosixPath(name)
    if (
        not name
        or name != str(path)
        or path.is_absolute()
        or ".." in path.parts
        or not name.isprintable()
        or "\\" in name
    ):
        raise UserError(f"{source} names the file {name!r:.80}", "plain names inside the folder")
    return name


def read_run(path: Path) -> dict[str, Any]:
    """A study's run.json. UserError that names the file where it is no record of gnomon's."""
    run = _mapping(path)
    for key in ("steps", "criteria"):
        rows = run.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(
                f"{path}: {key} is {rows!r:.60}", "a list of mappings", f"take {path.name} away; the steps stay"
            )
    for row in run.get("steps", []):
        if not isinstance(row.get("name"), str) or not STEP.fullmatch(row["name"]):
            raise UserError(f"{path} names the step {row.get('name')!r:.60}", "letters, digits, _ and -",
                            f"take {path.name} away; the steps stay")  # fmt: skip
    return run


def read_packed(path: Path) -> dict[str, dict[str, Any]]:
    """The files that were left out of a packed step, as meta.json records them: {name: {bytes, sha256}}."""
    value = _mapping(path)
    files = value.get("left_out")
    if not isinstance(files, dict):
        raise UserError(f"{path} is no {PACKED} of gnomon's", "left_out: the files that are not here")
    check_files(path, files)
    return files


def _mapping(path: Path) -> dict[str, Any]:
    value = read_json(path, path.parent)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}", "a JSON object that gnomon wrote")
    return value
