"""The scale on which a model says how sure it is: bins with midpoints, shown as letters in one order and its reverse.

    p_b = exp(s_b) / sum_b' exp(s_b')        confidence = sum_b p_b * midpoint_b

s_b is log p of the bin's letter at the confidence position (log-sum-exp over its token variants), or the likelihood of
the bin's text. p is averaged over the orders that were asked: a bias toward a letter or a place then cancels, and the
difference of the orders measures it. A flat p gives the mean of the midpoints, whatever the model knows.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from gnomon.errors import UserError
from gnomon.rows.options import one_or_more
from gnomon.store import Artifact

Ask = Literal["self", "other", "p_true", "verbalised", "consistency"]
Scoring = Literal["letters", "likelihood"]
BINNED: tuple[Ask, ...] = ("self", "other", "p_true")
"""Passes that read a distribution over bins; the others parse what the model writes."""
EDGES = (0, 5, 10, 20, 40, 60, 80, 90, 100)
TRUTH = ("False", "True")

Texts = Annotated[tuple[str, ...] | None, BeforeValidator(one_or_more)]


class Bins(BaseModel):
    """The answers on offer, least sure first: by edges in percent, or as texts with midpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    edges: tuple[float, ...] | None = None
    """Ascending, in percent, one more than there are bins: [0, 50, 100] is "0-50%" and "50-100%"."""
    texts: Texts = None
    """How the bins read, least sure first; from the edges unless given ("0-5%", ...)."""
    midpoints: tuple[float, ...] | None = None
    """What each bin stands for, in percent; the middle between its edges unless given."""

    @model_validator(mode="after")
    def _whole(self) -> Bins:
        edges, texts, middle = self.edges, self.texts, self.midpoints
        if edges is None and (texts is None or middle is None):
            raise UserError("bins without edges", "edges, or texts and midpoints", "edges: [0, 5, 10, ..., 100]")
        counts = {len(v) for v in (texts, middle) if v is not None} | ({len(edges) - 1} if edges is not None else set())
        if len(counts) > 1 or min(counts) < 2:
            raise UserError(
                f"bins with {'no' if edges is None else len(edges)} edges, {len(texts or ())} texts and "
                f"{len(middle or ())} midpoints",
                "at least two bins; a text and a midpoint for each, and one edge more than bins",
            )  # fmt: skip
        for name, values in (("edges", edges), ("midpoints", middle)):
            steps = [b > a for a, b in itertools.pairwise(values)] if values else []
            if values and (not all(steps) or values[0] < 0 or values[-1] > 100):
                raise UserError(f"{name} {list(values)}", "ascending, from 0 to 100 percent")
        if texts and (len({t.strip() for t in texts}) < len(texts) or not all(t.strip() for t in texts)):
            raise UserError(f"bin texts {list(texts)}", "texts that all differ")
        return self


