"""`Model`: one small class over an unmodified Hugging Face causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from gnomon.errors import UserError
from gnomon.models import devices
from gnomon.models import tokens as text_of
from gnomon.models import weights as canonical
from gnomon.models.body import Body
from gnomon.models.cache import KVCache
from gnomon.models.families import family_of
from gnomon.models.freeze import Norm
from gnomon.models.layout import Layout
from gnomon.types import Intervention, Progress, Prompt, Site

Logits = Literal["none", "last", "all"] | Sequence[int] | Sequence[Sequence[int]]


@dataclass
class Out:
    """What a forward call hands back.

    acts[site] `[rows, width, d]`, right-padded: slots beyond lengths[row] hold no data that means anything.
    logits: None, `[rows, d_vocab]` ("last"), `[rows, width, d_vocab]` ("all"), `[rows, k, d_vocab]` (k positions),
    or a list of `[k_row, d_vocab]` (positions of each row).
    patterns[layer] `[rows, heads, queries, keys]`: attention from the read position(s) to every position.
    norm_scales[name] `[rows, width]`: a norm's 1/std at every position.
    """

    acts: dict[Site, torch.Tensor]
    lengths: list[int]
    logits: Any = None
    patterns: dict[int, torch.Tensor] = field(default_factory=dict)
    norm_scales: dict[str, torch.Tensor] = field(default_factory=dict)
    cache: KVCache | None = None
    resid: torch.Tensor | None = None
    """The last block run's resid_post `[rows, width, d_model]`."""

    def values(self, site: Site | str) -> torch.Tensor:
        """Activations of the real tokens of all rows, row by row: ragged `[sum(lengths), d]`, a copy."""
        x = self.acts[Site.parse(site)]
        if all(length == x.shape[1] for length in self.lengths):
            return x.reshape(-1, x.shape[-1])
        return torch.cat([x[row, :length] for row, length in enumerate(self.lengths)])

    @property
    def offsets(self) -> np.ndarray:
        """Where each row begins in `values`: `[rows + 1]`."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)


class Model:
    """A causal language model whose activations can be read and edited. Made by `load_model`.

    Sizes: n_layers, d_model, n_heads, n_kv_heads, d_head, d_mlp, d_vocab. `hf` is the untouched Hugging Face model;
    its parameters need no gradient. `parallel`: attention and MLP read the same stream (no resid_mid).
    """

    def __init__(self, hf: Any, tokenizer: Any, name: str = "", facts: dict[str, Any] | None = None) -> None:
        self.hf, self.tokenizer, self.name = hf.eval().requires_grad_(False), tokenizer, name
        self.body = Body(hf, family_of(hf.config))
        config = self.body.config
        self.family = self.body.family.name
        self.parallel = self.body.parallel
        self.n_layers = len(self.body.blocks)
        self.d_model = int(config.hidden_size)
        self.n_heads = int(config.num_attention_heads)
        self.n_kv_heads = int(getattr(config, "num_key_value_heads", None) or self.n_heads)
        self.d_head = int(getattr(config, "head_dim", None) or self.d_model // self.n_heads)
        self.d_vocab = int(self.body.head.weight.shape[0])  # pyright: ignore
        weight: Any = self.body.embedding.weight
        self.device: torch.device = self.body.home
        self.dtype: torch.dtype = weight.dtype
        self.facts = dict(facts or {})
        self.fingerprint = str(self.facts.get("fingerprint", ""))
        self.d_mlp = int(self.weights("W_out", 0).shape[0])
        self.stop_ids = text_of.stop_ids(tokenizer, getattr(hf, "generation_config", None))
        self.is_exact = False
        self.placed = devices.placed(hf, self.body.blocks)
        """Blocks by device, of a model on several."""

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.family}, {self.n_layers} layers, d_model {self.d_model})"

    def describe(self) -> dict[str, Any]:
        """Facts for reports and fingerprints, ready for JSON."""
        sizes = ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_mlp", "d_vocab", "parallel", "family")
        return (
            {"name": self.name}
            | {key: getattr(self, key) for key in sizes}
            | {"dtype": str(self.dtype).removeprefix("torch."), "device": str(self.device)}
            | ({"blocks_on": self.placed} if self.placed else {})
            | {"attention": self.body.config._attn_implementation}
            | {"chat_template": text_of.template_hash(self.tokenizer)}
            | self.facts
        )

    # ------------------------------------------------------------ text

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, text or chat messages (see `tokens.tokenize`)."""
        return text_of.tokenize(self.tokenizer, prompt)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a continuation: no special tokens."""
        return text_of.encode_text(self.tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        return text_of.decode(self.tokenizer, ids)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as text, with its leading space."""
        return text_of.token_strings(self.tokenizer, ids)

    # ------------------------------------------------------------ sites and weights

    def site_shape(self, site: Site | str) -> int:
        """Width of a site's vectors; UserError where this model has no such site."""
        site = Site.parse(site)
        if site.component != "embed" and not 0 <= site.layer < self.n_layers:
            raise UserError(f"site {site} does not exist in {self.name}", f"layers are 0 to {self.n_layers - 1}")
        if site.component == "resid_mid" and self.parallel:
            raise UserError(
                f"site {site}: {self.family} runs attention and MLP in parallel, so there is no stream between them",
                "resid_pre, attn_out, mlp_out or resid_post",
            )
        if site.head is not None and not 0 <= site.head < self.n_heads:
            raise UserError(f"site {site} does not exist in {self.name}", f"heads are 0 to {self.n_heads - 1}")
        if site.component == "z":
            return self.d_head if site.head is not None else self.n_heads * self.d_head
        return self.d_mlp if site.component == "mlp_post" else self.d_model

    def sites(self, wanted: Sequence[Site | str]) -> list[Site]:
        """Parsed and checked sites."""
        parsed = [Site.parse(site) for site in wanted]
        for site in parsed:
            self.site_shape(site)
        return parsed

    def weights(self, name: str, layer: int | None = None) -> torch.Tensor:
        """A weight in the canonical orientation x @ W (see `weights.weights` for names and shapes)."""
        return canonical.weights(self, name, layer)

    def norm(self, name: str, layer: int | None = None) -> Norm:
        """Facts (kind, eps, gain, bias) of ln1, ln2, ln1_post, ln2_post of a layer, or of ln_final."""
        self.weights(f"{name}.w", layer)  # raises UserError for a name or layer that does not exist
        found = self.body.norm(name, layer)
        bias = None if found.bias is None else found.bias.to(self.device)
        return replace(found, gain=found.gain.to(self.device), bias=bias)

    @property
    def unembed(self) -> torch.Tensor:
        """W_U `[d_model, d_vocab]`, a view."""
        return self.weights("W_U")

    def unembed_directions(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Directions in resid_post of the last block along which tokens' logits rise: `[tokens, d_model]`.

        C (gain * W_U[:, t]): through the final norm's gain, centred where the norm centres (its scale is left out).
        """
        norm = self.norm("ln_final")
        rows = self.unembed[:, list(token_ids)].T * norm.gain
        return rows - rows.mean(-1, keepdim=True) if norm.kind == "layernorm" else rows

    def logits_from(self, resid: torch.Tensor) -> torch.Tensor:
        """Final norm, unembedding and soft cap of resid_post vectors `[..., d_model]`: `[..., d_vocab]`."""
        return self.body.logits(resid, self.body.norm("ln_final") if self.is_exact else None)

    @contextmanager
    def exact(self) -> Iterator[Model]:
        """Compute norms and softmax in the model's own dtype instead of Hugging Face's float32.

        For identity tests of a float64 model; calls inside the context differ from Hugging Face's by that rounding.
        """
        before = self.is_exact
        self.is_exact = True
        try:
            yield self
        finally:
            self.is_exact = before

    # ------------------------------------------------------------ running

    def batch(self, rows: Sequence[Sequence[int]] | torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """Right-padded ids `[rows, width]` on the device, and the lengths. UserError for an empty row or unknown id."""
        lists = rows.tolist() if isinstance(rows, torch.Tensor) else [list(row) for row in rows]
        if not lists or not all(lists):
            raise UserError("a batch with no rows, or a row without tokens", "at least one token a row")
        lengths = [len(row) for row in lists]
        width = max(lengths)
        limit = getattr(self.body.config, "max_position_embeddings", None)
        if self.body.position_embedding is not None and limit is not None and width > limit:
            raise UserError(f"a text of {width} tokens", f"{self.name} has {limit} positions", "shorten the prompt")
        if min(map(min, lists)) < 0 or max(map(max, lists)) >= self.body.embedding.weight.shape[0]:  # pyright: ignore
            raise UserError("a token id outside the model's vocabulary", f"ids from 0 to {self.d_vocab - 1}")
        padded = [row + [0] * (width - len(row)) for row in lists]
        return torch.tensor(padded, device=self.device), lengths

    def layout(self, lengths: Sequence[int], prompt_lens: Sequence[int] | None = None) -> Layout:
        """The layout of a fresh right-padded batch."""
        return Layout(lengths, max(lengths), self.device, prompt_lens=prompt_lens)

    def new_cache(self, reserve: int = 0) -> KVCache:
        """An empty key-value cache for `forward(cache=...)`, with room for `reserve` more tokens."""
        return KVCache(self.n_layers, reserve)

    def forward(
        self,
        tokens: Sequence[Sequence[int]] | torch.Tensor,
        read: Sequence[Site | str] = (),
        edit: Sequence[Intervention] = (),
        *,
        grad: bool = False,
        freeze: Sequence[str] = (),
        logits: Logits = "none",
        cache: KVCache | None = None,
        patterns: Sequence[int] = (),
        pattern_at: Literal["last", "all"] | Sequence[int] = "last",
        norm_scales: Sequence[str] = (),
        start: tuple[int, torch.Tensor] | None = None,
        stop: int | None = None,
        prompt_lens: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Out:
        """Run one batch, reading and editing sites; see `gnomon.models.forward.forward` for every argument."""
        from gnomon.models.forward import forward

        return forward(
            self, tokens, self.sites(read), self._edits(edit), grad=grad, freeze=freeze, logits=logits, cache=cache,
            patterns=patterns, pattern_at=pattern_at, norm_scales=norm_scales, start=start, stop=stop,
            prompt_lens=prompt_lens, rows=rows,
        )  # fmt: skip

    def _edits(self, edit: Sequence[Intervention]) -> list[Intervention]:
        for intervention in edit:
            self.site_shape(intervention.site)
        return list(edit)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        read: Sequence[Site | str] = (),
        positions: Sequence[str] = (),
        edit: Sequence[Intervention] = (),
        temperature: float | Sequence[float] = 0.0,
        top_p: float = 1.0,
        noise: Any = None,
        top_k_logits: int = 0,
        progress: Progress | None = None,
        prefix: KVCache | None = None,
    ) -> Any:
        """Decode one batch with a cache, capturing sites in the same pass; see `gnomon.models.generate.generate`."""
        from gnomon.models.generate import Options, generate

        options = Options(max_new_tokens, tuple(stop), temperature, top_p, noise, top_k_logits)
        return generate(self, prompts, self.sites(read), tuple(positions), self._edits(edit), options, progress, prefix)

    def logprobs(
        self,
        tokens: Sequence[Sequence[int]],
        prompt_lens: Sequence[int],
        edit: Sequence[Intervention] = (),
        *,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """log p of every continuation token given what precedes it: for row i `[len(tokens[i]) - prompt_lens[i]]`
        float32, in the order given. Teacher-forced; see `gnomon.models.score.logprobs`."""
        from gnomon.models.score import logprobs

        return logprobs(self, tokens, prompt_lens, self._edits(edit), batch_size, progress)
