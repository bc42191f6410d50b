"""Text to the one number that it gives as its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from gnomon.tasks.numerals import Number, find_numbers
from gnomon.tasks.parsing import ANSWER_CUE, Parsed, read

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_RESULT = (
    r"(?:sum|total|product|result|difference|quotient|remainder|answer|value|amount|number|output|cost|price|profit)"
)
_IS = r"(?:\b(?:is|are|was|would be|will be|equals?|makes?|gives?|comes to|becomes)\b|=|:)"
_STATED = re.compile(
    rf"\b{_RESULT}\b[^.\n=:?]{{0,80}}?{_IS}|\ba (?:\w+ )?{_RESULT}(?: \w+)? of\b"
    r"|\b(?:total|profit|sum) of\b(?![^.\n]*\band\b)",
    re.IGNORECASE,
)
_IS_RESULT = re.compile(
    rf"[\s*_\"'$)]*(?:\w+\s+)?(?:is|was|would be)\s+(?:the|your|our)\s+(?:\w+\s+)?{_RESULT}\b", re.IGNORECASE
)
_EQUALS = re.compile(r"=|≈|\\approx|\\equiv|→|\bequals?\b|\bis equal to\b|\bmakes\b|\bgives\b", re.IGNORECASE)
_BULLET = re.compile(r"^[\s*_#>-]*(?:step\s*)?(\d{1,2})\s*[.):](?=\s|$)", re.IGNORECASE | re.MULTILINE)
_LABEL = re.compile(
    r"\b(?:step|problem|question|equation|exercise|example|part|chapter|figure|option|grade)\s*#?$", re.IGNORECASE
)
_INTRODUCED = re.compile(
    r"\b(?:after|in|within|for|over|during|every|each|per|at|from|of|by|with|on|than|to|about|first|last|next|another)"
    r"(?:\s+(?:the|all|these|those|his|her|their|its|each|a|only))*\s*[$€£]?$",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"[\s*_\"'`($\\>#:-]*(?:[a-z]\s*=\s*)?"
    r"(?:(?:it(?:'s| is)|that(?:'s| is)|is|so|about|approximately|exactly)\s+)?[*_\"'`($\\]*",
    re.I,
)
_SIGN = r"(?:[+*/×÷^x-]|(?:plus|minus|times|multiplied by|divided by|added to|\\times|\\cdot|\\div)\b)"
_UNIT = r"(?:\s*\([a-z ]{1,20}\)|\s[a-z]{1,20})"
_GOES_ON = re.compile(
    rf"\s*(?:{_SIGN}\s*[$€£(\\]*-?\d|[+*/×÷^-]\s*$)|{_UNIT}\s*[+*×÷]\s*(?:[$€£(\\]*\d|$)", re.IGNORECASE
)
_OPERATOR = re.compile(rf"\s*and\s+[$€£(\\]*-?\d|{_GOES_ON.pattern}", re.IGNORECASE)
_AFTER_OPERATOR = re.compile(rf"\d[\s)]*{_SIGN}\s*[$€£(\\]*$", re.IGNORECASE)
_LINK = re.compile(r"[\s*_\"'`$)?.,]*(?:=|≈|→|:|\b(?:is|are|equals?|makes|gives|would be)\b)", re.IGNORECASE)
_LINKED = re.compile(
    r"(?:=|:|\b(?:is|are|be|equals?|makes?|gives?(?: us| you)?|gets?|becomes?|comes to))\s*[*_$]*$", re.IGNORECASE
)
MARKS = ("####", "boxed", "tag", "answer")


def parse_number(text: str, echo: Sequence[str] = (), direct: bool = False) -> Parsed | None:
    """The number that a text gives as its answer, or None; `value` is a `Number`.

    Args:
        echo: expressions of the question ("12 + 34"): the numbers in them are no answer, the one after them is.
        direct: the answer is expected at once (a sum), rather than after reasoning (a word problem): a number that
            opens the text is the answer, where reasoning's answer is the last one stated.
    """

    def find(text: str, begin: int) -> Parsed | None:
        numbers = [n for n in find_numbers(text, spelled=True) if n.start >= begin and not _not_an_answer(text, n)]
        bullets = _bullets(text)
        echoes = _echoes(text, echo)
        shown = [
            n for n in numbers if n.start not in bullets and not any(a <= n.start and n.end <= b for a, b in echoes)
        ]
        if not shown:
            return None
        for how, spans in (
            ("####", _hashes(text, begin)),
            ("boxed", _groups(_BOXED, text, begin)),
            ("tag", _groups(_TAG, text, begin)),
        ):
            for a, b in reversed(spans):
                if n := _of_slot(text, [n for n in shown if a <= n.start and n.end <= b], a, b):
                    return _found(n, how)
        for cue in reversed(list(ANSWER_CUE.finditer(text, begin))):
            if n := _in_slot(text, shown, cue.end()):
                return _found(n, "answer")
        digits = [n for n in shown if not n.spelled] or [n for n in shown if n.value != 1 or len(text.split()) <= 3]
        if not digits:
            return None
        if direct:
            return _direct(text, begin, shown, digits, echoes, echo)
        return _reasoned(text, begin, digits)

    return read(text, find, marked=MARKS)


def _direct(
    text: str, begin: int, shown: list[Number], digits: list[Number], echoes: list[tuple[int, int]], echo: Sequence[str]
) -> Parsed | None:
    lead = _LEAD.match(text, begin)
    place = lead.end() if lead else begin
    for n in shown:
        opens = n.start <= place or re.fullmatch(r"[-$€£\\\s]*", text[place : n.start])
        if opens and not _OPERATOR.match(text, n.end):
            return _found(n, "leading")
        if _IS_RESULT.match(text, n.end):
            return _found(n, "stated")
    for a, b in echoes:
        link = _LINK.match(text, b)
        if a >= begin and link and (n := _in_slot(text, shown, link.end())):
            return _found(n, "equation")
    for m in _STATED.finditer(text, begin):
        if n := _in_slot(text, shown, m.end()):
            return _found(n, "stated")
    for m in reversed(list(_EQUALS.finditer(text, begin))):
        if n := _after(text, digits, m.end()):
            return _found(n, "equation")
    # the question's own numbers come up in passing, or broken off ("First, we add the numbers: 1"): not an answer
    asked = {number for phrase in echo for number in re.findall(r"\d+", phrase)}
    for n in reversed(digits):
        written = text[n.start : n.end]
        broken_off = n.end == len(text.rstrip()) and any(number.startswith(written) for number in asked)
        in_passing = written in asked and not _LINKED.search(text[: n.start])
        if not (_in_a_sum(text, n) or broken_off or in_passing):
            return _found(n, "last")
    return None


def _reasoned(text: str, begin: int, digits: list[Number]) -> Parsed | None:
    ends = [m.end() for m in re.finditer(r"[.!?](?=\s|$)|\n", text)] + [len(text)]
    final = digits[-1]
    start = max([begin, *[e for e in ends if e <= final.start]])
    sentence = [n for n in digits if n.start >= start]
    cued = [(n, "equation") for m in _EQUALS.finditer(text, start) if (n := _after(text, sentence, m.end()))]
    cued += [(n, "stated") for m in _STATED.finditer(text, start) if (n := _in_slot(text, sentence, m.end()))]
    if cued:
        return _found(*max(cued, key=lambda c: c[0].start))
    for n in sentence:
        if _IS_RESULT.match(text, n.end):
            return _found(n, "stated")
    sentence = [n for n in sentence if not _in_a_sum(text, n)]
    free = [n for n in sentence if not _INTRODUCED.search(text[start : n.start])]
    return _found((free or sentence)[-1], "last") if sentence else None


def _in_a_sum(text: str, n: Number) -> bool:
    """Whether the number stands in an expression that is not worked out ("5 + 3")."""
    return bool(_GOES_ON.match(text, n.end) or _AFTER_OPERATOR.search(text[: n.start]))


def _found(number: Number, how: str) -> Parsed:
    return Parsed(number, number.start, number.end, how)


def _in_slot(text: str, numbers: list[Number], place: int) -> Number | None:
    """The number of the phrase that begins at `place`: after the last "=" in its sentence, else the first one."""
    stop = re.compile(r"[.!?](?=\s|$)|\n(?=\s*\S)").search(text, place + len(text[place:]) - len(text[place:].lstrip()))
    end = stop.start() + 1 if stop else len(text)
    inside = [n for n in numbers if place <= n.start and n.end <= end]
    return _of_slot(text, inside, place, end)


def _of_slot(text: str, inside: list[Number], start: int, end: int) -> Number | None:
    for m in reversed(list(_EQUALS.finditer(text, start, end))):
        if n := _after(text, inside, m.end()):
            return n
    return next((n for n in inside if not _in_a_sum(text, n)), None)


def _after(text: str, numbers: list[Number], place: int) -> Number | None:
    """The number that directly follows a place, past blanks, currency and markup; not one that goes on as a sum."""
    for n in numbers:
        if n.start >= place:
            between = text[place : n.start]
            near = re.fullmatch(
                r"[\s*_\"'`$€£({\[\\~:]*(?:(?:about|approximately|roughly|a total of|\\text\{)\s*)?[$€£\\]*", between
            )
            return n if near and not _OPERATOR.match(text, n.end) else None
    return None


def _not_an_answer(text: str, n: Number) -> bool:
    before = text[max(0, n.start - 24) : n.start]
    return bool(
        re.search(r"\b(?:not|isn't|wasn't|than)\s+[$€£]?$", before, re.IGNORECASE) or _LABEL.search(before.rstrip(" "))
    )


def _bullets(text: str) -> set[int]:
    """Starts of the numbers that number the lines of a list ("1. ...", "2) ..."), where there are two in order."""
    marks = list(_BULLET.finditer(text))
    values = [int(m[1]) for m in marks]
    listed = {v for v in values if v + 1 in values or v - 1 in values} if len(marks) > 1 and 1 in values else set()
    return {m.start(1) for m in marks if int(m[1]) in listed or re.search(r"step", m[0], re.IGNORECASE)}


def _echoes(text: str, echo: Sequence[str]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for phrase in echo:
        pattern = r"\s*".join(re.escape(part) for part in phrase.split())
        spans += [m.span() for m in re.finditer(rf"(?<![\w.]){pattern}(?![\w]|\.\d)", text, re.IGNORECASE)]
    return sorted(spans)


def _hashes(text: str, begin: int) -> list[tuple[int, int]]:
    return [(m.end(), m.end() + 40) for m in re.compile(r"####").finditer(text, begin)]


def _groups(pattern: re.Pattern[str], text: str, begin: int) -> list[tuple[int, int]]:
    return [m.span(1) for m in pattern.finditer(text, begin)]


def value_of(parsed: Parsed) -> Fraction:
    """The exact value of what `parse_number` returned."""
    return parsed.value.value
