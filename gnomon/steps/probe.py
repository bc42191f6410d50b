"""Probe: do the activations tell right answers from wrong ones, and more than the cheap explanations do?

    difference   d = mean(x | correct) - mean(x | incorrect), at a site and position
    logistic     standardised, L2 by cross-validation within fit (ridge for a real-valued target)
    increment    AUROC_test(logistic[baselines, s]) - AUROC_test(logistic[baselines]),  s the probe's score

Site, position and kind of probe are chosen on fit and tune; test is read once, by the reported number. Under 500 groups
that number is nested grouped cross-validation. The mathematics, with its sources, is in `gnomon/methods`: linear,
baselines, controls, probing, heldout, nested, evidence. Cost: about 10 s of CPU for 600 rows, 30 layers, 2 positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gnomon.blocks import Block
from gnomon.errors import UserError, unknown
from gnomon.methods.linear import PENALTIES
from gnomon.methods.probe_tables import FOLDS, NULL, SCORES, SWEEP, TOKENS, facts
from gnomon.sites import POSITIONS, RAGGED
from gnomon.stats import thin_notes
from gnomon.step import Context, Inputs, Planning, Step, expand_positions, rows_of
from gnomon.store import Artifact
from gnomon.types import SPLITS, Direction, Site
from gnomon.writer import Writer


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class TokenPair(BaseModel):
    """Tokens whose logits stand against each other."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    plus: Names
    """Texts of one token each that should rise (" yes")."""
    minus: Names = ()
    """Their competitors (" no"); the mean of the vocabulary where none is given."""


