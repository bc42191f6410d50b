"""A study file: what is asked, of which model, in which steps. `load` reads it strictly and builds every step.

    model: smollm2-135m
    seed: 0
    steps:
      - generate: {task: capitals, n: 300, capture: {sites: resid_post.*}}
      - probe: {}
        as: probe_answer            # as, from, model, adapter belong to the entry, not to the step
        from: generate
    criteria:
      - {name: the probe adds, step: probe_answer, table: scores, where: {control: ""}, above: 0}

A text that begins with ./ ../ or ~/ is a path from the study file's own folder (in `model`, `adapter` and options), as
is every option declared as a path. `from: ../other-study/generate` starts at the study's output folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gnomon.entries import Keys, absolute, default_name, entry_of, is_path, local_paths
from gnomon.errors import UserError, unknown
from gnomon.models.device_map import check_map, sizes
from gnomon.overrides import apply
from gnomon.registry import find
from gnomon.shards import Executor, check_executor
from gnomon.step import ModelSpec, Step
from gnomon.strict import build, read_yaml, refuse_infinite, write_yaml


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Criterion(_Strict):
    """What must hold, said before the data is seen: one cell of a step's table against one or two bounds."""

    name: str = ""
    """What it is called in the report; its own bounds where empty."""
    step: str
    """Name of the step whose table is read."""
    table: str
    """Name of the table."""
    where: dict[str, str | bool | int | float | None] = {}
    """Column values that pick exactly one row."""
    column: str = "value"
    """The column that is judged."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    low: str = "ci_low"
    """Column of the interval's lower end; the verdict is by the interval. Empty: by the value, as for n, p and q."""
    high: str = "ci_high"
    """Column of the interval's upper end."""

    @model_validator(mode="after")
    def _bounded(self) -> Criterion:
        if not self.bounds:
            raise ValueError("a criterion with at least one of at_least, above, at_most, below")
        if bool(self.low) != bool(self.high):
            raise ValueError("both low and high, or neither")
        return self

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that were given, by name."""
        given = {name: getattr(self, name) for name in ("at_least", "above", "at_most", "below")}
        return {name: value for name, value in given.items() if value is not None}


class Limits(_Strict):
    """What the machine may spend; a plan that needs more is refused before any work."""

    ram_gb: float | None = Field(default=None, gt=0)
    """Memory of one machine: the run and all of its workers. Without it no step may need more than is free."""
    gpu_gb: float | None = Field(default=None, gt=0)
    """Memory of one device."""
    disk_gb: float | None = Field(default=None, gt=0)
    """What the steps to be made will write, together."""
    minutes: float | None = Field(default=None, gt=0)
    """Checked where an earlier run or a calibration (`--dry-run` makes one) tells how fast the steps are."""

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        """`memory_gb` was the name before devices were counted apart; a saved study holds it as null."""
        if not isinstance(given, Mapping) or "memory_gb" not in given:
            return given
        if given["memory_gb"] is not None:
            raise UserError("limits.memory_gb is now two limits", "ram_gb (the machine's) and gpu_gb (one device's)",
                            f"write ram_gb: {given['memory_gb']}")  # fmt: skip
        return {key: value for key, value in given.items() if key != "memory_gb"}


class Entry(_Strict):
    """One step of a study, as written."""

    step: str
    """A registered name, or your own "module:Class"."""
    name: str
    """The folder's name: `as`, or the step's own name."""
    options: dict[str, Any] = {}
    source: str | list[str] | dict[str, str | list[str]] | None = None
    """`from`: a step's name, several, a map by kind, or ../other-study/step."""
    model: str | None = None
    adapter: str | None = None

    def written(self) -> dict[str, Any]:
        """The entry as a study file writes it."""
        out: dict[str, Any] = {self.step: self.options}
        if self.name != default_name(self.step):
            out["as"] = self.name
        if self.source is not None:
            out["from"] = self.source
        return out | {key: getattr(self, key) for key in ("model", "adapter") if key in self.model_fields_set}


class StudyFile(_Strict):
    """A study file."""

    title: str = ""
    """What is asked, in a line; printed on top of the report."""
    description: str = ""
    """The question in a sentence or two, for the reader of the report."""
    model: str = "smollm2-135m"
    """A name from `gnomon list models`, a hub id, a local folder or a local .gguf file."""
    adapter: str | None = None
    """A LoRA adapter on top of the model: a hub id or a folder."""
    revision: str | None = None
    """The model's revision on the hub."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """The numbers the model computes in."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """The implementation of attention."""
    device_map: Literal["none", "auto", "balanced", "sequential"] = "none"
    """How a model that is larger than one GPU is spread over all that a worker sees, then main memory: auto, balanced
    (alike on all), sequential (one is filled after the other)."""
    max_memory: dict[int | str, int | str] = {}
    """With device_map: at most this much on these devices and nothing on others, {0: 20GB, 1: 20GB, cpu: 60GB}; weights
    go to disk only where `disk` is named."""
    executor: str | dict[str, dict[str, Any]] = "local"
    """Where shards are worked on: a name, or {name: {options}} such as {local: {workers: 2}}."""
    seed: int = Field(default=0, ge=0)
    """The seed of everything that is drawn."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each process; by default the physical cores over the workers. Recorded, for bytes depend on it."""
    mixed: Literal["refuse", "allow"] = "refuse"
    """Whether a half-made step may be finished on another class of machine."""
    steps: tuple[Entry, ...]
    criteria: tuple[Criterion, ...] = ()
    limits: Limits = Limits()

    def spec(self, entry: Entry | None = None) -> ModelSpec:
        """The model of the study, or of one of its steps where that names its own."""
        given = entry.model_fields_set if entry is not None else set()
        model, adapter, revision = self.model, self.adapter, self.revision
        if entry is not None and "model" in given and entry.model is not None:
            model, adapter, revision = entry.model, None, None
        if entry is not None and "adapter" in given:
            adapter = entry.adapter
        most = sizes(self.max_memory)
        check_map(self.device_map, most, self.device, adapter)
        return ModelSpec(model, adapter, revision, self.dtype, self.device, self.attention, self.device_map, most)


