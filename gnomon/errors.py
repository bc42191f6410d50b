"""The one exception a user's mistake raises: what was given, what was wanted, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend; the command line prints its text without a traceback.

    Args:
        got: what was found, quoted where it is the user's own text ("unknown site 'resid_pst.12'").
        wanted: what would have been right ("components are resid_pre, resid_mid, ..."); may be empty.
        do: what to do next ("raise generate.n"); may be empty.
    """

    def __init__(self, got: str, wanted: str = "", do: str = "") -> None:
        self.got, self.wanted, self.do = got, wanted, do
        text = got
        for part in (wanted, do):
            if part:  # what follows a question is a sentence of its own
                text += f" {part[0].upper()}{part[1:]}" if text.endswith("?") else f"; {part}"
        super().__init__(text)

    def __reduce__(self):  # keeps the three parts when it crosses a process border
        return (UserError, (self.got, self.wanted, self.do))


def nearest(name: object, options: Iterable[str], count: int = 1) -> str:
    """Return "did you mean 'x'?" for the nearest of `options`, or "" where none is near."""
    close = difflib.get_close_matches(str(name), [str(o) for o in options], n=count, cutoff=0.5)
    return f"did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def unknown(kind: str, name: object, options: Iterable[str]) -> UserError:
    """Build the error for a name that is not in a table: the nearest name, then the whole list."""
    options = sorted(str(o) for o in options)
    hint = nearest(name, options)
    return UserError(f"unknown {kind} {name!r}", hint, f"known: {', '.join(options) or 'none'}")
