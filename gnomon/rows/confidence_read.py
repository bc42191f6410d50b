"""One batch of a pass with bins: the distribution over the bins at the confidence position, in every order asked.

Letters cost one forward pass of the conversation and one of the list of bins in each order. Texts (`scoring:
likelihood`) are scored behind the prompt's keys and values, as choices are. The first order is the one whose
activations are kept; the stated letter or text is fed behind it where a position needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.rows.choose import Normalise, normalised
from gnomon.rows.confidence_prompts import Asked, Wording
from gnomon.rows.confidence_scale import Ask, Reading, Scale, read
from gnomon.rows.gather import Gather, Pick, Where, from_forward
from gnomon.rows.letters import letter_logprobs, letter_variants
from gnomon.tasks.prompts import continue_with
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.cache import KVCache
    from gnomon.models.model import Model, Out

BEHIND = {"last", "response", "all"}
"""Positions for which what was stated is fed behind the prompt."""
SHARED = 8
"""From this many tokens on, what both orders begin with is run once."""


@dataclass(frozen=True)
class Stating:
    """How a pass asks and what it keeps: the same for every row, and picklable."""

    ask: Ask
    words: Wording
    orders: tuple[bool, ...] = (False, True)
    """Whether the bins are reversed, in the order asked; the first one's activations are kept."""
    normalise: Normalise = "tokens"
    seed: int = 0
    batch_size: int = 16
    max_new_tokens: int = 16
    samples: int = 10
    temperature: float = 1.0
    stop: tuple[str, ...] = ()
    task: Any = None
    sites: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    dtype: str = "float32"

    @property
    def scale(self) -> Scale:
        """The bins; only of a pass that has some."""
        assert self.words.scale is not None
        return self.words.scale


@dataclass(frozen=True)
class Question:
    """A prompt that is run once, in every order asked, and the rows (with their answer's token) that want it."""

    asked: dict[bool, Asked]
    rows: tuple[tuple[int, int | None], ...]


@dataclass
class Stated:
    """What the model said to a question; columns of the table `confidence`. `ids`: the tokens behind the prompt."""

    ids: list[int]
    text: str
    parsed: str | None
    confidence: float | None
    choices: list[str] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    probs: list[float] = field(default_factory=list)
    mass: float | None = None
    entropy: float | None = None
    margin: float | None = None
    normal: float | None = None
    reversed: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def places(questions: Sequence[Question], stated: Sequence[Stated], reverse: bool) -> list[Where]:
    """Where the positions of a batch's rows lie."""
    return [
        Where(row, slot, len(q.asked[reverse].tokens), len(q.asked[reverse].tokens) + len(s.ids), answer)
        for slot, (q, s) in enumerate(zip(questions, stated, strict=True))
        for row, answer in q.rows
    ]


def read_batch(model: Model, questions: Sequence[Question], how: Stating, gather: Gather) -> list[Stated]:
    """Read the bins of a batch of questions, and keep the activations of the first order."""
    main, shown, run = how.orders[0], {}, None
    opening = _opening(model, questions, how)
    for reverse in reversed(how.orders):  # the one that is kept comes last: what is stated is known then
        texts = how.scale.scoring == "likelihood"
        fed = texts or (reverse == main and bool(how.sites) and bool(BEHIND & set(gather.positions)))
        prompt = _prompt(model, questions, reverse, opening, how.sites if reverse == main else (), fed)
        run = (_texts if texts else _letters)(model, questions, how, reverse, prompt)
        shown[reverse] = (run.scores, run.mass)
    assert run is not None
    reading = read(how.scale, shown)
    stated = [_stated(how, reading, i, shown) for i in range(len(questions))]
    order = how.scale.shown(main)
    places_shown = [order.index(int(b)) for b in reading.best]
    for each, options, k in zip(stated, run.options, places_shown, strict=True):
        each.ids = options[k]
    pieces = list(run.prompt.pieces)
    if run.tails is not None:
        width = len(order)
        slots = [i * width + k for i, k in enumerate(places_shown)]
        pieces.append(_Piece(run.tails, [len(q.asked[main].tokens) for q in questions], slots))
    elif run.prompt.cache is not None:
        pieces.append(_fed(model, questions, main, stated, run.prompt.cache, how.sites))
    gather.take(places(questions, stated, main), lambda picks: _values(pieces, picks))
    return stated


