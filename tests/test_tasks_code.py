"""Tasks that ask for programs: what is read from the sets, what is graded, and what becomes of each verdict."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from code_files import Plain, Verdict, humaneval, mbpp, problems
from fences import needs_a_fence
from task_files import lines

from gnomon.errors import UserError
from gnomon.tasks.code import CodeTask, complexity
from gnomon.tasks.functions import Functions, wrong
from gnomon.tasks.functions_data import functions
from gnomon.tasks.humaneval import HumanEval
from gnomon.tasks.mbpp import Mbpp


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Plain:
    plain = Plain()
    monkeypatch.setattr(CodeTask, "sandbox", lambda self: plain)
    return plain


# ---------------------------------------------------------------- mbpp


def ids(task: Mbpp) -> list[int]:
    return [e.meta["task_id"] for e in task.examples()]


def test_mbpp_takes_the_official_splits(tmp_path: Path) -> None:
    path = str(mbpp(tmp_path))
    assert ids(Mbpp(path=path)) == [11, 12, 13, 14, 15, 16, 17, 18, 511, 601]
    assert ids(Mbpp(path=path, split="test")) == [11, 12, 13, 14, 15, 16, 17, 18]
    assert ids(Mbpp(path=path, split="validation")) == [511]
    assert ids(Mbpp(path=path, split="train")) == [601]
    assert ids(Mbpp(path=path, split="prompt")) == [1, 2, 3, 4]
    assert ids(Mbpp(path=path, sanitized=True)) == [11, 12, 14, 15, 16, 17, 18, 511, 601]
    assert ids(Mbpp(path=str(tmp_path / "sanitized-mbpp.jsonl"))) == ids(Mbpp(path=path, sanitized=True))


def test_mbpp_shows_only_the_first_ten_as_worked_examples(tmp_path: Path) -> None:
    task = Mbpp(path=str(mbpp(tmp_path)), shots=3)
    for example in task.examples():
        assert set(example.meta["shots"]) <= {"mbpp:1", "mbpp:2", "mbpp:3", "mbpp:4"}
    with pytest.raises(UserError, match="worked examples"):
        Mbpp(path=task.path, shots=5).examples()


def test_mbpp_reads_both_layouts(tmp_path: Path, box: Plain) -> None:
    path = str(mbpp(tmp_path))
    key, words, entry, code, tests = problems()[4]
    full = Mbpp(path=path).examples()[0]
    assert (full.id, full.meta["entry"], full.meta["question"]) == (f"mbpp:{key}", entry, words)
    assert full.target == full.meta["reference"] == code + "\n", "plain line ends"
    assert full.meta["tests"] == tests
    assert full.meta["parts"] == {"problem": words, "tests": "\n".join(tests)}
    checked = Mbpp(path=path, sanitized=True).examples()[1]
    assert checked.meta["setup"] == "import math"
    assert Mbpp(path=path, sanitized=True).grade(checked, checked.target).label is True
    assert box.asked[-1]["setup"] == "import math"
    hard = Mbpp(path=path, challenge=True).examples()[0]
    assert hard.meta["tests"] == [*tests, f"assert {entry}(0) == {entry}(0)"]
    assert hard.prompt == full.prompt, "challenge tests are never shown"


def test_mbpp_names_a_bad_record(tmp_path: Path) -> None:
    for record in ({"task_id": 11, "text": "x", "code": "def f(): pass"}, {"text": "x", "code": "", "test_list": []}):
        path = lines(tmp_path / "bad.jsonl", [record])
        with pytest.raises(UserError, match="line 1"):
            Mbpp(path=str(path)).examples()
    record = {"task_id": 11, "text": "x", "code": "def f(): pass", "test_list": ["assert g() == 1"]}
    with pytest.raises(UserError, match="no test calls"):
        Mbpp(path=str(lines(tmp_path / "bad.jsonl", [record]))).examples()


# ---------------------------------------------------------------- humaneval


def test_humaneval_is_continued_and_checked(tmp_path: Path, box: Plain) -> None:
    task = HumanEval(path=str(humaneval(tmp_path)))
    total, after = task.examples()
    assert isinstance(total.prompt, str)
    assert total.prompt.endswith('    """\n')
    assert total.meta["parts"] == {"problem": "Add up the numbers.", "tests": ">>> total([1, 2])\n    3"}
    assert after.meta["parts"] == {"problem": "Give the next number.", "tests": ""}
    assert after.prompt.endswith("'''\n"), "an indent at the end is left to the model"  # type: ignore[union-attr]
    assert task.grade(total, "    return sum(x for x in xs)\n\n\ndef main():\n    pass\n").label is True
    assert box.asked[-1]["entry"] == "total"
    assert "def check(candidate)" in box.asked[-1]["tests"]
    assert task.grade(total, "    return 3\n").label is False
    assert task.grade(after, "    return helper(x)\n").label is True
    chat = HumanEval(path=task.path, style="chat").examples()[0]
    assert HumanEval(path=task.path, style="chat").grade(chat, f"```python\n{chat.target}```").label is True
    with pytest.raises(UserError, match="HumanEval record"):
        HumanEval(path=str(lines(tmp_path / "bad.jsonl", [{"task_id": "x"}]))).examples()


