"""Which responses are held against which: the two classes of a generation, and each patch against its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gnomon.errors import UserError
from gnomon.methods.token_counts import Corpus
from gnomon.methods.token_families import CLASSES, CONTROLS, PATCHES, Comparison
from gnomon.methods.token_shifts import paired, unpaired
from gnomon.methods.two_classes import MIN_PARSED, judged, shortfall
from gnomon.stats import MIN_CLASS

PAIR = ["prompt", "row", "trial"]


def responses_of(table: pd.DataFrame) -> pd.DataFrame:
    """Labelled generations as one row a response: columns text, label, group, prompt, options_words.

    The rounds of an episode are one response: they share one label.
    """
    known = table.loc[table["label"].notna(), :].sort_values("row")
    if not len(known):
        return known.assign(prompt_key="", options_words=False)
    text, cut = known["text"].fillna("").astype(str), known["finish"].astype(str) == "choice"
    keys = [known[c] for c in ("example_id", "sample", "temperature")]
    known = known.assign(text=text, options_words=cut)
    if known["round"].nunique() > 1:
        joined = known.groupby([k.rename(k.name) for k in keys], sort=False, dropna=False)
        known = joined.agg(
            text=("text", "\n".join), label=("label", "first"), group=("group", "first"),
            prompt_hash=("prompt_hash", "first"), options_words=("options_words", "all"), row=("row", "first"),
        ).reset_index()  # fmt: skip
    prompt = known["prompt_hash"].astype(str) + "|" + known["temperature"].astype(str)
    return known.assign(prompt_key=prompt).sort_values("row").reset_index(drop=True)


def class_comparison(corpus: Corpus, held: pd.DataFrame, table: pd.DataFrame, names: tuple[str, str]) -> Comparison:
    """First class against second. `held`: `responses_of(table)`."""
    side = held["label"].to_numpy(dtype=bool)
    samples = unpaired(
        corpus.of(held["text"]), side, held["group"].to_numpy().astype(str), held["prompt_key"].to_numpy().astype(str)
    )
    note = shortfall(judged(table), names)
    if not note:
        left = {names[0]: int(samples.side.sum()), names[1]: int((~samples.side).sum())}
        name, least = min(left.items(), key=lambda item: item[1])
        note = f"{least} {name} responses after {samples.note}" if least < MIN_CLASS else ""
    words = bool(len(held)) and bool(held["options_words"].all())
    return Comparison(CLASSES, *names, samples, note=note, options_words=words)


def feature_names(responses: pd.DataFrame, separations: pd.DataFrame | None, most: int | None) -> list[str]:
    """The features whose patches are compared: all, or the `most` with the largest |fit_d|."""
    names = list(dict.fromkeys(responses.loc[responses["kind"] == "feature", "name"].astype(str)))
    if most is None:
        return names
    size = {} if separations is None else dict(zip(separations["name"], separations["fit_d"].abs(), strict=True))
    return sorted(names, key=lambda n: -size.get(n, 0.0))[:most]


def patch_comparisons(
    corpus: Corpus, responses: pd.DataFrame, names: Sequence[str], classes: tuple[str, str], options_words: bool,
    written: bool = False,
) -> list[Comparison]:  # fmt: skip
    """Each patched condition of the features and of the random latents that stand for them, against the same prompts
    and seeds unpatched. `written`: features wrote a text beside their choice; random latents did not, and are left out.
    UserError where a condition has no baseline, or a trial stands twice."""
    base = responses.loc[responses["name"].fillna("") == "", :]
    patched = responses.loc[responses["name"].fillna("") != "", :]
    mine = patched["name"].isin(names) & (patched["kind"] == "feature")
    theirs = patched["matches"].isin(names) & (patched["kind"] == "control") & (not written)
    told = _baseline(base)
    thin = _thin(base, classes)
    out = []
    for kind, family, part in (("feature", PATCHES, patched[mine]), ("control", CONTROLS, patched[theirs])):
        for key, rows in part.groupby(["name", "matches", "condition"], sort=False, dropna=False):
            name, matches, condition = ("" if pd.isna(k) else str(k) for k in key)  # pyright: ignore
            who = f"the {kind} {name} under {condition}"
            keys = _keys(rows)
            if len(set(keys)) < len(keys):
                raise UserError(f"{who} has a trial twice", "one response a prompt, row and trial")
            lost = sum(key not in told for key in keys)
            if lost:
                raise UserError(
                    f"{lost} of {len(keys)} responses of {who} have no baseline", "the same prompt, row and trial "
                    "unpatched, with name ''", "run patch_features again",
                )  # fmt: skip
            before = [told[key] for key in keys]
            samples = paired(
                corpus.of(texts_of([rows])), corpus.of(text for text, _ in before), rows["group"].to_numpy().astype(str)
            )
            out.append(Comparison(
                family, condition, before[0][1], samples, name, matches, thin or _unparsed(rows, condition),
                options_words, _rises(rows),
            ))  # fmt: skip
    return out


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What a patched response shares with its baseline: prompt's class, row, trial."""
    return list(zip(*(rows[c].tolist() for c in PAIR), strict=True))


def _baseline(base: pd.DataFrame) -> dict[tuple[Any, ...], tuple[str, str]]:
    """(text, condition) of each unpatched trial."""
    if not len(base):
        raise UserError("the responses have no baseline", "rows with name '': the prompts unpatched")
    keys = _keys(base)
    if len(set(keys)) < len(keys):
        raise UserError("a baseline trial stands twice", "one response a prompt, row and trial")
    return dict(zip(keys, zip(texts_of([base]), base["condition"].astype(str), strict=True), strict=True))


def _thin(base: pd.DataFrame, classes: tuple[str, str]) -> str:
    """Why nothing is concluded from any patch: too few prompts of a class, or too few parsed."""
    said = {"_".join(c.split()) for c in classes[:1]} | {classes[0]}
    parsed = base["outcome"].notna()
    labels = [bool(p in said) if ok else None for p, ok in zip(base["prompt"], parsed, strict=True)]
    return shortfall(labels, classes, "the unpatched trials")


def _unparsed(rows: pd.DataFrame, condition: str) -> str:
    parsed = float(np.mean(rows["outcome"].notna().to_numpy()))
    if parsed < MIN_PARSED:
        return f"only {parsed:.0%} of the answers under {condition} could be parsed; {MIN_PARSED:.0%} are needed"
    return f"{len(rows)} trials under {condition}; {MIN_CLASS} are needed" if len(rows) < MIN_CLASS else ""


def _rises(rows: pd.DataFrame) -> float:
    moved = float(np.mean(rows["set_to"].to_numpy(dtype=np.float64) - rows["activation"].to_numpy(dtype=np.float64)))
    return float(np.sign(moved)) if np.isfinite(moved) and moved else 1.0


def texts_of(tables: Sequence[Any]) -> list[str]:
    """All texts of some tables, missing ones empty."""
    return [str(t) for table in tables for t in table["text"].fillna("")]
