"""Lexicon: phrases embedded by the model itself, in the space in which the unembedding reads.

    embedding(phrase) = final_norm(resid_post of the last block)   at the text's last token, or the mean over the
                                                                    phrase's own tokens

so that a neuron's effect on the final-norm output and a phrase are vectors of one space. Phrases: a curated list about
mathematics and logic, a file of the user's own, and phrases mined from rationales (`gnomon/methods/mining.py`).

The phrase stands in a template: the first token of a text is an attention sink in most models, and a phrase of one
token alone would be read there. On SmolLM2 98% of the variance of 15 such words lay along one direction; 23% with the
template. Source: text sets of Gandelsman et al. 2024 (arXiv 2406.04341), whose texts are embedded by CLIP's own text
encoder. Cost: one forward pass over each phrase, about ten tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field, field_validator

from gnomon import nulls, stats
from gnomon.blocks import Block, Ref, Table, Text
from gnomon.errors import UserError
from gnomon.halving import marked, run_halving
from gnomon.methods.mining import mine
from gnomon.methods.phrases import Phrase, curated, curated_text, read_file, read_text, unique
from gnomon.methods.sparse_text import unit_atoms
from gnomon.step import Context, Cost, Inputs, ModelSpec, Planning, Step
from gnomon.store import Artifact, concat
from gnomon.writer import Writer

PHRASES = pa.schema(
    [("index", pa.int64()), ("phrase", pa.string()), ("source", pa.string()), ("topic", pa.string()),
     ("tokens", pa.int64()), ("documents", pa.int64())]
)  # fmt: skip
SOURCES = pa.schema([("source", pa.string()), ("phrases", pa.int64()), ("mean_tokens", pa.float64())])
CHECKS = pa.schema(
    [("measure", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("control", pa.float64()), ("control_low", pa.float64()), ("control_high", pa.float64()), ("p", pa.float64()),
     ("n", pa.int64())]
)  # fmt: skip
SHARD = 128
"""Phrases in a shard."""
FLAT = 0.5
"""Share of the embeddings' variance along one direction from which on the report warns."""
GENERATIONS = "generations"


@dataclass(frozen=True)
class Embedding:
    """A phrase's text as tokens, and the first token that is its own (before it: the template)."""

    tokens: tuple[int, ...]
    first: int


@dataclass
class Embedder:
    """Embeds a shard of phrases: array `parts` `[phrases, d]`."""

    spec: ModelSpec
    path: str
    pool: str
    batch_size: int

    def open(self) -> None:
        """Load the model."""
        self.model = self.spec.load()

    def __call__(self, shard: tuple[int, Sequence[Embedding]]) -> None:
        """Embed one shard in batches of similar length."""
        index, items = shard
        order = sorted(range(len(items)), key=lambda i: (len(items[i].tokens), i))
        out = np.empty((len(items), self.model.d_model), dtype=np.float32)
        halved: list[int] = []

        def read(some: Sequence[int]) -> list[np.ndarray]:
            return [embed(self.model, [items[i] for i in some], self.pool)]

        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            out[chosen] = np.concatenate(run_halving(read, chosen, halved))
        files = Writer.attach(self.path).shard(index)
        files.array("parts", out)
        files.finish(marked(halved))


def embed(model: Any, items: Sequence[Embedding], pool: str) -> np.ndarray:
    """Final-norm output of one batch of texts, `[texts, d_model]` float32: at the last token, or over the phrase's."""
    found = model.norm("ln_final").apply(model.forward([item.tokens for item in items]).resid).float()
    rows = [
        found[i, len(item.tokens) - 1] if pool == "last" else found[i, item.first : len(item.tokens)].mean(0)
        for i, item in enumerate(items)
    ]
    return np.stack([row.cpu().numpy() for row in rows])


