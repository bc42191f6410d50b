"""audit: every check is proved by a planted defect, and a clean generation raises none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gnomon.errors import UserError
from gnomon.report.resolve import check as unresolved
from gnomon.rows.table import SCHEMA
from gnomon.step import Context, Inputs, ModelSpec
from gnomon.steps.audit import Audit
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer


def rows(n: int = 200) -> pd.DataFrame:
    """A clean generation: half right, three splits, one row an example."""
    lines = [
        {
            "row": i, "example_index": i, "example_id": f"e{i}", "group": f"e{i}", "difficulty": float(i % 5),
            "split": "fit" if i % 10 < 5 else "tune" if i % 10 == 5 else "test", "sample": 0, "round": 0,
            "temperature": 0.0, "seed": 0, "condition": "", "prompt_hash": f"h{i}", "prompt": f"{i} + 1 =",
            "prompt_len": 4, "token_ids": [1, 2, 3, 4, 5], "text": f" {i + 1}", "answer": str(i + 1 + (i // 10) % 2),
            "label": (i // 10) % 2 == 0, "reason": "", "target": str(i + 1), "choices": [], "scores": [],
            "finish": "stop", "logprobs": [-0.1], "top_ids": [], "top_logits": [], "max_prob": 0.9, "entropy": 0.1,
            "margin": 2.0, "mean_logprob": -0.1, "answer_token": 4, "baselines": "{}", "meta": "{}",
        }
        for i in range(n)
    ]  # fmt: skip
    return pa.Table.from_pylist(lines, schema=SCHEMA).to_pandas()


def levels(table: pd.DataFrame, **options) -> dict[str, str]:
    return {c.check: c.level for c in Audit(min_class=8, **options).checks(table)}


def test_a_clean_generation_raises_nothing():
    assert set(levels(rows()).values()) == {"ok"}


def test_a_task_of_other_classes_is_spoken_of_in_its_own_words():
    said = " ".join(c.detail for c in Audit().checks(rows(60), ("safe", "risky")))
    assert "safe and" in said
    assert "correct" not in said
    alone = Audit().checks(rows(60).assign(label=True), ("safe", "risky"))
    assert any(c.detail == "no risky answer: there are no two classes; choose another task or model" for c in alone)


def _set(column: str, where: slice, value: object):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table[column] = table[column].astype(object)
        for i in range(*where.indices(len(table))):
            table.at[i, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("check", "level", "defect"),
    [
        ("duplicate rows", "fail", _set("example_id", slice(0, 2), "e0")),
        ("duplicate prompts", "warn", _set("prompt_hash", slice(0, 2), "h0")),
        ("contradicting targets", "fail", _set("prompt_hash", slice(0, 2), "h0")),
        ("prompts in two splits", "fail", _set("prompt_hash", slice(4, 6), "h4")),
        ("groups in two splits", "fail", _set("group", slice(4, 6), "g")),
        ("unparsed answers", "warn", _set("label", slice(0, 40), None)),
        ("answers cut off", "warn", _set("finish", slice(0, 60), "length")),
        ("class balance", "warn", _set("label", slice(0, 190), True)),
        ("empty class", "fail", _set("label", slice(0, 200), False)),
        ("split tune", "warn", _set("split", slice(0, 200), "fit")),
        ("one answer for all", "warn", _set("answer", slice(0, 150), "7")),
    ],
)
def test_a_planted_defect_is_found(check, level, defect):
    assert levels(rows()).get(check, "ok") == "ok"
    assert levels(defect(rows()))[check] == level


def test_the_same_example_asked_in_other_words_fails():
    table = pd.concat([rows(), rows().assign(sample=1)], ignore_index=True)
    table.loc[200, "prompt_hash"] = "other"
    assert levels(table)["one prompt an example"] == "fail"
    assert levels(table)["duplicate rows"] == "ok"


def test_a_thin_class_names_the_class_and_what_to_raise():
    found = {c.check: c for c in Audit().checks(rows(60))}
    assert found["split test"].level == "warn"
    assert "20" in found["split test"].detail
    assert "generate.n" in found["split test"].detail


def test_no_rows_is_a_user_error():
    with pytest.raises(UserError, match="no rows"):
        Audit().checks(rows(1).iloc[:0])


def _study(folder: Path, table: pd.DataFrame, held: list[int], fingerprint: str = "") -> Inputs:
    writer = Writer(folder, "generate", "g" * 8)
    shard = writer.shard(0)
    shard.table("generations", pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False))
    shard.finish()
    source = writer.commit({"step": "generate"})
    writer = Writer(folder, "capture", "c" * 8)
    shard = writer.shard(0)
    shard.activations(Site("resid_post", 1), "last", np.ones((len(held), 3)), np.array(held), None, "float32")
    shard.finish()
    of = {"generations": {"name": "generate", "kind": "generations", "fingerprint": fingerprint or source.fingerprint}}
    capture = writer.commit({"step": "capture", "inputs": of})
    return Inputs({"generations": [source], "activations": [capture]})


def _audited(folder: Path, inputs: Inputs, **options) -> Artifact:
    writer = Writer(folder, "audit", "a" * 8)
    Audit(**options).run(inputs, writer, Context(folder, ModelSpec("none")))
    return writer.commit({"step": "audit"})


@pytest.mark.parametrize(
    ("held", "fingerprint", "level"), [([0, 1, 2], "", "ok"), ([0, 999], "", "fail"), ([0, 1], "another", "fail")]
)
def test_activations_that_do_not_join_fail(tmp_path, held, fingerprint, level):
    artifact = _audited(tmp_path, _study(tmp_path, rows(), held, fingerprint))
    found = artifact.table("checks").set_index("check")
    assert found.loc["join capture", "level"] == level


def test_strict_stops_at_a_failure(tmp_path):
    with pytest.raises(UserError, match="999"):
        _audited(tmp_path, _study(tmp_path, rows(), [0, 999]), strict=True)


def test_the_section_resolves_and_shows_offenders(tmp_path):
    table = _set("answer", slice(0, 40), None)(_set("label", slice(0, 40), None)(rows()))
    artifact = _audited(tmp_path, _study(tmp_path, table, [0, 1]))
    blocks = Audit().summary(artifact)
    assert unresolved(blocks, artifact) == []
    assert (artifact.table("offenders")["kind"] == "unparsed").sum() == 3
    assert not artifact.table("offenders")["row"].duplicated().any()
    counts = artifact.table("counts").set_index(["split", "label"])
    assert counts.loc[("all", "unparsed"), "n"] == 40
