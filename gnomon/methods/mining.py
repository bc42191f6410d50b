"""Phrases of a text collection, by counting: what a lexicon gains from a task's own words.

A phrase is a run of 1 .. `longest` words inside one clause (no punctuation, digit or line break in it) whose first and
last words are no function words: noun-like chunks without a tagger. Kept are phrases of at least `fewest` documents;
one that is inside a longer kept phrase in nine of ten documents is dropped (it does not stand alone); the rest are
ranked by documents times words, ties by the alphabet. Case is folded. Cost: one pass over the words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources

FUNCTION_WORDS = frozenset(
    resources.files("gnomon.lexicons").joinpath("function_words.txt").read_text(encoding="utf-8").split()
)
"""Words that no phrase begins or ends with: gnomon/lexicons/function_words.txt."""
ALONE = 0.9
"""Share of a phrase's documents in which it is part of one longer phrase, from which on it is dropped."""


def clauses(text: str) -> list[list[str]]:
    """Runs of words, lower case: a clause ends at anything but letters, apostrophes, spaces and hyphens in words."""
    parts = re.split(r"[^\w'\u2019\- \t]+|[\d_]+|(?<!\w)-|-(?!\w)", text)
    found = ([w.replace("\u2019", "'").strip("'").lower() for w in part.split()] for part in parts)
    return [words for one in found if (words := [w for w in one if w])]


def phrases_of(text: str, longest: int = 3) -> set[str]:
    """Every phrase of one document."""
    out = set()
    for words in clauses(text):
        for start, word in enumerate(words):
            if word in FUNCTION_WORDS:
                continue
            for end in range(start + 1, min(start + longest, len(words)) + 1):
                last = words[end - 1]
                if last not in FUNCTION_WORDS and (end - start > 1 or len(last) > 2):
                    out.add(" ".join(words[start:end]))
    return out


def mine(
    documents: Iterable[str], most: int = 200, fewest: int = 3, longest: int = 3, common: float = 1.0
) -> list[tuple[str, int]]:  # fmt: skip
    """(phrase, documents that hold it), best first, at most `most`.

    Args:
        documents: texts; the count is of documents, so that one long text does not decide.
        fewest: documents that a phrase must be in.
        longest: words in a phrase at most.
        common: phrases of more than this share of the documents are dropped (a chat template's words, say).
    """
    counts: Counter[str] = Counter()
    total = 0
    for text in documents:
        counts.update(phrases_of(text, longest))
        total += 1
    kept = {phrase: n for phrase, n in counts.items() if fewest <= n <= common * total}
    inside: Counter[str] = Counter()
    for phrase, n in kept.items():
        for part in _parts(phrase.split()):
            inside[part] = max(inside[part], n)
    alone = [(phrase, n) for phrase, n in kept.items() if inside[phrase] < ALONE * n]
    return sorted(alone, key=lambda pair: (-pair[1] * len(pair[0].split()), pair[0]))[:most]


def _parts(words: Sequence[str]) -> set[str]:
    n = len(words)
    return {" ".join(words[a:b]) for a in range(n) for b in range(a + 1, n + 1) if b - a < n}
