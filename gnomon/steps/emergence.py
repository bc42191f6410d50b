"""emergence: at which layer correctness, entropy, margin and stated confidence can first be read, and which leads.

    emergence  the first layer whose cross-validated probe has `share` of the peak above shuffled targets
    lag        one target's layer minus another's, with a paired bootstrap interval over groups

Curves are made of fit and tune; on test the probes of the layer of emergence alone are scored. With few groups all
rows take part in the cross-validation instead (nothing is chosen by it), and the ledger says so. Formulas and sources:
gnomon/methods/emergence. Cost: no model; about 15 s of CPU for 300 rows, 30 layers, 5 targets.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon import nulls, stats
from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods import emergence as law
from gnomon.methods.emergence_blocks import emergence_blocks
from gnomon.methods.folds import grouped_folds
from gnomon.methods.linear import PENALTIES
from gnomon.rows.options import OptionalTexts
from gnomon.rows.targets import (
    by_depth,
    check_targets,
    classes,
    dense,
    depth,
    difficulty_bins,
    planned_sites,
    told,
    too_few,
    where,
)
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact, concat
from gnomon.types import Site
from gnomon.writer import Writer

DEFAULT = ("correct", "entropy", "margin")
TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
CURVES = pa.schema(
    [("target", TEXT), ("metric", TEXT), ("control", TEXT), ("series", TEXT), ("site", TEXT), ("layer", WHOLE),
     ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("of_peak", NUMBER), ("p", NUMBER), ("p_max", NUMBER),
     ("n", WHOLE)]
)  # fmt: skip
EMERGENCE = pa.schema(
    [("target", TEXT), ("text", TEXT), ("quantity", TEXT), ("metric", TEXT), ("site", TEXT), ("value", NUMBER),
     ("ci_low", NUMBER), ("ci_high", NUMBER), ("control", NUMBER), ("p", NUMBER), ("n", WHOLE), ("groups", WHOLE),
     ("rises", pa.bool_()), ("note", TEXT)]
)  # fmt: skip
LAGS = pa.schema(
    [("a", TEXT), ("b", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("control", NUMBER),
     ("p", NUMBER), ("q", NUMBER), ("leads", TEXT), ("main", pa.bool_()), ("note", TEXT)]
)  # fmt: skip
FACTS = pa.schema([("fact", TEXT), ("value", NUMBER), ("text", TEXT)])


class Emergence(Step):
    """Layer by layer: where the model's correctness and confidence can first be read, and which comes first."""

    name: ClassVar[str] = "emergence"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("activations", "confidence")
    gathers: ClassVar[tuple[str, ...]] = ("confidence",)
    writes: ClassVar[tuple[str, ...]] = ("emergence",)
    uses_model: ClassVar[bool] = False

    targets: OptionalTexts = None
    """What is read: correct, entropy, margin, max_prob, mean_logprob, difficulty, prompt_len, or a confidence pass (its
    step name, or what it asks); correct, entropy, margin and every pass, unless given. Lags are of each pair."""
    of: str = ""
    """Whose activations: those of the answers, unless a confidence pass is named (then its own)."""
    sites: OptionalTexts = None
    """Sites of one component; embed and resid_post.*, as far as they were captured, unless given."""
    position: str = "last_prompt"
    """Position with one token a row; in a pass, last_prompt is where the stated confidence is decided."""
    share: float = Field(default=0.9, gt=0, le=1)
    """Share of the peak above shuffled targets at which a target has emerged."""
    classes: Literal["ridge", "logistic"] = "ridge"
    """Probe of a target of two classes. Ridge is the probe of numbers too, so that lags compare like with like."""
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=PENALTIES, min_length=1)
    """L2 penalties tried for standardised activations."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of the cross-validation; a group lies in one."""
    permutations: int = Field(default=99, ge=19, le=10_000)
    """Shuffles of each target, by group."""
    draws: int = Field(default=1000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this, rows of all splits are cross-validated; from there on fit and tune alone are, and
    test confirms."""

    def check(self, plan: Planning) -> None:
        dense(self.position)
        check_targets(self.targets, plan)
        planned = planned_sites(plan, self.of)
        if planned is not None:
            by_depth(planned, self.sites, self.position, self.of, int(plan.model.facts()["n_layers"]))

    def cost(self, plan: Planning) -> Cost:
        rows = plan.inputs["generations"].rows if "generations" in plan.inputs else 0
        return Cost(rows=rows, notes=("no model; curves of every target at every layer",))

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        whole, offered = told(inputs, self.targets, DEFAULT)
        source = where(inputs, self.of)
        last = 1 + max((s.layer for s, _ in source.pairs), default=0)
        sites = by_depth(source.pairs, self.sites, self.position, self.of, last)
        held = np.logical_and.reduce([np.isin(whole["row"], source.held(str(s), self.position)) for s in sites])
        here = whole.assign(**{f"y.{i}": t.y for i, t in enumerate(offered)}).loc[held, :].reset_index(drop=True)
        early = concat([ctx.split(here, s, "emergence: curves") for s in ("fit", "tune")])
        late = here.loc[here["split"] == "test", :]
        few = len(set(early["group"]) | set(late["group"])) < self.nested_below
        if late.empty and not few:
            raise UserError("emergence has no rows in split 'test'", "rows that confirm", "give generate.splits")
        if few:
            early = concat([early, ctx.split(here, "test", "emergence: all rows are cross-validated, few groups")])
        early = early.sort_values("row").reset_index(drop=True)
        targets, dropped = self._usable(early, offered)
        setting = law.Setting(
            self.share, self.permutations, self.draws, self.classes, self.penalties, seed=ctx.seed,
            split="all" if few else "fit+tune",
        )  # fmt: skip
        groups = np.asarray(early["group"].astype(str))
        folds = grouped_folds(groups, self.folds, ctx.seed, difficulty_bins(early))
        rows = np.asarray(early["row"])
        with ctx.progress("emergence", len(sites) + len(targets)) as advance:
            found = law.curves(
                lambda i: source.read(str(sites[i]), self.position, rows), len(sites), targets, groups, folds, setting,
                advance,
            )  # fmt: skip
            weights = stats.group_weights(groups, self.draws, [ctx.seed, 13])
            halves = law.half_weights(groups, min(self.draws, 200), [ctx.seed, 23])
            numbers = np.array([depth(s) for s in sites], dtype=np.float64)
            emerged = []
            for curve in found:
                emerged.append(law.emergence(curve, numbers, weights, halves, setting))
                advance(1)
        lines = [line for e in emerged for line in self._lines(e, sites, groups)]
        if not few:
            tested = ctx.split(here, "test", "emergence: the probes of the layers of emergence")
            for e in (e for e in emerged if e.rises):
                lines += self._confirm(e, sites, early, folds, tested, offered, source, ctx)
        for text in stats.thin_notes(line["note"] for line in lines):
            ctx.log.warning("%s", text)
        lags = self._lags(emerged, offered)
        out.table("curves", pa.Table.from_pylist([r for e in emerged for r in _curve(e, sites)], schema=CURVES))
        out.table("emergence", pa.Table.from_pylist(lines, schema=EMERGENCE))
        out.table("lags", pa.Table.from_pylist(lags, schema=LAGS))
        facts: list[tuple[str, float, str]] = [
            ("rows", len(early), ""), ("groups", len(set(groups)), ""), ("of", np.nan, source.name),
            ("position", np.nan, self.position), ("layers", len(sites), ""), ("first site", np.nan, str(sites[0])),
            ("share", self.share, ""), ("cross-validated", float(few), ""), ("folds", self.folds, ""),
            ("unread", int((~held & whole["split"].isin(["fit", "tune", "test"])).sum()), ""),
            ("left out", len(dropped), "; ".join(dropped)),
        ]  # fmt: skip
        out.table("facts", pa.Table.from_pylist([dict(zip(FACTS.names, f, strict=True)) for f in facts], FACTS))

    def _usable(self, early: pd.DataFrame, offered: list[Any]) -> tuple[list[law.Target], list[str]]:
        """Targets with enough rows and two values; a reason for each other one. UserError where none is left."""
        out, dropped = [], []
        for i, t in enumerate(offered):
            y = classes(np.asarray(early[f"y.{i}"], dtype=np.float64))
            why = too_few(y, np.asarray(early["group"]), self.folds)
            if why:
                dropped.append(f"{t.name}: {why}")
            else:
                out.append(law.Target(t.name, y, t.text))
        if not out:
            raise UserError(
                f"emergence has nothing to read: {'; '.join(dropped)}", "a target with several values",
                "raise generate.n, or add a confidence step",
            )  # fmt: skip
        return out, dropped

    def _lines(self, e: law.Emergence, sites: list[Site], groups: np.ndarray) -> list[dict[str, Any]]:
        curve, target = e.curve, e.curve.target
        common = {
            "target": target.name, "text": target.text, "n": len(target.rows), "groups": len(set(groups[target.rows])),
            "rises": e.rises, "note": e.note,
        }  # fmt: skip

        def score(quantity: str, i: int, control: float, p: float) -> dict[str, Any]:
            return common | {
                "quantity": quantity, "metric": target.metric.name, "site": str(sites[i]), "control": control, "p": p,
                "value": float(curve.values[i]), "ci_low": float(e.low[i]), "ci_high": float(e.high[i]),
            }  # fmt: skip

        out = [
            score("peak", e.peak, float(curve.null.max(axis=0).mean()), curve.p_max),
            score("first site", 0, float(curve.floor[0]), float(curve.p[0])),
        ]
        layer = e.interval
        out.append(common | {
            "quantity": "emergence", "metric": "layer", "site": str(sites[int(e.first)]) if e.rises else "",
            "value": layer.value, "ci_low": layer.low, "ci_high": layer.high, "control": np.nan, "p": curve.p_max,
        })  # fmt: skip
        if e.rises:
            at = int(e.first)
            out.append(score("score there", at, float(curve.floor[at]), float(curve.p[at])))
        return out

    def _confirm(
        self, e: law.Emergence, sites: list[Site], early: pd.DataFrame, folds: np.ndarray, tested: pd.DataFrame,
        offered: list[Any], source: Any, ctx: Context,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The probe of fit and tune at the layer of emergence, scored on test rows, beside shuffled targets: one line,
        none where test has one value of the target only, or none."""
        target, site = e.curve.target, str(sites[int(e.first)])
        column = f"y.{next(i for i, t in enumerate(offered) if t.name == target.name)}"
        raw, new = (np.asarray(t[column], dtype=np.float64) for t in (early, tested))
        known, fresh = target.rows, np.flatnonzero(np.isfinite(new))
        y, y_new = target.y[known], (new[fresh] == np.nanmax(raw)).astype(float) if target.binary else new[fresh]
        if len(np.unique(y_new)) < 2:
            return []
        names = np.asarray(early["group"].astype(str))[known]
        shuffles = nulls.permuted(y, names, self.permutations, [ctx.seed, 17])
        own, others = law.held_out(
            source.read(site, self.position, np.asarray(early["row"])[known]), y,
            source.read(site, self.position, np.asarray(tested["row"])[fresh]), folds[known], shuffles,
            self.classes if target.binary else "ridge", self.penalties,
        )  # fmt: skip
        groups, one = np.asarray(tested["group"].astype(str))[fresh], target.metric.one
        truth = y_new > 0 if target.binary else y_new
        note = stats.thin_class(truth, "test", "emergence") if target.binary else ""
        value = float(one(own, truth))
        found = stats.Interval(value, note=note)
        if not note:
            found = stats.bootstrap(lambda w: one(own, truth, w), groups, self.draws, [ctx.seed, 19])
        null = law.ranked(others, np.repeat(y_new[:, None], others.shape[1], axis=1), np.zeros(len(fresh)),
                          target.binary)  # fmt: skip
        return [{
            "target": target.name, "text": target.text, "quantity": "test", "metric": target.metric.name, "site": site,
            "value": value, "ci_low": found.low, "ci_high": found.high, "control": float(np.nanmean(null)),
            "p": float(nulls.p_value(value, null)), "n": len(fresh), "groups": len(set(groups)), "rises": True,
            "note": found.note,
        }]  # fmt: skip

    def _lags(self, emerged: list[law.Emergence], offered: list[Any]) -> list[dict[str, Any]]:
        """Every pair, the main one marked: stated confidence (the first pass) after correctness, where both are."""
        names = [e.curve.target.name for e in emerged]
        said = [t.name for t in offered if t.stated and t.name in names]
        main = (said[0] if said else "", "correct" if "correct" in names else "")
        if "" in main and len(names) > 1:
            main = (names[1], names[0])
        out = []
        for i, b in enumerate(emerged):
            for a in emerged[i + 1 :]:
                first, second = (b, a) if (b.curve.target.name, a.curve.target.name) == main else (a, b)
                found, p, which = law.lag(first, second)
                pair = (first.curve.target.name, second.curve.target.name)
                leads = {"first": pair[0], "second": pair[1], "undecided": "undecided", "none": ""}[which]
                out.append({
                    "a": pair[0], "b": pair[1], "value": found.value, "ci_low": found.low, "ci_high": found.high,
                    "control": float(np.mean([a.halves, b.halves])), "p": p, "leads": leads, "main": pair == main,
                    "note": found.note,
                })  # fmt: skip
        q = nulls.benjamini_hochberg(np.array([r["p"] for r in out], dtype=np.float64)) if out else []
        return [r | {"q": float(v)} for r, v in zip(out, q, strict=True)]

    def summary(self, artifact: Artifact) -> list[Block]:
        return emergence_blocks(artifact)


def _curve(e: law.Emergence, sites: list[Site]) -> list[dict[str, Any]]:
    """Lines of table `curves`: the target at each layer, and the middle 95% of its shuffles."""
    curve, target, out = e.curve, e.curve.target, []
    above = curve.values - curve.floor
    ends = np.quantile(curve.null, (0.025, 0.975), axis=1)
    largest = curve.null.max(axis=0)
    for i, site in enumerate(sites):
        common = {"target": target.name, "metric": target.metric.name, "site": str(site), "layer": depth(site),
                  "n": len(target.rows)}  # fmt: skip
        out.append(common | {
            "control": "", "series": target.name, "value": float(curve.values[i]), "ci_low": float(e.low[i]),
            "ci_high": float(e.high[i]), "of_peak": float(above[i] / above[e.peak]) if e.rises else None,
            "p": float(curve.p[i]), "p_max": float(nulls.p_value(float(curve.values[i]), largest)),
        })  # fmt: skip
        out.append(common | {
            "control": "shuffled", "series": f"shuffled {target.name}", "value": float(curve.floor[i]),
            "ci_low": float(ends[0, i]), "ci_high": float(ends[1, i]),
        })  # fmt: skip
    return out
