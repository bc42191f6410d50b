"""Layout introspection: every field, left padding, one order of questions in all passes, memory bounded, mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gnomon.console import Screen
from gnomon.errors import UserError
from gnomon.exports import export_study
from gnomon.exports import introspection as layout
from gnomon.run import run_study
from gnomon.store import Artifact, Study
from tests.confidence_study import Sure, make
from tests.tiny import tiny_folder

ALL = {"sites": "resid_post.*", "positions": ["all", "last"], "dtype": "float16"}
N = 12
SHARED = (
    "question_id", "question_text", "options", "correct_answer_letter", "target", "model_name", "checkpoint_id",
    "adapter", "prompt_type", "prompt_text", "prompt_hash", "temperature", "top_p", "max_new_tokens", "output_text",
    "parsed_answer", "is_correct", "logits", "probs", "entropy", "logit_margin", "char_length", "token_length",
    "question_type", "has_negation", "has_ambiguity", "token_rarity_mean", "token_rarity_max", "named_entities",
    "answer_token_index", "self_confidence", "other_confidence",
)  # fmt: skip
"""Fields of the older files, and those that were asked for beside them."""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Letters of four options and both passes by a tiny model of another family than Llama."""
    steps = [
        {"generate": {"task": {"elements_choice": {"scoring": "letters"}}, "n": N, "capture": ALL, "batch_size": 5}},
        {"confidence": {"ask": "self", "orders": "normal", "content_free": False}, "as": "first"},
        {"confidence": {"ask": "self", "capture": ALL, "content_free": False}, "as": "self"},
        {"confidence": {"ask": "other", "capture": ALL, "content_free": False}, "as": "other"},
    ]
    model = str(tiny_folder("gpt2", n_positions=512))
    folder = tmp_path_factory.mktemp("introspection") / "study"
    return run_study({"model": model, "device": "cpu", "steps": steps}, folder, screen=Screen(terminal=False))


@pytest.fixture(scope="module")
def out(study: Study, tmp_path_factory) -> Path:
    return export_study(study.path, "introspection", tmp_path_factory.mktemp("out") / "x").path


def records(out: Path, name: str) -> list[dict]:
    return json.loads((out / name / "metadata.json").read_text())


