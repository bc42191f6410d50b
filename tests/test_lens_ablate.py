"""Single-neuron ablations against hooks of our own; gradient x activation against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.interventions.neurons import Neurons
from gnomon.lens.ablate import paired_effects, single_neuron_effects
from gnomon.lens.gradient import gradient_times_activation
from gnomon.lens.readout import Readout, margin, projection, target_logit, target_logprob
from gnomon.methods.agreement import agreement
from gnomon.types import Site
from tests.tiny import FAMILIES, tiny_model, tiny_prompts


def by_hand(model, tokens, layer, neuron, readout: Readout, which: int, last_k: int | None = None) -> torch.Tensor:
    """The readout of one text with one input of the down projection at zero, by a hook on the Hugging Face module."""

    def hook(module, args):
        x = args[0].clone()
        x[:, 0 if last_k is None else max(0, x.shape[1] - last_k) :, neuron] = 0
        return (x, *args[1:])

    last: list[torch.Tensor] = []
    block = model.body.blocks[readout.end]
    reader = block.register_forward_hook(
        lambda module, args, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    handle = model.body.part(layer, "down_proj").register_forward_pre_hook(hook) if neuron is not None else None
    try:
        with torch.no_grad():
            model.hf(torch.tensor([tokens]))
            return readout(last[0][:, -1], torch.tensor([which]))[0]
    finally:
        reader.remove()
        if handle is not None:
            handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_ablations_equal_those_of_a_hook(family):
    model = tiny_model(family, "float64")
    texts, rng = tiny_prompts(model, 4), np.random.default_rng(0)
    texts.append(texts[0] + texts[1])
    targets = rng.integers(3, 300, len(texts)).tolist()
    direction = rng.normal(size=(len(texts), model.d_model))
    cases = [
        (0, target_logprob(model, targets), None), (2, projection(model, direction), None),
        (1, projection(model, direction[0], end=2), 3), (3, target_logit(model, targets), None),
    ]  # fmt: skip
    with torch.no_grad():
        for layer, readout, last_k in cases:
            neurons = rng.choice(model.d_mlp, 3, replace=False).tolist()
            found = single_neuron_effects(model, texts, layer, neurons, readout, last_k=last_k, batch_tokens=40)
            assert found.shape == (len(texts), 3, 1)
            for t, text in enumerate(texts):
                base = by_hand(model, text, layer, None, readout, t)
                hand = [float(by_hand(model, text, layer, n, readout, t, last_k) - base) for n in neurons]
                # Hugging Face's norms and softmax round to float32 inside a float64 model
                np.testing.assert_allclose(found[t, :, 0], hand, rtol=1e-4, atol=2e-5 * (1 + abs(float(base))))
                assert np.abs(hand).max() > 1e-4


def test_chosen_pairs_are_those_of_the_grid():
    model = tiny_model("gemma2")
    texts = tiny_prompts(model, 5)
    readout = projection(model, np.arange(1.0, model.d_model + 1))
    every = single_neuron_effects(model, texts, 1, [4, 40, 7], readout)
    pairs = [(3, 7), (0, 4), (4, 40), (0, 7)]
    seen: list[int] = []
    some = paired_effects(model, texts, 1, pairs, readout, batch_tokens=10, progress=seen.append)
    want = [every[3, 2], every[0, 0], every[4, 1], every[0, 2]]
    np.testing.assert_allclose(some, want, atol=1e-4 * np.abs(every).max())
    assert sum(seen) == len(pairs)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3", "gemma2", "gemma3"])
def test_gradient_times_activation_is_the_derivative_of_scaling_a_neuron(family):
    """d/ds readout(act_n * s) at s = 1, by a central difference, at all tokens and at the last two."""
    model = tiny_model(family, "float64")
    texts, h = tiny_prompts(model, 4), 2.0**-9
    targets = [5, 17, 40, 99]
    last = Site("resid_post", model.n_layers - 1)
    with model.exact():
        readout = target_logprob(model, targets)
        whole = gradient_times_activation(model, texts, [0, 2], readout, batch_size=3)
        tail = gradient_times_activation(model, texts, [0, 2], readout, last_k=2)
        for layer in (0, 2):
            assert whole[layer].shape == (4, model.d_mlp)
            for t, text in enumerate(texts):
                for neuron in (1, 30):
                    for found, where in ((whole, "all"), (tail, tuple(range(max(0, len(text) - 2), len(text))))):
                        ends = [
                            model.forward(
                                [text], read=[last],
                                edit=[Neurons(Site("mlp_post", layer), [neuron], factor=1 + s, where=where)],
                            ).acts[last][:, -1]
                            for s in (h, -h)
                        ]  # fmt: skip
                        up, down = (float(readout(x, torch.tensor([t]))) for x in ends)
                        assert found[layer][t, neuron] == pytest.approx((up - down) / (2 * h), rel=2e-3, abs=1e-5)


def test_layers_after_the_readout_have_no_gradient():
    model = tiny_model("llama")
    found = gradient_times_activation(model, tiny_prompts(model, 2), [0, 3], projection(model, np.ones(32), end=1))
    assert np.abs(found[0]).max() > 0
    assert not found[3].any()


def test_margin_is_the_target_over_its_strongest_competitor():
    model = tiny_model("gemma2")
    out = model.forward(tiny_prompts(model, 3), read=["resid_post.3"], logits="last")
    ends = out.acts[Site("resid_post", 3)][torch.arange(3), torch.tensor(out.lengths) - 1]
    best = out.logits.argmax(-1).tolist()
    targets = [best[0], (best[1] + 1) % 300, best[2]]
    found = margin(model, targets)(ends, torch.arange(3))[:, 0].tolist()
    for i in range(3):
        others = torch.cat([out.logits[i, : targets[i]], out.logits[i, targets[i] + 1 :]])
        assert found[i] == pytest.approx(float(out.logits[i, targets[i]] - others.max()), abs=1e-4)


def test_mistakes_are_named():
    model = tiny_model("llama")
    texts, readout = tiny_prompts(model, 2), projection(model, np.ones(model.d_model))
    with pytest.raises(UserError, match="layer 4"):
        single_neuron_effects(model, texts, 4, [0], readout)
    with pytest.raises(UserError, match="48"):
        single_neuron_effects(model, texts, 0, [48], readout)
    with pytest.raises(UserError, match="layers are 0 to 3"):
        gradient_times_activation(model, texts, [7], readout)
    with pytest.raises(UserError, match="d_model of"):
        projection(model, np.ones(33))
    with pytest.raises(UserError, match="read after layer 1"):
        single_neuron_effects(model, texts, 2, [0], projection(model, np.ones(32), end=1))
    with pytest.raises(UserError, match="outside the vocabulary"):
        target_logprob(model, [0, model.d_vocab])
    with pytest.raises(UserError, match="outside the vocabulary"):
        margin(model, [-1])
    two = Readout("two", 3, lambda resid, which: resid[:, :2])
    assert single_neuron_effects(model, texts, 0, [1], two).shape == (2, 1, 2)
    with pytest.raises(UserError, match="one number a text"):
        gradient_times_activation(model, texts, [0], two)


def test_smollm2_gradient_says_what_ablation_does(smollm2):
    """Products of 1-2 digit numbers, layers early, middle and late; neurons at random and the largest by rank."""
    rng = np.random.default_rng(7)
    numbers = rng.integers(2, 100, (6, 2))
    texts = [smollm2.tokenize(f"What is {a} * {b}? Answer: ") for a, b in numbers]
    targets = [smollm2.encode_text(str(a * b))[0] for a, b in numbers]
    readout = target_logprob(smollm2, targets)
    layers = [3, 15, 26]
    score = gradient_times_activation(smollm2, texts, layers, readout)
    for layer in layers:
        top = np.argsort(-np.abs(score[layer]).mean(0))[:16]
        rest = rng.choice(np.setdiff1d(np.arange(smollm2.d_mlp), top), 16, replace=False)
        both = np.concatenate([top, rest])
        real = single_neuron_effects(smollm2, texts, layer, both.tolist(), readout)[..., 0]
        for part, kind in ((slice(0, 16), "rank"), (slice(16, 32), "random")):
            s, y = score[layer][:, both[part]], real[:, part]
            found = agreement(s.ravel(), y.ravel(), np.repeat(np.arange(len(texts)), 16), draws=0)
            assert found["pearson"][0] >= 0.95, (layer, kind, found)
            assert found["spearman"][0] >= 0.9, (layer, kind, found)
            assert 0.9 <= found["slope"][0] <= 1.1, (layer, kind, found)
