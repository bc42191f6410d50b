"""The layout of the older study of programs: phase folders, data sets, and one npz an answer and layer.

phase0 difficulty, phase0_1 splits, phase1_0 answers at temperature 0, phase1_2 samples above it, phase2 features and
probes, phase3 validation. docs/export.md lists the files and columns. No model is loaded and nothing is run.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.exports.folder import Folder, latest, source
from gnomon.exports.pva_rows import (
    PROBLEM,
    SPLIT_NAMES,
    Layer,
    answers_of,
    arrays_of,
    counted,
    dataset,
    described,
    layers_of,
    names_of,
    task_ids,
    temperature_name,
)
from gnomon.exports.rows import dataset_of, generation_of
from gnomon.store import Artifact, Study, concat

GENERATE = "step generate"
COLD = "a generation with temperature 0"
HOT = "a generation above temperature 0: generate: {only: [test], temperatures: [0.3, 0.6, 0.9, 1.2], samples: 5}"
CAPTURE = "activations: generate: {capture: {sites: resid_post.*, positions: [last_prompt]}}"
PHASE2 = {"features": "features", "probe": "probe"}
PHASE3 = {"intervene": "intervene", "temperatures": "temperatures"}
"""Step -> the beginning of its tables' file names."""


def export(study: Study, folder: Folder) -> None:
    """Write what the study has; name what it lacks."""
    base = generation_of(study, None)
    if base is None:
        folder.leave_out("phase0, phase0_1, phase1_0, phase1_2", GENERATE)
    else:
        _answers(study, folder, base)
    _phase(study, folder, "phase2", PHASE2)
    _phase(study, folder, "phase3", PHASE3)


def _answers(study: Study, folder: Folder, base: Artifact) -> None:
    """Phases 0 to 1.2: problems, splits, answers and their activations."""
    made = [a for a in study if "generations" in a.tables()]
    tables = {a.name: answers_of(a) for a in [base, *(a for a in made if a.name != base.name)]}
    own, name = tables[base.name], dataset_of(base)
    ids = task_ids(own, name)
    files = names_of(ids.values())
    asked = set(zip(own["example_id"], own["prompt_hash"], strict=True))
    every = concat(tables.values())
    same = [key in asked for key in zip(every["example_id"], every["prompt_hash"], strict=True)]
    every = every.loc[np.array(same, dtype=bool)]
    _problems(folder, base, own, ids, files, name)
    cold = own.loc[np.asarray(own["temperature"] == 0)].sort_values(["sample", "row"]).drop_duplicates("example_id")
    if cold.empty:
        folder.leave_out("phase1_0/dataset_*.parquet", COLD)
    else:
        rows = cold.sort_values("row").reset_index(drop=True)
        table = dataset(rows, ids, files)
        folder.table(f"phase1_0/dataset_{name}.parquet", table, source(base, "generations"))
        kept = _activations(study, folder, {base.name: base}, rows, table, "phase1_0/activations")
        meta = _metadata(base, name, table) | {"temperature": 0.0, "activations": kept}
        folder.json(f"phase1_0/dataset_{name}_metadata.json", meta, source(base, "generations"))
    _samples(study, folder, every, {a.name: a for a in made}, ids, files, name)
    audit = latest(study, "audit", {"generations": base})
    if audit is None:
        folder.leave_out("phase1_0/audit.json", "step audit")
    else:
        folder.json("phase1_0/audit.json", _result(audit), source(audit, *audit.tables()))


def _problems(
    folder: Folder, base: Artifact, rows: pd.DataFrame, ids: dict[str, str], files: dict[str, str], name: str
) -> None:
    """phase0 and phase0_1: one record a problem, in the order of the generation's rows."""
    first = rows.drop_duplicates("example_id").reset_index(drop=True)
    where = source(base, "generations")
    features = pd.DataFrame([json.loads(t) if t else {} for t in first["baselines"]])
    tasks = [ids[str(e)] for e in first["example_id"]]
    levels = pd.DataFrame({"task_id": tasks, "complexity_score": first["difficulty"]})
    mapping = pd.concat([levels, features.drop(columns=["task_id", "complexity_score"], errors="ignore")], axis=1)
    folder.table("phase0/difficulty_mapping.parquet", mapping, where, "with the surface features that the task gives")
    table = dataset(first, ids, files).select(list(PROBLEM))
    facts: dict[str, Any] = {}
    for split, old in SPLIT_NAMES.items():
        mine = table.filter(pa.array([s == split for s in table["gnomon_split"].to_pylist()]))
        if not mine.num_rows:
            folder.leave_out(f"phase0_1/{old}_{name}.parquet", f"problems in split {split}")
            continue
        folder.table(f"phase0_1/{old}_{name}.parquet", mine, where, f"split {split}")
        level = np.asarray(mine["complexity_score"].to_pandas(), dtype=np.float64)
        known = level[np.isfinite(level)]
        spread = {"mean": known.mean(), "min": known.min(), "max": known.max()} if len(known) else None
        facts[old] = {"gnomon_split": split, "size": mine.num_rows, "share": mine.num_rows / table.num_rows,
                      "groups": len(set(mine["group"].to_pylist())), "complexity": spread,
                      "task_ids": mine["task_id"].to_pylist()}  # fmt: skip
    options = base.options
    value = {"dataset": name, "total": table.num_rows, "splits": facts, "asked": options.get("splits"),
             "split_by": options.get("split_by"), "seed": base.meta.get("seed"),
             "unit": "a group never straddles splits", "file_names": files}  # fmt: skip
    folder.json("phase0_1/split_metadata.json", value, where)


