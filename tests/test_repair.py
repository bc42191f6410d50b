"""Damage is found, named with its shard, and mended shard by shard: what is whole is not touched, followers stay."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnomon import repair
from gnomon.cleaning import leftovers
from gnomon.config import load
from gnomon.console import Screen
from gnomon.errors import UserError
from gnomon.plan import plan_study
from gnomon.run import run_study
from gnomon.store import META, Artifact, Study
from tests import fake_steps

PREFIX = "tests.fake_steps:"
COUNT, MEAN, MORE, SITES, ENDS = (PREFIX + n for n in ("Count", "Mean", "More", "Sites", "Ends"))
BASIC: dict[str, Any] = {"steps": [{COUNT: {"n": 12, "width": 3}}, {MEAN: {}}, {MORE: {}}, {SITES: {}}]}


def go(out: Path, study: Any = BASIC, *overrides: str, **options: Any) -> Study:
    fake_steps.RAN.clear()
    return run_study(study, out, overrides, screen=Screen(terminal=False), **options)


def fails(out: Path, study: Any = BASIC, *overrides: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        go(out, study, *overrides, **options)
    return str(caught.value)


def chosen(out: Path, study: Any = BASIC, *overrides: str, verify: bool = False) -> dict[str, tuple[str, str]]:
    return {p.name: (p.action, p.reason) for p in plan_study(load(study, overrides), out, verify=verify).steps}


def files(study: Study) -> dict[str, Any]:
    return {a.name: a.meta["files"] for a in study}


def times(folder: Path) -> dict[str, int]:
    """When each file of a folder was last written."""
    found = {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    return {name: time for name, time in found.items() if "/" in name and name.rpartition("/")[2][:5].isdigit()}


def messages(out: Path) -> list[str]:
    return [json.loads(line)["message"] for line in (out / "run.log").read_text().splitlines()]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch):
    """Nothing here is about the report, which takes most of a small study's time."""
    monkeypatch.setattr("gnomon.report.html.build_report", lambda folder: folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return go(tmp_path_factory.mktemp("whole") / "s")


@pytest.fixture
def made(whole: Study, tmp_path: Path) -> Study:
    return Study(shutil.copytree(whole.path, tmp_path / "s"))


# ---------------------------------------------------------------- one shard


@pytest.mark.parametrize(
    ("harm", "file", "verify", "said"),
    [
        (Path.unlink, "generations/00001.parquet", False, "generations/00001.parquet is missing, 1,"),
        (cut, "activations/resid_post.1@last/00001.npy", False, "00001.npy has 175 bytes, 176 bytes were written"),
        (cut, "activations/rows@last/00001.npy", True, "has 159 bytes"),
        (flip, "generations/00001.parquet", True, "00001.parquet has another sha256"),
    ],
    ids=["missing", "short", "short and verified", "flipped"],
)
def test_only_the_bad_shard_is_made_anew(made: Study, harm: Callable[[Path], None], file: str, verify: bool, said: str):
    first, before, meta = files(made), times(made.path / "count"), made["count"].meta
    harm(made.path / "count" / file)
    action, reason = chosen(made.path, verify=verify)["count"]
    assert action == "repair"
    assert said in reason
    assert "(shard 1)" in reason
    again = go(made.path, verify=verify)
    assert fake_steps.RAN == ["Count"], "followers are kept, for the bytes are what they were"
    assert files(again) == first
    assert again.verify() == []
    after = times(made.path / "count")
    assert {name for name in after if after[name] != before[name]} == {name for name in before if "00001" in name}
    log = messages(made.path)
    assert any(m.startswith("count/") and said in m and "it is made anew" in m for m in log)
    assert "count: 2 shards are whole and stay" in log
    assert "count: mended, every file has the bytes that it had" in log
    now = again["count"].meta
    assert [(one["file"], one["shard"]) for one in now["mended"]] == [(file, 1)]
    assert now["started"] == meta["started"]
    assert len(now["tries"]) == 2
    assert now["seconds"] == pytest.approx(sum(one["seconds"] for one in now["tries"]), abs=0.01)
    assert not list(made.path.glob(".*.partial"))
    assert not (made.path / ".old").exists()


def test_sizes_are_seen_without_verify_and_bytes_are_not(made: Study):
    flip(made.path / "count" / "generations" / "00002.parquet")
    assert chosen(made.path)["count"][0] == "keep"
    assert made.verify() == ["count/generations/00002.parquet: sha256 differs from the one written"]


def test_a_file_of_all_shards_is_made_from_them(tmp_path: Path):
    study = {"steps": [COUNT, ENDS, {MEAN: {}, "from": "count"}]}
    first = go(tmp_path, study)
    before = times(tmp_path / "ends")
    assert len(before) == 6
    cut(tmp_path / "ends" / "total.parquet")
    again = go(tmp_path, study)
    assert fake_steps.RAN == ["Ends"]
    assert times(tmp_path / "ends") == before
    assert files(again) == files(first)
    assert "2 shards" not in again["ends"].meta["mended"][0]["found"]


def test_a_step_without_shards_is_made_whole(made: Study):
    first = files(made)
    (made.path / "mean" / "scores.parquet").write_bytes(b"")
    assert files(go(made.path)) == first
    assert fake_steps.RAN == ["Mean"]


@pytest.mark.parametrize("content", [None, "", '{"step": "count"', "[]", '{"fingerprint": NaN, "files": {}}'])
def test_a_broken_record_is_named_and_made_anew_from_the_shards(made: Study, content: str | None):
    first, before = files(made), times(made.path / "count")
    path = made.path / "count" / META
    path.unlink() if content is None else path.write_text(content)
    flip(made.path / "count" / "generations" / "00000.parquet")  # without meta.json the bytes are looked at too
    action, reason = chosen(made.path)["count"]
    assert action == "repair"
    assert reason.startswith(f"meta.json is {'missing' if content is None else 'broken'}")
    again = go(made.path)
    assert fake_steps.RAN == ["Count"]
    assert files(again) == first
    after = times(made.path / "count")
    assert {name for name in after if after[name] != before[name]} == {name for name in before if "00000" in name}


def test_a_record_of_a_newer_gnomon_is_left_alone(made: Study):
    path = made.path / "count" / META
    path.write_text(json.dumps(made["count"].meta | {"format": 2}))
    assert "format" in fails(made.path)
    assert json.loads(path.read_text())["format"] == 2


def test_a_folder_without_its_stamp_is_mended_too(made: Study):
    first = files(made)
    (made.path / "count" / "fingerprint").unlink()
    (made.path / "count" / "generations" / "00001.parquet").unlink()
    assert files(go(made.path)) == first


def test_what_comes_out_different_takes_its_followers_along(tmp_path: Path):
    study = {"steps": [PREFIX + "Dice", MEAN]}
    go(tmp_path, study)
    cut(tmp_path / "dice" / "generations.parquet")
    done = go(tmp_path, study)
    assert fake_steps.RAN == ["Dice", "Mean"]
    assert done["mean"].table("scores")["value"].tolist() == [2, 2]
    assert any("dice: mended, but generations.parquet has other bytes than before" in m for m in messages(tmp_path))


def test_a_result_that_is_brought_back_is_mended_first(made: Study):
    first = files(made)
    go(made.path, BASIC, "count.n=8")
    old = next((made.path / ".old").glob("count-*"))
    (old / "generations" / "00001.parquet").unlink()
    assert chosen(made.path)["count"][0] == "repair"
    assert files(go(made.path)) == first
    assert fake_steps.RAN == ["Count"]


# ---------------------------------------------------------------- cut off, refused


@pytest.mark.parametrize("kill", [0, 1, 3, 4, 6])
def test_a_repair_cut_off_anywhere_is_finished_by_the_next_run(made: Study, monkeypatch, kill: int):
    """At the k-th rename or removal; a flipped byte that was found must not come back as whole."""
    first = files(made)
    flip(made.path / "count" / "generations" / "00001.parquet")
    calls, replace, unlink = [0], os.replace, Path.unlink

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            calls[0] += bool(inside)
            if inside and calls[0] == kill + 1:
                raise KeyboardInterrupt
            real(*arguments, **options)

        return call

    inside: list[int] = []
    real = repair.reopen

    def reopen(*arguments: Any) -> None:
        inside.append(1)
        real(*arguments)
        inside.clear()

    monkeypatch.setattr(os, "replace", counted(replace))
    monkeypatch.setattr(Path, "unlink", counted(unlink))
    monkeypatch.setattr(repair, "reopen", reopen)
    with pytest.raises(KeyboardInterrupt):
        go(made.path, verify=True)
    monkeypatch.undo()
    again = go(made.path, verify=kill <= 3)
    assert files(again) == first
    assert again.verify() == []


def test_another_class_of_machine_does_not_mend_and_leaves_the_folder_in_place(made: Study):
    note = made.path / "count" / "_done" / "machine"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"instructions": ["sse9"]}))
    (made.path / "count" / "generations" / "00001.parquet").unlink()
    assert "another class of machine" in fails(made.path)
    assert (made.path / "count" / META).is_file()


