"""The prompts of a confidence pass: where the answer ends in chats of any template, what is filled in, what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gnomon.models.tokens import decode
from gnomon.rows.confidence_prompts import ask_about, wording
from gnomon.rows.confidence_scale import scale
from gnomon.rows.stating import parse_percent
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TRIMMED = (
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + "
    "m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}"
    "{% endif %}"
)
SYSTEM = "{{ '<|im_start|>system\nYou say Paris and N.<|im_end|>\n' }}" + CHAT_TEMPLATE
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'].split('</think>')[-1] + "
    "'<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHAT_TEMPLATE, "mistral": MISTRAL, "trimmed": TRIMMED, "system": SYSTEM, "thinking": THINKING}
BEHIND = {"mistral": "<|im_end|>[INST]", "trimmed": "<end_of_turn>\n<start_of_turn>user"}
WORDS = wording("self", None, "conversation", scale("self", None, None))


def tokenizer_of(template: str) -> Any:
    made = tiny_tokenizer(bos=False)
    made.chat_template = TEMPLATES[template]
    return made


def line(text: str, begun: str = "", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Nitrogen or Paris?"}]
    if begun:
        messages.append({"role": "assistant", "content": begun})
    return {"row": 0, "prompt": "rendered", "messages": json.dumps(messages), "prompt_len": 1, "token_ids": [1, 2],
            "text": text, "finish": "eos", "answer_token": None, "meta": "{}", **changes}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("text", "begun"),
    [("N", ""), (" N", "The symbol is"), ("I", ""), ("user", ""), ("e", ""), ("Paris. No: Paris", ""), (" a \n", ""),
     ("How sure are you that your answer is right?", "")],
)  # fmt: skip
def test_the_answer_ends_where_the_model_ended_it(template, text, begun):
    tokenizer = tokenizer_of(template)
    asked = ask_about(tokenizer, line(text, begun), WORDS)
    whole = (begun + text).strip()
    # by hand: what the template writes between the answer's turn and the last of the user's
    before = asked.prompt[: asked.prompt.rindex("How sure are you")]
    end = len(before[: before.rindex(BEHIND.get(template, "<|im_end|>\n<|im_start|>user"))].rstrip())
    assert asked.prompt[:end].endswith(whole)
    assert asked.answer_token is not None
    upto = [
        len(decode(tokenizer, asked.tokens[:k], special=True)) for k in (asked.answer_token, asked.answer_token + 1)
    ]
    assert upto[0] < end <= upto[1]


def test_an_answer_behind_its_thoughts_is_found_where_a_template_leaves_those_out():
    asked = ask_about(tokenizer_of("thinking"), line("<think>N or I? N</think>\nIt is N"), WORDS)
    assert "<think>" not in asked.prompt
    assert asked.answer_token is not None
    said = decode(tokenizer_of("thinking"), asked.tokens[: asked.answer_token + 1], special=True)
    assert said.endswith("It is N")


def test_the_parsed_answer_counts_not_what_follows_it():
    tokenizer = tokenizer_of("mistral")
    ids = [1, *(int(i) for i in tokenizer("N, and N is right", add_special_tokens=False)["input_ids"])]
    asked = ask_about(tokenizer, line("N, and N is right", token_ids=ids, answer_token=1), WORDS)
    assert asked.answer_token is not None
    assert decode(tokenizer, asked.tokens[: asked.answer_token + 1], special=True).endswith("[/INST]N")


def test_braces_of_a_question_are_its_own():
    words = wording("self", "Of {question} -> {answer}: sure?", "alone", scale("self", None, None))
    text = words.text("f'{answer} {options}'", "a {question}", chat=False, reverse=False)
    assert text.startswith("Of f'{answer} {options}' -> a {question}: sure?\nA. 0-5%")


def test_numbers_of_a_scale_are_no_confidence():
    cases = {
        "On a scale of 1 to 10, I am at 8": 0.8, "on a scale from 0 to 100: 85": 0.85, "8 on a scale of 1 to 10": 0.8,
        "On a scale of 1 to 10": None, "8 on a scale of 10": 0.8, "on a scale of 1-5, 4": 0.8,
    }  # fmt: skip
    assert {text: parse_percent(text) for text in cases} == {k: v and pytest.approx(v) for k, v in cases.items()}
