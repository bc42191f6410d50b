"""What a trial works with: its rows, vectors and texts, what is run on them, and the outcomes read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gnomon.causal import scoring, tables
from gnomon.causal.arms import Arm, Arms
from gnomon.causal.items import Item, spread, task_items
from gnomon.causal.measure import activations, measure
from gnomon.causal.options import CausalOptions
from gnomon.causal.rewrite import rewriter, rewritings
from gnomon.causal.whole import Decided, written
from gnomon.causal.worker import CLEAN, Block, blocks_of, outcomes, score
from gnomon.errors import UserError
from gnomon.interventions.base import Where
from gnomon.interventions.orthogonalise import gains_of
from gnomon.methods.effects import Outcomes, weights_of
from gnomon.methods.shuffled import shuffled_differences
from gnomon.step import Context, Inputs
from gnomon.store import Artifact
from gnomon.types import Direction, Site
from gnomon.writer import Writer


@dataclass
class Bench:
    """One direction and the rows it is tried on; `done` are the shards so far, `rows` the effects so far."""

    options: CausalOptions
    direction: Direction
    position: str
    inputs: Inputs
    out: Writer
    ctx: Context
    source: Artifact | None = None
    """The step that wrote the direction: its predictions may pick the rows to edit."""
    done: list[Any] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    decided: Decided = "logprob"
    arms: Arms = field(init=False)
    tune: pd.DataFrame = field(init=False)
    test: pd.DataFrame = field(init=False)

    # ---- rows and vectors

    def _split(self, table: pd.DataFrame, split: Any, most: int | None = None) -> pd.DataFrame:
        part = self.ctx.split(table, split, f"{self.options.name}: {self.direction.name or 'direction'}")
        if len(part) < 2:
            raise UserError(
                f"{self.options.name} has {len(part)} graded rows in split {split!r}", "at least 2", "raise generate.n"
            )
        return part if most is None else spread(part, most)

    def _prepare(self, fit: pd.DataFrame) -> Arms:
        options, ctx, site = self.options, self.ctx, self.direction.site
        model = ctx.model()
        width = model.site_shape(site)
        if width != self.direction.d:
            raise UserError(
                f"direction {self.direction.name!r} has {self.direction.d} numbers",
                f"{site} of {model.name} has {width}",
                "give the site and the model that the direction was made at",
            )
        stream = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(model.n_layers))]
        ablated = [site] if options.sites == "own" else stream
        all_over = "orthogonalise" in options.kinds or (options.sites == "all" and "ablate" in options.kinds)
        if all_over and width != model.d_model:
            what = "sites: all" if options.sites == "all" else "orthogonalise"
            raise UserError(f"{what}, for a direction at {site}", "a direction of the residual stream")
        scale = measure(ctx, fit, site, ablated, options.where, options.fit_rows, options.batch_size)
        x, here = activations(self.inputs, ctx, fit, site, self.position, options.batch_size)
        labels, groups = fit["label"].to_numpy(dtype=bool)[here], fit["group"].to_numpy()[here]
        made = shuffled_differences(x, labels, groups, options.shuffled_controls, ctx.seed)
        ctx.log.info("%s: unit %.3g at %s (%d tokens)", options.name, scale.unit, site, scale.tokens)
        gains = gains_of(model) if "orthogonalise" in options.kinds else {}
        return Arms(options, self.direction, scale, made[1:], ctx.seed, ablated, model.n_layers, gains)

    # ---- scoring

    def _blocks(self, name: str, items: Callable[[Where], list[Item]], arms: Sequence[Arm]) -> list[Block]:
        """Texts without an edit and under the arms; edits of weights reach every token, so they share no prefix."""
        light = [arm.condition for arm in arms if arm.kind != "orthogonalise"]
        heavy = [arm.condition for arm in arms if arm.kind == "orthogonalise"]
        out = blocks_of(name, items(self.options.where), [CLEAN, *light])
        return out + (blocks_of(name, items("all"), heavy) if heavy else [])

    def _task(self, name: str, table: pd.DataFrame, arms: Sequence[Arm]) -> list[Block]:
        model = self.ctx.model()
        return self._blocks(name, lambda where: task_items(table, where, model.encode_text, model.decode), arms)

    def _neutral(self, name: str, arms: Sequence[Arm]) -> list[Block]:
        model, n = self.ctx.model(), self.options.neutral_texts
        return self._blocks(name, lambda where: scoring.neutral(model, where, n), arms)

    def _unrelated(self, arms: Sequence[Arm]) -> list[Block]:
        model, n = self.ctx.model(), self.options.unrelated_items
        return self._blocks("unrelated", lambda where: scoring.unrelated(model, where, n, self.tune), arms)

    def _score(self, blocks: Sequence[Block], label: str) -> None:
        score(blocks, self.done, self.out, self.ctx, f"{self.options.name}: {label}", self.options.batch_size)
        self.done += blocks

    def _run(self, worker: Any, shards: Sequence[Any], label: str, sizes: Sequence[int]) -> None:
        """Shards of another worker, numbered behind those that are done."""
        every = [1] * len(self.done) + list(sizes)
        self.ctx.map(worker, [*self.done, *shards], self.out, f"{self.options.name}: {label}", every)
        self.done += shards

    def _write_answers(self, table: pd.DataFrame, arms: Sequence[Arm], label: str, again: bool) -> None:
        """Let arms write whole answers; `again`: also without an edit, on the same path."""
        worker = rewriter(self.inputs["generations"], self.ctx, str(self.out.path))
        shards = rewritings(table, arms, self.options.batch_size, [CLEAN] if again else [])
        self._run(worker, shards, label, [len(s.rows) * len(s.conditions) for s in shards])

    def _decide(self, name: str, table: pd.DataFrame, arms: Sequence[Arm], damage: Sequence[Block]) -> None:
        """Score (or write) the rows of a split under the arms, and run the blocks that measure damage."""
        if self.decided == "logprob":
            self._score([*self._task(name, table, arms), *damage], f"{name}")
            return
        self._score(damage, f"damage, {name}")
        self._write_answers(table, arms, f"whole answers on {name}", again=True)

    def _found(self, name: str, table: pd.DataFrame, arms: Sequence[Arm]) -> tuple[Outcomes, Outcomes]:
        if self.decided == "logprob":
            return scoring.found(self.out, name, table, arms)
        found = written(outcomes(self.out, "rewritten"), table, arms)
        return found.base, found.after

    def _effects(self, split: str, table: pd.DataFrame, arms: Sequence[Arm]) -> list[dict[str, Any]]:
        """Rows of all metrics of the deciding score."""
        base, after = self._found(split, table, arms)
        weights, shared = self._weights(table["group"]), self._shared(split) | {"score": self.decided}
        rows = tables.effect_rows(arms, base, after, weights, shared)
        if self.decided == "logprob":
            return rows
        found = written(outcomes(self.out, "rewritten"), table, arms)
        for metric, share in (("unparsed_rate", found.unparsed), ("unjudged_rate", found.unjudged)):
            rows += tables.mean_rows(arms, metric, share.astype(np.float64), weights, shared)
        return [row for row in rows if row["metric"] != "target_logprob_change"]

    def _shared(self, split: str, note: str = "") -> dict[str, Any]:
        where = self.options.where
        text = where if isinstance(where, str) else ",".join(map(str, where))
        return {"where": text, "score": "logprob", "split": split, "note": note}

    def _weights(self, groups: Any) -> np.ndarray:
        return weights_of(np.asarray(groups), self.options.draws, self.ctx.seed)
