"""surface: how much of stated confidence, and of correctness, the outside of a question explains, and what is left.

    alone      by surface features, by difficulty, by the output's confidence, by the activations
    adds       in that order: what each block explains beyond the ones before it, with a paired interval

R2 for a number, the share of deviance (and AUROC) for a class, on held-out rows: test, or nested grouped
cross-validation where groups are few. Formulas and sources: gnomon/methods/surface and variance. Cost: no model; about
30 s of CPU for 300 rows, 30 layers, 3 targets.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon import stats
from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods import surface as law
from gnomon.methods.baselines import columns
from gnomon.methods.linear import PENALTIES
from gnomon.methods.surface_blocks import surface_blocks
from gnomon.methods.variance import score_rows, verdict
from gnomon.rows.options import OptionalTexts, Texts
from gnomon.rows.targets import (
    Told,
    Where,
    by_depth,
    check_targets,
    classes,
    dense,
    difficulty_bins,
    planned_sites,
    told,
    too_few,
    where,
)
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact, concat
from gnomon.types import SPLITS
from gnomon.writer import Writer

DEFAULT = ("correct",)
TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
EXPLAINED = pa.schema(
    [("target", TEXT), ("text", TEXT), ("block", TEXT), ("kind", TEXT), ("metric", TEXT), ("value", NUMBER),
     ("ci_low", NUMBER), ("ci_high", NUMBER), ("control", NUMBER), ("control_high", NUMBER), ("p", NUMBER),
     ("n", WHOLE), ("n_pos", WHOLE), ("groups", WHOLE), ("split", TEXT), ("verdict", TEXT), ("note", TEXT)]
)  # fmt: skip
SITES = pa.schema(
    [("target", TEXT), ("fold", WHOLE), ("site", TEXT), ("position", TEXT), ("value", NUMBER), ("n_train", WHOLE),
     ("n", WHOLE)]
)  # fmt: skip
FEATURES = pa.schema([("block", TEXT), ("feature", TEXT)])
FACTS = pa.schema([("fact", TEXT), ("value", NUMBER), ("text", TEXT)])
BlockName = Literal["surface", "difficulty", "output", "internal"]


class Surface(Step):
    """Is confidence about the answer, or about how the question looks? Blocks of explanations, side by side."""

    name: ClassVar[str] = "surface"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("activations", "confidence")
    gathers: ClassVar[tuple[str, ...]] = ("confidence",)
    writes: ClassVar[tuple[str, ...]] = ("surface",)
    uses_model: ClassVar[bool] = False

    targets: OptionalTexts = None
    """What is explained: correct, a number of the output (entropy, margin, ...), or a confidence pass (its step name,
    or what it asks); correct and every pass, unless given."""
    order: tuple[BlockName, ...] = Field(default=law.BLOCKS, min_length=1)
    """Blocks, in the order in which they are added: surface (the task's features of the question, lengths, condition),
    difficulty, output (max_prob, entropy, margin, mean_logprob), internal (a probe of the activations)."""
    of: str = ""
    """Whose activations: those of the answers, unless a confidence pass is named (then its own)."""
    sites: OptionalTexts = None
    """Sites among which the internal block's is chosen; embed and resid_post.*, as far as captured, unless given."""
    positions: Texts = ("last_prompt",)
    """Positions among which it is chosen, one token a row; after last_prompt a pass has said what it is asked."""
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=PENALTIES, min_length=1)
    """L2 penalties of that probe, tried for standardised activations."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of each cross-validation; a group lies in one."""
    permutations: int = Field(default=19, ge=19, le=1000)
    """Times that a block's rows are swapped between groups, and everything is fitted again."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this the numbers are nested cross-validation over all of them."""
    smallest: float = Field(default=0.02, ge=0)
    """An increment of the internal block whose whole interval lies below this is nothing worth speaking of."""

    def check(self, plan: Planning) -> None:
        if len(set(self.order)) < len(self.order):
            raise UserError(f"order: {', '.join(self.order)} names a block twice", "each once")
        check_targets(self.targets, plan)
        if "internal" not in self.order:
            return
        for position in self.positions:
            dense(position)
        planned = planned_sites(plan, self.of)
        if planned is not None:
            for position in self.positions:
                by_depth(planned, self.sites, position, self.of, int(plan.model.facts()["n_layers"]))

    def cost(self, plan: Planning) -> Cost:
        rows = plan.inputs["generations"].rows if "generations" in plan.inputs else 0
        return Cost(rows=rows, notes=("no model; regressions of every target on every block",))

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        whole, offered = told(inputs, self.targets, DEFAULT)
        source, candidates = self._candidates(inputs)
        held = np.asarray(whole["split"].isin(SPLITS))
        for site, position in candidates:
            held = held & (source is None or np.isin(whole["row"], source.held(site, position)))
        few = len(set(whole.loc[held, "group"])) < self.nested_below
        here = whole.assign(**{f"y.{i}": t.y for i, t in enumerate(offered)}).loc[held, :]
        why = "all rows are cross-validated, few groups" if few else "regressions of fit and tune, scored"
        table = concat([
            ctx.split(here, "fit", "surface"), ctx.split(here, "tune", "surface"),
            ctx.split(here, "test", f"surface: {why}"),
        ]).sort_values("row").reset_index(drop=True)  # fmt: skip
        setting = law.Setting(
            self.order, self.permutations, self.draws, self.folds, self.penalties, ctx.seed, self.smallest
        )
        jobs, dropped = self._jobs(table, offered, few)
        offered_columns = columns(table)
        lines, chosen, features = [], [], {}
        with ctx.progress("surface", len(jobs) * (1 + len(candidates))) as advance:
            for members, rows in self._together(jobs):
                sub = table.iloc[rows]
                groups, split = (np.asarray(sub[c].astype(str)) for c in ("group", "split"))
                level = difficulty_bins(sub)
                parts, inner = law.parts_of(groups, split, level, few, setting)
                numbers = np.asarray(sub["row"])
                probes = None
                if source is not None:
                    probes = law.internal(
                        lambda c, r=numbers: source.read(*candidates[c], r), len(candidates),
                        [y[rows] for _, y in members], parts, inner, self.penalties, advance,
                    )  # fmt: skip
                for i, (target, y) in enumerate(members):
                    known = {name: values[rows] for name, values in offered_columns.items()}
                    blocks, left = law.partition(known, target.name, self.order)
                    dropped += left
                    features |= {(block, name): 1 for block, held_names in blocks.items() for name in held_names}
                    own = probes[i] if probes is not None else None
                    found = law.explain(y[rows], groups, blocks, own, parts, inner, setting)
                    lines += self._judged(target, score_rows(found, setting, "cv" if few else "test"))
                    for fold, (probe, (train, new)) in enumerate(zip(own or [], parts, strict=False)):
                        site, position = candidates[probe.candidate]
                        chosen.append({
                            "target": target.name, "fold": fold, "site": site, "position": position,
                            "value": probe.value, "n_train": len(train), "n": len(new),
                        })  # fmt: skip
                    advance(1)
        for text in stats.thin_notes(line["note"] for line in lines):
            ctx.log.warning("%s", text)
        out.table("explained", pa.Table.from_pylist(lines, schema=EXPLAINED))
        out.table("sites", pa.Table.from_pylist(chosen, schema=SITES))
        names = [{"block": block, "feature": name} for block, name in features]
        out.table("features", pa.Table.from_pylist(names, schema=FEATURES))
        facts: list[tuple[str, float, str]] = [
            ("rows", len(table), ""), ("groups", len(set(table["group"])), ""),
            ("of", np.nan, source.name if source is not None else ""), ("candidates", len(candidates), ""),
            ("cross-validated", float(few), ""), ("folds", self.folds, ""), ("smallest", self.smallest, ""),
            ("unread", int((~held & whole["split"].isin(SPLITS)).sum()), ""),
            ("left out", len(dropped), "; ".join(dict.fromkeys(dropped))),
        ]  # fmt: skip
        out.table("facts", pa.Table.from_pylist([dict(zip(FACTS.names, f, strict=True)) for f in facts], FACTS))

    def _candidates(self, inputs: Inputs) -> tuple[Where | None, list[tuple[str, str]]]:
        """Where the internal block reads, and its (site, position) pairs; none without that block."""
        if "internal" not in self.order:
            return None, []
        source = where(inputs, self.of)
        last = 1 + max((s.layer for s, _ in source.pairs), default=0)
        pairs = [
            (str(site), position)
            for position in self.positions
            for site in by_depth(source.pairs, self.sites, position, self.of, last)
        ]
        return source, pairs

    def _jobs(
        self, table: pd.DataFrame, offered: list[Told], few: bool
    ) -> tuple[list[tuple[Told, np.ndarray]], list[str]]:
        """Targets with enough rows, `y [n]` of the table; a reason for each other one. UserError where none is left."""
        out, dropped, groups = [], [], np.asarray(table["group"])
        train = np.asarray(table["split"] != "test") | few
        for i, t in enumerate(offered):
            y = classes(np.asarray(table[f"y.{i}"], dtype=np.float64))
            why = too_few(y[train], groups[train], self.folds)
            late = np.isfinite(y) & ~train
            if why:
                dropped.append(f"{t.name}: {why}" + (" in fit and tune" if "questions" in why and not few else ""))
            elif not few and len(np.unique(groups[late])) < 2:
                dropped.append(f"{t.name}: {len(np.unique(groups[late]))} questions in test")
            else:
                out.append((t, y))
        if not out:
            raise UserError(
                f"surface has nothing to explain: {'; '.join(dropped)}", "a target with several values",
                "raise generate.n, or add a confidence step",
            )  # fmt: skip
        return out, dropped

    @staticmethod
    def _together(jobs: list[tuple[Told, np.ndarray]]) -> list[tuple[list[tuple[Told, np.ndarray]], np.ndarray]]:
        """Targets with the same known rows, which share the decompositions of their activations."""
        groups: dict[bytes, list[tuple[Told, np.ndarray]]] = {}
        for target, y in jobs:
            groups.setdefault(np.isfinite(y).tobytes(), []).append((target, y))
        return [(members, np.flatnonzero(np.isfinite(members[0][1]))) for members in groups.values()]

    def _judged(self, target: Told, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Lines of one target, the internal increment with what it says."""

        def at(kind: str, metrics: tuple[str, ...]) -> dict[str, Any] | None:
            found = (r for r in lines if r["block"] == "internal" and r["kind"] == kind and r["metric"] in metrics)
            return next(found, None)

        adds, partial = at("adds", ("r2", "deviance")), at("partial", ("partial",))
        said = verdict(adds, partial, self.smallest) if adds is not None and partial is not None else ""
        head = {"target": target.name, "text": target.text}
        return [head | line | {"verdict": said if line is adds else ""} for line in lines]

    def summary(self, artifact: Artifact) -> list[Block]:
        return surface_blocks(artifact)
