"""Answers out of real-looking texts: a table of outputs, many as a small model wrote them, and adversarial ones."""

from __future__ import annotations

from fractions import Fraction

import pytest

from gnomon.tasks.numerals import exact, find_numbers, same
from gnomon.tasks.parsing_choices import parse_bool, parse_letter
from gnomon.tasks.parsing_names import folded, parse_name
from gnomon.tasks.parsing_numbers import parse_number

SUM = ("12 + 34", "12 plus 34", "12 and 34")

DIRECT = [  # answers to "What is 12 + 34?": expected at once
    (" 46", "46"),
    ("46.", "46"),
    ("**46**", "46"),
    ("The answer is 46.", "46"),
    ("12 + 34 = 46", "46"),
    ("12+34=46", "46"),
    ("12 + 34 equals 46.", "46"),
    ("The sum of 12 and 34 is 46.", "46"),
    ("46 is the sum of 12 and 34.", "46"),
    ("12 + 34 = 46\n\nThe answer is: 46", "46"),
    ("To solve this problem, we need to find the sum of 12 and 34.\n\nThe answer is 46.\n\nThis is a", "46"),
    (
        "To solve this problem, we need to find the sum of 12 and 34. We can do this by adding them together: 12 + 34",
        None,
    ),
    (
        "To solve this problem, we need to perform the operation of 12 + 34.\n\nFirst, we add the numbers: 1",
        None,
    ),
    ("12 + 34 = 10 + 2 + 30 + 4 = 40 + 6 = 46", "46"),
    ("What is 12 + 34?", None),
    ("What is 12 + 34? 46", "46"),
    ("12 + 34", None),
    ("46\n\nQuestion: What is 5 + 6?\nAnswer: 11", "46"),
    ("46\n\nQ: What is 5 + 6?\nA: 11", "46"),
    ("Question: What is 12 + 34?\nAnswer: 46", "46"),
    ("46<|im_end|>\n<|im_start|>user\nWhat about 7?", "46"),
    ("It's 46!", "46"),
    ("forty-six", "46"),
    ("The answer is forty-six.", "46"),
    ("The result is -46.", "-46"),
    ("-46", "-46"),
    ("\u221246", "-46"),
    ("45... wait, no, it is 46.", "46"),
    ("12 + 34 = 45. Let me recalculate: 12 + 34 = 46", "46"),
    ("The answer is 45. Actually, the correct answer is 46.", "46"),
    ("The answer is not 45 but 46.", "46"),
    ("Sure! 12 + 34 = **46**.", "46"),
    ("Step 1: Add the ones: 2 + 4 = 6\nStep 2: Add the tens: 10 + 30 = 40\nStep 3: 40 + 6 = 46", "46"),
    ("1. Add 2 and 4 to get 6.\n2. Add 10 and 30 to get 40.\nThe answer is 46.", "46"),
    ("46 (forty-six)", "46"),
    ("$46$", "46"),
    ("$12 + 34 = 46$", "46"),
    ("\\(12 + 34 = \\boxed{46}\\)", "46"),
    ("x = 46", "46"),
    ("46 apples", "46"),
    ("approximately 46", "46"),
    ("The correct answer is: **46**", "46"),
    ("Answer: 46\nExplanation: 12 + 34 = 46 because 2 + 4 = 6.", "46"),
    ("77\nExplanation: 77 + 6 = 13.", "77"),
    (" 12 + 34 = 12 * 2 = ", None),
    ("12 + 34 = 12 + 34 =", None),
    ("12 + 34 = 12 + 34 = 40 + 6 = 46.", "46"),
    ("To solve this problem, we need to combine the 12 and 34, which is 192.", "192"),
    ("To solve this problem, we need to find the sum of 12 and 34.\n\nFirst, we add 12 and 3", None),
    ("We can do this by adding them together: 12 + ", None),
    ("We need to convert 12 to a mixed number. 12 can be written as 5 + 5 + 2", None),
    (" 12 + 34 = 15 + 34 = 15 + 34 = ", None),
    (" 12 * ", None),
    ("To solve this problem, we need to combine the 12 and 34 by adding them together, which is 12 + ", None),
    ("To solve this problem, we need to combine the 12 and 34, which is 46. So, 12 + ", "46"),
    ("We need to convert 12 to a decimal and then add 34.\n\nTo do this, we can use", None),
    ("To solve this problem, you need to add 12 to 34.", None),
    ("In this case, 12 is added to 34, which is equal to 46.", "46"),
    ("We can add 12 to itself, which gives us ", None),
    ("We can add 12 to 34, which gives us 46", "46"),
    ("12 + 34 = 46\n\nThis is a classic example of a mathematical operation that involves 2 numbers.", "46"),
    ("First, we add the ones and get 6, then the tens: 46", "46"),
    ("I don't know.", None),
    ("I cannot add 12 and 34.", None),
    ("I'm not sure, but I think it's 46.", "46"),
    ("", None),
    ("\n\n", None),
    ("The sum.", None),
    ("As an AI language model, I am unable to compute 12 + 34.", None),
]

