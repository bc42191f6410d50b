"""neuron_ablation: a neuron that carries the answer is found, one that does not is not; model edits equal hand-made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.causal.items import task_items
from gnomon.errors import UserError
from gnomon.methods.ablation_rows import ABLATIONS, COMPARED, CURVE
from gnomon.report.sections import make_section
from gnomon.step import Cost, Planning
from gnomon.steps.neuron_ablation import NeuronAblation
from gnomon.store import Artifact
from tests import causal_study
from tests.second_order_more import carried, effects, made_pca, made_text
from tests.stepping import data_files, made
from tests.tiny import tiny_model

QUICK = {"draws": 400, "fit_rows": 12, "model_rows": 24, "curve_controls": 2}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ablation")
    causal_study.generations(root)
    made_pca(root, carried(root))
    made_text(root, Artifact(root / "pca"))
    made_pca(root, carried(root, idle=True, name="idle"), "idle_pca")
    return root


def run(study: Path, name: str, source: str = "second_order", pca: str = "pca", **options) -> Artifact:
    inputs = {"second_order": [Artifact(study / source)], "pca": [Artifact(study / pca)],
              "generations": [Artifact(study / "generate")]}  # fmt: skip
    if source == "second_order":
        inputs["text"] = [Artifact(study / "text_decomposition")]
    return made(NeuronAblation(**(QUICK | options)), study, causal_study.spec(), name, inputs)


@pytest.fixture(scope="module")
def planted(study) -> Artifact:
    return run(study, "planted")


@pytest.fixture(scope="module")
def idle(study) -> Artifact:
    return run(study, "null", "idle", "idle_pca", spaces="output")


def one(table: pd.DataFrame, **where) -> pd.Series:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, (where, len(table))
    return table.iloc[0]


def cell(artifact: Artifact, condition: str, metric: str = "accuracy", space: str = "output") -> pd.Series:
    return one(artifact.table("ablations"), space=space, condition=condition, metric=metric)


def test_a_neuron_that_carries_the_answer_is_found(planted):
    """A third of the rows need neuron 0: without it they say B; its component, or its significant rows, keep it."""
    full = cell(planted, "full")
    assert full["base"] == 1.0
    assert full["change"] == pytest.approx(-1 / 3, abs=0.02)
    assert full["ci_high"] < 0
    assert full["p"] < 0.01
    assert cell(planted, "significant")["change"] == pytest.approx(full["change"])
    assert cell(planted, "insignificant")["change"] == 0
    for condition in ("rank1", "text", "insignificant"):
        assert cell(planted, condition)["recovered"] == 1.0, condition
    random = cell(planted, "random_direction")
    assert random["highest"] < -0.2
    assert random["draws"] == 19
    compared = planted.table("compared")
    for condition, control in (("rank1", "random_direction"), ("significant", "random_pairs")):
        found = one(compared, space="output", condition=condition, metric="target_logprob")
        assert (found["control"], found["verdict"], found["controls"]) == (control, "supported", 19)
        assert found["p"] == pytest.approx(1 / 20)
    assert one(compared, space="output", condition="rank1", metric="accuracy")["excess"] > 0.2
    assert one(compared, space="output", condition="significant", metric="accuracy")["excess"] < -0.2


def test_without_such_a_neuron_nothing_is_claimed(idle):
    full = cell(idle, "full")
    assert full["change"] == 0
    assert full["ci_low"] < 0 < full["ci_high"]
    assert idle.table("ablations").query("space == 'output' and metric == 'accuracy'")["recovered"].isna().all()
    logprob = idle.table("ablations").query("metric == 'target_logprob' and control == ''")
    assert logprob["change"].abs().max() < 0.01


def test_the_curve_is_of_tune_and_its_choice_is_measured_on_test(planted):
    curve = planted.table("curve")
    assert set(curve["split"]) == {"tune"}
    assert list(curve.columns) == CURVE.names
    own = curve[(curve["series"] == "largest effects kept") & (curve["metric"] == "accuracy")].set_index("cut")
    assert own.loc[0.0, "change"] == pytest.approx(-1 / 3, abs=0.03)
    assert own.loc[1.0, "change"] == 0
    assert own["change"].is_monotonic_increasing
    chosen = own[own["chosen"]]
    assert len(chosen) == 1
    share = float(chosen.index[0])
    assert 0.3 <= share <= 0.5
    facts = planted.table("facts").set_index("fact")["value"]
    assert facts["smallest share"] == share
    assert cell(planted, f"kept {share:g}")["change"] == 0
    random = curve[(curve["series"] == "random rows kept") & (curve["metric"] == "accuracy")].set_index("cut")
    assert random.loc[share, "change"] < -0.05


def test_tables_have_what_was_promised(planted):
    rows = planted.table("ablations")
    assert list(rows.columns) == ABLATIONS.names
    assert list(planted.table("compared").columns) == COMPARED.names
    assert set(rows["space"]) == {"output", "model"}
    assert {"full", "significant", "insignificant", "rank1", "text", "layer 1", "layer 2", "whole layers",
            "random_pairs", "random_direction"} <= set(rows[rows["space"] == "output"]["condition"])  # fmt: skip
    assert set(rows[rows["space"] == "model"]["condition"]) == {
        "full",
        "significant",
        "insignificant",
        "random_neurons",
        "random_pairs",
    }
    assert not rows.duplicated(["space", "condition", "metric"]).any()
    assert (rows["ci_low"] <= rows["change"] + 1e-12).all()
    assert (rows["change"] <= rows["ci_high"] + 1e-12).all()
    assert np.allclose(rows["value"] - rows["base"], rows["change"])
    assert [(e["split"], e["rows"]) for e in planted.meta["ledger"]] == [("test", 68)]


def test_projections_and_layers_are_those_of_the_vectors(study, planted):
    source = Artifact(study / "second_order")
    rows = source.table("rows")
    fit, test = (np.flatnonzero(rows["split"] == s) for s in ("fit", "test"))
    u = source.directions()[0].vector.astype(np.float64)
    u /= np.linalg.norm(u)
    phi = effects(source)
    change = (phi[:, fit].mean(1)[:, None] - phi[:, test]).sum(0) @ u
    assert cell(planted, "full", "projection")["change"] == pytest.approx(change.mean(), abs=1e-5)
    layer = np.array(source.array("layer_effect_layer2"), dtype=np.float64) @ u
    assert cell(planted, "layer 2", "projection")["change"] == pytest.approx(
        layer[fit].mean() - layer[test].mean(), abs=1e-5
    )


def test_in_the_model_it_equals_replacing_activations_by_hand(study, planted):
    """full and significant, one text at a time, by hooks of our own on the Hugging Face modules."""
    from gnomon.causal.measure import component_means
    from gnomon.step import Context
    from gnomon.types import Site

    model, source = tiny_model("llama"), Artifact(study / "second_order")
    generations = Artifact(study / "generate").table("generations")
    generations = generations.set_index(generations["row"].rename(None))
    fit = generations[generations["split"] == "fit"]
    neurons = source.table("neurons")
    sites = [Site("mlp_post", layer) for layer in (1, 2)]
    means = component_means(Context(study, causal_study.spec()), fit, sites, "all", 12, 16)
    phi = effects(source)
    fits = np.asarray(source.table("rows")["split"] == "fit")
    norm = np.linalg.norm(phi - phi[:, fits].mean(1)[:, None], axis=2)
    passed = norm >= np.sort(norm[:, fits], axis=1)[:, -20][:, None]
    found = pd.concat([pd.read_parquet(p) for p in sorted((planted.path / "outcomes").glob("*.parquet"))])
    units = sorted(set(found["unit"]))
    assert len(units) == 24
    items = {i.unit: i for i in task_items(generations.loc[units], "all", model.encode_text, model.decode)}

    def score(unit: int, mask: np.ndarray) -> float:
        handles = []
        for site in sites:
            own = neurons[neurons["layer"] == site.layer]
            ids = own["neuron"].to_numpy()[mask[own["index"]]]

            def hook(module, args, ids=ids, mean=means[site]):
                x = args[0].clone()
                x[:, :, ids] = torch.tensor(mean[ids], dtype=x.dtype)
                return (x, *args[1:])

            handles.append(model.body.part(site.layer, "down_proj").register_forward_pre_hook(hook))
        item = items[unit]
        try:
            with torch.no_grad():
                logp = model.hf(torch.tensor([item.tokens])).logits[0].float().log_softmax(-1)
        finally:
            for handle in handles:
                handle.remove()
        return sum(float(logp[t - 1, item.tokens[t]]) for t in range(item.score_from, len(item.tokens)))

    every = np.ones(len(neurons), dtype=bool)
    for name in ("clean", "full", "significant", "insignificant"):
        got = found[found["condition"] == name].set_index("unit")["logprob"]
        for unit in units[::5]:
            own = passed[:, unit]
            mask = {"clean": ~every, "full": every, "significant": own, "insignificant": ~own}[name]
            assert got[unit] == pytest.approx(score(unit, mask), abs=1e-4), (name, unit)
    moved = found.pivot(index="unit", columns="condition", values="logprob")
    assert (moved["full"] - moved["clean"]).abs().max() > 0.01
    assert len([c for c in moved if c.startswith("random_neurons")]) == 19
    assert moved.filter(like="random_neurons").std(axis=1).max() > 0.001


def test_it_runs_again_to_the_same_bytes(study, planted):
    assert data_files(run(study, "again")) == data_files(planted)


@pytest.mark.parametrize("which", ["planted", "idle"])
def test_the_section_of_the_report_is_made_whole(which, request):
    section = make_section(request.getfixturevalue(which), {}, strict=True)
    headlines = [s.text for s in section.sentences("headline")]
    assert len(headlines) == (2 if which == "planted" else 1)
    assert all("95%" in h and "test rows" in h and "{" not in h for h in headlines)
    assert any("first answer token" in s.text for s in section.sentences("limit"))
    if which == "planted":
        assert any("beyond what random directions" in s.text for s in section.sentences("control"))
        assert "give back 100.0%" in " ".join(s.text for s in section.sentences("text"))
    else:
        assert any("No recovered fraction" in s.text for s in section.sentences("warning"))


def test_mistakes_are_named(study):
    plan = Planning(causal_study.spec(), 0, {"second_order": Cost()})
    with pytest.raises(UserError, match="spaces: output"):
        NeuronAblation().check(plan)
    NeuronAblation(spaces="output").check(plan)
    thin = Planning(causal_study.spec(), 0, {"generations": Cost(splits={"fit": 5, "tune": 1})})
    with pytest.raises(UserError, match="split 'test'"):
        NeuronAblation().check(thin)
    assert NeuronAblation().cost(plan).forward_tokens > NeuronAblation(spaces="output").cost(plan).forward_tokens == 0
    with pytest.raises(UserError, match="numbers from 0 to 1"):
        NeuronAblation(shares=(0.1, 2.0))
    short = made_pca(study, Artifact(study / "second_order"), "short")
    np.save(short.path / "pca.npy", np.array(short.array("pca"))[:3])
    with pytest.raises(UserError, match="pca has 3 neurons and second_order 12"):
        run(study, "refused", pca="short", spaces="output")
