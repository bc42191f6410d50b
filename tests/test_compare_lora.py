"""A base model beside a finetuned one, end to end: LoRA, generate with `adapter:`, confidence, compare, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gnomon.console import Screen
from gnomon.errors import UserError
from gnomon.exports import export_study
from gnomon.models import load_tokenizer
from gnomon.models.sources import resolve
from gnomon.run import run_study
from gnomon.store import Study
from gnomon.tasks.make import make_task
from tests.lora import random_lora, trained_lora
from tests.tiny import tiny_folder

TASK = {"elements_choice": {"style": "prefix"}}
KEPT = {"sites": ["resid_post.0", "resid_post.15", "resid_post.29"], "positions": ["last_prompt"]}
N = 12


def run(study: dict, out: Path) -> Study:
    return run_study(study, out, screen=Screen(terminal=False), log_level="error")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Study:
    """SmolLM2, and SmolLM2 after three steps on the answers to these very questions, each asked the same."""
    folder = tmp_path_factory.mktemp("lora")
    examples = make_task(TASK).examples(N, 0)
    pairs = [(str(e.prompt), " " + e.target) for e in examples]
    base = resolve("smollm2-135m", None).folder
    losses = trained_lora(folder / "adapter", base, load_tokenizer("smollm2-135m"), pairs, 3, 5e-3, range(16, 30))
    assert losses[-1] < 0.3 * losses[0]
    ask = {"task": TASK, "n": N, "capture": KEPT}
    steps = [
        {"generate": ask, "as": "base"},
        {"generate": ask, "as": "tuned", "adapter": str(folder / "adapter")},
        {"compare": {"a": "base", "b": "tuned", "rows": "all", "draws": 200, "permutations": 199}},
    ]
    return run({"model": "smollm2-135m", "device": "cpu", "steps": steps}, folder / "study")


def test_the_adapter_is_in_the_metadata_of_its_own_step_alone(tuned: Study):
    assert tuned["base"].meta["model"]["adapter"] is None
    assert tuned["tuned"].meta["model"]["adapter"].endswith("adapter")
    assert tuned["base"].meta["model"]["fingerprint"] != tuned["tuned"].meta["model"]["fingerprint"]
    models = tuned["compare"].table("models").set_index("side")
    assert models.loc["b", "adapter"].endswith("adapter")
    assert models.loc["a", "adapter"] == ""


def test_training_changes_answers_and_activations(tuned: Study):
    labels = [tuned[s].table("generations").sort_values("row")["label"].to_numpy(bool) for s in ("base", "tuned")]
    assert labels[1].mean() > 0.85
    assert labels[0].mean() < labels[1].mean()
    late, early = (
        [tuned[s].activations(f"resid_post.{layer}@last_prompt").values[:] for s in ("base", "tuned")]
        for layer in (29, 0)
    )
    assert np.abs(late[0] - late[1]).max() > 0.1 * np.abs(late[0]).max()
    assert np.abs(late[0] - late[1]).mean() > np.abs(early[0] - early[1]).mean()


def test_compare_says_what_training_did(tuned: Study):
    table = tuned["compare"].table("comparison")
    line = table[(table["metric"] == "accuracy") & (table["side"] == "difference") & (table["control"] == "")].iloc[0]
    labels = [tuned[s].table("generations").sort_values("row")["label"].to_numpy(float) for s in ("base", "tuned")]
    assert line["value"] == pytest.approx(labels[1].mean() - labels[0].mean())
    assert line["n"] == N
    flips = tuned["compare"].table("flips")
    assert (flips["kind"] == "gained").sum() == ((labels[0] == 0) & (labels[1] == 1)).sum() > 0
    alike = tuned["compare"].table("similarity")
    cka = alike[(alike["measure"] == "cka") & (alike["control"] == "")].set_index("layer")["value"]
    assert cka[0] > cka[29]
    assert cka[0] > 0.8, cka


# ---------------------------------------------------------------- tiny models: passes, export, mistakes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Study:
    """A tiny Llama and its random adapter: letters, a pass each, everything captured."""
    folder = tmp_path_factory.mktemp("tiny")
    base = tiny_folder("llama", max_position_embeddings=512)
    adapter = random_lora(folder / "adapter", base)
    kept = {"sites": "resid_post.*", "positions": ["all", "last_prompt"], "dtype": "float16"}
    ask = {"task": {"elements_choice": {"scoring": "letters"}}, "n": 30, "capture": kept}
    steps = []
    for name, entry in (("base", {}), ("tuned", {"adapter": str(adapter)})):
        steps.append({"generate": ask, "as": name, **entry})
        steps.append({"confidence": {"ask": "self", "capture": kept, "orders": "normal"}, "as": f"self_{name}",
                      "from": name, **entry})  # fmt: skip
    steps.append({"compare": {"a": "base", "b": "tuned", "rows": "all", "draws": 200, "permutations": 199,
                              "sites": ["resid_post.1", "resid_post.3"]}})  # fmt: skip
    return run({"model": str(base), "device": "cpu", "steps": steps}, folder / "study")


def test_passes_that_ask_the_same_are_found_and_compared(tiny: Study):
    done = tiny["compare"]
    assert {"self", "max_prob"} <= set(done.table("comparison")["signal"])
    assert set(done.table("transfer")["of"]) == {"answers", "self"}
    read = {record["name"] for record in done.meta["inputs"].values()}
    assert {"base", "tuned", "self_base", "self_tuned"} <= read
    table = done.table("comparison")
    told = table[(table["metric"] == "confidence") & (table["signal"] == "self") & (table["rows"] == "all")
                 & (table["control"] == "")].set_index("side")["value"]  # fmt: skip
    for side, name in (("a", "self_base"), ("b", "self_tuned")):
        assert told[side] == pytest.approx(tiny[name].table("confidence")["confidence"].mean())


def test_the_export_has_a_folder_a_model_and_names_the_adapter(tiny: Study, tmp_path: Path):
    out = export_study(tiny.path, "introspection", tmp_path / "x").path
    configs = {name: json.loads((out / name / "run_config.json").read_text()) for name in ("base", "tuned")}
    assert [configs[n]["model_type"] for n in configs] == ["base", "finetuned"]
    assert configs["tuned"]["lora_checkpoint"].endswith("adapter")
    record = json.loads((out / "tuned" / "self_conf" / "metadata.json").read_text())[0]
    assert record["checkpoint_id"] == "adapter"
    x = [np.load(out / name / "self_conf" / "activations_layer_03.npy") for name in configs]
    assert x[0].shape == x[1].shape
    assert not np.array_equal(x[0], x[1])


def test_an_adapter_of_another_base_is_refused_before_any_work(tmp_path: Path):
    adapter = random_lora(tmp_path / "adapter", tiny_folder("llama"))
    other = tiny_folder("qwen2")
    step = {"generate": {"task": TASK, "n": 20}, "adapter": str(adapter)}
    with pytest.raises(UserError, match=rf"the adapter adapter was trained on '.*llama-.*', not on '{other}'"):
        run({"model": str(other), "device": "cpu", "steps": [step]}, tmp_path / "study")
    assert not (tmp_path / "study").exists()
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(UserError, match="is not readable"):
        run({"model": str(other), "device": "cpu", "steps": [step]}, tmp_path / "study")


def test_a_pass_is_no_side_and_a_side_must_be_there(tmp_path: Path):
    base = str(tiny_folder("llama", max_position_embeddings=512))
    steps = [{"generate": {"task": TASK, "n": 20}, "as": "base"}, {"confidence": {"ask": "self"}, "as": "self"}]
    for b, said in (("self", "self is a confidence pass"), ("tuned", "no earlier step is called")):
        with pytest.raises(UserError, match=said):
            run({"model": base, "device": "cpu", "steps": [*steps, {"compare": {"a": "base", "b": b}}]}, tmp_path / "s")