REASONED = [  # answers to word problems: reasoning, then a number
    ("Janet sells 16 - 3 - 4 = 9 duck eggs a day.\nShe makes 9 * 2 = $18 every day.\n#### 18", "18"),
    ("#### 2,125", "2125"),
    ("So the total is $1,234.50.", "1234.50"),
    ("Therefore, he earned $12,345 in total.", "12345"),
    ("The final answer is \\boxed{42}.", "42"),
    ("\\boxed{\\frac{3}{4}}", "3/4"),
    ("\\boxed{x = 5}", "5"),
    ("Thus $x = 1{,}250$ and the answer is $\\boxed{1{,}250}$.", "1250"),
    ("<answer>17</answer>", "17"),
    ("First 5 + 3 = 8. Then 8 - 2 = 6. So there are 6 apples left.", "6"),
    ("She has 18 dollars left after 3 days.", "18"),
    ("He runs 3 sprints 3 times a week, so he runs 540 meters in a week.", "540"),
    ("Each of the 5 friends gets 7 apples.", "7"),
    ("There are 7 apples for each of the 5 friends.", "7"),
    ("She ran 5 km and then 3 km, for a total of 8 km.", "8"),
    ("The total cost is 3 * 4 = 12 dollars.", "12"),
    ("It will take $300,000/$50,000 = 6 years", "6"),
    ("$1500/month * 12 months/year = $18,000/year", "18000"),
    ("60 times per minute for 10 minutes is 60*10 = 600 times", "600"),
    ("Then went up to the 5 + 8 = 13th floor; hence there are 14 floors in the building.", "14"),
    ("The probability is 25%.", "25"),
    ("The probability is 25%.", ".25"),
    ("The answer is 0.75.", "3/4"),
    ("The answer is 3/4 of a cup.", ".75"),
    ("He drank 1 1/2 cups.", "1.5"),
    ("She used 2½ cups", "2.5"),
    ("The distance is 1.5e3 meters", "1500"),
    ("The distance is 1.5 x 10^3 meters.", "1500"),
    ("The city has 3 million people.", "3000000"),
    ("She needs 7 dozen eggs.", "7"),
    ("10.33", "10.333333333333334"),
    ("The temperature fell to negative 12 degrees.", "-12"),
    ("The temperature is -3 degrees.", "-3"),
    ("Let's think step by step.\n1. He has 3 boxes.\n2. Each has 4 pens.\n3. 3 x 4 = 12 pens.", "12"),
    ("The answer is 7. Wait, I made a mistake: 3 x 4 = 12, so the answer is 12.", "12"),
    ("On second thought, that is wrong. The answer is 9.", "9"),
    ("She has twelve apples.", "12"),
    ("He bought a dozen eggs and ate one of them, so one hundred and five remain.", "105"),
    ("The answer is 18 dollars.\n\nQuestion: Tom has 5 cats. How many legs?\nThe answer is 20.", "18"),
    ("Answer: 12\n\n### Example 2: What is 99?", "12"),
    ("It cannot be determined from the 3 facts given.", None),
    ("There is not enough information. We would need 2 more numbers.", None),
    ("I'm sorry for the confusion. The answer is 12.", "12"),
    ("How many apples does she have?", None),
    ("N/A", None),
    ("The answer is 10 - 4 = 6.", "6"),
    ("The answer is 10-4.", None),
    ("So, 5 + 3 = 8.\nThen we multiply 8 * ", None),
    ("The ratio is 3/4 = 0.75", ".75"),
    ("80 is the answer.", "80"),
    ("The 3rd house has 42 windows.", "42"),
    ("GPT-4 and COVID-19 say: 5", "5"),
    ("Step 3 gives us our answer: 11", "11"),
    ("1. Janet has 16 eggs per day.\n2. She makes 64 / 4 = 16 cents per day.\n3.", "16"),
    ("3. Now add them: 1500 + 1500 = 2000\n\nSo, Shiela will pay 2000 for 3 months.\n\nThe answer is 2000.", "2000"),
    ("448 (girls) + 204 (boys) = 652.\n\nSo, there are 652 pupils in that school.", "652"),
    ("142 (boys) + 142 (girls) = 204.\n\nNext, we calculate the number of girls and boys: 204 (girls) + ", None),
]

