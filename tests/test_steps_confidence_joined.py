"""confidence about more than one model's answers to one task: joined generations, another model, passes of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gnomon
from gnomon.blocks import Text
from gnomon.errors import UserError
from gnomon.lineage import resolve
from gnomon.report.resolve import render_text
from gnomon.rows.confidence_prompts import FILLERS
from gnomon.step import Cost, ModelSpec, Planning
from gnomon.steps.confidence import Confidence
from gnomon.steps.generate import Generate
from gnomon.store import Artifact, Study
from gnomon.tasks.parsing_choices import parse_choice
from tests.stepping import made
from tests.test_gathers import Gathering, earlier
from tests.tiny import tiny_folder, tiny_model

ROOM = {"max_position_embeddings": 512}
SITE = "resid_post.1"


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """`own_tasks:Letters` is importable, as in a folder where a study is run from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def spec_of(seed: int = 0, family: str = "llama", **room: int) -> ModelSpec:
    return ModelSpec(str(tiny_folder(family, seed, **(room or ROOM))), device="cpu")


def generated(where: Path, name: str, task: Any, n: int = 4, **options: Any) -> Artifact:
    step = Generate(task=task, n=n, split_by="hash", **options)
    return made(step, where, spec_of(), name)


def elements(ask: str, style: str, **options: Any) -> dict[str, Any]:
    return {"elements_choice": {"ask": ask, "style": style, **options}}


def joined(where: Path, parts: list[Artifact], task: Any = None) -> Artifact:
    """What `generate: {append: ...}` makes of earlier generations, and of a task of its own."""
    named = {part.name: part for part in parts}
    step = Generate(task=task, n=4 if task else None, split_by="hash", append=tuple(named))
    return made(step, where, spec_of(), "joined", named=named)


def asked(base: Artifact, where: Path, spec: ModelSpec | None = None, name: str = "", **options: Any) -> Artifact:
    return made(Confidence(**options), where, spec or spec_of(), name, inputs={"generations": [base]})


def texts_of(found: Artifact, **options: Any) -> list[tuple[str, str]]:
    return [(b.kind, render_text(b, found)) for b in Confidence(**options).summary(found) if isinstance(b, Text)]


# ---------------------------------------------------------------- joined generations


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Artifact]:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    root = tmp_path_factory.mktemp("parts")
    return {
        "symbols": generated(root, "symbols", elements("symbol", "plain"), 6),
        "names": generated(root, "names", elements("name", "chat"), 3),
        "free": generated(root, "free", "own_tasks:Letters", 5),
    }


@pytest.mark.parametrize("own", [None, elements("number", "prefix")])
def test_joined_choices_are_each_compared_with_their_own_options(parts, tmp_path, own):
    both = joined(tmp_path, [parts["symbols"], parts["names"]], own)
    table = asked(both, tmp_path, ask="consistency", samples=2).table("confidence").set_index("row")
    rows = both.table("generations").set_index("row")
    assert len(table) == len(rows) == 9 + 4 * (own is not None)
    for line in table.reset_index().to_dict("records"):
        own, said = rows.loc[line["row"]], json.loads(line["meta"])
        options = list(own["choices"])
        read = [parse_choice(text, options) for text in said["texts"]]
        agree = sum(r is not None and options[int(r.value)] == own["text"] for r in read)
        assert len(read) == 2
        assert said["agree"] == agree


def test_joined_answers_that_are_no_choices_are_not_graded_by_another_task(parts, tmp_path):
    both = joined(tmp_path, [parts["symbols"], parts["free"]])
    with pytest.raises(UserError, match=r"of 1[01] answers are no choices"):
        asked(both, tmp_path, ask="consistency", samples=2)
    assert not (tmp_path / ".confidence.partial" / "_done").exists()
    assert len(asked(both, tmp_path, content_free=False).table("confidence")) > 6, "other passes do not need a task"


def test_content_free_prompts_are_of_both_forms_and_their_mean_is_by_rows(parts, tmp_path):
    both = joined(tmp_path, [parts["symbols"], parts["names"]])
    free = asked(both, tmp_path).table("content_free")
    assert free["form"].tolist() == ["text"] * len(FILLERS) + ["chat"] * len(FILLERS) + [""]
    assert free["prompt"].str.startswith("<|im_start|>user").tolist() == [False] * 3 + [True] * 3 + [False]
    values = np.asarray(free["confidence"])
    weights = np.repeat([6, 3], len(FILLERS))
    assert values[-1] == pytest.approx(np.average(values[:-1], weights=weights))
    assert abs(values[:3].mean() - values[3:6].mean()) > 0.01


