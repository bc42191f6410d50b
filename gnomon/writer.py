"""Writing a step: shards with markers, a commit by renaming, and what another fingerprint replaced set aside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.disk import (
    Chunks,
    array_bytes,
    disk_error,
    file_sha256,
    fit_dtype,
    plain,
    read_json,
    sync_folder,
    table_bytes,
    write_bytes,
    write_json,
)
from gnomon.errors import UserError
from gnomon.store import META, Artifact
from gnomon.types import Direction, Site

FORMAT = 1


@dataclass
class Shard:
    """Files of one shard, under `index`; nothing counts before its marker is renamed into place."""

    root: Path
    index: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def _put(self, relative: str, data: Chunks) -> None:
        size, digest = write_bytes(self.root / relative, data)
        self.files[relative] = {"bytes": size, "sha256": digest}

    def table(self, name: str, table: pd.DataFrame | pa.Table, schema: pa.Schema | None = None) -> None:
        """Write this shard's part of table `name`."""
        self._put(f"{name}/{self.index:05d}.parquet", table_bytes(table, schema))

    def array(self, name: str, array: np.ndarray) -> None:
        """Write this shard's part of array `name`."""
        self._put(f"{name}/{self.index:05d}.npy", array_bytes(array))

    def activations(
        self, site: Site, position: str, values: np.ndarray, rows: np.ndarray, offsets: np.ndarray | None, dtype: str
    ) -> None:
        """Write values of one site and position (`[m, d]`, or `[tokens, d]` with offsets `[m + 1]`) and their rows.

        Rows are ascending, and the same for every site of a position: ValueError otherwise.
        """
        rows = np.asarray(rows, dtype=np.int64)
        whole = len(rows) if offsets is None else int(offsets[-1])
        if len(values) != whole or (offsets is not None and len(offsets) != len(rows) + 1):
            raise ValueError(f"{site}@{position}: {len(values)} vectors for {len(rows)} rows")
        before = self.rows.setdefault(position, rows)
        if not np.array_equal(before, rows) or np.any(np.diff(rows) <= 0):
            raise ValueError(
                f"{site}@{position}: rows that are not ascending, or not those of the position's other sites"
            )
        self.array(f"activations/{site}@{position}", fit_dtype(values, dtype, f"{site}@{position}"))
        if f"activations/rows@{position}/{self.index:05d}.npy" not in self.files:
            self.array(f"activations/rows@{position}", rows)
            if offsets is not None:
                self.array(f"activations/offsets@{position}", np.asarray(offsets, dtype=np.int64))

    def finish(self, info: Mapping[str, Any] | None = None) -> None:
        """Write the marker: sizes, sha256 of each file, and what the worker wants recorded (timings, ...)."""
        write_json(self.root / "_done" / f"{self.index:05d}.json", {"files": self.files, "info": dict(info or {})})
        sync_folder(self.root / "_done")


