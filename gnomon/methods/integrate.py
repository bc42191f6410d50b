"""What every step of the chain says of a feature, joined by its name: one row a feature, one an edge.

A feature is listed where any step names it: separated, patched, traced as target or source, replayed, or with tokens
that move under its patch. What no step says is null, never 0. Random latents (controls) are no features here.

    pearson          correlation of predicted and measured change over all replayed rows of the feature's pathways,
                     upstream and downstream; as in step replay, of a source that goes down (set up: both signs turned)
    control_pearson  the same over the random latents that stood for it, or fed it in place of its sources
    validated        of an edge: the pathway's, that is of its total effect; replay measures nothing else. Null where
                     it was not replayed, or the step concludes nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.errors import UserError
from gnomon.latents import Latent, latent_name
from gnomon.methods.chain_tables import FLAG, INTEGRATED, NUMBER, PATHWAYS, TEXT, WHOLE
from gnomon.methods.integrate_words import logit_words, token_words, under_patches
from gnomon.methods.patch_effects import NONE

EDGES = pa.schema(
    [*PATHWAYS, ("replayed", WHOLE), ("slope", NUMBER), ("pearson", NUMBER), ("pearson_low", NUMBER),
     ("pearson_high", NUMBER), ("sign", NUMBER), ("predicted", NUMBER), ("measured", NUMBER), ("measured_low", NUMBER),
     ("measured_high", NUMBER), ("control_measured", NUMBER), ("p", NUMBER), ("q", NUMBER), ("validated", FLAG)]
)  # fmt: skip
"""`integrate/edges`: every kept pathway and kind, with its replay: replayed is the number of held-out rows, null where
it was not replayed. The columns from `replayed` on are the pathway's, whatever the kind of the row."""
NODES = pa.schema(
    [("name", TEXT), ("site", TEXT), ("layer", WHOLE), ("feature", WHOLE), ("d", NUMBER), ("class", TEXT),
     ("is_causal", FLAG), ("upstream", WHOLE), ("downstream", WHOLE), ("row", WHOLE), ("x", NUMBER),
     ("x_connected", NUMBER)]
)  # fmt: skip
"""`integrate/nodes`: where the graph draws each feature. row: of its site, 0 at the bottom; x: from 0 to 1 among all
features of its site, x_connected among those with a pathway (null for the others); class: to which it leans."""
ENDS = ("source", "target")


@dataclass(frozen=True)
class Chain:
    """The tables of the chain; None where the study has no such step."""

    separations: pd.DataFrame
    causal: pd.DataFrame | None = None
    effects: pd.DataFrame | None = None
    pathways: pd.DataFrame | None = None
    prompts: pd.DataFrame | None = None
    replay: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    tokens: pd.DataFrame | None = None
    logits: pd.DataFrame | None = None
    comparisons: pd.DataFrame | None = None
    """Of step tokens: how many tokens each comparison tested; table tokens lists some of them."""

    @property
    def classes(self) -> tuple[str, str]:
        """Names of label true and label false, as the separations have them."""
        first = self.separations
        return (str(first["first"].iloc[0]), str(first["second"].iloc[0])) if len(first) else ("correct", "incorrect")


def check_names(tables: Mapping[str, pd.DataFrame | None]) -> None:
    """UserError where a feature's name says another site or latent than its columns do: a join would go wrong."""
    for table, rows in tables.items():
        for name, site, latent in sorted(set(_named(rows))):
            if name and name != latent_name(site, int(latent)):
                raise UserError(
                    f"table {table} calls latent {int(latent)} of {site} {name!r}", latent_name(site, int(latent)),
                    "make that step again: features are joined by name",
                )  # fmt: skip


def _named(rows: Any) -> Iterable[tuple[str, str, int]]:
    if rows is None:
        return
    for columns in (("name", "site", "feature"), *((f"{end}_name", f"{end}_site", end) for end in ENDS)):
        if set(columns) <= set(rows):
            yield from rows[list(columns)].dropna().drop_duplicates().itertuples(index=False, name=None)


