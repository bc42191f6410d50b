"""SetLatent: one latent moved to a value, all else kept; a control's edit as long; the same within a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gnomon.causal.patching import Patched, edit_of, reader
from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.errors import UserError
from gnomon.interventions.base import per_row
from gnomon.interventions.latent import SetLatent
from gnomon.models.replay import Replay
from gnomon.types import Site
from tests.tiny import tiny_model, tiny_prompts

D, N, LATENT = 12, 12, 4
KINDS = {"relu": {}, "topk": {"k": 3}, "jumprelu": {"threshold": 0.4}}


def dictionary(kind: str, site: str = "resid_post.1", d: int = D, n: int = N) -> SparseDictionary:
    """Orthonormal rows that read themselves, so that setting a latent leaves all others as they are."""
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.standard_normal((d, d)))[0][:n]
    return canonical(site, rows.T, np.full(n, -0.1), rows, np.zeros(d), activation=kind, **KINDS[kind])


def tokens(m: int = 40, d: int = D) -> torch.Tensor:
    return torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run(edit: SetLatent, x: torch.Tensor) -> torch.Tensor:
    at = torch.arange(len(x))
    return edit.edit(x, at, at)


@pytest.mark.parametrize("kind", KINDS)
def test_the_latent_is_moved_by_value_less_its_activation_and_nothing_else_is(kind):
    of, x = dictionary(kind), tokens()
    z = of.encode(x)[:, LATENT]
    assert (z > 0).any()
    assert (z == 0).any()
    out = run(edit_of(Patched("resid_post.1", LATENT, LATENT, (2.5, 0.0)), 0, of, "all"), x)
    row = torch.tensor(of.decoder[LATENT], dtype=torch.float64)
    assert torch.allclose(out - x, (2.5 - z)[:, None] * row, atol=1e-6)
    if kind != "topk":  # the reconstruction error is kept: it is no part of what the edit adds
        before, after = of.encode(x), of.encode(out)
        others = [i for i in range(N) if i != LATENT]
        assert torch.allclose(after[:, others], before[:, others], atol=1e-6)
        assert torch.allclose((out @ row), (x @ row) + 2.5 - z, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_is_read_as_the_dictionary_encodes_it(kind):
    of, x = dictionary(kind), tokens()
    for latent in range(N):
        assert torch.allclose(reader(of, latent)(x), of.encode(x)[:, latent], atol=1e-12)


def test_a_random_latents_edit_is_as_long_at_every_token():
    of, x = dictionary("relu"), tokens()
    own = Patched("resid_post.1", LATENT, LATENT, (2.5, 0.3))
    random = Patched("resid_post.1", 9, LATENT, own.values)
    assert (own.kind, own.matches, random.kind, random.matches) == ("feature", "", "control", "L1-4")
    for to in (0, 1):
        a, b = (run(edit_of(p, to, of, "all"), x) - x for p in (own, random))
        assert torch.allclose(a.norm(dim=1), b.norm(dim=1), atol=1e-6)
        assert torch.allclose(b @ torch.tensor(of.decoder[LATENT], dtype=torch.float64), torch.zeros(40).double(),
                              atol=1e-6)  # fmt: skip


def test_massive_tokens_are_left_alone():
    x = torch.cat([tokens(5), 100 * tokens(5)])
    out = run(edit_of(Patched("resid_post.1", 0, 0, (9.0, 0.0), 20.0), 0, dictionary("relu"), "all"), x)
    moved = (out != x).any(dim=1)
    assert moved.tolist() == [True] * 5 + [False] * 5


def test_rows_of_a_batch_have_their_own_value():
    of, x = dictionary("relu"), tokens(4)
    patch = Patched("resid_post.1", LATENT, LATENT, (2.5, 0.0))
    joined = per_row([[edit_of(patch, 0, of, "all")], [edit_of(patch, 1, of, "all")]], [0, 0, 1, 1])
    at = torch.arange(4)
    out = joined[0].edit(x, at, at)
    assert torch.allclose(out[:2], run(edit_of(patch, 0, of, "all"), x)[:2], atol=1e-12)
    assert torch.allclose(out[2:], run(edit_of(patch, 1, of, "all"), x)[2:], atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_scored_behind_a_prefix_it_equals_a_plain_forward_with_the_patch(family):
    model = tiny_model(family, "float64")
    of = dictionary("topk", d=model.d_model, n=24)
    prompts = [p for p in tiny_prompts(model, 8) if len(p) > 4][:3]
    texts = [[*p, 9, 11] for p in prompts]
    replay = Replay(model, texts, [len(p) - 1 for p in prompts], [len(p) for p in prompts], [len(p) for p in prompts])
    edit = edit_of(Patched("resid_post.1", LATENT, LATENT, (5.0, 0.0)), 0, of, "last_prompt")
    got = replay.run([edit]).logprob[0]
    logits = model.forward(texts, edit=[edit], logits="all", prompt_lens=[len(p) for p in prompts]).logits
    logp = torch.log_softmax(logits, -1)
    want = [sum(float(logp[i, at - 1, t[at]]) for at in (len(t) - 2, len(t) - 1)) for i, t in enumerate(texts)]
    assert np.allclose(got, want, atol=1e-9)
    assert not np.allclose(got, replay.run().logprob[0], atol=1e-3)


def test_what_is_no_latent_or_no_value_is_refused():
    site = Site.parse("resid_post.1")
    bad: list[dict[str, Any]] = [{"vector": np.zeros(3)}, {"value": float("nan")}, {"most": 0.0}]
    for options in bad:
        with pytest.raises(UserError):
            SetLatent(site, **{"vector": np.ones(3), **options})
