"""sparsify (and its forerunner sae): HOOKPOINT/{cfg.json, sae.safetensors}, encoder.weight [n, d], W_dec [n, d].

z = the k largest of relu((x - b_dec) encoder.weight^T + encoder.bias). The hookpoint is the folder's name:
layers.12 (its output), layers.12.mlp, embed_tokens.
"""

from __future__ import annotations

import numpy as np

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.weights import Checkpoint, checked, count, flag, module_site, refuse_transcoder
from gnomon.errors import UserError

SHAPES = {"encoder.weight": "nd", "encoder.bias": "n", "W_dec": "nd", "b_dec": "d"}


def read(files: Checkpoint) -> SparseDictionary:
    """The dictionary of one hookpoint's folder."""
    cfg = files.config("cfg.json")
    if flag(files.label, cfg, "transcode") or flag(files.label, cfg, "skip_connection"):
        raise refuse_transcoder(files.label, "a module's input", "its output")
    kind = cfg.get("activation", "topk")
    if kind != "topk" or flag(files.label, cfg, "signed"):
        kind = "signed topk" if kind == "topk" else kind
        raise UserError(f"{files.label} has the activation {kind!r}", "topk (unsigned)")
    site = files.at(module_site(files.folder.name), f"hookpoint {files.folder.name!r}")
    d, n = cfg.get("d_in"), cfg.get("num_latents") or None
    if n is None and isinstance(d, int) and isinstance(cfg.get("expansion_factor"), int):
        n = d * cfg["expansion_factor"]
    arrays = checked(files.label, files.arrays(("encoder.weight", "encoder.bias", "W_dec"), ("b_dec",)), SHAPES, d, n)
    k = count(files.label, cfg.get("k"), len(arrays["encoder.bias"]))
    b_dec = arrays.get("b_dec", np.zeros(arrays["W_dec"].shape[1], np.float32))
    return canonical(
        site, arrays["encoder.weight"].T, arrays["encoder.bias"], arrays["W_dec"], b_dec, subtracted=True,
        activation="topk", k=k, meta={"hookpoint": files.folder.name},
    )  # fmt: skip