# ---------------------------------------------------------------- edges


def edge_rows(chain: Chain) -> pd.DataFrame:
    """Table `edges`: the kept pathways with their replay, strongest first within a target and kind."""
    columns = EDGES.names
    if chain.pathways is None:
        return pd.DataFrame(columns=columns)
    edges = chain.pathways.reset_index(drop=True)
    found: Any = pd.DataFrame(columns=["source_name", "target_name"])
    if chain.agreement is not None:
        found = judged(chain.agreement.loc[np.asarray(chain.agreement["scope"] == "pathway")])
        found["replayed"] = found["n"].where(found["n"] > 0)
    keep = [c for c in columns if c not in edges.columns and c in found.columns]
    found = found[["source_name", "target_name", *keep]].drop_duplicates(["source_name", "target_name"])
    joined = edges.merge(found, on=["source_name", "target_name"], how="left", validate="many_to_one")
    joined = joined.reindex(columns=columns)
    order = ["target_layer", "target_name", "kind", "rank", "source_name"]
    return joined.sort_values(order, kind="stable").reset_index(drop=True)


def judged(agreement: pd.DataFrame) -> pd.DataFrame:
    """A copy in which `validated` is null where no row was replayed or the step concludes nothing, and not false."""
    out = agreement.copy()
    none = ~np.asarray(out["n"] > 0) | np.asarray(out["note"].fillna("").astype(str).str.startswith(NONE), dtype=bool)
    out["validated"] = out["validated"].astype(object).where(~none, None)
    return out


def main_kind(edges: pd.DataFrame) -> str:
    """The kind that stands for a pathway where one is asked for: total, else the first there is; "" without edges."""
    kinds = [str(k) for k in edges["kind"].unique()]
    return "total" if "total" in kinds or not kinds else sorted(kinds)[0]


def degrees(edges: pd.DataFrame) -> pd.DataFrame:
    """By feature: upstream, downstream (numbers of kept pathways), validated, and its strongest of each, by |share|."""
    mine = edges.loc[np.asarray(edges["kind"] == main_kind(edges))]
    out: dict[str, dict[str, Any]] = {}
    columns = (mine[c].tolist() for c in ("source_name", "target_name", "share", "validated"))
    for source, target, share, validated in zip(*columns, strict=True):
        for name, other, side in ((target, source, "upstream"), (source, target, "downstream")):
            record = out.setdefault(name, {"name": name, "upstream_share": -1.0, "downstream_share": -1.0})
            record[side] = record.get(side, 0) + 1
            if abs(share) > record[f"{side}_share"]:
                record[f"{side}_share"], record[f"strongest_{side}"] = abs(share), other
            if not _is_nan(validated):
                record["validated"] = record.get("validated", 0) + int(validated)
    names = ["name", "upstream", "strongest_upstream", "downstream", "strongest_downstream", "validated"]
    return pd.DataFrame(list(out.values()), columns=names)


# ---------------------------------------------------------------- replay


def replay_agreement(replay: pd.DataFrame | None) -> pd.DataFrame:
    """By feature: pearson over the rows of its pathways, control_pearson over those of its random stand-ins."""
    columns = ["name", "pearson", "control_pearson"]
    if replay is None or not len(replay):
        return pd.DataFrame(columns=columns)
    control = np.asarray(replay["control"], dtype=bool)
    turned = np.where(replay["set_to"] > replay["source_activation"], -1.0, 1.0)
    replay = replay.assign(predicted=replay["predicted"] * turned, measured=replay["measured"] * turned)
    out: dict[str, dict[str, Any]] = {}
    for column, mask, keys in (
        ("pearson", ~control, ("source_name", "target_name")),
        ("control_pearson", control, ("matches", "target_name")),
    ):
        rows = replay.loc[mask]
        stacked = pd.concat(
            [rows[[key, "predicted", "measured"]].rename(columns={key: "name"}) for key in keys], ignore_index=True
        )
        for name, part in stacked.groupby("name", sort=True):
            out.setdefault(str(name), {"name": str(name)})[column] = pearson(part["predicted"], part["measured"])
    return pd.DataFrame(list(out.values()), columns=columns)


