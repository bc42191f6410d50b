"""Audit a claim: anybody's direction, or a dictionary feature's decoder row, through every control.

Four claims, each with its own verdict by an interval and a null that were fixed beforehand:

    reads     AUROC of x . v on test, against shuffled labels and random directions of the same site
    adds      increment of that AUROC over the cheap baselines (METHODS: controls beside every claim), paired
    steers    adding multiples of v moves the right answer, beside random and shuffled-label directions
    needed    ablating v changes the right answer, beside shuffled-label directions

The sign of v is learned on fit. Where the site was not captured, the rows' own tokens are run again, teacher-forced.
Cost: that pass, and the cost of `intervene`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block, Ref, Table, Text
from gnomon.causal.options import CausalOptions
from gnomon.causal.pick import first, has, pick
from gnomon.errors import UserError
from gnomon.step import Context, Inputs, Planning
from gnomon.store import Artifact
from gnomon.types import SPLITS, Direction
from gnomon.writer import Writer

CLAIMS = pa.schema(
    [("claim", pa.string()), ("verdict", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("p", pa.float64()), ("n", pa.int64()), ("rule", pa.string())]
)  # fmt: skip
READING = {"predictor": "given", "metric": "auroc"}
GAIN = {"predictor": "increment", "metric": "auroc", "control": ""}
SMALL = 0.02
"""An AUROC gain below this is none worth speaking of."""
RULES = {
    "reads": "supported: the AUROC's interval lies above .5 and it beats shuffled labels and random directions "
    "(p <= .05); not supported: the interval reaches .5 and ends below .6, or the nulls reach it; else undecided",
    "adds": "supported: the intervals of the increment over the baselines and of the partial correlation lie above 0; "
    f"not supported: the increment's interval ends below {SMALL}, or the partial one's below 0; else undecided",
    "steers": "supported beside random and shuffled-label directions, by the margin's interval and rank p",
    "needed": "supported beside shuffled-label directions, by the margin's interval and rank p",
}
ASKED = {
    "reads": "It reads whether an answer is right",
    "adds": "It adds to the cheap baselines",
    "steers": "Steering along it moves answers",
    "needed": "The model needs it for its answers",
}


class AuditClaim(CausalOptions):
    """Put a direction from a file through all controls, and say of each claim: supported, not supported, undecided."""

    name: ClassVar[str] = "audit_claim"
    version: ClassVar[int] = 5
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("activations",)
    writes: ClassVar[tuple[str, ...]] = ("scores", "effects")

    direction: str
    """A .npy of one vector: a probe, a steering vector, a dictionary's decoder row."""
    site: str = ""
    """Where it lives (resid_post.15); may be left out where a .json beside the file names it."""
    position: Literal["last_prompt", "last", "answer"] = "last_prompt"
    """The token at which it is read."""
    orientation: Literal["fit", "given"] = "fit"
    """fit: its sign is learned on the fit split; given: larger means right, as the file has it."""
    baselines: tuple[str, ...] | None = None
    """The baselines it must beat; all that are known at the position, unless given."""
    random_readings: int = Field(default=199, ge=19)
    """Random directions at the site whose AUROC it is compared with."""
    permutations: int = Field(default=1999, ge=199)
    """Shuffles of the labels."""

    def claimed(self) -> Direction:
        """The direction of the file, at its site."""
        return Direction.load(self.direction, self.site or None)

    def check(self, plan: Planning) -> None:
        super().check(plan)
        direction, facts = self.claimed(), plan.model.facts()
        site, layers = direction.site, int(facts["n_layers"])
        if site.layer >= layers:
            raise UserError(f"site {site} does not exist", f"layers are 0 to {layers - 1}")
        width = int(facts["d_model"])
        if site.component not in ("mlp_post", "z") and direction.d != width:
            raise UserError(
                f"{self.direction} has {direction.d} numbers", f"{site} of {plan.model.name} has {width}",
                "give the site and the model that the direction was made at",
            )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        path = Path(self.direction)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""
        return self.model_dump(mode="json") | {"direction_sha256": digest, "read_at": str(self.claimed().site)}

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.causal.tables import deciding, overall
        from gnomon.causal.trial import Trial

        direction = self.claimed()
        width = ctx.model().site_shape(direction.site)
        if direction.d != width:
            raise UserError(f"{self.direction} has {direction.d} numbers", f"{direction.site} has {width}")
        direction, scores = self._read(direction, inputs, ctx)
        out.table("scores", scores)
        trial = Trial(self, direction, self.position, inputs, out, ctx)
        trial.run()
        verdicts = pd.read_parquet(out.path / "verdicts.parquet")
        claims = [self._reads(scores), self._adds(scores)]
        for claim, kind, control in (("steers", "steer", "random"), ("needed", "ablate", "shuffled")):
            if kind in self.kinds:
                r = first(verdicts, claim=kind, control=control, metric=deciding(verdicts))
                claims.append(_claim(claim, overall(verdicts, kind), r, r["p"], r["n"]))
        out.table("claims", pa.Table.from_pylist(claims, schema=CLAIMS))

    def _read(self, direction: Direction, inputs: Inputs, ctx: Context) -> tuple[Direction, pd.DataFrame]:
        """Its reading on test beside every control, and the direction turned as fit says."""
        from gnomon.causal.measure import activations
        from gnomon.methods.baselines import choose, columns
        from gnomon.methods.controls import Setting
        from gnomon.methods.direction import direction_controls
        from gnomon.stats import auroc

        every = inputs.generations()
        every = pick(every.loc[np.asarray(every["label"].notna())], split=SPLITS)
        x, here = activations(inputs, ctx, every, direction.site, self.position, self.batch_size)
        table = every.loc[here]
        ctx.split(table, "test", f"audit_claim: reading of {direction.name}")
        labels, splits = np.asarray(table["label"], dtype=bool), np.asarray(table["split"])
        fit = splits == "fit"
        for split in ("fit", "test"):
            part = labels[splits == split]
            if not len(part) or part.all() or not part.any():
                raise UserError(
                    f"split {split!r} has {int(part.sum())} right and {int((~part).sum())} wrong rows with a token at "
                    f"{self.position}", "rows of both", "raise generate.n",
                )  # fmt: skip
        projection = x.astype(np.float64) @ direction.vector.astype(np.float64)
        if self.orientation == "fit" and float(auroc(projection[fit], labels[fit])) < 0.5:
            direction = Direction(direction.site, -direction.vector, direction.name, direction.kind, direction.score,
                                  {**direction.meta, "turned": "on fit"})  # fmt: skip
            projection = -projection
        random = np.stack([d.vector for d in direction.random_controls(self.random_readings, ctx.seed + 1)])
        kept, _ = choose(columns(table), self.baselines, "correct", self.position != "last_prompt")
        where = {"generation": inputs["generations"].name, "target": "correct", "site": str(direction.site),
                 "position": self.position}  # fmt: skip
        rows = direction_controls(
            projection, labels, np.asarray(table["group"]), splits, kept or None,
            difficulty=np.asarray(table["difficulty"], dtype=np.float64), random_scores=x.astype(np.float64) @ random.T,
            where=where,
            setting=Setting(draws=self.draws, permutations=self.permutations, seed=ctx.seed, what="audit_claim"),
        )  # fmt: skip
        return direction, rows

    def _reads(self, scores: pd.DataFrame) -> dict[str, Any]:
        main, shuffled, random = (first(scores, **READING, control=control) for control in ("", "shuffled", "random"))
        p = max(shuffled["p"], random["p"])
        if np.isnan(main["ci_low"]):
            verdict = "undecided"
        elif main["ci_low"] > 0.5:
            verdict = "supported" if p <= 0.05 else "not supported"
        else:
            verdict = "not supported" if main["ci_high"] < 0.6 else "undecided"
        return _claim("reads", verdict, main, p, main["n"])

    def _adds(self, scores: pd.DataFrame) -> dict[str, Any]:
        if not has(scores, **GAIN):
            return _claim("adds", "undecided", {"value": None, "ci_low": None, "ci_high": None}, None, 0)
        gain, partial = first(scores, **GAIN), first(scores, **(GAIN | {"metric": "partial"}))
        if np.isnan([gain["ci_low"], partial["ci_low"]]).any():
            verdict = "undecided"
        elif gain["ci_low"] > 0 and partial["ci_low"] > 0:
            verdict = "supported"
        else:
            verdict = "not supported" if gain["ci_high"] < SMALL or partial["ci_high"] < 0 else "undecided"
        return _claim("adds", verdict, gain, gain["p"], gain["n"])

    # ---------------------------------------------------------------- the page

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.causal.summary import trial_blocks

        claims, scores = artifact.table("claims"), artifact.table("scores")
        blocks: list[Block] = [Text(
            "Verdict on {direction} at {site}, read at {position}: " + _words(claims) + ".",
            {name: Ref("facts", {"fact": name}, "text", "") for name in ("direction", "site", "position")}, "headline",
        ), _reading(scores)]  # fmt: skip
        if has(scores, **GAIN):
            blocks.append(_gain())
        blocks.append(Table(
            "claims", "What was claimed, and by which rule it stands or falls",
            columns=["claim", "verdict", "value", "ci_low", "ci_high", "p", "n", "rule"],
            labels={"ci_low": "low", "ci_high": "high"},
        ))  # fmt: skip
        blocks.append(Table(
            "scores", "Its reading beside the controls, on test", limit=40,
            columns=["predictor", "control", "metric", "value", "ci_low", "ci_high", "n", "n_pos", "p", "note"],
            labels={"ci_low": "low", "ci_high": "high"},
        ))  # fmt: skip
        blocks += trial_blocks(artifact)
        blocks.append(Text(
            "Only its maker knows which rows the direction was made from: had it seen this study's test rows, its "
            "reading would not be held out.", kind="limit",
        ))  # fmt: skip
        return blocks


