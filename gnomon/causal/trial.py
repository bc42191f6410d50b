"""The trial: a direction is steered and ablated beside its controls, tuned on tune, reported on test.

    1. fit: unit (median norm), means, shuffled-label directions
    2. tune: both signs of every coefficient, and some random directions
    3. one coefficient is chosen by `effects.choose_coefficient`
    4. test: the chosen coefficient, its flip, the ablation, and every control, all on the same rows
    5. neutral text, unrelated facts, whole answers

Every stage is sharded with markers, so a killed trial resumes; what it decides in between is a function of the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gnomon.causal import scoring, tables
from gnomon.causal.arms import Arm, Arms
from gnomon.causal.collect import grid
from gnomon.causal.items import Item, scored_rows, spread, task_items
from gnomon.causal.measure import activations, measure
from gnomon.causal.options import CausalOptions
from gnomon.causal.rewrite import EXAMPLES, before_and_after, rewriter, rewritings, writes_text
from gnomon.causal.worker import CLEAN, Block, blocks_of, outcomes, score
from gnomon.errors import UserError
from gnomon.methods.effects import Outcomes, choose_coefficient, effects, weights_of
from gnomon.methods.shuffled import energy_removed, shuffled_differences, variance_share
from gnomon.step import Context, Inputs
from gnomon.types import Direction, Site
from gnomon.writer import Writer


@dataclass
class Trial:
    """One direction's trial. `run` writes the tables effects, sweep, tested, verdicts, facts, examples, and the vectors
    that were tested (`tested_directions`); the raw scores stay in `outcomes`."""

    options: CausalOptions
    direction: Direction
    position: str
    inputs: Inputs
    out: Writer
    ctx: Context
    done: list[Any] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> pd.DataFrame:
        """All stages; returns the effects."""
        table = scored_rows(self.inputs.generations())
        fit = self._split(table, "fit")
        self.arms = self._prepare(fit)
        self.tune = self._split(table, "tune", self.options.tune_rows)
        coefficient = self._sweep() if "steer" in self.options.kinds else None
        self.test = self._split(table, "test", self.options.max_rows)
        tested = self.arms.tested(coefficient)
        self._test(tested)
        examples = self._rewrite(tested)
        return self._write(tested, coefficient, examples)

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
        if options.sites == "all" and "ablate" in options.kinds and width != model.d_model:
            raise UserError(f"sites: all, for a direction at {site}", "a direction of the residual stream")
        scale = measure(ctx, fit, site, ablated, options.where, options.fit_rows, options.batch_size)
        x, here = activations(self.inputs, ctx, fit, site, self.position, options.batch_size)
        labels, groups = fit["label"].to_numpy(dtype=bool)[here], fit["group"].to_numpy()[here]
        made = shuffled_differences(x, labels, groups, options.shuffled_controls, ctx.seed)
        ctx.log.info("%s: unit %.3g at %s (%d tokens)", options.name, scale.unit, site, scale.tokens)
        return Arms(options, self.direction, scale, made[1:], ctx.seed, ablated)

    # ---- scoring

    def _items(self, table: pd.DataFrame) -> list[Item]:
        model = self.ctx.model()
        return task_items(table, self.options.where, model.encode_text, model.decode)

    def _score(self, blocks: Sequence[Block], label: str) -> None:
        score(blocks, self.done, self.out, self.ctx, f"{self.options.name}: {label}", self.options.batch_size)
        self.done += blocks

    def _neutral(self) -> list[Item]:
        return scoring.neutral(self.ctx.model(), self.options.where, self.options.neutral_texts)

    def _unrelated(self) -> list[Item]:
        return scoring.unrelated(self.ctx.model(), self.options.where, self.options.unrelated_items, self.tune)

    def _found(self, name: str, table: pd.DataFrame, arms: Sequence[Arm]) -> tuple[Outcomes, Outcomes]:
        return scoring.found(self.out, name, table, arms)

    def _shared(self, split: str, note: str = "") -> dict[str, Any]:
        where = self.options.where
        text = where if isinstance(where, str) else ",".join(map(str, where))
        return {"where": text, "score": "logprob", "split": split, "note": note}

    def _weights(self, groups: Any) -> np.ndarray:
        return weights_of(np.asarray(groups), self.options.draws, self.ctx.seed)

    # ---- stages

    def _sweep(self) -> float:
        arms = self.arms.sweep()
        own = [arm for arm in arms if arm.control == ""]
        conditions = [CLEAN, *(arm.condition for arm in arms)]
        blocks = blocks_of("tune", self._items(self.tune), conditions)
        blocks += blocks_of("neutral sweep", self._neutral(), [CLEAN, *(arm.condition for arm in own)])
        self._score(blocks, "sweep on tune")
        base, after = self._found("tune", self.tune, arms)
        weights = self._weights(self.tune["group"])
        rows = tables.effect_rows(arms, base, after, weights, self._shared("tune"))
        damage = self._damage("neutral sweep", own)
        rows += tables.mean_rows(
            own, "neutral_loss_change", damage, self._weights(np.arange(len(damage))), self._shared("tune")
        )
        change = effects(base, after, weights[:0])["target_logprob_change"][0]
        control = [
            np.mean([v for v, a in zip(change, arms, strict=True) if a.control and a.coefficient == abs(o.coefficient)])
            for o in own
        ]
        best = choose_coefficient(
            np.array([arm.coefficient for arm in own]), change[: len(own)], np.array(control), damage.mean(0),
            self.options.max_damage,
        )  # fmt: skip
        chosen = own[best].coefficient
        for row in rows:
            row["chosen"] = row["control"] == "" and row["coefficient"] == chosen
        self.rows += rows
        return chosen

    def _damage(self, name: str, arms: Sequence[Arm]) -> np.ndarray:
        return scoring.damage(self.out, name, arms)

    def _test(self, arms: Sequence[Arm]) -> None:
        some = self.arms.damaging(arms)
        blocks = blocks_of("test", self._items(self.test), [CLEAN, *(arm.condition for arm in arms)])
        off_target = [CLEAN, *(arm.condition for arm in some)]
        blocks += blocks_of("neutral", self._neutral(), off_target)
        blocks += blocks_of("unrelated", self._unrelated(), off_target)
        self._score(blocks, "test")
        base, after = self._found("test", self.test, arms)
        self.rows += tables.effect_rows(arms, base, after, self._weights(self.test["group"]), self._shared("test"))
        damage = self._damage("neutral", some)
        weights = self._weights(np.arange(len(damage)))
        self.rows += tables.mean_rows(some, "neutral_loss_change", damage, weights, self._shared("test"))
        self._unrelated_rows(some)
        self._energy_rows(arms)

    def _unrelated_rows(self, arms: Sequence[Arm]) -> None:
        base, after = scoring.found_unrelated(self.out, arms)
        weights = self._weights(np.arange(len(base.right)))
        for metric, change in (
            ("unrelated_accuracy_change", after.right.astype(float) - base.right.astype(float)),
            ("unrelated_logprob_change", after.logprob - base.logprob),
        ):
            self.rows += tables.mean_rows(arms, metric, change, weights, self._shared("test"))

    def _energy_rows(self, arms: Sequence[Arm]) -> None:
        """What each ablation takes away at the direction's own site, of the fit tokens that it edits."""
        ablations = [arm for arm in arms if arm.kind == "ablate"]
        if not ablations:
            return
        x = self.arms.scale.edited
        vectors = np.stack([self._vector(arm) for arm in ablations])
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        to = 0.0 if self.options.ablate_to == "zero" else x.mean(0) @ units.T
        for metric, values in (
            ("energy_removed", energy_removed(x, units, to)), ("variance_share", variance_share(x, units))
        ):  # fmt: skip
            self.rows += [
                tables.arm_columns(arm) | self._shared("fit")
                | {"metric": metric, "value": float(v), "ci_low": np.nan, "ci_high": np.nan, "n": len(x)}
                for arm, v in zip(ablations, values, strict=True)
            ]  # fmt: skip

    def _vector(self, arm: Arm) -> np.ndarray:
        kind, number = arm.direction.rsplit(" ", 1) if arm.control not in ("", "sign_flip") else ("", "0")
        if kind == "shuffled":
            return self.arms.shuffled[int(number)].astype(np.float64)
        chosen = self.arms.random[int(number)] if kind == "random" else self.direction
        return chosen.vector.astype(np.float64)

    # ---- whole answers

    def _rewrite(self, tested: Sequence[Arm]) -> pd.DataFrame:
        """Let the chosen arms (every arm under score: generate) write whole answers, and grade them."""
        arms = [arm for arm in tested if self.options.score == "generate" or arm.control in ("", "sign_flip")]
        source = self.inputs["generations"]
        if self.options.score == "logprob" or not writes_text(source, self.test):
            return before_and_after(self.test, pd.DataFrame(columns=["condition", "row"]), [])
        some = spread(self.test, self.options.generate_rows)
        worker = rewriter(source, self.ctx, str(self.out.path))
        shards = rewritings(some, arms, self.options.batch_size)
        sizes = [1] * len(self.done) + [len(s.rows) * len(s.conditions) for s in shards]
        label = f"{self.options.name}: whole answers"
        self.ctx.map(worker, [*self.done, *shards], self.out, label, sizes)
        examples = before_and_after(some, outcomes(self.out, "rewritten"), arms)
        self._generated_rows(some, arms, examples)
        return examples

    def _generated_rows(self, table: pd.DataFrame, arms: Sequence[Arm], examples: pd.DataFrame) -> None:
        units, names = table["row"].tolist(), [arm.name for arm in arms]
        lines = examples.rename(columns={"row": "unit"})
        lines = lines.assign(
            right=[v is not None and v == v and bool(v) for v in lines["label"]],
            unparsed=[v is None or v != v for v in lines["label"]],
            moved=[change != "same answer" for change in lines["change"]],
        )  # fmt: skip
        right = grid(lines, "right", units, names).astype(bool)
        moved = grid(lines, "moved", units, names).astype(np.int64)
        before = table["label"].to_numpy(dtype=bool)[:, None]
        unknown = np.full(right.shape, np.nan)
        base = Outcomes(unknown[:, :1], before, np.zeros_like(before, dtype=np.int64))
        after, weights = Outcomes(unknown, right, moved), self._weights(table["group"])
        shared = self._shared("test", "an unparsed answer is not right") | {"score": "generate"}
        rows = tables.effect_rows(arms, base, after, weights, shared)
        unparsed = grid(lines, "unparsed", units, names).astype(np.float64)
        rows += tables.mean_rows(arms, "unparsed_rate", unparsed, weights, shared)
        self.rows += [row for row in rows if row["metric"] != "target_logprob_change"]

    # ---- tables

    def _write(self, tested: Sequence[Arm], coefficient: float | None, examples: pd.DataFrame) -> pd.DataFrame:
        base, after = self._found("test", self.test, tested)
        compared = tables.comparisons(tested, base, after, self._weights(self.test["group"]))
        verdicts = tables.verdict_rows(compared)
        effect_table = tables.with_p(pd.DataFrame(self.rows, columns=tables.EFFECTS.names), verdicts)
        self.out.table("effects", effect_table, tables.EFFECTS)
        self.out.table("verdicts", verdicts, tables.VERDICTS)
        self.out.table("sweep", tables.sweep_rows(effect_table), tables.SWEEP)
        self.out.table("tested", tables.tested_rows(effect_table), tables.TESTED)
        self.out.table("examples", examples, EXAMPLES)
        self.out.table("facts", tables.facts(self._facts(base, coefficient), effect_table), tables.FACTS)
        self.out.directions([self.direction, *self._controls()], "tested_directions")
        return effect_table

    def _facts(self, base: Outcomes, coefficient: float | None) -> dict[str, Any]:
        scale, where = self.arms.scale, self._shared("test")["where"]
        return {
            "direction": self.direction.name or "direction", "site": str(self.direction.site),
            "position": self.position, "where": where, "ablated at": self.options.sites,
            "ablated to": self.options.ablate_to, "coefficient": coefficient, "unit": scale.unit,
            "masked tokens": scale.masked, "fit tokens": scale.tokens, "tune rows": len(self.tune),
            "test rows": len(self.test), "test groups": len(set(self.test["group"])),
            "test accuracy without edits": float(base.right.mean()),
            "right answer's log-probability without edits": float(base.logprob.mean()),
        }  # fmt: skip

    def _controls(self) -> list[Direction]:
        site = self.direction.site
        shuffled = [
            Direction(site, v, f"shuffled {i}", "difference", None, {"labels": "shuffled"})
            for i, v in enumerate(self.arms.shuffled)
        ]
        return [*self.arms.random, *shuffled]
