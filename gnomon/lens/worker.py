"""The workers of the second-order lens: outputs of texts, scores and coefficients of a shard, masses of layers."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.halving import marked, run_halving
from gnomon.lens.directions import ScoreDirection, own_rows
from gnomon.lens.lens import Lens
from gnomon.lens.texts import ReadText
from gnomon.methods import second_order as so
from gnomon.step import ModelSpec
from gnomon.writer import Shard, Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model

Texts = tuple[ReadText, ...]
MASS_LAYERS = 6
"""Layers of which one shard takes the masses."""


@dataclass(frozen=True)
class Outputs:
    """A shard of texts whose outputs are wanted."""

    texts: Texts


@dataclass(frozen=True)
class Scores:
    """A shard of texts whose effects are wanted."""

    texts: Texts


@dataclass(frozen=True)
class Masses:
    """Layers whose neurons' summed effect norms are wanted, for these texts."""

    texts: Texts
    layers: tuple[int, ...]


@dataclass
class Clock:
    """Seconds by stage; kept in a shard's marker, so that a resumed step still knows them all."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def info(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"seconds": self.seconds, "peak_bytes": peak}


def batches(texts: Sequence[ReadText], size: int) -> list[Sequence[ReadText]]:
    """Consecutive batches; the texts come sorted by length."""
    return [texts[a : a + size] for a in range(0, len(texts), size)]


def outputs(
    model: Model, texts: Sequence[Sequence[int]], size: int, halved: list[int] | None = None
) -> np.ndarray:  # fmt: skip
    """The final norm's output at the last token of each text, `[n, d]` float32: what the unembedding multiplies."""
    last = f"resid_post.{model.n_layers - 1}"
    norm, out = model.norm("ln_final"), []

    def read(some: Sequence[Sequence[int]]) -> list[np.ndarray]:
        found = model.forward(some, read=[last])
        x = found.acts[model.sites([last])[0]]
        ends = np.asarray(found.lengths) - 1
        return [norm.apply(x[np.arange(len(ends)), ends]).float().cpu().numpy()]

    for start in range(0, len(texts), size):
        out += run_halving(read, texts[start : start + size], halved)
    return np.concatenate(out)


@dataclass
class LensWorker:
    """One worker for all stages, so that their shards share one numbering; which stage a shard is, its type tells.

    layers: whose neurons are scored. neurons[layer] `[n_l]`: whose coefficients and per-token scores are kept.
    """

    spec: ModelSpec
    path: str
    layers: tuple[int, ...]
    last_k: int | None
    batch_size: int
    directions: tuple[ScoreDirection, ...] = ()
    neurons: Mapping[int, np.ndarray] = field(default_factory=dict)
    per_token: bool = True
    effects: bool = False
    total: bool = False

    def open(self) -> None:
        """Load the model; pull the directions back through the heads, once."""
        self.model = self.spec.load()
        self.lens = Lens(self.model)
        self.pulls = [Pull(self.model, one) for one in self.directions]

    def __call__(self, shard: tuple[int, Outputs | Scores | Masses]) -> None:
        """Do one shard and write its files."""
        index, work = shard
        self.halved: list[int] = []
        files, clock = Writer.attach(self.path).shard(index), Clock()
        if isinstance(work, Outputs):
            with clock("outputs"):
                found = outputs(self.model, [t.tokens for t in work.texts], self.batch_size, self.halved)
            files.array("part/output", found)
        elif isinstance(work, Scores):
            self.score(work.texts, files, clock)
        else:
            self.mass(work, files, clock)
        files.finish(clock.info() | marked(self.halved))

    # ---- effects

    def score(self, texts: Texts, files: Shard, clock: Clock) -> None:
        """Scores of every neuron of the layers, coefficients of the chosen ones, one forward pass a batch."""
        every: dict[str, list[np.ndarray]] = {}
        for batch in batches(texts, self.batch_size):
            for parts in run_halving(lambda some: [self._scored(some, clock)], batch, self.halved):
                for name, values in parts.items():
                    every.setdefault(name, []).extend(values)
        for name, values in every.items():
            files.array(f"part/{name}", np.concatenate(values))

    def _scored(self, batch: Sequence[ReadText], clock: Clock) -> dict[str, list[np.ndarray]]:
        """The arrays of one batch, by name."""
        parts: dict[str, list[np.ndarray]] = {}

        def keep(name: str, value: Any) -> None:
            parts.setdefault(name, []).append(value.float().cpu().numpy())

        tokens = [text.tokens for text in batch]
        with clock("capture"):
            factors = self.lens.capture(tokens, self.layers, last_k=self.last_k)
        for layer in self.layers:
            with clock("scores"):
                every = [pull.scores(factors, layer, batch) for pull in self.pulls]
            with clock("direct"):
                first = [pull.direct(factors, layer, batch) for pull in self.pulls]
            with clock("coefs"):
                chosen = self._index(layer)
                coef = so.coefs(self.lens.circuit, factors, layer, chosen)
            if self.per_token:
                with clock("per token"):
                    own = self.pulls[0].tokens(factors, layer, batch, chosen)
                    flat = [own[i, : len(text.tokens)] for i, text in enumerate(batch)]
                for one in flat:
                    keep(f"token_scores_layer{layer}", one)
            with clock("layer effects"):
                written = factors.acts[layer] @ self.lens.circuit.write(layer)
                whole = so.carried(self.lens.circuit, factors, written, layer)
            keep(f"scores_layer{layer}", _stack(every))
            keep(f"direct_layer{layer}", _stack(first))
            keep(f"coef_layer{layer}", coef)
            keep(f"layer_effect_layer{layer}", whole)
            if self.effects:
                keep(f"effects_layer{layer}", so.effects(coef, so.basis(self.lens.circuit, layer, chosen)))
        if self.total:
            with clock("total"):
                for layer, value in self._total(batch).items():
                    keep(f"total_layer{layer}", value)
        return parts

    def _index(self, layer: int) -> Any:
        import torch

        return torch.as_tensor(np.array(self.neurons[layer], dtype=np.int64), device=self.model.device)

    def _total(self, batch: Sequence[ReadText]) -> dict[int, Any]:
        """All-order effects, texts first: `[B, K, d_mlp]` by layer."""
        found: dict[int, list[Any]] = {layer: [] for layer in self.layers}
        for pull in self.pulls:
            for layer, value in pull.total(batch, self.layers, self.last_k).items():
                found[layer].append(value)
        return {layer: _stack(values) for layer, values in found.items()}

    # ---- masses

    def mass(self, work: Masses, files: Shard, clock: Clock) -> None:
        """Summed |phi| of all neurons of some layers, text by text: `[layers, texts]`."""

        def some(texts: Sequence[ReadText]) -> list[np.ndarray]:
            factors = [
                self.lens.capture([t.tokens for t in batch], work.layers, last_k=self.last_k)
                for batch in batches(texts, self.batch_size)
            ]
            found = [so.masses(self.lens.circuit, factors, layer).float().cpu().numpy() for layer in work.layers]
            return list(np.stack(found).T)

        with clock("mass"):
            files.array("part/mass", np.stack(run_halving(some, work.texts, self.halved), axis=1))


