"""One batch in mode `generate`: prompts are continued, texts graded, the wanted tokens' activations kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gnomon.models.sampling import noise
from gnomon.models.tokens import continuation_text, render
from gnomon.rows.gather import Gather, Where
from gnomon.rows.plan import Row
from gnomon.rows.positions import answer_end, token_before
from gnomon.rows.table import Answer, messages_of
from gnomon.types import Example, Prompt, Task

if TYPE_CHECKING:
    from gnomon.models.generated import Generated
    from gnomon.models.model import Model


@dataclass(frozen=True)
class Asking:
    """How rows are asked and what is kept: the same for all of them, and picklable."""

    seed: int
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    top_p: float = 1.0
    top_k_logits: int = 0
    condition: str = ""
    normalise: Literal["tokens", "chars", "none"] = "tokens"
    max_rounds: int = 1
    sites: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Ask:
    """One prompt put to the model."""

    row: Row
    number: int
    prompt: Prompt
    tokens: list[int]
    seed: int
    round: int = 0


def decode(model: Model, asks: Sequence[Ask], asking: Asking) -> tuple[list[Answer], Generated]:
    """Continue a batch of prompts: answers not graded yet, and the activations captured on the way."""
    names = [(ask.row.example.id, ask.row.sample, ask.round) for ask in asks]
    generated = model.generate(
        [ask.tokens for ask in asks],
        max_new_tokens=asking.max_new_tokens,
        stop=asking.stop,
        read=asking.sites,
        positions=asking.positions if asking.sites else (),
        temperature=[ask.row.temperature for ask in asks],
        top_p=asking.top_p,
        noise=noise(asking.seed, names, model.d_vocab),
        top_k_logits=asking.top_k_logits,
    )
    answers = [
        Answer(
            row=ask.row,
            number=ask.number,
            prompt=render(model.tokenizer, ask.prompt),
            messages=messages_of(ask.prompt),
            prompt_hash=Example("", ask.prompt, "").prompt_hash,
            prompt_ids=ask.tokens,
            ids=said.token_ids,
            text=said.text,
            finish=said.finish,
            logprobs=said.logprobs,
            max_prob=said.max_prob,
            entropy=said.entropy,
            margin=said.margin,
            seed=ask.seed,
            round=ask.round,
            top_ids=said.top_ids,
            top_logits=said.top_logits,
        )
        for ask, said in zip(asks, generated.rows, strict=True)
    ]
    return answers, generated


def find_answer(model: Model, answer: Answer) -> int | None:
    """Index into the row's token_ids of the token that ends the parsed answer; None where nothing was parsed."""
    end = answer_end(answer.grade, answer.text)
    if end is None:
        return None
    at = token_before(
        end, len(answer.ids), lambda k: continuation_text(model.tokenizer, answer.prompt_ids, answer.ids[:k])
    )
    return None if at is None else len(answer.prompt_ids) + at


def places(answers: Sequence[Answer]) -> list[Where]:
    """Where the positions of a batch's rows lie."""
    return [
        Where(a.number, slot, len(a.prompt_ids), len(a.prompt_ids) + len(a.ids), a.answer_token)
        for slot, a in enumerate(answers)
    ]


def ask_batch(model: Model, task: Task, batch: Sequence[Row], asking: Asking, gather: Gather) -> list[Answer]:
    """Answer, grade and capture one batch."""
    asks = [Ask(row, row.row, row.example.prompt, row.tokens.tolist(), asking.seed) for row in batch]
    answers, generated = decode(model, asks, asking)
    for answer in answers:
        answer.grade = task.grade(answer.row.example, answer.text)
        answer.answer_token = find_answer(model, answer)
    gather.take(places(answers), generated.take)
    return answers
