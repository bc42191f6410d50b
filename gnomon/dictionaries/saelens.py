"""SAELens: cfg.json + sae_weights.safetensors with W_enc [d, n], W_dec [n, d], b_enc, b_dec (, threshold).

pre = (x - [b_dec]) W_enc + b_enc     b_dec is subtracted where apply_b_dec_to_input says so (before v6: always)
standard  relu(pre)      topk  the k largest      jumprelu  pre where pre > threshold
gated     relu(exp(r_mag) p + b_mag) where p + b_gate > 0, p = (x - [b_dec]) W_enc: a jumprelu with
          W_enc exp(r_mag), b_mag and the threshold b_mag - exp(r_mag) b_gate
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.weights import Checkpoint, checked, count, flag, gain_of, lens_site, refuse_transcoder
from gnomon.errors import UserError, unknown

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
SHAPES = {"W_enc": "dn", "W_dec": "nd", "b_enc": "n", "b_dec": "d", "threshold": "n", "scaling_factor": "n",
          "b_gate": "n", "b_mag": "n", "r_mag": "n"}  # fmt: skip


def read(files: Checkpoint) -> SparseDictionary:
    """The dictionary of one SAELens folder."""
    cfg = files.config(CONFIG)
    more = cfg.get("metadata")
    said = cfg | (more if isinstance(more, dict) else {})
    kind = str(cfg.get("architecture", "standard"))
    activation = said.get("activation_fn_str") or said.get("activation_fn") or "relu"
    if activation == "topk":
        kind = "topk"
    if "transcoder" in kind or said.get("hook_name_out") not in (None, said.get("hook_name")):
        raise refuse_transcoder(files.label, said.get("hook_name"), said.get("hook_name_out"))
    if kind not in ARCHITECTURES:
        raise unknown(f"SAELens architecture of {files.label}", kind, ARCHITECTURES)
    if activation not in ("relu", "topk"):
        raise UserError(f"{files.label} has the activation {activation!r}", "relu or topk")
    hook = said.get("hook_name") or said.get("hook_point")
    site = files.at(lens_site(hook, said.get("hook_head_index", said.get("hook_point_head_index"))), f"hook {hook!r}")
    arrays = _arrays(files, kind, cfg)
    subtracted = flag(files.label, cfg, "apply_b_dec_to_input", True)
    n = len(arrays["W_dec"])
    rest: dict[str, Any] = {"activation": {"standard": "relu", "gated": "jumprelu"}.get(kind, kind)}
    if kind == "topk":
        kwargs = cfg.get("activation_fn_kwargs")
        k = cfg.get("k", kwargs.get("k") if isinstance(kwargs, dict) else None)
        rest |= {"k": count(files.label, k, n), "by_norm": flag(files.label, cfg, "rescale_acts_by_decoder_norm")}
    if kind == "jumprelu":
        rest["threshold"] = arrays["threshold"]
    weights = (arrays["W_enc"], arrays.get("b_enc"), arrays["W_dec"], arrays["b_dec"])
    if kind == "gated":
        gain = gain_of(files.label, arrays["r_mag"])
        base = arrays["b_dec"].astype(np.float64) @ arrays["W_enc"] if subtracted else 0.0
        weights = (arrays["W_enc"] * gain, arrays["b_mag"] - base * gain, arrays["W_dec"], arrays["b_dec"])
        rest["threshold"] = arrays["b_mag"] - gain * arrays["b_gate"]
        subtracted = False
    old = ("model_name", "neuronpedia_id", "dataset_path", "context_size", "hook_name", "hook_point")
    keep = dict.fromkeys((*old, *(more if isinstance(more, dict) else {})))
    meta = {key: said[key] for key in keep if isinstance(said.get(key), str | int | float | dict)}
    meta |= {"architecture": kind}
    return canonical(site, *weights, subtracted=subtracted, input_scale=_scale(files, cfg), meta=meta, **rest)  # pyright: ignore


def _arrays(files: Checkpoint, kind: str, cfg: dict[str, Any]) -> dict[str, np.ndarray]:
    wanted = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}.get(kind, ("b_enc",))
    also = ("scaling_factor", *(("b_enc",) if kind == "gated" else ()))
    arrays = files.arrays(("W_enc", "W_dec", "b_dec", *wanted), also)
    arrays = checked(files.label, arrays, SHAPES, cfg.get("d_in"), cfg.get("d_sae"))
    if "scaling_factor" in arrays and not np.allclose(arrays["scaling_factor"], 1):
        raise UserError(
            f"{files.label} scales its latents after encoding (scaling_factor)", "a dictionary without finetuning"
        )
    return arrays


def _scale(files: Checkpoint, cfg: dict[str, Any]) -> float:
    """What the input is multiplied by: 1, or given where the files ask for a factor that they do not hold."""
    asked = cfg.get("normalize_activations")
    if asked is None or isinstance(asked, bool):
        asked = "expected_average_only_in" if asked else "none"
    if asked == "expected_average_only_in" and files.input_scale is None:
        raise UserError(
            f"{files.label} wants its input scaled to sqrt(d) on average, by a factor that is not in its files",
            "normalize_activations: none",
            "give input_scale= or --input-scale: sqrt(d) / the mean norm in training (save_dictionary keeps it)",
        )  # fmt: skip
    if asked == "none" and files.input_scale is not None:
        raise UserError(f"{files.label} asks for no factor (normalize_activations: none)", "no input_scale")
    if asked not in ("none", "expected_average_only_in"):
        raise UserError(
            f"{files.label} normalises every token by itself (normalize_activations: {asked!r})",
            "none, or one factor for all tokens", "such a dictionary is no linear map of the activation",
        )  # fmt: skip
    return 1.0 if files.input_scale is None else files.input_scale
