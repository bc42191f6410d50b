"""The second-order lens: identities 1-6 in float64 on every family, factors against definitions, faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from gnomon.errors import UserError
from gnomon.lens.ablate import check_neurons
from gnomon.lens.lens import Lens
from gnomon.methods import second_order as so
from gnomon.types import Site
from tests.tiny import FAMILIES, tiny_model, tiny_prompts

TIGHT = 1e-12


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """max |a - b| / max |b|."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def prompts(model: Any) -> list[list[int]]:
    return [p for p in tiny_prompts(model, 6) if len(p) > 1]


def everything(model: Any) -> tuple[Lens, so.Factors, Any]:
    """The lens, factors of all layers, and every attention head's z and block input of the same texts."""
    lens, layers = Lens(model), list(range(model.n_layers))
    sites = ["embed", *(f"z.{a}" for a in layers), *(f"attn_out.{a}" for a in layers)]
    factors = lens.capture(prompts(model), layers, read=sites)
    return lens, factors, layers


def all_rows(model: Any, lens: Lens) -> dict[int, torch.Tensor]:
    """Rows of every layer, the first one's too: attention of layer 0 carries the embedding."""
    out = model.forward(
        prompts(model), patterns=range(model.n_layers),
        norm_scales=[f"ln1.{a}" for a in range(model.n_layers)] + ["ln_final"]
        + [f"ln1_post.{a}" for a in range(model.n_layers) if lens.attention_post],
    )  # fmt: skip
    where, ends = torch.arange(len(out.lengths)), torch.tensor(out.lengths) - 1
    scale = out.norm_scales["ln_final"][where, ends]
    rows = {}
    for a in range(model.n_layers):
        factor = scale * out.norm_scales[f"ln1_post.{a}"][where, ends] if lens.attention_post else scale
        rows[a] = out.patterns[a][:, :, 0] * out.norm_scales[f"ln1.{a}"][:, None] * factor[:, None, None]
    return rows