@pytest.mark.parametrize("style", ["chat", "prefix", "plain", "chat_prefix"])
def test_a_function_begun_anew_runs_after_what_the_prompt_gives(tmp_path: Path, box: Plain, style: str) -> None:
    task = HumanEval(path=str(humaneval(tmp_path)), style=style)  # type: ignore[arg-type]
    total, after = task.examples()
    for example, program in (
        (total, "def total(xs: List[int]) -> int:\n    return sum(xs)\n"),
        (after, "def after(x):\n    return helper(x)\n"),
    ):
        grade = task.grade(example, f"\n```python\n{program}```\n")
        assert grade.label is True, grade.reason
        assert grade.answer == program.rstrip()
        assert box.asked[-1]["code"].endswith(program)
    wrong = "def total(xs: List[int]) -> int:\n    return 3\n"
    assert task.grade(total, f"\n```python\n{wrong}```\n").label is False


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("verdict", "label"),
    [("pass", True), ("fail", False), ("timeout", False), ("memory", False), ("blocked", None), ("unsupported", None),
     ("infra", None)],
)  # fmt: skip
def test_every_verdict_has_its_label(monkeypatch: pytest.MonkeyPatch, verdict: str, label: bool | None) -> None:
    box = Plain(Verdict(verdict, "why", 1.5, "Traceback", "kernel"))
    monkeypatch.setattr(CodeTask, "sandbox", lambda self: box)
    task = Functions()
    example = task.examples(1)[0]
    grade = task.grade(example, example.target)
    assert grade.label is label
    assert grade.reason == f"{verdict}: why"
    assert grade.meta == {
        "verdict": verdict, "verdict_reason": "why", "stderr": "Traceback", "sandbox": "kernel", "extracted": "bare",
        "code": example.target,
    }  # fmt: skip


def test_what_a_text_without_code_is_called(box: Plain) -> None:
    task = Functions(style="chat")
    example = task.examples(1)[0]
    assert (task.grade(example, "I'm sorry, I cannot do that.").reason, box.asked) == ("refused", [])
    assert task.grade(example, "It is easy.").reason == "no code"


def test_a_task_that_has_graded_is_still_plain_data() -> None:
    task = Functions(cpu_seconds=2.0)
    example = task.examples(1)[0]
    assert task.grade(example, example.target).label is True
    assert pickle.loads(pickle.dumps(task)) == task
    assert task.sandbox() is Functions(cpu_seconds=2.0).sandbox(), "one sandbox a process"
    assert task.sandbox() is not Functions().sandbox(), "and limits"


@needs_a_fence
def test_a_sample_of_references_and_wrong_bodies_in_the_sandbox() -> None:
    task = Functions()
    sample = task.examples(30, seed=3)
    data = {f.name: f for f in functions()}
    for example in sample:
        right = task.grade(example, "\n" + data[example.meta["entry"]].body)
        assert right.label is True, (example.id, right.reason)
        assert right.meta["extracted"] == "continued"
        refused = task.grade(example, wrong(data[example.meta["entry"]]))
        assert refused.label is False, (example.id, refused.reason)
        assert refused == task.grade(example, wrong(data[example.meta["entry"]])), "graded the same again"


# ---------------------------------------------------------------- difficulty


def test_complexity_counts_decisions_in_every_function() -> None:
    assert complexity("def f(x):\n    return x\n", "f") == 1
    assert complexity("def f(x):\n    if x:\n        return 1\n    for y in x:\n        pass\n    return 2\n", "f") == 3
    helper = "def g(x):\n    if x:\n        return 1\n    return 0\n\ndef f(x):\n    while g(x):\n        x -= 1\n"
    assert complexity(helper, "f") == 3
    with pytest.raises(UserError, match="reference of f"):
        complexity("def f(:", "f")


def test_difficulty_orders_by_complexity_then_length(tmp_path: Path) -> None:
    examples = {e.meta["entry"]: e for e in Functions().examples()}
    levels = [examples[name].difficulty or 0.0 for name in ("add", "seconds_in", "is_balanced")]
    assert levels == sorted(set(levels))
    features = examples["is_balanced"].meta["features"]
    assert features["complexity"] == int(levels[2]) == 5
    assert features["tests"] == 7
    assert features["test_chars"] == sum(map(len, examples["is_balanced"].meta["tests"]))
    assert features["reference_lines"] == 11


def test_the_fingerprint_knows_data_and_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mbpp(tmp_path)
    before = Mbpp(path=str(path)).fingerprint()
    assert {"extraction", "data", "parser", "version"} <= set(before)
    monkeypatch.setattr("gnomon.tasks.code_extract.VERSION", 99)
    assert Mbpp(path=str(path)).fingerprint() == before | {"extraction": 99}
    (path / "mbpp.jsonl").write_text(
        (path / "mbpp.jsonl").read_text().replace("Halve", "halve").replace("halve", "half")
    )
    assert Mbpp(path=str(path)).fingerprint()["data"] != before["data"]
    assert Functions().fingerprint()["data"]
