"""One run of step neurons: measure fit and test rows, rank on fit, check against real ablations, search and confirm.

Every stage that runs the model is sharded with markers, so a killed run resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.items import scored_rows, spread
from gnomon.causal.pick import pick
from gnomon.errors import UserError
from gnomon.lens import checks as real
from gnomon.lens import directions as along
from gnomon.lens.lens import Lens
from gnomon.lens.neurons import Ablated, Measured, NeuronWorker, readout_of
from gnomon.lens.texts import ReadText, read_texts
from gnomon.methods import neuron_auroc
from gnomon.methods.agreement import CHECKS, agreement
from gnomon.methods.effects import weights_of
from gnomon.methods.neuron_ranking import NEURONS, Moments, direct_effects, rank_layer
from gnomon.step import Context, Inputs
from gnomon.types import Split
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.steps.neurons import Neurons

SHARD_ROWS = 48
CHOSEN: tuple[str, ...] = ("random", "rank")
PAIRS = pa.schema(
    [("layer", pa.int64()), ("neuron", pa.int64()), ("chosen", pa.string()), ("row", pa.int64()),
     ("grad_act", pa.float64()), ("effect", pa.float64())]
)  # fmt: skip
"""effect: what setting the neuron to zero took away from the readout (before minus after)."""
PROMPTS = pa.schema(
    [("layer", pa.int64()), ("chosen", pa.string()), ("measure", pa.string()), ("value", pa.float64()),
     ("lowest", pa.float64()), ("highest", pa.float64()), ("texts", pa.int64()), ("neurons", pa.int64())]
)  # fmt: skip
"""Agreement within each text alone: its median, lowest and highest over texts."""
FACTS = pa.schema([("fact", pa.string()), ("value", pa.float64()), ("text", pa.string())])


@dataclass
class Ranking:
    """One run of the step; `run` writes everything but the commit."""

    step: Neurons
    inputs: Inputs
    out: Writer
    ctx: Context
    done: list[Any] = field(default_factory=list)

    def run(self) -> None:
        step = self.step
        self.model = self.ctx.model()
        self.layers = self._layers()
        table = scored_rows(self.inputs.generations())
        fit, self.fit = self._split(table, "fit", step.max_rows)
        if len(set(self.fit["label"])) < 2 and step.direction == "difference":
            raise UserError(
                "neurons.direction is difference, and all rows of fit have one label", "right and wrong rows",
                "raise generate.n, or direction: logit_lens",
            )  # fmt: skip
        readout_of(step.readout, self.model, fit)
        shards = [Measured(tuple(part), True) for part in _shards(fit)]
        if step.auroc != "none":
            test, self.test = self._split(table, "test", step.test_rows)
            shards += [Measured(tuple(part), False) for part in _shards(test)]
        self._map(shards, "activations and gradients")
        self.grad_act = self._joined("grad_act").astype(np.float64)
        ranked = self._rank(fit)
        self.out.table("neurons", ranked, NEURONS)
        self._checks(fit, ranked)
        if step.auroc != "none":
            self._auroc()
        self.out.table("facts", self._facts(ranked), FACTS)
        self.out.scratch("part")

    # ---- what is looked at

    def _layers(self) -> list[int]:
        wanted, n = self.step.layers, self.model.n_layers
        if wanted == "all":
            return list(range(n))
        if isinstance(wanted, tuple):
            layers = sorted(set(wanted))
        else:
            kept = pick(self.inputs["layers"].table("selected"), component="mlp")
            layers = sorted({int(v) for v in kept["layer"]})
        if not layers or min(layers) < 0 or max(layers) >= n:
            source = "neurons.layers" if isinstance(wanted, tuple) else f"step {self.inputs['layers'].name}"
            raise UserError(f"{source} names the MLP layers {layers}", f"layers 0 to {n - 1} of {self.model.name}")
        return layers

    def _split(self, table: pd.DataFrame, split: Split, most: int) -> tuple[list[ReadText], pd.DataFrame]:
        part = self.ctx.split(table, split, "neurons: " + ("ranking" if split == "fit" else "AUROC"))
        part = spread(part, most)
        if len(part) < 4:
            raise UserError(f"neurons has {len(part)} graded rows in {split}", "at least 4", "raise generate.n")
        texts = read_texts(part, self.step.position, self.model.encode_text, self.model.decode)
        texts = sorted(texts, key=lambda t: (len(t.tokens), t.row))
        return texts, part.set_index("row").loc[[t.row for t in texts]].reset_index()

    def _map(self, shards: Sequence[Any], label: str) -> None:
        step = self.step
        worker = NeuronWorker(
            self.ctx.model_spec, str(self.out.path), tuple(self.layers), step.readout, step.k, step.auroc == "max",
            step.batch_size,
        )  # fmt: skip
        every = [*self.done, *shards]
        sizes = [len(s.texts) * (len(s.neurons) if isinstance(s, Ablated) else 1) for s in every]
        self.ctx.map(worker, every, self.out, f"neurons: {label}", sizes)
        self.done += shards

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([np.load(p) for p in sorted((self.out.path / "part" / name).glob("*.npy"))])

    # ---- ranking

    def _direction(self, texts: Sequence[ReadText]) -> along.ScoreDirection:
        step = self.step
        if step.direction == "difference":
            return along.of_difference(self._joined("output"), self.fit["label"].to_numpy(dtype=bool))
        if step.direction == "probe":
            source = self.inputs.named(step.using) if step.using else self.inputs["directions"]
            return along.of_probe(source.directions(), source.name, self.model)
        return along.of_answers(self.model, texts, np.ones(len(texts), dtype=bool))

    def _rank(self, texts: Sequence[ReadText]) -> pd.DataFrame:
        import torch

        step, one = self.step, self._direction(texts)
        self.out.directions([one.saved(self.model.n_layers, step.position)])
        circuit = Lens(self.model, one.end).circuit
        vectors = one.vector[None] if one.by_token is None else one.by_token
        u = circuit.from_end(torch.as_tensor(vectors, device=self.model.device).to(self.model.dtype))
        own = np.zeros(len(texts), np.int64) if one.by_token is None else np.array(along.own_rows(one, texts))
        read, scale = self._joined("read").astype(np.float64), self._joined("final_scale").astype(np.float64)
        moments = self._moments()
        weights = weights_of(self.fit["group"].to_numpy(), step.draws, self.ctx.seed)
        parts = []
        for i, layer in enumerate(self.layers):
            a_unit = (u @ circuit.write(layer).T).float().cpu().numpy().astype(np.float64)[own]
            if one.end is None:
                direct = direct_effects(read[:, i], a_unit, scale)
            else:  # read in the stream after layer `end`: no final norm, and later layers cannot write there
                direct = direct_effects(read[:, i], a_unit, np.full(len(texts), float(layer <= one.end)))
            parts.append(rank_layer(
                layer, moments[i], direct, self.grad_act[:, i], weights, step.combine, step.criteria, step.top_k
            ))  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def _moments(self) -> list[Moments]:
        shape = (-1, len(self.layers), 3, self.model.d_mlp)
        sums = self._joined("moments").reshape(shape).sum(0)
        counts = self._joined("counts").reshape(-1, len(self.layers)).sum(0)
        return [Moments(s[0], s[1], s[2], int(n)) for s, n in zip(sums, counts, strict=True)]

    # ---- gradient x activation against real ablations

    def _checks(self, texts: Sequence[ReadText], ranked: pd.DataFrame) -> None:
        step = self.step
        pairs, prompts = pd.DataFrame(columns=PAIRS.names), pd.DataFrame(columns=PROMPTS.names)
        checks = pd.DataFrame(columns=CHECKS.names)
        if step.check_rows:
            at = np.unique(np.arange(step.check_rows) * len(texts) // step.check_rows)
            each = max(4, 2 * -(-step.check_neurons // (2 * len(self.layers))))
            by_rank = ranked.sort_values(["layer", "rank"])
            order = {layer: pick(by_rank, layer=layer)["neuron"].to_numpy() for layer in self.layers}
            drawn = real.draw(self.layers, order, self.model.d_mlp, each, self.ctx.seed)
            some = tuple(texts[i] for i in at)
            self._map(
                [Ablated(some, a, tuple(int(n) for k in CHOSEN for n in drawn[a][k])) for a in self.layers],
                "real ablations",
            )
            files = sorted((self.out.path / "part" / "real").glob("*.npy"))
            truth: dict[int, dict[str, np.ndarray]] = {
                a: dict(zip(CHOSEN, np.split(np.load(f), [len(drawn[a]["random"])], axis=1), strict=True))
                for a, f in zip(self.layers, files, strict=True)
            }
            score = {a: self.grad_act[at, i] for i, a in enumerate(self.layers)}
            checks = real.check_rows(step.readout, drawn, truth, {"grad_act": score}, step.draws, self.ctx.seed)
            pairs = _pairs(drawn, truth, score, [t.row for t in some])
            prompts = _prompts(pairs)
        self.out.table("checks", checks, CHECKS)
        self.out.table("pairs", pairs, PAIRS)
        self.out.table("prompts", prompts, PROMPTS)

    # ---- right against wrong

    def _auroc(self) -> None:
        step, act = self.step, self._joined("act")
        n, layers = len(self.fit), np.repeat(self.layers, self.model.d_mlp)
        fit, test = (
            neuron_auroc.Rows(x.reshape(len(x), -1), t["label"].to_numpy(dtype=bool), t["group"].to_numpy())
            for x, t in ((act[:n], self.fit), (act[n:], self.test))
        )
        neurons = np.tile(np.arange(self.model.d_mlp), len(self.layers))
        found, family = neuron_auroc.two_stage(
            fit, test, layers, neurons, step.permutations, step.confirm, self.ctx.seed
        )
        self.out.table("auroc", found, neuron_auroc.AUROC)
        self.out.table("auroc_family", family, neuron_auroc.FAMILY)

    def _facts(self, ranked: pd.DataFrame) -> pd.DataFrame:
        step = self.step
        tokens = "all" if step.k is None else f"the last {step.k}"
        known: dict[str, Any] = {
            "direction": step.direction, "readout": step.readout, "tokens": tokens,
            "position": step.position.replace("_", " "),
            "combine": step.combine, "criteria": ", ".join(step.criteria), "auroc": step.auroc,
            "rows": len(self.fit), "layers": len(self.layers), "neurons": len(ranked),
            "kept": int(ranked["selected"].to_numpy().sum()),
            "never active": int(np.sum(ranked["mean_abs"].to_numpy() == 0)),
        }  # fmt: skip
        return pd.DataFrame([
            {"fact": k, "value": np.nan if isinstance(v, str) else float(v), "text": v if isinstance(v, str) else ""}
            for k, v in known.items()
        ])  # fmt: skip


def _shards(texts: Sequence[ReadText]) -> list[Sequence[ReadText]]:
    return [texts[a : a + SHARD_ROWS] for a in range(0, len(texts), SHARD_ROWS)]


def _pairs(drawn: Any, truth: Any, score: Any, rows: Sequence[int]) -> pd.DataFrame:
    """One row a text and neuron."""
    return pd.concat([
        pd.DataFrame({
            "layer": layer, "neuron": np.tile(neurons, len(rows)), "chosen": kind,
            "row": np.repeat(rows, len(neurons)), "grad_act": score[layer][:, neurons].reshape(-1),
            "effect": -truth[layer][kind].reshape(-1),
        })
        for layer, kinds in drawn.items() for kind, neurons in kinds.items()
    ], ignore_index=True)  # fmt: skip


def _prompts(pairs: pd.DataFrame) -> pd.DataFrame:
    """Agreement within each text alone: median, lowest, highest over texts."""
    lines: list[dict[str, Any]] = []
    for layer in sorted(set(pairs["layer"])):
        for kind in CHOSEN:
            here = pick(pairs, layer=layer, chosen=kind)
            texts = [pick(here, row=row) for row in sorted(set(here["row"]))]
            found = [agreement(t["grad_act"].to_numpy(), -t["effect"].to_numpy(), np.zeros(len(t)), 0) for t in texts]
            for measure in ("pearson", "spearman", "slope"):
                values = np.array([f[measure][0] for f in found])
                values = values[np.isfinite(values)] if np.isfinite(values).any() else np.full(1, np.nan)
                lines.append({
                    "layer": layer, "chosen": kind, "measure": measure, "value": np.median(values),
                    "lowest": values.min(), "highest": values.max(), "texts": len(texts), "neurons": len(texts[0]),
                })  # fmt: skip
    return pd.DataFrame(lines, columns=PROMPTS.names)
