"""Layout pva, read with plain pyarrow, numpy and json: rows join files, any id is a file, ungraded is no class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gnomon.cli import app
from gnomon.errors import UserError
from gnomon.exports import export_study
from gnomon.exports.pva_rows import names_of, safe, temperature_name
from gnomon.rows.table import SCHEMA
from gnomon.types import Site
from gnomon.writer import Writer
from tests import export_study as made
from tests.synthetic import Planted, rows

N, D, LAYERS = 30, 8, (0, 3)
VERDICTS = {True: "pass", False: "fail", None: "infra"}


def answers(sampled: bool = False) -> pd.DataFrame:
    """Answers to N tasks with ids of every kind; each fifth is ungraded. Sampled: two temperatures, three samples."""
    table, _ = rows(Planted(n=N, d=D, layers=1))
    table["example_id"] = [f"mbpp:{i}" for i in range(N)]
    own = {f"mbpp:{i}": f"Set/{i}" if i % 2 else 600 + i for i in range(N)}
    table["group"] = table["example_id"]
    table["label"] = [None if i % 5 == 4 else bool(i % 3) for i in range(N)]
    if sampled:
        test = table[table["split"] == "test"]
        parts = [test.assign(temperature=t, sample=k) for t in (0.3, 1.0) for k in range(3)]
        table = pd.concat(parts, ignore_index=True)
        table["row"] = np.arange(len(table))
        table["label"] = [None if v is None else bool((i + int(v)) % 2) for i, v in enumerate(table["label"])]
    metas = []
    for i, label in enumerate(table["label"]):
        metas.append({
            "entry": f"f{i}", "reference": f"def f{i}(): ...", "tests": [f"assert f{i}() == 1", "assert True"],
            "parts": {"problem": f"Write f{i}.", "tests": "assert"}, "verdict": VERDICTS[label],
            "stderr": None if label else "Traceback", "sandbox": "kernel", "task_id": own[str(table["example_id"][i])],
            "code": None if label is None else f"def f{i}(): return 1",
        })  # fmt: skip
    table["meta"] = [json.dumps(m) for m in metas]
    table["answer"] = [None if label is None else "return 1" for label in table["label"]]  # no program was found
    table["reason"] = [None if label else "assert failed" for label in table["label"]]
    return table


def save(study: Path, table: pd.DataFrame, name: str, at: float, positions=("last", "last_prompt")) -> None:
    """Commit a generation whose activations hold at + layer + row / 1000; the last row lacks the position `last`."""
    writer = Writer(study, name, f"fingerprint of {name}")
    writer.table("generations", pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False))
    shard = writer.shard(0)
    for layer in LAYERS:
        for position in positions:
            numbers = np.asarray(table["row"])[: -1 if position == "last" else None]
            x = np.zeros((len(numbers), D), np.float32) + at + layer + numbers[:, None] / 1000
            x += 0.5 * (position == "last")
            shard.activations(Site("resid_post", layer), position, x, numbers, None, "float32")
    shard.finish()
    writer.commit({
        "step": "generate", "name": name, "version": 1, "writes": ["generations", "activations"], "inputs": {},
        "options": {"task": {"mbpp": {}}, "splits": "50/10/40"}, "model": {"name": "org/tiny"}, "ledger": [],
    })  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pva")
    save(folder, answers(), "generate", 0)
    save(folder, answers(sampled=True), "warm", 100)
    made.commit(folder, "audit", {"counts": pd.DataFrame({"split": ["fit"], "n": [3]})}, {})
    features = pd.DataFrame({"site": "resid_post.3", "feature": [1, 2], "separation": [0.2, np.nan]})
    made.commit(folder, "features", {"features": features, "selected": features.head(1)}, {})
    made.commit(folder, "probe", {"scores": pd.DataFrame({"metric": ["auroc"], "value": [0.6]})}, {})
    made.commit(folder, "temperatures", {"temperatures": pd.DataFrame({"temperature": [0.3], "value": [0.5]})}, {})
    made.commit(folder, "intervene", {"outcomes": pd.DataFrame({"x": range(300)})}, {})
    return folder


@pytest.fixture(scope="module")
def out(study: Path, tmp_path_factory) -> Path:
    return export_study(study, "pva", tmp_path_factory.mktemp("out") / "files").path


def read(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_every_folder_and_file_of_the_older_layout_is_there(out: Path):
    wanted = ("phase0/difficulty_mapping.parquet", "phase0_1/sae_mbpp.parquet", "phase0_1/hyperparams_mbpp.parquet",
              "phase0_1/validation_mbpp.parquet", "phase0_1/split_metadata.json", "phase1_0/dataset_mbpp.parquet",
              "phase1_0/dataset_mbpp_metadata.json", "phase1_2/dataset_temp_0_3.parquet",
              "phase1_2/dataset_temp_1_0.parquet", "phase1_2/metadata.json", "phase2/features.parquet",
              "phase2/features_selected.parquet", "phase2/results.json", "phase3/results.json",
              "phase3/intervene_outcomes.parquet", "phase3/temperatures.parquet", "phase1_0/audit.json")  # fmt: skip
    assert [name for name in wanted if not (out / name).is_file()] == []
    assert json.loads((out / "manifest.json").read_text())["left_out"] == {}


def test_each_graded_answer_has_its_activations_under_its_class(out: Path):
    records = read(out / "phase1_0" / "dataset_mbpp.parquet")
    assert len(records) == N
    seen = set()
    for r in records:
        if r["test_passed"] is None:
            assert r["file"] is None
            assert r["verdict"] == "infra"
            assert r["generated_code"] is None
            continue
        side = "correct" if r["test_passed"] else "incorrect"
        for layer in LAYERS:
            path = out / "phase1_0" / "activations" / side / f"{r['file']}_layer_{layer}.npz"
            with np.load(path, allow_pickle=False) as arrays:
                assert np.allclose(arrays["activation"], layer + r["row"] / 1000)  # last_prompt, this row
                assert arrays["activation"].shape == (D,)
                if r["row"] < N - 1:
                    assert np.allclose(arrays["resid_post_last"], layer + r["row"] / 1000 + 0.5)
                else:
                    assert arrays.files == ["activation"]  # that row lacks the position
            seen.add(path)
    assert seen == set((out / "phase1_0" / "activations").rglob("*.npz"))
    assert len(seen) == len(LAYERS) * sum(r["test_passed"] is not None for r in records)
    assert {p.name for p in seen} >= {"602_layer_0.npz", "Set%2F1_layer_3.npz"}


def test_records_hold_code_verdict_errors_and_the_join_key(out: Path):
    by_id = {r["task_id"]: r for r in read(out / "phase1_0" / "dataset_mbpp.parquet")}
    r = by_id["Set/3"]
    assert (r["generated_code"], r["code"], r["entry_point"]) == ("def f3(): return 1", "def f3(): ...", "f3")
    assert (r["test_passed"], r["verdict"], r["error"], r["sandbox"]) == (False, "fail", "Traceback", "kernel")
    assert r["test_list"] == ["assert f3() == 1", "assert True"]
    assert r["text"] == "Write f3."
    assert r["example_id"] == "mbpp:3"
    assert (r["generation"], r["row"], r["file"]) == ("generate", 3, "Set%2F3")
    meta = json.loads((out / "phase1_0" / "dataset_mbpp_metadata.json").read_text())
    right = sum(r["test_passed"] is True for r in by_id.values())
    assert (meta["num_correct"], meta["num_ungraded"]) == (right, N // 5)
    assert meta["num_correct"] + meta["num_incorrect"] + meta["num_ungraded"] == N
    assert meta["verdicts"] == {"pass": right, "fail": meta["num_incorrect"], "infra": N // 5}
    assert meta["activations"]["ungraded_left_out"] == N // 5
    assert meta["activations"]["keys"]["generate"]["3"]["activation"] == "resid_post.3@last_prompt"


def test_splits_are_the_studys_under_their_older_names(out: Path):
    facts = json.loads((out / "phase0_1" / "split_metadata.json").read_text())
    base = {r["task_id"]: r for r in read(out / "phase1_0" / "dataset_mbpp.parquet")}
    seen: list[str] = []
    for old, new in (("sae", "fit"), ("hyperparams", "tune"), ("validation", "test")):
        records = read(out / "phase0_1" / f"{old}_mbpp.parquet")
        ids = [r["task_id"] for r in records]
        assert ids == facts["splits"][old]["task_ids"]
        assert {r["split"] for r in records} == {old}
        assert {base[i]["gnomon_split"] for i in ids} == {new}
        assert np.isclose(facts["splits"][old]["complexity"]["mean"], np.mean([r["complexity_score"] for r in records]))
        seen += ids
    assert sorted(seen) == sorted(base)
    assert facts["file_names"]["Set/1"] == "Set%2F1"
    levels = pd.read_parquet(out / "phase0" / "difficulty_mapping.parquet")
    assert len(levels) == N
    assert {"task_id", "complexity_score", "words"} <= set(levels)


def test_samples_lie_by_temperature_class_and_number(out: Path):
    for value, label in ((0.3, "temp_0_3"), (1.0, "temp_1_0")):
        records = read(out / "phase1_2" / f"dataset_{label}.parquet")
        assert {r["temperature"] for r in records} == {value}
        assert {r["split"] for r in records} == {"validation"}
        assert {r["sample"] for r in records} == {0, 1, 2}
        there = set((out / "phase1_2" / "activations" / label).rglob("*.npz"))
        wanted = set()
        for r in records:
            if r["test_passed"] is None:
                continue
            side = "correct" if r["test_passed"] else "incorrect"
            assert r["file"].endswith(f"_sample{r['sample']}")
            for layer in LAYERS:
                path = out / "phase1_2" / "activations" / label / side / f"{r['file']}_layer_{layer}.npz"
                assert np.allclose(np.load(path)["activation"], 100 + layer + r["row"] / 1000)
                wanted.add(path)
        assert there == wanted
        facts = json.loads((out / "phase1_2" / "metadata.json").read_text())["temperatures"][label]
        assert facts["samples_per_task"] == 3
        assert facts["generations"] == ["warm"]
        assert facts["activations"]["files"]["correct"] + facts["activations"]["files"]["incorrect"] == len(there)


def test_what_later_steps_found_lies_in_phases_2_and_3(out: Path):
    two = json.loads((out / "phase2" / "results.json").read_text())
    assert two["features"]["tables"]["selected"] == [{"site": "resid_post.3", "feature": 1, "separation": 0.2}]
    assert two["features"]["tables"]["features"][1]["separation"] is None
    three = json.loads((out / "phase3" / "results.json").read_text())
    assert three["intervene"]["tables"]["outcomes"] == {"rows": 300}
    assert len(read(out / "phase3" / "intervene_outcomes.parquet")) == 300


def test_the_same_study_gives_the_same_bytes(study: Path, out: Path, tmp_path: Path):
    again = export_study(study, "pva", tmp_path / "again").path
    tree = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert tree == {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert len(tree) > 50


@pytest.mark.parametrize(
    "task_id", ["HumanEval/0", "../../etc/passwd", ".hidden", "a b", "ü%2F", "x" * 500, "", "C:\\x"]
)
def test_any_id_is_a_plain_file_name(tmp_path: Path, task_id: str):
    name = f"{safe(task_id)}_sample0_layer_1.npz"
    assert "/" not in name
    assert "\\" not in name
    assert not name.startswith(".")
    assert len(name.encode()) < 200
    (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_ids_keep_apart_and_collisions_are_refused():
    ids = ["a/b", "a%2Fb", "a_b", "a b", "y" * 400, "y" * 401]
    assert len(set(names_of(ids).values())) == len(ids)
    with pytest.raises(UserError, match="'Ab' and 'aB' would share the file"):
        names_of(["Ab", "x", "aB"])
    assert [temperature_name(t) for t in (0.3, 1.2, 1.0, 2.0, 0.75)] == [
        "temp_0_3", "temp_1_2", "temp_1_0", "temp_2_0", "temp_0_75",
    ]  # fmt: skip


def test_what_is_lacking_is_named_with_the_step_that_writes_it(tmp_path: Path):
    save(tmp_path, answers(), "generate", 0, positions=())
    folder = export_study(tmp_path, "pva")
    assert folder.path == tmp_path / "exports" / "pva"
    needs = folder.left_out
    assert "capture" in needs["phase1_0/activations/{correct,incorrect}/{task_id}_layer_{n}.npz"]
    assert "only: [test]" in needs["phase1_2/dataset_temp_*.parquet"]
    assert needs["phase2/features_*.parquet"] == "step features"
    assert needs["phase3/intervene_*.parquet"] == "step intervene"
    assert needs["phase1_0/audit.json"] == "step audit"
    assert (folder.path / "phase1_0" / "dataset_mbpp.parquet").is_file()


def test_answers_to_other_prompts_are_no_samples_of_these_tasks(tmp_path: Path):
    save(tmp_path, answers(), "generate", 0)
    other = answers(sampled=True)
    other["prompt_hash"] = "another prompt"
    save(tmp_path, other, "warm", 100)
    assert "phase1_2/dataset_temp_*.parquet" in export_study(tmp_path, "pva").left_out


def test_tasks_without_tests_are_exported_too(tmp_path: Path):
    made.generation(tmp_path)
    records = read(export_study(tmp_path, "pva").path / "phase1_0" / "dataset_arithmetic.parquet")
    assert len(records) == made.ROWS + made.MORE
    assert records[0]["test_list"] == []
    assert records[0]["verdict"] is None


def test_task_ids_that_would_be_one_stay_the_examples_own(tmp_path: Path):
    table = answers()
    table["meta"] = [json.dumps({"task_id": i // 2}) for i in range(N)]
    save(tmp_path, table, "generate", 0)
    records = read(export_study(tmp_path, "pva").path / "phase1_0" / "dataset_mbpp.parquet")
    assert [r["task_id"] for r in records] == [r["example_id"] for r in records] == table["example_id"].tolist()


def test_the_command(study: Path, tmp_path: Path):
    said = CliRunner().invoke(app, ["export", str(study), "--layout", "pva", "--out", str(tmp_path / "o")])
    assert said.exit_code == 0, said.output
    assert "layout pva" in said.stdout
