"""`gnomon check` passes on every family, and fails when a family's row is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gnomon.errors import UserError
from gnomon.models.body import Body
from gnomon.models.cache import KVCache
from gnomon.models.check import _hooks_gone, check_model, quick_check, require
from gnomon.types import Site
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family):
    for dtype in ("float32", "bfloat16"):
        failed = [result for result in check_model(tiny_model(family, dtype)) if not result.passed]
        assert not failed, dtype


def test_smollm2_passes_the_quick_check(smollm2):
    assert all(result.passed for result in quick_check(smollm2))
    require(smollm2)


def _names(model):
    return {result.name for result in check_model(model) if not result.passed}


@pytest.mark.parametrize(
    ("family", "change", "fails"),
    [
        ("gemma2", {"ln1_post": ""}, "streams add up"),
        ("gemma3", {"ln2_post": ""}, "streams add up"),
        ("gpt_neox_serial", {"parallel_flag": ""}, ""),
        ("llama", {"ln2": "input_layernorm"}, "streams add up"),
        ("gpt2", {"final_norm": "h.0.ln_1"}, "logits equal Hugging Face's"),
        ("qwen2", {"position_embed": "embed_tokens"}, "logits equal Hugging Face's"),
        ("llama", {"down_proj": "self_attn.o_proj"}, ""),
    ],
)
def test_a_wrong_row_of_the_table_fails(family, change, fails, monkeypatch):
    model = tiny_model(family)
    wrong = Body(model.hf, replace(model.body.family, **change))
    monkeypatch.setattr(model, "body", wrong)
    failed = _names(model)
    assert (fails in failed) if fails else not failed
    if fails == "streams add up":
        with pytest.raises(UserError, match="is not the model that its family's table says"):
            require(model)


def test_a_hook_left_behind_is_found(monkeypatch):
    model = tiny_model("llama")
    assert _hooks_gone(model, [[3, 4]], [Site("z", 1)]).passed
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.utils.hooks.RemovableHandle, "remove", lambda self: None)
            assert not _hooks_gone(model, [[3, 4]], [Site("z", 1)]).passed
    finally:
        for module in model.hf.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()


def test_a_mask_that_forgets_the_window_is_found(monkeypatch):
    model = tiny_model("mistral")
    monkeypatch.setattr(model.body, "windows", [None] * model.n_layers)
    assert "logits equal Hugging Face's" in _names(model)


def test_a_cache_that_forgets_a_row_s_length_is_found(monkeypatch):
    def begin(self, rows, width, device):
        self.lengths, self.shifts = self.lengths or [0] * rows, [0] * rows
        self._past, self._slots = max(self.lengths), None

    monkeypatch.setattr(KVCache, "begin", begin)
    assert "batch, padding and cache change nothing" in _names(tiny_model("llama"))
