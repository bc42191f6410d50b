"""Layer ablation: which layers' MLP and attention outputs the right answer needs.

    zero   the component's output is replaced by 0
    mean   by its mean over unmasked fit tokens (of those that are edited): only what differs between texts is lost
    noise  by a random direction of the same norm (the control of the layers that were kept)

Measured on tune: change of the right answer's log-probability (teacher-forced) and of accuracy, paired by row. The mean
is preferred to zero because 0 is far from anything the later layers ever read. Source: METHODS of mean ablation, Wang
et al. 2022 (arXiv 2211.00593), appendix. Cost: an ablated layer runs only the blocks from it on, and, with the default
`where`, only the tokens that write the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BeforeValidator, Field, field_validator

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.causal.collect import choice_lengths, right_choices, task_outcomes
from gnomon.causal.items import scored_rows, spread, task_items
from gnomon.causal.measure import component_means
from gnomon.causal.options import as_tuple, check_where
from gnomon.causal.pick import first, has, pick
from gnomon.causal.worker import CLEAN, Condition, blocks_of, outcomes, score
from gnomon.errors import UserError
from gnomon.interventions.base import JOINED, Where, places
from gnomon.interventions.noise import Noise
from gnomon.interventions.patch import Patch
from gnomon.methods.effects import Outcomes, net, ratio, sign_flip_p, weights_of
from gnomon.nulls import benjamini_hochberg
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import Intervention, Site
from gnomon.writer import Writer

LAYERS = pa.schema(
    [("component", pa.string()), ("layer", pa.int64()), ("mode", pa.string()), ("control", pa.string()),
     ("split", pa.string()), ("metric", pa.string()), ("base", pa.float64()), ("ablated", pa.float64()),
     ("change", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("p", pa.float64()),
     ("q", pa.float64()), ("n", pa.int64()), ("rank", pa.int64()), ("where", pa.string())]
)  # fmt: skip
SELECTED = pa.schema(
    [("component", pa.string()), ("layer", pa.int64()), ("rank", pa.int64()), ("change", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("q", pa.float64()), ("noise_change", pa.float64()),
     ("noise_low", pa.float64()), ("noise_high", pa.float64()), ("n", pa.int64())]
)  # fmt: skip
METRIC = "target_logprob"
NAMES = {"attn": "attention", "mlp": "MLP"}


class LayerAblation(Step):
    """Replace each layer's MLP and attention output and rank the layers by what the right answer loses."""

    name: ClassVar[str] = "layer_ablation"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("layers",)

    components: Annotated[tuple[Literal["attn", "mlp"], ...], BeforeValidator(as_tuple)] = ("attn", "mlp")
    """Which outputs are replaced: attn (the attention's), mlp (the MLP's)."""
    modes: Annotated[tuple[Literal["zero", "mean"], ...], BeforeValidator(as_tuple)] = ("zero", "mean")
    """By what: zero, or the mean over fit tokens."""
    rank_by: Literal["zero", "mean"] = "mean"
    """Which mode ranks the layers."""
    top_k: int = Field(default=6, ge=1)
    """How many layers of each component are kept in `selected` for later steps."""
    where: str | tuple[int, ...] = JOINED
    """Which tokens' outputs are replaced: prompt, generated, last_prompt, all, or two joined by "+". The default is the
    tokens that write the answer; `all` also cuts what earlier tokens gather, and costs about ten times more."""
    max_rows: int = Field(default=32, ge=2)
    """Rows of tune that are used at most, evenly spaced."""
    fit_rows: int = Field(default=24, ge=2)
    """Rows of fit whose tokens give the means."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval, and sign flips of a p."""
    batch_size: int = Field(default=16, ge=1)
    """Rows in a batch."""

    @field_validator("where")
    @classmethod
    def _known_place(cls, value: Where) -> Where:
        return check_where(value)

    def check(self, plan: Planning) -> None:
        if self.rank_by not in self.modes:
            raise UserError(f"rank_by: {self.rank_by}", f"one of modes: {', '.join(self.modes)}")
        source = plan.inputs.get("generations")
        if source is not None and source.splits and not source.splits.get("tune"):
            raise UserError("layer_ablation has no rows in split 'tune'", "fit and tune", "give generate.splits")

    def cost(self, plan: Planning) -> Cost:
        source = plan.inputs.get("generations", Cost())
        length = (source.prompt_tokens / source.rows if source.rows else 30.0) + 3
        everything = isinstance(self.where, str) and self.where.split("+")[0] in ("all", "prompt")
        tail = length if everything else 4.0
        conditions = int(plan.model.facts()["n_layers"]) * len(self.components) * len(self.modes) + 2 * self.top_k
        clean = (self.max_rows + self.fit_rows) * length
        return Cost(forward_tokens=int(clean + self.max_rows * tail * conditions / 2))

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        model = ctx.model()
        table = scored_rows(inputs.generations())
        tune = spread(ctx.split(table, "tune", "layer ablation"), self.max_rows)
        fit = ctx.split(table, "fit", "layer ablation: means")
        if len(tune) < 2 or len(fit) < 2:
            raise UserError(
                f"layer_ablation has {len(tune)} graded rows in tune and {len(fit)} in fit", "at least 2 in each",
                "raise generate.n",
            )  # fmt: skip
        sites = [Site(f"{c}_out", layer) for layer in range(model.n_layers) for c in self.components]
        means = component_means(ctx, fit, sites, self.where, self.fit_rows, self.batch_size)
        items = task_items(tune, self.where, model.encode_text, model.decode)
        ablations = [self._ablation(s, mode, means[s]) for s in sites for mode in self.modes]
        done = blocks_of("layers", items, [CLEAN, *ablations])
        score(done, [], out, ctx, "layer ablation", self.batch_size)
        rows = self._rows(out, tune, "layers", [a.name for a in ablations], ctx.seed)
        ranked = _ranked(rows, self.rank_by)
        kept = pick(ranked, rank=list(range(1, self.top_k + 1)), mode=self.rank_by, metric=METRIC)
        chosen = [Site(f"{c}_out", int(layer)) for c, layer in zip(kept["component"], kept["layer"], strict=True)]
        controls = [self._noise(site, model.site_shape(site), ctx.seed) for site in chosen]
        score(blocks_of("noise", items, [CLEAN, *controls]), done, out, ctx, "layer ablation: noise", self.batch_size)
        noise = self._rows(out, tune, "noise", [c.name for c in controls], ctx.seed).assign(control="noise", rank=0)
        both = pd.concat([ranked, noise], ignore_index=True)
        out.table("layers", both[LAYERS.names], LAYERS)
        out.table("selected", _selected(kept, noise)[SELECTED.names], SELECTED)

    def _edits(self, site: Site, values: np.ndarray) -> tuple[Intervention, ...]:
        return tuple(Patch(site, values, where=place) for place in places(self.where))

    def _ablation(self, site: Site, mode: str, mean: np.ndarray) -> Condition:
        return Condition(f"{site} {mode}", self._edits(site, mean if mode == "mean" else np.zeros_like(mean)))

    def _noise(self, site: Site, width: int, seed: int) -> Condition:
        component = ("attn_out", "mlp_out").index(site.component)
        vector = np.random.default_rng([seed, 104729, component, site.layer]).standard_normal(width)
        return Condition(f"{site} noise", tuple(Noise(site, vector, where=place) for place in places(self.where)))

    def _rows(self, out: Writer, tune: pd.DataFrame, name: str, conditions: list[str], seed: int) -> pd.DataFrame:
        """Change of each metric under each condition, with its interval and p."""
        scored = pick(outcomes(out), set=name)
        units, names = tune["row"].tolist(), [CLEAN.name, *conditions]
        every = task_outcomes(scored, units, names, right_choices(tune), choice_lengths(tune))
        groups = np.asarray(tune["group"])
        weights = weights_of(groups, self.draws, seed)
        rows = []
        for metric, values in _metrics(every).items():
            change = values[:, 1:] - values[:, :1]
            one = np.ones((len(change), 1))
            value, low, high = net(change, weights) if metric == "accuracy" else ratio(change, one, weights)
            p = sign_flip_p(change, groups, self.draws, seed)
            rows += [
                _names(condition)
                | {"split": "tune", "metric": metric, "base": values[:, 0].mean(), "ablated": values[:, k + 1].mean(),
                   "change": value[k], "ci_low": low[k], "ci_high": high[k], "p": p[k], "n": len(change)}
                for k, condition in enumerate(conditions)
            ]  # fmt: skip
        where = self.where if isinstance(self.where, str) else ",".join(map(str, self.where))
        table = pd.DataFrame(rows).assign(control="", rank=0, where=where, q=np.nan)
        for metric, mode in sorted(set(zip(table["metric"], table["mode"], strict=True))):
            part = pick(table, metric=metric, mode=mode)
            table.loc[part.index, "q"] = benjamini_hochberg(np.asarray(part["p"]))
        return table

    def summary(self, artifact: Artifact) -> list[Block]:
        return _blocks(artifact)


