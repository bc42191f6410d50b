"""The few numbers that the section of step integrate states, one a row, with interval and control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.methods.chain_tables import NUMBER, TEXT, WHOLE
from gnomon.methods.integrate import Chain, judged, main_kind
from gnomon.methods.integrate_words import under_patches
from gnomon.methods.patch_effects import NONE

FACTS = pa.schema(
    [("name", TEXT), ("value", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("control", NUMBER), ("n", WHOLE),
     ("text", TEXT)]
)  # fmt: skip
"""`integrate/facts`: control is what random latents give in place of the value; null where there is none."""

MEASURES = {"rate": "share of {first} answers", "margin": "margin of the {first} option (nats)"}


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
        out += _causal(chain.causal, first)
    if chain.agreement is not None:
        out += _replayed(chain.agreement)
    if chain.tokens is not None:
        mine, beside = (_found(under_patches(chain.tokens, c)) for c in ("patches", "controls"))
        lines = chain.tokens if chain.comparisons is None else chain.comparisons
        tests = under_patches(lines)
        of, latents = (len(_concluding(under_patches(lines, c))) for c in ("patches", "controls"))
        share = len(beside) * of / latents if latents else None
        notes = [str(n) for n in tests["note"].fillna("")]
        if chain.comparisons is not None:
            out += [_fact("token tests", tests["vocabulary"].sum()), _fact("telling tests", tests["tested"].sum())]
        out += [
            _fact("no tokens", text=notes[0] if notes and all(notes) else ""),
            _fact("tokens", len(mine), control=share),
            _fact("features with tokens", mine["name"].nunique()),
        ]
    return out


def _concluding(lines: pd.DataFrame) -> pd.DataFrame:
    """(feature or random latent, the feature that it stands for) of the comparisons that conclude something."""
    mine = lines.loc[np.asarray(lines["note"].fillna("") == "")]
    return mine[["name", "matches"]].fillna("").drop_duplicates()


def _found(tokens: pd.DataFrame) -> pd.DataFrame:
    return tokens.loc[np.asarray(tokens["found"].fillna(False), dtype=bool)]


def _causal(causal: pd.DataFrame, first: str) -> list[dict[str, Any]]:
    """What was patched; the strongest change of a causal feature, or of any where none is."""
    yes = causal.loc[np.asarray(causal["is_causal"].fillna(False), dtype=bool)]
    why = next((str(v) for v in causal["verdict"] if str(v).startswith(NONE)), "")
    out = [_fact("patched", len(causal)), _fact("causal", len(yes)),
           _fact("no causes", text=why.removeprefix(NONE).lstrip(": "))]  # fmt: skip
    among = yes if len(yes) else causal.loc[causal["change"].notna()]
    if len(among):
        best = among.iloc[int(np.argmax(np.abs(np.nan_to_num(among["effect"]))))]
        out.append(_fact("strongest change", best["change"], best["ci_low"], best["ci_high"], best["control_change"],
                         best["n"], str(best["name"])))  # fmt: skip
        out.append(_fact("strongest condition", text=str(best["condition"]).replace("_", " ")))
        out.append(_fact("measure", text=MEASURES.get(str(best["measure"]), "{first}").format(first=first)))
    return out


def _replayed(agreement: pd.DataFrame) -> list[dict[str, Any]]:
    rows = judged(agreement.loc[np.asarray(agreement["scope"] == "pathway") & np.asarray(agreement["n"] > 0)])
    known = rows["validated"].notna()
    good = int(rows.loc[known, "validated"].astype(bool).sum())
    out = [_fact("replayed", len(rows)), _fact("judged", known.sum()), _fact("validated", good)]
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
