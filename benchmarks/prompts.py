"""128 prompts of mixed length, the same on every machine: what questions, word problems and few-shot prompts look like.

Lengths are log-normal in words (median 44, sigma 0.5), cut to 9..215 words: with SmolLM2's tokenizer 12 to 142 tokens,
half of them below 53. Batches of 8 in this order pad by 1.84; the questions of public test sets (arithmetic word
problems, trivia, multiple choice) pad by 1.4 to 2.0 in theirs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

MEDIAN, SIGMA, SHORTEST, LONGEST = 44, 0.5, 9, 215

TEXTS = """
What is the capital of the country that lies between Uganda, Ethiopia and the Indian Ocean?
A baker sells twelve loaves in the morning and half as many again after lunch; how many loaves are sold that day?
Answer the question with one word and nothing else.
Every swallow in the barn came back from the south before the last snow had melted on the northern slope.
If all of the keys on the ring open at least one door, and no door opens with two keys, how many doors are there?
The train to the coast leaves at 7:45 and takes two hours and twenty minutes, but on Sundays it stops for a quarter
of an hour at the junction.
Maria has 48 marbles. She gives a third of them to her brother and then loses five behind the shed.
Which of these statements is true, and which of them only sounds true because it is repeated so often?
The lighthouse keeper wrote down the wind, the tide and the names of the ships in a green notebook, one line a day.
Explain in a few sentences why the days are longer in June than in December on the northern half of the Earth.
A rectangular garden is 15 metres long and 9 metres wide. A path one metre wide runs around it on the outside.
Who wrote the novel in which a captain hunts a white whale across three oceans?
Tomatoes cost 3 coins a kilogram, onions cost 2, and the market takes one coin for the stall whatever is sold.
Some of the cats in the yard are grey. No grey animal in the yard belongs to the miller. Does the miller own a cat?
Translate the sentence, keep the tone, and do not add anything that is not there.
The river rises in the hills to the east, passes two old towns and a paper mill, and reaches the sea through a marsh.
Seven friends share a bill of 161 coins equally; one of them pays for two because her sister forgot her purse.
Is the following review of a film positive or negative? The plot was thin, but I laughed until the lamps came on.
Copper conducts heat better than iron does, and silver conducts it better than copper.
In what year did the first people walk on the Moon, and how long did they stay outside?
The committee voted nine to four for the second plan, after the first had failed by a single vote in the spring.
A tank holds 240 litres. One pipe fills it in six hours, another empties it in ten. Both are opened at noon.
Read the passage carefully and say which of the four answers follows from it without any further assumption.
She counted the steps twice, got 311 and then 313, and decided that the difference was not worth a third climb.
What comes next in the sequence 2, 6, 12, 20, 30?
Glass is neither crystal nor liquid, although guides in old cathedrals still tell visitors that it flows.
The orchard has 14 rows of 23 trees. A storm took every eleventh tree of the first row and none of the others.
Name the largest lake in Africa and one of the countries on its shore.
Nobody who has read the manual would connect the red wire first, and Oskar has read the manual.
A shop lowers a price by 20 percent and a week later raises the new price by 25 percent.
The old clock in the hall loses four minutes a day; it was set right on Monday at eight in the morning.
Complete the analogy: a flock is to a sheep as a fleet is to what?
The report names three causes for the delay, of which only the second was known before the bridge was closed.
How many different words can be made from the letters of the word level if every letter is used?
Whales breathe air, and so they must come up, but some of them stay below for more than an hour.
There are 365 days in the year and 24 hours in the day; how many hours does a bee that lives six weeks see?
The first letter was dated in May, the answer in July, and the parcel with the seeds did not arrive until autumn.
Decide whether the second sentence follows from the first, contradicts it, or has nothing to do with it.
A cyclist rides 18 kilometres in the first hour, 15 in the second, and walks the last two with a flat tyre.
What is the chemical symbol of the metal that is liquid at room temperature?
The teacher wrote a number on the board, doubled it, took away seven, and asked the class where she had begun.
Salt was carried over this pass for nine centuries, and the inns are still a day's walk apart.
Think step by step, and put the final answer after the words: the answer is.
Each of the five boxes holds either six red pencils or eight blue ones, and there are thirty-four pencils in all.
The museum closes at five, except on the first Thursday of the month, when it stays open until nine.
Which planet has the shortest year, and which one the longest day?
My neighbour says that he never lies on weekends, and he says so every day of the week.
The soup needs two parts of stock for one part of milk, and a spoon of flour for every three plates.
""".strip()


def words() -> list[list[str]]:
    """The texts above, each as its words."""
    joined = TEXTS.replace("\nof an hour", " of an hour")
    return [line.split() for line in joined.splitlines()]


def prompts(n: int = 128, seed: int = 7) -> list[str]:
    """`n` prompts: sentences drawn at random until the drawn number of words is reached, the last one cut short.

    The first k prompts are the same for every n >= k.
    """
    draw = random.Random(seed)
    sentences = words()
    out: list[str] = []
    for _ in range(n):
        length = round(min(max(MEDIAN * 2.718281828459045 ** (SIGMA * draw.gauss(0.0, 1.0)), SHORTEST), LONGEST))
        text: list[str] = []
        while len(text) < length:
            text += sentences[draw.randrange(len(sentences))]
        out.append(" ".join(text[:length]))
    return out


def padding(lengths: Sequence[int], batches: int | Sequence[int]) -> float:
    """Padded tokens over real tokens of consecutive batches, of one size or of the given sizes."""
    sizes = [batches] * -(-len(lengths) // batches) if isinstance(batches, int) else batches
    padded = begin = 0
    for size in sizes:
        rows = lengths[begin : begin + size]
        padded, begin = padded + max(rows) * len(rows), begin + size
    return padded / sum(lengths)
