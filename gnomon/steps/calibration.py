"""calibration: does the model's confidence tell right from wrong answers, does it mean what it says, is it news?

Reads the answers and every confidence pass over them. All signals stand side by side: output confidence (probability,
margin, entropy), what the model stated (each pass), item difficulty, probes of earlier steps if named. Reported on
test: type-2 AUROC, ECE, Brier and its terms, NLL, reliability diagram, risk and coverage, before and after scaling that
was fitted on tune; and whether the best stated signal beats difficulty and output confidence. Formulas and sources:
gnomon/methods/calibration, calibration_{gaps,risk,scaling,increments}. Cost: no model; seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon import nulls
from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods import calibration_increments as news
from gnomon.methods import calibration_tables as tables
from gnomon.methods.baselines import Columns, choose, columns
from gnomon.methods.calibration_blocks import calibration_blocks
from gnomon.methods.calibration_rivals import Options, Problem
from gnomon.methods.calibration_scaling import Scaling, fit_options, options_confidence
from gnomon.methods.calibration_signals import (
    NONE,
    PERFECT,
    Column,
    Graded,
    Setting,
    probability_lines,
    ranking_lines,
    reliability_lines,
    risk_lines,
    scalings,
)
from gnomon.rows.counts import share
from gnomon.rows.options import OptionalTexts, Texts
from gnomon.rows.predictors import direction_scores
from gnomon.rows.signals import signals
from gnomon.sites import RAGGED
from gnomon.stats import thin_notes
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import SPLITS
from gnomon.writer import Writer


class Calibration(Step):
    """All confidence signals side by side: what they know, whether they mean it, whether it is news."""

    name: ClassVar[str] = "calibration"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("confidence", "activations")
    gathers: ClassVar[tuple[str, ...]] = ("confidence",)
    writes: ClassVar[tuple[str, ...]] = ("calibration",)
    uses_model: ClassVar[bool] = False

    using: Texts = ()
    """Steps whose directions predict correctness (a probe): each one's first direction is one more signal."""
    bins: int = Field(default=10, ge=2, le=100)
    """Bins of equal mass behind ECE, the terms of the Brier score and reliability diagrams."""
    scale_on: Literal["tune", "fit+tune"] = "tune"
    """Rows on which temperature and Platt's sigmoid are fitted; a probe's are always those of tune."""
    baselines: OptionalTexts = None
    """What a stated signal must add to; unless given, difficulty and every output signal. Any other column that a probe
    may have as a baseline will do as well (prompt_len, surface features)."""
    smallest_increment: float = Field(default=0.02, ge=0)
    """A difference of AUROC whose whole interval lies below this is "does not": nothing worth speaking of."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this the comparison is cross-validation over all of them."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of each cross-validation."""
    permutations: int = Field(default=999, ge=199, le=100_000)
    """Shuffles of the labels, by group, behind each p."""
    simulations: int = Field(default=1000, ge=199, le=100_000)
    """Draws of outcomes under perfect calibration."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""

    def needs(self) -> Mapping[str, str]:
        return {f"using.{i}": name for i, name in enumerate(self.using)}

    def check(self, plan: Planning) -> None:
        for name in self.using:
            position = plan.source_options.get(name, {}).get("position")
            if isinstance(position, str) and position in RAGGED:
                raise UserError(f"using: {name} reads position {position}", "a position with one token a row")

    def cost(self, plan: Planning) -> Cost:
        source = plan.inputs.get("generations")
        return Cost(rows=source.rows if source is not None else 0)

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        table, found = signals(inputs)
        table = table.loc[table["split"].isin(SPLITS), :].sort_values("row")
        table = table.drop_duplicates(["example_id", "sample", "temperature"], keep="last").reset_index(drop=True)
        graded = np.asarray(table["label"].notna())
        rows = table.loc[graded, :].reset_index(drop=True)
        ctx.split(rows, "test", "calibration: every signal, chosen and scaled before")
        split = np.asarray(rows["split"].astype(str))
        of = Graded(
            np.array([bool(v) for v in rows["label"]], dtype=bool), np.asarray(rows["group"].astype(str))
        )  # fmt: skip
        if not (split == "test").any():
            raise UserError("calibration finds no graded answers in split test", "test rows", "raise generate.n")
        claims = [
            Column(s.name, s.text, s.kind, s.probability, np.asarray(rows[s.name], dtype=np.float64)) for s in found
        ]
        claims += self._probes(inputs, rows)
        setting = Setting(self.bins, self.draws, self.permutations, self.simulations, ctx.seed)
        made = _Made(of, split, setting, self.scale_on, _options(rows))
        with ctx.progress("calibration", len(claims) + 1) as advance:
            for column in claims:
                made.signal(column)
                advance(1)
            problem, dropped = self._problem(of, split, claims, rows)
            few = len(np.unique(of.groups)) < self.nested_below
            if few:
                why = f"calibration: cross-validated comparison, {len(np.unique(of.groups))} groups are fewer than "
                ctx.split(rows, "test", f"{why}{self.nested_below}")
            options = Options(self.draws, self.permutations, ctx.seed, self.folds, self.smallest_increment)
            increments = news.increment_rows(problem, options, few)
            advance(1)
        for text in thin_notes(line["note"] for line in (*made.signals, *increments)):
            ctx.log.warning("%s", text)
        self._write(out, made, increments, rows, claims, problem, _facts(table, graded, of, split, problem, dropped))

    def _probes(self, inputs: Inputs, rows: pd.DataFrame) -> list[Column]:
        """The first direction of each step that `using` names, as a signal."""
        out = []
        where = rows.assign(generation=inputs["generations"].name)
        for name in self.using:
            step = inputs.named(name)
            first = step.directions()[:1] if (step.path / "directions.npy").is_file() else []
            if not first or first[0].kind == "feature":
                raise UserError(f"using: {name} holds no probe", "a step with directions of correctness, such as probe")
            for predictor, values, _ in direction_scores(first, name, inputs, (), where):
                out.append(Column(name, f"probe, {predictor.note}", "probe", False, values, fitted_on_fit=True))
        return out

    def _problem(
        self, of: Graded, split: np.ndarray, claims: list[Column], rows: pd.DataFrame
    ) -> tuple[Problem, list[str]]:
        kinds = {kind: [c for c in claims if c.kind == kind] for kind in ("stated", "output", "difficulty", "probe")}
        own: Columns = {c.name: c.values for c in (*kinds["difficulty"], *kinds["output"])}
        offered = own if self.baselines is None else own | {k: v for k, v in columns(rows).items() if k not in own}
        cheap, dropped = choose(offered, self.baselines, "label", True)
        hard = np.asarray(pd.to_numeric(rows["difficulty"]), dtype=np.float64)
        level = nulls.quantile_strata(hard) if np.isfinite(hard).any() else None
        return Problem(
            of.y, of.groups, split, kinds["stated"] or kinds["output"], kinds["difficulty"], kinds["output"], cheap,
            kinds["probe"], level,
        ), dropped  # fmt: skip

    def _write(
        self, out: Writer, made: _Made, increments: list[dict[str, Any]], rows: pd.DataFrame, claims: list[Column],
        problem: Problem, facts: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        chosen = {line["choice"] for line in increments if line["signal"] == news.BEST and line["split"] == "test"}
        known = []
        for c in claims:
            finite = np.isfinite(c.values)
            count = {s: int((finite & (problem.split == s)).sum()) for s in SPLITS}
            known.append({
                "signal": c.name, "text": c.text, "kind": c.kind, "probability": c.probability, **count,
                "missing": int((~finite).sum()), "distinct": len(np.unique(c.values[finite])),
                "mean": float(c.values[finite].mean()) if finite.any() else np.nan, "best": c.name in chosen,
            })  # fmt: skip
        adjusted = pd.DataFrame(made.signals, columns=tables.SIGNALS.names)
        tested = np.asarray((adjusted["metric"] == "auroc") & (adjusted["control"] == ""))
        adjusted.loc[tested, "q"] = nulls.benjamini_hochberg(adjusted.loc[tested, "p"].to_numpy(np.float64))
        out.table("signals", pa.Table.from_pandas(adjusted, schema=tables.SIGNALS, preserve_index=False))
        for name, lines, schema in (
            ("increments", increments, tables.INCREMENTS), ("reliability", made.reliability, tables.RELIABILITY),
            ("risk_coverage", made.risk, tables.RISK), ("scaling", made.scaling, tables.SCALING),
            ("known", known, tables.KNOWN), ("facts", facts, tables.FACTS),
        ):  # fmt: skip
            out.table(name, pa.Table.from_pylist(lines, schema=schema))
        kept = rows.loc[:, ["row", "example_id", "split"]].assign(label=problem.y)
        parts = [kept.assign(signal=c.name, value=c.values, **made.scaled[c.name]) for c in claims]
        whole = pd.concat(parts, ignore_index=True)
        out.table("confidences", pa.Table.from_pandas(whole, schema=tables.CONFIDENCES, preserve_index=False))

    def summary(self, artifact: Artifact) -> list[Block]:
        return calibration_blocks(artifact)


class _Made:
    """The lines of every signal, as they are made."""

    def __init__(
        self, of: Graded, split: np.ndarray, setting: Setting, scale_on: str,
        options: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:  # fmt: skip
        self.of, self.split, self.setting, self.scale_on, self.options = of, split, setting, scale_on, options
        self.base = float(of.y[split != "test"].mean()) if (split != "test").any() else 0.5
        self.signals: list[dict[str, Any]] = []
        self.scaling: list[dict[str, Any]] = []
        self.risk: list[dict[str, Any]] = []
        self.scaled: dict[str, dict[str, np.ndarray]] = {}
        self.reliability: list[dict[str, Any]] = [
            {"signal": PERFECT, "scaled": PERFECT, "bin": i, "n": 0, "confidence": float(i), "accuracy": float(i)}
            for i in (0, 1)
        ]

    def signal(self, column: Column) -> None:
        """Test as it is; scaled by what tune (or fit and tune) says; the AUROC where the choice is made."""
        known, test = np.isfinite(column.values), self.split == "test"
        own = {"signal": column.name, "kind": column.kind, "scaled": NONE}
        dev = np.flatnonzero(known & ~test if not column.fitted_on_fit else known & (self.split == "tune"))
        where = "tune" if column.fitted_on_fit else "fit+tune"
        early = ranking_lines(column.values[dev], self.of.take(dev), own | {"split": where}, self.setting)
        self.signals += [line for line in early if line["metric"] == "auroc"]
        here = np.flatnonzero(known & test)
        values, of = column.values[here], self.of.take(here)
        self.signals += ranking_lines(values, of, own | {"split": "test"}, self.setting)
        self.scaled[column.name] = dict.fromkeys(("temperature", "platt", "options"), np.full(len(known), np.nan))
        if not len(here):
            return
        self.risk += risk_lines(values, of, {k: own[k] for k in ("signal", "kind")}, self.setting)
        if column.probability:
            self._calibrated(values, of, own)
        wide = self.scale_on == "fit+tune" and not column.fitted_on_fit
        rows = np.flatnonzero(~test if wide else self.split == "tune")
        for fitted, p, n, right in self._fitted(column, rows[known[rows]]):
            self.scaled[column.name] = self.scaled[column.name] | {fitted.method: p}
            before = values if column.probability else None
            self._calibrated(p[here], of, own | {"scaled": fitted.method}, before)
            self.scaling.append({
                "signal": column.name, "scaled": fitted.method, "slope": fitted.slope, "offset": fitted.offset,
                "temperature": fitted.temperature if fitted.method != "platt" else None, "n": n, "n_pos": right,
                "note": fitted.note(right),
            })  # fmt: skip

    def _fitted(self, column: Column, rows: np.ndarray) -> Iterator[tuple[Scaling, np.ndarray, int, int]]:
        """What is fitted on `rows`: the scaling, all rows' probabilities `[n]` by it, its rows, how many are right."""
        for fitted in scalings(column, self.of.y, rows):
            yield fitted, fitted.apply(column.values), len(rows), int(self.of.y[rows].sum())
        if column.name == "max_prob" and self.options is not None:
            scores, right = self.options
            on = rows[right[rows] >= 0]
            if len(on):
                fitted = fit_options(scores[on], right[on])
                yield fitted, options_confidence(fitted, scores), len(on), int(self.of.y[on].sum())

    def _calibrated(self, p: np.ndarray, of: Graded, where: dict[str, Any], before: np.ndarray | None = None) -> None:
        self.signals += probability_lines(p, of, self.base, where | {"split": "test"}, self.setting, before)
        place = {k: where[k] for k in ("signal", "scaled")}
        self.reliability += reliability_lines(p, of, place, self.setting, share)


