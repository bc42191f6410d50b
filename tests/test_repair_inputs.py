"""What a mended or remade step means for those that read it, and shards that outlive what they were made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gnomon import repair
from gnomon.config import load
from gnomon.console import Screen
from gnomon.plan import plan_study
from gnomon.run import run_study
from gnomon.store import META, Study
from tests import fake_steps

PREFIX = "tests.fake_steps:"
COUNT, MEAN, DICE, TIMED, ENDS = (PREFIX + n for n in ("Count", "Mean", "Dice", "Timed", "Ends"))


def go(out: Path, *steps: Any, **options: Any) -> Study:
    fake_steps.RAN.clear()
    return run_study({"steps": list(steps)}, out, screen=Screen(terminal=False), **options)


def chosen(out: Path, *steps: Any) -> dict[str, tuple[str, str]]:
    return {p.name: (p.action, p.reason) for p in plan_study(load({"steps": list(steps)}), out).steps}


def messages(out: Path) -> list[str]:
    return [json.loads(line)["message"] for line in (out / "run.log").read_text().splitlines()]


def markers(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "_done").glob("*.json")}


def half(out: Path, name: str) -> dict[str, int]:
    """Make a finished step a half-made one, as a kill before its last table leaves it; when its shards were made."""
    partial = out / f".{name}.partial"
    (out / name).rename(partial)
    (partial / META).unlink()
    return markers(partial)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gnomon.report.html.build_report", lambda folder: folder)


@pytest.mark.parametrize("where", ["partial", "parked", "finished with a broken record"])
def test_shards_made_of_other_files_of_an_input_are_not_gone_on_with(tmp_path: Path, where: str):
    go(tmp_path, DICE, ENDS)
    before = markers(tmp_path / "ends")
    if where == "finished with a broken record":
        (tmp_path / "ends" / META).write_text("{")
    else:
        half(tmp_path, "ends")
    if where == "parked":
        stamp = (tmp_path / ".ends.partial" / "fingerprint").read_text()
        (tmp_path / ".old").mkdir()
        shutil.move(tmp_path / ".ends.partial", tmp_path / ".old" / f"ends-{stamp[:16]}.partial")
    go(tmp_path, DICE, remake=["dice"])  # the same fingerprint, other numbers
    assert chosen(tmp_path, DICE, ENDS)["ends"][0] != "resume"
    done = go(tmp_path, DICE, ENDS)
    assert fake_steps.RAN == ["Ends"]
    after = markers(tmp_path / "ends")
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values()), "rows of both would stand side by side"
    assert done.verify() == []
    if where != "finished with a broken record":
        assert any("were made of other files of dice: they are removed" in m for m in messages(tmp_path))


def test_shards_of_the_same_inputs_are_gone_on_with(tmp_path: Path):
    go(tmp_path, COUNT, ENDS)
    before = half(tmp_path, "ends")
    go(tmp_path, COUNT, remake=["count"])
    assert chosen(tmp_path, COUNT, ENDS)["ends"] == ("resume", "3 shards are there")
    go(tmp_path, COUNT, ENDS)
    assert markers(tmp_path / "ends") == before


def test_what_was_measured_anew_does_not_take_followers_along(tmp_path: Path):
    first = go(tmp_path, TIMED, MEAN)
    files = first["timed"].meta["files"]
    path = tmp_path / "timed" / "took.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    second = go(tmp_path, TIMED, MEAN)
    assert fake_steps.RAN == ["Timed"]
    now = second["timed"].meta["files"]
    assert now["generations.parquet"] == files["generations.parquet"]
    assert now["took.parquet"] != files["took.parquet"]
    assert second.verify() == []
    said = "timed: mended, every file has the bytes that it had but for what was measured anew: took.parquet"
    assert said in messages(tmp_path)
    go(tmp_path, TIMED, MEAN, remake=["timed"])
    assert fake_steps.RAN == ["Timed"]


def test_a_repair_without_a_stamp_cut_off_after_the_rename_loses_no_shard(tmp_path: Path, monkeypatch):
    go(tmp_path, {COUNT: {"n": 12}})
    before = markers(tmp_path / "count")
    (tmp_path / "count" / "fingerprint").unlink()
    (tmp_path / "count" / "generations" / "00001.parquet").unlink()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repair, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, {COUNT: {"n": 12}})
    monkeypatch.undo()
    monkeypatch.setattr("gnomon.report.html.build_report", lambda folder: folder)
    done = go(tmp_path, {COUNT: {"n": 12}})
    assert done.verify() == []
    after = markers(tmp_path / "count")
    assert {name for name in after if after[name] != before[name]} == {"00001.json"}


def test_the_clocked_tables_of_every_step_are_names():
    from gnomon import registry

    for name in registry.table("step"):
        step: Any = registry.find("step", name)
        clocked = step.clocked
        assert isinstance(clocked, tuple), f"{name} calls something else so"
        assert all(isinstance(table, str) for table in clocked)
