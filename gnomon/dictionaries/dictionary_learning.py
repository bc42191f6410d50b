"""dictionary_learning: ae.pt (a state dict) + config.json, whose trainer names the class.

AutoEncoder          relu(W (x - bias) + b)                   AutoEncoderNew   relu(W x + b)
AutoEncoderTopK      the k largest of relu(W (x - b_dec) + b)
BatchTopKSAE, MatryoshkaBatchTopKSAE    the same where above one threshold, learnt in training
JumpReluAutoEncoder  pre = x W_enc + b_enc where above its threshold; nothing is subtracted
GatedAutoEncoder     relu(exp(r_mag) p + mag_bias) where p + gate_bias > 0, p = W (x - decoder_bias)
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.weights import Checkpoint, checked, count, gain_of, lens_site, module_site
from gnomon.errors import UserError, unknown
from gnomon.types import Site

LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "AutoEncoder": ((*LINEAR, "bias"), ()),
    "AutoEncoderNew": ((*LINEAR, "decoder.bias"), ()),
    "AutoEncoderTopK": ((*LINEAR, "b_dec"), ("k", "threshold")),
    "BatchTopKSAE": ((*LINEAR, "b_dec", "threshold"), ("k",)),
    "MatryoshkaBatchTopKSAE": ((*PLAIN, "threshold"), ("k", "group_sizes")),
    "JumpReluAutoEncoder": ((*PLAIN, "threshold"), ()),
    "GatedAutoEncoder": (("encoder.weight", "decoder.weight", "decoder_bias", "mag_bias", "gate_bias", "r_mag"), ()),
}
SHAPES = {"encoder.weight": "nd", "encoder.bias": "n", "decoder.weight": "dn", "decoder.bias": "d", "b_dec": "d",
          "bias": "d", "W_enc": "dn", "b_enc": "n", "W_dec": "nd", "decoder_bias": "d", "mag_bias": "n",
          "gate_bias": "n", "r_mag": "n"}  # fmt: skip
NAMES = {"resid_post": "resid_post", "resid_pre": "resid_pre", "resid": "resid_post", "mlp_out": "mlp_out",
         "mlp": "mlp_out", "attn_out": "attn_out", "attention_out": "attn_out", "attn": "attn_out"}  # fmt: skip


def read(files: Checkpoint) -> SparseDictionary:
    """The dictionary of one folder with ae.pt and config.json."""
    trainer = files.config("config.json").get("trainer")
    if not isinstance(trainer, dict):
        raise UserError(f"{files.folder}/config.json says nothing of a trainer", "what dictionary_learning wrote")
    kind = str(trainer.get("dict_class"))
    if kind not in KEYS:
        raise unknown(f"dict_class of {files.label}", kind, KEYS)
    site = files.at(_site(trainer), f"submodule {trainer.get('submodule_name')!r}")
    shapes = SHAPES | {"threshold": "n" if kind == "JumpReluAutoEncoder" else "", "k": ""}
    arrays = files.arrays(*KEYS[kind])
    arrays = checked(files.label, arrays, shapes, trainer.get("activation_dim"), trainer.get("dict_size"))
    sizes = arrays.get("group_sizes")
    if sizes is not None and sizes.sum() != len(arrays["W_dec"]):
        raise UserError(
            f"{files.label}: its groups hold {sizes.sum():g} latents together", f"all {len(arrays['W_dec'])}"
        )
    encoder = arrays["W_enc"] if "W_enc" in arrays else arrays["encoder.weight"].T
    decoder = arrays["W_dec"] if "W_dec" in arrays else arrays["decoder.weight"].T
    b_dec = next(arrays[name] for name in ("b_dec", "bias", "decoder.bias", "decoder_bias") if name in arrays)
    b_enc = next((arrays[name] for name in ("b_enc", "encoder.bias") if name in arrays), None)
    rest: dict[str, Any] = {"activation": "relu"}
    if kind == "AutoEncoderTopK":
        rest = {"activation": "topk", "k": _k(files.label, trainer, arrays, len(decoder))}
    elif "threshold" in arrays:
        rest = {"activation": "jumprelu", "threshold": _threshold(files.label, kind, arrays["threshold"])}
    elif kind == "GatedAutoEncoder":
        gain = gain_of(files.label, arrays["r_mag"])
        b_enc = arrays["mag_bias"] - gain * (b_dec.astype(np.float64) @ encoder)
        rest = {"activation": "jumprelu", "threshold": arrays["mag_bias"] - gain * arrays["gate_bias"]}
        encoder = encoder * gain
    assert b_enc is not None
    subtracted = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder", "GatedAutoEncoder")
    meta = {"model_name": str(trainer.get("lm_name", "")).split("/")[-1] or None, "dict_class": kind,
            "trained_k": trainer.get("k")}  # fmt: skip
    if "BatchTopK" in kind:
        meta["expected_l0"] = trainer.get("k")
    meta = {key: value for key, value in meta.items() if value is not None}
    return canonical(site, encoder, b_enc, decoder, b_dec, subtracted=subtracted, meta=meta, **rest)


def _site(trainer: dict[str, Any]) -> Site | None:
    """The submodule's site; UserError where `layer` says another one."""
    name = str(trainer.get("submodule_name") or "")
    found = re.fullmatch(r"(\w+?)_layer_?(\d{1,6})", name)
    if found and found[1] in NAMES:
        site = Site(NAMES[found[1]], int(found[2]))
    else:
        site = lens_site(name) or module_site(name)
    layer = trainer.get("layer")
    if site is not None and isinstance(layer, int) and site.component != "embed" and layer != site.layer:
        raise UserError(f"config.json says layer {layer}, and submodule {name!r}", "one layer")
    return site


def _k(what: str, trainer: dict[str, Any], arrays: dict[str, np.ndarray], n: int) -> int:
    held, said = arrays.get("k"), trainer.get("k")
    if held is not None and said is not None and float(held) != said:
        raise UserError(f"{what}: ae.pt has k = {float(held):g}, and config.json k = {said}", "one k")
    return count(what, float(held) if held is not None else said, n)


def _threshold(what: str, kind: str, threshold: np.ndarray) -> np.ndarray:
    if kind != "JumpReluAutoEncoder" and float(threshold) < 0:
        raise UserError(
            f"{what} has the threshold {float(threshold):g}: its training never set one", "a threshold of 0 or more",
            "without it a BatchTopK dictionary depends on the other tokens of the batch",
        )  # fmt: skip
    return threshold
