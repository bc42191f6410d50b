"""Laws of study files: read strictly, every mistake named with its line and the nearest name, saved to themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gnomon.config import Criterion, load
from gnomon.errors import UserError
from gnomon.executors.local import Local
from gnomon.registry import find, table
from gnomon.strict import read_value, read_yaml, write_yaml
from tests.fake_steps import Count, Mean, Nested

COUNT, MEAN = "tests.fake_steps:Count", "tests.fake_steps:Mean"


def study(folder: Path, text: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def mistake(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(study(folder, text), overrides)
    return str(caught.value)


# ---------------------------------------------------------------- YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1E5", 1e5), (".5", 0.5), ("1.", 1.0), ("12", 12), ("-3", -3), ("0x1F", 31), ("0o14", 12),
     ("012", 12), ("1_000", 1000), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
     ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("2024-01-01", "2024-01-01"),
     ("12:30:45", "12:30:45"), ("'1e-3'", "1e-3"), ("resid_post.*", "resid_post.*"), ("=", "="),
     ("[a, 1, 1e-3]", ["a", 1, 0.001]), ("{a: {b: null}}", {"a": {"b": None}}), ("1e3 ", 1000.0),
     (".inf", float("inf"))],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object):
    got = read_value(text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: 1\nb: 2\na: 3", r"line 3: 'a' is given twice \(first on line 1\)"), ("<<: {a: 1}", "merge keys"),
     ("a: !!python/name:os.system x", "tag .* is not known"), ("1: a", "the key '1' is no text"),
     ("true: a", "the key 'true' is no text"), ("a: &x [*x]", "contains itself"),
     ("a: [1,", "line 1"), ("a: 1\n b: 2", "line 2"), ("\x00", "YAML")],
)  # fmt: skip
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, said: str):
    with pytest.raises(UserError, match=said):
        read_yaml(text, "s.yaml")


def test_lines_of_every_path_are_known():
    lines = read_yaml("a: 1\nb:\n  - c: 2\n    d: [1,\n     2]\n").lines
    assert lines["a",] == 1
    assert lines["b", 0, "d"] == 4
    assert lines["b", 0, "d", 1] == 5


HARD = ["x: y", "null", "~", "true", "no", "012", "0o7", ".inf", " lead", "", "multi\nline", "2024-01-01", "é", "=",
        "<<", "1_000", "12:30", "- x", "#c", "line\n", "tab\t", "\u2028", "@a", "*", "&b", "1e-3", "a" * 300, "'", '"',
        "a: b #c", "{", "[x]", "%", "!t", "|", ">", "?", "\\n", "\x7f", "\ud7ff", "😀"]  # fmt: skip


def test_whatever_is_written_is_read_back():
    value = {"words": HARD, "numbers": [1e-5, 1e300, -0.0, 1.0, 7, True, None], "nested": {"b": [], "a": {}}}
    assert read_yaml(write_yaml(value)).value == value
    assert list(read_yaml(write_yaml(value)).value["nested"]) == ["b", "a"]


# ---------------------------------------------------------------- reading a study


FULL = f"""
title: A count
model: ./model
seed: 3
executor: {{local: {{workers: 2}}}}
steps:
  - {COUNT}: {{n: 4, scale: 1e-3, document: a/b.txt, capture: {{positions: [last, all]}}}}
  - {COUNT}:
      task: {{jsonl: {{path: ./x.jsonl}}}}
    as: other
    model: tiny
    adapter: ../lora
  - {MEAN}
  - {MEAN}: {{add: 1}}
    as: again
    from: ../other/count
    adapter: null
criteria:
  - {{step: mean, table: scores, where: {{metric: mean}}, above: 0.5, at_most: 1}}
