"""Rows of the table `metrics`: every measure read from the folders of the neuron steps, or said to be missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.methods import second_order_metrics as measures
from gnomon.methods.effects import weights_of
from gnomon.methods.output_ablation import LEAST, SHARE, significant_rows, threshold
from gnomon.stats import Interval, mean_interval
from gnomon.step import Context, Inputs

METRICS = pa.schema(
    [("metric", pa.string()), ("about", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("goal", pa.float64()), ("sense", pa.string()), ("verdict", pa.string()),
     ("control", pa.float64()), ("p", pa.float64()), ("n", pa.int64()), ("note", pa.string())]
)  # fmt: skip
STAGES = pa.schema(
    [("step", pa.string()), ("stage", pa.string()), ("seconds", pa.float64()), ("peak_bytes", pa.float64()),
     ("bytes", pa.float64()), ("materialised_bytes", pa.float64()), ("materialised_seconds", pa.float64()),
     ("speedup", pa.float64()), ("rows", pa.int64()), ("neurons", pa.int64())]
)  # fmt: skip
KINDS = ("neurons", "second_order", "pca", "text", "neuron_ablations", "edits")
"""Folders whose own time, memory and size stand in the table of stages."""


@dataclass
class Goals:
    """What is stated beforehand; see the fields of step metrics."""

    sparsity: float
    concentration: float
    accuracy_drop: float


@dataclass
class Measures:
    """Collects the rows; `test` are the test rows of second_order, by the ledger."""

    inputs: Inputs
    ctx: Context
    goals: Goals
    test: np.ndarray
    draws: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = self.inputs["second_order"]
        self.table = self.source.table("rows").sort_values("index")
        self.groups = self.table["group"].to_numpy()[self.test]

    def all(self) -> None:
        """Every measure, in the report's order."""
        self.sparsity()
        self.layers()
        self.components()
        self.accuracy()
        self.auroc()
        self.speed()

    def add(
        self, metric: str, about: str, value: Interval, goal: float | None = None, sense: str = "", *,
        control: float = np.nan, p: float = np.nan, n: int = 0, note: str = "",
    ) -> None:  # fmt: skip
        """One row; the interval's own note comes before `note`."""
        words = "; ".join(w for w in (value.note, note) if w)
        row = {"metric": metric, "about": about, "value": value.value, "ci_low": value.low, "ci_high": value.high,
               "control": control, "p": p, "n": n, "note": words}  # fmt: skip
        self.rows.append(measures.judged(row, goal, sense))

    def missing(self, metric: str, about: str, step: str, goal: float | None = None, sense: str = "") -> None:
        self.add(metric, about, Interval(float("nan")), goal, sense, note=f"needs {step}")

    # ---- the measures

    def sparsity(self) -> None:
        """Share of rows a neuron: by a chosen cut, by half of its effect, and by what accuracy needs."""
        about, goal = "sparsity", self.goals.sparsity
        if "pca" not in self.inputs:
            self.missing("sparsity, chosen cut", about, "step pca")
            self.missing("sparsity, half of the effect", about, "step pca", goal, "below")
        else:
            norms = np.asarray(self.inputs["pca"].array("norms"), dtype=np.float64)
            fit = np.asarray(self.table["split"] == "fit")
            k = significant_rows(int(fit.sum()), LEAST, SHARE)
            passed = np.stack([(own >= threshold(own[fit], k)) & (own > 0) for own in norms])[:, self.test]
            cut = f"a chosen cut, no finding: the {k} of {int(fit.sum())} fit rows that it lets pass fix it"
            found = mean_interval(passed.mean(0), self.groups, draws=self.draws, seed=self.ctx.seed)
            self.add("sparsity, chosen cut", about, found, control=k / fit.sum(), n=len(self.test), note=cut)
            squares = norms[:, self.test] ** 2
            drawn = measures.half_share(squares, weights_of(self.groups, min(self.draws, 300), self.ctx.seed))
            found = measures.median_interval(measures.half_share(squares)[0], drawn)
            self.add(
                "sparsity, half of the effect", about, found, goal, "below", control=measures.NORMAL_HALF,
                n=len(self.test), note="median over neurons; control: a normal variable of one dimension",
            )  # fmt: skip
        if "neuron_ablations" not in self.inputs:
            self.missing("sparsity, what accuracy needs", about, "step neuron_ablation", goal, "below")
            return
        curve: Any = self.inputs["neuron_ablations"].table("curve")
        tolerance = self.goals.accuracy_drop
        shares: list[Interval] = []
        for series in ("largest effects kept", "random rows kept"):
            own: Any = curve[(curve["metric"] == "accuracy") & (curve["series"] == series)]
            if series.startswith("random") and len(own):  # all rows kept is the same whichever rows come first
                own = pd.concat([own, pd.DataFrame([{"cut": 1.0, "change": 0.0, "ci_low": 0.0, "ci_high": 0.0}])])
            cut, change, low, high = (own[c].to_numpy() for c in ("cut", "change", "ci_low", "ci_high"))
            shares.append(measures.allowed_share(cut, change, low, high, tolerance))
        self.add(
            "sparsity, what accuracy needs", about, shares[0], goal, "below", control=shares[1].value,
            n=int(curve["n"].max()) if len(curve) else 0,
            note="smallest share of rows kept on the curve (tune, output space); control: rows at random",
        )  # fmt: skip

    def layers(self) -> None:
        """The kept layers' share of all layers' effects."""
        layers: Any = self.source.table("layers")
        found = measures.concentration(layers["mass"].to_numpy(), layers["kept"].to_numpy(), self.ctx.seed)
        low = high = np.nan
        if self.source.has("mass_rows"):
            mass = np.asarray(self.source.array("mass_rows"))
            weights = weights_of(np.arange(mass.shape[1]), self.draws, self.ctx.seed)
            low, high = measures.concentration_interval(mass, layers["kept"].to_numpy(), weights)
        kind = "all" if found.exact else "drawn"
        note = (
            f"{int(layers['kept'].sum())} of {len(layers)} layers; p among {found.sets} {kind} sets of as many layers"
        )
        if not np.isfinite(low):
            note += "; no interval: masses are not kept by row"
        self.add(
            "layer concentration", "layers", Interval(found.value, low, high), self.goals.concentration, "above",
            control=found.expected, p=found.p, n=int(layers["rows"].max()), note=note,
        )  # fmt: skip

    def components(self) -> None:
        """How much of a neuron's variance its first component explains."""
        if "pca" not in self.inputs:
            self.missing("PC1 variance, median", "components", "step pca")
            return
        neurons = self.inputs["pca"].table("neurons")
        kinds = [("evr", "largest fit rows"), ("evr_all", "all fit rows"), ("evr_test", "test rows")]
        for column, where in [(c, w) for c, w in kinds if c in neurons]:
            values = neurons[column].to_numpy(dtype=np.float64)
            control = f"control_{column}"
            chance = np.nanmedian(neurons[control]) if control in neurons else np.nan
            for name, statistic in (("median", np.median), ("mean", np.mean)):
                found = measures.over_neurons(values, statistic, self.draws, self.ctx.seed)
                self.add(
                    f"PC1 variance, {name}, {where}", "components", found, control=float(chance),
                    n=int(np.isfinite(values).sum()), note="interval over neurons",
                )  # fmt: skip

    def accuracy(self) -> None:
        """Accuracy lost to reconstructions and to keeping significant effects only: drops are positive."""
        about, goal = "accuracy", self.goals.accuracy_drop
        names = {
            "full": "accuracy drop, full ablation", "rank1": "accuracy drop, rank-1",
            "text": "accuracy drop, sparse text", "insignificant": "accuracy drop, significant effects only",
        }  # fmt: skip
        rows: Any = self.inputs["neuron_ablations"].table("ablations") if "neuron_ablations" in self.inputs else None
        for condition, metric in names.items():
            bound, sense = (None, "") if condition == "full" else (goal, "below")
            part = None if rows is None else rows[(rows["metric"] == "accuracy") & (rows["condition"] == condition)]
            output = None if part is None else part[part["space"] == "output"]
            if output is None or output.empty:
                step = "step text_decomposition before neuron_ablation" if condition == "text" else "neuron_ablation"
                self.missing(metric, about, step, bound, sense)
            for space in ("output", "model"):
                for row in [] if part is None else part[part["space"] == space].to_dict("records"):
                    words = "in output space: the first answer token" if space == "output" else "in the model"
                    if condition == "insignificant":
                        words += "; effects are kept on each neuron's significant rows"
                    self.add(
                        metric + ("" if space == "output" else ", in the model"), about,
                        Interval(0.0 - row["change"], 0.0 - row["ci_high"], 0.0 - row["ci_low"]),
                        bound if space == "output" else None, sense if space == "output" else "",
                        control=0.0 - _full(rows, space), p=row["p"], n=row["n"],
                        note=words + "; control: the full ablation",
                    )  # fmt: skip

    def auroc(self) -> None:
        """Single neurons that tell right from wrong: the search's outcome beside its own null."""
        about = "right and wrong"
        if "neurons" not in self.inputs or not self.inputs["neurons"].has("auroc"):
            self.missing("neurons that tell right from wrong", about, "step neurons with its AUROC table")
            return
        table: Any = self.inputs["neurons"].table("auroc")
        searched = table[table["fit_auroc"].notna()]
        if searched.empty:
            self.missing("neurons that tell right from wrong", about, "rows of both classes in fit")
            return
        held = searched["confirmed"].fillna(False).astype(bool) if "confirmed" in searched else searched["holm"] <= 0.05
        self.add(
            "neurons that tell right from wrong", about, Interval(float(held.sum())), n=len(searched),
            note="confirmed on test (Holm) of all that were searched on fit", p=float(searched["max_t_p"].min()),
        )  # fmt: skip
        best = searched.loc[(searched["fit_auroc"] - 0.5).abs().idxmax()]
        note = "chosen as the largest: p by the permutation maximum over all"
        found = Interval(float(best["fit_auroc"]))
        self.add("best neuron's AUROC on fit", about, found, control=0.5, p=float(best["max_t_p"]), note=note)
        if np.isfinite(best["test_auroc"]):
            found = Interval(float(best["test_auroc"]), float(best["ci_low"]), float(best["ci_high"]))
            self.add("best neuron's AUROC on test", about, found, control=0.5, p=float(best.get("holm", np.nan)))

    def speed(self) -> None:
        """The speed-up over materialising, stage by stage."""
        costs: Any = self.source.table("costs") if self.source.has("costs") else pd.DataFrame(columns=["speedup"])
        known = costs[costs["speedup"].notna()]
        if known.empty:
            self.missing("speed-up over materialising", "cost", "costs of second_order")
            return
        for row in known.to_dict("records"):
            self.add(
                f"speed-up over materialising, {row['stage']}", "cost", Interval(float(row["speedup"])),
                n=int(row["neurons"]), note="one run on this machine: seconds materialised / seconds taken",
            )  # fmt: skip


def _full(rows: Any, space: str) -> float:
    """The accuracy change of the full ablation in a space."""
    here = (rows["metric"] == "accuracy") & (rows["space"] == space) & (rows["condition"] == "full")
    return float(rows.loc[here, "change"].iloc[0])


def stages(inputs: Inputs) -> pd.DataFrame:
    """Seconds, peak memory and bytes of every folder, and of second_order's own stages beside materialising."""
    out: list[dict[str, Any]] = []
    for kind in (k for k in KINDS if k in inputs):
        artifact = inputs[kind]
        meta, size = artifact.meta, sum(f["bytes"] for f in artifact.meta.get("files", {}).values())
        out.append({
            "step": artifact.name, "stage": "whole step", "seconds": meta.get("seconds", np.nan),
            "peak_bytes": meta.get("peak_memory_bytes", np.nan), "bytes": size, "rows": None, "neurons": None,
        })  # fmt: skip
        if kind == "second_order" and artifact.has("costs"):
            costs = artifact.table("costs").to_dict("records")
            out += [{"step": artifact.name} | {k: row.get(k) for k in STAGES.names[1:]} for row in costs]
    table = pd.DataFrame(out, columns=STAGES.names)
    return table.astype({"rows": "Int64", "neurons": "Int64"})
