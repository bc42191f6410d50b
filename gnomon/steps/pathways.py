"""Pathways: which latents of lower layers a feature's activation comes from, by gradients in its own prompts.

    G = dz_v[t] / dx_a[s] . d_u     A = sum_s z_u[s] G     share = A / z_v

Each target feature is traced in the prompts of fit where it is strongest, one a group, to every latent that is active
at any lower site with a dictionary; the sources of largest |share| are kept. Kinds (total, mediated, dark, mixed),
their formulas and sources: gnomon/paths/attribution.py. A gradient says what a small change does; what a whole change
does on held-out prompts, and whether random latents do the same, is for `replay` to say.

Cost: of each batch of prompts one plain forward, and for each kind a forward with a graph and a batched backward of as
many targets as meet in a prompt; each dictionary encodes a batch once, and only rows of active latents are kept. Where
there is more than one shard, a target of the highest site is measured, its sources and the cost of all are printed, and
`limits` are kept, before the rest is begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from gnomon.blocks import Block
from gnomon.dictionaries.shelf import estimate
from gnomon.errors import UserError, unknown
from gnomon.latents import Latent
from gnomon.lens.feature_sources import given, stamps
from gnomon.methods.two_classes import Classes
from gnomon.paths.attribution import CHUNK, KINDS
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer

Kind = Literal["total", "mediated", "dark", "mixed"]


def _tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _targets(value: Any) -> Any:
    """One of the words, or names."""
    return (value,) if isinstance(value, str) and "-" in value else value


class Pathways(Step):
    """Trace features to the latents of lower layers that they come from, by gradients in their own prompts."""

    name: ClassVar[str] = "pathways"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "features")
    optional: ClassVar[tuple[str, ...]] = ("activations", "dictionary", "causal_features")
    writes: ClassVar[tuple[str, ...]] = ("pathways",)
    clocked: ClassVar[tuple[str, ...]] = ("cost",)

    targets: Annotated[str | tuple[str, ...], BeforeValidator(_targets)] = "causal"
    """Features that are traced: causal (those that patching found to be; the strongest where it found none), strongest,
    all (every separated one), or names such as L15-33."""
    strongest: int = Field(default=5, ge=1)
    """How many of each site count as the strongest."""
    top: int = Field(default=25, ge=1)
    """Sources kept of each target, by |share|."""
    min_share: float = Field(default=0.0, ge=0)
    """Least |attribution| over the target's activation that is kept."""
    min_gradient: float = Field(default=0.0, ge=0)
    """Least |gradient| that is kept. It depends on the dictionaries' scale: .1 of one is not .1 of another."""
    kinds: Annotated[tuple[Kind, ...], BeforeValidator(_tuple)] = KINDS  # type: ignore[assignment]
    """Which parts of a gradient are told apart: total, mediated (by way of latents in between), dark (what those leave
    over), mixed."""
    positions: Literal["all", "last"] = "all"
    """Tokens whose latents count as sources: all up to the target's, or the target's own only."""
    at: Literal["last_prompt", "last"] = "last_prompt"
    """The token at which targets are read."""
    prompts: int = Field(default=8, ge=1)
    """Prompts in which a target is traced: those of fit where it is strongest, one a group."""
    prototype: bool | str = False
    """Trace one target only (a name, or true for the first): its sources, time, peak memory, what all would take."""
    dictionary: str | dict[str, str] | None = None
    """Sparse dictionaries: {site: path}; those of step features, or of the step that trained some, unless given."""
    budget_gb: float | None = Field(default=None, gt=0)
    """Most GB of dictionaries on the device at once; the least lately used makes room."""
    classes: Classes = None
    """Names of the classes of label true and false; the task's own, else correct and incorrect."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of prompts behind each interval."""
    batch_size: int = Field(default=4, ge=1)
    """Prompts in a batch."""
    chunk: int = Field(default=CHUNK, ge=1)
    """Targets of one batched backward."""
    shard_targets: int = Field(default=16, ge=1)
    """Targets of one shard: what is lost at most when a run is killed."""

    @field_validator("targets")
    @classmethod
    def _known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        from gnomon.paths.pathway_targets import NOUNS

        if isinstance(value, str):
            if value not in NOUNS:
                raise unknown("pathways.targets", value, NOUNS)
            return value
        if not value:
            raise UserError("pathways.targets is empty", "causal, strongest, all, or names like L15-33")
        return tuple(str(Latent.parse(name)) for name in value)

    @field_validator("prototype")
    @classmethod
    def _one(cls, value: bool | str) -> bool | str:
        return str(Latent.parse(value)) if isinstance(value, str) else value

    @field_validator("kinds")
    @classmethod
    def _total_first(cls, value: Sequence[Kind]) -> tuple[Kind, ...]:
        return tuple(dict.fromkeys(("total", *value)))

    # ---------------------------------------------------------------- before any work

    def sites(self, plan: Planning) -> list[Site]:
        """Sites with a dictionary, as far as the study file tells."""
        named = self._dictionary(plan)
        if isinstance(named, dict):
            return [Site.parse(s) for s in named]
        options = plan.source_options.get("dictionary", {})
        trained = options.get("sites") if named is None else None
        return Site.expand(trained, int(plan.model.facts()["n_layers"])) if trained else []

    def _dictionary(self, plan: Planning) -> str | dict[str, str] | None:
        """Its own dictionaries, else those that step features was given."""
        found: Any = given(self.dictionary, plan.source_options.get("features", {}))
        return found

    def check(self, plan: Planning) -> None:
        named = self._dictionary(plan)
        if named is None and "dictionary" not in plan.inputs:
            raise UserError("pathways has no dictionary", "{site: path}, or step train_dictionary above it",
                            "give pathways.dictionary")  # fmt: skip
        if isinstance(named, str):
            raise UserError(f"pathways has one dictionary, {named}", "two sites or more: {site: path}")
        own = plan.model.facts()["fingerprint"] if any(plan.weights.values()) else ""
        for kind in ("generations", "dictionary"):
            if plan.weights.get(kind, "") not in ("", own) and (kind != "dictionary" or named is None):
                raise UserError(f"pathways in another model than that of {kind}", "the model that made it",
                                "give this entry the same model: and adapter:")  # fmt: skip
        asked = plan.inputs.get("generations")
        if asked is not None and asked.splits and not asked.splits.get("fit"):
            raise UserError("pathways needs rows in split 'fit'", "fit and test")
        if sites := self.sites(plan):
            from gnomon.paths.pathway_targets import with_sources

            every = [] if isinstance(self.targets, str) else [Latent.parse(t) for t in self.targets]
            every += [Latent.parse(self.prototype)] if isinstance(self.prototype, str) else []
            with_sources(every or [Latent(s, 0) for s in sites], sites, bool(every))
            self._estimate(plan)

    def _estimate(self, plan: Planning) -> int:
        """Bytes beside the model's weights; 0 where dictionaries' sizes are not told. UserError for a small budget."""
        facts, options = plan.model.facts(), plan.source_options.get("dictionary", {})
        if self._dictionary(plan) is not None or "latents" not in options:
            return int((self.budget_gb or 0) * 1e9)
        sites = self.sites(plan)
        widths = [(int(facts["d_model"]), int(options["latents"]))] * max(len(sites), 1)
        budget = None if self.budget_gb is None else int(self.budget_gb * 1e9)
        tokens, active = int(self.batch_size * self._tokens(plan)), int(options.get("k", 50))
        dtype = plan.model.dtype
        found = estimate(facts, widths, budget, dtype=dtype, chunk=self.chunk, tokens=tokens, active=active)
        return found.total - found.model

    def _tokens(self, plan: Planning) -> float:
        source = plan.inputs.get("generations", Cost())
        return source.prompt_tokens / source.rows if source.rows else 60.0

    def cost(self, plan: Planning) -> Cost:
        sites, source = len(self.sites(plan)) or 2, plan.inputs.get("generations", Cost())
        per_layer = int(plan.source_options.get("features", {}).get("per_layer", 50))
        count = {"causal": self.strongest, "strongest": self.strongest, "all": per_layer}
        n = count[self.targets] * (sites - 1) if isinstance(self.targets, str) else len(self.targets)
        n = 1 if self.prototype else n
        traced = n * min(self.prompts, source.splits.get("fit", self.prompts) or self.prompts)
        modes = len({"total", *self.kinds} - {"mixed"}) if sites > 2 else 1
        # each way up to the highest site, a plain forward and one a mode; each way back to the lowest is about another
        layers, on = int(plan.model.facts()["n_layers"]), [max(s.layer, -1) + 1 for s in self.sites(plan)]
        up, back = (max(on) / layers, (max(on) - min(on)) / layers) if on else (1.0, 1.0)
        tokens = traced * self._tokens(plan) * ((1 + modes) * up + 1.5 * modes * back)
        return Cost(rows=traced, forward_tokens=int(tokens), memory_bytes=self._estimate(plan), splits=source.splits,
                    disk_bytes=60 * traced * self.top * len(self.kinds))  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"dictionary_files": stamps(self.dictionary)}

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.paths.pathway_run import PathwayRun

        PathwayRun(self, inputs, out, ctx).run()

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.pathway_blocks import pathway_blocks

        return pathway_blocks(artifact)
