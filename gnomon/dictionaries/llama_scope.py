"""LlamaScope: hyperparams.json + checkpoints/final.safetensors, encoder.weight [n, d], decoder.weight [d, n].

In this order: (1) dataset-wise norm, s = sqrt(d) / average norm: b_enc / s_in, b_dec / s_out, W_dec s_in / s_out;
(2) with sparsity_include_decoder_norm the decoder's norms move into the encoder; (3) the threshold applies to what the
raw activation gives then. b_dec is not subtracted (unless apply_decoder_bias_to_pre_encoder says so).
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.weights import Checkpoint, checked, count, flag, lens_site, number, refuse_transcoder
from gnomon.errors import UserError
from gnomon.types import Site

SHAPES = {"encoder.weight": "nd", "decoder.weight": "dn", "encoder.bias": "n", "decoder.bias": "d"}
SUFFIX = {"R": "resid_post", "A": "attn_out", "M": "mlp_out"}


def read(files: Checkpoint) -> SparseDictionary:
    """The dictionary of one LlamaScope folder."""
    cfg = files.config("hyperparams.json")
    into, out = cfg.get("hook_point_in"), cfg.get("hook_point_out")
    name = re.search(r"-L(\d+)(R|A|M|TC)-\d+x", files.label)
    if (out is not None and out != into) or (name and name[2] == "TC"):
        raise refuse_transcoder(files.label, into, out)
    if flag(files.label, cfg, "use_glu_encoder"):
        raise UserError(f"{files.label} has a gated linear encoder", "use_glu_encoder: false")
    named = Site(SUFFIX[name[2]], int(name[1])) if name else None
    said = lens_site(into)
    if named and said and named != said:
        raise UserError(f"{files.label} is named after {named}, and its hyperparams.json says {said}", "one site")
    site = files.at(said or named, f"hook {into!r}")
    arrays = checked(
        files.label, files.arrays(("encoder.weight", "encoder.bias", "decoder.weight"), ("decoder.bias",)),
        SHAPES, cfg.get("d_model"), cfg.get("d_sae"),
    )  # fmt: skip
    n, d = arrays["encoder.weight"].shape
    s_in, s_out = _scales(files.label, cfg, d)
    encoder, b_enc = arrays["encoder.weight"].T, arrays["encoder.bias"].astype(np.float64)
    b_dec = arrays.get("decoder.bias", np.zeros(d, np.float32)).astype(np.float64)
    if flag(files.label, cfg, "apply_decoder_bias_to_pre_encoder"):
        b_enc = b_enc - b_dec @ encoder
    decoder = arrays["decoder.weight"].T * (s_in / s_out)
    include = flag(files.label, cfg, "sparsity_include_decoder_norm")
    norms = np.linalg.norm(decoder, axis=1) if include else np.ones(n)
    meta = {"model_name": "Llama-3.1-8B" if "Llama3_1-8B" in files.label else None, "top_k": cfg.get("top_k"),
            "norm_in": math.sqrt(d) / s_in, "hook_name": into}  # fmt: skip
    return canonical(
        site, encoder, b_enc / s_in, decoder, b_dec / s_out, meta={k: v for k, v in meta.items() if v is not None},
        **_activation(files.label, cfg, n, norms, include),
    )  # fmt: skip


def _scales(what: str, cfg: dict[str, Any], d: int) -> tuple[float, float]:
    norm = cfg.get("norm_activation", "dataset-wise")
    if norm in ("none", "inference"):
        return 1.0, 1.0
    if norm != "dataset-wise":
        raise UserError(f"{what} normalises every token by itself (norm_activation: {norm!r})", "dataset-wise or none")
    said = cfg.get("dataset_average_activation_norm")
    if not isinstance(said, dict):
        raise UserError(f"{what} says no dataset_average_activation_norm", "its numbers 'in' and 'out'")
    s_in = math.sqrt(d) / number(what, said.get("in"), "dataset_average_activation_norm.in")
    return s_in, math.sqrt(d) / number(what, said.get("out", said["in"]), "dataset_average_activation_norm.out")


def _activation(what: str, cfg: dict[str, Any], n: int, norms: np.ndarray, include: bool) -> dict[str, Any]:
    kind = cfg.get("act_fn", "jumprelu")
    if kind == "relu":
        return {"activation": "relu"}
    if kind == "topk":
        return {"activation": "topk", "k": count(what, cfg.get("top_k"), n, "top_k"),
                "by_norm": include}  # fmt: skip
    if kind != "jumprelu":
        raise UserError(f"{what} has act_fn {kind!r}", "jumprelu, topk or relu")
    threshold = number(what, cfg.get("jump_relu_threshold", 0.0), "jump_relu_threshold", None)
    return {"activation": "jumprelu", "threshold": threshold / np.where(norms > 0, norms, 1.0)}
