"""The rows of layout pva: a record an answer, file names that any task id can have, the activations of an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.errors import UserError
from gnomon.store import Artifact, Study
from gnomon.types import Activations

SPLIT_NAMES = {"fit": "sae", "tune": "hyperparams", "test": "validation"}
LONGEST = 120
"""Characters of a file's stem; a longer one is cut and gets a hash."""
FIRST = ("last_prompt", "last", "answer", "response", "all")
"""The position that an npz calls `activation`: the first of these that was captured."""
TEXT, NUMBER, WHOLE, YES = pa.string(), pa.float64(), pa.int64(), pa.bool_()
DATASET = pa.schema(
    [("task_id", TEXT), ("example_id", TEXT), ("split", TEXT), ("gnomon_split", TEXT), ("group", TEXT), ("text", TEXT),
     ("prompt", TEXT),
     ("generated_code", TEXT), ("response", TEXT), ("test_passed", YES), ("verdict", TEXT), ("reason", TEXT),
     ("error", TEXT), ("sandbox", TEXT), ("complexity_score", NUMBER), ("code", TEXT), ("test_list", pa.list_(TEXT)),
     ("entry_point", TEXT), ("temperature", NUMBER), ("sample", WHOLE), ("finish", TEXT), ("prompt_hash", TEXT),
     ("max_prob", NUMBER), ("entropy", NUMBER), ("margin", NUMBER), ("mean_logprob", NUMBER), ("generation", TEXT),
     ("row", WHOLE), ("file", TEXT)]
)  # fmt: skip
PROBLEM = ("task_id", "example_id", "split", "gnomon_split", "group", "text", "prompt", "code", "test_list",
           "entry_point", "complexity_score", "prompt_hash")  # fmt: skip
READ = ("row", "example_id", "group", "split", "difficulty", "sample", "round", "temperature", "prompt_hash", "prompt",
        "text", "answer", "label", "reason", "target", "finish", "max_prob", "entropy", "margin", "mean_logprob",
        "baselines", "meta")  # fmt: skip

WORDS = ("example_id", "group", "split", "prompt_hash", "prompt", "text", "answer", "reason", "target", "finish",
         "baselines", "meta")  # fmt: skip
"""The columns of READ that hold text."""


def safe(task_id: str) -> str:
    """A task id in a file's name: HumanEval/0 -> HumanEval%2F0 (percent-encoded), never hidden, nor too long."""
    name = quote(str(task_id), safe="()+,=@[]")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 17]}-{hashlib.sha256(str(task_id).encode()).hexdigest()[:16]}"
    return name or "%"


def names_of(task_ids: Iterable[str]) -> dict[str, str]:
    """Task id -> file stem. UserError where two ids would share a file (also on a disk that ignores case)."""
    out: dict[str, str] = {}
    owners: dict[str, str] = {}
    for task in dict.fromkeys(map(str, task_ids)):
        name = safe(task)
        other = owners.setdefault(name.casefold(), task)
        if other != task:
            raise UserError(f"task ids {other!r} and {task!r} would share the file {name}", "ids that differ in more "
                            "than case", "rename one of them in the data")  # fmt: skip
        out[task] = name
    return out


def task_ids(rows: pd.DataFrame, dataset: str) -> dict[str, str]:
    """Example id -> task id: the set's own (602, HumanEval/0) where the task keeps it, else without `dataset:`.

    The example ids themselves where two would be one.
    """
    first = rows.drop_duplicates("example_id")
    out = {}
    for example, meta in zip(first["example_id"].astype(str), first["meta"], strict=True):
        known = json.loads(meta or "{}").get("task_id")
        out[example] = example.removeprefix(f"{dataset}:") if known is None else str(known)
    return out if len(set(out.values())) == len(out) else {example: example for example in out}


def answers_of(generation: Artifact) -> pd.DataFrame:
    """The answers of a generation; an episode's last round. What a row lacks in words is None (not pandas's NaN)."""
    table = generation.table("generations", READ).assign(generation=generation.name)
    for name in WORDS:
        words = [None if pd.isna(v) else str(v) for v in table[name]]
        table[name] = pd.Series(words, index=table.index, dtype=object)  # a str column would turn None into NaN
    keys = ["example_id", "temperature", "sample"]
    return table.sort_values("row", kind="stable").drop_duplicates(keys, keep="last").reset_index(drop=True)


