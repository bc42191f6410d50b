"""Texts that end where the model is about to write its answer: what the lens reads, and the right next token there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from gnomon.causal.collect import right_choices
from gnomon.causal.items import Decode, Encode, scored_rows, spread, task_items
from gnomon.errors import UserError

ReadPosition = Literal["last_prompt", "before_answer"]


@dataclass(frozen=True)
class ReadText:
    """One row's text up to and including the read position.

    `target_token` is the first token of the right answer: what should come next at `before_answer`, and at
    `last_prompt` where the model answers at once; -1 at `last_prompt` where words of its own come before the answer.
    """

    row: int
    tokens: tuple[int, ...]
    prompt_len: int
    target_token: int

    @property
    def read_at(self) -> int:
        """Index of the last token: the one whose residual stream is read."""
        return len(self.tokens) - 1


def read_texts(table: pd.DataFrame, position: ReadPosition, encode: Encode, decode: Decode) -> list[ReadText]:
    """The texts of graded rows (one a question), in the table's order.

    Args:
        table: generations with a label; one row an example (`causal.items.scored_rows`).
        position: `last_prompt` ends at the prompt's last token; `before_answer` at the last token before the parsed
            answer (the same, where the model answers at once or where no answer could be cut out).
        encode, decode: the model's tokenizer, without special tokens.
    """
    right = right_choices(table)
    items = {}
    for item in task_items(table, "last_prompt+generated", encode, decode):
        if item.choice < 0 or item.choice == right.get(item.unit):
            items[item.unit] = item
    out = []
    for row in table["row"].tolist():
        item = items[int(row)]
        end = item.prompt_len if position == "last_prompt" else item.score_from
        direct = end == item.score_from
        out.append(ReadText(int(row), item.tokens[:end], item.prompt_len, item.tokens[end] if direct else -1))
    return out


def read_rows(table: pd.DataFrame, most: int | None, what: str) -> pd.DataFrame:
    """Graded rows, one a question, at most `most` evenly spaced; UserError where fewer than two are left."""
    rows = scored_rows(table)
    rows = rows if most is None else spread(rows, most)
    if len(rows) < 2:
        raise UserError(f"{what} has {len(rows)} graded rows", "at least 2", "raise generate.n")
    return rows.sort_values("row").reset_index(drop=True)
