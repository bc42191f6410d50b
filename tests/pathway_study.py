"""A small study whose pathways are known: a quiet random model, dictionaries that share one basis, planted encoders.

The model is a tiny Llama whose blocks add little, so the stream at resid_post.3 is nearly that at resid_post.0. The
dictionaries read and write one orthonormal basis q: latent i of SITES[0] is q_i, latent j of SITES[1] is q_SHIFT(j),
and latents of SITES[2] are read by q_i too, but for TARGET, whose encoder is sum w_i q_i of PLANTED. So G(i -> TARGET)
is nearly w_i, and 0 for every other latent.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.save import save_dictionary
from gnomon.latents import latent_name
from gnomon.methods.chain_tables import SEPARATIONS
from gnomon.rows.table import SCHEMA
from gnomon.step import ModelSpec
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer
from tests.tiny import _ROOT, tiny_folder

D = 32
SITES = ("resid_post.0", "resid_post.1", "resid_post.3")
TARGET = 7
PLANTED = {5: 2.0, 9: 1.2, 12: -1.0}
"""Weights of TARGET's encoder on latents of SITES[0]."""
QUIET = 0.03
"""How much the blocks add, of what a tiny model's blocks do."""
BIAS = -0.3


def shift(j: int) -> int:
    """The basis vector of latent j of SITES[1]."""
    return (j + 10) % D


def unshift(i: int) -> int:
    """The latent of SITES[1] that is basis vector i."""
    return (i - 10) % D


