"""gnomon compare: two folders, no study file; what it prints, keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gnomon.cli import app
from gnomon.cli_show import describe
from gnomon.comparison import compare_folders, generation_in
from gnomon.store import Artifact
from tests.confidence_study import Sure, make

QUICK = ["draws=200", "permutations=199"]
NONE = ()


def call(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["compare", *args])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """base/generate and tuned/generate, each with passes self and other of the same names."""
    root = tmp_path_factory.mktemp("studies")
    make(root / "base", Sure(n=120, positions=NONE))
    make(root / "tuned", Sure(n=120, positions=NONE, drift=0.8, better=2.0, surer=1.5))
    return root


def test_it_prints_what_was_found_with_intervals(studies: Path):
    said = " ".join(call(str(studies / "base"), str(studies / "tuned"), *QUICK).stdout.split())
    assert "tuned/generate answers more of the questions right than base/generate" in said
    assert "stated confidence (self) rises" in said
    assert "No activations with one token a row were captured on both sides" in said
    assert "report.html" not in said


def test_a_step_folder_is_the_same_as_its_study(studies: Path):
    assert generation_in(studies / "base").path == generation_in(studies / "base" / "generate").path


@pytest.fixture(scope="module")
def said(studies: Path) -> dict:
    return json.loads(call(str(studies / "base"), str(studies / "tuned"), "--json", *QUICK).stdout)


def test_json_holds_the_tables(said: dict):
    accuracy = [r for r in said["comparison"] if r["metric"] == "accuracy" and r["side"] == "difference"]
    assert {r["control"] for r in accuracy} == {"", "swapped"}
    assert accuracy[0]["ci_low"] > 0
    assert {r["signal"] for r in said["comparison"]} >= {"self", "other", "max_prob"}
    assert said["findings"][0]["kind"] == "headline"


def test_both_sides_keep_their_own_passes_of_one_name(studies: Path, said: dict):
    told = {side: next(r["value"] for r in said["comparison"] if r["metric"] == "confidence" and r["signal"] == "self"
                       and r["side"] == side and r["rows"] == "all") for side in "ab"}  # fmt: skip
    for side, name in (("a", "base"), ("b", "tuned")):
        table = Artifact(studies / name / "self").table("confidence")
        assert told[side] == pytest.approx(table.loc[table["split"] == "test", "confidence"].mean())


def test_out_keeps_a_folder_that_show_reads(studies: Path, tmp_path: Path):
    out = tmp_path / "cmp"
    call(str(studies / "base"), str(studies / "tuned"), "--out", str(out), *QUICK)
    first = (out / "comparison.parquet").read_bytes()
    facts = describe(out)
    assert facts["step"] == "compare"
    assert any(f["kind"] == "headline" for f in facts["findings"])
    options = {"draws": 200, "permutations": 199}
    compare_folders(studies / "base", studies / "tuned", options, out)  # an earlier one is replaced
    assert (out / "comparison.parquet").read_bytes() == first


def test_out_never_replaces_other_things(studies: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    said = call(str(studies / "base"), str(studies / "tuned"), "--out", str(tmp_path), *QUICK, code=2)
    assert "holds other things" in said.output
    assert (tmp_path / "mine.txt").read_text() == "mine"
    said = call(str(studies / "base"), str(studies / "tuned"), "--out", str(studies / "base" / "self"), *QUICK, code=2)
    assert Artifact(studies / "base" / "self").meta["step"] == "confidence"


def test_mistakes_are_one_message(studies: Path, tmp_path: Path):
    base = str(studies / "base")
    assert "no study at" in call(str(tmp_path / "none"), base, code=2).output
    said = call(str(studies / "base" / "self"), base, code=2).output
    assert "holds no answers" in said
    assert "generate" in said
    assert "key=value" in call(base, str(studies / "tuned"), "rows", code=2).output
    assert "did you mean 'rows'" in call(base, str(studies / "tuned"), "row=all", code=2).output
    said = call(base, base, code=2).output
    assert "two generations" in said


def test_a_study_of_several_generations_is_asked_which(tmp_path: Path):
    make(tmp_path, Sure(n=60, positions=NONE), "one")
    make(tmp_path, Sure(n=60, positions=NONE), "two")
    said = call(str(tmp_path), str(tmp_path / "two"), code=2).output
    assert "2 generations" in said
    assert str(tmp_path / "one") in said.replace("\n", "")
    done = compare_folders(
        tmp_path / "one",
        tmp_path / "two",
        {"draws": 200, "permutations": 199},
        tmp_path / "out",
    )
    assert set(done.table("comparison")["signal"]) >= {"self", "other"}


def test_questions_that_differ_are_refused_or_counted(tmp_path: Path):
    make(tmp_path / "a", Sure(n=60, positions=NONE))
    make(tmp_path / "b", Sure(n=50, positions=NONE))
    said = call(str(tmp_path / "a"), str(tmp_path / "b"), *QUICK, code=2).output
    assert "do not hold the same questions" in said
    assert "10 questions missing in b/generate" in " ".join(said.split())