YES_NO = [
    ("Yes", True),
    (" True", True),
    ("true.", True),
    ("**True**", True),
    ("No.", False),
    ("False", False),
    ("The answer is yes.", True),
    ("The answer is: No", False),
    ("Answer: **False**", False),
    ("The statement is true.", True),
    ("The expression is not true.", False),
    ("That isn't correct.", False),
    ('The expression "not True and False" is false.', False),
    ("Since False or not True is an operand of it, it is true.", True),
    ("No, it does not follow that all wugs are daxes.", False),
    ("It does not follow that no wugs are daxes.", False),
    ("Yes, it follows that no wugs are daxes.", True),
    ("No wugs are daxes. Some daxes are zibs.", None),
    ("True or False?", None),
    ("Is it true or false? True", True),
    ("Invalid", False),
    ("The argument is valid.", True),
    ("Incorrect", False),
    ("Yes... wait, actually no, the answer is no.", False),
    ("True\n\nQuestion: Is False true?\nAnswer: False", True),
    ("I don't know.", None),
    ("I cannot say whether this is true.", None),
    ("Nothing can be said.", None),
    ("There is no way to tell the number.", None),
    ("The conclusion can be inferred from the premises.", True),
    ("", None),
]

LETTERS = [
    ("B", 1),
    ("(C)", 2),
    ("d) 12", 3),
    ("A. Paris", 0),
    ("**B**", 1),
    ("The answer is C.", 2),
    ("The correct answer is (A) because", 0),
    ("Option D is right.", 3),
    ("Answer: b", 1),
    ("A cat sat on the mat.", None),
    ("I think so.", None),
    ("Both are possible.", None),
    ("\\boxed{C}", 2),
    ("I don't know.", None),
    ("A. Wait, actually the answer is B.", 1),
    ("E", None),
]

CAPITALS = {
    name: name for name in ("Nairobi", "Mexico City", "Canberra", "Sucre", "La Paz", "Kyiv", "Bogotá", "Lusaka")
}
CAPITALS |= {"Washington, D.C.": "Washington", "Washington": "Washington", "Kiev": "Kyiv"}
CAPITALS |= {"Port-au-Prince": "Port-au-Prince"}

