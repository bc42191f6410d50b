"""Plain text for terminals: aligned tables, sizes and durations in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""What a terminal obeys or hides instead of showing: control characters, and marks of direction and of no width."""


def table(rows: Sequence[Sequence[str]], headers: Sequence[str] = (), indent: str = "") -> str:
    """Rows in aligned columns; numbers to the right."""
    shown = [list(map(str, row)) for row in ([headers, *rows] if headers else rows)]
    if not shown:
        return ""
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]
    numeric = [
        all(not row[i] or row[i].lstrip("+-")[:1].isdigit() for row in shown[bool(headers) :])
        for i in range(len(widths))
    ]
    lines = [
        indent
        + "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in shown
    ]
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes in words: 1.2 GB; nothing for 0."""
    if not count:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(time: float) -> str:
    """Seconds in words: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(time)
    if whole < 60:
        return f"{time:.1f} s" if time < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str, most: int = 0) -> str:
    """Text as it may stand on a terminal: what would move the cursor, colour or turn the line is written out (\\x1b).

    With `most`, of a longer text only its two ends are left, about that many characters together, and how many are not.
    """
    if most and len(text) > most:
        half = most // 2
        text = f"{text[:half]} ... [{len(text) - 2 * half} characters] ... {text[-half:]}"
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
