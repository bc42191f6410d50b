"""In which order a question's options stand, and which distractors it keeps: by hashes, so the same on every machine.

The options are put in the order of sha256(seed, id, option) and turned by r places in rotation r, so that over as many
rotations as there are options each stands at each place once. Options that speak of the others' places stay put.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_CLOSING = re.compile(r"\b(?:all|none|any|neither|both|some)\b.*\b(?:above|preceding|previous)\b", re.IGNORECASE)
_ABOUT_PLACES = re.compile(
    r"^(?:both |neither |only |either )?\(?[A-H]\)?(?:,? ?\(?[A-H]\)?)*,? (?:and|or|nor|&) \(?[A-H]\)?(?: only)?\.?$"
    r"|\b(?:first|last|previous|other) (?:two |three )?(?:options?|answers?|choices?)\b",
    re.IGNORECASE,
)


def rank(seed: int, key: str, text: str) -> str:
    """sha256 of (seed, key, text): what orders options and distractors."""
    return hashlib.sha256("\x1f".join((str(int(seed)), key, text)).encode()).hexdigest()


def draw(wrong: Sequence[str], n: int | None, seed: int, key: str) -> list[str]:
    """At most `n` of the wrong options, those of the least hashes, in their own order; None: all."""
    if n is None or n >= len(wrong):
        return list(wrong)
    kept = set(sorted(wrong, key=lambda text: rank(seed, key, text))[:n])
    return [text for text in wrong if text in kept]


def turns(options: Sequence[str], rotations: int) -> int:
    """How many different orders of `rotations` exist: at most one a place, and one where the order means something."""
    if any(_ABOUT_PLACES.search(option.strip()) for option in options):
        return 1
    return min(rotations, sum(not _CLOSING.search(option) for option in options) or 1)


def ordered(options: Sequence[str], seed: int, key: str, rotate: bool, rotation: int = 0) -> list[str]:
    """The options in the order of rotation `rotation`; without `rotate` from the order given.

    "All of the above" and its like stand last; options like "A and B" or "the first two answers" leave all as given.
    """
    if (not rotate and not rotation) or any(_ABOUT_PLACES.search(option.strip()) for option in options):
        return list(options)
    moving = [option for option in options if not _CLOSING.search(option)]
    closing = [option for option in options if _CLOSING.search(option)]
    if rotate:
        moving.sort(key=lambda text: rank(seed, key, text))
    by = rotation % len(moving) if moving else 0
    return [*moving[by:], *moving[:by], *closing]
