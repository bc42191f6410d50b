"""Text to a name: accents, case, articles, hyphens and aliases do not matter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gnomon.tasks.parsing import ANSWER_CUE, Parsed, read, tidy

_LETTERS = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ß": "ss"})
_DROPPED = ".,'’‘`\"*_ʻʼ"
_MARKUP = r"[\s*_\"',)]*"
_FILLER = re.compile(
    r"""
    (?: [\s*_"':(\[,] | -(?=\s) )*
    (?: (?: the\ (?:capital\ )?(?:city|town)\ (?:of|called|named|is) | an?\ (?:city|town|place)\ (?:called|named|in)
          | (?:it|that|this)(?:'s|\ is) | i\ (?:think|believe|guess|would\ say)(?:\ that)? | called | named | known\ as
          | located\ (?:in|at) | situated\ in | found\ in | in\ the\ city\ of | in | that\ of | either | is | the
          | currently | officially | also | now | actually | definitely | indeed | certainly | probably | likely
          | of\ course
        )\b [\s*_"':(\[,]*
    )*
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What stands between "the capital is" and the name."""
_JOINING = "de|da|do|dos|du|of|la|las|el|al|es|y|e|le|les|and|upon|sur|am|in"
_CAPITAL = r"[A-ZÀ-ÞĀ-Ž][\w'.-]*"
_PHRASE = re.compile(rf"{_CAPITAL}(?:[ -](?:(?:{_JOINING}) )?{_CAPITAL})*")
_OR = re.compile(rf"{_MARKUP}\bor\s+(?:the\s+)?[*_\"']*({_PHRASE.pattern})")
_NEGATED = re.compile(r"(?:\bnot|n't|\bthan|\bunlike|\bnever)\s+(?:(?:in|the)\s+)*$")
_NOT_NAMES = frozenset(
    [
        "the",
        "it",
        "its",
        "this",
        "that",
        "there",
        "these",
        "those",
        "a",
        "an",
        "i",
        "we",
        "you",
        "he",
        "she",
        "they",
        "yes",
        "no",
        "true",
        "false",
        "answer",
        "question",
        "capital",
        "city",
        "country",
        "here",
        "sure",
        "if",
        "in",
        "on",
        "as",
        "so",
        "what",
        "which",
        "who",
        "where",
        "when",
        "how",
        "to",
        "and",
        "or",
        "but",
        "not",
        "however",
        "according",
        "based",
        "let",
        "please",
        "is",
        "was",
        "name",
        "note",
        "for",
        "of",
        "at",
        "by",
        "with",
        "from",
        "one",
        "some",
        "all",
        "most",
        "because",
        "since",
        "while",
        "although",
        "also",
    ]
)


def fold(text: str) -> tuple[str, list[int]]:
    """Case, accents, hyphens and inner punctuation removed; beside it, for each character, its place in `text`."""
    out: list[str] = []
    places: list[int] = []
    for i, char in enumerate(text):
        for c in unicodedata.normalize("NFKD", char.casefold()).translate(_LETTERS):
            if unicodedata.combining(c) or c in _DROPPED:
                continue
            c = " " if c in "-–—‑" or c.isspace() else c
            if c == " " and (not out or out[-1] == " "):
                continue
            out.append(c)
            places.append(i)
    while out and out[-1] == " ":
        out.pop()
        places.pop()
    return "".join(out), places


def folded(name: str) -> str:
    """A name as compared: "Nuku'alofa" is "nukualofa", "Port-au-Prince" "port au prince", "the Vatican" "vatican"."""
    return re.sub(r"^(?:the|a|an) ", "", fold(name)[0])


def parse_name(
    text: str,
    known: Mapping[str, Any] | Iterable[str],
    subject: str = "",
    echo: Sequence[str] = (),
    free: bool = True,
) -> Parsed | None:
    """The name that a text gives as its answer; `value` is the known name's value, or the words themselves.

    Args:
        known: names with their values (or just names): found whatever their case, accents, hyphens and articles.
        subject: regex of what is asked ("capital(?: city)?"): "SUBJECT of X is NAME", "NAME is the SUBJECT" mark it.
        echo: phrases of the question that hold names (the country "Mexico"); "of Mexico" is not an answer.
        free: whether an unknown capitalised phrase, or a whole short text, may be the answer.
    """
    table, pattern = _lexicon(tuple(known.items() if isinstance(known, Mapping) else ((k, k) for k in known)))

    def find(text: str, begin: int) -> Parsed | None:
        flat, places = fold(text)
        hidden = [m.span() for e in echo if e for m in _mentions(e).finditer(text)]
        spans: list[Span] = []
        for m in pattern.finditer(flat) if pattern else ():
            start, end = places[m.start()], places[m.end() - 1] + 1
            masked = any(a <= start and end <= b for a, b in hidden)
            if start >= begin and not masked and not _NEGATED.search(text[:start]):
                spans.append((start, end, table[m[0]]))
        return _Search(text, begin, spans, hidden, free).answer(subject)

    return read(text, find, marked=("answer", "subject"))


Span = tuple[int, int, Any]


@dataclass(frozen=True)
class _Search:
    """Where a name may stand in a text: known names at `spans`, echoes of the question at `hidden`."""

    text: str
    begin: int
    spans: Sequence[Span]
    hidden: Sequence[tuple[int, int]]
    free: bool

    def answer(self, subject: str) -> Parsed | None:
        for place, how in self.marks(subject):
            if (found := self.at(place, how)) is not None:
                return found
        if subject and (found := self.before(subject)) is not None:
            return found
        start = self.begin + len(self.text[self.begin :]) - len(self.text[self.begin :].lstrip(" \t\n*_\"'#>-:"))
        line = self.text[start:].split("\n")[0].rstrip(" .!*_\"'")
        if (found := self.at(start, "leading", start + len(line))) is not None:
            return found
        words = line.split()
        name = re.fullmatch(r"[^\W\d_][\w .'-]*", line)
        if self.free and name and len(words) <= 3 and words[0].lower() not in _NOT_NAMES:
            return Parsed(line, start, start + len(line), "leading")
        return self.parsed(*self.spans[0], "last") if self.spans else None

    def marks(self, subject: str) -> Iterator[tuple[int, str]]:
        """Places after "the answer is" (the last one first) and after "SUBJECT of X is"."""
        for m in reversed(list(ANSWER_CUE.finditer(self.text, self.begin))):
            yield m.end(), "answer"
        if subject:
            is_ = r"(?:\b(?:is|was|would be|remains)\b|:|=)(?!\s*not\b)"
            asked = re.compile(rf"\b(?:{subject})(?:\s+(?:of|for)\s+[^.\n]{{1,60}}?)?{_MARKUP}{is_}", re.IGNORECASE)
            for m in asked.finditer(self.text, self.begin):
                yield m.end(), "subject"

    def at(self, place: int, how: str, stop: int | None = None) -> Parsed | None:
        """The name in the slot that begins at `place`: known there, else capitalised there, else known nearby."""
        filler = _FILLER.match(self.text, place)
        here = filler.end() if filler else place
        for span in self.spans:
            if place <= span[0] <= here:
                return self.parsed(*span, how)
        phrase = _PHRASE.match(self.text, here) if self.free else None
        if phrase and self.is_name(phrase[0]) and not any(a <= here < b for a, b in self.hidden):
            name = phrase[0].rstrip(".'")
            return self.parsed(here, here + len(name), name, how)
        line_end = self.text.find("\n", here)
        end = min(stop or len(self.text), place + 90, len(self.text) if line_end < 0 else line_end)
        for span in self.spans:
            if place <= span[0] < end and not re.search(r"[.!?]\s", self.text[here : span[0]]):
                return self.parsed(*span, how)
        return None

    def before(self, subject: str) -> Parsed | None:
        """The name in "NAME (..., ...) is the SUBJECT"."""
        aside = r"(?:\([^)]*\)\s*)?(?:,[^,.\n]{1,40},)?\s*"
        after = re.compile(
            rf"\.?{_MARKUP}{aside}(?:is|was|serves as|became)\s+(?!not\b)(?:\w+\s+){{0,2}}(?:{subject})\b",
            re.IGNORECASE,
        )
        named = [s for s in self.spans if after.match(self.text, s[1])]
        if self.free:
            phrases = (m for m in _PHRASE.finditer(self.text, self.begin) if self.is_name(m[0]))
            named += [(m.start(), m.end(), m[0]) for m in phrases if after.match(self.text, m.end())]
        return Parsed(named[0][2], named[0][0], named[0][1], "subject") if named else None

    def parsed(self, start: int, end: int, value: Any, how: str) -> Parsed:
        """The name, with those joined to it by "or": "Sydney or Canberra" is no single answer."""
        rivals: list[str] = []
        place = end
        while match := _OR.match(self.text, place):
            rivals.append(match[1].rstrip(".'"))
            place = match.end()
        return Parsed(value, start, end, how, tuple(rivals))

    @staticmethod
    def is_name(phrase: str) -> bool:
        return phrase.lower().rstrip(".") not in _NOT_NAMES


@lru_cache(maxsize=512)
def _lexicon(known: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], re.Pattern[str] | None]:
    """Folded names with their values, and a pattern that finds the longest of them in folded text."""
    table = {name: value for k, value in known if (name := folded(k))}
    names = "|".join(map(re.escape, sorted(table, key=len, reverse=True)))
    return table, re.compile(rf"(?<!\w)(?:{names})(?!\w)") if names else None


@lru_cache(maxsize=1024)
def _mentions(echo: str) -> re.Pattern[str]:
    """ "of Mexico", but not "of Mexico City"."""
    return re.compile(rf"\b(?:of|in|for)\s+(?:the\s+)?{re.escape(tidy(echo))}\b(?!\s+city)", re.IGNORECASE)