@dataclass(frozen=True)
class _Piece:
    """A pass over tokens of every row: row i of the batch is row `slots[i]` of `out`, from token `first[i]` on."""

    out: Out
    first: list[int]
    slots: list[int]


@dataclass(frozen=True)
class _Prompt:
    """The prompts of one order: logits behind them `[n, d_vocab]`, what ran, and their cache where one was wanted."""

    logits: Any
    pieces: list[_Piece]
    cache: KVCache | None


@dataclass(frozen=True)
class _Run:
    """One order of a batch: scores `[n, bins]` as shown, mass `[n]`, and the tokens of each row's options as shown (of
    a letter the variant that the model likes best). `tails`: the options' passes, row by row."""

    scores: np.ndarray
    mass: np.ndarray
    prompt: _Prompt
    options: list[list[list[int]]]
    tails: Out | None = None


def _opening(model: Model, questions: Sequence[Question], how: Stating) -> tuple[list[int], Out, KVCache] | None:
    """The tokens that both orders of a prompt begin with (conversation and question), run once: how many, the pass and
    its cache. None where only one order is asked, or a row shares too few."""
    pairs = [[q.asked[reverse].tokens for reverse in how.orders] for q in questions]
    if len(how.orders) < 2:
        return None
    cut = [next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), 0) for pair in pairs]
    if min(cut) < SHARED:
        return None
    cache = model.new_cache()
    out = model.forward([pair[0][:c] for pair, c in zip(pairs, cut, strict=True)], read=how.sites, cache=cache,
                        stop=model.n_layers)  # fmt: skip
    return cut, out, cache


def _prompt(
    model: Model, questions: Sequence[Question], reverse: bool, opening: tuple[list[int], Out, KVCache] | None,
    sites: Sequence[str], fed: bool,
) -> _Prompt:  # fmt: skip
    """Run the prompts of one order; `fed`: something will be fed behind them."""
    from gnomon.models.replay import SharedPrefix

    rows, prompts = list(range(len(questions))), [list(q.asked[reverse].tokens) for q in questions]
    if opening is None:
        cache = model.new_cache() if fed else None
        out = model.forward(prompts, read=sites, logits="last", cache=cache)
        return _Prompt(out.logits, [_Piece(out, [0] * len(rows), rows)], cache)
    cut, begun, held = opening
    cache = held.select(rows) if fed else SharedPrefix(held, rows)
    rest = [ids[c:] for ids, c in zip(prompts, cut, strict=True)]
    out = model.forward(rest, read=sites, logits="last", cache=cache)
    pieces = [_Piece(begun, [0] * len(rows), rows), _Piece(out, cut, rows)]
    return _Prompt(out.logits, pieces, cache if fed else None)


def _fed(
    model: Model, questions: Sequence[Question], main: bool, stated: Sequence[Stated], cache: KVCache,
    sites: Sequence[str],
) -> _Piece:  # fmt: skip
    """The stated letters run behind their prompts."""
    out = model.forward([s.ids for s in stated], read=sites, cache=cache, stop=model.n_layers)
    return _Piece(out, [len(q.asked[main].tokens) for q in questions], list(range(len(questions))))


def _letters(model: Model, questions: Sequence[Question], how: Stating, reverse: bool, prompt: _Prompt) -> _Run:
    scores = letter_logprobs(model, prompt.logits, how.scale.letters)
    options: list[list[list[int]]] = [[] for _ in questions]
    for letter in how.scale.letters:
        ids = letter_variants(model, letter)
        for each, best in zip(options, prompt.logits[:, ids].argmax(-1).tolist(), strict=True):
            each.append([ids[best]])
    return _Run(scores, np.exp(scores).sum(-1), prompt, options)


