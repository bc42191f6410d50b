"""compare: two models' answers to the same questions - a base and a finetuned one, say - row by row.

Rows are paired by example, sample, temperature and prompt hash. On the test rows: accuracy, calibration, confidence and
which answers flipped, as differences b - a with paired intervals beside swapped sides. On fit and tune: how alike the
activations are, site by site, beside shuffled pairing. And whether a probe fitted on one model reads the other as well
as that one's own. Mathematics and sources: `gnomon/methods` comparing, comparing_{layers,transfer}, similarity,
calibration_gaps. Cost: no model; about a second a site of 150 rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods import comparing as law
from gnomon.methods import comparing_layers as layers
from gnomon.methods import comparing_transfer as transfer
from gnomon.methods.comparing_blocks import comparison_blocks
from gnomon.methods.comparing_rows import Paired, flipped, paired
from gnomon.methods.similarity import COLUMNS, similarity
from gnomon.rows.compared import PROBABILITIES, Couples, Side, captured, couples, names, shared_sites, side_of, told
from gnomon.rows.options import OptionalTexts
from gnomon.rows.signals import stated
from gnomon.sites import RAGGED
from gnomon.step import Context, Inputs, Planning, Step, rows_of
from gnomon.store import Artifact
from gnomon.types import SPLITS
from gnomon.writer import Writer

TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
NUMBERS = [
    ("value", NUMBER),
    ("ci_low", NUMBER),
    ("ci_high", NUMBER),
    ("p", NUMBER),
    ("n", WHOLE),
    ("groups", WHOLE),
    ("note", TEXT),
]
COMPARISON = pa.schema([(c, TEXT) for c in ("metric", "signal", "rows", "side", "control")] + NUMBERS)
SIMILARITY = pa.schema(
    [
        ("of", TEXT),
        ("site", TEXT),
        ("component", TEXT),
        ("layer", WHOLE),
        ("position", TEXT),
        ("measure", TEXT),
        ("control", TEXT),
        *NUMBERS,
    ]
)
PATHS = [(c, TEXT) for c in ("of", "target", "site", "position", "fitted_on", "read_on", "metric", "control")]
SWEEP = pa.schema([*PATHS, ("component", TEXT), ("layer", WHOLE), *NUMBERS])
TRANSFER = pa.schema([*PATHS, *NUMBERS])
CHOICES = pa.schema(
    [("of", TEXT), ("target", TEXT), ("fold", WHOLE), ("site", TEXT), ("position", TEXT), ("value", NUMBER)]
)
PAIRING = pa.schema([("what", TEXT), ("n", WHOLE), ("first", TEXT)])
MODELS = pa.schema(
    [(c, TEXT) for c in ("side", "step", "folder", "model", "adapter", "revision", "dtype", "fingerprint")]
    + [("n_layers", WHOLE)]
)
FLIPS = pa.schema(
    [("example_id", TEXT), ("kind", TEXT), ("prompt", TEXT), ("target", TEXT), ("answer_a", TEXT), ("answer_b", TEXT),
     ("confidence_a", NUMBER), ("confidence_b", NUMBER), ("row_a", WHOLE), ("row_b", WHOLE)]
)  # fmt: skip
MOST_ROWS = 400
"""Rows that similarity is measured on, at most: its cost grows with their square."""


def _pairs(value: Any) -> Any:
    """[self, self_tuned] as [[self, self_tuned]]."""
    flat = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    return [value] if flat and all(isinstance(v, str) for v in value) else value


class Compare(Step):
    """Compare two models on the same questions: answers, calibration, confidence, activations, probes."""

    name: ClassVar[str] = "compare"
    version: ClassVar[int] = 1
    optional: ClassVar[tuple[str, ...]] = ("confidence", "activations")
    gathers: ClassVar[tuple[str, ...]] = ("confidence", "activations")
    writes: ClassVar[tuple[str, ...]] = ("comparison",)
    uses_model: ClassVar[bool] = False

    a: str
    """The generation that is compared with, by step name or ../other-study/step: the base model's, say."""
    b: str
    """The generation that is compared: the finetuned model's. Differences are b minus a."""
    confidence: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = ()
    """Confidence passes by pairs, of a and of b: [[self, self_tuned]]. Unless given, earlier passes of both generations
    of this study that ask the same."""
    rows: Literal["test", "all"] = "test"
    """Rows on which answers and confidence are compared. Nothing is fitted there, so `all` is fair as long as neither
    model was trained on these questions."""
    allow_missing: bool = False
    """Leave out, and count, questions that one side lacks or was asked with another prompt; otherwise refused."""
    sites: OptionalTexts = None
    """Sites whose activations are compared (resid_post.*, mlp_out.3); all that both have, unless given."""
    positions: OptionalTexts = None
    """Positions with one token a row; all that both have, unless given."""
    predictor: Literal["difference", "logistic"] = "difference"
    """The probe that is carried over: difference in means, or logistic regression (ridge for a number)."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of each cross-validation."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this, probe transfer is tested by nested cross-validation over all of them."""
    permutations: int = Field(default=999, ge=199, le=100_000)
    """Swaps and shuffles behind each p."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""

    @model_validator(mode="after")
    def _two(self) -> Compare:
        if self.a == self.b:
            raise UserError(f"compare: a and b are both {self.a}", "two generations")
        for position in self.positions or ():
            if position in RAGGED:
                raise UserError(f"compare: position {position!r} has many tokens a row", "last_prompt, last or answer")
        return self

    def needs(self) -> Mapping[str, str]:
        named = {"a": self.a, "b": self.b}
        return named | {
            f"confidence.{i}.{s}": n for i, two in enumerate(self.confidence) for s, n in zip("ab", two, strict=True)
        }

    def check(self, plan: Planning) -> None:
        for side, name in (("a", self.a), ("b", self.b)):
            if "ask" in plan.source_options.get(name, {}):
                raise UserError(f"compare.{side}: {name} is a confidence pass", "the generation that it asks about",
                                "and name the passes under confidence: [[self, self_tuned]]")  # fmt: skip
        both = [set(plan.inputs[name].sites) for name in (self.a, self.b) if name in plan.inputs]
        if self.sites is not None and len(both) == 2 and not any(self._wanted(s) for s in both[0] & both[1]):
            raise UserError(
                f"compare: {self.a} and {self.b} share no activations at {', '.join(self.sites)}",
                f"shared: {', '.join(sorted(both[0] & both[1])[:6]) or 'none'}", "give both the same capture",
            )  # fmt: skip

    def _wanted(self, captured: str) -> bool:
        """Whether `site@position` is compared."""
        site, _, position = captured.partition("@")
        if position in RAGGED or (self.positions is not None and position not in self.positions):
            return False
        return self.sites is None or any(fnmatch(site, pattern) for pattern in self.sites)

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        a, b = (side_of(s, name, inputs, [two["ab".index(s)] for two in self.confidence])
                for s, name in (("a", self.a), ("b", self.b)))  # fmt: skip
        tables = [rows_of(s.generation) for s in (a, b)]
        found = paired(tables[0], tables[1], names(a, b), self.allow_missing)
        for count in found.counts:
            if count["n"] and count["what"].startswith(("missing", "asked", "in another split")):
                ctx.log.warning("compare: %d questions %s, the first: %s", count["n"], count["what"], count["first"])
        out.table("models", pa.Table.from_pylist([a.facts(), b.facts()], schema=MODELS))
        out.table("pairing", pa.Table.from_pylist(found.counts, schema=PAIRING))
        by_ask = couples(a, b, self.confidence, ctx.log)
        setting = law.Setting(self.draws, self.permutations, ctx.seed)
        lines, flips = self._answers(a, b, found, by_ask, setting, ctx)
        out.table("comparison", pa.Table.from_pylist(lines, schema=COMPARISON))
        out.table("flips", pa.Table.from_pylist(flips, schema=FLIPS))
        alike, sweep, moved, choices = self._activations(a, b, found.table, by_ask, setting, ctx)
        out.table("similarity", pa.Table.from_pylist(alike, schema=SIMILARITY))
        out.table("sweep", pa.Table.from_pylist(sweep, schema=SWEEP))
        out.table("transfer", pa.Table.from_pylist(moved, schema=TRANSFER))
        out.table("choices", pa.Table.from_pylist(choices, schema=CHOICES))

    def _answers(
        self, a: Side, b: Side, found: Paired, by_ask: Couples, setting: law.Setting,
        ctx: Context,
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
        """Lines of table `comparison`, and the questions whose answer became right or wrong."""
        table = found.table
        test = ctx.split(table, "test", f"compare: answers and confidence of {a.name} and {b.name}")
        rows = table if self.rows == "all" else test
        if rows.empty:
            raise UserError("compare finds no test rows that both sides have", "test rows", "rows: all compares all")
        signals = told(a, b, by_ask, rows)
        groups = np.asarray(rows["group"].astype(str))
        parsed = [np.asarray(rows[f"label_{side}"].notna(), dtype=np.float64) for side in "ab"]
        unparsed = law.Pair(1 - parsed[0], parsed[0], 1 - parsed[1], parsed[1], groups)
        lines = law.compared("unparsed", law.mean, unparsed, setting)
        graded = (parsed[0] > 0) & (parsed[1] > 0)
        if not graded.any():
            raise UserError("compare: no question has a graded answer of both models", "answers that can be parsed")
        y = [np.array([float(bool(v)) for v in rows.loc[graded, f"label_{side}"]]) for side in "ab"]
        right = law.Pair(y[0], y[0], y[1], y[1], groups[graded])
        lines += law.compared("accuracy", law.accuracy, right, setting)
        lines += law.flips(y[0], y[1], groups[graded], setting)
        with ctx.progress("confidence", len(signals)) as advance:
            for name, (c_a, c_b) in signals.items():
                known = np.isfinite(c_a[graded]) & np.isfinite(c_b[graded])
                pair = law.Pair(c_a[graded], y[0], c_b[graded], y[1], groups[graded]).at(known)
                lines += law.signal_lines(name, pair, name in PROBABILITIES or name in by_ask, setting)
                advance(1)
        shown = [c[graded] for c in signals.get(next(iter(by_ask), "max_prob"), (np.full(len(graded), np.nan),) * 2)]
        return lines, flipped(rows.loc[graded], y, shown)

    def _activations(
        self, a: Side, b: Side, table: pd.DataFrame, by_ask: Couples,
        setting: law.Setting, ctx: Context,
    ) -> tuple[list[dict[str, Any]], ...]:  # fmt: skip
        """Lines of tables similarity, sweep, transfer and choices, over the answers' activations and the passes'."""
        jobs: list[tuple[str, Sequence[Artifact], Sequence[Artifact]]] = [("answers", a.captured, b.captured)]
        jobs += [(ask, (x,), (y,)) for ask, (x, y) in by_ask.items()]
        shared = {of: [s for s in shared_sites(left, right) if self._wanted(f"{s[0]}@{s[1]}")]
                  for of, left, right in jobs}  # fmt: skip
        alike, sweep, moved, choices = [], [], [], []
        with ctx.progress("activations", sum(map(len, shared.values()))) as advance:
            for of, left, right in jobs:
                if not shared[of]:
                    continue
                question, numbers = self._question(of, table, by_ask, left, right, shared[of])
                if len(numbers) < 10:
                    ctx.log.warning("compare: %d rows have activations of %s on both sides: too few", len(numbers), of)
                    continue
                where = layers.plan(question, self.folds, self.nested_below, ctx.seed)
                tested = numbers if where.nested else numbers.loc[where.tested]
                ctx.split(tested, "test", f"compare: probes of {question.target} from {of}, read on the other model")
                held = []
                for site, position in shared[of]:
                    x = [captured(side, site, position).at(np.asarray(numbers[f"row_{letter}"]))
                         for side, letter in ((left, "a"), (right, "b"))]  # fmt: skip
                    parts = site.split(".")
                    at = {"of": of, "site": site, "component": parts[0], "layer": int(parts[1]) if parts[1:] else -1,
                          "position": position}  # fmt: skip
                    some = _some(where.searched, question.groups, ctx.seed)
                    for line in similarity(x[0][some], x[1][some], question.groups[some], min(self.draws, 500), 99,
                                           ctx.seed, ("cka", "cosine", "cosine_centred")):  # fmt: skip
                        alike.append(at | {k: line[k] for k in COLUMNS})
                    held.append(layers.measure(question, where, site, position, x[0], x[1], self.predictor))
                    sweep += [line | at for line in transfer.sweep_lines(question, where, held[-1], setting)]
                    advance(1)
                made, chosen = transfer.transfer_lines(question, where, held, setting)
                moved, choices = [*moved, *made], [*choices, *chosen]
        return alike, sweep, moved, choices

    def _question(
        self, of: str, table: pd.DataFrame, by_ask: Couples,
        left: Sequence[Artifact], right: Sequence[Artifact], shared: Sequence[tuple[str, str]],
    ) -> tuple[layers.Question, pd.DataFrame]:  # fmt: skip
        """What is predicted, on the paired rows that have it and every activation."""
        here = np.array(table["split"].isin(SPLITS), dtype=bool)
        for site, position in shared:
            here &= np.isin(table["row_a"], captured(left, site, position).rows)
            here &= np.isin(table["row_b"], captured(right, site, position).rows)
        if of == "answers":
            target = "correct"
            here &= np.asarray(table["label_a"].notna() & table["label_b"].notna())
            y = [np.array([np.nan if pd.isna(v) else float(bool(v)) for v in table[f"label_{s}"]]) for s in "ab"]
        else:
            target = "confidence"
            y = [stated(p, np.asarray(table[f"row_{s}"])) for p, s in zip(by_ask[of], "ab", strict=True)]
            here &= np.isfinite(y[0]) & np.isfinite(y[1])
        rows = table.loc[here].reset_index(drop=True)
        groups, split = np.asarray(rows["group"].astype(str)), np.asarray(rows["split"].astype(str))
        return layers.Question(of, target, y[0][here], y[1][here], groups, split), rows

    def summary(self, artifact: Artifact) -> list[Block]:
        return comparison_blocks(artifact)


def _some(searched: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The rows of fit and tune; of more than MOST_ROWS those of groups drawn until there are as many."""
    rows = np.flatnonzero(searched)
    if len(rows) <= MOST_ROWS:
        return rows
    _, which = np.unique(groups[rows], return_inverse=True)
    rank = np.random.default_rng([seed, 48]).permutation(int(which.max()) + 1)[which]
    return np.sort(rows[np.argsort(rank, kind="stable")[:MOST_ROWS]])
