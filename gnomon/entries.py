"""One item of a study file's `steps:` in plain, regular form; names of steps; paths from the study file's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from gnomon.errors import UserError
from gnomon.registry import find, table
from gnomon.step import Step

ENTRY_KEYS = ("as", "from", "model", "adapter")
Keys = tuple[str | int, ...]


def default_name(step: str) -> str:
    """The folder name of a step without `as`: its registered name, or its class's own name."""
    if ":" not in step:
        return step
    cls = find("step", step)
    return str(getattr(cls, "name", "")) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", step.rpartition(":")[2]).lower()


def entry_of(item: Any, index: int, lines: dict[Keys, str]) -> dict[str, Any]:
    """One item of `steps:` in the shape of `Entry`; a bare name stands for a step with its defaults."""
    at = lines.get(("steps", index), f"step {index + 1}")
    if isinstance(item, Step):
        item = {_reference(type(item)): item.model_dump(mode="json", exclude_unset=True)}
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping):
        raise UserError(f"{at}: a step is {item!r}", "a name with its options, such as  generate: {task: capitals}")
    steps = [key for key in item if key not in ENTRY_KEYS]
    if len(steps) != 1:
        what = f"{len(steps)} steps in one entry ({', '.join(map(str, steps))})" if steps else "an entry without a step"
        raise UserError(f"{at}: {what}", f"one step, and of its own keys {', '.join(ENTRY_KEYS)}",
                        "begin each step with a dash; indent its options under its name")  # fmt: skip
    step = str(steps[0])
    try:
        cls = find("step", step)
        if not (isinstance(cls, type) and issubclass(cls, Step)):
            raise UserError(f"{step!r} is no step", "a class that derives from gnomon.Step")
        name = item.get("as") or default_name(step)
    except UserError as error:
        raise UserError(f"{at}: {error.got}", error.wanted, error.do) from None
    options = item[step] if item[step] is not None else {}
    if not isinstance(options, Mapping):
        raise UserError(f"{at}: the options of {step!r} are {options!r}", "a mapping such as {n: 40}")
    for path, line in list(lines.items()):
        if path[:3] == ("steps", index, step):
            lines[("steps", index, "options", *path[3:])] = line
    out: dict[str, Any] = {"step": step, "name": name, "options": dict(options)}
    out |= {"source": item["from"]} if item.get("from") is not None else {}
    return out | {key: item[key] for key in ("model", "adapter") if key in item}


def _reference(cls: type[Step]) -> str:
    """How a study file names a step class."""
    here = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, target in table("step").items() if target == here), here)


def local_paths(value: Any, file: Path | None) -> Any:
    """Make every text in plain values that begins with ./ ../ or ~/ a path from the study file's folder."""
    if isinstance(value, Mapping):
        return {k: local_paths(v, file) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [local_paths(v, file) for v in value]
    if isinstance(value, str) and value.startswith(("./", "../", "~/")) and "\n" not in value:
        return absolute(value, file)
    return str(value) if isinstance(value, Path) else value


def absolute(text: str, file: Path | None) -> str:
    base = file.parent if file else Path.cwd()
    return str((base / Path(text).expanduser()).resolve())


def is_path(annotation: Any) -> bool:
    """True where an annotation is a Path, or a union with one."""
    return annotation is Path or any(is_path(part) for part in get_args(annotation))
