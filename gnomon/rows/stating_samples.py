"""Self-consistency: the share of fresh samples of the same prompt that give the same answer (Wang et al. 2023,
arXiv 2203.11171; as a confidence: Lyu et al. 2024, arXiv 2402.13904).

    confidence = samples that agree with the answer / samples whose answer could be read

A sample's answer is read by the task's own grading; where choices were scored (`task` is then None, or of mode
`choices`), the sample is read as one of them, by its words or its letter, and one that names none of them (the options
may not have been shown) does not agree. Answers agree when they are the same number, or alike with case, accents and
punctuation folded away.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.models.sampling import noise
from gnomon.rows.confidence_prompts import Asked, messages_in
from gnomon.rows.confidence_read import Question, Stated, Stating
from gnomon.tasks.numerals import exact
from gnomon.tasks.parsing import is_refusal
from gnomon.tasks.parsing_choices import parse_choice
from gnomon.tasks.parsing_names import folded
from gnomon.types import Example, Prompt

if TYPE_CHECKING:
    from gnomon.models.cache import KVCache
    from gnomon.models.model import Model

OUTSIDE = "none of the options"
"""What a sample says that is an answer, and not one of the choices."""
QUESTION_COLUMNS = ("prompt_hash", "target", "choices", "difficulty")


def base_prompt(line: Mapping[str, Any]) -> Asked:
    """The prompt that the answer was given to."""
    ids = tuple(int(i) for i in line["token_ids"][: int(line["prompt_len"])])
    return Asked(str(line["prompt"]), str(line["prompt_hash"]), ids, None)


def check_task(task: Any, joined: bool = False) -> None:
    """Refuse tasks whose answers cannot be compared: episodes, programs, and in `joined` generations all but choices
    (a row does not say which task grades it)."""
    if joined and task.mode != "choices":
        raise UserError(
            f"ask: consistency about joined generations, and task {task.name} is no choice",
            "answers that one task grades, or choices", "ask it of each generation before they are appended",
        )  # fmt: skip
    if task.mode == "episode" or getattr(task, "executable", False):
        what = "plays rounds" if task.mode == "episode" else "asks for programs"
        raise UserError(
            f"ask: consistency, and task {task.name} {what}", "answers that can be compared",
            "ask: self or p_true; or generate with samples",
        )  # fmt: skip


def of_choices(task: Any) -> bool:
    """True where rows hold the choices that were scored: samples are read against them, without a task."""
    return task is None or task.mode == "choices"


def sample_batch(
    model: Model, task: Any, questions: Sequence[Question], how: Stating, lines: Mapping[int, Mapping[str, Any]]
) -> list[Stated]:
    """Draw `how.samples` answers to each question's prompt and compare them with the row's own answer.

    A draw depends on the seed, the example and its number only (never on the batch), and not on the noise with which
    the generation itself was sampled.
    """
    texts: list[list[str]] = [[] for _ in questions]
    todo = [(i, s) for i in range(len(questions)) for s in range(how.samples)]
    for start in range(0, len(todo), how.batch_size):
        part = todo[start : start + how.batch_size]
        names = [(f"consistency {lines[questions[i].rows[0][0]]['example_id']}", s, 0) for i, s in part]
        prompts = [list(questions[i].asked[False].tokens) for i, _ in part]
        made = model.generate(
            prompts, max_new_tokens=how.max_new_tokens, stop=tuple(how.stop), temperature=how.temperature,
            noise=noise(how.seed, names, model.d_vocab), prefix=_begun(model, prompts, how.max_new_tokens),
        )  # fmt: skip
        for (i, _), said in zip(part, made.rows, strict=True):
            texts[i].append(said.text)
    return [_compared(task, lines[q.rows[0][0]], said) for q, said in zip(questions, texts, strict=True)]


def _begun(model: Model, prompts: Sequence[list[int]], reserve: int) -> KVCache | None:
    """Keys and values of all but each prompt's last token, every prompt run once; None where one has a single token."""
    once = list(dict.fromkeys(map(tuple, prompts)))
    if min(map(len, once)) < 2:
        return None
    cache = model.new_cache(reserve=reserve + 1)
    model.forward([list(ids[:-1]) for ids in once], cache=cache)
    cache.align()
    return cache.select([once.index(tuple(ids)) for ids in prompts])


def answer_in(task: Any, line: Mapping[str, Any], text: str) -> str | None:
    """The answer that a sample gives, folded; None where none can be read."""
    choices = list(line["choices"] if line["choices"] is not None else ())
    if of_choices(task):
        found = parse_choice(text, choices)
        if found is not None:
            return alike(choices[int(found.value)])
        return None if not text.strip() or is_refusal(text) else OUTSIDE
    messages = messages_in(line)
    prompt: Prompt = str(line["prompt"]) if messages is None else tuple(messages)
    difficulty = line["difficulty"]
    example = Example(
        line["example_id"], prompt, line["target"], tuple(choices), line["group"], line["split"],
        None if difficulty is None else float(difficulty), json.loads(line["meta"] or "{}"),
    )  # fmt: skip
    said = task.grade(example, text).answer
    return None if said is None else alike(said)


def alike(answer: str) -> str:
    """An answer as it is compared: a number by its value ("2,125.0" is "2125"), a text folded."""
    number = exact(answer)
    return str(number) if number is not None else folded(answer) or answer.strip().casefold()


def _compared(task: Any, line: Mapping[str, Any], texts: Sequence[str]) -> Stated:
    own = alike(line["text"] if of_choices(task) else line["answer"] or line["text"])
    answers = [answer_in(task, line, text) for text in texts]
    read = Counter(a for a in answers if a is not None)
    total = sum(read.values())
    ranked = read.most_common()
    shares = np.array([count for _, count in ranked], dtype=np.float64) / max(total, 1)
    return Stated(
        ids=[],
        text=texts[0],
        parsed=ranked[0][0] if ranked else None,
        confidence=read[own] / total if total else None,
        choices=[answer for answer, _ in ranked],
        probs=shares.tolist(),
        entropy=float(-(shares * np.log(shares)).sum()) if total else None,
        normal=read[own] / total if total else None,
        meta={"samples": len(texts), "read": total, "agree": read[own], "texts": list(texts)},
    )
