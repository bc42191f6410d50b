"""What each stage took, beside what it would take to materialise the same effects."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gnomon.lens.lens import Lens
from gnomon.lens.tables import COSTS
from gnomon.lens.texts import ReadText
from gnomon.methods.second_order import materialised

STORED = {"scores": "scores", "coefs": "coef", "per token": "token_scores", "layer effects": "layer_effect"}
"""Stage -> the arrays that it left on disk."""


def rows(
    markers: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, int],
    counts: Mapping[str, int],
    lens: Lens,
    texts: Sequence[ReadText],
    neurons: Mapping[int, np.ndarray],
) -> pd.DataFrame:
    """The table `costs`: seconds summed over the shards' markers, bytes on disk, and the materialised counterpart.

    Args:
        markers: of all shards, with `info.seconds` and `info.peak_bytes`.
        sizes: bytes on disk by kind of array.
        counts: how many neurons' effects a stage stands for.
        neurons: by layer, a few that are materialised to time it.
    """
    infos = [marker.get("info", {}) for marker in markers]
    seconds: dict[str, float] = {}
    for info in infos:
        for stage, value in info.get("seconds", {}).items():
            seconds[stage] = seconds.get(stage, 0.0) + float(value)
    peak = max((int(info.get("peak_bytes", 0)) for info in infos), default=0)
    rate, note = _materialise(lens, texts, neurons)
    out = []
    for stage, spent in seconds.items():
        effects = counts.get(stage, 0)
        slow = rate * len(texts) * effects
        out.append({
            "stage": stage, "seconds": spent, "peak_bytes": peak, "bytes": sizes.get(STORED.get(stage, ""), 0),
            "materialised_bytes": 4.0 * len(texts) * effects * lens.model.d_model if effects else np.nan,
            "materialised_seconds": slow if effects else np.nan,
            "speedup": slow / spent if effects and spent else np.nan, "rows": len(texts), "neurons": effects,
            "note": note if effects else "",
        })  # fmt: skip
    return pd.DataFrame(out, columns=COSTS.names)


def _materialise(lens: Lens, texts: Sequence[ReadText], neurons: Mapping[int, np.ndarray]) -> tuple[float, str]:
    """Seconds a text and neuron when effects are materialised: timed on a few neurons of the middle kept layer."""
    import torch

    layers = sorted(neurons)
    layer = layers[len(layers) // 2]
    some = texts[len(texts) // 2 :][:2]
    factors = lens.capture([t.tokens for t in some], [layer])
    chosen = torch.as_tensor(np.array(neurons[layer]), device=lens.model.device)
    spent = []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        materialised(lens.circuit, factors, layer, chosen)
        spent.append(time.perf_counter() - began)
    pairs = len(some) * len(chosen)
    return min(spent) / pairs, f"scaled up from {pairs} effects of layer {layer}, each through every later head"
