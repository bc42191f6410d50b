"""A small study, and what a broken tool or a hostile hand could make of its files: each case damages it, then reads.

`CASES[name](study)` damages the copy at `study` and returns (what reads it, a piece of the error's text). Run as a
program it tries every case with little memory, and prints what came of each: `python -m tests.malformed_files FOLDER`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.config import load
from gnomon.disk import array_bytes
from gnomon.errors import UserError
from gnomon.packing import pack
from gnomon.store import Artifact, Study
from gnomon.types import Direction, Site
from gnomon.unpacking import unpack
from gnomon.writer import Writer

Read = Callable[[], Any]
Case = Callable[[Path], tuple[Read, str]]
CASES: dict[str, Case] = {}
CANARY = "it-was-run"
D = 4
SITE = Site("resid_post", 1)
MEMORY = 600 << 20
"""Bytes of its own that the program may have: what a bomb promises is far more."""


def case(make: Case) -> Case:
    CASES[make.__name__.replace("_", " ")] = make
    return make


def made(study: Path) -> Path:
    """A study of one step with a table, arrays, activations (dense and ragged) and directions."""
    writer = Writer(study, "generate", "f" * 64)
    for index in range(2):
        rows = np.arange(3) + 3 * index
        shard = writer.shard(index)
        shard.table("generations", pd.DataFrame({"row": rows, "text": [f"answer {r}" for r in rows], "label": True}))
        values = np.ones((3, D)) * rows[:, None]
        shard.activations(SITE, "last", values, rows, None, "float32")
        shard.activations(SITE, "all", np.repeat(values, 2, axis=0), rows, np.array([0, 2, 4, 6]), "float32")
        shard.finish()
    writer.table("counts", pd.DataFrame({"n": [1, 2]}))
    writer.array("numbers", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.directions([Direction(SITE, np.arange(1, D + 1), "one"), Direction(SITE, np.ones(D), "two")])
    writer.commit({"step": "generate", "name": "generate", "version": 1, "options": {}, "inputs": {}, "ledger": [],
                   "model": {"d_model": D, "n_heads": 2}, "seed": 0})  # fmt: skip
    (study / "run.json").write_text(json.dumps({"title": "t", "steps": [{"name": "generate"}], "criteria": []}))
    (study / "study.yaml").write_text("model: m\nsteps:\n  - generate: {task: capitals}\n")
    return study


class Bomb:
    """Unpickled, it makes the canary."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


# ---------------------------------------------------------------- what reads


def step(study: Path) -> Path:
    return study / "generate"


def numbers(study: Path) -> Read:
    return lambda: np.array(Artifact(step(study)).array("numbers"))


def values(study: Path, position: str = "last") -> Read:
    return lambda: np.asarray(Artifact(step(study)).activations(f"resid_post.1@{position}").values[:])


def table(study: Path, name: str = "counts", columns: list[str] | None = None) -> Read:
    return lambda: Artifact(step(study)).table(name, columns)


def directions(study: Path) -> Read:
    return lambda: Artifact(step(study)).directions()


def names(study: Path) -> Read:
    return lambda: [artifact.meta for artifact in Study(study)]


def shard(study: Path, what: str, index: int = 0) -> Path:
    return step(study) / "activations" / what / f"{index:05d}.npy"


def write(path: Path, array: np.ndarray) -> None:
    path.write_bytes(b"".join(bytes(part) for part in array_bytes(array)))


