"""Laws of the store: what was written is what is read; nothing half-made counts; damage is named."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gnomon
from gnomon.aside import bring_back, finish_swaps
from gnomon.disk import fit_dtype, table_bytes, write_bytes, write_json
from gnomon.errors import UserError
from gnomon.sharded import BLOCK, ShardedArray
from gnomon.store import META, Artifact, Study
from gnomon.types import Direction, Site
from gnomon.writer import Writer

SITE = Site("resid_post", 3)
SCHEMA = pa.schema([("row", pa.int64()), ("text", pa.string()), ("label", pa.bool_())])
F, G = "f" * 64, "a" * 64


def fill(writer: Writer, index: int, rows: list[int], ragged: bool = True) -> None:
    """One shard: a table whose first shard has only nulls, dense and ragged activations."""
    shard = writer.shard(index)
    text = None if index == 0 else [f"t{r}" for r in rows]
    shard.table("generations", pd.DataFrame({"row": rows, "text": text, "label": [None] * len(rows)}), SCHEMA)
    values = np.stack([np.full(4, r, dtype=np.float64) for r in rows])
    shard.activations(SITE, "last", values, np.array(rows), None, "float32")
    if ragged:
        counts = [r % 3 for r in rows]  # some rows have no token
        tokens = np.repeat(values, counts, axis=0)
        shard.activations(SITE, "response", tokens, np.array(rows), np.cumsum([0, *counts]), "float16")
    shard.finish({"seconds": index})


def committed(study: Path, name: str = "generate", fingerprint: str = F, shards: int = 3) -> Artifact:
    writer = Writer(study, name, fingerprint)
    for i in range(shards):
        fill(writer, i, [2 * i, 2 * i + 1])
    writer.table("counts", pd.DataFrame({"n": [1, 2]}))
    writer.array("numbers", np.arange(6).reshape(2, 3))
    writer.json("note", {"x": np.float32(1.5), "site": SITE})
    return writer.commit({"step": "generate", "options": {"n": 6}, "model": {"n_heads": 2}})


# ---------------------------------------------------------------- reading back


def test_what_was_written_is_what_is_read(tmp_path: Path):
    artifact = committed(tmp_path)
    table = artifact.table("generations")
    assert table["row"].tolist() == list(range(6))
    assert table["text"].isna().tolist() == [True, True, False, False, False, False]
    assert artifact.tables() == ["counts", "generations"]
    assert artifact.array("numbers").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not artifact.array("numbers").flags.writeable
    assert artifact.json("note") == {"x": 1.5, "site": "resid_post.3"}
    assert (artifact.name, artifact.fingerprint, artifact.options) == ("generate", F, {"n": 6})
    dense = artifact.activations("resid_post.3@last")
    assert dense.rows.tolist() == list(range(6))
    assert dense.at([4, 1])[:, 0].tolist() == [4, 1]


def test_a_table_that_was_read_can_be_changed(tmp_path: Path):
    writer = Writer(tmp_path, "step", F)
    writer.table("mixed", pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [1, 2], "d": ["x", "y"]}))
    writer.table("alone", pd.DataFrame({"a": [1.0, 2.0]}))
    step = writer.commit({"step": "step"})
    for name in ("mixed", "alone"):
        rows = step.table(name)
        rows.loc[0, "a"] = 7.0
        assert rows["a"].tolist() == [7.0, 2.0]
        assert step.table(name)["a"].tolist() == [1.0, 2.0]


def test_a_folder_of_shards_reads_with_pandas_though_its_first_is_all_null(tmp_path: Path):
    artifact = committed(tmp_path)
    table = pd.read_parquet(artifact.path / "generations")
    assert table["text"].dropna().tolist() == ["t2", "t3", "t4", "t5"]


def test_ragged_activations_lie_without_padding_and_read_by_row(tmp_path: Path):
    artifact = committed(tmp_path)
    ragged = artifact.activations(SITE, "response")
    assert ragged.offsets is not None
    assert ragged.offsets.tolist() == [0, 0, 1, 3, 3, 4, 6]
    assert [len(ragged.row(r)) for r in range(6)] == [0, 1, 2, 0, 1, 2]
    assert ragged.row(5).tolist() == [[5] * 4] * 2
    on_disk = sum(
        p.stat().st_size - 128 for p in (artifact.path / "activations" / "resid_post.3@response").glob("*.npy")
    )
    assert on_disk == 6 * 4 * 2  # six tokens of four float16 numbers


def test_an_all_empty_shard_is_read(tmp_path: Path):
    writer = Writer(tmp_path, "capture", F)
    for i, count in enumerate((0, 2)):
        shard = writer.shard(i)
        rows = np.arange(10 * i, 10 * i + count)
        shard.activations(SITE, "answer", np.ones((count, 3)), rows, None, "float32")
        shard.finish()
    activations = writer.commit({}).activations("resid_post.3@answer")
    assert activations.rows.tolist() == [10, 11]
    assert activations.values[:].shape == (2, 3)


def test_a_head_is_a_slice_of_z(tmp_path: Path):
    writer = Writer(tmp_path, "generate", F)
    shard = writer.shard(0)
    values = np.arange(12, dtype=float).reshape(2, 6)
    shard.activations(Site("z", 1), "last", values, np.array([0, 1]), None, "float32")
    shard.finish()
    artifact = writer.commit({"model": {"n_heads": 3}})
    assert artifact.activations("z.1.2@last").values.tolist() == [[4, 5], [10, 11]]
    assert artifact.activations("z.1@last").d == 6
    with pytest.raises(UserError, match="heads 0 to 2"):
        artifact.activations("z.1.3@last")


def test_sharded_arrays_index_like_numpy():
    whole = np.arange(21).reshape(7, 3)
    sharded = ShardedArray([whole[:3], whole[3:3], whole[3:4], whole[4:]])
    assert np.array_equal(np.asarray(sharded), whole)
    for index in (0, 6, -1, -7, slice(None), slice(2, 5), slice(5, 1, -2), [6, 0, 3], [-1, -7], np.arange(7) % 2 == 0,
                  (slice(1, 4), 2), (3, slice(0, 2)), slice(3, 3), []):  # fmt: skip
        assert np.array_equal(sharded[index], whole[index]), index
    assert [row.tolist() for row in sharded] == whole.tolist()
    for bad in (7, -8, [7], [-8], [0.5], np.ones(6, dtype=bool)):
        with pytest.raises(IndexError):
            sharded[bad]


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_every_way_of_reading_looks_for_what_is_not_finite(kind: str):
    most = np.finfo(kind).max
    rows = BLOCK // np.dtype(kind).itemsize // 4
    clean = np.zeros((rows + 7, 8), dtype=kind)
    clean[0], clean[1], clean[-1] = most, -most, np.finfo(kind).smallest_subnormal
    reads = (lambda v, i: v[i], lambda v, i: v[i : i + 2], lambda v, i: v[[0, i]], lambda v, _: v[:],
             lambda v, _: list(v), lambda v, _: np.asarray(v), lambda v, i: v[i, :4],
             lambda v, i: v[i - 1 : i + 1, 3])  # fmt: skip
    for read in reads:
        read(ShardedArray([clean, clean]), rows)
    nan = np.array(np.nan, kind)
    for bad in (np.inf, -np.inf, nan, -nan):
        for at in (rows - 1, 2 * rows + 13):
            parts = [clean.copy(), clean.copy()]
            parts[at // len(clean)][at % len(clean), 3] = bad
            for read in reads:
                with pytest.raises(UserError, match="NaN or infinite"):
                    read(ShardedArray(parts), at)
    assert ShardedArray([clean, parts[1]])[3].shape == (8,)  # what is not asked for is not looked at


def test_reading_finite_numbers_takes_no_memory_beyond_the_copy():
    values = ShardedArray([np.ones((4096, 512), dtype=np.float16)] * 4)
    tracemalloc.start()
    try:
        copy = values[:]
        assert tracemalloc.get_traced_memory()[1] < copy.nbytes * 1.05
    finally:
        tracemalloc.stop()


def test_directions_come_back_with_widths_of_their_own(tmp_path: Path):
    chosen = [Direction(SITE, np.arange(1, 5), "a", "probe", 0.5, {"n": 1}), Direction(Site("mlp_post", 1), np.ones(9))]
    writer = Writer(tmp_path, "probe", F)
    writer.directions(chosen)
    back = writer.commit({}).directions()
    assert [(d.site, d.name, d.kind, d.score, d.meta, d.vector.tolist()) for d in back] == [
        (d.site, d.name, d.kind, d.score, d.meta, d.vector.tolist()) for d in chosen
    ]


def test_no_pickle_is_ever_written_or_read(tmp_path: Path):
    writer = Writer(tmp_path, "x", F)
    with pytest.raises(TypeError, match="object arrays"):
        writer.array("bad", np.array([{}], dtype=object))
    artifact = writer.commit({})
    np.save(artifact.path / "sneaky.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"sneaky\.npy is not a plain \.npy file"):
        artifact.array("sneaky")


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    a, b = committed(tmp_path / "a"), committed(tmp_path / "b")
    assert a.meta["files"] == b.meta["files"]
    table = pd.DataFrame({"text": ["x", None], "row": [1, 2]})
    assert table_bytes(table) == table_bytes(table.copy())
    assert np.load(a.path / "numbers.npy").dtype.byteorder in "<="
    assert pq.read_schema(a.path / "counts.parquet").metadata is None  # no pandas version in the bytes


def test_unknown_names_get_the_nearest(tmp_path: Path):
    artifact = committed(tmp_path)
    write_json(tmp_path / "run.json", {"steps": []})
    study = Study(tmp_path)
    for call, said in (
        (lambda: artifact.table("generation"), "did you mean 'generations'"),
        (lambda: artifact.array("number"), "did you mean 'numbers'"),
        (lambda: artifact.activations("resid_post.4@last"), r"resid_post\.3@last"),
        (lambda: study["generat"], "did you mean 'generate'"),
        (lambda: study.activations("resid_post.3@all"), "unknown activations"),
    ):
        with pytest.raises(UserError, match=said):
            call()


def test_a_study_lists_its_steps_in_the_runs_order(tmp_path: Path):
    for name in ("zeta", "alpha", "mid"):
        committed(tmp_path, name)
    write_json(tmp_path / "run.json", {"steps": [{"name": "zeta"}, {"name": "gone"}, {"name": "alpha"}]})
    study = gnomon.open(tmp_path)
    assert study.names() == ["zeta", "alpha", "mid"]
    assert "mid" in study
    with pytest.raises(UserError, match="pass step="):
        study.activations("resid_post.3@last")
    assert len(study.activations("resid_post.3@last", step="mid")) == 6
    with pytest.raises(UserError, match="no study"):
        Study(tmp_path / "nowhere")


# ---------------------------------------------------------------- half-made steps


def test_only_shards_with_a_whole_marker_count(tmp_path: Path):
    writer = Writer(tmp_path, "generate", F)
    for i in range(5):
        fill(writer, i, [2 * i, 2 * i + 1], ragged=False)
    (writer.path / "_done" / "00000.json").unlink()  # killed before its marker
    (writer.path / "_done" / "00001.json").write_text("{")  # a marker cut short
    data = writer.path / "generations" / "00002.parquet"
    data.write_bytes(data.read_bytes()[:-1])  # a file cut short
    (writer.path / "activations" / "resid_post.3@last" / "00003.npy").unlink()
    assert sorted(writer.done()) == [4]
    assert writer.done()[4]["info"] == {"seconds": 4}


def test_a_resumed_step_equals_an_uninterrupted_one(tmp_path: Path):
    whole = committed(tmp_path / "whole")
    first = Writer(tmp_path / "cut", "generate", F)
    fill(first, 1, [2, 3])
    stray = first.shard(0)
    stray.table("generations", pd.DataFrame({"row": [99], "text": ["half"], "label": [None]}), SCHEMA)
    (first.path / ".half.npy.123.tmp").write_bytes(b"left by a kill")
    second = Writer(tmp_path / "cut", "generate", F)
    assert not list(second.path.rglob("*.tmp"))
    assert sorted(second.done()) == [1]
    resumed = committed(tmp_path / "cut")
    assert resumed.meta["files"] == whole.meta["files"]
    assert resumed.verify() == []


def test_a_partial_folder_of_another_fingerprint_is_begun_anew(tmp_path: Path):
    fill(Writer(tmp_path, "generate", F), 0, [0, 1])
    assert Writer(tmp_path, "generate", G).done() == {}
    assert (tmp_path / ".generate.partial" / "fingerprint").read_text() == G


def test_files_of_a_shard_without_marker_are_not_committed(tmp_path: Path):
    writer = Writer(tmp_path, "generate", F)
    fill(writer, 0, [0, 1])
    writer.shard(1).table("generations", pd.DataFrame({"row": [5], "text": ["no"], "label": [None]}), SCHEMA)
    assert writer.commit({}).table("generations")["row"].tolist() == [0, 1]


def test_nothing_is_a_step_before_its_meta(tmp_path: Path):
    writer = Writer(tmp_path, "generate", F)
    fill(writer, 0, [0, 1])
    with pytest.raises(UserError, match="no finished step"):
        Artifact(writer.path)
    with pytest.raises(UserError, match=r"no study|holds no study"):
        Study(tmp_path)


def test_misaligned_activations_are_never_written(tmp_path: Path):
    shard = Writer(tmp_path, "x", F).shard(0)
    shard.activations(SITE, "last", np.ones((2, 3)), np.array([4, 7]), None, "float32")
    for values, rows, offsets in (
        (np.ones((3, 3)), [4, 7], None),  # a vector too many
        (np.ones((2, 3)), [4, 8], None),  # other rows than the position's first site
        (np.ones((2, 3)), [4, 7], [0, 2]),  # offsets too short
    ):
        with pytest.raises(ValueError, match=r"resid_post\.4@last"):
            shard.activations(Site("resid_post", 4), "last", values, np.array(rows), offsets, "float32")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ascending"):
        shard.activations(SITE, "answer", np.ones((2, 3)), np.array([7, 4]), None, "float32")


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [(81234.0, "float16", r"resid_post\.20@last has \|x\| = 81234, over float16's 65504; set capture\.dtype: float32"),
     (np.nan, "float32", "NaN or infinite"), (-np.inf, "float16", "NaN or infinite"),
     (1e39, "float32", "over float32")],
)  # fmt: skip
def test_what_the_dtype_cannot_hold_is_refused_by_name(value: float, dtype: str, said: str):
    with pytest.raises(UserError, match=said):
        fit_dtype(np.array([[0.0, value]]), dtype, "resid_post.20@last")


def test_the_largest_float16_is_kept():
    assert fit_dtype(np.array([65504.0, -65504.0]), "float16", "x").tolist() == [65504.0, -65504.0]


# ---------------------------------------------------------------- commits


def test_a_commit_sets_the_old_result_aside_and_it_comes_back(tmp_path: Path):
    committed(tmp_path, fingerprint=F)
    committed(tmp_path, fingerprint=G, shards=1)
    assert Artifact(tmp_path / "generate").fingerprint == G
    assert bring_back(tmp_path, "generate", F)
    back = Artifact(tmp_path / "generate")
    assert back.fingerprint == F
    assert back.verify() == []
    assert bring_back(tmp_path, "generate", F)  # it is there already
    assert not bring_back(tmp_path, "generate", "b" * 64)
    assert [p.name for p in (tmp_path / ".old").iterdir()] == [f"generate-{G[:16]}"]


def test_a_half_swap_is_finished_at_the_next_start(tmp_path: Path):
    committed(tmp_path, fingerprint=F)
    whole = committed(tmp_path / "elsewhere", fingerprint=G)
    shutil.move(whole.path, tmp_path / ".generate.partial")  # meta.json is written, the rename was cut off
    assert finish_swaps(tmp_path) == ["generate"]
    assert Artifact(tmp_path / "generate").fingerprint == G
    assert bring_back(tmp_path, "generate", F)
    assert finish_swaps(tmp_path) == []


def test_a_swap_cut_off_between_its_two_renames_loses_nothing(tmp_path: Path):
    committed(tmp_path, fingerprint=F)
    (tmp_path / ".old").mkdir()
    os.replace(tmp_path / "generate", tmp_path / ".old" / f"generate-{F[:16]}")
    assert bring_back(tmp_path, "generate", F)
    assert Artifact(tmp_path / "generate").verify() == []


def test_sigkill_in_the_middle_leaves_only_whole_shards(tmp_path: Path):
    code = """
