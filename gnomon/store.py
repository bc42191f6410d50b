"""Artifact folders: shards, markers, commit, open, verify. numpy and pyarrow only; a study is read without torch.

STEP/                       committed: immutable
  meta.json                 written last; tells step, version, options, inputs, files (bytes, sha256), timings
  TABLE.parquet             a table, or
  TABLE/00000.parquet ...   a folder of shards of one
  NAME.npy | NAME/00000.npy arrays, C order, little-endian, no pickles
  activations/resid_post.20@last/00000.npy      values; rows@last/, offsets@all/ beside them
  _done/00000.json          one marker a shard: its files with sizes and sha256, renamed last
.STEP.partial/              the same before the commit; `fingerprint` inside says what it will be
.old/STEP-FINGERPRINT/      what another fingerprint replaced
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.disk import file_sha256, load_array, read_json
from gnomon.errors import UserError, unknown
from gnomon.sites import RAGGED
from gnomon.types import Activations, Direction, Site

META = "meta.json"


class Artifact:
    """One committed step folder: immutable; tables, arrays, activations and directions by name."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / META).is_file():
            raise UserError(f"{self.path} is no finished step", f"a folder with a {META}", "run the study first")

    def __repr__(self) -> str:
        return f"<Artifact {self.name} ({self.meta.get('step')}) {self.fingerprint[:8]}>"

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def meta(self) -> dict[str, Any]:
        return read_json(self.path / META)

    @property
    def fingerprint(self) -> str:
        return str(self.meta.get("fingerprint", ""))

    @property
    def options(self) -> dict[str, Any]:
        return self.meta.get("options", {})

    # ---- tables and arrays

    def tables(self) -> list[str]:
        """Names of the tables here, in order."""
        found = {p.stem for p in self.path.glob("*.parquet")}
        found |= {p.name for p in self.path.iterdir() if p.is_dir() and any(p.glob("*.parquet"))}
        return sorted(found)

    def arrays(self) -> list[str]:
        """Names of the arrays here (activations aside), in order."""
        return sorted(p.stem for p in self.path.glob("*.npy"))

    def outline(self, name: str) -> tuple[int, list[str]]:
        """Rows and columns of table `name`, without reading it; UserError where a file is broken."""
        whole = self.path / f"{name}.parquet"
        paths = [whole] if whole.is_file() else sorted((self.path / name).glob("*.parquet"))
        rows, columns = 0, []
        for path in paths:
            try:
                about = pq.read_metadata(path)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path} cannot be read ({error})", "", f"gnomon run --remake {self.name}") from None
            rows, columns = rows + about.num_rows, [str(c) for c in about.schema.to_arrow_schema().names]
        return rows, columns

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read table `name` (one file, or its shards in order) as a DataFrame."""
        whole, folder = self.path / f"{name}.parquet", self.path / name
        paths = [whole] if whole.is_file() else sorted(folder.glob("*.parquet")) if folder.is_dir() else []
        if not paths:
            raise unknown(f"table of step {self.name}", name, self.tables())
        try:
            parts = [pq.read_table(p, columns=list(columns) if columns is not None else None) for p in paths]
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(
                f"{self.path / name} cannot be read ({error})", "", "gnomon show --verify names it"
            ) from None
        return pa.concat_tables(parts, promote_options="default").to_pandas()

    def has(self, name: str) -> bool:
        """True where a table or an array of that name is here."""
        return name in self.tables() or name in self.arrays()

    def array(self, name: str) -> np.ndarray:
        """Memory-map array `name`, read-only."""
        path = self.path / f"{name}.npy"
        if not path.is_file():
            raise unknown(f"array of step {self.name}", name, self.arrays())
        return load_array(path)

    def json(self, name: str) -> Any:
        """Read `name.json`."""
        return read_json(self.path / f"{name}.json")

    def directions(self, name: str = "directions") -> list[Direction]:
        """The directions saved here, in order."""
        vectors, rows = self.array(name), self.table(name)
        return [
            Direction(Site.parse(r["site"]), np.asarray(vectors[i][: int(r["d"])]), r["name"], r["kind"],
                      None if pd.isna(r["score"]) else float(r["score"]), json.loads(r["meta"]))
            for i, r in enumerate(rows.to_dict("records"))
        ]  # fmt: skip

    # ---- activations

    def sites(self) -> list[tuple[Site, str]]:
        """What was captured here: (site, position) pairs, in order."""
        folder = self.path / "activations"
        names = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
        pairs = [n.split("@") for n in names if not n.startswith(("rows@", "offsets@"))]
        return sorted((Site.parse(s), p) for s, p in pairs)

    def activations(self, site: Site | str, position: str | None = None) -> Activations:
        """Memory-mapped values at "resid_post.20@last" (or site and position apart); `z.5.3` slices head 3 of z.5."""
        if position is None:
            text, _, position = str(site).partition("@")
            site = text
        site = Site.parse(site)
        whole = Site(site.component, site.layer)
        if (whole, position) not in self.sites():
            known = [f"{s}@{p}" for s, p in self.sites()]
            raise unknown(f"activations in step {self.name}", f"{site}@{position}", known)
        base = self.path / "activations"
        shards = sorted((base / f"{whole}@{position}").glob("*.npy"))
        rows = [load_array(base / f"rows@{position}" / p.name) for p in shards]
        values: Any = ShardedArray([load_array(p) for p in shards])
        offsets = None
        if position in RAGGED:
            pieces, shift = [np.zeros(1, dtype=np.int64)], 0
            for p in shards:
                part = np.asarray(load_array(base / f"offsets@{position}" / p.name))
                pieces.append(part[1:] + shift)
                shift += int(part[-1])
            offsets = np.concatenate(pieces)
        if site.head is not None:
            heads = int(self.meta.get("model", {}).get("n_heads", 0))
            if not heads or site.head >= heads:
                raise UserError(f"site {site} asks for head {site.head}", f"heads 0 to {heads - 1}")
            width = values.shape[-1] // heads
            values = np.asarray(values[:])[:, site.head * width : (site.head + 1) * width]
        return Activations(site, position, values, np.concatenate(rows) if rows else np.zeros(0, np.int64), offsets)

    # ---- integrity

    def verify(self) -> list[str]:
        """Re-hash every file that meta.json names; one line a problem (missing, size, sha256), [] when whole."""
        problems = []
        for relative, record in self.meta.get("files", {}).items():
            path = self.path / relative
            if not path.is_file():
                problems.append(f"{self.name}/{relative}: missing")
            elif path.stat().st_size != record["bytes"]:
                problems.append(f"{self.name}/{relative}: {path.stat().st_size} bytes, {record['bytes']} were written")
            elif file_sha256(path) != record["sha256"]:
                problems.append(f"{self.name}/{relative}: sha256 differs from the one written")
        return problems


class ShardedArray:
    """Axis 0 of several memory maps as one read-only array; indexing copies only what is asked for."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *[len(p) for p in self.parts]])
        width = self.parts[0].shape[1:] if self.parts else (0,)
        self.shape = (int(self.starts[-1]), *width)
        self.dtype = self.parts[0].dtype if self.parts else np.dtype("<f4")
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.concatenate(self.parts) if self.parts else np.zeros(self.shape, self.dtype)
        return whole.astype(dtype) if dtype is not None else whole

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in self.parts:
            yield from part

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            first, rest = index[0], index[1:]
            return self[first][rest if isinstance(first, int | np.integer) else (slice(None), *rest)]
        if isinstance(index, int | np.integer):
            i = int(index) + (len(self) if index < 0 else 0)
            if not 0 <= i < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            part = int(np.searchsorted(self.starts, i, side="right")) - 1
            return self.parts[part][i - self.starts[part]]
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                pieces = [
                    p[max(start - s, 0) : max(stop - s, 0)]
                    for p, s in zip(self.parts, self.starts[:-1], strict=True)
                    if start < s + len(p) and stop > s
                ]
                return np.concatenate(pieces) if pieces else np.zeros((0, *self.shape[1:]), self.dtype)
            index = np.arange(start, stop, step)
        index = np.asarray(index)
        if index.dtype == bool:
            if len(index) != len(self):
                raise IndexError(f"a mask of {len(index)} over {len(self)} rows")
            index = np.flatnonzero(index)
        elif len(index) and index.dtype.kind not in "iu":
            raise IndexError(f"rows are whole numbers, not {index.dtype}")
        index = np.where(index < 0, index + len(self), index).astype(np.int64)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"rows {index.min()} to {index.max()} of {len(self)}")
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.starts, index, side="right") - 1
        for part in np.unique(which):
            here = which == part
            out[here] = self.parts[part][index[here] - self.starts[part]]
        return out