@dataclass(frozen=True)
class Scale:
    """texts and midpoints (0 to 1), least sure first; letters in the order in which they are shown."""

    texts: tuple[str, ...]
    midpoints: tuple[float, ...]
    letters: tuple[str, ...]
    scoring: Scoring = "letters"

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def flat(self) -> float:
        """Confidence of a flat distribution: the mean of the midpoints."""
        return float(np.mean(self.midpoints))

    def shown(self, reverse: bool) -> list[int]:
        """The bin at each place of the list that the model reads."""
        return list(range(len(self)))[:: -1 if reverse else 1]

    def listing(self, reverse: bool) -> str:
        """The list, a line a bin; with letters each line begins with its letter."""
        texts = [self.texts[b] for b in self.shown(reverse)]
        if self.scoring == "likelihood":
            return "\n".join(texts)
        return "\n".join(f"{letter}. {text}" for letter, text in zip(self.letters, texts, strict=True))

    def letter(self, bin: int, reverse: bool) -> str:
        """The letter that stands before a bin."""
        return self.letters[self.shown(reverse).index(bin)]

    def by_bin(self, shown: np.ndarray, reverse: bool) -> np.ndarray:
        """Values `[n, bins]` in the order shown as values with the least sure bin first."""
        return np.asarray(shown, dtype=np.float64)[:, self.shown(reverse)]

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Softmax over the bins, `[n, bins]`."""
        s = np.asarray(scores, dtype=np.float64)
        p = np.exp(s - s.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)

    def expected(self, probs: np.ndarray) -> np.ndarray:
        """Confidence `[n]`, 0 to 1, of distributions `[n, bins]`, the least sure bin first."""
        return np.asarray(probs, dtype=np.float64) @ np.array(self.midpoints)


def scale(ask: Ask, bins: Bins | None, letters: Sequence[str] | None, scoring: Scoring = "letters") -> Scale:
    """The scale of a pass; UserError where letters and bins do not fit. `letters`: texts, or one text of letters."""
    if bins is None:
        bins = Bins(texts=TRUTH, midpoints=(0, 100)) if ask == "p_true" else Bins(edges=EDGES)
    if ask == "p_true" and len(bins.midpoints or bins.texts or ()) != 2:
        raise UserError("p_true with other than two bins", "false and true", "leave bins out, or ask: self")
    edges = bins.edges or ()
    pairs = list(itertools.pairwise(edges))
    texts = bins.texts or tuple(f"{a:g}-{b:g}%" for a, b in pairs)
    middle = bins.midpoints or tuple((a + b) / 2 for a, b in pairs)
    names = tuple(letters or string.ascii_uppercase[: len(texts)])
    if len(names) == 1 and len(names[0]) == len(texts):
        names = tuple(names[0])
    if len(names) != len(texts) or len(set(names)) < len(names) or not all(n.strip() == n and n for n in names):
        raise UserError(
            f"letters {list(names)}", f"{len(texts)} different ones, one for each bin", 'letters: "ABCDEFGH"'
        )
    return Scale(tuple(texts), tuple(m / 100 for m in middle), names, scoring)


def scale_of(artifact: Artifact) -> Scale:
    """The scale that a finished pass was asked on; UserError for a pass without bins."""
    options: dict[str, Any] = artifact.options
    ask: Ask = options.get("ask", "self")
    if ask not in BINNED:
        raise UserError(f"{artifact.name} asks for {ask}", f"a pass with bins ({', '.join(BINNED)})")
    bins = options.get("bins")
    return scale(ask, Bins(**bins) if bins else None, options.get("letters"), options.get("scoring", "letters"))


@dataclass(frozen=True)
class Reading:
    """What a row's distributions say: `[n, bins]` with the least sure bin first, the mean of the orders asked.

    logits: log p of each bin's letter (or the score of its text). mass: probability of all bins together. normal,
    reversed `[n]`: confidence in each order (None where it was not asked).
    """

    logits: np.ndarray
    probs: np.ndarray
    mass: np.ndarray
    confidence: np.ndarray
    normal: np.ndarray | None
    reversed: np.ndarray | None

    @property
    def entropy(self) -> np.ndarray:
        """Of probs, nats, `[n]`."""
        return -(self.probs * np.log(np.maximum(self.probs, 1e-300))).sum(-1)

    @property
    def margin(self) -> np.ndarray:
        """Best logit minus the second best, `[n]`."""
        ordered = np.sort(self.logits, axis=-1)
        return ordered[:, -1] - ordered[:, -2]

    @property
    def best(self) -> np.ndarray:
        """The likeliest bin, `[n]`; the less sure one of two that are alike."""
        return self.probs.argmax(-1)


def read(scale: Scale, shown: dict[bool, tuple[np.ndarray, np.ndarray]]) -> Reading:
    """Average the orders. `shown[reverse]` = (scores `[n, bins]` in the order shown, mass `[n]`)."""
    by_order = {reverse: scale.by_bin(scores, reverse) for reverse, (scores, _) in shown.items()}
    probs = {reverse: scale.probabilities(scores) for reverse, scores in by_order.items()}
    stated = {reverse: scale.expected(p) for reverse, p in probs.items()}
    mean = np.mean(list(probs.values()), axis=0)
    return Reading(
        np.mean(list(by_order.values()), axis=0),
        mean,
        np.mean([mass for _, mass in shown.values()], axis=0),
        scale.expected(mean),
        stated.get(False),
        stated.get(True),
    )
