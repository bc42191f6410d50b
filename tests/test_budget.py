"""Plans before work: what a step needs of memory and disk, how long it takes, what is refused, and with what advice."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from gnomon import budget, calibration, machine, needs, timing, trial
from gnomon import planned as planned_module
from gnomon.cli import app
from gnomon.config import load
from gnomon.console import Screen
from gnomon.errors import UserError
from gnomon.plan import plan_study
from gnomon.planned import Plan
from gnomon.run import run_study
from gnomon.step import ModelSpec
from gnomon.store import Artifact, Study
from tests.tiny import tiny_folder

PREFIX = "tests.fake_steps:"
BASIC: dict[str, Any] = {"steps": [{PREFIX + "Count": {"n": 12, "width": 3}}, *(PREFIX + n for n in ("Mean", "More"))]}
EVERYTHING = {"sites": ["resid_post.*", "z.1"], "positions": ["last", "all"]}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GNOMON_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def plan(out: Path, study: Any = BASIC, *overrides: str) -> Plan:
    return plan_study(load(study, overrides), out)


def go(out: Path, study: Any = BASIC, *overrides: str) -> Study:
    return run_study(study, out, overrides, screen=Screen(terminal=False))


def refused(out: Path, study: Any = BASIC, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        budget.refuse(plan(out, study, *overrides))
    return str(caught.value)


def generating(n: int = 40, family: str = "llama", **options: Any) -> dict[str, Any]:
    """A study of a tiny model: a generation that keeps all tokens, and a capture of the same rows."""
    options = {
        "task": "own_tasks:Letters",
        "n": n,
        "max_new_tokens": 12,
        "batch_size": 8,
        "shard_rows": 10,
        "capture": EVERYTHING,
    } | options
    capture = {"capture": {"sites": ["mlp_out.*"], "positions": ["all"]}}
    return {"model": str(tiny_folder(family)), "device": "cpu", "threads": 1, "steps": [{"generate": options}, capture]}


def cells(planned: Plan, name: str) -> dict[str, str]:
    """A step's line of the plan, by column."""
    line = next(line for line in budget.rows(planned) if line[0] == name)
    return dict(zip(budget.COLUMNS, line, strict=True))


# ---------------------------------------------------------------- what is shown


def test_a_plan_writes_nothing_and_says_what_it_costs(tmp_path: Path):
    planned = plan(tmp_path / "s")
    assert [row[:3] for row in budget.rows(planned)[:2]] == [("count", "make", "12"), ("mean", "make", "")]
    assert cells(planned, "count") | {"tokens": "60", "time": "unknown", "GPU": "", "RAM": "150 MB"} == cells(
        planned, "count"
    )
    assert "3 of 3 steps to make" in budget.rows(planned)[-1][-1]
    assert any("mean: with 4 rows in test" in note for note in budget.notes(planned))
    assert not (tmp_path / "s").exists()
    go(tmp_path / "s")
    later = plan(tmp_path / "s", BASIC, "count.n=24")
    seconds = Artifact(tmp_path / "s" / "count").meta["seconds"]
    found = timing.estimates(later)["count"]
    assert (found.seconds, found.by, found.tokens) == (pytest.approx(2 * seconds), timing.EARLIER, 120)
    assert "no earlier run" in budget.rows(later)[-1][-1]
    assert budget.rows(plan(tmp_path / "s"))[-1][-1] == "0 of 3 steps to make"