def test_a_damaged_folder_of_another_study_is_refused_by_name(tmp_path: Path):
    go(tmp_path / "one", {"steps": [COUNT]})
    study = {"steps": [{MEAN: {}, "from": "../one/count"}]}
    lost = tmp_path / "one" / "count" / "generations" / "00001.parquet"
    kept = lost.read_bytes()
    lost.unlink()
    said = fails(tmp_path / "two", study)
    assert "step 'mean' reads ../one/count, whose generations/00001.parquet is missing" in said
    assert f"gnomon run {tmp_path / 'one' / 'study.yaml'} --verify" in said
    assert not (tmp_path / "two").exists()
    lost.write_bytes(kept[:-1] + b"x")
    assert "00001.parquet has another sha256" in fails(tmp_path / "two", study, verify=True)
    lost.write_bytes(kept)
    go(tmp_path / "two", study)
    lost.unlink()
    go(tmp_path / "two", study)  # nothing is to be made: nothing is read
    assert fake_steps.RAN == []
    shutil.rmtree(tmp_path / "one")
    assert "no finished step at ../one/count" in fails(tmp_path / "two", study)


def test_a_step_that_vanished_is_made_anew_and_its_followers_stay(made: Study):
    first = files(made)
    shutil.rmtree(made.path / "count")
    assert files(go(made.path)) == first
    assert fake_steps.RAN == ["Count"]


