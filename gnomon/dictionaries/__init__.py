"""Sparse autoencoders, one file per on-disk format. Names only; a format is imported when it is asked for."""

from __future__ import annotations

from typing import Any

FORMATS: dict[str, str] = {
    "saelens": "gnomon.dictionaries.saelens:read",
    "gemma_scope": "gnomon.dictionaries.gemma_scope:read",
    "gemma_scope_2": "gnomon.dictionaries.gemma_scope_2:read",
    "llama_scope": "gnomon.dictionaries.llama_scope:read",
    "sparsify": "gnomon.dictionaries.sparsify:read",
    "dictionary_learning": "gnomon.dictionaries.dictionary_learning:read",
}
WEIGHT_FILES: dict[str, str] = {
    "sae_weights.safetensors": "saelens",
    "params.npz": "gemma_scope",
    "params.safetensors": "gemma_scope_2",
    "final.safetensors": "llama_scope",
    "sae.safetensors": "sparsify",
    "ae.pt": "dictionary_learning",
}
"""By the name of its weight file the format is known."""

_NAMES = {
    "SparseDictionary": "base",
    "canonical": "base",
    "load_dictionary": "load",
    "save_dictionary": "save",
    "check_dictionary": "check",
    "require_fit": "check",
    "dictionaries_of": "of_step",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
