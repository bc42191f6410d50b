"""Letters as answers: the tokens that say a letter, and log p of each letter at one position.

log p(letter) = logsumexp over the letter's single-token variants ("A", " A") of log p(token), the softmax being over
the whole vocabulary; so what the letters share, and what they leave to other tokens (1 - mass), is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.models.tokens import decode, encode_text

if TYPE_CHECKING:
    from gnomon.models.model import Model

MARKS = ("", "\u0120", "\u2581")
"""How vocabularies write a token's leading space: none, byte-level BPE's, SentencePiece's."""


def letter_variants(tokenizer: Any, letter: str) -> list[int]:
    """Ids of the single tokens that say `letter` (or any short text), with and without a leading space, ascending.

    Takes a tokenizer or a model. UserError where no variant is a single token.
    """
    tokenizer = tokenizer if hasattr(tokenizer, "convert_tokens_to_ids") else tokenizer.tokenizer
    found = {ids[0] for text in (letter, " " + letter) if len(ids := encode_text(tokenizer, text)) == 1}
    # SentencePiece puts a space before every text it encodes, so its bare piece is found by name only
    named = [tokenizer.convert_tokens_to_ids(mark + letter) for mark in MARKS]
    found |= {int(i) for i in named if i is not None}
    out = sorted(i for i in found if decode(tokenizer, [i]).strip() == letter)
    if not out:
        raise UserError(
            f"the letter {letter!r} is no single token of this model", f'"{letter}" or " {letter}" as one token',
            "other letters, or scoring: likelihood",
        )  # fmt: skip
    return out


def variants_of(tokenizer: Any, letters: Sequence[str]) -> list[list[int]]:
    """`letter_variants` of each; UserError for fewer than two letters, and for two that share a token."""
    found = [letter_variants(tokenizer, letter) for letter in letters]
    if len(found) < 2 or len({i for ids in found for i in ids}) < sum(map(len, found)):
        raise UserError(f"letters {list(letters)}", "at least two, all different")
    return found


def letter_logprobs(model: Model, logits: Any, letters: Sequence[str]) -> np.ndarray:
    """log p of each letter, over the whole vocabulary: `[n, letters]` float64 from logits `[n, d_vocab]` (torch).

    exp of a row's sum is the letters' mass. UserError where a letter is no single token.
    """
    import torch

    with torch.no_grad():
        x = logits.double()
        x = x - torch.logsumexp(x, -1, keepdim=True)
        said = [torch.logsumexp(x[:, ids], -1) for ids in variants_of(model, letters)]
    return torch.stack(said, -1).cpu().numpy()
