"""Gradient x activation: the first-order estimate of what setting a neuron to zero takes away.

    a_n = sum_i act_n(i) * d readout / d act_n(i)

one ordinary backward pass for all neurons of all layers. Source: Molchanov et al. 2017 (arXiv 1611.06440), Nanda 2023
(attribution patching, towards zero). How well it agrees with real ablations is measured where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.lens.readout import Readout
from gnomon.types import Progress, Site

if TYPE_CHECKING:
    from gnomon.models.model import Model


def gradient_times_activation(
    model: Model,
    texts: Sequence[Sequence[int]],
    layers: Sequence[int],
    readout: Readout,
    *,
    last_k: int | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> dict[int, np.ndarray]:
    """Gradient x activation of every neuron, summed over a text's tokens: `[texts, d_mlp]` float64, by layer.

    The readout gives one number a text. `last_k` counts only a text's last k tokens. Layers after the one that is read
    have 0. UserError for a layer that the model lacks.
    """
    import torch

    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise UserError(f"layer {layer}", f"layers are 0 to {model.n_layers - 1}")
    reached = [layer for layer in layers if layer <= readout.end]
    out = {layer: np.zeros((len(texts), model.d_mlp)) for layer in layers}
    sites, end = [Site("mlp_post", layer) for layer in reached], Site("resid_post", readout.end)
    order = sorted(range(len(texts)), key=lambda t: len(texts[t]))
    for start in range(0, len(order) if reached else 0, batch_size):
        part = order[start : start + batch_size]
        found = model.forward([texts[t] for t in part], read=[*sites, end], grad=True)
        lengths = torch.tensor(found.lengths, device=model.device)
        where = torch.arange(len(part), device=model.device)
        with torch.enable_grad():
            value = readout(found.acts[end][where, lengths - 1], torch.tensor(part, device=model.device))
        if value.shape[1] != 1:
            raise UserError(f"a readout of {value.shape[1]} numbers", "one number a text")
        acts = [found.acts[site] for site in sites]
        for layer, both in zip(reached, products(value.sum(), acts, lengths, last_k), strict=True):
            out[layer][part] = both.sum(1).cpu().numpy()
        if progress is not None:
            progress(len(part))
    return out


def counted(lengths: Any, width: int, last_k: int | None) -> Any:
    """Which tokens of a right-padded batch count: `[B, T]` bool; the last k of each text, or all of it."""
    import torch

    at = torch.arange(width, device=lengths.device)[None]
    first = torch.zeros_like(lengths) if last_k is None else (lengths - last_k).clamp_min(0)
    return (at < lengths[:, None]) & (at >= first[:, None])


def products(value: Any, acts: Sequence[Any], lengths: Any, last_k: int | None) -> list[Any]:
    """act * d value / d act of each of `acts [B, T, d_mlp]`, in float64, 0 on tokens that do not count."""
    import torch

    keep = counted(lengths, acts[0].shape[1], last_k)[..., None]
    grads = torch.autograd.grad(value, list(acts))
    return [torch.where(keep, a.detach().double() * g.double(), 0.0) for a, g in zip(acts, grads, strict=True)]
