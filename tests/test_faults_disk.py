"""Full disks, read-only folders, failing calls and damaged files: refused or mended by name, finished work intact."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gnomon.store import Study
from tests.faults_calls import Strike
from tests.faults_life import ROOT, Ordeal, leftovers, prepared, reference, same
from tests.faults_study import STEPS, cut
from tests.stepping import data_files
from tests.tiny import tiny_folder

pytestmark = pytest.mark.faults
SMALL_DISK = """
import json, os, sys, threading, time
from pathlib import Path
from gnomon.errors import UserError
from gnomon.run import run_study
from gnomon.store import Study
from tests.stepping import data_files

content, disk, when = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3])
out, ballast = disk / "out", disk / "ballast"
said, kept = [], {}


def marks():
    found = {str(p): p.stat().st_mtime_ns for p in out.rglob("_done/0*.json")}
    return {name.replace("/.generate.partial/", "/generate/"): stamp for name, stamp in found.items()}


def fill():
    while len(list(out.rglob("_done/0*.json"))) < when:
        time.sleep(0.001)
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


filling = threading.Thread(target=fill)
filling.start()
if not when:
    filling.join()
for turn in range(2):
    try:
        run_study(content, out, log_level="error")
        said.append("finished")
    except UserError as error:
        said.append(str(error))
    now = marks()
    assert all(now.get(name) == stamp for name, stamp in kept.items()), "a finished shard was touched"
    kept = now
    said.append(len(now))
    filling.join()
    ballast.unlink(missing_ok=True)
