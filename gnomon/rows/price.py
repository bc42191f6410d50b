"""What generating and capturing will take: bytes of activations, memory, tokens - from lengths and options alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gnomon.types import Site

BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def width(site: Site, facts: Mapping[str, Any]) -> int:
    """Numbers in one vector at a site."""
    if site.component == "z":
        return int(facts["n_heads"]) * int(facts["d_head"])
    return int(facts["d_mlp"] if site.component == "mlp_post" else facts["d_model"])


def activation_bytes(
    sites: Sequence[Site], positions: Sequence[str], dtype: str, facts: Mapping[str, Any], rows: int, prompt: int,
    response: int,
) -> int:  # fmt: skip
    """Bytes on disk of `rows` rows with `prompt` and `response` tokens in all: exact but for rows without an answer."""
    tokens = {"last_prompt": rows, "last": rows, "answer": rows, "response": response, "all": prompt + response}
    return sum(width(s, facts) for s in sites) * BYTES[dtype] * sum(tokens[p] for p in positions)


def table_bytes(rows: int, tokens: int, top_k: int, new_tokens: int) -> int:
    """About what the generations table takes, compressed: measured at 2 bytes a token id and 400 a row."""
    return 400 * rows + 3 * tokens + 8 * new_tokens * top_k


def batch_memory(
    facts: Mapping[str, Any], model_dtype: str, batch: int, length: int, sites: Sequence[Site], kept: int
) -> int:
    """Bytes of one batch on the device: keys and values, logits in float32, working space, and the captured tokens.

    `length` is the longest row in tokens, `kept` how many tokens of each row are captured.
    """
    size = BYTES[model_dtype]
    cache = 2 * int(facts["n_layers"]) * int(facts["n_kv_heads"]) * int(facts["d_head"]) * length * size
    logits = 3 * int(facts["d_vocab"]) * 4
    working = length * (6 * int(facts["d_model"]) + 3 * int(facts["d_mlp"])) * size
    acts = kept * sum(width(s, facts) for s in sites) * size
    return batch * (cache + logits + working + acts)
