"""Durability of a step: what is synced before what, what a crash leaves and how it goes, nothing lost silently."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gnomon.aside import bring_back, finish_swaps, park, parked, set_aside
from gnomon.disk import sync_folder, write_bytes
from gnomon.errors import UserError
from gnomon.store import META, Artifact
from gnomon.types import Site
from gnomon.writer import Writer

F, G = "a" * 64, "b" * 64
SCHEMA = pa.schema([("row", pa.int64())])


def fill(writer: Writer, index: int, rows: int = 2) -> None:
    shard = writer.shard(index)
    shard.table("generations", pd.DataFrame({"row": np.arange(rows) + index * rows}), SCHEMA)
    shard.activations(Site("z", 1), "last", np.ones((rows, 3)), np.arange(rows), None, "float32")
    shard.finish({"seconds": 1})


def made(study: Path, fingerprint: str = F, shards: int = 2) -> Artifact:
    writer = Writer(study, "generate", fingerprint)
    for index in range(shards):
        fill(writer, index)
    writer.table("totals", pd.DataFrame({"n": [shards]}))
    return writer.commit({"step": "generate", "name": "generate"})


class Journal:
    """The order in which files and folders were synced and renamed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.lines: list[str] = []
        self.root, fsync, replace = root, os.fsync, os.replace

        def sync(descriptor: int) -> None:
            self.lines.append(f"sync {self.name(os.readlink(f'/proc/self/fd/{descriptor}'))}")
            fsync(descriptor)

        def rename(a: str | Path, b: str | Path) -> None:
            self.lines.append(f"rename {self.name(b)}")
            replace(a, b)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "replace", rename)

    def name(self, path: str | Path) -> str:
        text = str(path)
        return (
            "study" if text == str(self.root) else text.removeprefix(f"{self.root}/").replace(".generate.partial", "P")
        )

    def first(self, line: str) -> int:
        return self.lines.index(line)

    def last(self, line: str) -> int:
        return len(self.lines) - 1 - self.lines[::-1].index(line)


def test_what_a_marker_names_is_on_the_disk_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = Writer(tmp_path, "generate", F)
    journal = Journal(monkeypatch, tmp_path)
    fill(writer, 0)
    marker = journal.first("rename P/_done/00000.json")
    for folder in ("P/generations", "P/activations/z.1@last", "P/activations/rows@last", "P/activations", "P"):
        assert journal.last(f"sync {folder}") < marker, folder
    for file in ("P/generations/00000.parquet", "P/activations/z.1@last/00000.npy"):
        renamed = journal.first(f"rename {file}")
        assert journal.lines[renamed - 1].startswith(f"sync {file.rpartition('/')[0]}/.0")  # its bytes before its name
        assert renamed < journal.first(f"sync {file.rpartition('/')[0]}") < marker
    assert journal.lines[marker + 1 :] == ["sync P/_done"]


def test_a_whole_step_is_on_the_disk_before_its_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made(tmp_path, G)
    writer = Writer(tmp_path, "generate", F)
    fill(writer, 0)
    (writer.path / "dictionaries").mkdir()
    (writer.path / "dictionaries" / "weights.bin").write_bytes(b"written by a library")
    journal = Journal(monkeypatch, tmp_path)
    writer.commit({})
    swap, meta = journal.first("rename generate"), journal.first("rename P/meta.json")
    for name in ("P/dictionaries/weights.bin", "P/dictionaries", "P/generations"):
        assert journal.first(f"sync {name}") < meta < swap
    assert meta < journal.last("sync P") < journal.first(f"rename .old/generate-{G[:16]}") < swap
    assert journal.first("sync .old") < swap < journal.last("sync study")


def test_a_disk_that_fails_to_sync_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    codes = [errno.EINVAL, errno.EIO]

    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    code = codes[0]
    sync_folder(tmp_path)  # a system that cannot
    code = codes[1]
    with pytest.raises(UserError, match="Input/output error"):
        sync_folder(tmp_path)
    with pytest.raises(UserError, match=rf"cannot write {tmp_path}/x"):
        write_bytes(tmp_path / "x", b"1")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_in_the_middle_of_a_file_leaves_none(tmp_path: Path):
    def chunks():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "x", chunks())
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- sweeping


