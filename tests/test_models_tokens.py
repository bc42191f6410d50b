"""Prompts to ids and back: special tokens, chat templates, continuations, cuts."""

from __future__ import annotations

import pytest

from gnomon.errors import UserError
from gnomon.models.tokens import find_stop, tokens_before
from tests.tiny import FAMILIES, tiny_model

USER = {"role": "user", "content": "What is 12 + 30?"}


@pytest.mark.parametrize("family", FAMILIES)
def test_text_prompts_get_the_tokenizer_s_own_special_tokens(family):
    model = tiny_model(family)
    ids = model.tokenize("The capital of Kenya is")
    assert ids == model.tokenizer("The capital of Kenya is")["input_ids"]
    assert (ids[0] == 0) == (family in ("llama", "mistral", "gemma2", "gemma3"))
    assert model.encode_text(" Nairobi")[0] != 0
    assert model.decode(model.encode_text(" Nairobi é 12\n\n3")) == " Nairobi é 12\n\n3"


def test_chat_prompts_open_the_answer_or_continue_it():
    model = tiny_model("qwen2")
    text = model.tokenizer.decode(model.tokenize((USER,)))
    assert text == "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n"
    begun = model.tokenize((USER, {"role": "assistant", "content": "The answer is"}))
    assert model.tokenizer.decode(begun) == text + "The answer is"


def test_what_cannot_be_a_prompt_is_a_user_error():
    model, plain = tiny_model("gpt2"), tiny_model("gpt2", chat=False)
    with pytest.raises(UserError, match="style: plain"):
        plain.tokenize((USER,))
    for prompt, said in (("", "without tokens"), ((), "without messages"), (({"role": "user"},), "role` and `content")):
        with pytest.raises(UserError, match=said):
            model.tokenize(prompt)


def test_token_strings_show_leading_spaces():
    model = tiny_model("gpt2")
    ids = model.encode_text("The capital of Kenya")
    assert "".join(model.token_strings(ids)) == "The capital of Kenya"
    assert model.token_strings(ids)[1].startswith(" ")


def test_smollm2_s_tokens_and_template(smollm2):
    """The specials that the GGUF file names, and digits cut one by one as in training."""
    ids = smollm2.tokenize((USER,))
    text = smollm2.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert ids[0] == smollm2.tokenizer.bos_token_id == 1
    assert smollm2.tokenizer.eos_token == "<|im_end|>"
    assert smollm2.stop_ids == {0, 2}
    assert smollm2.token_strings(smollm2.encode_text("x\n\n12 is")) == ["x", "\n\n", "1", "2", " is"]
    assert smollm2.tokenize("Paris")[0] != 1


def test_stops_and_cuts():
    model = tiny_model("gpt2")
    assert find_stop("a. b\nc", ("\n", ".")) == 1
    assert find_stop("abc", ("", "x")) is None
    ids = model.encode_text("The answer is 42.\nNext")
    text = model.decode(ids)
    for cut in range(len(text) + 1):
        kept = tokens_before(model.tokenizer, [5], ids, cut)
        assert len(model.decode(ids[:kept])) >= cut
        assert kept == 0 or len(model.decode(ids[: kept - 1])) < cut
