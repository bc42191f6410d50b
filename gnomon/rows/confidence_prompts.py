"""How a model is asked about an answer it gave: the prompt of a confidence pass, from a row of the generations table.

In the conversation the answer stands where the model gave it and the question follows: the next turn of a chat, or the
next paragraph of a text. Alone, question and answer are quoted in a fresh prompt (of another's chances only the
question, so that the pass does not lean on the model's own answer).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gnomon.models.tokens import continuation_text, render, tokenize
from gnomon.rows.confidence_scale import Ask, Scale
from gnomon.types import Example, Prompt

Where = Literal["conversation", "alone"]
COLUMNS = (
    "row", "example_id", "group", "split", "sample", "temperature", "prompt", "messages", "prompt_len", "token_ids",
    "text", "finish", "answer", "label", "answer_token", "meta",
)  # fmt: skip
"""What of the generations table a pass reads."""
QUESTIONS: dict[Ask, str] = {
    "self": "How sure are you that your answer is right?",
    "other": "How likely is it that a random educated person answers this question right?",
    "p_true": "Is your answer true or false?",
    "verbalised": "How sure are you that your answer is right, in percent from 0 to 100?",
    "consistency": "",  # asks the same question again
}
QUOTED = "Question: {question}\nYour answer: {answer}\n\n"
QUOTED_OTHER = "Question: {question}\n\n"
CHAT_END = {
    "letters": "Answer with the letter only.",
    "likelihood": "Answer with one of these only.",
    "verbalised": "Answer with the number only.",
}
HELD = "\u2042 answer \u2042"
"""Stands for the answer where its place in a chat is looked for."""
FILLERS = ("N/A", "[MASK]", "...")
"""Contents without content (Zhao et al. 2021, arXiv 2102.09690, section 5): what a pass says when it knows nothing."""


@dataclass(frozen=True)
class Asked:
    """One prompt of a pass: as text, as the tokenizer's ids, and the token that ends the model's own answer in it."""

    prompt: str
    prompt_hash: str
    tokens: tuple[int, ...]
    answer_token: int | None


@dataclass(frozen=True)
class Wording:
    """What is asked: picklable, the same for every row. `end` closes a text prompt; a chat's turn ends by itself."""

    ask: Ask
    question: str
    context: Where
    scale: Scale | None = None
    end: str = "Answer:"

    def text(self, question: str, answer: str, chat: bool, reverse: bool) -> str:
        """The question put to the model, with the list of bins and the closing words."""
        text = self.question
        if self.scale is not None and "{options}" not in text:
            text += "\n{options}"
        filled = {"question": question, "answer": answer}
        if self.scale is not None:
            filled["options"] = self.scale.listing(reverse)
        # at once, so that a brace in the question itself is left alone
        text = re.sub(r"\{(question|answer|options)\}", lambda found: filled.get(found[1], found[0]), text)
        kind = "verbalised" if self.scale is None else self.scale.scoring
        return f"{text}\n{CHAT_END[kind] if chat else self.end}"


def wording(ask: Ask, question: str | None, context: Where, scale: Scale | None) -> Wording:
    """The wording of a pass: the given question, or the default of what is asked."""
    if question is None:
        quoted = "" if context == "conversation" else QUOTED_OTHER if ask == "other" else QUOTED
        question = quoted + QUESTIONS[ask]
    return Wording(ask, question, context, scale, "Confidence:" if ask == "verbalised" else "Answer:")