def test_what_a_crash_left_is_swept_and_listed(tmp_path: Path):
    writer = Writer(tmp_path, "generate", F)
    for index in range(4):
        fill(writer, index)
    (writer.path / "_done" / "00001.json").unlink()  # killed before its marker
    (writer.path / "generations" / "00002.parquet").write_bytes(b"short")
    (writer.path / "_done" / "00003.json").write_text("{")
    (writer.path / "generations" / ".00009.parquet.7.tmp").write_bytes(b"half")
    (writer.path / "notes.json").write_text("{}")  # not a shard's: the step may want it
    kept = (writer.path / "generations" / "00000.parquet").stat().st_mtime_ns
    second = Writer(tmp_path, "generate", F)
    found = {(str(one.path.relative_to(second.path)), one.what.split(",")[0]) for one in second.litter}
    assert found == {
        ("generations/.00009.parquet.7.tmp", "a temporary file"),
        *((f"_done/0000{i}.json", "the marker of a shard that is not whole") for i in (2, 3)),
        *((f"{f}/0000{i}.{k}", "a file of an unfinished shard") for i in (1, 2, 3)
          for f, k in (("generations", "parquet"), ("activations/z.1@last", "npy"), ("activations/rows@last", "npy"))),
    }  # fmt: skip
    assert {one.size for one in second.litter if one.path.name == "00002.parquet"} == {5}
    left = sorted(p.relative_to(second.path).as_posix() for p in second.path.rglob("*") if p.is_file())
    assert left == ["_done/00000.json", "activations/rows@last/00000.npy", "activations/z.1@last/00000.npy",
                    "fingerprint", "generations/00000.parquet", "notes.json"]  # fmt: skip
    assert (second.path / "generations" / "00000.parquet").stat().st_mtime_ns == kept
    assert Writer(tmp_path, "generate", F).litter == []


def test_a_half_made_step_of_other_options_waits_until_they_return(tmp_path: Path):
    fill(Writer(tmp_path, "generate", F), 0)
    other = Writer(tmp_path, "generate", G)
    assert other.done() == {}
    assert [one.path for one in other.litter] == [parked(tmp_path, "generate", F)]
    assert "begun with other options" in other.litter[0].what
    fill(other, 1)
    back = Writer(tmp_path, "generate", F)
    assert sorted(back.done()) == [0]
    assert [p.name for p in (tmp_path / ".old").iterdir()] == [f"generate-{G[:16]}.partial"]
    assert sorted(Writer(tmp_path, "generate", G).done()) == [1]


def test_one_that_holds_no_shard_is_not_kept(tmp_path: Path):
    first = Writer(tmp_path, "generate", F)
    write_bytes(first.path / "half.bin", bytes(100))
    second = Writer(tmp_path, "generate", G)
    assert [(one.size, one.what) for one in second.litter] == [
        (164, "begun with other options, no shard finished: removed")
    ]
    assert not (tmp_path / ".old").exists()
    assert not (second.path / "half.bin").exists()
    (second.path / "fingerprint").write_text("../../away")
    park(tmp_path, "generate")
    assert not second.path.exists()


# ---------------------------------------------------------------- commits


@pytest.mark.parametrize("harm", ["missing", "short"])
def test_a_shard_that_is_lost_before_the_commit_is_not_left_out_silently(tmp_path: Path, harm: str):
    writer = Writer(tmp_path, "generate", F)
    fill(writer, 0)
    fill(writer, 1)
    file = writer.path / "generations" / "00001.parquet"
    file.unlink() if harm == "missing" else file.write_bytes(b"")
    with pytest.raises(UserError, match=r"files of 1 of its 2 shards have gone while it was made"):
        writer.commit({})
    assert not (tmp_path / "generate").exists()
    again = Writer(tmp_path, "generate", F)
    assert sorted(again.done()) == [0]
    fill(again, 1)
    assert again.commit({}).table("generations")["row"].tolist() == [0, 1, 2, 3]


def test_markers_name_the_host_that_made_them(tmp_path: Path):
    marker = json.loads((made(tmp_path).path / "_done" / "00001.json").read_text())
    assert marker["host"] == os.uname().nodename
    assert marker["info"] == {"seconds": 1}


