"""Small checkpoints of every layout, each with its family's own formula in float64 numpy: what loaders must match.

`write(layout, folder)` gives a `Reference`: where the dictionary lies, and `run(x) -> (z, x^)` in the raw activation's
units, z being each latent's activation times its decoder row's length (what the canonical form calls its activation).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

D, N, K = 12, 40, 5
Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Reference:
    """A written checkpoint and its formula."""

    folder: Path
    site: str
    format: str
    run: Run


def draws(seed: int = 0, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Random weights, float32; decoder rows of different lengths, one row of a latent that decodes to nothing."""
    rng = np.random.default_rng(seed)
    w = {"W_enc": rng.normal(size=(D, N)) / D**0.5, "W_dec": rng.normal(size=(N, D)) * scale,
         "b_enc": rng.normal(size=N) * 0.1, "b_dec": rng.normal(size=D) * 0.5, "threshold": rng.uniform(0.1, 0.6, N),
         "r_mag": rng.normal(size=N) * 0.3, "b_mag": rng.normal(size=N) * 0.1,
         "b_gate": rng.normal(size=N) * 0.1}  # fmt: skip
    w["W_dec"] *= rng.uniform(0.3, 3.0, N)[:, None]
    return {key: value.astype(np.float32) for key, value in w.items()}


def activations(n: int = 64, seed: int = 1) -> np.ndarray:
    """Raw activations `[n, D]` float64, off centre."""
    return np.random.default_rng(seed).normal(size=(n, D)) * 1.7 + 0.4


def wide(w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value.astype(np.float64) for key, value in w.items()}


def top(pre: np.ndarray, k: int) -> np.ndarray:
    """The k largest of each row, the others 0, negative ones too."""
    cut = np.sort(pre, axis=-1)[:, -k][:, None]
    return np.where(pre >= cut, np.maximum(pre, 0), 0)


def lengths(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=1)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


# ---------------------------------------------------------------- SAELens


def saelens(folder: Path, kind: str = "standard", seed: int = 0, old: bool = False, **more: Any) -> Reference:
    """kind: standard, topk, jumprelu, gated. `old`: a configuration from before version 6 (hook_point, no metadata)."""
    w = draws(seed)
    subtract = more.get("apply_b_dec_to_input", kind != "jumprelu")
    cfg: dict[str, Any] = {"architecture": kind, "d_in": D, "d_sae": N, "dtype": "float32",
                           "normalize_activations": "none", "apply_b_dec_to_input": subtract}  # fmt: skip
    if old:
        cfg |= {"hook_point": "blocks.3.hook_resid_pre", "model_name": "gpt2-small"}
        if kind == "topk":
            cfg |= {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    else:
        cfg |= {"metadata": {"sae_lens_version": "6.1.0", "hook_name": "blocks.2.hook_resid_post"}, "k": K}
    names = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(kind, ("b_enc",))
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / "cfg.json", cfg | more)
    save_file({key: w[key] for key in ("W_enc", "W_dec", "b_dec", *names)}, folder / "sae_weights.safetensors")
    v = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = (x - v["b_dec"] * subtract) @ v["W_enc"]
        z = np.maximum(p + v["b_enc"], 0)
        decoder = v["W_dec"]
        if kind == "topk" and more.get("rescale_acts_by_decoder_norm"):
            z = top((p + v["b_enc"]) * lengths(decoder), K) / lengths(decoder)
        elif kind == "topk":
            z = top(p + v["b_enc"], K)
        elif kind == "jumprelu":
            z = z * (p + v["b_enc"] > v["threshold"])
        elif kind == "gated":
            z = (p + v["b_gate"] > 0) * np.maximum(np.exp(v["r_mag"]) * p + v["b_mag"], 0)
        return z * lengths(decoder), z @ decoder + v["b_dec"]

    return Reference(folder, "resid_pre.3" if old else "resid_post.2", "saelens", run)


# ---------------------------------------------------------------- Gemma


