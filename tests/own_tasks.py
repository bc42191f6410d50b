"""Tasks of a user's own, named as `module:Class` in a study file; several tests use them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gnomon.types import Example, Grade, Mode, Prompt, Turn

WORDS = ("cat", "dog", "bird", "tree", "house", "river", "stone", "cloud", "light", "sound", "paper", "glass")


@dataclass(frozen=True)
class Letters:
    """Prompts of mixed lengths; an answer is its first letter, right when it comes early in the alphabet.

    Even a random model answers it both ways, and sometimes with no letter at all.
    """

    name: ClassVar[str] = "letters"
    version: ClassVar[int] = 1
    mode: Mode = "generate"
    max_new_tokens: int = 6
    stop: tuple[str, ...] = ()
    total: int = 24

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        out = []
        for i in range(n or self.total):
            rng = random.Random(f"{seed}/{i}")
            text = " ".join(rng.choice(WORDS) for _ in range(1 + (i * 7) % 11))
            out.append(
                Example(f"q{i}", f"{i}: {text} =", "a", difficulty=float(i % 11), meta={"words": text.count(" ")})
            )
        return out

    def grade(self, example: Example, text: str) -> Grade:
        found = re.search("[A-Za-z]", text)
        if found is None:
            return Grade(None, reason="no letter")
        return Grade(found[0].lower() < "m", found[0], "first letter", found.span())

    def baselines(self, example: Example) -> dict[str, float]:
        return {"words": float(example.meta["words"])}


@dataclass(frozen=True)
class Pick(Letters):
    """The same prompts with choices of unequal lengths."""

    name: ClassVar[str] = "pick"
    mode: Mode = "choices"

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        made = super().examples(n, seed)
        options = ("cat", "a dog in the house", "light", "stone")
        return [Example(e.id, e.prompt, options[i % 4], options[: 2 + i % 3] if i % 4 < 2 else options,
                        difficulty=e.difficulty, meta=e.meta) for i, e in enumerate(made)]  # fmt: skip

    def grade(self, example: Example, text: str) -> Grade:
        return Grade(text == example.target, text, "choice", (0, len(text)))


@dataclass
class Guessing:
    """One game: a hidden number; the first digit written is the guess; "higher", "lower" or the end."""

    hidden: int
    limit: int
    said: list[int | None] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)

    def first(self) -> Prompt:
        return "Guess a digit."

    def reply(self, text: str) -> Turn:
        found = re.search("[0-9]", text)
        guess = int(found[0]) if found else None
        self.said.append(guess)
        meta = {"guess": guess, "hidden": self.hidden}
        if guess == self.hidden or len(self.said) >= self.limit:
            return Turn(None, meta)
        word = "No digit." if guess is None else "Higher." if guess < self.hidden else "Lower."
        return Turn(f"\n{word} Guess:", meta)

    def grade(self) -> Grade:
        if all(guess is None for guess in self.said):
            return Grade(None, reason="never guessed")
        right = self.hidden in self.said
        return Grade(right, str(self.said[-1]), f"{len(self.said)} guesses")


@dataclass(frozen=True)
class GuessTheNumber:
    """A game of rounds; the environment draws the number from the seed that it is given."""

    name: ClassVar[str] = "guess"
    mode: Mode = "episode"
    max_new_tokens: int = 4
    stop: tuple[str, ...] = ()
    max_rounds: int = 4
    rounds: int = 3

    def examples(self, n: int | None = None, seed: int = 0) -> list[Example]:
        return [Example(f"game{i}", "", "the hidden number") for i in range(n or 6)]

    def grade(self, example: Example, text: str) -> Grade:
        return Grade(None, reason="graded by the episode")

    def episode(self, example: Example, seed: int = 0) -> Any:
        return Guessing(random.Random(seed).randrange(10), self.rounds)


@dataclass(frozen=True)
class Chatting(GuessTheNumber):
    """The same game in chat messages; the environment's words become the user's."""

    name: ClassVar[str] = "guess_chat"

    def episode(self, example: Example, seed: int = 0) -> Any:
        game = Guessing(random.Random(seed).randrange(10), self.rounds)
        game.first = lambda: ({"role": "user", "content": "Guess a digit."},)  # type: ignore[method-assign]
        return game
