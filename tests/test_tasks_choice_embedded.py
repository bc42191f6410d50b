"""capitals_choice and elements_choice: the tables, the distractors, the difficulty."""

from __future__ import annotations

import pytest

from gnomon.errors import UserError
from gnomon.tasks import capitals, elements_choice
from gnomon.tasks.capitals_choice import CapitalsChoice
from gnomon.tasks.elements_choice import ElementsChoice
from gnomon.tasks.make import make_task
from gnomon.tasks.surface import rarity


def test_the_table_of_the_elements():
    rows = elements_choice.table()
    assert [int(r["number"]) for r in rows] == list(range(1, 119))
    by_symbol = {r["symbol"]: r["name"] for r in rows}
    assert len(by_symbol) == len(set(by_symbol.values())) == 118
    known = {"H": 1, "C": 6, "Na": 11, "K": 19, "Fe": 26, "Ag": 47, "Sn": 50, "W": 74, "Au": 79, "Hg": 80, "Pb": 82,
             "U": 92, "Og": 118}  # fmt: skip
    assert {r["symbol"]: int(r["number"]) for r in rows if r["symbol"] in known} == known
    latin = {"Na": "sodium", "K": "potassium", "Fe": "iron", "Cu": "copper", "Ag": "silver", "Sn": "tin",
             "Sb": "antimony", "W": "tungsten", "Au": "gold", "Hg": "mercury", "Pb": "lead"}  # fmt: skip
    others = {r["symbol"]: r["name"] for r in rows if r["symbol"] not in latin}
    assert {k: by_symbol[k] for k in latin} == latin
    assert all(symbol[0] == name[0].upper() for symbol, name in others.items())
    assert all(set(symbol[1:]) <= set(name) for symbol, name in others.items())


def test_elements_are_asked_both_ways_within_a_group():
    examples = {e.id: e for e in ElementsChoice(ask=("symbol", "name", "number")).examples()}
    assert len(examples) == 3 * 118
    gold, back, number = (examples[f"elements_choice:79:{what}"] for what in ("symbol", "name", "number"))
    assert (gold.prompt, gold.target) == ("The chemical symbol of gold is", "Au")
    assert (back.prompt, back.target) == ("The element with the chemical symbol Au is", "gold")
    assert (number.prompt, number.target) == ("The atomic number of gold is", "79")
    assert gold.group == back.group == number.group
    assert gold.difficulty == back.difficulty == rarity("gold")
    names = {r["name"]: r["symbol"] for r in elements_choice.table()}
    for e in examples.values():
        assert len(set(e.choices)) == 4
        if e.meta["asks"] == "symbol":
            assert set(e.choices) <= set(names.values())
        elif e.meta["asks"] == "name":
            assert set(e.choices) <= set(names)
        else:
            assert all(abs(int(c) - int(e.target)) <= 12 for c in e.choices)


def test_half_the_distractors_begin_alike():
    for e in ElementsChoice(distractors=4).examples():
        initials = {e.meta["symbol"][0], e.meta["element"][0].upper()}
        alike = [c for c in e.choices if c != e.target and c[0].upper() in initials]
        there = [r for r in elements_choice.table() if r["name"] != e.meta["element"]
                 and r["name" if e.meta["asks"] == "name" else "symbol"][0].upper() in initials]  # fmt: skip
        assert len(alike) >= min(2, len(there))


def test_a_capital_stands_among_those_of_its_region():
    rows = {r["country"]: r for r in capitals.table()}
    region = {r["capital"]: r["region"] for r in capitals.table()}
    task = CapitalsChoice(paraphrases=2, distractors=5)
    found = task.examples()
    assert len(found) == 2 * 197
    for e in found:
        assert len(set(e.choices)) == 6
        assert {region[c] for c in e.choices} == {e.meta["region"]}
        right = capitals.accepted(rows[e.meta["country"]])
        assert sum(bool(capitals.accepted({"capital": c, "aliases": ""}) & right) for c in e.choices) == 1
    one, two = (e for e in found if e.meta["country"] == "Kenya")
    assert (one.group, set(one.choices)) == (two.group, set(two.choices))
    plain = {e.id.split(":", 1)[1]: e for e in capitals.Capitals().examples()}
    assert all(plain[e.id.split(":", 1)[1]].difficulty == e.difficulty for e in CapitalsChoice().examples())


def test_distractors_are_drawn_by_the_seed():
    tasks = (CapitalsChoice(), ElementsChoice())
    for task in tasks:
        first = {e.id: e.choices for e in task.examples()}
        assert first == {e.id: e.choices for e in task.examples()}
        other = {e.id: set(e.choices) for e in task.examples(seed=1)}
        assert sum(set(first[i]) != other[i] for i in first) > 0.5 * len(first)


@pytest.mark.parametrize("options", [{"ask": []}, {"ask": ["symbol", "symbol"]}])
def test_something_is_asked(options):
    with pytest.raises(UserError, match="symbol, name, number"):
        make_task({"elements_choice": options})


def test_territories_bring_their_own_distractors():
    names = {c for e in CapitalsChoice(territories=True, distractors=25).examples() for c in e.choices}
    without = {c for e in CapitalsChoice(distractors=25).examples() for c in e.choices}
    assert without < names
