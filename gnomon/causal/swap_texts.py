"""Swapping activations between two texts: one vector of the recipient's stream is replaced by the donor's.

    x_L[i] <- y_L[j]        x the recipient's resid_post, y the donor's, both from clean runs

A recipient's whole text runs once, clean, with its keys and values kept and its streams read. A swap at layer L and
token i then runs only the tokens from i on through the blocks after L; other donors ride in the same batch as copies.
Cost of a swap: (tokens from i on) x (blocks after L) / blocks, in forward tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gnomon.causal.swap_items import Read, View
from gnomon.halving import run_halving
from gnomon.types import Site

if TYPE_CHECKING:
    import torch

    from gnomon.models.cache import KVCache
    from gnomon.models.model import Model

VIEW_ROWS = 16
"""Most texts whose streams are read at once for their vectors."""


class Clean:
    """A batch of texts, run once; then with single vectors of their streams replaced.

    values `[rows]`: what is measured, without any swap.
    """

    def __init__(self, model: Model, views: Sequence[View], layers: Sequence[int]) -> None:
        self.model, self.views = model, list(views)
        self.cache = model.new_cache()
        sites = [Site("resid_post", layer) for layer in layers]
        texts = [list(v.run) for v in views]
        out = model.forward(texts, read=sites, cache=self.cache, stop=model.n_layers)
        self.streams = {site.layer: out.acts[site] for site in sites}
        assert out.resid is not None
        self.values = measured(model, self.views, out.resid, [0] * len(texts), self.cache)

    def swapped(
        self, rows: Sequence[int], at: Sequence[int], layer: int, new: Sequence[Sequence[torch.Tensor]]
    ) -> np.ndarray:
        """What is measured when row rows[i]'s resid_post of `layer` at token at[i] becomes new[c][i]: `[copies, i]`."""
        import torch

        stream = self.streams[layer]
        views = [self.views[r] for r in rows]
        tails = [list(v.run[a:]) for v, a in zip(views, at, strict=True)]
        width = max(map(len, tails))
        x = stream.new_zeros(len(rows), width, stream.shape[-1])
        for i, (row, a, tail) in enumerate(zip(rows, at, tails, strict=True)):
            x[i, : len(tail)] = stream[row, a : a + len(tail)]
        x = x.repeat(len(new), 1, 1)
        x[:, 0] = torch.stack([v for copy in new for v in copy]).to(x)
        rows, at, views, tails = (list(v) * len(new) for v in (rows, at, views, tails))
        cache = self._before(rows, at, any(v.read.lengths for v in views))
        out = self.model.forward(tails, cache=cache, start=(layer + 1, x), stop=self.model.n_layers)
        assert out.resid is not None
        return measured(self.model, views, out.resid, at, cache).reshape(len(new), -1)

    def _before(self, rows: Sequence[int], at: Sequence[int], stored: bool) -> KVCache:
        """Clean keys and values of what precedes token at[i] of text rows[i]; with `stored` those of the tail join it.

        The layers up to the swapped one are not run again: there a stored cache holds the clean tail's already.
        """
        from gnomon.models.replay import SharedPrefix

        if stored:
            out = self.cache.select(rows)
            out.lengths = list(at)
            return out
        out = SharedPrefix(self.cache, rows)
        out.lengths = list(at)
        return out


def donated(
    model: Model, held: Mapping[int, tuple[View, ...]], wanted: Iterable[tuple[int, int, int]], layers: Sequence[int],
    halved: list[int] | None = None,
) -> tuple[dict[tuple[int, int, int], torch.Tensor], dict[tuple[int, int], float]]:  # fmt: skip
    """Streams `[layers, d_model]` of (row, view, token), and what each of these views says by itself."""
    import torch

    sites = [Site("resid_post", layer) for layer in layers]
    places: dict[tuple[int, int], set[int]] = {}
    for row, view, at in wanted:
        places.setdefault((row, view), set()).add(at)
    order = sorted(places, key=lambda t: (len(held[t[0]][t[1]].run), t))
    vectors: dict[tuple[int, int, int], torch.Tensor] = {}
    clean: dict[tuple[int, int], float] = {}

    def read(part: Sequence[tuple[int, int]]) -> list[None]:
        views = [held[row][view] for row, view in part]
        cache = model.new_cache() if any(v.read.lengths for v in views) else None
        out = model.forward([list(v.run) for v in views], read=sites, cache=cache, stop=model.n_layers)
        assert out.resid is not None
        said = measured(model, views, out.resid, [0] * len(views), cache)
        for i, key in enumerate(part):
            clean[key] = float(said[i])
            for at in places[key]:
                vectors[*key, at] = torch.stack([out.acts[site][i, at] for site in sites])
        return []

    for begin in range(0, len(order), VIEW_ROWS):
        run_halving(read, order[begin : begin + VIEW_ROWS], halved)
    return vectors, clean


