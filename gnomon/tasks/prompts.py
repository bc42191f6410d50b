"""Prompt styles: how a question becomes what the model reads.

    plain        What is the capital of Kenya? Answer with the name of the city only.\\nAnswer:
    chat         [user] (the same two sentences)
    prefix       The capital of Kenya is
    chat_prefix  [user] as chat  [assistant] The capital of Kenya is

No prompt text ends in a space: the model's first token brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gnomon.types import Prompt

Style = Literal["plain", "chat", "prefix", "chat_prefix"]
STYLES: tuple[Style, ...] = ("plain", "chat", "prefix", "chat_prefix")


@dataclass(frozen=True)
class Item:
    """One question before it is put into a style; tasks make these, `Task.examples` turns them into examples.

    `prefix` begins the answer as bare text and so must hold the question; `opening` begins the assistant's answer after
    the question was asked (the prefix, unless given). `solution` is what a few-shot demonstration shows as the answer,
    `continuation` what it shows after the prefix or opening (both default to the target). `verbatim` is a prompt to be
    used as it is, whatever the style. `features` are numbers that describe the question's surface: baselines.
    """

    id: str
    question: str
    target: str
    prefix: str
    opening: str = ""
    instruction: str = ""
    solution: str = ""
    continuation: str = ""
    verbatim: Prompt | None = None
    choices: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    difficulty: float | None = None
    features: dict[str, float] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def render(style: Style, item: Item, shots: Sequence[Item] = (), system: str = "") -> Prompt:
    """The prompt of `item` in a style, after the demonstrations `shots` in the same style.

    A system message is used by the chat styles only; the instruction by all but `prefix`, whose text is a statement.
    """
    if item.verbatim is not None:
        return item.verbatim
    if style == "plain":
        parts = [_plain(s) + " " + (s.solution or s.target) for s in shots] + [_plain(item)]
        return "\n\n".join(parts)
    if style == "prefix":
        return "\n".join([s.prefix + " " + _continuation(s) for s in shots] + [item.prefix])
    messages = [{"role": "system", "content": system}] if system else []
    for shot in shots:
        answer = (
            _opening(shot) + " " + _continuation(shot) if style == "chat_prefix" else (shot.solution or shot.target)
        )
        messages += [{"role": "user", "content": _asked(shot)}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": _asked(item)})
    if style == "chat_prefix":
        messages.append({"role": "assistant", "content": _opening(item)})
    return tuple(messages)


def continue_with(prompt: Prompt, answer: str) -> str:
    """The text that appends `answer` to a prompt: with a space in between where the prompt ends in a word.

    After a chat prompt that ends in the user's turn there is no space: the answer begins the assistant's turn.
    """
    last = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt[-1]["role"] == "assistant" else ""
    return answer if not last or last[-1].isspace() else " " + answer


def _plain(item: Item) -> str:
    return f"{item.question} {item.instruction}".strip() + "\nAnswer:"


def _asked(item: Item) -> str:
    return f"{item.question}\n{item.instruction}" if item.instruction else item.question


def _opening(item: Item) -> str:
    return item.opening or item.prefix


def _continuation(item: Item) -> str:
    return item.continuation or (item.target if item.target.endswith(".") else item.target + ".")