class Writer:
    """One step's folder before its commit. Workers on other processes open their own with `Writer.attach(path)`."""

    def __init__(self, study: Path, name: str, fingerprint: str) -> None:
        self.study, self.name, self.fingerprint = Path(study), name, fingerprint
        self.path = self.study / f".{name}.partial"
        stamp = self.path / "fingerprint"
        try:
            if self.path.exists() and (not stamp.is_file() or stamp.read_text() != fingerprint):
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            if not stamp.is_file():
                write_bytes(stamp, fingerprint.encode())
        except OSError as error:
            raise disk_error(self.path, error) from error
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    @staticmethod
    def attach(path: str | Path) -> Writer:
        """The writer of an existing partial folder, for a worker process: nothing is swept."""
        writer = Writer.__new__(Writer)
        writer.path = Path(path)
        writer.study, writer.name = writer.path.parent, writer.path.name[1:].removesuffix(".partial")
        writer.fingerprint = (writer.path / "fingerprint").read_text()
        return writer

    def table(self, name: str, table: pd.DataFrame | pa.Table, schema: pa.Schema | None = None) -> None:
        """Write table `name` whole: `name.parquet`."""
        write_bytes(self.path / f"{name}.parquet", table_bytes(table, schema))

    def array(self, name: str, array: np.ndarray) -> None:
        """Write array `name` whole: `name.npy`."""
        write_bytes(self.path / f"{name}.npy", array_bytes(array))

    def json(self, name: str, value: Any) -> None:
        """Write `name.json`."""
        write_json(self.path / f"{name}.json", value)

    def directions(self, directions: Sequence[Direction], name: str = "directions") -> None:
        """Write `name.npy` `[n, widest d]` (zero-padded where sites differ in width) with `name.parquet` beside it."""
        width = max((d.d for d in directions), default=0)
        stacked = np.zeros((len(directions), width), dtype="<f4")
        for i, direction in enumerate(directions):
            stacked[i, : direction.d] = direction.vector
        self.array(name, stacked)
        schema = pa.schema(
            [("index", pa.int64()), ("site", pa.string()), ("name", pa.string()), ("kind", pa.string()),
             ("score", pa.float64()), ("d", pa.int64()), ("norm", pa.float64()), ("meta", pa.string())]
        )  # fmt: skip
        rows = [
            {"index": i, "site": str(d.site), "name": d.name, "kind": d.kind, "score": d.score, "d": d.d,
             "norm": d.norm, "meta": json.dumps(dict(d.meta), default=plain)}
            for i, d in enumerate(directions)
        ]  # fmt: skip
        self.table(name, pa.Table.from_pylist(rows, schema=schema))

    def shard(self, index: int) -> Shard:
        """Begin (or redo, whole) shard `index`."""
        return Shard(self.path, index)

    def done(self) -> dict[int, dict[str, Any]]:
        """Markers of the finished shards whose files are there with the recorded sizes; the others will be redone."""
        out: dict[int, dict[str, Any]] = {}
        for marker in sorted((self.path / "_done").glob("*.json")):
            try:
                value = json.loads(marker.read_text())
                files = value["files"]
            except (ValueError, KeyError, TypeError, OSError):
                continue
            if all(
                (self.path / f).is_file() and (self.path / f).stat().st_size == v["bytes"] for f, v in files.items()
            ):
                out[int(marker.stem)] = value
        return out

    def commit(self, meta: Mapping[str, Any]) -> Artifact:
        """Hash what has no marker, write meta.json last, move the old folder aside, rename this one into place."""
        markers = self.done()
        files: dict[str, dict[str, Any]] = {}
        for index in sorted(markers):
            files.update(markers[index]["files"])
        known = set(files)
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            relative = path.relative_to(self.path).as_posix()
            if relative in known or relative == META or relative == "fingerprint" or relative.startswith("_done/"):
                continue
            folder = path.parent.name
            if path.stem.isdigit() and len(path.stem) == 5 and folder and relative not in known:
                path.unlink()  # a shard file of an unfinished try: no marker names it
                continue
            files[relative] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        write_json(self.path / META, {**meta, "format": FORMAT, "fingerprint": self.fingerprint, "files": files})
        sync_folder(self.path)
        final = self.study / self.name
        set_aside(self.study, self.name)
        try:
            os.replace(self.path, final)
        except OSError as error:
            raise disk_error(final, error) from error
        sync_folder(self.study)
        return Artifact(final)


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
    old.parent.mkdir(exist_ok=True)
    if old.exists():
        shutil.rmtree(old)
    os.replace(current, old)


def bring_back(study: Path, name: str, fingerprint: str) -> bool:
    """Return an earlier result of the same fingerprint from `.old`; also repairs a half swap. True when it is there."""
    current, old = study / name, study / ".old" / f"{name}-{fingerprint[:16]}"
    if (current / META).is_file() and read_json(current / META).get("fingerprint") == fingerprint:
        return True
    if (old / META).is_file() and read_json(old / META).get("fingerprint") == fingerprint:
        set_aside(study, name)
        os.replace(old, current)
        sync_folder(study)
        return True
    return False


def finish_swaps(study: Path) -> list[str]:
    """Rename into place the folders whose commit was cut off after their meta.json; returns the steps' names."""
    finished = []
    for partial in sorted(study.glob(".*.partial")):
        stamp, meta = partial / "fingerprint", partial / META
        name = partial.name[1:].removesuffix(".partial")
        if meta.is_file() and stamp.is_file() and read_json(meta).get("fingerprint") == stamp.read_text():
            set_aside(study, name)
            os.replace(partial, study / name)
            finished.append(name)
    if finished:
        sync_folder(study)
    return finished
