"""Text that has nothing to do with the task: what an edit does there is off-target damage.

`neutral_texts`: short plain paragraphs, written for gnomon, whose loss should not change. `unrelated_items`: little
facts and sums with one obvious next word. Both are the same in every study, so damage can be compared between them.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from gnomon.errors import UserError


@cache
def _paragraphs() -> tuple[str, ...]:
    text = resources.files("gnomon.data").joinpath("neutral.txt").read_text(encoding="utf-8")
    return tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())


@cache
def _items() -> tuple[tuple[str, str], ...]:
    text = resources.files("gnomon.data").joinpath("unrelated.txt").read_text(encoding="utf-8")
    return tuple((a, b) for a, b in (line.split("\t") for line in text.splitlines() if line.strip()))


def neutral_texts(n: int) -> tuple[str, ...]:
    """The first `n` paragraphs (about 37 words each); UserError for more than there are."""
    known = _paragraphs()
    if not 0 <= n <= len(known):
        raise UserError(f"{n} neutral texts were asked for", f"0 to {len(known)}")
    return known[:n]


def unrelated_items(n: int, numbers: bool = True) -> tuple[tuple[str, str], ...]:
    """At most `n` pairs (prompt, next word), spread over the list; without `numbers`, sums are left out (for a task
    that is itself about numbers)."""
    known = tuple(item for item in _items() if numbers or not any(c.isdigit() for c in item[0]))
    if n < 0:
        raise UserError(f"{n} unrelated items were asked for", "0 or more")
    return known if n >= len(known) else tuple(known[i * len(known) // n] for i in range(n))