def _samples(
    study: Study, folder: Folder, every: pd.DataFrame, made: dict[str, Artifact], ids: dict[str, str],
    files: dict[str, str], name: str,
) -> None:  # fmt: skip
    """phase1_2: samples above temperature 0 of the base's prompts; of two with one key the earlier generation's."""
    hot = every.loc[np.asarray(every["temperature"] > 0)].drop_duplicates(["example_id", "temperature", "sample"])
    if hot.empty:
        folder.leave_out("phase1_2/dataset_temp_*.parquet", HOT)
        return
    facts = {}
    for value in sorted({float(t) for t in hot["temperature"]}):
        rows = hot.loc[np.asarray(hot["temperature"] == value)].sort_values(["example_id", "sample"])
        rows = rows.reset_index(drop=True)
        label, table = temperature_name(value), dataset(rows, ids, files, sampled=True)
        owners = {str(g): made[str(g)] for g in dict.fromkeys(rows["generation"])}
        where = ", ".join(source(a, "generations") for a in owners.values())
        folder.table(f"phase1_2/dataset_{label}.parquet", table, where)
        kept = _activations(study, folder, owners, rows, table, f"phase1_2/activations/{label}")
        samples = rows.groupby("example_id").size()
        facts[label] = counted(table) | {"temperature": value, "samples_per_task": int(samples.max()),
                                         "generations": list(owners), "activations": kept}  # fmt: skip
    folder.json("phase1_2/metadata.json", {"dataset": name, "temperatures": facts}, ", ".join(made))


def _activations(
    study: Study, folder: Folder, owners: dict[str, Artifact], rows: pd.DataFrame, table: pa.Table, under: str
) -> dict[str, Any]:
    """An npz for each graded answer and layer; what they hold, for the metadata. Ungraded answers have none."""
    layers: dict[str, list[Layer]] = {}
    loose: list[str] = []
    for name, artifact in owners.items():
        layers[name], found = layers_of(study, artifact)
        loose += found
    pattern = f"{under}/{{correct,incorrect}}/{{task_id}}_layer_{{n}}.npz"
    written = {"correct": 0, "incorrect": 0}
    for record, row in zip(table.select(["generation", "test_passed", "file"]).to_pylist(), rows["row"], strict=True):
        if record["test_passed"] is None:
            continue
        side = "correct" if record["test_passed"] else "incorrect"
        for layer in layers[record["generation"]]:
            arrays = arrays_of(layer, int(row))
            if arrays:
                where = f"{record['generation']}/activations, row {row}"
                folder.arrays(f"{under}/{side}/{record['file']}_layer_{layer.number}.npz", arrays, where)
                written[side] += 1
    if not sum(written.values()):
        folder.leave_out(pattern, CAPTURE)
    return {"files": written, "keys": {name: described(found) for name, found in layers.items()},
            "ungraded_left_out": sum(v is None for v in table["test_passed"].to_pylist()),
            "sites_without_a_layer": sorted(set(loose))}  # fmt: skip


def _metadata(base: Artifact, name: str, table: pa.Table) -> dict[str, Any]:
    return {"dataset": name, "generation": base.name, "fingerprint": base.fingerprint, "model": base.meta.get("model"),
            "seed": base.meta.get("seed"), "options": base.options, **counted(table)}  # fmt: skip


# ---------------------------------------------------------------- what later steps found


def _phase(study: Study, folder: Folder, phase: str, steps: dict[str, str]) -> None:
    """Every table of the last step of each kind, and one JSON of their options and small tables."""
    results = {}
    for step, prefix in steps.items():
        made = latest(study, step)
        if made is None:
            folder.leave_out(f"{phase}/{prefix}_*.parquet", f"step {step}")
            continue
        for name in made.tables():
            short = name if name == prefix else f"{prefix}_{name}"
            folder.table(f"{phase}/{short}.parquet", made.table(name), source(made, name))
        results[step] = _result(made)
    if results:
        folder.json(f"{phase}/results.json", results, ", ".join(f"{r['step']}" for r in results.values()))


def _result(made: Artifact, most: int = 200) -> dict[str, Any]:
    """A step's options and its tables, the long ones by their number of rows alone."""
    tables: dict[str, Any] = {}
    for name in made.tables():
        table = made.table(name)
        tables[name] = table.to_dict("records") if len(table) <= most else {"rows": len(table)}
    return {"step": made.name, "fingerprint": made.fingerprint, "options": made.options, "tables": tables}