NAMES = [  # (country asked about, text, what it answers)
    ("Kenya", "Nairobi", "Nairobi"),
    ("Kenya", " nairobi.", "Nairobi"),
    ("Kenya", "The capital of Kenya is Nairobi.", "Nairobi"),
    ("Kenya", "Kenya's capital is **Nairobi**.", "Nairobi"),
    ("Kenya", "Nairobi is the capital of Kenya.", "Nairobi"),
    ("Kenya", "The capital city of Kenya is the city of Nairobi, home to 4 million people.", "Nairobi"),
    ("Kenya", " a beautiful city called Nairobi.", "Nairobi"),
    ("Kenya", "The capital of Kenya is Mombasa.", "Mombasa"),
    ("Kenya", "mombasa", "mombasa"),
    ("Kenya", "It is not Lusaka; it is Nairobi.", "Nairobi"),
    ("Kenya", "The capital of Kenya is Lusaka. Wait, actually the capital of Kenya is Nairobi.", "Nairobi"),
    ("Kenya", "Nairobi\n\nQuestion: What is the capital of Zambia?\nAnswer: Lusaka", "Nairobi"),
    ("Kenya", "Nairobi, Kenya", "Nairobi"),
    ("Kenya", "Answer: Nairobi", "Nairobi"),
    ("Kenya", "What is the capital of Kenya?", None),
    ("Kenya", "I don't know the capital of Kenya.", None),
    ("Kenya", "I'm not sure, but I believe the capital is Nairobi.", "Nairobi"),
    ("Kenya", "", None),
    ("Kenya", "Sure! The capital of Kenya is Nairobi.", "Nairobi"),
    ("Kenya", " the largest city in the country, with a population of", None),
    ("Mexico", "The capital of Mexico is Mexico City.", "Mexico City"),
    ("Mexico", "mexico city", "Mexico City"),
    ("Mexico", "the capital of Mexico.", None),
    ("Australia", "Sydney is not the capital of Australia. The capital is Canberra.", "Canberra"),
    ("Australia", "The capital of Australia is Sydney, not Canberra.", "Sydney"),
    ("United States", "Washington DC", "Washington"),
    ("United States", "The capital of the United States is Washington, D.C.", "Washington"),
    ("Ukraine", "KIEV", "Kyiv"),
    ("Colombia", "Bogota", "Bogotá"),
    ("Haiti", "port au prince", "Port-au-Prince"),
    ("Bolivia", "Sucre (constitutional) and La Paz", "Sucre"),
]


@pytest.mark.parametrize(("text", "expected"), DIRECT)
def test_direct_numbers(text: str, expected: str | None) -> None:
    _check_number(parse_number(text, echo=SUM, direct=True), text, expected)


@pytest.mark.parametrize(("text", "expected"), REASONED)
def test_reasoned_numbers(text: str, expected: str | None) -> None:
    _check_number(parse_number(text), text, expected)


def _check_number(parsed, text: str, expected: str | None) -> None:
    if expected is None:
        assert parsed is None, f"read {text[parsed.start : parsed.end]!r}"
        return
    assert parsed is not None
    assert same(parsed.value, _fraction(expected)), f"read {text[parsed.start : parsed.end]!r} by {parsed.how}"
    assert 0 <= parsed.start < parsed.end <= len(text)
    assert any(
        same(n, _fraction(expected)) for n in find_numbers(text[parsed.start : parsed.end].replace("\u2212", "-"), True)
    )


def _fraction(text: str) -> Fraction:
    value = exact(text)
    assert value is not None
    return value


@pytest.mark.parametrize(("text", "expected"), YES_NO)
def test_yes_and_no(text: str, expected: bool | None) -> None:
    parsed = parse_bool(text)
    assert (None if parsed is None else parsed.value) is expected


@pytest.mark.parametrize(("text", "expected"), LETTERS)
def test_letters(text: str, expected: int | None) -> None:
    parsed = parse_letter(text)
    assert (None if parsed is None else parsed.value) == expected
    assert parsed is None or text[parsed.start : parsed.end].upper() == "ABCD"[parsed.value]


@pytest.mark.parametrize(("country", "text", "expected"), NAMES)
def test_names(country: str, text: str, expected: str | None) -> None:
    parsed = parse_name(text, CAPITALS, "capital(?: city)?", [country])
    assert (None if parsed is None else parsed.value) == expected
    if parsed is not None and expected in CAPITALS.values():
        assert folded(text[parsed.start : parsed.end]) in {folded(k) for k, v in CAPITALS.items() if v == expected}
