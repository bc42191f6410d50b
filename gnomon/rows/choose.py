"""One batch in mode `choices`: each choice is scored by its log-likelihood after the prompt; the likeliest is graded.

score(c) = sum_t log p(c_t | prompt, c_<t), divided by its tokens (`normalise: tokens`), its characters (`chars`) or
not at all (`none`); length-normalised scores as in Brown et al. 2020 (arXiv 2005.14165), section 2.4. The prompt
runs once, every choice continues its keys and values: cost = prompt tokens + all choices' tokens. A task that says
`scoring: letters` is scored by `choose_letters` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gnomon.errors import UserError
from gnomon.models.tokens import render
from gnomon.rows.ask import Asking, places
from gnomon.rows.gather import Gather, Pick, from_forward
from gnomon.rows.plan import Row
from gnomon.rows.table import Answer, messages_of
from gnomon.tasks.prompts import continue_with
from gnomon.types import Example, Site, Task

if TYPE_CHECKING:
    from gnomon.models.model import Model, Out

Normalise = Literal["tokens", "chars", "none"]


def normalised(logprobs: Sequence[np.ndarray], choices: Sequence[str], how: Normalise) -> list[float]:
    """Scores of the choices of one question from their tokens' log-probabilities."""
    totals = [float(np.asarray(one, dtype=np.float64).sum()) for one in logprobs]
    match how:
        case "tokens":
            lengths = [max(len(one), 1) for one in logprobs]
        case "chars":
            lengths = [max(len(choice.strip()), 1) for choice in choices]
        case _:
            lengths = [1] * len(choices)
    return [total / length for total, length in zip(totals, lengths, strict=True)]


def confidence(scores: Sequence[float]) -> tuple[float, float, float]:
    """(highest probability, entropy in nats, margin of the two best) of the softmax over the choices' scores."""
    s = np.asarray(scores, dtype=np.float64)
    p = np.exp(s - s.max())
    p /= p.sum()
    ordered = np.sort(s)
    margin = float(ordered[-1] - ordered[-2]) if len(s) > 1 else 0.0
    return float(p.max()), float(-(p * np.log(np.maximum(p, 1e-300))).sum()), margin


def choose_batch(model: Model, task: Task, batch: Sequence[Row], asking: Asking, gather: Gather) -> list[Answer]:
    """Score, grade and capture one batch of questions."""
    options = [[_ids(model, row.example, choice) for choice in row.example.choices] for row in batch]
    owner = [i for i, each in enumerate(options) for _ in each]
    flat = [ids for each in options for ids in each]
    prompt, tails, logprobs = _score(model, [row.tokens.tolist() for row in batch], owner, flat, asking)
    answers: list[Answer] = []
    chosen: list[int] = []
    first = 0
    for row, each in zip(batch, options, strict=True):
        found = logprobs[first : first + len(each)]
        scores = normalised(found, row.example.choices, asking.normalise)
        best = int(np.argmax(scores))
        how = {} if asking.normalise == "tokens" else {"normalise": asking.normalise}
        answers.append(answer_of(model, task, row, each[best], best, found[best], scores, asking, how))
        chosen.append(first + best)
        first += len(each)
    gather.take(places(answers), lambda picks: values_of(prompt, tails, answers, chosen, picks))
    return answers


def _ids(model: Model, example: Example, choice: str) -> list[int]:
    ids = model.encode_text(continue_with(example.prompt, choice))
    if not ids:
        raise UserError(f"example {example.id!r} has the choice {choice!r}", "a choice of at least one token")
    return ids


def _score(
    model: Model, prompts: list[list[int]], owner: list[int], options: list[list[int]], asking: Asking
) -> tuple[Out, Out, list[np.ndarray]]:
    """The prompts' pass, the choices' pass over the prompts' cache, and log p of every choice's tokens."""
    import torch

    from gnomon.models.replay import SharedPrefix

    sites: tuple[str, ...] = asking.sites
    cache = model.new_cache()
    prompt = model.forward(prompts, read=sites, cache=cache, stop=model.n_layers)
    tails = model.forward(options, read=sites, cache=SharedPrefix(cache, owner), stop=model.n_layers)
    assert prompt.resid is not None
    assert tails.resid is not None
    ends = [len(prompts[i]) - 1 for i in owner]
    # the token that predicts a choice's first one is the prompt's last; the others are predicted inside the choice
    before = torch.cat([
        torch.cat([prompt.resid[i, end : end + 1], tails.resid[k, : len(ids) - 1]])
        for k, (i, end, ids) in enumerate(zip(owner, ends, options, strict=True))
    ])  # fmt: skip
    target = torch.tensor([t for ids in options for t in ids], device=before.device)
    found = _chosen(model, before, target)
    return prompt, tails, np.split(found, np.cumsum([len(ids) for ids in options])[:-1])


def _chosen(model: Model, resid: Any, target: Any) -> np.ndarray:
    """log p of each target after each resid_post `[tokens, d_model]`, a few vocabulary rows at a time."""
    import torch

    from gnomon.models.score import LOGIT_ROWS

    parts: list[Any] = []
    with torch.no_grad():
        for begin in range(0, len(target), LOGIT_ROWS):
            logits = model.logits_from(resid[begin : begin + LOGIT_ROWS]).float()
            one = logits.gather(1, target[begin : begin + LOGIT_ROWS, None])[:, 0]
            parts.append(one - torch.logsumexp(logits, -1))
    return torch.cat(parts).cpu().numpy()


def answer_of(
    model: Model, task: Task, row: Row, ids: list[int], best: int, logprobs: np.ndarray, scores: list[float],
    asking: Asking, meta: Mapping[str, Any] | None = None,
) -> Answer:  # fmt: skip
    """The answer of a row whose choice `best` won, said by the tokens `ids`; `meta` is kept beside the choice."""
    choice = row.example.choices[best]
    prompt_ids = row.tokens.tolist()
    max_prob, entropy, margin = confidence(scores)
    return Answer(
        row=row,
        number=row.row,
        prompt=render(model.tokenizer, row.example.prompt),
        messages=messages_of(row.example.prompt),
        prompt_hash=row.example.prompt_hash,
        prompt_ids=prompt_ids,
        ids=ids,
        text=choice,
        finish="choice",
        logprobs=logprobs,
        max_prob=max_prob,
        entropy=entropy,
        margin=margin,
        seed=asking.seed,
        scores=scores,
        grade=task.grade(row.example, choice),
        answer_token=len(prompt_ids) + len(ids) - 1,
        meta={"choice": best, **(meta or {})},
    )


def values_of(
    prompt: Out, tails: Out, answers: Sequence[Answer], chosen: Sequence[int], picks: Sequence[Pick]
) -> dict[Site, Any]:
    """Values of picked tokens: those of the prompt from its pass, the others from the chosen choice's."""
    import torch

    pieces: dict[Site, list[Any]] = {site: [] for site in prompt.acts}
    for slot, start, stop in picks:
        cut = len(answers[slot].prompt_ids)
        parts = []
        if start < cut:
            parts.append(from_forward(prompt, [(slot, start, min(stop, cut))]))
        if stop > cut:
            parts.append(from_forward(tails, [(chosen[slot], max(start, cut) - cut, stop - cut)]))
        for part in parts:
            for site, values in part.items():
                pieces[site].append(values)
    return {site: torch.cat(parts) for site, parts in pieces.items()}
