"""Responses as counts of tokens, by the model's own tokenizer; a token as it can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from gnomon.text import printable

VISIBLE = str.maketrans({" ": "\u2423", "\n": "\u23ce", "\t": "\u21e5"})


def readable(token: str) -> str:
    """A token with its spaces, line ends and tabs as signs, and control characters written out (\\x1b)."""
    return printable(token.translate(VISIBLE)) or "(empty)"


class Corpus:
    """Texts counted once each. `tokens [vocabulary]`: token ids, ascending; `counts [texts, vocabulary]`."""

    def __init__(self, texts: Iterable[str], encode: Callable[[str], Sequence[int]]) -> None:
        self.place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids = [np.asarray(encode(text), dtype=np.int64) for text in self.place]
        flat = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)
        self.tokens, columns = np.unique(flat, return_inverse=True)
        lines = np.repeat(np.arange(len(ids)), [len(one) for one in ids])
        ones = np.ones(len(flat), dtype=np.int64)
        self.counts = sparse.csr_array((ones, (lines, columns)), shape=(len(ids), len(self.tokens)))
        self.counts.sum_duplicates()

    def of(self, texts: Iterable[str]) -> Any:
        """Counts of some of the texts, in this order: `[len(texts), vocabulary]`."""
        counts: Any = self.counts
        return counts[[self.place[text] for text in texts]]
