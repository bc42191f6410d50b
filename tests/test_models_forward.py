"""Captured activations equal Hugging Face's own unpadded forwards, on every family and on SmolLM2."""

from __future__ import annotations

import pytest
import torch

from gnomon.errors import UserError
from gnomon.sites import COMPONENTS
from gnomon.types import Site
from tests.tiny import FAMILIES, PARALLEL, tiny_model, tiny_prompts

TOLERANCE = {"float64": 1e-12, "float32": 3e-5}


def _truth(model, prompt):
    """Activations by hooks of this test's own on Hugging Face's unpadded forward, and its logits."""
    family, found, handles = model.body.family, {}, []

    def keep(site, index=None):
        def hook(module, args, out=None):
            x = args[0] if out is None else out
            found[site] = (x[0] if isinstance(x, tuple) else x)[0]

        return hook

    for layer, block in enumerate(model.body.blocks):
        attention, mlp = block.get_submodule(family.attn), block.get_submodule(family.mlp)
        post = family.ln1_post and block.get_submodule(family.ln1_post)
        last = family.ln2_post and block.get_submodule(family.ln2_post)
        handles += [
            block.register_forward_hook(keep(Site("resid_post", layer))),
            (post or attention).register_forward_hook(keep(Site("attn_out", layer))),
            (last or mlp).register_forward_hook(keep(Site("mlp_out", layer))),
            block.get_submodule(family.o_proj).register_forward_pre_hook(keep(Site("z", layer))),
            block.get_submodule(family.down_proj).register_forward_pre_hook(keep(Site("mlp_post", layer))),
        ]
    with torch.no_grad():
        out = model.hf(torch.tensor([prompt]), output_hidden_states=True, use_cache=False)
    for handle in handles:
        handle.remove()
    for layer in range(model.n_layers):
        found[Site("resid_pre", layer)] = out.hidden_states[layer][0]
    found[Site("embed")] = out.hidden_states[0][0]
    return found, out.logits[0]


def _gap(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_batches_equal_unpadded_forwards(family, dtype):
    model = tiny_model(family, dtype)
    prompts = tiny_prompts(model)
    # Gemma 2 runs eager attention, whose softmax Hugging Face computes in float32 whatever the model's dtype
    tolerance = 1e-5 if family == "gemma2" else TOLERANCE[dtype]
    names = [c for c in COMPONENTS if c not in ("embed", "resid_mid")]
    sites = [Site("embed"), *(Site(c, layer) for layer in range(model.n_layers) for c in names)]
    out = model.forward(prompts, read=sites, logits="all")
    offsets = out.offsets
    for row, prompt in enumerate(prompts):
        truth, logits = _truth(model, prompt)
        assert _gap(out.logits[row, : len(prompt)], logits) < tolerance
        for site in sites:
            assert _gap(out.acts[site][row, : len(prompt)], truth[site]) < tolerance, site
            assert torch.equal(out.values(site)[offsets[row] : offsets[row + 1]], out.acts[site][row, : len(prompt)])


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_add_up_and_resid_mid_lies_between(family):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model)
    parts = ["resid_pre", "attn_out", "mlp_out", "resid_post"] + ["resid_mid"] * (family not in PARALLEL)
    out = model.forward(prompts, read=[f"{part}.{layer}" for layer in range(model.n_layers) for part in parts])
    for layer in range(model.n_layers):
        pre, attention, mlp, post = (out.values(Site(part, layer)) for part in parts[:4])
        assert _gap(pre + attention + mlp, post) < 1e-12
        if family not in PARALLEL:
            assert _gap(pre + attention, out.values(Site("resid_mid", layer))) < 1e-12


def test_smollm2_equals_unpadded_forwards(smollm2):
    texts = ["The capital of Kenya is", "What is 12 + 30? The answer is", "Yes"]
    prompts = [smollm2.tokenize(t) for t in texts]
    sites = [Site(c, layer) for layer in (0, 15, 29) for c in ("resid_post", "attn_out", "mlp_post", "z")]
    out = smollm2.forward(prompts, read=sites, logits="all")
    for row, prompt in enumerate(prompts):
        truth, logits = _truth(smollm2, prompt)
        assert _gap(out.logits[row, : len(prompt)], logits) < 3e-5
        for site in sites:
            assert _gap(out.acts[site][row, : len(prompt)], truth[site]) < 3e-5, site


