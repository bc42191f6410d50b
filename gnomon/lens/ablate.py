"""Real ablations of single neurons: one activation at zero on every token of a text, and what a readout does.

    x_l' = x_l - act_n(i) w_n         resid_post of the neuron's layer, at every token i
    change = readout(after the later blocks of x_l') - readout(clean)

The clean text runs once; each ablation runs only the blocks after the neuron's own, many of them as one batch. Where a
norm follows the MLP (Gemma) the MLP's output is normed again without the neuron. Cost: (layers above) / (all layers) of
a forward pass for each pair of a text and a neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.halving import run_halving
from gnomon.lens.readout import Readout
from gnomon.types import Progress, Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

CLEAN_BATCH = 16


def single_neuron_effects(
    model: Model,
    texts: Sequence[Sequence[int]],
    layer: int,
    neurons: Sequence[int],
    readout: Readout,
    *,
    last_k: int | None = None,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
    halved: list[int] | None = None,
) -> np.ndarray:
    """Change of the readout for every text and neuron: `[texts, neurons, K]` float64.

    `last_k`: the neuron is set to zero on the last k tokens only. UserError for a layer or neuron that the model lacks.
    """
    pairs = [(t, j) for t in range(len(texts)) for j in range(len(neurons))]
    found = paired_effects(
        model, texts, layer, [(t, neurons[j]) for t, j in pairs], readout, last_k=last_k, batch_tokens=batch_tokens,
        progress=progress, halved=halved,
    )  # fmt: skip
    return found.reshape(len(texts), len(neurons), -1)


def paired_effects(
    model: Model,
    texts: Sequence[Sequence[int]],
    layer: int,
    pairs: Sequence[tuple[int, int]],
    readout: Readout,
    *,
    last_k: int | None = None,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
    halved: list[int] | None = None,
) -> np.ndarray:
    """The same for chosen pairs of (index of a text, neuron): `[pairs, K]` float64."""
    import torch

    check_neurons(layer, [n for _, n in pairs], model.n_layers, model.d_mlp)
    if readout.end < layer:
        raise UserError(f"a neuron of layer {layer} read after layer {readout.end}", "a readout at or after its layer")
    wanted = sorted({n for _, n in pairs})
    slot = {n: i for i, n in enumerate(wanted)}
    clean = _clean(model, texts, layer, wanted, readout, halved)
    written = model.weights("W_out", layer)
    order = sorted(range(len(pairs)), key=lambda p: (len(texts[pairs[p][0]]), p))
    out: np.ndarray | None = None

    def run(part: Sequence[int]) -> list[np.ndarray]:
        which = [pairs[p][0] for p in part]
        tokens = [texts[t] for t in which]
        width = max(len(t) for t in tokens)
        x = torch.zeros(len(part), width, model.d_model, dtype=model.dtype, device=model.device)
        for i, p in enumerate(part):
            t, n = pairs[p]
            x[i, : len(texts[t])] = clean[t].without(model, layer, written[n], slot[n], last_k)
        found = _read(model, tokens, x, layer, readout, which)
        return [(found - torch.stack([clean[t].base for t in which])).double().cpu().numpy()]

    for part in _parts(order, [len(texts[pairs[p][0]]) for p in order], batch_tokens):
        values = np.concatenate(run_halving(run, part, halved))
        if out is None:
            out = np.zeros((len(pairs), values.shape[1]))
        out[part] = values
        if progress is not None:
            progress(len(part))
    return out if out is not None else np.zeros((0, 1))


@dataclass
class _Clean:
    """One text without an edit: resid_post of the layer `[T, d]`, the wanted neurons' activations `[T, n]`, the readout
    `[K]`, and, where a norm follows the MLP, its input and output `[T, d]`."""

    resid: Any
    acts: Any
    base: Any
    before: Any = None
    after: Any = None

    def without(self, model: Model, layer: int, written: Any, slot: int, last_k: int | None) -> Any:
        """resid_post `[T, d]` with one neuron at zero, of which `written [d]` is the row of W_out."""
        acts = self.acts[:, slot]
        if last_k is not None:
            acts = acts.clone()
            acts[: max(0, len(acts) - last_k)] = 0
        taken = acts[:, None] * written
        if self.before is None:
            return self.resid - taken
        return self.resid - self.after + model.norm("ln2_post", layer).apply(self.before - taken)


def _clean(model: Model, texts: Sequence[Sequence[int]], layer: int, neurons: list[int], readout: Readout,
           halved: list[int] | None) -> list[Any]:  # fmt: skip
    import torch

    order = sorted(range(len(texts)), key=lambda t: len(texts[t]))
    post = bool(model.body.family.ln2_post)
    sites = [Site("mlp_post", layer), Site("resid_post", layer), Site("resid_post", readout.end)]
    sites += [Site("mlp_out", layer)] if post else []
    out: list[Any] = [None] * len(texts)

    def run(part: Sequence[int]) -> list[None]:
        found = model.forward([texts[t] for t in part], read=sites)
        ends = torch.tensor(found.lengths, device=model.device) - 1
        where = torch.arange(len(part), device=model.device)
        base = readout(found.acts[sites[2]][where, ends], torch.tensor(part, device=model.device))
        for i, t in enumerate(part):
            n = len(texts[t])
            acts = found.acts[sites[0]][i, :n]
            before = acts @ model.weights("W_out", layer) + model.weights("b_out", layer) if post else None
            after = found.acts[sites[3]][i, :n] if post else None
            out[t] = _Clean(found.acts[sites[1]][i, :n].clone(), acts[:, neurons].clone(), base[i], before, after)
        return []

    for start in range(0, len(order), CLEAN_BATCH):
        run_halving(run, order[start : start + CLEAN_BATCH], halved)
    return out


def _read(model: Model, tokens: Sequence[Sequence[int]], x: Any, layer: int, readout: Readout, which: list[int]) -> Any:
    """The readout `[m, K]` of `x [m, T, d]`, resid_post of `layer`, after the blocks up to the readout's."""
    import torch

    ends = torch.tensor([len(t) for t in tokens], device=model.device) - 1
    where = torch.arange(len(tokens), device=model.device)
    if readout.end > layer:
        site = Site("resid_post", readout.end)
        x = model.forward(tokens, read=[site], start=(layer + 1, x)).acts[site]
    return readout(x[where, ends], torch.tensor(which, device=model.device))


def _parts(order: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Consecutive runs of at most `most` padded tokens; lengths are ascending."""
    out: list[list[int]] = []
    for p, length in zip(order, lengths, strict=True):
        if out and (len(out[-1]) + 1) * length <= most:
            out[-1].append(p)
        else:
            out.append([p])
    return out


def check_neurons(layer: int, neurons: Sequence[int], n_layers: int, d_mlp: int) -> None:
    """UserError for a layer or neuron that the model does not have."""
    if not 0 <= layer < n_layers:
        raise UserError(f"layer {layer}", f"layers are 0 to {n_layers - 1}")
    wrong = [n for n in neurons if not 0 <= n < d_mlp]
    if wrong:
        raise UserError(f"neuron {wrong[0]} of layer {layer}", f"neurons are 0 to {d_mlp - 1}")
