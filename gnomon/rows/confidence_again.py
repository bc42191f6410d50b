"""A pass's prompts, made again for some rows as they were asked: where their places are, and how the bins are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gnomon.store import Artifact

if TYPE_CHECKING:
    from gnomon.models.model import Model


@dataclass(frozen=True)
class Again:
    """One prompt. `places`: confidence, and answer where the model's own answer stands in it -> token index.

    Letters: `options[b]` are the tokens that say bin b, each by itself. Texts: its tokens one after the other, and
    `lengths[b]` what their log-likelihood is divided by. `values[b]` is the confidence that bin b stands for, 0 to 1.
    """

    tokens: tuple[int, ...]
    places: Mapping[str, int]
    options: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    values: tuple[float, ...]


def asked_again(
    lines: Mapping[int, Mapping[str, Any]], told: Artifact, model: Model, first_only: bool
) -> dict[int, tuple[Again, ...]]:
    """The prompts of a binned pass about these rows of its generation, one for each of its orders (or the first)."""
    from gnomon.rows.confidence_prompts import ask_about, wording
    from gnomon.rows.confidence_read import option_ids
    from gnomon.rows.confidence_scale import scale_of
    from gnomon.rows.letters import variants_of

    options, scale = told.options, scale_of(told)
    words = wording(options.get("ask", "self"), options.get("question"), options.get("context", "conversation"), scale)
    orders = {"both": (False, True), "normal": (False,), "reversed": (True,)}[options.get("orders", "both")]
    letters = [tuple(ids) for ids in variants_of(model, scale.letters)] if scale.scoring == "letters" else []
    out: dict[int, tuple[Again, ...]] = {}
    for row, line in lines.items():
        some = []
        for reverse in orders[:1] if first_only else orders:
            asked = ask_about(model.tokenizer, line, words, reverse)
            if letters:
                shown = scale.shown(reverse)
                said, lengths = tuple(letters[shown.index(b)] for b in range(len(scale))), ()
            else:
                said = tuple(tuple(option_ids(model, asked.prompt, text)) for text in scale.texts)
                lengths = divisors(said, scale.texts, str(options.get("normalise", "tokens")))
            places = {"confidence": len(asked.tokens) - 1}
            if asked.answer_token is not None:
                places["answer"] = asked.answer_token
            some.append(Again(asked.tokens, places, said, lengths, scale.midpoints))
        out[row] = tuple(some)
    return out


def divisors(tokens: Sequence[Sequence[int]], texts: Sequence[str], how: str) -> tuple[int, ...]:
    """What each bin's log-likelihood is divided by, as `rows.choose.normalised` does."""
    if how == "tokens":
        return tuple(max(len(ids), 1) for ids in tokens)
    return tuple(max(len(text.strip()), 1) if how == "chars" else 1 for text in texts)
