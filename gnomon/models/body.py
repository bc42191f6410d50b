"""The blocks of a Hugging Face model, run one after the other by us: embedding to residual stream.

The modules are the model's own and unmodified; only the loop over them is ours. That lets a call begin at any block,
stop after the last one that is read, see the stream between blocks without hooks, and skip attention masks that
causality makes needless. `gnomon check` proves that the result equals the model's own forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gnomon.models.cache import KVCache
from gnomon.models.devices import Carried, place_of, real
from gnomon.models.families import Family, window_of
from gnomon.models.freeze import Attention, Norm
from gnomon.models.hooks import Taps
from gnomon.models.layout import Layout, causal_mask, positions_of

NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")


class Body:
    """The parts of a causal language model by our names, and the loop over its blocks."""

    def __init__(self, hf: Any, family: Family) -> None:
        self.family = family
        body = hf.get_submodule(family.body)
        self.embedding = body.get_submodule(family.embed)
        self.position_embedding = body.get_submodule(family.position_embed) if family.position_embed else None
        self.blocks: list[nn.Module] = list(body.get_submodule(family.blocks))
        self.final_norm: nn.Module = body.get_submodule(family.final_norm)
        self.rotary = getattr(body, "rotary_emb", None)
        self.head: nn.Module = hf.get_output_embeddings()
        self.config: Any = self.blocks[0].get_submodule(family.attn).config
        self.windows = [window_of(self.config, layer) for layer in range(len(self.blocks))]
        self.parallel = bool(family.parallel_flag and getattr(self.config, family.parallel_flag))
        self.softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self.home = place_of(self.embedding)
        self.places = [place_of(block) for block in self.blocks]
        others = [self.final_norm, self.head, self.position_embedding, self.rotary]
        self.split = any(p != self.home for p in [*self.places, *(place_of(m) for m in others if m is not None)])

    def part(self, layer: int, name: str) -> nn.Module:
        """The module that the family's row calls `name` ("o_proj", "ln2", "attn_out", ...) in block `layer`."""
        path = getattr(self.family, name)
        if not path:
            raise KeyError(name)
        return self.blocks[layer].get_submodule(path)

    def norm(self, name: str, layer: int | None = None) -> Norm:
        """Facts of a norm: ln1, ln2, ln1_post, ln2_post of a layer, or ln_final. KeyError where there is none."""
        module: Any = self.final_norm if name == "ln_final" else self.part(layer or 0, name)
        return self.facts(module)

    def facts(self, module: Any) -> Norm:
        """The facts of one norm module."""
        eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
        gain: Any = real(module)
        if self.family.gain_offset:
            gain = gain + self.family.gain_offset
        return Norm(self.family.norm, float(eps), gain.detach(), real(module, "bias"))

    def stream_norms(self) -> list[tuple[nn.Module, Norm]]:
        """Every norm on the residual stream and its branches, the final one last."""
        modules = [self.part(layer, n) for layer in range(len(self.blocks)) for n in NORMS if getattr(self.family, n)]
        return [(module, self.facts(module)) for module in [*modules, self.final_norm]]

    def head_norms(self) -> list[tuple[nn.Module, Norm]]:
        """The norms of queries and keys (Qwen3, Gemma 3): part of the attention pattern."""
        modules = [block.get_submodule(path) for block in self.blocks for path in self.family.head_norms]
        return [(module, self.facts(module)) for module in modules]

    def embed(self, ids: torch.Tensor, layout: Layout) -> torch.Tensor:
        """What enters block 0, `[rows, width, d_model]`: token plus position embedding, scaled as the family does."""
        x = self.embedding(ids)
        if self.position_embedding is not None:
            last = self.position_embedding.weight.shape[0] - 1
            at = positions_of(layout).clamp(max=last)
            x = x + self._called(self.position_embedding, at)
        return x

    def _called(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        """A module of its own device, called from home."""
        return module(x.to(place_of(module))).to(self.home) if self.split else module(x)

    def run(
        self,
        x: torch.Tensor,
        layout: Layout,
        taps: Taps | None = None,
        first: int = 0,
        stop: int | None = None,
        cache: KVCache | None = None,
        attention: Attention | None = None,
    ) -> torch.Tensor:
        """Run blocks first..stop-1 on `x` (resid_pre of block `first`) and return the last one's resid_post, at home.

        The cache, where given, must have been told of this chunk by `begin`; the caller `advance`s it afterwards.
        """
        stop = len(self.blocks) if stop is None else stop
        positions = positions_of(layout)
        masks = self._masks(layout, positions, x)
        if attention is not None:
            attention.masks = self._always(layout, positions)
        rotary = self._rotary(x, positions)
        extra: dict[str, Any] = {} if cache is None else {self.family.cache_argument: cache}
        keys, carried = taps.keys if taps is not None else (), Carried()
        for layer in range(first, stop):
            if taps is not None and ("resid_pre", layer) in keys:
                x = taps.visit("resid_pre", layer, x)
            if rotary:
                extra["position_embeddings"] = rotary[layer]
            x = self.block(layer, x, masks[layer], extra, carried)
            if taps is not None and ("resid_post", layer) in keys:
                x = taps.visit("resid_post", layer, x)
        return x.to(self.home) if self.split else x

    def block(
        self, layer: int, x: torch.Tensor, mask: torch.Tensor | None, extra: dict[str, Any], carried: Carried
    ) -> torch.Tensor:
        """One block's resid_post, on the block's device; what it is given is brought there."""
        if self.split:
            place = self.places[layer]
            x, mask = x.to(place), carried.at(mask, place)
            extra = {key: carried.at(value, place) for key, value in extra.items()}
        out = self.blocks[layer](x, attention_mask=mask, **extra)
        return out[0] if isinstance(out, tuple) else out

    def _masks(self, layout: Layout, positions: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor | None]:
        eager = self.config._attn_implementation == "eager"
        made: dict[int | None, torch.Tensor | None] = {}
        for window in set(self.windows):
            mask = causal_mask(layout, positions, window, always=eager)
            if eager and mask is not None:
                low = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
                mask = torch.where(mask, torch.zeros_like(low), low)
            made[window] = mask
        return [made[window] for window in self.windows]

    def _always(self, layout: Layout, positions: torch.Tensor) -> list[torch.Tensor]:
        made: dict[int | None, torch.Tensor] = {}
        for window in set(self.windows):
            mask = causal_mask(layout, positions, window, always=True)
            assert mask is not None
            made[window] = mask
        return [made[window] for window in self.windows]

    def _rotary(self, x: torch.Tensor, positions: torch.Tensor) -> list[Any]:
        if self.rotary is None:
            return []
        if self.split:
            place = place_of(self.rotary)
            x, positions = x[:, :1].to(place), positions.to(place)  # x tells dtype and device only
        if not self.family.rotary_by_layer_type:
            return [self.rotary(x, positions)] * len(self.blocks)
        types = self.config.layer_types
        made = {kind: self.rotary(x, positions, kind) for kind in set(types)}
        return [made[kind] for kind in types]

    def logits(self, x: torch.Tensor, norm: Norm | None = None) -> torch.Tensor:
        """Final norm, unembedding and the family's soft cap of resid_post of the last block: `[..., d_vocab]`.

        `norm` takes the place of the model's own final norm where its precision matters.
        """
        if self.split:
            normed = norm.apply(x) if norm is not None else self._called(self.final_norm, x)
            out = self._called(self.head, normed)
        else:
            out = self.head(self.final_norm(x) if norm is None else norm.apply(x))
        return out if self.softcap is None else torch.tanh(out / self.softcap) * self.softcap
