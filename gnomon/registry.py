"""Name, or "module:Class", to class. Each room keeps its own table of names; nothing is imported before it is asked."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from gnomon.errors import UserError, unknown

TABLES: dict[str, str] = {
    "task": "gnomon.tasks:TASKS",
    "step": "gnomon.steps:STEPS",
    "intervention": "gnomon.interventions:INTERVENTIONS",
    "executor": "gnomon.executors:EXECUTORS",
    "dictionary": "gnomon.dictionaries:FORMATS",
}


def load(target: str, name: str = "") -> Any:
    """Import "module:attribute"; `name` is what the user wrote, for the error."""
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import {name!r}: {error}", "module:Class that Python can import from here") from None
    except AttributeError:
        raise UserError(f"{module!r} has no {attribute!r}", "module:Class", "check the spelling") from None


def table(kind: str) -> Mapping[str, str]:
    """The names of one kind ("task", "step", ...), each with the "module:Class" it stands for."""
    return load(TABLES[kind], kind)


def find(kind: str, name: str) -> type:
    """Resolve a registered name, or a user's own "mine.steps:MyStep" (the current folder is importable).

    Raises UserError for an unknown name (with the nearest known one) and for a module that does not import.
    """
    names = table(kind)
    if name in names:
        return load(names[name], name)
    if ":" in name:
        if name.split(":")[0].split(".")[0] in sys.stdlib_module_names:  # os:system is no step, whoever wrote it down
            raise UserError(f"{name!r} belongs to Python itself", f"a {kind} of your own")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return load(name, name)
    raise unknown(kind, name, names)
