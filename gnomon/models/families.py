"""One row per model family: where its parts are and which conventions they follow. No torch here.

Adding a family is adding a row, then `gnomon check NAME`, which proves the row against the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from gnomon.errors import UserError


@dataclass(frozen=True)
class Family:
    """Module paths (relative to `body`, or to a block) and conventions of one architecture.

    `attn_out` and `mlp_out` are the modules whose output is added to the residual stream: the output projection, or
    the post-norm of families that have one. `ln2` reads resid_mid (resid_pre in a parallel block).
    """

    name: str
    body: str = "model"
    embed: str = "embed_tokens"
    position_embed: str = ""
    blocks: str = "layers"
    final_norm: str = "norm"
    attn: str = "self_attn"
    mlp: str = "mlp"
    o_proj: str = "self_attn.o_proj"
    down_proj: str = "mlp.down_proj"
    up_proj: str = "mlp.up_proj"
    gate_proj: str = "mlp.gate_proj"
    activation: str = "mlp.act_fn"
    ln1: str = "input_layernorm"
    ln2: str = "post_attention_layernorm"
    ln1_post: str = ""
    ln2_post: str = ""
    head_norms: tuple[str, ...] = ()
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    gain_offset: float = 0.0
    """What is added to a norm's stored weight: 1 in Gemma, whose gain is 1 + w."""
    qkv: Literal["split", "conv1d", "interleaved"] = "split"
    """`split`: q_proj, k_proj, v_proj; `conv1d`: one [in, 3 * out] matrix; `interleaved`: per head q, k, v rows."""
    fused_qkv: str = ""
    cache_argument: str = "past_key_values"
    parallel_flag: str = ""
    """The config field that says whether attention and MLP read the same stream."""
    rotary_by_layer_type: bool = False
    needs_eager: bool = False
    """Attention logits are soft-capped, which torch's fused attention cannot do."""

    @property
    def gated(self) -> bool:
        return bool(self.gate_proj)

    @property
    def attn_out(self) -> str:
        return self.ln1_post or self.o_proj

    @property
    def mlp_out(self) -> str:
        return self.ln2_post or self.mlp


LLAMA = Family("llama")
GEMMA = Family(
    "gemma2",
    gain_offset=1.0,
    ln1_post="post_attention_layernorm",
    ln2="pre_feedforward_layernorm",
    ln2_post="post_feedforward_layernorm",
)
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        "gpt2",
        body="transformer",
        embed="wte",
        position_embed="wpe",
        blocks="h",
        final_norm="ln_f",
        attn="attn",
        o_proj="attn.c_proj",
        down_proj="mlp.c_proj",
        up_proj="mlp.c_fc",
        gate_proj="",
        activation="mlp.act",
        ln1="ln_1",
        ln2="ln_2",
        norm="layernorm",
        qkv="conv1d",
        fused_qkv="attn.c_attn",
    ),
    "gpt_neox": Family(
        "gpt_neox",
        body="gpt_neox",
        embed="embed_in",
        final_norm="final_layer_norm",
        attn="attention",
        o_proj="attention.dense",
        down_proj="mlp.dense_4h_to_h",
        up_proj="mlp.dense_h_to_4h",
        gate_proj="",
        activation="mlp.act",
        norm="layernorm",
        qkv="interleaved",
        fused_qkv="attention.query_key_value",
        cache_argument="layer_past",
        parallel_flag="use_parallel_residual",
    ),
    "llama": LLAMA,
    "mistral": replace(LLAMA, name="mistral"),
    "qwen2": replace(LLAMA, name="qwen2"),
    "qwen3": replace(LLAMA, name="qwen3", head_norms=HEAD_NORMS),
    "gemma2": replace(GEMMA, needs_eager=True),
    "gemma3_text": replace(GEMMA, name="gemma3_text", head_norms=HEAD_NORMS, rotary_by_layer_type=True),
}
TEXT_PARTS = {"gemma3": "gemma3_text"}
"""Multimodal configurations whose text model alone is loaded."""


def family_of(config: Any) -> Family:
    """The row of a transformers config's `model_type`; UserError naming the supported families otherwise."""
    kind = str(getattr(config, "model_type", "") or "unknown")
    kind = TEXT_PARTS.get(kind, kind)
    if kind not in FAMILIES:
        raise UserError(
            f"the architecture {kind!r} is not supported",
            f"supported families: {', '.join(FAMILIES)}",
            "add a row to gnomon/models/families.py and run `gnomon check`",
        )
    if getattr(config, "use_bidirectional_attention", False):
        raise UserError(f"this {kind} model attends in both directions", "a causal (decoder-only) language model")
    return FAMILIES[kind]


def window_of(config: Any, layer: int) -> int | None:
    """How many tokens (itself included) a query of this layer may see; None where attention is unlimited."""
    types = getattr(config, "layer_types", None)
    if types is not None and types[layer] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)