def gemma_scope(
    root: Path, part: str = "res", layer: int = 4, width: str = "", l0: int = 9, seed: int = 1
) -> Reference:
    """`width`: a folder name such as width_16k is not true of so few latents, so it is left out unless given."""
    inner = (
        f"layer_{layer}/{width or 'canonical'}/average_l0_{l0}"
        if part != "embedding"
        else f"embedding/w/average_l0_{l0}"
    )
    release = root / f"gemma-scope-2b-pt-{'res' if part == 'embedding' else part}"
    folder, w = release / inner, draws(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {key: w[key] for key in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    np.savez(folder / "params.npz", **kept)
    v, factor = wide(w), D**0.5 if part == "embedding" else 1.0

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pre = (x / factor) @ v["W_enc"] + v["b_enc"]
        z = pre * (pre > v["threshold"])
        return z * lengths(v["W_dec"] * factor), (z @ v["W_dec"] + v["b_dec"]) * factor

    site = {"res": f"resid_post.{layer}", "mlp": f"mlp_out.{layer}", "att": f"z.{layer}", "embedding": "embed"}[part]
    return Reference(release, site, "gemma_scope", run)


def gemma_scope_2(
    root: Path, part: str = "resid_post", layer: int = 7, config: bool = True, seed: int = 2
) -> Reference:
    folder, w = root / part / f"layer_{layer}_l0_medium", draws(seed)
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {"w_enc": w["W_enc"], "w_dec": w["W_dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    save_file(renamed | {"threshold": w["threshold"]}, folder / "params.safetensors")
    module = {
        "resid_post": "output",
        "attn_out": "self_attn.o_proj.input",
        "mlp_out": "post_feedforward_layernorm.output",
    }
    if config:
        _json(folder / "config.json", {"architecture": "jump_relu", "width": N, "l0": 10,
                                       "model_name": "gemma-v3-1b-pt",
                                       "hf_hook_point_in": f"model.layers.{layer}.{module[part]}"})  # fmt: skip
    v = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pre = x @ v["W_enc"] + v["b_enc"]
        z = pre * (pre > v["threshold"])
        return z * lengths(v["W_dec"]), z @ v["W_dec"] + v["b_dec"]

    site = f"{'z' if part == 'attn_out' else part}.{layer}"
    return Reference(folder, site, "gemma_scope_2", run)


# ---------------------------------------------------------------- LlamaScope


def llama_scope(
    root: Path, letter: str = "R", layer: int = 15, include: bool = True, seed: int = 3, **more: Any
) -> Reference:
    folder, w = root / f"Llama3_1-8B-Base-L{layer}{letter}-8x", draws(seed)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_file(
        {"encoder.weight": np.ascontiguousarray(w["W_enc"].T), "encoder.bias": w["b_enc"], "decoder.bias": w["b_dec"],
         "decoder.weight": np.ascontiguousarray(w["W_dec"].T)}, folder / "checkpoints" / "final.safetensors",
    )  # fmt: skip
    hook = {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out"}.get(letter, "ln2.hook_normalized")
    norm_in, norm_out = 6.1, 6.1
    cfg = {"d_model": D, "d_sae": N, "hook_point_in": f"blocks.{layer}.{hook}", "use_decoder_bias": True, "top_k": K,
           "hook_point_out": f"blocks.{layer}.{'hook_mlp_out' if letter == 'TC' else hook}", "act_fn": "jumprelu",
           "apply_decoder_bias_to_pre_encoder": False, "jump_relu_threshold": 0.53, "norm_activation": "dataset-wise",
           "dataset_average_activation_norm": {"in": norm_in, "out": norm_out},
           "sparsity_include_decoder_norm": include, "use_glu_encoder": False}  # fmt: skip
    cfg |= more
    _json(folder / "hyperparams.json", cfg)
    v, s = wide(w), D**0.5 / norm_in
    plain = cfg["norm_activation"] != "dataset-wise"

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = 1.0 if plain else s
        b_enc, b_dec = v["b_enc"] / scale, v["b_dec"] / scale  # step 1: standardised parameters, s_in = s_out
        shift = b_dec @ v["W_enc"] if cfg["apply_decoder_bias_to_pre_encoder"] else 0.0
        length = lengths(v["W_dec"])
        pre = x @ v["W_enc"] + b_enc - shift
        ranked = pre * length if include else pre  # step 2
        if cfg["act_fn"] == "topk":
            z = top(ranked, K) / (length if include else 1)
        else:
            z = np.where(ranked > cfg["jump_relu_threshold"], pre, 0)  # step 3: on the raw activation
        return z * length, z @ v["W_dec"] + b_dec

    site = {"R": "resid_post", "A": "attn_out", "M": "mlp_out", "TC": "mlp_out"}[letter] + f".{layer}"
    return Reference(folder, site, "llama_scope", run)


# ---------------------------------------------------------------- sparsify, dictionary_learning


def sparsify(root: Path, hookpoint: str = "layers.5", seed: int = 4, **more: Any) -> Reference:
    folder, w = root / hookpoint, draws(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"encoder.weight": np.ascontiguousarray(w["W_enc"].T), "encoder.bias": w["b_enc"], "W_dec": w["W_dec"],
               "b_dec": w["b_dec"]}, folder / "sae.safetensors")  # fmt: skip
    _json(folder / "cfg.json", {"d_in": D, "num_latents": N, "k": K, "expansion_factor": 32, "normalize_decoder": True,
                                "signed": False, "activation": "topk"} | more)  # fmt: skip
    v = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = top((x - v["b_dec"]) @ v["W_enc"] + v["b_enc"], K)
        return z * lengths(v["W_dec"]), z @ v["W_dec"] + v["b_dec"]

    site = {"layers.5": "resid_post.5", "layers.5.mlp": "mlp_out.5", "h.2.attn": "attn_out.2", "embed_tokens": "embed"}
    return Reference(folder, site[hookpoint], "sparsify", run)


def dictionary_learning(folder: Path, kind: str = "AutoEncoderTopK", seed: int = 5, **more: Any) -> Reference:
    import torch

    w = draws(seed)
    folder.mkdir(parents=True, exist_ok=True)
    encoder, decoder = w["W_enc"].T.copy(), w["W_dec"].T.copy()
    linear = {"encoder.weight": encoder, "encoder.bias": w["b_enc"], "decoder.weight": decoder}
    plain = {key: w[key] for key in ("W_enc", "W_dec", "b_enc", "b_dec")}
    arrays: dict[str, Any] = {
        "AutoEncoder": linear | {"bias": w["b_dec"]},
        "AutoEncoderNew": linear | {"decoder.bias": w["b_dec"]},
        "AutoEncoderTopK": linear | {"b_dec": w["b_dec"], "k": np.int32(K)},
        "BatchTopKSAE": linear | {"b_dec": w["b_dec"], "k": np.int32(K), "threshold": np.float32(0.4)},
        "MatryoshkaBatchTopKSAE": plain
        | {"k": np.int32(K), "threshold": np.float32(0.4), "group_sizes": np.array([10, N - 10])},
        "JumpReluAutoEncoder": plain | {"threshold": w["threshold"]},
        "GatedAutoEncoder": {"encoder.weight": encoder, "decoder.weight": decoder, "decoder_bias": w["b_dec"],
                             "mag_bias": w["b_mag"], "gate_bias": w["b_gate"], "r_mag": w["r_mag"]},
    }[kind]  # fmt: skip
    torch.save({key: torch.tensor(value) for key, value in arrays.items()}, folder / "ae.pt")
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": N, "k": K, "layer": 8,
               "lm_name": "google/gemma-2-2b", "submodule_name": "resid_post_layer_8"}  # fmt: skip
    _json(folder / "config.json", {"trainer": trainer | more, "buffer": {"ctx_len": 128}})
    v = wide(w)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = 0.0 if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else 1.0
        p = (x - keep * v["b_dec"]) @ v["W_enc"]
        pre = p + v["b_enc"]
        z = np.maximum(pre, 0)
        if kind == "AutoEncoderTopK":
            z = top(pre, K)
        elif "BatchTopK" in kind:
            z = z * (z > np.float64(np.float32(0.4)))
        elif kind == "JumpReluAutoEncoder":
            z = z * (pre > v["threshold"])
        elif kind == "GatedAutoEncoder":
            z = (p + v["b_gate"] > 0) * np.maximum(np.exp(v["r_mag"]) * p + v["b_mag"], 0)
        return z * lengths(v["W_dec"]), z @ v["W_dec"] + v["b_dec"]

    return Reference(folder, "resid_post.8", "dictionary_learning", run)


LAYOUTS: dict[str, Callable[[Path], Reference]] = {
    "saelens standard": lambda p: saelens(p),
    "saelens topk": lambda p: saelens(p, "topk"),
    "saelens topk by norm": lambda p: saelens(p, "topk", rescale_acts_by_decoder_norm=True),
    "saelens jumprelu": lambda p: saelens(p, "jumprelu"),
    "saelens jumprelu, subtracted": lambda p: saelens(p, "jumprelu", apply_b_dec_to_input=True),
    "saelens gated": lambda p: saelens(p, "gated"),
    "saelens before 6": lambda p: saelens(p, old=True),
    "saelens topk before 6": lambda p: saelens(p, "topk", old=True),
    "gemma_scope res": lambda p: gemma_scope(p),
    "gemma_scope mlp": lambda p: gemma_scope(p, "mlp"),
    "gemma_scope att": lambda p: gemma_scope(p, "att"),
    "gemma_scope embedding": lambda p: gemma_scope(p, "embedding"),
    "gemma_scope_2": lambda p: gemma_scope_2(p),
    "gemma_scope_2 without a configuration": lambda p: gemma_scope_2(p, "attn_out", config=False),
    "gemma_scope_2 mlp": lambda p: gemma_scope_2(p, "mlp_out"),
    "llama_scope": lambda p: llama_scope(p),
    "llama_scope attention, decoder norm not included": lambda p: llama_scope(p, "A", include=False),
    "llama_scope mlp, bias before": lambda p: llama_scope(p, "M", apply_decoder_bias_to_pre_encoder=True),
    "llama_scope topk": lambda p: llama_scope(p, act_fn="topk"),
    "llama_scope unscaled": lambda p: llama_scope(p, norm_activation="inference"),
    "sparsify": lambda p: sparsify(p),
    "sparsify mlp": lambda p: sparsify(p, "layers.5.mlp"),
    "sparsify attention": lambda p: sparsify(p, "h.2.attn"),
    "dictionary_learning AutoEncoder": lambda p: dictionary_learning(p, "AutoEncoder"),
    "dictionary_learning AutoEncoderNew": lambda p: dictionary_learning(p, "AutoEncoderNew"),
    "dictionary_learning TopK": lambda p: dictionary_learning(p),
    "dictionary_learning BatchTopK": lambda p: dictionary_learning(p, "BatchTopKSAE"),
    "dictionary_learning Matryoshka": lambda p: dictionary_learning(p, "MatryoshkaBatchTopKSAE"),
    "dictionary_learning JumpReLU": lambda p: dictionary_learning(p, "JumpReluAutoEncoder"),
    "dictionary_learning Gated": lambda p: dictionary_learning(p, "GatedAutoEncoder"),
}