import os, signal, sys
import gnomon.disk as disk
from pathlib import Path
from tests.test_store import fill, F
from gnomon.writer import Writer
real, count = os.replace, [0]
def replace(a, b):
    count[0] += 1
    if count[0] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)
os.replace = replace
writer = Writer(Path(sys.argv[1]), "generate", F)
for i in range(3):
    fill(writer, i, [2 * i, 2 * i + 1])
"""
    renames_a_shard = 6  # table, two values, rows twice, offsets - and then the marker
    for kill_at in (3, 8, 1 + 2 * (renames_a_shard + 1)):
        folder = tmp_path / str(kill_at)
        done = subprocess.run([sys.executable, "-c", code, str(folder), str(kill_at)], cwd=Path(__file__).parent.parent)
        assert done.returncode == -9
        writer = Writer(folder, "generate", F)
        assert sorted(writer.done()) == list(range((kill_at - 2) // (renames_a_shard + 1)))
        assert committed(folder).meta["files"] == committed(tmp_path / f"{kill_at}-whole").meta["files"]


# ---------------------------------------------------------------- damage


def test_verify_names_a_flipped_byte_a_missing_file_and_a_short_one(tmp_path: Path):
    artifact = committed(tmp_path)
    write_json(tmp_path / "run.json", {"steps": []})
    flipped = artifact.path / "activations" / "resid_post.3@last" / "00001.npy"
    data = bytearray(flipped.read_bytes())
    data[-3] ^= 1
    flipped.write_bytes(data)
    (artifact.path / "counts.parquet").unlink()
    short = artifact.path / "numbers.npy"
    short.write_bytes(short.read_bytes()[:-8])
    problems = "\n".join(Study(tmp_path).verify())
    assert problems.count("\n") == 2
    assert "generate/activations/resid_post.3@last/00001.npy: sha256 differs" in problems
    assert "generate/counts.parquet: missing" in problems
    assert "generate/numbers.npy: 168 bytes, 176 were written" in problems


def test_truncated_and_foreign_files_are_named_when_read(tmp_path: Path):
    artifact = committed(tmp_path)
    (artifact.path / "numbers.npy").write_bytes((artifact.path / "numbers.npy").read_bytes()[:140])
    with pytest.raises(UserError, match=r"numbers\.npy is not a plain"):
        artifact.array("numbers")
    (artifact.path / "counts.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"counts\.parquet cannot be read"):
        artifact.table("counts")
    (artifact.path / META).write_text("{")
    with pytest.raises(UserError, match=r"meta\.json is not readable JSON"):
        _ = Artifact(artifact.path).meta


def test_json_refuses_nan(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_full_disk_is_a_users_error_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*finished shards are kept"):
        write_bytes(tmp_path / "a.npy", b"abc")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot write"):
        Writer(tmp_path / "file", "generate", F)


def test_meta_is_plain_json(tmp_path: Path):
    meta = json.loads((committed(tmp_path).path / META).read_text())
    assert set(meta["files"]["numbers.npy"]) == {"bytes", "sha256"}
    assert meta["format"] == 1
