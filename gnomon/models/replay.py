"""Run many edits of the same texts, redoing only what an edit can change.

Two things are shared by all edits of a text and computed once: the keys and values of the leading tokens that no edit
touches (causality: nothing behind them can change them), and the stream below the lowest edited block. Edits then
join one batch as copies of its rows. Cost of an edit: (tokens from the first edited one on) x (blocks from the edited
one on), against the whole text through all blocks; on short answers with an edit at the last prompt token that is
about a twentieth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gnomon.errors import UserError
from gnomon.models.cache import KVCache
from gnomon.models.score import LOGIT_ROWS
from gnomon.types import Intervention, Site

if TYPE_CHECKING:
    from gnomon.models.model import Model


COMMON = 8
"""From this many tokens on, an opening that all texts share is run once."""


class SharedPrefix(KVCache):
    """Keys and values of finished prefixes that many rows continue and none of them changes.

    Row r continues `prefix` row `source[r]`. Nothing is copied until a layer is reached, and then only that layer's.
    """

    def __init__(self, prefix: KVCache, source: Sequence[int]) -> None:
        super().__init__(len(prefix.keys), prefix.reserve)
        self.prefix, self.source = prefix, list(source)
        self.lengths = [prefix.lengths[row] for row in self.source]
        self.shifts = [prefix.shifts[row] for row in self.source]

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The row's prefix and its new tokens, `[rows, kv_heads, slots, d_head]`; nothing is kept."""
        return self._join(self.prefix.keys, key, layer_idx), self._join(self.prefix.values, value, layer_idx)

    def _join(self, buffers: list[torch.Tensor | None], new: torch.Tensor, layer: int) -> torch.Tensor:
        held = buffers[layer]
        if held is None:
            raise ValueError(f"the prefix holds no keys for layer {layer}")
        index = torch.tensor(self.source, device=new.device)
        out = new.new_empty(new.shape[0], new.shape[1], self._past + new.shape[2], new.shape[3])
        out[:, :, : self._past] = held[:, :, : self._past].index_select(0, index)
        if self._slots is None:
            out[:, :, self._past :] = new
        else:
            out[:, :, self._past :] = 0
            rows = torch.arange(new.shape[0], device=new.device)[:, None]
            out[rows, :, self._slots.to(new.device)] = new.transpose(1, 2)
        return out


@dataclass(frozen=True)
class Scored:
    """Scores of the continuation of each row under each copy: all `[copies, rows]`.

    logprob: sum of log p of the scored tokens (nats). greedy: every scored token is the likeliest one. first: the
    likeliest token at the first scored place.
    """

    logprob: np.ndarray
    greedy: np.ndarray
    first: np.ndarray