@dataclass(frozen=True)
class Loaded:
    """A study file that was read: its settings, its steps built in order, and where it came from."""

    study: StudyFile
    steps: tuple[Step, ...]
    executor: Executor
    file: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the study's own relative paths start."""
        return self.file.parent if self.file else Path.cwd()

    def text(self) -> str:
        """The study file with every default filled in; it loads to the same study."""
        values = self.study.model_dump(mode="json", exclude={"steps"})
        steps = [
            entry.model_copy(update={"options": step.model_dump(mode="json")}).written()
            for entry, step in zip(self.study.steps, self.steps, strict=True)
        ]
        criteria = [c.model_dump(mode="json", exclude_none=True) for c in self.study.criteria]
        return write_yaml(values | {"steps": steps, "criteria": criteria})


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Loaded:
    """Read a study file (or a mapping of the same shape), apply `key=value` overrides, check all, build every step.

    Raises UserError for anything that is not understood: duplicate or unknown keys (with the nearest name and the line
    they stand on), values of the wrong type, two steps of one name, an override that names no step or key.
    """
    file: Path | None = None
    lines: dict[Keys, str] = {}
    if isinstance(source, Mapping):
        raw: Any = dict(source)
    else:
        file = Path(source).expanduser().resolve()
        if not file.is_file():
            raise UserError(f"no study file at {source}", "a YAML file", "gnomon demo shows one that runs")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{file.name} cannot be read ({error})", "a YAML file in UTF-8") from None
        parsed = read_yaml(text, file.name)
        raw = parsed.value
        lines = {path: f"{file.name}, line {line}" for path, line in parsed.lines.items()}
    if not isinstance(raw, Mapping) or not raw.get("steps"):
        raise UserError(f"{file.name if file else 'the study'} has no steps", "a mapping with `steps:`, a list")
    if not isinstance(raw["steps"], Sequence) or isinstance(raw["steps"], str):
        raise UserError("steps is no list", "a list such as  - generate: {task: capitals}")
    entries = [entry_of(item, i, lines) for i, item in enumerate(raw["steps"])]
    data = {**raw, "steps": entries}
    for text in overrides:
        apply(data, text, lines, tuple(StudyFile.model_fields))
    for part in (data, *data["steps"]):
        part |= {key: local_paths(part[key], file) for key in ("model", "adapter", "options") if key in part}
    study = build(StudyFile, data, "", lambda path: _nearest_line(path, lines))
    _check_names(study)
    steps = tuple(
        build_step(entry, file, lambda path, i=i: _nearest_line(("steps", i, "options", *path), lines))
        for i, entry in enumerate(study.steps)
    )
    return Loaded(study, steps, _executor(study), file)


def build_step(entry: Entry, file: Path | None = None, at: Any = None) -> Step:
    """Make the step of an entry, strictly; its options declared as paths start at the study file's folder."""
    cls: Any = find("step", entry.step)
    options = dict(entry.options)
    for name, info in cls.model_fields.items():
        if isinstance(options.get(name), str) and is_path(info.annotation):
            options[name] = absolute(options[name], file)
    refuse_infinite(options, entry.name)
    return build(cls, options, entry.name, at)


def _executor(study: StudyFile) -> Executor:
    """The executor that the study names, with its options."""
    named = study.executor if isinstance(study.executor, dict) else {study.executor: {}}
    if len(named) != 1:
        raise UserError(f"executor names {len(named)} executors", "one, such as {local: {workers: 2}}")
    ((name, options),) = named.items()
    cls: Any = find("executor", name)
    if "mixed" in getattr(cls, "model_fields", {}):
        options = {"mixed": study.mixed, **options}
    if hasattr(cls, "model_fields"):
        executor: Any = build(cls, options, f"executor.{name}")
    else:
        try:
            executor = cls(**options)
        except TypeError as error:
            raise UserError(f"executor {name}: {error}", f"options that {cls.__name__} takes") from None
    check_executor(executor, name)
    if hasattr(executor, "computes_on"):
        executor.computes_on(study.device)
    return executor


def _check_names(study: StudyFile) -> None:
    """Names become folders: plain, one of a kind, and not a key of the study file."""
    seen: set[str] = set()
    for entry in study.steps:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", entry.name):
            raise UserError(f"a step is called {entry.name!r}", "letters, digits, _ and -", "choose another `as:`")
        if entry.name in StudyFile.model_fields:
            raise UserError(f"a step is called {entry.name!r}, a key of the study file", "", "choose another `as:`")
        if entry.name in seen:
            raise UserError(f"two steps are called {entry.name!r}", "names of their own", "give one of them `as: NAME`")
        seen.add(entry.name)
    for criterion in study.criteria:
        if criterion.step not in seen:
            raise unknown("step in a criterion", criterion.step, seen)


def _nearest_line(path: Keys, lines: Mapping[Keys, str]) -> str:
    """Where a path, or the nearest thing around it, was written."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return ""
