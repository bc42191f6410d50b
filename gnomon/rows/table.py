"""The table `generations`: its schema, and how an answered row becomes a line of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from gnomon.disk import plain
from gnomon.rows.plan import Row
from gnomon.types import Grade, Prompt

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # place in the batch plan; axis 0 of every array
        ("example_index", pa.int64()),  # place in the data set
        ("example_id", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),  # fit, tune, test, or "" where unused
        ("difficulty", pa.float64()),
        ("sample", pa.int64()),
        ("round", pa.int64()),
        ("temperature", pa.float64()),
        ("seed", pa.int64()),  # the run's; in an episode its environment's
        ("condition", pa.string()),
        ("prompt_hash", pa.string()),
        ("prompt", pa.string()),  # as the tokenizer got it
        ("messages", pa.string()),  # of a chat prompt, JSON; null where the prompt is text
        ("prompt_len", pa.int64()),  # tokens
        ("token_ids", pa.list_(pa.int64())),  # prompt and response, no padding, no end token
        ("text", pa.string()),  # the response; in choices mode the chosen one
        ("answer", pa.string()),
        ("label", pa.bool_()),  # null: unparsed
        ("reason", pa.string()),
        ("target", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),  # log-likelihood of each choice, normalised
        ("finish", pa.string()),  # eos, stop, length, choice
        ("logprobs", pa.list_(pa.float32())),  # of each response token
        ("top_ids", pa.list_(pa.list_(pa.int64()))),
        ("top_logits", pa.list_(pa.list_(pa.float32()))),
        ("max_prob", pa.float64()),  # of the first response token's distribution; in choices mode of the choices'
        ("entropy", pa.float64()),  # nats, likewise
        ("margin", pa.float64()),  # first minus second logit, likewise (choices: score)
        ("mean_logprob", pa.float64()),  # over the response's tokens
        ("answer_token", pa.int64()),  # index into token_ids of the parsed answer's last token
        ("baselines", pa.string()),  # JSON: surface features of the question
        ("meta", pa.string()),  # JSON
    ]
)


@dataclass
class Answer:
    """What the model said to one prompt, graded or not yet."""

    row: Row
    number: int
    """The row number: the plan's, plus the round in an episode."""
    prompt: str
    prompt_hash: str
    prompt_ids: list[int]
    ids: list[int]
    text: str
    finish: str
    logprobs: np.ndarray
    max_prob: float
    entropy: float
    margin: float
    seed: int
    round: int = 0
    top_ids: np.ndarray | None = None
    top_logits: np.ndarray | None = None
    scores: list[float] = field(default_factory=list)
    grade: Grade = field(default_factory=lambda: Grade(None))
    answer_token: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    messages: str | None = None
    """The prompt's chat messages as JSON; None where it is text."""


def messages_of(prompt: Prompt) -> str | None:
    """Chat messages as JSON, for the table; None for a text. `json.loads` gives them back."""
    return None if isinstance(prompt, str) else json.dumps([dict(m) for m in prompt], ensure_ascii=False)


def line(answer: Answer, condition: str, baselines: Mapping[str, float]) -> dict[str, Any]:
    """One line of the table."""
    row, example, grade = answer.row, answer.row.example, answer.grade
    label, reason, meta = grade.label, grade.reason, {**example.meta, **answer.meta, **grade.meta}
    if row.reused is not None:
        label, reason = row.reused.label, f"label of {row.reused.source}: {row.reused.reason}".rstrip(": ")
        meta |= {"labels_from": row.reused.source, "own_label": grade.label, "own_reason": grade.reason}
    logprobs = np.asarray(answer.logprobs, dtype=np.float32)
    return {
        "row": answer.number,
        "example_index": row.index,
        "example_id": example.id,
        "group": example.group,
        "split": example.split,
        "difficulty": example.difficulty,
        "sample": row.sample,
        "round": answer.round,
        "temperature": row.temperature,
        "seed": answer.seed,
        "condition": condition,
        "prompt_hash": answer.prompt_hash,
        "prompt": answer.prompt,
        "messages": answer.messages,
        "prompt_len": len(answer.prompt_ids),
        "token_ids": [*answer.prompt_ids, *answer.ids],
        "text": answer.text,
        "answer": grade.answer,
        "label": label,
        "reason": reason,
        "target": example.target,
        "choices": list(example.choices),
        "scores": answer.scores,
        "finish": answer.finish,
        "logprobs": logprobs.tolist(),
        "top_ids": [] if answer.top_ids is None else answer.top_ids.tolist(),
        "top_logits": [] if answer.top_logits is None else answer.top_logits.tolist(),
        "max_prob": answer.max_prob,
        "entropy": answer.entropy,
        "margin": answer.margin,
        "mean_logprob": float(logprobs.astype(np.float64).mean()) if len(logprobs) else None,
        "answer_token": answer.answer_token,
        "baselines": json.dumps({**baselines, "prompt_tokens": float(len(answer.prompt_ids))}, sort_keys=True),
        "meta": json.dumps(meta, sort_keys=True, default=plain, ensure_ascii=False),
    }


def to_table(lines: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Lines, in row order, as a table of `SCHEMA`."""
    return pa.Table.from_pylist(sorted(lines, key=lambda each: each["row"]), schema=SCHEMA)
