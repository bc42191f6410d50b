"""The step edit: neurons whose cause is planted gain accuracy beyond matched random ones, and others do not."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.causal.editing import EDITS
from gnomon.causal.items import task_items
from gnomon.errors import UserError
from gnomon.interventions.base import JOINED
from gnomon.methods.editing import choose, correlations, factors, matched_sets, strongest
from gnomon.methods.neuron_auroc import AUROC
from gnomon.methods.neuron_ranking import NEURONS
from gnomon.report.resolve import check
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps.edit import Edit
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer
from tests.causal_study import generations, planted, spec
from tests.stepping import data_files, made
from tests.tiny import tiny_model

OPTIONS: dict[str, Any] = {
    "neurons": 6, "coefficients": [0.5, 2.0, 4.0], "max_damage": 50.0, "generate_rows": 8, "draws": 200,
    "unrelated_items": 4, "neutral_texts": 2,
}  # fmt: skip


def neurons_of(folder: Path, association: np.ndarray, name: str = "neurons") -> Artifact:
    """A folder of step neurons for layers 2 and 3: `association [2, 48]` is AUROC - .5, mean |act| as it really is."""
    model = tiny_model("llama")
    prompts = planted()[0][:40]
    found = [model.forward([p], read=["mlp_post.2", "mlp_post.3"]) for p in prompts]
    parts, lines = [], []
    for i, layer in enumerate((2, 3)):
        acts = np.concatenate([f.acts[Site("mlp_post", layer)][0].numpy() for f in found])
        size = np.abs(acts).mean(0)
        base = pd.DataFrame({"layer": layer, "neuron": np.arange(48)})
        parts.append(base.assign(mean_abs=size).reindex(columns=NEURONS.names).fillna(
            {c: 0 for c in NEURONS.names if c.startswith("rank")} | {"selected": False}
        ))  # fmt: skip
        lines.append(base.assign(fit_auroc=0.5 + association[i], n=10).reindex(columns=AUROC.names).fillna(
            {"order": 0, "discovered": False, "confirmed": False}
        ))  # fmt: skip
    writer = Writer(folder, name, name)
    writer.table("neurons", pd.concat(parts), NEURONS)
    writer.table("auroc", pd.concat(lines), AUROC)
    return writer.commit({"step": "neurons", "name": name, "options": {}, "writes": ["neurons"]})


def causes() -> np.ndarray:
    """How much each neuron of the last two layers writes for the right answer, on average: `[2, 48]`."""
    model, (prompts, *_, vector) = tiny_model("llama"), planted()
    out = []
    for layer in (2, 3):
        acts = [model.forward([p], read=[f"mlp_post.{layer}"]).acts[Site("mlp_post", layer)][0, -1] for p in prompts]
        out.append(torch.stack(acts).mean(0).numpy() * (model.weights("W_out", layer).numpy() @ vector))
    return np.stack(out)


@functools.cache
def study() -> tuple[Path, Artifact, Artifact, Artifact]:
    """generate, neurons whose association is their cause, and edit."""
    folder = Path(tempfile.mkdtemp())
    rows, cause = generations(folder), causes()
    known = neurons_of(folder, 0.4 * cause / np.abs(cause).max())
    inputs = {"generations": [rows], "neurons": [known]}
    return folder, rows, known, made(Edit(**OPTIONS), folder, spec(), inputs=inputs)


def again(name: str, extra: dict[str, list[Artifact]] | None = None, **options) -> Artifact:
    folder, rows, known, _ = study()
    inputs = {"generations": [rows], "neurons": [known]} | (extra or {})
    return made(Edit(**(OPTIONS | options)), folder, spec(), name, inputs)


def cell(artifact: Artifact, **where) -> pd.Series:
    table = artifact.table("edits")
    for column, value in ({"split": "test", "control": "", "score": "logprob"} | where).items():
        table = table[table[column] == value]
    assert len(table) == 1, where
    return table.iloc[0]


def test_tables_have_what_was_promised():
    _, rows, _, artifact = study()
    table = artifact.table("edits")
    assert list(table.columns) == EDITS.names
    assert set(table["kind"]) == {"amplify", "suppress", "both"}
    own = table[(table["control"] == "") & (table["split"] == "tune") & (table["metric"] == "net_accuracy")]
    assert len(own) == 3 * 3
    assert own.groupby("kind")["chosen"].sum().tolist() == [1, 1, 1]
    test = table[(table["split"] == "test") & (table["metric"] == "net_accuracy") & (table["score"] == "logprob")]
    assert (test["control"] == "random").sum() == 3 * 19
    n = int((rows.table("generations")["split"] == "test").sum())
    assert (test["n"] == n).all()
    for kind in ("amplify", "suppress", "both"):
        taken = own[(own["kind"] == kind) & own["chosen"]]["coefficient"].iloc[0]
        one = cell(artifact, kind=kind, metric="net_accuracy")
        assert one["coefficient"] == taken
        assert one["ci_low"] <= one["value"] <= one["ci_high"]
        for metric in ("corrected_rate", "corrupted_rate", "neutral_loss_change", "unrelated_accuracy_change"):
            assert np.isfinite(cell(artifact, kind=kind, metric=metric)["value"])
        assert np.isfinite(cell(artifact, kind=kind, metric="accuracy", score="generate")["value"])
    assert [e["split"] for e in artifact.meta["ledger"]] == ["test"]


def test_neurons_that_cause_the_answer_raise_it_beyond_random_ones():
    _, _, _, artifact = study()
    chosen, verdicts = artifact.table("chosen"), artifact.table("verdicts")
    assert set(chosen["sign"]) == {-1, 1}
    one = verdicts[(verdicts["kind"] == "both") & (verdicts["metric"] == "target_logprob_change")].iloc[0]
    assert one["ci_low"] > 0
    assert one["value"] > one["control_high"]
    assert one["p"] <= 0.05
    assert one["verdict"] == "supported"


def test_neurons_chosen_by_noise_do_not():
    folder, rows, _, _ = study()
    found = []
    for seed in range(4):
        noise = np.random.default_rng(seed).normal(size=(2, 48)) * 0.05
        known = neurons_of(folder, noise, f"noise{seed}")
        artifact = made(
            Edit(**(OPTIONS | {"kinds": "both", "generate_rows": 0})), folder, spec(), f"blind{seed}",
            {"generations": [rows], "neurons": [known]},
        )  # fmt: skip
        verdicts = artifact.table("verdicts")
        found += verdicts.loc[verdicts["metric"] == "target_logprob_change", "verdict"].tolist()
    assert found.count("supported") <= 1


def test_an_edit_is_what_a_hook_of_our_own_does():
    _, rows, _, artifact = study()
    model, chosen = tiny_model("llama"), artifact.table("chosen")
    table = rows.table("generations")
    test = table[table["split"] == "test"].sort_values(["example_index", "row"])
    items = task_items(test, JOINED, model.encode_text, model.decode)
    c = float(cell(artifact, kind="both", metric="net_accuracy")["coefficient"])

    def score(item, edited: bool) -> float:
        handles = []
        for layer, part in chosen.groupby("layer") if edited else ():
            by = torch.tensor(1 + c * part["sign"].to_numpy(), dtype=torch.float32)
            at = torch.tensor(part["neuron"].to_numpy())

            def hook(module, args, at=at, by=by):
                x = args[0].clone()
                x[:, item.keep :, at] *= by
                return (x,)

            handles.append(model.body.part(layer, "down_proj").register_forward_pre_hook(hook))
        try:
            with torch.no_grad():
                logp = model.hf(torch.tensor([item.tokens])).logits[0].float().log_softmax(-1)
        finally:
            for handle in handles:
                handle.remove()
        return sum(float(logp[t - 1, item.tokens[t]]) for t in range(item.score_from, len(item.tokens)))

    change = np.mean([score(i, True) - score(i, False) for i in items])
    assert cell(artifact, kind="both", metric="target_logprob_change")["value"] == pytest.approx(change, abs=1e-3)


def test_second_order_scores_choose_by_their_correlation_with_the_label():
    folder, rows, *_ = study()
    table = rows.table("generations")
    labels = table["label"].to_numpy(dtype=bool)
    scores = np.random.default_rng(0).normal(size=(1, len(table), 48)) * 0.1
    scores[0, :, 11] += labels
    scores[0, :, 30] -= 2 * labels
    scores[0, np.asarray(table["split"] != "fit"), 7] += 9 * labels[np.asarray(table["split"] != "fit")]
    writer = Writer(folder, "second", "second")
    writer.table("rows", pd.DataFrame({"index": range(len(table)), "split": table["split"], "label": labels}))
    writer.table("neurons", pd.DataFrame({"layer": 2, "neuron": [7, 11, 30], "slot": [0, 1, 2]}))
    writer.array("scores_layer2", scores.astype(np.float32))
    second = writer.commit({"step": "second_order", "name": "second", "options": {}, "writes": ["second_order"]})
    artifact = again("by_score", {"second_order": [second]}, by="second_order", neurons=2, generate_rows=0)
    chosen = artifact.table("chosen").sort_values("order")
    assert chosen["neuron"].tolist() == [30, 11]  # 7 tells only rows of tune and test
    assert chosen["sign"].tolist() == [-1, 1]
    assert set(artifact.table("edits")["kind"]) == {"amplify", "suppress", "both"}


def test_one_sided_neurons_leave_the_other_kinds_out():
    folder, rows, *_ = study()
    known = neurons_of(folder, np.abs(causes()) * 0.1, "onesided")
    options = OPTIONS | {"generate_rows": 0}
    artifact = made(Edit(**options), folder, spec(), "up", {"generations": [rows], "neurons": [known]})
    assert set(artifact.table("edits")["kind"]) == {"amplify"}
    with pytest.raises(UserError, match="no neuron of a sign"):
        made(Edit(**(options | {"kinds": "suppress"})), folder, spec(), "down",
             {"generations": [rows], "neurons": [known]})  # fmt: skip


def test_same_seed_same_files():
    assert data_files(again("twice")) == data_files(study()[3])


@pytest.mark.parametrize("rows", [0, 8])
def test_the_section_resolves(rows):
    artifact = study()[3] if rows else again("short", generate_rows=0, kinds="amplify")
    section = make_section(artifact, {}, strict=True)
    assert check(Edit(**OPTIONS).summary(artifact), artifact) == []
    headlines = [sentence.text for sentence in section.sentences("headline")]
    assert len(headlines) == (3 if rows else 1)
    assert all("{" not in h and "random neurons" in h for h in headlines)


def test_matched_sets_are_alike_and_apart():
    rng = np.random.default_rng(0)
    every = pd.DataFrame({"layer": np.repeat([4, 9], 300), "neuron": np.tile(np.arange(300), 2)})
    every["mean_abs"] = rng.gamma(0.5, 2.0, 600)
    chosen = every.sort_values("mean_abs").iloc[[-60, -30, 300, 301, 5]].reset_index(drop=True)
    sets = matched_sets(chosen, every, 25, 0)
    size = every.set_index(["layer", "neuron"])["mean_abs"]
    for found in sets:
        pairs = list(zip(chosen["layer"], found, strict=True))
        assert len(set(pairs)) == 5
        assert not set(pairs) & set(zip(chosen["layer"], chosen["neuron"], strict=True))
    mean = np.mean([[size[pair] for pair in zip(chosen["layer"], f, strict=True)] for f in sets], axis=0)
    blind = every["mean_abs"].mean()
    assert np.abs(mean - chosen["mean_abs"]).sum() < 0.3 * np.abs(blind - chosen["mean_abs"]).sum()
    assert len({tuple(f) for f in sets}) > 20
    with pytest.raises(UserError, match="at most half"):
        matched_sets(every.head(200), every, 19, 0)


def test_factors_and_the_choice_of_a_coefficient():
    sign = np.array([1, -1, 1])
    assert factors(sign, "amplify", 0.5).tolist() == [1.5, 1.0, 1.5]
    assert factors(sign, "suppress", 0.5).tolist() == [1.0, 0.5, 1.0]
    assert factors(sign, "both", 2.0).tolist() == [3.0, -1.0, 3.0]
    sizes, logprob = [0.5, 1.0, 2.0], np.array([0.1, 0.3, 0.2])
    assert choose(sizes, np.array([0.1, 0.1, 0.5]), logprob, np.array([0.0, 0.05, 0.3]), 0.1) == 1
    assert choose(sizes, np.array([0.2, 0.1, 0.5]), logprob, np.array([0.0, 0.05, 0.3]), 0.1) == 0
    assert choose(sizes, np.zeros(3), np.zeros(3), np.zeros(3), 0.1) == 0
    assert choose(sizes, np.array([0.1, 0.1, 0.5]), logprob, np.array([0.4, 0.2, 0.3]), 0.1) == 1


def test_correlations_and_the_strongest():
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=(30, 4)), rng.random(30) < 0.5
    scores[:, 2] = 3.0
    found = correlations(scores, labels)
    for i in (0, 1, 3):
        assert found[i] == pytest.approx(np.corrcoef(scores[:, i], labels)[0, 1])
    assert found[2] == 0
    with pytest.raises(UserError, match="one label"):
        correlations(scores, np.ones(30, dtype=bool))
    table = pd.DataFrame({"layer": 1, "neuron": range(4), "association": found, "mean_abs": 1.0})
    assert len(strongest(table, 9)) == 3
    with pytest.raises(UserError, match="any association"):
        strongest(table.assign(association=0.0), 2)


def test_mistakes_are_named():
    plan = Planning(spec(), 0, {"generations": Cost(rows=150, splits={"fit": 60, "tune": 30, "test": 60})})
    Edit(**OPTIONS).check(plan)
    assert Edit(**OPTIONS).cost(plan).forward_tokens > 0
    for options, match in (
        ({"kinds": []}, "one or more of amplify"), ({"sweep_controls": 20}, "at most as many"),
        ({"by": "second_order"}, "earlier step second_order"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=match):
            Edit(**options).check(plan)
    with pytest.raises(UserError, match="sizes above 0"):
        Edit(coefficients=(0.0, 1.0))
    with pytest.raises(UserError, match="unknown place"):
        Edit(where="lastprompt")
    with pytest.raises(UserError, match="rows in split 'tune'"):
        Edit().check(Planning(spec(), 0, {"generations": Cost(splits={"fit": 60, "test": 60})}))
    with pytest.raises(UserError, match="auroc: none"):
        Edit().check(Planning(spec(), 0, {}, {"neurons": {"auroc": "none"}}))
    folder, rows, known, _ = study()
    table = known.table("neurons")
    for column, name in (("layer", "deep"), ("neuron", "wide")):
        writer = Writer(folder, name, name)
        writer.table("neurons", table.assign(**{column: table[column] + 40}), NEURONS)
        other = writer.commit({"step": "neurons", "name": name, "options": {}, "writes": ["neurons"]})
        with pytest.raises(UserError, match="48 neurons in 4 layers"):
            made(Edit(**OPTIONS), folder, spec(), f"e{name}", {"generations": [rows], "neurons": [other]})
