"""Laws of gnomon pack and unpack: what comes out is what went in, activations aside; a later run knows it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from gnomon import packing
from gnomon.cleaning import leftovers
from gnomon.cli import app
from gnomon.console import Screen
from gnomon.diffs.studies import diff
from gnomon.errors import UserError
from gnomon.packing import Pack, pack
from gnomon.report.html import build_report
from gnomon.run import run_study
from gnomon.step import Context, Inputs, Step
from gnomon.store import Study
from gnomon.unpacking import unpack
from gnomon.writer import Writer
from tests import fake_steps

COUNT, MEAN, MORE, SITES = (f"tests.fake_steps:{name}" for name in ("Count", "Mean", "More", "Sites"))
STUDY: dict[str, Any] = {
    "title": "Numbers",
    "steps": [{COUNT: {"n": 12, "width": 3}}, {MEAN: {}}, {MORE: {}}, {SITES: {}}],
}


def go(out: Path, *overrides: str, **options: Any) -> list[str]:
    """Run it; which steps worked."""
    fake_steps.RAN.clear()
    run_study(STUDY, out, overrides, screen=Screen(terminal=False), **options)
    return list(fake_steps.RAN)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "study"
    go(out)
    (out / "opened").unlink()  # the fake worker's own note
    return out


@pytest.fixture(scope="module")
def packed(whole) -> Pack:
    return pack(whole, whole.parent / "study.tar.zst")


@pytest.fixture
def moved(packed, tmp_path) -> Path:
    """The study as it comes out of the pack, without activations."""
    return unpack(packed.path, tmp_path / "moved").path


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- packing


def test_everything_but_activations_comes_out_as_it_was(whole, packed, moved):
    before, after = content(whole), content(moved)
    left = {name for name in before if "/activations/" in name or name.startswith(".")}
    added = {f"{step}/packed.json" for step in ("count", "more")}
    assert set(before) - left == set(after) - added
    assert all(before[name] == after[name] for name in set(before) - left)
    assert packed.left_out == len([name for name in left if "/activations/" in name]) > 0
    assert {"study.yaml", "run.json", "run.log", "report.html", "mean/scores.parquet"} <= set(after)


def test_with_activations_everything_comes_out(whole, tmp_path):
    done = pack(whole, tmp_path / "all.tar.zst", activations=True)
    out = unpack(done.path, tmp_path / "out").path
    before = {name: data for name, data in content(whole).items() if not name.startswith(".")}
    assert content(out) == before
    assert (done.left_out, done.left_out_bytes) == (0, 0)


def test_the_same_study_gives_the_same_bytes_wherever_and_whenever(whole, packed, tmp_path):
    copy = tmp_path / "study"
    shutil.copytree(whole, copy)  # other times, another place
    for path in copy.rglob("*.parquet"):
        path.chmod(0o600)
    assert pack(copy, tmp_path / "again.tar.zst").path.read_bytes() == packed.path.read_bytes()


def test_it_is_an_ordinary_tar(packed, tmp_path):
    data = pa.CompressedInputStream(pa.OSFile(str(packed.path)), "zstd").read()
    (tmp_path / "x.tar").write_bytes(data)
    listed = subprocess.run(["tar", "-tvf", str(tmp_path / "x.tar")], capture_output=True, text=True, check=True).stdout
    assert listed.splitlines()[0].endswith("pack.json")
    assert listed.count("1970-01-01") == len(listed.splitlines())
    assert len(listed.splitlines()) == packed.files + 1


def test_a_damaged_study_is_not_packed_and_nothing_is_left(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "study")
    file = copy / "mean" / "scores.parquet"
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"mean/scores\.parquet is not the file that was written.*show .* --verify"):
        pack(copy, tmp_path / "x.tar.zst")
    file.unlink()
    with pytest.raises(UserError, match=r"scores\.parquet cannot be opened"):
        pack(copy, tmp_path / "x.tar.zst")
    assert [p.name for p in tmp_path.iterdir()] == ["study"]


def test_nothing_is_written_over(packed, whole, tmp_path):
    with pytest.raises(UserError, match="is there already"):
        pack(whole, packed.path)
    with pytest.raises(UserError, match=r"a name that ends in \.tar\.zst"):
        pack(whole, tmp_path / "x.zip")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    for target in (tmp_path / "there", packed.path):
        with pytest.raises(UserError, match="is there already; a new or empty folder"):
            unpack(packed.path, target)
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert unpack(packed.path, tmp_path / "empty").steps == ("count", "mean", "more", "sites")


def test_a_full_disk_leaves_neither_pack_nor_folder(packed, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(packing.archive, "put", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="No space left"):
        pack(whole, tmp_path / "x.tar.zst")
    monkeypatch.undo()
    monkeypatch.setattr("os.rename", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="No space left"):
        unpack(packed.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_code_is_not_packed(whole, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "study")
    writer_step = Study(copy)["mean"]
    (writer_step.path / "tool.py").write_text("print()")
    text = (writer_step.path / "meta.json").read_text()
    (writer_step.path / "meta.json").write_text(
        text.replace('"files": {', '"files": {"tool.py": {"bytes": 7, "sha256": "' + "0" * 64 + '"},')
    )
    with pytest.raises(UserError, match=r"mean/tool\.py is a program"):
        pack(copy, tmp_path / "x.tar.zst")


# ---------------------------------------------------------------- what comes out is a study


def test_the_report_builds_to_the_same_bytes(whole, moved):
    before = build_report(whole).read_bytes()
    (moved / "report.html").unlink()
    assert build_report(moved).read_bytes() == before


def test_a_study_that_runs_is_packed_as_far_as_it_is_and_says_so(whole, tmp_path):
    study = shutil.copytree(whole, tmp_path / "study")
    record = json.loads((study / "run.json").read_text())
    (study / "run.json").write_text(json.dumps(record | {"status": "running"}))
    (study / ".mean.partial").mkdir()
    (study / ".mean.partial" / "half").write_text("")
    done = pack(study, tmp_path / "x.tar.zst")
    assert [note for note in done.notes if "under way" in note]
    assert not [name for name in content(unpack(done.path, tmp_path / "out").path) if "partial" in name]
    assert not [note for note in pack(whole, tmp_path / "y.tar.zst").notes if "under way" in note]


def test_what_was_left_out_is_no_damage_but_what_is_missing_besides_is(whole, moved):
    assert Study(moved).verify() == []
    assert diff(whole, moved).same_numbers
    assert leftovers(moved) == []
    (moved / "count" / "generations" / "00000.parquet").unlink()
    assert "count/generations/00000.parquet: missing" in Study(moved).verify()


def test_what_is_not_there_is_said_by_name(moved):
    count = Study(moved)["count"]
    assert [f"{site}@{position}" for site, position in count.sites()] == ["resid_post.1@last"]
    with pytest.raises(UserError, match=r"resid_post\.1@last of count are not here: they were left out .* packed"):
        count.activations("resid_post.1@last")


def test_a_later_run_keeps_every_step(moved):
    assert go(moved) == []


def test_what_needs_no_activations_is_remade_and_what_needs_them_is_refused(moved):
    alone = {"steps": [*STUDY["steps"][:1], {MEAN: {"add": 1.0}}]}
    fake_steps.RAN.clear()
    run_study(alone, moved, screen=Screen(terminal=False))
    assert fake_steps.RAN == ["Mean"]
    with pytest.raises(UserError, match=r"'sites' reads activations of count: they were left out .* --remake count"):
        go(moved, remake=["sites"])


class Transfer(Step):
    """Reads what another generation captured."""

    writes = ("table",)
    uses_model = False
    transfer_to: str = "count"

    def needs(self) -> Mapping[str, str]:
        return {"transfer_to.0": self.transfer_to}

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        fake_steps.RAN.append("Transfer")


def test_what_an_option_names_is_refused_at_planning_too(moved):
    fake_steps.RAN.clear()
    steps = [STUDY["steps"][0], {"tests.test_packing:Transfer": {}}]
    with pytest.raises(UserError, match=r"'transfer' reads activations of count: they were left out .* --remake count"):
        run_study({"steps": steps}, moved, screen=Screen(terminal=False))
    assert fake_steps.RAN == []


def test_made_again_they_are_there_again(moved, whole):
    assert set(go(moved, remake=["count", "more"])) == {"Count", "More"}
    again = Study(moved)
    assert not again["count"].left_out
    assert again["count"].activations("resid_post.1@last").at([0]).shape == (1, 3)
    assert go(moved, remake=["sites"]) == ["Sites"]
    assert diff(whole, moved).same_numbers


def test_a_packed_study_packs_again(moved, packed, tmp_path):
    again = pack(moved, tmp_path / "again.tar.zst")
    assert (again.left_out, again.left_out_bytes) == (packed.left_out, packed.left_out_bytes)
    out = unpack(again.path, tmp_path / "twice")
    assert content(out.path) == content(moved)


def test_the_commands(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["pack", str(whole)])
    assert said.exit_code == 0, said.output
    assert "of activations" in said.output
    assert "a step of your own" in said.output
    assert CliRunner().invoke(app, ["unpack", "study.tar.zst", "there"]).exit_code == 0
    assert CliRunner().invoke(app, ["show", "there", "--verify"]).exit_code == 0
    assert CliRunner().invoke(app, ["diff", str(whole), "there"]).exit_code == 0
    assert CliRunner().invoke(app, ["unpack", "study.tar.zst", "there"]).exit_code == 2
    assert CliRunner().invoke(app, ["unpack", "study.tar.zst", "x", "--most-gb", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["pack", "nowhere"]).exit_code == 2
