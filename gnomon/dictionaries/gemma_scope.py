"""GemmaScope: layer_L/width_16k/average_l0_X/params.npz with W_enc [d, n], W_dec [n, d], b_enc, b_dec, threshold.

z = pre where pre > threshold, pre = x W_enc + b_enc; b_dec is not subtracted. The site is in the release's name
(-res, -mlp, -att). `embedding/` was trained on embeddings before their factor sqrt(d); gnomon's embed has it.
"""

from __future__ import annotations

import math
import re

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.weights import Checkpoint, checked, refuse_transcoder
from gnomon.errors import UserError
from gnomon.types import Site

SHAPES = {"W_enc": "dn", "W_dec": "nd", "b_enc": "n", "b_dec": "d", "threshold": "n"}
PARTS = {"res": "resid_post", "mlp": "mlp_out", "att": "z"}


def read(files: Checkpoint) -> SparseDictionary:
    """The dictionary of one GemmaScope folder."""
    if re.search(r"gemma-scope[\w-]*transcoder", files.label):
        raise refuse_transcoder(files.label, "the MLP's input", "its output")
    embedding = "embedding" in files.label.split("/")
    site = files.at(Site("embed") if embedding else _site(files.label), "its folder and release name")
    arrays = checked(files.label, files.arrays(tuple(SHAPES)), SHAPES, n=width_of(files.label))
    d = len(arrays["b_dec"])
    found = re.search(r"average_l0_(\d+)", files.label)
    meta = {"expected_l0": int(found[1])} if found else {}
    release = re.search(r"gemma-scope-[\w.-]+", files.label)
    if release:
        name = release[0].rstrip(".-")
        short = re.match(r"gemma-scope-(\w+)-(pt|it)-", name)
        model = f"gemma-2-{short[1]}{'-it' if short[2] == 'it' else ''}" if short else None
        meta |= {"release": name, "model_name": model}
    return canonical(
        site, arrays["W_enc"], arrays["b_enc"], arrays["W_dec"], arrays["b_dec"], threshold=arrays["threshold"],
        input_scale=1 / math.sqrt(d) if embedding else 1.0, activation="jumprelu", meta=meta,
    )  # fmt: skip


def _site(label: str) -> Site | None:
    layer = re.search(r"(?:^|/)layer_(\d+)(?:/|$)", label)
    part = re.search(r"gemma-scope-\w+-(?:pt|it)-(res|mlp|att)", label)
    return Site(PARTS[part[1]], int(layer[1])) if layer and part else None


def width_of(label: str) -> int | None:
    """Latents by the folder's name: width_16k is 16,384, width_1m 1,048,576; None where it names none."""
    found = re.search(r"width_(\d+)([km])", label)
    if not found:
        return None
    size = int(found[1])
    known = {65: 65536, 131: 131072, 262: 262144, 524: 524288} if found[2] == "k" else {}
    wide = known.get(size, size * (1024 if found[2] == "k" else 1024**2))
    if wide > 1 << 26:
        raise UserError(f"{label} names a width of {wide}", "a dictionary")
    return wide