def header(text: str, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """A .npy file's beginning that says what it is told to say."""
    body = text.encode() + b"\n"
    wide = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + (len(body) if length is None else length).to_bytes(wide, "little") + body


def npy(shape: str, dtype: str = "'<f4'", fortran: str = "False") -> bytes:
    return header(f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}")


# ---------------------------------------------------------------- arrays


@case
def a_pickle_named_npy(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(pickle.dumps(Bomb(p.parent / CANARY)))
    return numbers(p), "numbers.npy is not a plain"


@case
def an_npy_of_pickled_objects(p: Path) -> tuple[Read, str]:
    array = np.empty(1, dtype=object)
    array[0] = Bomb(p.parent / CANARY)
    np.save(step(p) / "numbers.npy", array, allow_pickle=True)
    return numbers(p), "pickled objects; nothing of it was run"


@case
def activations_that_are_pickles(p: Path) -> tuple[Read, str]:
    array = np.empty(3, dtype=object)
    array[:] = Bomb(p.parent / CANARY)
    np.save(shard(p, "resid_post.1@last"), array, allow_pickle=True)
    return values(p), "00000.npy is not a plain .npy file (it holds pickled objects"


@case
def a_shape_that_lies_by_terabytes(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(npy("(1099511627776, 4)") + bytes(96))
    return numbers(p), "does not fit its"


@case
def a_shape_beyond_any_number(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(npy(f"({'9' * 60}, 4)") + bytes(96))
    return numbers(p), "numbers.npy is not a plain"


@case
def a_shape_below_zero(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(npy("(-2, -12)") + bytes(96))
    return numbers(p), "numbers.npy is not a plain"


@case
def a_header_cut_off(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(npy("(2, 3)")[:20])
    return numbers(p), "numbers.npy is not a plain"


@case
def a_header_that_claims_gigabytes(p: Path) -> tuple[Read, str]:
    file = step(p) / "numbers.npy"
    file.write_bytes(header("{", b"\x02\x00", 3 << 30))
    os.truncate(file, 4 << 30)
    return numbers(p), "a header of 3221225472 bytes"


@case
def a_header_nested_endlessly(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(npy("(" * 4000))
    return numbers(p), "numbers.npy is not a plain"


@case
def a_header_that_is_a_program(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(npy(f"(open({str(p.parent / CANARY)!r}, 'w'),)") + bytes(96))
    return numbers(p), "numbers.npy is not a plain"


@case
def an_npy_of_another_version(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(header("{}", b"\x09\x00"))
    return numbers(p), "numbers.npy is not a plain"


@case
def an_array_cut_off(p: Path) -> tuple[Read, str]:
    os.truncate(step(p) / "numbers.npy", 140)
    return numbers(p), "does not fit its 140 bytes"


@case
def bytes_after_an_array(p: Path) -> tuple[Read, str]:
    with open(step(p) / "numbers.npy", "ab") as file:
        file.write(b"more")
    return numbers(p), "does not fit its"


@case
def fortran_order(p: Path) -> tuple[Read, str]:
    np.save(step(p) / "numbers.npy", np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    return numbers(p), "Fortran order"


@case
def big_endian_numbers(p: Path) -> tuple[Read, str]:
    np.save(step(p) / "numbers.npy", np.arange(6, dtype=">f4").reshape(2, 3))
    return numbers(p), "not plain little-endian"


@case
def a_structured_array(p: Path) -> tuple[Read, str]:
    np.save(step(p) / "numbers.npy", np.zeros(3, dtype=[("a", "<f4"), ("b", "<i8")]))
    return numbers(p), "not plain little-endian"


@case
def an_empty_file(p: Path) -> tuple[Read, str]:
    (step(p) / "numbers.npy").write_bytes(b"")
    return numbers(p), "numbers.npy is not a plain"


@case
def a_pipe_in_place_of_an_array(p: Path) -> tuple[Read, str]:
    shard(p, "resid_post.1@last").unlink()
    os.mkfifo(shard(p, "resid_post.1@last"))
    return values(p), "00000.npy is no ordinary file"


@case
def a_folder_in_place_of_an_array(p: Path) -> tuple[Read, str]:
    shard(p, "resid_post.1@last").unlink()
    shard(p, "resid_post.1@last").mkdir()
    return values(p), "00000.npy is a folder"


@case
def a_link_out_of_the_folder(p: Path) -> tuple[Read, str]:
    outside = p.parent / "secret.npy"
    shutil.move(shard(p, "resid_post.1@last"), outside)
    shard(p, "resid_post.1@last").symlink_to(outside)
    return values(p), "is a link that leads out of"


# ---------------------------------------------------------------- activations


@case
def nan_in_activations(p: Path) -> tuple[Read, str]:
    write(shard(p, "resid_post.1@last", 1), np.array([[np.nan] * D] * 3, np.float32))
    return values(p), "resid_post.1@last/00001.npy holds NaN"


@case
def infinity_in_activations(p: Path) -> tuple[Read, str]:
    write(shard(p, "resid_post.1@last"), np.full((3, D), np.inf, np.float32))
    return lambda: Artifact(step(p)).activations("resid_post.1@last").at([1]), "00000.npy holds NaN or infinite"


@case
def whole_numbers_as_activations(p: Path) -> tuple[Read, str]:
    write(shard(p, "resid_post.1@last"), np.ones((3, D), np.int64))
    return values(p), "00000.npy is int64 [3, 4]; floats [n, d]"


@case
def activations_of_three_axes(p: Path) -> tuple[Read, str]:
    write(shard(p, "resid_post.1@last"), np.ones((3, 1, D), np.float32))
    return values(p), "00000.npy is float32 [3, 1, 4]; floats [n, d]"


@case
def fewer_vectors_than_rows(p: Path) -> tuple[Read, str]:
    write(shard(p, "resid_post.1@last"), np.ones((2, D), np.float32))
    return values(p), "holds 2 vectors, which do not fit rows@last (3 rows)"


@case
def vectors_of_another_width_than_the_model(p: Path) -> tuple[Read, str]:
    for index in range(2):
        write(shard(p, "resid_post.1@last", index), np.ones((3, 9), np.float32))
    return values(p), "resid_post.1@last holds vectors of 9 numbers; 4, the model's d_model"


@case
def shards_of_different_widths(p: Path) -> tuple[Read, str]:
    write(shard(p, "resid_post.1@last"), np.ones((3, 9), np.float32))
    return values(p), "resid_post.1@last are of 2 kinds"


@case
def rows_that_repeat(p: Path) -> tuple[Read, str]:
    write(shard(p, "rows@last", 1), np.array([2, 3, 4]))
    return values(p), "resid_post.1@last are not ascending"


@case
def rows_below_zero(p: Path) -> tuple[Read, str]:
    write(shard(p, "rows@last"), np.array([-1, 0, 1]))
    return values(p), "resid_post.1@last are not ascending"


@case
def rows_as_fractions(p: Path) -> tuple[Read, str]:
    write(shard(p, "rows@last"), np.array([0.0, 1.0, 2.0]))
    return values(p), "00000.npy is float64 [3]; whole numbers"


@case
def offsets_below_zero(p: Path) -> tuple[Read, str]:
    write(shard(p, "offsets@all"), np.array([0, -2, 4, 6]))
    return values(p, "all"), "resid_post.1@all/00000.npy holds 6 vectors, which do not fit"


@case
def offsets_beyond_the_values(p: Path) -> tuple[Read, str]:
    write(shard(p, "offsets@all", 1), np.array([0, 2, 4, 1 << 40]))
    return values(p, "all"), "resid_post.1@all/00001.npy holds 6 vectors, which do not fit"


@case
def offsets_that_fall(p: Path) -> tuple[Read, str]:
    write(shard(p, "offsets@all"), np.array([0, 4, 2, 6]))
    return values(p, "all"), "resid_post.1@all/00000.npy holds 6 vectors, which do not fit"


@case
def no_offsets(p: Path) -> tuple[Read, str]:
    write(shard(p, "offsets@all"), np.zeros(0, np.int64))
    return values(p, "all"), "resid_post.1@all/00000.npy holds 6 vectors, which do not fit"


@case
def a_shard_of_offsets_missing(p: Path) -> tuple[Read, str]:
    shard(p, "offsets@all", 1).unlink()
    return values(p, "all"), "offsets@all/00001.npy cannot be opened"


@case
def a_strange_folder_among_the_activations(p: Path) -> tuple[Read, str]:
    (step(p) / "activations" / "resid_post.7").mkdir()
    return lambda: Artifact(step(p)).sites(), "activations/resid_post.7 is no activation"


# ---------------------------------------------------------------- tables


@case
def garbage_named_parquet(p: Path) -> tuple[Read, str]:
    (step(p) / "counts.parquet").write_bytes(b"PAR1" + os.urandom(200) + b"PAR1")
    return table(p), "counts.parquet cannot be read"


@case
def a_table_cut_off(p: Path) -> tuple[Read, str]:
    os.truncate(step(p) / "counts.parquet", 60)
    return table(p), "counts.parquet cannot be read"


@case
def a_column_missing(p: Path) -> tuple[Read, str]:
    pq.write_table(pa.table({"m": [1]}), step(p) / "counts.parquet")
    return table(p, "counts", ["n"]), "counts.parquet lacks the column 'n'"


@case
def shards_of_a_table_that_disagree(p: Path) -> tuple[Read, str]:
    pq.write_table(pa.table({"row": ["three"], "text": [3], "label": [0.5]}), step(p) / "generations" / "00001.parquet")
    return table(p, "generations"), "generations do not fit together"


@case
def a_billion_rows_in_a_few_kilobytes(p: Path) -> tuple[Read, str]:
    """Ten million equal cells take a page of a few bytes, and a footer may name that page a hundred times."""
    file = step(p) / "counts.parquet"
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000_000, np.int8)), pa.array(["x"]))
    pq.write_table(pa.table({"n": one}), file, store_schema=False, write_statistics=False, row_group_size=1 << 30,
                   max_rows_per_page=1 << 30)  # fmt: skip
    once, all_rows = pq.read_metadata(file), pq.read_metadata(file)
    for _ in range(99):
        all_rows.append_row_groups(once)
    footer = p.parent / "footer"
    all_rows.write_metadata_file(footer)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 8 - int.from_bytes(data[-8:-4], "little")] + footer.read_bytes()[4:])
    assert pq.read_metadata(file).num_rows == 1_000_000_000
    assert file.stat().st_size < 20_000
    return table(p), "counts.parquet would grow from"


@case
def one_long_text_repeated(p: Path) -> tuple[Read, str]:
    file = step(p) / "counts.parquet"
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * (1 << 20)]))
    pq.write_table(pa.table({"n": one}), file, compression="zstd")
    assert file.stat().st_size < 100_000
    return table(p), "to 20971520000 in column 'n' alone"


@case
def one_long_text_repeated_in_lists(p: Path) -> tuple[Read, str]:
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * (1 << 20)]))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 20_001, 10, dtype=np.int32)), texts)
    pq.write_table(pa.table({"n": lists}), step(p) / "counts.parquet", compression="zstd")
    return table(p), "counts.parquet would grow from"


