"""Weights in one canonical orientation for every family: a row vector times a matrix, x @ W + b."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from gnomon.errors import UserError, unknown
from gnomon.models.devices import real

if TYPE_CHECKING:
    from gnomon.models.model import Model

PER_LAYER = (
    "W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out",
    "ln1.w", "ln1.b", "ln2.w", "ln2.b", "ln1_post.w", "ln2_post.w",
)  # fmt: skip
GLOBAL = ("W_E", "W_pos", "W_U", "b_U", "ln_final.w", "ln_final.b")
NAMES = PER_LAYER + GLOBAL


def _matrix(module: Any) -> torch.Tensor:
    """x @ W orientation: Conv1D stores it so already, Linear stores the transpose."""
    weight: Any = real(module)
    return weight if isinstance(module, Conv1D) else weight.T


def _zeros_or(bias: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return bias if bias is not None else like.new_zeros(like.shape[-1])


def weights(model: Model, name: str, layer: int | None = None) -> torch.Tensor:
    """A weight of the model as a detached tensor on its device; a view of its own memory where that is possible.

    Shapes: W_Q [heads, d_model, d_head]; W_K, W_V [kv_heads, d_model, d_head]; W_O [heads, d_head, d_model];
    b_Q, b_K, b_V [heads or kv_heads, d_head]; b_O [d_model]; W_in, W_gate [d_model, d_mlp]; W_out [d_mlp, d_model];
    b_in, b_gate [d_mlp]; b_out [d_model]; norm gains and biases [d_model] (Gemma's 1 + w resolved);
    W_E [d_vocab, d_model] (scaled where the family scales), W_pos [n_positions, d_model], W_U [d_model, d_vocab],
    b_U [d_vocab]. A bias that the family lacks is zeros. UserError for an unknown name, a layer out of range, and a
    matrix or norm that the family lacks.
    """
    if name not in NAMES:
        raise unknown("weight", name, NAMES)
    if name in GLOBAL:
        return _global(model, name).detach().to(model.device)
    if layer is None or not 0 <= layer < model.n_layers:
        raise UserError(f"weight {name!r} of layer {layer}", f"the model has layers 0 to {model.n_layers - 1}")
    return _layer(model, name, layer).detach().to(model.device)


def _global(model: Model, name: str) -> torch.Tensor:
    body = model.body
    match name:
        case "W_E":
            ids = torch.arange(body.embedding.weight.shape[0], device=model.device)  # pyright: ignore
            return body.embedding(ids)
        case "W_pos":
            if body.position_embedding is None:
                raise UserError(f"{model.family} has no position embedding (W_pos)", "a family with learned positions")
            return real(body.position_embedding)  # pyright: ignore[reportReturnType]
        case "W_U":
            return _matrix(body.head)
        case "b_U":
            return _zeros_or(real(body.head, "bias"), _matrix(body.head))
        case "ln_final.w":
            return body.norm("ln_final").gain
    norm = body.norm("ln_final")
    return norm.bias if norm.bias is not None else torch.zeros_like(norm.gain)


def _layer(model: Model, name: str, layer: int) -> torch.Tensor:
    family, body = model.body.family, model.body
    part, _, kind = name.partition(".")
    if kind:
        if not getattr(family, part):
            raise UserError(f"{model.family} has no norm {part!r}", "ln1, ln2 or ln_final")
        norm = body.norm(part, layer)
        return norm.gain if kind == "w" else norm.bias if norm.bias is not None else torch.zeros_like(norm.gain)
    letter = name[2:]
    if letter in ("Q", "K", "V"):
        return _projection(model, letter, layer, bias=name.startswith("b"))
    if letter == "gate" and not family.gated:
        raise UserError(f"{model.family} has no {name}: its MLP is not gated", "W_in, W_out")
    module = body.part(layer, {"O": "o_proj", "in": "up_proj", "gate": "gate_proj", "out": "down_proj"}[letter])
    matrix = _matrix(module)
    if name.startswith("b"):
        return _zeros_or(real(module, "bias"), matrix)
    return matrix.reshape(model.n_heads, model.d_head, model.d_model) if letter == "O" else matrix


def _projection(model: Model, letter: str, layer: int, bias: bool) -> torch.Tensor:
    """W_Q/W_K/W_V [heads, d_model, d_head], or the bias [heads, d_head], from split or fused matrices."""
    family, block, width = model.body.family, model.body.blocks[layer], model.d_head
    which = "QKV".index(letter)
    heads = model.n_heads if letter == "Q" else model.n_kv_heads
    if family.qkv == "split":
        attention = block.get_submodule(family.attn)
        module: Any = getattr(attention, f"{letter.lower()}_proj")
        matrix, vector = _matrix(module), _zeros_or(real(module, "bias"), _matrix(module))
    else:
        module = block.get_submodule(family.fused_qkv)
        matrix, vector = _matrix(module), _zeros_or(real(module, "bias"), _matrix(module))
        if family.qkv == "conv1d":  # columns: all of q, all of k, all of v
            columns = slice(which * heads * width, (which + 1) * heads * width)
            matrix, vector = matrix[:, columns], vector[columns]
        else:  # columns: for each head its q, k and v
            matrix = matrix.reshape(model.d_model, heads, 3, width)[:, :, which].reshape(model.d_model, heads * width)
            vector = vector.reshape(heads, 3, width)[:, which].reshape(heads * width)
    if bias:
        return vector.reshape(heads, width)
    return matrix.reshape(model.d_model, heads, width).permute(1, 0, 2)
