"""The graph of features as one page to look at: no network, no library, keyboard or mouse, light or dark.

The numbers stand in it as JSON without `<`, `>` or `&`; its script makes every element itself and writes texts as text,
so that a token is never markup. A content security policy allows the page's own script by its hash and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gnomon.methods.integrate import Chain, shown
from gnomon.text import printable

FILES = Path(__file__).with_name("graph_files")
TOKENS = 40
"""Found tokens that a feature's page lists at most."""
PARTS = re.compile("@(title|policy|style|script|data|summary)@")


def page(
    title: str, chain: Chain, features: pd.DataFrame, nodes: pd.DataFrame, edges: pd.DataFrame, shortfall: str,
    strongest: int,
) -> str:  # fmt: skip
    """The page as text. The same tables give the same bytes."""
    data = page_data(title, chain, features, nodes, edges, shortfall, strongest)
    script = (FILES / "graph.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {
        "title": escape(printable(title)), "policy": escape(policy, quote=True), "script": script,
        "style": (FILES / "style.css").read_text(encoding="utf-8").strip(), "data": script_json(data),
        "summary": escape(f"{len(features)} features, {len(edges)} edges of {len(data['kinds'])} kinds"),
    }  # fmt: skip
    template = (FILES / "page.html").read_text(encoding="utf-8")
    return PARTS.sub(lambda found: filled[found[1]], template)  # one pass: what is put in is not searched again


def script_json(value: Any) -> str:
    """JSON that may stand inside a <script> element: ASCII, with no `<`, `>` or `&`, and null for NaN."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_data(
    title: str, chain: Chain, features: pd.DataFrame, nodes: pd.DataFrame, edges: pd.DataFrame, shortfall: str,
    strongest: int,
) -> dict[str, Any]:  # fmt: skip
    """What the page's script reads: nodes in the order of `features`, edges as lists (see `edges_of`)."""
    kinds = sorted({str(k) for k in edges["kind"]}, key=lambda k: (k != "total", k))
    sites = nodes.drop_duplicates("row").sort_values("row")
    effects = _by_name(chain.effects)
    tokens = _by_name(chain.tokens)
    where = dict(zip(nodes["name"], nodes.to_dict("records"), strict=True))
    return {
        "title": printable(title), "classes": list(chain.classes), "sites": [str(s) for s in sites["site"]],
        "kinds": kinds, "strongest": strongest, "shortfall": shortfall,
        "nodes": [_node(r, where[r["name"]], effects, tokens) for r in features.to_dict("records")],
        "edges": edges_of(features, edges, kinds),
    }  # fmt: skip


def edges_of(features: pd.DataFrame, edges: pd.DataFrame, kinds: list[str]) -> list[list[Any]]:
    """[source, target, kind, attribution, low, high, share, validated, pearson, slope, measured, control] by edge:
    numbers of nodes and kinds; validated is true, false, or null where it was not replayed."""
    index = {str(n): i for i, n in enumerate(features["name"])}
    numbers = ("attribution", "ci_low", "ci_high", "share")
    later = ("pearson", "slope", "measured", "control_measured")
    return [
        [index[r["source_name"]], index[r["target_name"]], kinds.index(str(r["kind"])),
         *(_short(r[c]) for c in numbers), None if pd.isna(r["validated"]) else bool(r["validated"]),
         *(_short(r[c]) for c in later)]
        for r in edges.to_dict("records")
    ]  # fmt: skip


def _node(
    row: Mapping[str, Any], at: Mapping[str, Any], effects: Mapping[str, pd.DataFrame],
    tokens: Mapping[str, pd.DataFrame],
) -> dict[str, Any]:  # fmt: skip
    name = str(row["name"])
    numbers = ("separation", "separation_low", "separation_high", "d", "ci_low", "ci_high", "first_mean", "second_mean",
               "change", "change_low", "change_high", "q", "control_change", "pearson", "control_pearson")  # fmt: skip
    texts = ("verdict", "condition", "raises", "lowers", "note")
    link = str(row["link"] or "") if not pd.isna(row["link"]) else ""
    out: dict[str, Any] = {
        "name": name, "site": str(row["site"]), "row": int(at["row"]), "x": _short(at["x"]),
        "near": _short(at["x_connected"]), "class": at["class"], "causal": None if pd.isna(row["is_causal"]) else
        bool(row["is_causal"]), "link": link if link.startswith("https://") else "",
    }  # fmt: skip
    out |= {c: _short(row[c]) for c in numbers}
    out |= {c: printable(str(row[c])) if isinstance(row[c], str) else "" for c in texts}
    if name in effects:
        mine = effects[name]
        mine = mine.loc[np.asarray(mine["kind"] == "feature")]
        columns = ("baseline", "value", "change", "ci_low", "ci_high", "q", "unparsed")
        out["conditions"] = [
            [str(r["condition"]), str(r["measure"]), *(_short(r[c]) for c in columns), _whole(r["n"])]
            for r in mine.to_dict("records")
        ]
    if name in tokens:
        mine = tokens[name]
        found = mine.loc[np.asarray(mine["found"].fillna(False), dtype=bool)]
        size = -np.abs(np.asarray(found["log_odds"], dtype=np.float64))
        out["tokens"] = [
            [shown(r["token"]), str(r["condition"]), _whole(r["count"]), _whole(r["n"]), _whole(r["against_count"]),
             _whole(r["against_n"]), *(_short(r[c]) for c in ("log_odds", "ci_low", "ci_high", "q"))]
            for r in found.iloc[np.argsort(size, kind="stable")].head(TOKENS).to_dict("records")
        ]  # fmt: skip
        out["tested"] = len(mine)
    return out


def _by_name(rows: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    return {} if rows is None else {str(name): part for name, part in rows.groupby("name", sort=True)}


def _short(value: Any) -> float | None:
    """Five digits that mean something: a page is read, the tables hold the rest."""
    return None if value is None or pd.isna(value) or not math.isfinite(value) else float(f"{float(value):.5g}")


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
