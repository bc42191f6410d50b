"""The command line: what it prints, its exit codes, how it stops, and that looking at things is fast and light."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import gnomon
from gnomon.cli import app, demo_file
from gnomon.config import load
from gnomon.describe import options_of, schema
from gnomon.describe import page as help_page
from gnomon.errors import UserError
from gnomon.registry import table
from gnomon.strict import read_yaml
from tests import fake_steps

ROOT = Path(__file__).parent.parent
STUDY = """title: A count
steps:
  - tests.fake_steps:Count: {n: 12, width: 3}
  - tests.fake_steps:Mean: {}
criteria:
  - {name: positive, step: mean, table: scores, where: {metric: mean}, above: -9}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(STUDY)
    fake_steps.RAN.clear()
    return tmp_path


def call(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, (result.output, result.exception)
    return result


# ---------------------------------------------------------------- run


def test_run_prints_findings_criteria_and_where_the_report_lies(here: Path):
    said = call("run", "s.yaml").stdout
    assert "* The mean is" in said
    assert "pass  positive" in said
    assert "report: studies/s/report.html" in said
    assert (here / "studies" / "s" / "report.html").is_file()
    again = call("run", "s.yaml")
    assert fake_steps.RAN == ["Count", "Mean"]
    assert "count  keep" in again.stderr


def test_a_failed_criterion_is_exit_1_and_an_undecided_one_is_not(here: Path):
    assert "fail  positive" in call("run", "s.yaml", "criteria.0.above=9", code=1).stdout
    assert "undecided  positive" in call("run", "s.yaml", "criteria.0.where.metric=thin").stdout


def test_a_mistake_is_one_message_and_exit_2(here: Path):
    result = call("run", "s.yaml", "count.nn=3", code=2)
    assert result.stderr.startswith("error: unknown option 'nn' of count (override count.nn=3); did you mean 'n'?")
    assert "Traceback" not in result.output
    assert call("run", "absent.yaml", code=2).stderr.startswith("error: no study file at absent.yaml")
    assert call("run", "s.yaml", "--log-level", "loud", code=2).stderr.startswith("error: unknown log level")
    assert not (here / "studies").exists()


def test_debug_shows_the_traceback(here: Path):
    result = CliRunner().invoke(app, ["--debug", "run", "absent.yaml"])
    assert isinstance(result.exception, UserError)


def test_dry_run_shows_the_plan_and_does_nothing(here: Path):
    said = call("run", "s.yaml", "--dry-run", "--out", "elsewhere").stdout
    assert "count  make" in said
    assert "2 of 2 steps to make" in said
    assert "criterion: mean/scores.value > -9 where metric = mean" in said
    assert "note: mean: with 4 rows in test" in said
    assert not (here / "elsewhere").exists()
    assert fake_steps.RAN == []
    call("run", "s.yaml", "--out", "elsewhere")
    said = call("run", "s.yaml", "count.n=15", "--dry-run", "--out", "elsewhere").stdout
    assert "option n changed 12 -> 15" in said
    assert "follows count" in said


def test_remake_makes_a_step_anew(here: Path):
    call("run", "s.yaml")
    fake_steps.RAN.clear()
    call("run", "s.yaml", "--remake", "count")
    assert fake_steps.RAN == ["Count"]


def test_ctrl_c_says_how_to_go_on_and_is_exit_130(here: Path):
    result = call("run", "s.yaml", "count.trouble={interrupt: 1}", "--out", "o", code=130)
    said = result.stderr.split("Go on with:\n  ")[1].strip()
    assert said == "gnomon run s.yaml --out o 'count.trouble={interrupt: 1}'"
    (here / "o" / "no-more-trouble").touch()
    call(*["run", "s.yaml", "--out", "o", "count.trouble={interrupt: 1}"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_run_cleanly(here: Path, number: signal.Signals):
    command = [sys.executable, "-m", "gnomon.cli", "run", "s.yaml", "count.n=400", "count.trouble={sleep: 50}"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    markers = here / "studies" / "s" / ".count.partial" / "_done"
    end = time.monotonic() + 60
    while len(list(markers.glob("*.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Go on with:\n  gnomon run s.yaml count.n=400" in errors
    assert "Traceback" not in errors + out
    assert json.loads((here / "studies" / "s" / "run.json").read_text())["status"] == "interrupted"
    assert len(list(markers.glob("*.json"))) >= 2


# ---------------------------------------------------------------- show, report, clean


def test_show_describes_a_study_and_a_step(here: Path):
    call("run", "s.yaml")
    said = call("show", "studies/s").stdout
    for part in ("A count", "finished", "tests.fake_steps:Count", "generations 12", "* The mean is", "pass", "report:"):
        assert part in said
    said = call("show", "studies/s/count").stdout
    for part in ("version 1", "n         12", "row, value, split, note", "activations: resid_post.1@last"):
        assert part in said
    assert "generations  count" in call("show", "studies/s/mean").stdout
    assert "* The mean is" in call("show", "studies/s/mean").stdout
    assert "reads of the test split" in call("show", "studies/s/mean").stdout
    assert "did you mean 'count'?" in call("show", "studies/s/cuont", code=2).stderr
    assert "no study at" in call("show", "nowhere", code=2).stderr


def test_show_json_is_json(here: Path):
    call("run", "s.yaml")
    facts = json.loads(call("show", "studies/s", "--json").stdout)
    assert [s["name"] for s in facts["steps"]] == ["count", "mean"]
    assert facts["steps"][0]["tables"] == {"generations": 12}
    assert facts["criteria"][0]["verdict"] == "pass"
    step = json.loads(call("show", "studies/s/count", "--json").stdout)
    assert step["options"]["n"] == 12
    assert step["columns"]["generations"] == ["row", "value", "split", "note"]


def test_verify_names_damage_and_how_to_mend_it(here: Path):
    call("run", "s.yaml")
    assert "every file is as it was written" in call("show", "studies/s", "--verify").stdout
    path = here / "studies" / "s" / "mean" / "scores.parquet"
    path.write_bytes(path.read_bytes().replace(b"thin", b"fat!"))
    said = call("show", "studies/s", "--verify", code=1).stdout
    assert "mean/scores.parquet has another sha256, not that of the bytes that were written" in said
    mend = said.split("only these are made anew by: gnomon ")[1].splitlines()[0]
    assert mend == "run studies/s/study.yaml --verify"
    (here / "studies" / "s" / "mean" / "meta.json").write_text("{")
    assert "mean/meta.json is broken" in call("show", "studies/s", "--verify", code=1).stdout
    call(*mend.split())
    assert json.loads(call("show", "studies/s/mean", "--verify", "--json").stdout)["problems"] == []


def test_show_examples_needs_transcripts(here: Path):
    call("run", "s.yaml")
    assert "has no transcripts" in call("show", "studies/s", "--examples", "2", code=2).stderr


def test_show_examples_prints_right_and_wrong_ones(tmp_path: Path):
    from tests.report_study import build

    study = build(tmp_path)
    said = call("show", str(study), "--examples", "3").stdout
    assert "[right]" in said
    assert "[wrong]" in said
    assert "  | The capital of" in said


def test_report_is_made_again_from_the_folders(here: Path):
    call("run", "s.yaml")
    (here / "studies" / "s" / "report.html").unlink()
    assert call("report", "studies/s").stdout.strip() == "studies/s/report.html"
    assert (here / "studies" / "s" / "report.html").is_file()


def test_clean_removes_only_what_is_not_needed(here: Path):
    call("run", "s.yaml")
    assert "nothing to remove" in call("clean", "studies/s", "--force").stdout
    call("run", "s.yaml", "count.n=15")
    call("run", "s.yaml", "count.n=18", "count.trouble={interrupt: 1}", code=130)
    said = call("clean", "studies/s", "--dry-run").stdout
    assert {line.split()[-1].split("-")[0] for line in said.splitlines()[:-1]} == {
        ".old/count",
        ".old/mean",
        ".count.partial",
    }
    assert said.strip().endswith("to free")
    assert "say --force" in call("clean", "studies/s", code=2).stderr
    before = gnomon.open("studies/s")["count"].meta
    call("clean", "studies/s", "--force")
    assert sorted(p.name for p in (here / "studies" / "s").glob(".*")) == [".lock"]
    assert gnomon.open("studies/s")["count"].meta == before
    assert gnomon.open("studies/s").verify() == []
    assert "no study at" in call("clean", "nowhere", "--force", code=2).stderr


def test_clean_waits_for_no_run(here: Path):
    from gnomon.lock import study_lock

    call("run", "s.yaml")
    call("run", "s.yaml", "count.n=15")
    with study_lock(here / "studies" / "s"):
        assert "is being written by" in call("clean", "studies/s", "--force", code=2).stderr
    assert (here / "studies" / "s" / ".old").is_dir()


# ---------------------------------------------------------------- claims


def test_audit_claim_adds_one_step_and_prints_its_verdict(here: Path, monkeypatch: pytest.MonkeyPatch):
    import gnomon.steps

    monkeypatch.setitem(gnomon.steps.STEPS, "audit_claim", "tests.fake_steps:Claim")
    call("run", "s.yaml")
    before = gnomon.open("studies/s")["count"].meta
    np.save(here / "my direction.npy", np.ones(4))
    args = ["audit-claim", "studies/s", "--direction", "my direction.npy", "--site", "resid_post.1"]
    fake_steps.RAN.clear()
    said = call(*args).stdout
    assert "* It sums to 4" in said
    assert "Claims" in said
    assert "warning: a sentence is withheld" in said
    assert fake_steps.RAN == ["Claim"]
    study = gnomon.open("studies/s")
    assert study.names() == ["count", "mean", "claim_my_direction"]
    assert study["count"].meta == before
    assert study["claim_my_direction"].options["site"] == "resid_post.1"
    call(*args)
    assert fake_steps.RAN == ["Claim"]
    assert "* It sums to 8" in call(*args, "times=2").stdout  # the same name: it replaces the first
    assert gnomon.open("studies/s").names() == ["count", "mean", "claim_my_direction"]
    assert "* It sums to 4" in call(*args, "--name", "other").stdout
    assert gnomon.open("studies/s").names()[-1] == "other"
    assert "no direction file" in call("audit-claim", "studies/s", "--direction", "absent.npy", code=2).stderr
    assert "no study at" in call("audit-claim", "nowhere", "--direction", "my direction.npy", code=2).stderr
    call("run", "s.yaml")  # the study's own file keeps its own steps
    assert gnomon.open("studies/s")["count"].meta == before


# ---------------------------------------------------------------- list, help, schema


def test_list_names_everything_registered():
    said = call("list").stdout
    for kind in ("task", "step", "intervention", "executor"):
        for name in table(kind):
            assert f"\n  {name} " in said, name
    assert "llama" in call("list", "models").stdout
    assert "did you mean 'steps'?" in call("list", "step", code=2).stderr
    assert "gain_offset" in call("list", "models", "gemma2").stdout


@pytest.mark.parametrize("kind", ["tasks", "steps", "interventions", "dictionaries", "executors"])
def test_every_name_has_a_page_of_its_own(kind: str):
    from gnomon.describe import KINDS

    for name in table(KINDS[kind]):
        said = call("list", kind, name).stdout
        assert said.startswith(f"{name}: "), name


def test_the_page_of_a_step_shows_every_option_with_type_default_and_help():
    said = help_page("steps", "tests.fake_steps:Count")
    assert "writes: generations, activations" in said
    wanted = ["n            whole number", "      Rows.", "scale", "0.001", "capture      options or null", "  sites",
              "resid_post.*", "text or list of text", "      Where.", "text or mapping", "true or false",
              "path or null"]  # fmt: skip
    for part in wanted:
        assert part in said
    assert {o.name.strip() for o in options_of(fake_steps.Count)} >= {"n", "sites", "positions", "trouble"}


def test_every_command_has_help():
    said = call("--help").stdout
    for command in ("demo", "run", "check", "list", "show", "report", "clean", "schema", "audit-claim"):
        assert command in said
        assert "Usage" in call(command, "--help").stdout
    assert "130" in said
    assert call("--version").stdout.strip() == f"gnomon {gnomon.__version__}"
    assert "No such command" in call("rnu", code=2).output


@cache
def validator() -> jsonschema.Draft202012Validator:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


@pytest.mark.parametrize("path", [*sorted((ROOT / "examples").glob("*.yaml")), None], ids=str)
def test_examples_fit_the_schema_and_load(path: Path | None, here: Path):
    path = path or here / "s.yaml"
    validator().validate(read_yaml(path.read_text(encoding="utf-8")).value)
    loaded = load(path)
    saved = read_yaml(loaded.text()).value
    validator().validate(saved)  # with every default filled in
    (here / "study.yaml").write_text(loaded.text())
    assert load(here / "study.yaml").steps == loaded.steps


@pytest.mark.parametrize(
    "wrong",
    [{"modle": "x", "steps": ["generate"]}, {"steps": []}, {}, {"steps": [{"gnerate": {}}]},
     {"steps": [{"generate": {"task": "sums", "nn": 3}}]}, {"steps": [{"generate": {"task": "sums"}, "probe": {}}]},
     {"steps": [{"generate": {"task": "sums"}, "form": "x"}]}, {"steps": ["audit"], "seed": "one"},
     {"steps": ["audit"], "criteria": [{"step": "a"}]}],
)  # fmt: skip
def test_the_schema_refuses_mistakes(wrong: dict[str, Any]):
    with pytest.raises(jsonschema.ValidationError):
        validator().validate(wrong)


def test_the_schema_takes_all_forms_of_an_entry():
    validator().validate({"steps": [
        "audit", {"audit": None, "as": "b"}, {"mine.steps:Mine": {"x": 1}, "from": ["a", "b"]}, "mine.steps:Mine",
        {"audit": {}, "from": {"generations": "a"}, "model": "m", "adapter": None},
        {"generate": {"task": "sums", "stop": "x", "append": ["a"], "capture": {"sites": "embed"}, "temperatures": 1}},
    ]})  # fmt: skip
    assert json.loads(call("schema").stdout) == schema()


# ---------------------------------------------------------------- demo, light and fast


def test_the_demo_is_the_example():
    assert demo_file() == ROOT / "examples" / "demo.yaml"
    assert load(demo_file()).study.model == "smollm2-135m"


@pytest.mark.parametrize("args", [["list"], ["--help"], ["list", "steps", "generate"]], ids=" ".join)
def test_looking_at_names_is_light(args: list[str]):
    code = "import sys; from gnomon.cli import app; app(sys.argv[1:], standalone_mode=False); "
    code += "print({'torch', 'transformers', 'sklearn', 'plotly'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True)
    heavy = done.stderr.strip().splitlines()[-1]
    assert "torch" not in heavy
    assert "transformers" not in heavy
    assert done.returncode == 0
    if args == ["list"]:
        assert heavy == "set()"
        light = "import sys; import gnomon.cli_list; assert not {'pandas', 'pyarrow', 'scipy'} & set(sys.modules)"
        assert subprocess.run([sys.executable, "-c", light], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("code", ["import gnomon; gnomon.UserError; gnomon.__version__", "from gnomon.cli import main"])
def test_import_takes_less_than_a_second_of_cpu(code: str):
    measure = f"import resource\n{code}\nu = resource.getrusage(resource.RUSAGE_SELF)\nprint(u.ru_utime + u.ru_stime)"
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", measure], cwd=ROOT, capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
    assert min(times) < 1.0
