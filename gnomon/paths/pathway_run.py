"""The pathways step at work: targets, their prompts, a measured first target, shards, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gnomon.causal.tables import FACTS
from gnomon.dictionaries.shelf import Shelf
from gnomon.errors import UserError
from gnomon.latents import Latent, latent_name
from gnomon.lens.feature_sources import Source, given
from gnomon.methods import pathway_edges as tables
from gnomon.methods.chain_tables import PROMPTS
from gnomon.methods.two_classes import class_names, judged, shortfall
from gnomon.paths import pathway_targets as choosing
from gnomon.paths.attribution import depth
from gnomon.paths.pathway_work import TRACED, TRACES, Job, Tracing, found_sources, item_bytes, jobs
from gnomon.paths.trace import Keep
from gnomon.step import Context, Inputs
from gnomon.types import Site
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model
    from gnomon.steps.pathways import Pathways

SAID = 10
"""Upstream candidates that are printed."""


class PathwayRun:
    """One run of the step."""

    def __init__(self, step: Pathways, inputs: Inputs, out: Writer, ctx: Context) -> None:
        self.step, self.inputs, self.out, self.ctx = step, inputs, out, ctx
        features = inputs["features"]
        if "separations" not in features.tables():
            raise UserError(f"step {features.name} has no table of separations", "a newer one",
                            f"gnomon run --remake {features.name}")  # fmt: skip
        self.separations = features.table("separations")
        self.option = given(step.dictionary, features.options)
        self.trained = str(inputs["dictionary"].path) if self.option is None and "dictionary" in inputs else None
        self.budget = None if step.budget_gb is None else int(step.budget_gb * 1e9)

    def run(self) -> None:
        """Choose, measure, trace, write."""
        step, ctx, out = self.step, self.ctx, self.out
        model = ctx.model()
        kept = found_sources(self.option, self.trained)
        shelf = Shelf(kept, self.budget, item_bytes(model))
        asked, why, every = self._targets(shelf)
        latents = every[:1] if step.prototype else every
        self._check_dictionaries(model, shelf)
        fit = ctx.split(self.inputs.generations(), "fit", "pathways: prompts of the targets")
        rows, texts = choosing.prompt_rows(fit, step.at)
        if not len(rows):
            raise UserError("no prompt of fit has two tokens or more", "prompts of fit", "raise generate.n")
        z = choosing.activations(self.inputs, model, shelf, latents, rows, texts, step.at, step.batch_size)
        named = not isinstance(asked, str)
        goals, prompts = choosing.goals_of(latents, z, rows, texts, step.prompts, named)
        shelf.clear()
        worker = Tracing(
            ctx.model_spec, str(out.path), self.option, self.trained, step.kinds,
            Keep(step.top, step.min_gradient, step.min_share), step.batch_size, step.chunk, step.positions == "last",
            self.budget,
        )  # fmt: skip
        shards = jobs(goals, texts, step.shard_targets)
        if len(shards) > 1 and not out.done():
            highest = max(goals, key=lambda goal: depth(goal.latent.site))
            self._measure(worker, jobs([highest], texts, 1)[0], len(goals))
        ctx.map(worker, shards, out, "pathways", [len(job.goals) for job in shards])
        traces, traced = _written(out, "traces", TRACES.names), _written(out, "traced", TRACED.names)
        groups = dict(zip(rows["row"].tolist(), (str(g) for g in rows["group"]), strict=True))
        listed = set(self.separations["name"])
        found = tables.edges(traces, traced, groups, listed, step.kinds, step.draws, ctx.seed)
        out.table("pathways", found, tables.EDGES)
        active = set(zip(traced["target"], traced["row"], strict=True))  # not on a massive token
        here = [key in active for key in zip(prompts["name"], prompts["row"], strict=True)]
        out.table("prompts", prompts.loc[np.array(here, dtype=bool)], PROMPTS)
        out.table("targets", tables.target_rows(found, traced), tables.TARGETS)
        out.table("layers", tables.layer_rows(found), tables.LAYERS)
        self._cost(str(model.device), found, traced, len(self._targets(shelf, True)[2]))
        names = class_names(step.classes, self.inputs["generations"])
        silent = [str(latent) for latent in latents if str(latent) not in set(traced["target"])]
        facts = {"chosen": why, "no conclusion": shortfall(judged(fit), names, "fit")}
        facts |= {"first": names[0], "second": names[1], "silent": len(silent), "silent names": ", ".join(silent[:5])}
        facts |= {"other dictionary": self._other_dictionary(kept), "lowest": self.lowest}
        self._facts(facts, found, traced)

    def _targets(self, shelf: Shelf, whole: bool = False) -> tuple[str | tuple[str, ...], str, list[Latent]]:
        """What was asked for, how that was chosen in words, and the latents; `whole`: as without `prototype`."""
        step = self.step
        causal = self.inputs["causal_features"].table("causal") if "causal_features" in self.inputs else None
        asked = (step.prototype,) if isinstance(step.prototype, str) and not whole else step.targets
        found, why = choosing.chosen_targets(asked, self.separations, causal, step.strongest)
        latents = choosing.with_sources(found, shelf.sites, not isinstance(asked, str))
        self.lowest = len(set(found)) - len(latents)
        return asked, why, latents

    def _check_dictionaries(self, model: Model, shelf: Shelf) -> None:
        """UserError, before any work, for dictionaries of another model's width, or of several models."""
        made: dict[str, Site] = {}
        for site in shelf.sites:
            width, one = model.site_shape(site), shelf[site]
            if one.d_model != width:
                raise UserError(
                    f"the dictionary of {site} has width {one.d_model}, and {model.name} has {width} there",
                    "one that was trained on this model", "give the right pathways.dictionary",
                )  # fmt: skip
            if said := str(one.meta.get("model_name") or ""):
                made.setdefault(said.rstrip("/").rpartition("/")[2].lower(), site)
        if len(made) > 1:
            (a, b, *_), (one, two, *_) = made, made.values()
            raise UserError(f"the dictionary of {one} was made for {a}, that of {two} for {b}",
                            "dictionaries of one model", "give the right pathways.dictionary")  # fmt: skip

    def _other_dictionary(self, kept: Sequence[Source]) -> str:
        """Sites whose features were found in another dictionary than that which is traced, in words."""
        names = {source.site: source.name for source in kept}
        pairs = self.separations[["site", "dictionary"]].drop_duplicates().astype(str).itertuples(index=False)
        return ", ".join(f"{site}: {said}" for site, said in pairs if site in names and said != names[site])

    def _measure(self, worker: Tracing, job: Job, n: int) -> None:
        """Trace a target of the highest site, say what all will take, and refuse what `limits` do not allow."""
        ctx = self.ctx
        worker.open()
        worker.measure(job)  # the first call also pays for reading the dictionaries
        (one, *_), info = worker.measure(job)
        worker.close()
        share = one.attribution["total"].mean(0) / one.activations.mean() if len(one.rows) else []
        names = [latent_name(site, source) for site, source in zip(one.sites, one.sources.tolist(), strict=True)]
        self._log_upstream(str(one.latent), one.candidates, names, list(share))
        seconds = info["seconds"] * n / (ctx.executor.processes() if ctx.executor is not None else 1)
        peak = info["peak_bytes"] / 1e9
        ctx.log.info("pathways: %s alone took %.2f s, peak %.2f GB: about %.0f s for %d targets, less where they share "
                     "prompts", one.latent, info["seconds"], peak, seconds, n)  # fmt: skip
        name = "gpu_gb" if ctx.model().device.type == "cuda" else "ram_gb"
        minutes, memory = ctx.limits.get("minutes"), ctx.limits.get(name)
        if minutes is not None and seconds > 60 * minutes:
            raise UserError(f"pathways of {n} targets will take about {seconds / 60:.1f} minutes by its first one",
                            f"limits.minutes is {minutes:g}",
                            "fewer targets or prompts, or a higher limit")  # fmt: skip
        if memory is not None and peak > memory:
            raise UserError(f"pathways takes {peak:.2f} GB with its first target", f"limits.{name} is {memory:g}",
                            "a smaller budget_gb, batch_size or chunk")  # fmt: skip

    def _log_upstream(self, target: str, candidates: int, names: Sequence[str], shares: Sequence[float]) -> None:
        said = ", ".join(f"{name} {share:.1%}" for name, share in zip(names[:SAID], shares[:SAID], strict=True))
        self.ctx.log.info("pathways: %s has %d upstream candidates, of which %d are kept: %s", target, candidates,
                          len(names), said or "none passes the thresholds")  # fmt: skip

    def _cost(self, device: str, found: pd.DataFrame, traced: pd.DataFrame, every: int) -> None:
        infos = [marker["info"] for marker in self.out.done().values()]
        cost = tables.cost_rows(infos, self.step.top, device, every)
        self.out.table("cost", cost, tables.COST)
        if self.step.prototype and len(traced):
            total = found.loc[np.asarray(found["kind"] == "total")].sort_values("rank")
            self._log_upstream(str(traced["target"].iloc[0]), int(traced["candidates"].iloc[0]),
                               total["source_name"].tolist(), total["share"].tolist())  # fmt: skip
            line = cost.set_index("what").to_dict("index")
            peak = line["measured"]["peak_bytes"] / 1e9
            self.ctx.log.info(
                "pathways: prototype took %.2f s, peak %.2f GB; the %d targets of this study would take about %.0f s, "
                "%d features x %d pathways %.0f s", line["measured"]["seconds"], peak, every,
                line["all targets"]["seconds"], *tables.FULL, line["full run"]["seconds"],
            )  # fmt: skip

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


def _written(out: Writer, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """A table of shards that is not committed yet."""
    parts = [pd.read_parquet(path) for path in sorted((out.path / name).glob("*.parquet"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))
