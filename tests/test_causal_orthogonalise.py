"""Orthogonalising by edits equals orthogonalising the weights, in every family that writes differently."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.interventions.orthogonalise import Orthogonalise, everywhere, gains_of
from gnomon.models.sources import load_model
from gnomon.types import Site
from tests.tiny import tiny_folder, tiny_model, tiny_prompts


def with_changed_weights(family: str, u: np.ndarray):
    """The model whose every output matrix and bias lost u: really changed, tied weights untied first."""
    from transformers.pytorch_utils import Conv1D

    model = load_model(str(tiny_folder(family)), device="cpu", check=False)
    unit = torch.tensor(u / np.linalg.norm(u), dtype=torch.float32)
    keep = torch.eye(model.d_model) - torch.outer(unit, unit)
    body = model.body
    if body.head.weight is body.embedding.weight:
        body.head.weight = torch.nn.Parameter(body.head.weight.detach().clone())
    with torch.no_grad():
        for table in filter(None, (body.embedding, body.position_embedding)):
            table.weight.copy_(table.weight @ keep)
        for layer in range(model.n_layers):
            for part in ("o_proj", "down_proj"):
                module = body.part(layer, part)
                weight = module.weight
                weight.copy_(weight @ keep if isinstance(module, Conv1D) else keep @ weight)
                if module.bias is not None:
                    module.bias.copy_(keep @ module.bias)
    return model


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gemma3", "gpt_neox"])
def test_edits_give_the_logits_of_changed_weights(family):
    model = tiny_model(family)
    prompts = tiny_prompts(model, 3)
    u = np.random.default_rng(0).standard_normal(model.d_model)
    wanted = with_changed_weights(family, u).forward(prompts, logits="last").logits
    edits = everywhere(u, model.n_layers, gains=gains_of(model))
    found = model.forward(prompts, edit=edits, logits="last").logits
    clean = model.forward(prompts, logits="last").logits
    size = float(wanted.abs().max())
    assert float((found - wanted).abs().max()) < 2e-5 * size
    assert float((clean - wanted).abs().max()) > 1e-2 * size
    assert bool(gains_of(model)) == family.startswith("gemma")


def test_the_edits_hold_while_answers_are_written():
    model, u = tiny_model("gemma2"), np.random.default_rng(1).standard_normal(32)
    changed = with_changed_weights("gemma2", u)
    prompts = tiny_prompts(model, 4)
    edits = everywhere(u, model.n_layers, gains=gains_of(model))
    ours = model.generate(prompts, max_new_tokens=6, edit=edits)
    theirs = changed.generate(prompts, max_new_tokens=6)
    assert [r.token_ids for r in ours.rows] == [r.token_ids for r in theirs.rows]
    assert [r.token_ids for r in ours.rows] != [r.token_ids for r in model.generate(prompts, max_new_tokens=6).rows]


def test_a_gain_of_zero_is_refused():
    with pytest.raises(UserError, match="a gain of 0"):
        Orthogonalise(Site("mlp_out", 0), np.ones(3), np.array([1.0, 0.0, 2.0]))
