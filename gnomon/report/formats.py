"""How numbers, intervals, p-values, times and sizes are written, the same everywhere: `.79 [.72, .85]`, `p < .001`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

MISSING = "not available"
NO_INTERVAL = "no interval (n too small)"
SMALL_CLASS = 20
"""Rows that a class needs in test before its numbers get an interval."""
DEFAULT = ".3f"
COUNTS = re.compile(r"n|n_.+|.+_n|n\d+|rank|layer|head|index|rows?|count|tokens|seed|round|sample")
P_VALUES = re.compile(r"p|q|p_.+|q_.+|.+_p|.+_q|.*p_value")


def is_missing(value: Any) -> bool:
    """True for None, NaN, NaT and infinities: what must never be printed as a number."""
    if value is None:
        return True
    if isinstance(value, float | np.floating):
        return not math.isfinite(value)
    return type(value).__name__ in ("NaTType", "NAType")


def number(value: Any, spec: str = "", column: str = "") -> str:
    """One value as text.

    Args:
        value: a cell; strings pass through, booleans read yes and no, what is missing reads "not available".
        spec: a Python format spec; "" chooses by the number. The default of a Ref, ".3f", gives way to whole numbers
            beyond 1 (an AUROC of 1.000 keeps its digits, 240 answers have none) and to p-values.
        column: the cell's column: `p` and `q` are written as p-values, counts as whole numbers.

    Fixed-point numbers lose the zero before the point (`.79`), percentages keep it (`0.5%`).
    """
    if is_missing(value):
        return MISSING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, int | float | np.number):
        return str(value)
    value = value.item() if isinstance(value, np.number) else value
    chosen = spec if spec != DEFAULT else ""
    if not chosen and P_VALUES.fullmatch(column):
        return p_value(float(value))
    whole = isinstance(value, int) or (value.is_integer() and (abs(value) > 1 or bool(COUNTS.fullmatch(column))))
    if not chosen and whole:
        return f"{int(value):,}" if abs(value) >= 10_000 and column not in ("seed", "row") else str(int(value))
    if not (chosen or spec):
        spec = automatic(abs(float(value)))
    if spec.endswith("d"):
        value = round(value)
    text = format(value, spec)
    return short(text) if spec.endswith(("f", "g")) else text


def automatic(size: float) -> str:
    """A format spec for a number of this size: about three digits that mean something."""
    if size == 0 or 0.001 <= size < 100:
        return ".3f" if size < 10 else ".2f"
    if size < 0.001:
        return ".1e"
    return ",.1f" if size < 1000 else ",.0f"


def short(text: str) -> str:
    """Drop the zero before the point, and the sign of a number that rounds to nothing."""
    if not re.search(r"[1-9]", text):
        text = text.lstrip("-+")
    return re.sub(r"^([-+]?)0\.", r"\1.", text)


def p_value(p: float) -> str:
    """`<.001`, `.012`, `.34`: never a p of zero."""
    if p < 0.001:
        return "<.001"
    return short(f"{p:.3f}" if p < 0.1 else f"{p:.2f}")


def interval(low: Any, high: Any, spec: str = "", row: Mapping[str, Any] | None = None) -> str:
    """`[.72, .85]`, or why there is none: the row's smaller class is under 20 (or unknown), or none was computed."""
    if is_missing(low) or is_missing(high):
        size = smaller_class(row or {})
        return NO_INTERVAL if size is None or size < SMALL_CLASS else "no interval"
    return f"[{number(float(low), spec)}, {number(float(high), spec)}]"


def smaller_class(row: Mapping[str, Any]) -> int | None:
    """Rows of the smaller class (`n_pos` of `n`, or of `rows`), of all where classes are not told, None where nothing
    is."""
    n, positive = row.get("n", row.get("rows")), row.get("n_pos")
    if is_missing(n) or not isinstance(n, int | float | np.number):
        return None
    if is_missing(positive) or not isinstance(positive, int | float | np.number):
        return int(n)
    return int(min(positive, n - positive))


def seconds(value: Any) -> str:
    """`0.8 s`, `42 s`, `3 min 12 s`, `2 h 05 min`."""
    if is_missing(value) or not isinstance(value, int | float | np.number):
        return ""
    value = float(value)
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(value: Any) -> str:
    """`12 kB`, `3.4 MB`, `1.2 GB` (powers of 1000)."""
    if is_missing(value) or not isinstance(value, int | float | np.number):
        return ""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit in ("B", "kB") or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return ""


def parse_time(value: Any) -> datetime | None:
    """A moment from an ISO text or seconds since 1970; None where it is neither."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        return datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return None


def moment(value: Any) -> str:
    """`21 November 2025, 03:41 UTC`; what cannot be read as a time is shown as it is."""
    when = parse_time(value)
    if when is None:
        return "" if value is None else str(value)
    zone = when.strftime(" %Z") if when.tzinfo else ""
    return f"{when.day} {when.strftime('%B %Y, %H:%M')}{zone}"
