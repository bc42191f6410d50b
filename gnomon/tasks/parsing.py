"""Text to answer: pure functions, one per kind of answer. Nothing is guessed: what cannot be read is None.

Every function returns what it found with its characters [start, end) in the given text. The rules, in order, are
the same for all kinds: text after a run-on into a new question is not read; a refusal holds no answer unless one is
stated outright; a correction ("wait, no ...") beats what stood before it; an explicit mark ("#### 42", \\boxed{},
"the answer is") beats an implicit one; what merely repeats the question does not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
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
    r"""
      \n\s*(?:\#+\s*)?(?:question|q|problem|exercise|example|user|human|input|context|instruction|statement)\s*\d*\s*[:.)]
    | <\|im_(?:end|start)\|> | <\|endoftext\|> | <\|eot_id\|> | </s> | <eos> | <end_of_turn> | \[/?INST\]
    | \n\s*(?:-{3,}|={3,})\s*\n
    """,
    re.IGNORECASE | re.VERBOSE,
)
_REFUSAL = re.compile(
    r"""
      \bi\ (?:(?:really|just|honestly|also)\ )?(?:do\ not|don't|did\ not|didn't)
        \ (?:know|have|understand|recall|remember|see|think\ i\ can|feel)\b
    | \bi(?:\ am|'m)\ (?:(?:so|very|really|truly|deeply)\ )?
        (?:sorry|unable|not\ able|not\ sure|not\ certain|not\ aware|unsure|afraid|not\ allowed|not\ familiar)\b
    | \bi\ (?:(?:also|simply|just)\ )?(?:cannot|can't|can\ not|could\ not|couldn't|will\ not|won't)\b
    | \bas\ an\ ai\b
    | \b(?:it(?:\ is|'s)|this\ is)\ (?:not\ possible|impossible|difficult|hard)
        \ to\ (?:determine|say|know|answer|tell|solve)\b
    | \bcan(?:not|'t|\ not)\ be\ (?:determined|answered|known|calculated|solved)\b
    | \b(?:not\ enough|insufficient)\ information\b | \bi\ have\ no\ (?:idea|way|information)\b | \bno\ idea\b
    | ^\W*(?:n/?a|none|unknown|unsure|unclear|undefined|nan|idk|sorry)\W*$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DESPITE = re.compile(r"\b(?:but|however|nevertheless|that said|still|my (?:best )?guess)\b", re.IGNORECASE)
_CORRECTION = re.compile(
    r"""
    \b(?:wait|oops|actually|i\ mean|i\ meant|scratch\ that|on\ second\ thoughts?|correction|i\ apologi[sz]e|my\ mistake
    | i\ made\ an?\ (?:mistake|error)
    | let\ me\ (?:correct|redo|re-?calculate|re-?check|try\ again|fix)
    | sorry,(?=\ (?:it|that|the|i\ mean)))\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
ANSWER_CUE = re.compile(
    r"""
    (?:\b(?:final|correct|right|best|my)\s+)?
    \b(?:answer|ans|solution)\b (?:\s*\([^)\n]{1,20}\))?
    (?:\s+(?:to|of|for)\s+[^.:\n]{1,160}?)?
    [\s*_]*
    (?:\b(?:is|was|would\ be|should\ be|will\ be|must\ be|comes\ (?:out\ )?to|equals)\b | : | = | -> | →)
    [\s*_]*:?
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""What announces an answer: "the answer is", "Final answer:", "the correct answer to the question is"."""
_SAME_LENGTH = str.maketrans("’‘`“”−–\u00a0\u2007", "'''\"\"--  ")


def tidy(text: str) -> str:
    """The text with typographic quotes, minus signs and hard spaces made plain; every character keeps its place."""
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
