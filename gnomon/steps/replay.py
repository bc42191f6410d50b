"""Replay: set the source of a pathway to another value, and measure what becomes of its target.

    x_a[s] <- x_a[s] + (z' - z_u[s]) d_u      predicted: sum_s (z' - z_u[s]) G[s]      measured: the target's change

on held-out rows, with the dictionary's error term kept, beside random latents of the source's site that are active as
often and as strongly. Agreement of the two (slope, R2 about zero, Pearson, Spearman, sign) says how far the model is
linear, of random latents as of pathways; a pathway is validated where it changes its target more than they do, the
predicted way (gnomon/methods/agree.py). Sources: Nanda 2023 and Kramar et al. 2024 (arXiv 2403.00745) on what
gradients miss; Marks et al. 2024 (arXiv 2403.19647). Cost: one scan of the rows; then for a row one forward, one
backward a target, and one sweep in which every patch runs only the blocks and tokens it can change.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.lens.feature_sources import given, stamps
from gnomon.methods.two_classes import Classes, class_names, judged, shortfall
from gnomon.step import Context, Cost, Inputs, Planning, Step, batches
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer

SCAN = 8
"""Rows of a shard of the scan."""
ABOUT = 15
"""Targets that are expected where the plan cannot know."""
FACTS = pa.schema([("fact", pa.string()), ("value", pa.float64()), ("text", pa.string())])


class Replay(Step):
    """Replay pathways on held-out rows: does patching the source move the target as the gradient said?"""

    name: ClassVar[str] = "replay"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "pathways", "features")
    optional: ClassVar[tuple[str, ...]] = ("dictionary",)
    writes: ClassVar[tuple[str, ...]] = ("replay",)

    dictionary: str | dict[str, str] | None = None
    """Sparse dictionaries: a path or hub id of one, or {site: path}; unless given those that the pathways were found
    with."""
    top: int = Field(default=10, ge=1)
    """Pathways of each target that are replayed: its sources of largest |attribution|."""
    split: Literal["test", "tune"] = "test"
    """Held-out rows in which pathways are replayed (they were found on fit)."""
    scan: int = Field(default=100, ge=3)
    """Rows at most, one a group, that are looked at for active sources."""
    rows: int = Field(default=8, ge=3)
    """Rows at most in which a pathway is replayed: its source active; those first in which its target is, too."""
    to: Literal["zero", "class_mean"] = "zero"
    """What a source is set to: zero, or its mean on fit over the other class than the row's (at the position where
    targets are read, where that mean was taken; sources without class means in the features step are left out). A
    random latent is set to the same in proportion: to as many times its own mean as the source to its own."""
    positions: Literal["all", "last"] | None = None
    """Where a source is set: at every token where it is active, or only where the target is read; unless given as the
    pathways were found."""
    controls: int = Field(default=5, ge=0)
    """Random latents, active as often and as strongly, that stand for each source (0: no p, and nothing validated)."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """False discovery rate of the validated pathways."""
    classes: Classes = None
    """Names of the classes of label true and label false; the task's own unless given."""
    draws: int = Field(default=1000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""
    batch_size: int = Field(default=8, ge=1)
    """Texts in a batch of the scan."""
    chunk: int = Field(default=16, ge=1)
    """Targets of one batched backward."""
    budget_gb: float | None = Field(default=None, gt=0)
    """Gigabytes of dictionaries on the device at once; no limit unless given."""

    # ---------------------------------------------------------------- planning

    def check(self, plan: Planning) -> None:
        named = given(self.dictionary, *(plan.source_options.get(kind, {}) for kind in ("pathways", "features")))
        if named is None and "dictionary" not in plan.inputs:
            raise UserError(
                "replay has no dictionary", "a path, a hub id, {site: path}, or step train_dictionary above it",
                "give replay.dictionary",
            )  # fmt: skip
        for site in self.dictionary if isinstance(self.dictionary, dict) else ():
            Site.parse(site)
        own = plan.model.facts()["fingerprint"] if any(plan.weights.values()) else ""
        for kind in ("generations", "pathways"):
            if plan.weights.get(kind, "") not in ("", own):
                raise UserError(f"replay in another model than that of {kind}", "the model that ran it",
                                "give this entry the same model: and adapter:")  # fmt: skip
        rows = plan.inputs.get("generations")
        if rows is not None and rows.splits and not rows.splits.get(self.split):
            raise UserError(f"replay needs rows in split {self.split!r}", "held-out rows: fit, tune and test")
        if self.to == "class_mean" and self.positions == "all":
            raise UserError("replay.to is class_mean at positions: all", "positions: last, where class means are of")

    def cost(self, plan: Planning) -> Cost:
        source = plan.inputs.get("generations", Cost())
        told = plan.source_options.get("pathways", {})
        targets = told.get("targets")
        count = len(targets) if isinstance(targets, list | tuple) else ABOUT
        length = source.prompt_tokens / source.rows if source.rows else 100
        scanned = min(self.scan, source.splits.get(self.split, self.scan) if source.splits else self.scan)
        patches = count * self.top * (1 + self.controls) * min(self.rows, scanned)
        tail = 1 if self._last_only(told) else length / 2
        forward = scanned * length * (2 + 3) + patches * tail / 4
        return Cost(
            rows=scanned, forward_tokens=int(forward), disk_bytes=200 * patches + 40_000 * scanned,
            notes=(f"about {patches:,d} patches for {count} targets, each through the blocks between alone",),
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:

        return super().identity() | {"dictionary_files": stamps(self.dictionary)}

    def _last_only(self, told: Any) -> bool:
        return self.to == "class_mean" or (self.positions or str(told.get("positions") or "all")) == "last"

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):  # statistics must not depend on the number of cores
            self._run(inputs, out, ctx)

    def _run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.methods.agree_tables import agreement_rows, figure_points
        from gnomon.methods.chain_tables import AGREEMENT, REPLAY
        from gnomon.paths.pathway_targets import prompt_rows
        from gnomon.paths.replay import Job, Replaying, Scan
        from gnomon.paths.replay_plan import ACTIVITY, Activity, Row, kept_pathways, legs, stands_for

        source = inputs["pathways"]
        last_only, at = self._last_only(source.options), str(source.options.get("at") or "last_prompt")
        pathways = kept_pathways(source.table("pathways"), self.top)
        table = ctx.split(inputs.generations(), self.split, "replay: pathways on held-out rows")
        names = class_names(self.classes, inputs["generations"])
        why_not = shortfall(judged(table), names, f"split {self.split}")
        once, texts = prompt_rows(_shuffled(table, ctx.seed), at)
        once = once.drop_duplicates("group").head(self.scan)
        rows = {
            int(r["row"]): Row(int(r["row"]), str(r["example_id"]), str(r["group"]), str(r["split"]),
                               None if r["label"] is None or r["label"] != r["label"] else bool(r["label"]),
                               texts[int(r["row"])])
            for r in once.to_dict("records")
        }  # fmt: skip
        means = None if self.to == "zero" else _class_means(inputs["features"])
        option = given(self.dictionary, source.options, inputs["features"].options)
        trained = str(inputs["dictionary"].path) if option is None and "dictionary" in inputs else None
        budget = None if self.budget_gb is None else int(self.budget_gb * 1e9)
        worker = Replaying(
            ctx.model_spec, str(out.path), option, trained, last_only, self.batch_size, self.chunk, budget
        )
        ends = [*pathways["source_site"], *pathways["target_site"]]
        sites = tuple(sorted({Site.parse(s) for s in ends}))
        scans = [Scan(tuple(part), sites) for part in batches(list(rows.values()) if sites else [], SCAN)]
        ctx.map(worker, scans, out, "replay: which latents are active", [len(s.rows) for s in scans])
        activity = Activity(_made(out, "activity", ACTIVITY), list(rows))
        drawn, fewest = stands_for(pathways, activity, self.controls, ctx.seed)
        if fewest < self.controls:
            ctx.log.warning("replay: at one site only %d random latents fire; %d were asked for", fewest, self.controls)
        planned = legs(pathways, activity, drawn, self.rows, rows, means)
        jobs = [Job(rows[row], tuple(planned[row])) for row in rows if row in planned]
        sizes = [1] * len(scans) + [len(job.legs) for job in jobs]
        ctx.map(worker, [*scans, *jobs], out, "replay: patches", sizes)
        replay = _made(out, "replay", REPLAY)
        lines, against = agreement_rows(
            pathways, replay, alpha=self.alpha, draws=self.draws, seed=ctx.seed, why_not=why_not
        )
        if not jobs:
            out.table("replay", replay[REPLAY.names], REPLAY)
        if not scans:
            out.table("activity", pd.DataFrame(columns=ACTIVITY.names), ACTIVITY)
        agreement = pa.Table.from_pylist(lines, schema=AGREEMENT)
        out.table("agreement", agreement)
        out.table("points", figure_points(replay, ctx.seed))
        told = out.done()
        own = replay.loc[~replay["control"].astype(bool)]
        paths = [line for line in lines if line["scope"] == "pathway"]
        facts: dict[str, float | str] = {
            "source": source.name, "pathways": len(pathways), "targets": len(set(pathways["target_name"])),
            "rows": len(rows), "replayed": sum(line["n"] > 0 for line in paths),
            "tested": sum(line["q"] == line["q"] for line in paths),
            "validated": sum(line["validated"] for line in paths), "random": len(replay) - len(own),
            "target inactive": float((own["target_activation"] <= 0).mean()) if len(own) else 0.0,
            "controls": self.controls, "drawn": against.drawn, "fewest": against.fewest(self.alpha),
            "alpha": self.alpha, "split": self.split, "at": at.replace("_", " "),
            "to": "0" if self.to == "zero" else "the other class's mean",
            "positions": "the token where the target is read" if last_only else "every token where it is active",
            "patches": sum(int(t["info"].get("patches", 0)) for t in told.values()),
            "rounding": max((float(t["info"].get("rounding", 0)) for t in told.values()), default=0.0),
            "why not": why_not,
        }  # fmt: skip
        out.table("facts", pd.DataFrame([
            {"fact": k, "value": np.nan if isinstance(v, str) else float(v), "text": v if isinstance(v, str) else ""}
            for k, v in facts.items()
        ]), FACTS)  # fmt: skip

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.agree_blocks import replay_blocks

        return replay_blocks(artifact)


def _shuffled(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows in an order that depends on the examples' ids alone: which rows are taken says nothing of their place."""
    from hashlib import sha256

    key = [sha256(f"{seed}/{i}/{r}".encode()).hexdigest()
           for i, r in zip(table["example_id"], table["row"], strict=True)]  # fmt: skip
    return table.iloc[np.argsort(np.array(key), kind="stable")]


def _class_means(features: Artifact) -> dict[str, tuple[float, float]]:
    """(first mean, second mean) of every separated latent by name. UserError where the step has none."""
    if "separations" not in features.tables():
        raise UserError(f"step {features.name} has no table separations", "class means of its latents",
                        f"gnomon run --remake {features.name}, or replay.to: zero")  # fmt: skip
    table = features.table("separations")
    return {str(n): (float(a), float(b))
            for n, a, b in zip(table["name"], table["first_mean"], table["second_mean"], strict=True)}  # fmt: skip


def _made(out: Writer, name: str, schema: pa.Schema) -> pd.DataFrame:
    """All finished shards of a table."""
    parts = [pd.read_parquet(p) for p in sorted((out.path / name).glob("*.parquet"))]
    parts = [p for p in parts if len(p)]
    return pd.concat(parts, ignore_index=True) if parts else schema.empty_table().to_pandas()
