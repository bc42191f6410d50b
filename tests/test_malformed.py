"""Malformed and hostile files of a study: each is one UserError that names the file; nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from gnomon.store import Artifact, Study
from tests.malformed_files import CANARY, CASES, Bomb, made


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """What came of each case, in a process of its own with little memory to spare."""
    root = tmp_path_factory.mktemp("malformed")
    here = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.malformed_files", str(root / "cases")], cwd=root, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here / "tests")])}, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-3000:]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_it_is_one_error_that_names_the_file(case: str, found):
    line = found[case]
    assert line["kind"] == "UserError", line["text"]
    assert line["wanted"] in line["text"]
    assert "Traceback" not in line["text"]
    assert not line["ran"], "something in the file was run"
    assert line["seconds"] < 15, "it took its time"


def test_there_are_enough_and_they_are_tried(found):
    assert len(CASES) >= 30
    assert set(found) == set(CASES)


def test_a_pickle_would_have_run(tmp_path: Path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / CANARY)))
    assert (tmp_path / CANARY).exists()


def test_the_study_reads_where_nothing_is_wrong(tmp_path: Path):
    artifact = Artifact(made(tmp_path / "study") / "generate")
    assert artifact.array("numbers").shape == (2, 3)
    assert artifact.activations("resid_post.1@last").at([4, 1])[:, 0].tolist() == [4, 1]
    assert artifact.activations("resid_post.1@all").row(5).shape == (2, 4)
    assert [d.name for d in artifact.directions()] == ["one", "two"]
    assert Study(tmp_path / "study").verify() == []


def test_a_folder_that_is_a_link_itself_is_read(tmp_path: Path):
    """Studies on another disk: the step's folder may be a link, only its files may not lead out of it."""
    study = made(tmp_path / "study")
    (study / "generate").rename(tmp_path / "big-disk")
    (study / "generate").symlink_to(tmp_path / "big-disk")
    artifact = Study(study)["generate"]
    assert artifact.table("counts")["n"].tolist() == [1, 2]
    assert artifact.activations("resid_post.1@last").at([3]).shape == (1, 4)


def test_a_stranger_s_step_is_not_called(tmp_path: Path, monkeypatch):
    """meta.json names a callable that is no step: the report makes its section of the tables alone."""
    from gnomon.report.sections import summarise

    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_module.py").write_text(f"def run(**options):\n    open({str(tmp_path / CANARY)!r}, 'w')\n")
    study = made(tmp_path / "study")
    file = study / "generate" / "meta.json"
    good = json.loads(file.read_text())
    for step in ("their_module:run", "os:system", "subprocess:Popen"):
        options = {"command": f"touch {tmp_path / CANARY}"} if step == "os:system" else {"args": ["touch", CANARY]}
        file.write_text(json.dumps(good | {"step": step, "options": options}))
        summary = summarise(Artifact(study / "generate"))
        assert "could not be made" in summary.reason
        assert summary.blocks
        assert not (tmp_path / CANARY).exists(), step


def test_looking_at_a_study_imports_no_module_that_it_names(tmp_path: Path):
    """Even one that is a step: importing it is running it. Once it is imported, its own section is made."""
    seen = f"open({str(tmp_path / CANARY)!r}, 'a').write('x')\n"
    step = "from gnomon.step import Step\nclass Mine(Step):\n    def summary(self, artifact):\n        return []\n"
    (tmp_path / "their_steps.py").write_text(seen + step)
    study = made(tmp_path / "study")
    file = study / "generate" / "meta.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step": "their_steps:Mine", "options": {}}))
    looks = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from gnomon.cli import app
sys.path.insert(0, ".")
for words in (["show", "study"], ["show", "study/generate"], ["report", "study"], ["diff", "study", "study"]):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
assert "no module that a folder names is imported" in Path("study/report.html").read_text()
assert "their_steps" not in sys.modules
import their_steps
from gnomon.report.sections import summarise
from gnomon.store import Artifact
assert summarise(Artifact("study/generate")).kind is their_steps.Mine
assert not summarise(Artifact("study/generate")).reason
"""
    here = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", looks], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(here)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / CANARY).read_text() == "x", "imported by the test alone"
