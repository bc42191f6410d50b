"""patch_features: do the latents that tell the classes apart make the model behave so? Set them, and look.

    x' = x + (m_c - z_j(x)) d_j      m_c: the latent's mean in class c (on fit), d_j: its decoder row; the error is kept

Six conditions a feature: prompts of either class as they are, set to the first class's mean, set to the second's.
Outcome: in a choice by log-likelihood the margin of the first class's option (and which is chosen); where the model
writes, the class of what it writes, prompt and sampling noise shared (a round of an episode is one decision). Beside
every feature random latents that are active as often and as strongly, their rows moved just as far. What counts as
causal: `gnomon/methods/patch_effects.py`. Cost: trials x 4 x (features + random latents) short continuations, from the
patched layer on; prompts are run once.

Sources: activation patching, Vig et al. 2020, Zhang & Nanda 2024 (arXiv 2309.16042); setting a latent with the error
term kept, Marks et al. 2024 (arXiv 2403.19647); gambling prompts and their features, arXiv 2509.22818.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.latents import Latent
from gnomon.methods.patch_effects import ENOUGH, FLIPS, Measure
from gnomon.methods.two_classes import Classes
from gnomon.stats import MIN_CLASS
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.tasks.make import make_task
from gnomon.types import Split
from gnomon.writer import Writer

OPTION_TOKENS = 4
"""Tokens of an option, about, where the plan does not know."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class PatchFeatures(Step):
    """Set features to either class's mean and see whether behaviour follows, beside matched random latents."""

    name: ClassVar[str] = "patch_features"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "features")
    optional: ClassVar[tuple[str, ...]] = ("dictionary", "activations")
    writes: ClassVar[tuple[str, ...]] = ("causal_features",)

    dictionary: str | dict[str, str] | None = None
    """Sparse dictionaries, as of step features, whose own are taken unless given."""
    features: Annotated[tuple[str, ...] | None, BeforeValidator(_listed)] = None
    """Names of features (L9-123) out of table `separations`; each site's `top` unless given."""
    top: int = Field(default=5, ge=1)
    """How many features of each site are tried: those of largest |Cohen's d| on fit."""
    classes: Classes = None
    """Names of the two classes, of label true and of false; the task's own unless given."""
    split: Split = "test"
    """Whose prompts are patched; features and their means are of fit."""
    trials: int = Field(default=30, ge=2)
    """Prompts of each class at most, one a group. Nothing is concluded from fewer than 20 of a class."""
    where: Literal["last_prompt", "all"] = "last_prompt"
    """Tokens that are patched: the prompt's last one, or all but massive ones (also those that are written)."""
    measure: Literal["auto", "rate", "margin"] = "auto"
    """What decides: the share of first-class answers, or the margin of the first class's option; auto: the margin where
    options are scored."""
    smallest_effect: float = Field(default=0.2, gt=0)
    """A feature whose |effect| stays below this is not called causal: Cohen's h of a rate, or standard deviations of
    the unpatched margins."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """False discovery rate, over all features and conditions, and over features against random latents."""
    controls: int = Field(default=20, ge=0)
    """Random latents a feature. With fewer than 20 a feature cannot pass alone, only together with others."""
    control_trials: int | None = Field(default=None, ge=2)
    """Trials of each class that random latents are run on (a feature is compared with them on the same); 10 where the
    margin decides, all where the rate does, unless given."""
    temperature: float | None = Field(default=None, ge=0)
    """Of what is written; the row's own unless given."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Of what is written; the generation's own unless given."""
    write: int = Field(default=0, ge=0)
    """Where options are scored: also let the model write so many tokens after the prompt, kept in `responses.text`
    (what decides stays the choice)."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval."""
    flips: int = Field(default=FLIPS, ge=999)
    """Sign flips behind a p."""
    batch_size: int = Field(default=16, ge=1)
    """Trials of a shard."""

    @field_validator("features")
    @classmethod
    def _names(cls, value: Sequence[str] | None) -> tuple[str, ...] | None:
        if value is not None and not value:
            raise UserError("patch_features.features is empty", "names like L9-123, or leave it out")
        return None if value is None else tuple(dict.fromkeys(str(Latent.parse(name)) for name in value))

    def measure_of(self, choices: bool) -> Measure:
        """What decides."""
        if self.measure == "auto":
            return "margin" if choices else "rate"
        return self.measure

    def control_rows(self, choices: bool) -> int:
        """Trials of each class that random latents are run on."""
        if self.control_trials is not None:
            return min(self.control_trials, self.trials)
        return min(10, self.trials) if self.measure_of(choices) == "margin" else self.trials

    # ---------------------------------------------------------------- before any work

    def check(self, plan: Planning) -> None:
        source, apart = plan.inputs["generations"], plan.source_options.get("features", {})
        if source.splits and not source.splits.get(self.split):
            raise UserError(f"patch_features needs rows in split {self.split!r}", "fit, tune and test")
        made = plan.weights.get("generations", "")
        if made and made != plan.model.facts()["fingerprint"]:
            raise UserError("patch_features by another model than the generation's", "the model (adapter, dtype) of it",
                            "give this entry the same model: and adapter:")  # fmt: skip
        at = apart.get("position", "last_prompt")
        if at != "last_prompt" and (at, self.where) != ("all", "all"):
            raise UserError(
                f"patch_features at {self.where} of features that were read at {at}", "their class means are of there",
                "features: {position: last_prompt}, or position: all with where: all",
            )  # fmt: skip
        if at == "all" and apart.get("pool", "max") != "mean":
            raise UserError("patch_features of features whose rows are their tokens' largest activation",
                            "class means of all tokens, which is what every token is set to",
                            "features: {position: all, pool: mean}")  # fmt: skip
        if at == "all" and "activations" not in plan.inputs:
            raise UserError("patch_features of features that were read at all, without these activations",
                            "the capture that step features read", "from: {activations: ...}")  # fmt: skip
        most = apart.get("per_layer")
        if self.features is None and most is not None and self.top > most:
            raise UserError(f"patch_features.top is {self.top}", f"features.per_layer is {most}", "raise per_layer")
        mode = self._mode(plan)
        if mode != "choices":
            for option, given in (("measure: margin", self.measure == "margin"), (f"write: {self.write}", self.write)):
                if given:
                    raise UserError(f"patch_features.{option}, and the task's mode is {mode}",
                                    "a task whose options are scored", "leave it out")  # fmt: skip
        elif self.max_new_tokens is not None:
            raise UserError("patch_features.max_new_tokens, and the task's options are scored", "write: N to let it "
                            "write beside", "leave it out")  # fmt: skip

    def _mode(self, plan: Planning) -> str:
        options = plan.source_options.get("generations", {})
        if options.get("append"):
            raise UserError("patch_features of a generation that others were appended to", "one task and its prompts",
                            "from: the generation itself")  # fmt: skip
        return make_task(options["task"]).mode if options.get("task") is not None else "choices"

    def _sites(self, plan: Planning) -> list[str]:
        """Sites that will be patched, as far as the options say."""
        option = self.dictionary or plan.source_options.get("features", {}).get("dictionary")
        if isinstance(option, Mapping):
            return list(option)
        made = plan.source_options.get("dictionary", {}).get("sites")
        return [str(s) for s in ([made] if isinstance(made, str) else made or [])] if option is None else []

    def cost(self, plan: Planning) -> Cost:
        from gnomon.causal.patching_run import SCALE_ROWS

        source, facts = plan.inputs.get("generations", Cost()), plan.model.facts()
        n_layers, choices = int(facts["n_layers"]), self._mode(plan) == "choices"
        sites = self._sites(plan)
        count = len(self.features) if self.features is not None else self.top * max(1, len(sites))
        layers = [Latent.parse(f).site.layer for f in self.features or ()] or [_layer(s) for s in sites]
        above = sum(1 - layer / n_layers for layer in layers) / len(layers) if layers else 0.5
        rows = 2 * min(self.trials, source.splits.get(self.split, self.trials) if source.splits else self.trials)
        runs = rows * 2 * count + 2 * self.control_rows(choices) * 2 * count * self.controls
        prompt = source.prompt_tokens / source.rows if source.rows else 60.0
        said = source.new_tokens / source.rows if source.rows and source.new_tokens else float(OPTION_TOKENS)
        if not choices:
            said = self.max_new_tokens or said
        tail = (prompt if self.where == "all" else 1.0) + said
        each = 2 * tail * above if choices else tail
        written = rows * (2 * count + 1) * (self.write + (prompt if self.where == "all" else 0)) if self.write else 0
        prompts = rows * prompt * (2 if self.write else 1)
        places = len({Latent.parse(f).site for f in self.features}) if self.features else max(1, len(sites))
        if "activations" not in plan.inputs:  # read now, at each site
            prompts += places * prompt * sum(source.splits.get(s, 0) for s in {"fit", self.split})
        if self.where == "all":
            prompts += places * SCALE_ROWS * (prompt + said)
        notes = [] if self.trials >= MIN_CLASS else [f"{self.trials} trials a class: no conclusion under {MIN_CLASS}"]
        if source.splits and source.splits.get(self.split, 0) < 2 * MIN_CLASS:
            notes.append(f"{source.splits.get(self.split, 0)} rows in split {self.split}: no conclusion under "
                         f"{MIN_CLASS} of each class")  # fmt: skip
        if self.controls < ENOUGH:
            notes.append(f"{self.controls} random latents a feature: none passes alone with fewer than {ENOUGH}")
        return Cost(
            rows=runs, forward_tokens=int(runs * each + written + prompts), disk_bytes=60 * runs,
            splits=source.splits, notes=tuple(notes),
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        from gnomon.lens.feature_sources import stamps

        return super().identity() | {"dictionary_files": stamps(self.dictionary)}

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.causal.patching_run import PatchRun

        PatchRun(self, inputs, out, ctx).run()

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.patch_effects_blocks import patch_blocks

        return patch_blocks(artifact)


def _layer(site: str) -> int:
    from gnomon.types import Site

    return Site.parse(site).layer if site[-1:].isdigit() else 0
