"""From what a study file says of a task to the task: a name, or a name with options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from gnomon.errors import UserError, nearest
from gnomon.registry import find, table
from gnomon.types import Task


def build_task(spec: str | Mapping[str, Any], **options: Any) -> Task:
    """Make a task: "sums"; "reasoning_gym:leg_counting" (what follows the colon goes to the task's main option);
    "mine.tasks:Riddles" (a user's own class); {"name": "sums", "digits": 2}; or {"sums": {"digits": 2}}.

    Raises UserError for an unknown name or option (with the nearest known one) and for a value of the wrong kind.
    """
    name, given = _split(spec)
    given = {**given, **options}
    base, _, rest = name.partition(":")
    if rest and base in table("task"):
        cls = find("task", base)
        argument = getattr(cls, "argument", "")
        if not argument:
            raise UserError(f"task {base!r} takes nothing after a colon, got {name!r}", f"write task: {base}")
        if argument in given:
            raise UserError(f"task {name!r} and its option {argument}: {given[argument]!r}", "one of the two")
        given[argument] = rest
    else:
        cls = find("task", name)
    if not isinstance(cls, type):
        raise UserError(f"{name!r} is not a class", "module:Class of a task")
    try:
        task = cls(**given)
    except ValidationError as error:
        raise _said(error, name, cls) from None
    except TypeError as error:
        raise UserError(f"task {name!r} cannot be made: {error}", "options that its class takes") from None
    if not isinstance(task, Task):
        raise UserError(f"{name!r} is not a task", "name, mode, max_new_tokens, stop, examples() and grade()")
    return task


def _split(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    given = dict(spec)
    if "name" in given:
        return str(given.pop("name")), given
    if len(given) == 1:
        name, options = next(iter(given.items()))
        if options is None or isinstance(options, Mapping):
            return str(name), dict(options or {})
    raise UserError(f"task {given!r}", 'a name, {name: sums, digits: 2}, or {sums: {digits: 2}}')


def _said(error: ValidationError, name: str, cls: type) -> UserError:
    fields = list(cls.model_fields) if issubclass(cls, BaseModel) else []
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UserError(f"task {name} has no option {where!r}", nearest(where, fields), f"its options: {', '.join(fields)}")
    if first["type"] == "missing":
        return UserError(f"task {name} lacks its option {where}", "", f"give {where}")
    return UserError(f"task {name}: {where} is {first.get('input')!r}", first["msg"][0].lower() + first["msg"][1:])
