"""The same capture in nnsight and TransformerLens: run with a Python that has requirements-peers.txt.

    python -m benchmarks --peers .venv-peers/bin/python

48 prompts in padded batches of 8 in the order of the data set, resid_post of every block at every token, values kept
without padding; what the library computes besides (vocabulary logits, eager attention in TransformerLens's bridge,
which forces it) is its own. Information: these rows have no goal.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from nnsight import NNsight
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from benchmarks import peers, setting
from benchmarks.timing import Row, cpu_row, interleave, main
from gnomon.models.sources import resolve

PROMPTS, BATCH, LAYER = 48, 8, 14
Values = list[list[np.ndarray]]


def with_nnsight(traced: Any, tokens: peers.Tokens) -> Values:
    """Every block's output saved in one trace a batch: `[batch][layer]`."""
    out: Values = []
    with torch.no_grad():
        for rows in peers.in_order(tokens, BATCH):
            ids, mask = peers.padded(rows)
            with traced.trace(input_ids=ids, attention_mask=mask):
                saved = [block.output.save() for block in traced.model.layers]
            keep = mask.bool()
            out.append([(x[0] if isinstance(x, tuple) else x)[keep].numpy() for x in saved])
    return out


def with_lens(bridge: Any, tokens: peers.Tokens, names: list[str]) -> Values:
    """`run_with_cache` of the blocks' resid_post, one call a batch: `[batch][layer]`."""
    out: Values = []
    with torch.no_grad():
        for rows in peers.in_order(tokens, BATCH):
            ids, mask = peers.padded(rows)
            _, cache = bridge.run_with_cache(ids, attention_mask=mask, names_filter=names)
            keep = mask.bool()
            out.append([cache[name][keep].numpy() for name in names])
    return out


def rows(runs: int) -> Iterator[Row]:
    """The rows of this benchmark."""
    here = setting.load(PROMPTS)
    shards = setting.texts_of(here)
    traced = NNsight(here.model.hf)
    folder = str(resolve(setting.MODEL).folder)
    other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # the bridge rewires its model
    bridge = TransformerBridge.boot_transformers(folder, hf_model=other, tokenizer=here.model.tokenizer, device="cpu")
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(here.model.n_layers)]
    seen: dict[str, np.ndarray] = {}

    def see(job: str, result: Any) -> None:
        if job == "ours":
            seen[job] = setting.values_in_order(here, result, LAYER)
        else:
            seen[job] = np.concatenate([batch[LAYER] for batch in result])

    jobs = {
        "ours": lambda: setting.capture_in_memory(here, shards),
        "nnsight": lambda: with_nnsight(traced, here.tokens),
        "transformer-lens": lambda: with_lens(bridge, here.tokens, names),
    }
    few = here.tokens[:BATCH]
    setting.capture_in_memory(here, shards[:1])
    with_nnsight(traced, few)
    with_lens(bridge, few, names)
    times = interleave(jobs, runs, see)
    for name in ("nnsight", "transformer-lens"):
        apart = float(np.abs(seen[name] - seen["ours"]).max() / np.abs(seen["ours"]).max())
        note = f"{PROMPTS} prompts; values differ by at most {apart:.0e} of their largest"
        yield cpu_row(f"capture / {name} {version(name)}", times["ours"], times[name], None, note=note)


if __name__ == "__main__":
    main(rows)
