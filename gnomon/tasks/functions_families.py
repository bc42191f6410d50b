# ruff: noqa: E501  (a problem is told in one line)
"""Families of near copies: one template, several fillings; each family is one group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """`signature`, `words` and `body` are filled with each of `values`; `oracle(*case, **values)` says what is right
    by another way than the body."""

    name: str
    signature: str
    words: str
    body: str
    values: Sequence[dict[str, Any]]
    cases: Sequence[Callable[..., Sequence[Any]] | tuple[Any, ...]]
    oracle: Callable[..., Any]


def over(key: str, *values: Any) -> list[dict[str, Any]]:
    return [{key: value} for value in values]


NUMBERS: list[Any] = [([3, 8, 12, 5],), ([],), ([-4, 0, 7],), ([10, 20, 30, 15, 6],), ([9, 2, 11],)]
WORDS: list[Any] = [("banana",), ("",), ("Mississippi river",), ("a-b c",), ("See the apples",)]

FAMILIES: list[Family] = [
    Family("add a number", "add_{k}(x)", "Return the sum of x and {k}.", "return x + {k}",
           over("k", 3, 10, 25), [(0,), (5,), (-3,), (100,)], lambda x, k: sum([x, k])),
    Family("multiply by a number", "times_{k}(x)", "Return x multiplied by {k}.", "return x * {k}",
           over("k", 4, 7, 11), [(0,), (5,), (-3,), (10,)], lambda x, k: sum([x] * k)),
    Family("divisible by a number", "is_divisible_by_{k}(n)",
           "Return True if the whole number n can be divided by {k} without remainder, otherwise False.",
           "return n % {k} == 0", over("k", 3, 6, 7), [(0,), (42,), (21,), (25,), (18,)],
           lambda n, k: n in range(0, 100, k)),
    Family("last digit of a multiple", "last_digit_times_{k}(n)",
           "Return the last digit of {k} * n.", "return {k} * n % 10",
           over("k", 3, 7, 9), [(0,), (4,), (12,), (99,)], lambda n, k: int(str(k * n)[-1])),
    Family("polynomial", "polynomial_{a}_{b}(x)", "Return {a} * x * x + {b} * x + 1.", "return {a} * x * x + {b} * x + 1",
           [{"a": 2, "b": 3}, {"a": 1, "b": 5}, {"a": 4, "b": 2}], [(0,), (1,), (-2,), (10,)],
           lambda x, a, b: (a * x + b) * x + 1),
    Family("filter by size", "larger_than_{k}(numbers)",
           "Return a list of the numbers greater than {k}.",
           "return [n for n in numbers if n > {k}]", over("k", 5, 8, 10), NUMBERS,
           lambda numbers, k: list(filter(k.__lt__, numbers))),
    Family("count by size", "count_below_{k}(numbers)", "Return the number of numbers in a list that are less than {k}.",
           "return sum(n < {k} for n in numbers)", over("k", 6, 9, 12), NUMBERS,
           lambda numbers, k: len(numbers) - len([n for n in numbers if n >= k])),
    Family("sum of multiples", "sum_of_multiples_of_{k}(numbers)",
           "Return the sum of those numbers in the list that {k} divides.",
           "return sum(n for n in numbers if n % {k} == 0)", over("k", 3, 4, 5), NUMBERS,
           lambda numbers, k: sum(n for n in numbers if n in range(-100, 100) and n // k * k == n)),
    Family("multiples up to", "multiples_of_{k}_up_to(limit)",
           "Return a list of the multiples of {k} from {k} to limit.",
           "return list(range({k}, limit + 1, {k}))", over("k", 3, 5, 8), [(1,), (16,), (24,), (25,), (40,)],
           lambda limit, k: [n for n in range(1, limit + 1) if n % k == 0]),
    Family("map over a list", "each_{name}(numbers)", "Return the list of {words} of each of the numbers.",
           "return [{formula} for n in numbers]",
           [{"name": "squared", "words": "the square", "formula": "n * n"},
            {"name": "cubed", "words": "the cube", "formula": "n**3"},
            {"name": "doubled_plus_one", "words": "twice the value plus one", "formula": "2 * n + 1"},
            {"name": "negated", "words": "the negative", "formula": "-n"}], NUMBERS,
           lambda numbers, name, **_: [{"squared": n**2, "cubed": n * n * n, "doubled_plus_one": n + n + 1,
                                        "negated": 0 - n}[name] for n in numbers]),
    Family("count a letter", "count_letter_{letter}(text)", 'Return the number of times "{letter}" occurs in text.',
           'return text.count("{letter}")', over("letter", "a", "s", "e"), WORDS,
           lambda text, letter: sum(c == letter for c in text)),
    Family("replace a letter", "replace_{old}_by_{new}(text)",
           'Return text with every "{old}" replaced by "{new}".', 'return text.replace("{old}", "{new}")',
           [{"old": "a", "new": "o"}, {"old": "s", "new": "z"}, {"old": "e", "new": "i"}], WORDS,
           lambda text, old, new: "".join(new if c == old else c for c in text)),
    Family("first characters", "first_{k}(text)",
           "Return the first {k} characters of text, or all of it if it is shorter.", "return text[:{k}]",
           over("k", 2, 3, 5), WORDS, lambda text, k: "".join(c for i, c in enumerate(text) if i < k)),
    Family("last characters", "last_{k}(text)",
           "Return the last {k} characters of text.", "return text[-{k}:]",
           over("k", 2, 3, 4), WORDS, lambda text, k: text[::-1][:k][::-1]),
    Family("repeat a text", "repeat_{k}_times(text)", "Return text written {k} times, without anything in between.",
           "return text * {k}", over("k", 2, 3, 5), [("ab",), ("",), ("x ",), ("no",)],
           lambda text, k: "".join([text for _ in range(k)])),
    Family("join by a mark", "join_by_{name}(words)", 'Return the words joined by "{mark}".',
           'return "{mark}".join(words)',
           [{"name": "dash", "mark": "-"}, {"name": "comma", "mark": ", "}, {"name": "slash", "mark": "/"}],
           [(["a", "b"],), ([],), (["one"],), (["x", "y", "z"],)],
           lambda words, mark, **_: "".join(w if i == 0 else mark + w for i, w in enumerate(words))),
    Family("split at a mark", "count_parts_at_{name}(text)", 'Return how many parts text has when it is split at "{mark}".',
           'return len(text.split("{mark}"))',
           [{"name": "dash", "mark": "-"}, {"name": "comma", "mark": ","}, {"name": "colon", "mark": ":"}],
           [("a-b-c",), ("a,b",), ("",), ("x:y:z,w",), ("plain",)], lambda text, mark, **_: text.count(mark) + 1),
    Family("words by length", "words_longer_than_{k}(sentence)",
           "Return a list of the words of a sentence that are longer than {k} letters.",
           "return [word for word in sentence.split() if len(word) > {k}]", over("k", 2, 3, 4),
           [("the quick fox ran",), ("",), ("a bb ccc dddd eeeee",), ("extraordinary",)],
           lambda sentence, k: [w for w in sentence.split() if w[k:]]),
    Family("unit conversion", "{name}(value)", "Convert {source} to {target}: one of the first is {k} of the second.",
           "return value * {k}",
           [{"name": "hours_to_minutes", "source": "hours", "target": "minutes", "k": 60},
            {"name": "feet_to_inches", "source": "feet", "target": "inches", "k": 12},
            {"name": "weeks_to_days", "source": "weeks", "target": "days", "k": 7},
            {"name": "kilometers_to_meters", "source": "kilometers", "target": "meters", "k": 1000}],
           [(0,), (1,), (3,), (10,)], lambda value, k, **_: sum(value for _ in range(k))),
    Family("discount", "price_with_{k}_off(price)", "Return the price after a discount of {k} per cent.",
           "return price * (100 - {k}) / 100", over("k", 10, 25, 50), [(100,), (0,), (40,), (200,)],
           lambda price, k: (price * 100 - price * k) / 100),
    Family("digits with a property", "count_{name}_digits(n)", "Return how many decimal digits of n are {words}; n is at least 0.",
           "return sum({test} for d in str(n))",
           [{"name": "even", "words": "even", "test": "int(d) % 2 == 0"},
            {"name": "odd", "words": "odd", "test": "int(d) % 2 == 1"},
            {"name": "large", "words": "larger than 5", "test": "int(d) > 5"}],
           [(0,), (1234,), (97531,), (6688,), (505,)],
           lambda n, name, **_: len([d for d in str(n) if d in {"even": "02468", "odd": "13579", "large": "6789"}[name]])),
    Family("nth in a sequence", "{name}_number(n)", "Return the n-th {words} number: {formula} for n = 1, 2, 3 and so on.",
           "return {formula}",
           [{"name": "triangular", "words": "triangular", "formula": "n * (n + 1) // 2"},
            {"name": "pentagonal", "words": "pentagonal", "formula": "n * (3 * n - 1) // 2"},
            {"name": "hexagonal", "words": "hexagonal", "formula": "n * (2 * n - 1)"}],
           [(1,), (2,), (3,), (10,)],
           lambda n, name, **_: sum(1 + {"triangular": 1, "pentagonal": 3, "hexagonal": 4}[name] * i for i in range(n))),
    Family("dictionary by a limit", "names_with_at_least_{k}(scores)",
           "Return a sorted list of the names whose score is at least {k}.",
           "return sorted(name for name in scores if scores[name] >= {k})", over("k", 5, 10, 50),
           [({"ann": 5, "bob": 50},), ({},), ({"z": 70, "y": 9, "x": 60, "w": 10},), ({"k": 4},)],
           lambda scores, k: sorted(n for n, v in scores.items() if not v < k)),
    Family("place in tuples", "take_{name}(tuples)", "Return a list of the {name} items of a list of tuples of three.",
           "return [t[{i}] for t in tuples]",
           [{"name": "first", "i": 0}, {"name": "second", "i": 1}, {"name": "third", "i": 2}],
           [([(1, 2, 3)],), ([],), ([("a", "b", "c"), ("d", "e", "f")],), ([(0, 5, 0), (7, 7, 8)],)],
           lambda tuples, i, **_: [b if i == 1 else a if i == 0 else c for a, b, c in tuples]),
    Family("neighbours", "{name}_neighbours(numbers)",
           "Return the list of the {words} of each two numbers that stand next to each other.",
           "return [{formula} for a, b in zip(numbers, numbers[1:])]",
           [{"name": "add", "words": "sums", "formula": "a + b"},
            {"name": "multiply", "words": "products", "formula": "a * b"},
            {"name": "larger", "words": "larger ones", "formula": "max(a, b)"}],
           NUMBERS, lambda numbers, name, **_: [
               {"add": sum(numbers[i : i + 2]), "multiply": numbers[i] * numbers[i + 1],
                "larger": sorted(numbers[i : i + 2])[1]}[name] for i in range(len(numbers) - 1)]),
    Family("loop with a stop", "sum_until_{k}(numbers)",
           "Return the sum of the numbers that stand before the first {k}, or of all of them if there is no {k}.",
           "total = 0\nfor n in numbers:\n    if n == {k}:\n        break\n    total += n\nreturn total",
           over("k", 0, 9, 100), [([1, 2, 0, 3],), ([],), ([9, 5],), ([4, 100, 1],), ([3, 4, 9, 9],)],
           lambda numbers, k: sum(numbers[: numbers.index(k)]) if k in numbers else sum(numbers)),
    Family("rounds of a rule", "after_{k}_rounds(x)",
           "In each round x is doubled and then 3 is taken away. Return x after {k} rounds.",
           "for _ in range({k}):\n    x = 2 * x - 3\nreturn x", over("k", 2, 3, 5), [(3,), (0,), (4,), (10,)],
           lambda x, k: (x - 3) * 2**k + 3),
    Family("grid", "{name}_grid(rows, columns)", "Return a list of rows, each a list of numbers: {words}.",
           "return [[{formula} for c in range(columns)] for r in range(rows)]",
           [{"name": "zero", "words": "every number is 0", "formula": "0"},
            {"name": "product", "words": "the number at row r and column c, both from 0, is r times c", "formula": "r * c"},
            {"name": "checker", "words": "at row r and column c, both from 0, stands 0 if r plus c is even, else 1",
             "formula": "(r + c) % 2"}],
           [(2, 2), (1, 3), (0, 4), (3, 2)], lambda rows, columns, name, **_: [
               [{"zero": 0, "product": sum([r] * c), "checker": int(r % 2 != c % 2)}[name] for c in range(columns)]
               for r in range(rows)]),
]  # fmt: skip
