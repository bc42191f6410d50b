"""Nearest questions: which other question is written most like this one, and in which words the two differ.

Nearness is the cosine of character n-grams (2 to 4) weighted by tf-idf, so that what all prompts share (template,
worked examples) counts little and a changed number or name much. Cost: n^2 sparse products, in blocks of rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np

BLOCK = 512


def nearest(texts: Sequence[str], groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest text of another group, and its cosine: `[n]` int64 and `[n]` float64.

    Ties go to the first text; -1 and 0 where every other text is of the same group or shares nothing.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    places, best = np.full(len(texts), -1, np.int64), np.zeros(len(texts))
    if len(texts) < 2:
        return places, best
    weigh = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True)
    matrix = weigh.fit_transform(texts).tocsr()
    groups = np.asarray(groups)
    for start in range(0, len(texts), BLOCK):
        rows = slice(start, min(start + BLOCK, len(texts)))
        close = np.asarray((matrix[rows] @ matrix.T).todense())
        close[groups[rows][:, None] == groups[None, :]] = -1
        places[rows], best[rows] = close.argmax(1), close.max(1)
    none = best <= 0
    places[none], best[none] = -1, 0
    return places, np.minimum(best, 1)


def flip_rate(labels: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Share of right rows whose nearest row is wrong, of each column of `labels` `[n, draws]` bool: `[draws]`."""
    right = labels & (near >= 0)[:, None]
    flipped = (right & ~labels[near]).sum(0)
    return flipped / np.maximum(right.sum(0), 1)


def difference(before: str, after: str, most: int = 60) -> str:
    """The words in which two texts differ: `48 -> 49; April -> May`, at most `most` characters of it."""
    a, b = before.split(), after.split()
    parts = [
        f"{' '.join(a[i:j]) or '(nothing)'} -> {' '.join(b[k:m]) or '(nothing)'}"
        for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
        if kind != "equal"
    ]
    text = "; ".join(parts)
    return text if len(text) <= most else text[: most - 1] + "…"
