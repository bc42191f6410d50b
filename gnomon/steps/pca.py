"""PCA: one direction per neuron, from the factors of the second-order lens.

The formulas, their source and cost are in `gnomon/methods/effect_pca.py`. Chosen on fit rows: the mean, the k rows of
largest effect, the component and its sign. Measured: its share of variance over those rows (the paper's number), over
all fit rows, and over test rows, which it has not seen. Control: each head's coefficients in another order of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.errors import UserError
from gnomon.methods.effect_pca import NeuronPCA, explained, neuron_pca, shuffled_heads, top_count
from gnomon.methods.effects import weights_of
from gnomon.nulls import p_value
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.writer import Writer

NEURONS = pa.schema(
    [("index", pa.int64()), ("layer", pa.int64()), ("slot", pa.int64()), ("neuron", pa.int64()), ("evr", pa.float64()),
     ("control_evr", pa.float64()), ("evr_all", pa.float64()), ("evr_test", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("control_evr_test", pa.float64()), ("mean_norm", pa.float64()), ("k", pa.int64()),
     ("sign", pa.int64()), ("positive_share", pa.float64()), ("participation", pa.float64()), ("zero", pa.bool_()),
     ("n", pa.int64())]
)  # fmt: skip
LAYERS = pa.schema(
    [("layer", pa.int64()), ("measure", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("quarter", pa.float64()), ("three_quarters", pa.float64()), ("control", pa.float64()),
     ("control_low", pa.float64()), ("control_high", pa.float64()), ("p", pa.float64()), ("neurons", pa.int64()),
     ("zero", pa.int64()), ("rows", pa.int64())]
)  # fmt: skip
REFERENCES = pa.schema([("name", pa.string()), ("value", pa.float64()), ("source", pa.string())])
PAPER = {"name": "CLIP ViT-B/32", "value": 0.482, "source": "arXiv 2406.04341, top 100 images of each neuron"}
EVERY = -1
"""`layer` in the table `overall`, which has the same columns as `layers`."""


@dataclass
class _Shares:
    """PC1 shares of all neurons: observed `[S]`, under the control `[draws, S]`."""

    top: np.ndarray
    test: np.ndarray
    zero: np.ndarray

    @staticmethod
    def empty(draws: int, neurons: int) -> _Shares:
        nothing = np.full((draws, neurons), np.nan)
        return _Shares(nothing, nothing.copy(), np.zeros(neurons, dtype=bool))


class Pca(Step):
    """The main direction of each chosen neuron's second-order effects, and how much of them it explains."""

    name: ClassVar[str] = "pca"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("second_order",)
    writes: ClassVar[tuple[str, ...]] = ("pca",)
    uses_model: ClassVar[bool] = False

    k: int = Field(default=20, ge=2)
    """Fit rows of largest centred effect that a neuron's component is fitted to, at least."""
    share: float = Field(default=0.02, ge=0, le=1)
    """The same as a share of the fit rows; the larger of the two counts."""
    control_draws: int = Field(default=19, ge=19)
    """Times that every head's coefficients are shuffled over the rows: the control of the explained variance."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval (test rows, by group)."""

    def check(self, plan: Planning) -> None:
        source = plan.inputs.get("second_order")
        rows = None if source is None or not source.splits else source.splits.get("fit", 0)
        if rows is not None:
            top_count(rows, self.k, self.share)

    def cost(self, plan: Planning) -> Cost:
        rows = plan.inputs.get("second_order", Cost()).rows
        width = int(plan.model.facts()["d_model"])
        return Cost(rows=rows, disk_bytes=600 * (8 * width + 16 * rows), memory_bytes=8 * rows * 1024 * 4)

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source = inputs["second_order"]
        rows = source.table("rows").sort_values("index").reset_index(drop=True)
        neurons = source.table("neurons").sort_values("index").reset_index(drop=True)
        splits = np.asarray(rows["split"])
        test = ctx.split(rows, "test", "pca: variance explained by components fitted on fit").index.to_numpy()
        k = top_count(int((splits == "fit").sum()), self.k, self.share)
        by_index: dict[int, NeuronPCA] = {}
        control = _Shares.empty(self.control_draws, len(neurons))
        with ctx.progress("pca", len(neurons)) as advance:
            for layer in neurons["layer"].drop_duplicates().tolist():
                coefs, bases = source.array(f"coef_layer{layer}"), source.array(f"basis_layer{layer}")
                here = neurons.loc[neurons["layer"] == layer]
                for index, slot in zip(here["index"].tolist(), here["slot"].tolist(), strict=True):
                    coef = np.asarray(coefs[:, slot], dtype=np.float64)
                    basis = np.asarray(bases[slot], dtype=np.float64)
                    by_index[index] = neuron_pca(coef, basis, splits == "fit", k)
                    if not by_index[index].zero:
                        rng = np.random.default_rng([ctx.seed, 47, index])
                        self._control(control, index, coef, basis, splits, k, test, rng)
                    advance(1)
        found = [by_index[index] for index in neurons["index"].tolist()]
        if all(f.zero for f in found):
            raise UserError(
                f"the effects of all {len(found)} neurons are the same in every fit row",
                "effects that vary (a neuron of the last layer has no head above it, and an effect of exactly 0)",
                "choose other neurons or lower layers",
            )
        projection, norms = (np.stack([getattr(f, name) for f in found]) for name in ("projection", "norms"))
        weights = weights_of(np.asarray(rows["group"])[test], self.draws, ctx.seed)
        drawn = explained(projection[:, test].T, norms[:, test].T, weights)
        seen = _Shares(
            np.array([f.evr for f in found]),
            explained(projection[:, test].T, norms[:, test].T, np.ones((1, len(test))))[0],
            np.array([f.zero for f in found]),
        )
        self._write(out, found, projection, norms, k)
        table = _table(neurons, found, seen, control, drawn, k, len(test))
        out.table("neurons", table, NEURONS)
        fit_rows, layers = int((splits == "fit").sum()), neurons["layer"].drop_duplicates().tolist()
        out.table("layers", _layers(table, layers, control, drawn, fit_rows), LAYERS)
        out.table("overall", _layers(table, [EVERY], control, drawn, fit_rows), LAYERS)
        out.table("references", pd.DataFrame([PAPER]), REFERENCES)

    def _control(
        self, control: _Shares, index: int, coef: np.ndarray, basis: np.ndarray, splits: np.ndarray, k: int,
        test: np.ndarray, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        for draw in range(self.control_draws):
            null = neuron_pca(shuffled_heads(coef, splits, rng), basis, splits == "fit", k)
            one = np.ones((1, len(test)))
            control.top[draw, index] = null.evr
            control.test[draw, index] = explained(null.projection[test], null.norms[test], one)[0]

    def _write(
        self, out: Writer, found: list[NeuronPCA], projection: np.ndarray, norms: np.ndarray, k: int
    ) -> None:  # fmt: skip
        top = np.stack([f.top for f in found])
        out.array("pca", np.stack([f.pc for f in found]).astype(np.float32))
        out.array("mean", np.stack([f.mean for f in found]).astype(np.float32))
        out.array("evr", np.array([f.evr for f in found], dtype=np.float32))
        out.array("top", top.astype(np.int64))
        out.array("norm", np.take_along_axis(norms, top, axis=1).astype(np.float32))
        out.array("projection", projection.astype(np.float32))
        out.array("norms", norms.astype(np.float32))

    def summary(self, artifact: Artifact) -> list[Block]:
        return _blocks(artifact)


def _mean(x: np.ndarray) -> np.ndarray:
    """Mean over draws, NaN where there is none (a neuron without an effect)."""
    known = np.isfinite(x)
    return np.divide(np.where(known, x, 0).sum(0), known.sum(0), out=np.full(x.shape[1], np.nan), where=known.any(0))


def _table(
    neurons: pd.DataFrame, found: list[NeuronPCA], seen: _Shares, control: _Shares, drawn: np.ndarray, k: int, n: int
) -> pd.DataFrame:
    low = high = np.full(len(found), np.nan)
    if len(drawn):
        low, high = np.full((2, len(found)), np.nan)
        known = ~seen.zero & np.isfinite(drawn).all(0)
        low[known], high[known] = np.quantile(drawn[:, known], [0.025, 0.975], axis=0)
    return pd.DataFrame({
        "index": neurons["index"], "layer": neurons["layer"], "slot": neurons["slot"], "neuron": neurons["neuron"],
        "evr": seen.top, "control_evr": _mean(control.top), "evr_all": [f.evr_all for f in found],
        "evr_test": seen.test, "ci_low": low, "ci_high": high, "control_evr_test": _mean(control.test),
        "mean_norm": [np.linalg.norm(f.mean) for f in found], "k": k, "sign": [0 if f.zero else 1 for f in found],
        "positive_share": [f.positive for f in found], "participation": [f.participation for f in found],
        "zero": seen.zero, "n": n,
    })  # fmt: skip


def _layers(
    table: pd.DataFrame, layers: Sequence[int], control: _Shares, drawn: np.ndarray, fit_rows: int
) -> pd.DataFrame:
    """Median over a layer's neurons (or over all of them), its spread over neurons, and the median of each shuffle."""
    rows: list[dict[str, Any]] = []
    nothing = np.zeros((0, len(table)))
    for layer in layers:
        member = np.asarray(table["layer"] == layer) | (layer == EVERY)
        here, zero = member & ~np.asarray(table["zero"]), int((member & np.asarray(table["zero"])).sum())
        parts = (
            ("top_rows", "evr", nothing, control.top, int(table["k"].iloc[0])),
            ("fit_rows", "evr_all", nothing, nothing, fit_rows),
            ("test_rows", "evr_test", drawn, control.test, int(table["n"].iloc[0])),
        )
        for measure, column, draws, null, n in parts:
            values = np.asarray(table[column])[here]
            row = {"layer": layer, "measure": measure, "neurons": len(values), "zero": zero, "rows": n}
            middle = _quantiles(values, (0.5, 0.25, 0.75))
            row |= dict(zip(("value", "quarter", "three_quarters"), middle, strict=True))
            medians = np.median(draws[:, here], axis=1) if len(draws) and len(values) else np.zeros(0)
            row |= dict(zip(("ci_low", "ci_high"), _quantiles(medians, (0.025, 0.975)), strict=True))
            shuffled = np.median(null[:, here], axis=1) if len(null) and len(values) else np.zeros(0)
            names = ("control", "control_low", "control_high")
            row |= dict(zip(names, _quantiles(shuffled, (0.5, 0.0, 1.0)), strict=True))
            rows.append(row | {"p": p_value(middle[0], shuffled)})
    return pd.DataFrame(rows)


def _quantiles(values: np.ndarray, at: tuple[float, ...]) -> list[float]:
    values = values[np.isfinite(values)]
    return np.quantile(values, at).tolist() if len(values) else [float("nan")] * len(at)


def _blocks(artifact: Artifact) -> list[Block]:
    overall: Any = artifact.table("overall").set_index("measure")
    top, test = {"measure": "top_rows"}, {"measure": "test_rows"}
    blocks: list[Block] = [Text(
        "One direction explains a median of {top} of a neuron's effects over the rows where they are largest (half of "
        "the {neurons} neurons lie between {quarter} and {rest}), and {test} on all test rows (95% interval). With "
        "every head's coefficients shuffled over the rows it would be {control_top} and {control_test} (p = {p} and "
        "{p_test}). The method's paper reports {paper} for {model}.",
        {"top": Ref("overall", top, "value", ".1%"), "neurons": Ref("overall", top, "neurons", "d"),
         "quarter": Ref("overall", top, "quarter", ".1%"), "rest": Ref("overall", top, "three_quarters", ".1%"),
         "test": Ref("overall", test, "value", ".1%", ci=True), "control_top": Ref("overall", top, "control", ".1%"),
         "control_test": Ref("overall", test, "control", ".1%"), "p": Ref("overall", top, "p"),
         "p_test": Ref("overall", test, "p"), "paper": Ref("references", {"name": PAPER["name"]}, "value", ".1%"),
         "model": Ref("references", {"name": PAPER["name"]}, "name")},
        "headline",
    )]  # fmt: skip
    if int(overall["zero"]["top_rows"]):
        blocks.append(Text(
            "{zero} neurons have an effect that is the same in every fit row (none at all in the last layer, which has "
            "no head above it): their component is 0 and they are left out of all medians.",
            {"zero": Ref("overall", top, "zero", "d")}, "warning",
        ))  # fmt: skip
    blocks += [
        Text(
            "Components are fitted to the {k} fit rows of largest centred effect, from the coefficients' Gram matrix; "
            "the control refits them after each shuffle. The interval resamples groups of test rows with the component "
            "held fixed.",
            {"k": Ref("overall", top, "rows", "d")}, "method",
        ),
        Table(
            "layers", "PC1's share of the effects, median over neurons", sort="layer", limit=60,
            where={"measure": ["top_rows", "test_rows"]},
            labels={"ci_low": "low", "ci_high": "high", "quarter": "25% of neurons", "three_quarters": "75%"},
        ),
        Figure(
            "histogram", "neurons", x="evr", y="evr", title="PC1's share over the rows of largest effect",
            x_title="share of variance", y_title="neurons",
        ),
        Figure(
            "scatter", "neurons", x="control_evr", y="evr", color="layer", title="Share beside the control, by neuron",
            x_title="share with shuffled heads", y_title="share",
        ),
        Table(
            "neurons", "Neurons that one direction describes best", sort="evr", descending=True, where={"zero": False},
            columns=["layer", "neuron", "evr", "control_evr", "evr_test", "ci_low", "ci_high", "participation"],
            labels={"ci_low": "test low", "ci_high": "test high"},
        ),
        Text(
            "The rows of largest effect were chosen by their size, so their share is above that of all rows. Heads "
            "carry one neuron's activation, so they vary together by construction: being above the control says that "
            "an effect is nearly one direction, not that the direction means something. The paper's number is of "
            "another kind of model and of its top images.", kind="limit",
        ),
    ]  # fmt: skip
    return blocks
