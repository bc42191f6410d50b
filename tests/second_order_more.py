"""Folders that stand beside a made-up second_order: pca, text, neurons; and one whose neuron 0 carries the answer.

The rows are those of tests/causal_study.py (target A on every row), the sizes those of its tiny model, so that the
outputs can be read by its unembedding. In `carried`, a third of the rows say A only because of neuron 0: without its
effect their output says B. In `idle`, no neuron's effect touches the logits of A or B beyond noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from gnomon.store import Artifact
from gnomon.writer import Writer
from tests import causal_study
from tests.second_order_study import Numbers, made_second_order
from tests.tiny import tiny_model

SIZES = Numbers(rows=150, d=32, n_layers=4, heads=4, d_mlp=48, layers=(1, 2), neurons=6, vocab=320)


def carried(study: Path, idle: bool = False, name: str = "second_order") -> Artifact:
    """second_order on the generations of `study` (made by causal_study), with outputs that depend on neuron 0."""
    artifact = made_second_order(study, SIZES, name)
    rows = Artifact(study / "generate").table("generations").sort_values("row")
    _, _, a, b, _ = causal_study.planted()
    rng, n = np.random.default_rng(3), len(rows)
    table = artifact.table("rows")
    for column in ("row", "example_id", "group", "split", "label"):
        table[column] = rows[column].to_numpy()
    table["target_token"] = a
    table["tokens"] = rows["prompt_len"].to_numpy()
    table["read_at"] = table["tokens"] - 1
    table["token_start"] = np.r_[0, np.cumsum(table["tokens"])[:-1]]
    table.to_parquet(artifact.path / "rows.parquet")
    W = tiny_model("llama").weights("W_U").numpy().astype(np.float64)
    push = (W[:, a] - W[:, b]) / np.linalg.norm(W[:, a] - W[:, b])
    y = 30 * W[:, a] / np.linalg.norm(W[:, a]) + 0.05 * rng.normal(size=(n, SIZES.d))
    for layer in SIZES.layers:
        coef = 0.02 * rng.normal(size=np.array(artifact.array(f"coef_layer{layer}")).shape)
        basis = np.array(artifact.array(f"basis_layer{layer}"), dtype=np.float64)
        if layer == SIZES.layers[0] and not idle:
            on = np.zeros(n, dtype=bool)
            for split in ("fit", "tune", "test"):
                here = np.flatnonzero(table["split"] == split)
                on[rng.choice(here, len(here) // 3, replace=False)] = True
            basis[0, 0] = push
            coef[:, 0, 0] += on * rng.uniform(60, 65, n)
            y[on] = 45 * W[:, b] / np.linalg.norm(W[:, b]) + coef[on, 0] @ basis[0]
            np.save(artifact.path / "planted.npy", on)
        phi = np.einsum("bnr,nrd->bnd", coef, basis)
        np.save(artifact.path / f"coef_layer{layer}.npy", coef.astype(np.float32))
        np.save(artifact.path / f"basis_layer{layer}.npy", basis.astype(np.float32))
        np.save(artifact.path / f"layer_effect_layer{layer}.npy", phi.sum(1).astype(np.float32))
        own = artifact.table("neurons").query("layer == @layer")["neuron"].to_numpy()
        u = np.stack([d.vector for d in artifact.directions()]).astype(np.float64)
        scores = 0.01 * rng.normal(size=(len(u), n, SIZES.d_mlp))
        scores[:, :, own] = np.einsum("bnd,kd->kbn", phi, u)
        np.save(artifact.path / f"scores_layer{layer}.npy", scores.astype(np.float32))
        lengths = table["tokens"].to_numpy()
        tokens = np.repeat(scores[0][:, own], lengths, axis=0) / np.repeat(lengths, lengths)[:, None]
        np.save(artifact.path / f"token_scores_layer{layer}.npy", tokens.astype(np.float32))
        summary = artifact.table("summary")
        for k, direction in enumerate(d.name for d in artifact.directions()):
            here = (summary["layer"] == layer) & (summary["direction"] == direction)
            summary.loc[here, "second"] = np.abs(scores[k]).mean(0)
            summary.loc[here, "mean"] = scores[k].mean(0)
        summary.to_parquet(artifact.path / "summary.parquet")
    np.save(artifact.path / "output.npy", y.astype(np.float32))
    return Artifact(artifact.path)


def effects(source: Artifact) -> np.ndarray:
    """phi of every selected neuron, `[S, N, d]`."""
    out = []
    for layer in sorted(set(source.table("neurons")["layer"])):
        coef, basis = (np.array(source.array(f"{a}_layer{layer}"), dtype=np.float64) for a in ("coef", "basis"))
        out.append(np.einsum("bnr,nrd->nbd", coef, basis))
    return np.concatenate(out)


def made_pca(study: Path, source: Artifact, name: str = "pca") -> Artifact:
    """The first component of each neuron's top fit rows, by SVD of the vectors themselves."""
    phi, fit = effects(source), np.asarray(source.table("rows")["split"] == "fit")
    k = min(int(fit.sum()), max(20, int(np.ceil(0.02 * fit.sum()))))
    pca, evr, every, norms, mean = [], [], [], [], phi[:, fit].mean(1)
    for own, middle in zip(phi, mean, strict=True):
        x = own - middle
        norm = np.linalg.norm(x, axis=1)
        top = np.flatnonzero(fit)[np.argsort(-norm[fit])[:k]]
        _, size, right = np.linalg.svd(x[top], full_matrices=False)
        pca.append(right[0])
        evr.append(size[0] ** 2 / (size**2).sum())
        every.append(((x[fit] @ right[0]) ** 2).sum() / (x[fit] ** 2).sum())
        norms.append(norm)
    neurons = source.table("neurons")
    writer = Writer(study, name, name)
    writer.array("pca", np.array(pca, dtype=np.float32))
    writer.array("mean", mean.astype(np.float32))
    writer.array("norms", np.array(norms, dtype=np.float32))
    writer.array("evr", np.array(evr, dtype=np.float32))
    writer.table("neurons", neurons.assign(evr=evr, evr_all=every, mean_norm=np.linalg.norm(mean, axis=1), k=k, sign=1))
    return writer.commit({"step": name, "name": name, "writes": ["pca"], "options": {}, "version": 1, "seconds": 1.5})


