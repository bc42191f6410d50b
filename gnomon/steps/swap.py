"""swap: exchange activations between items that the model states to be sure and unsure of, layer by layer.

    x_L[i] <- y_L[j]     resid_post of the recipient's text becomes the donor's: at the answer's last token, at the
                         confidence position, at a random token (equally far from the end of both)
    share  = sum shift / sum gap     of the way from the recipient's stated confidence to the donor's
    excess = shift under a donor of the other confidence - shift under one of the recipient's own

Measured: the expected confidence of the pass, with its own bins and orders; and the probability of the model's own
answer in the generation, the last prompt token swapped (a swap at the answer itself cannot change it). The sweep over
layers is on fit and tune; one layer a position is confirmed on test. Sources: Vig et al. 2020, Zhang & Nanda 2024
(arXiv 2309.16042). Cost: gnomon/causal/swap_texts.py; clean keys and values and lower layers are never run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, field_validator

from gnomon.blocks import Block
from gnomon.causal.options import as_tuple
from gnomon.causal.pick import pick, records
from gnomon.causal.swap import Swapper, made_swaps
from gnomon.causal.swap_effects import DEPTH, EFFECTS, FEWEST, chosen_layers, depth_rows, effect_rows
from gnomon.causal.swap_items import RANDOM, Place, Read, View
from gnomon.causal.swap_items import Block as Shard
from gnomon.causal.swap_pairs import MAX_ANSWER, PAIRS, answer_view, both_ways, candidates, most_pairs, pairs_of
from gnomon.causal.tables import FACTS
from gnomon.errors import UserError
from gnomon.rows.confidence_again import asked_again
from gnomon.rows.passes import planned_pass
from gnomon.rows.signals import pass_called
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning, Step, batches
from gnomon.store import Artifact
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model

Position = Literal["answer", "confidence", "random"]
BINNED = ("self", "other", "p_true")
ABOUT = 8
"""Layers that are swept unless a stride is given, about."""


class Swap(Step):
    """Swap activations between sure and unsure items and measure what becomes of confidence and answer."""

    name: ClassVar[str] = "swap"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "confidence")
    gathers: ClassVar[tuple[str, ...]] = ("confidence",)
    writes: ClassVar[tuple[str, ...]] = ("swap",)

    using: str = "self"
    """The confidence pass whose stated confidence is meant: a step's name, or what it asks (self, other, p_true)."""
    positions: Annotated[tuple[Position, ...], BeforeValidator(as_tuple)] = ("answer", "confidence", "random")
    """Where, in the pass's prompt: answer (the last token of the model's own answer; none where it is asked alone),
    confidence (the token whose next-token distribution is the confidence), random (the control, always run)."""
    stride: int | None = Field(default=None, ge=1)
    """Every so many layers are swept, counted back from the last one; such that there are about 8 unless given."""
    share: float = Field(default=0.3, gt=0, le=0.5)
    """Share of the items that count as sure, and as many that count as unsure."""
    least_gap: float = Field(default=0.001, gt=0, lt=1)
    """Pairs whose stated confidence differs by less than this are not swapped: too little to be measured. Effects are
    shares of the gap; the report says where the gap itself is small."""
    pairs: int = Field(default=12, ge=2)
    """Pairs of the sweep (fit and tune) at most; each is swapped both ways, beside donors of its own kind, which are in
    no other pair: n rows of one group each give share * n / 2 pairs."""
    test_pairs: int = Field(default=16, ge=2)
    """Pairs of test at most, at the layers that the sweep chose."""
    answer: bool = True
    """Also measure the probability of the model's own answer, the last prompt token of the generation swapped."""
    orders: Literal["pass", "first"] = "pass"
    """Orders of the bins in which it is measured: those of the pass, or its first one only (half the cost)."""
    least: float = Field(default=0.05, ge=0, lt=1)
    """An effect is said to be there where its interval lies wholly beyond this share of the gap (of answers: beyond
    this change of probability), and said not to be there where it lies wholly below."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval, and sign flips of a p."""
    batch_size: int = Field(default=8, ge=1)
    """Texts in a batch."""
    shard_pairs: int = Field(default=4, ge=1)
    """Pairs of one shard: what is lost at most when a run is killed."""

    @field_validator("positions")
    @classmethod
    def _with_control(cls, value: tuple[Position, ...]) -> tuple[Position, ...]:
        if not set(value) - {RANDOM}:
            raise UserError(f"swap at {', '.join(value) or 'no position'}", "answer, confidence, or both")
        return tuple(dict.fromkeys((*value, RANDOM)))

    # ---------------------------------------------------------------- before any work

    def check(self, plan: Planning) -> None:
        name = planned_pass(plan, self.using)
        source, options = plan.inputs[name], plan.source_options[name]
        if options["ask"] not in BINNED:
            raise UserError(
                f"swap of a pass that asks for {options['ask']}", f"a pass that reads bins ({', '.join(BINNED)})",
                "add a step confidence: {ask: self}",
            )  # fmt: skip
        if options.get("context") == "alone" and set(self.positions) == {"answer", RANDOM}:
            raise UserError("swap at the answer of a pass that is asked alone", "positions: [confidence]",
                            "or context: conversation in the pass")  # fmt: skip
        asked = [name, "generations"] if self.answer else [name]
        self._check_model(plan.model, {n: plan.weights.get(n, "") for n in asked})
        for one, rows in zip(("fit or tune", "test"), self._rows(source), strict=True):
            if source.splits and most_pairs(self.share, rows) < 2:
                raise UserError(f"swap has {rows} rows in split {one}", f"{ceil(4 / self.share)} or more for two pairs",
                                "more questions, or other generate.splits")  # fmt: skip

    @staticmethod
    def _check_model(spec: ModelSpec, weights: Mapping[str, str]) -> None:
        own = spec.facts()["fingerprint"] if any(weights.values()) else ""
        for name, other in weights.items():
            if other not in ("", own):
                raise UserError(f"swap by another model than that of {name}", "the model (adapter, dtype) that ran it",
                                "give this entry the same model: and adapter:, or answer: false")  # fmt: skip

    @staticmethod
    def _rows(source: Cost) -> tuple[int, int]:
        """Rows of the sweep, and of test."""
        return sum(source.splits.get(s, 0) for s in ("fit", "tune")), source.splits.get("test", 0)

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The layers that are swept, ascending."""
        stride = self.stride or max(1, round(n_layers / ABOUT))
        return tuple(range(n_layers - 1, -1, -stride))[::-1]

    def cost(self, plan: Planning) -> Cost:
        facts, name = plan.model.facts(), planned_pass(plan, self.using)
        source, options = plan.inputs[name], plan.source_options[name]
        base = plan.inputs.get("generations", Cost())
        text = source.prompt_tokens / source.rows if source.rows else 200.0
        question = base.prompt_tokens / base.rows if base.rows else 30.0
        said = min(MAX_ANSWER, base.new_tokens / base.rows) if base.rows else 4.0
        n = int(facts["n_layers"])
        swept = self.layers(n)
        behind = {"answer": max(1.0, text - question - said), "confidence": 1.0, RANDOM: text / 2}
        alone = options.get("context") == "alone"
        tail = sum(behind[p] for p in self.positions if not (alone and p == "answer"))
        orders = 2 if self.orders == "pass" and options.get("orders", "both") == "both" else 1
        bins = self._bins(plan, options)
        own = (said + question / 2) * self.answer
        one = sum((n - 1 - layer) / n * (orders * tail + own) + len(self.positions) * orders * bins for layer in swept)
        tested = len(self.positions) / 2 * (orders * (tail / 2 + 2 * bins) + own)
        clean = 6 * (orders * text + (question + said) * self.answer)
        pairs, test_pairs = (min(most, most_pairs(self.share, rows)) if source.splits else most for most, rows in
                             zip((self.pairs, self.test_pairs), self._rows(source), strict=True))  # fmt: skip
        tokens = pairs * (4 * one + clean) + test_pairs * (4 * tested + clean)
        width = (len(swept) + 2 * n) * int(facts["d_model"]) * 4
        return Cost(
            rows=2 * (pairs + test_pairs), forward_tokens=int(tokens), splits=source.splits,
            memory_bytes=int(3 * self.batch_size * text * width), disk_bytes=60 * 8 * len(swept) * pairs,
            notes=(f"{test_pairs} pairs of test: no verdict under {FEWEST}",) if test_pairs < FEWEST else (),
        )  # fmt: skip

    @staticmethod
    def _bins(plan: Planning, options: Mapping[str, Any]) -> int:
        """Tokens of the bins' texts that run behind every swap, through all blocks; letters need none."""
        if options.get("scoring") != "likelihood":
            return 0
        from gnomon.models import load_tokenizer
        from gnomon.models.tokens import encode_text
        from gnomon.rows.confidence_scale import Bins, scale

        bins = options.get("bins")
        texts = scale(options.get("ask", "self"), Bins(**bins) if bins else None, None, "likelihood").texts
        tokenizer = load_tokenizer(plan.model.name, plan.model.revision)
        return sum(len(encode_text(tokenizer, " " + text)) - 1 for text in texts)

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        told = pass_called(inputs, self.using)
        if told.options.get("ask", "self") not in BINNED:
            raise UserError(f"{told.name} asks for {told.options.get('ask')}", f"a pass with bins: {', '.join(BINNED)}")
        of = {a.name: str(a.meta.get("model", {}).get("fingerprint", "")) for a in (told, inputs["generations"])}
        self._check_model(ctx.model_spec, of if self.answer else {told.name: of[told.name]})
        table = candidates(inputs.generations(), told, self._column(told))
        model = ctx.model()
        parts = [ctx.split(table, "fit", "swap: sweep"), ctx.split(table, "tune", "swap: sweep")]
        sweep = pd.concat(parts, ignore_index=True)
        pairs = pairs_of(sweep, self.share, self.pairs, self.least_gap)
        facts: dict[str, Any] = {
            "pass": told.name,
            "rows": len(sweep),
            "sd": sweep["confidence"].std(ddof=0),
            "enough": most_pairs(self.share, len(sweep["group"].unique())) >= 2,
        }
        every = self.layers(model.n_layers)
        done = self._shards("sweep", pairs, sweep, self._places(dict.fromkeys(self._keys(), every)), told, model)
        self._swap(done, 0, out, ctx, "swap: sweep")
        swaps = made_swaps(out, "sweep")
        effects = effect_rows(swaps, "sweep", self.least, self.draws, ctx.seed)
        depth = depth_rows(swaps, self.draws, ctx.seed)
        chosen = chosen_layers(effects)
        test, tested = table.iloc[:0], pairs
        if len(pairs):
            test = ctx.split(table, "test", f"swap: {told.name}, sure and unsure items")
            tested = pairs_of(test, self.share, self.test_pairs, self.least_gap)
        places = self._places({key: (layer,) for key, layer in chosen.items()})
        shards = self._shards("test", tested, test, places, told, model)
        self._swap([*done, *shards], len(done), out, ctx, "swap: test")
        confirmed = made_swaps(out, "test")
        both = pd.concat([effects, effect_rows(confirmed, "test", self.least, self.draws, ctx.seed)], ignore_index=True)
        every_pair = pd.concat([pairs.assign(set="sweep"), tested.assign(set="test")], ignore_index=True)
        out.table("pairs", every_pair[PAIRS.names], PAIRS)
        out.table("effects", both[EFFECTS.names], EFFECTS)
        out.table("depth", depth[DEPTH.names], DEPTH)
        facts |= {"layers": len(every), "sweep pairs": len(pairs), "test pairs": len(tested), "test rows": len(test)}
        facts |= self._facts(pairs, tested, pd.concat([swaps, confirmed]), table, told)
        out.table("facts", pd.DataFrame([
            {"fact": k, "value": np.nan if isinstance(v, str) else float(v), "text": v if isinstance(v, str) else ""}
            for k, v in facts.items()
        ]), FACTS)  # fmt: skip
        if not len(pairs):
            ctx.log.warning("swap: fewer than two pairs (%d rows, sd %.5f): nothing to swap", len(sweep), facts["sd"])

    def _facts(
        self, pairs: pd.DataFrame, tested: pd.DataFrame, swaps: pd.DataFrame, table: pd.DataFrame, told: Artifact
    ) -> dict[str, Any]:
        out: dict[str, Any] = {"least": self.least, "least gap": self.least_gap, "share": self.share}
        for name, part in (("sweep", pairs), ("test", tested)):
            if len(part):
                out |= {f"{name} sure": part["high_confidence"].mean(), f"{name} unsure": part["low_confidence"].mean(),
                        f"{name} gap": part["gap"].mean(),
                        f"{name} length difference": part["length_difference"].mean(),
                        f"{name} same answer": part["same_answer"].mean(),
                        f"{name} same answer, control": part["same_answer_control"].mean()}  # fmt: skip
        if len(tested):  # whole pairs are flipped, and Holm's correction is over the positions claimed
            claims = set(pick(swaps, measure="confidence")["position"]) - {RANDOM}
            out["least p"] = len(claims) * max(2.0 ** (1 - len(tested)), 1 / (1 + self.draws))
        if len(swaps):
            stated = table.set_index(table["row"].rename(None))["confidence"]
            own = pick(swaps, measure="confidence")
            again = np.abs(own["before"].to_numpy(dtype=np.float64) - stated.loc[own["recipient"]].to_numpy())
            out["rebuilt"] = float(again.max(initial=0.0))
        return out

    def _column(self, told: Artifact) -> str:
        """What of the pass counts as stated: with one of two orders that order's own confidence."""
        return "normal" if self.orders == "first" and told.options.get("orders", "both") == "both" else "confidence"

    def _keys(self) -> list[tuple[str, str]]:
        own = [("confidence", p) for p in self.positions if p != RANDOM]
        return own + [("answer", "last_prompt")] * self.answer

    def _places(self, layers: Mapping[tuple[str, str], Sequence[int]]) -> tuple[Place, ...]:
        """The places with their layers, and random tokens at all layers of a measure."""
        out = [Place(measure, position, tuple(some)) for (measure, position), some in layers.items()]
        for measure in dict.fromkeys(m for m, _ in layers):
            every = sorted({layer for (m, _), some in layers.items() if m == measure for layer in some})
            out.append(Place(measure, RANDOM, tuple(every)))
        return tuple(out)

    def _shards(
        self, name: str, pairs: pd.DataFrame, table: pd.DataFrame, places: Sequence[Place], told: Artifact, model: Model
    ) -> list[Shard]:
        rows = sorted({int(r) for c in ("high", "low", "high_control", "low_control") for r in pairs[c]})
        part = table.loc[np.asarray(table["row"].isin(rows))]
        lines = {int(line["row"]): line for line in records(part)}
        items: dict[str, dict[int, tuple[View, ...]]] = {
            "confidence": {
                row: tuple(View(a.tokens, Read(a.options, a.values, a.lengths), a.places) for a in some)
                for row, some in asked_again(lines, told, model, self.orders == "first").items()
            }
        }
        if self.answer:
            items["answer"] = {row: (answer_view(line),) for row, line in lines.items()}
        swaps = [s for line in records(pairs) for s in both_ways(line)]
        shards = []
        for some in batches(swaps, 2 * self.shard_pairs):
            used = {s.recipient for s in some} | {d for s in some for _, d in s.donors}
            held = {measure: {row: views[row] for row in sorted(used)} for measure, views in items.items()}
            shards.append(Shard(name, tuple(some), tuple(places), held))
        return shards

    def _swap(self, shards: Sequence[Shard], before: int, out: Writer, ctx: Context, label: str) -> None:
        worker = Swapper(ctx.model_spec, str(out.path), ctx.seed, self.batch_size)
        ctx.map(worker, shards, out, label, [1] * before + [s.size for s in shards[before:]])

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.causal.swap_blocks import swap_blocks

        return swap_blocks(artifact)
