"""One batch in mode `choices` scored by letters: log p of each option's letter right after the prompt.

The likeliest letter's option is graded. The scores are log p over the whole vocabulary (see `rows.letters`), so their
exponentials sum to what the letters take of the probability (`letter_mass`). Cost: the prompt, and one token more where
activations are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.rows.ask import Asking, places
from gnomon.rows.choose import answer_of, values_of
from gnomon.rows.gather import Gather
from gnomon.rows.letters import letter_logprobs, letter_variants
from gnomon.rows.plan import Row
from gnomon.rows.table import Answer
from gnomon.types import Example, Task

if TYPE_CHECKING:
    from gnomon.models.model import Model


def scores_letters(task: Any) -> bool:
    """Whether a task's choices are scored by letters: it has scoring "letters", and its examples meta `letters`."""
    return task.mode == "choices" and getattr(task, "scoring", "") == "letters"


def letters_of(example: Example) -> list[str]:
    """The letters of an example's choices, in their order; UserError where there is not one for each."""
    letters = [str(letter) for letter in example.meta.get("letters", ())]
    if len(letters) != len(example.choices):
        raise UserError(
            f"example {example.id!r} has {len(example.choices)} choices and the letters {letters}",
            "meta['letters'], one for each choice",
        )  # fmt: skip
    return letters


def choose_letters(model: Model, task: Task, batch: Sequence[Row], asking: Asking, gather: Gather) -> list[Answer]:
    """Score, grade and capture one batch of questions."""
    import torch

    from gnomon.models.replay import SharedPrefix

    cache = model.new_cache()
    prompt = model.forward([row.tokens.tolist() for row in batch], read=asking.sites, cache=cache, logits="last")
    answers: list[Answer] = []
    for slot, row in enumerate(batch):
        letters = letters_of(row.example)
        logits = prompt.logits[slot : slot + 1]
        scores = letter_logprobs(model, logits, letters)[0]
        best = int(np.argmax(scores))
        variants = letter_variants(model, letters[best])
        token = variants[int(torch.argmax(logits[0, variants]))]
        with torch.no_grad():
            said = float(logits[0, token].double() - torch.logsumexp(logits[0].double(), -1))
        meta = {"letter": letters[best], "letter_mass": float(np.exp(scores).sum())}
        logprobs = np.array([said], dtype=np.float32)
        answers.append(answer_of(model, task, row, [token], best, logprobs, scores.tolist(), asking, meta))
    if asking.sites:
        owner = list(range(len(batch)))
        said = model.forward([a.ids for a in answers], read=asking.sites, cache=SharedPrefix(cache, owner))
        gather.take(places(answers), lambda picks: values_of(prompt, said, answers, owner, picks))
    return answers
