"""Our side of the comparisons: the model, the prompts as a generation, and the path that the steps take.

The workers of the steps `generate` and `capture` do the work; only the last act, writing files, can be left out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prompts import prompts
from gnomon.models.batching import plan
from gnomon.rows import table
from gnomon.rows.ask import Asking, ask_batch
from gnomon.rows.force import Forcer, Text, needed
from gnomon.rows.gather import Gather, Where, from_forward
from gnomon.rows.plan import Row, lay_out
from gnomon.rows.table import Answer, line
from gnomon.step import ModelSpec
from gnomon.steps.capture import Capture
from gnomon.types import Example, Grade, Site
from gnomon.writer import Shard, Writer

MODEL = "smollm2-135m"
SITES = "resid_post.*"


class Echo:
    """A task that only asks: every answer counts as right."""

    name = "echo"
    mode = "generate"

    def grade(self, example: Example, text: str) -> Grade:
        """Right."""
        return Grade(True, text)


@dataclass
class Setting:
    """A loaded model, prompts in the order of the data set, and the plan that `generate` makes of them."""

    spec: ModelSpec
    model: Any
    tokens: list[list[int]]
    shards: list[list[list[Row]]]

    @property
    def sites(self) -> list[Site]:
        """resid_post of every block."""
        return Site.expand(SITES, self.model.n_layers)

    @property
    def value_bytes(self) -> int:
        """Bytes of resid_post of every block at every token, float32, no padding."""
        return sum(map(len, self.tokens)) * self.model.n_layers * self.model.d_model * 4


def load(
    n: int, model: str = MODEL, batch_size: int = 16, shard_rows: int = 50, device: str = "cpu", dtype: str = "float32"
) -> Setting:
    """Load the model (on the CPU), tokenise `n` prompts and plan them as `generate` does by default."""
    spec = ModelSpec(model, device=device, dtype=dtype)
    loaded = spec.load()
    texts = prompts(n)
    tokens = [loaded.tokenize(text) for text in texts]
    examples = [Example(str(i), text, "") for i, text in enumerate(texts)]
    ids = [np.array(row, dtype=np.int32) for row in tokens]
    return Setting(spec, loaded, tokens, lay_out(examples, ids, [0.0], 1, batch_size, shard_rows))


# ---------------------------------------------------------------- capture


def write_generation(setting: Setting, folder: Path) -> list[str]:
    """A generation of prompts without answers in `folder`, sharded as planned; returns the shards' names."""
    stems: list[str] = []
    for number, shard in enumerate(setting.shards):
        answers = [
            Answer(row, row.row, str(row.example.prompt), row.example.prompt_hash, row.tokens.tolist(), [], "", "eos",
                   np.zeros(0, np.float32), 0.0, 0.0, 0.0, 0)
            for batch in shard
            for row in batch
        ]  # fmt: skip
        Shard(folder, number).table("generations", table.to_table([line(answer, "", {}) for answer in answers]))
        stems.append(f"{number:05d}")
    return stems


def capture_to_disk(setting: Setting, source: Path, stems: Sequence[str], study: Path) -> Path:
    """The step's own worker over every shard: files, sha256, fsync and markers. Returns the folder."""
    writer = Writer(study, "capture", "benchmark")
    step = Capture(sites=(SITES,), positions=("all",))
    sites = tuple(map(str, setting.sites))
    worker = Forcer(setting.spec, source, writer.path, sites, ("all",), step.dtype, step.batch_tokens)
    worker.open()
    for number, stem in enumerate(stems):
        worker((number, stem))
    return writer.path


def texts_of(setting: Setting) -> list[list[list[Text]]]:
    """The batches that the capture step makes: texts, by batch, by shard."""
    budget = Capture(sites=(SITES,), positions=("all",)).batch_tokens
    out: list[list[list[Text]]] = []
    for shard in setting.shards:
        lines = [
            {"row": row.row, "token_ids": row.tokens.tolist(), "prompt_len": len(row.tokens), "answer_token": None}
            for batch in shard
            for row in batch
        ]
        texts = needed(lines, ("all",))
        lengths = [len(text.tokens) for text in texts]
        out.append([[texts[i] for i in batch] for batch in plan(lengths, len(texts), len(texts), budget)[0]])
    return out


def capture_in_memory(setting: Setting, shards: Sequence[Sequence[Sequence[Text]]]) -> list[Gather]:
    """What the worker does with a shard before it writes: ragged float32 arrays of every site, checked for NaN."""
    out: list[Gather] = []
    for shard in shards:
        gather = Gather(setting.model, setting.sites, ("all",), "float32")
        for batch in shard:
            found = setting.model.forward([text.tokens for text in batch], read=setting.sites)
            wanted = [
                Where(w.row, slot, w.prompt_len, w.length) for slot, text in enumerate(batch) for w in text.wanted
            ]
            gather.take(wanted, lambda picks, found=found: from_forward(found, picks))
        out.append(gather)
    return out


def copy_of(gather: Gather) -> Gather:
    """The same values once more: writing a shard empties what it writes."""
    out = copy.copy(gather)
    out.parts = {key: list(parts) for key, parts in gather.parts.items()}
    return out


def values_in_order(setting: Setting, gathers: Sequence[Gather], layer: int) -> np.ndarray:
    """One block's captured values `[tokens, d_model]`, rows in the order of the data set."""
    index = {row.row: row.index for shard in setting.shards for batch in shard for row in batch}
    found: dict[int, np.ndarray] = {}
    for gather in gathers:
        whole = np.concatenate(gather.parts[setting.sites[layer], "all"])
        ends = np.cumsum(gather.counts["all"])
        found |= {index[row]: part for row, part in zip(gather.rows["all"], np.split(whole, ends[:-1]), strict=True)}
    return np.concatenate([found[i] for i in range(len(found))])


# ---------------------------------------------------------------- generate


def generate_in_memory(
    setting: Setting, new: int, positions: Sequence[str] = ("last_prompt", "last")
) -> tuple[list[list[int]], list[Gather]]:
    """Decode, grade and capture as the worker of `generate` does; new tokens in the order of the data set."""
    asking = Asking(0, new, sites=tuple(map(str, setting.sites)), positions=tuple(positions))
    said: dict[int, list[int]] = {}
    gathers: list[Gather] = []
    for shard in setting.shards:
        gather = Gather(setting.model, setting.sites, positions, "float32")
        for batch in shard:
            for answer in ask_batch(setting.model, Echo(), batch, asking, gather):
                said[answer.row.index] = answer.ids
        gathers.append(gather)
    return [said[i] for i in range(len(setting.tokens))], gathers


def never_stop(model: Any) -> None:
    """Let no end token end an answer, so that every side decodes the same number of tokens."""
    model.stop_ids = frozenset()
