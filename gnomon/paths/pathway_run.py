"""The pathways step at work: targets, their prompts, a measured first target, shards, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gnomon.causal.tables import FACTS
from gnomon.dictionaries.shelf import Shelf
from gnomon.errors import UserError
from gnomon.latents import Latent
from gnomon.methods import pathway_edges as tables
from gnomon.methods.chain_tables import PROMPTS
from gnomon.methods.two_classes import class_names, shortfall
from gnomon.paths import pathway_targets as choosing
from gnomon.paths.pathway_work import TRACED, TRACES, Job, Tracing, found_sources, jobs
from gnomon.paths.trace import Keep
from gnomon.step import Context, Inputs
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model
    from gnomon.steps.pathways import Pathways


class PathwayRun:
    """One run of the step."""

    def __init__(self, step: Pathways, inputs: Inputs, out: Writer, ctx: Context) -> None:
        self.step, self.inputs, self.out, self.ctx = step, inputs, out, ctx
        features = inputs["features"]
        if "separations" not in features.tables():
            raise UserError(f"step {features.name} has no table of separations", "a newer one",
                            f"gnomon run --remake {features.name}")  # fmt: skip
        self.separations = features.table("separations")
        self.trained = None
        if step.dictionary is None and "dictionary" in inputs:
            self.trained = str(inputs["dictionary"].path)
        self.budget = None if step.budget_gb is None else int(step.budget_gb * 1e9)

    def run(self) -> None:
        """Choose, measure, trace, write."""
        step, ctx, out = self.step, self.ctx, self.out
        model = ctx.model()
        shelf = Shelf(found_sources(step.dictionary, self.trained), self.budget)
        asked, why, latents = self._targets(shelf)
        _check_widths(model, shelf)
        fit = ctx.split(self.inputs.generations(), "fit", "pathways: prompts of the targets")
        rows, texts = choosing.prompt_rows(fit, step.at)
        if not len(rows):
            raise UserError("no prompt of fit has two tokens or more", "prompts of fit", "raise generate.n")
        z = choosing.activations(self.inputs, model, shelf, latents, rows, texts, step.at, step.batch_size)
        named = not isinstance(asked, str)
        goals, prompts, silent = choosing.goals_of(latents, z, rows, texts, step.prompts, named)
        shelf.clear()
        worker = Tracing(
            ctx.model_spec, str(out.path), step.dictionary, self.trained, step.kinds,
            Keep(step.top, step.min_gradient, step.min_share), step.batch_size, step.chunk, step.positions == "last",
            self.budget,
        )  # fmt: skip
        shards = jobs(goals, texts, step.shard_targets)
        if len(shards) > 1 and not out.done():
            self._measure(worker, jobs(goals[:1], texts, 1)[0], len(goals))
        ctx.map(worker, shards, out, "pathways", [len(job.goals) for job in shards])
        traces, traced = _written(out, "traces", TRACES.names), _written(out, "traced", TRACED.names)
        groups = dict(zip(rows["row"].tolist(), (str(g) for g in rows["group"]), strict=True))
        listed = set(self.separations["name"])
        found = tables.edges(traces, traced, groups, listed, step.kinds, step.draws, ctx.seed)
        out.table("pathways", found, tables.EDGES)
        out.table("prompts", prompts, PROMPTS)
        out.table("targets", tables.target_rows(found, traced), tables.TARGETS)
        out.table("layers", tables.layer_rows(found), tables.LAYERS)
        self._cost(str(model.device))
        names = class_names(step.classes, self.inputs["generations"])
        facts = {"chosen": why, "no conclusion": shortfall(fit["label"], names, "fit")}
        facts |= {"first": names[0], "second": names[1], "silent": len(silent)}
        facts |= {"silent names": ", ".join(map(str, silent[:5]))}
        self._facts(facts, found, traced)

    def _targets(self, shelf: Shelf) -> tuple[str | tuple[str, ...], str, list[Latent]]:
        """What was asked for, how that was chosen in words, and the latents."""
        step = self.step
        causal = self.inputs["causal_features"].table("causal") if "causal_features" in self.inputs else None
        asked = (step.prototype,) if isinstance(step.prototype, str) else step.targets
        latents, why = choosing.chosen_targets(asked, self.separations, causal, step.strongest)
        latents = choosing.with_sources(latents, shelf.sites)
        return asked, why, latents[:1] if step.prototype is True else latents

    def _measure(self, worker: Tracing, job: Job, n: int) -> None:
        """Trace the first target, say what all will take, and refuse what `limits` do not allow."""
        ctx = self.ctx
        worker.open()
        worker.measure(job)  # the first call also pays for reading the dictionaries
        info = worker.measure(job)[1]
        seconds, peak = info["seconds"] * n, info["peak_bytes"] / 1e9
        ctx.log.info("pathways: the first of %d targets took %.2f s, peak %.2f GB: at most about %.0f s for all",
                     n, info["seconds"], peak, seconds)  # fmt: skip
        minutes, memory = ctx.limits.get("minutes"), ctx.limits.get("memory_gb")
        if minutes is not None and seconds > 60 * minutes:
            raise UserError(f"pathways of {n} targets will take about {seconds / 60:.1f} minutes by its first one",
                            f"limits.minutes is {minutes:g}",
                            "fewer targets or prompts, or a higher limit")  # fmt: skip
        if memory is not None and peak > memory:
            raise UserError(f"pathways takes {peak:.2f} GB with its first target", f"limits.memory_gb is {memory:g}",
                            "a smaller budget_gb, batch_size or chunk")  # fmt: skip

    def _cost(self, device: str) -> None:
        infos = [marker["info"] for marker in self.out.done().values()]
        cost = tables.cost_rows(infos, self.step.top, device)
        self.out.table("cost", cost, tables.COST)
        if self.step.prototype:
            line = cost.to_dict("records")[-1]
            self.ctx.log.info("pathways: prototype; %d features would take about %.0f s at %.2f GB",
                              line["features"], line["seconds"], line["peak_bytes"] / 1e9)  # fmt: skip

    def _facts(self, facts: dict[str, Any], found: pd.DataFrame, traced: pd.DataFrame) -> None:
        total = found.loc[np.asarray(found["kind"] == "total")]
        apart = ((total["ci_low"] > 0) | (total["ci_high"] < 0)).to_numpy(dtype=bool)
        positions = sorted(set(self.separations["position"].astype(str)) - {self.step.at})
        facts |= {
            "targets": traced["target"].nunique(), "edges": len(total), "edges beside 0": int(apart.sum()),
            "listed sources": int(total["listed"].to_numpy(dtype=bool).sum()), "features at": ", ".join(positions),
            "prototype": float(bool(self.step.prototype)),
        }  # fmt: skip
        self.out.table("facts", pd.DataFrame([
            {"fact": k, "value": np.nan if isinstance(v, str) else float(v), "text": v if isinstance(v, str) else ""}
            for k, v in facts.items()
        ]), FACTS)  # fmt: skip


def _check_widths(model: Model, shelf: Shelf) -> None:
    """UserError, before any work, for a dictionary of another model's width."""
    for site in shelf.sites:
        width, one = model.site_shape(site), shelf[site]
        if one.d_model != width:
            raise UserError(
                f"the dictionary of {site} has width {one.d_model}, and {model.name} has {width} there",
                "one that was trained on this model", "give the right pathways.dictionary",
            )  # fmt: skip


def _written(out: Writer, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """A table of shards that is not committed yet."""
    parts = [pd.read_parquet(path) for path in sorted((out.path / name).glob("*.parquet"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))