def test_a_device_has_a_column_of_its_own_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "GPU" not in budget.shown(plan(tmp_path, generating()))[1]
    monkeypatch.setattr(needs, "accelerators", lambda device: 1)
    lines, columns = budget.shown(plan(tmp_path, generating()))
    assert columns == budget.COLUMNS
    assert {len(line) for line in lines} == {len(columns)}


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(("workers", "devices", "ram", "gpu"), [
    (1, 0, (1, 1, 1), (0, 0)), (3, 0, (4, 3, 3), (0, 0)), (1, 1, (1, 1, 0), (1, 1)), (4, 4, (5, 4, 0), (1, 1)),
    (8, 4, (9, 8, 0), (2, 2)), (5, 4, (6, 5, 0), (2, 2)),
])  # fmt: skip
def test_memory_counts_the_driver_and_every_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, devices: int, ram: tuple[int, ...],
    gpu: tuple[int, ...],
):  # fmt: skip
    """ram = (processes, models, working sets), gpu = (models, working sets) of the fullest device."""
    monkeypatch.setattr(needs, "accelerators", lambda device: devices)
    planned = plan(tmp_path, generating(), f"executor={{local: {{workers: {workers}}}}}")
    step = planned.steps[0]
    model, own = step.spec.facts()["memory_bytes"], step.node.cost.memory_bytes
    assert own > 0.2 * model  # else the law would not see it
    found = needs.needs(planned, step)
    loading = int(needs.LOADING * model)
    held = max(loading, model + own) if ram[2] else loading
    assert found.ram == ram[0] * needs.PROCESS + ram[1] * held
    assert found.gpu == gpu[0] * model + gpu[1] * own
    assert found.workers == workers


@pytest.mark.parametrize(("devices", "most", "on_gpu", "in_ram"), [
    (4, {}, 0.25, 0.0), (2, {}, 0.5, 0.0), (0, {}, 0.0, 1.0), (0, {"cpu": 0.4}, 0.0, 0.4),
    (2, {0: 0.3, 1: 0.2}, 0.3, 0.0), (2, {0: 0.3, 1: 0.2, "cpu": 0.4}, 0.3, 0.4),
    (2, {0: 0.3, 1: 0.2, "cpu": 0.6}, 0.3, 0.5),
])  # fmt: skip
def test_a_model_that_is_spread_takes_what_each_place_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, most: dict[Any, float], on_gpu: float, in_ram: float
):
    """Shares of the model on the fullest device and in main memory; what is over lies on the disk."""
    monkeypatch.setattr(needs, "accelerators", lambda device: devices)
    planned = plan(tmp_path, generating() | {"device": "auto"})
    step = planned.steps[0]
    model, own = step.spec.facts()["memory_bytes"], step.node.cost.memory_bytes
    places = tuple((name, int(share * model)) for name, share in most.items())
    step.spec = replace(step.spec, device_map="auto", max_memory=places)
    found = needs.needs(planned, step)
    assert found.gpu == pytest.approx(on_gpu * model + own if devices else 0, abs=2)
    assert found.ram == pytest.approx(needs.PROCESS + in_ram * model + (0 if devices else own), abs=2)


def test_a_step_without_the_model_needs_no_torch(tmp_path: Path):
    planned = plan(tmp_path)
    assert needs.needs(planned, planned.steps[0]).ram == needs.PLAIN + planned.steps[0].node.cost.memory_bytes


@pytest.mark.parametrize("kind", ["ram_gb", "gpu_gb"])
def test_what_is_advised_against_too_much_memory_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(needs, "accelerators", lambda device: int(kind == "gpu_gb"))
    study = generating(batch_size=512, n=60)
    whole = needs.needs(plan(tmp_path, study), plan(tmp_path, study).steps[0])
    most = (whole.ram if kind == "ram_gb" else whole.gpu) * 1e-9
    weights = plan(tmp_path, study).steps[0].spec.facts()["memory_bytes"] * 1e-9
    base = needs.PROCESS * 1e-9 if kind == "ram_gb" else weights
    limit = f"limits.{kind}={base + (most - base) * 0.3}"
    said = refused(tmp_path, study, limit)
    assert "step 'generate' with" in said
    assert "needs" in said
    found = re.search(r"(generate\.batch_size=\d+) would need ([\d.]+ [kMG]B)", said)
    assert found, said
    budget.refuse(plan(tmp_path, study, limit, found[1]))
    doubled = found[1].replace(found[1].rpartition("=")[2], str(2 * int(found[1].rpartition("=")[2])))
    assert "generate" in refused(tmp_path, study, limit, doubled)  # the largest that fits was named


def test_where_no_single_change_is_enough_the_best_is_named(tmp_path: Path):
    said = refused(tmp_path, generating(), "limits.ram_gb=0.001")
    assert "no single change is enough" in said
    assert "the most is saved by generate.batch_size=1, which would need 57" in said


