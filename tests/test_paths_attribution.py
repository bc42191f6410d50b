"""Gradients between latents: finite differences, kinds that add up, values that do not change, planted edges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_prompts

from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.errors import UserError
from gnomon.paths.active import Active, active_latents
from gnomon.paths.attribution import Target, between, by_kind, depth, gradients
from gnomon.types import Site

FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2")
D, N = 32, 80
A, B, C, E = (Site("resid_post", i) for i in range(4))
MLP = Site("mlp_out", 1)


def toy(site: Site, activation: str = "topk", seed: int = 0) -> SparseDictionary:
    rng = np.random.default_rng([seed, site.layer, len(site.component)])
    w = rng.standard_normal((N, D)) / D**0.5
    more = {"topk": {"k": 7}, "jumprelu": {"threshold": 0.4}, "relu": {}}[activation]
    base = 0.1 * rng.standard_normal(D)
    return canonical(site, w.T, np.full(N, -0.2), w, base, activation=activation, **more)  # type: ignore[arg-type]


class Case:
    """A float64 model, texts, dictionaries at some sites, and targets at the last of them (and one before)."""

    def __init__(self, family: str, sites: tuple[Site, ...] = (A, B, C), activation: str = "topk") -> None:
        self.model = tiny_model(family, "float64")
        self.texts = [t for t in tiny_prompts(self.model, 5) if len(t) > 3][:3]
        self.sites, self.dictionaries = sites, {s: toy(s, activation) for s in sites}
        with self.model.exact():
            found = self.model.forward(self.texts, read=sites)
        self.x = [{s: found.acts[s][i, : len(t)] for s in sites} for i, t in enumerate(self.texts)]
        self.active = [{s: active_latents(d, x[s], masked=False) for s, d in self.dictionaries.items()} for x in self.x]
        self.targets = [[self.target(j, len(t) - 1 - j % 2) for j in (3, 5, 8)] for t in self.texts]

    def target(self, index: int, position: int) -> Target:
        last = self.sites[-1]
        return Target.of(self.dictionaries[last], index, position, self.x[0][last])

    def kinds(self, *kinds: str, chunk: int = 2):
        with self.model.exact():
            return by_kind(self.model, self.texts, self.active, self.targets, kinds, chunk)


@dataclass(frozen=True, eq=False)
class Nudge:
    """Add `by [d]` at one token of row 0; elsewhere pass on only what the latents (or what they leave) change by."""

    site: Site
    apply: object
    where: object = "all"
    strength: float = 1.0

    def edit(self, x, rows, positions):
        return self.apply(x, rows, positions)  # type: ignore[operator]


def reconstruction(dictionary: SparseDictionary, x, mask):
    """x^ with the set of active latents held fixed, from the dictionary's own tensors."""
    w = dictionary._tensors(x)
    return ((x @ w["encoder"] + w["encoder_bias"]) * mask) @ w["decoder"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["total", "mediated", "dark"])
def test_gradients_are_finite_differences(family, mode):
    case, step = Case(family), 1e-5
    case.texts, case.active, case.targets = case.texts[:1], case.active[:1], case.targets[:1]
    clean = case.x[0][B]
    mask = (case.dictionaries[B].encode(clean) > 1e-6).to(clean.dtype)
    row, token, target = 2, len(case.texts[0]) - 2, case.targets[0][0]
    one = case.active[0][A]
    place = int((one.z[token] > 0).nonzero()[row, 0])
    direction = one.decoder[one.slots[token, place]]

    def value(by: float) -> float:
        def nudge(x, rows, positions):
            out = x.clone()
            out[positions == token] += by * direction
            return out

        def passed(x, rows, positions):
            own, new = (reconstruction(case.dictionaries[B], y, mask) for y in (clean, x))
            return clean + (new - own if mode == "mediated" else (x - new) - (clean - own))

        edits = [Nudge(A, nudge)] + ([] if mode == "total" else [Nudge(B, passed)])
        with case.model.exact():
            x = case.model.forward(case.texts, read=[C], edit=edits).acts[C][0]
        return float(x[target.position] @ target.encoder + target.bias)

    slope = (value(step) - value(-step)) / (2 * step)
    with case.model.exact():
        found = gradients(case.model, case.texts, case.active, case.targets, mode)[0][A]
    assert abs(slope) > 1e-4
    assert float(found[0, token, place]) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("sites", "activation"), [((A, B, C), "topk"), ((A, B, C), "jumprelu"), ((A, MLP, C), "relu")])
