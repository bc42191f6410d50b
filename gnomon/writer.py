"""Writing a step: shards with markers, a commit by renaming, and what another fingerprint replaced set aside.

What a marker names is on the disk before the marker is, folders included; so is a whole step before its rename. A
crash, or a power cut, then leaves finished shards, whole steps, and litter that no marker names: the next start sweeps.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.aside import Litter, discard, park, parked, set_aside, stamped
from gnomon.cores import peak_memory_bytes
from gnomon.disk import (
    Chunks,
    array_bytes,
    disk_errors,
    file_sha256,
    file_size,
    fit_dtype,
    plain,
    sync_file,
    sync_folder,
    sync_folders,
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
        """Write the marker: sizes, sha256 of each file, which host made them, and what the worker wants recorded."""
        done = self.root / "_done"
        with disk_errors(done):
            done.mkdir(exist_ok=True)
        sync_folders(self.root, self.files)
        marker = {"files": self.files, "info": dict(info or {}), "host": socket.gethostname(),
                  "peak_memory_bytes": peak_memory_bytes()}  # fmt: skip
        write_json(done / f"{self.index:05d}.json", marker)
        sync_folder(done)


class Writer:
    """One step's folder before its commit. Workers on other processes open their own with `Writer.attach(path)`."""

    def __init__(self, study: Path, name: str, fingerprint: str) -> None:
        self.study, self.name, self.fingerprint = Path(study), name, fingerprint
        self.path = self.study / f".{name}.partial"
        self.litter: list[Litter] = []
        """What was found here and swept."""
        self._scratch: set[str] = set()
        stamp = self.path / "fingerprint"
        with disk_errors(self.path):
            if self.path.exists() and stamped(self.path) != fingerprint:
                self.litter += park(self.study, name)
            if not self.path.exists() and (waiting := parked(self.study, name, fingerprint)).is_dir():
                os.replace(waiting, self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            if not stamp.is_file():
                write_bytes(stamp, fingerprint.encode())
                sync_folder(self.path)
                sync_folder(self.study)
            self.litter += self._sweep()

    def _sweep(self) -> list[Litter]:
        """Remove temporary files, markers that name what is not there, and files of shards without a marker."""
        swept = []
        for path in sorted(self.path.rglob(".*.tmp")):
            swept.append(Litter(path, file_size(path), "a temporary file, removed"))
            path.unlink(missing_ok=True)
        done = self.done()
        for path in sorted((self.path / "_done").glob("*.json")):
            if not path.stem.isdigit() or int(path.stem) not in done:
                swept.append(Litter(path, file_size(path), "the marker of a shard that is not whole, removed"))
                path.unlink(missing_ok=True)
        known = {file for marker in done.values() for file in marker["files"]}
        for path in self._unmarked(known):
            if _of_a_shard(path):
                swept.append(Litter(path, file_size(path), "a file of an unfinished shard, removed"))
                path.unlink(missing_ok=True)
        return swept

    def _unmarked(self, known: set[str]) -> Iterator[Path]:
        """Files that no marker names, in order; the folder's own records aside."""
        for path in sorted(p for p in self.path.rglob("*") if p.is_file()):
            relative = path.relative_to(self.path).as_posix()
            if relative not in known and relative not in (META, "fingerprint") and not relative.startswith("_done/"):
                yield path

    @staticmethod
    def attach(path: str | Path) -> Writer:
        """The writer of an existing partial folder, for a worker process: nothing is swept."""
        writer = Writer.__new__(Writer)
        writer.path = Path(path)
        writer.study, writer.name = writer.path.parent, writer.path.name[1:].removesuffix(".partial")
        writer.litter, writer._scratch = [], set()
        writer.fingerprint = stamped(writer.path)
        return writer

    def scratch(self, *folders: str) -> None:
        """Name folders that only the making needs (parts to be joined, checkpoints): the commit leaves them out.

        A step that removed them itself would begin anew when it is killed before its commit.
        """
        self._scratch |= set(folders)

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
                if all(file_size(self.path / file) == record["bytes"] for file, record in value["files"].items()):
                    out[int(marker.stem)] = value
            except (ValueError, KeyError, TypeError, AttributeError, OSError):
                continue
        return out

    def wait_for(self, shards: Sequence[int], seconds: float) -> None:
        """Wait until the shards that other machines have finished are seen here: network disks show files late.

        Raises UserError where one is not there after `seconds`; 0 does not look.
        """
        end = time.monotonic() + seconds
        while seconds and (unseen := set(shards) - set(self.done())):
            if time.monotonic() > end:
                raise UserError(
                    f"step '{self.name}': {len(unseen)} finished shards not seen in {self.path} within {seconds:g} s",
                    "a disk that shows what its nodes write",
                    "raise executor.ray.disk_delay, and run the same command again",
                )
            time.sleep(0.1)

    def commit(self, meta: Mapping[str, Any]) -> Artifact:
        """Hash what has no marker, write meta.json, drop `scratch`, move the old folder aside, rename this into place.

        UserError where the files of a finished shard have gone meanwhile: its rows are never left out silently.
        """
        with disk_errors(self.path):
            markers = self.done()
            begun = len(list((self.path / "_done").glob("*.json")))
            if begun != len(markers):
                raise UserError(
                    f"step '{self.name}': files of {begun - len(markers)} of its {begun} shards have gone while it was "
                    f"made, from {self.path}", "a folder that only this run writes to", "run the same command again",
                )  # fmt: skip
            files: dict[str, dict[str, Any]] = {}
            for index in sorted(markers):
                files.update({f: r for f, r in markers[index]["files"].items() if f.split("/")[0] not in self._scratch})
            for path in self._unmarked(set(files)):
                if path.relative_to(self.path).parts[0] in self._scratch:
                    continue
                if _of_a_shard(path):
                    path.unlink()  # of an unfinished try: no marker names it
                    continue
                sync_file(path)
                record = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
                files[path.relative_to(self.path).as_posix()] = record
            sync_folders(self.path, files)
            write_json(self.path / META, {**meta, "format": FORMAT, "fingerprint": self.fingerprint, "files": files})
            sync_folder(self.path)
            if self._scratch:
                discard(self.path)
            set_aside(self.study, self.name)
            os.replace(self.path, self.study / self.name)
            sync_folder(self.study)
        return Artifact(self.study / self.name)


def _of_a_shard(path: Path) -> bool:
    """Whether a file is named as the files of shards are, which count only by their marker."""
    return path.stem.isdigit() and len(path.stem) == 5
