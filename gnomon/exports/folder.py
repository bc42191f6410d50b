"""The folder that an export fills: files with what they were made from, what was left out and why, one rename."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.disk import array_bytes, disk_error, plain, sync_folder, table_bytes, write_bytes
from gnomon.errors import UserError
from gnomon.reading import read_json
from gnomon.store import META, Artifact, Study
from gnomon.text import size

MANIFEST = "manifest.json"


class Folder:
    """Files on their way to `path`; entered, it makes a temporary folder beside it, and leaves none behind."""

    def __init__(self, path: Path, layout: str, study: Study) -> None:
        self.path, self.layout = (
            path.resolve(),
            layout,
        )  # "." has no name beside which to write; a link would be replaced
        self.files: dict[str, dict[str, Any]] = {}
        """File name -> bytes, sha256, shape and dtype (arrays), the artifact and table or array it comes from."""
        self.left_out: dict[str, str] = {}
        """File name -> what would have to be in the study."""
        self._study, self._unsynced = study, False
        self._refuse()
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def _refuse(self) -> None:
        here = self.path
        for folder in (here, *here.parents):
            if (folder / META).is_file():
                raise UserError(f"{self.path} lies in the step folder {folder}", "a folder of its own", "choose --out")
        if here == self._study.path.resolve():
            raise UserError(f"{self.path} is the study's own folder", "a folder of its own", "choose --out")
        if not here.exists():
            return
        if not here.is_dir():
            raise UserError(f"{self.path} is a file", "a folder", "choose --out")
        if not any(here.iterdir()):
            return
        fresh = f"a new or empty folder, or an earlier {self.layout} export"
        manifest = self.path / MANIFEST
        found = read_json(manifest) if manifest.is_file() else {}
        if not isinstance(found, dict) or found.get("layout") != self.layout:
            raise UserError(f"{self.path} holds other things", fresh, "choose --out")
        own = {MANIFEST, *(found.get("files") or {})}
        others = sorted({p.relative_to(here).as_posix() for p in here.rglob("*") if not p.is_dir()} - own)
        if others:
            raise UserError(
                f"{self.path} holds {', '.join(others[:3])}, which no export wrote", fresh,
                "take it away: the folder is replaced as a whole",
            )  # fmt: skip

    def __enter__(self) -> Folder:
        shutil.rmtree(self._temporary, ignore_errors=True)
        try:
            self._temporary.mkdir(parents=True)
        except OSError as error:
            raise disk_error(self._temporary, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    # ---- files

    def array(self, name: str, values: np.ndarray, source: str, note: str = "") -> None:
        """Write a .npy: C order, little-endian, no pickles."""
        values = np.asarray(values)
        self._put(name, array_bytes(values), source, note, shape=list(values.shape), dtype=str(values.dtype))

    def stream(
        self, name: str, shape: Sequence[int], dtype: str, parts: Iterable[np.ndarray], source: str, note: str = ""
    ) -> None:
        """Write a .npy whose rows come in parts, so that no more than one part is held; ValueError for other counts."""
        self._put(name, npy_parts(tuple(shape), np.dtype(dtype), parts), source, note, shape=list(shape), dtype=dtype)

    def tell(self, text: str) -> None:
        """Say something before the work, such as what it will cost: a line on stderr."""
        print(text, file=sys.stderr, flush=True)

    def room_for(self, count: int) -> None:
        """Say how many bytes will be written; UserError where the disk has fewer."""
        near = next(p for p in (self.path, *self.path.parents) if p.exists())
        free = shutil.disk_usage(near).free
        self.tell(f"{size(count) or '0 B'} will be written to {self.path} ({size(free)} are free)")
        if count > free:
            raise UserError(
                f"the export takes {size(count)} and {near} has {size(free)} left", "a disk with room", "choose --out"
            )

    def json(self, name: str, value: Any, source: str, note: str = "") -> None:
        """Write strict JSON; what is NaN or infinite becomes null."""
        self._put(name, (json.dumps(strict(value), indent=1, ensure_ascii=False) + "\n").encode(), source, note)

    def lines(self, name: str, records: Iterable[Mapping[str, Any]], source: str, note: str = "") -> None:
        """Write JSON lines, one a record, in order."""
        text = "".join(json.dumps(strict(dict(r)), ensure_ascii=False) + "\n" for r in records)
        self._put(name, text.encode(), source, note)

    def text(self, name: str, lines: Sequence[str], source: str, note: str = "") -> None:
        """Write a text file of one entry a line; a line break inside an entry becomes a space."""
        self._put(name, "".join(re.sub(r"\s*[\r\n]+\s*", " ", t) + "\n" for t in lines).encode(), source, note)

    def table(self, name: str, table: pd.DataFrame | pa.Table, source: str, note: str = "") -> None:
        """Write a parquet file."""
        frame = table.reset_index(drop=True) if isinstance(table, pd.DataFrame) else table
        rows, columns = frame.shape
        self._put(name, table_bytes(frame), source, note, shape=[rows, columns])

    def arrays(self, name: str, arrays: Mapping[str, np.ndarray], source: str, note: str = "") -> None:
        """Write a .npz of several arrays: stored, dated 1980, so that the same arrays are the same bytes.

        A study has tens of thousands of them, so they are synced together at the commit, not one by one.
        """
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for key, values in arrays.items():
                archive.writestr(zipfile.ZipInfo(f"{key}.npy"), b"".join(array_bytes(np.asarray(values))))
        shapes = {key: list(np.shape(values)) for key, values in arrays.items()}
        self._put(name, buffer.getvalue(), source, note, later=True, arrays=shapes)

    def _put(self, name: str, data: Any, source: str, note: str, later: bool = False, **more: Any) -> None:
        """Write one file, synced at once or, where `later` says so, with all others at the commit."""
        if name in self.files:
            raise RuntimeError(f"{name} is written twice")
        path = self._temporary / name
        if later:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except OSError as error:
                raise disk_error(path, error) from error
            count, digest, self._unsynced = len(data), hashlib.sha256(data).hexdigest(), True
        else:
            count, digest = write_bytes(path, data)
        self.files[name] = {
            "bytes": count,
            "sha256": digest,
            **more,
            "from": source,
            **({"note": note} if note else {}),
        }

    def leave_out(self, name: str, needs: str) -> None:
        """Say that a file of the layout is not written, and which step would have written what it needs."""
        self.left_out[name] = needs

    # ---- the end

    def commit(self) -> None:
        """Write manifest.json and move the folder into place; a reader sees the old one or the new one, whole."""
        steps = {a.name: {"step": a.meta.get("step"), "fingerprint": a.fingerprint} for a in self._study}
        manifest = {"layout": self.layout, "study": self._study.path.resolve().name, "steps": steps,
                    "files": self.files, "left_out": self.left_out}  # fmt: skip
        text = json.dumps(strict(manifest), indent=1, ensure_ascii=False) + "\n"
        write_bytes(self._temporary / MANIFEST, text.encode())
        if self._unsynced:
            os.sync()
        before = self.path.with_name(f".{self.path.name}.{os.getpid()}.before.tmp")
        try:
            if self.path.exists():
                os.replace(self.path, before)
            os.replace(self._temporary, self.path)
        except OSError as error:
            if before.exists() and not self.path.exists():
                os.replace(before, self.path)
            raise disk_error(self.path, error) from error
        shutil.rmtree(before, ignore_errors=True)
        sync_folder(self.path.parent)

    def report(self) -> str:
        """What a terminal is told: how much was written where, and each file left out with what it needs."""
        total = sum(int(f["bytes"]) for f in self.files.values())
        out = [f"{len(self.files)} files ({total / 1e6:.1f} MB) of layout {self.layout} in {self.path}"]
        by_need: dict[str, list[str]] = {}
        for name, needs in self.left_out.items():
            by_need.setdefault(needs, []).append(name)
        for needs, names in by_need.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            out.append(f"left out: {shown}: needs {needs}")
        return "\n".join(out)


def npy_parts(shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of a .npy of that shape, C order and little-endian, from consecutive blocks of its rows."""
    dtype = dtype.newbyteorder("<")
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    yield header.getvalue()
    rows = 0
    for part in parts:
        block = np.ascontiguousarray(part, dtype=dtype)
        if block.shape[1:] != shape[1:]:
            raise ValueError(f"a part of shape {block.shape} of an array {shape}")
        rows += len(block)
        if block.size:
            yield block.reshape(-1).view(np.uint8).data
    if rows != shape[0]:
        raise ValueError(f"{rows} rows were given for an array {shape}")


def strict(value: Any) -> Any:
    """A value as strict JSON holds it: numpy scalars as numbers, arrays as lists, NaN, NaT and infinities as null."""
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool) else plain(value)


def latest(study: Study, step: str, reads: Mapping[str, Artifact | None] | None = None) -> Artifact | None:
    """The last finished step of that kind that read those very artifacts, where it recorded what it read; or None."""
    found = None
    for artifact in study:
        inputs = artifact.meta.get("inputs") or {}
        fits = all(
            wanted is None or not isinstance(inputs.get(kind), dict)
            or inputs[kind].get("fingerprint") in (None, wanted.fingerprint)
            for kind, wanted in (reads or {}).items()
        )  # fmt: skip
        if artifact.meta.get("step") == step and fits:
            found = artifact
    return found


def source(artifact: Artifact, *names: str) -> str:
    """Where a file comes from: `second_order/scores_layer3, second_order/neurons`."""
    return ", ".join(f"{artifact.name}/{name}" for name in names)
