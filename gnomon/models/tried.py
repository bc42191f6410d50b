"""A forward and an edit on this machine: does what is installed compute what it should, and how fast."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from gnomon.models.model import Model


def tiny_model(device: str = "cpu") -> Model:
    """A random Llama of two layers, made in memory: nothing is read or fetched."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf: Any = LlamaForCausalLM(config)
    return Model(hf.to(device), SimpleNamespace(eos_token_id=None), "a tiny random model")


def tried(model: Model, rows: int = 4, length: int = 32) -> tuple[float, float]:
    """(tokens/s of a forward over `rows` x `length` tokens, largest difference of its logits from transformers' own).

    The difference is relative to the largest logit; one of NaN or infinity counts as infinite.
    """
    import torch

    ids = torch.randint(0, model.d_vocab, (rows, length), generator=torch.Generator().manual_seed(0))
    tokens = ids.to(model.device)
    with torch.no_grad():  # first, so that what is set up once is not counted
        theirs = model.hf(tokens).logits[:, -1].float()
    clock = time.perf_counter()
    ours = model.forward(tokens, logits="last").logits.float()
    difference = float((ours - theirs).abs().max() / theirs.abs().max())  # waits for the device
    seconds = time.perf_counter() - clock
    return tokens.numel() / seconds, difference if difference < float("inf") else float("inf")
