"""A page for each selected latent: the rows that move it most token by token, tokens it raises, histograms.

Rows are of fit and tune, one a prompt, by the activation where it was read. Token by token the values come from the
activations captured at position `all`, or from running those few rows again. Logit effects are direct ones (the
latent's decoder row through the final norm's gain, `methods.logit_lens`), so they mean little at early layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gnomon.lens.feature_reading import captured
from gnomon.lens.feature_sources import Source
from gnomon.methods.feature_latents import encode
from gnomon.methods.feature_tables import HISTOGRAM, LOGITS, TOP_ROWS, TOPS
from gnomon.methods.logit_lens import extremes, token_effects
from gnomon.methods.two_classes import DEFAULT
from gnomon.step import Inputs
from gnomon.types import Direction, Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

BINS = 30
TOKENS = 10
"""Tokens listed on each side."""
LOGIT_BINS = 50


@dataclass
class Pages:
    """Builds the tables. `table`: generations by row; `columns`: each selected latent's activations of `rows`."""

    model: Model
    inputs: Inputs
    table: pd.DataFrame
    rows: np.ndarray
    selected: pd.DataFrame
    columns: Sequence[np.ndarray]
    directions: Sequence[Direction]
    sources: Mapping[str, Source]
    examples: int
    batch_size: int
    names: tuple[str, str] = DEFAULT
    """Of the classes of label true and false."""

    def tables(self) -> dict[str, tuple[pd.DataFrame, Any]]:
        """`top_rows`, `tops`, `logits`, `histogram`, each with its schema."""
        top_rows, wanted = self._strongest()
        tops = self._tokens(top_rows, wanted)
        if tops:
            largest: dict[str, float] = {}
            for token in tops:
                largest[token["case"]] = max(token["activation"], largest.get(token["case"], 0.0))
            for row in top_rows:
                row["largest"] = float(largest.get(row["case"], np.nan))
        logits, bars = self._logits()
        return {
            "top_rows": (pd.DataFrame(top_rows, columns=TOP_ROWS.names), TOP_ROWS),
            "tops": (pd.DataFrame(tops, columns=TOPS.names), TOPS),
            "logits": (pd.DataFrame(logits, columns=LOGITS.names), LOGITS),
            "histogram": (pd.DataFrame(self._active() + bars, columns=HISTOGRAM.names), HISTOGRAM),
        }

    def _strongest(self) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
        """The rows shown of each latent, and the rows needed at each site."""
        known = self.table.set_index("row").loc[self.rows.tolist()]
        shown = known["split"].isin(["fit", "tune"]).to_numpy()
        prompts = known["prompt_hash"].astype(str).to_numpy()
        out: list[dict[str, Any]] = []
        wanted: dict[str, list[int]] = {}
        for s, a in zip(self.selected.to_dict("records"), self.columns, strict=True):
            taken: set[str] = set()
            for i in np.argsort(-np.where(shown, a, -1), kind="stable").tolist():
                if len(taken) == self.examples or not shown[i] or a[i] <= 0:
                    break
                if prompts[i] in taken:
                    continue
                taken.add(prompts[i])
                row = known.iloc[i]
                case = f"{s['feature']} {s['site']}, example {len(taken)}"
                out.append({
                    "case": case, **{k: s[k] for k in ("predictor", "site", "feature")}, "rank": len(taken),
                    "row": int(self.rows[i]), "example_id": str(row["example_id"]), "split": str(row["split"]),
                    "label": None if pd.isna(row["label"]) else bool(row["label"]), "activation": float(a[i]),
                    "largest": np.nan, "prompt": _plain(row["prompt"]), "target": _plain(row["target"]),
                    "answer": _plain(row["answer"]),
                })  # fmt: skip
                wanted.setdefault(s["site"], []).append(int(self.rows[i]))
        return out, {site: sorted(set(rows)) for site, rows in wanted.items()}

    def _tokens(self, top_rows: list[dict[str, Any]], wanted: Mapping[str, list[int]]) -> list[dict[str, Any]]:
        ids = dict(zip(self.table["row"].tolist(), self.table["token_ids"].tolist(), strict=True))
        out: list[dict[str, Any]] = []
        for site, rows in wanted.items():
            dictionary = self.sources[site].load()
            acts = dict(zip(rows, self._acts(site, rows, ids), strict=True))
            for case in (c for c in top_rows if c["site"] == site):
                x = acts[case["row"]]
                values = encode(dictionary, x, str(self.model.device))[:, case["feature"]]
                words = self.model.token_strings([int(t) for t in ids[case["row"]]][: len(values)])
                out += [
                    {"case": case["case"], "site": site, "feature": case["feature"], "rank": case["rank"],
                     "row": case["row"], "position": i, "token": word, "activation": float(value)}
                    for i, (word, value) in enumerate(zip(words, values, strict=True))
                ]  # fmt: skip
        return out

    def _acts(self, site: str, rows: list[int], ids: Mapping[int, Any]) -> list[np.ndarray]:
        """Activations of every token of some rows, `[tokens, d]` each."""
        if (Site.parse(site), "all") in self.inputs.sites():
            held = self.inputs.activations(site, "all")
            if np.isin(rows, held.rows).all():
                return [np.asarray(held.row(row), dtype=np.float32) for row in rows]
        return captured(self.model, [[int(t) for t in ids[row]] for row in rows], [site], self.batch_size)[site]

    def _logits(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Tokens raised and lowered, and the histogram over the vocabulary; none for a site of another width."""
        norm = self.model.norm("ln_final")
        unembed, gain = self.model.unembed.float().cpu().numpy(), norm.gain.float().cpu().numpy()
        tokens: list[dict[str, Any]] = []
        bars: list[dict[str, Any]] = []
        for direction in self.directions:
            if direction.d != unembed.shape[0] or direction.site.component in ("mlp_post", "z"):
                continue
            where = {"site": str(direction.site), "feature": int(direction.meta["latent"])}
            effects = token_effects(direction.vector, unembed, gain, norm.kind == "layernorm")
            found = extremes(effects, min(TOKENS, len(effects)))
            words = self.model.token_strings([t for _, _, t in found])
            tokens += [
                where | {"side": side, "rank": rank, "token": word, "id": t, "effect": float(effects[t])}
                for (side, rank, t), word in zip(found, words, strict=True)
            ]
            bars += _bars(effects, where | {"kind": "logit"}, LOGIT_BINS)
        return _once(tokens, ("site", "feature", "side", "rank")), _once(bars, ("site", "feature", "low"))

    def _active(self) -> list[dict[str, Any]]:
        """Histogram of active values in right and wrong rows of fit and tune, on the same bins."""
        known = self.table.set_index("row").loc[self.rows.tolist()]
        early, label = known["split"].isin(["fit", "tune"]).to_numpy(), known["label"]
        out: list[dict[str, Any]] = []
        for s, a in zip(self.selected.to_dict("records"), self.columns, strict=True):
            most = float(a[early].max(initial=0))
            if most <= 0:
                continue
            for name, value in zip(self.names, (True, False), strict=True):
                mine = a[early & (label == value).fillna(False).to_numpy(dtype=bool) & (a > 0)]
                where = {"site": s["site"], "feature": s["feature"], "kind": name}
                out += _bars(mine, where, BINS, (0.0, most))
        return out


def _bars(
    values: np.ndarray, where: Mapping[str, Any], bins: int, span: tuple[float, float] | None = None
) -> list[dict[str, Any]]:
    counts, edges = np.histogram(values, bins=bins, range=span)
    return [
        {**where, "low": float(a), "high": float(b), "middle": float((a + b) / 2), "count": int(c)}
        for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _once(rows: list[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """A latent may be selected for one way only, but a table is safe from two pages of it."""
    return list({tuple(r[k] for k in keys): r for r in rows}.values())


def _plain(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