def _options(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Option scores `[n, k]` (-inf where an item has fewer) and the index of the target (-1: none with a score); None
    where an answer was not a choice."""
    counts = [0 if s is None else len(s) for s in rows["scores"]]
    if not counts or min(counts) < 2 or counts != [len(c) for c in rows["choices"]]:
        return None
    scores = np.full((len(rows), max(counts)), -np.inf)
    right = np.full(len(rows), -1, dtype=np.int64)
    for i, (values, choices, target) in enumerate(zip(rows["scores"], rows["choices"], rows["target"], strict=True)):
        scores[i, : counts[i]] = values
        at = list(choices).index(target) if target in list(choices) else -1
        right[i] = at if at >= 0 and np.isfinite(values[at]) else -1
    return scores, right


def _facts(
    table: pd.DataFrame, graded: np.ndarray, of: Graded, split: np.ndarray, problem: Problem, dropped: list[str]
) -> list[dict[str, Any]]:
    """What was asked of which rows, as (fact, value, text)."""
    stated = [c for c in problem.claims if c.kind == "stated"]
    values: list[tuple[str, float, str]] = [
        ("rows", len(of.y), ""), ("groups", len(np.unique(of.groups)), ""), ("share", float(of.y.mean()), ""),
        ("test rows", int((split == "test").sum()), ""), ("unlabelled", int((~graded).sum()), ""),
        ("tune rows", int((split == "tune").sum()), ""), ("stated", len(stated), ", ".join(c.name for c in stated)),
        ("output", len(problem.output), ", ".join(c.name for c in problem.output)),
        ("difficulty", len(problem.difficulty), ""), ("cheap", len(problem.cheap), ", ".join(problem.cheap)),
        ("left out", len(dropped), "; ".join(dropped)),
        ("answers", len(table), ""),
    ]  # fmt: skip
    return [dict(zip(("fact", "value", "text"), line, strict=True)) for line in values]