@pytest.mark.parametrize("cut", range(3))
def test_a_commit_cut_off_at_any_rename_is_finished_or_undone(tmp_path: Path, monkeypatch, cut: int):
    before = made(tmp_path, G).meta["files"]
    writer = Writer(tmp_path, "generate", F)
    fill(writer, 0)
    real, count = os.replace, [0]

    def replace(a: Path, b: Path) -> None:
        if count[0] == cut:  # meta.json; the old folder aside; the new one into place
            raise KeyboardInterrupt
        count[0] += 1
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        writer.commit({})
    monkeypatch.undo()
    assert finish_swaps(tmp_path) == (["generate"] if cut else [])
    now = Artifact(tmp_path / "generate")
    assert now.fingerprint == (F if cut else G)
    assert now.verify() == []
    if cut:
        assert bring_back(tmp_path, "generate", G)
        assert Artifact(tmp_path / "generate").meta["files"] == before
    else:
        assert sorted(Writer(tmp_path, "generate", F).done()) == [0]


@pytest.mark.parametrize("cut", [None, 0, 2, 5, 9])
def test_scratch_lasts_until_the_commit_and_not_longer(tmp_path: Path, monkeypatch, cut: int | None):
    writer = Writer(tmp_path, "generate", F)
    fill(writer, 0)
    for index in (1, 2):
        shard = writer.shard(index)
        shard.array("part/x", np.ones(2))
        shard.finish()
    write_bytes(writer.path / "_training" / "x.bin", b"a checkpoint")
    writer.table("totals", pd.DataFrame({"n": [3]}))
    writer.scratch("part", "_training")
    assert sorted(writer.done()) == [0, 1, 2]
    counted = [0]

    def stop(self: Path, *arguments: object, **options: object) -> None:
        if (writer.path / META).is_file() and counted[0] == cut:
            raise KeyboardInterrupt
        counted[0] += (writer.path / META).is_file()
        (os.rmdir if self.is_dir() else os.unlink)(self)

    if cut is not None:
        monkeypatch.setattr(Path, "unlink", stop)
        monkeypatch.setattr(Path, "rmdir", stop)
    with nullcontext() if cut is None else pytest.raises(KeyboardInterrupt):
        writer.commit({})
    monkeypatch.undo()
    if cut is not None:
        assert not (tmp_path / "generate").exists()
        assert finish_swaps(tmp_path) == ["generate"]
    done = Artifact(tmp_path / "generate")
    assert done.verify() == []
    left = {p.relative_to(done.path).as_posix() for p in done.path.rglob("*")}
    assert not [name for name in left if name.startswith(("part", "_training", "_done/00001", "_done/00002"))]
    assert {"_done/00000.json", "totals.parquet", "generations/00000.parquet"} < left
    assert sorted(done.meta["files"]) == ["activations/rows@last/00000.npy", "activations/z.1@last/00000.npy",
                                          "generations/00000.parquet", "totals.parquet"]  # fmt: skip


def test_a_half_made_step_whose_stamp_broke_keeps_its_shards(tmp_path: Path):
    fill(Writer(tmp_path, "generate", F), 0)
    (tmp_path / ".generate.partial" / "fingerprint").write_bytes(b"\xff" + F.encode()[1:])
    second = Writer(tmp_path, "generate", F)
    assert [one.path.name for one in second.litter] == ["generate-broken.partial"]
    assert "its stamp is broken" in second.litter[0].what
    assert (second.litter[0].path / "_done" / "00000.json").is_file()


def test_a_commit_whose_meta_broke_goes_on_from_its_shards(tmp_path: Path):
    shutil.move(made(tmp_path).path, tmp_path / ".generate.partial")
    (tmp_path / ".generate.partial" / META).write_text('{"fingerp')
    assert finish_swaps(tmp_path) == []
    writer = Writer(tmp_path, "generate", F)
    assert sorted(writer.done()) == [0, 1]
    assert writer.commit({}).verify() == []


def test_a_broken_folder_is_set_aside_under_another_name(tmp_path: Path):
    (made(tmp_path).path / META).write_text("[]")
    set_aside(tmp_path, "generate")
    assert [p.name for p in (tmp_path / ".old").iterdir()] == ["generate-broken"]
    assert not bring_back(tmp_path, "generate", F)


def test_a_log_that_the_disk_does_not_take_is_said_once(capsys: pytest.CaptureFixture[str]):
    from gnomon.console import Screen, logged

    with logged(Path("/dev/full"), "error", Screen(terminal=False)) as log:
        log.info("one")
        log.info("two")
    assert capsys.readouterr().err == "warning: /dev/full cannot be written: No space left on device\n"
