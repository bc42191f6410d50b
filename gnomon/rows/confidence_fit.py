"""What a confidence pass looks at before any work: do prompts fit, can samples be read, is it the same tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gnomon.errors import UserError
from gnomon.models import load_tokenizer
from gnomon.models.tokens import encode_text
from gnomon.rows.confidence_prompts import ask_about
from gnomon.rows.confidence_read import Stating
from gnomon.rows.confidence_work import lines_of
from gnomon.rows.stating_samples import of_choices
from gnomon.step import ModelSpec
from gnomon.tasks.make import make_task

READ = ("row", "split", "round", "label", "text", "finish", "answer", "prompt_len", "token_ids", "messages")
"""Columns of the generations that are looked at."""
LONGEST = 8
"""How many of the longest rows are put into words, to see that they fit the model's context."""


def check_rows(asked: pd.DataFrame, folder: Path, how: Stating, another: bool, spec: ModelSpec) -> None:
    """Refuse rows (`asked`, by row number) that the pass could not ask about; `another`: another model answered."""
    tokenizer = load_tokenizer(spec.name, spec.revision)
    samples = how.ask == "consistency"
    if samples:
        _check_samples(asked, how)
    lengths = np.array(asked["prompt_len"] if samples else [len(ids) for ids in asked["token_ids"]], dtype=np.int64)
    rows = np.asarray(asked.index)[np.argsort(-lengths, kind="stable")[:LONGEST]]
    lines = list(lines_of(folder, rows.tolist()).values())
    if another and not all(_same_tokens(tokenizer, line) for line in lines):
        raise UserError(
            "the answers are of a model with another tokenizer", "models that share one", "ask the model that answered"
        )
    if samples:
        longest, do = int(lengths.max()) + how.max_new_tokens, "a lower max_new_tokens"
    else:
        longest = max(len(ask_about(tokenizer, line, how.words, how.orders[-1]).tokens) for line in lines)
        longest += _behind(tokenizer, how)
        do = "fewer or shorter bins, a shorter question, or max_length in generate"
    context = spec.facts().get("context")
    if context is not None and longest > context:
        raise UserError(f"the longest prompt has {longest} tokens", f"the model reads {context} at most", do)


def _check_samples(asked: pd.DataFrame, how: Stating) -> None:
    """Refuse, of joined generations (no task), all but choices; and answers that no task tells from their text."""
    task = make_task(how.task) if how.task is not None else None
    others = sum(finish != "choice" for finish in asked["finish"])
    if task is None and others:
        raise UserError(
            f"ask: consistency about joined generations, and {others} of {len(asked)} answers are no choices",
            "answers that one task grades, or choices", "ask it of each generation before they are appended",
        )  # fmt: skip
    if task is not None and not of_choices(task) and not any(isinstance(a, str) and a for a in asked["answer"]):
        raise UserError(
            f"ask: consistency, and task {task.name} does not say what the answer of a text is",
            "Grade(answer=...) from grade()", "ask: self or p_true",
        )  # fmt: skip


def _behind(tokenizer: Any, how: Stating) -> int:
    """Most tokens that are fed or written behind a prompt."""
    if how.ask == "verbalised":
        return how.max_new_tokens
    texts = how.scale.texts if how.scale.scoring == "likelihood" else ()
    return max((len(encode_text(tokenizer, " " + text)) for text in texts), default=1)


def _same_tokens(tokenizer: Any, line: Mapping[str, Any]) -> bool:
    """True where this tokenizer gives a row's prompt the tokens that it has."""
    ids = tokenizer(str(line["prompt"]), add_special_tokens=line["messages"] is None)["input_ids"]
    return [int(i) for i in ids] == [int(i) for i in line["token_ids"][: int(line["prompt_len"])]]