def arrays(out: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(out / name / "activations_layer_02.npy"), np.load(out / name / "attention_mask.npy")


@pytest.mark.parametrize("name", ["mcq", "self_conf", "other_conf"])
def test_every_layer_is_float16_left_padded_and_the_studys_own(study: Study, out: Path, name: str):
    step = study[{"mcq": "generate", "self_conf": "self", "other_conf": "other"}[name]]
    mask = np.load(out / name / "attention_mask.npy")
    for layer in range(4):
        x = np.load(out / name / f"activations_layer_{layer:02d}.npy")
        kept, last = step.activations(f"resid_post.{layer}@all"), step.activations(f"resid_post.{layer}@last")
        assert x.shape == (N, mask.shape[1], 32)
        assert x.dtype == np.float16
        for i, record in enumerate(records(out, name)):
            own = kept.row(record["row"])
            np.testing.assert_array_equal(x[i, -len(own) :], own)
            assert not x[i, : -len(own)].any() or len(own) == x.shape[1]
            assert mask[i].tolist() == [0] * (x.shape[1] - len(own)) + [1] * len(own)
            np.testing.assert_array_equal(x[i, -1], last.row(record["row"]))


def test_some_rows_are_padded(out: Path):
    assert any((np.load(out / name / "attention_mask.npy") == 0).any() for name in ("mcq", "self_conf"))


def test_the_same_questions_in_the_same_order_everywhere(out: Path):
    ids = [[r["question_id"] for r in records(out, name)] for name in ("mcq", "self_conf", "other_conf")]
    assert ids[0] == ids[1] == ids[2]
    assert len(set(ids[0])) == N


@pytest.mark.parametrize("name", ["mcq", "self_conf", "other_conf"])
def test_every_field_is_there(out: Path, name: str):
    for record in records(out, name):
        wanted = [f for f in SHARED if name == "mcq" or f != "answer_token_index"]
        wanted += [] if name == "mcq" else ["confidence_token_index", "own_answer_token_index"]
        assert not set(wanted) - set(record)
        empty = {"adapter"} | ({"self_confidence"} if name != "self_conf" else set())
        empty |= {"other_confidence"} if name != "other_conf" else set()
        assert not {f for f in wanted if record[f] is None} - empty, name


def test_answers_and_confidences_are_the_tables(study: Study, out: Path):
    table = study["generate"].table("generations").set_index("row")
    stated = study["self"].table("confidence").set_index("row")
    for record, own in zip(records(out, "mcq"), records(out, "self_conf"), strict=True):
        row, told = table.loc[record["row"]], stated.loc[own["row"]]
        assert record["options"][record["correct_answer_letter"]] == row["target"]
        assert record["options"][record["parsed_answer"]] == row["answer"]
        assert record["is_correct"] == (record["parsed_answer"] == record["correct_answer_letter"])
        assert len(record["logits"]) == 4
        np.testing.assert_allclose(np.exp(record["logits"]) / np.exp(record["logits"]).sum(), record["probs"])
        right = list(record["options"]).index(record["correct_answer_letter"])
        others = [v for i, v in enumerate(record["logits"]) if i != right]
        assert record["logit_margin"] == pytest.approx(record["logits"][right] - max(others))
        assert (record["logit_margin"] > 0) == record["is_correct"]
        assert own["self_confidence"] == pytest.approx(100 * told["confidence"])
        assert len(own["logits"]) == len(own["probs"]) == 8
        assert own["prompt_type"] == "self_confidence"
        for one in (record, own):
            assert one["entropy"] == pytest.approx(-float(np.dot(one["probs"], np.log(one["probs"]))), rel=1e-3)
            assert one["max_new_tokens"] == 0, "nothing was written"


def test_token_indices_point_into_the_padded_arrays(study: Study, out: Path):
    for name, step, column in (("mcq", "generate", "answer_token"), ("self_conf", "self", "confidence_token")):
        x, _ = arrays(out, name)
        table = study[step].table("generations" if name == "mcq" else "confidence").set_index("row")
        read = np.load(out / name / "read_position.npy")
        kept = study[step].activations("resid_post.2@all")
        for i, record in enumerate(records(out, name)):
            values = kept.row(record["row"])
            index = record["answer_end_index" if name == "mcq" else "confidence_token_index"]
            np.testing.assert_array_equal(x[i, int(index)], values[int(table.loc[record["row"], column])])
            np.testing.assert_array_equal(x[i, read[i]], values[int(table.loc[record["row"], "prompt_len"]) - 1])


def test_the_run_is_described(study: Study, out: Path):
    config = json.loads((out / "run_config.json").read_text())
    assert config["model_type"] == "base"
    assert config["num_questions"] == N
    assert config["passes"]["self_conf"]["layers"] == [0, 1, 2, 3]
    assert config["passes"]["self_conf"]["step"] == "self", "of two passes the one that kept every token"
    assert config["left_out"]["passes"] == ["first"]
    assert config["token_length"] == "tokens of the question"
    tokens = [r["token_length"] for r in records(out, "mcq")]
    assert all(0 < t < r["char_length"] for t, r in zip(tokens, records(out, "mcq"), strict=True))


def test_the_cost_is_said_before_and_a_full_disk_refused(study: Study, tmp_path: Path, capsys, monkeypatch):
    export_study(study.path, "introspection", tmp_path / "a")
    said = re.search(r"(\d+(?:\.\d+)?) (kB|MB) will be written", capsys.readouterr().err)
    assert said
    whole = sum(p.stat().st_size for p in (tmp_path / "a").rglob("*.npy"))
    assert float(said[1]) * {"kB": 1e3, "MB": 1e6}[said[2]] == pytest.approx(whole, rel=0.1)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("gnomon.exports.folder.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"1\.0 kB left"):
        export_study(study.path, "introspection", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_no_more_than_a_block_is_held(study: Study, out: Path, tmp_path: Path, monkeypatch):
    """Small blocks give the same bytes, and many of them."""
    monkeypatch.setattr(layout, "BLOCK", 3000)
    acts = study["self"].activations("resid_post.1@all")
    lengths = np.diff(np.asarray(acts.offsets))
    parts = list(layout.padded(acts, acts.rows, lengths, int(lengths.max())))
    assert len(parts) == N
    again = export_study(study.path, "introspection", tmp_path / "y").path
    for path in sorted(out.rglob("*")):
        if path.is_file():
            assert (again / path.relative_to(out)).read_bytes() == path.read_bytes(), path.name


def test_questions_that_a_pass_lacks_are_left_out_of_all_and_counted(tmp_path: Path, capsys):
    make(tmp_path / "s", Sure(n=60, missing=0.2))
    folder = export_study(tmp_path / "s", "introspection")
    config = json.loads((folder.path / "run_config.json").read_text())
    held = [set(Artifact(tmp_path / "s" / p).table("confidence")["row"]) for p in ("self", "other")]
    rows = sorted(held[0] & held[1])
    assert (
        [r["row"] for r in records(folder.path, "mcq")]
        == rows
        == [r["row"] for r in records(folder.path, "other_conf")]
    )
    assert config["left_out"]["questions"] == 60 - len(rows) > 0
    assert "questions are left out" in capsys.readouterr().err


def test_what_was_not_captured_is_named(tmp_path: Path):
    make(tmp_path / "s", Sure(n=20))
    folder = export_study(tmp_path / "s", "introspection")
    assert "positions: [all]" in folder.left_out["mcq/activations_layer_*.npy"]
    assert not list(folder.path.rglob("activations_*"))
    assert len(records(folder.path, "mcq")) == 20


def test_two_models_have_a_folder_each(tmp_path: Path):
    make(tmp_path / "s", Sure(n=20), "base")
    make(tmp_path / "s", Sure(n=20, better=1.0), "tuned")
    folder = export_study(tmp_path / "s", "introspection")
    assert {"base/run_config.json", "tuned/self_conf/metadata.json"} <= set(folder.files)
    assert "mcq/metadata.json" not in folder.files


def test_values_beyond_float16_are_refused_by_name(study: Study):
    acts = study["self"].activations("resid_post.1@all")
    big = type(acts)(acts.site, acts.position, np.asarray(acts.values[:], np.float32) * 1e6, acts.rows, acts.offsets)
    lengths = np.diff(np.asarray(acts.offsets))
    with pytest.raises(UserError, match=r"resid_post.1 of row 0 has .*float16"):
        list(layout.padded(big, acts.rows, lengths, int(lengths.max())))


def test_a_study_without_answers(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="step generate"):
        export_study(tmp_path, "introspection")


def test_the_page_names_every_file_and_field(out: Path):
    page = (Path(__file__).parent.parent / "docs" / "export.md").read_text().split("## introspection")[1]
    for path in out.rglob("*.*"):
        assert path.name in page or re.fullmatch(r"activations_layer_\d\d\.npy", path.name), path.name
    for name in ("mcq", "self_conf"):
        missing = [f for f in records(out, name)[0] if not re.search(rf"\b{f}\b", page)]
        assert not missing
