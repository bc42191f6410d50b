"""Text to token ids and back: prompts plain or chat, continuations, and exact cuts at stop strings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from gnomon.errors import UserError
from gnomon.types import Prompt


def tokenize(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Ids of a prompt: text with the tokenizer's own special tokens, or chat messages through the chat template.

    A last message of the role `assistant` is the beginning of the model's own answer: it is continued, not closed.
    UserError for a chat prompt with a tokenizer that has no template, for no messages, and for a prompt of no tokens.
    """
    ids = tokenizer(render(tokenizer, prompt), add_special_tokens=isinstance(prompt, str))["input_ids"]
    if not ids:
        raise UserError("a prompt without tokens", "at least one token", "give the prompt some text")
    return [int(i) for i in ids]


def render(tokenizer: Any, prompt: Prompt) -> str:
    """A prompt as the text that the tokenizer gets: itself, or chat messages through the chat template."""
    if isinstance(prompt, str):
        return prompt
    messages = [dict(message) for message in prompt]
    if not messages:
        raise UserError("a chat prompt without messages", "at least one message")
    for message in messages:
        if not {"role", "content"} <= message.keys():
            raise UserError(f"a chat message with the keys {sorted(message)}", "messages of `role` and `content`")
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("a chat prompt, and this model has no chat template", "a prompt of plain text", "style: plain")
    continued = messages[-1]["role"] == "assistant"
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not continued, continue_final_message=continued
    )


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Ids of a piece of text without special tokens: a continuation, an option, a word."""
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def decode(tokenizer: Any, ids: Sequence[int], special: bool = False) -> str:
    """Text of ids; special tokens are left out unless asked for, and spaces are not tidied."""
    return tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)


def continuation_text(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """Text that `ids` add after `prompt`. Some tokenizers drop a leading space at the start of a text, so the
    response is decoded behind the prompt's last token."""
    if not ids:
        return ""
    before = decode(tokenizer, prompt[-1:])
    both = decode(tokenizer, [*prompt[-1:], *ids])
    return both[len(before) :] if both.startswith(before) else decode(tokenizer, ids)


def token_strings(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as text, with its leading space; a token that is part of a character shows the replacement sign."""
    out = []
    for i in ids:
        text = decode(tokenizer, [i], special=True)
        piece = tokenizer.convert_ids_to_tokens(int(i))
        if isinstance(piece, str) and piece.startswith("\u2581") and not text.startswith(" "):
            text = " " + text  # SentencePiece marks the space, and its decoder drops it at the start of a text
        out.append(text)
    return out


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins in `text`; None where there is none."""
    found = [at for at in (text.find(s) for s in stop if s) if at >= 0]
    return min(found, default=None)


def tokens_before(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], cut: int) -> int:
    """How many of `ids` have text before character `cut` of the response (a token that the cut splits counts)."""
    kept = len(ids)
    while kept > 0 and len(continuation_text(tokenizer, prompt, ids[: kept - 1])) >= cut:
        kept -= 1
    return kept


END_TOKENS = (
    "<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "<end_of_turn>", "<|eot_id|>", "<|end_of_text|>", "<|end|>",
)  # fmt: skip


def stop_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Ids that end a response: the tokenizer's eos, the generation config's (one or many), and the usual end tokens.

    An instruct model closes a turn with one token and a plain text with another, and its configuration often names
    only the first; both end the answer here.
    """
    ids: set[int] = set()
    for value in (getattr(tokenizer, "eos_token_id", None), getattr(generation_config, "eos_token_id", None)):
        ids |= {int(i) for i in (value if isinstance(value, list | tuple) else [value]) if i is not None}
    special = {str(token): int(i) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    return frozenset(ids | {special[token] for token in END_TOKENS if token in special})


def template_hash(tokenizer: Any) -> str | None:
    """sha256 of the chat template, 16 hex digits, or None where there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(str(template).encode()).hexdigest()[:16] if template else None