def _stack(values: Sequence[Any]) -> Any:
    """K tensors `[B, n]` as `[B, K, n]`: texts first, so that batches and shards join along axis 0."""
    import torch

    return torch.stack(list(values), dim=1)


class Pull:
    """One direction on one model: pulled back to every head once."""

    def __init__(self, model: Model, direction: ScoreDirection) -> None:
        self.direction = direction
        self.lens = Lens(model, direction.end)
        every = direction.vector[None] if direction.by_token is None else direction.by_token
        self.vectors = self.lens.direction(every)
        self.m = so.pulled(self.lens.circuit, self.vectors, -1)
        self.beta: dict[int, Any] = {}

    def _m(self, layer: int) -> Any:
        return self.m[min((layer + 1) * self.lens.model.n_heads, len(self.m)) :]

    def _own(self, batch: Sequence[ReadText]) -> Any:
        return own_rows(self.direction, batch) if self.direction.by_token is not None else [0] * len(batch)

    def tokens(self, factors: so.Factors, layer: int, batch: Sequence[ReadText], neurons: Any = None) -> Any:
        """Scores token by token, `[B, T, n]`."""
        factors = factors if self.direction.end is None else factors.before_final()
        circuit, m = self.lens.circuit, self._m(layer)
        if self.direction.by_token is not None:
            return so.per_token_own(circuit, factors, layer, m[:, self._own(batch)].transpose(0, 1), neurons)
        if layer not in self.beta:
            self.beta[layer] = so.betas(circuit, layer, m)
        beta = self.beta[layer] if neurons is None else self.beta[layer][..., neurons]
        return so.per_token(circuit, factors, layer, m, neurons, beta)[0]

    def scores(self, factors: so.Factors, layer: int, batch: Sequence[ReadText]) -> Any:
        """Scores of every neuron, `[B, d_mlp]`."""
        return self.tokens(factors, layer, batch).sum(1)

    def direct(self, factors: so.Factors, layer: int, batch: Sequence[ReadText]) -> Any:
        """First-order effects, `[B, d_mlp]`; 0 for layers after the one that is read."""
        import torch

        if self.direction.end is not None and layer > self.direction.end:
            return torch.zeros_like(factors.acts[layer][:, 0])
        factors = factors if self.direction.end is None else factors.before_final()
        found = so.direct(self.lens.circuit, factors, layer, self.vectors)  # [K, B, n]
        return found[self._own(batch), torch.arange(len(batch))]

    def total(self, batch: Sequence[ReadText], layers: Sequence[int], last_k: int | None) -> dict[int, Any]:
        """All-order effects by layer, `[B, d_mlp]`."""
        import torch

        tokens = [text.tokens for text in batch]
        reached = [layer for layer in layers if layer < self.lens.stop]
        out = {layer: torch.zeros(len(batch), self.lens.model.d_mlp) for layer in layers}
        own = self._own(batch)
        for k in sorted(set(own)):
            mine = [i for i, which in enumerate(own) if which == k]
            found = self.lens.total([tokens[i] for i in mine], reached, self.vectors[k : k + 1], last_k)
            for layer, value in found.items():
                out[layer] = out[layer].to(value)
                out[layer][mine] = value[0]
        return out
