"""Artifact folders: shards, markers, commit, open, verify. numpy and pyarrow only; a study is read without torch.

STEP/                       committed: immutable
  meta.json                 written last; tells step, version, options, inputs, files (bytes, sha256), timings
  TABLE.parquet             a table, or
  TABLE/00000.parquet ...   a folder of shards of one
  NAME.npy | NAME/00000.npy arrays, C order, little-endian, no pickles
  activations/resid_post.20@last/00000.npy      values; rows@last/, offsets@all/ beside them
  _done/00000.json          one marker a shard: its files with sizes and sha256, renamed last
  packed.json               of an unpacked study: the files of meta.json that were left out on purpose
.STEP.partial/              the same before the commit; `fingerprint` inside says what it will be
.old/STEP-FINGERPRINT/      what another fingerprint replaced
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.disk import file_sha256
from gnomon.errors import UserError, unknown
from gnomon.reading import load_array, ordinary, read_json, read_table, table_schema
from gnomon.recorded import META, PACKED, RUN, read_meta, read_packed, read_run
from gnomon.sharded import ShardedArray, fitting, read_shard
from gnomon.sites import RAGGED
from gnomon.types import Activations, Direction, Site

LEFT_OUT = "they were left out when this study was packed"
RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Components whose vectors are as wide as the stream."""


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
        return read_meta(self.path / META)

    @cached_property
    def left_out(self) -> Mapping[str, Mapping[str, Any]]:
        """Files of meta.json that are not here on purpose: the study was packed without them. {} as a rule."""
        path = self.path / PACKED
        return read_packed(path) if path.exists() else {}

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
        found = [table_schema(path, self.path) for path in self._parts(name)]
        return sum(rows for _, rows in found), list(found[-1][0].names) if found else []

    def schema(self, name: str) -> pa.Schema:
        """Columns of table `name` and their types, from its first file's footer."""
        paths = self._parts(name)
        if not paths:
            raise unknown(f"table of step {self.name}", name, self.tables())
        return table_schema(paths[0], self.path)[0]

    def _parts(self, name: str) -> list[Path]:
        """The files of a table, in order."""
        whole = self.path / f"{name}.parquet"
        return [whole] if whole.exists() else sorted((self.path / name).glob("*.parquet"))

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read table `name` (one file, or its shards in order) as a DataFrame."""
        paths = self._parts(name)
        if not paths:
            raise unknown(f"table of step {self.name}", name, self.tables())
        parts = [read_table(path, columns, self.path) for path in paths]
        try:
            whole = pa.concat_tables(parts, promote_options="default")
            parts.clear()  # so that each column is freed once it is converted
            return whole.to_pandas(self_destruct=True)
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"the shards of {self.path / name} do not fit together ({error})", "one set of columns",
                            "gnomon show --verify names bad files") from None  # fmt: skip

    def has(self, name: str) -> bool:
        """True where a table or an array of that name is here."""
        return name in self.tables() or name in self.arrays()

    def array(self, name: str) -> np.ndarray:
        """Memory-map array `name`, read-only."""
        path = self.path / f"{name}.npy"
        if not path.is_file():
            raise unknown(f"array of step {self.name}", name, self.arrays())
        return load_array(path, self.path)

    def json(self, name: str) -> Any:
        """Read `name.json`."""
        return read_json(self.path / f"{name}.json", self.path)

    def directions(self, name: str = "directions") -> list[Direction]:
        """The directions saved here, in order."""
        vectors, rows = self.array(name), self.table(name)
        if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) != len(rows):
            raise UserError(f"{self.path / name}.npy is {vectors.dtype} {list(vectors.shape)} for {len(rows)} rows",
                            "a float vector for each row of its table")  # fmt: skip
        out = []
        for i, row in enumerate(rows.to_dict("records")):
            try:
                width = int(row["d"])
                if not 0 < width <= vectors.shape[1]:
                    raise ValueError(f"d is {width} of {vectors.shape[1]}")
                score = None if pd.isna(row["score"]) else float(row["score"])
                out.append(Direction(Site.parse(row["site"]), np.asarray(vectors[i][:width]), str(row["name"]),
                                     row["kind"], score, dict(json.loads(row["meta"]))))  # fmt: skip
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError, UserError) as error:
                raise UserError(f"row {i} of {self.path / name}.parquet is no direction ({error!s:.200})",
                                "site, name, kind, score, d and meta, as gnomon writes them",
                                "gnomon show --verify tells whether it is the one written") from None  # fmt: skip
        return out

    # ---- activations

    def sites(self) -> list[tuple[Site, str]]:
        """What was captured here: (site, position) pairs, in order; also what was left out when it was packed."""
        folder = self.path / "activations"
        names = {p.name for p in folder.iterdir() if p.is_dir()} if folder.is_dir() else set()
        names |= {name.split("/")[1] for name in self.left_out if name.startswith("activations/")}
        pairs = []
        for name in sorted(n for n in names if not n.startswith(("rows@", "offsets@"))):
            site, at, position = name.partition("@")
            if not at:
                raise UserError(f"{folder / name} is no activation", "a folder SITE@POSITION of shards")
            pairs.append((Site.parse(site), position))
        return sorted(pairs)

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
        folder = f"activations/{whole}@{position}"
        if any(name.startswith(f"{folder}/") and not (self.path / name).exists() for name in self.left_out):
            raise UserError(f"activations {whole}@{position} of {self.name} are not here: {LEFT_OUT}", "",
                            f"gnomon run ... --remake {self.name} makes them again")  # fmt: skip
        shards = [read_shard(path, position, self.path) for path in sorted((self.path / folder).glob("*.npy"))]
        values: Any = ShardedArray([values for values, _, _ in shards])
        rows = np.concatenate([rows for _, rows, _ in shards]) if shards else np.zeros(0, np.int64)
        width = self.meta.get("model", {}).get("d_model") if whole.component in RESIDUAL else None
        fitting(self.path / folder, [values for values, _, _ in shards], rows, width)
        offsets = None
        if position in RAGGED:
            pieces, shift = [np.zeros(1, dtype=np.int64)], 0
            for _, _, part in shards:
                pieces.append(part[1:] + shift)
                shift += int(part[-1])
            offsets = np.concatenate(pieces)
        if site.head is not None:
            heads = int(self.meta.get("model", {}).get("n_heads", 0))
            if not heads or site.head >= heads:
                raise UserError(f"site {site} asks for head {site.head}", f"heads 0 to {heads - 1}")
            width = values.shape[-1] // heads
            values = np.asarray(values[:])[:, site.head * width : (site.head + 1) * width]
        return Activations(site, position, values, rows, offsets)

    # ---- integrity

    def verify(self) -> list[str]:
        """Re-hash every file that meta.json names; one line a problem (missing, size, sha256), [] when whole.

        Files that were left out when the study was packed are no problem.
        """
        problems = []
        for relative, record in self.meta.get("files", {}).items():
            path = self.path / relative
            if relative in self.left_out and not path.exists():
                continue
            try:
                ordinary(path, self.path)
            except UserError as error:
                problems.append(f"{self.name}/{relative}: {error.got if path.exists() else 'missing'}")
                continue
            if path.stat().st_size != record["bytes"]:
                problems.append(f"{self.name}/{relative}: {path.stat().st_size} bytes, {record['bytes']} were written")
            elif file_sha256(path) != record["sha256"]:
                problems.append(f"{self.name}/{relative}: sha256 differs from the one written")
        return problems


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
        path = self.path / RUN
        return read_run(path) if path.exists() else {}

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
