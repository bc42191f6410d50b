"""Lists of phrases: the shipped, curated one and files of a user's own. One phrase a line, `# topic` headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from gnomon.errors import UserError


@dataclass(frozen=True)
class Phrase:
    """A phrase, where it is from (curated, file, mined), and its topic ("" where it has none)."""

    text: str
    source: str
    topic: str = ""


def parse(text: str, source: str) -> list[Phrase]:
    """Phrases of a list; blank lines are skipped, spaces inside a phrase are folded."""
    out, topic = [], ""
    for line in text.splitlines():
        words = " ".join(line.split())
        if words.startswith("#"):
            topic = words.lstrip("# ")
        elif words:
            out.append(Phrase(words, source, topic))
    return out


def curated_text() -> str:
    """The shipped file, as it is: gnomon/lexicons/math_logic.txt."""
    return resources.files("gnomon.lexicons").joinpath("math_logic.txt").read_text(encoding="utf-8")


@cache
def curated() -> tuple[Phrase, ...]:
    """The shipped phrases about mathematics, logic and reasoning."""
    return tuple(parse(curated_text(), "curated"))


def read_text(path: str | Path, what: str) -> str:
    """A text file; UserError where it is not there, no text, or empty."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"no {what} at {path}", "a text file", "check the path (it is read from where gnomon runs)")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text ({error})", "a plain text file") from None
    if not text.strip():
        raise UserError(f"{path} is empty", f"a {what} with some text")
    return text


def read_file(path: str | Path) -> list[Phrase]:
    """Phrases of a user's file; UserError where it holds none."""
    found = parse(read_text(path, "phrase file"), "file")
    if not found:
        raise UserError(f"{path} holds no phrase", "one phrase a line (lines that begin with # are topics)")
    return found


def unique(phrases: Iterable[Phrase]) -> list[Phrase]:
    """The first of phrases that differ in case only."""
    seen: dict[str, Phrase] = {}
    for phrase in phrases:
        seen.setdefault(phrase.text.casefold(), phrase)
    return list(seen.values())
