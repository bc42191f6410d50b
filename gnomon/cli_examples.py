"""`gnomon show --examples`: questions, options, the answer, whether it is right, and how sure the model is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from gnomon.errors import UserError
from gnomon.store import META, Artifact, Study
from gnomon.text import printable

WANTED = ("row", "example_id", "prompt", "text", "answer", "label", "target", "choices", "scores", "max_prob",
          "entropy", "margin", "meta")  # fmt: skip
STATED = ("row", "prompt", "text", "parsed", "confidence", "choices", "probs", "mass", "normal", "reversed")
MARKS = ("right", "wrong", "unparsed")
LONG, LINE = 4000, 300
"""Characters of a text, and of a line, that are printed at most; --json has them whole."""


def examples(path: str | Path, count: int) -> list[dict[str, Any]]:
    """`count` examples of a study, a generation or a confidence pass: right, wrong and unparsed ones in turn.

    UserError for a count below 1, and for a folder without answers.
    """
    if count < 1:
        raise UserError(f"--examples {count}", "1 or more")
    folder = Path(path)
    steps = [Artifact(folder)] if (folder / META).is_file() else list(Study(folder))
    made = next((a for a in steps if _is(a, "generations", "prompt", "text")), None)
    stated = next((a for a in steps if _is(a, "confidence", "confidence", "prompt")), None)
    if made is not None:
        whole = Study(made.path.parent) if (made.path.parent / "run.json").is_file() else ()
        passes = [a for a in whole if _is(a, "confidence", "confidence") and _about(a) == made.path.resolve()]
        table = _read(made, "generations", WANTED)
        return [_answer(row, passes) for row in _chosen(table, _marks(table), count)]
    if stated is not None:
        return _stated(stated, count)
    raise UserError(f"{folder} has no transcripts", "a step that generates text, or a confidence pass")


def _is(artifact: Artifact, table: str, *columns: str) -> bool:
    return table in artifact.tables() and set(columns) <= set(artifact.outline(table)[1])


def _read(artifact: Artifact, name: str, columns: Sequence[str]) -> pd.DataFrame:
    return artifact.table(name, [c for c in columns if _is(artifact, name, c)])


def _about(artifact: Artifact) -> Path | None:
    """The folder of the generation that a pass asks about."""
    record = (artifact.meta.get("inputs") or {}).get("generations") or {}
    return (artifact.path.parent / str(record["name"])).resolve() if record.get("name") else None


def _marks(table: pd.DataFrame) -> list[str]:
    if "label" not in table:
        return [""] * len(table)
    return ["unparsed" if pd.isna(v) else "right" if v else "wrong" for v in table["label"]]


def _chosen(table: pd.DataFrame, marks: Sequence[str], count: int) -> list[dict[str, Any]]:
    """`count` rows, one of each mark in turn, in the table's order."""
    places = {m: [i for i, mark in enumerate(marks) if mark == m] for m in dict.fromkeys([*MARKS, *marks])}
    turns = [here[depth] for depth in range(len(table)) for here in places.values() if depth < len(here)]
    rows = table.to_dict("records")
    return [{str(k): v for k, v in rows[i].items()} | {"mark": marks[i]} for i in sorted(turns[:count])]


def _answer(row: Mapping[str, Any], passes: Sequence[Artifact]) -> dict[str, Any]:
    meta = json.loads(row.get("meta") or "{}")
    choices, scores = _listed(row.get("choices")), _listed(row.get("scores"))
    probs = softmax(np.asarray(scores, dtype=np.float64)).tolist() if scores and len(scores) == len(choices) else []
    letters = [str(v) for v in meta.get("letters") or []]
    stated = {a.name: _number(t["confidence"].iloc[0]) for a in passes
              for t in [_line_of(a, int(row["row"]))] if len(t)}  # fmt: skip
    return {
        "name": str(row.get("example_id", row.get("row", ""))), "mark": row["mark"], "prompt": str(row["prompt"]),
        "text": str(row["text"]), "target": str(row.get("target", "")), "answer": str(row.get("answer") or ""),
        "question": meta.get("question"),
        "options": [{"letter": letters[i] if i < len(letters) else "", "text": str(c),
                     "probability": probs[i] if probs else None, "right": c == row.get("target")}
                    for i, c in enumerate(choices)],
        "confidence": {k: _number(row.get(k)) for k in ("max_prob", "entropy", "margin")}, "stated": stated,
    }  # fmt: skip