def test_total_is_mediated_plus_dark_with_one_between(family, sites, activation):
    case = Case(family, sites, activation)
    found = case.kinds("total", "mediated", "dark", "mixed")
    for i in range(len(case.texts)):
        total, mediated, dark = (found[k][i][A] for k in ("total", "mediated", "dark"))
        scale = total.abs().max()
        assert scale > 1e-3
        assert float((total - mediated - dark).abs().max() / scale) < 1e-6
        assert float(mediated.abs().max() / scale) > 1e-3, "nothing passes by way of latents: an empty law"
        assert float(dark.abs().max() / scale) > 1e-3
        assert torch.isnan(found["mixed"][i][A]).all()
        nearest = sites[1]
        assert torch.isnan(found["mediated"][i][nearest]).all(), "nothing lies between: no claim of mediation"
        assert not torch.isnan(found["total"][i][nearest]).any()


def test_what_several_leave_over_is_mixed():
    case = Case("llama", (A, B, C, E))
    found = case.kinds("total", "mediated", "dark", "mixed")
    total, mediated, dark, mixed = (found[k][0][A] for k in ("total", "mediated", "dark", "mixed"))
    torch.testing.assert_close(total, mediated + dark + mixed)
    assert float(mixed.abs().max() / total.abs().max()) > 1e-3
    assert E not in found["total"][0], "a latent does not cause one beside it"


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_neither_padding_nor_chunks_nor_neighbours_matter(family):
    case = Case(family)
    together = case.kinds("mediated", chunk=16)["mediated"]
    for i, text in enumerate(case.texts):
        with case.model.exact():
            alone = by_kind(case.model, [text], case.active[i : i + 1], case.targets[i : i + 1], ("mediated",), 1)
        torch.testing.assert_close(alone["mediated"][0][A], together[i][A], rtol=1e-9, atol=1e-12)


def test_no_value_changes_whatever_the_mode(monkeypatch):
    case = Case("gpt2")
    seen: list[torch.Tensor] = []
    run = case.model.forward

    def forward(*args, **more):
        out = run(*args, **more)
        seen.append(more["edit"][-1].seen.detach())
        return out

    monkeypatch.setattr(case.model, "forward", forward)
    case.kinds("total", "mediated", "dark")
    assert len(seen) == 3
    for other in seen[1:]:
        assert torch.equal(seen[0], other)


def test_active_latents_are_the_dictionarys_own():
    case = Case("llama", activation="jumprelu")
    x, dictionary = case.x[0][A], case.dictionaries[A]
    one, z = case.active[0][A], dictionary.encode(x)
    for latent in (*one.index[:3], int(np.setdiff1d(np.arange(N), one.index)[0])):
        at, values = one.of(int(latent), one.z)
        assert at.tolist() == (z[:, latent] > 0).nonzero()[:, 0].tolist()
        torch.testing.assert_close(values, z[torch.tensor(at), latent])
    np.testing.assert_allclose(one.summed(one.z), z.sum(0)[torch.tensor(one.index)].numpy())
    w = dictionary._tensors(x)
    torch.testing.assert_close(
        one.rebuilt(x, torch.arange(len(x))) + w["decoder_bias"], dictionary.decode(z), rtol=1e-9, atol=1e-9
    )
    only = active_latents(dictionary, x, positions=[len(x) - 1], masked=False)
    assert set(only.index) == set((z[-1] > 0).nonzero()[:, 0].tolist())


def test_massive_tokens_have_no_latents():
    case = Case("llama")
    x = case.x[0][A].clone()
    x[2] *= 100
    assert float(case.dictionaries[A].encode(x)[2].max()) > 0
    assert float(active_latents(case.dictionaries[A], x).z[2].abs().sum()) == 0


