"""A sweep of patches gives what a whole forward with each patch gives, in every family and at every kind of site."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.models.sweep import SitePatch, Sweep
from gnomon.types import Site
from tests.tiny import FAMILIES, PARALLEL, tiny_model

READS = ("attn_out.2", "mlp_out.2", "resid_post.2", "mlp_post.3", "z.3", "resid_pre.3", "resid_post.3")


class Added:
    """The same patch for a whole forward."""

    strength = 1.0

    def __init__(self, patch: SitePatch) -> None:
        self.site, self.where, self.patch = patch.site, patch.positions, patch

    def edit(self, x, rows, positions):
        return x + self.patch.delta.to(x.dtype)


def text(n: int = 14) -> list[int]:
    return [int(i) for i in np.random.default_rng(n).integers(3, 250, size=n)]


def patches(model, at: int, scale: float = 1.0) -> list[SitePatch]:
    """Every component, at one position, the last, several, all; entering and leaving at different layers."""
    rng = np.random.default_rng(7)
    sites = ["resid_pre.0", "embed", "resid_post.0", "attn_out.1", "mlp_out.1", "z.1", "mlp_post.1", "resid_post.1",
             "attn_out.2", "mlp_out.2", "resid_post.2"]  # fmt: skip
    if not model.parallel:
        sites.append("resid_mid.1")
    places = ((at,), (2, 5, at), tuple(range(at + 1)), (at - 1,))
    out = []
    for i, site in enumerate(map(Site.parse, sites)):
        order = ("embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
        above = [s for s in map(Site.parse, READS)
                 if (s.layer, order.index(s.component)) >= (site.layer, order.index(site.component))]  # fmt: skip
        for k, reads in enumerate((above, above[:1])):
            at_these = places[(i + k) % len(places)]
            delta = scale * rng.standard_normal((len(at_these), model.site_shape(site)))
            out.append(SitePatch(site, at_these, torch.tensor(delta), tuple(reads)))
    return out


def sweep_of(model, tokens, some, at=None) -> Sweep:
    return Sweep(model, tokens, list(dict.fromkeys([s for p in some for s in (p.site, *p.reads)])), at)


def largest_error(model, tokens: list[int], some: list[SitePatch], at: int, **options) -> tuple[float, float]:
    """Largest |difference| to whole forwards over the largest value, and how much the patches moved what is read."""
    sweep = sweep_of(model, tokens, some, at)
    found = sweep.run(some, **options)
    error = moved = 0.0
    for patch, one in zip(some, found, strict=True):
        whole = model.forward([tokens], read=patch.reads, edit=[Added(patch)])
        assert set(one) == set(patch.reads)
        for site, value in one.items():
            scale = float(whole.acts[site][0, at].abs().max())
            error = max(error, float((value - whole.acts[site][0, at]).abs().max()) / scale)
            moved = max(moved, float((value - sweep.clean[site][at]).abs().max()) / scale)
    return error, moved


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_whole_forwards_exactly_in_float64(family):
    model = tiny_model(family, dtype="float64")
    with model.exact():
        error, moved = largest_error(model, text(), patches(model, 11), 11, room=60)
    assert error < 1e-10
    assert moved > 0.1


@pytest.mark.parametrize("family", ["llama", "gpt2", *PARALLEL, "gemma3"])
def test_equals_whole_forwards_in_float32(family):
    model = tiny_model(family)
    error, moved = largest_error(model, text(), patches(model, 13), 13)
    assert error < 1e-5
    assert moved > 0.1


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_patch_of_nothing_is_the_identity_and_packs_do_not_matter(family):
    model = tiny_model(family, dtype="float64")
    with model.exact():
        none, some = patches(model, 9, scale=0.0), patches(model, 9)
        sweep = sweep_of(model, text(), none, 9)
        for one in sweep.run(none):
            for site, value in one.items():
                torch.testing.assert_close(value, sweep.clean[site][9], rtol=1e-12, atol=1e-12)
        alone, together, backwards = sweep.run(some, room=1), sweep.run(some, room=10_000), sweep.run(some[::-1])
        for one, two, three in zip(alone, together, backwards[::-1], strict=True):
            for site in one:
                torch.testing.assert_close(one[site], two[site], rtol=1e-10, atol=1e-10)
                torch.testing.assert_close(one[site], three[site], rtol=1e-10, atol=1e-10)


def test_only_the_blocks_and_tokens_that_a_patch_can_change_are_run():
    model = tiny_model("llama")
    site, read = Site("resid_post", 1), Site("resid_post", 2)
    sweep = Sweep(model, text(), [site, read], at=10)
    seen: list[tuple[int, int]] = []
    handles = [block.register_forward_pre_hook(lambda m, args, i=i: seen.append((i, args[0].shape[1])))
               for i, block in enumerate(model.body.blocks)]  # fmt: skip
    try:
        sweep.run([SitePatch(site, (8,), torch.ones(1, model.d_model), (read,))] * 4)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [(2, 4 * 3)]  # block 2 alone, tokens 8 to 10 of four patches


def test_what_cannot_be_patched_is_refused():
    model = tiny_model("gpt2")
    low, high = Site("resid_post", 0), Site("resid_post", 2)
    sweep = Sweep(model, text(), [low, high], at=6)
    delta = torch.ones(1, model.d_model)
    for patch, said in (
        (SitePatch(high, (3,), delta, (low,)), "above the patch"),
        (SitePatch(low, (7,), delta, (high,)), "positions"),
        (SitePatch(low, (), delta[:0], (high,)), "positions"),
        (SitePatch(low, (3,), delta[:, :3], (high,)), "a patch"),
        (SitePatch(low, (3,), delta, (Site("resid_post", 1),)), "made with"),
    ):
        with pytest.raises(UserError, match=said):
            sweep.run([patch])
    with pytest.raises(UserError, match="a token of the text"):
        Sweep(model, text(), [low], at=14)
    with pytest.raises(UserError, match="whole layers"):
        Sweep(model, text(), ["z.0.1"])