def _metrics(every: Outcomes) -> dict[str, np.ndarray]:
    return {METRIC: every.logprob, "accuracy": every.right.astype(np.float64)}


def _names(condition: str) -> dict[str, Any]:
    site, mode = condition.split(" ")
    parsed = Site.parse(site)
    return {"component": parsed.component.removesuffix("_out"), "layer": parsed.layer, "mode": mode}


def _ranked(rows: pd.DataFrame, rank_by: str) -> pd.DataFrame:
    """Rank 1: the layer whose ablation costs the right answer most log-probability, within component and mode."""
    ranks: dict[tuple[str, int, str], int] = {}
    for component, mode in sorted(set(zip(rows["component"], rows["mode"], strict=True))):
        ordered = pick(rows, component=component, mode=mode, metric=METRIC).sort_values("change", kind="stable")
        ranks |= {(component, int(layer), mode): i + 1 for i, layer in enumerate(ordered["layer"])}
    keys = zip(rows["component"], rows["layer"], rows["mode"], strict=True)
    return rows.assign(rank=[ranks[component, int(layer), mode] for component, layer, mode in keys])


def _selected(kept: pd.DataFrame, noise: pd.DataFrame) -> pd.DataFrame:
    """The kept layers beside noise of the same norm there."""
    noise = pick(noise, metric=METRIC).rename(
        columns={"change": "noise_change", "ci_low": "noise_low", "ci_high": "noise_high"}
    )
    columns = ["component", "layer", "noise_change", "noise_low", "noise_high"]
    return kept.merge(noise[columns], on=["component", "layer"]).sort_values(["component", "rank"])


