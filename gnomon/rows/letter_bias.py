"""What letters do to the answers: the table `letters` of a generation that scored them, and its part of the section.

For each letter: how often it was `chosen`, how often it was the right one (`target`), its mean `share` of the letters'
probability, its mean `mass` of the whole, and the `accuracy` where it was right; for all together: mass, accuracy,
chance (mean of 1 / options), and of questions asked in several orders the share with the same option in all (`stable`).
Intervals are Wilson's, or bootstrapped over groups.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.rows.counts import labelled, share, where
from gnomon.stats import Interval, mean_interval
from gnomon.store import Artifact

LETTERS = pa.schema(
    [("letter", pa.string()), ("measure", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()),
     ("ci_high", pa.float64()), ("n", pa.int64())]
)  # fmt: skip
COLUMNS = ["row", "example_id", "group", "label", "scores", "meta", "text", "choices", "target"]
ALL = "all"
LOW_MASS = 0.1
"""Below this mean probability of all letters together the section warns."""
LOPSIDED = 0.25
"""How much oftener than it is right a letter has to be chosen for the section to warn; the interval too lies above."""


def letter_rows(folder: Path) -> pd.DataFrame:
    """Rows under `folder` that were scored by letters, with `letter`, `letters`, `target_letter` and `rotation`."""
    parts = [pq.read_table(p, columns=COLUMNS) for p in sorted((folder / "generations").glob("*.parquet"))]
    rows = pa.concat_tables(parts).to_pandas().sort_values("row")
    rows = where(rows, rows["meta"].str.contains('"letter":', regex=False)).reset_index(drop=True)
    meta = [json.loads(text) for text in rows["meta"]]
    places = [dict(zip(choices, m["letters"], strict=True)) for choices, m in zip(rows["choices"], meta, strict=True)]
    target = [by_choice.get(right, "") for by_choice, right in zip(places, rows["target"], strict=True)]
    rows = rows.assign(target_letter=target, rotation=[int(m.get("rotation", 0)) for m in meta])
    return rows.assign(letter=[m["letter"] for m in meta], letters=[m["letters"] for m in meta])


def letter_table(rows: pd.DataFrame) -> pa.Table:
    """The table, from `letter_rows`."""
    groups, right = np.asarray(rows["group"]), labelled(rows, True)
    chosen, target = np.asarray(rows["letter"]), np.asarray(rows["target_letter"])
    letters = [[str(letter) for letter in each] for each in rows["letters"]]
    probability = [np.exp(np.asarray(scores, dtype=np.float64)) for scores in rows["scores"]]
    mass = np.array([p.sum() for p in probability])
    lines = []
    for letter in dict.fromkeys(letter for each in letters for letter in each):
        there = [i for i, each in enumerate(letters) if letter in each]
        own = np.array([probability[i][letters[i].index(letter)] for i in there])
        stands = np.flatnonzero(target == letter)
        lines += [
            _line(letter, "chosen", share(chosen[there] == letter, groups[there]), len(there)),
            _line(letter, "target", share(target[there] == letter, groups[there]), len(there)),
            _line(letter, "share", mean_interval(own / mass[there], groups[there]), len(there)),
            _line(letter, "mass", mean_interval(own, groups[there]), len(there)),
        ]
        if len(stands):
            lines.append(_line(letter, "accuracy", share(right[stands], groups[stands]), len(stands)))
    chance = float(np.mean([1 / len(p) for p in probability]))
    lines += [
        _line(ALL, "mass", mean_interval(mass, groups), len(rows)),
        _line(ALL, "accuracy", share(right, groups), len(rows)),
        _line(ALL, "chance", Interval(chance), len(rows)),
    ]
    same, of = _same_option(rows)
    if len(same):
        lines.append(_line(ALL, "stable", share(same, of), len(same)))
    return pa.Table.from_pylist(lines, schema=LETTERS)


def _line(letter: str, measure: str, found: Interval, n: int) -> dict[str, Any]:
    kept = [float(v) if np.isfinite(v) else None for v in (found.value, found.low, found.high)]
    return dict(zip(LETTERS.names, (letter, measure, *kept, n), strict=True))


def _same_option(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """For each question asked in several orders: whether all have the same option chosen, and its group."""
    said: dict[str, list[str]] = {}
    group: dict[str, str] = {}
    columns = (rows[name] for name in ("example_id", "rotation", "text", "group"))
    for name, rotation, text, of in zip(*columns, strict=True):
        question = str(name).removesuffix(f"#{rotation}") if rotation else str(name)
        said.setdefault(question, []).append(str(text))
        group[question] = str(of)
    several = [question for question, texts in said.items() if len(texts) > 1]
    return np.array([len(set(said[q])) == 1 for q in several], dtype=bool), np.array([group[q] for q in several])


def letter_blocks(artifact: Artifact) -> list[Block]:
    """The warnings, the sentence and the figure of a generation by letters; nothing for others."""
    if "letters" not in artifact.tables():
        return []
    found = {(line["letter"], line["measure"]): line for line in artifact.table("letters").to_dict("records")}
    out: list[Block] = []
    if found[ALL, "accuracy"]["ci_low"] <= found[ALL, "chance"]["value"]:
        out.append(Text(
            "By letters the model is not shown to be better than chance: {accuracy} right, where guessing gets "
            "{chance}. It may know answers that it cannot give as a letter: scoring: likelihood compares the options' "
            "own texts.",
            {"accuracy": _ref(ALL, "accuracy", True), "chance": _ref(ALL, "chance")}, "warning",
        ))  # fmt: skip
    excess = {letter: line["value"] - found[letter, "target"]["value"]
              for (letter, measure), line in found.items()
              if measure == "chosen" and line["ci_low"] > found[letter, "target"]["value"]}  # fmt: skip
    worst = max(excess, key=lambda letter: excess[letter], default="")
    if worst and excess[worst] > LOPSIDED:
        out.append(Text(
            f"The letter {worst} takes {{chosen}} of the answers where it stands and {{share}} of the letters' "
            "probability, and is right in {target} of them: the place weighs in, not the option alone. scoring: "
            "likelihood has no letters; rotations asks each question in several orders.",
            {"chosen": _ref(worst, "chosen", True), "share": _ref(worst, "share"), "target": _ref(worst, "target")},
            "warning",
        ))  # fmt: skip
    if found[ALL, "mass"]["value"] < LOW_MASS:
        out.append(Text(
            "The letters together hold {mass} of the probability: after this prompt the model does not expect a "
            "letter. Take another style, worked examples (shots), or scoring: likelihood.",
            {"mass": _ref(ALL, "mass", True)}, "warning",
        ))  # fmt: skip
    text = "The answers are letters: log p of a letter sums its spellings with and without a space; together the "
    text += "letters hold {mass} of the probability"
    refs = {"mass": _ref(ALL, "mass", True)}
    if (ALL, "stable") in found:
        text += ". Of the questions asked in several orders {stable} get the same option in all of them"
        refs["stable"] = _ref(ALL, "stable", True)
    out.append(Text(text + ".", refs))
    out.append(Figure(
        "bar", "letters", "letter", "value", "Letters: chosen, and right", color="measure", low="ci_low",
        high="ci_high", where={"measure": ["chosen", "target"]}, y_title="share of questions",
        caption="How often each letter is chosen and how often it is the right one. Without a bias the two agree.",
    ))  # fmt: skip
    out.append(Table("letters", "Letters", ("letter", "measure", "value", "ci_low", "ci_high", "n"), limit=40,
                     labels={"ci_low": "95% from", "ci_high": "to"},
                     formats={"value": ".1%", "ci_low": ".1%", "ci_high": ".1%"}))  # fmt: skip
    return out


def _ref(letter: str, measure: str, ci: bool = False) -> Ref:
    return Ref("letters", {"letter": letter, "measure": measure}, "value", ".1%", ci)
