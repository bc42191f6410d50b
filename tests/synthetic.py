"""Generations that are made of numbers, not of a model: what is planted in them is known.

Row i has a difficulty; its label follows `difficulty_effect` times that, `signal` times a latent knowledge that only
the activations hold, and noise. Activations are noise, plus the latent at `site_of_signal`, plus difficulty everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.rows.table import SCHEMA
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer


@dataclass(frozen=True)
class Planted:
    """What is in the numbers: sizes in standard deviations of the noise."""

    n: int = 240
    d: int = 24
    layers: int = 3
    groups: int | None = None
    """Number of groups; None makes every row its own."""
    signal: float = 0.0
    """Effect of the latent on the label, on the logit scale."""
    strength: float = 1.5
    """Size of the latent in the activations, at `layer` only."""
    layer: int = 1
    difficulty_effect: float = 1.0
    encode: float = 0.0
    """How strongly the activations of every layer hold difficulty."""
    bend: bool = False
    """The label follows the square of difficulty instead."""
    positions: tuple[str, ...] = ("last",)
    unparsed: float = 0.0
    split: tuple[float, float] = (0.5, 0.6)
    """Where tune and test begin, as shares of the groups."""
    seed: int = 0


def rows(planted: Planted, prefix: str = "q") -> tuple[pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """The generations table, and activations `[n, d]` by (site, position)."""
    p, rng = planted, np.random.default_rng(planted.seed)
    count = p.groups or p.n
    group = np.arange(p.n) % count
    difficulty, latent = rng.normal(size=count)[group], rng.normal(size=p.n)
    effect = (difficulty**2 - 1) * 1.5 if p.bend else difficulty
    label = p.difficulty_effect * effect + p.signal * latent + rng.logistic(size=p.n) > 0
    place = rng.permutation(count)
    split = np.where(place < p.split[0] * count, "fit", np.where(place < p.split[1] * count, "tune", "test"))[group]
    missing = rng.random(p.n) < p.unparsed
    entropy, prob = 0.3 * difficulty + rng.normal(size=p.n), rng.random(p.n)
    table = pd.DataFrame({
        "row": np.arange(p.n), "example_index": group, "example_id": [f"{prefix}{g}" for g in group],
        "group": [f"{prefix}{g}" for g in group], "split": split, "difficulty": difficulty,
        "sample": np.arange(p.n) // count, "round": 0, "temperature": 0.0, "seed": 0, "condition": "",
        "prompt_hash": [f"{prefix}{g}" for g in group], "prompt": [f"question {prefix}{g}" for g in group],
        "messages": None, "prompt_len": 4 + group % 7,
        "token_ids": [[1] * (4 + g % 7) + [2, 3] for g in group], "text": "an answer",
        "answer": "an answer", "label": [None if m else bool(y) for m, y in zip(missing, label, strict=True)],
        "reason": "", "target": "a target", "choices": [[] for _ in group], "scores": [[] for _ in group],
        "finish": "eos", "logprobs": [[-0.1] for _ in group], "top_ids": [[] for _ in group],
        "top_logits": [[] for _ in group], "max_prob": prob, "entropy": entropy, "margin": rng.normal(size=p.n),
        "mean_logprob": -rng.random(p.n), "answer_token": 5,
        "baselines": [json.dumps({"words": int(w)}) for w in rng.integers(3, 9, size=p.n)], "meta": "{}",
    })  # fmt: skip
    acts = {}
    for layer in range(p.layers):
        for position in p.positions:
            x = rng.normal(size=(p.n, p.d))
            x[:, 0] += p.strength * latent * (layer == p.layer and p.signal != 0)
            x[:, 1] += p.encode * difficulty
            x[:, 2] += p.encode * effect
            acts[f"resid_post.{layer}", position] = x.astype(np.float32)
    return table, acts


def save(
    study: str | Path, table: pd.DataFrame, acts: dict[tuple[str, str], np.ndarray], name: str = "generate"
) -> Artifact:
    """Write a table and its activations as a committed step `name` of a study."""
    writer = Writer(Path(study), name, f"fingerprint of {name}")
    writer.table("generations", pa.Table.from_pandas(table, schema=SCHEMA, preserve_index=False))
    shard = writer.shard(0)
    for (site, position), x in acts.items():
        shard.activations(Site.parse(site), position, x, np.asarray(table["row"]), None, "float32")
    shard.finish()
    layers = 1 + max((Site.parse(s).layer for s, _ in acts), default=0)
    return writer.commit({
        "step": "generate", "name": name, "writes": ["generations", "activations"], "options": {}, "version": 1,
        "model": {"n_layers": layers, "n_heads": 4}, "inputs": {}, "ledger": [],
    })  # fmt: skip


def make_generation(
    study: str | Path,
    n: int = 240,
    d: int = 24,
    layers: int = 3,
    signal: float = 0.0,
    groups: int | None = None,
    name: str = "generate",
    positions: Sequence[str] = ("last",),
    **more,
) -> Artifact:
    """A committed generation with activations at resid_post.0 ...; further keywords as in `Planted`."""
    table, acts = rows(Planted(n, d, layers, groups, signal, positions=tuple(positions), **more), prefix=name[0])
    return save(study, table, acts, name)
