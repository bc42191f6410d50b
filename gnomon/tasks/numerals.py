"""Numbers in text: find every one with its exact value and place, and compare two of them.

Values are `Fraction`s, so "3/4", ".75", "75%" and "7.5e-1" meet without rounding. Nothing here knows what an answer
is; `parsing.py` chooses among the numbers found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|\\,|\u202f|\u2009)\d{3})+(?!\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"""
    (?<![A-Za-z_0-9])(?<![A-Za-z]-)(?<!\d\.)
    (?P<sign>(?<![\w)\]}}])-)?
    (?P<money>(?:\\?[$€£¥₹]|(?:US|CA|AU)\$)\ ?-?)?
    (?:
      \\[dt]?frac\{{(?P<top>-?\d+)\}}\{{(?P<bottom>\d+)\}}
    | (?P<mixed>\d+)\ (?P<mtop>\d+)/(?P<mbottom>\d+)(?![\d/])
    | (?P<ftop>\d+)\ ?/\ ?(?P<fbottom>\d+)(?![\d/.]*\d)
    | (?P<whole>{_DIGITS})?(?P<vulgar>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])
    | (?P<int>{_DIGITS})?(?P<decimals>\.\d+)
    | (?P<plain>{_DIGITS})
    )
    (?:[eE](?P<exp>[+-]?\d{{1,3}})(?!\w)|\ ?(?:[x×*]|\\times|\\cdot)\ ?10\^\{{?(?P<power>[+-]?\d{{1,3}})\}}?)?
    (?:(?P<percent>\ ?\\?%|\ percent\b|\ per\ cent\b)|\ (?P<scale>hundred|thousand|million|billion|trillion|dozen)s?\b)?
    (?!\d|(?:st|nd|rd|th)\b)
    """,
    re.VERBOSE,
)
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {w: i for i, w in enumerate(_UNITS)} | {w: 20 + 10 * i for i, w in enumerate(_TENS)}
_WORD = "|".join(sorted([*_WORDS, *_SCALES], key=len, reverse=True))
_SPELLED = re.compile(
    rf"\b(?:(?P<minus>minus|negative)\s+)?(?:an?\s+(?=(?:{'|'.join(_SCALES)})\b))?"
    rf"(?:{_WORD})(?:(?:\s*-\s*|\s+and\s+|,?\s+)(?:{_WORD}))*\b(?!-)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A number as written: its exact value, its characters [start, end), and how it was written."""

    value: Fraction
    start: int
    end: int
    percent: bool = False
    scale: int = 1
    decimals: int = 0
    spelled: bool = False


def find_numbers(text: str, spelled: bool = False) -> list[Number]:
    """Every number in `text`, in order of place; with `spelled`, also those in words ("twenty-three").

    Understands signs, currencies, thousands separators (also 12,34,567), decimals, fractions (3/4, 1 1/2, ½,
    \\frac{3}{4}), percentages, 1.2e5, 1.2 x 10^5 and "3 million". Ordinals (3rd) and digits inside words are not
    numbers. A minus sign counts only where it is not a subtraction ("10-4", "10 - 4") nor a list bullet ("- 4").
    """
    found = list(_digits(text))
    if spelled:
        taken = [(n.start, n.end) for n in found]
        found += [n for n in _spelled(text) if not any(a < n.end and n.start < b for a, b in taken)]
    return sorted(found, key=lambda n: n.start)


def _digits(text: str) -> Iterator[Number]:
    for m in _NUMBER.finditer(text):
        value, decimals = _value(m)
        if value is None:
            continue
        start, end = m.start(), m.end()
        money = m["money"] or ""
        before = re.search(
            r"\b(?:minus|negative)\s+\\?[$€£¥₹]?$", text[max(0, m.start() - 12) : m.start()], re.IGNORECASE
        )
        if m["sign"] or money.endswith("-"):
            value = -value
        elif before and re.match(r"neg", before[0], re.IGNORECASE):
            value, start = -value, max(0, m.start() - 12) + before.start()
        elif before and not re.search(r"\w\s*$", text[: max(0, m.start() - 12) + before.start()]):
            value, start = -value, max(0, m.start() - 12) + before.start()  # "minus 5", but not "9 minus 5"
        if money and not m["sign"]:
            start += 0 if start != m.start() else len(money.rstrip("-"))
        yield Number(value, start, end, bool(m["percent"]), _SCALES.get(m["scale"] or "", 1), decimals)


