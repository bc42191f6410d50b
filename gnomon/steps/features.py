"""Features: which latents of sparse dictionaries tell right answers from wrong ones, and is that worth anything?

    separation = f_correct - f_incorrect         f: share of a class's rows in which the latent is active (a > 1e-6)
    increment  = AUROC_test(logistic[baselines, a]) - AUROC_test(logistic[baselines])

Every latent of every dictionary is searched on fit, by separation, Welch's t or AUROC, with labels shuffled by group
as the null; general language is set aside by its rate on text of no particular task. The few that lead each way
(predicts correct, predicts incorrect) get their threshold on tune and are looked at on test, once, beside the probe of
the same activations, random latents that are active as often, always answering one class, and the cheap explanations.
Under 500 groups the headline is nested cross-validation with the search inside each fold. Beside that, table
`separations` holds each site's `per_layer` latents by |Cohen's d| on fit, with class means, and d on test. The
mathematics and its sources are in `gnomon/methods/feature_*.py` and `separations.py`. Cost: one encoding of every row a
site, and the shuffles: for 1,000 rows and 16,384 latents about as much again.

Reference: separation of SAE latents on code, arXiv 2510.02917, where a latent with F1 .821 for "incorrect" stands
beside .824 for always answering "incorrect". So both are printed.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods.two_classes import Classes
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer

Position = Literal["last_prompt", "last", "answer", "response", "all"]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Features(Step):
    """Search dictionaries for latents that tell right from wrong; confirm the few on test, beside every cheap rival."""

    name: ClassVar[str] = "features"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("generations", "activations")
    optional: ClassVar[tuple[str, ...]] = ("dictionary",)
    writes: ClassVar[tuple[str, ...]] = ("features", "directions")

    dictionary: str | dict[str, str] | None = None
    """Sparse dictionaries: a path or hub id of one, or {site: path} for several; the nearest earlier step that trained
    some, unless given."""
    position: Position = "last_prompt"
    """Where latents are read. At last_prompt all samples of a question share one activation."""
    pool: Literal["max", "mean"] = "max"
    """How a row's tokens become one value at `response` and `all`; the probe beside it always reads their mean."""
    target: Literal["correct", "pass_rate"] = "correct"
    """What is predicted: each answer's label, or each prompt's share of right answers (one row a prompt)."""
    rank_by: Literal["separation", "t", "auroc"] = "separation"
    """The statistic of the search."""
    top: int = Field(default=3, ge=1, le=50)
    """How many latents of each way are selected and looked at on test."""
    per_layer: int = Field(default=50, ge=1, le=2000)
    """How many latents of each site table `separations` holds: those of largest |Cohen's d| on fit."""
    classes: Classes = None
    """Names of the two classes of labels, of true and of false (`[safe, risky]`); the task's own unless given."""
    general_text: str | None = "neutral"
    """Text of no particular task: neutral (shipped paragraphs), a text file, a hub data set (owner/name; needs the
    extra `hub`), or null for no filter."""
    general_field: str = "text"
    """The column of a hub data set that holds the text."""
    general_split: str = "train"
    """Its split."""
    general_tokens: int = Field(default=20_000, ge=100)
    """Tokens of general text at most."""
    general_limit: float = Field(default=0.02, ge=0, le=1)
    """A latent that is active on more than this share of general tokens is set aside as general language."""
    fewest: int = Field(default=5, ge=1)
    """A latent that is active in fewer fit rows is set aside."""
    baselines: Annotated[tuple[str, ...] | None, BeforeValidator(_listed)] = None
    """What a latent must beat; unless given: difficulty, prompt length, surface features, the model's confidence, and
    for a position in the response also its length and mean_logprob."""
    probes: bool = True
    """Fit difference and logistic probes of the same activations beside the latent."""
    permutations: int = Field(default=199, ge=19, le=100_000)
    """Label shuffles, by group, of the whole search; ten times as many for the p of a selected latent on test."""
    random: int = Field(default=100, ge=19, le=10_000)
    """Random latents that are active as often, and random directions beside the probe."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of each cross-validation."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this the headline is nested cross-validation over all of them."""
    smallest_increment: float = Field(default=0.02, ge=0)
    """An increment whose whole interval lies below this is a fail: nothing worth speaking of beyond the baselines."""
    keep: int = Field(default=500, ge=1)
    """Latents of smallest p on fit that table `features` lists (and all that are discovered)."""
    pages: int = Field(default=6, ge=0)
    """Selected latents that get a page: strongest rows token by token, tokens raised and lowered, histograms."""
    examples: int = Field(default=5, ge=1, le=50)
    """Rows shown on a page."""
    batch_size: int = Field(default=8, ge=1)
    """Texts in a batch of the model."""

    def check(self, plan: Planning) -> None:
        if self.dictionary is None and "dictionary" not in plan.inputs:
            raise UserError(
                "features has no dictionary", "a path, a hub id, {site: path}, or step train_dictionary above it",
                "give features.dictionary",
            )  # fmt: skip
        if self.target == "pass_rate" and self.position != "last_prompt":
            raise UserError(
                f"features.target is pass_rate at position {self.position}", "position: last_prompt",
                "elsewhere the samples of a prompt have activations of their own",
            )  # fmt: skip
        asked = plan.inputs.get("generations")
        for split in ("fit", "test"):
            if asked is not None and asked.splits and not asked.splits.get(split):
                raise UserError(f"features needs rows in split {split!r}", "fit, tune and test")
        source = plan.inputs.get("activations")
        captured = source.sites if source is not None else ()
        for site in self.dictionary if isinstance(self.dictionary, dict) else ():
            Site.parse(site)
            if captured and f"{site}@{self.position}" not in captured:
                raise UserError(
                    f"no activations at {site}@{self.position}", f"captured: {', '.join(captured[:6])}",
                    "add it to generate.capture, or a capture step",
                )  # fmt: skip
        if captured and not any(s.endswith(f"@{self.position}") for s in captured):
            raise UserError(
                f"no activations at position {self.position}", f"captured: {', '.join(captured[:6])}",
                f"add capture: {{positions: [{self.position}]}} to generate",
            )  # fmt: skip

    def cost(self, plan: Planning) -> Cost:
        source = plan.inputs.get("generations", Cost())
        sites = len(self.dictionary) if isinstance(self.dictionary, dict) else 1
        general = min(self.general_tokens, 2200) if self.general_text == "neutral" else self.general_tokens
        forward = general if self.general_text else 0
        shown = self.pages * self.examples * (source.prompt_tokens / source.rows if source.rows else 60)
        return Cost(rows=source.rows, forward_tokens=int(forward + shown), disk_bytes=200 * self.keep * sites)

    def identity(self) -> dict[str, Any]:
        from pathlib import Path

        from gnomon.lens.feature_sources import stamps

        out = super().identity() | {"dictionary_files": stamps(self.dictionary)}
        if self.general_text and Path(self.general_text).expanduser().is_file():
            out["general_files"] = stamps(self.general_text)
        return out

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from threadpoolctl import threadpool_limits

        from gnomon.lens.feature_run import FeatureRun

        with threadpool_limits(limits=1, user_api="blas"):  # the last bits must not depend on the number of cores
            FeatureRun(self, inputs, out, ctx).run()

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.feature_blocks import feature_blocks

        return feature_blocks(artifact)
