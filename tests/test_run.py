"""Laws of the run loop: what is kept, made, brought back and remade, and why; nothing finished is ever lost."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gnomon import criteria, machine
from gnomon.config import Criterion, StudyFile, load
from gnomon.console import Screen
from gnomon.errors import UserError
from gnomon.lock import study_lock
from gnomon.plan import plan_study
from gnomon.planned import Plan
from gnomon.run import folder_of, run_study
from gnomon.step import ModelSpec
from gnomon.store import Artifact, Study
from gnomon.writer import Writer
from tests import fake_steps

ROOT = Path(__file__).parent.parent
PREFIX = "tests.fake_steps:"
COUNT, MEAN, MORE, SITES, SEVERAL = (PREFIX + n for n in ("Count", "Mean", "More", "Sites", "Several"))
BASIC: dict[str, Any] = {"steps": [{COUNT: {"n": 12, "width": 3}}, {MEAN: {}}, {MORE: {}}, {SITES: {}}]}


@pytest.fixture(autouse=True)
def _none_ran():
    fake_steps.RAN.clear()


def go(out: Path, study: Any = BASIC, *overrides: str, **options: Any) -> Study:
    fake_steps.RAN.clear()
    return run_study(study, out, overrides, screen=Screen(terminal=False), **options)


def plan(out: Path, study: Any = BASIC, *overrides: str, remake: tuple[str, ...] = ()) -> Plan:
    return plan_study(load(study, overrides), out, remake)


def actions(planned: Plan) -> dict[str, str]:
    return {p.name: p.action for p in planned.steps}


def reasons(planned: Plan) -> dict[str, str]:
    return {p.name: p.reason for p in planned.steps}


def fails(out: Path, study: Any = BASIC, *overrides: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        go(out, study, *overrides, **options)
    return str(caught.value)


def files(study: Path | Study) -> dict[str, Any]:
    folder = study.path if isinstance(study, Study) else study
    return {a.name: a.meta["files"] for a in Study(folder)}


# ---------------------------------------------------------------- a run


def test_a_study_runs_and_its_folder_says_everything(tmp_path: Path):
    study = go(tmp_path / "s", BASIC | {"title": "What?", "seed": 7})
    assert study.names() == ["count", "mean", "more", "sites"]
    assert fake_steps.RAN == ["Count", "Mean", "More", "Sites"]
    assert study["sites"].table("sites")["site"].tolist() == ["resid_post.1@last", "resid_post.2@last"]
    meta = study["mean"].meta
    wanted = {"step", "name", "version", "options", "model", "inputs", "seed", "started", "finished", "seconds", "cost",
              "peak_memory_bytes", "versions", "machine", "ledger", "environment", "fingerprint", "files", "identity",
              "threads", "device", "writes", "executor"}  # fmt: skip
    assert wanted <= set(meta)
    assert meta["inputs"]["generations"]["name"] == "count"
    assert meta["inputs"]["generations"]["fingerprint"] == study["count"].fingerprint
    assert meta["ledger"] == [{"split": "test", "rows": 4, "why": "the mean"}]
    assert meta["options"] == {"add": 0.0, "fail": False}
    assert meta["peak_memory_bytes"] > 10**6
    run = study.run
    assert (run["status"], run["title"], run["seed"]) == ("finished", "What?", 7)
    assert [s["action"] for s in run["steps"]] == ["make"] * 4
    assert run["versions"]["python"] == sys.version.split()[0]
    assert (tmp_path / "s" / "report.html").read_text().count("What?")
    assert not list((tmp_path / "s").glob(".*.partial"))
    lines = [json.loads(line) for line in (tmp_path / "s" / "run.log").read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any(line["logger"] == "gnomon.count" and line.get("n") == 12 for line in lines)


def test_a_second_run_keeps_every_step(tmp_path: Path):
    first = files(go(tmp_path))
    kept = go(tmp_path)
    assert fake_steps.RAN == []
    assert files(kept) == first
    assert [s["kept"] for s in kept.run["steps"]] == [True] * 4
    assert set(reasons(plan(tmp_path)).values()) == {"same options and inputs"}
    again = run_study(tmp_path / "study.yaml", screen=Screen(terminal=False))  # the saved study is the same study
    assert again.path == tmp_path
    assert fake_steps.RAN == []


def test_a_changed_option_remakes_the_step_and_its_followers_and_says_so_before(tmp_path: Path):
    go(tmp_path)
    ahead = plan(tmp_path, BASIC, "mean.add=2")
    assert actions(ahead) == {"count": "keep", "mean": "remake", "more": "keep", "sites": "remake"}
    assert reasons(ahead)["mean"] == "option add changed 0.0 -> 2.0"
    assert reasons(ahead)["sites"] == "follows mean"
    changed = go(tmp_path, BASIC, "mean.add=2")
    assert fake_steps.RAN == ["Mean", "Sites"]
    before = files(changed)
    assert set(actions(plan(tmp_path)).values()) == {"keep", "bring back"}
    go(tmp_path)  # the old options come back, and so do their results
    assert fake_steps.RAN == []
    go(tmp_path, BASIC, "mean.add=2")
    assert fake_steps.RAN == []
    assert files(tmp_path) == before


def test_the_log_says_what_will_be_remade_before_it_begins(tmp_path: Path):
    go(tmp_path)
    go(tmp_path, BASIC, "count.n=9")
    messages = [json.loads(line)["message"] for line in (tmp_path / "run.log").read_text().splitlines()]
    said = max(i for i, m in enumerate(messages) if "option n changed 12 -> 9" in m)
    begun = max(i for i, m in enumerate(messages) if m.startswith("[1/4] count"))
    assert said < begun


# ---------------------------------------------------------------- fingerprints


def prints(out: Path, study: Any = BASIC, *overrides: str) -> dict[str, str]:
    return {p.name: p.fingerprint for p in plan(out, study, *overrides).steps}


def test_the_fingerprint_knows_what_decides_the_numbers_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = prints(tmp_path)
    for override in ("executor={local: {workers: 2}}", "threads=1", "device=cpu", "mixed=allow", "title=x",
                     "limits.disk_gb=9", "model=no-such-model", "count.trouble={bug: 1}"):  # fmt: skip
        assert prints(tmp_path, BASIC, override) == base, override
    assert set(prints(tmp_path, BASIC, "seed=1").values()).isdisjoint(base.values())
    other = prints(tmp_path, BASIC, "count.n=13")
    assert all(other[name] != base[name] for name in base)
    assert prints(tmp_path, BASIC, "more.layer=3")["mean"] == base["mean"]
    monkeypatch.setattr(fake_steps.Mean, "version", 2)
    raised = prints(tmp_path)
    assert {name for name in base if raised[name] != base[name]} == {"mean", "sites"}


def test_a_step_of_ones_own_is_known_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "mine_of_gnomon.py"
    source.write_text('from tests.fake_steps import Count\n\n\nclass Mine(Count):\n    """Mine."""\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    study = {"steps": [{"mine_of_gnomon:Mine": {}, "as": "mine"}]}
    before = prints(tmp_path / "s", study)
    go(tmp_path / "s", study)
    source.write_text(source.read_text() + "# another source\n")
    assert prints(tmp_path / "s", study) != before
    assert reasons(plan(tmp_path / "s", study))["mine"] == "its source changed"


def test_the_model_counts_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    facts = {"fingerprint": "one", "parameters": 1000, "memory_bytes": 4000, "n_layers": 2, "d_model": 8, "n_heads": 2}
    monkeypatch.setattr(ModelSpec, "facts", lambda self: facts | {"fingerprint": f"{self.name}/{self.adapter}"})
    study = {"device": "cpu", "steps": [{PREFIX + "Asks": {}}, {MEAN: {}}, {COUNT: {}, "as": "free"}]}
    base = prints(tmp_path, study)
    other = prints(tmp_path, study, "model=other")
    assert {name for name in base if other[name] != base[name]} == {"asks", "mean"}
    assert prints(tmp_path, study, "asks.adapter=lora")["asks"] != base["asks"]
    assert prints(tmp_path, study, "dtype=bfloat16")["asks"] != base["asks"]
    done = go(tmp_path, study)
    assert done["asks"].meta["model"]["n_heads"] == 2
    assert done["asks"].meta["model"]["name"] == "smollm2-135m"
    assert done["mean"].meta["model"] == {}
    assert reasons(plan(tmp_path, study, "model=other"))["asks"] == "the model changed"


# ---------------------------------------------------------------- who reads what


def inputs_of(planned: Plan, name: str) -> dict[str, list[str]]:
    found = next(p for p in planned.steps if p.name == name)
    return {kind: [node.name for node in nodes] for kind, nodes in found.kinds.items()}


TWICE = [{COUNT: {"width": 3}}, {COUNT: {"n": 9, "width": 3}, "as": "b"}]


def test_two_that_write_a_kind_must_be_told_apart(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"'mean' reads 'generations', which count and b all write; one of them; say from: b"
    ):
        plan(tmp_path, {"steps": [*TWICE, MEAN]})
    for source, wanted in (("b", "b"), (["count"], "count"), ({"generations": "b"}, "b")):
        assert inputs_of(plan(tmp_path, {"steps": [*TWICE, {MEAN: {}, "from": source}]}), "mean") == {
            "generations": [wanted]
        }


def test_activations_gather_a_generation_and_all_of_its_captures(tmp_path: Path):
    steps = [*TWICE, {MORE: {"layer": 2}, "from": "b"}, {MORE: {"layer": 3}, "from": "b", "as": "more3"},
             {MORE: {"layer": 2}, "from": "count", "as": "other"}]  # fmt: skip
    for source, generations, activations in (
        ("b", ["b"], ["b", "more", "more3"]),
        ("count", ["count"], ["count", "other"]),
        ("more3", ["b"], ["b", "more3"]),  # a capture presents its generation's sites and its own
        ({"generations": "b"}, ["b"], ["b", "more", "more3"]),
        ({"generations": "b", "activations": "more"}, ["b"], ["b", "more"]),
    ):
        got = inputs_of(plan(tmp_path, {"steps": [*steps, {SITES: {}, "from": source}]}), "sites")
        assert (got["generations"], got["activations"]) == (generations, activations), source
    study = go(tmp_path, {"steps": [*steps, {SITES: {}, "from": "b"}]})
    assert study["sites"].table("sites")["site"].tolist() == [f"resid_post.{i}@last" for i in (1, 2, 3)]


def test_the_scores_of_the_chosen_generation_are_taken(tmp_path: Path):
    steps = [*TWICE, {MEAN: {}, "from": "count", "as": "m1"}, {MEAN: {}, "from": "b", "as": "m2"}]
    assert inputs_of(plan(tmp_path, {"steps": [*steps, {SITES: {}, "from": "b"}]}), "sites")["scores"] == ["m2"]
    # a named step stands for what it was made of, too
    got = inputs_of(plan(tmp_path, {"steps": [*steps, {SITES: {}, "from": "m1"}]}), "sites")
    assert got == {"generations": ["count"], "activations": ["count"], "scores": ["m1"]}
    got = inputs_of(plan(tmp_path, {"steps": [*steps, {SITES: {}, "from": ["b", "m1"]}]}), "sites")
    assert got == {"generations": ["b"], "activations": ["b"], "scores": ["m1"]}


def test_what_using_names_decides_where_several_would_do():
    from gnomon.lineage import Node, offers, resolve
    from gnomon.steps.intervene import Intervene

    def node(name: str, writes: tuple[str, ...], **kinds: list[Node]) -> Node:
        made = Node(name, Path(name), name, writes)
        made.offers = offers(made, kinds)
        return made

    cool, hot = (node(name, ("generations", "activations")) for name in ("cool", "hot"))
    made = {"generations": [cool], "activations": [cool]}
    earlier = [cool, node("probe", ("directions",), **made), node("features", ("directions",), **made), hot]
    got = resolve("intervene", Intervene(using="features"), None, earlier, lambda text: earlier[0])
    names = {kind: [one.name for one in nodes] for kind, nodes in got.items()}
    assert names == {"generations": ["cool"], "directions": ["features"], "activations": ["cool"]}
    with pytest.raises(UserError, match="which cool and hot all write"):
        resolve("intervene", Intervene(), None, earlier, lambda text: earlier[0])
    with pytest.raises(UserError, match="which probe and features all write"):
        resolve("intervene", Intervene(), None, earlier[:3], lambda text: earlier[0])


def test_several_of_a_kind_only_where_the_step_takes_several(tmp_path: Path):
    study = go(tmp_path, {"steps": [*TWICE, {SEVERAL: {}, "from": ["b", "count"]}]})
    assert study["several"].table("rows")["n"].tolist() == [9, 12]
    assert set(study["several"].meta["inputs"]) == {"generations", "generations.1"}
    assert "'mean' is given generations from b, count" in fails(
        tmp_path, {"steps": [*TWICE, {MEAN: {}, "from": ["b", "count"]}]}
    )


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([MEAN], "step 'mean' reads 'generations' but no earlier step writes them; put 'generate' above it"),
        ([{COUNT: {}}, SITES], "reads 'activations' but no earlier step writes them; add capture to 'count'"),
        ([{COUNT: {}}, {MEAN: {}, "from": "cuont"}], "no earlier step has that name; did you mean 'count'?"),
        ([{COUNT: {}}, {MEAN: {}, "from": "../nowhere/count"}], "no finished step at ../nowhere/count"),
        (
            [{COUNT: {}}, MORE, {MEAN: {}, "as": "m"}, {MEAN: {}, "from": {"scores": "m"}}],
            "unknown kind in mean's from",
        ),
        ([{COUNT: {}}, {SEVERAL: {}}, {COUNT: {}, "as": "c", "from": "several"}], "holds nothing it reads"),
        ([{COUNT: {"like": "later"}}, {COUNT: {}, "as": "later"}], "no earlier step is called 'later'"),
        ([{COUNT: {"n": 0}}], "step 'count': n is 0; at least 1; raise n"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(tmp_path: Path, steps: list[Any], said: str):
    assert said in fails(tmp_path / "s", {"steps": steps})
    assert fake_steps.RAN == []
    assert not (tmp_path / "s").exists()


def test_an_option_may_name_an_earlier_step(tmp_path: Path):
    study = {"steps": [{COUNT: {}}, {COUNT: {"n": 5, "like": "count"}, "as": "b"}]}
    done = go(tmp_path, study)
    assert done["b"].meta["inputs"]["like"]["name"] == "count"
    assert actions(plan(tmp_path, study, "count.scale=3"))["b"] == "remake"


def test_another_studys_folder_can_be_read(tmp_path: Path):
    go(tmp_path / "one", {"steps": [{COUNT: {"width": 3}}, MORE]})
    study = {"steps": [{MEAN: {}, "from": "../one/count"}, {SITES: {}, "from": ["../one/more", "mean"]}]}
    done = go(tmp_path / "two", study)
    assert done["mean"].meta["inputs"]["generations"]["name"] == "../one/count"
    assert len(done["sites"].table("sites")) == 2
    go(tmp_path / "two", study)
    assert fake_steps.RAN == []
    go(tmp_path / "one", {"steps": [{COUNT: {"width": 3, "n": 13}}, MORE]})
    assert reasons(plan(tmp_path / "two", study))["mean"] == "follows ../one/count"
    go(tmp_path / "two", study)
    assert fake_steps.RAN == ["Mean", "Sites"]


# ---------------------------------------------------------------- damage and --remake


def test_what_comes_out_different_when_remade_takes_its_followers_along(tmp_path: Path):
    study = {"steps": [PREFIX + "Dice", MEAN]}
    go(tmp_path, study)
    ahead = plan(tmp_path, study, remake=("dice",))
    assert reasons(ahead) == {"dice": "asked for by --remake", "mean": "unless the files of dice turn out different"}
    done = go(tmp_path, study, remake=["dice"])
    assert fake_steps.RAN == ["Dice", "Mean"]
    assert done["mean"].table("scores")["value"].tolist() == [2, 2]
    go(tmp_path, study)
    assert fake_steps.RAN == []


def test_a_stopped_remake_does_not_leave_the_old_folder_for_finished(tmp_path: Path):
    first = files(go(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, BASIC, "count.trouble={interrupt: 1}", remake=["count"])
    ahead = plan(tmp_path)
    assert (actions(ahead)["count"], reasons(ahead)["count"]) == ("resume", "1 shards are there")
    go(tmp_path)
    assert fake_steps.RAN == ["Count"]
    assert files(tmp_path) == first


def test_remake_of_an_unknown_step_is_refused(tmp_path: Path):
    assert "did you mean 'count'?" in fails(tmp_path, BASIC, remake=["cuont"])


# ---------------------------------------------------------------- faults in the middle


def test_a_failing_step_is_named_and_leaves_the_others(tmp_path: Path):
    said = fails(tmp_path, BASIC, "mean.fail=true")
    assert said == "step 'mean': the mean is not defined; numbers; set fail: false"
    study = Study(tmp_path)
    assert study.names() == ["count"]
    assert study.run["status"] == "failed"
    go(tmp_path)
    assert fake_steps.RAN == ["Mean", "More", "Sites"]


def test_a_bug_in_a_step_keeps_its_traceback_and_goes_to_the_log(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        go(tmp_path, BASIC, "count.trouble={bug: 1}")
    last = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()][-1]
    assert last["level"] == "error"
    assert "ZeroDivisionError: shard 1" in last["traceback"]


def test_a_full_disk_is_a_users_error_and_finished_shards_stay(tmp_path: Path):
    said = fails(tmp_path, BASIC, "count.trouble={full_disk: 2}")
    assert "step 'count': cannot write" in said
    assert "No space left on device" in said
    assert "finished shards are kept" in said
    assert sorted(Writer.attach(tmp_path / ".count.partial").done()) == [0, 1]
    ahead = plan(tmp_path)
    assert (actions(ahead)["count"], reasons(ahead)["count"]) == ("resume", "2 shards are there")


def test_an_interrupted_run_resumes_with_any_number_of_workers_to_the_same_bytes(tmp_path: Path):
    whole = files(go(tmp_path / "whole", BASIC, "count.n=24"))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", BASIC, "count.n=24", "count.trouble={interrupt: 2}")
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "interrupted"
    assert "killed by SIGKILL on shard 4" in fails(
        tmp_path / "cut", BASIC, "count.n=24", "count.trouble={kill: 4}", "executor={local: {workers: 2}}"
    )
    assert files(go(tmp_path / "cut", BASIC, "count.n=24")) == whole


SCRIPT = """
import sys
from gnomon.run import run_study
from tests.test_run import BASIC, COUNT
if __name__ == "__main__":
    run_study(BASIC, sys.argv[1], ["count.n=80", "count.trouble={sleep: 30}", *sys.argv[2:]], log_level="error")
