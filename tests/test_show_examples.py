"""gnomon show --examples and --arrays: readable answers and passes; every array's shape, type, size and finiteness."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from typer.testing import CliRunner, Result

from gnomon.cli import app
from gnomon.cli_arrays import arrays
from gnomon.cli_examples import examples, render
from gnomon.errors import UserError
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.confidence_study import Sure, make


def call(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("show") / "study"
    make(folder, Sure(n=40, layers=2))
    (folder / "run.json").write_text(json.dumps({"steps": [{"name": n} for n in ("generate", "self", "other")]}))
    return folder


# ---------------------------------------------------------------- examples


def test_an_example_has_question_options_answer_and_confidence(study: Path):
    said = call("show", str(study / "generate"), "--examples", "3").stdout
    table = Artifact(study / "generate").table("generations")
    for found in examples(study / "generate", 3):
        row = table[table["example_id"] == found["name"]].iloc[0]
        assert found["mark"] == ("right" if row["label"] else "wrong")
        np.testing.assert_allclose([o["probability"] for o in found["options"]], softmax(row["scores"]))
        assert [o["text"] for o in found["options"] if o["right"]] == [row["target"]]
        assert f"[{found['mark']}] {found['name']}   target: {row['target']}   read: {row['answer']}" in said
        assert f"max_prob {row['max_prob']:.3g}" in said
    assert said.count("  | ") == 3


def test_the_passes_about_an_answer_stand_beside_it(study: Path):
    told = {n: Artifact(study / n).table("confidence").set_index("row")["confidence"] for n in ("self", "other")}
    ids = Artifact(study / "generate").table("generations").set_index("example_id")["row"]
    for found in examples(study, 4):
        assert found["stated"] == {n: pytest.approx(told[n][ids[found["name"]]]) for n in told}
    assert "self says" in call("show", str(study), "--examples", "1").stdout


def test_right_and_wrong_ones_in_turn(study: Path):
    marks = [e["mark"] for e in examples(study / "generate", 6)]
    assert sorted(marks) == ["right"] * 3 + ["wrong"] * 3


def test_a_pass_shows_what_was_stated(study: Path):
    said = call("show", str(study / "self"), "--examples", "2").stdout
    table = Artifact(study / "self").table("confidence").set_index("example_id")
    for found in examples(study / "self", 2):
        assert found["mark"] in ("right", "wrong")
        assert [o["probability"] for o in found["options"]] == pytest.approx(list(table.loc[found["name"], "probs"]))
        assert f"self says {table.loc[found['name'], 'confidence']:.0%}" in said
    assert "95.0%" in said


def test_examples_as_json(study: Path):
    facts = json.loads(call("show", str(study / "generate"), "--examples", "2", "--json").stdout)
    assert {"question", "options", "confidence", "stated", "mark"} <= set(facts["examples"][0])


@pytest.mark.parametrize("count", ["0", "-3"])
def test_a_count_below_one_is_refused(study: Path, count: str):
    assert "1 or more" in call("show", str(study), f"--examples={count}", code=2).output


def test_more_than_there_are_shows_all(study: Path):
    assert len(examples(study / "generate", 1000)) == 40


def test_a_folder_without_answers(tmp_path: Path):
    writer = Writer(tmp_path, "scores", "x")
    writer.array("numbers", np.arange(3.0))
    writer.commit({"step": "probe", "name": "scores", "inputs": {}})
    with pytest.raises(UserError, match="no transcripts"):
        examples(tmp_path / "scores", 1)


def odd(tmp_path: Path, **columns: Any) -> Path:
    """A generation of one row with these texts."""
    row = {"row": 0, "example_id": "e0", "prompt": "Q", "text": "A", "answer": "A", "label": True, "target": "T",
           "choices": ["A", "B"], "scores": [0.0, 1.0], "meta": "{}"} | columns  # fmt: skip
    writer = Writer(tmp_path, "odd", "x")
    writer.table("generations", pd.DataFrame([row]))
    writer.commit({"step": "generate", "name": "odd", "inputs": {}})
    return tmp_path / "odd"


def test_what_a_model_wrote_is_no_command_to_the_terminal(tmp_path: Path):
    evil = "a\x1b[31mred\x07\x9b2J\rover\u202eback\x00 \u00e9\u4e2d \u2014 b"
    names = ("example_id", "prompt", "text", "answer", "target")
    folder = odd(tmp_path, **dict.fromkeys(names, evil), choices=[evil, "B"], meta=json.dumps({"question": "?" + evil}))
    said = "\n".join(render(e) for e in examples(folder, 1))
    assert not [c for c in said if c != "\n" and unicodedata.category(c) in ("Cc", "Cf")]
    assert said.count("a\\x1b[31mred\\x07\\x9b2J") == 7
    assert "\u00e9\u4e2d \u2014 b" in said, "other scripts stay as they are"
    assert call("show", str(folder), "--examples", "1").stdout.count("\\u202e") == 7
    assert examples(folder, 1)[0]["text"] == evil


def test_long_texts_lose_their_middle_and_breaks_their_lines(tmp_path: Path):
    folder = odd(tmp_path, prompt="start " + "x" * 100_000 + " end", text="one\r\ntwo\n\nthree", answer="y" * 5000)
    example = examples(folder, 1)[0]
    said = render(example)
    assert len(said) < 6000
    assert "start x" in said
    assert "x end" in said
    assert "[96010 characters]" in said
    assert "  > one\n  > two\n  > \n  > three" in said
    assert "\n" not in render(example | {"prompt": "p", "text": "t", "options": [], "confidence": {}}).split("\n")[0]
    assert len(example["prompt"]) == 100_010


@pytest.mark.parametrize("left", ["meta.json", "generations.parquet"])
def test_a_broken_folder_is_no_traceback(tmp_path: Path, left: str):
    folder = odd(tmp_path)
    (folder / left).write_bytes(b"{")
    said = call("show", str(folder), "--examples", "1", code=2)
    assert left in said.output


# ---------------------------------------------------------------- arrays


def test_every_array_of_a_study_is_listed(study: Path):
    lines = arrays(study)
    found = {(x["step"], x["name"]): x for x in lines}
    one = found["generate", "activations/resid_post.1@last"]
    x = np.asarray(Artifact(study / "generate").activations("resid_post.1@last").values)
    assert (one["shape"], one["dtype"], one["not_finite"]) == ([40, 16], "float32", 0)
    assert (one["low"], one["high"]) == pytest.approx((x.min(), x.max()))
    assert one["bytes"] == sum(p.stat().st_size for p in (study / "generate/activations/resid_post.1@last").iterdir())
    files = {p.parent.relative_to(study).as_posix() for p in study.rglob("*.npy")}
    assert {f"{x['step']}/{x['name']}" for x in lines} == files
    said = call("show", str(study / "self"), "--arrays").stdout
    assert "every number is finite" in said
    assert "40 x 16" in said


def test_what_is_not_finite_is_counted_and_named(tmp_path: Path, monkeypatch):
    writer = Writer(tmp_path, "odd", "x")
    values = np.ones((10, 4), np.float16)
    values[2, 1], values[7, 0], values[8] = np.nan, np.inf, -5
    writer.array("values", values)
    writer.array("counts", np.arange(6))
    shard = writer.shard(0)
    shard.array("parts", values[:3])
    shard.finish()
    second = writer.shard(1)
    second.array("parts", values[3:])
    second.finish()
    writer.commit({"step": "probe", "name": "odd", "inputs": {}})
    monkeypatch.setattr("gnomon.cli_arrays.BLOCK", 16)  # two rows at a time
    lines = {x["name"]: x for x in arrays(tmp_path / "odd")}
    assert (lines["values"]["not_finite"], lines["values"]["low"], lines["values"]["high"]) == (2, -5, 1)
    assert (lines["parts"]["shape"], lines["parts"]["shards"], lines["parts"]["not_finite"]) == ([10, 4], 2, 2)
    assert lines["counts"]["not_finite"] is None
    assert "not finite somewhere: odd/values, odd/parts" in call("show", str(tmp_path / "odd"), "--arrays").stdout


def test_a_broken_array_is_named(tmp_path: Path):
    writer = Writer(tmp_path, "odd", "x")
    writer.array("values", np.ones(4))
    writer.commit({"step": "probe", "name": "odd", "inputs": {}})
    (tmp_path / "odd" / "values.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"values\.npy is not a plain \.npy file"):
        arrays(tmp_path / "odd")


def test_layers_stand_in_their_order(tmp_path: Path):
    make(tmp_path, Sure(n=20, layers=12, positions=("last",)))
    names = [x["name"] for x in arrays(tmp_path / "generate") if "resid_post" in x["name"]]
    assert names == [f"activations/resid_post.{i}@last" for i in range(12)]