def ends_of(x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return x[torch.arange(len(lengths)), torch.tensor(lengths) - 1]


def post_scale(model: Any, lens: Lens, name: str) -> torch.Tensor:
    out = model.forward(prompts(model), norm_scales=[name])
    return ends_of(out.norm_scales[name], out.lengths)


def first_order_parts(model: Any, lens: Lens, factors: so.Factors) -> torch.Tensor:
    """Identity 1's left side: every head, neuron, bias and the embedding, through the final norm: `[B, d]`."""
    circuit, total = lens.circuit, ends_of(factors.extra["embed"], factors.lengths)
    for a in range(model.n_layers):
        z = ends_of(factors.extra[f"z.{a}"], factors.lengths).reshape(-1, model.n_heads, model.d_head)
        heads = torch.einsum("bhe,hed->bhd", z, model.weights("W_O", a)).sum(1) + model.weights("b_O", a)
        if lens.attention_post:
            heads = circuit.attention[a].post.push(heads) * post_scale(model, lens, f"ln1_post.{a}")[:, None]
        neurons = ends_of(factors.acts[a], factors.lengths) @ circuit.write(a)
        bias = model.weights("b_out", a)
        if lens.mlp_post:
            bias = circuit.mlp_post[a].push(bias) * post_scale(model, lens, f"ln2_post.{a}")[:, None]
        total = total + heads + neurons + bias
    return circuit.to_end(total) * factors.final_scale[:, None]


def final_bias(model: Any) -> torch.Tensor:
    return model.weights("ln_final.b")


def logits_of(model: Any, y: torch.Tensor) -> torch.Tensor:
    out = (y + final_bias(model)) @ model.unembed + model.weights("b_U")
    cap = model.body.softcap
    return out if cap is None else torch.tanh(out / cap) * cap


def identity_1(model: Any) -> float:
    lens, factors, _ = everything(model)
    want = model.forward(prompts(model), logits="last").logits
    return apart(logits_of(model, first_order_parts(model, lens, factors)), want)


def sources(model: Any, lens: Lens, factors: so.Factors, until: int) -> torch.Tensor:
    """All that is written to the stream before block `until`, summed from its parts: `[B, T, d]`."""
    x = factors.extra["embed"]
    for a in range(until):
        mlp = factors.acts[a] @ lens.circuit.write(a)
        bias = model.weights("b_out", a)
        if lens.mlp_post:
            name = f"ln2_post.{a}"
            scale = model.forward(prompts(model), norm_scales=[name]).norm_scales[name][..., None]
            bias = lens.circuit.mlp_post[a].push(bias) * scale
        x = x + factors.extra[f"attn_out.{a}"] + mlp + bias
    return x


def identity_2(model: Any) -> float:
    """All second-order sources, with the constants of values and norms, make the direct effect of all attention."""
    lens, factors, layers = everything(model)
    circuit, rows = lens.circuit, all_rows(model, lens)
    found = torch.zeros_like(factors.output)
    for a in layers:
        part = circuit.attention[a]
        x = sources(model, lens, factors, a)
        found = found + so._by_head(part, rows[a] @ x)
        weight = factors.final_scale
        if lens.attention_post:
            weight = weight * post_scale(model, lens, f"ln1_post.{a}")
        group = model.n_heads // model.n_kv_heads
        value = (model.weights("ln1.b", a) @ model.weights("W_V", a) + model.weights("b_V", a)).repeat_interleave(
            group, 0
        )
        constant = torch.einsum("he,hed->d", value, model.weights("W_O", a)) + model.weights("b_O", a)
        constant = part.post.push(constant) if part.post is not None else constant
        found = found + constant * weight[:, None]
    want = sum(ends_of(factors.extra[f"attn_out.{a}"], factors.lengths) for a in layers)
    return apart(circuit.to_end(found), circuit.to_end(want) * factors.final_scale[:, None])


def identity_3(model: Any) -> float:
    """All-order effects of the embedding and of every bias are the output itself; VJP = push = autograd.

    Biases: of each module through everything above it. In a model whose gates, patterns and scales are frozen the
    output is linear in (embedding, biases); here it is summed by one gradient with respect to each of them.
    """
    lens, factors, _ = everything(model)
    texts = prompts(model)
    u = torch.randn(model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = model.forward(
        texts, read=["embed", *(f"resid_post.{a}" for a in range(model.n_layers))], grad=True,
        freeze=("pattern", "norm_scale", "gate"), norm_scales=["ln_final"],
    )  # fmt: skip
    last = ends_of(out.acts[Site.parse(f"resid_post.{model.n_layers - 1}")], out.lengths)
    scale = ends_of(out.norm_scales["ln_final"], out.lengths).detach()[:, None]
    y = (lens.circuit.to_end(last) * scale) @ u
    embed = out.acts[Site.parse("embed")]
    (grad,) = torch.autograd.grad(y.sum(), [embed])
    at = torch.arange(grad.shape[1])[None, :, None] < torch.tensor(out.lengths)[:, None, None]
    linear = (torch.where(at, grad * embed.detach(), 0.0)).sum((1, 2))
    # biases: what is left when the stream is empty: the same frozen network, linear, run at a scaled embedding
    pushed = frozen_push(model, lens, factors, texts, u)
    return max(apart(linear + pushed["constants"], y.detach()), apart(pushed["embed"], linear))


def frozen_push(model: Any, lens: Lens, factors: so.Factors, texts: Any, u: torch.Tensor) -> dict[str, torch.Tensor]:
    """The forward push: the frozen linear network run by hand on the embedding alone, and on the constants alone."""
    circuit, n = lens.circuit, model.n_layers
    names = [f"{k}.{a}" for a in range(n) for k in ("ln1", "ln2")]
    names += [f"ln1_post.{a}" for a in range(n) if lens.attention_post]
    names += [f"ln2_post.{a}" for a in range(n) if lens.mlp_post]
    sites = [f"mlp_post.{a}" for a in range(n)]
    out = model.forward(
        texts, read=[*sites, *(f"resid_mid.{a}" for a in range(n) if not model.parallel),
                     *(f"resid_pre.{a}" for a in range(n))],
        patterns=range(n), pattern_at="all", norm_scales=[*names, "ln_final"],
    )  # fmt: skip
    s = {k: v[..., None] for k, v in out.norm_scales.items()}
    group = model.n_heads // model.n_kv_heads
    result = {}
    for which in ("embed", "constants"):
        on = 1.0 if which == "constants" else 0.0
        x = factors.extra["embed"] * (1.0 - on)
        for a in range(n):
            part = circuit.attention[a]
            normed = part.norm.push(x) * s[f"ln1.{a}"] + on * model.weights("ln1.b", a)
            value = torch.einsum("btd,kde->btke", normed, model.weights("W_V", a)) + on * model.weights("b_V", a)
            value = value.repeat_interleave(group, 2)
            mixed = torch.einsum("bhqt,bthe->bqhe", out.patterns[a], value)
            attn = torch.einsum("bqhe,hed->bqd", mixed, model.weights("W_O", a)) + on * model.weights("b_O", a)
            if part.post is not None:
                attn = part.post.push(attn) * s[f"ln1_post.{a}"]
            norm = so.NormMap(model.norm("ln2", a).gain, model.norm("ln2", a).kind == "layernorm")
            mid = x if model.parallel else x + attn
            true_mid = out.acts[Site.parse(f"resid_pre.{a}" if model.parallel else f"resid_mid.{a}")]
            h = norm.push(mid) * s[f"ln2.{a}"] + on * model.weights("ln2.b", a)
            true_h = norm.push(true_mid) * s[f"ln2.{a}"] + model.weights("ln2.b", a)
            up = h @ model.weights("W_in", a) + on * model.weights("b_in", a)
            true_up = true_h @ model.weights("W_in", a) + model.weights("b_in", a)
            gate = out.acts[Site.parse(f"mlp_post.{a}")] / true_up  # the secant gate, or act(gate(x)) of a gated MLP
            mlp = (up * gate) @ model.weights("W_out", a) + on * model.weights("b_out", a)
            if lens.mlp_post:
                mlp = circuit.mlp_post[a].push(mlp) * s[f"ln2_post.{a}"]
            x = x + attn + mlp
        y = circuit.to_end(ends_of(x, out.lengths)) * ends_of(s["ln_final"], out.lengths)
        result[which] = y @ u
    return result


IDENTITIES: dict[str, Callable[[Any], float]] = {"1": identity_1, "2": identity_2, "3": identity_3}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("identity", IDENTITIES)
def test_identities(family: str, identity: str):
    model = tiny_model(family, "float64")
    with model.exact():
        assert IDENTITIES[identity](model) <= TIGHT


def test_identities_on_smollm2():
    from gnomon import load_model

    model = load_model("smollm2-135m", dtype="float64", device="cpu", check=False)
    with model.exact():
        for identity, proof in IDENTITIES.items():
            assert proof(model) <= TIGHT, identity
        lens = Lens(model)
        factors = lens.capture(prompts(model), [3, 15, 28])
        u = torch.randn(1, model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for layer in (3, 15, 28):
            some = torch.tensor([0, 700, 1535])
            phi = so.materialised(lens.circuit, factors, layer, some)
            found = so.scores(lens.circuit, factors, layer, so.pulled(lens.circuit, u, layer), some)
            assert apart(found, torch.einsum("bnd,kd->kbn", phi, u)) <= TIGHT


def test_a_wrong_secant_gate_fails_identity_3(monkeypatch: Any):
    """The tangent of GELU at z instead of gelu(z) / z: no longer a linear network with the model's output."""
    from gnomon.models import freeze

    model = tiny_model("gpt2", "float64")

    def tangent(gated: bool) -> Any:
        def hook(module: Any, args: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
            return out

        return hook

    monkeypatch.setattr(freeze, "gate_frozen", tangent)
    with model.exact():
        assert identity_3(model) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_factored_is_materialised(family: str):
    """Identity 4 and the mean of 5: coefficients times basis, scores, tokens, sums - all against the definition."""
    model = tiny_model(family, "float64")
    u = torch.randn(3, model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with model.exact():
        lens, factors, layers = everything(model)
        circuit = lens.circuit
        for layer in layers[:-1]:
            phi = so.materialised(circuit, factors, layer)
            coef, base = so.coefs(circuit, factors, layer), so.basis(circuit, layer)
            assert apart(so.effects(coef, base), phi) <= TIGHT
            m = so.pulled(circuit, u, layer)
            assert apart(so.scores(circuit, factors, layer, m), torch.einsum("bnd,kd->kbn", phi, u)) <= TIGHT
            beta = so.betas(circuit, layer, m)
            assert apart(so.scores(circuit, factors, layer, m, beta=beta), torch.einsum("bnd,kd->kbn", phi, u)) <= TIGHT
            own = torch.arange(len(phi)) % 3
            mine = so.per_token_own(circuit, factors, layer, m[:, own].transpose(0, 1)).sum(1)
            assert apart(mine, torch.einsum("bnd,bd->bn", phi, u[own])) <= TIGHT
            some = torch.tensor([3, 0, 11])
            assert (
                apart(so.scores(circuit, factors, layer, m, some), torch.einsum("bnd,kd->kbn", phi[:, some], u))
                <= TIGHT
            )
            assert apart(torch.einsum("nr,nrd->nd", coef.mean(0), base), phi.mean(0)) <= TIGHT
            assert apart(so.masses(circuit, [factors], layer, chunk=7), phi.norm(dim=-1).sum(1)) <= TIGHT
            whole = so.carried(circuit, factors, factors.acts[layer] @ circuit.write(layer), layer)
            assert apart(whole, phi.sum(1)) <= TIGHT
        last = layers[-1]
        assert so.scores(circuit, factors, last, so.pulled(circuit, u, last)).abs().max() == 0
        assert so.effects(so.coefs(circuit, factors, last), so.basis(circuit, last)).abs().max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_a_vector_jacobian_product(family: str):
    """score_n = act_n . d(y . u) / d act_n along paths through attention alone: all-order effects of the layer before
    the last are exactly direct + second-order + through the last MLP; of the last layer, direct alone."""
    model = tiny_model(family, "float64")
    u = torch.randn(2, model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with model.exact():
        lens, texts = Lens(model), prompts(model)
        last, before = model.n_layers - 1, model.n_layers - 2
        factors = lens.capture(texts, [before, last])
        total = lens.total(texts, [before, last], u)
        assert apart(total[last], so.direct(lens.circuit, factors, last, u)) <= TIGHT
        end = Lens(model, end=before + 0)  # read before the last block: nothing but the direct path is left
        assert apart(end.total(texts, [before], u)[before],
                     so.direct(end.circuit, end.capture(texts, [before]), before, u)) <= TIGHT  # fmt: skip
        if model.parallel:  # the last MLP of a parallel block reads the stream before its attention
            return
        vjp = attention_only(model, lens, texts, before, u)
        second = so.scores(lens.circuit, factors, before, so.pulled(lens.circuit, u, before))
        assert apart(vjp, second + so.direct(lens.circuit, factors, before, u)) <= TIGHT


def attention_only(model: Any, lens: Lens, texts: Any, layer: int, u: torch.Tensor) -> torch.Tensor:
    """act * d(y . u)/d act of the last but one layer's neurons, the last MLP's own reply cut off: autograd."""
    last = model.n_layers - 1
    out = model.forward(
        texts, read=[f"mlp_post.{layer}", f"resid_post.{last}", f"mlp_out.{last}"], grad=True,
        freeze=("pattern", "norm_scale", "gate"), norm_scales=["ln_final"],
    )  # fmt: skip
    acts, resid, mlp = (out.acts[Site.parse(s)] for s in (f"mlp_post.{layer}", f"resid_post.{last}", f"mlp_out.{last}"))
    scale = ends_of(out.norm_scales["ln_final"], out.lengths).detach()[:, None]
    found = []
    for one in lens.circuit.from_end(u):
        cut = ((ends_of(resid, out.lengths) - ends_of(mlp, out.lengths)) * scale) @ one
        (grad,) = torch.autograd.grad(cut.sum(), [acts], retain_graph=True)
        keep = torch.arange(grad.shape[1])[None, :, None] < torch.tensor(out.lengths)[:, None, None]
        found.append(torch.where(keep, grad * acts.detach(), 0.0).sum(1))
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_future_have_no_weight(family: str):
    model = tiny_model(family, "float64")
    with model.exact():
        lens, texts = Lens(model), prompts(model)
        together = lens.capture(texts, [0])
        for a, rows in together.rows.items():
            for i, length in enumerate(together.lengths):
                assert rows[i, :, length:].abs().max() == 0 if length < rows.shape[2] else True, a
        phi = so.materialised(lens.circuit, together, 0)
        for i, text in enumerate(texts):
            alone = so.materialised(lens.circuit, lens.capture([text], [0]), 0)
            assert apart(phi[i : i + 1], alone) <= TIGHT


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_float32_is_within_its_rounding(family: str):
    model = tiny_model(family)
    lens, texts = Lens(model), prompts(model)
    u = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0))
    factors = lens.capture(texts, [0, 1])
    for layer in (0, 1):
        phi = so.materialised(lens.circuit, factors, layer)
        found = so.scores(lens.circuit, factors, layer, so.pulled(lens.circuit, u, layer))
        assert apart(found, torch.einsum("bnd,kd->kbn", phi, u)) <= 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_half_precision_keeps_rows_and_coefficients_in_float32(family: str):
    model = tiny_model(family, "bfloat16")
    lens, texts = Lens(model), prompts(model)
    u = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(0))
    factors = lens.capture(texts, [0, 1])
    for layer in (0, 1):
        coef = so.coefs(lens.circuit, factors, layer)
        assert coef.dtype == factors.output.dtype == torch.float32
        phi = so.materialised(lens.circuit, factors, layer)
        found = so.scores(lens.circuit, factors, layer, so.pulled(lens.circuit, u, layer))
        assert apart(found, torch.einsum("bnd,kd->kbn", phi, u)) <= 1e-5
        assert apart(so.effects(coef, so.basis(lens.circuit, layer)), phi) <= 1e-5
    total = lens.total(texts, [0, 1], u)
    assert total[1].dtype == torch.float32
    assert torch.isfinite(total[0]).all()


def test_all_order_effects_of_the_last_tokens_alone():
    """Gated to the last token, the last but one layer's effects are direct, through the last MLP, and through attention
    from that token; summed over single tokens they are those of the whole text."""
    model = tiny_model("llama", "float64")
    u = torch.randn(1, model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with model.exact():
        lens, texts = Lens(model), [t for t in prompts(model) if len(t) > 3][:2]
        whole = lens.total(texts, [1], u)[1]
        parts = [lens.total(texts, [1], u, last_k=k)[1] for k in range(1, max(map(len, texts)) + 1)]
        assert apart(parts[-1], whole) <= TIGHT
        assert apart(parts[0], whole) > 1e-3
        last = model.n_layers - 1
        factors = lens.capture(texts, [last])
        assert apart(lens.total(texts, [last], u, last_k=1)[last], so.direct(lens.circuit, factors, last, u)) <= TIGHT


def test_reading_before_the_end_leaves_out_the_final_norm():
    model = tiny_model("llama", "float64")
    with model.exact():
        lens = Lens(model, end=2)
        factors = lens.capture(prompts(model), [0], read=["attn_out.1"])
        circuit = lens.circuit
        assert circuit.later(0) == [(a, h) for a in (1, 2) for h in range(model.n_heads)]
        out = model.forward(prompts(model), read=["resid_post.2"])
        assert torch.equal(factors.output, ends_of(out.acts[Site.parse("resid_post.2")], out.lengths))
        phi = so.materialised(circuit, factors, 0)
        assert apart(so.effects(so.coefs(circuit, factors, 0), so.basis(circuit, 0)), phi) <= TIGHT
        shared = Lens(model).capture(prompts(model), [0, 3]).before_final()
        assert apart(so.coefs(circuit, shared, 0), so.coefs(circuit, factors, 0)) <= TIGHT
        m = so.pulled(circuit, phi[0, :1], 3)
        assert so.scores(circuit, shared, 3, m).abs().max() == 0  # a layer after the one that is read


def test_only_the_last_tokens_count_as_sources():
    model = tiny_model("gpt2", "float64")
    with model.exact():
        lens, texts = Lens(model), prompts(model)
        u = lens.circuit.W_out[0][:2]
        m = so.pulled(lens.circuit, u, 0)
        tokens = so.per_token(lens.circuit, lens.capture(texts, [0]), 0, m)
        some = so.scores(lens.circuit, lens.capture(texts, [0], last_k=2), 0, m)
        for i, text in enumerate(texts):
            want = tokens[:, i, max(0, len(text) - 2) : len(text)].sum(1)
            assert apart(some[:, i], want) <= TIGHT


def test_both_orders_of_the_products_agree():
    """Rows and m first (many heads, or few tokens), or m and W_out first: the same scores."""
    model = tiny_model("llama", "float64", n_layers=12)
    u = torch.randn(1, model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with model.exact():
        lens = Lens(model)
        factors = lens.capture(prompts(model), [0])
        m = so.pulled(lens.circuit, u, 0)
        assert len(m) > model.d_model
        phi = so.materialised(lens.circuit, factors, 0)
        want = torch.einsum("bnd,kd->kbn", phi, u)
        assert apart(so.scores(lens.circuit, factors, 0, m), want) <= TIGHT
        assert apart(so.scores(lens.circuit, factors, 0, m, beta=so.betas(lens.circuit, 0, m)), want) <= TIGHT


# ---------------------------------------------------------------- faults that the identities must find


def wrong_kv(part: so.AttentionMap) -> so.AttentionMap:
    """Heads dealt to kv heads in turn (h % kv_heads) instead of in blocks."""
    heads, kv = part.heads, part.W_V.shape[0]
    index = torch.arange(heads) % kv
    return replace(part, W_V=part.W_V[index])


def uncentred(part: so.AttentionMap) -> so.AttentionMap:
    return replace(part, norm=replace(part.norm, centred=False))


def plain_gain(part: so.AttentionMap) -> so.AttentionMap:
    """Gemma's gain without its 1 +."""
    return replace(part, norm=replace(part.norm, gain=part.norm.gain - 1))


def no_post(part: so.AttentionMap) -> so.AttentionMap:
    return replace(part, post=None)


FAULTS = [
    ("llama", wrong_kv), ("qwen2", wrong_kv), ("gpt2", uncentred), ("gpt_neox", uncentred), ("gemma2", plain_gain),
    ("gemma3", no_post),
]  # fmt: skip


@pytest.mark.parametrize(("family", "fault"), FAULTS, ids=[f"{f}-{g.__name__}" for f, g in FAULTS])
def test_a_fault_in_the_weights_fails_identity_2(family: str, fault: Any, monkeypatch: Any):
    """And passes factored = materialised, which alone proves nothing."""
    model = tiny_model(family, "float64")
    true = Lens.circuit.func(Lens(model))
    broken = replace(true, attention=[fault(part) for part in true.attention])
    monkeypatch.setattr(Lens, "circuit", broken)
    with model.exact():
        assert identity_2(model) > 1e-4
        _, factors, _ = everything(model)
        phi = so.materialised(broken, factors, 1)
        assert apart(so.effects(so.coefs(broken, factors, 1), so.basis(broken, 1)), phi) <= TIGHT


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_fault_in_the_scales_fails_the_identities(family: str, monkeypatch: Any):
    """eps outside the root."""
    from gnomon.models.freeze import Norm

    model = tiny_model(family, "float64")

    def scale(self: Norm, x: torch.Tensor) -> torch.Tensor:
        wide = x - x.mean(-1, keepdim=True) if self.kind == "layernorm" else x
        return 1 / (wide.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)

    with model.exact():
        want = model.forward(prompts(model), logits="last").logits
        lens, factors, _ = everything(model)
        y = first_order_parts(model, lens, factors)
        assert apart(logits_of(model, y), want) <= TIGHT
        monkeypatch.setattr(Norm, "scale", scale)
        lens, factors, _ = everything(model)
        assert apart(logits_of(model, first_order_parts(model, lens, factors)), want) > 1e-7


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_final_norm_that_is_not_centred_or_scaled_right_fails_identity_1(family: str, monkeypatch: Any):
    model = tiny_model(family, "float64")
    true = Lens.circuit.func(Lens(model))
    final = replace(true.final, centred=False) if family == "gpt2" else replace(true.final, gain=true.final.gain - 1)
    monkeypatch.setattr(Lens, "circuit", replace(true, final=final))
    with model.exact():
        assert identity_1(model) > 1e-4


def test_bad_input_is_refused():
    model = tiny_model("llama")
    with pytest.raises(UserError, match="effects read after layer 9"):
        Lens(model, end=9)
    with pytest.raises(UserError, match="neurons of layer 7"):
        Lens(model).capture([[1, 2]], [7])
    with pytest.raises(UserError, match="a direction of 5 numbers"):
        Lens(model).direction([1.0] * 5)
    with pytest.raises(UserError, match="last_k is 0"):
        Lens(model).capture([[1, 2]], [0], last_k=0)
    with pytest.raises(UserError, match="neuron 48 of layer 0"):
        check_neurons(0, [3, 48], model.n_layers, model.d_mlp)
    with pytest.raises(UserError, match="layer 4"):
        check_neurons(4, [3], model.n_layers, model.d_mlp)