# ---------------------------------------------------------------- half-made steps, what is said


def test_half_made_shards_are_verified_and_mended(tmp_path: Path):
    whole = files(go(tmp_path / "whole"))
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        go(out, BASIC, "count.trouble={interrupt: 2}")
    flip(out / ".count.partial" / "generations" / "00001.parquet")
    assert repair.problems(out)[0].startswith(".count.partial/generations/00001.parquet has another sha256")
    assert "(shard 1)" in repair.problems(out)[0]
    again = go(out, verify=True)
    assert files(again) == whole
    assert any("count/generations/00001.parquet has another sha256" in m for m in messages(out))
    assert again["count"].meta["tries"][1]["found"] == 1
    assert repair.problems(out) == []


def test_problems_name_file_shard_and_command(made: Study):
    assert repair.problems(made.path) == []
    flip(made.path / "count" / "activations" / "rows@last" / "00002.npy")
    (made.path / "mean" / "scores.parquet").unlink()
    (made.path / "more" / META).write_text("{")
    said = repair.problems(made.path)
    assert said[0].startswith("count/activations/rows@last/00002.npy has another sha256")
    assert said[0].endswith("(shard 2)")
    assert said[1].startswith("mean/scores.parquet is missing")
    assert said[2].startswith("more/meta.json is broken")
    assert said[3:] == [f"only these are made anew by: gnomon run {made.path / 'study.yaml'} --verify"]
    assert repair.problems(made.path / "more")[0] == said[2]
    assert repair.problems(made.path / "sites") == []
    assert repair.problems(go(made.path, verify=True).path) == []
    assert sorted(fake_steps.RAN) == ["Count", "Mean", "More"]