def _texts(model: Model, questions: Sequence[Question], how: Stating, reverse: bool, prompt: _Prompt) -> _Run:
    import torch

    from gnomon.models.replay import SharedPrefix

    assert prompt.cache is not None
    texts = [how.scale.texts[b] for b in how.scale.shown(reverse)]
    options = [[option_ids(model, q.asked[reverse].prompt, text) for text in texts] for q in questions]
    flat = [ids for each in options for ids in each]
    owner = [i for i, each in enumerate(options) for _ in each]
    sites = how.sites if reverse == how.orders[0] else ()
    tails = model.forward(flat, read=sites, cache=SharedPrefix(prompt.cache, owner), stop=model.n_layers)
    assert tails.resid is not None
    with torch.no_grad():
        # the prompt's last token predicts every option's first one; the others are predicted inside the option
        first = torch.log_softmax(prompt.logits.double(), -1)
        inside = [tails.resid[k, : len(ids) - 1] for k, ids in enumerate(flat)]
        later = _chosen(model, torch.cat(inside), [t for ids in flat for t in ids[1:]])
        begun = [float(first[i, ids[0]]) for i, ids in zip(owner, flat, strict=True)]
    ends = np.cumsum([len(ids) - 1 for ids in flat])[:-1]
    found = [np.r_[one, rest] for one, rest in zip(begun, np.split(later, ends), strict=True)]
    width = len(texts)
    total = np.array([one.sum() for one in found]).reshape(-1, width)
    scores = np.array([normalised(found[i : i + width], texts, how.normalise) for i in range(0, len(found), width)])
    return _Run(scores, np.exp(total).sum(-1), prompt, options, tails)


def _chosen(model: Model, resid: Any, targets: list[int]) -> np.ndarray:
    """log p of each target after each resid_post `[tokens, d_model]`, a few vocabulary rows at a time."""
    import torch

    from gnomon.models.score import LOGIT_ROWS

    parts = [np.zeros(0)]
    for begin in range(0, len(targets), LOGIT_ROWS):
        logits = model.logits_from(resid[begin : begin + LOGIT_ROWS]).float()
        target = torch.tensor(targets[begin : begin + LOGIT_ROWS], device=logits.device)[:, None]
        parts.append((logits.gather(1, target)[:, 0] - torch.logsumexp(logits, -1)).double().cpu().numpy())
    return np.concatenate(parts)


def option_ids(model: Model, prompt: str, text: str) -> list[int]:
    """Tokens of a bin's text behind a prompt, with a space in between where the prompt ends in a word."""
    return model.encode_text(continue_with(prompt, text))


def _stated(how: Stating, reading: Reading, i: int, shown: dict[bool, Any]) -> Stated:
    scale, best = how.scale, int(reading.best[i])
    letters = scale.scoring == "letters"
    orders = {"reversed" if r else "normal": [float(v) for v in scores[i]] for r, (scores, _) in shown.items()}
    return Stated(
        ids=[],
        text=scale.letter(best, how.orders[0]) if letters else scale.texts[best],
        parsed=scale.texts[best],
        confidence=float(reading.confidence[i]),
        choices=list(scale.texts),
        logits=reading.logits[i].tolist(),
        probs=reading.probs[i].tolist(),
        mass=float(reading.mass[i]),
        entropy=float(reading.entropy[i]),
        margin=float(reading.margin[i]),
        normal=None if reading.normal is None else float(reading.normal[i]),
        reversed=None if reading.reversed is None else float(reading.reversed[i]),
        meta={"shown_scores": orders},
    )


def _values(pieces: Sequence[_Piece], picks: Sequence[Pick]) -> dict[Site, Any]:
    """Values of picked tokens, each from the pass that ran it."""
    import torch

    found: dict[Site, list[Any]] = {}
    for slot, start, stop in picks:
        ends = [piece.first[slot] for piece in pieces[1:]] + [stop]
        for piece, end in zip(pieces, ends, strict=True):
            first = piece.first[slot]
            a, b = max(start, first), min(stop, end)
            if a < b:
                for site, values in from_forward(piece.out, [(piece.slots[slot], a - first, b - first)]).items():
                    found.setdefault(site, []).append(values)
    return {site: torch.cat(parts) for site, parts in found.items()}
