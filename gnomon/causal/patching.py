"""Latents patched in trials: what is patched, and the worker that runs a shard (some trials under some patches).

A patched run differs from its baseline in one thing: at one site one latent is moved to a value, the rest of the
activation kept (`interventions.latent`). In a choice every option is scored behind the clean keys and values of its
prompt, many patches as copies of one batch (`models.replay`); in writing, prompt and keyed sampling noise are shared.
Cost of a choice: (last prompt token and options) x (blocks from the site on) a patch and trial; with `where: all` the
whole prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gnomon.causal.items import Item
from gnomon.dictionaries.base import SparseDictionary
from gnomon.halving import marked
from gnomon.interventions.latent import Reader, SetLatent
from gnomon.latents import latent_name
from gnomon.lens.feature_sources import Option, sources
from gnomon.methods.chain_tables import RESPONSES
from gnomon.step import Inputs, ModelSpec
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer

BASELINE = "baseline"


@dataclass(frozen=True)
class Patched:
    """One latent that is patched to two values, in turn: the class means of the feature it stands for.

    A feature is set to them. A random latent's own row is moved by what would set the feature (`sets`): an edit of the
    same length at every token.
    """

    site: str
    latent: int
    sets: int
    """The latent whose activation and class means say how far; a feature's own."""
    values: tuple[float, float]
    """Mean of the first class, of the second."""
    most: float = float("inf")
    """Tokens of a larger norm are left alone."""

    @property
    def name(self) -> str:
        return latent_name(self.site, self.latent)

    @property
    def kind(self) -> str:
        return "feature" if self.latent == self.sets else "control"

    @property
    def matches(self) -> str:
        """The feature that a random latent stands for; "" of a feature."""
        return "" if self.latent == self.sets else latent_name(self.site, self.sets)


@dataclass(frozen=True)
class PatchShard:
    """Some trials under the patches of some latents; without latents: the baselines.

    rows: lines of the generations table, with `trial`, and `first` (whether the prompt is of the first class).
    items: in a choice every option's text, `lengths[row]` what its log-probability is divided by, `target[row]` the
    first class's option. active: each patched latent's activation in each row before the patch.
    """

    rows: tuple[dict[str, Any], ...]
    latents: tuple[Patched, ...] = ()
    active: Mapping[str, Sequence[float]] = field(default_factory=dict)
    items: tuple[Item, ...] = ()
    lengths: Mapping[int, Sequence[float]] = field(default_factory=dict)
    target: Mapping[int, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Trials that are run."""
        return len(self.rows) * max(1, 2 * len(self.latents))


def condition(names: Sequence[str], first: bool, to: int | None) -> str:
    """What a trial is called: `safe_baseline`, `safe_with_risky_patch` (its prompt's class, then the mean's)."""
    said = ["_".join(name.split()) for name in names]
    own = said[0 if first else 1]
    return f"{own}_{BASELINE}" if to is None else f"{own}_with_{said[to]}_patch"


def reader(dictionary: SparseDictionary, latent: int) -> Reader:
    """What gives one latent's activation `[m]` in token vectors `[m, d]`; a topk needs all of them to rank it."""

    def read(x: Any) -> Any:
        if dictionary.activation == "topk":
            return dictionary.encode(x)[..., latent]
        pre = dictionary.pre(x, [latent])[..., 0]
        if dictionary.activation == "jumprelu" and dictionary.threshold is not None:
            pre = pre * (pre > float(dictionary.threshold[latent]))
        return pre.clamp_min(0)

    return read


def edit_of(one: Patched, to: int, dictionary: SparseDictionary, where: str) -> SetLatent:
    """The edit that sets a latent (or moves a random one as far) to class mean `to`."""
    return SetLatent(
        Site.parse(one.site), dictionary.decoder[one.latent], one.values[to], reader(dictionary, one.sets), one.most,
        where=where,
    )  # fmt: skip


def dictionaries(option: Option, folder: str | None) -> dict[str, Any]:
    """The sources of dictionaries by site: the option's, else those of the step whose folder is given."""
    kinds = {"dictionary": [Artifact(folder)]} if folder is not None else {}
    return {source.site: source for source in sources(option, Inputs(kinds))}


@dataclass
class Patcher:
    """Runs shards of trials and writes their part of table `responses`; subclasses say how an outcome comes about."""

    spec: ModelSpec
    path: str
    names: tuple[str, str]
    where: str
    seed: int
    option: Option = None
    folder: str | None = None

    def open(self) -> None:
        """Load the model, and find the dictionaries."""
        self.model = self.spec.load()
        self.sources = dictionaries(self.option, self.folder)
        self.held: tuple[str, Any] = ("", None)
        self.halved: list[int] = []

    def dictionary(self, site: str) -> SparseDictionary:
        """The dictionary of a site; the last one asked for is kept."""
        if self.held[0] != site:
            self.held = (site, self.sources[site].load())
        return self.held[1]

    def __call__(self, shard: tuple[int, PatchShard]) -> None:
        """Run one shard and write it."""
        index, part = shard
        self.halved.clear()
        lines = self.baselines(part) if not part.latents else self.patches(part)
        files = Writer.attach(self.path).shard(index)
        files.table("responses", pa.Table.from_pylist(lines, schema=RESPONSES))
        files.finish(marked(self.halved))

    def baselines(self, shard: PatchShard) -> list[dict[str, Any]]:
        """Lines of the trials without a patch."""
        raise NotImplementedError

    def patches(self, shard: PatchShard) -> list[dict[str, Any]]:
        """Lines of the trials under every patch of the shard."""
        raise NotImplementedError

    def edits(self, shard: PatchShard) -> list[tuple[Patched, int, SetLatent]]:
        """(latent, class mean, edit) of every patch, in order."""
        return [
            (one, to, edit_of(one, to, self.dictionary(one.site), self.where))
            for one in shard.latents
            for to in (0, 1)
        ]  # fmt: skip

    def line(self, shard: PatchShard, at: int, patch: tuple[Patched, int] | None, **said: Any) -> dict[str, Any]:
        """One line of `responses`: trial `at` of the shard, under a patch or none."""
        row = shard.rows[at]
        one, to = patch if patch is not None else (None, None)
        return {
            "name": one.name if one else "", "kind": one.kind if one else BASELINE,
            "matches": one.matches if one else "",
            "condition": condition(self.names, row["first"], to),
            "prompt": self.names[0 if row["first"] else 1],
            "patch": BASELINE if to is None else self.names[to],
            "trial": row["trial"], "row": int(row["row"]), "example_id": str(row["example_id"]),
            "group": str(row["group"]), "seed": self.seed,
            "activation": float(shard.active[one.name][at]) if one else None,
            "set_to": None if one is None or to is None else one.values[to], **said,
        }  # fmt: skip
