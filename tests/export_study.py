"""A study of numbers with every step that an export reads: what is in each file is known. Row r's stream holds r."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.rows.table import SCHEMA
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer
from tests.second_order_study import Numbers, made_second_order
from tests.synthetic import Planted, rows

D, ROWS, MORE = 24, 80, 30
NUMBERS = Numbers(rows=ROWS, d=D)
PHRASES = ["adding two numbers", "a remainder\nof a division", "naïve ∑", ""]


def commit(study: Path, step: str, tables: Mapping[str, pd.DataFrame], arrays: Mapping[str, np.ndarray]) -> Artifact:
    """A committed folder `step` of that kind."""
    writer = Writer(study, step, f"fingerprint of {step}")
    for name, table in tables.items():
        writer.table(name, table)
    for name, values in arrays.items():
        writer.array(name, values)
    return writer.commit({"step": step, "name": step, "version": 1, "options": {"k": 3}, "inputs": {}, "ledger": []})


def generation(
    study: Path, second: Artifact | None = None, positions: tuple[str, ...] = ("all", "last"), noise: float = 0.0
) -> Artifact:
    """ROWS + MORE answers, a few unparsed among the last; splits and labels those of `second`; a stream per token."""
    table, _ = rows(Planted(n=ROWS + MORE, d=D, layers=1))
    table["label"] = table["label"].astype(object)
    table["example_id"] = table["group"] = [f"q{i}" for i in range(len(table))]
    if second is not None:
        known = second.table("rows")
        table.loc[: ROWS - 1, "split"], table.loc[: ROWS - 1, "label"] = list(known["split"]), list(known["label"])
    table.loc[len(table) - 3 :, "label"] = None
    writer = Writer(study, "generate", "fingerprint of generate")
    writer.table("generations", pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False))
    shard = writer.shard(0)
    lengths = np.array([len(t) for t in table["token_ids"]])
    numbers = np.asarray(table["row"])
    for layer in (2, 5):
        for position in positions:
            count = int(lengths.sum()) if position == "all" else len(table)
            values = np.repeat(numbers, lengths) if position == "all" else numbers
            x = np.zeros((count, D), np.float32) + values[:, None] + 1 + 1000 * layer
            x += noise * np.random.default_rng(layer).normal(size=x.shape).astype(np.float32)
            offsets = np.concatenate([[0], np.cumsum(lengths)]) if position == "all" else None
            shard.activations(Site("resid_post", layer), position, x, numbers, offsets, "float32")
    shard.finish()
    return writer.commit({
        "step": "generate", "name": "generate", "version": 1, "writes": ["generations", "activations"], "inputs": {},
        "options": {"task": {"arithmetic": {"digits": 2}}}, "model": {"name": "org/tiny model", "n_heads": 3},
        "ledger": [],
    })  # fmt: skip


def probe(study: Path) -> Artifact:
    writer = Writer(study, "probe", "fingerprint of probe")
    rng = np.random.default_rng(5)
    site = Site("resid_post", 5)
    kinds = (("logistic", "probe"), ("difference", "difference"))
    writer.directions([Direction(site, rng.normal(size=D), name, kind, 0.8, {}) for name, kind in kinds])
    return writer.commit({"step": "probe", "name": "probe", "version": 1, "options": {}, "inputs": {}, "ledger": []})


def whole(study: Path) -> Path:
    """Every step that the second-order layout takes."""
    rng = np.random.default_rng(1)
    second = made_second_order(study, NUMBERS)
    generation(study, second)
    neurons = second.table("neurons")
    s = len(neurons)
    ranked = pd.DataFrame({"layer": np.repeat([1, 3], 40), "neuron": np.tile(np.arange(40), 2)})
    ranked["rank"] = np.tile(rng.permutation(40) + 1, 2)
    ranked = ranked.assign(mean_abs=1.0, variance=2.0, direct=np.nan, grad_act=0.5, selected=ranked["rank"] <= 8)
    commit(study, "neurons", {"neurons": ranked}, {})
    pc = rng.normal(size=(s, D))
    norm = -np.sort(-rng.gamma(2.0, size=(s, 10)), axis=1)
    commit(study, "pca", {"neurons": neurons.assign(evr=0.5)}, {"pca": pc, "norm": norm, "mean": pc, "evr": pc[:, 0]})
    phrases = pd.DataFrame({"index": range(len(PHRASES)), "phrase": PHRASES, "source": "curated", "topic": "sums",
                            "tokens": 3})  # fmt: skip
    commit(study, "lexicon", {"phrases": phrases}, {"embeddings": rng.normal(size=(len(PHRASES), D))})
    codes = pd.DataFrame([
        {"index": i, "layer": 1, "neuron": 2, "order": k, "phrase_index": (i + k) % 4,
         "phrase": PHRASES[(i + k) % 4], "coefficient": (-1) ** k * (k + 1.0), "cosine": 0.3 + 0.1 * k}
        for i in range(s) for k in range(3)
    ])  # fmt: skip
    quality = pd.DataFrame({"index": range(s), "cosine": 0.6, "needed": [None] * s})
    commit(study, "text_decomposition", {"phrases": codes, "neurons": quality}, {"reconstruction": 0.6 * pc})
    layer = pd.DataFrame([{"component": c, "layer": i, "mode": "mean", "change": -0.1 * i, "q": np.nan, "rank": 6 - i}
                          for c in ("attn", "mlp") for i in range(6)])  # fmt: skip
    commit(study, "layer_ablation", {"layers": layer, "selected": layer[layer["rank"] <= 2]}, {})
    ablations = pd.DataFrame([{"space": "output", "condition": "full", "metric": "accuracy", "change": -0.2}])
    commit(study, "neuron_ablation", {"ablations": ablations}, {})
    return study