class Lexicon(Step):
    """Embed phrases with the model: a curated list on mathematics and logic, a file, or phrases mined from text."""

    name: ClassVar[str] = "lexicon"
    version: ClassVar[int] = 1
    optional: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("lexicon",)

    curated: bool = True
    """Use the shipped list of phrases about mathematics, logic and reasoning (gnomon/lexicons/math_logic.txt)."""
    file: str | None = None
    """A text file of phrases, one a line; lines that begin with # name a topic."""
    mine: str | None = None
    """Mine phrases from `generations` (fit rows; a prompt with its response is a document), or from the text file of
    this path (a line is a document)."""
    most: int = Field(default=200, ge=1)
    """Mined phrases that are kept at most."""
    fewest: int = Field(default=3, ge=1)
    """Documents that a mined phrase must be in."""
    longest: int = Field(default=3, ge=1, le=6)
    """Words in a mined phrase at most."""
    common: float = Field(default=0.9, gt=0, le=1)
    """Mined phrases in more than this share of the documents are dropped: those of a chat template or a system prompt
    are in all of them and tell nothing apart."""
    template: str = "Think about {phrase}"
    """The text that is embedded; {phrase} alone is possible, but a phrase of one token is then read at the first
    position, where most models keep an attention sink."""
    pool: Literal["last", "mean"] = "last"
    """Where the embedding is read: at the text's last token, or the mean over the phrase's own tokens."""
    draws: int = Field(default=999, ge=19)
    """Permutations of the topics, and bootstrap draws, of the check on neighbours."""
    batch_size: int = Field(default=32, ge=1)
    """Phrases in a batch."""

    @field_validator("template")
    @classmethod
    def _holds_phrase(cls, value: str) -> str:
        if value.count("{phrase}") != 1:
            raise UserError(f"template is {value!r}", "a text that holds {phrase} once")
        return value

    def check(self, plan: Planning) -> None:
        if not (self.curated or self.file or self.mine):
            raise UserError("lexicon has no phrases", "curated: true, a file, or mine: generations")
        if self.mine == GENERATIONS and "generations" not in plan.inputs:
            raise UserError("lexicon.mine is 'generations' but no earlier step wrote any", "a generate step above it")
        if self.file is not None:
            read_file(self.file)
        if self.mine not in (None, GENERATIONS):
            read_text(str(self.mine), "text to mine")

    def cost(self, plan: Planning) -> Cost:
        n = (len(curated()) if self.curated else 0) + (len(read_file(self.file)) if self.file else 0)
        n += self.most if self.mine else 0
        facts = plan.model.facts()
        return Cost(rows=n, forward_tokens=n * 9, disk_bytes=8 * n * int(facts["d_model"]))

    def identity(self) -> dict[str, Any]:
        import hashlib

        def sha(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        out = super().identity()
        out["curated_sha256"] = sha(curated_text()) if self.curated else ""
        out["file_sha256"] = sha(read_text(self.file, "phrase file")) if self.file else ""
        from_file = self.mine not in (None, GENERATIONS)
        out["mine_sha256"] = sha(read_text(str(self.mine), "text to mine")) if from_file else ""
        return out

    # ---------------------------------------------------------------- the work

    def phrases(self, inputs: Inputs, ctx: Context) -> tuple[list[Phrase], dict[str, int]]:
        """All phrases, once each, and in how many documents the mined ones are."""
        found = list(curated()) if self.curated else []
        found += read_file(self.file) if self.file else []
        counts: dict[str, int] = {}
        if self.mine:
            counts = dict(mine(self._documents(inputs, ctx), self.most, self.fewest, self.longest, self.common))
        if self.mine and not counts and not found:
            raise UserError(
                f"no phrase of {self.mine} is in {self.fewest} documents and in at most {self.common:.0%} of them",
                "more text", "lower fewest, or use the curated list",
            )  # fmt: skip
        every = unique([*found, *(Phrase(text, "mined") for text in counts)])
        if len(every) < 2:
            raise UserError(f"lexicon has {len(every)} phrases", "at least 2")
        return every, counts

    def _documents(self, inputs: Inputs, ctx: Context) -> list[str]:
        if self.mine != GENERATIONS:
            return read_text(str(self.mine), "text to mine").splitlines()
        table = ctx.split(inputs.generations(), "fit", "lexicon: mining")
        pairs = zip(table["prompt"].tolist(), table["text"].tolist(), strict=True)
        return [f"{prompt}\n{text if isinstance(text, str) else ''}" for prompt, text in pairs]

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        model = ctx.model()
        phrases, counts = self.phrases(inputs, ctx)
        items = [_tokens(model, self.template, phrase.text) for phrase in phrases]
        shards = [items[a : a + SHARD] for a in range(0, len(items), SHARD)]
        worker = Embedder(ctx.model_spec, str(out.path), self.pool, self.batch_size)
        ctx.map(worker, shards, out, "lexicon", [len(shard) for shard in shards])
        embeddings = np.concatenate([np.load(p) for p in sorted((out.path / "parts").glob("*.npy"))])
        if not np.isfinite(embeddings).all():
            raise UserError("a phrase's embedding is not finite", "a model that reads it", "set dtype: float32")
        table = pd.DataFrame({
            "index": range(len(phrases)), "phrase": [p.text for p in phrases], "source": [p.source for p in phrases],
            "topic": [p.topic for p in phrases], "tokens": [len(i.tokens) - i.first for i in items],
            "documents": [counts.get(p.text, 0) for p in phrases],
        })  # fmt: skip
        sources = table.groupby("source", sort=False).agg(phrases=("index", "size"), mean_tokens=("tokens", "mean"))
        out.array("embeddings", embeddings)
        out.table("phrases", table, PHRASES)
        nothing = pd.DataFrame([("mined", 0, float("nan"))] * bool(self.mine and not counts), columns=SOURCES.names)
        out.table("sources", concat([sources.reset_index(), nothing]), SOURCES)
        out.table("checks", _checks(embeddings, np.asarray(table["topic"]), self.draws, ctx.seed), CHECKS)

    def summary(self, artifact: Artifact) -> list[Block]:
        return _blocks(artifact)


def _tokens(model: Any, template: str, phrase: str) -> Embedding:
    before, _, after = template.partition("{phrase}")
    tokens = list(model.tokenize(before + phrase + after))
    if not tokens:
        raise UserError(f"the phrase {phrase!r} has no tokens", "a phrase the tokenizer knows")
    ahead = list(model.tokenize(before.rstrip())) if before.strip() else list(model.tokenize("a"))[:-1]
    first = next((i for i, (a, b) in enumerate(zip(ahead, tokens, strict=False)) if a != b), len(ahead))
    return Embedding(tuple(tokens), min(first, len(tokens) - 1))


def _checks(embeddings: np.ndarray, topics: np.ndarray, draws: int, seed: int) -> pd.DataFrame:
    """How flat the space is, and whether a phrase's nearest neighbour shares its topic, beside shuffled topics."""
    atoms = unit_atoms(embeddings)
    centred = embeddings.astype(np.float64) - embeddings.mean(0, dtype=np.float64)
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2
    nan = float("nan")
    rows = [{"measure": "first_component", "value": spectrum[0] / spectrum.sum(), "ci_low": nan, "ci_high": nan,
             "control": nan, "control_low": nan, "control_high": nan, "p": nan, "n": len(atoms)}]  # fmt: skip
    known = np.flatnonzero(topics != "")
    if len(np.unique(topics[known])) > 1:
        part, names = atoms[known], np.unique(topics[known], return_inverse=True)[1]
        likeness = part @ part.T
        np.fill_diagonal(likeness, -np.inf)
        nearest = likeness.argmax(1)
        same = (names == names[nearest]).astype(np.float64)
        shuffled = nulls.permuted(names, np.arange(len(names)), draws, [seed, 41])
        null = (shuffled == shuffled[nearest]).mean(0)
        found = stats.mean_interval(same, np.arange(len(same)), draws=draws, seed=[seed, 43])
        low, high = np.quantile(null, [0.025, 0.975])
        rows.append({"measure": "topic_neighbour", "value": found.value, "ci_low": found.low, "ci_high": found.high,
                     "control": null.mean(), "control_low": low, "control_high": high,
                     "p": nulls.p_value(found.value, null), "n": len(same)})  # fmt: skip
    return pd.DataFrame(rows)


def _blocks(artifact: Artifact) -> list[Block]:
    checks: Any = artifact.table("checks").set_index("measure")
    blocks: list[Block] = []
    if "topic_neighbour" in checks.index:
        cell = {"measure": "topic_neighbour"}
        blocks.append(Text(
            "The nearest other phrase shares the topic of {value} of {n} phrases that have one (95% interval, phrases "
            "resampled), against {control} when the topics are shuffled (p = {p}): the model's embedding tells topics "
            "apart to that extent.",
            {"value": Ref("checks", cell, "value", ".1%", ci=True), "n": Ref("checks", cell, "n", "d"),
             "control": Ref("checks", cell, "control", ".1%"), "p": Ref("checks", cell, "p")},
            "headline",
        ))  # fmt: skip
    flat = {"measure": "first_component"}
    said = {"share": Ref("checks", flat, "value", ".1%"), "n": Ref("checks", flat, "n", "d")}
    if float(checks["value"]["first_component"]) > FLAT:
        blocks.append(Text(
            "{share} of the variance of the {n} embeddings lies along one direction: they hardly differ otherwise. "
            "Phrases read at the first position do this; put words before {{phrase}} in the template.", said, "warning",
        ))  # fmt: skip
    else:
        blocks.append(Text("{share} of the variance of the {n} embeddings lies along one direction.", said, "method"))
    sources: Any = artifact.table("sources")
    if ((sources["source"] == "mined") & (sources["phrases"] == 0)).any():
        blocks.append(Text(
            "Mining was asked for and {n} phrases were found: no run of words is in enough documents without being in "
            "nearly all of them.", {"n": Ref("sources", {"source": "mined"}, "phrases", "d")}, "warning",
        ))  # fmt: skip
    blocks += [
        Table("sources", "Where the phrases are from"),
        Table("phrases", "Phrases", ["phrase", "source", "topic", "tokens", "documents"], limit=20),
        Text(
            "A phrase's embedding is what the model would say next after it, not a definition of it; the list sets "
            "what a neuron can be called, and says nothing of what is not on it.", kind="limit",
        ),
    ]  # fmt: skip
    return blocks
