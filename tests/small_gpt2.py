"""A tiny GPT-2 that really adds: trained on sums of one and two digits until about half of held-out ones were right.

It is the second family of the neuron study: the same study file with another line `model`; right and wrong answers are
both there. Every digit is a token. Training takes minutes, and how many depends on the processor's rounding, so its
weights lie beside this file in float16; `python -m tests.small_gpt2` trains it anew and writes them.
"""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

TASK = {"sums": {"digits": "1-2", "style": "prefix", "shots": 2}}
WIDTH, LAYERS, HEADS, BATCH, LINES = 64, 3, 4, 128, 4


def tokenizer_of_bytes() -> Any:
    """One token a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={"<|endoftext|>": 0} | {c: i + 1 for i, c in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=end, eos_token=end, pad_token=end)


def lines(rng: random.Random) -> list[tuple[str, str]]:
    """A text of some sums, each as (question, answer)."""
    out = []
    for _ in range(LINES):
        a, b = (rng.randrange(1, 10) if rng.random() < 0.5 else rng.randrange(10, 100) for _ in range(2))
        out.append((f"{a} + {b} =", f" {a + b}\n"))
    return out


WEIGHTS = Path(__file__).with_suffix(".safetensors")


@functools.cache
def trained() -> tuple[Path, float]:
    """The folder of the trained model, and its share of right answers to the task's own questions."""
    import torch
    from safetensors.torch import load_file

    tokenizer = tokenizer_of_bytes()
    model = untrained(tokenizer)
    missing = model.load_state_dict({k: v.to(torch.float32) for k, v in load_file(WEIGHTS).items()}, strict=False)
    assert missing.missing_keys == ["lm_head.weight"]  # tied to the embedding
    assert not missing.unexpected_keys
    model.tie_weights()
    folder = Path(tempfile.mkdtemp(prefix="adder-"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, right(model.eval(), questions(tokenizer, 200))


def untrained(tokenizer: Any) -> Any:
    """The model at random, by seed 0."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer), n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=128, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    ))  # fmt: skip


def train(low: float = 0.45, high: float = 0.8, steps: int = 3000) -> Any:
    """Train until the share of right held-out answers lies between `low` and `high`."""
    import torch

    tokenizer, rng = tokenizer_of_bytes(), random.Random(0)
    model, held, share = untrained(tokenizer), questions(tokenizer, 200), 0.0
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(steps):
        ids, labels = padded([encoded(tokenizer, lines(rng)) for _ in range(BATCH)])
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 49:
            share = right(model, held)
            if low <= share <= high:
                break
    return model


def questions(tokenizer: Any, n: int) -> list[tuple[list[int], list[int]]]:
    """The task's own prompts with their answers, which nothing was trained on as a whole."""
    from gnomon.tasks.make import make_task

    asked = make_task(TASK).examples(n, 0)
    return [masked(tokenizer, [(str(e.prompt), f" {e.target}\n")]) for e in asked]


def encoded(tokenizer: Any, sums: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    return masked(tokenizer, sums)


def masked(tokenizer: Any, sums: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Ids, and labels that are -100 outside answers."""
    ids: list[int] = []
    labels: list[int] = []
    for question, answer in sums:
        asked, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question, answer))
        ids += asked + said
        labels += [-100] * len(asked) + said
    return ids, labels


def padded(rows: list[tuple[list[int], list[int]]]) -> tuple[Any, Any]:
    """Right-padded ids and labels."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    for i, (one, target) in enumerate(rows):
        ids[i, : len(one)], labels[i, : len(target)] = torch.tensor(one), torch.tensor(target)
    return ids, labels


def right(model: Any, rows: list[tuple[list[int], list[int]]]) -> float:
    """Share of rows whose whole answer greedy decoding would write."""
    import torch

    with torch.no_grad():
        ids, labels = padded(rows)
        best = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1].argmax(-1)
    wanted = labels[:, 1:]
    return float(((best == wanted) | (wanted == -100)).all(1).float().mean())


if __name__ == "__main__":
    import torch
    from safetensors.torch import save_file

    made = train().state_dict()
    save_file({k: v.to(torch.float16) for k, v in made.items() if k != "lm_head.weight"}, WEIGHTS)