@case
def a_folder_in_place_of_a_table(p: Path) -> tuple[Read, str]:
    (step(p) / "counts.parquet").unlink()
    (step(p) / "counts.parquet").mkdir()
    return table(p), "counts.parquet is a folder"


@case
def a_pipe_in_place_of_a_shard_of_a_table(p: Path) -> tuple[Read, str]:
    (step(p) / "generations" / "00001.parquet").unlink()
    os.mkfifo(step(p) / "generations" / "00001.parquet")
    return table(p, "generations"), "00001.parquet is no ordinary file"


# ---------------------------------------------------------------- directions


def _directions(p: Path, **columns: Any) -> None:
    file = step(p) / "directions.parquet"
    frame = pd.read_parquet(file)
    for name, value in columns.items():
        frame[name] = value
    frame.to_parquet(file)


@case
def a_direction_wider_than_its_vector(p: Path) -> tuple[Read, str]:
    _directions(p, d=[4, 400])
    return directions(p), "row 1 of"


@case
def a_direction_of_no_width(p: Path) -> tuple[Read, str]:
    _directions(p, d=[0, 4])
    return directions(p), "row 0 of"


@case
def a_direction_at_no_site(p: Path) -> tuple[Read, str]:
    _directions(p, site=["resid_post.1", "../../etc/passwd"])
    return directions(p), "directions.parquet is no direction (unknown site"


