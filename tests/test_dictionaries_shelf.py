"""The shelf holds its budget, puts back what was used longest ago, and says before any loading what tracing takes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest

from gnomon.dictionaries.base import canonical
from gnomon.dictionaries.shelf import Shelf, dictionary_bytes, estimate
from gnomon.errors import UserError
from tests.tiny import tiny_model, tiny_prompts

D, N = 8, 24
ONE = dictionary_bytes(D, N)


@dataclass
class Given:
    site: str
    made: list = field(default_factory=list)

    def load(self):
        rng = np.random.default_rng(len(self.made))
        w = rng.standard_normal((N, D))
        self.made.append(canonical(self.site, w.T, np.zeros(N), w, np.zeros(D)))
        return self.made[-1]


def sources(n=4):
    return [Given(f"resid_post.{i}") for i in range(n)]


def tensor_bytes(one) -> int:
    return sum(t.numel() * t.element_size() for tensors in one._kept.values() for t in tensors.values())


def test_the_budget_counts_what_the_tensors_really_take():
    import torch

    given = sources(1)[0]
    one = given.load()
    one.encode(torch.zeros(1, D))
    assert tensor_bytes(one) == ONE


def test_least_lately_used_leaves_and_the_budget_holds():
    import torch

    given = sources()
    shelf = Shelf(given, budget=2 * ONE)
    for site in (0, 1, 0, 2, 0, 1):
        shelf[f"resid_post.{site}"].encode(torch.zeros(1, D))
        held = sum(tensor_bytes(one) for source in given for one in source.made)
        assert held <= 2 * ONE, "tensors of a dictionary that was put back are still there"
        assert shelf.held <= 2 * ONE
    # 0 was always used lately, so only 1 was fetched twice
    assert [len(g.made) for g in given] == [1, 2, 1, 0]
    assert (shelf.loads, shelf.evictions, shelf.peak) == (4, 2, 2 * ONE)
    shelf.clear()
    assert shelf.held == 0


def test_room_is_made_before_a_dictionary_is_read():
    shelf = Shelf(given := sources(), budget=2 * ONE)
    seen = []
    for one in given:
        read = one.load
        one.load = lambda read=read: seen.append(shelf.held) or read()
    for site in shelf.sites:
        shelf[site]
    assert seen == [0, ONE, ONE, ONE], "what is being read is in memory too"


def test_without_a_budget_everything_stays():
    shelf = Shelf(given := sources())
    for _ in range(2):
        for site in shelf.sites:
            assert shelf[site].site == site
    assert [len(g.made) for g in given] == [1] * 4
    assert shelf.evictions == 0
    assert shelf.peak == 4 * ONE


def test_a_budget_too_small_for_one_dictionary_and_a_site_without_one():
    with pytest.raises(UserError, match="budget"):
        Shelf(sources(), budget=ONE - 1)["resid_post.0"]
    with pytest.raises(UserError, match=r"resid_post\.9"):
        Shelf(sources())["resid_post.9"]
    with pytest.raises(UserError, match="one a site"):
        Shelf([*sources(1), *sources(1)])
    with pytest.raises(UserError, match="budget"):
        estimate({"parameters": 10, "n_layers": 2, "d_model": D}, [(D, N)], ONE - 1)


def test_an_8b_model_with_31_dictionaries_stays_under_28_gb():
    facts = {"parameters": 8_030_261_248, "n_layers": 32, "d_model": 4096, "d_mlp": 14336}
    widths = [(4096, 32768)] * 31
    whole = estimate(facts, widths, dtype="bfloat16")
    assert whole.total > 28e9, "31 dictionaries at once do not fit: that is why there is a shelf"
    assert whole.dictionaries == 31
    found = estimate(facts, widths, int(5e9), dtype="bfloat16")
    assert found.dictionaries == 4
    assert found.model > 16e9
    found.require(int(28e9))
    with pytest.raises(UserError, match="dictionaries"):
        whole.require(int(28e9))


class Live:
    """Most bytes of tensors that were alive at once, of all that operations made (views counted once)."""

    def __init__(self) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        outer, self.now, self.peak, self.here = self, 0, 0, {}

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                for leaf in tree_leaves(out):
                    if hasattr(leaf, "untyped_storage"):
                        outer.saw(leaf.untyped_storage())
                return out

        self.mode = Watch()

    def saw(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.here:
            self.here[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.gone, key)

    def gone(self, key) -> None:
        self.now -= self.here.pop(key, 0)


def traced_bytes(budget: int | None) -> tuple[int, int]:
    """(measured peak of tensors, estimate without the model) of tracing two targets through four dictionaries."""
    from gnomon.latents import Latent
    from gnomon.paths.trace import Goal, Tracer
    from gnomon.types import Site

    model, n = tiny_model("llama", "float64"), 3000
    texts = {i: tuple(t) for i, t in enumerate(tiny_prompts(model, 4))}

    @dataclass
    class Made:
        site: str

        def load(self):
            rng = np.random.default_rng(len(self.site))
            w = rng.standard_normal((n, model.d_model)).astype(np.float32)
            return canonical(self.site, w.T, np.zeros(n), w, np.zeros(model.d_model), activation="topk", k=8)

    shelf = Shelf([Made(f"resid_post.{i}") for i in range(4)], budget, 8)
    high = Site("resid_post", 3)
    z = shelf[high].encode(model.forward([texts[0]], read=[high]).acts[high][0, -1])
    goals = [Goal(Latent(high, int(i)), tuple(texts)) for i in z.topk(2).indices]
    shelf.clear()
    live = Live()
    with live.mode:
        Tracer(model, shelf, ("total", "mediated", "dark")).trace(goals, texts)
    facts = {"parameters": 0, "n_layers": 4, "d_model": model.d_model, "d_mlp": model.d_mlp}
    tokens = 4 * max(map(len, texts.values()))
    said = estimate(facts, [(model.d_model, n)] * 4, budget, dtype="float64", tokens=tokens, active=8, chunk=2)
    return live.peak, said.total


def test_a_tight_shelf_takes_what_the_estimate_says():
    one = dictionary_bytes(32, 3000, 8)
    wide, wide_said = traced_bytes(None)
    tight, said = traced_bytes(int(1.5 * one))
    assert wide > 4 * one, "all dictionaries are there at once"
    assert tight < wide - 2.5 * one, "a tight budget saves what it does not hold"
    for measured, estimated in ((wide, wide_said), (tight, said)):
        assert 0.3 * estimated < measured < 1.3 * estimated
