"""Confidence directions: is how sure the model says it is a direction in its activations? Is it that of being right?

    d = mean(x | high stated confidence) - mean(x | low),   the top and bottom `share` of the training rows

at two places: the answer's last token (activations of the base generation, before any question about confidence) and
the confidence position (the pass's own, whose next token is the stated confidence). At each the layer is chosen on
fit and tune. Held-out rows say whether d tells high from low, and right from wrong beyond difficulty and output
confidence; debiased cosines say how far it is the direction of being right, and whether both places share it. The
mathematics is in methods/contrast.py and contrast_held.py. Cost: some seconds for 300 rows and 30 layers; no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block
from gnomon.errors import UserError, unknown
from gnomon.methods import contrast_held as held
from gnomon.methods.contrast import sides
from gnomon.methods.contrast_places import Place, cosines, place_directions, sweep
from gnomon.methods.contrast_tables import (
    COSINES,
    PLACED_SCORES,
    PLACED_SWEEP,
    beyond,
    facts_table,
    holds,
    scores_table,
)
from gnomon.rows.given import given_columns
from gnomon.rows.options import OptionalTexts
from gnomon.rows.passes import asked_pass, dense_sites, planned_pass
from gnomon.rows.signals import pass_called, stated
from gnomon.sites import RAGGED
from gnomon.step import Context, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import SPLITS, Direction, Site
from gnomon.writer import Writer

ANSWER = ("answer", "last", "last_prompt")


class ConfidenceDirections(Step):
    """Find the direction of high against low stated confidence, and hold it against that of being right."""

    name: ClassVar[str] = "confidence_directions"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "confidence")
    optional: ClassVar[tuple[str, ...]] = ("activations",)
    gathers: ClassVar[tuple[str, ...]] = ("confidence",)
    writes: ClassVar[tuple[str, ...]] = ("directions",)
    uses_model: ClassVar[bool] = False

    of: str = "self"
    """The pass whose stated confidence it is: a confidence step's name, or what it asks (self, other, ...)."""
    share: float = Field(default=0.3, gt=0, le=0.5)
    """High and low are this share of the training rows at the top and at the bottom of stated confidence."""
    sites: OptionalTexts = None
    """Sites that are searched, such as resid_post.*; all that were captured, unless given."""
    position: Literal["", "last_prompt", "last", "answer"] = ""
    """The answer's place in the base generation; unless given the first captured of answer, last, last_prompt."""
    given: OptionalTexts = None
    """What the direction must add to; unless given: difficulty and output confidence (max_prob, entropy, margin,
    mean_logprob), as far as the generations have them."""
    shuffles: int = Field(default=199, ge=99, le=100_000)
    """Shuffles of confidence, by group, whose directions are the control."""
    random: int = Field(default=100, ge=19, le=10_000)
    """Isotropic directions at the chosen place."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval (a quarter of them along the layers)."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of each cross-validation."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this the headline is nested cross-validation over all of them."""
    save: Literal["best", "all"] = "best"
    """Directions that are saved: those of the chosen layers, or of every layer and place."""

    # ---------------------------------------------------------------- the plan

    def check(self, plan: Planning) -> None:
        name = planned_pass(plan, self.of)
        base = plan.inputs.get("activations")
        answer = dense_sites(base.sites if base is not None else ())
        told = [p for p in dense_sites(plan.inputs[name].sites) if p[1] == "last_prompt"]
        if self.position and self.position not in {p for _, p in answer}:
            raise UserError(
                f"confidence_directions: no activations at position {self.position!r} of the answers",
                f"captured: {', '.join(sorted({p for _, p in answer})) or 'none'}", "add it to generate.capture",
            )  # fmt: skip
        if not answer and not told:
            raise UserError(
                "confidence_directions finds no activations, neither of the answers nor of the pass",
                "one token a row at some sites",
                f"add capture: {{sites: resid_post.*, positions: [last]}} to generate, or [last_prompt] to {name}",
            )
        self._wanted([s for s, _ in (*answer, *told)], int(plan.model.facts()["n_layers"]))

    def _wanted(self, captured: Sequence[str], n_layers: int) -> list[str]:
        """Sites that are searched, of those captured; UserError where none is left."""
        there = list(dict.fromkeys(captured))
        if self.sites is None:
            return there
        asked = [str(s) for s in Site.expand(self.sites, n_layers)]
        kept = [s for s in asked if s in there]
        if not kept:
            raise unknown("site among those captured", asked[0], there)
        return kept

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source, table = inputs["generations"], inputs.generations()
        asked = pass_called(inputs, self.of)
        places = self._places(inputs, asked, source)
        told = stated(asked, np.asarray(table["row"]))
        split = np.asarray(table["split"].isin(SPLITS))
        rows = np.asarray(table["row"])
        read = np.logical_and.reduce([np.isin(rows, p.view(site).rows) for p in places for site in p.sites])
        used = split & np.isfinite(told)
        facts: list[tuple[str, float, str]] = [
            ("of", np.nan, asked.name), ("ask", np.nan, asked_pass(asked)), ("generation", np.nan, source.name),
            ("share", self.share, ""), ("unasked", float((split & ~np.isfinite(told)).sum()), ""),
            ("unread", float((used & ~read).sum()), ""),
        ]  # fmt: skip
        kept = table.loc[used & read, :].reset_index(drop=True)
        for place in places:
            place.rows = np.asarray(kept["row"])
        of = self._values(kept, told[used & read])
        options = held.Options(self.shuffles, self.random, self.draws, self.folds, self.nested_below, ctx.seed)
        parts = held.parts_of(of.groups, of.split, options)
        trains = [np.flatnonzero(of.split == "fit"), *(train for train, _ in parts.pairs)]
        reason = next((why for why in (held.thin(of, train, self.folds) for train in trains) if why), "")
        facts += [("rows", float(len(kept)), ""), ("groups", float(len(np.unique(of.groups))), ""),
                  ("spread", float(of.value.std()) if len(kept) else np.nan, ""),
                  ("nothing", np.nan, reason)]  # fmt: skip
        if reason:
            ctx.log.warning("confidence_directions: no direction of %s's confidence: %s", asked.name, reason)
            self._write(out, [], [], [], pd.DataFrame(columns=PLACED_SWEEP.names), facts)
            return
        self._study(of, places, out, ctx, kept, facts, source.name, asked.name, options, parts)

    def _places(self, inputs: Inputs, asked: Artifact, source: Artifact) -> list[Place]:
        base = [(str(s), p) for s, p in inputs.sites() if p not in RAGGED]
        own = [(str(s), p) for s, p in asked.sites() if p == "last_prompt"]
        layers = int(source.meta.get("model", {}).get("n_layers", 0)) or 1 + max(
            (Site.parse(s).layer for s, _ in (*base, *own)), default=0
        )
        position = self.position or next((p for p in ANSWER if p in {q for _, q in base}), "")
        found = {"answer": [s for s, p in base if p == position], "confidence": [s for s, _ in own]}
        self._wanted([s for sites in found.values() for s in sites], layers)
        places = [
            Place("answer", inputs.all("activations"), position, found["answer"]),
            Place("confidence", [asked], "last_prompt", found["confidence"]),
        ]
        for place in places:
            if self.sites is not None:
                wanted = [str(s) for s in Site.expand(self.sites, layers)]
                place.sites = [s for s in wanted if s in place.sites]
        return [place for place in places if place.sites]

    def _values(self, kept: pd.DataFrame, told: np.ndarray) -> held.Values:
        right = np.array([np.nan if v is None else float(v) for v in kept["label"]])
        return held.Values(
            told, right, np.asarray(kept["group"].astype(str)), np.asarray(kept["split"].astype(str)),
            given_columns(kept, self.given), self.share,
        )  # fmt: skip

    def _study(
        self, of: held.Values, places: list[Place], out: Writer, ctx: Context, kept: pd.DataFrame,
        facts: list[tuple[str, float, str]], generation: str, asked: str, options: held.Options, parts: held.Parts,
    ) -> None:  # fmt: skip
        ends = of.ends(np.flatnonzero(of.split == "fit"))
        high = sides(of.value, ends)
        facts += [("low end", ends[0], ""), ("high end", ends[1], ""), ("split", np.nan, parts.split),
                  ("given", np.nan, ", ".join(of.baselines)), ("low", float((high == 0).sum()), ""),
                  ("high", float((high == 1).sum()), "")]  # fmt: skip
        rows, curves, directions, best, bases = [], [], [], {}, {}
        with ctx.progress("confidence_directions", 2 * len(places) + 1) as advance:
            for place in places:
                curve, chosen = sweep(of, place, high, options)
                best[place.name] = chosen
                curves.append(curve)
                advance(1)
                why = f"the confidence direction at the {place.name} position"
                if parts.split == "cv":
                    why += "; nested cross-validation over all rows, there being few groups"
                ctx.split(kept, "test", f"confidence_directions: {why}")
                candidates = [(site, place.position) for site in place.sites]
                where = {"place": place.name, "generation": generation}
                made = held.held_rows(
                    of, place.read, candidates, parts, where, options, chosen if parts.split == "test" else None, bases
                )
                rows += made
                words = {"holds": holds(made), "beyond": beyond(made), "site": chosen.candidate[0],
                         "position": place.position}  # fmt: skip
                facts += [(f"{key} at {place.name}", np.nan, text) for key, text in words.items()]
                meta = {"generation": generation if place.name == "answer" else asked, "of": asked, "share": self.share}
                directions += place_directions(of, place, high, chosen, meta, self.save == "all")
                advance(1)
            found = cosines(of, places, high, {n: c.candidate[0] for n, c in best.items()}, options)
            advance(1)
        self._write(out, rows, found, directions, pd.concat(curves, ignore_index=True), facts)

    def _write(
        self, out: Writer, rows: list[dict[str, Any]], found: list[dict[str, Any]], directions: list[Direction],
        sweep: pd.DataFrame, facts: list[tuple[str, float, str]],
    ) -> None:  # fmt: skip
        from gnomon.nulls import benjamini_hochberg

        out.directions(directions)
        out.table("scores", scores_table(rows) if rows else PLACED_SCORES.empty_table())
        out.table("sweep", pa.Table.from_pandas(sweep, schema=PLACED_SWEEP, preserve_index=False))
        q = benjamini_hochberg(np.array([row["p"] for row in found], dtype=np.float64))
        lines = [row | {"q": float(v)} for row, v in zip(found, q, strict=True)]
        out.table("cosines", pa.Table.from_pylist(lines, schema=COSINES))
        out.table("facts", facts_table(facts))

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.contrast_blocks import contrast_blocks

        return contrast_blocks(artifact)
