"""Text to a name, or to one of given choices: accents, case, articles, hyphens and aliases do not matter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from gnomon.tasks.parsing import ANSWER_CUE, Parsed, parse_letter, read, tidy

_LETTERS = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "ı": "i", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ß": "ss"})
_FILLER = re.compile(
    r"(?:[\s*_\"':(\[,]|-(?=\s))*(?:(?:the (?:capital )?(?:city|town) (?:of|called|named|is)|a (?:city|town|place) (?:called|named|in)|called|named"
    r"|known as|located (?:in|at)|situated in|found in|in the city of|in|currently|officially|also|now|actually|definitely"
    r"|indeed|of course|certainly|probably|likely|either|that of|is|the)\b[\s*_\"':(\[,]*)*",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"[A-ZÀ-ÞĀ-Ž][\w'.-]*(?:[ -](?:(?:de|da|do|dos|du|of|la|las|el|al|es|y|e|le|les|and|upon|sur|am|in) )?[A-ZÀ-ÞĀ-Ž][\w'.-]*)*"
)
_NOT_NAMES = set(
    "the it its this that there these those a an i we you he she they yes no true false answer question capital city country "
    "here sure if in on as so what which who where when how to and or but not however according based let please is was name "
    "note for of at by with from one some all most because since while although also".split()
)


def fold(text: str) -> tuple[str, list[int]]:
    """Case, accents, hyphens and inner punctuation removed; beside it, for each character, its place in `text`."""
    out: list[str] = []
    places: list[int] = []
    for i, char in enumerate(text):
        plain = unicodedata.normalize("NFKD", char.casefold()).translate(_LETTERS)
        for c in plain:
            if unicodedata.combining(c) or c in ".,'’‘`\"*_ʻʼ":
                continue
            c = c if c.isalnum() else " " if c in "-–—‑" or c.isspace() else c
            if c == " " and (not out or out[-1] == " "):
                continue
            out.append(c)
            places.append(i)
    while out and out[-1] == " ":
        out.pop()
        places.pop()
    return "".join(out), places


def folded(name: str) -> str:
    """A name as compared: "Nuku'alofa" is "nukualofa", "Port-au-Prince" is "port au prince"."""
    return re.sub(r"^(?:the|a|an) ", "", fold(name)[0])


def parse_name(
    text: str, known: dict[str, Any] | Iterable[str], subject: str = "", echo: Sequence[str] = (), free: bool = True
) -> Parsed | None:
    """The name that a text gives as its answer; `value` is the known name's value, or the words themselves.

    Args:
        known: names with their values (or just names): found whatever their case, accents, hyphens and articles.
        subject: regex of what is asked ("capital(?: city)?"); "<subject> of X is NAME" and "NAME is the <subject>" mark it.
        echo: phrases of the question that hold names (the country "Mexico"); "of Mexico" is not an answer.
        free: whether an unknown capitalised phrase, or a whole short text, may be the answer.
    """
    table = {folded(k): (known[k] if isinstance(known, dict) else k) for k in known}
    table.pop("", None)
    names = sorted(table, key=len, reverse=True)
    pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, names)) + r")(?!\w)") if names else None
    echoes = [re.compile(rf"\b(?:of|in|for)\s+(?:the\s+)?{re.escape(tidy(e))}\b(?!\s+(?i:city))", re.IGNORECASE) for e in echo if e]

    def find(text: str, begin: int) -> Parsed | None:
        flat, places = fold(text)
        spans = [(places[m.start()], places[m.end() - 1] + 1, table[m[0]]) for m in pattern.finditer(flat)] if pattern else []
        hidden = [m.span() for e in echoes for m in e.finditer(text)]
        spans = [s for s in spans if s[0] >= begin and not any(a <= s[0] and s[1] <= b for a, b in hidden)]
        spans = [s for s in spans if not re.search(r"(?:\bnot|n't|\bthan|\bunlike|\bnever)\s+(?:in\s+|the\s+)*$", text[: s[0]])]

        def at(place: int, how: str, stop: int | None = None) -> Parsed | None:
            """The name in the slot that begins at `place`: known there, else capitalised there, else known nearby."""
            filler = _FILLER.match(text, place)
            here = filler.end() if filler else place
            for candidate in (place, here):
                for s, e, value in spans:
                    if candidate <= s <= here:
                        return Parsed(value, s, e, how, _rivals(text, e, spans))
            phrase = _PHRASE.match(text, here) if free else None
            if phrase and phrase[0].lower().rstrip(".") not in _NOT_NAMES and not any(a <= here < b for a, b in hidden):
                return Parsed(phrase[0].rstrip(".'"), here, here + len(phrase[0].rstrip(".'")), how)
            end = min(stop or len(text), place + 90, *[i for i in [text.find("\n", here)] if i >= 0])
            for s, e, value in spans:
                if place <= s < end and not re.search(r"[.!?]\s", text[here:s]):
                    return Parsed(value, s, e, how, _rivals(text, e, spans))
            return None

        marks = [(m.end(), "answer") for m in reversed(list(ANSWER_CUE.finditer(text, begin)))]
        if subject:
            is_ = r"(?:\s+(?:of|for)\s+[^.\n]{1,60}?)?[\s*_\"',)]*(?:\bis\b|\bwas\b|\bwould be\b|\bremains\b|:|=)(?!\s*not\b)"
            marks += [(m.end(), "subject") for m in re.compile(rf"\b(?:{subject}){is_}", re.I).finditer(text, begin)]
        for place, how in marks:
            if (found := at(place, how)) is not None:
                return found
        if subject:
            after = re.compile(rf"[\s*_\"',)]*(?:\([^)]*\)\s*)?(?:,[^,.\n]{{1,40}},)?\s*(?:is|was|serves as|became)\s+(?:\w+\s+){{0,2}}(?:{subject})\b", re.I)
            before = [(s, e, v) for s, e, v in spans if after.match(text, e)]
            before += [(m.start(), m.end(), m[0]) for m in _PHRASE.finditer(text, begin) if free and after.match(text, m.end())]
            for s, e, value in before:
                if str(text[s:e]).lower() not in _NOT_NAMES and not re.match(r"[\s*_\"',)]*(?:is|was) not\b", text[e:]):
                    return Parsed(value, s, e, "subject")
        start = begin + len(text[begin:]) - len(text[begin:].lstrip(" \t\n*_\"'#>-:"))
        line = text[start:].split("\n")[0].rstrip(" .!*_\"'")
        first = at(start, "leading", start + len(line))
        if first is not None:
            return first
        if free and line and len(line.split()) <= 3 and re.fullmatch(r"[^\W\d_][\w .'-]*", line) and line.split()[0].lower() not in _NOT_NAMES:
            return Parsed(line, start, start + len(line), "leading")
        if spans:
            s, e, value = spans[0]
            return Parsed(value, s, e, "last", _rivals(text, e, spans))
        return None

    return read(text, find, marked=("answer", "subject"))


def _rivals(text: str, end: int, spans: Sequence[tuple[int, int, Any]]) -> tuple[str, ...]:
    """Names joined to the answer by "or": "Sydney or Canberra" is no single answer."""
    out: list[str] = []
    for s, e, value in spans:
        if s >= end and re.fullmatch(r"[\s*_\"',)]*\bor\b\s*(?:the\s+)?[*_\"']*", text[end:s]):
            out.append(str(value))
            end = e
    return tuple(out)


def parse_choice(text: str, choices: Sequence[str]) -> Parsed | None:
    """The index of the choice that the text gives, by its words (an explicit mark first, then the first one
    mentioned, the longest where several begin together) or else by its letter."""
    named = parse_name(text, {choice: i for i, choice in enumerate(choices)}, free=False)
    letter = parse_letter(text, len(choices)) if len(choices) > 1 and min(map(len, choices)) > 1 else None
    if letter and (named is None or letter.how in ("answer", "boxed", "leading", "marked")):
        return letter
    return named