def _blocks(artifact: Artifact) -> list[Block]:
    selected, layers = artifact.table("selected"), artifact.table("layers")
    mode = str(artifact.options.get("rank_by", "mean"))
    blocks: list[Block] = []
    components = sorted(set(selected["component"]))
    for component in components:
        where = {"component": component, "rank": 1}
        layer = int(first(selected, **where)["layer"])
        cell = {"component": component, "layer": layer, "mode": mode, "metric": METRIC, "control": ""}
        right = cell | {"metric": "accuracy"}
        blocks.append(Text(
            f"Of the {NAMES[component]} outputs, the right answer loses most without layer {{layer}}'s: its "
            "log-probability changes by {change} nats and accuracy from {base} to {ablated} ({n} tune rows, 95% "
            "interval; q = {q} over all layers), against {noise} nats under noise of the same norm in its place.",
            {"layer": Ref("selected", where, "layer", "d"), "change": Ref("layers", cell, "change", "+.2f", ci=True),
             "base": Ref("layers", right, "base", ".1%"), "ablated": Ref("layers", right, "ablated", ".1%"),
             "n": Ref("selected", where, "n", "d"), "q": Ref("selected", where, "q", ".3f"),
             "noise": Ref("selected", where, "noise_change", "+.2f")},
            "headline",
        ))  # fmt: skip
    cell = {"layer": 0, "mode": mode, "metric": METRIC, "control": "", "component": components[0]}
    blocks.append(Text(
        "Replaced at the tokens {where}; {mode} ablation ranks. Two-sided p by flipping the signs of whole groups, q "
        "by Benjamini-Hochberg over the layers and components of a mode.",
        {"where": Ref("layers", cell, "where", ""), "mode": Ref("layers", cell, "mode", "")}, "method",
    ))  # fmt: skip
    for one in [m for m in ("mean", "zero") if has(layers, mode=m, control="")]:
        blocks.append(Figure(
            "line", "layers", x="layer", y="change", color="component", low="ci_low", high="ci_high",
            where={"mode": one, "metric": METRIC, "control": ""}, reference=0.0, reference_label="no change",
            title=f"What the right answer loses without a layer ({one} ablation)", x_title="layer",
            y_title="change of log-probability (nats)",
        ))  # fmt: skip
    blocks.append(Table(
        "selected", "Layers kept for later steps, beside noise of the same norm", sort="rank",
        labels={"ci_low": "low", "ci_high": "high", "noise_change": "noise"},
    ))  # fmt: skip
    blocks.append(Text(
        "The layers were chosen and measured on the same rows of tune, so the sizes at the top are somewhat too large; "
        "one layer at a time is replaced, so layers that stand in for each other show less than they do together.",
        kind="limit",
    ))  # fmt: skip
    return blocks
