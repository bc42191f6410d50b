"""`gnomon diff`: what differs between two studies before any number is looked at, and whether the numbers do.

Steps are matched by name. Of each: options, data that options name, inputs, model, seed, the step's version, versions
of libraries, machine, threads. Numbers come from the tables alone; nothing of torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gnomon.diffs.arrays import ArrayDiff, compare_arrays, hashes
from gnomon.diffs.headlines import Headline, compare_headlines
from gnomon.diffs.tables import TableDiff, compare_tables
from gnomon.errors import UserError
from gnomon.fingerprints import content
from gnomon.store import META, Artifact, Study

MODEL = ("fingerprint", "name", "adapter", "revision", "dtype", "attention", "device")
MACHINE = ("processor", "instructions", "cores", "memory_bytes", "system", "release")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same on both sides; None where a side has none."""

    kind: str
    """step, option, data, input, model, seed, version (of the step), source, versions (of libraries), machine,
    executor; of whole studies also setting, environment, criterion, status."""
    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Compared:
    """All tables and arrays of a step."""

    tables: list[TableDiff] = field(default_factory=list)
    arrays: list[ArrayDiff] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return all(table.same for table in self.tables) and not self.arrays


@dataclass(frozen=True)
class StepDiff:
    """A step of both studies, or of one of them."""

    name: str
    there: str
    """both, a or b."""
    differences: list[Difference] = field(default_factory=list)
    same_files: bool = False
    """Every file has the same sha256."""
    numbers: Compared = field(default_factory=Compared)
    headlines: list[Headline] = field(default_factory=list)
    seconds: tuple[float | None, float | None] = (None, None)
    peak_memory_bytes: tuple[int | None, int | None] = (None, None)

    @property
    def same_numbers(self) -> bool:
        return self.there == "both" and (self.same_files or self.numbers.same)


@dataclass(frozen=True)
class Diff:
    """Two studies (or steps) compared."""

    a: str
    b: str
    study: list[Difference]
    steps: list[StepDiff]

    @property
    def same_numbers(self) -> bool:
        """No table's cell, no row and no array differs, and both have the same steps."""
        return all(step.same_numbers for step in self.steps)

    def facts(self) -> dict[str, Any]:
        """The whole as plain values, for JSON."""
        steps = [asdict(step) | {"same_numbers": step.same_numbers} for step in self.steps]
        return {"a": self.a, "b": self.b, "same_numbers": self.same_numbers,
                "study": [asdict(d) for d in self.study], "steps": steps}  # fmt: skip


def diff(a: str | Path, b: str | Path, tolerance: float = 0.0, most: int = 20) -> Diff:
    """Compare two studies' folders, or two steps' (STUDY/STEP).

    Args:
        tolerance: numbers nearer than this share of the larger one count as the same.
        most: how many moved cells of a table are kept in the answer, the furthest first; all are counted.

    UserError where a folder holds no study, or one is a study and the other a step.
    """
    one, two = Path(a), Path(b)
    is_step = [(path / META).is_file() for path in (one, two)]
    if all(is_step):
        return Diff(str(one), str(two), [], [_step(Artifact(one), Artifact(two), tolerance, most)])
    if any(is_step):
        raise UserError(f"{one if is_step[0] else two} is a step, {two if is_step[0] else one} is not", "two of a kind",
                        "give two studies, or two STUDY/STEP")  # fmt: skip
    first, second = Study(one), Study(two)
    names = list(dict.fromkeys([*first.names(), *second.names()]))
    steps = []
    for name in names:
        if name in first and name in second:
            steps.append(_step(first[name], second[name], tolerance, most))
        else:
            steps.append(StepDiff(name, "a" if name in first else "b"))
    return Diff(str(one), str(two), _studies(first.run, second.run), steps)


