"""The options that the steps with a causal trial share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from gnomon.errors import UserError, unknown
from gnomon.interventions.base import JOINED, Where, places
from gnomon.step import Cost, Planning, Step


def as_tuple(value: Any) -> Any:
    """One value where a list is asked for is a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def check_where(value: Where) -> Where:
    """A known place, two joined by "+", or token indices."""
    if isinstance(value, str):
        places(value)
        return value
    if not value or any(i < 0 for i in value):
        raise UserError(f"where is {list(value)}", "token indices from the start of the prompt, 0 or more")
    return tuple(value)


class CausalOptions(Step):
    """How a direction is put to the causal test: which edits, where, against which controls, scored how."""

    kinds: Annotated[tuple[Literal["steer", "ablate"], ...], BeforeValidator(as_tuple)] = ("steer", "ablate")
    """What is done to the direction: steer (add a multiple of it, both signs), ablate (remove it)."""
    where: str | tuple[int, ...] = JOINED
    """Which tokens are edited: prompt, generated, last_prompt, all, or two joined by "+". The default is the tokens
    that write the answer: the last of the prompt and all generated ones. `all` and `prompt` cost about ten times more,
    because nothing before the edit can be reused."""
    sites: Literal["own", "all"] = "own"
    """Where a direction is ablated: at its own site, or in the residual stream at every layer."""
    ablate_to: Literal["mean", "zero"] = "mean"
    """What the component along the direction becomes: its mean over fit tokens (only what varies is removed), or 0."""
    coefficients: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    """Sizes of the push that are swept on tune, both signs each, in units of the median norm of unmasked fit tokens at
    the site; the chosen one is reported on test."""
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
    score: Literal["logprob", "generate", "both"] = "both"
    """logprob: log-probability of the right answer, teacher-forced, for the direction and every control; generate: the
    chosen edit also writes whole answers, which are graded (the controls stay with logprob); both."""
    tune_rows: int = Field(default=48, ge=2)
    """Rows of tune that are used at most, evenly spaced."""
    max_rows: int = Field(default=100, ge=2)
    """Rows of test that are used at most, evenly spaced; the same for the direction and all controls."""
    generate_rows: int = Field(default=40, ge=1)
    """Rows of test on which whole answers are generated at most."""
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
            raise unknown("kind", "", ("steer", "ablate"))
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

    def cost(self, plan: Planning) -> Cost:
        """Tokens that the trial pushes through the model; an edit runs about half of the blocks."""
        source = plan.inputs.get("generations", Cost())
        length = (source.prompt_tokens / source.rows if source.rows else 30.0) + 3
        everything = isinstance(self.where, str) and self.where.split("+")[0] in ("all", "prompt")
        tail = length if everything else 4.0
        sweep = len(self.coefficients) * (2 + self.sweep_controls) if "steer" in self.kinds else 0
        tested = (2 + self.random_controls + self.shuffled_controls) * ("steer" in self.kinds)
        tested += (1 + self.shuffled_controls + self.isotropic_controls) * ("ablate" in self.kinds)
        clean = (self.tune_rows + self.max_rows + self.fit_rows) * length + self.neutral_texts * 50
        edited = (self.tune_rows * sweep + self.max_rows * tested) * tail / 2
        damage = (2 * len(self.coefficients) + 4 * self.damage_controls) * self.neutral_texts * 25 / 2
        written = 0.0
        if self.score != "logprob":
            new = source.new_tokens / source.rows if source.rows else 16.0
            written = self.generate_rows * (length + new) * (2 * ("steer" in self.kinds) + ("ablate" in self.kinds))
        return Cost(forward_tokens=int(clean + edited + damage + written))
