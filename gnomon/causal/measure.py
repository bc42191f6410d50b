"""What a trial must know before it starts: activations at the direction's site, the unit of steering, means, energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gnomon.causal.items import spread
from gnomon.errors import UserError
from gnomon.halving import run_halving
from gnomon.interventions.base import Where, places
from gnomon.methods.shuffled import unmasked
from gnomon.sites import RAGGED
from gnomon.step import Context, Inputs
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

MAX_TOKENS = 256
"""Leading tokens of a fit text that are measured at most, where its prompt is not as long."""
MAX_RESPONSE = 64
"""Tokens of a response that are measured after such a prompt."""


@dataclass(frozen=True)
class Scale:
    """Measured on a sample of fit texts, massive tokens left out.

    unit: median norm of all tokens at the direction's site. edited `[m, d]`: activations there of the tokens that an
    edit touches. means: mean activation `[d]` of such tokens at each ablated site.
    """

    unit: float
    edited: np.ndarray
    means: dict[Site, np.ndarray]
    masked: float
    tokens: int


def edited_tokens(where: Where, length: int, prompt_len: int) -> np.ndarray:
    """Which of a text's tokens an edit at `where` touches: `[length]` bool."""
    at = np.arange(length)
    if not isinstance(where, str):
        return np.isin(at, where)
    chosen = np.zeros(length, dtype=bool)
    for place in places(where):
        chosen |= {
            "all": np.ones(length, dtype=bool),
            "prompt": at < prompt_len,
            "generated": at >= prompt_len,
            "last_prompt": at == prompt_len - 1,
        }[str(place)]
    return chosen


def read_length(prompt_len: int) -> int:
    """How many of a text's tokens are read at most; the answer's place is among them however long the prompt is."""
    return MAX_TOKENS if prompt_len < MAX_TOKENS else prompt_len + MAX_RESPONSE


def measure(
    ctx: Context, fit: pd.DataFrame, site: Site, ablated: Sequence[Site], where: Where, rows: int, batch_size: int
) -> Scale:
    """Run a sample of fit texts (prompt and response) and measure them; see `Scale`.

    UserError where `where` names no token of any of these texts.
    """
    sites = list(dict.fromkeys([site, *ablated]))
    values, touched = _read(ctx, fit, sites, where, rows, batch_size)
    keep, unit = unmasked(values[site])
    means = {s: _mean(values[s], touched, where) for s in sites}
    return Scale(unit, values[site][touched & keep], means, float(1 - keep.mean()), len(touched))


def component_means(
    ctx: Context, fit: pd.DataFrame, sites: Sequence[Site], where: Where, rows: int, batch_size: int
) -> dict[Site, np.ndarray]:
    """Mean activation `[d]` at each site over the edited tokens of a sample of fit texts, massive ones left out."""
    values, touched = _read(ctx, fit, sites, where, rows, batch_size)
    return {site: _mean(values[site], touched, where) for site in sites}


def _mean(x: np.ndarray, touched: np.ndarray, where: Where) -> np.ndarray:
    keep, _ = unmasked(x)
    if not (touched & keep).any():
        raise UserError(f"where: {where} names no token of the fit texts", "a place that the texts have")
    return x[touched & keep].mean(0)


def _read(
    ctx: Context, fit: pd.DataFrame, sites: Sequence[Site], where: Where, rows: int, batch_size: int
) -> tuple[dict[Site, np.ndarray], np.ndarray]:
    """All tokens' activations of a sample of fit texts `[tokens, d]` by site, and which of them an edit touches."""
    model = ctx.model()
    values: dict[Site, list[np.ndarray]] = {s: [] for s in sites}
    touched: list[np.ndarray] = []
    for part in _batches(spread(fit, rows), batch_size):
        lengths = zip(part["token_ids"], part["prompt_len"], strict=True)
        texts = [[int(i) for i in ids][: read_length(int(p))] for ids, p in lengths]
        touched += [edited_tokens(where, len(t), int(p)) for t, p in zip(texts, part["prompt_len"], strict=True)]
        for out in run_halving(lambda some: [_values(model, some, sites)], texts, None):
            for s in sites:
                values[s].append(out[s])
    return {s: np.concatenate(parts) for s, parts in values.items()}, np.concatenate(touched)


def _values(model: Model, texts: Sequence[list[int]], sites: Sequence[Site]) -> dict[Site, np.ndarray]:
    out = model.forward(texts, read=sites)
    return {s: out.values(s).float().cpu().numpy() for s in sites}


def activations(
    inputs: Inputs, ctx: Context, table: pd.DataFrame, site: Site, position: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Activations `[n, d]` float32 at a site and position of the rows of `table`, and which rows have that position.

    Taken from where they were captured; else the rows' own tokens are run again, teacher-forced, up to that layer.
    """
    if position in RAGGED:
        raise UserError(f"position {position} has many tokens a row", "last_prompt, last or answer")
    try:
        found = inputs.activations(site, position)
    except UserError:
        return _captured_now(ctx, table, site, position, batch_size)
    here = np.isin(np.asarray(table["row"]), np.asarray(found.rows))
    return found.at(np.asarray(table["row"])[here]), here


def _captured_now(
    ctx: Context, table: pd.DataFrame, site: Site, position: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    model = ctx.model()
    ends = token_of(table, position)
    here = ends >= 0
    values = np.zeros((int(here.sum()), model.site_shape(site)), dtype=np.float32)
    part = table.loc[here].assign(_end=ends[here], _slot=np.arange(int(here.sum()))).sort_values("_end")
    with ctx.progress(f"capture {site}@{position}", len(part)) as advance:
        for batch in _batches(part, batch_size):
            pairs = zip(batch["token_ids"], batch["_end"], strict=True)
            texts = [[int(i) for i in ids][: int(end) + 1] for ids, end in pairs]

            def read(some: Sequence[list[int]]) -> list[np.ndarray]:
                x = model.forward(some, read=[site]).acts[site]
                return [x[i, len(text) - 1].float().cpu().numpy() for i, text in enumerate(some)]

            values[batch["_slot"].to_numpy()] = np.stack(run_halving(read, texts, None))
            advance(len(texts))
    return values, here


def token_of(table: pd.DataFrame, position: str) -> np.ndarray:
    """Index of each row's token at `last_prompt`, `last` or `answer`: `[n]`, -1 where it has none."""
    if position == "last_prompt":
        return table["prompt_len"].to_numpy().astype(np.int64) - 1
    if position == "last":
        return np.array([len(ids) - 1 for ids in table["token_ids"]], dtype=np.int64)
    if position == "answer":
        return table["answer_token"].fillna(-1).to_numpy().astype(np.int64)
    raise UserError(f"position {position!r} is not one token a row", "last_prompt, last or answer")


def _batches(table: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """Batches of similar length."""
    order = np.argsort([len(ids) for ids in table["token_ids"]], kind="stable")
    return [table.iloc[order[a : a + size]] for a in range(0, len(order), size)]
