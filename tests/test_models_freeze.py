"""Gradients, patterns, norm scales, what freezing holds constant, and identities in float64."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from gnomon.errors import UserError
from gnomon.models.freeze import Norm
from gnomon.models.model import Model
from gnomon.types import Site
from tests.tiny import FAMILIES, tiny_model, tiny_prompts

ROPED = tuple(f for f in FAMILIES if f != "gpt2")


def _gap(a, b):
    return float((a - b).abs().max() / b.abs().max())


def _heads(model, x, letter, layer):
    """ln1(x) times a canonical weight, plus bias: `[tokens, heads, d_head]`."""
    normed = model.norm("ln1", layer).apply(x)
    return torch.einsum("td,hde->the", normed, model.weights(f"W_{letter}", layer)) + model.weights(
        f"b_{letter}", layer
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_canonical_weights_rebuild_attention_and_mlp(family):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model, 3)
    with model.exact():
        for layer in (0, 3):
            mid = "resid_pre" if model.parallel else "resid_mid"
            read = [Site(c, layer) for c in ("resid_pre", mid, "z", "attn_out", "mlp_post", "mlp_out")]
            out = model.forward(prompts, read=read, patterns=[layer], pattern_at="all")
            for row, prompt in enumerate(prompts):
                pre, mid, z, attention, post, mlp = (out.acts[s][row, : len(prompt)] for s in read)
                values = _heads(model, pre, "V", layer)
                group = model.n_heads // model.n_kv_heads
                values = values.repeat_interleave(group, dim=1)
                rows = out.patterns[layer][row, :, : len(prompt), : len(prompt)]
                assert _gap(torch.einsum("hqk,khd->qhd", rows, values).flatten(1), z) < 1e-12
                projected = torch.einsum(
                    "the,hed->td", z.unflatten(1, (model.n_heads, -1)), model.weights("W_O", layer)
                )
                projected = projected + model.weights("b_O", layer)
                if model.body.family.ln1_post:
                    projected = model.norm("ln1_post", layer).apply(projected)
                assert _gap(projected, attention) < 1e-12
                x = model.norm("ln2", layer).apply(mid)
                hidden = x @ model.weights("W_in", layer) + model.weights("b_in", layer)
                act = model.body.part(layer, "activation")
                if model.body.family.gated:
                    hidden = act(x @ model.weights("W_gate", layer) + model.weights("b_gate", layer)) * hidden
                else:
                    hidden = act(hidden)
                assert _gap(hidden, post) < 1e-12
                written = post @ model.weights("W_out", layer) + model.weights("b_out", layer)
                if model.body.family.ln2_post:
                    written = model.norm("ln2_post", layer).apply(written)
                assert _gap(written, mlp) < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_are_the_softmax_of_canonical_queries_and_keys(family):
    model = tiny_model(family, "float64")
    prompt = tiny_prompts(model, 5)[4]
    layer, body = 1, model.body
    with model.exact():
        out = model.forward([prompt], read=[Site("resid_pre", layer)], patterns=[layer], pattern_at="all")
        x = out.acts[Site("resid_pre", layer)][0]
        q, k = (_heads(model, x, letter, layer).transpose(0, 1) for letter in "QK")
        attention = body.blocks[layer].get_submodule(body.family.attn)
        if body.family.head_norms:
            q, k = body.facts(attention.q_norm).apply(q), body.facts(attention.k_norm).apply(k)
    if family in ROPED:
        angles = body._rotary(x[None], torch.arange(len(prompt))[None])[layer]
        q, k = sys.modules[type(attention).__module__].apply_rotary_pos_emb(q[None], k[None], *angles)
        q, k = q[0], k[0]
    scores = q @ k.repeat_interleave(model.n_heads // model.n_kv_heads, 0).mT * attention.scaling
    cap = 5.0 if family == "gemma2" else None
    scores = torch.tanh(scores / cap) * cap if cap else scores
    place = torch.arange(len(prompt))
    allowed = place[None] <= place[:, None]
    if body.windows[layer] is not None:
        allowed &= place[None] > place[:, None] - body.windows[layer]
    wanted = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    assert _gap(out.patterns[layer][0], wanted) < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_sum_to_one_and_are_exactly_zero_on_the_future_and_on_padding(family):
    model = tiny_model(family)
    prompts = tiny_prompts(model)
    out = model.forward(prompts, patterns=[0, 3], pattern_at="all")
    last = model.forward(prompts, patterns=[0, 3])
    first = model.forward(prompts, patterns=[0], pattern_at=[0] * len(prompts)).patterns[0]
    for layer in (0, 3):
        every, ends = out.patterns[layer], last.patterns[layer]
        assert every.dtype == torch.float32
        assert ends.shape[2] == 1
        for row, prompt in enumerate(prompts):
            n = len(prompt)
            rows = every[row, :, :n]
            torch.testing.assert_close(rows.sum(-1), torch.ones(model.n_heads, n))
            assert (rows.triu(1) == 0).all()
            assert (rows[..., n:] == 0).all()
            torch.testing.assert_close(ends[row, :, 0], rows[:, n - 1])
    assert (first[..., 0] == 1).all()


def test_reading_patterns_does_not_change_the_forward():
    for family in ("llama", "gpt_neox", "gemma3"):
        model = tiny_model(family)
        prompts = tiny_prompts(model)
        plain = model.forward(prompts, logits="last").logits
        assert torch.equal(model.forward(prompts, patterns=[1], norm_scales=["ln1.2"], logits="last").logits, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_scales_are_those_of_the_inputs(family):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model, 3)
    names = [n for n in ("ln1", "ln2", "ln1_post", "ln2_post") if getattr(model.body.family, n)]
    out = model.forward(
        prompts, read=["resid_pre.2", "resid_post.3"], norm_scales=[*(f"{n}.2" for n in names), "ln_final"]
    )
    assert set(out.norm_scales) == {*(f"{n}.2" for n in names), "ln_final"}
    for name, site in (("ln1.2", "resid_pre.2"), ("ln_final", "resid_post.3")):
        x = out.acts[Site.parse(site)]
        if model.body.family.norm == "layernorm":
            wanted = 1 / (x.var(-1, unbiased=False) + model.norm("ln1", 2).eps).sqrt()
        else:
            wanted = 1 / (x.pow(2).mean(-1) + model.norm("ln1", 2).eps).sqrt()
        torch.testing.assert_close(out.norm_scales[name], wanted)
    only = model.forward(prompts, norm_scales=["ln_final"]).norm_scales["ln_final"]
    torch.testing.assert_close(only, out.norm_scales["ln_final"])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_model(family):
    """d(logits . u) / d(resid_pre.2) by our graph and by central differences through a start in the middle."""
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model, 2)
    with model.exact():
        out = model.forward(prompts, read=["resid_pre.2"], logits="last", grad=True)
        x, u = out.acts[Site("resid_pre", 2)], torch.cos(torch.arange(model.d_vocab, dtype=torch.float64))
        (gradient,) = torch.autograd.grad((out.logits @ u).sum(), x)
        step = torch.zeros_like(x)
        step[:, 0] = torch.sin(torch.arange(model.d_model, dtype=torch.float64)) * 1e-5
        ends = [model.forward(prompts, start=(2, x.detach() + s * step), logits="last").logits for s in (1, -1)]
    assert (((ends[0] - ends[1]) @ u).sum() / 2).item() == pytest.approx((gradient * step).sum().item(), rel=1e-6)


def test_a_graph_begins_at_the_first_read_block_and_weights_need_none():
    model = tiny_model("llama")
    out = model.forward(tiny_prompts(model, 2), read=["resid_post.2", "z.3"], logits="last", grad=True)
    grads = torch.autograd.grad(out.logits.sum(), [out.acts[Site("resid_post", 2)], out.acts[Site("z", 3)]])
    assert all(g.abs().sum() > 0 for g in grads)
    assert not any(p.requires_grad for p in model.hf.parameters())
    assert not model.forward(tiny_prompts(model, 2), read=["z.3"]).acts[Site("z", 3)].requires_grad
    with pytest.raises(UserError, match="slice its gradient"):
        model.forward([[3]], read=["z.1.0"], grad=True)


def test_every_site_is_in_the_graph():
    for family in ("gpt2", "gemma3"):
        model = tiny_model(family)
        sites = [Site("embed")] + [
            Site(c, 1) for c in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z")
        ]
        out = model.forward([[3, 4, 5]], read=sites, logits="last", grad=True)
        for gradient in torch.autograd.grad(out.logits.sum(), [out.acts[s] for s in sites]):
            assert float(gradient.abs().sum()) > 0


ALL = ("pattern", "norm_scale", "gate")


def _affine(model, prompt, freeze):
    """out, x and J x for the map embedding -> u . final norm of the last token, with `freeze` held constant."""
    with model.exact():
        out = model.forward([prompt], read=["embed"], grad=True, freeze=freeze, stop=model.n_layers)
        x = out.acts[Site("embed")]
        u = torch.cos(torch.arange(model.d_model, dtype=torch.float64))
        norm, last = model.norm("ln_final"), out.resid[0, -1]
        y = norm.apply(last, frozen="norm_scale" in freeze) @ u
        (gradient,) = torch.autograd.grad(y, x)
    return y.item(), (gradient * x).sum().item()


def _without_biases(model):
    hf = copy.deepcopy(model.hf)
    for name, weight in hf.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
    return Model(hf, model.tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_model_without_biases_is_linear_in_its_embedding(family):
    """Euler's identity y = J x holds to 1e-12 with everything frozen, and fails when any one thing is not."""
    model = _without_biases(tiny_model(family, "float64"))
    prompt = tiny_prompts(model, 5)[4]
    y, jx = _affine(model, prompt, ALL)
    assert jx == pytest.approx(y, rel=1e-12, abs=1e-12)
    for missing in ALL:
        y, jx = _affine(model, prompt, tuple(f for f in ALL if f != missing))
        # with normed queries and keys a pattern hardly sees the scale of x: only through eps
        assert abs(jx - y) > 1e-8 * abs(y), missing