class Replay:
    """A batch of texts, run once clean and then as often as wanted with edits.

    Args:
        model: the model.
        tokens: whole texts, one token list a row.
        keep: how many leading tokens of each row no edit will touch (0: all may be edited).
        score_from: index of each row's first scored token; the rest of the text after it is scored too.
        prompt_lens: what "prompt", "generated" and "last_prompt" mean to edits.

    Raises:
        UserError: where a row has nothing to score, or its first scored token is predicted from a kept one.
    """

    def __init__(
        self,
        model: Model,
        tokens: Sequence[Sequence[int]],
        keep: Sequence[int],
        score_from: Sequence[int],
        prompt_lens: Sequence[int],
    ) -> None:
        for row, (text, kept, first) in enumerate(zip(tokens, keep, score_from, strict=True)):
            if not 0 <= kept < first < len(text):
                raise UserError(
                    f"row {row}: {len(text)} tokens, {kept} kept, scored from {first}", "0 <= kept < scored < tokens"
                )
        self.model = model
        self.tokens, self.keep = [list(t) for t in tokens], list(keep)
        self.score_from, self.prompt_lens = list(score_from), list(prompt_lens)
        self.tails = [t[k:-1] for t, k in zip(self.tokens, self.keep, strict=True)]
        self.width = max(map(len, self.tails))
        self._prefix, self._source = self._run_prefixes()
        self._streams: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def _run_prefixes(self) -> tuple[KVCache | None, list[int]]:
        """One clean pass over the different prefixes; rows that share one (the choices of a question) share it here."""
        if not all(self.keep):
            if any(self.keep):
                raise UserError("some rows keep a prefix and others do not", "the same place of edit in all rows")
            return None, []
        prefixes: dict[tuple[int, ...], int] = {}
        source = [prefixes.setdefault(tuple(t[:k]), len(prefixes)) for t, k in zip(self.tokens, self.keep, strict=True)]
        rows = list(map(list, prefixes))
        common = _common(rows)
        cache = self.model.new_cache()
        if common < COMMON or len(rows) == 1:
            self.model.forward(rows, cache=cache)
            return cache, source
        self.model.forward([rows[0][:common]], cache=cache)  # a chat template's opening is the same in every prompt
        cache = cache.select([0] * len(rows))
        self.model.forward([row[common:] for row in rows], cache=cache)
        return cache, source

    def _cache(self, copies: int = 1) -> KVCache | None:
        return None if self._prefix is None else SharedPrefix(self._prefix, self._source * copies)

    def stream(self, layer: int) -> torch.Tensor:
        """Clean resid_pre of block `layer` at the tails, `[rows, width, d_model]`, from the nearest one below."""
        if layer not in self._streams:
            below = max((done for done in self._streams if done < layer), default=None)
            start = None if below is None else (below, self._streams[below])
            out = self.model.forward(self.tails, cache=self._cache(), start=start, stop=layer)
            assert out.resid is not None
            self._streams[layer] = out.resid
        return self._streams[layer]

    def forget(self, below: int) -> None:
        """Drop the kept streams below a layer, for sweeps that go up the layers."""
        self._streams = {layer: x for layer, x in self._streams.items() if layer >= below}

    def run(self, edits: Sequence[Intervention] = (), copies: int = 1, rows: Sequence[int] | None = None) -> Scored:
        """Score `copies` repetitions of the batch under edits: row i of copy c is row c * len(self) + i to them, or
        what `rows [copies * len(self)]` says."""
        active = [edit for edit in edits if edit.strength != 0]
        out = self.model.forward(
            self.tails * copies, edit=active, cache=self._cache(copies), start=self._start(active, copies),
            prompt_lens=self.prompt_lens * copies, rows=rows,
        )  # fmt: skip
        assert out.resid is not None
        return self._score(out.resid, copies)

    def _start(self, edits: Sequence[Intervention], copies: int) -> tuple[int, torch.Tensor] | None:
        if any(edit.site.component == "embed" for edit in edits):
            return None
        layer = min((edit.site.layer for edit in edits), default=0)
        return layer, self.stream(layer).repeat(copies, 1, 1)

    def read(self, sites: Sequence[Site | str]) -> dict[Site, torch.Tensor]:
        """Clean activations of the tails' tokens at some sites, ragged: `[tokens, d]` each, row by row."""
        out = self.model.forward(self.tails, read=sites, cache=self._cache())
        return {site: out.values(site) for site in out.acts}

    def _score(self, resid: torch.Tensor, copies: int) -> Scored:
        n = len(self)
        rows, slots, targets = [], [], []
        for row in range(n):
            for at in range(self.score_from[row], len(self.tokens[row])):
                rows.append(row)
                slots.append(at - 1 - self.keep[row])
                targets.append(self.tokens[row][at])
        count = len(rows)
        device = resid.device
        batch = torch.tensor([c * n + r for c in range(copies) for r in rows], device=device)
        flat = resid[batch, torch.tensor(slots * copies, device=device)]
        target = torch.tensor(targets * copies, device=device)
        logp, best = [], []
        with torch.no_grad():
            for begin in range(0, len(flat), LOGIT_ROWS):
                logits = self.model.logits_from(flat[begin : begin + LOGIT_ROWS]).float()
                chosen = logits.gather(1, target[begin : begin + LOGIT_ROWS, None])[:, 0]
                logp.append((chosen - torch.logsumexp(logits, -1)).cpu().numpy())
                best.append(logits.argmax(-1).cpu().numpy())
        log_p = np.concatenate(logp).astype(np.float64).reshape(copies, count)
        top = np.concatenate(best).reshape(copies, count)
        starts = np.flatnonzero(np.r_[True, np.diff(rows) != 0])
        greedy = np.logical_and.reduceat(top == np.array(targets), starts, axis=1)
        return Scored(np.add.reduceat(log_p, starts, axis=1), greedy, top[:, starts])


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share, leaving each at least one of its own."""
    shortest = min(map(len, rows)) - 1
    for at in range(shortest):
        if any(row[at] != rows[0][at] for row in rows):
            return at
    return shortest