class Study:
    """A study folder: `study["probe"].table("scores")`, `study.activations("resid_post.20@last")`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise UserError(f"no study at {self.path}", "a folder that gnomon run made")
        if not (self.path / "run.json").is_file() and not any(self.path.glob(f"*/{META}")):
            raise UserError(f"{self.path} holds no study", "a folder that gnomon run made")

    @cached_property
    def run(self) -> dict[str, Any]:
        """run.json: steps in order, model, versions, machine, seed, times."""
        path = self.path / "run.json"
        return read_json(path) if path.is_file() else {}

    def names(self) -> list[str]:
        """Names of the committed steps, in the study's order (others after them)."""
        here = {p.parent.name for p in self.path.glob(f"*/{META}") if not p.parent.name.startswith(".")}
        order = [s["name"] for s in self.run.get("steps", []) if s["name"] in here]
        return order + sorted(here - set(order))

    def __iter__(self) -> Iterator[Artifact]:
        return (self[name] for name in self.names())

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> Artifact:
        if name not in self.names():
            raise unknown(f"step in {self.path}", name, self.names())
        return Artifact(self.path / name)

    def activations(self, what: str, step: str | None = None) -> Activations:
        """Activations at "resid_post.20@last", from `step`, or from the one step that has them.

        Those of the answers go before those of confidence passes, which are of other prompts: name a pass by `step`.
        """
        if step is not None:
            return self[step].activations(what)
        site, _, position = what.partition("@")
        whole = (Site(Site.parse(site).component, Site.parse(site).layer), position)
        owners = [a for a in self if whole in a.sites()]
        if not owners:
            raise unknown(f"activations in {self.path}", what, sorted({f"{s}@{p}" for a in self for s, p in a.sites()}))
        owners = [a for a in owners if not a.has("confidence")] or owners
        if len(owners) > 1:
            raise UserError(f"{what} was captured by {', '.join(a.name for a in owners)}", "one step", "pass step=")
        return owners[0].activations(what)

    def verify(self) -> list[str]:
        """Problems of every step's files; [] when whole."""
        return [line for artifact in self for line in artifact.verify()]


def concat(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several tables, index renumbered; an empty list gives an empty table."""
    tables = list(tables)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
