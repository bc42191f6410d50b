"""Logic: boolean expressions and syllogisms made from a seed, half of each answer at every difficulty.

A syllogism's answer is decided exactly: "all" and "no" empty some regions of the Venn diagram of its terms, "some"
needs one of several regions to be inhabited (see `follows`). Only those are asked whose answer is the same whether
or not "all A" implies that there are As.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from gnomon.errors import UserError
from gnomon.tasks.base import Task
from gnomon.tasks.parsing import is_refusal
from gnomon.tasks.parsing_choices import parse_bool
from gnomon.tasks.prompts import Item
from gnomon.types import Example, Grade, Mode

NOUNS = [
    "wugs",
    "daxes",
    "blickets",
    "zibs",
    "feps",
    "tomas",
    "lorps",
    "vints",
    "mips",
    "quells",
    "gazzers",
    "brocks",
    "snarfs",
    "plinks",
    "dobs",
    "krells",
    "yimps",
    "torbs",
    "jexes",
    "hulms",
    "pangs",
    "rills",
    "sproks",
    "nards",
]
QUANTIFIERS = {"A": "All {} are {}", "E": "No {} are {}", "I": "Some {} are {}", "O": "Some {} are not {}"}
Statement = tuple[str, int, int]
"""(quantifier A, E, I or O; subject term; predicate term)"""


class Logic(Task):
    """Is a boolean expression true? Does a conclusion follow from its premises?"""

    name: ClassVar[str] = "logic"
    modes: ClassVar[tuple[Mode, ...]] = ("generate", "choices", "episode")
    generated: ClassVar[bool] = True
    default_n: ClassVar[int | None] = 600
    lengths: ClassVar[dict[str, int]] = {"plain": 8, "chat": 48, "prefix": 8, "chat_prefix": 16}
    stops: ClassVar[dict[str, tuple[str, ...]]] = {"plain": ("\n",), "prefix": ("\n",)}

    kind: Literal["boolean", "syllogism", "mixed"] = "boolean"
    """boolean: "not True and (False or True)"; syllogism: two or more premises, and a conclusion; mixed: both."""
    depth: int | str = "1-3"
    """Operators in a boolean expression, from 1 to 6; a syllogism has one premise more, and at most 4."""

    @field_validator("depth")
    @classmethod
    def _good_depth(cls, value: int | str) -> int | str:
        low, _, high = str(value).partition("-")
        if not (low.isdigit() and (not high or high.isdigit()) and 1 <= int(low) <= int(high or low) <= 6):
            raise UserError(f"depth {value!r} cannot be read", 'like "2" or "1-3", from 1 to 6, the smaller first')
        return value

    @model_validator(mode="after")
    def _short_enough(self) -> Logic:
        if "syllogism" in self._plan()[0] and self._plan()[1][-1] > 3:
            raise UserError(
                f"depth {self.depth!r} for {self.kind} logic", "at most 3 (4 premises) where syllogisms are asked"
            )
        return self

    def total(self) -> int:
        kinds, depths = self._plan()
        expressions = sum(_expressions(d) for d in depths) if "boolean" in kinds else 0
        arguments = sum(len(_forms(d + 1, yes)) * math.perm(len(NOUNS), d + 2) * math.factorial(d + 1) // 2
                        for d in depths for yes in (True, False)) if "syllogism" in kinds else 0  # fmt: skip
        return expressions + arguments

    def items(self, n: int | None, seed: int) -> list[Item]:
        return list(itertools.islice(self._items(seed), n))

    def grade(self, example: Example, text: str) -> Grade:
        parsed = parse_bool(text, example.meta["echo"])
        if parsed is None:
            return Grade(None, reason="refused" if is_refusal(text) else "no verdict")
        right = parsed.value == (example.target in ("True", "Yes"))
        return Grade(right, text[parsed.start : parsed.end], parsed.how, (parsed.start, parsed.end))

    def near_miss(self, example: Example) -> str:
        return next(c for c in example.choices if c != example.target)

    def _plan(self) -> tuple[tuple[str, ...], range]:
        low, _, high = str(self.depth).partition("-")
        kinds = ("boolean", "syllogism") if self.kind == "mixed" else (self.kind,)
        return kinds, range(int(low), int(high or low) + 1)

    def _items(self, seed: int) -> Iterator[Item]:
        """Each stratum (kind, depth, answer) in turn: true and false alternate, so any even count is balanced."""
        kinds, depths = self._plan()
        makers = {"boolean": _boolean_items, "syllogism": _syllogism_items}
        answers = (True, False)
        pairs = [
            tuple(makers[k](d, answer, random.Random(f"{seed}/{k}/{d}/{answer}")) for answer in answers)
            for d in depths
            for k in kinds
        ]
        coin = random.Random(f"logic/{seed}")
        while pairs:
            for pair in list(pairs):
                both = [item for half in pair if (item := next(half, None))]
                if not both:
                    pairs.remove(pair)
                coin.shuffle(both)
                yield from both


# ---------------------------------------------------------------- boolean expressions


def _expressions(operators: int) -> int:
    """How many expressions `_expression` can make: half of them true, by duality (and/or, True/False exchanged)."""
    return 2 * sum(_parts(left) * _parts(operators - 1 - left) for left in range(operators))


def _parts(operators: int) -> int:
    return 4 if operators == 0 else 2 * _expressions(operators)


def _expression(operators: int, rng: random.Random) -> str:
    left = rng.randrange(operators)
    sides = []
    for size in (left, operators - 1 - left):
        part = rng.choice(("True", "False")) if size == 0 else f"({_expression(size, rng)})"
        sides.append("not " * (rng.random() < 1 / 3) + part)
    return f"{sides[0]} {rng.choice(('and', 'or'))} {sides[1]}"


def truth(expression: str) -> bool:
    """Value of an expression of True, False, and, or, not and parentheses; `not` binds first, then `and`."""
    tokens = expression.replace("(", " ( ").replace(")", " ) ").split()

    def disjunction(i: int) -> tuple[bool, int]:
        value, i = conjunction(i)
        while i < len(tokens) and tokens[i] == "or":
            other, i = conjunction(i + 1)
            value = value or other
        return value, i

    def conjunction(i: int) -> tuple[bool, int]:
        value, i = atom(i)
        while i < len(tokens) and tokens[i] == "and":
            other, i = atom(i + 1)
            value = value and other
        return value, i

    def atom(i: int) -> tuple[bool, int]:
        if tokens[i] == "not":
            value, i = atom(i + 1)
            return not value, i
        if tokens[i] == "(":
            value, i = disjunction(i + 1)
            return value, i + 1
        return tokens[i] == "True", i + 1

    return disjunction(0)[0]


def _boolean_items(depth: int, answer: bool, rng: random.Random) -> Iterator[Item]:
    seen: set[str] = set()
    while len(seen) < _expressions(depth) // 2:
        text = _expression(depth, rng)
        if text in seen or truth(text) != answer:
            continue
        seen.add(text)
        words = text.replace("(", " ").replace(")", " ").split()
        nots = words.count("not")
        yield Item(
            id="logic:" + text.replace(" ", "_"), question=f'Is the expression "{text}" true or false?',
            target=str(answer), instruction="Answer with True or False.", choices=("True", "False"),
            prefix=f"({text}) ==", opening="The answer is", continuation=str(answer), difficulty=float(depth + nots),
            meta={"kind": "boolean", "depth": depth, "echo": [text]},
            features={"operators": float(depth), "nots": float(nots), "ors": float(words.count("or")),
                      "trues": float(words.count("True")), "syllogism": 0.0},
        )  # fmt: skip


# ---------------------------------------------------------------- syllogisms


@dataclass(frozen=True)
class Form:
    """Premises that chain terms 0, 1, ... and a conclusion about the first and the last."""

    premises: tuple[Statement, ...]
    conclusion: Statement


def follows(premises: Sequence[Statement], conclusion: Statement, terms: int, inhabited: bool) -> bool | None:
    """Whether the conclusion holds in every world where the premises do; None where no world fits the premises.

    A world is a set of inhabited regions of the Venn diagram. "All A are B" empties the regions in A and outside B;
    "Some A are B" inhabits one of the regions in both. With `inhabited` every term has members.
    """
    empty = 0
    for kind, a, b in premises:
        if kind in "AE":
            empty |= _meant(kind, a, b, terms)
    needed = [_meant(kind, a, b, terms) & ~empty for kind, a, b in premises if kind in "IO"]
    if inhabited:
        needed += [(_meant("A", t, t, terms) | _meant("E", t, t, terms)) & ~empty for t in range(terms)]
    if not all(needed):
        return None
    said = _meant(*conclusion, terms)
    return not said & ~empty if conclusion[0] in "AE" else any(not n & ~said for n in needed)


@cache
def _meant(kind: str, a: int, b: int, terms: int) -> int:
    """The regions that a statement empties (A, E) or inhabits one of (I, O), as a bit set; region r lies in term t if
    bit t of r is set."""
    return sum(1 << r for r in range(2**terms) if r >> a & 1 and bool(r >> b & 1) == (kind in "EI"))


@cache
def _forms(premises: int, answer: bool) -> tuple[Form, ...]:
    """All forms with that many premises whose conclusion does (not) follow, with and without inhabited terms."""
    links = [[(q, *pair) for q in "AEIO" for pair in ((i, i + 1), (i + 1, i))] for i in range(premises)]
    ends = [(q, *pair) for q in "AEIO" for pair in ((0, premises), (premises, 0))]
    out = []
    for chain in itertools.product(*links):
        for end in ends:
            loose, strict = (follows(chain, end, premises + 1, inhabited) for inhabited in (False, True))
            if strict is not None and loose == strict == answer:
                out.append(Form(chain, end))
    return tuple(out)


def _syllogism_items(depth: int, answer: bool, rng: random.Random) -> Iterator[Item]:
    forms, seen = _forms(depth + 1, answer), set()
    while True:
        form, nouns = rng.choice(forms), rng.sample(NOUNS, depth + 2)
        premises = [_said(p, nouns) + "." for p in rng.sample(form.premises, len(form.premises))]
        conclusion = _said(form.conclusion, nouns)
        question = f"{' '.join(premises)} Does it follow that {conclusion[0].lower()}{conclusion[1:]}?"
        if question in seen:
            continue
        seen.add(question)
        pattern = " ".join(f"{q}{a}{b}" for q, a, b in (*form.premises, form.conclusion))
        negatives = sum(q in "EO" for q, _, _ in (*form.premises, form.conclusion))
        yield Item(
            id=f"logic:{pattern.replace(' ', '-')}:{'-'.join(nouns)}:{_order(premises, form, nouns)}",
            question=question, target="Yes" if answer else "No", choices=("Yes", "No"),
            prefix=f"{question} The answer, yes or no, is", opening="The answer is",
            instruction="Answer with Yes or No.",
            difficulty=float(depth + 1 + negatives),
            meta={"kind": "syllogism", "depth": depth, "form": pattern, "echo": [p.rstrip(".") for p in premises]},
            features={"operators": float(depth), "nots": float(negatives), "ors": 0.0, "trues": 0.0, "syllogism": 1.0},
        )  # fmt: skip


def _said(statement: Statement, nouns: Sequence[str]) -> str:
    kind, a, b = statement
    return QUANTIFIERS[kind].format(nouns[a], nouns[b])


def _order(premises: Sequence[str], form: Form, nouns: Sequence[str]) -> str:
    return "".join(str([_said(p, nouns) + "." for p in form.premises].index(text)) for text in premises)
