"""A `second_order` folder made of numbers, not of a model: what is planted in it is known.

Every selected neuron n of layer l has a basis [R, d] and coefficients [N, R]. Its effect phi = coef @ basis has one
strong direction (`strong`: the share of variance it was given), present on `active` of the rows, and noise elsewhere.
Right rows (label True) hold more of it for the even neurons. The files are those of gnomon/steps/second_order.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer


@dataclass(frozen=True)
class Numbers:
    """Sizes of the made-up study."""

    rows: int = 120
    d: int = 24
    n_layers: int = 6
    heads: int = 3
    d_mlp: int = 40
    layers: tuple[int, ...] = (1, 3)
    neurons: int = 8
    strong: float = 0.8
    active: float = 0.2
    vocab: int = 50
    seed: int = 0


def made_second_order(study: Path, numbers: Numbers | None = None, name: str = "second_order") -> Artifact:
    """Write and commit the folder."""
    p = numbers or Numbers()
    rng = np.random.default_rng(p.seed)
    n = p.rows
    label = rng.random(n) < 0.5
    split = np.array(["fit"] * (n // 2) + ["tune"] * (n // 10) + ["test"] * (n - n // 2 - n // 10))
    lengths = rng.integers(3, 7, n)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    writer = Writer(study, name, name)
    writer.table("rows", pd.DataFrame({
        "index": range(n), "row": range(n), "example_id": [f"q{i}" for i in range(n)],
        "group": [f"g{i}" for i in range(n)], "split": split, "label": label,
        "target_token": rng.integers(0, p.vocab, n), "read_at": lengths - 1, "token_start": starts, "tokens": lengths,
    }))  # fmt: skip
    u = rng.normal(size=(2, p.d))
    site = Site("resid_post", p.n_layers - 1)
    meta = {"space": "final_norm", "position": "before_answer"}
    writer.directions([Direction(site, u[0], "difference", "difference", None, meta),
                       Direction(site, u[1], "logit_lens", "given", None, meta)])  # fmt: skip
    neurons, heads, summary = [], [], []
    for layer in p.layers:
        r = p.heads * (p.n_layers - 1 - layer)
        chosen = np.sort(rng.choice(p.d_mlp, p.neurons, replace=False))
        basis = rng.normal(size=(p.neurons, r, p.d)) / np.sqrt(r)
        one = np.zeros((n, p.neurons))
        for slot in range(p.neurons):
            on = rng.random(n) < p.active * (1 + (label if slot % 2 == 0 else 0))
            one[:, slot] = on * rng.gamma(4.0, 1.0, n)
        pattern = rng.normal(size=(p.neurons, r))
        coef = one[:, :, None] * pattern * p.strong + rng.normal(size=(n, p.neurons, r)) * (1 - p.strong)
        phi = np.einsum("bnr,nrd->bnd", coef, basis)
        scores = rng.normal(size=(2, n, p.d_mlp)) * 0.1
        scores[:, :, chosen] = np.einsum("bnd,kd->kbn", phi, u)
        own = np.repeat(scores[0][:, chosen], lengths, axis=0) / np.repeat(lengths, lengths)[:, None]
        writer.array(f"scores_layer{layer}", scores.astype(np.float32))
        writer.array(f"coef_layer{layer}", coef.astype(np.float32))
        writer.array(f"basis_layer{layer}", basis.astype(np.float32))
        writer.array(f"token_scores_layer{layer}", own.astype(np.float32))
        writer.array(f"layer_effect_layer{layer}", (phi.sum(1) + 0.1 * rng.normal(size=(n, p.d))).astype(np.float32))
        for slot, neuron in enumerate(chosen.tolist()):
            neurons.append({"index": len(neurons), "layer": layer, "slot": slot, "neuron": neuron, "rank": slot + 1})
        later = [(a, h) for a in range(layer + 1, p.n_layers) for h in range(p.heads)]
        heads += [{"layer": layer, "index": i, "head_layer": a, "head": h} for i, (a, h) in enumerate(later)]
        for k, direction in enumerate(("difference", "logit_lens")):
            x = scores[k]
            total = np.abs(x).mean(0).sum()
            summary += [
                {"direction": direction, "layer": layer, "neuron": j, "mean": x[:, j].mean(), "sd": x[:, j].std(),
                 "share_of_mass": np.abs(x[:, j]).mean() / total, "sparsity": 0.1, "direct": 0.01,
                 "second": np.abs(x[:, j]).mean(), "total": np.nan, "ablation_r": np.nan,
                 "selected": j in set(chosen.tolist())}
                for j in range(p.d_mlp)
            ]  # fmt: skip
    writer.table("neurons", pd.DataFrame(neurons))
    writer.table("heads", pd.DataFrame(heads))
    writer.table("summary", pd.DataFrame(summary))
    writer.table("layers", pd.DataFrame({
        "layer": range(p.n_layers), "kept": [i in p.layers for i in range(p.n_layers)],
        "mass": [5.0 if i in p.layers else 1.0 for i in range(p.n_layers)], "neurons": p.d_mlp, "rows": 32,
    }))  # fmt: skip
    writer.table("costs", pd.DataFrame([
        {"stage": "capture", "seconds": 1.0, "peak_bytes": 10**8, "bytes": 10**6, "materialised_bytes": np.nan,
         "materialised_seconds": np.nan, "speedup": np.nan, "rows": n, "neurons": 0},
        {"stage": "scores", "seconds": 0.1, "peak_bytes": 10**8, "bytes": 10**6, "materialised_bytes": 10**9,
         "materialised_seconds": 100.0, "speedup": 1000.0, "rows": n, "neurons": p.d_mlp * len(p.layers)},
    ]))  # fmt: skip
    writer.table("checks", pd.DataFrame([
        {"direction": "difference", "layer": layer, "chosen": "random", "score": "second", "measure": measure,
         "value": 0.3, "ci_low": 0.1, "ci_high": 0.5, "n": 60, "texts": 6, "neurons": 10}
        for layer in p.layers for measure in ("pearson", "spearman", "slope")
    ]))  # fmt: skip
    writer.array("output", rng.normal(size=(n, p.d)).astype(np.float32))
    return writer.commit({
        "step": "second_order", "name": name, "writes": ["second_order", "directions"],
        "options": {"position": "before_answer"}, "version": 1, "inputs": {}, "ledger": [],
        "model": {"n_layers": p.n_layers, "n_heads": p.heads, "d_model": p.d, "d_mlp": p.d_mlp, "d_vocab": p.vocab},
    })  # fmt: skip