def text_of(value: Any) -> str | None:
    """A cell as text: None stays, lists and other JSON are written out."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def dataset(rows: pd.DataFrame, ids: dict[str, str], files: dict[str, str], sampled: bool = False) -> pa.Table:
    """Rows of `answers_of` as the older data set's records, in the order given; task ids, and their file stems."""
    out = []
    for r in rows.to_dict("records"):
        meta = json.loads(r["meta"] or "{}")
        parts = meta.get("parts") if isinstance(meta.get("parts"), dict) else {}
        tests = meta.get("tests")
        label = None if pd.isna(r["label"]) else bool(r["label"])
        task = ids[str(r["example_id"])]
        name = files[task]
        out.append({
            "task_id": task, "example_id": str(r["example_id"]), "split": SPLIT_NAMES.get(r["split"], r["split"]),
            "gnomon_split": r["split"], "group": r["group"], "text": text_of(parts.get("problem")) or r["prompt"],
            "prompt": r["prompt"], "generated_code": text_of(meta.get("code")) or r["answer"],
            "response": r["text"], "test_passed": label,
            "verdict": text_of(meta.get("verdict")) or None, "reason": r["reason"],
            "error": text_of(meta.get("stderr")),
            "sandbox": text_of(meta.get("sandbox")), "complexity_score": r["difficulty"],
            "code": text_of(meta.get("reference")) or r["target"],
            "test_list": [str(t) for t in ([tests] if isinstance(tests, str) else tests or [])],
            "entry_point": text_of(meta.get("entry")), "temperature": r["temperature"], "sample": r["sample"],
            "finish": r["finish"], "prompt_hash": r["prompt_hash"], "max_prob": r["max_prob"],
            "entropy": r["entropy"], "margin": r["margin"], "mean_logprob": r["mean_logprob"],
            "generation": r["generation"], "row": r["row"],
            "file": None if label is None else f"{name}_sample{int(r['sample'])}" if sampled else name,
        })  # fmt: skip
    return pa.Table.from_pylist(out, schema=DATASET)


def counted(table: pa.Table) -> dict[str, Any]:
    """How many answers are right, wrong and neither, by split, verdict and sandbox level."""
    frame = table.select(["split", "test_passed", "verdict", "sandbox", "task_id"]).to_pandas()
    graded = frame["test_passed"].notna()
    right = np.array([v is True for v in frame["test_passed"]], dtype=bool)

    def by(column: str) -> dict[str, int]:
        return {str(k): int(v) for k, v in sorted(frame[column].dropna().value_counts().items())}

    return {
        "num_rows": len(frame), "num_tasks": int(frame["task_id"].nunique()), "num_correct": int(right.sum()),
        "num_incorrect": int((np.asarray(graded) & ~right).sum()), "num_ungraded": int((~graded).sum()),
        "pass_rate": float(right.sum() / graded.sum()) if graded.any() else None, "splits": by("split"),
        "verdicts": by("verdict"), "sandbox_levels": by("sandbox"),
    }  # fmt: skip


# ---------------------------------------------------------------- activations


@dataclass(frozen=True)
class Layer:
    """What was captured in one layer: npz key -> activations; the first key is `activation`."""

    number: int
    arrays: dict[str, Activations]
    of: dict[str, str]
    """npz key -> site@position."""


def layers_of(study: Study, generation: Artifact) -> tuple[list[Layer], list[str]]:
    """Layers captured by a generation and by captures of it; and the sites that have no layer."""
    found: dict[int, list[tuple[tuple[int, int, str], str, Activations]]] = {}
    loose = []
    for artifact in study:
        read = (artifact.meta.get("inputs") or {}).get("generations") or {}
        if artifact.name != generation.name and not (
            artifact.meta.get("step") == "capture" and read.get("fingerprint") == generation.fingerprint
        ):
            continue
        for site, position in artifact.sites():
            if site.component == "embed":
                loose.append(f"embed@{position}")
                continue
            order = (int(site.component != "resid_post"), FIRST.index(position), site.component)
            found.setdefault(site.layer, []).append((order, position, artifact.activations(site, position)))
    out = []
    for number in sorted(found):
        arrays: dict[str, Activations] = {}
        of: dict[str, str] = {}
        for _, position, values in sorted(found[number], key=lambda each: each[0]):
            key = "activation" if not arrays else f"{values.site.component}_{position}"
            if key not in arrays:
                arrays[key], of[key] = values, f"{values.site}@{position}"
        out.append(Layer(number, arrays, of))
    return out, loose


def arrays_of(layer: Layer, row: int) -> dict[str, np.ndarray]:
    """The arrays of one answer; a position that the row lacks is absent."""
    out = {}
    for key, values in layer.arrays.items():
        try:
            out[key] = values.row(row)
        except KeyError:
            continue
    return out


def temperature_name(value: float) -> str:
    """0.3 -> temp_0_3, 1 -> temp_1_0."""
    text = f"{value:g}"
    return "temp_" + (text if "." in text else text + ".0").replace(".", "_").replace("-", "m")


def described(layers: Sequence[Layer]) -> dict[str, Any]:
    """Which site and position each npz key holds, by layer."""
    return {str(layer.number): layer.of for layer in layers}
