"""The only room that knows transformers: families, hooks, decoding, sources, checks. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon.models.batching import plan as plan
    from gnomon.models.check import check_model as check_model
    from gnomon.models.families import FAMILIES as FAMILIES
    from gnomon.models.generate import Generated as Generated
    from gnomon.models.model import Model as Model
    from gnomon.models.model import Out as Out
    from gnomon.models.sampling import gumbel as gumbel
    from gnomon.models.sampling import noise as noise
    from gnomon.models.sources import load_model as load_model
    from gnomon.models.sources import load_tokenizer as load_tokenizer
    from gnomon.models.sources import peek as peek

_NAMES = {
    "FAMILIES": "families",
    "Generated": "generate",
    "Model": "model",
    "Out": "model",
    "check_model": "check",
    "gumbel": "sampling",
    "load_model": "sources",
    "load_tokenizer": "sources",
    "noise": "sampling",
    "peek": "sources",
    "plan": "batching",
}
__all__ = [
    "FAMILIES",
    "Generated",
    "Model",
    "Out",
    "check_model",
    "gumbel",
    "load_model",
    "load_tokenizer",
    "noise",
    "peek",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
