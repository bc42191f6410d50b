"""The run of patch_features: choose features, match random latents, draw trials, patch, judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gnomon.causal.measure import activations, measure
from gnomon.causal.patching import Patched, Patcher, PatchShard, dictionaries
from gnomon.causal.patching_choices import Chooser
from gnomon.causal.patching_examples import EXAMPLES, examples
from gnomon.causal.patching_text import Writing
from gnomon.causal.patching_trials import (
    Trials,
    chosen_features,
    draw_trials,
    patched_latents,
    rates_and_means,
    shards_of,
)
from gnomon.causal.patching_written import Scribe
from gnomon.causal.pick import has, pick, records
from gnomon.causal.worker import outcomes
from gnomon.errors import UserError
from gnomon.lens.feature_sources import given
from gnomon.methods import patch_effects_tables as tables
from gnomon.methods.chain_tables import CAUSAL, EFFECTS
from gnomon.methods.feature_latents import pooled_latents, site_latents
from gnomon.methods.probe_tables import FACTS
from gnomon.methods.shuffled import MASSIVE, unmasked
from gnomon.methods.two_classes import class_names, judged, shortfall
from gnomon.step import Context, Inputs
from gnomon.tasks.make import make_task
from gnomon.types import Site
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.steps.patch_features import PatchFeatures

SCALE_ROWS = 64
"""Fit texts whose tokens say which norms are massive, where all tokens are patched."""


class PatchRun:
    """One run of the step."""

    def __init__(self, step: PatchFeatures, inputs: Inputs, out: Writer, ctx: Context) -> None:
        self.step, self.inputs, self.out, self.ctx = step, inputs, out, ctx
        self.source, self.apart = inputs["generations"], inputs["features"]
        self.names = class_names(step.classes, self.source)
        self.option = given(step.dictionary, self.apart.options)
        self.folder = str(inputs["dictionary"].path) if self.option is None and "dictionary" in inputs else None
        self.active: dict[tuple[str, int], np.ndarray] = {}

    def run(self) -> None:
        """Read, plan, run the shards that are missing, write the tables."""
        step, ctx = self.step, self.ctx
        table = self.inputs.generations()
        if "separations" not in self.apart.tables():
            raise UserError(f"step {self.apart.name} has no table separations", "features of this version",
                            f"gnomon run --remake {self.apart.name}")  # fmt: skip
        features = chosen_features(self.apart.table("separations"), step.features, step.top)
        fit = ctx.split(table, "fit", "patch_features: how often latents are active")
        held = ctx.split(table, step.split, "patch_features: prompts that are patched")
        self.short = shortfall(judged(held), self.names, f"split {step.split}")
        labelled = held.loc[np.asarray(held["label"].notna())].reset_index(drop=True)
        if labelled.empty:
            raise UserError(f"patch_features has no graded rows in split {step.split!r}", "some", "raise generate.n")
        rows = labelled.assign(slot=np.arange(len(labelled)))
        sets, calm = self._latents(features, fit, rows)
        features = pick(features, name=[feature.name for feature, _ in sets]).reset_index(drop=True)
        drawn = draw_trials(rows.loc[calm], step.trials, ctx.seed)
        self.short = self.short or shortfall(drawn["first"].tolist(), self.names, "the trials")
        if drawn.empty:
            raise UserError(f"all graded prompts of split {step.split!r} end in a massive token", "some that do not",
                            "patch another site")  # fmt: skip
        choices = has(drawn, finish="choice")
        worker, shards = self._shards(drawn, sets, choices)
        ctx.map(worker, shards, self.out, "patch_features", [shard.size for shard in shards])
        self._write(features, drawn, choices, int((~calm).sum()))

    # ---- latents

    def _latents(
        self, features: pd.DataFrame, fit: pd.DataFrame, rows: pd.DataFrame
    ) -> tuple[list[tuple[Patched, list[Patched]]], np.ndarray]:
        """Features with their random latents, site by site, and which rows' prompts end in no massive token.

        Keeps the activation of every patched latent in every row.
        """
        step, ctx = self.step, self.ctx
        found = dictionaries(self.option, self.folder)
        sets: list[tuple[Patched, list[Patched]]] = []
        calm = np.ones(len(rows), dtype=bool)
        for site in dict.fromkeys(features["site"].tolist()):
            mine = pick(features, site=site)
            dictionary = self._checked(found, site, mine)
            read = {name: activations(self.inputs, ctx, part, Site.parse(site), "last_prompt", step.batch_size)[0]
                    for name, part in (("fit", fit), ("rows", rows))}  # fmt: skip
            keep, unit = unmasked(read["fit"])
            calm &= np.linalg.norm(read["rows"].astype(np.float64), axis=1) <= MASSIVE * unit
            device = str(ctx.model().device)
            used, now = (site_latents(dictionary, lambda at, x=x: x[at], len(x), device)
                         for x in (read["fit"][keep], read["rows"]))  # fmt: skip
            if self.apart.options.get("position") == "all":
                used = self._everywhere(dictionary, site, fit, device)
            decodes = np.any(dictionary.decoder, axis=1)
            if step.features is None:
                mine = self._firing(mine, used, decodes)
            if mine.empty:
                continue
            made = patched_latents(mine, used, decodes, step.controls, self._most(site, fit), ctx.seed)
            for one in [one for feature, random in made for one in (feature, *random)]:
                self.active[site, one.latent] = now[:, [one.latent]].toarray()[:, 0]
            sets += made
        if not sets:
            raise UserError("every feature of step features is silent in the rows that count (or decodes to nothing)",
                            "one at least that fires", "another dictionary")  # fmt: skip
        return sets, calm

    def _everywhere(self, dictionary: Any, site: str, fit: pd.DataFrame, device: str) -> Any:
        """Latents of fit rows, meaned over their calm tokens as step features did: what random ones are matched on."""
        view = self.inputs.activations(site, "all")
        rows = fit.loc[np.isin(fit["row"], view.rows), "row"]
        read = (np.asarray(view.row(int(r)), dtype=np.float32) for r in rows)
        return pooled_latents(dictionary, read, "mean", device)

    def _firing(self, features: pd.DataFrame, used: Any, decodes: np.ndarray) -> pd.DataFrame:
        """Those of a site's features that can be matched: a feature no one named is left out, not refused."""
        rate = rates_and_means(used)[0]
        good = np.array([rate[int(f)] > 0 and bool(decodes[int(f)]) for f in features["feature"]], dtype=bool)
        for name in features.loc[~good, "name"]:
            self.ctx.log.warning("feature %s fires in no row of fit that counts, or decodes to nothing: left out", name)
        return features.loc[good]

    def _checked(self, found: dict[str, Any], site: str, features: pd.DataFrame) -> Any:
        """The dictionary of a site, if it is the one whose latents were separated."""
        if site not in found:
            raise UserError(f"no dictionary of {site}", f"there are: {', '.join(found)}", "the one that features read")
        made = str(features["dictionary"].tolist()[0])
        dictionary, width = found[site].load(), self.ctx.model().site_shape(site)
        if made != found[site].name:
            raise UserError(f"the dictionary {found[site].name} of {site}", f"{made}, which step features read",
                            "leave patch_features.dictionary out")  # fmt: skip
        if dictionary.d_model != width or max(int(f) for f in features["feature"]) >= dictionary.d_sae:
            raise UserError(
                f"the dictionary {found[site].name} of {site} has {dictionary.d_sae} latents of width "
                f"{dictionary.d_model}", f"that of the model's site: {width}, with the latents of step features",
            )  # fmt: skip
        return dictionary

    def _most(self, site: str, fit: pd.DataFrame) -> float:
        """Norm over which a token is left alone; the last prompt token is chosen calm beforehand."""
        if self.step.where != "all":
            return float("inf")
        return MASSIVE * measure(self.ctx, fit, Site.parse(site), [], "all", SCALE_ROWS, self.step.batch_size).unit

    # ---- trials

    def _shards(
        self, drawn: pd.DataFrame, sets: list[tuple[Patched, list[Patched]]], choices: bool
    ) -> tuple[Patcher, list[PatchShard]]:
        step, ctx, model = self.step, self.ctx, self.ctx.model()
        trials = Trials(drawn, choices, step.where, model.encode_text, model.decode)
        early, late = trials.batches(step.batch_size, step.control_rows(choices) if step.controls else 0)
        given = (ctx.model_spec, str(self.out.path), self.names, step.where, ctx.seed, self.option, self.folder)
        if choices:
            worker: Patcher = Chooser(*given, self._writing(step.write) if step.write else None)
        else:
            worker = Scribe(*given, self._task(), self._writing(step.max_new_tokens))
        return worker, shards_of(sets, early, late, self.active)

    def _task(self) -> Any:
        option = self.source.options.get("task")
        if option is None or self.source.options.get("append"):
            raise UserError(f"step {self.source.name} does not say one task whose grader judges what is written",
                            "a generation of one task", "from: the generation itself")  # fmt: skip
        return option

    def _writing(self, most: int | None) -> Writing:
        """As the generation wrote, but for the step's own temperature and length."""
        options = self.source.options
        task = make_task(options["task"]) if options.get("task") is not None else None
        stop = options.get("stop")
        if stop is None:
            stop = task.stop if task is not None else ()
        if most is None:
            most = int(options.get("max_new_tokens") or (task.max_new_tokens if task is not None else 1))
        return Writing(most, tuple(stop), self.step.temperature, float(options.get("top_p") or 1.0))

    # ---- tables

    def _write(self, features: pd.DataFrame, drawn: pd.DataFrame, choices: bool, massive: int) -> None:
        step, out = self.step, self.out
        rules = tables.Rules(step.measure_of(choices), step.smallest_effect, step.alpha, step.draws, step.flips,
                             self.ctx.seed)  # fmt: skip
        responses = outcomes(out, "responses")
        effects = tables.effect_table(responses, rules)
        causal = tables.causal_table(effects, features.assign(first=self.names[0]), rules, self.short)
        out.table("effects", effects, EFFECTS)
        out.table("causal", causal, CAUSAL)
        if not choices or step.write:
            out.table("examples", examples(responses, causal, drawn), EXAMPLES)
        beyond, random = tables.random_beyond(effects, step.smallest_effect)
        first, second = self.names
        counted, called = np.asarray(drawn["first"], dtype=bool), np.asarray(causal["is_causal"], dtype=bool)
        facts: dict[str, Any] = {
            "first": first, "second": second, "shortfall": self.short, "measure": rules.measure, "where": step.where,
            "split": step.split, "features": len(causal), "causal": int(called.sum()),
            "found": int(np.sum(np.asarray(causal["q"]) <= step.alpha)), "first trials": int(counted.sum()),
            "second trials": int((~counted).sum()), "control trials": step.control_rows(choices),
            "random latents": random, "random beyond": beyond, "bound": step.smallest_effect, "alpha": step.alpha,
            "spread": tables.spread_of(responses) if rules.measure == "margin" else np.nan, "massive": massive,
            "least control q": len(causal) / (1 + random) if random else np.nan,
        }  # fmt: skip
        out.table("facts", pd.DataFrame([
            {"fact": k, "value": np.nan if isinstance(v, str) else float(v), "text": v if isinstance(v, str) else ""}
            for k, v in facts.items()
        ]), FACTS)  # fmt: skip
        for line in records(causal):
            self.ctx.log.info("%s: %s (%s %+.3f)", line["name"], line["verdict"], line["condition"], line["change"])
