"""The embedded problems: original, small, each a function to be written from its signature and one line of words.

The files `problems/*.txt` hold blocks like this one, parted by empty lines; `!` gives a wrong body where the usual one
(see `code_mutants.py`) would still be right, and is optional:

    signature(x) | The line of words.
        return the + reference
    1 -> 2
    arguments -> expected

and `functions_families.py` makes families of near copies, each family one group, which never straddles splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from gnomon.tasks import functions_families

NEAR = {
    name: names.split()[0]
    for names in (
        "is_even is_odd", "is_positive is_negative can_vote", "maximum minimum larger_of_three", "largest smallest",
        "square square_area", "cube cube_volume", "to_upper to_lower", "starts_with ends_with is_heading",
        "first_item last_item", "first_character last_character", "without_first without_last drop_ends",
        "evens odds positives", "count_evens count_positives", "squares doubles", "all_positive any_negative",
        "sort_ascending sort_descending", "keys_list values_list", "both_true either_true", "first_word last_word",
        "add subtract multiply divide", "double half circle_diameter", "text_length length dictionary_size",
        "absolute_value absolute_difference", "add_three average_of_three", "is_vowel ends_with_vowel",
        "largest_value key_of_largest", "reverse_text reversed_list", "words_backwards each_word_reversed",
        "count_item count_letter", "sum_to sum_of_squares", "numbers_to count_down", "spread min_and_max",
        "group_by_length group_by_first_letter", "triangle_area rectangle_area", "total values_sum sum_of_seconds",
    )
    for name in names.split()
}  # fmt: skip
"""Problems of the files that are near copies of another, and so of its group."""
FILES = ("basics", "strings", "numbers", "lists", "tables", "choices")
"""Text files in `problems/`."""
INDENT = "    "


@dataclass(frozen=True)
class Function:
    """One problem. `body` is the reference's, indented; `wrong` a body that the tests refuse, "" for the usual one."""

    signature: str
    words: str
    body: str
    tests: tuple[str, ...]
    group: str
    wrong: str = ""

    @property
    def name(self) -> str:
        return self.signature.partition("(")[0]

    @property
    def head(self) -> str:
        """What the model continues: signature and docstring. The line's end and the indent are the model's own first
        token, so they are not part of it: SmolLM2 goes on in prose after them."""
        return f'def {self.signature}:\n{INDENT}"""{self.words}"""'

    @property
    def reference(self) -> str:
        return f"{self.head}\n{self.body}"


@cache
def functions() -> tuple[Function, ...]:
    """All problems, in an order that mixes their files: by the hash of their names."""
    found = [*(f for file in FILES for f in read(_problems(file))), *families()]
    return tuple(sorted(found, key=lambda f: hashlib.sha256(f.name.encode()).hexdigest()))


def _problems(name: str) -> str:
    return resources.files("gnomon.tasks").joinpath("problems", f"{name}.txt").read_text(encoding="utf-8")


def read(text: str) -> Iterator[Function]:
    """The problems of a text in the notation above; ValueError for a block that is not in it."""
    for block in text.strip("\n").split("\n\n"):
        first, *rest = block.strip("\n").split("\n")
        signature, mark, words = first.partition(" | ")
        body = [line for line in rest if line.startswith(INDENT)]
        wrong = [line[1:] for line in rest if line.startswith("!")]
        cases = [line.rpartition(" -> ") for line in rest if not line.startswith((INDENT, "!"))]
        if not mark or not body or not all(arrow for _, arrow, _ in cases):
            raise ValueError(f"not a problem: {block!r}")
        name = signature.partition("(")[0]
        tests = tuple(test(name, given, expected) for given, _, expected in cases)
        yield Function(signature, words, _joined(body), tests, NEAR.get(name, name), _joined(wrong))


def families() -> Iterator[Function]:
    """The problems of the templated families: expected values come from each family's oracle, not its reference."""
    for family in functions_families.FAMILIES:
        for values in family.values:
            filled = [text.format(**values) for text in (family.signature, family.words, family.body)]
            name = filled[0].partition("(")[0]
            given = [tuple(case(**values)) if callable(case) else case for case in family.cases]
            tests = tuple(
                test(name, ", ".join(map(repr, case)), repr(family.oracle(*case, **values))) for case in given
            )
            body = _joined([INDENT + line for line in filled[2].strip("\n").split("\n")])
            yield Function(filled[0], filled[1], body, tests, family.name)


def test(name: str, given: str, expected: str) -> str:
    """One assert."""
    sign = "is" if expected in ("None", "True", "False") else "=="
    return f"assert {name}({given}) {sign} {expected}"


test.__test__ = False  # type: ignore[attr-defined]  # not a test of ours


def _joined(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)
