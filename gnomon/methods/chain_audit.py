"""Do the tables from separated features to pathways join, and is each complete? Checks of the tables themselves.

A name must say its own site and latent, stand once, and stand in the table that it came from; every patched feature
must have been tried on the prompts of either class, set to either class's mean, on the very trials of the baselines;
every causal feature must have responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gnomon.latents import latent_name
from gnomon.methods.audit_checks import Check, Level, shown

Cell = tuple[str, str, str]
"""(feature, class of the prompts, class whose mean it is set to)."""


def separation_checks(step: str, table: pd.DataFrame) -> list[Check]:
    """Of `features/separations`: names, each once, with an effect size on test."""
    none = int(np.isnan(table["d"].to_numpy(dtype=np.float64)).sum())
    return [
        _names(step, table, "name", "site", "feature"),
        _count(f"{step}: latents twice", _sum(table["name"].duplicated()), len(table), "latents stand twice"),
        Check(f"{step}: no effect size", "warn" if none else "ok", none, 0,
              f"{none} of {len(table)} latents have no d on test"),
    ]  # fmt: skip


def patch_checks(step: str, causal: pd.DataFrame, responses: pd.DataFrame, apart: pd.DataFrame | None) -> list[Check]:
    """Of `patch_features`: its features against `separations` (where given) and against its responses."""
    out = [
        _names(step, causal, "name", "site", "feature"),
        _count(f"{step}: features twice", _sum(causal["name"].duplicated()), len(causal), "features stand twice"),
    ]
    if apart is not None:
        out += [_joined(f"{step}: join features", causal["name"], apart["name"], "features are in no separations"),
                _same_means(step, causal, apart)]  # fmt: skip
    own = responses.loc[responses["kind"] != "control"]
    is_causal = causal.loc[causal["is_causal"].to_numpy(dtype=bool), "name"]
    out.append(_joined(f"{step}: responses of causal features", is_causal, own["name"], "causal features have none"))
    strange = sorted(set(own["name"]) - set(causal["name"]) - {""})
    if strange:
        detail = f"{len(strange)} features have responses and no verdict, such as {shown(strange[0])}"
        out.append(Check(f"{step}: responses of others", "warn", len(strange), 0, detail))
    return [*out, *_six(step, list(causal["name"]), own)]


def _six(step: str, features: Sequence[str], own: pd.DataFrame) -> list[Check]:
    """Six conditions: both classes' prompts unpatched, and set to either class's mean on the same trials."""
    bare = own.loc[own["name"] == ""]
    classes = sorted({*own["prompt"], *own.loc[own["name"] != "", "patch"]} - {""})
    base = {c: set(bare.loc[bare["prompt"] == c, "trial"]) for c in classes}
    cells: dict[Cell, set[int]] = {}
    for name, prompt, patch, trial in own.loc[own["name"] != "", ["name", "prompt", "patch", "trial"]].to_numpy():
        cells.setdefault((name, prompt, patch), set()).add(trial)
    wanted: list[Cell] = [(f, p, q) for f in features for p in classes for q in classes]
    missing = [cell for cell in wanted if cell not in cells]
    torn = [cell for cell in wanted if cell in cells and cells[cell] != base[cell[1]]]
    bad = len(missing) + sum(not trials for trials in base.values())
    twice = _sum(own.duplicated(["name", "condition", "trial"]))
    sizes = [len(t) for t in (*base.values(), *cells.values())]
    said = f"{min(sizes, default=0)} to {max(sizes, default=0)} trials (median {np.median(sizes or [0]):g})"
    if torn:
        said += f"; {len(torn)} conditions have other trials than their baseline, {_cell(torn)}"
    six: Level = "fail" if bad or len(classes) != 2 else "ok"
    return [
        Check(f"{step}: six conditions", six, bad, 0,
              f"prompts of {' and '.join(map(shown, classes)) or 'no class'}; " + (
                  f"{bad} conditions are missing, {_cell(missing)}" if bad else "no feature lacks a condition")),
        Check(f"{step}: trials", "fail" if torn else "ok", len(torn), 0, said),
        _count(f"{step}: trials twice", twice, len(own), "responses repeat a feature, condition and trial"),
    ]  # fmt: skip


def pathway_checks(
    step: str, edges: pd.DataFrame, apart: pd.DataFrame | None, causal: pd.DataFrame | None
) -> list[Check]:
    """Of `pathways`: names, each edge once, upward, its targets among the separated latents; causal ones traced."""
    downward = _sum(edges["source_layer"] > edges["target_layer"])
    out = [
        _names(step, edges, "source_name", "source_site", "source"),
        _names(step, edges, "target_name", "target_site", "target"),
        _count(f"{step}: pathways twice", _sum(edges.duplicated(["source_name", "target_name", "kind"])),
               len(edges), "pathways stand twice"),
        _count(f"{step}: downward", downward, len(edges), "pathways lead to a lower layer"),
    ]  # fmt: skip
    if apart is not None:
        out.append(_joined(f"{step}: join features", edges["target_name"], apart["name"],
                           "targets are in no separations", "warn"))  # fmt: skip
    if causal is not None:
        is_causal = causal.loc[causal["is_causal"].to_numpy(dtype=bool), "name"]
        out.append(_joined(f"{step}: causal features traced", is_causal, edges["target_name"],
                           "causal features have no pathway (of the lowest site none has)", "warn"))  # fmt: skip
    return out


def _names(step: str, table: pd.DataFrame, name: str, site: str, latent: str) -> Check:
    columns = zip(table[name], table[site], table[latent], strict=True)
    bad = [str(n) for n, s, i in columns if str(n) != latent_name(str(s), int(i))]
    some = f", such as {shown(bad[0])}" if bad else ""
    return Check(f"{step}: {name}", "fail" if bad else "ok", len(bad), 0,
                 f"{len(bad)} of {len(table)} names tell another site or latent than their row{some}")  # fmt: skip


def _joined(check: str, left: Any, right: Any, without: str, level: Level = "fail") -> Check:
    mine, theirs = list(dict.fromkeys(left)), set(right)
    alone = [str(n) for n in mine if n not in theirs]
    detail = f"{len(mine) - len(alone)} of {len(mine)} join"
    if alone:
        detail += f"; {len(alone)} {without}: {', '.join(shown(n) for n in alone[:5])}"
    return Check(check, level if alone else "ok", len(alone), 0, detail)


def _same_means(step: str, causal: pd.DataFrame, apart: pd.DataFrame) -> Check:
    both = causal.merge(apart, on="name", suffixes=("", "_then"))
    off = np.zeros(len(both), dtype=bool)
    for column in ("first_mean", "second_mean"):
        off |= ~np.isclose(both[column], both[f"{column}_then"], rtol=1e-6, atol=1e-9)
    return _count(
        f"{step}: class means", int(off.sum()), len(both), "features were set to other means than those found"
    )


def _sum(flags: Any) -> int:
    return int(np.sum(np.asarray(flags, dtype=bool)))


def _count(check: str, bad: int, of: int, what: str) -> Check:
    return Check(check, "fail" if bad else "ok", bad, 0, f"{bad} of {of} {what}")


def _cell(cells: Sequence[Cell]) -> str:
    if not cells:
        return "all of a baseline"
    feature, prompt, patch = cells[0]
    return f"such as {shown(feature)}: {shown(prompt)} prompts set to {shown(patch)}"