"""


def test_sigkill_of_a_run_then_the_same_call_gives_the_same_bytes(tmp_path: Path):
    (tmp_path / "driver.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "cut")], env=environment)
    markers = tmp_path / "cut" / ".count.partial" / "_done"
    end = time.monotonic() + 60
    while len(list(markers.glob("*.json"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    (tmp_path / "cut" / ".count.partial" / "generations" / ".x.parquet.1.tmp").write_bytes(b"half")
    done = len(list(markers.glob("*.json")))
    assert 3 <= done < 20
    resumed = go(tmp_path / "cut", BASIC, "count.n=80")
    assert len(Artifact(tmp_path / "cut" / "count").table("generations")) == 80
    assert files(resumed) == files(go(tmp_path / "whole", BASIC, "count.n=80"))
    assert not list((tmp_path / "cut").rglob("*.tmp"))


def test_a_half_swap_is_repaired_at_the_start(tmp_path: Path):
    go(tmp_path)
    os.replace(tmp_path / "count", tmp_path / ".count.partial")
    go(tmp_path)
    assert fake_steps.RAN == []
    assert Study(tmp_path).verify() == []


def test_a_half_made_step_is_not_finished_on_another_class_of_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, BASIC, "count.trouble={interrupt: 2}")
    note = tmp_path / ".count.partial" / "_done" / "machine"
    began = json.loads(note.read_text())
    note.write_text(json.dumps(began | {"instructions": ["x86_64", "sse9"], "threads": 3}))
    said = fails(tmp_path)
    assert "was begun on another class of machine" in said
    assert "sse9" in said
    note.write_text(json.dumps(began | {"threads": 3}))
    assert go(tmp_path)["count"].meta["threads"] == 3  # it goes on with the threads that it was begun with
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "b", BASIC, "count.trouble={interrupt: 2}")
    (tmp_path / "b" / ".count.partial" / "_done" / "machine").write_text(json.dumps(began | {"device": "cuda"}))
    assert go(tmp_path / "b", BASIC, "mixed=allow").names()


def test_a_second_run_of_a_study_is_refused_by_name(tmp_path: Path):
    with study_lock(tmp_path):
        assert f"is being written by host {machine.platform.node()}, pid {os.getpid()}" in fails(tmp_path)


# ---------------------------------------------------------------- folders


def test_a_folder_that_is_no_study_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    assert "holds other things than a study" in fails(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "is a file" in fails(tmp_path / "file")
    with pytest.raises(UserError, match="out="):
        run_study(BASIC)


def test_by_default_a_study_goes_to_studies_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"steps: [{COUNT}]")
    assert folder_of(load("mine.yaml"), None) == Path("studies/mine")
    assert run_study("mine.yaml", screen=Screen(terminal=False)).run["command"] == (
        "gnomon run mine.yaml --out studies/mine"
    )
    assert folder_of(load("studies/mine/study.yaml"), None) == tmp_path / "studies" / "mine"


# ---------------------------------------------------------------- criteria


@pytest.mark.parametrize(
    ("bounds", "low", "high", "wanted"),
    [
        ({"above": 0.5}, 0.51, 0.6, "pass"), ({"above": 0.5}, 0.5, 0.6, "undecided"),
        ({"above": 0.5}, 0.4, 0.5, "fail"), ({"at_least": 0.5}, 0.5, 0.6, "pass"),
        ({"at_least": 0.5}, 0.4, 0.5, "undecided"), ({"at_least": 0.5}, 0.4, 0.49, "fail"),
        ({"below": 0.5}, 0.4, 0.49, "pass"), ({"below": 0.5}, 0.4, 0.5, "undecided"),
        ({"below": 0.5}, 0.5, 0.6, "fail"), ({"at_most": 0.5}, 0.4, 0.5, "pass"),
        ({"at_most": 0.5}, 0.5, 0.6, "undecided"), ({"at_most": 0.5}, 0.51, 0.6, "fail"),
        ({"above": 0, "below": 1}, 0.1, 0.9, "pass"), ({"above": 0, "below": 1}, 0.1, 1.1, "undecided"),
        ({"above": 0, "below": 1}, 1.1, 1.2, "fail"), ({"above": 0}, float("nan"), 1, "undecided"),
    ],
)  # fmt: skip
def test_a_verdict_is_by_the_whole_interval(bounds: Mapping[str, float], low: float, high: float, wanted: str):
    assert criteria.verdict(bounds, low, high) == wanted


def judged(study: Study, **fields: Any) -> tuple[str, str]:
    criterion = Criterion(**({"step": "mean", "table": "scores", "where": {"metric": "mean"}} | fields))
    entry = {"step": MEAN, "name": "mean"}
    found = criteria.evaluate(StudyFile(steps=(entry,), criteria=(criterion,)), study)  # type: ignore[arg-type]
    return found[0]["verdict"], found[0]["detail"]


def test_criteria_are_judged_and_written(tmp_path: Path):
    wanted = [{"step": "mean", "table": "scores", "where": {"metric": "mean"}, "above": 0, "name": "positive"},
              {"step": "mean", "table": "scores", "where": {"metric": "thin"}, "above": 0}]  # fmt: skip
    study = go(tmp_path, BASIC | {"criteria": wanted})
    first, second = study.run["criteria"]
    assert (first["name"], first["verdict"], first["bound"], first["n"]) == ("positive", "pass", "> 0", 4)
    assert first["ci_low"] < first["value"] < first["ci_high"]
    assert (second["verdict"], second["detail"]) == ("undecided", "the value has no interval: too few rows in a class")
    assert judged(study, above=0.9)[0] == "fail"
    assert judged(study, column="n", at_least=4) == ("pass", "by the value alone")
    assert judged(study, column="n", at_least=5)[0] == "fail"
    assert judged(study, low="", high="", above=0) == ("pass", "by the value alone")
    assert judged(study, where={}, above=0) == ("undecided", "2 rows of mean/scores match; exactly one; change where:")
    assert "unknown column" in judged(study, column="vlaue", above=0)[1]
    assert "unknown column" in judged(study, where={"metrc": "mean"}, above=0)[1]
    assert "no number" in judged(study, column="metric", above=0)[1]
    assert "has no columns lo and hi" in judged(study, low="lo", high="hi", above=0)[1]
    assert "are not the interval of" in judged(study, low="n", high="n", above=0)[1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"table": "scroes"}, "did you mean 'scores'?"), ({"column": "vlaue"}, "did you mean 'value'?"),
     ({"where": {"metrc": "mean"}}, "did you mean 'metric'?")],
)  # fmt: skip
def test_a_criterion_about_what_is_not_there_is_refused_before_work(tmp_path: Path, wrong: dict[str, Any], said: str):
    go(tmp_path)
    study = BASIC | {"criteria": [{"step": "mean", "table": "scores", "above": 0} | wrong]}
    assert said in fails(tmp_path, study, "more.layer=9")
    assert fake_steps.RAN == []
    changed = go(tmp_path, study, "mean.add=1")  # a table that is made anew may have other columns: a warning
    assert said in (tmp_path / "run.log").read_text()
    assert changed.run["criteria"][0]["verdict"] == "undecided"


# ---------------------------------------------------------------- around it


def test_a_kept_folder_from_other_versions_is_said(tmp_path: Path):
    go(tmp_path)
    meta = tmp_path / "count" / "meta.json"
    old = json.loads(meta.read_text())
    meta.write_text(json.dumps(old | {"versions": old["versions"] | {"numpy": "0.1"}}))
    go(tmp_path)
    assert f"count: kept, made with numpy 0.1, now {old['versions']['numpy']}" in (tmp_path / "run.log").read_text()


def test_threads_are_fixed_recorded_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert go(tmp_path / "a", BASIC, "threads=3")["count"].meta["environment"]["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ
    assert go(tmp_path / "b")["count"].meta["threads"] == machine.physical_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert go(tmp_path / "c")["count"].meta["threads"] == 5
    assert machine.default_threads(2) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert machine.default_threads(10**6) == 1


def test_logging_is_left_as_it_was(tmp_path: Path):
    log = logging.getLogger("gnomon")
    before = (log.level, log.propagate, list(log.handlers))
    go(tmp_path)
    fails(tmp_path, BASIC, "mean.fail=true")
    assert (log.level, log.propagate, list(log.handlers)) == before
    assert "unknown log level" in fails(tmp_path, BASIC, log_level="loud")