class Probe(Step):
    """Find where right answers can be told from wrong ones, beside everything that could explain it cheaply."""

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "activations")
    writes: ClassVar[tuple[str, ...]] = ("directions", "scores")

    target: str = "correct"
    """What is predicted: `correct`, or any column of the generations. Two values are classes, the larger one true; more
    are a number, for which ridge takes the place of logistic and Spearman's correlation that of the AUROC."""
    sites: Names | None = None
    """Sites that are searched, such as resid_post.* or mlp_out.3-8; all that were captured, unless given."""
    positions: Names | None = None
    """Positions that are searched; all captured ones with one token a row, unless given."""
    predictors: Annotated[tuple[Literal["difference", "logistic", "ridge"], ...], BeforeValidator(_listed)] = Field(
        default=("difference", "logistic"), min_length=1
    )
    """Kinds of probe."""
    baselines: Names | None = None
    """What the probe must beat; unless given: difficulty, prompt length, the task's surface features, the model's
    confidence (max_prob, entropy, margin), temperature and condition; for a probe that reads the response also its
    length and mean_logprob."""
    permutations: int = Field(default=199, ge=199, le=100_000)
    """Label shuffles, by group, of difference in means."""
    logistic_permutations: int = Field(default=19, ge=19, le=10_000)
    """Label shuffles of probes that are fitted iteratively."""
    random: int = Field(default=100, ge=19, le=10_000)
    """Random directions at the chosen site."""
    draws: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap draws of groups behind each interval."""
    folds: int = Field(default=5, ge=3, le=20)
    """Folds of each cross-validation."""
    nested_below: int = Field(default=500, ge=0)
    """With fewer groups than this the headline is nested cross-validation over all of them."""
    select_on: Literal["fit+tune", "fit", "tune"] = "fit+tune"
    """Rows on which site, position and kind are chosen: fit out of fold, tune by the probe of fit, or both."""
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=PENALTIES, min_length=1)
    """L2 penalties (1/C) tried for standardised activations."""
    smallest_increment: float = Field(default=0.02, ge=0)
    """An increment whose whole interval lies below this is a fail: nothing worth speaking of beyond the baselines."""
    transfer_to: Names = ()
    """Other generations, by step name, on whose test rows the frozen probes are scored; they need the same sites."""
    tokens: TokenPair | None = None
    """Tokens whose unembedding is a direction of its own, {plus: " yes", minus: " no"}: a sanity check (loads the
    model)."""
    top_tokens: int = Field(default=0, ge=0, le=1000)
    """How many tokens to list that the headline direction raises and lowers most (loads the model)."""
    save: Literal["best", "all"] = "best"
    """Directions that are saved: the best of each kind, or also difference in means at every site and position."""

    def needs(self) -> Mapping[str, str]:
        return {f"transfer_to.{i}": name for i, name in enumerate(self.transfer_to)}

    def check(self, plan: Planning) -> None:
        if self.positions is not None:
            for position in expand_positions(self.positions):
                if position in RAGGED:
                    raise UserError(f"position {position!r} has many tokens a row", "last_prompt, last or answer")
        source = plan.inputs.get("activations")
        if source is None or not source.sites:
            return
        wanted = self._candidates([tuple(s.split("@")) for s in source.sites], int(plan.model.facts()["n_layers"]))
        for name in self.transfer_to:
            there = plan.inputs[name].sites if name in plan.inputs else ()
            missing = [f"{s}@{p}" for s, p in wanted if f"{s}@{p}" not in there]
            if missing:
                raise UserError(
                    f"transfer_to: {name} has no activations at {missing[0]}", "the sites that are probed",
                    f"give {name} the same capture, or name fewer sites",
                )  # fmt: skip

    def _candidates(self, captured: list[tuple[str, ...]], n_layers: int) -> list[tuple[str, str]]:
        """(site, position) pairs to search, in the order of sites; `captured` lists the pairs that are there."""
        dense = [(s, p) for s, p in captured if p not in RAGGED]
        sites = list(dict.fromkeys(s for s, _ in dense))
        if self.sites is not None:
            sites = [str(s) for s in Site.expand(self.sites, n_layers)]
        positions = self.positions or [p for p in POSITIONS if p in {q for _, q in dense}]
        known = {(str(Site(Site.parse(s).component, Site.parse(s).layer)), p) for s, p in dense}
        out = []
        for site in sites:
            parsed = Site.parse(site)
            for position in positions:
                if (str(Site(parsed.component, parsed.layer)), position) in known:
                    out.append((site, position))
                elif self.sites is not None and self.positions is not None:
                    raise unknown("activations", f"{site}@{position}", [f"{s}@{p}" for s, p in dense])
        if not out:
            raise UserError(
                "probe finds no activations with one token a row at the sites and positions asked for",
                f"captured: {', '.join(f'{s}@{p}' for s, p in dense[:6]) or 'none'}",
                "add capture: {sites: resid_post.*, positions: [last_prompt, last]} to generate",
            )
        return out

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.methods.evidence import evaluate, verdict
        from gnomon.methods.probing import Options, problem

        table, source = inputs.generations(), inputs["generations"]
        pairs = [(str(s), p) for s, p in inputs.sites()]
        layers = int(source.meta.get("model", {}).get("n_layers", 0)) or 1 + max(Site.parse(s).layer for s, _ in pairs)
        candidates = self._candidates(pairs, layers)
        used = table.loc[table["split"].isin(SPLITS), :]
        of = problem(used.loc[_read_everywhere(used, inputs, candidates), :], self.target, source.name)
        options = Options(seed=ctx.seed, **{k: getattr(self, k) for k in Options.__dataclass_fields__ if k != "seed"})
        work = len(candidates) * (2 if len(np.unique(of.groups)) < self.nested_below else 1)
        with ctx.progress("probe", work) as advance:
            found = evaluate(
                of,
                lambda candidate, rows: inputs.activations("@".join(candidate)).at(rows),
                candidates,
                options,
                on_test=lambda why: ctx.split(table, "test", f"probe: {why}"),
                done=advance,
            )
        directions = [self._direction(f, source.name) for f in found.fitted]
        scores, moved = [found.scores], {}
        for name in self.transfer_to:
            rows, moved[name] = self._transfer(name, found, inputs, ctx, table, options)
            scores.append(rows)
        if self.tokens is not None or self.top_tokens:
            scores.append(self._lens(directions, of, inputs, out, ctx))
        whole = pd.concat(scores, ignore_index=True)
        for text in thin_notes(whole["note"]):
            ctx.log.warning("%s", text)
        if self.save == "all":
            directions += _differences(of, inputs, candidates, source.name)
        out.directions(directions)
        for name, frame, schema in (
            ("scores", whole, SCORES), ("sweep", found.sweep, SWEEP), ("null", found.null, NULL),
            ("folds", found.folds, FOLDS),
        ):  # fmt: skip
            out.table(name, pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
        labels = used.loc[:, "label" if self.target == "correct" else self.target]
        said = verdict(whole, self.smallest_increment)
        out.table("facts", facts(of, found, said, labels, self.smallest_increment, moved))

    def _direction(self, fitted: Any, generation: str) -> Direction:
        choice = fitted.choice
        site, position = choice.candidate
        meta = {
            "target": self.target, "position": position, "orientation": f"larger means {self.target}",
            "predictor": choice.predictor, "generation": generation, "split": "fit", "n": fitted.n_fit,
            "bias": fitted.probe.bias, "penalty": choice.penalty, "threshold": fitted.thresholds.get("accuracy"),
            "threshold_f1": fitted.thresholds.get("f1"), "chosen_on": self.select_on,
        }  # fmt: skip
        kind = "difference" if choice.predictor == "difference" else "probe"
        score = choice.value if np.isfinite(choice.value) else None
        name = f"{choice.predictor} {site}@{position}"
        return Direction(Site.parse(site), fitted.probe.vector, name, kind, score, meta)

    def _transfer(
        self, name: str, found: Any, inputs: Inputs, ctx: Context, table: pd.DataFrame, options: Any
    ) -> tuple[pd.DataFrame, int]:
        from gnomon.methods.transfer import transfer

        other = inputs.named(name)
        rows = rows_of(other)
        seen = set(table.loc[table["split"].isin(["fit", "tune"]), "prompt_hash"])
        parts, left = [], 0
        for fitted in found.fitted:
            view = other.activations("@".join(fitted.choice.candidate))
            here = rows.loc[np.isin(rows["row"], view.rows), :].reset_index(drop=True)
            part, left = transfer(
                fitted, here, view.at(np.asarray(here["row"])), seen, name, self.target, options,
                lambda why, here=here: ctx.split(here, "test", f"probe: {why} to {name}"),
            )  # fmt: skip
            parts.append(part if not parts else part.loc[~part["predictor"].isin(parts[0]["predictor"]), :])
        return pd.concat(parts, ignore_index=True), left

    def _lens(self, directions: list[Direction], of: Any, inputs: Inputs, out: Writer, ctx: Context) -> pd.DataFrame:
        """The headline direction against the unembedding, and the tokens' own direction as one more predictor."""
        from gnomon.methods import logit_lens as lens
        from gnomon.methods.controls import Setting
        from gnomon.methods.direction import direction_controls

        model, head = ctx.model(), directions[0]
        norm = model.norm("ln_final")
        unembed, gain = model.unembed.float().cpu().numpy(), norm.gain.float().cpu().numpy()
        centred, rows, scores = norm.kind == "layernorm", [], pd.DataFrame(columns=SCORES.names)
        ranked = {head.name: lens.token_effects(head.vector, unembed, gain, centred)}
        if self.tokens is not None:
            plus, minus = ([_one_token(model, t) for t in texts] for texts in (self.tokens.plus, self.tokens.minus))
            vector = lens.logit_direction(unembed, gain, centred, plus, minus)
            position = str(head.meta["position"])
            against = f" minus {', '.join(self.tokens.minus)}" if minus else ""
            directions.append(Direction(
                head.site, vector, f"logit of {', '.join(self.tokens.plus)}{against}", "logit", None,
                {"position": position, "target": self.target, "cosine": lens.cosine(vector, head.vector)},
            ))  # fmt: skip
            x = inputs.activations(str(head.site), position).at(of.rows).astype(np.float64)
            ctx.split(pd.DataFrame({"split": of.split}), "test", f"probe: logit direction at {head.site}@{position}")
            scores = direction_controls(
                x @ vector, of.y, of.groups, of.split, predictor="logit", setting=Setting(self.draws, seed=ctx.seed),
                where={"generation": of.generation, "target": self.target, "site": str(head.site),
                       "position": position},
            )  # fmt: skip
            scores = scores.loc[scores["predictor"] == "logit", :]
            rows += [(head.name, "given", i + 1, int(t)) for i, t in enumerate([*plus, *minus])]
        rows = [(head.name, *entry) for entry in lens.extremes(ranked[head.name], self.top_tokens or 10)] + rows
        table = [{"direction": n, "side": s, "rank": r, "token": model.token_strings([t])[0], "id": t,
                  "effect": float(ranked[n][t])} for n, s, r, t in rows]  # fmt: skip
        out.table("tokens", pa.Table.from_pylist(table, schema=TOKENS))
        return scores

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.probe_blocks import probe_blocks

        return probe_blocks(artifact)