def test_an_unknown_freeze_is_named():
    with pytest.raises(UserError, match="did you mean 'pattern'"):
        tiny_model("llama").forward([[3]], grad=True, freeze=("patterns",))


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_norms_keep_float64(kind):
    x = torch.randn(5, 8, dtype=torch.float64)
    gain, bias = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    norm = Norm(kind, 1e-5, gain, bias if kind == "layernorm" else None)
    if kind == "layernorm":
        wanted = torch.nn.functional.layer_norm(x, (8,), gain, bias, 1e-5)
    else:
        wanted = torch.nn.functional.rms_norm(x, (8,), gain, 1e-5)
    torch.testing.assert_close(norm.apply(x), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("family", FAMILIES)
def test_norm_facts_are_those_of_the_modules(family):
    """Kind, eps, gain (Gemma's 1 + w) and bias, against the modules' own forwards, which compute in float32."""
    model = tiny_model(family, "float64")
    norms = [*model.body.stream_norms(), *model.body.head_norms()]
    assert len(norms) == {"gemma2": 17, "gemma3": 25, "qwen3": 17}.get(family, 9)
    for module, norm in norms:
        x = 0.01 * torch.randn(6, len(norm.gain), dtype=torch.float64)  # small: eps matters
        torch.testing.assert_close(norm.apply(x), module(x), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_heads_neurons_and_biases_through_the_final_norm_are_the_logits(family):
    """Identity 1 of the second-order lens, to 1e-12: every additive piece, by canonical weights."""
    model = tiny_model(family, "float64")
    prompt = tiny_prompts(model, 5)[4]
    layers = range(model.n_layers)
    with model.exact():
        read = [Site("embed"), *(Site(c, layer) for layer in layers for c in ("z", "mlp_post"))]
        scales = [f"{n}.{layer}" for n in ("ln1_post", "ln2_post") if getattr(model.body.family, n) for layer in layers]
        out = model.forward([prompt], read=read, logits="last", norm_scales=scales)
        total = out.acts[Site("embed")][0, -1].clone()
        for layer in layers:
            z = out.acts[Site("z", layer)][0, -1].unflatten(0, (model.n_heads, -1))
            heads = torch.einsum("he,hed->hd", z, model.weights("W_O", layer))
            neurons = out.acts[Site("mlp_post", layer)][0, -1][:, None] * model.weights("W_out", layer)
            for post, pieces, bias in (("ln1_post", heads, "b_O"), ("ln2_post", neurons, "b_out")):
                pieces = torch.cat([pieces, model.weights(bias, layer)[None]])
                if getattr(model.body.family, post):
                    pieces = pieces * out.norm_scales[f"{post}.{layer}"][0, -1] * model.norm(post, layer).gain
                total += pieces.sum(0)
        assert _gap(model.logits_from(total), out.logits[0]) < 1e-12