def test_an_inactive_target_is_traced_by_its_pre_activation():
    case = Case("llama")
    z = case.dictionaries[C].encode(case.x[0][C])[-1]
    off = int((z == 0).nonzero()[0, 0])
    case.targets = [[case.target(off, len(t) - 1)] for t in case.texts]
    assert float(case.kinds("total")["total"][0][A].abs().max()) > 1e-4


def test_later_tokens_and_higher_layers_have_no_part():
    case = Case("gpt2")
    case.targets = [[case.target(3, 1)] for _ in case.texts]
    found = case.kinds("total")["total"][0][A]
    assert float(found[:, :2].abs().max()) > 0
    assert float(found[:, 2:].abs().max()) == 0


def test_targets_of_two_sites_share_a_batch():
    case = Case("gpt2")
    alone = case.kinds("total")["total"][0]
    lower = Target.of(case.dictionaries[B], 4, 2, case.x[0][B])
    case.targets = [[*some, lower] for some in case.targets]
    both = case.kinds("total")["total"][0]
    for site in (A, B):
        torch.testing.assert_close(both[site][:3], alone[site], rtol=1e-9, atol=1e-12)
    assert float(both[A][3].abs().max()) > 0
    assert torch.isnan(both[B][3]).all(), "a latent does not cause one beside it"


def test_the_order_of_sites():
    up = [Site.parse(s) for s in ("embed", "resid_pre.1", "attn_out.1", "resid_mid.1", "mlp_out.1", "resid_post.1")]
    assert all(depth(a) < depth(b) for a, b in pairwise(up))
    assert between(up[1], up[5], [*up, Site("resid_post", 2)]) == up[2:5]


def test_a_dictionary_of_another_width_or_a_latent_that_is_not_there():
    case = Case("llama")
    with pytest.raises(UserError, match="width"):
        active_latents(case.dictionaries[A], torch.zeros(3, D + 1))
    with pytest.raises(UserError, match=f"latent {N}"):
        case.target(N, 0)


def test_nothing_active_is_no_edge():
    case = Case("llama")
    silent = canonical(A, np.eye(D), np.full(D, -1e6), np.eye(D), np.zeros(D))
    for one, x in zip(case.active, case.x, strict=True):
        one[A] = active_latents(silent, x[A])
        assert isinstance(one[A], Active)
        assert len(one[A].index) == 0
    found = case.kinds("total", "mediated")
    assert found["mediated"][0][A].shape[-1] == 0


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_paths_by_two_outputs_of_one_block_mix_only_where_one_feeds_the_other(family):
    """In parallel blocks no path leads from a block's attention to its MLP: nothing is mixed."""
    attention = Site("attn_out", 1)
    case = Case(family, (A, attention, MLP, B))
    found = case.kinds("total", "mediated", "dark", "mixed")
    total, mediated, mixed = (found[k][0][A] for k in ("total", "mediated", "mixed"))
    assert float(mediated.abs().max() / total.abs().max()) > 1e-3, "nothing passes by way of latents: an empty law"
    share = float(mixed.abs().max() / total.abs().max())
    assert share < 1e-12 if family == "gpt_neox" else share > 1e-3
    near = float(found["total"][0][attention].abs().max())
    assert near > 1e-3
    only = found["mediated"][0][attention].abs().max()  # from attention by way of the same block's MLP
    assert float(only / near) < 1e-12 if family == "gpt_neox" else float(only / near) > 1e-3


def test_dictionaries_of_block_outputs_alone():
    """No whole stream below the target: what passes by every dictionary still has a gradient."""
    attention = Site("attn_out", 1)
    case = Case("gpt2", (attention, MLP, B))
    found = case.kinds("total", "mediated", "dark")
    total, mediated, dark = (found[k][0][attention] for k in ("total", "mediated", "dark"))
    assert float(mediated.abs().max() / total.abs().max()) > 1e-3
    assert float((mediated + dark - total).abs().max() / total.abs().max()) < 1e-10
