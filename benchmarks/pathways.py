"""Pathways on SmolLM2, 9 -> 15: many targets in one batched backward, against a loop of backwards; then replay.

A text of 60 tokens and random TopK dictionaries of 4,096 latents (what is timed does not depend on what they learned).
Both sides share one forward with a graph and read the same gradients along the same active latents; they are compared
before they are timed. Rows without a goal: what 1,000 features in 8 prompts each take at this measured pace,
dictionaries and kinds included, and the extrapolation to 1,550 features.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import setting
from benchmarks.pathways_replay import replay_part
from benchmarks.prompts import prompts
from benchmarks.timing import Row, cpu_row, interleave, main
from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.shelf import Shelf
from gnomon.latents import Latent
from gnomon.lens.feature_sources import Source
from gnomon.paths.active import active_latents
from gnomon.paths.attribution import CHUNK, KINDS, Target, gradients
from gnomon.paths.trace import Goal, Tracer
from gnomon.types import Site

TOKENS, TARGETS, LATENTS, K = 60, 64, 4096, 32
SITES = tuple(Site("resid_post", layer) for layer in (9, 12, 15))
LOW, _, HIGH = SITES
PROMPTS, FEATURES = 8, 1550


def dictionary(site: Site, d: int) -> SparseDictionary:
    """Random rows that read and write."""
    rows = np.random.default_rng(site.layer).standard_normal((LATENTS, d)).astype(np.float32) / d**0.5
    return canonical(site, rows.T, np.zeros(LATENTS), rows, np.zeros(d), activation="topk", k=K)


def gradient_part(runs: int) -> Iterator[Row]:
    """The rows of gradients."""
    model = setting.load(4).model
    tokens = model.encode_text(" ".join(prompts(16)))[:TOKENS]
    low, high = dictionary(LOW, model.d_model), dictionary(HIGH, model.d_model)
    x = model.forward([tokens], read=[LOW, HIGH]).acts
    active = [{LOW: active_latents(low, x[LOW][0])}]
    targets = [[Target.of(high, index, TOKENS - 1, x[HIGH]) for index in range(TARGETS)]]

    def traced(chunk: int) -> torch.Tensor:
        return gradients(model, [tokens], active, targets, "total", chunk)[0][LOW]

    batched, loop = traced(CHUNK), traced(1)
    apart = float((batched - loop).abs().max() / loop.abs().max())
    times = interleave({"ours": lambda: traced(CHUNK), "loop": lambda: traced(1)}, runs)
    note = f"{TARGETS} targets of a text of {TOKENS} tokens; largest difference {apart:.1e}"
    if apart > 1e-4:
        yield Row("gradients / loop of backwards", None, 1.5, ">=", note=f"they differ by {apart:.1e}")
        return
    yield cpu_row("gradients / loop of backwards", times["ours"], times["loop"], 1.5, ">=", note)
    yield from _whole(model)


def _whole(model: Any) -> Iterator[Row]:
    """Seconds and memory of 1,000 features, each in prompts of its own, by tracing a few."""
    texts = {i: tuple(model.encode_text(" ".join(prompts(40)[i : i + 16]))[:TOKENS]) for i in range(PROMPTS)}
    shelf = Shelf([Source(str(s), "random", lambda s=s: dictionary(s, model.d_model)) for s in SITES])
    for site in SITES:
        shelf[site].pre(torch.zeros(1, model.d_model))
    z = shelf[HIGH].encode(model.forward([texts[0]], read=[HIGH]).acts[HIGH][0, -1])
    goals = [Goal(Latent(HIGH, int(i)), tuple(texts)) for i in z.topk(4).indices]
    for kinds in (("total",), KINDS):
        tracer = Tracer(model, shelf, kinds)
        tracer.trace(goals[:1], texts)
        spent = interleave({"one": lambda t=tracer: [t.trace([goal], texts) for goal in goals]}, 1)["one"]
        each, peak = spent.least / len(goals), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield Row(
            f"pathways of 1,000 features: {'every kind' if len(kinds) > 1 else 'total'}", None, None, runs=1,
            ours=1000 * each, note=f"{PROMPTS} prompts of {TOKENS} tokens each, sources at two layers, "
            f"{spent.wall[0] / len(goals):.2f} s of wall a feature; peak {peak / 1e9:.2f} GB, model and dictionaries "
            f"included; {FEATURES:,} features x 25 pathways: {FEATURES * each:.0f} cpu s",
        )  # fmt: skip


def rows(runs: int) -> Iterator[Row]:
    """All rows: gradients, then replay."""
    yield from gradient_part(runs)
    yield from replay_part(runs)


if __name__ == "__main__":
    main(rows)
