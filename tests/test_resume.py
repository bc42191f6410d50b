"""A run killed in the middle of generate goes on where it stopped, and gives the bytes of one that was not.

One of the long fault tests; more kills are in tests/test_faults_*.py, a few of them in make test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gnomon.store import Study
from tests.stepping import data_files
from tests.tiny import tiny_folder

pytestmark = pytest.mark.faults
RUN = "import sys, json; from gnomon.run import run_study; run_study(json.load(open(sys.argv[1])), sys.argv[2])"
HERE = Path(__file__).parent


def study(steps: list[dict[str, Any]], **top: Any) -> dict[str, Any]:
    return {"model": str(tiny_folder("llama")), "device": "cpu", "threads": 1, "steps": steps, **top}


def start(root: Path, content: dict[str, Any], out: Path) -> subprocess.Popen[str]:
    file = root / f"{out.name}.json"
    file.write_text(json.dumps(content))
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(file), str(out)], cwd=root, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    return said


def wait_for_markers(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    until = time.monotonic() + 240
    while len(list((folder / "_done").glob("*.json"))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no shard was finished"
        time.sleep(0.002)


GENERATE = {
    "task": "own_tasks:Letters", "n": 60, "samples": 2, "temperatures": [1.0], "max_new_tokens": 40, "shard_rows": 10,
    "batch_size": 4, "capture": {"sites": "resid_post.*", "positions": ["last", "all"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Study:
    """The study run without interruption."""
    root = tmp_path_factory.mktemp("whole")
    finish(start(root, study([{"generate": GENERATE}, {"capture": {"sites": "z.*"}}]), root / "out"))
    return Study(root / "out")


def test_a_killed_generation_resumes_to_the_same_bytes(whole, tmp_path):
    content, out = study([{"generate": GENERATE}, {"capture": {"sites": "z.*"}}]), tmp_path / "out"
    partial = out / ".generate.partial"
    process = start(tmp_path, content, out)
    wait_for_markers(process, partial, 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {p.name: p.stat().st_mtime_ns for p in (partial / "_done").glob("*.json")}
    assert 0 < len(finished) < 12, "the kill came too late to prove anything"
    assert not (out / "generate").exists()
    said = finish(start(tmp_path, content, out))
    assert f"{len(finished)} of 12 shards are there already" in said
    killed = Study(out)
    assert {n: (out / "generate" / "_done" / n).stat().st_mtime_ns for n in finished} == finished
    for step in ("generate", "capture"):
        assert data_files(killed[step]) == data_files(whole[step])
        assert len(data_files(killed[step])) > 50
    assert killed.verify() == []


def test_a_generation_by_two_workers_is_the_same_bytes(whole, tmp_path):
    content = study([{"generate": GENERATE}], executor={"local": {"workers": 2}})
    out = tmp_path / "out"
    process = start(tmp_path, content, out)
    wait_for_markers(process, out / ".generate.partial", 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start(tmp_path, content | {"executor": "local"}, out))
    assert data_files(Study(out)["generate"]) == data_files(whole["generate"])
