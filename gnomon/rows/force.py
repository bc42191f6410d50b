"""The worker of `capture`: one shard of an earlier generation teacher-forced, the wanted tokens kept.

Each row's tokens run as one text, only as far as its last wanted token, through the blocks up to the last wanted
site; texts that are alike run once. Batches are sorted by length and filled up to a budget of padded tokens; a causal
model needs no attention mask for right padding, and no vocabulary logits are made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.errors import UserError
from gnomon.halving import marked, run_halving
from gnomon.models.batching import padding, plan
from gnomon.reading import read_table
from gnomon.rows.gather import Gather, Where, from_forward
from gnomon.rows.positions import span_of
from gnomon.step import ModelSpec
from gnomon.types import Example, Site
from gnomon.writer import Writer

COLUMNS = ("row", "example_id", "prompt", "prompt_hash", "prompt_len", "token_ids", "answer_token")


@dataclass(frozen=True)
class Text:
    """Tokens that are run once, and the rows (with what their positions are counted from) that want some of them."""

    tokens: tuple[int, ...]
    wanted: tuple[Where, ...]


@dataclass
class Forcer:
    """Picklable: what a process needs to capture shards of the generation in folder `source`."""

    spec: ModelSpec
    source: Path
    path: Path
    sites: tuple[str, ...]
    positions: tuple[str, ...]
    dtype: str
    batch_tokens: int
    model: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"model": None}

    def open(self) -> None:
        """Load the model, once a process."""
        self.model = self.spec.load()

    def __call__(self, shard: tuple[int, str]) -> dict[str, Any]:
        """Capture the rows of one shard file and write them under `index`, the marker last."""
        index, stem = shard
        began = time.perf_counter()
        lines = read_table(self.source / "generations" / f"{stem}.parquet", COLUMNS).to_pylist()
        same_prompts(self.model.tokenizer, lines)
        texts = needed(lines, self.positions)
        gather = Gather(self.model, [Site.parse(s) for s in self.sites], self.positions, self.dtype)
        lengths = [len(text.tokens) for text in texts]
        batches = plan(lengths, len(texts), len(texts), self.batch_tokens)[0] if texts else []
        halved: list[int] = []
        for batch in batches:
            run_halving(lambda some: self._batch(some, gather), [texts[i] for i in batch], halved)
        files = Writer.attach(self.path).shard(index)
        info = {
            "rows": len(lines),
            "texts": len(texts),
            "tokens": sum(lengths),
            "padding": round(padding([batches], lengths), 4),
            "batches": [[w.row for i in batch for w in texts[i].wanted] for batch in batches],
            "activation_bytes": gather.write(files),
            "seconds": round(time.perf_counter() - began, 3),
        } | marked(halved)
        files.finish(info)
        return info

    def _batch(self, texts: Sequence[Text], gather: Gather) -> list[None]:
        out = self.model.forward([list(text.tokens) for text in texts], read=self.sites)
        placed = [
            Where(w.row, slot, w.prompt_len, w.length, w.answer_token)
            for slot, text in enumerate(texts)
            for w in text.wanted
        ]
        gather.take(placed, lambda picks: from_forward(out, picks))
        return []


def needed(lines: Sequence[dict[str, Any]], positions: Sequence[str]) -> list[Text]:
    """The texts to run: each row cut behind its last wanted token, rows without one left out, like texts joined."""
    texts: dict[tuple[int, ...], list[Where]] = {}
    for each in lines:
        ids, prompt_len, answer = each["token_ids"], int(each["prompt_len"]), each["answer_token"]
        where = Where(int(each["row"]), 0, prompt_len, len(ids), None if answer is None else int(answer))
        spans = [span_of(p, prompt_len, len(ids), where.answer_token) for p in positions]
        end = max((span[1] for span in spans if span is not None), default=0)
        if end:
            texts.setdefault(tuple(ids[:end]), []).append(where)
    return [Text(tokens, tuple(wanted)) for tokens, wanted in texts.items()]


def same_prompts(tokenizer: Any, lines: Sequence[dict[str, Any]]) -> None:
    """Refuse rows whose prompt, by this model's tokenizer, has other tokens than the row holds.

    A row's hash tells whether its prompt was plain text (then it is the text's own) or made by a chat template, whose
    text has its special tokens already. Raises UserError with the count and the first mismatch.
    """
    wrong: list[tuple[dict[str, Any], int]] = []
    for each in lines:
        plain = Example("", each["prompt"], "").prompt_hash == each["prompt_hash"]
        ids = tokenizer(each["prompt"], add_special_tokens=plain)["input_ids"]
        if list(ids) != list(each["token_ids"][: each["prompt_len"]]):
            wrong.append((each, len(ids)))
    if wrong:
        first, count = wrong[0]
        raise UserError(
            f"{len(wrong)} of {len(lines)} prompts have other tokens here than in the generation; the first is example "
            f"{first['example_id']!r} (row {first['row']}, prompt hash {first['prompt_hash']}): {count} tokens, "
            f"{first['prompt_len']} there",
            "the tokenizer that the generation was made with", "capture with the generation's own model",
        )  # fmt: skip