@case
def a_direction_of_nan(p: Path) -> tuple[Read, str]:
    write(step(p) / "directions.npy", np.full((2, D), np.nan, np.float32))
    return directions(p), "holds NaN or infinite numbers"


@case
def a_direction_of_zeros(p: Path) -> tuple[Read, str]:
    write(step(p) / "directions.npy", np.zeros((2, D), np.float32))
    return directions(p), "is all zeros"


@case
def more_vectors_than_directions(p: Path) -> tuple[Read, str]:
    write(step(p) / "directions.npy", np.ones((5, D), np.float32))
    return directions(p), "directions.npy is float32 [5, 4] for 2 rows"


@case
def a_direction_whose_meta_is_no_json(p: Path) -> tuple[Read, str]:
    _directions(p, meta=["{}", "os.system('true')"])
    return directions(p), "row 1 of"


# ---------------------------------------------------------------- records


def _meta(p: Path, **changes: Any) -> tuple[Read, str]:
    file = step(p) / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return names(p), "meta.json"


@case
def a_meta_of_another_tool(p: Path) -> tuple[Read, str]:
    (step(p) / "meta.json").write_text(json.dumps({"project": "x", "version": 3}))
    return names(p), "meta.json is no meta.json of gnomon's"


@case
def a_meta_that_is_a_list(p: Path) -> tuple[Read, str]:
    (step(p) / "meta.json").write_text("[1, 2]")
    return names(p), "meta.json holds a list"


