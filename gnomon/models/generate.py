"""Decoding with a key-value cache, capturing the wanted sites and positions in the same pass.

The prompt runs right-padded and without a mask, so its activations are the bytes that `forward` gives; then one token
a row and step. Only a batch whose prompts differ in length needs a mask. A finished row stays until half of the batch
is finished, then the rest moves on alone: a rule of the data only, so the same batch gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from gnomon.errors import UserError, unknown
from gnomon.models.cache import CHUNK, KVCache, check_continued
from gnomon.models.generated import Finish, Generated, Response, SiteActs, Store
from gnomon.models.hooks import Taps, registered
from gnomon.models.layout import Layout
from gnomon.models.sampling import Noise
from gnomon.models.tokens import continuation_text, decode, find_stop, tokens_before
from gnomon.sites import POSITIONS
from gnomon.types import Intervention, Progress, Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

__all__ = ["Generated", "Options", "Response", "SiteActs", "generate"]


@dataclass(frozen=True)
class Options:
    """How to decode. temperature 0 is greedy; `noise(row, step)` gives the Gumbel noise of sampling."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float | Sequence[float] = 0.0
    top_p: float = 1.0
    noise: Noise | None = None
    top_k_logits: int = 0

    def check(self, rows: int) -> list[float]:
        """The temperature of each row; UserError for values that cannot be."""
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}", "at least 1")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}", "a number above 0, at most 1")
        one = isinstance(self.temperature, int | float)
        each = [float(self.temperature)] * rows if one else [float(t) for t in self.temperature]  # pyright: ignore
        if len(each) != rows or any(not np.isfinite(t) or t < 0 for t in each):
            raise UserError(f"temperature is {self.temperature}", "a number of at least 0, or one for each row")
        if any(each) and self.noise is None:
            raise UserError("sampling without noise", "noise=gnomon.models.noise(seed, names, d_vocab)")
        return each


@dataclass
class _Row:
    """The state of one row while it is decoded."""

    prompt: list[int]
    temperature: float
    ids: list[int] = field(default_factory=list)
    kept: int = 0
    fed: int = 0
    finish: Finish | None = None
    text: str | None = None
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    first: tuple[float, float, float] = (0.0, 0.0, 0.0)


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    read: Sequence[Site],
    positions: Sequence[str],
    edit: Sequence[Intervention],
    options: Options,
    progress: Progress | None = None,
    prefix: KVCache | None = None,
) -> Generated:
    """Decode one batch of prompts (token lists) and capture `read` at `positions`.

    prefix: a cache of all but the last token of every prompt, row for row, that is continued and used up; only for
    edits of the last prompt token and of generated ones, and not with the position `all`.
    positions: any of last_prompt, last, answer, response, all. `answer` keeps every response token, so that the caller
    may pick the answer's after grading; `last` is the last kept token, fed for that purpose where decoding ended
    before it was. Edits see rows by their index in `prompts`; under the cache they act on each token as it is fed.
    """
    for position in positions:
        if position not in POSITIONS:
            raise unknown("position", position, POSITIONS)
    if bool(read) != bool(positions):
        raise UserError("sites without positions, or positions without sites", "both or neither")
    if prefix is not None:
        check_continued(prefix, prompts, positions, edit)
    decoder = _Decoder(model, prompts, read, frozenset(positions), edit, options, prefix)
    with torch.no_grad(), registered(model.body, decoder.taps):
        decoder.run(progress)
    return decoder.result()


