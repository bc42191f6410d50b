"""Tiny LoRA adapters, made in the tests: a random one, and one that is trained to answer some questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def wrapped(
    base: str | Path, modules: Sequence[str], rank: int, random: bool, layers: Sequence[int] | None = None
) -> Any:
    """A causal model with a LoRA on the named modules of all layers (or of those): zero at first, or `random`."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(modules), init_lora_weights=not random,
        layers_to_transform=None if layers is None else list(layers),
    )  # fmt: skip
    return peft.get_peft_model(hf, config)


def random_lora(folder: Path, base: str | Path) -> Path:
    """An adapter of a tiny model that changes what it says."""
    wrapped(base, ["q_proj", "down_proj"], 2, random=True).save_pretrained(folder)
    return folder


def trained_lora(
    folder: Path, base: str | Path, tokenizer: Any, pairs: Sequence[tuple[str, str]], steps: int, rate: float,
    layers: Sequence[int],
) -> list[float]:  # fmt: skip
    """Train a LoRA of these layers (late ones are cheap: nothing is carried back below them) on (prompt, continuation)
    pairs, all of them at every step; returns the loss of each step."""
    import torch

    model = wrapped(base, ["q_proj", "v_proj", "o_proj"], 8, random=False, layers=layers).train()
    rows = [
        (tokenizer.encode(a, add_special_tokens=False), tokenizer.encode(b, add_special_tokens=False)) for a, b in pairs
    ]
    width = max(len(a) + len(b) for a, b in rows)
    ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (a, b) in enumerate(rows):
        ids[i, : len(a) + len(b)] = torch.tensor([*a, *b])
        labels[i, len(a) : len(a) + len(b)] = torch.tensor(b)
        mask[i, : len(a) + len(b)] = 1
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.save_pretrained(folder)
    return losses
