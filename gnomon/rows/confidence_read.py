"""One batch of a pass with bins: the distribution over the bins at the confidence position, in every order asked.

Letters cost one forward pass of the prompt in each order. Texts (`scoring: likelihood`) are scored behind the prompt's
keys and values, as choices are. The first order is the one whose activations are kept; the stated letter or text is
fed behind it where a position needs it.
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
    from gnomon.models.model import Model, Out

BEHIND = {"last", "response", "all"}
"""Positions for which what was stated is fed behind the prompt."""


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
    for reverse in reversed(how.orders):  # the one that is kept comes last: what is stated is known then
        read_sites = how.sites if reverse == main else ()
        if how.scale.scoring == "letters":
            run = _letters(model, questions, how, reverse, read_sites)
        else:
            run = _texts(model, questions, how, reverse, read_sites)
        shown[reverse] = (run.scores, run.mass)
    assert run is not None
    reading = read(how.scale, shown)
    stated = [_stated(how, reading, i, shown) for i in range(len(questions))]
    tails, chosen = run.tails, run.chosen([how.scale.shown(main).index(int(b)) for b in reading.best])
    for each, ids in zip(stated, chosen, strict=True):
        each.ids = ids
    if tails is None and gather.sites and BEHIND & set(gather.positions):
        tails = run.fed(model, chosen, how.sites)
    slots = run.slots([how.scale.shown(main).index(int(b)) for b in reading.best])
    gather.take(places(questions, stated, main), lambda picks: _values(run, tails, slots, picks))
    return stated


@dataclass
class _Run:
    """One order of a batch: scores `[n, bins]` as shown, mass `[n]`, and the passes that activations come from."""

    scores: np.ndarray
    mass: np.ndarray
    prompt: Out
    prompt_lens: list[int]
    cache: Any
    options: list[list[list[int]]]
    """Tokens of each row's options, as shown; of letters the variant that the model likes best."""
    tails: Out | None = None

    def chosen(self, places: Sequence[int]) -> list[list[int]]:
        """Tokens of the option at each row's place."""
        return [each[k] for each, k in zip(self.options, places, strict=True)]

    def slots(self, places: Sequence[int]) -> list[int]:
        """Rows of `tails` that hold these options."""
        if self.tails is None:
            return list(range(len(places)))
        width = len(self.options[0])
        return [i * width + k for i, k in enumerate(places)]

    def fed(self, model: Model, options: list[list[int]], sites: Sequence[str]) -> Out:
        """The stated options run behind their prompts."""
        from gnomon.models.replay import SharedPrefix

        return model.forward(options, read=sites, cache=SharedPrefix(self.cache, list(range(len(options)))),
                             stop=model.n_layers)  # fmt: skip


def _letters(model: Model, questions: Sequence[Question], how: Stating, reverse: bool, sites: Sequence[str]) -> _Run:
    prompts = [list(q.asked[reverse].tokens) for q in questions]
    cache = model.new_cache() if sites else None
    out = model.forward(prompts, read=sites, logits="last", cache=cache)
    scores = letter_logprobs(model, out.logits, how.scale.letters)
    options: list[list[list[int]]] = [[] for _ in prompts]
    for letter in how.scale.letters:
        ids = letter_variants(model, letter)
        for each, best in zip(options, out.logits[:, ids].argmax(-1).tolist(), strict=True):
            each.append([ids[best]])
    return _Run(scores, np.exp(scores).sum(-1), out, list(map(len, prompts)), cache, options)


def _texts(model: Model, questions: Sequence[Question], how: Stating, reverse: bool, sites: Sequence[str]) -> _Run:
    import torch

    from gnomon.models.replay import SharedPrefix

    prompts = [list(q.asked[reverse].tokens) for q in questions]
    texts = [how.scale.texts[b] for b in how.scale.shown(reverse)]
    options = [[option_ids(model, q.asked[reverse].prompt, text) for text in texts] for q in questions]
    cache = model.new_cache()
    prompt = model.forward(prompts, read=sites, cache=cache, logits="last")
    flat = [ids for each in options for ids in each]
    owner = [i for i, each in enumerate(options) for _ in each]
    tails = model.forward(flat, read=sites, cache=SharedPrefix(cache, owner), stop=model.n_layers)
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
    return _Run(scores, np.exp(total).sum(-1), prompt, list(map(len, prompts)), cache, options, tails)


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


def _values(run: _Run, tails: Out | None, slots: Sequence[int], picks: Sequence[Pick]) -> dict[Site, Any]:
    """Values of picked tokens: those of the prompt from its pass, those of what was stated from theirs."""
    import torch

    pieces: dict[Site, list[Any]] = {}
    for slot, start, stop in picks:
        cut = run.prompt_lens[slot]
        parts = []
        if start < cut:
            parts.append(from_forward(run.prompt, [(slot, start, min(stop, cut))]))
        if stop > cut:
            assert tails is not None
            parts.append(from_forward(tails, [(slots[slot], max(start, cut) - cut, stop - cut)]))
        for part in parts:
            for site, values in part.items():
                pieces.setdefault(site, []).append(values)
    return {site: torch.cat(parts) for site, parts in pieces.items()}
