"""One run of step edit: sweep on tune, one coefficient a kind, test beside matched sets of random neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal import scoring
from gnomon.causal.arms import Arm
from gnomon.causal.items import scored_rows, spread, task_items
from gnomon.causal.pick import pick, records
from gnomon.causal.rewrite import EXAMPLES, before_and_after, now_right, rewriter, rewritings, writes_text
from gnomon.causal.tables import FACTS, VERDICTS, effect_rows, mean_rows, verdict_rows
from gnomon.causal.worker import CLEAN, Block, Condition, blocks_of, outcomes, score
from gnomon.errors import UserError
from gnomon.interventions.base import places
from gnomon.interventions.neurons import Neurons
from gnomon.methods.editing import CHOSEN, choose, correlations, factors, matched_sets, strongest
from gnomon.methods.effects import Comparison, Outcomes, compare, effects, weights_of
from gnomon.step import Context, Inputs
from gnomon.types import Site, Split
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.steps.edit import Edit

EDITS = pa.schema(
    [("kind", pa.string()), ("control", pa.string()), ("set", pa.string()), ("coefficient", pa.float64()),
     ("score", pa.string()), ("split", pa.string()), ("metric", pa.string()), ("value", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("p", pa.float64()), ("q", pa.float64()),
     ("n", pa.int64()), ("neurons", pa.int64()), ("chosen", pa.bool_())]
)  # fmt: skip
"""control: "" for the chosen neurons, "random" for matched sets; set: which one."""


@dataclass
class Editing:
    """One run of the step; `run` writes everything but the commit."""

    step: Edit
    inputs: Inputs
    out: Writer
    ctx: Context
    done: list[Any] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    base: dict[str, Outcomes] = field(default_factory=dict)

    def run(self) -> None:
        step, ctx = self.step, self.ctx
        self.model = ctx.model()
        table = scored_rows(self.inputs.generations())
        self._choose_neurons()
        self.tune = self._split(table, "tune", step.tune_rows)
        chosen = {kind: self._sweep(kind, arms) for kind, arms in self._swept().items()}
        self.test = self._split(table, "test", step.max_rows)
        arms = [arm for kind, c in chosen.items() for arm in self._arms(kind, c, step.random_controls)]
        self._test(arms)
        examples = self._rewrite([arm for arm in arms if not arm.control])
        self._write(arms, chosen, examples)

    # ---- neurons, rows, arms

    def _choose_neurons(self) -> None:
        every: Any = self.inputs["neurons"].table("neurons")[["layer", "neuron", "mean_abs"]]
        if int(every["layer"].max()) >= self.model.n_layers or int(every["neuron"].max()) >= self.model.d_mlp:
            raise UserError(
                f"step {self.inputs['neurons'].name} ranks neuron {int(every['neuron'].max())} of layer "
                f"{int(every['layer'].max())}",
                f"{self.model.name} has {self.model.d_mlp} neurons in {self.model.n_layers} layers",
                "rank the neurons of the same model",
            )  # fmt: skip
        found = self._by_auroc() if self.step.by == "auroc" else self._by_second_order()
        known = found.merge(every, on=["layer", "neuron"])
        self.chosen = strongest(known, self.step.neurons)
        self.sets = matched_sets(self.chosen, every, self.step.random_controls, self.ctx.seed)
        sizes = every.set_index(["layer", "neuron"])["mean_abs"]
        layers = self.chosen["layer"].to_numpy()
        stood = np.stack([sizes.loc[list(zip(layers, s, strict=True))].to_numpy() for s in self.sets])
        self.chosen["control_mean_abs"] = stood.mean(0)

    def _by_auroc(self) -> pd.DataFrame:
        source = self.inputs["neurons"]
        if not source.has("auroc"):
            raise UserError(f"step {source.name} has no AUROC of neurons", "neurons.auroc: read or max",
                            "or edit.by: second_order")  # fmt: skip
        table: Any = source.table("auroc")
        return table.assign(association=table["fit_auroc"] - 0.5)[["layer", "neuron", "association"]]

    def _by_second_order(self) -> pd.DataFrame:
        source = self.inputs["second_order"]
        rows, neurons = source.table("rows").sort_values("index"), source.table("neurons")
        fit, labels = np.asarray(rows["split"] == "fit"), rows["label"].to_numpy(dtype=bool)
        parts = []
        for layer in sorted(set(neurons["layer"])):
            own = neurons.loc[np.asarray(neurons["layer"] == layer), "neuron"].to_numpy()
            scores = np.asarray(source.array(f"scores_layer{layer}")[0])[fit][:, own]
            parts.append(pd.DataFrame({
                "layer": layer, "neuron": own, "association": correlations(scores.astype(np.float64), labels[fit]),
            }))  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def _split(self, table: pd.DataFrame, split: Split, most: int) -> pd.DataFrame:
        part = self.ctx.split(table, split, "edit")
        if len(part) < 2:
            raise UserError(f"edit has {len(part)} graded rows in split {split!r}", "at least 2", "raise generate.n")
        return spread(part, most)

    def _kinds(self) -> list[str]:
        """Kinds that change some neuron; `both` only where it differs from each alone."""
        sides = {"amplify": bool((self.chosen["sign"] > 0).any()), "suppress": bool((self.chosen["sign"] < 0).any())}
        kinds = [k for k in self.step.kinds if sides.get(k, all(sides.values()))]
        if not kinds:
            raise UserError(f"no neuron of a sign that {' or '.join(self.step.kinds)} edits", "another of edit.kinds")
        return kinds

    def _arm(self, kind: str, coefficient: float, number: int = -1) -> Arm:
        neurons = self.chosen["neuron"].to_numpy() if number < 0 else self.sets[number]
        by = factors(self.chosen["sign"].to_numpy(), kind, coefficient)
        edits, layers = [], self.chosen["layer"].to_numpy()
        for layer in sorted(set(layers.tolist())):
            here = np.flatnonzero((layers == layer) & (by != 1))
            edits += [
                Neurons(Site("mlp_post", layer), neurons[here], factor=by[here], where=place)
                for place in places(self.step.where)
                if len(here)
            ]
        name = "own" if number < 0 else f"random {number}"
        condition = Condition(f"{kind} {name} {coefficient:g}", tuple(edits))
        return Arm(condition, kind, "" if number < 0 else "random", name, "neurons", "mlp_post", coefficient)

    def _arms(self, kind: str, coefficient: float, controls: int) -> list[Arm]:
        return [self._arm(kind, coefficient), *(self._arm(kind, coefficient, i) for i in range(controls))]

    # ---- scoring

    def _items(self, table: pd.DataFrame) -> list[Any]:
        return task_items(table, self.step.where, self.model.encode_text, self.model.decode)

    def _neutral(self) -> list[Any]:
        return scoring.neutral(self.model, self.step.where, self.step.neutral_texts)

    def _unrelated(self) -> list[Any]:
        return scoring.unrelated(self.model, self.step.where, self.step.unrelated_items, self.tune)

    def _score(self, blocks: Sequence[Block], label: str) -> None:
        score(blocks, self.done, self.out, self.ctx, f"edit: {label}", self.step.batch_size)
        self.done += blocks

    def _found(self, name: str, table: pd.DataFrame, arms: Sequence[Arm]) -> tuple[Outcomes, Outcomes]:
        return scoring.found(self.out, name, table, arms)

    def _damage(self, name: str, arms: Sequence[Arm]) -> np.ndarray:
        return scoring.damage(self.out, name, arms)

    def _weights(self, groups: Any) -> np.ndarray:
        return weights_of(np.asarray(groups), self.step.draws, self.ctx.seed)

    # ---- stages

    def _swept(self) -> dict[str, list[Arm]]:
        """Score the sweep; the arms of each kind."""
        step = self.step
        arms = {
            kind: [arm for c in step.coefficients for arm in self._arms(kind, c, step.sweep_controls)]
            for kind in self._kinds()
        }
        every = [arm for some in arms.values() for arm in some]
        own = [arm for arm in every if not arm.control]
        blocks = blocks_of("tune", self._items(self.tune), [CLEAN, *(a.condition for a in every)])
        blocks += blocks_of("neutral sweep", self._neutral(), [CLEAN, *(a.condition for a in own)])
        self._score(blocks, "sweep on tune")
        return arms

    def _sweep(self, kind: str, arms: Sequence[Arm]) -> float:
        base, after = self._found("tune", self.tune, arms)
        weights, own = self._weights(self.tune["group"]), [arm for arm in arms if not arm.control]
        damage = self._damage("neutral sweep", own)
        found = effects(base, after, weights[:0])
        at = [i for i, arm in enumerate(arms) if not arm.control]
        best = choose(
            [arm.coefficient for arm in own], found["net_accuracy"][0][at], found["target_logprob_change"][0][at],
            damage.mean(0), self.step.max_damage,
        )  # fmt: skip
        shared = {"split": "tune", "score": "logprob"}
        rows = effect_rows(arms, base, after, weights, shared)
        rows += mean_rows(own, "neutral_loss_change", damage, self._weights(np.arange(len(damage))), shared)
        for row in rows:
            row["chosen"] = row["control"] == "" and row["coefficient"] == own[best].coefficient
        self.rows += rows
        return own[best].coefficient

    def _test(self, arms: Sequence[Arm]) -> None:
        seen: dict[str, int] = {}
        some = []
        for arm in arms:
            seen[arm.kind] = seen.get(arm.kind, -1) + 1
            some += [arm] if seen[arm.kind] <= self.step.damage_controls else []
        off_target = [CLEAN, *(arm.condition for arm in some)]
        blocks = blocks_of("test", self._items(self.test), [CLEAN, *(arm.condition for arm in arms)])
        blocks += blocks_of("neutral", self._neutral(), off_target)
        blocks += blocks_of("unrelated", self._unrelated(), off_target)
        self._score(blocks, "test")
        base, after = self._found("test", self.test, arms)
        shared = {"split": "test", "score": "logprob"}
        self.rows += effect_rows(arms, base, after, self._weights(self.test["group"]), shared)
        damage = self._damage("neutral", some)
        self.rows += mean_rows(some, "neutral_loss_change", damage, self._weights(np.arange(len(damage))), shared)
        was, now = scoring.found_unrelated(self.out, some)
        change = now.right.astype(float) - was.right.astype(float)
        self.rows += mean_rows(some, "unrelated_accuracy_change", change, self._weights(np.arange(len(change))), shared)

    def _rewrite(self, arms: Sequence[Arm]) -> pd.DataFrame:
        """Let the edited model write whole answers, and grade them."""
        step, source = self.step, self.inputs["generations"]
        if not step.generate_rows or not writes_text(source, self.test):
            return before_and_after(self.test, pd.DataFrame(columns=["condition", "row"]), [])
        some = spread(self.test, step.generate_rows)
        shards = rewritings(some, arms, step.batch_size)
        sizes = [1] * len(self.done) + [len(s.rows) * len(s.conditions) for s in shards]
        worker = rewriter(source, self.ctx, str(self.out.path))
        self.ctx.map(worker, [*self.done, *shards], self.out, "edit: whole answers", sizes)
        found = before_and_after(some, outcomes(self.out, "rewritten"), arms)
        weights, before = self._weights(some["group"]), some["label"].to_numpy(dtype=bool)
        units = some["row"].tolist()
        right = np.stack([
            now_right(pick(found, condition=a.name)).reindex(units).to_numpy(dtype=bool) for a in arms
        ], axis=1)  # fmt: skip
        unknown = np.full(right.shape, np.nan)
        base = Outcomes(unknown[:, :1], before[:, None], np.zeros((len(before), 1)))
        lines = effect_rows(arms, base, Outcomes(unknown, right, np.zeros(right.shape)), weights,
                            {"split": "test", "score": "generate"})  # fmt: skip
        self.rows += [r for r in lines if r["metric"] not in ("target_logprob_change", "answer_changed")]
        return found

    # ---- tables

    def _write(self, arms: Sequence[Arm], chosen: dict[str, float], examples: pd.DataFrame) -> None:
        base, after = self._found("test", self.test, arms)
        weights, found = self._weights(self.test["group"]), []
        change = {
            "target_logprob_change": after.logprob - base.logprob,
            "net_accuracy": after.right.astype(np.float64) - base.right.astype(np.float64),
        }
        for kind, coefficient in chosen.items():
            own = [i for i, a in enumerate(arms) if a.kind == kind and not a.control]
            others = [i for i, a in enumerate(arms) if a.kind == kind and a.control]
            for metric, values in change.items():
                one: Comparison = compare(values[:, own[0]], values[:, others], weights)
                found.append((kind, "random", metric, coefficient, one))
        verdicts = verdict_rows(found)
        table = pd.DataFrame(self.rows).rename(columns={"direction": "set"}).assign(neurons=len(self.chosen))
        for kind in chosen:
            size = self._size(kind)
            table.loc[np.asarray(table["kind"] == kind), "neurons"] = size
            table.loc[pick(table, kind=kind, split="test", control="").index, "chosen"] = True
            for line in records(pick(verdicts, kind=kind)):
                at = pick(table, kind=kind, split="test", control="", score="logprob", metric=line["metric"]).index
                table.loc[at, ["p", "q"]] = [line["p"], line["q"]]
        self.out.table("edits", table[EDITS.names], EDITS)
        self.out.table("verdicts", verdicts, VERDICTS)
        self.out.table("chosen", self.chosen[CHOSEN.names], CHOSEN)
        self.out.table("examples", examples, EXAMPLES)
        facts = {
            "by": self.step.by, "where": self._where(), "neurons": len(self.chosen),
            "with right answers": int(np.sum(self.chosen["sign"].to_numpy() > 0)), "tune rows": len(self.tune),
            "test rows": len(self.test), "test accuracy without edits": float(base.right.mean()),
            "controls": self.step.random_controls,
        }  # fmt: skip
        self.out.table("facts", pd.DataFrame([
            {"fact": k, "value": np.nan if isinstance(v, str) else float(v), "text": v if isinstance(v, str) else ""}
            for k, v in facts.items()
        ]), FACTS)  # fmt: skip

    def _where(self) -> str:
        return self.step.where if isinstance(self.step.where, str) else ",".join(map(str, self.step.where))

    def _size(self, kind: str) -> int:
        return int((factors(self.chosen["sign"].to_numpy(), kind, 0.5) != 1).sum())