limits: {{disk_gb: 2}}
"""


def test_a_study_is_built_whole(tmp_path: Path):
    loaded = load(study(tmp_path, FULL))
    first, second, third, fourth = loaded.steps
    assert first == Count(n=4, document=tmp_path / "a/b.txt", capture=Nested(positions=("last", "all")))
    assert isinstance(second, Count)
    assert second.task == {"jsonl": {"path": str(tmp_path / "x.jsonl")}}
    assert (third, fourth) == (Mean(), Mean(add=1))
    assert [e.name for e in loaded.study.steps] == ["count", "other", "mean", "again"]
    specs = [loaded.study.spec(e) for e in loaded.study.steps]
    assert specs[0] == specs[2] == loaded.study.spec()
    assert (specs[0].name, specs[0].adapter) == (str(tmp_path / "model"), None)
    assert (specs[1].name, specs[1].adapter) == ("tiny", str(tmp_path.parent / "lora"))
    assert loaded.study.steps[3].source == "../other/count"  # from the study's folder, not the file's
    assert loaded.executor == Local(workers=2)
    assert loaded.study.criteria[0].bounds == {"above": 0.5, "at_most": 1.0}


def test_the_saved_study_has_every_default_and_loads_to_itself(tmp_path: Path):
    loaded = load(study(tmp_path, FULL))
    (tmp_path / "saved").mkdir()
    saved = tmp_path / "saved" / "study.yaml"
    saved.write_text(loaded.text())
    again = load(saved)
    assert again.steps == loaded.steps
    assert again.text() == loaded.text()
    assert [again.study.spec(e) for e in again.study.steps] == [loaded.study.spec(e) for e in loaded.study.steps]
    assert set(read_yaml(saved.read_text()).value["steps"][0][COUNT]) == set(Count.model_fields)
    assert read_yaml(saved.read_text()).value["attention"] == "sdpa"


def test_a_mapping_with_step_objects_is_a_study_too():
    loaded = load({"steps": [Count(n=5), {MEAN: {}, "as": "m"}]}, ["count.size=2"])
    assert loaded.steps == (Count(n=5, size=2), Mean())
    original: dict[str, Any] = {"steps": [{COUNT: {"capture": {"sites": "embed"}}}]}
    load(original, ["count.capture.sites=z.1"])
    assert original == {"steps": [{COUNT: {"capture": {"sites": "embed"}}}]}


def test_an_adapter_may_be_taken_off_for_one_step(tmp_path: Path):
    text = (
        f"adapter: lora\nrevision: r1\nsteps:\n  - {COUNT}: {{}}\n  - {COUNT}: {{}}\n    as: base\n    adapter: null\n"
    )
    text += f"  - {COUNT}: {{}}\n    as: other\n    model: tiny\n"
    loaded = load(study(tmp_path, text))
    specs = [loaded.study.spec(entry) for entry in loaded.study.steps]
    assert [(s.adapter, s.revision) for s in specs] == [("lora", "r1"), (None, "r1"), (None, None)]
    (tmp_path / "t.yaml").write_text(loaded.text())
    again = load(tmp_path / "t.yaml")
    assert [again.study.spec(entry) for entry in again.study.steps] == specs


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"modle: x\nsteps: [{COUNT}]", ["unknown key 'modle' of the study file (s.yaml, line 1)", "'model'?"]),
        (f"steps:\n  - {COUNT}:\n      nn: 3", ["unknown option 'nn' of count (s.yaml, line 3); did you mean 'n'?"]),
        (f"steps:\n  - {COUNT}:\n      sites: 3", ["unknown option 'sites' of count", "it belongs into 'capture'"]),
        (f"steps:\n  - {COUNT}: {{capture: {{site: 3}}}}", ["unknown option 'site' of count.capture", "'sites'"]),
        (f"steps:\n  - {COUNT}:\n      n: true", ["count.n is true (s.yaml, line 3); wanted: a whole number"]),
        (f"steps:\n  - {COUNT}: {{flag: 1}}", ["count.flag is 1", "true or false"]),
        (f"steps:\n  - {COUNT}: {{flag: yes}}", ['count.flag is "yes"', "true or false"]),
        (f"steps:\n  - {COUNT}: {{n: '40'}}", ['count.n is "40"', "a whole number"]),
        (f"steps:\n  - {COUNT}: {{n: 1.5}}", ["count.n is 1.5", "a whole number"]),
        (f"steps:\n  - {COUNT}: {{scale: .nan}}", ["count.scale is nan", "a finite number"]),
        (f"steps:\n  - {COUNT}: {{task: 3}}", ["count.task is 3", "text or a mapping"]),
        (f"steps:\n  - {COUNT}: {{capture: {{positions: [1]}}}}", ["count.capture.positions.0 is 1", "text"]),
        (f"steps:\n  - {COUNT}: {{n: x, size: y}}", ["2 mistakes in count", "count.n is", "count.size is"]),
        ("steps:\n  - gnerate: {}", ["s.yaml, line 2: unknown step 'gnerate'; did you mean 'generate'?"]),
        ("steps:\n  - tests.fake_steps:Cuont: {}", ["'tests.fake_steps' has no 'Cuont'"]),
        ("steps:\n  - tests.absent:X: {}", ["cannot import 'tests.absent:X'"]),
        ("steps:\n  - pathlib:Path: {}", ["'pathlib:Path' belongs to Python itself"]),
        ("steps:\n  - pandas:DataFrame: {}", ["'pandas:DataFrame' is no step"]),
        (f"steps: [{COUNT}, {COUNT}]", ["two steps are called 'count'", "as: NAME"]),
        (f"steps:\n  - {COUNT}: {{}}\n    as: seed", ["'seed', a key of the study file"]),
        (f"steps:\n  - {COUNT}: {{}}\n    as: ../x", ["a step is called '../x'"]),
        (f"steps:\n  - {COUNT}: {{}}\n    form: x", ["2 steps in one entry", "as, from, model, adapter"]),
        ("steps:\n  - {as: x}", ["an entry without a step"]),
        (f"steps:\n  - {COUNT}: 3", ["the options of 'tests.fake_steps:Count' are 3"]),
        ("steps: {a: 1}", ["steps is no list"]),
        ("steps: []", ["has no steps"]),
        ("- a", ["has no steps"]),
        (f"steps: [{COUNT}]\nseed: -1\ndtype: int8", ["2 mistakes in the study file", "seed is -1", "'float32'"]),
        (f"steps: [{COUNT}]\nseed: true", ["seed is true", "a whole number"]),
        (f"steps: [{COUNT}]\nexecutor: 3", ["executor is 3"]),
        (f"steps: [{COUNT}]\nexecutor: locl", ["unknown executor 'locl'; did you mean 'local'?"]),
        (f"steps: [{COUNT}]\nexecutor: {{local: {{wokers: 2}}}}", ["'wokers' of executor.local", "'workers'"]),
        (f"steps: [{COUNT}]\nexecutor: {{local: {{}}, ray: {{}}}}", ["executor names 2 executors"]),
        (f"steps: [{COUNT}]\ncriteria: [{{step: count, table: t}}]", ["at least one of at_least"]),
        (f"steps: [{COUNT}]\ncriteria: [{{step: cuont, table: t, above: 1}}]", ["'cuont'", "did you mean 'count'"]),
        (f"steps: [{COUNT}]\ncriteria: [{{step: count, table: t, above: .inf}}]", ["criteria.0.above"]),
        (f"steps: [{COUNT}]\nlimits: {{disk: 3}}", ["unknown key 'disk' of limits", "disk_gb"]),
    ],
)  # fmt: skip
def test_mistakes_name_what_was_got_and_wanted(tmp_path: Path, text: str, said: list[str]):
    message = mistake(tmp_path, text)
    for part in said:
        assert part in message


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="no study file at"):
        load(tmp_path / "absent.yaml")


def test_a_missing_option_says_what_it_is_for():
    with pytest.raises(UserError, match=r"criteria\.0 lacks 'step'|lacks 'step'"):
        load({"steps": [COUNT], "criteria": [{"table": "x", "above": 1}]})
    assert Criterion(step="a", table="b", above=1).low == "ci_low"


# ---------------------------------------------------------------- overrides

TWO = f"steps:\n  - {COUNT}: {{n: 4, task: plain}}\n  - {COUNT}: {{}}\n    as: b\n"


def test_overrides_reach_steps_by_name_or_number_and_keys_of_the_study(tmp_path: Path):
    loaded = load(study(tmp_path, TWO), [
        "count.n=40", "b.scale=1e-2", "b.capture.sites=[a, b]", "steps.0.size=2", "steps.b.flag=true", "seed=9",
        "model=./here", "limits.disk_gb=3", "b.task={products: {digits: 2}}", "b.as=c",
        "executor={local: {workers: 2}}", 'title="yes"',
    ])  # fmt: skip
    first, second = loaded.steps
    assert first == Count(n=40, size=2, task="plain")
    assert second == Count(scale=0.01, flag=True, capture=Nested(sites=["a", "b"]), task={"products": {"digits": 2}})
    assert loaded.study.steps[1].name == "c"
    assert (loaded.study.seed, loaded.study.limits.disk_gb, loaded.study.title) == (9, 3.0, "yes")
    assert loaded.study.model == str(tmp_path / "here")


def test_later_overrides_win_and_lists_take_numbers(tmp_path: Path):
    text = f"steps:\n  - {COUNT}: {{capture: {{sites: [a, b]}}}}\ncriteria: [{{step: count, table: t, above: 0}}]\n"
    loaded = load(study(tmp_path, text), ["count.n=1", "count.n=2", "count.capture.sites.1=c", "criteria.0.above=.7"])
    (step,) = loaded.steps
    assert isinstance(step, Count)
    assert step.n == 2
    assert step.capture is not None
    assert step.capture.sites == ["a", "c"]
    assert loaded.study.criteria[0].above == 0.7


@pytest.mark.parametrize(
    ("override", "said"),
    [("cuont.n=3", "did you mean 'count'"), ("count.m=3", "unknown option 'm' of count (override count.m=3)"),
     ("count.n=forty", 'count.n is "forty" (override count.n=forty); wanted: a whole number'), ("count.n", "key=value"),
     ("=3", "key=value"), ("count..n=3", "key=value"), ("sede=1", "did you mean 'seed'"),
     ("steps.7.n=1", "unknown step in override"), ("steps=[]", "replaces all steps"),
     ("count.task.a=1", "which is no mapping"), ("count.n=[1", "override 'count.n=[1'"),
     ("count=3", "options")],
)  # fmt: skip
def test_an_override_that_fits_nothing_is_named(tmp_path: Path, override: str, said: str):
    assert said in mistake(tmp_path, TWO, override)


# ---------------------------------------------------------------- every registered step


@pytest.mark.parametrize("name", sorted(table("step")))
def test_every_registered_step_declares_itself(name: str):
    cls: Any = find("step", name)
    assert (cls.__doc__ or "").strip(), "a step says what it does"
    assert cls.model_config.get("frozen")
    assert cls.model_config.get("extra") == "forbid"
    for option, info in cls.model_fields.items():
        assert (info.description or "").strip(), f"{name}.{option} says what it is"
