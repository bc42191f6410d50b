"""Surface features: question words, negation, hedging, names and numbers by hand; rarity from real word frequencies."""

from __future__ import annotations

import pytest

from gnomon.tasks.surface import QUESTION_WORDS, features, names, question_type, rarity


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("What is the capital of Kenya?", "what"),
        ("In which year did it end?", "which"),
        ("Whose book is this?", "who"),
        ("A man walks. He sits. Why does he sit?", "why"),
        ("How much energy (i.e., in J) is needed, and when?", "how"),
        ("Where's the station?", "where"),
        ("When birds migrate south, they do it because", "other"),
        ("Which of these is a planet", "which"),
        ("Find the order of the group Z_6.", "other"),
        ("Is the earth round?", "other"),
        ('He asked: "Who is it?"', "who"),
        ("Somewhere whatever", "other"),
        ("", "other"),
    ],
)
def test_the_question_word(text, wanted):
    assert question_type(text) == wanted
    found = features(text)
    assert [k for k in (*QUESTION_WORDS, "other") if found[f"asks_{k}"]] == [wanted]


def test_counts_by_hand():
    found = features("It wasn't in New York, London or 3 other cities; 1,200 might not have. Perhaps I can't know.")
    assert (found["negation"], found["hedging"], found["numbers"], found["names"]) == (3, 2, 2, 2)
    assert found["question_words"] == 18
    assert features("The Nothing in nothingness is notable")["negation"] == 1


def test_names_are_runs_of_capitals_inside_sentences():
    assert names("The King met Queen Anne of England. Then I left; Bob's dog, Rex, stayed.") == 5
    assert names("What is it?") == 0
    assert names("Which is NOT a planet, and MOST likely seen by Isaac Newton at NASA?") == 2


def test_rarity_ranks_words_by_how_often_they_are_used():
    words = ["the", "water", "gold", "helium", "praseodymium", "xqzzvt"]
    found = [rarity(word) for word in words]
    assert found == sorted(found)
    assert found[-1] == 8.0
    assert 0 <= found[0] < 0.6
    both = features("the praseodymium")
    assert both["rarity_max"] == rarity("praseodymium")
    assert both["rarity_mean"] == pytest.approx((rarity("the") + rarity("praseodymium")) / 2, abs=1e-6)
    assert features("12 + 30 =")["rarity_mean"] == 0.0


def test_every_text_has_the_same_features():
    assert set(features("")) == set(features("Who is 7 years old in Rome, perhaps?"))