@case
def a_meta_cut_off(p: Path) -> tuple[Read, str]:
    os.truncate(step(p) / "meta.json", 100)
    return names(p), "meta.json is not readable JSON"


@case
def a_meta_of_a_later_format(p: Path) -> tuple[Read, str]:
    return _meta(p, format=99)[0], "meta.json is of format 99; format 1"


@case
def a_step_name_that_climbs(p: Path) -> tuple[Read, str]:
    return _meta(p, name="../../etc")[0], "meta.json: name is '../../etc'"


@case
def files_that_climb(p: Path) -> tuple[Read, str]:
    record = {"bytes": 1, "sha256": "0" * 64}
    return _meta(p, files={"../../../etc/passwd": record})[0], "meta.json names the file '../../../etc/passwd'"


@case
def files_from_the_root(p: Path) -> tuple[Read, str]:
    return _meta(p, files={"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}})[0], "names the file '/etc/passwd'"


@case
def files_without_hashes(p: Path) -> tuple[Read, str]:
    return _meta(p, files={"counts.parquet": "here"})[0], "'counts.parquet' is recorded as 'here'"


@case
def a_file_of_fewer_than_no_bytes(p: Path) -> tuple[Read, str]:
    return _meta(p, files={"x": {"bytes": -1, "sha256": "0" * 64}})[0], "'x' is recorded as"


@case
def options_that_are_no_mapping(p: Path) -> tuple[Read, str]:
    return _meta(p, options=[1])[0], "meta.json: options is [1]"


@case
def inputs_that_are_names(p: Path) -> tuple[Read, str]:
    return _meta(p, inputs={"generations": "generate"})[0], "inputs.generations is 'generate'"


@case
def nan_in_json(p: Path) -> tuple[Read, str]:
    (step(p) / "meta.json").write_text('{"seed": NaN}')
    return names(p), "NaN is no number of JSON"


@case
def a_number_beyond_all(p: Path) -> tuple[Read, str]:
    (step(p) / "meta.json").write_text('{"seed": 1e999}')
    return names(p), "1e999 is no number of JSON"


@case
def json_nested_endlessly(p: Path) -> tuple[Read, str]:
    (step(p) / "meta.json").write_text("[" * 200_000)
    return names(p), "meta.json is not readable JSON"


@case
def json_of_gigabytes(p: Path) -> tuple[Read, str]:
    os.truncate(step(p) / "meta.json", 8 << 30)
    return names(p), "meta.json has 8589934592 bytes"


@case
def json_that_is_no_text(p: Path) -> tuple[Read, str]:
    (step(p) / "meta.json").write_bytes(b"\xff\xfe\x00{")
    return names(p), "meta.json is not readable JSON"


@case
def a_run_that_is_a_list(p: Path) -> tuple[Read, str]:
    (p / "run.json").write_text("[]")
    return names(p), "run.json holds a list"


@case
def a_run_whose_steps_climb(p: Path) -> tuple[Read, str]:
    (p / "run.json").write_text(json.dumps({"steps": [{"name": "../generate"}]}))
    return names(p), "run.json names the step '../generate'"


@case
def a_run_of_steps_without_names(p: Path) -> tuple[Read, str]:
    (p / "run.json").write_text(json.dumps({"steps": [1, 2]}))
    return names(p), "run.json: steps is [1, 2]"


@case
def a_packed_record_that_is_none(p: Path) -> tuple[Read, str]:
    (step(p) / "packed.json").write_text("{}")
    return values(p), "packed.json is no packed.json of gnomon's"


# ---------------------------------------------------------------- study files


@case
def a_study_file_with_a_tag(p: Path) -> tuple[Read, str]:
    file = p / "study.yaml"
    file.write_text(f"model: !!python/object/apply:builtins.open [{p.parent / CANARY}, w]\nsteps: []\n")
    return lambda: load(file), "study.yaml, line 1: the tag"


@case
def a_study_file_of_aliases(p: Path) -> tuple[Read, str]:
    names = "abcdefghi"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in pairwise(names)]
    (p / "study.yaml").write_text("\n".join(lines))
    return lambda: load(p / "study.yaml"), "more than 50000 values"


@case
def a_study_file_nested_endlessly(p: Path) -> tuple[Read, str]:
    (p / "study.yaml").write_text("steps: " + "[" * 100_000)
    return lambda: load(p / "study.yaml"), "study.yaml, values nested too deeply"


@case
def a_study_file_in_another_encoding(p: Path) -> tuple[Read, str]:
    (p / "study.yaml").write_bytes("model: m\u00e4".encode("latin-1"))
    return lambda: load(p / "study.yaml"), "study.yaml cannot be read"


@case
def a_step_that_is_a_program_of_python(p: Path) -> tuple[Read, str]:
    command = f"touch {p.parent / CANARY}"
    (p / "study.yaml").write_text(f"model: m\nsteps:\n  - os:system: {{command: '{command}'}}\n")
    return lambda: load(p / "study.yaml"), "'os:system' belongs to Python itself"


# ---------------------------------------------------------------- packs


def _pack(p: Path) -> Path:
    return pack(p, p.parent / "good.tar.zst", activations=True).path


def _entries(file: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    data = pa.CompressedInputStream(pa.OSFile(str(file)), "zstd").read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def _archive(p: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Read:
    """A pack of these entries, made by the ordinary tar of Python."""
    file = p.parent / "bad.tar.zst"
    out = pa.CompressedOutputStream(pa.OSFile(str(file), "wb"), "zstd")
    with out, tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return _unpacked(p, file)


def _unpacked(p: Path, file: Path, **options: Any) -> Read:
    def read() -> Any:
        try:
            return unpack(file, p.parent / "out", **options)
        finally:
            left = [path.name for path in p.parent.glob("*out*")] + [path.name for path in p.parent.glob(".*out*")]
            assert not left, f"left behind: {left}"

    return read


def _entry(name: str, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def _with(p: Path, name: str, data: bytes, recorded: bool = True, **more: Any) -> Read:
    """The good pack with one more entry, which its manifest names too."""
    (info, about), *rest = _entries(_pack(p))
    manifest = json.loads(about)
    if recorded:
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    head = json.dumps(manifest).encode()
    info.size = len(head)
    return _archive(p, [(info, head), *rest, _entry(name, data, **more)])


@case
def a_pack_that_climbs(p: Path) -> tuple[Read, str]:
    return _with(p, "../escaped.json", b"{}"), "names the file '../escaped.json'"


@case
def a_pack_that_climbs_unrecorded(p: Path) -> tuple[Read, str]:
    return _with(p, "generate/../../escaped.json", b"{}", recorded=False), "names the file 'generate/../../escaped"


@case
def a_pack_from_the_root(p: Path) -> tuple[Read, str]:
    return _with(p, "/tmp/escaped.json", b"{}"), "names the file '/tmp/escaped.json'"


@case
def a_pack_with_a_link(p: Path) -> tuple[Read, str]:
    return _with(p, "generate/link.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "holds a link"


@case
def a_pack_with_a_hard_link(p: Path) -> tuple[Read, str]:
    return _with(p, "generate/link.json", b"", type=tarfile.LNKTYPE, linkname="run.json"), "holds a link"


@case
def a_pack_with_a_device(p: Path) -> tuple[Read, str]:
    return _with(p, "generate/zero.json", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "holds a device"


@case
def a_pack_with_a_pipe(p: Path) -> tuple[Read, str]:
    return _with(p, "generate/pipe.json", b"", type=tarfile.FIFOTYPE), "holds a pipe"


@case
def a_pack_with_a_program(p: Path) -> tuple[Read, str]:
    return _with(p, "generate/numpy.py", b"open('it-was-run', 'w')"), "holds 'generate/numpy.py'"


@case
def a_pack_with_a_file_twice(p: Path) -> tuple[Read, str]:
    return _with(p, "run.json", b"{}"), "pack.json does not name so"


@case
def a_pack_with_a_file_of_no_step(p: Path) -> tuple[Read, str]:
    return _with(p, "elsewhere/x.json", b"{}"), "holds 'elsewhere/x.json'"


@case
def a_pack_with_other_bytes(p: Path) -> tuple[Read, str]:
    entries = _entries(_pack(p))
    place = next(i for i, (info, _) in enumerate(entries) if info.name == "generate/counts.parquet")
    info, data = entries[place]
    entries[place] = (info, data[:-1] + bytes([data[-1] ^ 1]))
    return _archive(p, entries), "generate/counts.parquet is damaged"


@case
def a_pack_that_lacks_a_file(p: Path) -> tuple[Read, str]:
    return _archive(p, [e for e in _entries(_pack(p)) if e[0].name != "run.json"]), "lacks run.json"


@case
def a_pack_of_another_tool(p: Path) -> tuple[Read, str]:
    return _archive(p, [_entry("data.json", b"{}")]), "does not begin with pack.json"


@case
def a_pack_that_is_a_bomb(p: Path) -> tuple[Read, str]:
    file = p.parent / "bomb.tar.zst"
    head, _ = _entry("pack.json")
    head.size = 1 << 32
    with pa.CompressedOutputStream(pa.OSFile(str(file), "wb"), "zstd") as out:
        out.write(head.tobuf(tarfile.GNU_FORMAT))
        for _ in range(300):
            out.write(bytes(1 << 20))
    assert file.stat().st_size < 100_000
    return _unpacked(p, file), "bomb.tar.zst does not begin with pack.json"


@case
def a_pack_that_grows_too_far(p: Path) -> tuple[Read, str]:
    return _unpacked(p, _pack(p), most_gb=1e-6), "to more than 1000 bytes"


@case
def a_manifest_that_promises_too_much(p: Path) -> tuple[Read, str]:
    (info, about), *rest = _entries(_pack(p))
    manifest = json.loads(about)
    manifest["files"]["run.json"]["bytes"] = 1 << 50
    head = json.dumps(manifest).encode()
    info.size = len(head)
    return _archive(p, [(info, head), *rest]), "this looks like a bomb; nothing was unpacked"


@case
def a_pack_cut_off(p: Path) -> tuple[Read, str]:
    file = _pack(p)
    os.truncate(file, file.stat().st_size - 30)
    return _unpacked(p, file), "good.tar.zst"


@case
def garbage_named_pack(p: Path) -> tuple[Read, str]:
    file = p.parent / "noise.tar.zst"
    file.write_bytes(b"\x28\xb5\x2f\xfd" + os.urandom(5000))
    return _unpacked(p, file), "noise.tar.zst is damaged"


@case
def a_pack_that_is_no_pack(p: Path) -> tuple[Read, str]:
    file = p.parent / "text.tar.zst"
    file.write_text("hello")
    return _unpacked(p, file), "text.tar.zst is no .tar.zst"


@case
def a_pack_whose_step_is_foreign(p: Path) -> tuple[Read, str]:
    (info, about), *rest = _entries(_pack(p))
    place = next(i for i, (one, _) in enumerate(rest) if one.name == "generate/meta.json")
    data = json.dumps({"some": "other tool"}).encode()
    manifest = json.loads(about)
    manifest["files"]["generate/meta.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    head = json.dumps(manifest).encode()
    info.size, rest[place] = len(head), _entry("generate/meta.json", data)
    return _archive(p, [(info, head), *rest]), "generate/meta.json is no meta.json of gnomon's"


# ---------------------------------------------------------------- all of them


def _late(number: int, frame: Any) -> None:
    raise TimeoutError("it hangs")


def outcomes(root: Path) -> Iterator[dict[str, Any]]:
    """Each case tried on a copy of its own: what was raised, how long it took, whether anything was run."""
    good = made(root / "good" / "study")
    for number, (name, make) in enumerate(CASES.items()):
        place = root / f"{number:03d}"
        shutil.copytree(good, place / "study")
        read, wanted = make(place / "study")
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, 20)
        try:
            kind, text = "nothing", repr(read())
        except UserError as error:
            kind, text = "UserError", str(error)
        except BaseException as error:
            kind, text = type(error).__name__, str(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        ran = (place / CANARY).exists() or Path(CANARY).exists()
        yield {"case": name, "kind": kind, "text": text[:2000], "wanted": wanted, "ran": ran,
               "seconds": time.perf_counter() - began}  # fmt: skip
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _late)
    used = (
        int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    for found in outcomes(Path(sys.argv[1])):
        print(json.dumps(found), flush=True)
