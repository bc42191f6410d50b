"""The tokens of a feature in words: those that shift under its patch, and those that its decoder row moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gnomon.text import printable

MINUS = "\u2212"
WORDS = 8
"""Tokens of each sort that the table of features names."""
TOKEN = ("token", "token_id", "condition", "count", "n", "against_count", "against_n", "log_odds", "ci_low", "ci_high",
         "q")  # fmt: skip


def by_name(rows: Any, columns: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Records of a table by the feature they name, in its order; rows that name none are left out."""
    out: dict[str, list[dict[str, Any]]] = {}
    lists = [rows[c].tolist() for c in columns]
    for name, *values in zip(rows["name"].tolist(), *lists, strict=True):
        if isinstance(name, str) and name:
            out.setdefault(name, []).append(dict(zip(columns, values, strict=True)))
    return out


def under_patches(tokens: pd.DataFrame, comparison: str = "patches") -> pd.DataFrame:
    """The rows of one comparison: patches of the features, or controls (of random latents)."""
    return tokens.loc[np.asarray(tokens["comparison"] == comparison) & np.asarray(tokens["name"].fillna("") != "")]


def found_tokens(tokens: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """By feature: its tokens that were found, largest |log-odds| first; an empty list where none was."""
    tokens = under_patches(tokens)
    out: dict[str, list[dict[str, Any]]] = {str(n): [] for n in tokens["name"].unique()}
    mine = tokens.loc[np.asarray(tokens["found"].fillna(False), dtype=bool)]
    for name, part in by_name(mine, TOKEN).items():
        out[name] = sorted(part, key=lambda r: (-abs(r["log_odds"]), r["token_id"]))
    return out


def token_words(tokens: pd.DataFrame | None) -> pd.DataFrame:
    """By feature: the found tokens of its patches in words, strongest first; "" where none of those tested was."""
    found = {} if tokens is None else found_tokens(tokens)
    out = []
    for name, part in found.items():
        said = dict.fromkeys(f"{shown(r['token'])} {'+' if r['log_odds'] > 0 else MINUS}" for r in part)
        out.append({"name": name, "tokens": _some(list(said))})
    return pd.DataFrame(out, columns=["name", "tokens"])


def logit_words(logits: pd.DataFrame | None) -> pd.DataFrame:
    """By feature: what its decoder row raises and lowers most, in words."""
    out = []
    for name, part in ({} if logits is None else by_name(logits, ("token", "rank", "effect"))).items():
        ranked = sorted(part, key=lambda r: r["rank"])
        out.append({
            "name": name, "raises": _some([shown(r["token"]) for r in ranked if r["effect"] > 0]),
            "lowers": _some([shown(r["token"]) for r in ranked if r["effect"] < 0]),
        })  # fmt: skip
    return pd.DataFrame(out, columns=["name", "raises", "lowers"])


def shown(token: object) -> str:
    """A token as a reader can see it: its leading space as a mark, what is hidden or moves others written out."""
    text = printable(str(token).replace("\t", "\\t").replace("\n", "\\n"))
    lead = len(text) - len(text.lstrip(" "))
    return "\u2423" * lead + text[lead:]


def _some(words: Sequence[str]) -> str:
    more = f", and {len(words) - WORDS} more" if len(words) > WORDS else ""
    return ", ".join(words[:WORDS]) + more
