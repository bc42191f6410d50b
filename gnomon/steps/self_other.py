"""Self and other: is being sure of one's own answer represented like expecting another to be right?

Two confidence passes over the same answers, paired by row. By site, at one position of each pass's own activations:

    similarity   debiased linear CKA and row cosines, beside other rows' partners
    directions   debiased cosine of the two directions of high against low stated confidence
    transfer     a ridge probe of one pass's confidence, read on the other's activations, beside its own

and of what is stated: the difference, and whether it tells right from wrong beyond difficulty and output confidence.
The mathematics is in methods/similarity.py, contrast.py and similarity_pairs.py. Cost: some seconds for 300 rows and
30 layers; no model is run.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block
from gnomon.errors import UserError, unknown
from gnomon.methods import similarity_pairs as pairs
from gnomon.methods.contrast import cosine_rows, sides
from gnomon.methods.contrast_held import Options, Values, parts_of, thin
from gnomon.methods.contrast_tables import COSINES, facts_table
from gnomon.methods.folds import map_threads
from gnomon.methods.probing import layer_of
from gnomon.methods.similarity import similarity
from gnomon.rows.given import given_columns
from gnomon.rows.options import OptionalTexts
from gnomon.rows.passes import asked_pass, dense_sites, planned_pass
from gnomon.rows.signals import pass_called, stated
from gnomon.step import Context, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import SPLITS, Site
from gnomon.writer import Writer

TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
VALUES = [("control", TEXT), ("split", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("p", NUMBER),
          ("n", WHOLE), ("note", TEXT)]  # fmt: skip
PLACE = [("site", TEXT), ("layer", WHOLE), ("series", TEXT), ("chosen", pa.bool_())]
SIMILARITY = pa.schema([*PLACE, ("measure", TEXT), ("groups", WHOLE), *VALUES])
TRANSFER = pa.schema([*PLACE, ("probe", TEXT), ("read", TEXT), ("metric", TEXT), *VALUES])
STATED = pa.schema([("predictor", TEXT), ("metric", TEXT), ("n_pos", WHOLE), *VALUES])
NAMES = {"cka": "CKA", "cka_plain": "CKA, not debiased", "cosine": "cosine of rows",
         "cosine_centred": "cosine of centred rows"}  # fmt: skip


class SelfOther(Step):
    """Compare two confidence passes: representations, directions, probes, and what they state."""

    name: ClassVar[str] = "self_other"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "confidence")
    gathers: ClassVar[tuple[str, ...]] = ("confidence",)
    writes: ClassVar[tuple[str, ...]] = ("self_other",)
    uses_model: ClassVar[bool] = False

    a: str = "self"
    """The one pass: a confidence step's name, or what it asks."""
    b: str = "other"
    """The other pass."""
    sites: OptionalTexts = None
    """Sites that are compared, such as resid_post.*; all that both passes captured, unless given."""
    position: Literal["last_prompt", "last", "answer"] = "last_prompt"
    """The token of each pass's own text; last_prompt is the confidence position."""
    share: float = Field(default=0.3, gt=0, le=0.5)
    """High and low confidence are this share of the training rows at the top and at the bottom."""
    given: OptionalTexts = None
    """What the stated difference must add to; unless given: difficulty and output confidence."""
    most: int = Field(default=1000, ge=50)
    """Rows of which similarity is taken, whole groups of them drawn by the seed: its cost grows with their square."""
    shuffles: int = Field(default=199, ge=99, le=100_000)
    """Shuffles of the pairing, and of confidence, by group."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval (a quarter of them along the layers)."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of each cross-validation."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this held-out numbers are of nested cross-validation over all of them."""

    # ---------------------------------------------------------------- the plan

    def check(self, plan: Planning) -> None:
        names = [planned_pass(plan, wanted) for wanted in (self.a, self.b)]
        self._distinct(*names)
        found = [[s for s, p in dense_sites(plan.inputs[name].sites) if p == self.position] for name in names]
        self._shared(found, names, int(plan.model.facts()["n_layers"]))

    def _distinct(self, a: str, b: str) -> None:
        if a == b:
            raise UserError(f"self_other compares {a} with itself", "two passes", "b: another confidence step's name")

    def _shared(self, found: list[list[str]], names: list[str], n_layers: int) -> list[str]:
        """Sites that both have at the position; UserError where there is none, or not one that was asked for."""
        for sites, name in zip(found, names, strict=True):
            if not sites:
                raise UserError(
                    f"pass {name} has no activations at position {self.position!r}", "",
                    f"give {name} capture: {{sites: resid_post.*, positions: [{self.position}]}}",
                )  # fmt: skip
        both = [s for s in dict.fromkeys(found[0]) if s in found[1]]
        if not both:
            raise UserError(f"passes {' and '.join(names)} have no site in common", "the same capture for both")
        if self.sites is None:
            return both
        asked = [str(s) for s in Site.expand(self.sites, n_layers)]
        if not [s for s in asked if s in both]:
            raise unknown("site that both passes captured", asked[0], both)
        return [s for s in asked if s in both]

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        table, two = inputs.generations(), [pass_called(inputs, wanted) for wanted in (self.a, self.b)]
        self._distinct(*(p.name for p in two))
        found = [[str(s) for s, p in artifact.sites() if p == self.position] for artifact in two]
        layers = int(inputs["generations"].meta.get("model", {}).get("n_layers", 0)) or 10_000
        sites = self._shared(found, [p.name for p in two], layers)
        rows, split = np.asarray(table["row"]), np.asarray(table["split"].isin(SPLITS))
        told = [stated(artifact, rows) for artifact in two]
        asked = np.isfinite(told[0]) & np.isfinite(told[1])
        views = [artifact.activations(f"{site}@{self.position}") for artifact in two for site in sites]
        keep = split & asked & np.logical_and.reduce([np.isin(rows, view.rows) for view in views])
        kept, studied = table.loc[keep, :].reset_index(drop=True), rows[keep]
        a, b = (
            pairs.Pass(
                artifact.name, values[keep],
                lambda site, artifact=artifact: artifact.activations(f"{site}@{self.position}").at(studied),
            )
            for artifact, values in zip(two, told, strict=True)
        )  # fmt: skip
        options = Options(self.shuffles, 19, self.draws, self.folds, self.nested_below, ctx.seed)
        groups, splits = (np.asarray(kept[c].astype(str)) for c in ("group", "split"))
        if len(np.unique(groups)) < 2 * self.folds:
            raise UserError(
                f"self_other has {len(np.unique(groups))} questions with both confidences and activations",
                f"at least {2 * self.folds}", "raise generate.n, or see what the passes skipped",
            )  # fmt: skip
        parts = parts_of(groups, splits, options)
        dev = np.flatnonzero(np.isin(splits, ("fit", "tune")))
        fit = np.flatnonzero(splits == "fit")
        values = [Values(p.told, p.told, groups, splits, {}, self.share) for p in (a, b)]
        reasons = [(p.name, thin(v, fit, self.folds)) for p, v in zip((a, b), values, strict=True)]
        nothing = "; ".join(f"confidence of {name}: {why}" for name, why in reasons if why)
        facts: list[tuple[str, float, str]] = [
            ("a", np.nan, a.name), ("b", np.nan, b.name), ("ask a", np.nan, asked_pass(two[0])),
            ("ask b", np.nan, asked_pass(two[1])), ("rows", float(len(kept)), ""), ("position", np.nan, self.position),
            ("groups", float(len(np.unique(groups))), ""), ("unasked", float((split & ~asked).sum()), ""),
            ("unread", float((split & asked & ~keep).sum()), ""), ("split", np.nan, parts.split),
            ("nothing", np.nan, nothing),
        ]  # fmt: skip
        if nothing:
            ctx.log.warning("self_other: no directions and no transfer: %s", nothing)
        ctx.split(kept, "test", f"self_other: what {a.name} and {b.name} state, their similarity, transfer of probes")
        moved, cosines, chosen = [], [], sites[-1]
        if not nothing:
            early = [pairs.Pass(p.name, p.told[dev], lambda site, p=p: p.read(site)[dev]) for p in (a, b)]
            moved = [{"split": "fit+tune", "metric": "spearman", "n": len(dev), **row}
                     for row in pairs.curve(early[0], early[1], sites, groups[dev], options)]  # fmt: skip
            chosen = pairs.best_site(moved)
            moved += pairs.held(a, b, sites, groups, parts, chosen, options)
            high = [sides(v.value, v.ends(fit))[dev] for v in values]
            cosines = self._cosines(a, b, sites, groups[dev], dev, high, chosen, options)
        offered = given_columns(kept, self.given)
        facts += [("site", np.nan, chosen), ("given", np.nan, ", ".join(offered))]
        right = np.array([np.nan if v is None else float(v) for v in kept["label"]])
        said = pairs.stated_rows(a, b, right, groups, parts, offered, options)
        facts += [("carries", np.nan, pairs.carries(moved)), ("tells", np.nan, pairs.tells(said))]
        alike = self._similar(a, b, sites, chosen, groups, splits, options)
        self._write(out, moved, cosines, said, alike, facts, chosen)

    def _similar(
        self, a: pairs.Pass, b: pairs.Pass, sites: list[str], chosen: str, groups: np.ndarray, splits: np.ndarray,
        options: Options,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Every site on fit and tune; the chosen one on test too (on all rows where there are few groups)."""
        few = len(np.unique(groups)) < self.nested_below
        late = np.ones(len(groups), bool) if few else splits == "test"
        dev = self._some(np.flatnonzero(np.isin(splits, ("fit", "tune"))), groups, options.seed)
        jobs = [(site, "fit+tune", dev) for site in sites]
        jobs.append((chosen, "all" if few else "test", self._some(np.flatnonzero(late), groups, options.seed)))

        def work(job: tuple[str, str, np.ndarray]) -> list[dict[str, Any]]:
            site, split, rows = job
            x, y = (p.read(site)[rows] for p in (a, b))
            found = similarity(x, y, groups[rows], self.draws // 4, self.shuffles, options.seed)
            return [{"site": site, "split": split, "chosen": site == chosen, **row} for row in found]

        return [row for part in map_threads(work, jobs) for row in part]

    def _some(self, rows: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
        """At most `most` of the rows, by whole groups."""
        if len(rows) <= self.most:
            return rows
        names, which, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
        order = np.random.default_rng([seed, 53]).permutation(len(names))
        taken = order[np.cumsum(sizes[order]) <= self.most]
        return rows[np.isin(which, taken)]

    def _cosines(
        self, a: pairs.Pass, b: pairs.Pass, sites: list[str], groups: np.ndarray, dev: np.ndarray,
        high: list[np.ndarray], chosen: str, options: Options,
    ) -> list[dict[str, Any]]:  # fmt: skip
        pair, out = f"confidence of {a.name} and of {b.name}", []
        for site in sites:
            x, y = (p.read(site)[dev] for p in (a, b))
            made = cosine_rows((x, high[0]), (y, high[1]), groups, self.draws // 4, self.shuffles, options.seed)
            at = {"pair": pair, "site": site, "layer": layer_of(site), "chosen": site == chosen}
            out += [at | row | {"series": pair + (", shuffled" if row["control"] else "")} for row in made]
        return out

    def _write(
        self, out: Writer, moved: list[dict[str, Any]], cosines: list[dict[str, Any]], said: list[dict[str, Any]],
        alike: list[dict[str, Any]], facts: list[tuple[str, float, str]], chosen: str,
    ) -> None:  # fmt: skip
        for row in moved:
            row |= {"layer": layer_of(row["site"]), "series": f"{row['probe']} read on {row['read']}",
                    "chosen": row["site"] == chosen}  # fmt: skip
        for row in alike:
            series = NAMES[row["measure"]] + (", shuffled pairs" if row["control"] else "")
            row |= {"layer": layer_of(row["site"]), "series": series}
        out.table("similarity", pa.Table.from_pylist(alike, schema=SIMILARITY))
        out.table("transfer", pa.Table.from_pylist(moved, schema=TRANSFER))
        out.table("cosines", pa.Table.from_pylist([{"q": None, **row} for row in cosines], schema=COSINES))
        out.table("stated", pa.Table.from_pylist([{c: r.get(c) for c in STATED.names} for r in said], schema=STATED))
        out.table("facts", facts_table(facts))

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.similarity_blocks import self_other_blocks

        return self_other_blocks(artifact)
