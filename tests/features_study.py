"""A study on a tiny random model whose activations are made up, so that what a dictionary's latents say is known.

`activations`: noise, and along the decoder row of latent PLANTED of the dictionary at PLANTED_SITE a push that right
rows get more often.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.rows.table import SCHEMA
from gnomon.step import ModelSpec
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer
from tests.tiny import tiny_folder, tiny_model

PLANTED, SITE, OTHER, D, LATENTS = 5, "resid_post.2", "resid_post.1", 32, 96


def spec() -> ModelSpec:
    return ModelSpec(str(tiny_folder("llama")), device="cpu")


def dictionary(site: str = SITE, n: int = LATENTS, d: int = D, seed: int = 0, **more: Any) -> SparseDictionary:
    """Random unit rows, read by themselves with a bias that leaves about a tenth of the latents active."""
    rng = np.random.default_rng([seed, Site.parse(site).layer])
    rows = rng.standard_normal((n, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return canonical(site, rows.T, np.full(n, -1.3), rows, np.zeros(d), name=f"made for {site}", **more)


def generation(
    folder: Path, y: np.ndarray, samples: int = 1, push: float = 4.0, seed: int = 0, position: str = "last_prompt"
) -> Artifact:
    """`generate` with `samples` rows a question (one prompt, one activation each) and activations at two sites."""
    rng, model = np.random.default_rng([seed, 9]), tiny_model("llama")
    questions = len(y) // samples
    sizes = np.diff(np.round(np.array([0, 0.5, 0.6, 1]) * questions)).astype(int)
    order = rng.permutation(np.repeat(["fit", "tune", "test"], sizes))
    prompts = [[int(t) for t in rng.integers(3, 250, size=rng.integers(4, 9))] for _ in range(questions)]
    known = y.reshape(questions, samples).mean(1)
    fires = rng.random(questions) < 0.05 + 0.7 * known
    lines, acts = [], {}
    for site in (SITE, OTHER):
        x = rng.standard_normal((questions, D))
        if site == SITE:
            x += push * fires[:, None] * dictionary(SITE).decoder[PLANTED]
        acts[site] = np.repeat(x, samples, axis=0)
    for i in range(len(y)):
        q = i // samples
        lines.append({
            "row": i, "example_index": q, "example_id": f"q{q}", "group": f"g{q}", "split": str(order[q]),
            "difficulty": float(rng.integers(0, 5)), "sample": i % samples, "round": 0, "temperature": 0.0, "seed": 0,
            "condition": "", "prompt_hash": f"{q}", "prompt": model.decode(prompts[q]), "prompt_len": len(prompts[q]),
            "token_ids": [*prompts[q], 7, 8], "text": "so", "answer": "so", "label": bool(y[i]), "reason": "",
            "target": "yes", "choices": [], "scores": [], "finish": "length", "logprobs": [0.0], "top_ids": [],
            "top_logits": [], "max_prob": float(rng.random()), "entropy": float(rng.random()),
            "margin": float(rng.random()), "mean_logprob": -1.0, "answer_token": len(prompts[q]), "baselines": "{}",
            "meta": "{}",
        })  # fmt: skip
    writer = Writer(folder, "generate", "generate")
    shard = writer.shard(0)
    shard.table("generations", pa.Table.from_pylist(lines, schema=SCHEMA))
    rows = np.arange(len(y))
    for site, x in acts.items():
        if position == "last_prompt":
            shard.activations(Site.parse(site), position, x.astype(np.float32), rows, None, "float32")
        else:
            tokens = np.repeat(x, 3, axis=0) + 0.05 * rng.standard_normal((3 * len(x), D))
            tokens[::3] *= 20  # a sink
            offsets = 3 * np.arange(len(x) + 1)
            shard.activations(Site.parse(site), position, tokens.astype(np.float32), rows, offsets, "float32")
    shard.finish()
    return writer.commit({
        "step": "generate", "name": "generate", "writes": ["generations", "activations"],
        "options": json.loads("{}"), "model": {"n_heads": 4, "n_layers": 4},
    })  # fmt: skip


def labels(n: int, share: float = 0.5, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share