def _claim(claim: str, verdict: str, cell: Any, p: Any, n: Any) -> dict[str, Any]:
    numbers = {c: cell[c] for c in ("value", "ci_low", "ci_high")} | {"p": p}
    known = {c: None if v is None or v != v else float(v) for c, v in numbers.items()}
    return {"claim": claim, "verdict": verdict} | known | {"n": int(n), "rule": RULES[claim]}


def _words(claims: pd.DataFrame) -> str:
    return "; ".join(f"{ASKED[c].lower()} - {v}" for c, v in zip(claims["claim"], claims["verdict"], strict=True))


def _reading(scores: pd.DataFrame) -> Text:
    def cell(control: str) -> dict[str, Any]:
        return READING | {"control": control}

    interval = not np.isnan(first(scores, **cell(""))["ci_low"])
    return Text(
        "Its projection tells right from wrong answers with AUROC {auroc} on {n} test rows"
        + (" (95% interval)" if interval else " (too few rows for an interval)")
        + "; {random} is the mean of random directions at the site (p = {p_random}), {shuffled} that of shuffled "
        "labels (p = {p_shuffled}).",
        {"auroc": Ref("scores", cell(""), "value", ".3f", ci=interval), "n": Ref("scores", cell(""), "n", "d"),
         "random": Ref("scores", cell("random"), "value", ".3f"), "p_random": Ref("scores", cell("random"), "p", ".3f"),
         "shuffled": Ref("scores", cell("shuffled"), "value", ".3f"),
         "p_shuffled": Ref("scores", cell("shuffled"), "p", ".3f")},
        "headline",
    )  # fmt: skip


def _gain() -> Text:
    base = GAIN | {"predictor": "baselines"}
    return Text(
        "Beside the cheap baselines (AUROC {base} together) it adds {gain} to the AUROC; its correlation with being "
        "right, given the baselines, is {partial} (paired 95% intervals over groups).",
        {"base": Ref("scores", base, "value", ".3f"), "gain": Ref("scores", GAIN, "value", "+.3f", ci=True),
         "partial": Ref("scores", GAIN | {"metric": "partial"}, "value", "+.3f", ci=True)},
        "headline",
    )  # fmt: skip