def test_what_is_free_counts_unless_a_limit_says_how_much_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budget, "free_memory", lambda: 100_000_000)
    said = refused(tmp_path, generating())
    assert "100 MB are free here" in said
    assert "limits.ram_gb" in said
    budget.refuse(plan(tmp_path, generating(), "limits.ram_gb=2"))
    monkeypatch.setattr(needs, "accelerators", lambda device: 1)
    monkeypatch.setattr(budget, "free_device_memory", lambda device: 1000)
    assert "1.0 kB are free on it" in refused(tmp_path, generating(), "limits.ram_gb=2")
    budget.refuse(plan(tmp_path, generating(), "limits.ram_gb=2", "limits.gpu_gb=2"))


def test_free_memory_is_less_than_all_of_it():
    free = machine.free_memory()
    assert free is not None
    assert 0 < free < 1.05 * machine.memory_bytes()


def test_limits_and_the_machine_itself_refuse_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "1.2 kB of disk; limits allow 1e-07 GB" in refused(tmp_path, BASIC, "limits.disk_gb=1e-7")
    assert "memory (step 'count')" in refused(tmp_path, BASIC, "limits.ram_gb=1e-7")
    monkeypatch.setattr(budget, "memory_bytes", lambda: 10)
    assert "this machine has 10 B" in refused(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    assert "has 5 B left" in refused(tmp_path)
    monkeypatch.undo()
    go(tmp_path / "a")
    meta = tmp_path / "a" / "count" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"seconds": 600}))
    said = refused(tmp_path / "a", BASIC, "count.n=24", "limits.minutes=1")
    assert "limits.minutes is 1; raise the limit or lower n; step 'count' takes 20 min 0 s" in said


def test_the_model_must_fit_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    facts = {"fingerprint": "x", "parameters": 10**15, "memory_bytes": 4 * 10**15}
    monkeypatch.setattr(ModelSpec, "facts", lambda self: facts)
    said = refused(tmp_path / "s", {"model": "huge", "steps": [PREFIX + "Asks"]})
    assert re.search(r"step 'asks' needs about 4\d+.0 TB of memory with huge in float32", said)


def test_the_old_name_of_the_memory_limit_is_explained():
    with pytest.raises(UserError, match=r"memory_gb is now two limits; ram_gb .* gpu_gb .*; write ram_gb: 3"):
        load(BASIC, ["limits.memory_gb=3"])
    assert load(BASIC | {"limits": {"memory_gb": None, "disk_gb": 2}}).study.limits.disk_gb == 2  # a saved study


# ---------------------------------------------------------------- disk


def test_what_is_advised_against_too_much_disk_is_enough(tmp_path: Path):
    study = generating()
    limit = f"limits.disk_gb={0.75 * sum(p.node.cost.disk_bytes for p in plan(tmp_path, study).steps) * 1e-9}"
    said = refused(tmp_path, study, limit)
    assert "most is step 'generate'" in said
    assert "generate.capture.positions without all" in said
    for change in ("generate.capture.dtype=float16", "generate.n=20"):
        assert f"{change} would need" in said
        budget.refuse(plan(tmp_path, study, limit, change))
    sites = re.search(r"generate\.capture\.sites of (\d) \((\S+), ...\)", said)
    assert sites, said
    assert "batch_size" not in said  # it changes nothing on disk


