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

from gnomon.methods.integrate import Chain
from gnomon.methods.integrate_words import by_name, found_tokens, shown, under_patches
from gnomon.text import printable

FILES = Path(__file__).with_name("graph_files")
TOKENS = 40
"""Found tokens that a feature's page lists at most."""
EFFECT = ("condition", "measure", "baseline", "value", "change", "ci_low", "ci_high", "q", "unparsed", "n")
Records = Mapping[str, list[dict[str, Any]]]
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
    """JSON that may stand inside a <script> element: ASCII, with no `<`, `>` or `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_data(
    title: str, chain: Chain, features: pd.DataFrame, nodes: pd.DataFrame, edges: pd.DataFrame, shortfall: str,
    strongest: int,
) -> dict[str, Any]:  # fmt: skip
    """What the page's script reads: nodes in the order of `features`, edges as lists (see `edges_of`)."""
    kinds = sorted({str(k) for k in edges["kind"]}, key=lambda k: (k != "total", k))
    sites = nodes.drop_duplicates("row").sort_values("row")
    effects, tokens, tested = {}, {}, {}
    if chain.effects is not None:
        effects = by_name(chain.effects.loc[np.asarray(chain.effects["kind"] == "feature")], EFFECT)
    if chain.tokens is not None:
        tokens = found_tokens(chain.tokens)
    if chain.comparisons is not None:
        for name, parts in by_name(under_patches(chain.comparisons), ("vocabulary",)).items():
            tested[name] = sum(part["vocabulary"] for part in parts)
    where = dict(zip(nodes["name"], nodes.to_dict("records"), strict=True))
    return {
        "title": printable(title), "classes": list(chain.classes), "sites": [str(s) for s in sites["site"]],
        "kinds": kinds, "strongest": strongest, "shortfall": shortfall,
        "nodes": [
            _node(r, where[r["name"]]) | _pages(r["name"], effects, tokens, tested)
            for r in features.to_dict("records")
        ],
        "edges": edges_of(features, edges, kinds),
    }  # fmt: skip


def edges_of(features: pd.DataFrame, edges: pd.DataFrame, kinds: list[str]) -> list[list[Any]]:
    """[source, target, kind, attribution, low, high, share, validated, pearson, slope, measured, control] by edge:
    numbers of nodes and kinds; validated is true, false, or null where it was not replayed."""
    index = {str(n): i for i, n in enumerate(features["name"])}
    number = {kind: i for i, kind in enumerate(kinds)}
    numbers = ("attribution", "ci_low", "ci_high", "share")
    later = ("pearson", "slope", "measured", "control_measured")
    columns: list[list[Any]] = [
        [index[n] for n in edges["source_name"]], [index[n] for n in edges["target_name"]],
        [number[k] for k in edges["kind"]], *(_column(edges[c]) for c in numbers),
        [None if v is None or v != v else bool(v) for v in edges["validated"]], *(_column(edges[c]) for c in later),
    ]  # fmt: skip
    return [list(line) for line in zip(*columns, strict=True)]


def _column(values: Any) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=np.float64)]


def _node(row: Mapping[str, Any], at: Mapping[str, Any]) -> dict[str, Any]:
    numbers = ("separation", "separation_low", "separation_high", "d", "ci_low", "ci_high", "first_mean", "second_mean",
               "change", "change_low", "change_high", "q", "control_change", "pearson", "control_pearson")  # fmt: skip
    texts = ("verdict", "condition", "raises", "lowers", "note")
    link = row["link"] if isinstance(row["link"], str) else ""
    out: dict[str, Any] = {
        "name": str(row["name"]), "site": str(row["site"]), "row": int(at["row"]), "x": _short(at["x"]),
        "near": _short(at["x_connected"]), "class": at["class"] if isinstance(at["class"], str) else None,
        "causal": None if pd.isna(row["is_causal"]) else bool(row["is_causal"]),
        "link": link if link.startswith("https://") else "",
    }  # fmt: skip
    out |= {c: _short(row[c]) for c in numbers}
    return out | {c: printable(row[c]) if isinstance(row[c], str) else "" for c in texts}


def _pages(name: str, effects: Records, tokens: Records, tested: Mapping[str, int]) -> dict[str, Any]:
    """What a feature's own page adds: the answers under each patch, and the tokens that were found."""
    out: dict[str, Any] = {}
    if name in effects:
        columns = ("baseline", "value", "change", "ci_low", "ci_high", "q", "unparsed")
        out["conditions"] = [
            [str(r["condition"]), str(r["measure"]), *(_short(r[c]) for c in columns), _whole(r["n"])]
            for r in effects[name]
        ]
    if name in tokens:
        counts, numbers = ("count", "n", "against_count", "against_n"), ("log_odds", "ci_low", "ci_high", "q")
        out["tokens"] = [
            [shown(r["token"]), str(r["condition"]), *(_whole(r[c]) for c in counts), *(_short(r[c]) for c in numbers)]
            for r in tokens[name][:TOKENS]
        ]
        out["tested"] = _whole(tested.get(name))
    return out


def _short(value: Any) -> float | None:
    """Five digits that mean something: a page is read, the tables hold the rest."""
    return None if value is None or pd.isna(value) or not math.isfinite(value) else float(f"{float(value):.5g}")


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