def test_links_and_pipes_are_no_files(made: Study):
    folder = made.path / "count" / "generations"
    (folder / "00000.parquet").rename(made.path.parent / "away")
    (folder / "00000.parquet").symlink_to(made.path.parent / "away")
    (folder / "00001.parquet").unlink()
    os.mkfifo(folder / "00001.parquet")
    said = repair.problems(made.path)
    assert "link that leads out of" in said[0]
    assert "no ordinary file" in said[1]


# ---------------------------------------------------------------- around it


def test_a_resumed_step_says_what_was_found_and_what_is_redone(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, BASIC, "count.trouble={interrupt: 2}")
    partial = tmp_path / ".count.partial"
    (partial / "generations" / ".x.parquet.1.tmp").write_bytes(bytes(2000))
    shutil.copy(partial / "generations" / "00000.parquet", partial / "generations" / "00002.parquet")
    (tmp_path / ".run.json.7.tmp").write_text("half")
    (tmp_path / ".gone.partial").mkdir()
    (tmp_path / ".gone.partial" / "x").write_bytes(bytes(3000))
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run | {"status": "running"}))
    meta = go(tmp_path)["count"].meta
    log = messages(tmp_path)
    assert any(m.startswith("the last run, begun 20") and "was cut off" in m for m in log)
    assert "left by a stopped run: .run.json.7.tmp, 4 B: a temporary file, removed" in log
    assert any("generations/.x.parquet.1.tmp, 2.0 kB: a temporary file, removed" in m for m in log)
    assert any("generations/00002.parquet" in m and "a file of an unfinished shard, removed" in m for m in log)
    assert any(".gone.partial, 3.0 kB: no step of this study is called so: gnomon clean removes it" in m for m in log)
    assert any(m.startswith("count: 2 shards are there, begun 20") and m.endswith("(try 2)") for m in log)
    assert (tmp_path / ".gone.partial" / "x").exists()
    assert [path.name for path, _ in leftovers(tmp_path)] == [".gone.partial"]
    assert [one["found"] for one in meta["tries"]] == [0, 2]
    assert meta["hosts"] == {os.uname().nodename: 3}
    assert (meta["workers"], meta["host"]) == (1, os.uname().nodename)
    assert meta["command"].startswith("gnomon run")


def test_shards_of_other_options_wait_until_they_return(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, BASIC, "count.trouble={interrupt: 2}")
    go(tmp_path, BASIC, "count.n=8")
    assert any("begun with other options: waits there" in m for m in messages(tmp_path))
    assert chosen(tmp_path)["count"] == ("resume", "2 shards are there")
    assert go(tmp_path)["count"].meta["tries"][1]["found"] == 2


def test_a_run_that_is_taken_over_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from gnomon import lock

    real = lock.Lock.check

    def taken(self: lock.Lock) -> None:
        self.lost = "host b, pid 7, since now"
        real(self)

    monkeypatch.setattr(lock.Lock, "check", taken)
    assert "was taken over by host b, pid 7" in fails(tmp_path)
    assert not (tmp_path / "count").exists()


def test_a_refused_start_says_who_works_there_whatever_state_its_steps_are_in(made: Study):
    from gnomon.lock import study_lock

    (made.path / "count" / META).write_text("{")
    with study_lock(made.path):
        assert f"is being written by host {os.uname().nodename}, pid {os.getpid()}" in fails(made.path)
        assert Artifact(made.path / "mean").meta
