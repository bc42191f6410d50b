"""temperatures: how often samples are right as the temperature rises, and whether predictors fixed at 0 still tell.

Reads the base generation (temperature 0) and, by `of`, generations that sampled the same questions
(`generate: {only: [test], temperatures: [0.3, 0.6, 0.9, 1.2], samples: 5}`). Nothing is fitted: directions of earlier
steps are applied as they are (activation . vector + bias; a dictionary's feature by its own activation), beside the
model's confidence and the difficulty, whose signs are taken from fit. Formulas and sources: gnomon/methods/temperature.
Cost: no model; seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BeforeValidator, Field

from gnomon import nulls
from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods import temperature as law
from gnomon.methods.temperature_blocks import temperature_blocks
from gnomon.rows.counts import share
from gnomon.rows.options import Texts, one_or_more
from gnomon.rows.predictors import CHEAP, cheap_predictors, direction_scores
from gnomon.sites import RAGGED
from gnomon.step import Context, Inputs, Planning, Step
from gnomon.store import Artifact, concat
from gnomon.writer import Writer

READ = ("row", "example_id", "group", "split", "difficulty", "sample", "round", "temperature", "prompt_hash", "label",
        "max_prob", "entropy", "margin", "mean_logprob")  # fmt: skip
TEXT, NUMBER, WHOLE = pa.string(), pa.float64(), pa.int64()
VALUES = [("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("p", NUMBER), ("q", NUMBER), ("n", WHOLE),
          ("groups", WHOLE), ("note", TEXT)]  # fmt: skip
TEMPERATURES = pa.schema([("temperature", NUMBER), ("predictor", TEXT), ("control", TEXT), ("metric", TEXT), *VALUES])
BY_DIFFICULTY = pa.schema(
    [("at", TEXT), ("bin", WHOLE), ("low", NUMBER), ("high", NUMBER), ("mean", NUMBER), ("predictor", TEXT),
     ("control", TEXT), ("metric", TEXT), *VALUES]
)  # fmt: skip
PREDICTORS = pa.schema(
    [("predictor", TEXT), ("step", TEXT), ("site", TEXT), ("position", TEXT), ("kind", TEXT), ("cheap", pa.bool_()),
     ("reads_response", pa.bool_()), ("sign", NUMBER), ("auroc_fit", NUMBER), ("strongest", pa.bool_()),
     ("main", pa.bool_())]
)  # fmt: skip
SCORES = pa.schema(
    [("generation", TEXT), ("row", WHOLE), ("example_id", TEXT), ("temperature", NUMBER), ("sample", WHOLE),
     ("label", pa.bool_()), ("predictor", TEXT), ("score", NUMBER)]
)  # fmt: skip


class Temperatures(Step):
    """Pass rates by temperature, and what predictors that were fixed at temperature 0 are worth there."""

    name: ClassVar[str] = "temperatures"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "activations")
    optional: ClassVar[tuple[str, ...]] = ("dictionary",)
    writes: ClassVar[tuple[str, ...]] = ("temperatures",)
    uses_model: ClassVar[bool] = False

    of: Texts = ()
    """Generations, by step name, with samples at other temperatures of the same questions; without it the base
    generation must hold several temperatures itself."""
    using: Texts = ()
    """Steps whose directions are the predictors: a probe, a features step. They are applied as they are."""
    most: int = Field(default=6, ge=1)
    """Directions taken of each of these steps, the first ones (a probe's first is its headline)."""
    cheap: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = CHEAP
    """Predictors that need no look inside: difficulty, and the model's confidence; larger or smaller, as fit says."""
    k: int | None = Field(default=None, ge=2)
    """pass@k beside pass@1; unless given, the most samples that a question has at one temperature."""
    bins: int = Field(default=5, ge=2, le=20)
    """Bins of difficulty, by quantile."""
    permutations: int = Field(default=999, ge=199, le=100_000)
    """Shuffles of the labels, by group, behind each p."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""

    def needs(self) -> Mapping[str, str]:
        named = {f"of.{i}": name for i, name in enumerate(self.of)}
        return named | {f"using.{i}": name for i, name in enumerate(self.using)}

    def check(self, plan: Planning) -> None:
        for name in self.cheap:
            if name not in CHEAP:
                raise UserError(f"cheap: {name!r}", f"any of {', '.join(CHEAP)}")
        for name in self.using:
            position = plan.source_options.get(name, {}).get("position")
            if isinstance(position, str) and position in RAGGED:
                raise UserError(
                    f"using: {name} reads position {position}", "a position with one token a row",
                    f"give {name} position: last_prompt, last or answer",
                )  # fmt: skip
        for name in self.of:
            cost = plan.inputs.get(name)
            if cost is not None and not cost.splits.get("test"):
                raise UserError(
                    f"of: {name} has no test rows", "samples of the test questions", "generate: {only: [test], ...}"
                )
            lacking = sorted(_lacking(self.using, plan, cost.sites)) if cost is not None else []
            if lacking:
                site, position = lacking[0].split("@")
                raise UserError(
                    f"of: {name} has no activations at {lacking[0]}",
                    f"those that {' or '.join(self.using)} may choose",
                    f"give {name} the capture of the base generation, at least {{sites: {site}, positions: "
                    f"[{position}]}}; or positions: last_prompt in {' and '.join(self.using)} (samples share a prompt)",
                )  # fmt: skip

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source = inputs["generations"]
        base = _last_rounds(source.table("generations", READ).assign(generation=source.name))
        parts = [ctx.split(base, "test", f"temperatures: answers of {source.name}")]
        for name in self.of:
            other = self._samples(inputs.named(name), name, source, base)
            parts.append(ctx.split(other, "test", f"temperatures: samples of {name}"))
        keys = ["example_id", "temperature", "sample"]
        every = concat(parts)
        rows = every.drop_duplicates(keys).sort_values([*keys, "generation"]).reset_index(drop=True)
        if len(rows) < len(every):
            ctx.log.warning(
                "temperatures: %d samples have the question, temperature and number of an earlier generation's and are "
                "left out", len(every) - len(rows),
            )  # fmt: skip
        found = sorted({float(t) for t in rows["temperature"]})
        if len(found) < 2:
            raise UserError(
                f"temperatures finds {', '.join(f'{t:g}' for t in found) or 'no test rows'} alone",
                "test rows at two temperatures or more",
                "add a generate (as: warm) with only: test, temperatures: [0.3, 0.6, 0.9, 1.2], samples: 5; of: warm",
            )
        predictors, scores, known = self._predictors(inputs, ctx, base, rows)
        if not predictors:
            raise UserError("temperatures has no predictor", "using: probe, or cheap: [difficulty]")
        samples = self._by_temperature(rows, scores, found)
        strongest = next((str(k["predictor"]) for k in known if k["strongest"]), "")
        setting = law.Setting(self.draws, self.permutations, ctx.seed, strongest)
        lines, most = [], max(rows.groupby(["example_id", "temperature"]).size())
        work = len(found) * (1 + len(predictors)) + 1
        with ctx.progress("temperatures", work) as advance:
            for at in found:
                here = np.asarray(rows["temperature"] == at)
                ungraded, groups = np.asarray(rows["label"].isna())[here], np.asarray(rows["group"].astype(str))[here]
                ks = (1, self.k or int(most)) if (self.k or most) > 1 else (1,)
                made = law.rate_rows(samples[at], ungraded, groups, ks, share, setting)
                advance(1)
                for predictor in predictors:
                    made += law.predictor_rows(samples[at], predictor, setting)
                    advance(1)
                lines += [{"temperature": at, **line} for line in made]
            edges = law.bins_of(self._difficulty(rows)["difficulty"].to_numpy(dtype=np.float64), self.bins)
            bins = law.difficulty_rows(samples, predictors, edges, share, setting) if len(edges) > 1 else []
            advance(1)
        thin = [r["note"] for r in lines if "are needed for an interval" in r["note"]]
        if thin:
            ctx.log.warning("%d numbers have no interval; the first: %s", len(thin), thin[0].partition(";")[0])
        table = pd.DataFrame(lines, columns=list(law.COLUMNS))
        tested = np.asarray((table["metric"] == "auroc") & (table["control"] == ""))
        table.loc[tested, "q"] = nulls.benjamini_hochberg(np.asarray(table.loc[tested, "p"], dtype=np.float64))
        out.table("temperatures", pa.Table.from_pandas(table, schema=TEMPERATURES, preserve_index=False))
        out.table("by_difficulty", pa.Table.from_pylist(bins, schema=BY_DIFFICULTY))
        out.table("predictors", pa.Table.from_pylist(known, schema=PREDICTORS))
        out.table("scores", self._score_table(rows, scores))

    def _samples(self, artifact: Artifact, name: str, source: Artifact, base: pd.DataFrame) -> pd.DataFrame:
        """Another generation's rows: same model, same prompts, no test question that the base has in fit or tune."""
        if "generations" not in artifact.tables():
            raise UserError(f"of: {name} holds no generations", "a generate step")
        models = [a.meta.get("model", {}).get("fingerprint") for a in (source, artifact)]
        if models[0] != models[1]:
            raise UserError(f"of: {name} is of another model than {source.name}", "samples of the same model")
        other = _last_rounds(artifact.table("generations", READ).assign(generation=name))
        test = other.loc[other["split"] == "test"]
        sides = base.drop_duplicates("group").set_index("group")["split"]
        crossed = sorted({g for g in test["group"] if sides.get(g, "test") != "test"})
        if crossed:
            raise UserError(
                f"of: {len(crossed)} groups of {name}'s test rows are in {sides[crossed[0]] or 'no split'} of "
                f"{source.name}, the first: {crossed[0]}",
                "the same splits in both", "give both the same task, n, splits and split_by (and only: [test])",
            )  # fmt: skip
        prompts = base.drop_duplicates("example_id").set_index("example_id")["prompt_hash"]
        changed = [e for e, h in zip(test["example_id"], test["prompt_hash"], strict=True) if prompts.get(e, h) != h]
        if changed:
            raise UserError(f"of: {name} asked {changed[0]!r} with another prompt than {source.name}", "equal prompts")
        return other

    def _predictors(
        self, inputs: Inputs, ctx: Context, base: pd.DataFrame, rows: pd.DataFrame
    ) -> tuple[list[law.Predictor], dict[str, np.ndarray], list[dict[str, Any]]]:
        """Predictors, their scores of `rows`, and the lines of table `predictors`."""
        fit = cast(pd.DataFrame, ctx.split(base, "fit", "signs of cheap predictors"))
        out, scores, known = cheap_predictors(self.cheap, fit, rows)
        order: list[law.Predictor] = []
        for name in self.using:
            directions = inputs.named(name).directions()[: self.most]
            for predictor, values, line in direction_scores(directions, name, inputs, self.of, rows):
                if predictor.name in scores:
                    continue  # one latent may lead for both classes
                order.append(predictor)
                scores[predictor.name] = values
                known.append(line)
        best = max((k for k in known if k["cheap"]), key=lambda k: np.nan_to_num(k["auroc_fit"]), default=None)
        main = (order or out)[0].name if order or out else ""
        for k in known:
            k |= {"strongest": k is best, "main": k["predictor"] == main}
        problem = np.asarray(rows["example_id"].astype(str))
        for predictor in (p for p in out if not p.reads_response):
            scores[predictor.name] = _shared(scores[predictor.name], problem)
        for predictor in (p for p in order if not p.reads_response):
            scores[predictor.name] = _shared(scores[predictor.name], problem)
        return [*order, *out], scores, known

    def _by_temperature(
        self, rows: pd.DataFrame, scores: Mapping[str, np.ndarray], found: list[float]
    ) -> dict[float, law.Samples]:
        problems = self._difficulty(rows)
        level = nulls.quantile_strata(problems["difficulty"].to_numpy(dtype=np.float64), self.bins)
        of = dict(zip(problems["example_id"], level.tolist(), strict=True))
        bins = np.array([of[e] for e in rows["example_id"]], dtype=np.int64)
        graded = np.asarray(rows["label"].notna())
        out = {}
        for at in found:
            here = graded & np.asarray(rows["temperature"] == at)
            out[at] = law.Samples(
                np.array([bool(v) for v in rows.loc[here, "label"]], dtype=bool),
                np.asarray(rows.loc[here, "example_id"].astype(str)), np.asarray(rows.loc[here, "group"].astype(str)),
                bins[here], {k: v[here] for k, v in scores.items()},
            )  # fmt: skip
        return out

    @staticmethod
    def _difficulty(rows: pd.DataFrame) -> pd.DataFrame:
        """One row a problem."""
        return rows.drop_duplicates("example_id").loc[:, ["example_id", "difficulty"]]

    @staticmethod
    def _score_table(rows: pd.DataFrame, scores: Mapping[str, np.ndarray]) -> pa.Table:
        kept = rows[["generation", "row", "example_id", "temperature", "sample", "label"]]
        long = concat([kept.assign(predictor=name, score=values) for name, values in scores.items()])
        return pa.Table.from_pandas(long, schema=SCORES, preserve_index=False)

    def summary(self, artifact: Artifact) -> list[Block]:
        return temperature_blocks(artifact)


def _last_rounds(table: pd.DataFrame) -> pd.DataFrame:
    """An episode counts once, by its last round."""
    keys = ["example_id", "sample", "temperature"]
    return table.sort_values("row").drop_duplicates(keys, keep="last").reset_index(drop=True)


def _shared(values: np.ndarray, problem: np.ndarray) -> np.ndarray:
    """The mean of each problem's rows: a score of the prompt, without what batches add to it in rounding."""
    _, which = np.unique(problem, return_inverse=True)
    known = np.isfinite(values)
    total = np.bincount(which, weights=np.where(known, values, 0.0))
    count = np.bincount(which, weights=known.astype(np.float64))
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return np.where(known, mean[which], np.nan)


def _lacking(using: Sequence[str], plan: Planning, there: Sequence[str]) -> set[str]:
    """`site@position` of the base generation that a predictor of `using` may read, that samples do not share, and that
    are not `there`. A probe (it has `positions`) may choose any; where a dictionary has the say, any one will do."""
    base, out = plan.inputs.get("generations"), set[str]()
    for name in using:
        options = plan.source_options.get(name, {})
        positions, sites = (options.get(key) or options.get(f"{key}s") for key in ("position", "site"))
        wanted = [positions] if isinstance(positions, str) else positions
        patterns = [sites] if isinstance(sites, str) else sites
        found = set()
        for pair in base.sites if base is not None else ():
            site, position = pair.split("@")
            if position == "last_prompt" or position in RAGGED or (wanted and position not in wanted):
                continue
            if patterns is None or any(fnmatch(site, p) for p in patterns):
                found.add(pair)
        if "positions" in options or not found & set(there):
            out |= found - set(there)
    return out