def messages_in(line: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The chat messages of a row; None where its prompt is text."""
    held = line["messages"]
    return json.loads(held) if isinstance(held, str) else None


def response(tokenizer: Any, line: Mapping[str, Any]) -> str:
    """What the model said, as it stands behind the prompt (with its leading space); of a choice, its tokens' text."""
    if line["finish"] != "choice":
        return str(line["text"])
    ids = [int(i) for i in line["token_ids"]]
    return continuation_text(tokenizer, ids[: int(line["prompt_len"])], ids[int(line["prompt_len"]) :])


def answer_characters(tokenizer: Any, line: Mapping[str, Any], said: str) -> int:
    """Characters of `said` up to the end of the parsed answer; all of it where the row does not say where that is."""
    at, end = line["answer_token"], len(said)
    if at is not None and at == at:
        ids, cut = [int(i) for i in line["token_ids"]], int(line["prompt_len"])
        end = min(end, len(continuation_text(tokenizer, ids[:cut], ids[cut : int(at) + 1])))
    return len(said[:end].rstrip())


def question_of(line: Mapping[str, Any], messages: Sequence[Mapping[str, str]] | None) -> str:
    """The question as it is quoted: the task's own where the row keeps it, else the user's last words or the text."""
    own = json.loads(line["meta"] or "{}").get("question")
    if isinstance(own, str) and own.strip():
        return own.strip()
    if messages is None:
        return str(line["prompt"]).strip()
    asked = [m["content"] for m in messages if m["role"] == "user"]
    return asked[-1].strip() if asked else ""


def ask_about(tokenizer: Any, line: Mapping[str, Any], words: Wording, reverse: bool = False) -> Asked:
    """The prompt that asks about a row's answer, the bins in ascending order or in `reverse`."""
    messages = messages_in(line)
    said = response(tokenizer, line)
    asked = words.text(question_of(line, messages), said.strip(), messages is not None, reverse)
    if words.context == "alone":
        system = [m for m in messages or () if m["role"] == "system"]
        return _tokens(tokenizer, asked if messages is None else (*system, {"role": "user", "content": asked}))
    kept = answer_characters(tokenizer, line, said)
    if messages is None:
        before = str(line["prompt"])
        return _tokens(tokenizer, f"{before}{said}\n\n{asked}", len(before) + kept)
    begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    prompt = (*messages, {"role": "assistant", "content": begun + said}, {"role": "user", "content": asked})
    return _tokens(tokenizer, prompt, _turn_end(tokenizer, prompt, begun + said[:kept]))


def _turn_end(tokenizer: Any, prompt: tuple[Mapping[str, str], ...], answer: str) -> int | None:
    """Where the answer ends in the rendered chat whose last turn but one it begins; None where it is not there.

    The turn is found by what the template writes around another text in its place: a short answer ("N", "user") may
    stand in the template's own marks too. Templates may trim the turn, or leave out what was thought before the answer.
    """
    text = render(tokenizer, prompt)
    held = render(tokenizer, (*prompt[:-2], {**prompt[-2], "content": HELD}, prompt[-1]))
    begin = held.rfind(HELD)
    if begin < 0 or text[:begin] != held[:begin]:
        return None
    end = len(text) - (len(held) - begin - len(HELD))
    for said in (answer.strip(), answer.rpartition("</think>")[2].strip()):
        at = text.find(said, begin, end) if said else -1
        if at >= 0:
            return at + len(said)
    return None


def _tokens(tokenizer: Any, prompt: Prompt, answer_end: int | None = None) -> Asked:
    text = render(tokenizer, prompt)
    ids = tokenize(tokenizer, prompt)
    at = None if not answer_end else token_at(tokenizer, text, answer_end - 1, isinstance(prompt, str))
    return Asked(text, Example("", prompt, "").prompt_hash, tuple(ids), at)


def token_at(tokenizer: Any, text: str, character: int, special: bool) -> int:
    """Index of the token that writes a character of `text` (the last of them where it takes several)."""
    if getattr(tokenizer, "is_fast", False):
        spans = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)["offset_mapping"]
        there = [i for i, (a, b) in enumerate(spans) if a <= character < b]
        if there:
            return there[-1]
    return len(tokenizer(text[: character + 1], add_special_tokens=special)["input_ids"]) - 1


def without_content(line: Mapping[str, Any], filler: str) -> dict[str, Any]:
    """A row like `line` (text or chat) whose question and answer are `filler`."""
    messages = messages_in(line)
    if messages is not None:
        messages = [m for m in messages if m["role"] == "system"] + [{"role": "user", "content": filler}]
    return {
        **line, "prompt": filler, "messages": None if messages is None else json.dumps(messages),
        "text": filler if messages is not None else " " + filler, "finish": "stop", "answer_token": None, "meta": "{}",
    }  # fmt: skip
