"""Tasks from files: every layout loads, what is wrong is named with its line, and the hub's absence is explained."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from task_files import camel_math, camel_records, camel_zip, gsm8k, lines, mawps, stories, svamp

from gnomon.errors import UserError
from gnomon.tasks.camel_math import CamelMath
from gnomon.tasks.gsm8k import Gsm8k
from gnomon.tasks.jsonl import Jsonl
from gnomon.tasks.mawps import Mawps
from gnomon.tasks.records import data_files, read_files
from gnomon.tasks.svamp import Svamp
from gnomon.tasks.word_problems import operators, story

# ---------------------------------------------------------------- layouts


def test_gsm8k_takes_its_split_and_reads_the_gold_number(tmp_path: Path) -> None:
    path = str(gsm8k(tmp_path))
    test, train = Gsm8k(path=path).examples(), Gsm8k(path=path, split="train").examples()
    assert (len(test), len(train), len(Gsm8k(path=path, split="").examples())) == (8, 2, 10)
    assert test[0].target == str(stories()[2][4] + 2000), "thousands separators are read"
    assert test[0].difficulty == 1.0
    assert "<<" not in test[0].meta["solution"]
    assert Gsm8k(path=path).examples(1, 0)[0].meta["question"].endswith("left?")


def test_gsm8k_worked_examples_show_the_reasoning(tmp_path: Path) -> None:
    task = Gsm8k(path=str(gsm8k(tmp_path)), shots=1, style="plain")
    prompt = task.examples(1)[0].prompt
    assert isinstance(prompt, str)
    assert "left.\nThe answer is " in prompt
    assert prompt.endswith("Answer:")
    opened = Gsm8k(path=task.path, shots=1, style="chat_prefix").examples(1)[0].prompt
    assert opened[-1]["content"] == "Let's think step by step."
    assert "The answer is" in opened[1]["content"]
    assert Gsm8k(path=task.path, style="prefix").examples(1)[0].prompt.endswith("\nThe answer is")  # type: ignore[union-attr]  # text


def test_svamp_joins_body_and_question(tmp_path: Path) -> None:
    examples = Svamp(path=str(svamp(tmp_path))).examples()
    body, ask, _, _, answer = stories()[0]
    assert len(examples) == 10
    assert examples[0].id == "svamp:chal-0"
    assert examples[0].meta["question"] == f"{body}. {ask}"
    assert examples[0].target == str(answer)
    assert examples[0].difficulty == 1.0
    assert examples[0].meta["type"] == "Subtraction"


def test_mawps_reads_every_layout(tmp_path: Path) -> None:
    folder = mawps(tmp_path)
    examples = {e.meta["question"]: e for e in Mawps(path=str(folder)).examples()}
    assert len(examples) == 10
    for body, ask, _, _, answer in stories():
        assert examples[f"{body}. {ask}"].target == str(answer)
        assert examples[f"{body}. {ask}"].difficulty == 1.0
    for name in (
        "single_trainset.jsonl",
        "trainset.jsonl",
        "AddSub.jsonl",
        "train-00000-of-00001.parquet",
        "calc-00000-of-00001.parquet",
    ):
        assert Mawps(path=str(folder / name)).examples()


def test_mawps_keeps_one_of_a_problem_that_stands_in_two_files(tmp_path: Path) -> None:
    body, ask, a, b, c = stories()[0]
    lines(tmp_path / "a.jsonl", [{"id": 1, "original_text": f"{body} . {ask}", "equation": "", "ans": c}])
    lines(
        tmp_path / "b.jsonl",
        [{"iIndex": 9, "sQuestion": f"{body}. {ask}", "lSolutions": [float(c)], "lEquations": [f"{a}-{b}"]}],
    )
    assert len(Mawps(path=str(tmp_path)).examples()) == 1


def test_mawps_answers_that_are_not_whole(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        [{"id": 1, "original_text": "How much is 31 / 3 ?", "equation": "X=31/3", "ans": "10.333333333333334"}],
    )
    task = Mawps(path=str(path))
    example = task.examples()[0]
    assert [task.grade(example, t).label for t in ("10.33", "The answer is 10.333.", "10.3", "10.43")] == [
        True,
        True,
        False,
        False,
    ]


def test_camel_math_reads_folders_zips_and_lists(tmp_path: Path) -> None:
    from_folder = CamelMath(path=str(camel_math(tmp_path / "math"))).examples()
    from_zip = CamelMath(path=str(camel_zip(tmp_path / "math.zip"))).examples()
    (tmp_path / "all.json").write_text(json.dumps(camel_records()))
    from_list = CamelMath(path=str(tmp_path / "all.json")).examples()
    assert (
        [e.prompt_hash for e in from_folder] == [e.prompt_hash for e in from_zip] == [e.prompt_hash for e in from_list]
    )
    assert [e.target for e in from_folder] == [str(s[4]) for s in stories()], "a proof has no number and is left out"
    assert from_folder[0].meta["topic"] == "Calculus"
    assert from_folder[0].meta["role_1"].startswith("Mathematician")
    assert len(CamelMath(path=str(tmp_path / "math.zip"), topics=("Algebra",)).examples()) == 5


def test_parquet_and_csv_say_the_same_as_lines(tmp_path: Path) -> None:
    records = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]
    lines(tmp_path / "a.jsonl", records)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in records))
    prompts = [
        [e.prompt_hash for e in Jsonl(path=str(tmp_path / f"a.{kind}")).examples()]
        for kind in ("jsonl", "parquet", "csv")
    ]
    assert prompts[0] == prompts[1] == prompts[2]


def test_a_story_with_other_numbers_is_in_the_same_group() -> None:
    assert story("Ann has 5 cats.") == story("ann has 1,234 cats") != story("Ann has 5 dogs.")


@pytest.mark.parametrize(("equation", "count"), [
    ("X=((22.0-14.0)/4.0)", 2), ("( 76.0 - 25.0 )", 1), ("- N_00 N_01", 1), ("- + N_00 N_01 N_02", 2),
    ("70-x=27", 1), ("", 0), ("x = 5", 0),
])  # fmt: skip
def test_operators(equation: str, count: int) -> None:
    assert operators(equation) == count


def test_the_data_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    task = Gsm8k(path=str(gsm8k(tmp_path)))
    before = task.fingerprint()
    assert before["data"]
    assert before["parser"] >= 1
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps({"question": "What is 1 + 1?", "answer": "#### 2"}) + "\n")
    assert task.fingerprint() != before
    assert len(task.examples()) == 9, "a changed file is read anew"


# ---------------------------------------------------------------- mistakes in files


def refused(build) -> str:
    with pytest.raises(UserError) as raised:
        build()
    return str(raised.value)


def test_a_missing_path_names_the_nearest(tmp_path: Path) -> None:
    gsm8k(tmp_path / "gsm8k")
    assert "did you mean 'gsm8k'" in refused(lambda: Gsm8k(path=str(tmp_path / "gsm8")).examples())
    assert "no data files" in refused(lambda: data_files(_folder(tmp_path / "empty")))
    (tmp_path / "x.txt").write_text("x")
    assert "not a data file" in refused(lambda: data_files(tmp_path / "x.txt"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_missing_split_names_those_there_are(tmp_path: Path) -> None:
    assert "its splits are test, train" in refused(lambda: Gsm8k(path=str(gsm8k(tmp_path)), split="valid").examples())


@pytest.mark.parametrize(("task", "line", "said"), [
    (Gsm8k, '{"question": "Q?", "answer": "5"}', '####'), (Gsm8k, '{"question": "Q?"', "line 2 is not JSON"),
    (Gsm8k, "[1]", "JSON object"),
    (Svamp, '{"Body": "b", "Question": "q"}', "lacks Answer"), (Mawps, '{"text2": "b"}', "has fields text2"),
    (CamelMath, '{"message_1": "b"}', "message_2"),
    (Mawps, '{"Question": "N_00 and N_01?", "Numbers": "5.0", "Answer": 2}', "no number for N_01"),
])  # fmt: skip
def test_a_bad_record_is_named_by_file_and_line(task, line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n" + line + "\n")
    text = refused(lambda: task(path=str(path), split="").examples())
    assert "data.jsonl line 2" in text
    assert said in text


def test_files_that_are_not_what_their_name_says(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no parquet")
    assert "parquet" in refused(lambda: read_files(tmp_path / "a.parquet"))
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(lambda: read_files(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_text("a,b\n1,2,3\n")
    assert "line 2" in refused(lambda: read_files(tmp_path / "a.csv"))
    (tmp_path / "a.json").write_text("5")
    assert "holds int" in refused(lambda: read_files(tmp_path / "a.json"))
    (tmp_path / "a.zip").write_text("no zip")
    assert "zip" in refused(lambda: read_files(tmp_path / "a.zip"))


def test_no_usable_record_is_said(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"message_1": "Prove it.", "message_2": "It is so."}])
    assert "no usable question in 1 records" in refused(lambda: CamelMath(path=str(path)).examples())


# ---------------------------------------------------------------- the hub


def test_without_the_datasets_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "gnomon[hub]" in refused(lambda: Gsm8k().examples())


def fake_hub(monkeypatch: pytest.MonkeyPatch, load) -> None:
    errors = SimpleNamespace(DatasetsError=type("DatasetsError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    monkeypatch.setitem(sys.modules, "datasets.exceptions", errors)


def test_the_hub_is_asked_for_the_right_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(repo, config, split, revision):
        asked.append((repo, config, split, revision))
        return [{"question": "What is 1 + 1?", "answer": "It is 2.\n#### 2"}]

    fake_hub(monkeypatch, load)
    assert [e.target for e in Gsm8k(split="train", revision="abc").examples()] == ["2"]
    assert asked == [("openai/gsm8k", "main", "train", "abc")]


def test_an_unreachable_hub_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args, **kwargs):
        raise ConnectionError("no route to host")

    fake_hub(monkeypatch, load)
    text = refused(lambda: Svamp().examples())
    assert "no route to host" in text
    assert "set path" in text
