"""The yardstick: second-order effects by materialising, a faithful port of the vision pipeline's hook to a decoder.

As there: a chunk of neurons' contributions `[texts, tokens, neurons, d_model]` is made, and sent through every later
attention layer: norm with the recorded statistics, value projection, the read position's attention row, output
projection; then the final norm. What was changed: causal rows at the last token instead of the class token, RMSNorm
instead of LayerNorm, grouped value heads (each kv head is projected once, not once for every head that shares it: in
the port's favour), and no constants inside a neuron's effect. It starts from the same captured factors as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gnomon.methods.second_order import Circuit, Factors

CHUNK = 100
"""Neurons at a time; all of a layer do not fit into memory."""


def vectors(circuit: Circuit, factors: Factors, layer: int, neurons: Sequence[int]) -> torch.Tensor:
    """Effects `[texts, neurons, d_model]` of one chunk of neurons."""
    written = factors.acts[layer][..., list(neurons), None] * circuit.write(layer, list(neurons))
    total = torch.zeros_like(written[:, 0])
    for later in range(layer + 1, circuit.end):
        part = circuit.attention[later]
        normed = part.norm.push(written)
        value = torch.einsum("btnd,kde->btnke", normed, part.W_V)
        value = value.repeat_interleave(part.heads // part.W_V.shape[0], dim=3)
        mixed = torch.einsum("bht,btnhe->bnhe", factors.rows[later], value)
        total += torch.einsum("bnhe,hed->bnd", mixed, part.W_O)
    return circuit.to_end(total)


def chunks(circuit: Circuit, batches: Sequence[Factors], layer: int, n: int, u: Any = None) -> list[torch.Tensor]:
    """The first `n` neurons of a layer, chunk by chunk: vectors, or their projections on `u [d]`."""
    out = []
    for factors in batches:
        for start in range(0, n, CHUNK):
            found = vectors(circuit, factors, layer, range(start, min(start + CHUNK, n)))
            out.append(found if u is None else found @ u)
    return out
