"""The second-order lens: what one MLP neuron adds to the model's output through the attention heads of later layers.

With attention patterns and norm scales held at their values, the effect of neuron n of layer l on the final norm's
output at the read position q is a sum over later heads r = (l', h), and every term is a scalar times a constant vector:

    row[r, i]   = sf(q) * sp_l'(q) * A_r[q, i] * s_l'(i)         one row of attention, with the norms' scales
    coef[n, r]  = sum_i row[r, i] * sp_l(i) * act_n(i)           a scalar for each neuron and head
    basis[n, r] = Nf Np_l' W_O^h W_V^kv(h) N_l' Np_l w_n         does not depend on the text
    phi_n       = sum_r coef[n, r] * basis[n, r]                 [d_model]

s, sp, sf: 1/std of ln1, of a post-norm (Gemma; 1 elsewhere), of the final norm. N x = gain * (x - mean) for LayerNorm,
gain * x for RMSNorm. kv(h) = h // (heads / kv_heads). So nothing of size [rows, neurons, d_model] is ever needed:
scores along a direction u pull u back through the heads instead,

    m_r = N_l'^T W_V W_O Np_l'^T Nf^T u,    beta[r, n] = m_r . Np_l w_n,    score_n = sum_i act_n(i) (row' beta)(i)

one product of a row with beta for all neurons, and per token for free. Effects may also be read in the residual stream
before layer `end`, without the final norm (Nf = I, sf = 1).

Source: Gandelsman, Efros & Steinhardt 2024 (arXiv 2406.04341) for vision transformers; the decoder's form, with causal
rows, grouped heads, RMSNorm and post-norms, is ours. Cost, for T tokens: T * R * d_mlp for the scores of a layer with R
later heads (5 % of the layer's own products on SmolLM2), R/d_model of the memory of effects for coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Tensor = Any


@dataclass(frozen=True)
class NormMap:
    """The linear part of a norm whose scale is frozen: gain * (x - mean(x)), or gain * x where it does not centre."""

    gain: Tensor
    centred: bool

    def push(self, x: Tensor) -> Tensor:
        """N x of row vectors `[..., d]`."""
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain

    def pull(self, u: Tensor) -> Tensor:
        """N^T u of row vectors `[..., d]`: (N x) . u = x . (N^T u)."""
        u = u * self.gain
        return u - u.mean(-1, keepdim=True) if self.centred else u


@dataclass(frozen=True)
class AttentionMap:
    """One layer's value path. W_V `[kv_heads, d, d_head]`, W_O `[heads, d_head, d]`; `post`: Gemma's norm after."""

    norm: NormMap
    W_V: Tensor
    W_O: Tensor
    post: NormMap | None = None

    @property
    def heads(self) -> int:
        return self.W_O.shape[0]

    def push(self, x: Tensor, written: Tensor | None = None) -> Tensor:
        """What each head would write of `x [n, d]`: `[n, heads, d]` (pattern and scales left out).

        `written` replaces `self.written()`, where what follows is folded into it.
        """
        import torch

        value = torch.einsum("nd,kde->nke", self.norm.push(x), self.W_V)
        value = value.repeat_interleave(self.heads // self.W_V.shape[0], dim=1)
        return torch.einsum("nhe,hed->nhd", value, self.written() if written is None else written)

    def written(self) -> Tensor:
        """W_O with the linear part of a norm after it: `[heads, d_head, d]`."""
        return self.post.push(self.W_O) if self.post is not None else self.W_O

    def pull(self, u: Tensor) -> Tensor:
        """Pull directions `u [K, d]` back to each head's input: `[heads, K, d]`."""
        import torch

        u = self.post.pull(u) if self.post is not None else u
        value = torch.einsum("kd,hed->hke", u, self.W_O)
        W_V = self.W_V.repeat_interleave(self.heads // self.W_V.shape[0], dim=0)
        return self.norm.pull(torch.einsum("hke,hde->hkd", value, W_V))


@dataclass(frozen=True)
class Circuit:
    """The weights that second-order effects pass through, layer by layer.

    W_out[l] `[d_mlp, d]`; mlp_post[l] a norm after the MLP or None; final: the final norm, or None where effects are
    read in the residual stream, before layer `end`.
    """

    attention: Sequence[AttentionMap]
    W_out: Sequence[Tensor]
    mlp_post: Sequence[NormMap | None]
    final: NormMap | None

    @property
    def end(self) -> int:
        """Attention of layers below this one carries effects."""
        return len(self.attention)

    def later(self, layer: int) -> list[tuple[int, int]]:
        """(layer, head) of the heads that carry effects of this layer's neurons, in the order of every array here."""
        return [(a, h) for a in range(layer + 1, self.end) for h in range(self.attention[a].heads)]

    def write(self, layer: int, neurons: Any = None) -> Tensor:
        """What each neuron writes per unit of activation, through a post-norm's gain: `[n, d]`."""
        w = self.W_out[layer] if neurons is None else self.W_out[layer][neurons]
        post = self.mlp_post[layer]
        return post.push(w) if post is not None else w

    def to_end(self, x: Tensor) -> Tensor:
        """From the last residual stream to where effects are read, the final norm's scale left out."""
        return self.final.push(x) if self.final is not None else x

    def from_end(self, u: Tensor) -> Tensor:
        """Directions where effects are read `[K, d]`, pulled back to the last residual stream."""
        return self.final.pull(u) if self.final is not None else u


@dataclass
class Factors:
    """What one forward pass leaves of a batch of B texts: everything that depends on the text.

    rows[l'] `[B, heads, T]`: attention of the read position times all scales; exactly 0 on later and padding tokens.
    acts[l] `[B, T, d_mlp]`: neuron activations, times the scale of a norm after the MLP.
    final_scale `[B]`: sf(q); output `[B, d]`: what is read (the final norm's output, or the residual stream).
    """

    rows: dict[int, Tensor]
    acts: dict[int, Tensor]
    lengths: list[int]
    final_scale: Tensor
    output: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def before_final(self) -> Factors:
        """The same without the final norm's scale: for effects that are read in the residual stream."""
        import torch

        rows = {a: r / self.final_scale[:, None, None] for a, r in self.rows.items()}
        return replace(self, rows=rows, final_scale=torch.ones_like(self.final_scale))

    def after(self, layer: int, end: int) -> Tensor:
        """Rows of all heads after `layer`, `[B, R, T]`; R is 0 for the last layer."""
        import torch

        parts = [self.rows[a] for a in range(layer + 1, end)]
        if not parts:
            acts = self.acts[layer]
            return acts.new_zeros((acts.shape[0], 0, acts.shape[1]))
        return torch.cat(parts, dim=1)


def pulled(circuit: Circuit, directions: Tensor, first: int = 0) -> Tensor:
    """m: directions `[K, d]` pulled back to the input of every head of layers above `first`: `[R, K, d]`."""
    import torch

    u = circuit.from_end(directions)
    parts = [circuit.attention[a].pull(u) for a in range(first + 1, circuit.end)]
    return torch.cat(parts) if parts else u.new_zeros((0, *u.shape))


def betas(circuit: Circuit, layer: int, m: Tensor, neurons: Any = None) -> Tensor:
    """beta[k, r, n] of a layer's neurons for `m [R, K, d]`: `[K, R, n]`; the same for every text."""
    return m.transpose(0, 1) @ circuit.write(layer, neurons).T


def per_token(
    circuit: Circuit, factors: Factors, layer: int, m: Tensor, neurons: Any = None, beta: Tensor | None = None
) -> Tensor:
    """Scores of a layer's neurons, token by token: `[K, B, T, n]`; they sum over T to `scores`.

    `m [R, K, d]` is `pulled(circuit, directions, layer)`; `beta` is `betas` of it, where it was made before. Without
    beta the cheaper order of the two products is taken; rows times m first is the vector-Jacobian product written out.
    """
    import torch

    rows = factors.after(layer, circuit.end).transpose(1, 2)  # [B, T, R]
    acts = factors.acts[layer] if neurons is None else factors.acts[layer][..., neurons]
    batch, width, n = *rows.shape[:2], acts.shape[-1]
    flat, (heads, _, d) = rows.reshape(batch * width, -1), m.shape
    if beta is None and heads * (d * n + len(flat) * n) < len(flat) * d * (heads + n):
        beta = betas(circuit, layer, m, neurons)
    if beta is not None:
        return torch.stack([(flat @ one).reshape(acts.shape) * acts for one in beta])
    write = circuit.write(layer, neurons).T
    return torch.stack([(flat @ m[:, k] @ write).reshape(acts.shape) * acts for k in range(m.shape[1])])


def per_token_own(circuit: Circuit, factors: Factors, layer: int, m: Tensor, neurons: Any = None) -> Tensor:
    """`per_token` where every text has a direction of its own: `m [B, R, d]`, `[B, T, n]`."""
    rows = factors.after(layer, circuit.end).transpose(1, 2)
    acts = factors.acts[layer] if neurons is None else factors.acts[layer][..., neurons]
    return ((rows @ m) @ circuit.write(layer, neurons).T) * acts


def scores(
    circuit: Circuit, factors: Factors, layer: int, m: Tensor, neurons: Any = None, beta: Tensor | None = None
) -> Tensor:
    """phi_n . u of a layer's neurons along K directions: `[K, B, n]`; see `per_token` for `m` and `beta`."""
    return per_token(circuit, factors, layer, m, neurons, beta).sum(2)


def coefs(circuit: Circuit, factors: Factors, layer: int, neurons: Any = None) -> Tensor:
    """coef[n, r] of a layer's neurons: `[B, n, R]`."""
    acts = factors.acts[layer] if neurons is None else factors.acts[layer][..., neurons]
    return acts.transpose(1, 2) @ factors.after(layer, circuit.end).transpose(1, 2)


def basis(circuit: Circuit, layer: int, neurons: Any = None) -> Tensor:
    """basis[n, r] of a layer's neurons: `[n, R, d]`; no text enters it."""
    w, later = circuit.write(layer, neurons), [circuit.attention[a] for a in range(layer + 1, circuit.end)]
    out = w.new_empty((len(w), sum(part.heads for part in later), w.shape[1]))
    at = 0
    for part in later:  # the final norm's linear part goes into W_O: one pass over the basis, and no copy
        out[:, at : at + part.heads] = part.push(w, circuit.to_end(part.written()))
        at += part.heads
    return out


def effects(coef: Tensor, base: Tensor) -> Tensor:
    """phi `[B, n, d]` of `coef [B, n, R]` and `base [n, R, d]`: only where the vectors themselves are asked for."""
    return (coef.transpose(0, 1) @ base).transpose(0, 1)


def direct(circuit: Circuit, factors: Factors, layer: int, directions: Tensor, neurons: Any = None) -> Tensor:
    """The neurons' first-order effect along directions `[K, d]`, without any later head: `[K, B, n]`."""
    import torch

    acts = factors.acts[layer] if neurons is None else factors.acts[layer][..., neurons]
    ends = torch.tensor(factors.lengths, device=acts.device) - 1
    here = acts[torch.arange(len(ends), device=acts.device), ends] * factors.final_scale[:, None]
    along = circuit.from_end(directions) @ circuit.write(layer, neurons).T
    return along[:, None] * here


def carried(circuit: Circuit, factors: Factors, x: Tensor, layer: int) -> Tensor:
    """What attention after `layer` carries of any vectors `x [B, T, d]` in the stream to where effects are read:
    `[B, d]`. Of a whole MLP's output (without bias) it is the sum of its neurons' effects."""
    total = x.new_zeros((x.shape[0], x.shape[2]))
    for a in range(layer + 1, circuit.end):
        part = circuit.attention[a]
        mixed = factors.rows[a] @ x  # [B, heads, d]
        total = total + _by_head(part, mixed)
    return circuit.to_end(total)


def _by_head(part: AttentionMap, mixed: Tensor) -> Tensor:
    """Sum over heads of what head h writes of its own `mixed[:, h]`: `[B, heads, d]` -> `[B, d]`."""
    import torch

    W_V = part.W_V.repeat_interleave(part.heads // part.W_V.shape[0], dim=0)
    value = torch.einsum("bhd,hde->bhe", part.norm.push(mixed), W_V)
    out = torch.einsum("bhe,hed->bd", value, part.W_O)
    return part.post.push(out) if part.post is not None else out


def materialised(circuit: Circuit, factors: Factors, layer: int, neurons: Any = None) -> Tensor:
    """phi `[B, n, d]` by its definition: every neuron's vector at every token through every later head.

    The oracle of the tests and the yardstick of costs, never the way to compute anything: memory B * T * n * d.
    """
    import torch

    acts = factors.acts[layer] if neurons is None else factors.acts[layer][..., neurons]
    written = acts[..., None] * circuit.write(layer, neurons)  # [B, T, n, d]
    total = written.new_zeros((written.shape[0], *written.shape[2:]))
    for a in range(layer + 1, circuit.end):
        part = circuit.attention[a]
        normed = part.norm.push(written)
        for head in range(part.heads):
            value = normed @ part.W_V[head // (part.heads // part.W_V.shape[0])]
            out = torch.einsum("bt,btne->bne", factors.rows[a][:, head], value) @ part.W_O[head]
            total = total + (part.post.push(out) if part.post is not None else out)
    return circuit.to_end(total)


def masses(circuit: Circuit, factors: Sequence[Factors], layer: int, chunk: int = 128) -> Tensor:
    """Sum over all neurons of a layer of |phi_n|, for every text: `[N]`. Effects exist `chunk` neurons at a time."""
    import torch

    every = torch.cat([coefs(circuit, part, layer) for part in factors])  # [N, d_mlp, R]
    total = every.new_zeros(len(every))
    for start in range(0, every.shape[1], chunk):
        some = slice(start, start + chunk)
        total = total + effects(every[:, some], basis(circuit, layer, some)).norm(dim=-1).sum(1)
    return total
