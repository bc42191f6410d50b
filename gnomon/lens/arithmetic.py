"""Output space on real folders: effects from second_order, components from pca and text, the model's unembedding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gnomon.errors import UserError
from gnomon.methods.ablation_rows import Rows, Table, Values, all_rows
from gnomon.methods.output_ablation import Changes, Neuron, Setting, Unembedding, kept_name, output_changes
from gnomon.step import Context, Inputs


@dataclass(frozen=True)
class Cuts:
    """The options of the arithmetic; see the step's fields. `output` False: only the significant sets are wanted."""

    least: int
    top_share: float
    shares: tuple[float, ...]
    tolerance: float
    controls: int
    curve_controls: int
    draws: int
    output: bool = True


class Arithmetic:
    """The conditions of output space: effects read from second_order, outputs read through the unembedding."""

    def __init__(
        self, cuts: Cuts, inputs: Inputs, ctx: Context, table: pd.DataFrame, neurons: pd.DataFrame,
        known: dict[str, Any],
    ) -> None:  # fmt: skip
        self.cuts, self.ctx, self.table, self.neurons, self.known = cuts, ctx, table, neurons, known
        self.source, self.pca = inputs["second_order"], inputs["pca"].array("pca")
        self.text = inputs["text"].array("reconstruction") if "text" in inputs else None
        self.output = np.asarray(self.source.array("output"), dtype=np.float64)
        self.fit = np.asarray(table["split"] == "fit")
        for name, array in (("pca", self.pca), ("text", self.text)):
            if array is not None and len(array) != len(neurons):
                raise UserError(
                    f"step {name} has {len(array)} neurons and second_order {len(neurons)}", "the same ones",
                    f"make {name} from this second_order",
                )  # fmt: skip
        main = self.source.directions()[0]
        self.u = main.vector.astype(np.float64) / np.linalg.norm(main.vector)
        self.unembedding = self._unembedding() if main.meta.get("space", "final_norm") == "final_norm" else None
        known["rows without a target token"] = int(np.sum(np.asarray(table["target_token"]) < 0))

    def _unembedding(self) -> Unembedding:
        model = self.ctx.model()
        weight, bias = (model.weights(name).float().cpu().numpy() for name in ("W_U", "b_U"))
        if weight.shape[0] != self.output.shape[1]:
            raise UserError(
                f"outputs of width {self.output.shape[1]}", f"{weight.shape[0]}, the d_model of {model.name}",
                "use the model that second_order ran",
            )  # fmt: skip
        return Unembedding(weight, bias, model.body.softcap)

    def _each(self, label: str) -> Iterator[Neuron]:
        with self.ctx.progress(f"neuron ablation: {label}", len(self.neurons)) as advance:
            arrays: dict[int, tuple[np.ndarray, ...]] = {}
            for index, layer, slot in zip(*(self.neurons[c].tolist() for c in ("index", "layer", "slot")), strict=True):
                if layer not in arrays:
                    arrays = {layer: tuple(self.source.array(f"{a}_layer{layer}") for a in ("coef", "basis"))}
                coef, basis = arrays[layer]
                text = None if self.text is None else np.asarray(self.text[index])
                yield Neuron(np.asarray(coef[:, slot]), np.asarray(basis[slot]), np.asarray(self.pca[index]), text)
                advance(1)

    def _setting(self, rows: np.ndarray, shares: tuple[float, ...], controls: int, curve_controls: int) -> Setting:
        cuts = self.cuts
        return Setting(self.fit, rows, shares, controls, curve_controls, cuts.least, cuts.top_share, self.ctx.seed)

    def values(self, rows: np.ndarray, change: np.ndarray | None = None) -> Values:
        """The metrics of rows after a change `[n, d]`, or of each draw of `[draws, n, d]`."""
        if change is not None and change.ndim == 3:
            each = [self.values(rows, one) for one in change]
            return {metric: np.stack([v[metric] for v in each]) for metric in each[0]}
        y = self.output[rows] if change is None else self.output[rows] + change
        out: dict[str, np.ndarray] = {"projection": y @ self.u}
        targets = self.table["target_token"].to_numpy()[rows]
        if self.unembedding is not None and (targets >= 0).any():
            out["target_logprob"], out["accuracy"] = self.unembedding.read(y, targets)
        return out

    def _table(self, rows: np.ndarray, split: str) -> Table:
        groups = self.table["group"].to_numpy()[rows]
        return Table("output", split, self.values(rows), groups, self.cuts.draws, self.ctx.seed)

    def curve(self) -> tuple[Rows, float | None]:
        """The functional curve on tune, and the smallest share that keeps accuracy within the tolerance there."""
        cuts = self.cuts
        rows = self.ctx.split(self.table, "tune", "neuron ablation: curve")["index"].to_numpy()
        made = self._table(rows, "tune") if len(rows) > 1 and cuts.output else None
        if made is None:
            return [], None
        changes = output_changes(self._each("curve"), self._setting(rows, cuts.shares, 0, cuts.curve_controls))
        out: Rows = []
        for share in cuts.shares:
            name = kept_name(share)
            values = self.values(rows, changes.conditions[name])
            out += [made.curve_row(share, "largest effects kept", m, v) for m, v in values.items()]
            if name in changes.controls:
                values = self.values(rows, changes.controls[name])
                out += [made.curve_row(share, "random rows kept", m, v) for m, v in values.items()]
        own = [r for r in out if r["series"] == "largest effects kept" and r["metric"] == "accuracy"]
        within = [r["cut"] for r in own if r["change"] >= -cuts.tolerance]
        share = min(within) if within else None
        for row in own:
            row["chosen"] = row["cut"] == share
        return out, share

    def test(self, rows: np.ndarray, share: float | None) -> tuple[Rows, Rows, Changes]:
        """Every condition and control on test."""
        wanted = self.cuts.output
        controls = self.cuts.controls if wanted else 0
        shares = () if share is None else (share,)
        changes = output_changes(self._each("test"), self._setting(rows, shares, controls, 0))
        if not wanted:
            return [], [], changes
        passed = changes.significant[:, rows].mean()
        single = {name: self.values(rows, change) for name, change in changes.conditions.items()}
        layers = {}
        for layer in sorted(set(self.neurons["layer"].tolist())):
            effect = np.asarray(self.source.array(f"layer_effect_layer{layer}"), dtype=np.float64)
            layers[f"layer {layer}"] = effect[self.fit].mean(0) - effect[rows]
        single |= {name: self.values(rows, change) for name, change in layers.items()}
        if len(layers) > 1:
            single["whole layers"] = self.values(rows, np.sum(list(layers.values()), axis=0))
        random = {name: self.values(rows, change) for name, change in changes.controls.items()}
        pairs = {"full": 1.0, "significant": passed, "insignificant": 1 - passed}
        return *all_rows(self._table(rows, "test"), single, random, pairs), changes
