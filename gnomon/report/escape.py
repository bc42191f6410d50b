"""A model's output is hostile input: nothing of it may act as markup, break the encoding, hide or reorder the page."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

# Characters that a reader cannot see, or that change how others are seen: control characters (but tab and newline),
# bidirectional marks and overrides, zero-width spaces, soft hyphen, line separators, tags, lone surrogates.
# Joiners (U+200C, U+200D) stay: Persian and emoji are written with them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e007f\ud800-\udfff]"
)
# What no file may hold or HTML may not carry; the rest of the hidden ones are harmless outside transcripts.
_BROKEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")

CONTROLS = (
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "TAB", "LF", "VT", "FF", "CR", "SO", "SI"),
    *("DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US"),
)


def name_of(character: str) -> str:
    """`NUL` for a control character, `U+202E` for any other that cannot be shown (names that every font can print)."""
    code = ord(character)
    if code < 0x20:
        return CONTROLS[code]
    return "DEL" if code == 0x7F else f"U+{code:04X}"


def clean(text: str) -> str:
    """Text for any place of the page: what is broken or reorders is replaced by its name (still to be escaped)."""
    return _BROKEN.sub(lambda m: f"[{name_of(m[0])}]", text)


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where some are left out."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def visible(text: str, limit: int = 20_000) -> Markup:
    """A transcript as HTML: escaped, whitespace kept, every hidden character boxed with its name, the rest counted.

    Text of more than `limit` characters is cut, and says how many are left out.
    """
    text = str(text)
    out, at = [], 0
    shown = text[:limit]
    for match in _HIDDEN.finditer(shown):
        title = unicodedata.name(match[0], "a character that cannot be shown")
        out += [escape(shown[at : match.start()]), Markup('<span class="hid" title="{}">{}</span>').format(
            f"U+{ord(match[0]):04X} {title.lower()}", name_of(match[0]))]  # fmt: skip
        at = match.end()
    out.append(escape(shown[at:]))
    if len(text) > limit:
        out.append(Markup('<span class="cut">… {:,} more characters in the table</span>').format(len(text) - limit))
    return Markup("").join(out)


def script_json(value: Any) -> Markup:
    """JSON that may stand inside a <script> element: ASCII, with no `<`, `>` or `&`, and null for NaN."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def chart_text(value: Any, limit: int = 60) -> str:
    """A label for plotly, which reads a little markup (`<b>`) in every text: entities, one line, clipped."""
    text = clip(" ".join(clean(str(value)).split()), limit)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
