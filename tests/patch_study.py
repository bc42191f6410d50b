"""A study on a tiny random model in which one latent is a cause of the choice, and others only look like one.

Two options, A and B, one token each. The dictionary at SITE, the last block's output, has random rows, but latent
CAUSE decodes along the logit of A less that of B, latent LOOKS across it, and latent VOICE along that of A alone. Rows
are labelled by the model's own choice (true: A). Table `separations` is written as if step features had chosen CAUSE,
LOOKS and one random latent.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.save import save_dictionary
from gnomon.latents import latent_name
from gnomon.methods.chain_tables import SEPARATIONS
from gnomon.rows.table import SCHEMA
from gnomon.step import ModelSpec
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer
from tests.tiny import tiny_folder, tiny_model

SITE, LATENTS = "resid_post.3", 128
CAUSE, LOOKS, OTHER, VOICE = 5, 7, 11, 13
NAMES = [latent_name(SITE, i) for i in (CAUSE, LOOKS, OTHER)]
SPLITS = {"fit": 60, "tune": 10, "test": 70}


def spec(family: str = "llama") -> ModelSpec:
    return ModelSpec(str(tiny_folder(family)), device="cpu")


@functools.cache
def prompts(family: str = "llama") -> tuple[list[list[int]], np.ndarray, np.ndarray, tuple[int, int]]:
    """Prompts, margins of A over B (centred), activations at SITE `[n, d]`, the tokens A and B."""
    model, rng = tiny_model(family), np.random.default_rng(0)
    end = model.encode_text("\n")  # behind white space an option is scored as it stands, here one token
    every = [[int(t) for t in rng.integers(3, 250, size=n)] + end for n in rng.integers(3, 8, size=300)]
    out = model.forward(every, read=[SITE], logits="last")
    logits, x = out.logits, out.acts[Site.parse(SITE)]
    x = torch.stack([x[i, len(p) - 1] for i, p in enumerate(every)]).double().numpy()
    letters = [i for i in range(3, model.d_vocab) if (s := model.token_strings([i])[0]).isalpha() and s.isascii()]
    pairs = [(a, b) for a in letters[:12] for b in letters[:12] if a < b]
    a, b = min(pairs, key=lambda p: abs(float((logits[:, p[0]] > logits[:, p[1]]).double().mean()) - 0.5))
    margin = (logits[:, a] - logits[:, b]).double().numpy()
    n = sum(SPLITS.values()) // 2
    keep = np.r_[np.flatnonzero(margin > 0)[:n], np.flatnonzero(margin <= 0)[:n]]
    keep = np.random.default_rng(1).permutation(keep)
    return [every[i] for i in keep], margin[keep], x[keep], (a, b)


@functools.cache
def dictionary(family: str = "llama", **more: Any) -> SparseDictionary:
    """Random unit rows that are active on about a third of the prompts; CAUSE and LOOKS as above."""
    model = tiny_model(family)
    _, _, x, (a, b) = prompts(family)
    rng = np.random.default_rng(2)
    cause = (model.unembed_directions([a]) - model.unembed_directions([b])).double().numpy()[0]
    rows = rng.standard_normal((LATENTS, x.shape[1]))
    rows[CAUSE] = cause
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    both = model.unembed_directions([a, b]).double().numpy()
    basis = np.linalg.qr(both.T)[0]
    rows[VOICE] = both[0] - model.unembed_directions(range(model.d_vocab)).double().numpy().mean(0)
    rows[LOOKS] -= basis @ (basis.T @ rows[LOOKS])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    bias = -np.quantile(x @ rows.T, 0.65, axis=0)
    return canonical(SITE, rows.T, bias, rows, np.zeros(x.shape[1]), name="made", **more)


def generation(
    study: Path, family: str = "llama", mode: str = "choices", task: Any = None, table: pd.DataFrame | None = None
) -> Artifact:  # fmt: skip
    """The folder `generate`, one row a group; `mode` generate has the chosen token as its text; or of a given table."""
    texts, margin, _, (a, b) = prompts(family)
    model = tiny_model(family)
    words = [model.decode([t]) for t in (a, b)]
    order = np.random.default_rng(3).permutation([s for s, n in SPLITS.items() for _ in range(n)])
    lines = []
    for i, (prompt, value) in enumerate(zip(texts, margin, strict=True)):
        said = a if value > 0 else b
        choices = words if mode == "choices" else []
        lines.append({
            "row": i, "example_index": i, "example_id": f"q{i}", "group": f"g{i}", "split": str(order[i]),
            "difficulty": None, "sample": 0, "round": 0, "temperature": 0.0, "seed": 0, "condition": "",
            "prompt_hash": str(i), "prompt": model.decode(prompt), "messages": None, "prompt_len": len(prompt),
            "token_ids": [*prompt, said], "text": model.decode([said]), "answer": model.decode([said]),
            "label": bool(value > 0), "reason": "", "target": words[0], "choices": choices,
            "scores": [0.0, 0.0] if choices else [], "finish": "choice" if choices else "length", "logprobs": [0.0],
            "top_ids": [], "top_logits": [], "max_prob": 0.5, "entropy": 0.6, "margin": float(value),
            "mean_logprob": -1.0, "answer_token": len(prompt), "baselines": "{}", "meta": "{}",
        })  # fmt: skip
    writer = Writer(study, "generate", "generate")
    shard = writer.shard(0)
    made = pa.Table.from_pylist(lines, schema=SCHEMA)
    shard.table("generations", made if table is None else pa.Table.from_pandas(table, SCHEMA, preserve_index=False))
    shard.finish()
    settings = pd.DataFrame({"setting": ["classes"], "value": [json.dumps(["safe", "risky"])]})
    writer.table("settings", settings)
    return writer.commit({
        "step": "generate", "name": "generate", "writes": ["generations"], "options": {"task": task}, "model": {},
    })  # fmt: skip


def dictionaries(study: Path, family: str = "llama") -> Artifact:
    """The folder `train_dictionary`."""
    writer = Writer(study, "train_dictionary", "train_dictionary")
    save_dictionary(dictionary(family), writer.path / "dictionaries" / SITE)
    return writer.commit({"step": "train_dictionary", "name": "train_dictionary", "writes": ["dictionary"],
                          "options": {}, "model": {}})  # fmt: skip


def separations(family: str = "llama", latents: tuple[int, ...] = (CAUSE, LOOKS, OTHER)) -> pd.DataFrame:
    """Table `separations` of some latents; the means of all are those of CAUSE's own classes, far apart."""
    lines = []
    for rank, latent in enumerate(latents):
        lines.append({
            "name": latent_name(SITE, latent), "site": SITE, "layer": 3, "feature": latent, "rank": rank + 1,
            "fit_d": 2.0 - rank / 2, "d": 1.5, "ci_low": 1.0, "ci_high": 2.0, "first": "safe", "second": "risky",
            "first_mean": 6.0, "second_mean": 0.0, "position": "last_prompt", "dictionary": "train_dictionary",
        })  # fmt: skip
    return pd.DataFrame(lines).reindex(columns=SEPARATIONS.names)


def features(study: Path, table: pd.DataFrame | None = None, **options: Any) -> Artifact:
    """The folder `features`."""
    writer = Writer(study, "features", "features")
    writer.table("separations", separations() if table is None else table, SEPARATIONS)
    return writer.commit({
        "step": "features", "name": "features", "writes": ["features"], "model": {},
        "options": {"dictionary": None, "position": "last_prompt", "per_layer": 50} | options,
    })  # fmt: skip


def inputs(study: Path, mode: str = "choices", task: Any = None, family: str = "llama") -> dict[str, list[Artifact]]:
    """All that step patch_features reads."""
    return {
        "generations": [generation(study, family, mode, task)], "features": [features(study)],
        "dictionary": [dictionaries(study, family)],
    }  # fmt: skip
