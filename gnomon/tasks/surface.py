"""What a question looks like from outside: numbers that stated confidence may follow without knowing anything.

rarity of a word = 8 - its Zipf frequency (log10 of occurrences in a billion words, van Heuven et al. 2014,
doi:10.1080/17470218.2013.850521) in the corpora of the package wordfreq: "the" .3, "capital" 3, a word in none 8.
English words are looked for; other languages get lengths, names and numbers that mean something, and little else.
"""

from __future__ import annotations

import re
from functools import lru_cache

QUESTION_WORDS = ("what", "where", "when", "who", "how", "why", "which")
RAREST = 8.0
"""Rarity of a word that no corpus has."""
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nor|neither|nobody|nothing|nowhere|without|except|cannot|unless|hardly|barely"
    r"|\w+n['\u2019]t)\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:may|might|could|perhaps|possibly|probably|likely|unlikely|maybe|usually|often|sometimes|generally|typically"
    r"|mostly|mainly|approximately|roughly|about|suggests?|seems?|appears?|tends?|believed|best)\b",
    re.IGNORECASE,
)
_STRESSED = re.compile(rf"(?:{_NEGATION.pattern}|{_HEDGE.pattern}|most|least|all|only|true|false)", re.IGNORECASE)
"""Words that exam questions write in capitals, and that name nothing."""
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"(?<=[.?!])[\"'\u201d)]*\s+")
_ASKING = re.compile(r"\b(what|where|when|who|whom|whose|how|why|which)(?:'s)?\b", re.IGNORECASE)


def features(text: str) -> dict[str, float]:
    """The features of a question's text, the same names for every text.

    question_chars, question_words; asks_what ... asks_other (one of them 1); negation, hedging (how many such words);
    rarity_mean, rarity_max (0 for no words); names (runs of capitalised words inside sentences), numbers.
    """
    words = _WORD.findall(text)
    rare = [rarity(word.lower()) for word in words]
    kind = question_type(text)
    return {
        "question_chars": float(len(text)),
        "question_words": float(len(text.split())),
        **{f"asks_{word}": float(kind == word) for word in (*QUESTION_WORDS, "other")},
        "negation": float(len(_NEGATION.findall(text))),
        "hedging": float(len(_HEDGE.findall(text))),
        "rarity_mean": round(sum(rare) / len(rare), 6) if rare else 0.0,
        "rarity_max": max(rare, default=0.0),
        "names": float(names(text)),
        "numbers": float(len(_NUMBER.findall(text))),
    }


def question_type(text: str) -> str:
    """what, where, when, who, how, why, which or other: the first such word of the last sentence that ends in "?".

    Without a question mark a text asks only where it begins with such a word ("When" apart: it begins statements).
    """
    sentences = [s.strip() for s in _SENTENCE_END.split(text) if s.strip()]
    asked = [s for s in sentences if s.rstrip("\"'\u201d)").endswith("?")]
    if asked:
        found = _ASKING.search(asked[-1])
    else:
        found = _ASKING.match(sentences[-1]) if sentences else None
        found = None if found and found[1].lower() == "when" else found
    word = found[1].lower() if found else "other"
    return "who" if word in ("whom", "whose") else word


def names(text: str) -> int:
    """Runs of capitalised words that do not begin a sentence: a cheap count of names ("I" and a NOT are none)."""
    count = 0
    for sentence in _SENTENCE_END.split(text):
        inside = False
        for at, word in enumerate(sentence.split()):
            letters = word.strip("\"'\u2018\u2019\u201c\u201d()[],;:.?!")
            capital = at > 0 and letters[:1].isupper() and letters != "I" and not letters.startswith(("I'", "I\u2019"))
            capital = capital and not (letters.isupper() and _STRESSED.fullmatch(letters))
            count += capital and not inside
            inside = capital and word[-1] not in ",;:"
    return count


@lru_cache(maxsize=50_000)
def rarity(word: str) -> float:
    """8 - Zipf frequency of an English word, 0 to 8."""
    from wordfreq import zipf_frequency

    return round(max(0.0, RAREST - zipf_frequency(word, "en")), 6)