def measured(
    model: Model, views: Sequence[View], resid: torch.Tensor, starts: Sequence[int], cache: KVCache | None
) -> np.ndarray:
    """What each view says, `[views]`, from the last block's stream `[views, width, d]`; its slot 0 is token starts[i].

    `cache` holds the keys and values of these texts; only options of several tokens need it.
    """
    import torch

    flat = torch.cat([resid[i, [at - starts[i] for at in v.reads]] for i, v in enumerate(views)])
    logp = _logprobs(model, flat)
    out, first = np.full(len(views), np.nan), 0
    for i, view in enumerate(views):
        rows, read = logp[first : first + len(view.reads)], view.read
        first += len(view.reads)
        if not read.options:
            said = rows.gather(1, torch.tensor([[view.tokens[at + 1]] for at in view.reads], device=rows.device))
            out[i] = float(said.mean().exp())
        elif not read.lengths:
            out[i] = _expected(torch.stack([torch.logsumexp(rows[0, list(ids)], 0) for ids in read.options]), read)
    texts = [i for i, v in enumerate(views) if v.read.lengths]
    if texts:
        assert cache is not None
        ends = np.cumsum([len(v.reads) for v in views]) - 1
        out[texts] = _by_texts(model, [views[i] for i in texts], logp[ends[texts]], texts, cache)
    return out


def _by_texts(
    model: Model, views: Sequence[View], last: torch.Tensor, rows: Sequence[int], cache: KVCache
) -> list[float]:
    """Expected values of views whose options are texts: each runs behind its view's keys and values."""
    import torch

    from gnomon.models.replay import SharedPrefix

    flat = [list(ids) for v in views for ids in v.read.options]
    owner = [k for k, v in enumerate(views) for _ in v.read.options]
    inner = [ids[:-1] for ids in flat]
    found = [float(last[k, ids[0]]) for k, ids in zip(owner, flat, strict=True)]
    long = [j for j, ids in enumerate(inner) if ids]
    if long:
        prefix = SharedPrefix(cache, [rows[owner[j]] for j in long])
        out = model.forward([inner[j] for j in long], cache=prefix, stop=model.n_layers)
        assert out.resid is not None
        for i, j in enumerate(long):
            logp = _logprobs(model, out.resid[i, : len(inner[j])])
            found[j] += float(logp.gather(1, torch.tensor(flat[j][1:], device=logp.device)[:, None]).sum())
    said, first = [], 0
    for view in views:
        scores = found[first : first + len(view.read.options)]
        first += len(scores)
        divided = torch.tensor(scores, dtype=torch.float64) / torch.tensor(view.read.lengths, dtype=torch.float64)
        said.append(_expected(divided, view.read))
    return said


def _expected(scores: torch.Tensor, read: Read) -> float:
    import torch

    return float(torch.softmax(scores, 0).cpu() @ torch.tensor(read.values, dtype=scores.dtype))


def _logprobs(model: Model, resid: torch.Tensor) -> torch.Tensor:
    """log p over the vocabulary of stream vectors `[n, d]`, float64, a few rows at a time."""
    import torch

    from gnomon.models.score import LOGIT_ROWS

    with torch.no_grad():
        parts = [model.logits_from(part).double() for part in resid.split(LOGIT_ROWS)]
        return torch.cat([part - torch.logsumexp(part, -1, keepdim=True) for part in parts])
