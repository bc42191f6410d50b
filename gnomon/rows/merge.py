"""`append`: rows of earlier generations joined to this one's, copied shard by shard, ids made unique by step name."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.errors import UserError
from gnomon.reading import load_array, read_table, table_schema
from gnomon.rows.table import SCHEMA
from gnomon.sites import RAGGED
from gnomon.store import Artifact
from gnomon.types import Example, Site
from gnomon.writer import Writer

COLUMNS = ("row", "example_id", "example_index", "group", "split", "prompt_hash")


@dataclass(frozen=True)
class Copied:
    """One shard of an earlier generation, to be copied with its rows and examples renumbered."""

    path: Path
    file: str
    name: str
    row_shift: int
    index_shift: int
    pairs: tuple[tuple[str, str], ...]
    """(site, position) pairs whose activations come along."""
    dtype: str
    rows: int


def same_sides(parts: Sequence[tuple[str, pd.DataFrame]]) -> None:
    """Refuse a merge in which a group, or a prompt, lies in one split here and in another there.

    `parts`: (name, rows with group, split, prompt_hash) of everything that is merged.
    """
    for column in ("group", "prompt_hash"):
        seen: dict[str, tuple[str, str]] = {}
        clashes: list[str] = []
        for name, rows in parts:
            for key, split in rows[[column, "split"]].drop_duplicates().itertuples(index=False):
                other, side = seen.setdefault(str(key), (name, str(split)))
                if side != split:
                    clashes.append(
                        f"{key} is in {side or 'no split'} of {other} and in {split or 'no split'} of {name}"
                    )
        if clashes:
            what = "groups lie" if column == "group" else "prompts lie"
            raise UserError(
                f"append: {len(clashes)} {what} on two sides of a split; the first: {column} {clashes[0]}",
                "every group (and prompt) in one split",
                "take split_by: hash in all of them: it gives a group the same split in every run",
            )


def sides(examples: Sequence[Example]) -> pd.DataFrame:
    """This generation's own groups, prompts and splits, for `same_sides`."""
    lines = [(e.group, e.split, e.prompt_hash) for e in examples]
    return pd.DataFrame(lines, columns=["group", "split", "prompt_hash"])


def same_model(sources: Mapping[str, Artifact], own: str | None = None) -> None:
    """Refuse generations of different models: their activations mean different things. `own`: this one's model."""
    first = ("this generation", own) if own else None
    for name, source in sources.items():
        model = str(source.meta.get("model", {}).get("fingerprint", ""))
        if first is None:
            first = (name, model)
        elif model != first[1]:
            raise UserError(f"append: {first[0]} and {name} are of different models", "generations of one model")


def shared_pairs(sources: Sequence[Artifact]) -> list[tuple[Site, str]]:
    """(site, position) pairs that every source has."""
    return [pair for pair in sources[0].sites() if all(pair in source.sites() for source in sources[1:])]


def copies(
    source: Artifact, name: str, row_shift: int, index_shift: int, pairs: Sequence[tuple[Site, str]], dtype: str | None
) -> list[Copied]:
    """The shards of `source` to be copied. Activations keep their own dtype unless one is given."""
    kept = dtype or str((source.options.get("capture") or {}).get("dtype", "float32"))
    named = tuple((str(site), position) for site, position in pairs)
    return [
        Copied(source.path, file.stem, name, row_shift, index_shift, named, kept, table_schema(file)[1])
        for file in sorted((source.path / "generations").glob("*.parquet"))
    ]


def copy_shard(out: Path, index: int, copied: Copied) -> dict[str, Any]:
    """Write one copied shard with its marker."""
    began = time.perf_counter()
    shard = Writer.attach(out).shard(index)
    table = read_table(copied.path / "generations" / f"{copied.file}.parquet").cast(SCHEMA)
    shard.table("generations", _renamed(table, copied))
    base, size = copied.path / "activations", 0
    for site, position in copied.pairs:
        values = np.asarray(load_array(base / f"{site}@{position}" / f"{copied.file}.npy"))
        rows = np.asarray(load_array(base / f"rows@{position}" / f"{copied.file}.npy")) + copied.row_shift
        offsets = None
        if position in RAGGED:
            offsets = np.asarray(load_array(base / f"offsets@{position}" / f"{copied.file}.npy"))
        shard.activations(Site.parse(site), position, values, rows, offsets, copied.dtype)
        size += values.nbytes
    info = {"rows": table.num_rows, "copied_from": copied.name, "activation_bytes": size}
    info["seconds"] = round(time.perf_counter() - began, 3)
    shard.finish(info)
    return info


def _renamed(table: pa.Table, copied: Copied) -> pa.Table:
    columns = {name: table.column(name) for name in table.column_names}
    columns["row"] = pa.array(np.asarray(columns["row"]) + copied.row_shift, pa.int64())
    columns["example_index"] = pa.array(np.asarray(columns["example_index"]) + copied.index_shift, pa.int64())
    columns["example_id"] = pa.array([f"{copied.name}/{i}" for i in columns["example_id"].to_pylist()], pa.string())
    metas = [{**json.loads(text), "appended_from": copied.name} for text in columns["meta"].to_pylist()]
    columns["meta"] = pa.array([json.dumps(m, sort_keys=True, ensure_ascii=False) for m in metas], pa.string())
    return pa.table(columns, schema=SCHEMA)
