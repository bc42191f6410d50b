"""Text to answer: pure functions, one per kind of answer. Nothing is guessed: what cannot be read is None.

Every function returns what it found with its characters [start, end) in the given text. The rules, in order, are
the same for all kinds: text after a run-on into a new question is not read; a refusal holds no answer unless one is
stated outright; a correction ("wait, no ...") beats what stood before it; an explicit mark ("#### 42", \\boxed{},
"the answer is") beats an implicit one; what merely repeats the question does not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

VERSION = 1
"""Raised when a rule changes: labels made by another version are not the same labels."""


@dataclass(frozen=True)
class Parsed:
    """An answer: its value, its characters [start, end), the rule that found it, and rivals named beside it."""

    value: Any
    start: int
    end: int
    how: str
    rivals: tuple[str, ...] = ()


_RUN_ON = re.compile(
    r"\n\s*(?:#+\s*)?(?:question|q|problem|exercise|example|user|human|input|context|instruction|statement)\s*\d*\s*[:.)]"
    r"|<\|im_(?:end|start)\|>|<\|endoftext\|>|<\|eot_id\|>|</s>|<eos>|<end_of_turn>|\[/?INST\]|\n\s*(?:-{3,}|={3,})\s*\n",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bi (?:really |just |honestly |also )?(?:do not|don't|did not|didn't)"
    r" (?:know|have|understand|recall|remember|see|think i can|feel)\b"
    r"|\bi(?: am|'m) (?:so |very |really |truly |deeply )?"
    r"(?:sorry|unable|not able|not sure|not certain|not aware|unsure|afraid|not allowed|not familiar)\b"
    r"|\bi (?:also |simply |just )?(?:cannot|can't|can not|could not|couldn't|will not|won't|am not able to)\b"
    r"|\bas an ai\b|\b(?:it(?: is|'s)|this is) (?:not possible|impossible|difficult|hard) to"
    r" (?:determine|say|know|answer|tell|solve)\b|\bcan(?:not|'t| not) be (?:determined|answered|known|calculated|solved)\b"
    r"|\b(?:not enough|insufficient) information\b|\bi have no (?:idea|way|information)\b|\bno idea\b"
    r"|^\W*(?:n/?a|none|unknown|unsure|unclear|undefined|nan|idk|sorry)\W*$",
    re.IGNORECASE,
)
_DESPITE = re.compile(r"\b(?:but|however|nevertheless|that said|still|my (?:best )?guess)\b", re.IGNORECASE)
_CORRECTION = re.compile(
    r"\b(?:wait|oops|actually|i mean|i meant|scratch that|on second thoughts?|correction|i made (?:a|an) (?:mistake|error)"
    r"|let me (?:correct|redo|recalculate|re-?calculate|re-?check|try again|fix)|i apologi[sz]e|my mistake"
    r"|sorry,(?= (?:it|that|the|i mean)))\b",
    re.IGNORECASE,
)
ANSWER_CUE = re.compile(
    r"(?:\b(?:final|correct|right|best|my)\s+)?\b(?:answer|ans|solution)\b(?:\s*\([^)\n]{1,20}\))?"
    r"(?:\s+(?:to|of|for)\s+[^.:\n]{1,160}?)?"
    r"[\s*_]*(?:\bis\b|\bwas\b|\bwould be\b|\bshould be\b|\bwill be\b|\bmust be\b|\bcomes (?:out )?to\b|\bequals\b|:|=|->|→)"
    r"[\s*_]*:?",
    re.IGNORECASE,
)
_SAME_LENGTH = str.maketrans("’‘`“”−–\u00a0\u2007", "'''\"\"--  ")


def tidy(text: str) -> str:
    """The same text with typographic quotes, minus signs and hard spaces made plain; every character keeps its place."""
    return text.translate(_SAME_LENGTH)


def readable_end(text: str) -> int:
    """Where the answer ends: at the first run-on into a new question, or an end-of-turn mark, that follows any text."""
    for match in _RUN_ON.finditer(text):
        if text[: match.start()].strip():
            return match.start()
    return len(text)


def is_refusal(text: str) -> bool:
    """Whether the text declines to answer: "I don't know", "As an AI ...", "it cannot be determined", "N/A"."""
    return bool(_REFUSAL.search(tidy(text)))


def read(text: str, find: Callable[[str, int], Parsed | None], marked: Iterable[str] = ()) -> Parsed | None:
    """Apply the rules common to all answers around `find(text, begin)`, which reads tidy text from `begin` on.

    `marked` are the `how`s of explicit marks: they are believed within a refusal. A correction is believed when
    what follows it comes at once, or is found by anything but the last resort ("last").
    """
    text = tidy(text)
    text = text[: readable_end(text)]
    marked = set(marked)
    refusal = _REFUSAL.search(text)
    found = find(text, 0)
    if found is None:
        return None
    if refusal and found.how not in marked and not found.end <= refusal.start():
        despite = _DESPITE.search(text, refusal.end())
        later = find(text, despite.end()) if despite else None
        again = _REFUSAL.search(text, despite.end()) if despite else None
        return None if later is None or (again and again.start() < later.end) else later
    if found.how in ("####", "boxed", "tag"):
        return found
    for mark in reversed(list(_CORRECTION.finditer(text))):
        later = find(text, mark.end())
        if later is not None and (later.how != "last" or later.start - mark.end() <= 30):
            return later
    return found


# ---------------------------------------------------------------- yes and no

_YES = r"yes|yeah|yep|true|correct|valid|right"
_NO = r"nope|false|incorrect|invalid|wrong|untrue"
_BOOL = re.compile(
    rf"(?P<echo>\b(?:true|yes|valid|correct)\W{{0,3}}(?:\s*or\s*|/)\W{{0,3}}(?:false|no|not|invalid|incorrect)\b"
    rf"|\b(?:false|no)\W{{0,3}}(?:\s*or\s*|/)\W{{0,3}}(?:true|yes)\b)"
    rf"|(?P<flip>\b(?:not|isn't|n't|never)\s+(?:necessarily\s+|logically\s+|always\s+|a\s+|be\s+)*)?"
    rf"(?:\b(?P<yes>{_YES})\b|\b(?P<no>{_NO})\b"
    r"|(?P<bare>\bno\b(?=\s*(?:[.,;:!)\"'*\n]|$|-|it\b|this\b|that\b|the\b|there\b|because\b|we\b|you\b)))"
    r"|(?P<notfollow>\b(?:does not|doesn't|do not|don't|cannot|can't|did not|would not) (?:\w+ )?(?:follow|be (?:concluded|inferred|deduced))\b)"
    r"|(?P<follow>\b(?:does (?:\w+ )?follow|follows (?:logically )?from|can be (?:concluded|inferred|deduced))\b))",
    re.IGNORECASE,
)


def parse_bool(text: str, echo: Sequence[str] = ()) -> Parsed | None:
    """Yes/no, true/false, correct/incorrect, valid/invalid, does (not) follow; None where neither is said.

    "No" counts only as a verdict ("No, ...", "the answer is no"), not as a quantifier ("No cats are dogs"); "true or
    false" repeats the question; "not true" is False; a True beside and/or is an operand. `echo` are phrases of the
    question that hold such words.
    """

    def find(text: str, begin: int) -> Parsed | None:
        hidden = [m.span() for phrase in echo for m in re.finditer(re.escape(tidy(phrase)), text, re.IGNORECASE)]
        hits = [m for m in _BOOL.finditer(text, begin) if not m["echo"] and not _operand(text, m)]
        hits = [m for m in hits if not any(a <= m.start() and m.end() <= b for a, b in hidden)]
        if not hits:
            return None
        for cue in reversed(list(ANSWER_CUE.finditer(text, begin))):
            for m in hits:
                if m.start() >= cue.end() and not re.search(r"[.\n]", text[cue.end() : m.start()].strip()):
                    return _verdict(m, "answer")
        if not re.search(r"\w", text[begin : hits[0].start()]):
            return _verdict(hits[0], "leading")
        therefore = re.compile(r"\b(?:therefore|thus|so|hence|conclusion|finally)\b[^.\n]{0,80}$", re.IGNORECASE)
        concluded = [m for m in hits if therefore.search(text[begin : m.start()])]
        return _verdict(concluded[-1] if concluded else hits[0], "stated")

    return read(text, find, marked=("answer", "leading"))


def _operand(text: str, m: re.Match[str]) -> bool:
    """Whether the word stands in an expression ("True and False") rather than being said of one."""
    word = r"\s*\(*\s*(?:not\s+)*\(*(?:true|false)\b"
    after = re.match(rf"[\s)]*\b(?:and|or)\b{word}", text[m.end() :], re.IGNORECASE)
    before = re.search(r"\b(?:true|false)\b[\s)]*\b(?:and|or)\b\s*\(*\s*(?:not\s+)*\(*$", text[: m.start()], re.IGNORECASE)
    return bool(after or before)


def _verdict(m: re.Match[str], how: str) -> Parsed:
    value = bool(m["yes"] or m["follow"])
    return Parsed(value != bool(m["flip"]), m.start(), m.end(), how)


# ---------------------------------------------------------------- choices


def parse_letter(text: str, n: int = 4) -> Parsed | None:
    """The index of a choice letter among the first `n` ("B", "(b)", "B) ...", "Option B", "the answer is B").

    The article "A" and the pronoun "I" are words, not letters, unless marked as a choice.
    """
    last = chr(ord("A") + n - 1)
    letter = rf"[\s*_\"'(\[]*(?P<letter>[A-{last}a-{last.lower()}])(?![\w'])"
    marked = re.compile(rf"\b(?:option|choice|letter|alternative)[\s*_:]*{letter}", re.IGNORECASE)
    closed = re.compile(rf"^[\s*_\"'(\[]*(?P<letter>[A-{last}a-{last.lower()}])(?=[\s*_\"'\]]*(?:[).:,\]]|$|\n|-))", re.MULTILINE)
    loose = re.compile(rf"(?<![\w'])\(?(?P<letter>[A-{last}])(?=[).,:;\s]|$)")

    def find(text: str, begin: int) -> Parsed | None:
        for cue in reversed(list(ANSWER_CUE.finditer(text, begin))):
            m = re.compile(rf"(?:\s*(?:option|choice|letter))?{letter}(?!\s+[a-z])", re.IGNORECASE).match(text, cue.end())
            if m:
                return _letter(m, "answer")
        if m := re.compile(rf"\\boxed\{{{letter}").search(text, begin):
            return _letter(m, "boxed")
        head = closed.match(text[begin:])
        if head:
            return Parsed(_index(head), begin + head.start("letter"), begin + head.end("letter"), "leading")
        if m := marked.search(text, begin):
            return _letter(m, "marked")
        for m in loose.finditer(text, begin):
            if not (m["letter"] in "AI" and re.match(r"\s+[a-z]", text[m.end() :])):
                return _letter(m, "last")
        return None

    return read(text, find, marked=("answer", "boxed", "leading"))


def _index(m: re.Match[str]) -> int:
    return ord(m["letter"].upper()) - ord("A")


def _letter(m: re.Match[str], how: str) -> Parsed:
    return Parsed(_index(m), m.start("letter"), m.end("letter"), how)