def _studies(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """What differs between two run.json: settings of the study file, model, versions, machine, verdicts."""

    def settings(run: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in (run.get("study") or {}).items() if key not in ("title", "description")}

    def verdicts(run: Mapping[str, Any]) -> dict[str, Any]:
        return {str(criterion.get("name")): criterion.get("verdict") for criterion in run.get("criteria", [])}

    return [
        *_leaves("setting", settings(a), settings(b)),
        *_leaves("model", _chosen(a.get("model"), MODEL), _chosen(b.get("model"), MODEL)),
        *_leaves("versions", _code(a), _code(b)),
        *_leaves("machine", _chosen(a.get("machine"), MACHINE), _chosen(b.get("machine"), MACHINE)),
        *_leaves("environment", a.get("environment"), b.get("environment")),
        *_leaves("criterion", verdicts(a), verdicts(b)),
        *_leaves("status", {"status": a.get("status")}, {"status": b.get("status")}),
    ]


def _step(a: Artifact, b: Artifact, tolerance: float, most: int) -> StepDiff:
    same = content(a) == content(b)
    numbers = Compared() if same else compare_step(a, b, tolerance, most)
    headlines = [] if same else compare_headlines(a, b, tolerance)
    return StepDiff(
        a.name, "both", _inputs(a.meta, b.meta), same, numbers, headlines,
        (a.meta.get("seconds"), b.meta.get("seconds")),
        (a.meta.get("peak_memory_bytes"), b.meta.get("peak_memory_bytes")),
    )  # fmt: skip


def compare_step(a: Artifact, b: Artifact, tolerance: float = 0.0, most: int = 20) -> Compared:
    """Every table and array of two folders of a step. Files of equal hashes are not opened."""
    tables = []
    for name in sorted({*a.tables(), *b.tables()}):
        if name not in a.tables() or name not in b.tables():
            sides = [x.outline(name)[0] if name in x.tables() else None for x in (a, b)]
            tables.append(TableDiff(name, (sides[0], sides[1])))
        elif hashes(a, name, ".parquet") == hashes(b, name, ".parquet"):
            rows, columns = a.outline(name)
            tables.append(TableDiff(name, (rows, rows), cells=rows * len(columns)))
        else:
            tables.append(compare_tables(a, b, name, tolerance, most))
    return Compared(tables, compare_arrays(a, b, tolerance))


def _inputs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """What differs between two meta.json, from what decides the numbers to what only may touch their last digits."""
    options = _leaves("option", a.get("options"), b.get("options"))
    known = {difference.name for difference in options}
    return [
        *_leaves("step", {"step": a.get("step")}, {"step": b.get("step")}),
        *options,
        *(found for found in _leaves("data", _data(a), _data(b)) if found.name not in known),
        *_leaves("input", _made_of(a), _made_of(b)),
        *_leaves("model", _chosen(a.get("model"), MODEL), _chosen(b.get("model"), MODEL)),
        *_leaves("seed", {"seed": a.get("seed")}, {"seed": b.get("seed")}),
        *_leaves("version", {"version": a.get("version")}, {"version": b.get("version")}),
        *_leaves("source", _chosen(a.get("identity"), ("source",)), _chosen(b.get("identity"), ("source",))),
        *_leaves("versions", _code(a), _code(b)),
        *_leaves("machine", _machine(a), _machine(b)),
        *_leaves("executor", _work(a), _work(b)),
    ]


def _data(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a step's identity says beyond its options: hashes of the data that they name."""
    options = meta.get("options") or {}
    made = (meta.get("identity") or {}).get("options") or {}
    return {key: value for key, value in made.items() if key not in options or options[key] != value}


def _made_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Hashes over the files of the folders that a step read."""
    inputs = meta.get("inputs") or {}
    return {key: record.get("content", record.get("fingerprint")) for key, record in inputs.items()}


def _machine(meta: Mapping[str, Any]) -> dict[str, Any]:
    return _chosen(meta.get("machine"), MACHINE) | _chosen(meta, ("device", "threads"))


def _code(record: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of libraries, and of gnomon's own code where it was recorded."""
    code = _chosen(record.get("source"), ("commit", "sha256"))
    return {**(record.get("versions") or {}), **{f"gnomon.{key}": str(value)[:12] for key, value in code.items()}}


def _work(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Who did the work; hosts by name, for their share of the shards is chance."""
    hosts = sorted(meta.get("hosts") or {}) or meta.get("host")
    return {"executor": meta.get("executor"), "workers": meta.get("workers"), "hosts": hosts}


def _chosen(values: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values} if isinstance(values, Mapping) else {}


def _leaves(kind: str, a: Any, b: Any, path: str = "") -> list[Difference]:
    """Leaves of two trees that are not the same."""
    if isinstance(a, Mapping | None) and isinstance(b, Mapping | None):
        keys = dict.fromkeys([*(a or {}), *(b or {})])
        pairs = [((a or {}).get(key), (b or {}).get(key), f"{path}.{key}" if path else str(key)) for key in keys]
        return [found for x, y, at in pairs for found in _leaves(kind, x, y, at)]
    return [] if a == b else [Difference(kind, path, a, b)]
