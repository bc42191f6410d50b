"""Case studies: the strongest neurons, the texts that move them most, token by token; and rows that went wrong.

Neurons are chosen by mean |score| along the main direction (on fit, where second_order says so), texts from fit and
tune; what a neuron does on right and on wrong rows is measured on test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.methods.second_order_metrics import difference, outlying
from gnomon.nulls import benjamini_hochberg, p_value, permuted
from gnomon.stats import MIN_CLASS, Interval, auroc, bootstrap, mean_interval
from gnomon.store import Artifact

STRONG = pa.schema(
    [("name", pa.string()), ("layer", pa.int64()), ("neuron", pa.int64()), ("second", pa.float64()),
     ("ablation_r", pa.float64()),
     *((f"{side}{end}", pa.float64()) for side in ("right", "wrong", "difference") for end in ("", "_low", "_high")),
     ("p", pa.float64()), ("q", pa.float64()), ("n", pa.int64()), ("n_pos", pa.int64()), ("phrases", pa.string()),
     ("note", pa.string())]
)  # fmt: skip
CASES = pa.schema(
    [("case", pa.int64()), ("name", pa.string()), ("layer", pa.int64()), ("neuron", pa.int64()), ("kind", pa.string()),
     ("row", pa.int64()), ("example_id", pa.string()), ("label", pa.bool_()), ("prompt", pa.string()),
     ("target", pa.string()), ("answer", pa.string()), ("score", pa.float64()), ("ablation_r", pa.float64()),
     ("phrases", pa.string())]
)  # fmt: skip
HEAT = pa.schema([("case", pa.int64()), ("position", pa.int64()), ("token", pa.string()), ("value", pa.float64())])
ERRORS = pa.schema(
    [("row", pa.int64()), ("example_id", pa.string()), ("prompt", pa.string()), ("target", pa.string()),
     ("answer", pa.string()), ("place", pa.int64()), ("name", pa.string()), ("score", pa.float64()),
     ("ablation_r", pa.float64()),
     ("right_mean", pa.float64()), ("z", pa.float64()), ("p", pa.float64()), ("q", pa.float64()), ("n", pa.int64())]
)  # fmt: skip
PHRASES = 3
"""Phrases of a neuron that are shown."""


@dataclass
class Cases:
    """Builds the tables. `texts` are generations by row (empty where there are none), `tokens` ids -> strings."""

    source: Artifact
    text: Artifact | None
    texts: pd.DataFrame
    tokens: Callable[[Sequence[int]], list[str]] | None
    draws: int
    seed: int

    def __post_init__(self) -> None:
        self.rows: Any = self.source.table("rows").sort_values("index").reset_index(drop=True)
        self.label = self.rows["label"].to_numpy(dtype=bool)
        self.neurons = self.source.table("neurons").sort_values("index").reset_index(drop=True)
        self.main = self.source.directions()[0].name
        checks: Any = self.source.table("checks")
        worth: Any = checks[(checks["score"] == "second") & (checks["chosen"] == "random")]
        worth = worth[worth["measure"] == "pearson"]
        self.worth = dict(zip(worth["layer"].tolist(), worth["value"].tolist(), strict=True))
        """By layer: the correlation of its scores with real ablations, which stands beside every score."""

    def strongest(self, count: int, by: str) -> pd.DataFrame:
        """The `count` neurons of largest mean |score| (`second`), or of the best rank."""
        summary = self.source.table("summary")
        own: Any = summary[summary["direction"] == self.main]
        column = "fit_second" if "fit_second" in own else "second"
        found: Any = self.neurons.merge(own[["layer", "neuron", column]], on=["layer", "neuron"])
        found = found.rename(columns={column: "second"})
        order: Any = ["rank", "layer"] if by == "rank" else ["second"]
        return found.sort_values(order, ascending=by == "rank", kind="stable").head(count).reset_index(drop=True)

    def scores(self, layer: int, neuron: int) -> np.ndarray:
        """The main direction's scores of one neuron, `[N]`."""
        return np.asarray(self.source.array(f"scores_layer{layer}")[0, :, neuron], dtype=np.float64)

    def phrases(self, index: int) -> str:
        """A neuron's first phrases with their signed coefficients."""
        if self.text is None:
            return ""
        table: Any = self.text.table("phrases")
        own = table[table["index"] == index].sort_values("order").head(PHRASES)
        return ", ".join(f"{p} ({c:+.2f})" for p, c in zip(own["phrase"], own["coefficient"], strict=True))

    def effects(self, chosen: pd.DataFrame, test: np.ndarray) -> pd.DataFrame:
        """Mean score on right and on wrong test rows, and their difference, p by shuffling labels between groups."""
        groups, labels = self.rows["group"].to_numpy()[test], self.label[test]
        thin = min(int(labels.sum()), int((~labels).sum())) < MIN_CLASS
        note = f"a class with fewer than {MIN_CLASS} test rows: no intervals" if thin else ""
        shuffled = permuted(labels, groups, min(self.draws, 999), self.seed)
        out = []
        for n in chosen.to_dict("records"):
            x = self.scores(n["layer"], n["neuron"])[test]
            row = {
                "name": _name(n), "layer": n["layer"], "neuron": n["neuron"], "second": n["second"], "q": np.nan,
                "ablation_r": self.worth.get(n["layer"], np.nan),
                "n": len(test), "n_pos": int(labels.sum()), "phrases": self.phrases(n["index"]), "note": note,
            }  # fmt: skip
            options = {"draws": self.draws, "seed": self.seed}
            for side, here in (("right", labels), ("wrong", ~labels)):
                found = mean_interval(x[here], groups[here], **options) if here.any() else Interval(np.nan)
                row |= _ends(side, found, thin)
            both = labels.any() and not labels.all()
            found = difference(x, labels, groups, **options) if both else Interval(np.nan)
            null = _differences(x, shuffled) if both else np.zeros(0)
            out.append(row | _ends("difference", found, thin) | {"p": p_value(found.value, null, "two-sided")})
        table = pd.DataFrame(out, columns=STRONG.names)
        return table.assign(q=benjamini_hochberg(table["p"].to_numpy(dtype=np.float64)))

    def tables(self, chosen: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """`cases` and `heat`: of each neuron the text of its largest |score|, and its largest right and wrong ones."""
        cases: list[dict[str, Any]] = []
        heat: list[dict[str, Any]] = []
        shown = np.flatnonzero(
            (self.rows["split"] != "test").to_numpy() & self.rows["row"].isin(self.texts.index.tolist())
        )
        for n in chosen.to_dict("records"):
            score, taken = self.scores(n["layer"], n["neuron"]), set()
            order = [int(i) for i in shown[np.argsort(-np.abs(score[shown]), kind="stable")]]
            for kind in ("top", "right", "wrong"):
                fits = [i for i in order if i not in taken and (kind == "top" or self.label[i] == (kind == "right"))]
                if fits:
                    taken.add(fits[0])
                    cases.append(self._case(len(cases), n, kind, fits[0], float(score[fits[0]])))
                    heat += self._heat(cases[-1]["case"], n, fits[0])
        return pd.DataFrame(cases, columns=CASES.names), pd.DataFrame(heat, columns=HEAT.names)

    def _case(self, case: int, n: dict[str, Any], kind: str, index: int, score: float) -> dict[str, Any]:
        return {
            "case": case, "name": _name(n), "layer": n["layer"], "neuron": n["neuron"], "kind": kind,
            "label": bool(self.label[index]), "score": score, "ablation_r": self.worth.get(n["layer"], np.nan),
            "phrases": self.phrases(n["index"]), **self._said(index),
        }  # fmt: skip

    def _said(self, index: int) -> dict[str, Any]:
        row = self.rows.loc[index]
        text = self.texts.loc[row["row"]] if row["row"] in self.texts.index else {}
        said = {c: _plain(text.get(c)) for c in ("prompt", "target", "answer")}
        return {"row": int(row["row"]), "example_id": str(row["example_id"]), **said}

    def _heat(self, case: int, n: dict[str, Any], index: int) -> list[dict[str, Any]]:
        name = f"token_scores_layer{n['layer']}"
        if self.tokens is None or not self.source.has(name):
            return []
        row = self.rows.loc[index]
        ids = [int(i) for i in self.texts.loc[row["row"], "token_ids"]][: int(row["tokens"])]
        start = int(row["token_start"])
        values = np.asarray(self.source.array(name)[start : start + int(row["tokens"]), n["slot"]], dtype=np.float64)
        words = self.tokens(ids)
        return [
            {"case": case, "position": i, "token": word, "value": float(value)}
            for i, (word, value) in enumerate(zip(words, values, strict=True))
        ]

    def errors(self, count: int, each: int = 3) -> tuple[pd.DataFrame, Interval, int]:
        """The wrong rows (of fit and tune) that lie farthest from right ones, with the neurons that differ most; and
        the AUROC of "is far" for "is wrong" over all of these rows, whose value without any relation is .5."""
        here = np.flatnonzero((self.rows["split"] != "test").to_numpy())
        chosen = self.neurons.to_dict("records")
        x = np.stack([self.scores(n["layer"], n["neuron"]) for n in chosen], axis=1)[here]
        right = self.label[here]
        z, p = outlying(x, right)
        wrong = np.flatnonzero(~right)
        q = np.full(len(here), np.nan)
        q[wrong] = benjamini_hochberg(p[wrong])
        largest = np.abs(z).max(1)
        out = []
        for i in wrong[np.argsort(-largest[wrong], kind="stable")][:count] if np.isfinite(largest).all() else []:
            said = self._said(int(here[i]))
            for place, j in enumerate(np.argsort(-np.abs(z[i]), kind="stable")[:each].tolist(), start=1):
                out.append(said | {
                    "place": place, "name": _name(chosen[j]), "score": x[i, j],
                    "ablation_r": self.worth.get(chosen[j]["layer"], np.nan), "right_mean": x[right, j].mean(),
                    "z": z[i, j], "p": p[i], "q": q[i], "n": int(right.sum()),
                })  # fmt: skip
        found = Interval(np.nan, note="fewer than 3 right rows, or none wrong")
        if np.isfinite(largest).all() and len(wrong) and right.any():
            groups = self.rows["group"].to_numpy()[here]
            found = bootstrap(lambda w: auroc(largest, ~right, w), groups, draws=self.draws, seed=self.seed)
        return pd.DataFrame(out, columns=ERRORS.names), found, len(here)


def _name(n: dict[str, Any]) -> str:
    return f"layer {n['layer']}, neuron {n['neuron']}"


def _ends(side: str, found: Interval, thin: bool) -> dict[str, float]:
    low, high = (np.nan, np.nan) if thin else (found.low, found.high)
    return {side: found.value, f"{side}_low": low, f"{side}_high": high}


def _differences(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """mean over true - mean over false of `x [n]` for each column of `labels [n, draws]`."""
    y = labels.astype(np.float64)
    return x @ y / y.sum(0) - x @ (1 - y) / (1 - y).sum(0)


def _plain(value: Any) -> str:
    """A cell as text: a chat's messages joined, nothing for what is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(value)