def test_heads_of_z_are_slices():
    model = tiny_model("qwen3")
    prompts = tiny_prompts(model)
    out = model.forward(prompts, read=["z.1", "z.1.0", "z.1.3"])
    whole = out.acts[Site("z", 1)]
    assert torch.equal(out.acts[Site("z", 1, 3)], whole[..., 3 * model.d_head :])
    assert torch.equal(out.acts[Site("z", 1, 0)], whole[..., : model.d_head])


def test_only_the_blocks_that_are_needed_run():
    model = tiny_model("llama")
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(model.body.blocks)
    ]
    prompts = tiny_prompts(model)
    model.forward(prompts, read=["resid_post.1"])
    assert ran == [0, 1]
    ran.clear()
    model.forward(prompts, read=["embed"])
    assert ran == []
    model.forward(prompts, read=["resid_post.1"], logits="last")
    assert ran == [0, 1, 2, 3]
    ran.clear()
    model.forward(prompts, patterns=[2])
    assert ran == [0, 1, 2]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_start_from_the_middle_gives_the_same(family):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model)
    whole = model.forward(prompts, read=["resid_pre.2", "resid_post.3"], logits="last")
    x = whole.acts[Site("resid_pre", 2)]
    part = model.forward(prompts, read=["resid_post.3"], logits="last", start=(2, x))
    assert torch.equal(part.logits, whole.logits)
    assert torch.equal(part.values("resid_post.3"), whole.values("resid_post.3"))
    again = model.forward(prompts, start=(2, x), stop=3).resid
    assert torch.equal(model.forward(prompts, start=(3, again), logits="last").logits, whole.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_continues_rows_of_different_lengths(family):
    model = tiny_model(family, "float64")
    prompts = [p + p for p in tiny_prompts(model)]
    whole = model.forward(prompts, read=["resid_post.3"]).acts[Site("resid_post", 3)]
    cache = model.new_cache()
    heads = [p[: len(p) // 2] for p in prompts]
    model.forward(heads, cache=cache)
    assert cache.lengths == [len(h) for h in heads]
    tails = [p[len(h) :] for p, h in zip(prompts, heads, strict=True)]
    middle = model.forward([t[:1] for t in tails], read=["resid_post.3"], cache=cache)
    cache.align()
    ends = model.forward([t[1:] or t for t in tails], read=["resid_post.3"], cache=cache)
    for row, head in enumerate(heads):
        assert _gap(middle.acts[Site("resid_post", 3)][row, 0], whole[row, len(head)]) < 1e-6
        rest = whole[row, len(head) + 1 : len(prompts[row])]
        if len(rest):
            assert _gap(ends.acts[Site("resid_post", 3)][row, : len(rest)], rest) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_continues_rows_of_one_length_by_several_tokens(family):
    model = tiny_model(family, "float64")
    rows = [p[:9] for p in (tiny_prompts(model, 5)[0] * 2, tiny_prompts(model, 5)[4])]
    whole = model.forward(rows, read=["resid_post.3"]).acts[Site("resid_post", 3)]
    cache = model.new_cache()
    model.forward([r[:4] for r in rows], cache=cache)
    rest = model.forward([r[4:] for r in rows], read=["resid_post.3"], cache=cache).acts[Site("resid_post", 3)]
    assert _gap(rest, whole[:, 4:]) < 1e-6


@pytest.mark.parametrize("cuts", [(4, 4), (2, 5)])
def test_gradients_flow_through_the_new_tokens_and_leave_the_cache_alone(cuts):
    """d(logits)/d(embed of the new tokens), with the prefix in a cache, equals that of the whole text."""
    model = tiny_model("qwen3", "float64")
    rows = [p[:9] for p in (tiny_prompts(model, 5)[0] * 2, tiny_prompts(model, 5)[4])]
    whole = model.forward(rows, read=["embed"], logits="last", grad=True)
    (wanted,) = torch.autograd.grad(whole.logits[:, 5].sum(), whole.acts[Site("embed")])
    cache = model.new_cache()
    model.forward([r[:cut] for r, cut in zip(rows, cuts, strict=True)], cache=cache)
    kept = [k.clone() for k in cache.keys]
    tails = [r[cut:] for r, cut in zip(rows, cuts, strict=True)]
    out = model.forward(tails, read=["embed"], logits="last", grad=True, cache=cache)
    (found,) = torch.autograd.grad(out.logits[:, 5].sum(), out.acts[Site("embed")])
    for row, cut in enumerate(cuts):
        assert _gap(found[row, : len(tails[row])], wanted[row, cut:]) < 1e-6
    assert all(torch.equal(a, b) for a, b in zip(kept, cache.keys, strict=True))
    assert cache.lengths == list(cuts)


def test_logits_at_positions():
    model = tiny_model("gpt2")
    prompts = tiny_prompts(model, 3)
    every = model.forward(prompts, logits="all").logits
    ends = model.forward(prompts, logits="last").logits
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(ends[row], every[row, len(prompt) - 1])
    some = model.forward(prompts, logits=[0, 2]).logits
    torch.testing.assert_close(some, every[:, [0, 2]])
    ragged = model.forward(prompts, logits=[[0], [1, 2], []]).logits
    assert [len(r) for r in ragged] == [1, 2, 0]
    torch.testing.assert_close(ragged[1], every[1, [1, 2]])
    assert model.forward(prompts).logits is None


def test_directions_of_the_unembedding_raise_logits():
    for family in ("gpt2", "llama", "gemma3"):
        model = tiny_model(family, "float64")
        x = model.forward(tiny_prompts(model, 2), read=["resid_post.3"]).values("resid_post.3")
        norm = model.norm("ln_final")
        direct = (x @ model.unembed_directions([5, 9]).T) * norm.scale(x)
        bias = norm.bias @ model.unembed[:, [5, 9]] if norm.bias is not None else 0.0
        with model.exact():
            assert _gap(direct + bias, model.logits_from(x)[:, [5, 9]]) < 1e-6  # logits_from keeps HF's float32 norm


def test_no_vocabulary_logits_and_no_mask_are_made(monkeypatch):
    model = tiny_model("llama")
    seen = []
    monkeypatch.setattr(model.body, "logits", lambda x: seen.append(x) or x)
    real = model.body._masks
    monkeypatch.setattr(model.body, "_masks", lambda *a: seen.append(real(*a)) or real(*a))
    model.forward(tiny_prompts(model), read=["resid_post.3"])
    assert seen == [[None] * model.n_layers]


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("resid_post.4", "layers are 0 to 3"),
        ("z.0.4", "heads are 0 to 3"),
        ("resid_pst.1", "did you mean 'resid_post.1'"),
        ("resid_mid.0", "parallel"),
    ],
)
def test_a_site_that_does_not_exist_is_named(site, said):
    with pytest.raises(UserError, match=said):
        tiny_model("gpt_neox").forward([[3, 4]], read=[site])


def test_bad_batches_are_user_errors():
    model = tiny_model("gpt2")
    for rows, said in ([[], "no rows"], [[[1], []], "without tokens"], [[[1, 999999]], "outside the model's vocab"]):
        with pytest.raises(UserError, match=said):
            model.forward(rows)
    with pytest.raises(UserError, match="256 positions"):
        model.forward([[3] * 257])
    with pytest.raises(UserError, match="none, last, all"):
        model.forward([[3]], logits="first")
    with pytest.raises(UserError, match="start at block 2"):
        model.forward([[3]], start=(2, torch.zeros(1, 2, 32)))


def test_site_shapes():
    model = tiny_model("mistral")
    assert {s: model.site_shape(s) for s in ("embed", "resid_mid.0", "mlp_post.1", "z.2", "z.2.1")} == {
        "embed": 32, "resid_mid.0": 32, "mlp_post.1": 48, "z.2": 48, "z.2.1": 12,
    }  # fmt: skip


def test_norms_of_a_family_that_lacks_them_are_refused():
    model = tiny_model("llama")
    with pytest.raises(UserError, match="ln1_post"):
        model.norm("ln1_post", 0)
    with pytest.raises(UserError, match="unknown weight"):
        model.norm("ln9", 0)
