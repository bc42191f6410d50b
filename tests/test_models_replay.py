"""Replay: edits of a shared clean prefix give what whole forwards give, in every family; prefixes are not changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnomon.errors import UserError
from gnomon.models.replay import COMMON, Replay, SharedPrefix
from gnomon.types import Site
from tests.tiny import FAMILIES, tiny_model


class Push:
    """Adds a row's own multiple of a vector: enough of an intervention for the models room."""

    strength = 1.0

    def __init__(self, site: Site, vector: np.ndarray, where, sizes: list[float]) -> None:
        self.site, self.where, self.sizes = site, where, torch.tensor(sizes)
        self.vector = torch.tensor(vector, dtype=torch.float32)

    def edit(self, x, rows, positions):
        return x + self.sizes[rows][:, None] * self.vector.to(x.dtype)


def texts(shared: int = 0) -> tuple[list[list[int]], list[int]]:
    rng = np.random.default_rng(0)
    opening = [int(i) for i in rng.integers(3, 250, size=shared)]
    rows = [opening + [int(i) for i in rng.integers(3, 250, size=n)] for n in (7, 12, 7, 15, 9)]
    return rows, [len(row) - n for row, n in zip(rows, (3, 4, 2, 3, 1), strict=True)]


def plain(model, row, prompt_len, score_from, edits) -> tuple[float, bool, int]:
    """Log-probability, greedy match and first choice from one whole forward of one text."""
    logits = model.forward([row], edit=edits, prompt_lens=[prompt_len], logits="all").logits[0]
    places = range(score_from - 1, len(row) - 1)
    logp = torch.log_softmax(logits, -1)
    right = all(int(logits[at].argmax()) == row[at + 1] for at in places)
    return sum(float(logp[at, row[at + 1]]) for at in places), right, int(logits[score_from - 1].argmax())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kept", ["prefix", "nothing", "common"])
def test_equals_whole_forwards(family, kept):
    model = tiny_model(family)
    rows, prompt_lens = texts(COMMON + 3 if kept == "common" else 0)
    keep = [0] * len(rows) if kept == "nothing" else [p - 1 for p in prompt_lens]
    replay = Replay(model, rows, keep, prompt_lens, prompt_lens)
    sizes = [0.0, 1.5, -3.0]
    vector = np.random.default_rng(1).standard_normal(model.d_model)
    for site in (Site("resid_post", 2), Site("mlp_out", 0), Site("resid_pre", 3)):
        each = np.repeat(sizes, len(rows)).tolist()
        found = replay.run([Push(site, vector, where, each) for where in ("last_prompt", "generated")], len(sizes))
        assert found.logprob.shape == (len(sizes), len(rows))
        for c, size in enumerate(sizes):
            for i, (row, prompt_len) in enumerate(zip(rows, prompt_lens, strict=True)):
                edits = [Push(site, vector, where, [size]) for where in ("last_prompt", "generated")]
                logprob, right, first = plain(model, row, prompt_len, prompt_len, edits)
                assert found.logprob[c, i] == pytest.approx(logprob, abs=5e-4)
                assert (bool(found.greedy[c, i]), int(found.first[c, i])) == (right, first)
    assert np.abs(found.logprob[0] - found.logprob[2]).max() > 0.05


def test_going_back_to_a_lower_layer_and_forgetting():
    model = tiny_model("llama")
    rows, prompt_lens = texts()
    replay = Replay(model, rows, [p - 1 for p in prompt_lens], prompt_lens, prompt_lens)
    clean = replay.run().logprob
    vector = np.ones(model.d_model)
    high, low = (Push(Site("resid_post", layer), vector, "last_prompt", [1.0] * 5) for layer in (3, 1))
    first = replay.run([high]).logprob
    replay.forget(below=3)
    replay.run([low])
    assert np.array_equal(replay.run([high]).logprob, first)
    assert np.array_equal(replay.run().logprob, clean)


def test_a_prefix_shared_by_several_rows_is_run_once_and_left_alone():
    model = tiny_model("llama")
    prompt = texts()[0][1]
    tails = [[5, 6], [7, 8], [9, 10]]
    replay = Replay(model, [prompt + t for t in tails], [len(prompt)] * 3, [len(prompt) + 1] * 3, [len(prompt)] * 3)
    assert replay._prefix is not None
    assert len(replay._prefix.lengths) == 1
    before = [k.clone() for k in replay._prefix.keys if k is not None]
    replay.run(copies=2)
    assert all(torch.equal(a, b) for a, b in zip(before, replay._prefix.keys, strict=True))
    shared = SharedPrefix(replay._prefix, [0, 0])
    assert shared.lengths == [len(prompt)] * 2


def test_reading_the_tails():
    model = tiny_model("llama")
    rows, prompt_lens = texts()
    replay = Replay(model, rows, [p - 1 for p in prompt_lens], prompt_lens, prompt_lens)
    site = Site("mlp_out", 2)
    found = replay.read([site])[site]
    whole = torch.cat([
        model.forward([row], read=[site]).acts[site][0, p - 1 : -1] for row, p in zip(rows, prompt_lens, strict=True)
    ])  # fmt: skip
    assert torch.allclose(found, whole, atol=1e-4)


def test_texts_that_cannot_be_scored_are_named():
    model = tiny_model("llama")
    for keep, score_from in ((3, 3), (0, 5), (5, 4)):
        with pytest.raises(UserError, match="0 <= kept < scored < tokens"):
            Replay(model, [[1, 2, 3, 4, 5]], [keep], [score_from], [2])
    with pytest.raises(UserError, match="the same place"):
        Replay(model, [[1, 2, 3], [1, 2, 3]], [0, 1], [2, 2], [2, 2])
