"""Text to yes or no, to a choice's letter, or to one of given choices."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gnomon.tasks.parsing import ANSWER_CUE, Parsed, read, tidy
from gnomon.tasks.parsing_names import parse_name

_BOOL = re.compile(
    r"""
      (?P<echo> \b(?:true|yes|valid|correct)\b\W{0,3}(?:\s*or\s*|/)\W{0,3}\b(?:false|no|not|invalid|incorrect)\b
              | \b(?:false|no)\b\W{0,3}(?:\s*or\s*|/)\W{0,3}\b(?:true|yes)\b )
    | (?P<flip> (?:\bnot|\bisn't|n't|\bnever)\s+(?:(?:necessarily|logically|always|a|be)\s+)* )?
      (?: \b(?P<yes>yes|yeah|yep|true|correct|valid|right)\b
        | \b(?P<no>nope|false|incorrect|invalid|wrong|untrue)\b
        | (?P<bare>\bno\b(?=\s*(?:[.,;:!)"'*\n-]|$|(?:it|this|that|the|there|because|we|you)\b))) )
    | (?P<denied> \b(?:does\ not|doesn't|do\ not|don't|cannot|can't|did\ not|would\ not)\ (?:\w+\ )?
                  (?:follow|be\ (?:concluded|inferred|deduced))\b )
    | (?P<follows> \b(?:does\ (?:\w+\ )?follow|follows\ (?:logically\ )?from
                  |can\ be\ (?:concluded|inferred|deduced))\b )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_TRUTH = r"\(*\s*(?:not\s+)*\(*(?:true|false)\b"
_OPERAND_AFTER = re.compile(rf"[\s)]*\b(?:and|or)\b\s*{_TRUTH}", re.IGNORECASE)
_OPERAND_BEFORE = re.compile(
    r"\b(?:true|false)\b[\s)]*\b(?:and|or)\b\s*\(*\s*(?:not\s+)*\(*(?:not\s+)*$", re.IGNORECASE
)
_CONCLUDED = re.compile(r"\b(?:therefore|thus|so|hence|conclusion|finally)\b[^.\n]{0,80}$", re.IGNORECASE)


def parse_bool(text: str, echo: Sequence[str] = ()) -> Parsed | None:
    """Yes/no, true/false, correct/incorrect, valid/invalid, does (not) follow; None where neither is said.

    "No" counts only as a verdict ("No, ...", "the answer is no"), not as a quantifier ("No cats are dogs"); "true or
    false" repeats the question; "not true" is False; a True beside and/or is an operand; words within a quotation
    are somebody else's. `echo` are phrases of the question that hold such words.
    """

    def find(text: str, begin: int) -> Parsed | None:
        hidden = [m.span() for phrase in echo for m in re.finditer(re.escape(tidy(phrase)), text, re.IGNORECASE)]
        hidden += [m.span() for m in re.finditer(r'"[^"\n]*\s[^"\n]*"', text) if m[0] != text.strip()]
        hits = [m for m in _BOOL.finditer(text, begin) if not m["echo"] and not _is_operand(text, m)]
        hits = [m for m in hits if not any(a <= m.start() and m.end() <= b for a, b in hidden)]
        if not hits:
            return None
        for cue in reversed(list(ANSWER_CUE.finditer(text, begin))):
            for m in hits:
                if m.start() >= cue.end() and not re.search(r"[.\n]", text[cue.end() : m.start()].strip()):
                    return _verdict(m, "answer")
        if not re.search(r"\w", text[begin : hits[0].start()]):
            return _verdict(hits[0], "leading")
        concluded = [m for m in hits if _CONCLUDED.search(text[begin : m.start()])]
        return _verdict(concluded[-1] if concluded else hits[0], "stated")

    return read(text, find, marked=("answer", "leading"))


def _is_operand(text: str, m: re.Match[str]) -> bool:
    """Whether the word stands in an expression ("True and False") rather than being said of one."""
    return bool(_OPERAND_AFTER.match(text, m.end()) or _OPERAND_BEFORE.search(text[: m.start()]))


def _verdict(m: re.Match[str], how: str) -> Parsed:
    return Parsed(bool(m["yes"] or m["follows"]) != bool(m["flip"]), m.start(), m.end(), how)


def parse_letter(text: str, n: int = 4) -> Parsed | None:
    """The index of a choice letter among the first `n` ("B", "(b)", "B) ...", "Option B", "the answer is B").

    The article "A" and the pronoun "I" are words, not letters, unless marked as a choice.
    """
    last = chr(ord("A") + n - 1)
    letters = rf"(?P<letter>[A-{last}a-{last.lower()}])"
    letter = rf"[\s*_\"'(\[]*{letters}(?![\w'])"
    cued = re.compile(rf"(?:\s*(?:option|choice|letter))?{letter}(?!\s+[a-z])", re.IGNORECASE)
    boxed = re.compile(rf"\\boxed\{{{letter}")
    head = re.compile(rf"[\s*_\"'(\[]*{letters}(?=[\s*_\"'\]]*(?:[).:,\]]|$|\n|-))")
    named = re.compile(rf"\b(?:option|choice|letter|alternative)[\s*_:]*{letter}", re.IGNORECASE)
    loose = re.compile(rf"(?<![\w'])\(?(?P<letter>[A-{last}])(?=[).,:;\s]|$)")

    def find(text: str, begin: int) -> Parsed | None:
        for cue in reversed(list(ANSWER_CUE.finditer(text, begin))):
            if m := cued.match(text, cue.end()):
                return _letter(m, "answer")
        for m, how in ((boxed.search(text, begin), "boxed"), (head.match(text, begin), "leading")):
            if m:
                return _letter(m, how)
        if m := named.search(text, begin):
            return _letter(m, "marked")
        for m in loose.finditer(text, begin):
            if not (m["letter"] in "AI" and re.match(r"\s+[a-z]", text[m.end() :])):
                return _letter(m, "last")
        return None

    return read(text, find, marked=("answer", "boxed", "leading"))


def _letter(m: re.Match[str], how: str) -> Parsed:
    return Parsed(ord(m["letter"].upper()) - ord("A"), m.start("letter"), m.end("letter"), how)


def parse_choice(text: str, choices: Sequence[str]) -> Parsed | None:
    """The index of the choice that the text gives, by its words (an explicit mark first, then the first one
    mentioned, the longest where several begin together) or else by its letter."""
    named = parse_name(text, {choice: i for i, choice in enumerate(choices)}, free=False)
    letter = parse_letter(text, len(choices)) if len(choices) > 1 and min(map(len, choices)) > 1 else None
    if letter and (named is None or letter.how in ("answer", "boxed", "leading", "marked")):
        return letter
    return named