def test_what_a_stopped_run_wrote_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    planned = plan(tmp_path)
    wanted = sum(p.node.cost.disk_bytes for p in planned.steps)
    own = planned.steps[0].node.cost.disk_bytes
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda _: SimpleNamespace(free=wanted - own // 2))
    with pytest.raises(UserError, match="left"):
        budget.refuse(planned)
    folder = tmp_path / ".count.partial"
    folder.mkdir()
    (folder / "fingerprint").write_text(planned.steps[0].fingerprint)
    (folder / "shard").write_bytes(bytes(own))
    planned.steps[0].action = planned_module.RESUME
    budget.refuse(planned)


# ---------------------------------------------------------------- time


def kept(planned: Plan, **found: Any) -> None:
    """Put a calibration's findings where plans look for them."""
    spec = planned.steps[0].spec
    path = calibration.kept_in(spec, timing.threads(planned))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def test_a_calibration_gives_time_by_tokens_and_bytes(tmp_path: Path):
    planned = plan(tmp_path, generating())
    assert timing.estimates(planned)["generate"].seconds is None
    kept(planned, load=3.0, write=1e6, shapes={"8x32": {"prefill": 1000.0, "decode": 50.0}, "99x512": {"prefill": 1}})
    generate, capture = (p.node.cost for p in planned.steps)
    times = timing.estimates(planned)
    whole = generate.prompt_tokens / 1000 + generate.new_tokens / 50 + generate.disk_bytes / 1e6
    assert times["generate"].seconds == pytest.approx(3.0 + whole)
    assert times["capture"].seconds == pytest.approx(capture.forward_tokens / 1000 + capture.disk_bytes / 1e6)
    assert times["generate"].by == timing.CALIBRATED
    assert cells(planned, "generate")["time"].startswith("~")
    said = "\n".join(budget.standing(planned))
    assert "by a calibration on this machine (1 worker of 1 thread" in said
    assert "1,000 tokens/s of prompts in batches of 8 x 32, 50 tokens/s written, 1.0 MB/s to disk" in said
    assert "limits.minutes" in refused(tmp_path, generating(), "limits.minutes=0.001")
    two = plan(tmp_path, generating(), "executor={local: {workers: 2}}")
    load, write = 3.0, generate.disk_bytes / 1e6
    assert timing.estimates(two)["generate"].seconds == pytest.approx(load + (whole - write) / 2 + write)


def test_a_generation_that_was_tried_tells_its_time_and_how_long_answers_are(tmp_path: Path):
    planned = plan(tmp_path, generating())
    generate, capture = planned.steps
    new = generate.node.cost.new_tokens
    trial = {"seconds": 2.0, "rows": 8, "of": 40, "new_tokens": new // 40}  # 8 of 40 rows: an eighth of the longest
    kept(planned, shapes={"8x32": {"prefill": 1000.0, "decode": 50.0}}, trials={generate.fingerprint: trial})
    times = timing.estimates(planned)
    assert times["generate"].seconds == pytest.approx(10.0)
    tokens = generate.node.cost.prompt_tokens + new / 8
    assert times["capture"].tokens == pytest.approx(tokens, abs=1)
    assert capture.node.cost.forward_tokens > 1.2 * tokens


def test_how_long_answers_are_is_read_from_a_finished_generation(tmp_path: Path):
    go(tmp_path, generating() | {"steps": generating()["steps"][:1]})
    planned = plan(tmp_path, generating())
    assert [p.action for p in planned.steps] == ["keep", "make"]
    kept(planned, shapes={"8x32": {"prefill": 1000.0, "decode": 50.0}})
    table = Study(tmp_path)["generate"].table("totals")
    totals = dict(zip(table["name"], table["value"], strict=True))
    assert 0 < totals["response_tokens"] < planned.steps[0].node.cost.new_tokens  # some answers ended early
    wanted = totals["prompt_tokens"] + totals["response_tokens"]
    assert timing.estimates(planned)["capture"].tokens == pytest.approx(wanted, abs=1)


def test_a_folder_set_aside_that_cannot_be_read_tells_no_time(tmp_path: Path):
    (tmp_path / ".old" / "count-x").mkdir(parents=True)
    (tmp_path / ".old" / "count-x" / "meta.json").write_text("{")
    assert timing.estimates(plan(tmp_path))["count"].seconds is None


def test_an_earlier_run_goes_before_a_calibration(tmp_path: Path):
    go(tmp_path, generating(n=10))
    planned = plan(tmp_path, generating(n=20))
    kept(planned, shapes={"8x32": {"prefill": 1e-3, "decode": 1e-3}})
    found = timing.estimates(planned)["generate"]
    assert found.by == timing.EARLIER
    seconds, cost = (Study(tmp_path)["generate"].meta[key] for key in ("seconds", "cost"))
    assert found.seconds == pytest.approx(seconds * planned.steps[0].node.cost.forward_tokens / cost["forward_tokens"])
    assert timing.jobs(planned) == []


# ---------------------------------------------------------------- the calibration itself


def job_of(tmp_path: Path, family: str = "llama", **options: Any) -> calibration.Job:
    (job,) = timing.jobs(plan(tmp_path / "study", generating(family=family, **options)))
    return job


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_everything_is_measured_and_then_known(tmp_path: Path, family: str):
    job = job_of(tmp_path, family)
    assert (job.batch, job.length, job.step) == (8, 32, "generate")
    found: dict[str, Any] = {}
    calibration.findings(job, time.time() + 9e9, lambda part: calibration.join(found, part))
    (trial,) = found["trials"].values()
    assert trial["of"] == 40
    assert trial["rows"] == 40  # the time is not up before all batches were tried
    assert trial["seconds"] > 0
    assert 0 < trial["new_tokens"] <= trial["rows"] * 12
    (shape,) = found["shapes"].values()
    assert min(found["load"], found["write"], shape["prefill"], shape["decode"]) > 0
    assert not (tmp_path / "study").exists()
    assert not list(tmp_path.glob("*tmp*"))


def test_little_time_measures_the_model_alone(tmp_path: Path):
    found: dict[str, Any] = {}
    calibration.findings(job_of(tmp_path), time.time(), lambda part: calibration.join(found, part))
    assert set(found) == {"load", "shapes", "write"}
    assert "decode" not in found["shapes"]["8x32"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The process that measures runs in this one and finds set numbers at once; the folders that it was given."""
    scratch: list[str] = []

    def run(command: list[str], input: str, env: dict[str, str], **_: Any) -> Any:
        said = io.StringIO()
        (Path(env["TMPDIR"]) / "left").write_text("by one that was killed")
        scratch.append(env["TMPDIR"])
        with monkeypatch.context() as patch, contextlib.redirect_stdout(said):
            patch.setattr(sys, "stdin", io.StringIO(input))
            calibration.main()
        return SimpleNamespace(stdout=said.getvalue(), stderr="", returncode=0)

    def findings(job: calibration.Job, until: float, say: Any) -> None:
        say({"shapes": {job.shape: {"prefill": 100.0 * job.threads, "decode": 10.0, "busy": False}}})
        say({"trials": {job.fingerprint: {"seconds": 2.0, "rows": 8, "of": 16, "new_tokens": 9}}})

    monkeypatch.setattr(calibration.subprocess, "run", run)
    monkeypatch.setattr(calibration, "findings", findings)
    return scratch


def test_what_was_found_is_kept_and_not_measured_again(tmp_path: Path, here: list[str]):
    study = generating(n=16)
    (job,) = timing.jobs(plan(tmp_path / "study", study))
    assert calibration.measure(job) == ""
    planned = plan(tmp_path / "study", study)
    assert timing.jobs(planned) == []
    assert timing.estimates(planned)["generate"].seconds == pytest.approx(4.0)
    assert not Path(here[0]).exists()


def test_what_could_not_be_measured_is_left_alone_for_an_hour(
    tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch
):
    def busy(job: calibration.Job, until: float, say: Any) -> None:
        say({"shapes": {job.shape: {"prefill": 100.0, "busy": True}}})

    monkeypatch.setattr(calibration, "findings", busy)
    planned = plan(tmp_path / "study", generating())
    (job,) = timing.jobs(planned)
    assert calibration.measure(job) == ""
    assert timing.jobs(planned) == []
    assert len(timing.jobs(plan(tmp_path / "study", generating(n=20)))) == 1  # another generation
    monkeypatch.setattr(calibration, "AGAIN", 0.0)
    assert [again.shape for again in timing.jobs(planned)] == [job.shape]


def test_a_cache_that_cannot_be_written_to_is_told_before_anything_is_measured(tmp_path: Path, here: list[str]):
    (job,) = timing.jobs(plan(tmp_path / "study", generating()))
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "calibrations").write_text("a file in the folder's place")
    assert "set GNOMON_CACHE" in calibration.measure(job)
    assert here == []


@pytest.mark.faults
def test_a_process_of_its_own_measures_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = generating(n=16)
    (job,) = timing.jobs(plan(tmp_path / "study", study))
    assert calibration.measure(job, limit=250) == ""
    planned = plan(tmp_path / "study", study)
    found = timing.rates(planned, planned.steps[0])
    assert found is not None
    assert found.shape == "8x32"
    assert found.prefill > found.decode > 0
    assert timing.estimates(planned)["capture"].seconds
    (file,) = (tmp_path / "cache" / "calibrations").iterdir()
    kept = json.loads(file.read_text())
    kept["shapes"]["8x32"]["busy"] = False
    file.write_text(json.dumps(kept))
    assert timing.jobs(planned) == []
    kept["shapes"]["8x32"]["busy"] = True
    file.write_text(json.dumps(kept))
    monkeypatch.setattr(calibration, "AGAIN", 0.0)  # what was tried within the hour is not tried again
    assert [again.shape for again in timing.jobs(planned)] == ["8x32"]


def test_what_a_process_said_before_its_time_was_up_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "slow"
    monkeypatch.setattr(sys, "executable", str(script))

    def says(*lines: str, code: int = 0, rest: float = 0) -> str:
        told = "\n".join(f"echo '{line}'" for line in lines)
        script.write_text(f"#!/bin/sh\n{told}\nexec sleep {rest}\n" if rest else f"#!/bin/sh\n{told}\nexit {code}\n")
        script.chmod(0o755)
        return calibration.measure(job, limit=1.0 if rest else 10.0)

    job = job_of(tmp_path)
    assert "the model was not loaded in 1 s" in says(rest=30)
    assert calibration.known(job.spec, 1, 8, 32) is None
    assert says('{"error": "no such model"}') == "no such model"
    assert says('{"load": 2.0}', '{"shapes": {"8x32": {"prefill": 7.0}}}', '{"wri', rest=30) == ""
    assert says("17", '{"write": 9.0}') == ""  # a task may print what it likes
    found = calibration.known(job.spec, 1, 8, 32)
    assert found is not None
    assert (found.load, found.prefill, found.decode, found.write) == (2.0, 7.0, 0.0, 9.0)


def test_rates_are_known_by_model_threads_and_the_nearest_shape(tmp_path: Path):
    planned = plan(tmp_path, generating())
    spec = planned.steps[0].spec
    kept(planned, shapes={"8x32": {"prefill": 1.0}, "8x512": {"prefill": 2.0}, "64x32": {"prefill": 3.0}})
    for batch, length, wanted in ((8, 32, 1.0), (8, 256, 2.0), (32, 32, 3.0), (9, 16, 1.0)):
        found = calibration.known(spec, 1, batch, length)
        assert found is not None
        assert found.prefill == wanted
    assert calibration.known(spec, 2, 8, 32) is None
    assert calibration.known(replace(spec, dtype="float64"), 1, 8, 32) is None
    calibration.kept_in(spec, 1).write_text("[1")
    assert calibration.known(spec, 1, 8, 32) is None


@pytest.mark.parametrize("count", [1, 2, 5, 8, 33])
def test_batches_are_tried_all_over_the_plan(count: int):
    order = trial.between(count)
    assert sorted(order) == list(range(count))
    assert order[0] == count // 2


# ---------------------------------------------------------------- the command


def test_dry_run_calibrates_unless_it_is_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[calibration.Job] = []
    monkeypatch.setattr(calibration, "measure", lambda job: asked.append(job) or "it was cold")
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(json.dumps(generating()))
    skipped = CliRunner().invoke(app, ["run", "s.yaml", "--dry-run", "--no-calibration"])
    assert skipped.exit_code == 0, skipped.output
    assert "time of generate, capture: unknown before a first run" in skipped.stdout
    assert asked == []
    tried = CliRunner().invoke(app, ["run", "s.yaml", "--dry-run"])
    assert [job.shape for job in asked] == ["8x32"]
    assert "could not be calibrated: it was cold" in tried.stderr
    assert not Path("studies").exists()
    too_large = CliRunner().invoke(app, ["run", "s.yaml", "--dry-run", "limits.ram_gb=0.01"])
    assert too_large.exit_code == 2
    assert len(asked) == 1
