"""Edits reach exactly the tokens and values they name, at every site of every family, and leave nothing behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.models.check import hooks_left
from gnomon.types import Intervention, Site
from tests.tiny import FAMILIES, PARALLEL, tiny_model, tiny_prompts


@dataclass
class Push:
    """Adds `strength * vector`, and remembers what it was handed."""

    site: Site
    where: Any = "all"
    strength: float = 1.0
    seen: list = field(default_factory=list)

    def edit(self, x, rows, positions):
        self.seen.append((x.clone(), rows.tolist(), positions.tolist()))
        wave = torch.cos(torch.arange(x.shape[-1], dtype=torch.float64)).to(x.dtype)
        return x + self.strength * wave


@dataclass
class Scale:
    site: Site
    factor: float
    where: Any = "all"
    strength: float = 1.0

    def edit(self, x, rows, positions):
        return x * self.factor


def _sites(model, layer):
    names = ["resid_pre", "resid_post", "attn_out", "mlp_out", "mlp_post", "z"]
    mid = [] if model.parallel else [Site("resid_mid", layer)]
    return [Site("embed"), *(Site(n, layer) for n in names), *mid, Site("z", layer, 2)]


def test_the_edits_of_this_file_are_interventions():
    assert isinstance(Push(Site("embed")), Intervention)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_at_every_site_changes_that_site_and_the_logits(family):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model, 3)
    for site in _sites(model, 1):
        plain = model.forward(prompts, read=[site], logits="last")
        push = Push(site)
        out = model.forward(prompts, read=[site], edit=[push], logits="last")
        wave = torch.cos(torch.arange(model.site_shape(site), dtype=torch.float64))
        torch.testing.assert_close(out.values(site), plain.values(site) + wave, rtol=0, atol=1e-12)
        assert float((out.logits - plain.logits).abs().max()) > 1e-4, site
        rows = [row for row, p in enumerate(prompts) for _ in p]
        positions = [i for p in prompts for i in range(len(p))]
        assert len(push.seen) == 1
        assert push.seen[0][1:] == (rows, positions)
        assert torch.equal(push.seen[0][0], plain.values(site))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in PARALLEL])
def test_an_edit_of_resid_mid_reaches_the_mlp_and_the_skip_connection(family):
    model = tiny_model(family, "float64")
    prompts = tiny_prompts(model, 3)
    read = ["resid_mid.1", "mlp_out.1", "resid_post.1", "attn_out.1"]
    plain = model.forward(prompts, read=read)
    out = model.forward(prompts, read=read, edit=[Push(Site("resid_mid", 1))])
    mid, mlp, post, attention = (out.values(site) for site in read)
    assert torch.equal(attention, plain.values("attn_out.1"))
    torch.testing.assert_close(mid + mlp, post, rtol=0, atol=1e-12)
    block, row = model.body.blocks[1], model.body.family
    again = block.get_submodule(row.mlp)(block.get_submodule(row.ln2)(mid))
    if row.ln2_post:
        again = block.get_submodule(row.ln2_post)(again)
    torch.testing.assert_close(mlp, again, rtol=1e-6, atol=1e-6)


def test_an_edit_of_one_head_leaves_the_others_alone():
    model = tiny_model("llama", "float64")
    prompts = tiny_prompts(model)
    plain = model.forward(prompts, read=["z.2"]).values("z.2")
    out = model.forward(prompts, read=["z.2"], edit=[Push(Site("z", 2, 1), where=(1,))]).values("z.2")
    d = model.d_head
    changed = (out != plain).any(0)
    assert changed[d : 2 * d].all()
    assert not changed[:d].any()
    assert not changed[2 * d :].any()


def test_edits_at_one_site_apply_in_order():
    model = tiny_model("gpt2", "float64")
    prompts, site = tiny_prompts(model, 2), Site("mlp_out", 2)
    x = model.forward(prompts, read=[site]).values(site)
    wave = torch.cos(torch.arange(x.shape[-1], dtype=torch.float64))
    first = model.forward(prompts, read=[site], edit=[Push(site), Scale(site, 3.0)]).values(site)
    second = model.forward(prompts, read=[site], edit=[Scale(site, 3.0), Push(site)]).values(site)
    torch.testing.assert_close(first, 3 * (x + wave))
    torch.testing.assert_close(second, 3 * x + wave)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("all", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]),
        ("prompt", [(0, 0), (0, 1), (1, 0)]),
        ("generated", [(0, 2), (1, 1), (1, 2), (1, 3), (1, 4)]),
        ("last_prompt", [(0, 1), (1, 0)]),
        ((0, 4), [(0, 0), (1, 0), (1, 4)]),
    ],
)
def test_where_selects_real_tokens_only(where, wanted):
    model = tiny_model("llama")
    push = Push(Site("resid_post", 1), where)
    rows = [[5, 6, 7], [5, 6, 7, 8, 9]]
    plain = model.forward(rows, read=[push.site]).acts[push.site]
    out = model.forward(rows, read=[push.site], edit=[push], prompt_lens=[2, 1]).acts[push.site]
    ((_, found, positions),) = push.seen
    assert list(zip(found, positions, strict=True)) == wanted
    moved = (out != plain).any(-1)
    assert {tuple(i) for i in moved.nonzero().tolist()} == set(wanted)


def test_where_counts_from_the_start_under_a_cache():
    model = tiny_model("llama")
    rows, cache = [[5, 6, 7, 8], [5, 6]], model.new_cache()
    model.forward(rows, cache=cache, prompt_lens=[3, 2])
    push, other = Push(Site("embed"), (4,)), Push(Site("embed"), "generated")
    model.forward([[9], [9]], edit=[push, other], cache=cache, prompt_lens=[3, 2])
    assert push.seen[0][1:] == ([0], [4])
    assert other.seen[0][1:] == ([0, 1], [4, 2])


def test_a_place_that_does_not_exist_is_a_user_error():
    model = tiny_model("llama")
    with pytest.raises(UserError, match="unknown place 'everywhere'"):
        model.forward([[3]], edit=[Push(Site("embed"), "everywhere")])
    with pytest.raises(UserError, match="negative"):
        model.forward([[3]], edit=[Push(Site("embed"), (-1,))])


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_changes_no_bit_and_registers_no_hook(family):
    model = tiny_model(family)
    prompts = tiny_prompts(model)
    edits = [Push(site, strength=0.0) for site in _sites(model, 1)]
    left = []
    handle = model.body.blocks[1].register_forward_hook(lambda *_: left.append(hooks_left(model)))
    out = model.forward(prompts, edit=edits, logits="last").logits
    handle.remove()
    assert torch.equal(out, model.forward(prompts, logits="last").logits)
    assert not any(edit.seen for edit in edits)
    assert left == [0]


@dataclass
class Wrong:
    site: Site
    result: Any
    where: str = "all"
    strength: float = 1.0

    def edit(self, x, rows, positions):
        return self.result(x)


def test_an_edit_keeps_shape_dtype_and_kind():
    model = tiny_model("llama")
    for result in (lambda x: x[:1], lambda x: x.double(), lambda x: x.numpy()):
        with pytest.raises(ValueError, match="keeps shape, dtype and device"):
            model.forward([[3, 4]], edit=[Wrong(Site("resid_post", 0), result)])


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_after_an_exception(family):
    model = tiny_model(family)
    before = model.body.config._attn_implementation

    def fail(x):
        raise ZeroDivisionError

    for site in _sites(model, 2):
        with pytest.raises(ZeroDivisionError), model.exact():
            model.forward(
                [[3, 4]], read=[s for s in _sites(model, 1) if s.head is None], edit=[Wrong(site, fail)], grad=True,
                freeze=("pattern", "norm_scale", "gate"), patterns=[2], norm_scales=["ln1.0", "ln_final"],
                logits="last",
            )  # fmt: skip
        with pytest.raises(ZeroDivisionError):
            model.generate([[3, 4]], max_new_tokens=3, edit=[Wrong(site, fail)])
    assert hooks_left(model) == 0
    assert model.body.config._attn_implementation == before
    assert not model.is_exact


def test_rows_can_be_renumbered_and_numbers_reach_the_edit():
    model = tiny_model("llama")
    push = Push(Site("resid_post", 0), "last_prompt")
    model.forward([[3, 4], [5]], edit=[push], rows=[7, 4])
    assert push.seen[0][1:] == ([7, 4], [1, 0])
    push.seen.clear()
    scores = model.logprobs([[3, 4, 5, 6], [5, 6], [3, 4, 9]], [2, 1, 1], edit=[push], batch_size=2)
    seen = dict(pair for _, rows, positions in push.seen for pair in zip(rows, positions, strict=True))
    assert seen == {0: 1, 1: 0, 2: 0}
    assert [len(s) for s in scores] == [2, 1, 2]


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_logprobs_are_those_of_the_full_softmax(family):
    model = tiny_model(family)
    rows, lens = [[3, 4, 5, 6], [5, 6], [3, 4, 9]], [2, 1, 1]
    edit = [Push(Site("resid_post", 1), strength=0.3)]
    found = model.logprobs(rows, lens, edit=edit, batch_size=2)
    for row, prompt, scores in zip(rows, lens, found, strict=True):
        logits = model.forward([row], edit=edit, prompt_lens=[prompt], logits="all").logits[0]
        wanted = torch.log_softmax(logits, -1)[range(prompt - 1, len(row) - 1), row[prompt:]]
        np.testing.assert_allclose(scores, wanted, atol=2e-5)
    with pytest.raises(UserError, match="prompt of 5"):
        model.logprobs([[1, 2]], [5])
