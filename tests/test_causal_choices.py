"""Choices under edits: without one, the answers are those of the generation, however it compared them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon.causal.collect import choice_lengths
from gnomon.causal.items import MAX_TARGET
from gnomon.causal.pick import pick
from gnomon.causal.whole import decided_by
from gnomon.step import ModelSpec
from gnomon.steps.generate import Generate
from gnomon.steps.layer_ablation import LayerAblation
from gnomon.store import Artifact
from tests.stepping import made
from tests.task_files import lines
from tests.tiny import tiny_folder, tiny_model

LONG = "the old house by the river where the paper and the glass were found beside a grey stone in the light"


def generation(folder: Path, **options: Any) -> Artifact:
    """Twenty questions whose options are short, of middle length, and longer than written targets are scored."""
    some = [["ox", f"a stone {i}", f"{LONG} {i}", f"{LONG} {i}, and the birds sang of {i * 7} small red wheels"]
            for i in range(20)]  # fmt: skip
    records = [{"question": f"Which {i} of the things?", "choices": each, "answer": i % 4}
               for i, each in enumerate(some)]  # fmt: skip
    scoring = {"scoring": options.pop("scoring", "likelihood")}
    path = lines(folder / "some.jsonl", records)
    step = Generate(
        task={"choice": {"path": str(path), **scoring}}, splits={"fit": 5, "tune": 10, "test": 5}, **options
    )
    return made(step, folder, spec())


def spec() -> ModelSpec:
    return ModelSpec(str(tiny_folder("llama")), device="cpu")


@pytest.mark.parametrize("options", [
    {"normalise": "tokens"}, {"normalise": "chars"}, {"normalise": "none"}, {"scoring": "letters"},
], ids=str)  # fmt: skip
def test_the_unedited_answers_are_those_of_the_generation(tmp_path, options):
    source = generation(tmp_path, **options)
    table = source.table("generations")
    encode = tiny_model("llama").encode_text
    assert max(len(encode(" " + c)) for c in table["choices"][0]) > MAX_TARGET
    step = LayerAblation(fit_rows=4, draws=200, components=("mlp",), top_k=1)
    found = made(step, tmp_path, spec(), inputs={"generations": [source]})
    outcomes = found.table("outcomes")
    clean = pick(outcomes, condition="clean", set="layers")
    tune = pick(table, split="tune").set_index("row")
    lengths = choice_lengths(table)
    for row in sorted(set(clean["unit"])):
        part = pick(clean, unit=row).sort_values("choice")
        if "scoring" in options:  # a letter is two tokens' probability there, and its likelier spelling's here
            assert set(part["tokens"]) == {1}
            continue
        over = lengths.get(int(row), part["tokens"])
        np.testing.assert_allclose(part["logprob"] / over, tune.loc[row, "scores"], atol=1e-3)
    base = set(pick(found.table("layers"), metric="accuracy")["base"])
    if "scoring" not in options:
        assert [*base] == [pytest.approx(tune["label"].astype(float).mean())]
    metas = {json.loads(text).get("normalise", "") for text in table["meta"]}
    assert metas == {options.get("normalise", "").replace("tokens", "")}


def test_long_choices_are_not_said_to_be_cut(tmp_path):
    source = generation(tmp_path)
    table = source.table("generations")
    assert decided_by("auto", source, table, lambda text: [1] * 50) == ("logprob", False)
