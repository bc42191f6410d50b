"""Letters as answers: their tokens, their probabilities, what a generation says of them."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.models.tokens import encode_text
from gnomon.rows.letters import letter_logprobs, letter_variants
from tests.tiny import tiny_model


@pytest.mark.parametrize("letters", [("A", "B", "C", "D"), ("C", "A")])
def test_log_p_of_a_letter_sums_its_variants_over_the_whole_vocabulary(letters: tuple[str, ...]) -> None:
    import torch

    model = tiny_model("qwen2")
    logits = torch.tensor(np.random.default_rng(0).normal(0, 3, (5, model.d_vocab)))
    found = letter_logprobs(model, logits, letters)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    want = np.stack([sum(p[:, i] for i in letter_variants(model, letter)) for letter in letters], -1)
    np.testing.assert_allclose(np.exp(found), want, rtol=1e-12)
    assert found.dtype == np.float64
    assert (np.exp(found).sum(-1) < 1).all()


def test_both_spellings_count_in_a_vocabulary_that_has_both() -> None:
    from gnomon.models import load_tokenizer

    tokenizer = load_tokenizer("smollm2-135m")
    assert letter_variants(tokenizer, "B") == sorted({*encode_text(tokenizer, "B"), *encode_text(tokenizer, " B")})
    assert len(letter_variants(tokenizer, "B")) == 2


def test_a_sentencepiece_vocabulary_has_its_bare_piece_too() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "\u2581": 1, "A": 2, "\u2581A": 3, "B": 4}
    raw = Tokenizer(models.BPE(vocab, [("\u2581", "A")], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    assert letter_variants(tokenizer, "A") == [2, 3]
    assert letter_variants(tokenizer, "B") == [4]
    with pytest.raises(UserError, match="'C' is no single token"):
        letter_variants(tokenizer, "C")


@pytest.mark.parametrize("letters", [("A",), ("A", "A"), ("A", "\u03a9"), ("A", "AB")])
def test_letters_that_cannot_be_told_apart_are_refused(letters: tuple[str, ...]) -> None:
    import torch

    model = tiny_model("qwen2")
    with pytest.raises(UserError, match="letter"):
        letter_logprobs(model, torch.zeros(1, model.d_vocab), letters)
