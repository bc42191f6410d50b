"""`save_dictionary`: the SAELens layout (cfg.json, sae_weights.safetensors), which SAELens reads too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.dictionaries.base import SparseDictionary
from gnomon.disk import write_bytes, write_json
from gnomon.errors import UserError

VERSION = "6.0.0"
"""The version of SAELens whose configuration this is."""


def save_dictionary(dictionary: SparseDictionary, folder: str | Path) -> Path:
    """Write cfg.json and sae_weights.safetensors into `folder`, in the units of the original file.

    So a topk ranks as it did, and what is read back has the same canonical numbers. A subtracted bias stays folded
    into b_enc (apply_b_dec_to_input: false). UserError where the disk is full or not writable.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    scale = np.ones(dictionary.d_sae, np.float32) if dictionary.scale is None else np.asarray(dictionary.scale)
    wide = scale.astype(np.float64)
    plain = {
        "W_enc": _single(dictionary.encoder / wide),
        "b_enc": _single(dictionary.encoder_bias / wide),
        "W_dec": _single(dictionary.decoder * wide[:, None]),
        "b_dec": _single(dictionary.decoder_bias),
    }  # one by one: float64 of one matrix at a time is held
    if dictionary.activation == "jumprelu":
        if dictionary.threshold is None:
            raise UserError(f"{dictionary.name or 'the dictionary'} is a jumprelu without a threshold", "a threshold")
        plain["threshold"] = _single(dictionary.threshold / wide)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "cfg.json", _config(dictionary))
    write_bytes(folder / "sae_weights.safetensors", save(plain))
    return folder


def _single(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)


def _config(dictionary: SparseDictionary) -> dict[str, Any]:
    site = dictionary.site
    whole = site.component == "z" and site.head is None
    cfg: dict[str, Any] = {
        "architecture": {"relu": "standard"}.get(dictionary.activation, dictionary.activation),
        "d_in": dictionary.d_model,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if whole else "none",
    }
    if dictionary.activation == "topk":
        cfg |= {"k": int(dictionary.k or 0), "rescale_acts_by_decoder_norm": dictionary.by_norm}
    metadata: dict[str, Any] = {"sae_lens_version": VERSION, "hook_name": site.lens_name}
    if site.head is not None:
        metadata["hook_head_index"] = site.head
    for key, value in dictionary.meta.items():
        if key not in metadata and key != "architecture" and _is_json(value):
            metadata[key] = value
    metadata["gnomon"] = {"name": dictionary.name, "format": dictionary.format, "source": dictionary.source,
                          "fingerprint": dictionary.fingerprint}  # fmt: skip
    return cfg | {"metadata": metadata}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
