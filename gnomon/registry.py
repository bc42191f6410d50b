"""Name, or "module:Class", to class. Each room keeps its own table of names; nothing is imported before it is asked.

Two ways, by who wrote the name down: `find` is for what the user asks to be run (a study file, a command's argument)
and imports a module of theirs; `recorded` is for what a folder says of itself (meta.json), which may be a stranger's:
it imports nothing but gnomon's own.
"""

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


def recorded(kind: str, name: str) -> type:
    """Resolve a name that a study's folder holds: a registered one, or one of a module that this process has imported.

    Looking at a study (show, report, diff, export) must run no code that the study names. After `gnomon run` the
    module of a user's own step is imported, and so its section is made; a later `gnomon report` makes a generic one.
    Raises UserError for a module that is not imported, and for an unknown name.
    """
    names = table(kind)
    module, colon, attribute = name.partition(":")
    if name in names or not colon:
        return find(kind, name)
    if module not in sys.modules:
        raise UserError(f"the folder names {name!r}, and no module that a folder names is imported to look at it",
                        "gnomon run, or Python that has imported it",
                        f"if it is yours: import {module}, then gnomon.report.html.build_report(STUDY)")  # fmt: skip
    found = getattr(sys.modules[module], attribute, None)
    if not isinstance(found, type):
        raise UserError(f"{module!r} has no class {attribute!r}", "module:Class", "check the spelling")
    return found
