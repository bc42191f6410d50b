"""layer_ablation: a component whose loss is planted ranks first; zero, mean and noise are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gnomon.causal.items import task_items
from gnomon.errors import UserError
from gnomon.interventions.base import JOINED
from gnomon.report.sections import make_section
from gnomon.step import Planning
from gnomon.steps.layer_ablation import LAYERS, SELECTED, LayerAblation
from gnomon.store import Artifact
from gnomon.types import Site
from tests import causal_study
from tests.stepping import made
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("layers")
    causal_study.generations(root)
    return root


def run(study: Path, name: str = "layer_ablation", **options) -> Artifact:
    options = {"fit_rows": 12, "draws": 400} | options
    inputs = {"generations": [Artifact(study / "generate")]}
    return made(LayerAblation(**options), study, causal_study.spec(), name, inputs)


@pytest.fixture(scope="module")
def ranked(study) -> Artifact:
    return run(study, "ranked", top_k=2)


def _tune(artifact: Artifact) -> int:
    return int((Artifact(artifact.path.parent / "generate").table("generations")["split"] == "tune").sum())


def test_tables_have_what_was_promised(ranked):
    layers, selected = ranked.table("layers"), ranked.table("selected")
    assert list(layers.columns) == LAYERS.names
    assert list(selected.columns) == SELECTED.names
    found = layers[layers["control"] == ""]
    assert len(found) == 4 * 2 * 2 * 2  # layers, components, modes, metrics
    assert (found["n"] == _tune(ranked)).all()
    assert (found["split"] == "tune").all()
    for _, part in found[found["metric"] == "target_logprob"].groupby(["component", "mode"]):
        by_change = part.sort_values("change")
        assert by_change["rank"].tolist() == [1, 2, 3, 4]
        assert (by_change["ci_low"] <= by_change["change"]).all()
        assert (by_change["change"] <= by_change["ci_high"]).all()
        assert np.allclose(by_change["ablated"] - by_change["base"], by_change["change"])
    for component in ("attn", "mlp"):
        here = found[(found["component"] == component) & (found["metric"] == "target_logprob")]
        top = here[here["mode"] == "mean"].sort_values("change")["layer"].tolist()[:2]
        assert selected[selected["component"] == component]["layer"].tolist() == top
    noise = layers[layers["control"] == "noise"]
    assert set(zip(noise["component"], noise["layer"], strict=True)) == set(
        zip(selected["component"], selected["layer"], strict=True)
    )


@pytest.mark.parametrize("where", [JOINED, "all"])
def test_changes_equal_those_of_ablating_by_hand(study, where):
    """One layer, zero and mean, by hooks of our own on the Hugging Face module, one text at a time."""
    model = tiny_model("llama")
    artifact = run(study, f"hand{len(where)}", where=where, components="mlp", top_k=1)
    table = Artifact(study / "generate").table("generations")
    tune = table[table["split"] == "tune"].sort_values(["example_index", "row"])
    items = task_items(tune, where, model.encode_text, model.decode)

    def score(item, replace) -> float:
        def hook(module, args, out):
            out = out.clone()
            out[:, item.keep :] = replace
            return out

        handle = model.body.blocks[1].mlp.register_forward_hook(hook) if replace is not None else None
        try:
            with torch.no_grad():
                logp = model.hf(torch.tensor([item.tokens])).logits[0].float().log_softmax(-1)
        finally:
            if handle is not None:
                handle.remove()
        return sum(float(logp[t - 1, item.tokens[t]]) for t in range(item.score_from, len(item.tokens)))

    base = np.array([score(i, None) for i in items])
    zero = np.array([score(i, 0.0) for i in items])
    layers = artifact.table("layers")
    cell = layers[(layers["layer"] == 1) & (layers["mode"] == "zero") & (layers["metric"] == "target_logprob")].iloc[0]
    assert cell["base"] == pytest.approx(base.mean(), abs=1e-4)
    assert cell["change"] == pytest.approx((zero - base).mean(), abs=1e-4)


def test_a_planted_layer_ranks_first(study):
    """The one MLP that writes the right answer's direction costs the answer most; nothing else was touched."""
    from gnomon.model_spec import _LOADED

    spec = causal_study.spec()
    model = spec.load()
    linear = model.body.part(2, "down_proj")
    old = linear.bias.detach().clone()
    *_, vector = causal_study.planted()
    try:
        with torch.no_grad():
            linear.bias += 40 * torch.tensor(vector / np.linalg.norm(vector), dtype=linear.bias.dtype)
        artifact = run(study, "planted_layer", components="mlp", modes="zero", rank_by="zero", top_k=1)
    finally:
        with torch.no_grad():
            linear.bias.copy_(old)
        _LOADED.clear()
    selected = artifact.table("selected").iloc[0]
    assert (selected["layer"], selected["component"]) == (2, "mlp")
    assert selected["change"] < 0
    assert selected["ci_high"] < 0
    assert selected["q"] <= 0.05


def test_the_mean_is_of_unmasked_edited_fit_tokens(study):
    from gnomon.causal.measure import component_means
    from gnomon.step import Context

    model = tiny_model("llama")
    table = Artifact(study / "generate").table("generations")
    fit = table[table["split"] == "fit"]
    site = Site("mlp_out", 1)
    ctx = Context(study, causal_study.spec())
    found = component_means(ctx, fit, [site], "last_prompt", len(fit), 7)[site]
    values = np.stack([
        model.forward([list(map(int, ids))], read=[site]).acts[site][0, int(p) - 1].numpy()
        for ids, p in zip(fit["token_ids"], fit["prompt_len"], strict=True)
    ])  # fmt: skip
    every = np.concatenate([
        model.forward([list(map(int, ids))], read=[site]).acts[site][0].numpy() for ids in fit["token_ids"]
    ])  # fmt: skip
    small = np.linalg.norm(values, axis=1) <= 5 * np.median(np.linalg.norm(every, axis=1))
    assert np.allclose(found, values[small].mean(0), atol=1e-4)


def test_the_section_of_the_report_is_made_whole(ranked):
    section = make_section(ranked, {}, strict=True)
    headlines = [sentence.text for sentence in section.sentences("headline")]
    assert len(headlines) == 2
    assert all("95%" in h and "noise of the same norm" in h and "{" not in h for h in headlines)


def test_mistakes_are_named():
    plan = Planning(causal_study.spec(), 0, {})
    with pytest.raises(UserError, match="one of modes: zero"):
        LayerAblation(modes="zero", rank_by="mean").check(plan)
    with pytest.raises(UserError, match="unknown place"):
        LayerAblation(where="lastprompt")
    assert LayerAblation().cost(plan).forward_tokens > 0