def made_text(study: Path, pca: Artifact, name: str = "text_decomposition") -> Artifact:
    """Reconstructions near the components, and two phrases a neuron."""
    rng, vectors = np.random.default_rng(5), np.array(pca.array("pca"), dtype=np.float64)
    neurons = pca.table("neurons")
    writer = Writer(study, name, name)
    writer.array("reconstruction", (vectors + 0.05 * rng.normal(size=vectors.shape)).astype(np.float32))
    writer.table("phrases", pd.DataFrame([
        {"index": i, "layer": layer, "neuron": neuron, "order": o, "phrase_index": o, "phrase": f"phrase {o} of {i}",
         "coefficient": 0.5 - o, "cosine": 0.6 + 0.1 * o}
        for i, layer, neuron in zip(neurons["index"], neurons["layer"], neurons["neuron"], strict=True)
        for o in (1, 0)
    ]))  # fmt: skip
    writer.table("neurons", neurons[["index", "layer", "neuron"]].assign(cosine=0.7, random_cosine=0.5))
    return writer.commit({"step": name, "name": name, "writes": ["text"], "options": {}, "version": 1})


def made_neurons(study: Path, source: Artifact, name: str = "neurons") -> Artifact:
    """The ranking's tables: every selected neuron, and one whose AUROC was confirmed."""
    chosen = source.table("neurons")
    n = len(chosen)
    writer = Writer(study, name, name)
    writer.table("neurons", chosen[["layer", "neuron", "rank"]].assign(
        mean_abs=1.0, variance=1.0, direct=0.1, grad_act=np.linspace(1, 0.1, n), selected=True, score=1.0))  # fmt: skip
    first = np.arange(n) == 0
    writer.table("auroc", chosen[["layer", "neuron"]].assign(
        fit_auroc=np.where(first, 0.8, 0.55), p=np.where(first, 1e-6, 0.5), q=np.where(first, 1e-5, 0.6),
        max_t_p=np.where(first, 0.005, 0.9), confirmed=first, test_auroc=np.where(first, 0.75, np.nan),
        ci_low=np.where(first, 0.65, np.nan), ci_high=np.where(first, 0.85, np.nan),
        holm=np.where(first, 0.004, np.nan)))  # fmt: skip
    return writer.commit({"step": name, "name": name, "writes": ["neurons"], "options": {}, "version": 1})