def _read_everywhere(table: pd.DataFrame, inputs: Inputs, candidates: list[tuple[str, str]]) -> np.ndarray:
    """Rows that have activations at every position searched: all candidates are compared on the same rows."""
    sites = {position: site for site, position in reversed(candidates)}
    held = [np.isin(table["row"], inputs.activations(site, position).rows) for position, site in sites.items()]
    return np.logical_and.reduce(held)


def _differences(of: Any, inputs: Inputs, candidates: list[tuple[str, str]], generation: str) -> list[Direction]:
    from gnomon.methods.linear import difference

    fit, out = of.split == "fit", []
    for site, position in candidates:
        vector = difference(inputs.activations(site, position).at(of.rows[fit]), of.y[fit])
        meta = {"target": of.target, "position": position, "generation": generation, "predictor": "difference",
                "split": "fit", "n": int(fit.sum()), "orientation": f"larger means {of.target}"}  # fmt: skip
        out.append(Direction(Site.parse(site), vector, f"mean difference {site}@{position}", "difference", None, meta))
    return out


def _one_token(model: Any, text: str) -> int:
    ids = model.encode_text(text)
    if len(ids) != 1:
        raise UserError(f"{text!r} is {len(ids)} tokens of this model", "one token", "mind the leading space")
    return int(ids[0])