class _Decoder:
    """One batch being decoded."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        read: Sequence[Site],
        positions: frozenset[str],
        edit: Sequence[Intervention],
        options: Options,
        prefix: KVCache | None = None,
    ) -> None:
        temperatures = options.check(len(prompts))
        self.model, self.options, self.positions = model, options, positions
        self.rows = [_Row(list(p), t) for p, t in zip(prompts, temperatures, strict=True)]
        self.taps = Taps(read, edit, model.d_head)
        self.store = Store.of(read, [model.site_shape(site) for site in read], "all" in positions)
        self.active = list(range(len(self.rows)))
        self.cache = prefix or KVCache(model.n_layers, reserve=min(options.max_new_tokens, CHUNK))
        self.continued = prefix is not None
        self.steps = 0
        # Between the newest token and the last one kept lie at most the tokens of a stop string.
        self.ring = None if positions & {"answer", "response", "all"} else _window(options.stop) + 2

    @property
    def wants_response(self) -> bool:
        return bool(self.positions - {"last_prompt"})

    def run(self, progress: Progress | None) -> None:
        logits: torch.Tensor | None = self._prompt()
        while True:
            if logits is not None:
                self._choose(logits)
                if progress is not None:
                    progress(sum(self.rows[i].finish is None for i in self.active))
            self._pin()  # before a finished row leaves the batch
            waiting = [i for i in self.active if self._waiting(self.rows[i])]
            if not waiting:
                return
            if len(waiting) <= len(self.active) // 2:
                self.cache = self.cache.select([self.active.index(i) for i in waiting])
                self.active = waiting
            logits = self._step()

    def _waiting(self, row: _Row) -> bool:
        """Still decoding, or with a kept token whose activation is wanted and that was never fed."""
        return row.finish is None or (self.wants_response and row.kept > row.fed)

    def _prompt(self) -> torch.Tensor:
        model = self.model
        prompts = [len(row.prompt) for row in self.rows]
        ids, lengths = model.batch([row.prompt[-1:] if self.continued else row.prompt for row in self.rows])
        held = (self.cache.lengths, self.cache.shifts) if self.continued else (None, None)
        layout = Layout(lengths, ids.shape[1], model.device, held[0], prompts, shifts=held[1])
        index = torch.arange(len(lengths), device=model.device)
        ends = torch.tensor(lengths, device=model.device) - 1
        self.taps.layout = layout
        self.taps.keep = None if self.store.whole_prompt else lambda x: x[index.to(x.device), ends.to(x.device)]
        x = self._blocks(ids, layout, model.n_layers)
        self.store.prompt, self.taps.values, self.taps.keep = self.taps.values, {}, None
        self.cache.advance(lengths)
        self.cache.align()
        return model.logits_from(x[index, ends])

    def _step(self) -> torch.Tensor | None:
        """Feed every active row's newest token; None where only activations were wanted."""
        rows = [self.rows[i] for i in self.active]
        model, need = self.model, any(row.finish is None for row in rows)
        ids = torch.tensor([[row.ids[-1]] for row in rows], device=model.device)
        counts = [int(self._waiting(row)) for row in rows]
        prompt_lens = [len(row.prompt) for row in rows]
        layout = Layout(counts, 1, model.device, self.cache.lengths, prompt_lens, self.active, self.cache.shifts)
        self.taps.layout = layout
        x = self._blocks(ids, layout, model.n_layers if need else self.taps.last_layer + 1)
        self.cache.advance([1] * len(rows))
        self.steps += 1
        for row in rows:
            row.fed += 1
        if self.store.groups and self.wants_response:
            self.store.add(self.taps.values, self.active, self.ring)
        return model.logits_from(x[:, 0]) if need else None

    def _pin(self) -> None:
        """Keep the last response token of rows that are done, before a later step pushes it out of the ring."""
        if self.ring is None:
            return
        for i in self.active:
            row = self.rows[i]
            if row.finish is not None and row.kept <= row.fed and (i, row.kept - 1) not in self.store.pinned:
                self.store.pin(i, row.kept - 1)

    def _blocks(self, ids: torch.Tensor, layout: Layout, stop: int) -> torch.Tensor:
        self.cache.begin(ids.shape[0], ids.shape[1], ids.device)
        x = self.taps.visit("embed", 0, self.model.body.embed(ids, layout))
        return self.model.body.run(x, layout, self.taps, stop=stop, cache=self.cache)

    def _choose(self, logits: torch.Tensor) -> None:
        """Pick every active row's next token from `logits [active, d_vocab]` and see whether the row is finished."""
        logits = logits.float()
        rows = [self.rows[i] for i in self.active]
        chosen = self._sampled(logits, rows).argmax(-1)
        spread = torch.logsumexp(logits, -1)
        found = (logits.gather(1, chosen[:, None])[:, 0] - spread).tolist()
        k = self.options.top_k_logits
        top = torch.topk(logits, k, dim=-1) if k else None
        top_ids, top_values = (top.indices.tolist(), top.values.tolist()) if top else ([], [])
        if not rows[0].ids:
            for row, first in zip(rows, _first_token(logits, spread), strict=True):
                row.first = first
        for slot, (row, token, logprob) in enumerate(zip(rows, chosen.tolist(), found, strict=True)):
            if row.finish is not None:
                row.ids.append(token)  # a finished row is fed along until it leaves; nothing of it is kept
                continue
            row.ids.append(token)
            row.logprobs.append(logprob)
            if top:
                row.top.append((top_ids[slot], top_values[slot]))
            self._ended(row, token)

    def _sampled(self, logits: torch.Tensor, rows: Sequence[_Row]) -> torch.Tensor:
        """Logits whose argmax is the next token: after temperature and top-p, plus the keyed noise."""
        if not any(row.temperature for row in rows):
            return logits
        scale = torch.tensor([row.temperature or 1.0 for row in rows], device=logits.device)
        scores = logits / scale[:, None]
        if self.options.top_p < 1:
            scores = _nucleus(scores, self.options.top_p)
        assert self.options.noise is not None
        empty = np.zeros(logits.shape[-1], np.float32)
        drawn = [
            self.options.noise(i, len(row.ids)) if row.temperature and row.finish is None else empty
            for i, row in zip(self.active, rows, strict=True)
        ]
        return scores + torch.from_numpy(np.stack(drawn).astype(np.float32)).to(scores.device)

    def _ended(self, row: _Row, token: int) -> None:
        row.kept = len(row.ids)
        if token in self.model.stop_ids:
            row.finish, row.kept = "eos", len(row.ids) - 1
            return
        if self.options.stop:
            tokenizer, window = self.model.tokenizer, _window(self.options.stop)
            if find_stop(decode(tokenizer, row.ids[-window:]), self.options.stop) is not None:
                text = continuation_text(tokenizer, row.prompt, row.ids)
                cut = find_stop(text, self.options.stop)
                if cut is not None:
                    row.finish, row.text = "stop", text[:cut]
                    row.kept = tokens_before(tokenizer, row.prompt, row.ids, cut)
                    return
        if len(row.ids) >= self.options.max_new_tokens:
            row.finish = "length"

    def result(self) -> Generated:
        prompt_lens = [len(row.prompt) for row in self.rows]
        kept = [row.kept for row in self.rows]
        acts = {site: SiteActs(site, self.store, place, prompt_lens, kept) for site, place in self.store.sites.items()}
        return Generated([self._response(row) for row in self.rows], prompt_lens, acts, self.steps)

    def _response(self, row: _Row) -> Response:
        ids = row.ids[: row.kept]
        text = row.text if row.text is not None else continuation_text(self.model.tokenizer, row.prompt, ids)
        assert row.finish is not None
        top = row.top[: row.kept] if self.options.top_k_logits else None
        return Response(
            ids,
            text,
            row.finish,
            np.array(row.logprobs[: row.kept], np.float32),
            *row.first,
            np.array([t[0] for t in top], np.int32).reshape(len(top), -1) if top is not None else None,
            np.array([t[1] for t in top], np.float32).reshape(len(top), -1) if top is not None else None,
        )


def _window(stop: Sequence[str]) -> int:
    """Most tokens that a stop string can span: a character takes at most four byte-level tokens."""
    return 4 * max((len(s) for s in stop), default=0) + 1


def _first_token(logits: torch.Tensor, spread: torch.Tensor) -> list[tuple[float, float, float]]:
    """(max probability, entropy in nats, margin of the two highest logits) of each row's first distribution."""
    logp = logits - spread[:, None]
    entropy = -(logp.exp() * logp).nan_to_num().sum(-1)
    top = torch.topk(logits, 2, dim=-1).values
    best = (top[:, 0] - spread).exp()
    return list(zip(best.tolist(), entropy.tolist(), (top[:, 0] - top[:, 1]).tolist(), strict=True))


def _nucleus(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """-inf outside the smallest set of tokens whose probability reaches top_p (the first token always stays)."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    probability = ordered.softmax(-1)
    outside = probability.cumsum(-1) - probability >= top_p
    return scores.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), -torch.inf)
