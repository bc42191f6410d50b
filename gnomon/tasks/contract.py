"""The laws of a task, checked on examples of it: `check_task(task)` lists those that it breaks.

The test suite runs it over every task here; a user runs it over their own ("mine:Class").
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from gnomon.errors import UserError
from gnomon.types import Episode, Example, Mode, Task

REFUSALS = ("", "   \n", "I don't know.", "I'm sorry, but I cannot answer that question.")


def check_task(task: Any, n: int = 24, seed: int = 0) -> list[str]:
    """Every law of a task that `task` breaks on up to `n` examples, in words; an empty list where it keeps them all.

    The laws: it has a task's members; ids are unique, examples the same at each call; equal prompts share a group;
    prompts are text or messages that do not end in a blank; the target is graded right, with a span that covers it,
    and a near miss wrong; no text and a refusal hold no answer; choices are distinct and hold the target; what it
    says is plain data; more examples than exist are refused; and, where it has such options, every style works and
    worked examples come from other groups.
    """
    if not isinstance(task, Task) or not isinstance(getattr(task, "name", None), str):
        return [f"{type(task).__name__} lacks some of name, mode, max_new_tokens, stop, examples, grade"]
    try:
        return list(_problems(task, n, seed))
    except UserError as error:
        return [f"refused its own examples: {error}"]


def _problems(task: Any, n: int, seed: int) -> Iterator[str]:
    if task.mode not in get_args(Mode):
        yield f"mode {task.mode!r} is not one of {', '.join(get_args(Mode))}"
    if not isinstance(task.max_new_tokens, int) or task.max_new_tokens < 1:
        yield f"max_new_tokens is {task.max_new_tokens!r}, not a positive number"
    if not isinstance(task.stop, tuple) or not all(isinstance(s, str) and s for s in task.stop):
        yield f"stop is {task.stop!r}, not a tuple of texts"
    n, refused = _available(task, n, seed)
    examples = task.examples(n, seed)
    yield from refused
    if len(examples) != n:
        yield f"examples({n}) gave {len(examples)}"
    if task.examples(n, seed) != examples:
        yield "two calls of examples() with the same seed differ"
    yield from _identities(examples)
    for example in examples:
        yield from _prompt(example)
        yield from _grades(task, example)
        yield from _data(example)
    yield from _baselines(task, examples)
    yield from _episode(task, examples[0])
    if isinstance(task, BaseModel):
        yield from _options(task, n, seed)


def _available(task: Any, n: int, seed: int) -> tuple[int, list[str]]:
    """How many of `n` examples exist, and whether asking for more is refused (where they can be counted)."""
    total = task.total() if callable(getattr(task, "total", None)) else None
    if total is None:
        return n, []
    if getattr(task, "range", ""):
        total = min(total, len(task.examples(None, seed)))
    if total > 100_000:
        return n, []
    try:
        got = len(task.examples(total + 1, seed))
    except UserError as error:
        said = str(total) in str(error)
        return min(n, total), [] if said else [f"the refusal of {total + 1} examples does not say that {total} exist"]
    return min(n, total), [f"examples({total + 1}) gave {got} although {total} exist; it must be refused"]


def _identities(examples: Sequence[Example]) -> Iterator[str]:
    ids: dict[str, Example] = {}
    prompts: dict[str, Example] = {}
    for example in examples:
        if example.id in ids:
            yield f"two examples have the id {example.id!r}"
        twin = prompts.setdefault(example.prompt_hash, example)
        if twin.group != example.group:
            yield f"{example.id!r} and {twin.id!r} have the same prompt but different groups"
        ids[example.id] = example


def _prompt(example: Example) -> Iterator[str]:
    prompt = example.prompt
    if isinstance(prompt, str):
        if not prompt.strip():
            yield f"{example.id!r} has an empty prompt"
        elif prompt[-1] == " ":
            yield f"the prompt of {example.id!r} ends in a space, which splits the answer's first token"
        return
    roles = [m.get("role") for m in prompt]
    if not prompt or not all(set(m) == {"role", "content"} and isinstance(m["content"], str) for m in prompt):
        yield f"the messages of {example.id!r} are not all role and content"
    elif set(roles) - {"system", "user", "assistant"} or "user" not in roles:
        yield f"{example.id!r} has the roles {roles}"
    elif roles[-1] == "assistant" and prompt[-1]["content"][-1:].isspace():
        yield f"the answer's beginning in {example.id!r} ends in a blank, which splits the answer's first token"


def _grades(task: Any, example: Example) -> Iterator[str]:
    grade = task.grade(example, example.target)
    if grade.label is not True:
        said = f"{grade.label} ({grade.reason}, answer {grade.answer!r})"
        yield f"the target {example.target!r} of {example.id!r} is graded {said}"
    for text in (example.target, f" {example.target}\n"):
        grade = task.grade(example, text)
        if grade.span is not None:
            start, end = grade.span
            if not 0 <= start < end <= len(text) or text[start:end] != grade.answer:
                yield f"the span {grade.span} of {example.id!r} does not cover the answer {grade.answer!r} in {text!r}"
        elif grade.label is not None:
            yield f"the grade of {text!r} for {example.id!r} has no span"
    if not hasattr(task, "near_miss"):
        yield "it has no near_miss(example): a wrong answer that looks right"
    else:
        miss = task.near_miss(example)
        grade = task.grade(example, miss)
        if grade.label is not False:
            said = f"{grade.label} ({grade.reason})"
            yield f"the near miss {miss!r} of {example.id!r} (target {example.target!r}) is graded {said}"
    for text in REFUSALS:
        if (grade := task.grade(example, text)).label is not None:
            yield f"the text {text!r} is graded {grade.label} for {example.id!r}; it holds no answer"
    if example.choices:
        if len(set(example.choices)) < len(example.choices) or example.target not in example.choices:
            yield f"the choices {example.choices} of {example.id!r} repeat or lack the target {example.target!r}"
        for choice in example.choices:
            if task.grade(example, choice).label is not (choice == example.target):
                yield f"the choice {choice!r} of {example.id!r} is graded {task.grade(example, choice).label}"
    elif task.mode == "choices":
        yield f"{example.id!r} has no choices, and the mode is choices"


def _data(example: Example) -> Iterator[str]:
    try:
        json.dumps(dict(example.meta), allow_nan=False)
    except (TypeError, ValueError) as error:
        yield f"the meta of {example.id!r} is not plain data: {error}"
    if not example.id or not example.group or not example.target:
        yield f"{example.id!r} has an empty id, group or target"
    if example.difficulty is not None and not math.isfinite(example.difficulty):
        yield f"the difficulty of {example.id!r} is {example.difficulty}"


def _baselines(task: Any, examples: Sequence[Example]) -> Iterator[str]:
    if not hasattr(task, "baselines"):
        yield "it has no baselines(example): numbers seen without looking inside the model"
        return
    rows = [task.baselines(example) for example in examples]
    if any(set(row) != set(rows[0]) for row in rows):
        yield "baselines() has different names for different examples"
    for example, row in zip(examples, rows, strict=True):
        bad = [
            k for k, v in row.items() if isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v)
        ]
        if bad:
            yield f"baselines of {example.id!r} are not all finite numbers: {', '.join(bad)}"


def _episode(task: Any, example: Example) -> Iterator[str]:
    if not hasattr(task, "episode"):
        if task.mode == "episode":
            yield "its mode is episode but it has no episode(example, seed)"
        return
    play = task.episode(example, 0)
    if not isinstance(play, Episode):
        yield "episode() gives something without first, reply and grade"
    elif task.mode != "episode":
        turn = play.reply(example.target)
        if (
            play.first() != example.prompt
            or turn.prompt is not None
            or play.grade() != task.grade(example, example.target)
        ):
            yield "played as an episode, a question does not give its prompt, one turn and its grade"


def _options(task: Any, n: int, seed: int) -> Iterator[str]:
    cls = type(task)
    lacking = [name for name, field in cls.model_fields.items() if not field.description]
    if lacking:
        yield f"options without a description: {', '.join(lacking)}"
    if not cls.model_config.get("frozen") or cls.model_config.get("extra") != "forbid":
        yield "its options are not frozen, or unknown ones are let through"
    if cls.model_validate_json(task.model_dump_json()) != task or pickle.loads(pickle.dumps(task)) != task:
        yield "it is not the same after being saved and read"
    plain = {e.id: e for e in task.examples(n, seed)}
    if "style" in cls.model_fields and hasattr(task, "variant"):
        for style in get_args(cls.model_fields["style"].annotation):
            other = task.variant(style=style)
            styled = other.examples(n, seed)
            if [e.id for e in styled] != list(plain):
                yield f"style {style} asks other questions"
            for example in styled:
                yield from _prompt(example)
                grade = other.grade(example, example.target)
                if grade.label is not True:
                    yield f"in style {style} the target of {example.id!r} is graded {grade.label} ({grade.reason})"
    if "shots" in cls.model_fields and hasattr(task, "variant"):
        yield from _shots(task, plain, n, seed)


def _shots(task: Any, plain: dict[str, Example], n: int, seed: int) -> Iterator[str]:
    try:
        shown = task.variant(shots=2).examples(n, seed)
        again = task.variant(shots=2).examples(n, seed)
    except UserError:
        return  # too few questions, or prompts of their own: refused, which is right
    if shown != again:
        yield "worked examples differ from call to call"
    for example in shown:
        ids, groups = example.meta.get("shots", []), example.meta.get("shot_groups", [])
        if len(ids) != 2 or len(groups) != 2:
            yield f"{example.id!r} does not record its two worked examples in meta (shots, shot_groups)"
        if example.id in ids or example.group in groups:
            yield f"{example.id!r} is shown itself, or one of its group, as a worked example"
        if example.id in plain and example.prompt == plain[example.id].prompt:
            yield f"{example.id!r} has the same prompt with and without worked examples"