@pytest.mark.parametrize("style", ["plain", "prefix", "chat", "chat_prefix"])
@pytest.mark.parametrize("scoring", ["likelihood", "letters"])
def test_the_answer_token_is_right_in_every_style(tmp_path, style, scoring):
    base = generated(tmp_path, "generate", elements("symbol", style, scoring=scoring), 5)
    rows, model = base.table("generations").set_index("row"), tiny_model("llama", **ROOM)
    for line in asked(base, tmp_path, content_free=False).table("confidence").to_dict("records"):
        own, at = rows.loc[line["row"]], int(line["answer_token"])
        said = json.loads(own["meta"])["letter"] if scoring == "letters" else own["text"]
        upto = model.decode(line["token_ids"][: at + 1])
        assert upto.rstrip().endswith(said)
        behind = model.decode(line["token_ids"][at + 1 : int(line["prompt_len"])])
        assert behind.lstrip().startswith("How sure" if "chat" not in style else "user\nHow sure")


# ---------------------------------------------------------------- whose answers


@pytest.mark.parametrize("task", [None, elements("number", "prefix")])
def test_answers_of_another_model_are_not_appended_as_this_ones(parts, tmp_path, task):
    step = Generate(task=task, n=4 if task else None, split_by="hash", append=("symbols",))
    with pytest.raises(UserError, match="this generation and symbols are of different models"):
        made(step, tmp_path, spec_of(1), "joined", named={"symbols": parts["symbols"]})
    outside = Planning(spec_of(1), 0, {"symbols": Cost()}, weights={"symbols": str(spec_of().facts()["fingerprint"])})
    with pytest.raises(UserError, match="append: symbols is of another model"):
        step.check(outside)


def study_of(steps: list[Any], seed: int = 0) -> dict[str, Any]:
    return {"model": str(tiny_folder("llama", seed, **ROOM)), "device": "cpu", "steps": steps}


def test_another_model_is_refused_by_the_plan_unless_it_is_wanted(tmp_path):
    other = str(tiny_folder("llama", 1, **ROOM))
    steps = [{"generate": {"task": elements("symbol", "plain"), "n": 5}, "model": other}, {"confidence": {}}]
    with pytest.raises(UserError, match=r"another model than .* gave the answers.*another_model: true"):
        gnomon.run_study(study_of(steps), out=tmp_path / "study", log_level="error")
    assert not (tmp_path / "study" / "generate").exists(), "before any work"
    same = [steps[0], {"confidence": {"content_free": False}, "model": other}]
    done = gnomon.run_study(study_of(same), out=tmp_path / "study", log_level="error")
    assert "answered by" not in set(done["confidence"].table("settings")["setting"])


def test_another_models_answers_are_said_to_be_anothers(tmp_path):
    base = generated(tmp_path, "generate", elements("symbol", "plain"), 5)
    with pytest.raises(UserError, match="gave the answers"):
        asked(base, tmp_path, spec_of(1))
    found = asked(base, tmp_path, spec_of(1), another_model=True, content_free=False)
    said = texts_of(found, another_model=True)
    assert "in another model's answers" in said[0][1]
    assert any(kind == "limit" and Path(spec_of().name).name in text for kind, text in said)
    own = asked(base, tmp_path, name="own", content_free=False)
    assert "in its own answers" in texts_of(own)[0][1]
    assert "are right" in texts_of(own)[0][1]
    with pytest.raises(UserError, match="another tokenizer"):
        asked(base, tmp_path / "x", spec_of(0, "gpt2", n_positions=512), another_model=True, ask="consistency")


def test_a_pass_of_another_generation_is_not_joined_by_row():
    nodes = earlier()
    with pytest.raises(UserError, match="given confidence from told, which was made of another generation"):
        resolve(
            "it", Gathering(), {"generations": "base", "confidence": ["self", "told"]}, nodes, lambda text: nodes[0]
        )


def test_activations_of_the_answers_go_before_those_of_passes(tmp_path):
    capture = {"sites": SITE, "positions": ["last", "last_prompt"]}
    base = generated(tmp_path, "generate", elements("symbol", "plain"), 5, capture=capture)
    told = asked(base, tmp_path, content_free=False, capture={"sites": [SITE, "embed"], "positions": ["last"]})
    study = Study(tmp_path)
    np.testing.assert_array_equal(study.activations(f"{SITE}@last").values, base.activations(f"{SITE}@last").values)
    np.testing.assert_array_equal(study.activations(f"{SITE}@last", "confidence").values,
                                  told.activations(f"{SITE}@last").values)  # fmt: skip
    assert len(study.activations("embed@last")) == 5, "only the pass has them"


# ---------------------------------------------------------------- before any work


def test_samples_that_do_not_fit_are_refused(tmp_path):
    base = generated(tmp_path, "generate", elements("symbol", "plain"), 5)
    with pytest.raises(UserError, match="the model reads 512 at most"):
        asked(base, tmp_path, ask="consistency", samples=2, max_new_tokens=500)
    bins = {"texts": ["no", "surely yes " * 60], "midpoints": [0, 100]}
    with pytest.raises(UserError, match="the model reads 512 at most"):
        asked(base, tmp_path, bins=bins, scoring="likelihood", question="Sure?")
