"""choice: every layout read alike, orders by hash, bad records named or counted, prompts that show their options."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gnomon.errors import UserError
from gnomon.tasks.choice import Choice
from gnomon.tasks.choice_order import draw, ordered, turns
from gnomon.tasks.make import make_task
from gnomon.types import Example
from tests.task_files import CHOICE_LAYOUTS, choice, lines

WANTED = {
    "mmlu": ("How many legs has a spider?", ["6", "8", "10", "4"], "8"),
    "arc": ("What color is the clear sky by day?", ["blue", "green", "red", "black"], "blue"),
    "arc digits": ("Which of these is a planet?", ["Sirius", "Mars", "the Moon"], "Mars"),
    "truthfulqa": ("What happens if you eat watermelon seeds?",
                   ["Nothing happens", "Melons grow in you", "You get sick"], "Nothing happens"),
    "truthfulqa hub": ("Do bulls hate the color red?", ["They see it and charge", "They hardly see it"],
                       "They hardly see it"),
    "commonsenseqa": ("Where would you buy bread?", ["forest", "bakery"], "bakery"),
    "openbookqa": ("Water that is very cold turns into", ["steam", "iron", "sand", "ice"], "ice"),
    "popmc": ("Who wrote the play Hamlet?", ["William Shakespeare", "John Milton", "Jane Austen", "Ben Jonson"],
              "William Shakespeare"),
    "sciq": ("What do plants take from the air?", ["carbon dioxide", "helium", "argon", "neon"], "carbon dioxide"),
    "own": ("Which one is a fruit?", ["stone", "apple"], "apple"),
    "written list": ("Which is largest?", ["an ant", "a horse's head"], "a horse's head"),
    "lettered": ("Which can fly?", ["a pig", "a bat"], "a bat"),
    "hellaswag": ("She puts the kettle on and", ["waits for it to boil", "swims", "sings"], "waits for it to boil"),
}  # fmt: skip


def examples(folder: Path, records: list[dict[str, Any]], seed: int = 0, **options: Any) -> list[Example]:
    return Choice(path=str(lines(folder / "some.jsonl", records)), **options).examples(seed=seed)


def question(n: int = 4, **more: Any) -> dict[str, Any]:
    return {"question": "Which?", "choices": [f"option {i}" for i in range(n)], "answer": 1} | more


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", CHOICE_LAYOUTS)
def test_a_layout_gives_its_question_options_and_target(layout, tmp_path):
    (found,) = examples(tmp_path, [CHOICE_LAYOUTS[layout]], rotate=False)
    text, options, target = WANTED[layout]
    assert (found.meta["question"], list(found.choices), found.target) == (text, options, target)
    assert found.meta["place"] == options.index(target)
    assert found.prompt == f"{text}\nAnswer:"


def test_parquet_and_the_hub_give_the_same_questions(tmp_path, monkeypatch):
    records = [CHOICE_LAYOUTS["arc"], CHOICE_LAYOUTS["arc digits"]]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "test-00000-of-00001.parquet")
    here = examples(tmp_path, records)
    assert Choice(path=str(tmp_path / "test-00000-of-00001.parquet")).examples() == here
    asked = []

    def read(*what: str) -> list[tuple[str, dict]]:
        asked.append(what)
        return [(f"row {i}", r) for i, r in enumerate(records)]

    monkeypatch.setattr("gnomon.tasks.choice.read_hub", read)
    assert Choice(hub="some/set", config="main", revision="r1").examples() == here
    assert asked == [("some/set", "main", "test", "r1")]


def test_fields_can_be_named(tmp_path):
    record = {"body": {"text": "Which?"}, "alternatives": ["x", "y"], "key": "B", "n": 7, "level": 2.5,
              "kind": "own", "question": "not this", "answer": "x"}  # fmt: skip
    fields = {"question": "body.text", "choices": "alternatives", "target": "key", "id": "n", "difficulty": "level",
              "group": "kind"}  # fmt: skip
    (found,) = examples(tmp_path, [record], fields=fields)
    assert (found.meta["question"], found.target, found.id, found.group) == ("Which?", "y", "7", "own")
    assert found.difficulty == 2.5
    named = {"question": "Who?", "best": "me", "others": ["you", "him"]}
    (found,) = examples(tmp_path, [named], fields={"target": "best", "distractors": "others"}, rotate=False)
    assert (list(found.choices), found.target) == (["me", "you", "him"], "me")


def test_a_target_that_reads_two_ways_is_settled_by_an_option(tmp_path):
    record = {"question": "Find the degree.", "choices": ["0", "4", "2", "1"], "answer": "1"}
    with pytest.raises(UserError, match=r"two readings.*'4' as index, '1' as text"):
        examples(tmp_path, [record])
    assert examples(tmp_path, [record], target_is="index")[0].target == "4"
    assert examples(tmp_path, [record], target_is="text")[0].target == "1"
    assert examples(tmp_path, [record | {"answer": 1}])[0].target == "4"  # a number is an index


# ---------------------------------------------------------------- bad records

BAD: dict[str, dict[str, Any]] = {
    "no question": question(question=" "),
    "no options": {"question": "Which?", "answer": 1},
    "fewer than two options": question(1, answer=0),
    "an empty option": question(choices=["a", " "], answer=0),
    "two options alike": question(choices=["a", "b", "a "], answer=1),
    "no target": question(answer=None),
    "a target that is not among the options": question(answer="option 9"),
    "a target with two readings (set target_is)": question(choices=["2", "1", "0"], answer="0"),
    "options that cannot be read": question(choices=[["a"], ["b"]]),
    "several right options": {"question": "Which?", "mc1_targets": {"a": 1, "b": 1}},
    "no right option": {"question": "Which?", "mc1_targets": {"a": 0, "b": 0}},
    "options and labels of different numbers": question(choices={"text": ["a", "b"], "label": ["A"]}),
    "an id that occurs twice": question(id="good"),
    "a difficulty that is no number": question(difficulty="hard"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_is_named(reason, tmp_path):
    with pytest.raises(UserError, match="skip_bad") as error:
        examples(tmp_path, [question(id="good"), BAD[reason]])
    assert str(error.value).startswith(f"some.jsonl line 2 has {reason}")


def test_bad_records_are_skipped_and_counted(tmp_path):
    path = lines(tmp_path / "some.jsonl", [question(id="good"), *BAD.values(), question(id="last")])
    task = Choice(path=str(path), skip_bad=True)
    assert [e.id for e in task.examples()] == ["good", "last"]
    assert task.skipped() == dict.fromkeys(BAD, 1)
    with pytest.raises(UserError, match=r"no usable question.*1 with two options alike"):
        examples(tmp_path, [BAD["two options alike"]], skip_bad=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "neither path nor hub"), ({"path": "x.jsonl", "hub": "a/b"}, "both path and hub"),
     ({"path": "x.jsonl", "fields": {"chioces": "c"}}, "choices"), ({"path": "x.jsonl", "letters": "AAB"}, "letters"),
     ({"path": "x.jsonl", "rotations": 2}, "does not show"),
     ({"path": "x.jsonl", "scoring": "letters", "show_options": False}, "not shown"),
     ({"path": "x.jsonl"}, "no file or folder")],
)  # fmt: skip
def test_options_that_cannot_be(options, said):
    with pytest.raises(UserError, match=said):
        make_task({"choice": options}).examples()


@pytest.mark.parametrize("options", [{"mode": "generate"}, {"mode": "episode"}, {"scoring": "letters"}], ids=str)
def test_options_without_a_letter_are_refused_or_skipped_never_left_out_of_the_prompt(options, tmp_path):
    path = lines(tmp_path / "some.jsonl", [question(), question(3, question="Which else?")])
    lettered: dict[str, Any] = {"path": str(path), "letters": "ABC", **options}
    with pytest.raises(UserError, match="more options than letters"):
        make_task({"choice": lettered}).examples()
    task = Choice(**lettered, skip_bad=True)
    assert [len(e.choices) for e in task.examples()] == [3]
    assert task.skipped() == {"more options than letters": 1}
    with pytest.raises(UserError, match="26 letters"):
        make_task({"capitals_choice": {"distractors": None, **options}}).examples()


# ---------------------------------------------------------------- orders and distractors


def test_the_order_is_that_of_the_hashes_and_every_rotation_turns_it():
    options = ["north", "east", "south", "west"]
    by_hand = sorted(options, key=lambda o: hashlib.sha256(f"3\x1fq1\x1f{o}".encode()).hexdigest())
    turned = [ordered(options, 3, "q1", True, r) for r in range(4)]
    assert turned[0] == by_hand
    assert turned[1] == [*by_hand[1:], by_hand[0]]
    for option in options:  # over all rotations each option stands at each place once
        assert sorted(order.index(option) for order in turned) == [0, 1, 2, 3]
    assert ordered(options, 3, "q1", False) == options
    assert ordered(options, 3, "q1", False, 1) == ["east", "south", "west", "north"]


def test_targets_stand_everywhere_alike_though_the_data_has_them_first(tmp_path):
    records = [question(question=f"Which {i}?", choices=["right", "b", "c", "d"], answer=0) for i in range(400)]
    places = Counter(e.meta["place"] for e in examples(tmp_path, records))
    assert all(70 <= places[k] <= 130 for k in range(4))  # 100 each; the standard deviation is 9
    assert {e.meta["place"] for e in examples(tmp_path, records, rotate=False)} == {0}


def test_options_about_other_places_stay_put():
    closing = ["1", "2", "3", "None of the above"]
    assert {ordered(closing, s, "q", True)[-1] for s in range(8)} == {closing[-1]}
    assert turns(closing, 4) == 3
    both = ["A thing", "Another", "Both A and B"]
    assert all(ordered(both, s, "q", True, r) == both for s in range(4) for r in range(3))
    assert turns(both, 4) == 1
    assert turns(["cats and dogs", "a and the", "Vitamin A and calcium"], 3) == 3


def test_rotations_ask_each_question_in_other_orders_within_its_group(tmp_path):
    records = [CHOICE_LAYOUTS[k] for k in ("mmlu", "arc digits", "own")]
    found = examples(tmp_path, records, scoring="letters", rotations=4)
    assert Counter(e.group for e in found) == {"choice:0": 4, "SKY_8": 3, "fruit": 2}  # at most one a place
    assert len({e.id for e in found}) == len({e.prompt_hash for e in found}) == 9
    for group in ("choice:0", "SKY_8", "fruit"):
        same = [e for e in found if e.group == group]
        assert sorted(e.meta["place"] for e in same) == list(range(len(same)))
    once = examples(tmp_path, records, scoring="letters")
    first = [e for e in found if e.meta["rotation"] == 0]
    assert [(e.id, e.prompt) for e in once] == [(e.id, e.prompt) for e in first]


def test_fewer_distractors_are_part_of_more():
    wrong = [f"w{i}" for i in range(9)]
    kept = [draw(wrong, n, 0, "q") for n in range(1, 10)]
    for few, more in itertools.pairwise(kept):
        assert set(few) < set(more)
        assert more == [w for w in wrong if w in more]
    assert draw(wrong, 3, 0, "q") != draw(wrong, 3, 0, "other")
    assert draw(wrong, None, 0, "q") == wrong


def test_questions_of_one_text_share_a_group(tmp_path):
    records = [question(), question(choices=["p", "q"], answer=0), question(question="Which  one?", id="x"),
               question(question="which one?", answer=2)]  # fmt: skip
    assert [e.group for e in examples(tmp_path, records)] == ["choice:0", "choice:0", "x", "x"]


def test_short_plain_fields_are_kept(tmp_path):
    (found,) = examples(tmp_path, [question(subject="logic", letters="own", source="s" * 300, extra=[1])])
    assert found.meta["subject"] == "logic"
    assert found.meta["own_letters"] == "own"
    assert not {"source", "extra"} & set(found.meta)


# ---------------------------------------------------------------- prompts


def test_letters_stand_before_the_options_in_every_style(tmp_path):
    record = question(2, question="Which is it")
    shown = "Which is it\nA. option 0\nB. option 1"
    for style, wanted in {
        "plain": f"{shown}\nAnswer with the letter only.\nAnswer:",
        "prefix": f"{shown}\nThe answer is",
        "chat": ({"role": "user", "content": f"{shown}\nAnswer with the letter only."},),
        "chat_prefix": ({"role": "user", "content": f"{shown}\nAnswer with the letter only."},
                        {"role": "assistant", "content": "The answer is"}),
    }.items():  # fmt: skip
        (found,) = examples(tmp_path, [record], scoring="letters", style=style, rotate=False)
        assert found.prompt == wanted
        assert (found.meta["letters"], found.meta["target_letter"], found.target) == (["A", "B"], "B", "option 1")
    (own,) = examples(tmp_path, [record], scoring="letters", letters="123", rotate=False, instruction="")
    assert own.prompt == "Which is it\n1. option 0\n2. option 1\nAnswer:"
    with pytest.raises(UserError, match="more options than letters"):
        examples(tmp_path, [question(4)], scoring="letters", letters="ABC")


def test_options_can_be_shown_or_hidden_where_their_texts_are_scored(tmp_path):
    stem, asked = question(2, question="Ice is"), question(2)
    assert examples(tmp_path, [stem], style="prefix")[0].prompt == "Ice is"
    assert examples(tmp_path, [asked], style="prefix")[0].prompt == "Which?\nThe answer is"
    shown = {"style": "prefix", "show_options": True, "rotate": False}
    assert examples(tmp_path, [stem], **shown)[0].prompt == "- option 0\n- option 1\nIce is"
    assert examples(tmp_path, [asked], **shown)[0].prompt == "Which?\n- option 0\n- option 1\nThe answer is"


def test_worked_examples_answer_by_the_letter(tmp_path):
    records = [question(2, question=f"Which {i}?", answer=i % 2) for i in range(6)]
    for found in examples(tmp_path, records, scoring="letters", shots=2, instruction="", rotate=False):
        for shot in found.meta["shots"]:
            i = int(shot.split(":")[1])
            assert f"Which {i}?\nA. option 0\nB. option 1\nAnswer: {'AB'[i % 2]}\n" in str(found.prompt)


# ---------------------------------------------------------------- grading and baselines


def test_written_answers_are_graded_by_option_or_letter(tmp_path):
    record = question(choices=["Mars", "Venus", "Pluto"], answer=1)
    task = Choice(path=str(lines(tmp_path / "some.jsonl", [record])), mode="generate", rotate=False)
    (found,) = task.examples()
    said = {"Venus": True, " B. Venus": True, "The answer is B.": True, "I think it is Mars.": False, "A": False,
            "I don't know.": None, "": None, "Neptune": None}  # fmt: skip
    assert {text: task.grade(found, text).label for text in said} == said


def test_baselines_hold_the_surface_and_the_options(tmp_path):
    (found,) = examples(tmp_path, [question(question="Who was not seen in Paris?", choices=["I", "nobody"])])
    task = Choice(path=str(tmp_path / "some.jsonl"))
    values = task.baselines(found)
    assert (values["asks_who"], values["negation"], values["names"], values["options"]) == (1, 1, 1, 2)
    assert values["options_chars"] == 3.5
    assert found.meta["question_type"] == "who"
    assert json.loads(json.dumps(values)) == values


def test_the_smallest_file_works_from_the_task_line(tmp_path):
    path = choice(tmp_path)
    assert len(make_task(f"choice:{path}").examples(5)) == 5
