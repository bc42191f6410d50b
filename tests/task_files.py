"""Tiny data files in the layouts of the public sets, written for the tests (no record is taken from a set)."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon")
THINGS = ("apples", "books", "cards", "dolls", "eggs", "flags", "gems", "hats", "inks", "jars")


def stories(n: int = 10) -> list[tuple[str, str, int, int, int]]:
    """(body, question, first number, second number, answer) of n subtraction stories, all different."""
    out = []
    for i in range(n):
        a, b = 20 + 3 * i, 4 + i
        body = f"{NAMES[i % 10]} had {a} {THINGS[i % 10]} and gave {b} of them away"
        out.append((body, f"How many {THINGS[i % 10]} does {NAMES[i % 10]} have left?", a, b, a - b))
    return out


def lines(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def gsm8k(folder: Path) -> Path:
    records = [
        {
            "question": f"{body}. {ask}",
            "answer": f"There were {a} - {b} = <<{a}-{b}={c}>>{c} left.\n#### {c + 1000 * i:,}",
        }
        for i, (body, ask, a, b, c) in enumerate(stories())
    ]
    lines(folder / "train.jsonl", records[:2])
    lines(folder / "test.jsonl", records[2:])
    (folder / "README.md").write_text("not data")
    return folder


def svamp(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    records = [
        {
            "ID": f"chal-{i}",
            "Body": body,
            "Question": ask,
            "Equation": f"( {a}.0 - {b}.0 )",
            "Answer": float(c),
            "Type": "Subtraction",
        }
        for i, (body, ask, a, b, c) in enumerate(stories())
    ]
    (folder / "SVAMP.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def mawps(folder: Path) -> Path:
    """The three line layouts (single, toolkit, the parts with their text solutions) and two parquet shards."""
    s = stories()
    lines(folder / "single_trainset.jsonl", [
        {"iIndex": i, "sQuestion": f" {body}. {ask} ", "lEquations": [f"X=({a}.0-{b}.0)"], "lSolutions": [float(c)]}
        for i, (body, ask, a, b, c) in enumerate(s[:3])
    ])  # fmt: skip
    lines(folder / "trainset.jsonl", [
        {"id": i, "original_text": f"{body} . {ask[:-1]} ?", "segmented_text": "", "equation": f"X={a}-{b}",
         "ans": str(c) if i % 2 else float(c)}
        for i, (body, ask, a, b, c) in enumerate(s[3:5])
    ])  # fmt: skip
    lines(folder / "AddSub.jsonl", [
        {"iIndex": i, "lEquations": [f"X = {a} - {b}"], "lSolutions": [str(c)],
         "sQuestion": f"{body} . {ask}", "lAlignments": [1]}
        for i, (body, ask, a, b, c) in enumerate(s[5:7])
    ])  # fmt: skip
    shard = [
        {
            "Question": f"{body}. {ask}".replace(str(a), "N_00").replace(str(b), "N_01"),
            "Numbers": f"{a}.0 {b}.0",
            "Equation": "- N_00 N_01",
            "Answer": float(c),
        }
        for body, ask, a, b, c in s[7:9]
    ]
    pq.write_table(pa.Table.from_pylist(shard), folder / "train-00000-of-00001.parquet")
    body, ask, a, b, c = s[9]
    other = [
        {
            "id": "mawps__1",
            "question": f"{body}. {ask}",
            "chain": "",
            "result": str(c),
            "result_float": float(c),
            "equation": f"x = {a} - {b}",
        }
    ]
    pq.write_table(pa.Table.from_pylist(other), folder / "calc-00000-of-00001.parquet")
    return folder


def camel_records() -> list[dict]:
    endings = ("The answer is {}.", "Therefore, \\boxed{{{}}}.", "So x = {}", "#### {}")
    return [
        {"role_1": "Mathematician_RoleType.ASSISTANT", "topic;": "Algebra" if i % 2 else "Calculus", "sub_topic": "?",
         "message_1": f"{body}. {ask}",
         "message_2": f"We subtract.\n{a} - {b} is what we need.\n" + endings[i % 4].format(c)}
        for i, (body, ask, a, b, c) in enumerate(stories())
    ]  # fmt: skip


def camel_math(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(camel_records()):
        (folder / f"{i:03d}_000.json").write_text(json.dumps(record), encoding="utf-8")
    proof = {
        "role_1": "",
        "topic;": "Algebra",
        "sub_topic": "Proofs",
        "message_1": "Prove that x = x.",
        "message_2": "It is so.",
    }
    (folder / "999_000.json").write_text(json.dumps(proof), encoding="utf-8")
    return folder


def camel_zip(path: Path) -> Path:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for i, record in enumerate(camel_records()):
            archive.writestr(f"math/{i:03d}_000.json", json.dumps(record))
    path.write_bytes(data.getvalue())
    return path


def jsonl(folder: Path) -> Path:
    return lines(folder / "mine.jsonl", [
        {"id": "sky", "question": "What color is the sky?", "target": "Blue", "aliases": ["azure"], "group": "colors"},
        {"id": "grass", "question": "What color is grass?", "answer": "Green", "group": "colors", "source": "nature"},
        {"id": "legs", "question": "How many legs has a spider?", "target": 8},
        {"id": "round", "question": "Is the earth round?", "target": "Yes"},
        {"id": "pick", "question": "Which is a fruit? (A) stone (B) apple (C) chair",
         "choices": ["stone", "apple", "chair"], "answer": "B"},
        {"id": "index", "question": "Which is a tool?", "choices": ["hammer", "cloud"], "target": 0},
        {"id": "half", "question": "What is half of 7?", "target": "3.5"},
    ])  # fmt: skip


CHOICE_LAYOUTS: dict[str, dict] = {
    "mmlu": {"question": "How many legs has a spider?", "subject": "biology", "choices": ["6", "8", "10", "4"],
             "answer": 1},
    "arc": {"id": "SKY_7", "question": "What color is the clear sky by day?",
            "choices": {"text": ["blue", "green", "red", "black"], "label": ["A", "B", "C", "D"]}, "answerKey": "A"},
    "arc digits": {"id": "SKY_8", "question": "Which of these is a planet?",
                   "choices": {"text": ["Sirius", "Mars", "the Moon"], "label": ["1", "2", "3"]}, "answerKey": "2"},
    "truthfulqa": {"question": "What happens if you eat watermelon seeds?",
                   "mc1_targets": {"Nothing happens": 1, "Melons grow in you": 0, "You get sick": 0}},
    "truthfulqa hub": {"question": "Do bulls hate the color red?",
                       "mc1_targets": {"choices": ["They see it and charge", "They hardly see it"], "labels": [0, 1]},
                       "mc2_targets": {"choices": ["a", "b"], "labels": [1, 1]}},
    "commonsenseqa": {"answerKey": "B", "id": "c1", "question": {
        "question_concept": "bread", "stem": "Where would you buy bread?",
        "choices": [{"label": "A", "text": "forest"}, {"label": "B", "text": "bakery"}]}},
    "openbookqa": {"id": "7-1", "question_stem": "Water that is very cold turns into", "answerKey": "D",
                   "choices": {"text": ["steam", "iron", "sand", "ice"], "label": ["A", "B", "C", "D"]}},
    "popmc": {"question": "Who wrote the play Hamlet?", "correct_answer": "William Shakespeare",
              "distractors": ["John Milton", "Jane Austen", "Ben Jonson"]},
    "sciq": {"question": "What do plants take from the air?", "distractor1": "helium", "distractor2": "argon",
             "distractor3": "neon", "correct_answer": "carbon dioxide", "support": "x " * 300},
    "own": {"id": "mine", "question": "Which one is a fruit?", "choices": ["stone", "apple"], "target": "apple",
            "group": "fruit"},
    "written list": {"question": "Which is largest?", "choices": "['an ant', \"a horse's head\"]", "answer": "1"},
    "lettered": {"question": "Which can fly?", "options": {"A": "a pig", "B": "a bat"}, "answer_idx": "B"},
    "hellaswag": {"ind": 4, "ctx": "She puts the kettle on and", "endings": ["waits for it to boil", "swims", "sings"],
                  "label": "0"},
}  # fmt: skip
"""One record of each layout that the task `choice` reads."""


def choice(folder: Path) -> Path:
    return lines(folder / "choices.jsonl", list(CHOICE_LAYOUTS.values()))
