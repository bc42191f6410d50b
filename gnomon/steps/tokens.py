"""tokens: which tokens stand in more responses of one class, or under a feature's patch, than of the other, or without.

    present in a response or not -> exact test -> q over all tokens and comparisons of a family -> Monroe's log-odds

The response is the unit: however often it repeats a token, it counts once, and responses of one prompt are tested
within it. Tokens are those of the model's own tokenizer, of the responses' text without special tokens. Compared are
the two classes of the generation, and each patched condition of step patch_features against the same prompts and seeds
unpatched; beside them the patches of random latents, and all sides swapped at random. No token is chosen beforehand: q
is over all of them (features first, then the tokens of those found), and every split is read. Formulas and sources:
gnomon/methods/token_exact and token_shifts. Cost: no forward pass; the tokenizer, the unembedding, and about 20 ms a
comparison.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods.chain_tables import LOGITS, TOKENS
from gnomon.methods.two_classes import Classes
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact, concat
from gnomon.types import SPLITS
from gnomon.writer import Writer

SHOWN = 5
"""Leading features of each site whose decoder rows are read where no patches are compared."""


class Tokens(Step):
    """Tokens whose presence in responses shifts between classes, and under patches of features."""

    name: ClassVar[str] = "tokens"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("causal_features", "features", "dictionary")
    writes: ClassVar[tuple[str, ...]] = ("tokens",)

    comparisons: Literal["auto", "classes", "patches"] = "auto"
    """What is compared: classes (the generation's), patches (those of patch_features), or both as far as they are
    there."""
    classes: Classes = None
    """Names of label true and label false; the task's, unless given."""
    split: Literal["all", "fit", "tune", "test"] = "all"
    """Rows of the generation whose classes are compared; all, since no token is chosen beforehand. Patches are compared
    on the rows that patch_features took."""
    features: int | None = Field(default=None, ge=1)
    """How many features' patches are compared, those with the largest |d| on fit (never by what their patch did, which
    would choose on the responses compared); all unless given."""
    min_count: int = Field(default=5, ge=2)
    """A token in fewer responses of a comparison is not looked at."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """False discovery rate of the features with any token, and of the tokens of these."""
    prior: float = Field(default=0.1, gt=0, le=10)
    """Weight of the log-odds' prior: its tokens for each token of the smaller side."""
    draws: int = Field(default=1000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""
    shuffles: int = Field(default=19, ge=0, le=1000)
    """Times that all sides are swapped at random, to show what chance finds."""
    keep: int = Field(default=100, ge=1)
    """Tokens of smallest p that are listed of each comparison (and all with q at most alpha)."""
    top: int = Field(default=10, ge=1, le=200)
    """Tokens listed that a feature's decoder row raises most, and as many that it lowers."""
    dictionary: str | dict[str, str] | None = None
    """Sparse dictionaries of the features: a path or hub id, or {site: path}; those of step features, or of the
    nearest step that trained some, unless given. Without any, decoder rows are not read."""

    # ---------------------------------------------------------------- before any work

    def check(self, plan: Planning) -> None:
        if self.comparisons == "patches" and "causal_features" not in plan.inputs:
            raise UserError("tokens compares patches, and no step has patched", "a step patch_features above it",
                            "or comparisons: classes")  # fmt: skip
        if self.features is not None and ("causal_features" not in plan.inputs or self.comparisons == "classes"):
            raise UserError("tokens.features without patches", "a step patch_features above it", "leave it out")
        asked = plan.inputs.get("generations")
        if self.comparisons != "patches" and asked is not None and asked.splits:
            wanted = SPLITS if self.split == "all" else (self.split,)
            if not any(asked.splits.get(s) for s in wanted):
                raise UserError(f"tokens has no rows in split {self.split!r}", "a split that has rows")
        weights = plan.weights.get("generations", "")
        if weights and weights != plan.model.facts()["fingerprint"]:
            raise UserError(
                "tokens by another model than the one that answered", "the model (adapter, dtype) of the generation",
                "its tokenizer decides what a token is; give this entry the same model",
            )  # fmt: skip

    def cost(self, plan: Planning) -> Cost:
        source = plan.inputs.get("generations", Cost())
        facts = plan.model.facts()
        patched = plan.inputs.get("causal_features", Cost()).rows if self.comparisons != "classes" else 0
        rows = patched + (source.rows if self.comparisons != "patches" else 0)
        return Cost(
            rows=rows, memory_bytes=int(facts["d_model"]) * int(facts["d_vocab"]) * 8 + 400 * rows * self.min_count,
            disk_bytes=200 * self.keep * (1 + patched // 30),
            notes=("no forward pass: the tokenizer and the unembedding",),
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        from gnomon.lens.feature_sources import stamps

        return super().identity() | {"dictionary_files": stamps(self.dictionary)}

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):  # the last bits must not depend on the number of cores
            self._run(inputs, out, ctx)

    def _run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.lens import token_comparisons as sides
        from gnomon.methods.token_counts import Corpus
        from gnomon.methods.token_families import CONTROLS, FAMILIES, PATCHES, Setting, judge, name_tokens
        from gnomon.methods.token_tables import COMPARISONS, FACTS, LENS
        from gnomon.methods.token_tables import FAMILIES as FAMILY_ROWS
        from gnomon.methods.two_classes import class_names

        model, names = ctx.model(), class_names(self.classes, inputs["generations"])
        table = self._generations(inputs, ctx)
        held = sides.responses_of(table)
        responses = self._responses(inputs, ctx)
        corpus = Corpus(sides.texts_of([held, responses]), model.encode_text)
        listed = sides.feature_names(responses, self._separations(inputs), self.features)
        wanted = [sides.class_comparison(corpus, held, table, names)] if len(table) or not len(responses) else []
        if len(responses):
            written = bool(inputs["causal_features"].options.get("write"))
            chosen = inputs.generations()["finish"].astype(str) == "choice"
            words = bool(chosen.all()) and not written
            wanted += sides.patch_comparisons(corpus, responses, listed, names, words, written)
        setting = Setting(
            self.alpha, self.min_count, self.prior, self.draws, self.shuffles, self.keep, ctx.seed
        )  # fmt: skip
        judged, families = [], []
        with ctx.progress("tokens", len(wanted)) as advance:
            for family in FAMILIES:
                members = [c for c in wanted if c.family == family]
                if members:
                    part, line = judge(members, corpus.tokens, setting, advance)
                    judged += part
                    families.append(line)
        for line in families:
            if line["note"]:
                ctx.log.warning("%s: no conclusion: %s", line["comparison"], line["note"])
        rows = [row for j in judged for row in j.tokens]
        logits, lens, why = self._lens(inputs, ctx, listed, judged, corpus.tokens, rows)
        name_tokens([*rows, *logits], model.token_strings)
        out.table("tokens", pa.Table.from_pylist(rows, schema=TOKENS))
        out.table("comparisons", pa.Table.from_pylist([j.line for j in judged], schema=COMPARISONS))
        out.table("families", pa.Table.from_pylist(families, schema=FAMILY_ROWS))
        out.table("logits", pa.Table.from_pylist(logits, schema=LOGITS))
        out.table("lens", pa.Table.from_pylist(lens, schema=LENS))
        facts: list[tuple[str, float | None, str]] = [
            ("first", None, names[0]), ("second", None, names[1]), ("split", None, self.split),
            ("responses", float(len(held)), ""), ("patched responses", float(len(responses)), ""),
            ("unlabelled", float(sum(1 for v in table["label"] if pd.isna(v))), ""),
            ("vocabulary", float(len(corpus.tokens)), ""), ("alpha", self.alpha, ""),
            ("min_count", float(self.min_count), ""), ("prior", self.prior, ""), ("top", float(self.top), ""),
            ("features", float(len(listed)), ""), ("lens", float(len({r["name"] for r in logits})), why),
            ("controls", float(sum(j.comparison.family == CONTROLS for j in judged)), ""),
            ("patches", float(sum(j.comparison.family == PATCHES for j in judged)), ""),
        ]  # fmt: skip
        out.table("facts", pa.Table.from_pylist([dict(zip(FACTS.names, f, strict=True)) for f in facts], FACTS))

    def _generations(self, inputs: Inputs, ctx: Context) -> pd.DataFrame:
        """Rows whose classes are compared; none where only patches are."""
        table = inputs.generations()
        if self.comparisons == "patches":
            return table.iloc[:0]
        wanted = SPLITS if self.split == "all" else (self.split,)
        return concat([ctx.split(table, s, "tokens: presence by class, no token chosen beforehand") for s in wanted])

    def _responses(self, inputs: Inputs, ctx: Context) -> pd.DataFrame:
        """Responses of patch_features; none where only classes are compared, or nothing was patched."""
        if self.comparisons == "classes" or "causal_features" not in inputs:
            return pd.DataFrame({"text": [], "kind": [], "name": []})
        table = inputs["causal_features"].table("responses")
        split = inputs.generations().set_index("row")["split"]
        table = table.assign(split=split.reindex(table["row"]).fillna("").to_numpy())
        for s in dict.fromkeys(table["split"]):
            ctx.split(table, s, "tokens: responses under patches against the same unpatched")
        return table

    @staticmethod
    def _separations(inputs: Inputs) -> pd.DataFrame | None:
        if "features" not in inputs or "separations" not in inputs["features"].tables():
            return None
        return inputs["features"].table("separations")

    def _lens(
        self, inputs: Inputs, ctx: Context, listed: list[str], judged: list[Any], ids: np.ndarray,
        rows: list[dict[str, Any]],
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:  # fmt: skip
        """Tables `logits` and `lens`, and why there are none; column `lens` of the token rows is filled in place."""
        from gnomon.lens.feature_sources import given, sources
        from gnomon.lens.token_lens import TokenLens
        from gnomon.methods.token_families import PATCHES

        separations = self._separations(inputs)
        names = listed
        if not names and separations is not None:
            names = separations.loc[separations["rank"] <= SHOWN, "name"].astype(str).tolist()
        if not names:
            return [], [], "no features are given"
        option = given(self.dictionary, inputs["features"].options if "features" in inputs else {})
        if option is None and "dictionary" not in inputs:
            return [], [], "no dictionary is given: set tokens.dictionary"
        lens = TokenLens(ctx.model(), names, sources(option, inputs))
        found: dict[str, set[int]] = {}
        for row in rows:
            if row["comparison"] == PATCHES and row["name"] in lens.effects:
                row["lens"] = float(lens.effects[row["name"]][row["token_id"]])
                if row["found"]:
                    found.setdefault(row["name"], set()).add(row["token_id"])
        mine = [j for j in judged if j.comparison.family == PATCHES]
        return lens.rows(self.top, found), lens.summary(names, mine, ids, found, self.top), ""

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.token_blocks import token_blocks

        return token_blocks(artifact)
