"""Texts to score: prompt, the model's own words up to its answer, then the right answer, teacher-forced.

The score of a row is log p(right answer | prompt, the response's own words before its answer). Where the row was graded
right, the right answer is the row's own (it may be an alias of the target); where it was wrong, the task's target.
So without an edit a right row's answer is what greedy decoding writes, and a wrong row's is not. Where the task offers
choices, each choice is scored whole and the best one, its log-probability divided as the generation did
(`normalise`), is the answer; where it was scored by letters, each letter is, spelled as the chosen one (" A" or "A").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gnomon.errors import UserError
from gnomon.interventions.base import places

MAX_TARGET = 24
"""Tokens of a target that are scored at most; choices are scored whole, or the best one would be another."""

Encode = Callable[[str], list[int]]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Item:
    """One text. `unit`: generation row, or number of a neutral text; `choice`: which choice, -1 where there are none.

    tokens[:keep] are touched by no edit; tokens[score_from:] are scored; prompt_len tokens are the prompt.
    """

    unit: int
    choice: int
    tokens: tuple[int, ...]
    prompt_len: int
    keep: int
    score_from: int


def kept(where: Any, prompt_len: int) -> int:
    """How many leading tokens an edit at `where` leaves alone (the last prompt token is always run again: it predicts
    the first generated one)."""
    if isinstance(where, str):
        return 0 if {"all", "prompt"} & set(places(where)) else prompt_len - 1
    return min([prompt_len - 1, *(int(i) for i in where)])


def task_items(table: pd.DataFrame, where: Any, encode: Encode, decode: Decode) -> list[Item]:
    """The texts of generation rows (with label True or False), one a row, or one for each choice of a row.

    Args:
        table: generations: row, token_ids, prompt_len, text, answer, answer_token, label, target, choices, scores, and
            meta, where choices may have been scored by letters.
        where: where edits will apply.
        encode, decode: the model's tokenizer, without special tokens.
    """
    out: list[Item] = []
    for r in table.to_dict("records"):
        ids, prompt_len = [int(i) for i in r["token_ids"]], int(r["prompt_len"])
        prompt, keep = ids[:prompt_len], kept(where, prompt_len)
        choices = [str(c) for c in r["choices"]] if r["choices"] is not None else []
        if choices and r["scores"] is not None and len(r["scores"]):
            space = _space(decode(prompt[-1:]))
            letters = _letters(r, len(choices))
            said = _spelled(letters, ids[prompt_len:], space, encode) or [encode(space + c) for c in choices]
            out += [_item(int(r["row"]), i, prompt, [], target, keep, None) for i, target in enumerate(said)]
            continue
        before, lead = _before_answer(ids, prompt_len, r, decode)
        own = r["answer"] if bool(r["label"]) else None
        right = own if isinstance(own, str) and own else str(r["target"])
        if not before and lead is None:
            lead = _space(decode(prompt[-1:]))
        out.append(_item(int(r["row"]), -1, prompt, before, encode((lead or "") + right), keep))
    return out


def _letters(row: Mapping[Any, Any], n: int) -> list[str]:
    """The letters of a row's choices, where it was scored by them."""
    meta = str(row.get("meta") or "")
    found = json.loads(meta).get("letters", []) if '"letter":' in meta else []
    return [str(letter) for letter in found] if len(found) == n else []


def _spelled(letters: Sequence[str], chosen: list[int], space: str, encode: Encode) -> list[list[int]]:
    """Tokens of each letter with the space, or without, that the chosen one's token has (the other one, where only that
    is a single token)."""
    ways = dict.fromkeys((space, " ", ""))
    first = next((way for way in ways if chosen in [encode(way + letter) for letter in letters]), space)
    tried = [[encode(way + letter) for way in dict.fromkeys((first, *ways))] for letter in letters]
    return [next((ids for ids in each if len(ids) == 1), each[0]) for each in tried]


def _item(
    unit: int, choice: int, prompt: list[int], before: list[int], target: list[int], keep: int,
    most: int | None = MAX_TARGET,
) -> Item:  # fmt: skip
    if not target:
        raise UserError(f"row {unit} has a target of no tokens", "a target that is some text")
    tokens = (*prompt, *before, *target[:most])
    return Item(unit, choice, tokens, len(prompt), keep, len(prompt) + len(before))


def _space(last: str) -> str:
    """What separates a prompt from its continuation: nothing after white space or a special token, else a space."""
    return "" if not last or last[-1].isspace() else " "


def _before_answer(
    ids: list[int], prompt_len: int, row: Mapping[Any, Any], decode: Decode
) -> tuple[list[int], str | None]:
    """Response tokens before the parsed answer's first one, and the white space that the answer begins with.

    ([], None) where no answer was parsed or its text is not in the response as it stands.
    """
    answer, token = row.get("answer"), row.get("answer_token")
    last = -1 if token is None or token != token else int(token)
    if not isinstance(answer, str) or not answer or not prompt_len <= last < len(ids):
        return [], None
    wanted, end = answer.casefold(), last + 1
    for start in range(last, prompt_len - 1, -1):
        text = decode(ids[start:end])
        if wanted in text.casefold():
            at = text.casefold().index(wanted)
            if text[:at].strip():  # the first token holds the end of another word: the answer cannot be cut out
                return [], None
            return ids[prompt_len:start], text[:at]
        if end - start > 2 * MAX_TARGET:
            break
    return [], None


def text_items(texts: Sequence[str], where: Any, tokenize: Encode) -> list[Item]:
    """Neutral texts: the first half is the prompt, the second half is scored, and the edit applies as in the task."""
    out = []
    for i, text in enumerate(texts):
        ids = tokenize(text)
        half = max(1, len(ids) // 2)
        out.append(Item(i, -1, tuple(ids), half, kept(where, half), half))
    return out


def pair_items(pairs: Sequence[tuple[str, str]], where: Any, tokenize: Encode, encode: Encode) -> list[Item]:
    """Unrelated facts: prompt, then its one next word."""
    out = []
    for i, (prompt, answer) in enumerate(pairs):
        ids = tokenize(prompt)
        out.append(Item(i, -1, (*ids, *encode(" " + answer)), len(ids), kept(where, len(ids)), len(ids)))
    return out


def batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Batches of tails of similar length (that is what is run again and again); texts of which no token is kept do not
    mix with others. A rule of the data only."""
    out: list[list[Item]] = []
    for item in in_order(items):
        fits = out and len(out[-1]) < size and (out[-1][-1].keep == 0) == (item.keep == 0)
        if fits:
            out[-1].append(item)
        else:
            out.append([item])
    return out


def in_order(items: Sequence[Item]) -> list[Item]:
    """Sorted by tail, then by kept tokens."""
    return sorted(items, key=lambda i: (i.keep == 0, len(i.tokens) - i.keep, i.keep, i.unit, i.choice))


def spread(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """At most `n` rows, evenly spaced over the table in the order of examples."""
    table = table.sort_values(["example_index", "row"])
    if len(table) <= n:
        return table
    return table.iloc[np.unique(np.arange(n) * len(table) // n)]


def scored_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that can be scored: one a question (the coolest, first sample), graded right or wrong."""
    graded = table.loc[np.asarray(table["label"].notna())]
    return graded.sort_values(["example_index", "temperature", "sample", "row"]).drop_duplicates("example_id")
