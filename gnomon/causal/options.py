"""The options that the steps with a causal trial share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from gnomon.causal.judged import refuse_logprob, runs_answers
from gnomon.errors import UserError, unknown
from gnomon.interventions.base import JOINED, Where, places
from gnomon.step import Cost, Planning, Step

Kind = Literal["steer", "ablate", "orthogonalise"]


def as_tuple(value: Any) -> Any:
    """One value where a list is asked for is a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def check_where(value: Where) -> Where:
    """A known place, two joined by "+" (that of the prompt first), or token indices."""
    if isinstance(value, str):
        return "+".join(str(place) for place in places(value))
    if not value or any(i < 0 for i in value):
        raise UserError(f"where is {list(value)}", "token indices from the start of the prompt, 0 or more")
    return tuple(value)


class CausalOptions(Step):
    """How a direction is put to the causal test: which edits, where, against which controls, scored how."""

    kinds: Annotated[tuple[Kind, ...], BeforeValidator(as_tuple)] = ("steer", "ablate")
    """What is done to the direction: steer (add a multiple of it, both signs), ablate (remove it), orthogonalise (take
    it out of every matrix that writes into the residual stream, the embedding's too, for all tokens)."""
    where: str | tuple[int, ...] = JOINED
    """Which tokens are edited: prompt, generated, last_prompt, all, or two joined by "+". The default is the tokens
    that write the answer: the last of the prompt and all generated ones. `all` and `prompt` cost about ten times more,
    because nothing before the edit can be reused."""
    sites: Literal["own", "all"] = "own"
    """Where a direction is ablated: at its own site, or in the residual stream at every layer."""
    ablate_to: Literal["mean", "zero"] = "mean"
    """What the component along the direction becomes: its mean over fit tokens (only what varies is removed), or 0."""
    coefficients: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 1.0)
    """Sizes of the push that are swept on tune, both signs each, in units of the median norm of unmasked fit tokens at
    the site; the chosen one is reported on test."""
    aim: Literal["either", "right"] = "either"
    """What is chosen on tune: the coefficient that does most beside random directions, whichever way it goes (either),
    or the one that gains most (right)."""
    max_damage: float = Field(default=0.1, ge=0)
    """Coefficients that raise the loss on neutral text by more than this (nats a token) are not chosen."""
    random_controls: int = Field(default=19, ge=19, le=999)
    """Random directions of the same length that are steered the same way on test."""
    shuffled_controls: int = Field(default=19, ge=19, le=999)
    """Differences of means under shuffled labels: the controls of the ablation, and a second kind for the steering."""
    isotropic_controls: int = Field(default=5, ge=0)
    """Random directions that are ablated too; shown beside the shuffled ones, and no part of any p."""
    sweep_controls: int = Field(default=3, ge=1)
    """Random directions that are swept on tune beside the direction: the band of the dose-response figure."""
    damage_controls: int = Field(default=3, ge=0)
    """How many controls of each kind are also run on neutral text and unrelated facts."""
    score: Literal["auto", "logprob", "generate", "both"] = "auto"
    """logprob: log-probability of the right answer, teacher-forced, for the direction and every control. both: the
    chosen edit also writes whole answers, which are graded. generate: sweep, choice, test and every control rest on
    whole answers, written and graded. auto: generate where answers are judged by running them or targets are long,
    else both."""
    selective: bool | None = None
    """Also report the edit applied only to the rows that a predictor picks out, arithmetically: true, false, or where
    the source of the direction has predictions (unless given)."""
    when: str = ""
    """Which predictor picks them, by name; the one that says an answer will be wrong, unless given."""
    masks: int = Field(default=199, ge=99)
    """Random choices of as many rows that the predictor's choice is compared with."""
    attention: bool | None = None
    """Measure what share of attention goes to the parts of the prompt (problem, tests), before and under steering:
    true, false, or where the task names the parts (unless given)."""
    attention_controls: int = Field(default=3, ge=1)
    """Random directions of the same length whose effect on attention is shown beside it."""
    tune_rows: int = Field(default=48, ge=2)
    """Rows of tune that are used at most, evenly spaced."""
    max_rows: int = Field(default=100, ge=2)
    """Rows of test that are used at most, evenly spaced; the same for the direction and all controls."""
    generate_rows: int = Field(default=40, ge=1)
    """Rows on which whole answers are generated at most; with score: generate, rows of tune and of test."""
    neutral_texts: int = Field(default=10, ge=2, le=40)
    """Neutral paragraphs whose loss measures off-target damage."""
    unrelated_items: int = Field(default=24, ge=2, le=36)
    """Unrelated facts whose accuracy measures off-target damage."""
    fit_rows: int = Field(default=24, ge=2)
    """Rows of fit from which the unit, the means and the energy are measured."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval."""
    batch_size: int = Field(default=16, ge=1)
    """Rows in a batch."""

    @field_validator("where")
    @classmethod
    def _known_place(cls, value: Where) -> Where:
        return check_where(value)

    @field_validator("kinds")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise unknown("kind", "", get_args(Kind))
        return tuple(dict.fromkeys(value))

    @field_validator("coefficients")
    @classmethod
    def _sizes(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        sizes = tuple(sorted({abs(v) for v in value}))
        if not sizes or not all(0 < v < float("inf") for v in sizes):
            raise UserError(f"coefficients are {list(value)}", "sizes above 0 (both signs are run of each)")
        return sizes

    def check(self, plan: Planning) -> None:
        """Refuse a study without a test or tune split."""
        source = plan.inputs.get("generations")
        for split in ("fit", "tune", "test"):
            if source is not None and source.splits and not source.splits.get(split):
                raise UserError(
                    f"{self.name} needs rows in split {split!r}", "fit, tune and test", "give generate.splits"
                )
        refuse_logprob(self.score, plan.source_options.get("generations", {}))
        if self.attention and "steer" not in self.kinds:
            raise UserError("attention: true without steering", "kinds with steer")

    def cost(self, plan: Planning) -> Cost:
        """Tokens that the trial pushes through the model; an edit runs about half of the blocks."""
        source = plan.inputs.get("generations", Cost())
        length = (source.prompt_tokens / source.rows if source.rows else 30.0) + 3
        everything = isinstance(self.where, str) and self.where.split("+")[0] in ("all", "prompt")
        tail = length if everything else 4.0
        sweep = len(self.coefficients) * (2 + self.sweep_controls) if "steer" in self.kinds else 0
        both = self.random_controls + self.shuffled_controls
        tested = (2 + both) * ("steer" in self.kinds)
        tested += (1 + self.shuffled_controls + self.isotropic_controls) * ("ablate" in self.kinds)
        removed = (1 + both) * ("orthogonalise" in self.kinds)
        runs = runs_answers(plan.source_options.get("generations", {}))
        whole = self.score == "generate" or (self.score == "auto" and runs)
        tune, test = self.tune_rows, self.max_rows
        new = source.new_tokens / source.rows if source.rows else 16.0
        damage = (2 * len(self.coefficients) + 4 * self.damage_controls) * self.neutral_texts * 25 / 2
        clean = (tune + test + self.fit_rows) * length + self.neutral_texts * 50
        if whole:
            tune, test = min(tune, self.generate_rows), min(test, self.generate_rows)
            prompt = length if everything else 1.0
            written = (tune * (1 + sweep) + test * (1 + tested)) * (prompt + new) + test * removed * (length + new)
            looked = self.attention is True or (self.attention is None and runs)
            written += looked * test * (2 + self.attention_controls) * (length + new)
            return Cost(forward_tokens=int(clean + damage + written))
        edited = (tune * sweep + test * tested) * tail / 2 + test * removed * length
        written = 0.0
        if self.score != "logprob":
            written = self.generate_rows * (length + new) * (len(self.kinds) + ("steer" in self.kinds))
        return Cost(forward_tokens=int(clean + edited + damage + written))
