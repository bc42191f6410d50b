"""Attention patterns and norm scales: read them, hold them constant in a gradient, or compute them in full precision.

Hugging Face upcasts RMSNorm and eager softmax to float32 even in a float64 model (METHODS: pitfalls of the
second-order lens), and its fused attention returns no weights. Here an attention function of our own is registered
and switched on only while it is needed: it leaves the output to the fused kernel and recomputes just the rows that are
read; with frozen patterns, or in exact mode, it computes softmax(q k') v itself in the model's own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gnomon.errors import unknown

if TYPE_CHECKING:
    from gnomon.models.body import Body

NAME = "gnomon"
FREEZES = ("pattern", "norm_scale", "gate")


@dataclass
class Attention:
    """What our attention function does during one call.

    layers: whose patterns are read. rows `[batch, R]`: which query slots (None: all). explicit: softmax by hand.
    frozen: no gradient through the pattern. masks: boolean mask of each layer, set by the body for every chunk.
    """

    layers: frozenset[int] = frozenset()
    rows: torch.Tensor | None = None
    explicit: bool = False
    frozen: bool = False
    masks: list[torch.Tensor] = field(default_factory=list)
    patterns: dict[int, torch.Tensor] = field(default_factory=dict)


_ACTIVE: ContextVar[Attention | None] = ContextVar("gnomon_attention", default=None)


def pattern(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, scaling: float, softcap: float | None
) -> torch.Tensor:
    """softmax(scaling * q k') over allowed keys, `[batch, heads, queries, keys]`, in float32 or better.

    key has kv_heads heads: head h reads kv head h // (heads / kv_heads). `mask` is True where a query sees a key.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    key = key.to(exact).repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.to(exact) @ key.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The function registered with transformers; `query [batch, heads, queries, d_head]`, rotary already applied."""
    active = _ACTIVE.get()
    if active is None:
        raise RuntimeError("gnomon's attention runs only inside Model.forward")
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    mask = active.masks[layer].to(query.device)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    reading = layer in active.layers
    if active.explicit or softcap is not None:
        weights = pattern(query, key, mask, scale, softcap)
        if reading:
            active.patterns[layer] = _rows(weights, active.rows)
        if active.frozen:
            weights = weights.detach()
        repeated = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        return (weights.to(value.dtype) @ repeated).transpose(1, 2).contiguous(), None
    if reading:
        chosen = mask.expand(query.shape[0], 1, query.shape[2], key.shape[2])
        weights = pattern(_rows(query, active.rows), key, _rows(chosen, active.rows), scale, None)
        active.patterns[layer] = weights
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)


def _rows(x: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Pick query slots `rows [batch, R]` of `x [batch, heads, queries, .]`."""
    if rows is None:
        return x
    index = rows.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, index)


@contextmanager
def attending(body: Body, attention: Attention | None) -> Iterator[None]:
    """Switch the blocks to our attention function; the model's own is back on exit, also by exception."""
    if attention is None:
        yield
        return
    config: Any = body.config
    before = config._attn_implementation
    token = _ACTIVE.set(attention)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _ACTIVE.reset(token)


@dataclass(frozen=True)
class Norm:
    """One norm's facts. y = gain * (x - mean) * s + bias, s = 1 / sqrt(var + eps) (layernorm), or y = gain * x * s,
    s = 1 / sqrt(mean(x^2) + eps) (rmsnorm). `gain` is what multiplies: Gemma's 1 + w resolved. `bias` None: none."""

    kind: str
    eps: float
    gain: torch.Tensor
    bias: torch.Tensor | None

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """s of `x [..., d]`: `[..., 1]`, in float32 or better."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.kind == "layernorm":
            x = x - x.mean(-1, keepdim=True)
        return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def apply(self, x: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """The norm of `x`, in the precision of x (float32 at least, cast back); `frozen` detaches s."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = self.scale(wide)
        if self.kind == "layernorm":
            wide = wide - wide.mean(-1, keepdim=True)
        out = wide * (scale.detach() if frozen else scale) * self.gain.to(wide)
        if self.bias is not None:
            out = out + self.bias.to(wide)
        return out.to(x.dtype)


@contextmanager
def norms_replaced(norms: Sequence[tuple[nn.Module, Norm]], frozen: bool) -> Iterator[None]:
    """Let each module compute `Norm.apply` instead of its own forward until exit."""
    before = [(module, module.__dict__.get("forward")) for module, _ in norms]  # accelerate puts its own there
    try:
        for module, norm in norms:

            def forward(x: torch.Tensor, norm: Norm = norm) -> torch.Tensor:
                return norm.apply(x, frozen)

            module.__dict__["forward"] = forward  # an instance attribute hides the class's method, and nothing else
        yield
    finally:
        for module, own in before:
            module.__dict__.pop("forward", None)
            if own is not None:
                module.__dict__["forward"] = own


@contextmanager
def hooks_on(modules: Sequence[nn.Module], hook: Callable[..., Any], before: bool = False) -> Iterator[None]:
    """Register one forward (pre-)hook on several modules until exit."""
    handles: list[Any] = []
    try:
        for module in {id(m): m for m in modules}.values():
            handles.append(module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def gate_frozen(gated: bool) -> Callable[..., torch.Tensor]:
    """The hook on an MLP's activation that makes the MLP linear in its other factor.

    Gated: act(gate(x)) is held constant. Not gated: act(z) = z * g(z) with the secant gate g(z) = act(z) / z held
    constant (its limit at z = 0 is act'(0), which is 1/2 for GELU and SiLU).
    """

    def hook(module: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        if gated:
            return out.detach()
        z = args[0]
        secant = torch.where(z == 0, torch.full_like(z, 0.5), out / torch.where(z == 0, torch.ones_like(z), z))
        return z * secant.detach()

    return hook


def check_freezes(freeze: Sequence[str]) -> frozenset[str]:
    """The names as a set; UserError for one that is not in FREEZES."""
    for name in freeze:
        if name not in FREEZES:
            raise unknown("freeze", name, FREEZES)
    return frozenset(freeze)


@contextmanager
def entered(*contexts: Any) -> Iterator[None]:
    """Enter several contexts in order (None is skipped) and leave all of them, whatever happens."""
    with ExitStack() as stack:
        for context in contexts:
            if context is not None:
                stack.enter_context(context)
        yield
