"""The trial: a direction is edited beside its controls, tuned on tune, reported on test.

    1. fit: unit (median norm), means, shuffled-label directions
    2. tune: both signs of every coefficient, and some random directions
    3. one coefficient is chosen by `effects.choose_coefficient`
    4. test: the chosen coefficient, its flip, the ablation, and every control, all on the same rows
    5. neutral text, unrelated facts; whole answers; the edit where a predictor fires; attention

What decides (2-4) is the right answer's log-probability, or whole answers that are written and graded (`whole`).
Every stage is sharded with markers, so a killed trial resumes; what it decides in between is a function of the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gnomon.causal import attending, gating, scoring, tables
from gnomon.causal.arms import Arm
from gnomon.causal.bench import Bench
from gnomon.causal.items import scored_rows, spread
from gnomon.causal.rewrite import EXAMPLES, before_and_after, writes_text
from gnomon.causal.whole import decided_by
from gnomon.causal.worker import CLEAN, outcomes
from gnomon.methods.effects import Outcomes, choose_coefficient, effects
from gnomon.methods.shuffled import energy_removed, variance_share


@dataclass
class Trial(Bench):
    """One direction's trial. `run` writes the tables effects, sweep, tested, verdicts, facts, examples, where asked for
    selective and attention, and the vectors that were tested (`tested_directions`); raw scores stay in `outcomes`."""

    def run(self) -> pd.DataFrame:
        """All stages; returns the effects."""
        table = scored_rows(self.inputs.generations())
        options, most = self.options, self.options.generate_rows
        self.decided, long = decided_by(
            options.score, self.inputs["generations"], table, self.ctx.model().encode_text
        )  # fmt: skip
        if self.decided == "logprob" and long:
            self.ctx.log.warning("%s: targets are cut to their first tokens where they are scored; score: generate "
                                 "judges whole answers", options.name)  # fmt: skip
        whole = self.decided == "generate"
        fit = self._split(table, "fit")
        self.arms = self._prepare(fit)
        gate = gating.gate_of(options, self.direction, self.source)
        if options.attention:  # rows without parts are refused before the sweep, not after it
            attending.parts_of(options, fit)
        self.tune = self._split(table, "tune", min(options.tune_rows, most) if whole else options.tune_rows)
        coefficient = self._sweep() if "steer" in options.kinds else None
        self.test = self._split(table, "test", min(options.max_rows, most) if whole else options.max_rows)
        parts = attending.parts_of(options, self.test)
        tested = self.arms.tested(coefficient)
        self._test(tested)
        examples = self._examples(tested)
        if gate is not None:
            self._selective(tested, gate)
        if parts is not None and coefficient is not None:
            self._attention(parts, coefficient)
        return self._write(tested, coefficient, examples)

    # ---- stages

    def _sweep(self) -> float:
        arms = self.arms.sweep()
        own = [arm for arm in arms if arm.control == ""]
        self._decide("tune", self.tune, arms, self._neutral("neutral sweep", own))
        base, after = self._found("tune", self.tune, arms)
        rows = self._effects("tune", self.tune, arms)
        damage = scoring.damage(self.out, "neutral sweep", own)
        rows += tables.mean_rows(
            own, "neutral_loss_change", damage, self._weights(np.arange(len(damage))), self._shared("tune")
        )
        change = effects(base, after, np.zeros((0, len(self.tune))))[tables.DECIDING[self.decided]][0]
        control = [
            np.mean([v for v, a in zip(change, arms, strict=True) if a.control and a.coefficient == abs(o.coefficient)])
            for o in own
        ]
        best = choose_coefficient(
            np.array([arm.coefficient for arm in own]), change[: len(own)], np.array(control), damage.mean(0),
            self.options.max_damage, self.options.aim,
        )  # fmt: skip
        chosen = own[best].coefficient
        for row in rows:
            row["chosen"] = row["control"] == "" and row["coefficient"] == chosen
        self.rows += rows
        return chosen

    def _test(self, arms: Sequence[Arm]) -> None:
        some = self.arms.damaging(arms)
        self._decide("test", self.test, arms, [*self._neutral("neutral", some), *self._unrelated(some)])
        self.rows += self._effects("test", self.test, arms)
        damage = scoring.damage(self.out, "neutral", some)
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
        vectors = np.stack([self.arms.vector(arm) for arm in ablations])
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

    # ---- whole answers, selection, attention

    def _examples(self, tested: Sequence[Arm]) -> pd.DataFrame:
        """Answers before and after: of all arms where they decide; else the direction's own, where they are asked for
        (beside the stored answers)."""
        if self.decided == "generate":
            return before_and_after(self.test, outcomes(self.out, "rewritten"), tested, again=True)
        arms = [arm for arm in tested if arm.control in ("", "sign_flip")]
        if self.options.score == "logprob" or not writes_text(self.inputs["generations"], self.test):
            return pd.DataFrame(columns=EXAMPLES.names)
        some = spread(self.test, self.options.generate_rows)
        self._write_answers(some, arms, "whole answers", again=False)
        rewritten = outcomes(self.out, "rewritten")
        examples = before_and_after(some, rewritten, arms)
        self.rows += tables.stored_rows(
            some, examples, arms, self._weights(some["group"]), self._shared("test", "an unparsed answer is not right")
        )
        return examples

    def _selective(self, tested: Sequence[Arm], gate: gating.Gate) -> None:
        arms = [arm for arm in tested if arm.control in ("", "sign_flip")]
        base, after = self._found("test", self.test, arms)
        fires = gate.fires(self.test, self.inputs, self.ctx, self.options.batch_size)
        rows = gating.selective_rows(
            arms, base, after, fires, self._weights(self.test["group"]), self.options.masks, self.ctx.seed,
            {"predictor": gate.name, "score": self.decided},
        )  # fmt: skip
        self.out.table("selective", rows, gating.SELECTIVE)

    def _attention(self, parts: dict[int, dict[str, str]], coefficient: float) -> None:
        arms = [self.arms.own("steer", coefficient)]
        arms += self.arms.isotropic("steer", self.options.attention_controls, abs(coefficient))
        some = spread(self.test, self.options.generate_rows)
        worker = attending.Attender(self.ctx.model_spec, str(self.out.path), self.options.where)
        shards = attending.shards(some, parts, [CLEAN, *(arm.condition for arm in arms)], self.options.batch_size)
        if not shards:
            return
        self._run(worker, shards, "attention", [len(s.rows) * len(s.conditions) for s in shards])
        found = attending.attention_table(
            outcomes(self.out, "attended"), some, [arm.name for arm in arms], self._weights(some["group"])
        )
        self.out.table("attention", found, attending.ATTENTION)

    # ---- tables

    def _write(self, tested: Sequence[Arm], coefficient: float | None, examples: pd.DataFrame) -> pd.DataFrame:
        base, after = self._found("test", self.test, tested)
        compared = tables.comparisons(tested, base, after, self._weights(self.test["group"]))
        verdicts = tables.verdict_rows(compared)
        effect_table = tables.with_p(pd.DataFrame(self.rows, columns=tables.EFFECTS.names), verdicts, self.decided)
        self.out.table("effects", effect_table, tables.EFFECTS)
        self.out.table("verdicts", verdicts, tables.VERDICTS)
        self.out.table("sweep", tables.sweep_rows(effect_table), tables.SWEEP)
        self.out.table("tested", tables.tested_rows(effect_table, self.decided), tables.TESTED)
        self.out.table("examples", examples, EXAMPLES)
        self.out.table("facts", tables.facts(self._facts(base, coefficient), effect_table), tables.FACTS)
        self.out.directions([self.direction, *self.arms.controls()], "tested_directions")
        return effect_table

    def _facts(self, base: Outcomes, coefficient: float | None) -> dict[str, Any]:
        scale, whole = self.arms.scale, self.decided == "generate"
        stored = self.test["label"].to_numpy(dtype=bool)
        return {
            "direction": self.direction.name or "direction", "site": str(self.direction.site),
            "position": self.position, "where": self._shared("test")["where"], "ablated at": self.options.sites,
            "ablated to": self.options.ablate_to, "coefficient": coefficient, "unit": scale.unit,
            "masked tokens": scale.masked, "fit tokens": scale.tokens, "tune rows": len(self.tune),
            "test rows": len(self.test), "test groups": len(set(self.test["group"])),
            "test accuracy without edits": float(base.right.mean()), "decided by": self.decided,
            "right answer's log-probability without edits": None if whole else float(base.logprob.mean()),
            "graded as stored": float((base.right[:, 0] == stored).mean()) if whole else None,
        }  # fmt: skip
