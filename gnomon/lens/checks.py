"""What a score is worth: its agreement with what really happens when single neurons are set to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gnomon.lens.ablate import single_neuron_effects
from gnomon.lens.gradient import gradient_times_activation
from gnomon.lens.texts import ReadText
from gnomon.methods.agreement import agreement

if TYPE_CHECKING:
    from gnomon.models.model import Model

Scores = Mapping[str, Mapping[int, np.ndarray]]


def draw(
    layers: Sequence[int], ranked: Mapping[int, np.ndarray], d_mlp: int, n: int, seed: int
) -> dict[int, dict[str, np.ndarray]]:
    """Which neurons are set to zero: the first half by rank, the rest at random among all others, layer by layer."""
    out = {}
    for layer in layers:
        top = np.asarray(ranked[layer])[: n // 2]
        rng = np.random.default_rng([seed, 6151, layer])
        others = np.setdiff1d(np.arange(d_mlp), top)
        out[layer] = {"rank": top, "random": np.sort(rng.choice(others, min(n - n // 2, len(others)), replace=False))}
    return out


def real_effects(
    model: Model, texts: Sequence[ReadText], drawn: Mapping[int, Mapping[str, np.ndarray]], readout: Any,
    last_k: int | None = None, advance: Any = None,
) -> dict[int, dict[str, np.ndarray]]:  # fmt: skip
    """Readout after minus before with one neuron at zero (on all or the last k tokens): `[texts, neurons]` by layer and
    kind."""
    tokens = [list(text.tokens) for text in texts]
    out: dict[int, dict[str, np.ndarray]] = {}
    for layer, kinds in drawn.items():
        names, every = list(kinds), np.concatenate([kinds[name] for name in kinds])
        found = single_neuron_effects(model, tokens, layer, every.tolist(), readout, last_k=last_k, progress=advance)[
            ..., 0
        ]
        ends = np.cumsum([len(kinds[name]) for name in names])[:-1]
        out[layer] = dict(zip(names, np.split(found, ends, axis=1), strict=True))
    return out


def gradients(
    model: Model, texts: Sequence[ReadText], layers: Sequence[int], readout: Any, last_k: int | None = None
) -> dict[int, np.ndarray]:
    """Gradient x activation of every neuron (on the last k tokens), `[texts, d_mlp]` by layer."""
    tokens = [list(text.tokens) for text in texts]
    return gradient_times_activation(model, tokens, list(layers), readout, last_k=last_k)


def check_rows(
    direction: str, drawn: Mapping[int, Mapping[str, np.ndarray]], real: Mapping[int, Mapping[str, np.ndarray]],
    scores: Scores, draws: int, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Rows of the table `checks`: each score against the real effect, pairs of a text and a neuron, by layer and kind.

    `scores[name][layer]` is `[texts, d_mlp]`. Intervals resample texts.
    """
    rows: list[dict[str, Any]] = []
    for layer, kinds in drawn.items():
        for kind, neurons in kinds.items():
            truth = real[layer][kind]
            texts = np.repeat(np.arange(len(truth)), truth.shape[1])
            for name, by_layer in scores.items():
                found = agreement(by_layer[layer][:, neurons].reshape(-1), truth.reshape(-1), texts, draws, seed)
                rows += [
                    {"direction": direction, "layer": layer, "chosen": kind, "score": name, "measure": measure,
                     "value": found[measure][0], "ci_low": found[measure][1], "ci_high": found[measure][2],
                     "n": truth.size, "texts": len(truth), "neurons": truth.shape[1]}
                    for measure in ("pearson", "spearman", "slope")
                ]  # fmt: skip
    return pd.DataFrame(rows)
