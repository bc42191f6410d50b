"""Who is swapped with whom: sure and unsure items of different groups, alike in length, and donors of one's own kind.

Items are ranked by stated confidence; the top and the bottom share are the sure and the unsure ones. A pair joins one
of each so that the sum of differences in length (prompt and answer, in tokens) is smallest; of more pairs than are
wanted those that fit best are kept. The control donor of an item is another item of its own kind, matched likewise,
that is in no pair: whatever a donor does by itself would else be counted in two pairs, and pairs are what is resampled.
Donors with the recipient's very answer are avoided as far as possible: items of one kind share answers more often, and
a swapped answer would then look like swapped confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.swap_items import Exchange, Read, View
from gnomon.errors import UserError
from gnomon.store import Artifact

PAIRS = pa.schema(
    [("set", pa.string()), ("pair", pa.int64()), ("high", pa.int64()), ("low", pa.int64()),
     ("high_confidence", pa.float64()), ("low_confidence", pa.float64()), ("gap", pa.float64()),
     ("high_control", pa.int64()), ("low_control", pa.int64()), ("length_difference", pa.int64()),
     ("same_answer", pa.float64()), ("same_answer_control", pa.float64())]
)  # fmt: skip
FAR, ALIKE = 1e9, 1e5
MAX_ANSWER = 24
"""Tokens of an answer whose probability is measured at most."""


def candidates(table: pd.DataFrame, told: Artifact, column: str = "confidence") -> pd.DataFrame:
    """Generation rows that the pass has a confidence for and whose answer can be replayed; `confidence`, `answer_len`.

    `column` of the pass is what counts as stated: `normal` or `reversed` where one order of the bins alone is swapped.

    UserError where the pass's rows are not those of this generation.
    """
    own = told.table("confidence", ("row", "example_id", column)).rename(columns={column: "confidence"})
    joined = table.drop(columns=["confidence"], errors="ignore").merge(
        own.rename(columns={"example_id": "_example"}), on="row", how="inner"
    )
    if len(joined) < len(own) or bool((joined["example_id"] != joined["_example"]).any()):
        raise UserError(f"the pass {told.name} is of other rows", "a pass of this generation", "swap.from: ...")
    ends = [min(a, p + MAX_ANSWER) for a, p in zip(_answer_ends(joined), joined["prompt_len"], strict=True)]
    joined = joined.assign(answer_len=np.array(ends, dtype=np.int64) - joined["prompt_len"].to_numpy())
    good = np.isfinite(joined["confidence"].to_numpy(dtype=np.float64)) & (joined["prompt_len"] >= 2)
    return joined.loc[np.asarray(good & (joined["answer_len"] >= 1))].drop(columns="_example").reset_index(drop=True)


def _answer_ends(table: pd.DataFrame) -> list[int]:
    """One past the last token of each row's answer; of all that was said where it is not known."""
    return [len(ids) if at is None or at != at else int(at) + 1
            for ids, at in zip(table["token_ids"], table["answer_token"], strict=True)]  # fmt: skip


def both_ways(pair: Mapping[str, Any]) -> list[Exchange]:
    """A pair's two swaps: the unsure one receives, and the sure one."""
    high, low, number = int(pair["high"]), int(pair["low"]), int(pair["pair"])
    return [
        Exchange(number, "up", low, (("other", high), ("same", int(pair["low_control"])))),
        Exchange(number, "down", high, (("other", low), ("same", int(pair["high_control"])))),
    ]


def answer_view(line: Mapping[str, Any]) -> View:
    """The generation's own text up to the end of the answer."""
    prompt = int(line["prompt_len"])
    ids = tuple(int(i) for i in line["token_ids"])[: prompt + int(line["answer_len"])]
    return View(ids, Read(score_from=prompt), {"last_prompt": prompt - 1})


