"""The task that an option names: `sums`, `{sums: {digits: 2}}`, `{name: sums, digits: 2}`, `mine.tasks:MyTask`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnomon import registry
from gnomon.errors import UserError
from gnomon.strict import build
from gnomon.types import Task


def parts(option: Any) -> tuple[str, dict[str, Any]]:
    """The name and the options that a `task` option gives; UserError where it is neither of its forms."""
    if isinstance(option, str):
        return option, {}
    if isinstance(option, Mapping) and isinstance(option.get("name"), str):
        return option["name"], {k: v for k, v in option.items() if k != "name"}
    if isinstance(option, Mapping) and len(option) == 1:
        ((name, rest),) = option.items()
        if rest is None or isinstance(rest, Mapping):
            return str(name), dict(rest or {})
    raise UserError(f"task {option!r}", "a name, {name: {options}}, or {name: NAME, option: value}")


def make_task(option: Any) -> Task:
    """Build the task an option names, its options checked strictly.

    Raises UserError for an unknown name (with the nearest), an unknown option, and a value of the wrong type. A task
    of the user's own ("mine.tasks:MyTask") may be a pydantic model or any class that takes its options by keyword.
    """
    name, options = parts(option)
    head, _, argument = name.partition(":")
    if argument and head in registry.table("task"):
        cls: Any = registry.find("task", head)
        field = getattr(cls, "argument", "")
        if not field:
            raise UserError(f"task {name!r}", f"{head} takes nothing after a colon", f"write task: {head}")
        options = {field: argument, **options}
    else:
        cls = registry.find("task", name)
    if not (hasattr(cls, "examples") and hasattr(cls, "grade")):
        raise UserError(f"{name!r} is not a task", "a class with examples() and grade()")
    if hasattr(cls, "model_fields"):
        return build(cls, options, f"task {name}")
    try:
        return cls(**options)
    except TypeError as error:
        raise UserError(f"task {name}: {error}", "options that the class takes") from None