print(json.dumps({"said": said, "files": data_files(Study(out)["generate"]), "verify": Study(out).verify()}))
"""


def fenced(tmp_path: Path, *walls: str, script: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a script in bubblewrap, which can mount what only it sees."""
    bwrap = shutil.which("bwrap")
    assert bwrap, "bubblewrap is needed: .ci/run installs it"
    file = tmp_path / "script.py"
    file.write_text(script)
    return subprocess.run(
        [bwrap, "--dev-bind", "/", "/", *walls, "--chdir", str(ROOT), "--setenv", "PYTHONPATH", str(ROOT),
         "--setenv", "OMP_NUM_THREADS", "1", sys.executable, str(file), *arguments],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("when", [0, 1, 8])
def test_a_disk_that_is_full_or_fills_up(tmp_path: Path, when: int):
    """A tmpfs that another program fills after `when` shards: the run says so; with space again it ends alike."""
    content, whole, _ = reference()
    disk, file = tmp_path / "disk", tmp_path / "study.json"
    disk.mkdir()
    file.write_text(json.dumps(cut(content, "generate")))
    done = fenced(tmp_path, "--size", str(16 * 2**20), "--tmpfs", str(disk), script=SMALL_DISK,
                  arguments=[str(file), str(disk), str(when)])  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    first, shards, second, every = found["said"]
    assert str(disk) in first
    if when:
        assert "No space left on device" in first
        assert "finished shards are kept" in first
    else:
        assert "the study will write" in first
    assert (second, every) == ("finished", 15)
    assert when <= shards < every
    assert found["files"] == data_files(whole["generate"])
    assert found["verify"] == []


READ_ONLY = """
import json, sys
from pathlib import Path
from gnomon.errors import UserError
from gnomon.run import run_study

try:
    run_study(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3:], log_level="error")
except UserError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("stands", ["nothing", "a study"])
def test_a_read_only_folder_is_refused_by_name(tmp_path: Path, stands: str):
    content, whole, _ = reference()
    ordeal = Ordeal(tmp_path / "a", cut(content, "capture"))
    if stands == "nothing":
        ordeal.out.mkdir()
    else:
        ordeal = prepared(tmp_path / "b", whole, content, "capture")
    before = {str(p): p.stat().st_mtime_ns for p in ordeal.out.rglob("*")}
    done = fenced(tmp_path, "--ro-bind", str(ordeal.out), str(ordeal.out), script=READ_ONLY,
                  arguments=[str(ordeal.file), str(ordeal.out)])  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert str(ordeal.out) in said
    assert "Read-only file system" in said
    assert {str(p): p.stat().st_mtime_ns for p in ordeal.out.rglob("*")} == before
    ordeal.finish(whole)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("number", "on"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)], ids=["full", "quota", "io"]
)
def test_a_call_that_fails_is_a_users_error_and_costs_nothing_finished(
    tmp_path: Path, step: str, number: int, on: bool
):
    """Errors at calls that make, sync and rename the files of a step, all over it; `on`: each one after too."""
    content, whole, _ = reference()
    counted = prepared(tmp_path / "counted", whole, content, step)
    life = counted.start(count=True)
    assert life.end() == 0, life.text()
    calls = [event for event in life.events() if event["event"] == "call"]
    draw = random.Random(f"{step} {number}")
    commit = next(call for call in calls if call["call"] == "replace" and call["path"] == step)
    ordeal = prepared(tmp_path / "a", whole, content, step)
    for call in [*draw.sample(calls, 3), commit]:
        life = ordeal.start(Strike(call["call"], call["nth"], number, on=on))
        assert life.end() in (0, 2), f"{call}\n{life.text()}"
        ordeal.look(life)
        if life.process.exitcode == 2:
            assert any(event["event"] == "strike" for event in life.events())
            assert "error: " in life.text()
            assert "Traceback" not in life.text()
            assert "cannot write" in life.text() or "cannot be" in life.text() or "run.log" in life.text()
    ordeal.finish(whole)


def standing(tmp_path: Path, last: str = "capture") -> tuple[Ordeal, Study]:
    """A finished study up to `last`, and the reference."""
    content, whole, _ = reference()
    ordeal = prepared(tmp_path / "a", whole, content, last)
    life = ordeal.start()
    assert life.end() == 0, life.text()
    return ordeal, whole


def times(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.glob("*/**/*") if p.is_file()}


DAMAGED = "activations/resid_post.1@all/00004.npy"


@pytest.mark.parametrize("how", ["truncated", "missing", "flipped"])
def test_a_damaged_shard_is_named_and_alone_made_anew(tmp_path: Path, how: str):
    ordeal, whole = standing(tmp_path)
    path = ordeal.out / "generate" / DAMAGED
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-100])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    before = times(ordeal.out)
    life = ordeal.start(verify=how == "flipped")
    assert life.end() == 0, life.text()
    assert DAMAGED in life.text()
    begun = [(e["step"], e["index"]) for e in life.events() if e["event"] == "shard"]
    assert begun == [("generate", 4)]
    after = times(ordeal.out)
    shards = {name for name in before if name.split("/")[-1][:5].isdigit()}
    own = {f"generate/{name}" for name in Study(ordeal.out)["generate"].meta["files"] if name.endswith("/00004.npy")}
    own |= {"generate/_done/00004.json", "generate/generations/00004.parquet", f"generate/{DAMAGED}"}
    assert {name for name in shards - own if before[name] != after.get(name)} == set()
    for name in ("generate", "capture"):
        same(Study(ordeal.out)[name], whole[name])
    assert Study(ordeal.out).verify() == []
    assert leftovers(ordeal.out) == []


def test_a_changed_option_makes_new_what_it_touches_and_its_return_brings_back_the_old(tmp_path: Path):
    ordeal, whole = standing(tmp_path)
    first = {name: stamp for name, stamp in times(ordeal.out).items() if name.startswith("capture")}
    ordeal.file.write_text(json.dumps(ordeal.content | {"steps": [
        ordeal.content["steps"][0], {"capture": {"sites": "attn_out.*", "positions": ["all"]}}]}))  # fmt: skip
    changed = ordeal.start()
    assert changed.wait("capture", 5)
    changed.process.kill()
    changed.end()
    ordeal.file.write_text(json.dumps(ordeal.content))
    life = ordeal.start()
    assert life.end() == 0, life.text()
    assert [e for e in life.events() if e["event"] == "shard"] == []
    now = {name: stamp for name, stamp in times(ordeal.out).items() if name.startswith("capture")}
    assert now == first
    same(Study(ordeal.out)["capture"], whole["capture"])


def test_a_changed_model_and_a_vanished_one(tmp_path: Path):
    """Other weights under the same name are another model; none at all is said by name, and nothing is touched."""
    content, whole, _ = reference()
    model = tmp_path / "model"
    shutil.copytree(content["model"], model)
    ordeal = Ordeal(tmp_path / "a", cut(content, "generate") | {"model": str(model)})
    life = ordeal.start()
    assert life.end() == 0, life.text()
    same(Study(ordeal.out)["generate"], whole["generate"])
    first = times(ordeal.out)
    shutil.rmtree(model)
    life = ordeal.start()
    assert life.end() == 2, life.text()
    assert str(model) in life.text()
    assert times(ordeal.out) == first
    shutil.copytree(tiny_folder("llama", seed=1), model)
    life = ordeal.start()
    assert life.end() == 0, life.text()
    assert sum(e["event"] == "shard" for e in life.events()) == 15
    made = data_files(Study(ordeal.out)["generate"])
    assert made != data_files(whole["generate"])
    old = list((ordeal.out / ".old").glob("generate-*"))
    assert len(old) == 1
    assert data_files(Study(ordeal.out / ".old")[old[0].name]) == data_files(whole["generate"])


def test_a_vanished_input_is_made_anew_and_its_followers_are_kept(tmp_path: Path):
    ordeal, whole = standing(tmp_path)
    before = {name: stamp for name, stamp in times(ordeal.out).items() if name.startswith("capture")}
    shutil.rmtree(ordeal.out / "generate")
    life = ordeal.start()
    assert life.end() == 0, life.text()
    assert {e["step"] for e in life.events() if e["event"] == "shard"} == {"generate"}
    assert {name: stamp for name, stamp in times(ordeal.out).items() if name.startswith("capture")} == before
    for name in ("generate", "capture"):
        same(Study(ordeal.out)[name], whole[name])