def _line_of(artifact: Artifact, row: int) -> pd.DataFrame:
    table = artifact.table("confidence", ("row", "confidence"))
    return table.loc[table["row"] == row]


def _stated(artifact: Artifact, count: int) -> list[dict[str, Any]]:
    """Examples of a confidence pass, with the answer that it asks about where its generation is there."""
    table, origin = _read(artifact, "confidence", ("example_id", *STATED)), _about(artifact)
    answers: dict[int, dict[str, Any]] = {}
    if origin is not None and (origin / META).is_file():
        known = _read(Artifact(origin), "generations", ("row", "label", "answer", "target", "meta"))
        answers = {int(r["row"]): {str(k): v for k, v in r.items()} for r in known.to_dict("records")}
    labels = [answers.get(int(row), {}).get("label") for row in table["row"]]
    marks = _marks(pd.DataFrame({"label": labels})) if answers else [""] * len(table)
    out = []
    for row in _chosen(table, marks, count):
        about = answers.get(int(row["row"]), {})
        probs = _listed(row["probs"])
        out.append({
            "name": str(row["example_id"]), "mark": row["mark"], "prompt": str(row["prompt"]), "text": str(row["text"]),
            "target": str(about.get("target", "")), "answer": str(about.get("answer") or ""),
            "question": json.loads(about.get("meta") or "{}").get("question"), "parsed": row["parsed"],
            "options": [{"letter": "", "text": str(c), "probability": probs[i] if i < len(probs) else None,
                         "right": False} for i, c in enumerate(_listed(row["choices"]))],
            "confidence": {k: _number(row[k]) for k in ("normal", "reversed", "mass")},
            "stated": {artifact.name: _number(row["confidence"])},
        })  # fmt: skip
    return out


def _listed(value: Any) -> list[Any]:
    return [] if value is None else np.asarray(value).tolist()


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


# ---------------------------------------------------------------- text


def render(example: Mapping[str, Any]) -> str:
    """One example as text: a head line, the prompt, what was said, the options with their probabilities, confidence.

    Long texts lose their middle, and nothing that a model wrote reaches the terminal as a command.
    """
    mark = f"[{example['mark']}] " if example["mark"] else ""
    parts = [f"{mark}{_line(example['name'])}   target: {_line(example['target'])}   read: {_line(example['answer'])}"]
    if example.get("question") and example["question"] not in example["prompt"]:
        parts.append(f"  question: {_line(example['question'])}")
    parts += [_quoted(example["prompt"].rstrip(), "  | "), _quoted(example["text"].strip(), "  > ")]
    for option in example.get("options", []):
        share = "      " if option["probability"] is None else f"{option['probability']:6.1%}"
        letter = f"{_line(option['letter'])} " if option["letter"] else ""
        parts.append(f"    {share}  {letter}{_line(option['text'])}" + ("   (right)" if option["right"] else ""))
    sure = [f"{k} {v:.3g}" for k, v in example.get("confidence", {}).items() if v is not None]
    sure += [f"{k} says {'nothing' if v is None else f'{v:.0%}'}" for k, v in example.get("stated", {}).items()]
    return "\n".join([*parts, *([f"  confidence: {', '.join(sure)}"] if sure else [])])


def _line(text: Any) -> str:
    return printable(" ".join(str(text).split()), LINE)


def _quoted(text: str, mark: str) -> str:
    """Lines behind a mark; a text of no line has one."""
    return "\n".join(mark + line for line in printable(text.replace("\r\n", "\n"), LONG).split("\n"))
