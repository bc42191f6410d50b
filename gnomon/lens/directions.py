"""Along which directions effects are scored: correctness, a probe, the right answer's own token, texts.

    difference   mean(y | right) - mean(y | wrong) of the final norm's output y at the read position, over fit rows
    probe        the direction of an earlier step, in the residual stream after its own layer (no final norm)
    logit_lens   W_U[:, t] - mean of W_U[:, other answers], t the row's own right answer: its logit over the others'
    texts        mean output of the texts in `plus` - mean of those in `minus`

All but `probe` live where the unembedding reads, so effects keep the final norm with its scale held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from gnomon.errors import UserError
from gnomon.lens.texts import ReadText
from gnomon.methods.shuffled import difference
from gnomon.types import Direction, Site

if TYPE_CHECKING:
    from gnomon.models.model import Model


class TextLists(BaseModel):
    """Two lists of texts; their direction is the difference of their mean outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plus: tuple[str, ...] = ("The answer is correct.", "Yes, that is right.", "The solution is valid.")
    minus: tuple[str, ...] = ("The answer is incorrect.", "No, that is wrong.", "The solution is a mistake.")


DirectionName = Literal["difference", "probe", "logit_lens", "texts"]


@dataclass(frozen=True)
class ScoreDirection:
    """One direction `[d]`, read in the final norm's output (`end` None) or after layer `end`.

    `by_token`: vectors `[tokens, d]` of which each row takes its own answer's (`tokens` names them); `vector` is then
    their mean over fit rows, which is what is compared with other directions.
    """

    name: str
    vector: np.ndarray
    end: int | None = None
    tokens: tuple[int, ...] = ()
    by_token: np.ndarray | None = None

    def saved(self, n_layers: int, position: str) -> Direction:
        """As it is written beside the scores."""
        site = Site("resid_post", n_layers - 1 if self.end is None else self.end)
        space = "final_norm" if self.end is None else "resid_post"
        kind = "difference" if self.name == "difference" else "probe" if self.name == "probe" else "given"
        meta = {"space": space, "position": position, "per_row": self.by_token is not None}
        return Direction(site, self.vector, self.name, kind, None, meta)


def of_difference(output: np.ndarray, labels: np.ndarray) -> ScoreDirection:
    """From fit rows' outputs `[n, d]` and labels `[n]`; UserError where a class is empty."""
    return ScoreDirection("difference", difference(output, labels).astype(np.float64))


def of_probe(found: Sequence[Direction], source: str, model: Model) -> ScoreDirection:
    """The headline direction of an earlier step; UserError for another width, or a site outside the stream."""
    if not found:
        raise UserError(f"{source} has no direction", "a step that found one")
    one = found[0]
    if one.site.component != "resid_post" or one.d != model.d_model:
        raise UserError(
            f"direction {one.name!r} of {source} lies at {one.site} and has {one.d} numbers",
            f"resid_post of a layer and {model.d_model}, the d_model of {model.name}",
            "leave `probe` out of directions, or probe resid_post",
        )
    return ScoreDirection("probe", np.asarray(one.vector, dtype=np.float64), one.site.layer)


def of_answers(model: Model, texts: Sequence[ReadText], fit: np.ndarray) -> ScoreDirection:
    """Each row's own right answer over the other answers of the study; `fit [n]` tells which rows the mean is over.

    UserError where a row's answer is not what comes next.
    """
    missing = sum(text.target_token < 0 for text in texts)
    if missing:
        raise UserError(
            f"the right answer does not come next in {missing} of {len(texts)} rows (words stand before it)",
            "position: before_answer", "or leave `logit_lens` out of directions",
        )  # fmt: skip
    tokens = sorted({text.target_token for text in texts})
    columns = model.unembed[:, tokens].T.double().cpu().numpy()
    if len(tokens) > 1:
        others = (columns.sum(0) - columns) / (len(tokens) - 1)
    else:
        others = model.unembed.double().mean(1).cpu().numpy()[None]
    by_token = columns - others
    where = {t: i for i, t in enumerate(tokens)}
    rows = np.array([where[text.target_token] for text in texts])
    mean = by_token[rows[fit]].mean(0)
    if not np.any(mean):  # every answer equally often: the mean cancels, and the first stands for it
        mean = by_token[0]
    return ScoreDirection("logit_lens", mean, None, tuple(tokens), by_token)


def of_texts(plus: np.ndarray, minus: np.ndarray) -> ScoreDirection:
    """From outputs of the two lists of texts, `[a, d]` and `[b, d]`; UserError where their means are the same."""
    vector = plus.astype(np.float64).mean(0) - minus.astype(np.float64).mean(0)
    if not np.any(vector):
        raise UserError("texts.plus and texts.minus have the same mean", "two lists of different texts")
    return ScoreDirection("texts", vector)


def own_rows(direction: ScoreDirection, texts: Sequence[ReadText]) -> list[int]:
    """Which of `by_token` each text takes."""
    where: dict[int, Any] = {t: i for i, t in enumerate(direction.tokens)}
    return [where[text.target_token] for text in texts]
