"""One run of the second-order lens over a study's rows: outputs, directions, neurons, scores, masses, checks, tables.

Every stage is sharded with markers, so a killed run resumes; what it decides in between is a function of the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gnomon.causal.pick import pick
from gnomon.errors import UserError
from gnomon.lens import checks as real
from gnomon.lens import costs, tables
from gnomon.lens import directions as along
from gnomon.lens.lens import Lens
from gnomon.lens.readout import projection
from gnomon.lens.texts import ReadText, read_rows, read_texts
from gnomon.lens.worker import MASS_LAYERS, LensWorker, Masses, Outputs, Pull, Scores, batches, outputs
from gnomon.methods import second_order as so
from gnomon.methods.agreement import CHECKS
from gnomon.methods.effects import weights_of
from gnomon.step import Context, Inputs
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.steps.second_order import SecondOrder

SHARD_ROWS = 48
CHOOSING_ROWS = 48


@dataclass
class Trace:
    """One run of the step; `run` writes everything but the commit."""

    step: SecondOrder
    inputs: Inputs
    out: Writer
    ctx: Context
    done: list[Any] = field(default_factory=list)
    directions: list[along.ScoreDirection] = field(default_factory=list)
    neurons: dict[int, np.ndarray] = field(default_factory=dict)

    def run(self) -> None:
        step, ctx = self.step, self.ctx
        self.model = ctx.model()
        table = read_rows(self.inputs.generations(), step.max_rows, step.name)
        by_row = dict(zip(table["row"].tolist(), range(len(table)), strict=True))
        found = read_texts(table, step.position, self.model.encode_text, self.model.decode)
        self.texts: list[ReadText] = sorted(found, key=lambda t: (len(t.tokens), t.row))
        self.table = table.iloc[[by_row[t.row] for t in self.texts]].reset_index(drop=True)
        self.fit = np.asarray(self.table["split"] == "fit")
        if self.fit.sum() < 4:
            raise UserError(
                f"second_order has {int(self.fit.sum())} graded rows in fit", "at least 4", "raise generate.n"
            )
        self.layers, ranked = self._layers()
        self._map([Outputs(tuple(t)) for t in self._shards()], "outputs")
        self.output = self._joined("output")
        self.directions = self._directions()
        self.neurons = ranked or self._by_score()
        self._map([Scores(tuple(t)) for t in self._shards()], "scores")
        masses = self._masses()
        self._write(masses)
        self.out.scratch("part")

    # ---- what is looked at

    def _shards(self) -> list[list[ReadText]]:
        return [self.texts[a : a + SHARD_ROWS] for a in range(0, len(self.texts), SHARD_ROWS)]

    def _layers(self) -> tuple[list[int], dict[int, np.ndarray]]:
        """Layers in order, and each one's neurons by rank where step neurons ranked them."""
        last, wanted = self.model.n_layers - 1, self.step.layers
        ranked: dict[int, np.ndarray] = {}
        if "neurons" in self.inputs:
            table: Any = self.inputs["neurons"].table("neurons").sort_values(["layer", "rank"])
            neuron, layer = int(table["neuron"].max()), int(table["layer"].max())
            if neuron >= self.model.d_mlp or layer > last:
                raise UserError(
                    f"step {self.inputs['neurons'].name} ranks neurons up to {neuron} of layers up to {layer}",
                    f"{self.model.name} has {self.model.d_mlp} neurons in {last + 1} layers",
                    "rank the neurons of the same model",
                )  # fmt: skip
            ranked = {
                int(layer): part["neuron"].to_numpy()[: self.step.neurons] for layer, part in table.groupby("layer")
            }
        if isinstance(wanted, tuple):
            layers = sorted(set(wanted))
        elif wanted == "all":
            layers = list(range(last))
        elif ranked:
            layers = sorted(set(ranked) - {last})
        else:
            kept = self.inputs["layers"].table("selected")
            layers = sorted({int(v) for v in kept.loc[np.asarray(kept["component"] == "mlp"), "layer"]} - {last})
        if not layers:
            raise UserError("second_order has no layer to look at", "a layer with attention after it", "name layers")
        if last in ranked and wanted == "kept":
            self.ctx.log.info("layer %d is the last: no head comes after it, its second-order effects are 0", last)
        return layers, ranked if set(layers) <= set(ranked) else {}

    def _directions(self) -> list[along.ScoreDirection]:
        step, made = self.step, []
        for name in step.directions:
            if name == "difference":
                labels = self.table["label"].to_numpy(dtype=bool)
                made.append(along.of_difference(self.output[self.fit], labels[self.fit]))
            elif name == "logit_lens":
                made.append(along.of_answers(self.model, self.texts, self.fit))
            elif name == "probe":
                source = self.inputs.named(step.using) if step.using else self.inputs["directions"]
                made.append(along.of_probe(source.directions(), source.name, self.model))
            else:
                both = [
                    outputs(self.model, [self.model.tokenize(t) for t in texts], step.batch_size)
                    for texts in (step.texts.plus, step.texts.minus)
                ]
                made.append(along.of_texts(*both))
        return made

    def _by_score(self) -> dict[int, np.ndarray]:
        """Neurons by mean |score| along the main direction, on a sample of fit rows."""
        sample = [t for t, fit in zip(self.texts, self.fit, strict=True) if fit]
        sample = sample[:: max(1, len(sample) // CHOOSING_ROWS)][:CHOOSING_ROWS]
        pull, lens = Pull(self.model, self.directions[0]), Lens(self.model)
        total = {layer: np.zeros(self.model.d_mlp) for layer in self.layers}
        for batch in batches(sample, self.step.batch_size):
            factors = lens.capture([t.tokens for t in batch], self.layers, last_k=self._last_k)
            for layer in self.layers:
                total[layer] += pull.scores(factors, layer, batch).abs().sum(0).double().cpu().numpy()
        return {layer: np.argsort(-value, kind="stable")[: self.step.neurons] for layer, value in total.items()}

    @property
    def _last_k(self) -> int | None:
        return self.step.last_k if self.step.tokens == "last_k" else None

    # ---- shards

    def _map(self, shards: Sequence[Any], label: str) -> None:
        step = self.step
        made = LensWorker(
            self.ctx.model_spec, str(self.out.path), tuple(self.layers), self._last_k, step.batch_size,
            tuple(self.directions), self.neurons, step.per_token, step.effects, step.total,
        )  # fmt: skip
        every = [*self.done, *shards]
        sizes = [len(s.texts) for s in every]
        self.ctx.map(made, every, self.out, f"second order: {label}", sizes)
        self.done += shards

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([np.load(p) for p in sorted((self.out.path / "part" / name).glob("*.npy"))])

    def _masses(self) -> np.ndarray | None:
        """Summed |phi| of every layer's neurons on a sample of fit rows, `[n_layers, rows]`; the last layer's is 0."""
        if not self.step.mass_rows:
            return None
        sample = [t for t, fit in zip(self.texts, self.fit, strict=True) if fit]
        sample = sample[:: max(1, len(sample) // self.step.mass_rows)][: self.step.mass_rows]
        last = self.model.n_layers - 1
        groups = [tuple(range(a, min(a + MASS_LAYERS, last))) for a in range(0, last, MASS_LAYERS)]
        self._map([Masses(tuple(sample), layers) for layers in groups], "norms of all layers")
        return np.concatenate([self._joined("mass"), np.zeros((1, len(sample)), np.float32)])

    # ---- tables and arrays

    def _write(self, masses: np.ndarray | None) -> None:
        step, out, model = self.step, self.out, self.model
        lengths = np.array([len(t.tokens) for t in self.texts])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        out.table("rows", self.table[["row", "example_id", "group", "split", "label"]].assign(
            index=range(len(lengths)), target_token=[t.target_token for t in self.texts],
            read_at=lengths - 1, token_start=starts, tokens=lengths,
        )[tables.ROWS.names], tables.ROWS)  # fmt: skip
        flat = [(layer, slot, int(n)) for layer in self.layers for slot, n in enumerate(self.neurons[layer])]
        out.table("neurons", pd.DataFrame(
            [{"index": i, "layer": a, "slot": s, "neuron": n, "rank": s + 1} for i, (a, s, n) in enumerate(flat)]
        ), tables.NEURONS)  # fmt: skip
        circuit = Lens(model).circuit
        out.table("heads", pd.DataFrame(
            [{"layer": layer, "index": i, "head_layer": a, "head": h}
             for layer in self.layers for i, (a, h) in enumerate(circuit.later(layer))]
        ), tables.HEADS)  # fmt: skip
        layers = tables.layer_rows(model.n_layers, self.layers, masses, model.d_mlp)
        if masses is not None:
            out.array("mass_rows", masses)
        out.table("layers", layers, tables.LAYERS)
        out.directions([d.saved(model.n_layers, step.position) for d in self.directions])
        out.array("output", self.output)
        checks = self._checks()
        out.table("checks", checks, CHECKS)
        sizes = self._arrays(circuit)
        self._summary(checks)
        out.table("facts", tables.facts({
            "main direction": self.directions[0].name, "position": step.position.replace("_", " "),
            "tokens": "all" if self._last_k is None else f"the last {self._last_k}", "rows": len(self.texts),
            "fit rows": int(self.fit.sum()), "neurons kept": len(flat), "layers kept": len(self.layers),
        }), tables.FACTS)  # fmt: skip
        counts = {"scores": len(self.layers) * model.d_mlp, "coefs": len(flat)}
        neurons = {layer: found[:8] for layer, found in self.neurons.items()}
        markers = list(out.done().values())
        out.table("costs", costs.rows(markers, sizes, counts, Lens(model), self.texts, neurons), tables.COSTS)

    def _arrays(self, circuit: so.Circuit) -> dict[str, int]:
        """Join the shards' arrays; bytes by kind."""
        import torch

        sizes: dict[str, int] = {}
        for layer in self.layers:
            for kind in ("scores", "total"):
                if kind == "scores" or self.step.total:
                    whole = np.ascontiguousarray(self._joined(f"{kind}_layer{layer}").transpose(1, 0, 2))
                    self.out.array(f"{kind}_layer{layer}", whole)
                    sizes[kind] = sizes.get(kind, 0) + whole.nbytes
            plain = ["coef", "layer_effect"] + ["token_scores"] * self.step.per_token + ["effects"] * self.step.effects
            for kind in plain:
                whole = self._joined(f"{kind}_layer{layer}")
                self.out.array(f"{kind}_layer{layer}", whole)
                sizes[kind] = sizes.get(kind, 0) + whole.nbytes
            chosen = torch.as_tensor(np.array(self.neurons[layer]), device=self.model.device)
            base = so.basis(circuit, layer, chosen).float().cpu().numpy()
            self.out.array(f"basis_layer{layer}", base)
            sizes["basis"] = sizes.get("basis", 0) + base.nbytes
        return sizes

    def _checks(self) -> pd.DataFrame:
        """Every score and gradient x activation against real ablations, along the main direction."""
        step, main = self.step, self.directions[0]
        if not step.check_rows:
            return pd.DataFrame(columns=CHECKS.names)
        where = np.flatnonzero(self.fit)
        where = where[:: max(1, len(where) // step.check_rows)][: step.check_rows]
        some = [self.texts[i] for i in where]
        reached = [a for a in self.layers if main.end is None or a <= main.end]
        if not reached:
            return pd.DataFrame(columns=CHECKS.names)
        drawn = real.draw(reached, self.neurons, self.model.d_mlp, step.check_neurons, self.ctx.seed)
        vector = main.vector if main.by_token is None else main.by_token[along.own_rows(main, some)]
        readout = projection(self.model, vector, main.end)
        total = sum(len(n) for kinds in drawn.values() for n in kinds.values()) * len(some)
        with self.ctx.progress("second order: real ablations", total) as advance:
            truth = real.real_effects(self.model, some, drawn, readout, self._last_k, advance)
        second, direct = (
            {a: self._joined(f"{kind}_layer{a}")[where, 0] for a in self.layers} for kind in ("scores", "direct")
        )
        scores = {
            "second": second, "direct": direct, "first_and_second": {a: second[a] + direct[a] for a in self.layers},
            "grad_act": real.gradients(self.model, some, reached, readout, self._last_k),
        }  # fmt: skip
        if step.total:
            scores["total"] = {a: self._joined(f"total_layer{a}")[where, 0] for a in self.layers}
        return real.check_rows(main.name, drawn, truth, scores, step.draws, self.ctx.seed)

    def _summary(self, checks: pd.DataFrame) -> None:
        test = self.ctx.split(self.table, "test", "second order: summary").index.to_numpy()
        here = np.isin(np.arange(len(self.table)), test)
        if here.sum() < 2:
            raise UserError(f"second_order has {int(here.sum())} graded rows in test", "at least 2", "raise generate.n")
        weights = weights_of(np.asarray(self.table["group"])[here], self.step.draws, self.ctx.seed)
        parts, means = [], []
        for k, direction in enumerate(self.directions):
            mean = []
            for layer in self.layers:
                worth = pick(checks, layer=layer, chosen="random", score="second", measure="pearson")
                scores, direct = (self._joined(f"{kind}_layer{layer}")[:, k] for kind in ("scores", "direct"))
                total = self._joined(f"total_layer{layer}")[:, k] if self.step.total else None
                parts.append(tables.summary_rows(
                    direction.name, layer, scores, direct, total, self.fit, here, weights, self.neurons[layer].tolist(),
                    float(worth["value"].iloc[0]) if k == 0 and len(worth) else np.nan,
                ))  # fmt: skip
                mean.append(scores[self.fit].mean(0))
            means.append(np.concatenate(mean))
        summary: Any = pd.concat(parts, ignore_index=True)[tables.SUMMARY.names]
        self.out.table("summary", summary, tables.SUMMARY)
        main = pick(summary, direction=self.directions[0].name).sort_values("fit_second", ascending=False)
        self.out.table("strongest", main.head(20), tables.SUMMARY)
        worth = pick(checks, chosen="random", measure="pearson")
        self.out.table("worth", worth.assign(score=[tables.SCORES[s] for s in worth["score"]]), CHECKS)
        names = [d.name for d in self.directions]
        vectors = [d.vector for d in self.directions]
        compared = tables.compared(names, vectors, means, self.step.draws, self.ctx.seed)
        self.out.table("compared", compared, tables.COMPARED)
