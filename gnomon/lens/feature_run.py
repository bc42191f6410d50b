"""The features step at work: rows, general text, one site after the other, then test, pages and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse

from gnomon.errors import UserError
from gnomon.lens.feature_pages import Pages
from gnomon.lens.feature_reading import general_acts, general_texts, general_tokens
from gnomon.lens.feature_sources import Source, sources
from gnomon.methods import feature_tables as tables
from gnomon.methods.chain_tables import SEPARATIONS
from gnomon.methods.evidence import verdict
from gnomon.methods.feature_heldout import TARGETS, confirm, parts_of
from gnomon.methods.feature_latents import active_counts, calm, pooled_latents, site_latents
from gnomon.methods.feature_links import neuronpedia_id, page
from gnomon.methods.feature_rivals import score_rows
from gnomon.methods.feature_search import WAYS, Search, family
from gnomon.methods.feature_statistics import Matrix
from gnomon.methods.heldout import baselines_at
from gnomon.methods.probe_tables import FACTS, SCORES
from gnomon.methods.probing import Options, Problem, problem, require_classes
from gnomon.methods.separations import BY_SITE, Separations
from gnomon.methods.separations_blocks import NO_SEPARATION
from gnomon.methods.two_classes import class_names, judged, shortfall
from gnomon.sites import RAGGED
from gnomon.stats import thin_notes
from gnomon.step import Context, Inputs
from gnomon.types import SPLITS, Direction
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.steps.features import Features


class FeatureRun:
    """One run of the step."""

    def __init__(self, step: Features, inputs: Inputs, out: Writer, ctx: Context) -> None:
        self.step, self.inputs, self.out, self.ctx = step, inputs, out, ctx
        self.generation = inputs["generations"].name
        self.table = inputs.generations()
        self.sources = sources(step.dictionary, inputs)
        self._check_sites()
        held = np.logical_and.reduce([np.isin(self.table["row"], self._view(s.site).rows) for s in self.sources])
        self.known: pd.DataFrame = self.table if held.all() else self.table.loc[held].reset_index(drop=True)
        """Rows that have activations at every site, labelled or not: what `predictions` speaks of."""
        self.rows = self.known["row"].to_numpy(dtype=np.int64)
        self.of = self._problem()
        self.labelled = np.searchsorted(self.rows, self.of.rows)
        self.names = class_names(step.classes, inputs["generations"])
        self.apart = Separations(
            self.of.y, self.of.groups, self.of.split, self.names, step.per_layer, step.draws, ctx.seed, step.position
        )
        self.options = Options(
            baselines=step.baselines, permutations=step.permutations, logistic_permutations=min(19, step.permutations),
            random=step.random, draws=step.draws, folds=step.folds, nested_below=step.nested_below, seed=ctx.seed,
        )  # fmt: skip
        require_classes(self.of, step.folds, "features")

    def _check_sites(self) -> None:
        here = [f"{site}@{position}" for site, position in self.inputs.sites()]
        for source in self.sources:
            if f"{source.site}@{self.step.position}" not in here:
                raise UserError(
                    f"no activations at {source.site}@{self.step.position}, where {source.name} reads",
                    f"captured: {', '.join(here[:6])}", "add it to generate.capture, or a capture step",
                )  # fmt: skip

    def _view(self, site: str) -> Any:
        return self.inputs.activations(site, self.step.position)

    def _problem(self) -> Problem:
        """Labelled rows; for a pass rate one row a prompt, the share of its right answers as the target."""
        if self.step.target == "correct":
            return problem(self.known, "correct", self.generation)
        graded = self.known.loc[self.known["label"].notna()]
        graded = graded.assign(asked=_asked(graded), right=graded["label"].astype(float))
        once = graded.drop_duplicates("asked")
        share: Any = graded.groupby("asked")["right"].mean()
        once = once.assign(pass_rate=share.loc[once["asked"].tolist()].to_numpy(dtype=np.float64))
        of = problem(once, "pass_rate", self.generation)
        rate = once.set_index("row")["pass_rate"].loc[of.rows.tolist()]
        return replace(of, y=rate.to_numpy(dtype=np.float64))  # of two rates alone, too, a rate is no class

    # ---------------------------------------------------------------- reading

    def read(self, site: str, rows: np.ndarray) -> np.ndarray:
        """What the probe beside the latents reads: `[len(rows), d]` float64, the mean over calm tokens of many."""
        view = self._view(site)
        if self.step.position not in RAGGED:
            return view.at(rows).astype(np.float64)
        return np.stack([self._calm_mean(view.row(int(r))) for r in rows])

    @staticmethod
    def _calm_mean(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, dtype=np.float64)
        return x[calm(x)].mean(axis=0) if len(x) else np.zeros(x.shape[1])

    def latents(self, source: Source, dictionary: Any, device: str) -> Matrix:
        """Latents of all known rows; at last_prompt a prompt is encoded once, whatever the number of its samples."""
        view = self._view(source.site)
        if self.step.position in RAGGED:
            rows = (np.asarray(view.row(int(r)), dtype=np.float32) for r in self.rows)
            return pooled_latents(dictionary, rows, self.step.pool, device)
        if self.step.position != "last_prompt":
            return site_latents(dictionary, lambda i: view.at(self.rows[i]), len(self.rows), device)
        _, first, which = np.unique(_asked(self.known), return_index=True, return_inverse=True)
        once = self.rows[first]
        return sparse.csr_array(site_latents(dictionary, lambda i: view.at(once[i]), len(once), device)[which])

    def general(self, model: Any) -> dict[str, np.ndarray]:
        """Rate of every latent on general text, by site: `[latents]`."""
        step = self.step
        if step.general_text is None:
            return {}
        texts = general_texts(step.general_text, step.general_field, step.general_split)
        tokens = general_tokens(model, texts, step.general_tokens)
        by_site = {s.site: s for s in self.sources}
        out = {}
        with self.ctx.progress("features: general text", len(by_site)) as advance:
            for site, acts in general_acts(model, tokens, list(by_site), step.batch_size):
                counts, self.general_count = active_counts(by_site[site].load(), acts, str(model.device))
                out[site] = counts / max(self.general_count, 1)
                advance(1)
        return out

    # ---------------------------------------------------------------- the work

    def run(self) -> None:
        """Search, confirm, compare, write."""
        step, ctx, of = self.step, self.ctx, self.of
        model, self.general_count = ctx.model(), 0
        rates = self.general(model)
        parts, nested = parts_of(of, self.options, step.top)
        if nested:
            why = f"nested cross-validation: {len(np.unique(of.groups))} groups are fewer than {step.nested_below}"
            why += "; every row is scored by latents that were chosen without its fold"
            ctx.split(self.table, "test", f"features: {why}")
        search = Search(parts, of.groups, step.rank_by, step.fewest, step.general_limit, step.random, ctx.seed)
        made: dict[tuple[str, int], Direction] = {}
        links: dict[str, str] = {}
        with ctx.progress("features", len(self.sources)) as advance:
            for source in self.sources:
                dictionary = source.load()
                found = self.latents(source, dictionary, str(model.device))
                general = rates.get(source.site, np.full(found.shape[1], np.nan))
                search.add(source.site, found, self.labelled, general, np.any(dictionary.decoder, axis=1))
                used, shuffled = search.used[source.site], parts[0].labels[:, 1 : 1 + parts[0].shuffles]
                self.apart.add(source.site, found[self.labelled], used, general, shuffled)
                links[source.site] = neuronpedia_id(dictionary.meta, f"{source.name} {dictionary.name}")
                leaders = [f for way in range(2) for f in search.leaders("fit", way) if f.site == source.site]
                made |= {(f.site, f.latent): dictionary.direction(f.latent) for f in leaders}
                advance(1)
        found = search.discovery()
        if not len(found):
            raise UserError(
                f"no latent is left to search: {search.counts}", "latents that are active in fit rows",
                "lower fewest, raise general_limit, or read another position",
            )  # fmt: skip
        ctx.split(
            self.table, "test", "features: selected latents and separations of each site, once, and what stands beside"
        )
        selected = self._selected(confirm(of, search, self.labelled, found, self.options), links)
        apart = self.apart.tables({s.site: s.name for s in self.sources}, links, page)
        bins: list[dict[str, Any]] = []
        scores = pd.DataFrame(score_rows(
            of, search, self.labelled, lambda site: self.read(site, of.rows), step.position, self.options, step.probes,
            bins,
        ), columns=SCORES.names)  # fmt: skip
        columns = [search.columns[s, f].astype(np.float64) for s, f in _pairs(selected)]
        directions = self._directions(selected, made)
        self._write(search, found, selected, scores, bins, columns, directions, apart)
        self._pages(model, selected, columns, directions)

    def _selected(self, table: pd.DataFrame, links: dict[str, str]) -> pd.DataFrame:
        names = {s.site: s.name for s in self.sources}
        if not len(table):
            return pd.DataFrame(columns=tables.SELECTED.names)
        table = table.sort_values(["rank", "predicts"], kind="stable").reset_index(drop=True)
        table["dictionary"] = [names[s] for s in table["site"]]
        table["class"] = [self.names[WAYS.index(str(way))] for way in table["predicts"]]
        table["link"] = [page(links[s], f) for s, f in _pairs(table)]
        return table.reindex(columns=tables.SELECTED.names)

    def _directions(self, selected: pd.DataFrame, made: dict[tuple[str, int], Direction]) -> list[Direction]:
        out = []
        for r in selected.to_dict("records"):
            one = made[r["site"], r["feature"]]
            area = r["fit_auroc"] if r["predicts"] == WAYS[0] else 1 - r["fit_auroc"]
            meta = {
                **one.meta, "latent": r["feature"], "position": self.step.position, "predicts": r["predicts"],
                "predictor": r["predictor"], "rank": r["rank"], "threshold": r["threshold"],
                "dictionary": r["dictionary"], "dictionary_name": one.meta.get("dictionary", ""), "selected_on": "fit",
                "target": self.step.target, "generation": self.generation,
                "orientation": f"larger means {r['predicts']}",
            }  # fmt: skip
            out.append(Direction(one.site, one.vector, f"feature {r['feature']} {r['site']}", "feature", area, meta))
        return out

    def _write(
        self, search: Search, found: pd.DataFrame, selected: pd.DataFrame, scores: pd.DataFrame,
        bins: list[dict[str, Any]], columns: list[np.ndarray], directions: list[Direction],
        apart: tuple[pd.DataFrame, pd.DataFrame],
    ) -> None:  # fmt: skip
        step, out, of = self.step, self.out, self.of
        for name, called in zip(("correct", "incorrect"), self.names, strict=True):
            scores["note"] = scores["note"].str.replace(rf"(\d) {name} rows", rf"\1 {called} rows", regex=True)
        for note in thin_notes(scores["note"]):
            self.ctx.log.warning("%s", note)
        n_fit = int((of.split == "fit").sum())
        split = self.known["split"].to_numpy()
        lines = [*family(search, found, n_fit), {"what": "general tokens", "value": float(self.general_count),
                 "ci_low": np.nan, "ci_high": np.nan, "n": self.general_count}]  # fmt: skip
        looked = float(len(selected))
        sure = float(selected["confirmed"].to_numpy(dtype=bool).sum()) if len(selected) else 0.0
        lines += [
            {"what": what, "value": value, "ci_low": np.nan, "ci_high": np.nan, "n": int((of.split == "test").sum())}
            for what, value in (("looked at on test", looked), ("confirmed", sure))
        ]
        frames = {
            "features": (tables.features_table(found, selected, n_fit, step.keep), tables.FEATURES),
            "selected": (selected, tables.SELECTED), "scores": (scores, SCORES),
            "predictions": (tables.predictions_table(selected, columns, self.rows, split), tables.PREDICTIONS),
            "family": (pd.DataFrame(lines), tables.FAMILY),
            "by_difficulty": (pd.DataFrame(bins, columns=tables.BY_DIFFICULTY.names), tables.BY_DIFFICULTY),
            "rates": (tables.rates_table(selected, self.names), tables.RATES),
            "facts": (self._facts(scores), FACTS),
            "separations": (apart[0], SEPARATIONS), "separations_by_site": (apart[1], BY_SITE),
        }  # fmt: skip
        for name, (frame, schema) in frames.items():
            out.table(name, pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
        out.directions(directions)

    def _facts(self, scores: pd.DataFrame) -> pd.DataFrame:
        step, of = self.step, self.of
        used = self.table.loc[self.table["split"].isin(SPLITS)]
        labels = int(used["label"].notna().sum())
        read = int(np.sum(self.known["label"].notna() & self.known["split"].isin(SPLITS)))
        kept, dropped = baselines_at(of, step.baselines, step.position)
        rows: list[tuple[str, float, str]] = [
            ("rows", len(of.y), ""), ("groups", len(np.unique(of.groups)), ""), ("share", float(of.y.mean()), ""),
            ("unlabelled", len(used) - labels, ""), ("unread", labels - read, ""),
            ("smallest increment", step.smallest_increment, ""), ("general limit", step.general_limit, ""),
            ("fewest", step.fewest, ""), ("generation", np.nan, self.generation), ("target", np.nan, of.target),
            ("position", np.nan, step.position), ("rank_by", np.nan, step.rank_by),
            ("general text", np.nan, step.general_text or "none"), ("left out", np.nan, "; ".join(dropped)),
            ("baselines", len(kept), ", ".join(kept) or "none"),
            ("dictionaries", len(self.sources), ", ".join(dict.fromkeys(s.name for s in self.sources))),
        ]  # fmt: skip
        nested = len(np.unique(of.groups)) < step.nested_below
        why = self._shortfall(SPLITS, "these rows") if nested else self._shortfall(("test",))
        apart = self._shortfall(("fit",)) or self._shortfall(("test",))
        for way, target in zip(WAYS, TARGETS[step.target], strict=True):
            said = verdict(scores.loc[scores["target"] == target], step.smallest_increment)
            rows.append((f"verdict {way}", np.nan, "undecided" if why else said))
        rows += [(f"class {way}", np.nan, name) for way, name in zip(WAYS, self.names, strict=True)]
        rows += [("no conclusion", np.nan, why), (NO_SEPARATION, np.nan, apart)]
        return pd.DataFrame(rows, columns=FACTS.names)

    def _shortfall(self, splits: Sequence[str], where: str = "") -> str:
        known = judged(self.known.loc[self.known["split"].isin(splits)])
        return shortfall(known, self.names, where or f"split {splits[0]}")

    def _pages(
        self, model: Any, selected: pd.DataFrame, columns: list[np.ndarray], directions: list[Direction]
    ) -> None:
        few = slice(0, self.step.pages)
        made = Pages(
            model, self.inputs, self.known, self.rows, selected.iloc[few], columns[few], directions[few],
            {s.site: s for s in self.sources}, self.step.examples, self.step.batch_size, self.names,
        )  # fmt: skip
        for name, (frame, schema) in made.tables().items():
            self.out.table(name, pa.Table.from_pandas(frame, schema=schema, preserve_index=False))


def _asked(table: pd.DataFrame) -> np.ndarray:
    """What tells prompts apart, `[rows]`: the samples of one share it."""
    columns = [table[c].astype(str) for c in ("group", "prompt_hash", "condition", "prompt_len")]
    return np.array([" ".join(parts) for parts in zip(*columns, strict=True)], dtype=object)


def _pairs(table: pd.DataFrame) -> list[tuple[str, int]]:
    return [(str(s), int(f)) for s, f in zip(table["site"], table["feature"], strict=True)]
