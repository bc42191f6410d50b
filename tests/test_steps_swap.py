"""swap as a step: the pass is asked again as it was asked, the cost is what is run, a killed step resumes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon.causal.pick import first, pick
from gnomon.causal.swap import Swapper
from gnomon.causal.swap_items import SWAPS
from gnomon.cli_show import sentences
from gnomon.errors import UserError
from gnomon.models.body import Body
from gnomon.report.resolve import check
from gnomon.step import Cost, ModelSpec, Planning
from gnomon.steps.confidence import Confidence
from gnomon.steps.generate import Generate
from gnomon.steps.swap import Swap
from gnomon.store import Artifact
from tests.stepping import data_files, made
from tests.tiny import tiny_folder

FEW: dict[str, Any] = {"pairs": 4, "test_pairs": 3, "draws": 200, "least_gap": 1e-6, "share": 0.5, "shard_pairs": 2,
                       "stride": 2}  # fmt: skip
PASSES: dict[str, dict[str, Any]] = {
    "both": {"question": "Sure?"},
    "turned": {"orders": "reversed", "bins": {"texts": ["no", "maybe", "yes"], "midpoints": [5, 50, 95]}},
    "likely": {"scoring": "likelihood", "normalise": "chars", "question": "Sure?",
               "bins": {"texts": ["no", "a little", "yes, very"], "midpoints": [5, 50, 95]}},
    "alone": {"context": "alone", "ask": "p_true"},
}  # fmt: skip


def spec() -> ModelSpec:
    return ModelSpec(str(tiny_folder("llama", max_position_embeddings=1024)), device="cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("swap")
    made(Generate(task="tests.own_tasks:Letters", n=48, max_new_tokens=3), root, spec())
    return root


def told(study: Path, name: str) -> Artifact:
    """One pass, made once."""
    if not (study / name / "meta.json").exists():
        step = Confidence(**({"ask": "self", "content_free": False} | PASSES[name]))
        made(step, study, spec(), name, {"generations": [Artifact(study / "generate")]})
    return Artifact(study / name)


def run(study: Path, using: str, name: str, **options: Any) -> Artifact:
    inputs = {"generations": [Artifact(study / "generate")], "confidence": [told(study, using)]}
    return made(Swap(using=using, **(FEW | options)), study, spec(), name, inputs)


RAN: dict[str, float] = {}
"""Forward tokens of the swap of each pass."""


def swapped(study: Path, using: str) -> Artifact:
    """The swap of one pass, made once, its forward tokens counted: tokens x blocks run / blocks."""
    name, own = f"swap_{using}", Body.run
    if not (study / name / "meta.json").exists():
        told(study, using)
        RAN[using] = 0.0

        def counting(self: Body, x: Any, layout: Any, taps: Any = None, first: int = 0, stop: Any = None, *more: Any,
                     **named: Any) -> Any:  # fmt: skip
            blocks = (len(self.blocks) if stop is None else stop) - first
            RAN[using] += sum(layout.counts) * blocks / len(self.blocks)
            return own(self, x, layout, taps, first, stop, *more, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Body, "run", counting)
            run(study, using, name)
    return Artifact(study / name)


@pytest.mark.parametrize("using", PASSES)
def test_the_pass_is_asked_again_as_it_was(study: Path, using: str):
    artifact = swapped(study, using)
    assert first(artifact.table("facts"), fact="rebuilt")["value"] < 1e-5
    swaps = artifact.table("swaps")
    assert list(swaps.columns) == SWAPS.names
    stated = pick(swaps, measure="confidence", position="confidence")
    last = pick(stated, layer=3)
    same = np.allclose(last["after"], last["donor_value"], atol=1e-5)
    assert same == (using != "likely"), "the last layer holds the outcome, but for texts that read on in the recipient"
    assert np.abs(stated["after"] - stated["before"]).max() > 1e-5
    places = {"confidence", "random", "last_prompt", "answer"}
    assert set(swaps["position"]) == (places - {"answer"} if using == "alone" else places)
    own = Artifact(study / "generate").table("generations").set_index("row")
    answered = pick(swaps, measure="answer")
    for line in answered.head(3).to_dict("records"):
        row = own.loc[line["recipient"]]
        end = int(row["answer_token"]) + 1 - int(row["prompt_len"])
        assert line["before"] == pytest.approx(float(np.exp(np.mean(row["logprobs"][:end]))), rel=1e-3)
    pairs = artifact.table("pairs").merge(told(study, using).table("confidence")[["row", "confidence"]],
                                          left_on="high", right_on="row")  # fmt: skip
    assert np.allclose(pairs["high_confidence"], pairs["confidence"])
    split = dict(zip(own.index, own["split"], strict=True))
    for name, some in (("sweep", {"fit", "tune"}), ("test", {"test"})):
        part = pick(artifact.table("pairs"), set=name)
        everybody = part[["high", "low", "high_control", "low_control"]].to_numpy().ravel()
        assert {split[row] for row in everybody} <= some
        assert len(set(everybody)) == len(everybody) > 0
    assert check(Swap(using=using).summary(artifact), artifact) == []
    said = " ".join(text for _, text in sentences(artifact))
    assert using == "likely" or "Stated confidence hardly spreads" in said, "a random model is as sure of all"
    assert "pairs of test no p under" in said
    assert [line["split"] for line in artifact.meta["ledger"]] == ["test"]


def test_test_sees_one_layer_a_position(study: Path):
    effects = swapped(study, "both").table("effects")
    tested = pick(effects, set="test", kind="excess", way="both")
    for position in ("answer", "confidence", "last_prompt"):
        assert len(pick(tested, position=position)) == 1
    assert set(pick(effects, set="sweep")["layer"]) == {1, 3}


def test_with_one_order_its_own_confidence_counts(study: Path):
    artifact = run(study, "both", "first_order", orders="first", positions="confidence", answer=False)
    assert first(artifact.table("facts"), fact="rebuilt")["value"] < 1e-5
    normal = told(study, "both").table("confidence").set_index("row")["normal"]
    pairs = artifact.table("pairs")
    assert np.allclose(pairs["high_confidence"], normal.loc[pairs["high"]])
    assert np.isfinite(artifact.table("effects")["value"].to_numpy(dtype=float)).all()


def test_killed_and_resumed_it_is_the_same(study: Path, monkeypatch):
    whole = swapped(study, "both")
    calls, work = [], Swapper.__call__

    def dying(self: Swapper, shard: Any) -> None:
        calls.append(shard[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        work(self, shard)

    monkeypatch.setattr(Swapper, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        run(study, "both", "broken")
    again = run(study, "both", "broken")
    assert calls == [0, 1, 2, 2, 3], "finished shards are not made again"
    assert data_files(again) == data_files(whole)


@pytest.mark.parametrize("using", ["both", "likely"])
def test_the_cost_is_what_is_run(study: Path, using: str):
    swapped(study, using)
    base, asked = (Artifact(study / n).table(t) for n, t in (("generate", "generations"), (using, "confidence")))
    prompts = int(np.sum(base["prompt_len"].to_numpy()))
    said = sum(len(ids) for ids in base["token_ids"]) - prompts
    splits = {"fit": 24, "tune": 5, "test": 19}
    sources = {
        "generations": Cost(len(base), prompts, said, splits=splits),
        using: Cost(len(asked), int(np.sum(asked["prompt_len"].to_numpy())), len(asked), splits=splits),
    }
    cost = Swap(using=using, **FEW).cost(Planning(spec(), 0, sources, {using: told(study, using).options}))
    assert 0.6 < cost.forward_tokens / RAN[using] < 1.6
    assert cost.rows == 14


def planning(options: dict[str, Any], weights: dict[str, str] | None = None, **splits: int) -> Planning:
    cost = Cost(100, 10_000, 300, splits=splits or {"fit": 50, "tune": 10, "test": 40})
    inputs = {"generations": cost, "confidence": cost, "self": cost}
    return Planning(spec(), 0, inputs, {"confidence": options, "self": options}, weights or {})


def test_what_cannot_be_swapped_is_refused_before_any_work(study: Path):
    with pytest.raises(UserError, match="asks for verbalised"):
        Swap().check(planning({"ask": "verbalised"}))
    with pytest.raises(UserError, match="asked alone"):
        Swap(positions=("answer",)).check(planning({"ask": "self", "context": "alone"}))
    Swap().check(planning({"ask": "self", "context": "alone"}))
    with pytest.raises(UserError, match="0 rows in split test; 14 or more for two pairs"):
        Swap().check(planning({"ask": "self"}, fit=25, tune=5))
    with pytest.raises(UserError, match="10 rows in split fit or tune"):
        Swap().check(planning({"ask": "self"}, fit=5, tune=5, test=30))
    with pytest.raises(UserError, match="'slef'"):
        Swap(using="slef").check(planning({"ask": "self"}))
    with pytest.raises(UserError, match="answer, confidence, or both"):
        Swap(positions=("random",))
    with pytest.raises(UserError, match="no_pass"):
        made(Swap(using="no_pass"), study, spec(), "refused",
             {"generations": [Artifact(study / "generate")], "confidence": [told(study, "both")]})  # fmt: skip


def test_another_model_than_that_which_was_asked_is_refused(study: Path):
    own = str(spec().facts()["fingerprint"])
    Swap().check(planning({"ask": "self"}, {"self": own, "generations": own}))
    with pytest.raises(UserError, match="another model than that of self"):
        Swap().check(planning({"ask": "self"}, {"self": "other", "generations": own}))
    with pytest.raises(UserError, match="of generations"):
        Swap().check(planning({"ask": "self"}, {"self": own, "generations": "other"}))
    Swap(answer=False).check(planning({"ask": "self"}, {"self": own, "generations": "other"}))
    other = ModelSpec(str(tiny_folder("gpt2", n_positions=1024)), device="cpu")
    with pytest.raises(UserError, match="another model than that of both"):
        made(Swap(using="both"), study, other, "refused",
             {"generations": [Artifact(study / "generate")], "confidence": [told(study, "both")]})  # fmt: skip


def test_few_rows_are_said_before():
    step, plan = Swap(share=0.3), planning({"ask": "self"}, fit=50, tune=10, test=30)
    assert step.cost(plan).rows == 2 * (9 + 4)
    assert step.cost(plan).notes == ("4 pairs of test: no verdict under 6",)


def test_a_pass_of_another_generation_is_refused(study: Path, tmp_path: Path):
    other = made(Generate(task="tests.own_tasks:Letters", n=20, max_new_tokens=2), tmp_path, spec())
    with pytest.raises(UserError, match=r"other (rows|questions)"):
        made(Swap(using="both"), tmp_path, spec(), "swap",
             {"generations": [other], "confidence": [told(study, "both")]})  # fmt: skip


def test_layers_count_back_from_the_last():
    assert Swap(stride=4).layers(30) == (1, 5, 9, 13, 17, 21, 25, 29)
    assert Swap().layers(30) == Swap(stride=4).layers(30)
    assert Swap(stride=1).layers(3) == (0, 1, 2)
    assert Swap().layers(4) == (0, 1, 2, 3)