@functools.cache
def quiet_folder() -> Path:
    """The model."""
    from safetensors.torch import load_file, save_file

    folder = Path(tempfile.mkdtemp(prefix="quiet-", dir=_ROOT)) / "model"
    shutil.copytree(tiny_folder("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "o_proj" in name or "down_proj" in name:
            weight.mul_(QUIET)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spec() -> ModelSpec:
    return ModelSpec(str(quiet_folder()), device="cpu")


@functools.cache
def basis() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(3).standard_normal((D, D)))[0].T


def dictionary(site: str) -> SparseDictionary:
    q = basis()
    rows = q[[shift(j) for j in range(D)]] if site == SITES[1] else q
    encoder = rows.T.copy()
    if site == SITES[2]:
        encoder[:, TARGET] = sum(w * q[i] for i, w in PLANTED.items())
    return canonical(site, encoder, np.full(D, BIAS), rows, np.zeros(D), name=f"made for {site}")


def trained(folder: Path, sites: tuple[str, ...] = SITES) -> Artifact:
    """What train_dictionary leaves behind."""
    writer = Writer(folder, "train_dictionary", "train_dictionary")
    for site in sites:
        save_dictionary(dictionary(site), writer.path / "dictionaries" / site)
    return writer.commit({"step": "train_dictionary", "name": "train_dictionary", "writes": ["dictionary"],
                          "options": {}})  # fmt: skip


@functools.cache
def asked(n: int = 100, seed: int = 0) -> tuple[list[list[int]], dict[str, np.ndarray]]:
    """Prompts, and what the model's stream is at their last tokens, by site `[n, D]`."""
    rng, model = np.random.default_rng(seed), spec().load()
    prompts = [[0, *(int(t) for t in rng.integers(3, 250, size=rng.integers(4, 9)))] for _ in range(n)]
    found = model.forward(prompts, read=SITES)
    acts = {
        site: np.stack([found.acts[Site.parse(site)][i, len(p) - 1].numpy() for i, p in enumerate(prompts)])
        for site in SITES
    }
    return prompts, acts


def latents(site: str, n: int = 100) -> np.ndarray:
    """Latents at the last prompt token, `[n, D]`."""
    import torch

    return dictionary(site).encode(torch.tensor(asked(n)[1][site])).numpy()


def generation(folder: Path, n: int = 100, kept: bool = True) -> Artifact:
    """`generate`: labels say whether TARGET is active (a fifth of them wrong); `kept`: with activations."""
    prompts, acts = asked(n)
    rng, model = np.random.default_rng(1), spec().load()
    fires = latents(SITES[2], n)[:, TARGET] > 0
    label = fires ^ (rng.random(n) < 0.2)
    splits = np.where(np.arange(n) % 5 < 3, "fit", np.where(np.arange(n) % 5 == 3, "tune", "test"))
    lines = [
        {
            "row": i, "example_index": i, "example_id": f"q{i}", "group": f"g{i // 2}",
            "split": str(splits[i // 2 % n]), "difficulty": 0.0, "sample": 0, "round": 0, "temperature": 0.0,
            "seed": 0, "condition": "",
            "prompt_hash": f"{i}", "prompt": model.decode(p), "prompt_len": len(p), "token_ids": [*p, 7, 8],
            "text": "so", "answer": "so", "label": bool(label[i]), "reason": "", "target": "yes", "choices": [],
            "scores": [], "finish": "length", "logprobs": [0.0], "top_ids": [], "top_logits": [], "max_prob": 0.5,
            "entropy": 0.5, "margin": 0.5, "mean_logprob": -1.0, "answer_token": len(p), "baselines": "{}",
            "meta": "{}",
        }
        for i, p in enumerate(prompts)
    ]  # fmt: skip
    writer = Writer(folder, "generate", "generate")
    shard = writer.shard(0)
    shard.table("generations", pa.Table.from_pylist(lines, schema=SCHEMA))
    for site, x in acts.items() if kept else ():
        shard.activations(Site.parse(site), "last_prompt", x.astype(np.float32), np.arange(n), None, "float32")
    shard.finish()
    return writer.commit({
        "step": "generate", "name": "generate", "writes": ["generations", "activations"] if kept else ["generations"],
        "options": {}, "model": {"n_heads": 4, "n_layers": 4},
    })  # fmt: skip


def separated(folder: Path, generate: Artifact, most: int = 10) -> Artifact:
    """`features`: the separations of every site, as the step would find them on fit and test."""
    table = generate.table("generations")
    y, fit, test = table["label"].to_numpy(bool), (table["split"] == "fit").to_numpy(), (table["split"] == "test")
    lines = []
    for site in SITES:
        z = latents(site, len(table))

        def d(rows: np.ndarray, z: np.ndarray = z) -> np.ndarray:
            one, two = z[rows & y], z[rows & ~y]
            spread = np.sqrt((one.var(0) * len(one) + two.var(0) * len(two)) / max(len(one) + len(two) - 2, 1))
            return np.divide(one.mean(0) - two.mean(0), spread, out=np.zeros(D), where=spread > 0)

        fit_d, test_d, sd = d(fit), d(test.to_numpy()), z[fit].std(0)
        for rank, j in enumerate(np.argsort(-np.abs(fit_d), kind="stable")[:most]):
            lines.append({
                "name": latent_name(site, int(j)), "site": site, "layer": Site.parse(site).layer, "feature": int(j),
                "rank": rank + 1, "fit_d": fit_d[j], "d": test_d[j], "ci_low": test_d[j] - 0.5,
                "ci_high": test_d[j] + 0.5, "first": "correct", "second": "incorrect",
                "first_mean": z[fit & y][:, j].mean(), "second_mean": z[fit & ~y][:, j].mean(),
                "first_rate": (z[fit & y][:, j] > 0).mean(), "second_rate": (z[fit & ~y][:, j] > 0).mean(),
                "sd": sd[j], "n_first": int((fit & y).sum()), "n_second": int((fit & ~y).sum()),
                "position": "last_prompt", "dictionary": "train_dictionary", "link": "", "note": "",
            })  # fmt: skip
    writer = Writer(folder, "features", "features")
    writer.table("separations", pa.Table.from_pylist(lines, schema=SEPARATIONS))
    return writer.commit({"step": "features", "name": "features", "writes": ["features"], "options": {}})


def study(folder: Path, n: int = 100, kept: bool = True) -> dict[str, list[Artifact]]:
    """What step pathways (and replay) reads, by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    made = generation(folder, n, kept)
    out = {"generations": [made], "features": [separated(folder, made)], "dictionary": [trained(folder)]}
    return out | ({"activations": [made]} if kept else {})