def pearson(a: Any, b: Any) -> float:
    """Correlation over the pairs that are finite; NaN with fewer than three, or where one does not vary."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


# ---------------------------------------------------------------- features


def feature_rows(chain: Chain, edges: pd.DataFrame) -> pd.DataFrame:
    """Table `features`: one row a feature that any step names, by layer, then by |d|."""
    table = _names(chain, edges)
    own = ["separation", "separation_low", "separation_high", "d", "ci_low", "ci_high", "first_mean", "second_mean"]
    table = _join(table, chain.separations, [*own, "link"])
    if chain.causal is not None:
        renamed = chain.causal.rename(columns={"ci_low": "change_low", "ci_high": "change_high"})
        table = _join(table, renamed, ["is_causal", "verdict", "condition", "change", "change_low", "change_high", "q",
                                       "control_change"])  # fmt: skip
        means: Any = chain.causal.drop_duplicates("name").set_index("name")
        for column in ("d", "first_mean", "second_mean"):  # a feature that was named by hand has them here alone
            table[column] = table[column].fillna(table["name"].map(means[column]))
    found = (degrees(edges), replay_agreement(chain.replay), token_words(chain.tokens), logit_words(chain.logits))
    for part in found:
        table = _join(table, part, [c for c in part.columns if c != "name"])
    if chain.pathways is not None:  # a feature that no kept pathway begins at has none
        table["downstream"] = table["downstream"].fillna(0)
        if chain.prompts is not None:
            traced = table["name"].isin(list(chain.prompts["name"]))
            table.loc[traced & table["upstream"].isna(), "upstream"] = 0
    table["note"] = [_note(chain, r) for r in table.to_dict("records")]
    size = -np.abs(np.asarray(table["d"], dtype=np.float64))
    order = np.lexsort((np.asarray(table["feature"]), np.where(np.isnan(size), 0, size), table["site"], table["layer"]))
    return table.iloc[order].reset_index(drop=True).reindex(columns=INTEGRATED.names)


def _names(chain: Chain, edges: pd.DataFrame) -> pd.DataFrame:
    seen: dict[str, None] = {}
    tokens = None if chain.tokens is None else under_patches(chain.tokens)
    for rows in (chain.separations, chain.causal, tokens, chain.logits):
        if rows is not None:
            seen |= dict.fromkeys(str(n) for n in rows["name"].unique() if isinstance(n, str) and n)
    for end in ENDS:
        seen |= dict.fromkeys(str(n) for n in edges[f"{end}_name"])
    latents = [Latent.parse(name) for name in seen]
    return pd.DataFrame({
        "name": [str(f) for f in latents], "site": [str(f.site) for f in latents],
        "layer": [f.site.layer for f in latents], "feature": [f.index for f in latents],
    })  # fmt: skip


def _join(table: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    found: Any = other[["name", *columns]]
    found = found.drop_duplicates("name")
    return table.merge(found, on="name", how="left", validate="one_to_one")


def _note(chain: Chain, row: Mapping[str, Any]) -> str:
    """Which steps say nothing of a feature, in words."""
    said = []
    if _is_nan(row["d"]):
        said.append("not among the separated ones")
    if chain.causal is not None and _is_nan(row.get("verdict")):
        said.append("not patched")
    if chain.pathways is not None and _is_nan(row.get("upstream")):
        said.append("not traced")
    return "; ".join(said)


def _is_nan(value: Any) -> bool:
    return value is None or bool(pd.isna(value))
