"""How the separations of latents read in the report: the strongest with its luck, each site, each latent by layer."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.store import Artifact

COLUMNS = ("name", "site", "rank", "fit_d", "d", "ci_low", "ci_high", "separation", "separation_low",
           "separation_high", "first_mean", "second_mean", "first_rate", "second_rate", "link")  # fmt: skip
NO_SEPARATION = "no conclusion on separations"
"""The fact that says why the separations of latents prove nothing; empty where they may."""
SITES = ("site", "searched", "kept", "strongest", "largest", "luck", "luck_high", "p", "fit_mean", "mean", "ci_low",
         "ci_high", "excluding", "note")  # fmt: skip


def separation_blocks(artifact: Artifact, first: str, second: str, silent: bool) -> list[Block]:
    """Headline, figures and tables of `separations`; `silent`: nothing may be concluded, NO_SEPARATION says why."""
    if "separations" not in artifact.tables():
        return []
    table, sites = artifact.table("separations"), artifact.table("separations_by_site")
    if not len(table):
        return []
    labels = {
        "fit_d": "d on fit", "d": "d on test", "ci_low": "low", "ci_high": "high", "separation_low": "low",
        "separation_high": "high", "first_mean": f"{first} mean", "second_mean": f"{second} mean",
        "first_rate": f"{first} rate", "second_rate": f"{second} rate",
    }  # fmt: skip
    return [
        _headline(table, sites, plain(first), plain(second), silent),
        Text("d: Cohen's, on fit for choosing, on test for saying. The largest on fit is the largest of many, so it "
             "stands beside that of labels shuffled by group; of the kept, one in 40 has an interval beyond 0 in the "
             "direction seen on fit by luck alone, one in 20 where activations have long tails (simulated: 40 rows a "
             "class, log-normal). Class means count rows in which a latent is inactive as 0.",
             kind="method"),
        Figure("scatter", "separations", "layer", "d", f"Cohen's d on test ({first} minus {second}), by layer",
               reference=0.0, reference_label="no difference", x_title="layer", y_title="d on test",
               caption="One point a kept latent; both signs were kept by |d| on fit."),
        Figure("line", "separations_by_site", "layer", "mean", "Mean d on test in the direction seen on fit",
               "component", "ci_low", "ci_high", reference=0.0, reference_label="nothing held up", x_title="layer",
               y_title="mean d", caption="95% intervals over groups, of the kept latents of each site."),
        Table("separations_by_site", "Sites: the largest |d| of the search and its luck, and what held up on test",
              SITES, limit=60, labels={"largest": "largest |d| on fit", "luck": "by luck", "luck_high": "95% of luck",
                                       "fit_mean": "mean |d| on fit", "mean": "mean d on test", "ci_low": "low",
                                       "ci_high": "high", "excluding": "beyond 0 on test"}),
        Table("separations", f"Latents with the largest |d| of each site: {first} minus {second}", COLUMNS,
              sort="rank", limit=20, labels=labels),
    ]  # fmt: skip


def _headline(table: pd.DataFrame, sites: pd.DataFrame, first: str, second: str, silent: bool) -> Text:
    top: Any = table.loc[table["fit_d"].abs().idxmax()]
    one, site = {"name": top["name"]}, {"site": top["site"]}
    text = (
        f"The latent that lies furthest apart on fit, {{name}}, has a Cohen's d ({first} minus {second}) of {{fit}} "
        f"there, where the largest |d| of its site under shuffled labels is {{luck}} (p = {{p}}), and of {{d}} on "
        f"test; its means are {{m1}} in {{n1}} {first} and {{m0}} in {{n0}} {second} rows of fit. The {{kept}} kept "
        "latents of that site have a mean d on test of {mean} in the direction seen on fit. "
    )
    if silent:
        text += "No conclusion: {why}."
    elif not all(math.isfinite(top[c]) for c in ("ci_low", "ci_high")):
        text += "No conclusion: test is too small for an interval."
    elif min(top["ci_low"] * top["fit_d"], top["ci_high"] * top["fit_d"]) > 0:
        text += "So it separates the classes in rows that had no part in its choice."
    else:
        text += "Whether it separates the classes in rows that had no part in its choice is open."
    refs = {"why": Ref("facts", {"fact": NO_SEPARATION}, "text", "")} if silent else {}
    return Text(text, refs | {
        "name": Ref("separations", one, "name", ""), "fit": Ref("separations", one, "fit_d", "+.2f"),
        "d": Ref("separations", one, "d", "+.2f", ci=True), "m1": Ref("separations", one, "first_mean", ".3g"),
        "m0": Ref("separations", one, "second_mean", ".3g"), "n1": Ref("separations", one, "n_first", "d"),
        "n0": Ref("separations", one, "n_second", "d"), "luck": Ref("separations_by_site", site, "luck", ".2f"),
        "p": Ref("separations_by_site", site, "p", ".2f"), "kept": Ref("separations_by_site", site, "kept", "d"),
        "mean": Ref("separations_by_site", site, "mean", "+.2f", ci=True),
    }, "headline")  # fmt: skip


def plain(text: str) -> str:
    """A name as a sentence holds it: its braces are no references."""
    return text.replace("{", "{{").replace("}", "}}")
