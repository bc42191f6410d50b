"""Decoding equals Hugging Face's greedy decoding, captures what a forward gives, and samples whatever the batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from gnomon.errors import UserError
from gnomon.models import gumbel, noise
from gnomon.models.generate import _nucleus
from gnomon.types import Site
from tests.tiny import FAMILIES, tiny_model, tiny_prompts

# A sampled study is reproduced from these numbers: they never change.
GOLDEN = [-0.36227652430534363, 3.2401208877563477, -0.4301067888736725]
SITES = [Site("resid_post", 1), Site("z", 2), Site("mlp_post", 3), Site("embed")]


def _hf_greedy(model, prompt, n):
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0,
            eos_token_id=sorted(model.stop_ids),
        )  # fmt: skip
    found = out[0, len(prompt) :].tolist()
    return next((found[:i] for i, token in enumerate(found) if token in model.stop_ids), found)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_hugging_face(family, dtype):
    model = tiny_model(family, dtype)
    prompts = tiny_prompts(model, 6)
    made = model.generate(prompts, max_new_tokens=14)
    assert [row.token_ids for row in made.rows] == [_hf_greedy(model, p, 14) for p in prompts]


def test_smollm2_answers_and_equals_hugging_face(smollm2):
    chat = smollm2.tokenize(({"role": "user", "content": "What is the capital of Kenya?"},))
    plain = smollm2.tokenize("The capital of France is")
    made = smollm2.generate([chat, plain], max_new_tokens=10, read=["resid_post.15"], positions=["last", "response"])
    assert "Nairobi" in made.rows[0].text
    assert made.rows[1].text.startswith(" Paris")
    for prompt, row in zip([chat, plain], made.rows, strict=True):
        assert row.token_ids == _hf_greedy(smollm2, prompt, 10)
    text = [*chat, *made.rows[0].token_ids]
    alone = smollm2.forward([text], read=["resid_post.15"]).acts[Site("resid_post", 15)][0]
    found = made.acts[Site("resid_post", 15)]
    torch.testing.assert_close(found.last()[0], alone[-1], rtol=1e-3, atol=1e-2)
    values, offsets = found.values("response")
    torch.testing.assert_close(values[: offsets[1]], alone[len(chat) :], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_activations_are_those_of_a_forward(family):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model, 6)
    made = model.generate(prompts, max_new_tokens=9, read=SITES, positions=["all"])
    texts = [[*p, *row.token_ids] for p, row in zip(prompts, made.rows, strict=True)]
    again = model.forward(texts, read=SITES)
    for site in SITES:
        acts, wanted = made.acts[site], again.acts[site]
        values, offsets = acts.values("all")
        torch.testing.assert_close(values, again.values(site), rtol=1e-5, atol=1e-6)
        assert offsets.tolist() == again.offsets.tolist()
        response, spans = acts.values("response")
        for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            tolerance = {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(acts.last_prompt()[row], wanted[row, len(prompt) - 1], **tolerance)
            torch.testing.assert_close(acts.last()[row], wanted[row, len(text) - 1], **tolerance)
            ends = wanted[row, len(prompt) : len(text)]
            torch.testing.assert_close(response[spans[row] : spans[row + 1]], ends, **tolerance)
            for token in range(len(text)):
                torch.testing.assert_close(acts.at(row, token), wanted[row, token], **tolerance)


@pytest.mark.parametrize("stop", [(), (" the",), ("e",)])
def test_the_last_token_alone_is_the_one_of_the_whole_capture(stop):
    """Only few steps are kept for `last`: rows that end early, at a stop string or by length must still be right."""
    model = tiny_model("qwen2")
    prompts = tiny_prompts(model, 7)
    whole = model.generate(prompts, max_new_tokens=20, read=SITES, positions=["all"], stop=stop)
    short = model.generate(prompts, max_new_tokens=20, read=SITES, positions=["last", "last_prompt"], stop=stop)
    lengths = {len(row.token_ids) for row in whole.rows}
    assert len(lengths) > 1 or not stop
    assert [r.token_ids for r in whole.rows] == [r.token_ids for r in short.rows]
    for site in SITES:
        assert torch.equal(whole.acts[site].last(), short.acts[site].last())
        assert torch.equal(whole.acts[site].last_prompt(), short.acts[site].last_prompt())
    with pytest.raises(UserError, match="not captured"):
        short.acts[SITES[0]].at(0, 0)
    held = [step for step in short.acts[SITES[0]].store.steps if step is not None]
    assert len(held) <= 4 * max(map(len, stop), default=0) + 3


@dataclass
class Steer:
    site: Site
    where: Any = "all"
    strength: float = 0.7
    seen: list = field(default_factory=list)

    def edit(self, x, rows, positions):
        self.seen += list(zip(rows.tolist(), positions.tolist(), strict=True))
        return x + self.strength * torch.cos(torch.arange(x.shape[-1], dtype=torch.float64)).to(x.dtype)


@pytest.mark.parametrize("where", ["all", "prompt", "generated", "last_prompt", (1, 5, 9)])
@pytest.mark.parametrize("family", FAMILIES)
def test_steering_under_the_cache_is_steering_without_it(family, where):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model, 5)
    lens = [len(p) for p in prompts]
    edits = [Steer(Site(c, 1), where) for c in ("resid_pre", "attn_out", "mlp_post", "z")]
    made = model.generate(prompts, max_new_tokens=8, read=SITES, positions=["all"], edit=edits)
    texts = [[*p, *row.token_ids] for p, row in zip(prompts, made.rows, strict=True)]
    again = model.forward(texts, read=SITES, edit=edits, prompt_lens=lens, logits="all")
    for site in SITES:
        torch.testing.assert_close(made.acts[site].values("all")[0], again.values(site), rtol=1e-5, atol=1e-6)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        steps = range(len(prompt) - 1, len(text) - 1)
        assert again.logits[row, steps].argmax(-1).tolist() == made.rows[row].token_ids
        wanted = torch.log_softmax(again.logits[row, steps], -1)[range(len(steps)), text[len(prompt) :]]
        np.testing.assert_allclose(made.rows[row].logprobs, wanted, atol=1e-5)


def test_edits_see_each_real_token_once_and_no_finished_row():
    model = tiny_model("qwen2")
    prompts = tiny_prompts(model, 6)
    steer = Steer(Site("resid_post", 0), "all", strength=1e-9)
    made = model.generate(prompts, max_new_tokens=40, edit=[steer])
    assert len({len(row.token_ids) for row in made.rows if row.finish == "eos"}) > 1
    fed = Counter(steer.seen)
    assert set(fed.values()) == {1}
    for row, (prompt, response) in enumerate(zip(prompts, made.rows, strict=True)):
        last = max(position for r, position in fed if r == row)
        # the newest token of a row is fed only to get one more
        assert last == len(prompt) + len(response.token_ids) - (1 if response.finish == "eos" else 2)


def test_a_stop_string_cuts_the_text_and_the_tokens_exactly():
    model = tiny_model("llama")
    prompts = tiny_prompts(model, 6)
    free = model.generate(prompts, max_new_tokens=24)
    for stop in [(free.rows[0].text[3:5],), (free.rows[1].text[4:9], free.rows[2].text[2:4]), ("\0",)]:
        made = model.generate(prompts, max_new_tokens=24, stop=stop)
        for row, whole in zip(made.rows, free.rows, strict=True):
            cut = min((at for s in stop if (at := whole.text.find(s)) >= 0), default=None)
            if cut is None:
                assert (row.text, row.token_ids, row.finish) == (whole.text, whole.token_ids, whole.finish)
                continue
            assert row.finish == "stop"
            assert row.text == whole.text[:cut]
            assert row.token_ids == whole.token_ids[: len(row.token_ids)]
            assert len(row.logprobs) == len(row.token_ids)
            assert model.decode(row.token_ids).startswith(row.text)
            assert not row.token_ids or len(model.decode(row.token_ids[:-1])) < len(row.text)


def test_the_end_token_ends_a_row_and_is_not_kept():
    model = tiny_model("qwen2")
    prompts = tiny_prompts(model, 8)
    made = model.generate(prompts, max_new_tokens=40)
    assert {"eos", "length"} <= {row.finish for row in made.rows}
    for row in made.rows:
        assert not set(row.token_ids) & model.stop_ids
        assert (row.finish == "length") == (len(row.token_ids) == 40)


def test_rows_do_not_depend_on_their_neighbours():
    model = tiny_model("llama", "float64")
    prompts = tiny_prompts(model, 8)
    together = model.generate(prompts, max_new_tokens=20, top_k_logits=3)
    for prompt, row in zip(prompts, together.rows, strict=True):
        (alone,) = model.generate([prompt], max_new_tokens=20, top_k_logits=3).rows
        assert alone.token_ids == row.token_ids
        np.testing.assert_allclose(alone.logprobs, row.logprobs, atol=1e-6)
        np.testing.assert_allclose(alone.top_logits, row.top_logits, atol=1e-5)
        assert (alone.max_prob, alone.entropy, alone.margin) == pytest.approx((row.max_prob, row.entropy, row.margin))


def test_the_first_distribution_and_the_logit_history():
    model = tiny_model("gpt2")
    prompts = tiny_prompts(model, 3)
    made = model.generate(prompts, max_new_tokens=5, top_k_logits=4)
    for prompt, row in zip(prompts, made.rows, strict=True):
        logits = model.forward([[*prompt, *row.token_ids]], logits="all").logits[0, len(prompt) - 1 : -1]
        p = logits[0].softmax(-1)
        assert row.max_prob == pytest.approx(float(p.max()), rel=1e-4)
        assert row.entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-3, abs=1e-5)
        top = logits.topk(4)
        assert row.margin == pytest.approx(float(top.values[0, 0] - top.values[0, 1]), rel=1e-3, abs=1e-5)
        np.testing.assert_array_equal(row.top_ids, top.indices)
        np.testing.assert_allclose(row.top_logits, top.values, atol=1e-4)
        np.testing.assert_array_equal(row.top_ids[:, 0], row.token_ids)


def test_samples_do_not_depend_on_the_batch_and_differ_by_name():
    model = tiny_model("llama", "float64")
    prompts = [tiny_prompts(model, 2)[0]] * 6
    names = [(f"example-{i}", i % 2, 0) for i in range(6)]
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9}
    together = model.generate(prompts, noise=noise(0, names, model.d_vocab), **options).rows
    for prompt, name, row in zip(prompts, names, together, strict=True):
        (alone,) = model.generate([prompt], noise=noise(0, [name], model.d_vocab), **options).rows
        assert alone.token_ids == row.token_ids
    assert len({tuple(row.token_ids) for row in together}) > 1
    other = model.generate(prompts, noise=noise(1, names, model.d_vocab), **options).rows
    assert [row.token_ids for row in other] != [row.token_ids for row in together]


def test_temperature_zero_rows_stay_greedy_beside_sampled_ones():
    model = tiny_model("llama")
    prompts = tiny_prompts(model, 4)
    drawn = noise(0, [("e", 0, 0)] * 4, model.d_vocab)
    mixed = model.generate(prompts, max_new_tokens=8, temperature=[0.0, 1.5, 0.0, 1.5], noise=drawn).rows
    greedy = model.generate(prompts, max_new_tokens=8).rows
    assert [mixed[i].token_ids for i in (0, 2)] == [greedy[i].token_ids for i in (0, 2)]
    assert [mixed[i].token_ids for i in (1, 3)] != [greedy[i].token_ids for i in (1, 3)]


def test_sampled_tokens_follow_the_model_and_logprobs_are_at_temperature_one():
    """The first token of 4,000 samples against the softmax of logits / temperature: chi-square within its 99.9%."""
    model = tiny_model("llama")
    prompt, temperature, n = tiny_prompts(model, 1)[0], 0.7, 4000
    logits = model.forward([prompt], logits="last").logits[0]
    wanted = (logits / temperature).softmax(-1).numpy()
    scores = (logits / temperature).numpy()
    drawn = [int(np.argmax(scores + gumbel(0, "e", sample, 0, 0, len(scores)))) for sample in range(n)]
    counts = np.bincount(drawn, minlength=len(scores))
    big = wanted * n >= 5
    expected = np.append(wanted[big], wanted[~big].sum()) * n
    found = np.append(counts[big], counts[~big].sum())
    statistic = ((found - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    assert statistic < chi2.ppf(0.999, len(expected) - 1)
    made = model.generate(
        [prompt] * 3, max_new_tokens=1, temperature=temperature, noise=lambda row, _: gumbel(0, "e", row, 0, 0, 320)
    )
    assert [row.token_ids for row in made.rows] == [[t] if t not in model.stop_ids else [] for t in drawn[:3]]
    for row in made.rows:
        if row.token_ids:
            assert row.logprobs[0] == pytest.approx(float(torch.log_softmax(logits, -1)[row.token_ids[0]]), abs=1e-4)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    p = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.25, 0.25, 0.25, 0.25]])
    kept = _nucleus(p.log(), 0.75).isfinite()
    assert kept.tolist() == [[True, False, True, False], [True, True, True, False]]
    assert _nucleus(p.log(), 1e-9).isfinite().sum(-1).tolist() == [1, 1]


def test_gumbel_noise_is_keyed_and_gumbel():
    draw = gumbel(0, "a", 0, 0, 0, 50_001)
    assert draw.shape == (50_001,)
    assert draw.dtype == np.float32
    np.testing.assert_array_equal(draw, gumbel(0, "a", 0, 0, 0, 50_001))
    assert draw.mean() == pytest.approx(0.5772, abs=0.02)
    assert draw.std() == pytest.approx(np.pi / 6**0.5, abs=0.02)
    others = [(1, "a", 0, 0, 0), (0, "b", 0, 0, 0), (0, "a", 1, 0, 0), (0, "a", 0, 1, 0), (0, "a", 0, 0, 1)]
    for name in others:
        assert abs(np.corrcoef(draw, gumbel(*name, 50_001))[0, 1]) < 0.02
    np.testing.assert_array_equal(gumbel(0, "a", 0, 0, 0, 3), draw[:3])
    np.testing.assert_allclose(draw[:3], GOLDEN, rtol=1e-6)


def test_what_cannot_be_decoded_is_a_user_error():
    model = tiny_model("llama")
    for options, said in (
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 2, "temperature": 1.0}, "sampling without noise"),
        ({"max_new_tokens": 2, "temperature": [1.0, 0.0]}, "one for each row"),
        ({"max_new_tokens": 2, "top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 2, "read": ["embed"]}, "both or neither"),
        ({"max_new_tokens": 2, "read": ["embed"], "positions": ["lst"]}, "did you mean 'last'"),
    ):
        with pytest.raises(UserError, match=said):
            model.generate([[3, 4]], **options)


def test_progress_counts_tokens():
    model, seen = tiny_model("gpt2"), []
    made = model.generate(tiny_prompts(model, 3), max_new_tokens=4, progress=seen.append)
    assert sum(seen) >= sum(len(row.token_ids) for row in made.rows) - len(made.rows)


def test_take_gathers_the_tokens_of_all_sites():
    model = tiny_model("gemma3")
    prompts = tiny_prompts(model, 4)
    made = model.generate(prompts, max_new_tokens=6, read=SITES, positions=["all"])
    picks = [(0, 0, 3), (2, 1, made.prompt_lens[2] + 2), (1, made.prompt_lens[1], made.prompt_lens[1] + 1)]
    taken = made.take(picks)
    for site in SITES:
        wanted = torch.stack([made.acts[site].at(row, t) for row, a, b in picks for t in range(a, b)])
        assert torch.equal(taken[site], wanted)
