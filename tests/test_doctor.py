"""gnomon doctor: every line says what was found; what is broken is named, and only that makes it exit 1."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gnomon import calibration, doctor, installed
from gnomon.cli import app
from gnomon.errors import UserError
from gnomon.models.tried import tiny_model, tried
from gnomon.tasks import sandbox


def one(findings: Any) -> doctor.Finding:
    (found,) = findings
    return found


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch):
    """No real model: the tiny one stands for it, as on a machine that has not fetched one."""
    monkeypatch.setattr("gnomon.models.gguf.embedded_at", lambda name: None)


def test_everything_is_looked_at_and_this_machine_is_fit(tmp_path: Path, light: None):
    findings = {f.name: f for f in doctor.examine(tmp_path)}
    assert {"python", "gnomon", "versions", "torch", "device", "cores", "memory", "disk", "cache", "sandbox", "model",
            "forward", "browser"} <= set(findings) | {"device"}  # fmt: skip
    assert [f for f in findings.values() if f.state == "bad"] == []
    assert all(f.do for f in findings.values() if f.state != "ok")
    assert "/s written and synced" in findings["disk"].found
    assert "flock holds" in findings["disk"].found
    assert "a tiny random model on" in findings["forward"].found
    assert findings["model"].state == "warn"
    assert not list(tmp_path.iterdir())


def test_the_command_says_it_in_lines_and_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = CliRunner().invoke(app, ["doctor", str(tmp_path), "--quick"])
    assert said.exit_code == 0, said.output
    assert "ok    python" in said.stdout
    assert "0 broken" in said.stdout
    assert "forward" not in said.stdout
    assert "written and synced" not in said.stdout
    monkeypatch.setattr(doctor, "python", lambda: iter([doctor.Finding("python", "bad", "3.9", "install another")]))
    said = CliRunner().invoke(app, ["doctor", str(tmp_path), "--quick", "--json"])
    assert said.exit_code == 1
    facts = json.loads(said.stdout)
    assert not facts["ok"]
    assert facts["findings"][0] == {"name": "python", "state": "bad", "found": "3.9", "do": "install another"}


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed: importing it fails
    findings = {f.name: f for f in doctor.examine(tmp_path, quick=True)}
    assert findings["torch"].state == "bad"
    assert "cannot be imported" in findings["torch"].found
    assert findings["devices"].state == "bad"
    assert findings["python"].state == "ok"
    assert findings["disk"].state == "ok"


def test_an_old_python_is_broken(monkeypatch: pytest.MonkeyPatch):
    assert one(doctor.python()).state == "ok"
    monkeypatch.setattr(doctor, "OLDEST", (4, 0))
    assert one(doctor.python()).state == "bad"


def test_packages_are_compared_with_what_gnomon_asks_for_and_was_tested_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = ["numpy>=99", "absent-thing>=1", "scipy>=1.13", "peft>=0.17; extra == 'peft'",
             "pandas>=99; sys_platform == 'nowhere'"]  # fmt: skip
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    assert dict(installed.required("")) == {"numpy>=99": False, "absent-thing>=1": False, "scipy>=1.13": True}
    assert list(dict(installed.required("peft"))) == ["peft>=0.17"]
    first, second = doctor.packages()
    assert (first.state, "lacks numpy>=99, absent-thing>=1" in first.found) == ("bad", True)
    assert "'absent-thing>=1'" in first.do
    assert second.state == "ok"
    pinned = tmp_path / "constraints.txt"
    pinned.write_text("# tested\nSciPy==0.1  # old\nnumpy==" + metadata.version("numpy") + "\npeft==0.0\n")
    assert list(installed.differing(pinned)) == [f"scipy {metadata.version('scipy')}, not 0.1"]


def test_an_extra_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "names_of_extras", lambda: {"dev", "rays", "peft"})
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["absent-thing>=1; extra == 'rays'", "numpy; extra == 'peft'"]
    )
    peft, rays = doctor.extras()
    assert (peft.state, rays.state) == ("ok", "ok")
    assert "numpy" in peft.found
    assert "pip install 'gnomon[rays]'" in rays.found


def test_a_disk_that_is_full_slow_or_not_to_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert one(doctor.disk("disk", tmp_path / "not" / "yet", False)).state == "ok"
    monkeypatch.setattr(calibration, "write_speed", lambda place: 1e6)
    assert "local disk" in one(doctor.disk("disk", tmp_path, False)).do
    assert one(doctor.disk("disk", tmp_path, True)).state == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9))
    assert "free some space" in one(doctor.disk("disk", tmp_path, True)).do
    monkeypatch.setattr(doctor, "locks", lambda place: False)
    assert "flock does not hold" in one(doctor.disk("disk", tmp_path, True)).found

    def refused(place: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor, "locks", refused)
    assert one(doctor.disk("disk", tmp_path, True)).state == "bad"


def test_flock_is_tried_with_two_holders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import fcntl

    assert doctor.locks(tmp_path)
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)  # a network disk that lets everybody in
    assert not doctor.locks(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("level", "state"), [("bwrap+kernel", "ok"), ("kernel", "warn"), ("", "warn")])
def test_the_level_of_the_sandbox_is_told(monkeypatch: pytest.MonkeyPatch, level: str, state: str):
    class Fence:
        closed = False

        @property
        def level(self) -> str:
            if not level:
                raise UserError("no sandbox: this kernel has no Landlock", "", "install bubblewrap")
            return level

        def close(self) -> None:
            Fence.closed = True

    monkeypatch.setattr(sandbox, "Sandbox", Fence)
    found = one(doctor.sandbox(quick=False))
    assert (found.state, Fence.closed) == (state, True)
    assert bool(found.do) == (state == "warn")
    assert level in found.found or "Landlock" in found.found


def test_cores_memory_and_devices_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "512")
    assert "OMP_NUM_THREADS" in one(doctor.cores()).do
    monkeypatch.setattr(doctor.machine, "free_memory", lambda: 10**9)
    assert one(doctor.memory()).state == "warn"
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cuda, "mem_get_info", lambda i: (10**9, 8 * 10**9) if i else (7 * 10**9, 8 * 10**9))
    monkeypatch.setattr(cuda, "get_device_properties", lambda i: SimpleNamespace(name="X1", major=9, minor=0))
    monkeypatch.setattr(cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    first, second = doctor.devices()
    assert (first.name, first.state, first.found) == ("cuda:0", "ok", "X1, 7.0 GB of 8.0 GB free")
    assert second.state == "warn"
    monkeypatch.setattr(cuda, "get_arch_list", lambda: ["sm_70", "sm_120"])
    assert next(doctor.devices()).state == "bad"


def test_a_forward_that_computes_something_else_is_broken(light: None, monkeypatch: pytest.MonkeyPatch):
    assert one(doctor.forward()).state == "ok"
    model = tiny_model()
    speed, off = tried(model)
    assert speed > 0
    assert off < 1e-5
    whole = model.forward

    def shifted(*given: Any, **options: Any) -> Any:
        out = whole(*given, **options)
        out.logits = out.logits.roll(1, 0)
        return out

    monkeypatch.setattr(model, "forward", shifted)
    monkeypatch.setattr("gnomon.models.tried.tiny_model", lambda device: model)
    found = one(doctor.forward())
    assert found.state == "bad"
    assert "off by" in found.found
