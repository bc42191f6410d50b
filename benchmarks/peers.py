"""The same work in Hugging Face transformers, as one writes it by hand: padded batches, hooks, a second pass.

Fair to the peer: no gradients, sdpa attention, the same weights object, dtype and threads; prompts are tokenised
beforehand on both sides. What is kept in memory is ragged (no padding), as on our side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

Tokens = Sequence[Sequence[int]]


def padded(rows: Tokens, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask `[rows, longest]`, padded on the right (or left, as generation needs it)."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where] = torch.tensor(list(row))
        mask[i, where] = 1
    return ids, mask


def in_order(tokens: Tokens, batch_size: int) -> Iterator[Tokens]:
    """Batches in the order of the data set."""
    for begin in range(0, len(tokens), batch_size):
        yield tokens[begin : begin + batch_size]


@contextmanager
def block_hooks(hf: Any, see: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """`see(layer, output)` after every block, by forward hooks."""

    def hook(layer: int) -> Callable[..., None]:
        return lambda module, args, out: see(layer, out[0] if isinstance(out, tuple) else out)

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(hf.model.layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def capture(hf: Any, tokens: Tokens, batch_size: int = 8, body: bool = False) -> list[list[np.ndarray]]:
    """Every block's output at every real token: `[layer][batch]`, `[tokens, d_model]` each.

    `body`: the model without its vocabulary logits.
    """
    out: list[list[np.ndarray]] = [[] for _ in hf.model.layers]
    keep = torch.zeros(0)

    def see(layer: int, x: torch.Tensor) -> None:
        out[layer].append(x[keep].numpy())

    with torch.no_grad(), block_hooks(hf, see):
        for rows in in_order(tokens, batch_size):
            ids, mask = padded(rows)
            keep = mask.bool()
            (hf.model if body else hf)(input_ids=ids, attention_mask=mask)
    return out


def bare(hf: Any, batches: Sequence[Tokens]) -> None:
    """The body alone on given batches: nothing read, nothing kept, no mask (right padding needs none)."""
    with torch.no_grad():
        for rows in batches:
            hf.model(input_ids=padded(rows)[0], use_cache=False)


def capture_to_disk(hf: Any, tokens: Tokens, folder: Path, batch_size: int = 8) -> int:
    """Every block's output at every token, padded, one .npy a batch and layer by `np.save`; returns the bytes."""
    size = 0
    held: dict[int, torch.Tensor] = {}
    with torch.no_grad(), block_hooks(hf, held.__setitem__):
        for number, rows in enumerate(in_order(tokens, batch_size)):
            ids, mask = padded(rows)
            hf(input_ids=ids, attention_mask=mask)
            for layer, x in held.items():
                path = folder / f"{number:03d}.{layer:02d}.npy"
                np.save(path, x.numpy())
                size += path.stat().st_size
    return size


def generate(hf: Any, rows: Tokens, new: int, hidden: bool) -> Any:
    """Greedy decoding of one left-padded batch, exactly `new` tokens; with every step's hidden states if `hidden`."""
    ids, mask = padded(rows, left=True)
    return hf.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0,
        return_dict_in_generate=True, output_hidden_states=hidden,
    )  # fmt: skip


def one_pass(hf: Any, batches: Sequence[Tokens], new: int) -> tuple[list[list[int]], list[np.ndarray]]:
    """Decode with `output_hidden_states=True` and keep the prompt's last token and the last one that was fed.

    Returns the new tokens of each row, and `[layers, rows, 2, d_model]` for each batch. (The last entry of Hugging
    Face's hidden states is after the final norm, and the last new token is never fed: a user gets what is there.)
    """
    said: list[list[int]] = []
    kept: list[np.ndarray] = []
    with torch.no_grad():
        for rows in batches:
            out = generate(hf, rows, new, hidden=True)
            said += out.sequences[:, -new:].tolist()
            first, last = out.hidden_states[0][1:], out.hidden_states[-1][1:]
            pairs = [torch.stack([a[:, -1], b[:, -1]], 1) for a, b in zip(first, last, strict=True)]
            kept.append(torch.stack(pairs).numpy())
    return said, kept


def two_pass(hf: Any, tokens: Tokens, new: int, batch_size: int, body: bool = False) -> tuple[list[list[int]], Any]:
    """Decode first; then run prompt and answer once more with hooks, and keep the same two tokens of each row."""
    said: list[list[int]] = []
    with torch.no_grad():
        for rows in in_order(tokens, batch_size):
            said += generate(hf, rows, new, hidden=False).sequences[:, -new:].tolist()
    kept: list[list[np.ndarray]] = [[] for _ in hf.model.layers]
    ends = slots = torch.zeros(0)

    def see(layer: int, x: torch.Tensor) -> None:
        kept[layer].append(x[slots, ends].numpy())

    whole = [[*row, *answer] for row, answer in zip(tokens, said, strict=True)]
    with torch.no_grad(), block_hooks(hf, see):
        for begin in range(0, len(whole), batch_size):
            rows = whole[begin : begin + batch_size]
            slots = torch.arange(len(rows))[:, None]
            ends = torch.tensor([[len(row) - new - 1, len(row) - 1] for row in rows])
            ids, mask = padded(rows)
            (hf.model if body else hf)(input_ids=ids, attention_mask=mask)
    return said, kept
