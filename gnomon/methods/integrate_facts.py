"""The few numbers that the section of step integrate states, one a row, with interval and control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.methods.chain_tables import NUMBER, TEXT, WHOLE
from gnomon.methods.integrate import Chain, main_kind, under_patches

FACTS = pa.schema(
    [("name", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("control", NUMBER), ("n", WHOLE),
     ("text", TEXT)]
)  # fmt: skip
"""`integrate/facts`: control is what random latents give in place of the value; null where there is none."""


def fact_rows(chain: Chain, features: pd.DataFrame, edges: pd.DataFrame, shortfall: str) -> list[dict[str, Any]]:
    """Table `facts`. shortfall: why nothing may be concluded; "" where something may."""
    main = edges.loc[np.asarray(edges["kind"] == main_kind(edges))]
    first, second = chain.classes
    separated = chain.separations
    lead = separated.iloc[int(np.argmax(np.abs(np.nan_to_num(separated["fit_d"]))))] if len(separated) else None
    out = [
        _fact("features", len(features)),
        _fact("sites", features["site"].nunique()),
        _fact("separated", len(separated)),
        _fact("shortfall", text=shortfall),
        _fact("first", text=first),
        _fact("second", text=second),
        _fact("edges", len(main), text=main_kind(edges)),
        _fact("targets", main["target_name"].nunique()),
    ]
    if lead is not None:
        ends = {"ci_low": lead["ci_low"], "ci_high": lead["ci_high"]}
        out.append(_fact("strongest d", lead["d"], text=str(lead["name"]), n=lead["test_first"] + lead["test_second"],
                         **ends))  # fmt: skip
    if chain.causal is not None:
        out += _causal(chain.causal)
    if chain.agreement is not None:
        out += _replayed(chain.agreement)
    if chain.tokens is not None:
        mine, beside = (_found(under_patches(chain.tokens, c)) for c in ("patches", "controls"))
        of, latents = (len(set(under_patches(chain.tokens, c)["name"])) for c in ("patches", "controls"))
        share = len(beside) * of / latents if latents else None
        out += [
            _fact("token tests", len(under_patches(chain.tokens))),
            _fact("tokens", len(mine), control=share),
            _fact("features with tokens", mine["name"].nunique()),
        ]
    return out


def _found(tokens: pd.DataFrame) -> pd.DataFrame:
    return tokens.loc[np.asarray(tokens["found"].fillna(False), dtype=bool)]


def _causal(causal: pd.DataFrame) -> list[dict[str, Any]]:
    yes = causal.loc[np.asarray(causal["is_causal"].fillna(False), dtype=bool)]
    out = [_fact("patched", len(causal)), _fact("causal", len(yes))]
    if len(yes):
        best = yes.iloc[int(np.argmax(np.abs(np.nan_to_num(yes["effect"]))))]
        out.append(_fact("strongest change", best["change"], best["ci_low"], best["ci_high"], best["control_change"],
                         best["n"], str(best["name"])))  # fmt: skip
        out.append(_fact("strongest condition", text=str(best["condition"]).replace("_", " ")))
        out.append(_fact("measure", text=str(best["measure"])))
    return out


def _replayed(agreement: pd.DataFrame) -> list[dict[str, Any]]:
    rows = agreement.loc[np.asarray(agreement["scope"] == "pathway")]
    judged = rows["validated"].notna()
    good = int(rows.loc[judged, "validated"].astype(bool).sum())
    out = [_fact("replayed", len(rows)), _fact("validated", good)]
    whole = {str(r["scope"]): r for r in agreement.to_dict("records") if r["scope"] in ("all", "controls")}
    beside = whole.get("controls")
    for name, r in (("pearson", whole.get("all")), ("control pearson", beside)):
        if r is not None:
            control = beside["pearson"] if beside is not None and name == "pearson" else None
            out.append(_fact(name, r["pearson"], r["pearson_low"], r["pearson_high"], control, r["n"]))
    return out


def _fact(
    name: str, value: Any = None, ci_low: Any = None, ci_high: Any = None, control: Any = None, n: Any = None,
    text: str = "",
) -> dict[str, Any]:  # fmt: skip
    numbers = {"value": value, "ci_low": ci_low, "ci_high": ci_high, "control": control}
    out: dict[str, Any] = {k: None if v is None or pd.isna(v) else float(v) for k, v in numbers.items()}
    return {"name": name, **out, "n": None if n is None or pd.isna(n) else int(n), "text": text}
