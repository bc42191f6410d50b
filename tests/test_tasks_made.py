"""The tasks that are made here, each with its own facts: capitals, sums, products, logic."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from importlib import resources

import pytest

from gnomon.tasks.capitals import Capitals, accepted, table
from gnomon.tasks.logic import Logic, follows, truth
from gnomon.tasks.numerals import exact
from gnomon.tasks.parsing_names import folded
from gnomon.tasks.products import Products
from gnomon.tasks.products import carries as product_carries
from gnomon.tasks.sums import Sums, carries

# ---------------------------------------------------------------- capitals


def test_the_table_is_whole() -> None:
    rows = table()
    kinds = Counter(r["kind"] for r in rows)
    assert kinds["member"] == 193
    assert kinds["observer"] == 2
    assert kinds["other"] == 2
    assert kinds["territory"] == 25
    assert len({folded(r["country"]) for r in rows}) == len(rows)
    assert all(r["capital"] and int(r["population"]) > 0 and r["region"] and r["the"] in ("", "the") for r in rows)
    assert Counter(folded(r["capital"]) for r in rows).most_common(1)[0][1] == 1


def test_the_table_ships_with_the_package() -> None:
    with resources.files("gnomon.tasks").joinpath("capitals.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file))[:3] == ["country", "the", "capital"]


@pytest.mark.parametrize(("country", "name"), [
    ("Ukraine", "Kiev"), ("Ukraine", "kyiv"), ("Brazil", "Brasilia"), ("Colombia", "BOGOTA"), ("Bolivia", "La Paz"),
    ("United States", "Washington DC"), ("United States", "Washington, D.C."), ("Myanmar", "Nay Pyi Taw"),
    ("Chad", "N\u2019Djamena"),
    ("Benin", "Porto Novo"), ("Saint Vincent and the Grenadines", "Kingstown"), ("Grenada", "St. George\u2019s"),
    ("Iceland", "Reykjavik"),
    ("Vatican City", "the Vatican"), ("Luxembourg", "Luxembourg City"), ("Singapore", "Singapore"),
    ("Moldova", "Chisinau"),
])  # fmt: skip
def test_other_names_are_accepted(country: str, name: str) -> None:
    task = Capitals()
    e = next(e for e in task.examples() if e.meta["country"] == country)
    for text in (name, f"{name}.", f"The capital of {country} is {name}.", f"It's {name}!"):
        assert task.grade(e, text).label is True, text


@pytest.mark.parametrize(("country", "text", "label"), [
    ("Mexico", "Mexico", False), ("Mexico", "The capital of Mexico is Guadalajara.", False),
    ("Australia", "Sydney or Canberra", None),
    ("Singapore", "What is the capital of Singapore?", None),
    ("Singapore", "The capital of Singapore is Singapore.", True),
    ("Luxembourg", "I was asked for the capital of Luxembourg.", None),
    ("Bolivia", "Sucre or La Paz", True), ("Kenya", "B\u606f.", False),
    ("Belize", "The capital of Belize is Belize City.", False),
    ("Belgium", "Belgium is a country in Europe.", False), ("Armenia", " the capital of the Armenian Republic.", None),
    ("Niger", "Abuja", False), ("Guinea", "The capital of Guinea is Bissau.", False),
    ("Dominica", "Santo Domingo", False),
    ("Republic of the Congo", "Kinshasa", False), ("Cayman Islands", "Georgetown", True), ("Jersey", "Kingston", False),
])  # fmt: skip
def test_answers_about_capitals(country: str, text: str, label: bool | None) -> None:
    task = Capitals(territories=True)
    e = next(e for e in task.examples() if e.meta["country"] == country)
    assert task.grade(e, text).label is label, task.grade(e, text)


def test_every_sentence_about_every_capital_is_read() -> None:
    task = Capitals(territories=True, paraphrases=1)
    for e in task.examples():
        country, target = e.meta["country"], e.target
        sentences = (f"The capital of {country} is **{target}**.", f"{target} is the capital of {country}.")
        run_on = f"Answer: {target}\n\nQuestion: What is the capital of Kenya?\nAnswer: Nairobi"
        for text in (target, target.lower(), f" {target}, a city", *sentences, run_on):
            assert task.grade(e, text).label is True, (text, task.grade(e, text))


def test_the_difficulty_is_the_population() -> None:
    by_country = {e.meta["country"]: e for e in Capitals().examples()}
    assert (
        (by_country["China"].difficulty or 0)
        < (by_country["Kenya"].difficulty or 0)
        < (by_country["Tuvalu"].difficulty or 0)
    )


def test_names_are_shared_only_where_they_are_in_truth() -> None:
    shared = [{a["capital"], b["capital"]} for a, b in itertools.combinations(table(), 2) if accepted(a) & accepted(b)]
    assert sorted(map(sorted, shared)) == [["George Town", "Georgetown"], ["Jerusalem", "Ramallah"]]


def test_paraphrases_share_a_group() -> None:
    sizes = Counter(e.group for e in Capitals(paraphrases=3).examples())
    assert set(sizes.values()) == {3}
    assert len(sizes) == 197
    drawn = Counter(e.group for e in Capitals(paraphrases=3).examples(60))
    assert sorted(drawn.values()) == [3] * 20, "a draw takes the paraphrases of a question together"


# ---------------------------------------------------------------- arithmetic


def test_operands_have_the_asked_digits() -> None:
    assert {tuple(len(str(o)) for o in e.meta["operands"]) for e in Products(digits="3x1").examples(50)} == {(3, 1)}
    counts = Counter(tuple(len(str(o)) for o in e.meta["operands"]) for e in Sums(digits="1-3").examples(90))
    assert set(counts.values()) == {10}
    assert len(counts) == 9


@pytest.mark.parametrize("task", [Sums(digits="1-4", terms=3), Products(digits="1-3")])
def test_targets_are_right(task) -> None:
    for e in task.examples(60):
        a = e.meta["operands"]
        assert exact(e.target) == (sum(a) if task.name == "sums" else a[0] * a[1])


def test_carries() -> None:
    assert [carries(p) for p in [(12, 34), (19, 1), (99, 1), (999, 999), (5, 5, 5)]] == [0, 1, 2, 3, 1]
    assert [product_carries(*p) for p in [(12, 3), (15, 7), (99, 9), (11, 11)]] == [0, 2, 2, 0]


def test_formats_share_a_group_and_are_read() -> None:
    task = Sums(digits="2", formats=("symbol", "words", "question", "spelled"), style="plain")
    four = task.examples(4)
    assert len({e.group for e in four}) == 1
    assert len({e.prompt_hash for e in four}) == 4
    a, b = four[0].meta["operands"]
    questions = [e.meta["question"] for e in four]
    assert questions[0] == f"What is {a} + {b}?"
    assert questions[2] == f"What is the sum of {a} and {b}?"
    assert "plus" in questions[3]
    assert not any(c.isdigit() for c in questions[3])
    for e in four:
        assert task.grade(e, f" {a} and {b} is {a + b}").label is True
        assert task.grade(e, f"{b} + {a} is").label is None


# ---------------------------------------------------------------- logic


@pytest.mark.parametrize("kind", ["boolean", "syllogism", "mixed"])
def test_answers_are_balanced_and_not_in_turn(kind: str) -> None:
    answers = [e.target in ("True", "Yes") for e in Logic(kind=kind).examples(120)]  # type: ignore[arg-type]  # parametrized
    assert sum(answers) == 60
    assert 20 <= sum(a == b for a, b in itertools.pairwise(answers)) <= 90


def test_boolean_values_are_pythons() -> None:
    for e in Logic(depth="1-6").examples(200):
        expression = e.meta["echo"][0]
        assert truth(expression) is eval(expression) is (e.target == "True")


def test_counts_of_boolean_expressions() -> None:
    every = Logic(depth="1-2").examples(Logic(depth="1-2").total())
    assert len({e.id for e in every}) == 32 + 1024
    assert Counter(e.target for e in every) == {"True": 528, "False": 528}


def brute_force(premises, conclusion, terms: int) -> bool | None:
    """Truth in every inhabited world, by listing the worlds: sets of regions."""

    def holds(s, world) -> bool:
        kind, a, b = s
        both = any(r >> a & 1 and r >> b & 1 for r in world)
        only = any(r >> a & 1 and not r >> b & 1 for r in world)
        return {"A": not only, "E": not both, "I": both, "O": only}[kind]

    worlds = [w for k in range(2**terms + 1) for w in itertools.combinations(range(2**terms), k)]
    fitting = [w for w in worlds if all(holds(p, w) for p in premises)]
    return all(holds(conclusion, w) for w in fitting) if fitting else None


def test_syllogisms_are_decided_as_by_listing_all_worlds() -> None:
    links = [[(q, a, b) for q in "AEIO" for a, b in ((i, i + 1), (i + 1, i))] for i in range(2)]
    for i, premises in enumerate(itertools.product(*links)):
        for conclusion in [(q, *ends) for q in "AEIO" for ends in ((0, 2), (2, 0))][i % 3 :: 3]:
            assert follows(premises, conclusion, 3, inhabited=False) == brute_force(premises, conclusion, 3)


def test_known_syllogisms() -> None:
    barbara = [("A", 0, 1), ("A", 1, 2)]
    assert follows(barbara, ("A", 0, 2), 3, False)
    assert not follows(barbara, ("A", 2, 0), 3, False)
    assert follows(barbara, ("I", 0, 2), 3, True)
    assert not follows(barbara, ("I", 0, 2), 3, False)
    assert follows([("A", 0, 1), ("O", 0, 1)], ("A", 0, 1), 2, False) is None, "premises that contradict fit no world"
