"""Which tokens a position names, counted from the start of a row's unpadded token_ids (prompt, then response)."""

from __future__ import annotations

from collections.abc import Callable

from gnomon.errors import unknown
from gnomon.sites import POSITIONS
from gnomon.types import Grade

Span = tuple[int, int]


def span_of(position: str, prompt_len: int, length: int, answer_token: int | None) -> Span | None:
    """Tokens [start, stop) of a position; None where the row lacks it.

    last_prompt: the prompt's last token. last: the response's last token. answer: the last token of the parsed
    answer. response: all of the response. all: prompt and response. An empty response has neither last nor response.
    """
    match position:
        case "last_prompt":
            return prompt_len - 1, prompt_len
        case "last":
            return (length - 1, length) if length > prompt_len else None
        case "answer":
            return None if answer_token is None else (answer_token, answer_token + 1)
        case "response":
            return (prompt_len, length) if length > prompt_len else None
        case "all":
            return 0, length
    raise unknown("position", position, POSITIONS)


def answer_end(grade: Grade, text: str) -> int | None:
    """Character just behind the parsed answer in `text`: from the grade's span, else where the answer stands last."""
    if grade.span is not None:
        return grade.span[1]
    if grade.answer:
        at = text.rfind(grade.answer)
        return None if at < 0 else at + len(grade.answer)
    return None


def token_before(end: int, count: int, text_of_first: Callable[[int], str]) -> int | None:
    """Index of the response token that writes character `end` - 1, of `count` tokens; None where there is none.

    `text_of_first(k)` is the text of the first k response tokens; its length grows with k, so it is bisected.
    """
    if end < 1 or count < 1 or len(text_of_first(count)) < end:
        return None
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        if len(text_of_first(middle)) >= end:
            high = middle
        else:
            low = middle + 1
    return low - 1