def _value(m: re.Match[str]) -> tuple[Fraction | None, int]:
    decimals = 0
    if m["top"]:
        value = _ratio(m["top"], m["bottom"])
    elif m["mtop"]:
        part = _ratio(m["mtop"], m["mbottom"])
        value = None if part is None else int(m["mixed"]) + part
    elif m["ftop"]:
        value = _ratio(m["ftop"], m["fbottom"])
    elif m["vulgar"]:
        value = Fraction(_clean(m["whole"] or "0")) + Fraction(*_VULGAR[m["vulgar"]])
    else:
        decimals = len(m["decimals"] or ".") - 1
        value = Fraction(_clean(m["int"] or m["plain"] or "0") + (m["decimals"] or ""))
    if value is None:
        return None, 0
    power = int(m["exp"] or m["power"] or 0)
    value *= Fraction(10) ** power * _SCALES.get(m["scale"] or "", 1)
    return value, max(0, decimals - power)


def _clean(digits: str) -> str:
    return re.sub(r"\D", "", digits)


def _ratio(top: str, bottom: str) -> Fraction | None:
    return Fraction(int(top), int(bottom)) if int(bottom) else None


def _spelled(text: str) -> Iterator[Number]:
    for m in _SPELLED.finditer(text):
        words = re.findall(r"[a-z]+", m[0].lower())
        value = words_to_int([w for w in words if w not in ("minus", "negative", "and", "a", "an")])
        if value is None:
            continue
        minus = m["minus"] is not None and (
            m["minus"].lower() == "negative" or not re.search(r"\w\s*$", text[: m.start()])
        )
        start = m.start() if minus or m["minus"] is None else m.start() + len(m["minus"]) + 1
        yield Number(Fraction(-value if minus else value), start, m.end(), spelled=True)


def words_to_int(words: list[str]) -> int | None:
    """Value of number words in order (["two", "hundred", "three"] is 203), or None where they make no number."""
    total, current, last = 0, 0, None
    for word in words:
        if word in _SCALES:
            scale = _SCALES[word]
            if scale in (12, 100):
                current = max(current, 1) * scale
            else:
                if total and scale >= (last or scale + 1):
                    return None
                total, current, last = total + max(current, 1) * scale, 0, scale
        else:
            value = _WORDS[word]
            room = 10 if current % 100 in range(20, 100, 10) and current % 10 == 0 and value < 10 else 0
            if current % 100 and not room:
                return None  # "five six"
            if room and value == 0:
                return None
            current += value
    return total + current


def int_to_words(value: int) -> str:
    """English words of an integer below 10**15, as `words_to_int` reads them: 123 is "one hundred twenty-three"."""
    if value < 0:
        return "minus " + int_to_words(-value)
    if value < 20:
        return _UNITS[value]
    if value < 100:
        tens, units = divmod(value, 10)
        return _TENS[tens - 2] + (f"-{_UNITS[units]}" if units else "")
    for name, scale in (
        ("trillion", 10**12),
        ("billion", 10**9),
        ("million", 10**6),
        ("thousand", 10**3),
        ("hundred", 100),
    ):
        if value >= scale:
            head, rest = divmod(value, scale)
            return f"{int_to_words(head)} {name}" + (f" {int_to_words(rest)}" if rest else "")
    raise AssertionError("unreachable")


def exact(text: str | float | int) -> Fraction | None:
    """The value of a text that is one number and nothing more ("2,125", "51.0", "3/4", "-3"), else None."""
    if isinstance(text, bool):
        return None
    if isinstance(text, int | float):
        text = repr(text)
    stripped = text.strip().rstrip(".").strip()
    found = find_numbers(stripped)
    if len(found) != 1:
        return None
    number = found[0]
    rest = stripped[: number.start] + stripped[number.end :]
    return number.value if not re.sub(r"[\\$€£¥₹+\s]", "", rest) else None


def show(value: Fraction) -> str:
    """Write a value plainly: an integer, a terminating decimal, else numerator/denominator."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1 and value.denominator < 10**18:
        places = next(k for k in range(1, 60) if (value * 10**k).denominator == 1)
        digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
        return ("-" if value < 0 else "") + f"{digits[:-places]}.{digits[-places:]}"
    return f"{value.numerator}/{value.denominator}"


def same(number: Number, target: Fraction) -> bool:
    """Whether an answer is the target: a percentage may mean 25 or .25, "4 million" and "7 dozen" may count the unit
    that the question names; a target that is not whole may be rounded to the two or more decimals that are shown."""
    for unit in {1, number.scale, *([100] if number.percent else [])}:
        value = number.value / unit
        if abs(value - target) <= Fraction(1, 10**9) * (1 if target.denominator == 1 else max(1, abs(target))):
            return True
        places = number.decimals + (2 if unit == 100 else 0)
        if target.denominator != 1 and places >= 2 and abs(value - target) <= Fraction(1, 2 * 10**places):
            return True
    return False
