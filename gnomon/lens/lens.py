"""The second-order lens on a model: its circuit, and the factors of texts in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.methods.second_order import AttentionMap, Circuit, Factors, NormMap
from gnomon.types import Site

if TYPE_CHECKING:
    import torch

    from gnomon.models.model import Model


class Lens:
    """Second-order effects of a model's neurons, read at the last token of each text.

    `end` None reads the final norm's output (what the unembedding multiplies); a layer reads the residual stream after
    that layer (resid_post.end), without the final norm. UserError for a layer that does not exist.
    """

    def __init__(self, model: Model, end: int | None = None) -> None:
        if end is not None and not 0 <= end < model.n_layers:
            raise UserError(f"effects read after layer {end}", f"layers are 0 to {model.n_layers - 1}")
        self.model, self.end = model, end
        self.stop = model.n_layers if end is None else end + 1
        family = model.body.family
        self.dtype = _wide(model.dtype)
        self.attention_post, self.mlp_post = bool(family.ln1_post), bool(family.ln2_post)

    @cached_property
    def circuit(self) -> Circuit:
        """The weights: views of the model's own, or float32 copies of a half-precision model's."""
        model = self.model
        attention = [
            AttentionMap(
                self._norm("ln1", a), model.weights("W_V", a).to(self.dtype), model.weights("W_O", a).to(self.dtype),
                self._norm("ln1_post", a) if self.attention_post else None,
            )
            for a in range(self.stop)
        ]  # fmt: skip
        post = [self._norm("ln2_post", a) if self.mlp_post else None for a in range(model.n_layers)]
        out = [model.weights("W_out", a).to(self.dtype) for a in range(model.n_layers)]
        return Circuit(attention, out, post, self._norm("ln_final") if self.end is None else None)

    def _norm(self, name: str, layer: int | None = None) -> NormMap:
        found = self.model.norm(name, layer)
        return NormMap(found.gain.to(self.dtype), found.kind == "layernorm")

    def capture(
        self,
        texts: Sequence[Sequence[int]],
        layers: Sequence[int],
        *,
        read: Sequence[Site | str] = (),
        last_k: int | None = None,
    ) -> Factors:
        """One forward pass over a batch of texts, read at each text's last token.

        Args:
            texts: token lists; batch those of similar length.
            layers: whose neurons are kept; rows of all later layers come along.
            read: further sites, found in `extra` by name.
            last_k: count only the last k tokens of a text as sources (the final steps of a generation).
        """
        import torch

        self._check(layers)
        first = min(layers) + 1 if layers else 0
        later = range(first, self.stop)
        sites = [Site("mlp_post", layer) for layer in layers] + [Site.parse(s) for s in read]
        end = Site("resid_post", self.stop - 1)
        names = [f"ln1.{a}" for a in later] + [f"ln1_post.{a}" for a in later if self.attention_post]
        names += [f"ln2_post.{a}" for a in layers if self.mlp_post] + (["ln_final"] if self.end is None else [])
        out = self.model.forward(texts, read=[*sites, end], patterns=list(later), norm_scales=names)
        where = torch.arange(len(out.lengths), device=self.model.device)
        ends = torch.tensor(out.lengths, device=self.model.device) - 1
        last = out.acts[end][where, ends].to(self.dtype)
        scale = out.norm_scales["ln_final"][where, ends] if self.end is None else torch.ones_like(last[:, 0])
        sources = self._sources(out.lengths, last_k, scale)
        rows = {a: self._rows(out, a, scale, where, ends, sources) for a in later}
        acts = {layer: self._acts(out, layer) for layer in layers}
        extra = {str(s): out.acts[Site.parse(s)] for s in read}
        output = self.model.norm("ln_final").apply(last) if self.end is None else last
        return Factors(rows, acts, out.lengths, scale.to(last.dtype), output, extra)

    def _sources(self, lengths: list[int], last_k: int | None, like: torch.Tensor) -> Any:
        """`[B, 1, T]`: 1 on tokens that count as sources, or None for all of them."""
        if last_k is None:
            return None
        import torch

        if last_k < 1:
            raise UserError(f"last_k is {last_k}", "at least 1 token")
        at = torch.arange(max(lengths), device=like.device)[None]
        ends = torch.tensor(lengths, device=like.device)[:, None]
        return ((at >= ends - last_k) & (at < ends)).to(self.dtype)[:, None]

    def _rows(self, out: Any, layer: int, scale: Any, where: Any, ends: Any, sources: Any) -> torch.Tensor:
        """Attention of the read position `[B, heads, T]` times sf(q), a post-norm's scale at q and ln1's at every i."""
        factor = scale
        if self.attention_post:
            factor = factor * out.norm_scales[f"ln1_post.{layer}"][where, ends]
        rows = out.patterns[layer][:, :, 0] * (out.norm_scales[f"ln1.{layer}"][:, None] * factor[:, None, None])
        rows = rows.to(self.dtype)
        return rows if sources is None else rows * sources

    def _acts(self, out: Any, layer: int) -> torch.Tensor:
        acts = out.acts[Site("mlp_post", layer)].to(self.dtype)
        if self.mlp_post:
            acts = acts * out.norm_scales[f"ln2_post.{layer}"][..., None].to(acts.dtype)
        return acts

    def _check(self, layers: Sequence[int]) -> None:
        for layer in layers:
            if not 0 <= layer < self.stop:
                raise UserError(f"neurons of layer {layer}", f"layers are 0 to {self.stop - 1} here")

    def direction(self, vector: Any) -> torch.Tensor:
        """A direction, or several `[K, d]`, as a tensor beside the circuit; UserError for another model's width."""
        import torch

        given = vector if torch.is_tensor(vector) else torch.from_numpy(np.array(vector))
        u = given.to(self.model.device, self.dtype)
        u = u[None] if u.ndim == 1 else u
        if u.ndim != 2 or u.shape[1] != self.model.d_model:
            raise UserError(
                f"a direction of {u.shape[-1]} numbers", f"{self.model.d_model}, the d_model of {self.model.name}",
                "use a direction that was made with this model",
            )  # fmt: skip
        return u

    def total(
        self, texts: Sequence[Sequence[int]], layers: Sequence[int], directions: Any, last_k: int | None = None
    ) -> dict[int, torch.Tensor]:
        """All-order effects along directions `[K, d]`, through later MLPs too with their gates frozen: by layer
        `[K, B, d_mlp]`. One backward sweep a direction; direct and second-order effects are part of it. `last_k` as
        in `capture`."""
        import torch

        self._check(layers)
        u = self.direction(directions)
        sites = [Site("mlp_post", layer) for layer in layers]
        end = Site("resid_post", self.stop - 1)
        out = self.model.forward(
            texts, read=[*sites, end], grad=True, freeze=("pattern", "norm_scale", "gate"),
            norm_scales=["ln_final"] if self.end is None else [],
        )  # fmt: skip
        where = torch.arange(len(out.lengths), device=self.model.device)
        ends = torch.tensor(out.lengths, device=self.model.device) - 1
        last = out.acts[end][where, ends].to(self.dtype)
        pulled = self.circuit.from_end(u)
        scale = out.norm_scales["ln_final"][where, ends].detach() if self.end is None else torch.ones_like(last[:, 0])
        along = (last @ pulled.T) * scale[:, None].to(last.dtype)  # [B, K]
        acts = [out.acts[s] for s in sites]
        found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        for k in range(len(u)):
            grads = torch.autograd.grad(along[:, k].sum(), acts, retain_graph=k + 1 < len(u), allow_unused=True)
            for layer, act, grad in zip(layers, acts, grads, strict=True):
                both = torch.zeros_like(act) if grad is None else act.detach().to(self.dtype) * grad.to(self.dtype)
                found[layer].append(_own(both, out.lengths, last_k).sum(1))
        return {layer: torch.stack(parts) for layer, parts in found.items()}


def _wide(dtype: torch.dtype) -> torch.dtype:
    """float32 or the model's own wider type: rows and coefficients are sums, and stay out of half precision."""
    import torch

    return torch.promote_types(dtype, torch.float32)


def _own(x: torch.Tensor, lengths: Sequence[int], last_k: int | None) -> torch.Tensor:
    """`x [B, T, n]` with everything beyond each text's end, and before its last k tokens, at 0."""
    import torch

    at = torch.arange(x.shape[1], device=x.device)[None, :, None]
    ends = torch.tensor(list(lengths), device=x.device)[:, None, None]
    first = 0 if last_k is None else ends - last_k
    return torch.where((at < ends) & (at >= first), x, torch.zeros_like(x))
