"""near_misses: questions that are answered wrong though one written almost alike is answered right.

The nearest other question of each right answer (character n-grams, another group); pairs where that one is answered
wrong, closest first: the place to look for what flips an answer, and seeds for adversarial variants. The share of such
pairs stands beside the same share with labels shuffled by group: below it, mistakes cluster among like questions; at
it, likeness of wording says nothing about them. Rows of fit and tune; test is left alone. No model, n^2 products.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block, Ref, Table, Text, Tokens
from gnomon.errors import UserError
from gnomon.methods.nearest import difference, flip_rate, nearest
from gnomon.nulls import p_value, permuted
from gnomon.rows import counts as counting
from gnomon.step import Context, Inputs, Step
from gnomon.store import Artifact, concat
from gnomon.writer import Writer

RATES = pa.schema(
    [("name", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("p", pa.float64()), ("n", pa.int64())]
)  # fmt: skip
PAIRS = pa.schema(
    [("example_id", pa.string()), ("row", pa.int64()), ("prompt", pa.string()), ("text", pa.string()),
     ("target", pa.string()), ("answer", pa.string()), ("label", pa.bool_()), ("similarity", pa.float64()),
     ("changed", pa.string()), ("near_id", pa.string()), ("near_row", pa.int64()), ("near_prompt", pa.string()),
     ("near_answer", pa.string())]
)  # fmt: skip


class NearMisses(Step):
    """Pair right answers with the nearest question that is answered wrong."""

    name: ClassVar[str] = "near_misses"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("pairs",)
    uses_model: ClassVar[bool] = False

    most: int = Field(default=50, ge=1)
    """Pairs that are kept at most, closest first; each wrongly answered question once."""
    least: float = Field(default=0.5, ge=0, le=1)
    """Cosine that a kept pair has at least; the rates are over all right answers."""
    max_rows: int = Field(default=4000, ge=10)
    """Questions that are compared at most: the first by row."""
    permutations: int = Field(default=999, ge=99)
    """Shuffles of the labels, by group."""

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        every = inputs.generations()
        table = concat([ctx.split(every, split, "near misses") for split in ("fit", "tune")])
        graded = table.loc[np.asarray(table["label"].notna())].sort_values(["temperature", "sample", "row"])
        rows = graded.drop_duplicates("example_id").sort_values("row").head(self.max_rows).reset_index(drop=True)
        label, groups = np.asarray(rows["label"], dtype=bool), np.asarray(rows["group"])
        if not label.any() or label.all():
            raise UserError(
                f"near_misses has {int(label.sum())} right and {int((~label).sum())} wrong answers in fit and tune",
                "both kinds", "choose an easier or a harder task, or raise generate.n",
            )  # fmt: skip
        near, cosine = nearest([str(p) for p in rows["prompt"]], groups)
        shuffled = flip_rate(permuted(label, groups, self.permutations, [ctx.seed, 71]), near)
        right = label & (near >= 0)
        if not right.any():
            raise UserError(
                "no right answer has another question to compare with", "several groups", "raise generate.n"
            )
        share = counting.share(~label[near[right]], groups[right])
        wrong = counting.share(~label, groups)
        low, high = np.quantile(shuffled, [0.025, 0.975])
        p = p_value(share.value, shuffled, "two-sided")
        lines = [("nearest wrong", share.value, share.low, share.high, p, int(right.sum())),
                 ("shuffled", float(shuffled.mean()), float(low), float(high), None, int(right.sum())),
                 ("all wrong", wrong.value, wrong.low, wrong.high, None, len(label)),
                 ("similarity", float(np.median(cosine[right])), None, None, None, int(right.sum()))]  # fmt: skip
        out.table("rates", pd.DataFrame(lines, columns=RATES.names), RATES)
        out.table("pairs", pa.Table.from_pylist(self.pairs(rows, label, near, cosine), schema=PAIRS))

    def pairs(self, rows: pd.DataFrame, label: np.ndarray, near: np.ndarray, cosine: np.ndarray) -> list[dict]:
        """The kept pairs, closest first."""
        records, out, used = rows.to_dict("records"), [], set()
        for i in np.argsort(-cosine, kind="stable").tolist():
            j = int(near[i])
            if not label[i] or j < 0 or label[j] or j in used or cosine[i] < self.least or len(out) >= self.most:
                continue
            used.add(j)
            a, b = records[i], records[j]
            kept = {k: b[k] for k in ("example_id", "row", "prompt", "text", "target", "answer")}
            out.append(kept | {
                "label": False, "similarity": float(cosine[i]), "changed": difference(a["prompt"], b["prompt"]),
                "near_id": a["example_id"], "near_row": int(a["row"]), "near_prompt": a["prompt"],
                "near_answer": a["answer"],
            })  # fmt: skip
        return out

    def summary(self, artifact: Artifact) -> list[Block]:
        def at(name: str, column: str = "value", spec: str = ".1%", ci: bool = False) -> Ref:
            return Ref("rates", {"name": name}, column, spec, ci)

        near = "nearest wrong"
        refs = {
            "n": at(near, "n", "d"), "flips": at(near, ci=True), "p": at(near, "p", ".3f"),
            "null": at("shuffled", ci=True), "wrong": at("all wrong", ci=True), "similar": at("similarity", spec=".2f"),
        }  # fmt: skip
        extra = ("similarity", "changed", "near_answer", "near_id")
        return [
            Text(
                "Of {n} right answers, {flips} (95% interval) have a nearest question that is answered wrong; with "
                "labels shuffled it is {null} (middle 95% of the shuffles; p = {p}). Of all questions {wrong} are "
                "answered wrong.",
                refs, "headline",
            ),
            Text("The nearest question of another group, by the words alone, has a median cosine of {similar}.", refs,
                 "method"),
            Tokens("pairs", "Answered wrong, though its neighbour is answered right", extra=extra, limit=10),
            Table("pairs", "Closest pairs", ("near_id", "near_answer", "changed", "example_id", "answer", "target",
                                             "similarity"), limit=20),
            Text("Questions are near in their letters, not in their meaning or difficulty, and nobody changed them: a "
                 "pair shows where to look, not what caused the mistake. Rows of fit and tune only.", {}, "limit"),
        ]  # fmt: skip
