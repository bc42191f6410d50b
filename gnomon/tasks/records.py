"""Records of a data set, from local files or the hub: dictionaries, each with the place it came from.

Formats: .jsonl, .json (a list, one record, or a mapping that holds one list), .csv, .parquet, and .zip of those;
a folder stands for its data files in order of name.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from gnomon.errors import UserError, nearest

Record = dict[str, Any]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".zip")
_SPLIT_WORDS = re.compile(r"(?<![a-z])(train|test|valid|validation|dev|eval)(?:set)?(?![a-z])")


def read_files(path: str | Path, split: str = "") -> list[tuple[str, Record]]:
    """Every record under `path`, as ("file.jsonl line 3", record).

    In a folder whose file names tell splits (train.jsonl, test-00000-of-00001.parquet), `split` picks those files.
    Raises UserError for a missing path, an unknown split and a record that does not parse, naming file and line.
    """
    files = data_files(path, split)
    stamp = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    return list(_read_all(stamp))


@lru_cache(maxsize=8)
def _read_all(stamp: tuple[tuple[str, int, int], ...]) -> tuple[tuple[str, Record], ...]:
    return tuple(pair for name, _, _ in stamp for pair in _read(Path(name).name, Path(name).read_bytes()))


def data_files(path: str | Path, split: str = "") -> list[Path]:
    """The data files that `path` stands for, in order of name."""
    path = Path(path).expanduser()
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is not a data file", f"one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"no file or folder at {path}", nearest(path.name, beside), "check path")
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise UserError(f"no data files in {path}", f"files that end in {', '.join(SUFFIXES)}")
    told = {f: _split_of(f.name) for f in files}
    if not split or not any(told.values()):
        return files
    chosen = [f for f, name in told.items() if name == _canonical(split)]
    if not chosen:
        names = sorted(set(filter(None, told.values())))
        raise UserError(
            f"no file of split {split!r} in {path}",
            f"its splits are {', '.join(names)}",
            "set split, or path to one file",
        )
    return chosen


def files_hash(files: Sequence[Path]) -> str:
    """sha256 over the files' contents in order, 16 hex digits."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def read_hub(repo: str, config: str, split: str, revision: str) -> list[tuple[str, Record]]:
    """The records of a hub data set through the `datasets` library; a UserError where it, or the hub, is missing."""
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise UserError(
            f"data set {repo} needs the datasets library", "", "pip install 'gnomon[hub]', or set path to local files"
        ) from None
    try:
        loaded = datasets.load_dataset(repo, config or None, split=split, revision=revision or None)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"cannot load {repo} (split {split}) from the hub: {reason}",
            "",
            "check the network, or set path to local files",
        ) from None
    return [(f"{repo} {split} row {i}", dict(row)) for i, row in enumerate(loaded)]


def _read(name: str, data: bytes) -> Iterator[tuple[str, Record]]:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".zip":
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
        except zipfile.BadZipFile as error:
            raise UserError(f"{name} is not a readable zip file ({error})") from None
        for inner in sorted(archive.namelist()):
            if PurePosixPath(inner).suffix.lower() in SUFFIXES and "__MACOSX" not in inner:
                yield from _read(inner, archive.read(inner))
        return
    if suffix == ".parquet":
        import pyarrow.lib
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        except pyarrow.lib.ArrowInvalid as error:
            raise UserError(f"{name} is not a readable parquet file ({error})") from None
        yield from ((f"{name} row {i}", row) for i, row in enumerate(rows))
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text ({error})", "a file saved as UTF-8") from None
    if suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{name} line {reader.line_num} has another number of columns than the first line")
            yield f"{name} line {reader.line_num}", row
    elif suffix == ".json":
        yield from _json(name, text)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{name} line {number}", _record(line, f"{name} line {number}")


def _json(name: str, text: str) -> Iterator[tuple[str, Record]]:
    value = _parse(text, name)
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(value) == 1 and lists else [value]
    if not isinstance(value, list):
        raise UserError(f"{name} holds {type(value).__name__}", "a JSON list of records, or one record")
    for i, record in enumerate(value):
        where = f"{name} record {i}" if len(value) > 1 else name
        if not isinstance(record, dict):
            raise UserError(f"{where} is {type(record).__name__}", "a JSON object with named fields")
        yield where, record


def _record(line: str, where: str) -> Record:
    value = _parse(line, where)
    if not isinstance(value, dict):
        raise UserError(f"{where} is {type(value).__name__}", "a JSON object with named fields")
    return value


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}, column {error.colno})", "one JSON value") from None


def _split_of(name: str) -> str:
    match = _SPLIT_WORDS.search(name.lower().replace("_", "-"))
    return _canonical(match[1]) if match else ""


def _canonical(split: str) -> str:
    return {"validation": "valid", "dev": "valid", "eval": "valid"}.get(split.lower(), split.lower())