def pairs_of(items: pd.DataFrame, share: float, most: int, least_gap: float) -> pd.DataFrame:
    """Pairs as lines of `PAIRS` (without `set`), by length. No item is in two of them, as donor or as recipient.

    Args:
        items: row, group, confidence (finite), prompt_len, answer_len, answer. A group's first row stands for it.
        share: of the items that count as sure, and as many that count as unsure.
        most: pairs at most; half of the items of a kind at most, the others are control donors.
        least_gap: items whose stated confidence differs by less than this are not of different kinds.

    Returns:
        no line at all where fewer than two pairs are left: nobody could then be resampled.
    """
    own = items.sort_values("row").drop_duplicates("group").sort_values(["confidence", "row"], kind="stable")
    count = int(share * len(own))
    low, high = own.iloc[:count], own.iloc[len(own) - count :]
    cost = _cost(high, low)
    gap = np.asarray(high["confidence"])[:, None] - np.asarray(low["confidence"])[None]
    apart = gap >= least_gap
    found = [(i, j) for i, j in _assigned(np.where(apart, cost, FAR)) if apart[i, j]]
    found = sorted(found, key=lambda ij: (cost[ij], ij))[: min(most, most_pairs(share, len(own)))]
    one, other = [i for i, _ in found], [j for _, j in found]
    high_donors, low_donors = _controls(high, one, apart[:, other].T), _controls(low, other, apart[one])
    kept = [k for k in range(len(found)) if k in high_donors and k in low_donors]
    if len(kept) < 2:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in PAIRS.names[1:]})
    size = np.array([high["prompt_len"].iloc[one[k]] + low["prompt_len"].iloc[other[k]] for k in kept])
    order = np.lexsort(([high["row"].iloc[one[k]] for k in kept], size))
    kept = [kept[k] for k in order]
    high_control, low_control = high.iloc[[high_donors[k] for k in kept]], low.iloc[[low_donors[k] for k in kept]]
    high, low = high.iloc[[one[k] for k in kept]], low.iloc[[other[k] for k in kept]]
    cost = np.diagonal(_cost(high, low))
    alike = [np.diagonal(_cost(a, b)) >= ALIKE for a, b in ((high, high_control), (low, low_control))]
    return pd.DataFrame({
        "pair": np.arange(len(high)), "high": high["row"].to_numpy(), "low": low["row"].to_numpy(),
        "high_confidence": high["confidence"].to_numpy(), "low_confidence": low["confidence"].to_numpy(),
        "gap": high["confidence"].to_numpy() - low["confidence"].to_numpy(),
        "high_control": high_control["row"].to_numpy(), "low_control": low_control["row"].to_numpy(),
        "length_difference": (cost % ALIKE).astype(np.int64), "same_answer": (cost >= ALIKE).astype(np.float64),
        "same_answer_control": np.mean(alike, axis=0),
    })  # fmt: skip


def most_pairs(share: float, groups: int) -> int:
    """Pairs that so many groups can give: half of each kind, since the other half are control donors."""
    return int(share * groups) // 2


def _cost(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """Difference in prompt tokens plus difference in answer tokens, and `ALIKE` where the answers are one, `[a, b]`."""
    parts = [
        np.abs(np.asarray(a[c], dtype=np.float64)[:, None] - np.asarray(b[c], dtype=np.float64)[None])
        for c in ("prompt_len", "answer_len")
    ]
    left, right = (np.array([str(v).strip().casefold() for v in x["answer"]], dtype=object) for x in (a, b))
    return parts[0] + parts[1] + ALIKE * (left[:, None] == right[None])


def _assigned(cost: np.ndarray) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment

    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True)]


def _controls(kind: pd.DataFrame, paired: Sequence[int], apart: np.ndarray) -> dict[int, int]:
    """Pair -> place in `kind` of its control donor: none that is in a pair, each once, alike in length.

    `apart [pairs, kind]`: whose confidence differs from that of the pair's other item.
    """
    free = np.setdiff1d(np.arange(len(kind)), paired)
    cost = np.where(apart[:, free], _cost(kind.iloc[list(paired)], kind.iloc[free]), FAR)
    return {k: int(free[j]) for k, j in _assigned(cost) if cost[k, j] < FAR}
