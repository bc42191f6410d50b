"""The page of a latent on Neuronpedia, for dictionaries that are known to be there.

`MODEL/LAYER-SET`, from the files' own `neuronpedia_id` (SAELens), or from the names of the GemmaScope and LlamaScope
releases. GemmaScope has several dictionaries of a layer and width, by their mean L0; Neuronpedia has one under this
name, so its page may be of another one than was loaded: compare the top tokens before quoting it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

GEMMA = re.compile(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att)\b.*?layer_(\d+)/width_(\d+[km])", re.S)
LLAMA = re.compile(r"Llama3_1-8B-Base-L(\d+)([RAM])-(8|32)x")
PAGES = "https://www.neuronpedia.org"


def neuronpedia_id(meta: Mapping[str, Any], source: str) -> str:
    """`gemma-2-2b/20-gemmascope-res-16k`; "" where the release is not known."""
    given = meta.get("neuronpedia_id") or meta.get("neuronpedia")
    if isinstance(given, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", given):
        return given
    said = " ".join([source, *(str(meta[k]) for k in ("release", "name", "sae_id", "folder") if k in meta)])
    if found := GEMMA.search(said):
        size, tuned, part, layer, width = found.groups()
        model = f"gemma-2-{size}" + ("-it" if tuned == "it" else "")
        return f"{model}/{layer}-gemmascope-{part}-{width}"
    if found := LLAMA.search(said):
        layer, part, times = found.groups()
        name = {"R": "res", "A": "att", "M": "mlp"}[part]
        return f"llama3.1-8b/{layer}-llamascope-{name}-{'32k' if times == '8' else '131k'}"
    return ""


def page(identity: str, latent: int) -> str:
    """The address of a latent's page; "" without an identity."""
    return f"{PAGES}/{identity}/{latent}" if identity else ""
