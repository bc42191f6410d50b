"""What can be named in a study file, and its options: for `gnomon list` and for the JSON schema, from one declaration.

Names and their first lines are read from the source text, so that a list costs no import.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gnomon.registry import find, table

KINDS = {"tasks": "task", "steps": "step", "interventions": "intervention", "dictionaries": "dictionary",
         "executors": "executor"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its name (nested ones indented), type, default as YAML writes it, and help."""

    name: str
    type: str
    default: str
    help: str


def names(kind: str) -> list[tuple[str, str]]:
    """(name, first line of its docstring) of everything registered; nothing is imported for it."""
    return [(name, first_line(target)) for name, target in sorted(table(KINDS[kind]).items())]


def first_line(target: str) -> str:
    """The first line of a class's docstring ("module:Class"), of a function's module ("module:function"), read from the
    source; "" where there is none."""
    module, _, name = target.partition(":")
    spec = find_spec(module)
    if spec is None or not spec.origin:
        return ""
    tree = _parsed(spec.origin)
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), tree)
    text = ast.get_docstring(found)
    return text.split("\n")[0] if text else ""


@cache
def _parsed(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def page(kind: str, name: str) -> str:
    """The help of one task, step, intervention or executor: what it is, what it reads and writes, its options."""
    from gnomon.step import Step
    from gnomon.text import table as columns

    cls: Any = find(KINDS[kind], name)
    if not isinstance(cls, type):  # a format of dictionaries: a function, told by its module
        return f"{name}: {inspect.cleandoc(getattr(inspect.getmodule(cls), '__doc__', '') or '')}"
    text = inspect.cleandoc(cls.__doc__ or "").strip()
    lines = [f"{name}: {text}" if text else name]
    if isinstance(cls, type) and issubclass(cls, Step):
        reads = [*cls.reads, *(f"{k} (where there)" for k in cls.optional)]
        writes = cls.writes if isinstance(cls.writes, tuple) else ()
        lines.append(f"\nreads: {', '.join(reads) or 'nothing'}; writes: {', '.join(writes) or 'tables of its own'}")
    options = list(options_of(cls))
    lines.append("\noptions:" if options else "\nno options")
    shown = [(o.name, o.type, o.default) for o in options]
    head = columns(shown, ("name", "type", "default"), "  ").split("\n") if shown else []
    for line, help in zip(head, ["", *(o.help for o in options)], strict=False):
        lines.append(line)
        lines += [f"      {part}" for part in help.split("\n") if part.strip()]
    return "\n".join(lines)


def options_of(cls: Any, indent: str = "") -> Iterable[Option]:
    """The options of a pydantic model (nested models below their option), a dataclass, or any class's constructor."""
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        for name, info in cls.model_fields.items():
            default = "required" if info.is_required() else _yaml(info.get_default(call_default_factory=True))
            yield Option(indent + name, type_name(info.annotation), default, inspect.cleandoc(info.description or ""))
            for inner in _models(info.annotation):
                yield from options_of(inner, indent + "  ")
        return
    for name, parameter in inspect.signature(cls).parameters.items():
        empty = parameter.default is inspect.Parameter.empty
        wanted = "" if parameter.annotation is inspect.Parameter.empty else str(parameter.annotation)
        yield Option(indent + name, wanted, "required" if empty else repr(parameter.default), "")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The option models inside an annotation."""
    from typing import get_args

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def type_name(annotation: Any) -> str:
    """A type as a reader writes it: text, whole number, list of text, one of a | b."""
    from types import UnionType
    from typing import Annotated, Literal, Union, get_args, get_origin

    origin, parts = get_origin(annotation), get_args(annotation)
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null",
             dict: "mapping", list: "list", tuple: "list", Path: "path", Any: "anything"}  # fmt: skip
    if origin is Annotated:
        return type_name(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_name(part) for part in parts))
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (list, tuple, set, frozenset):
        inner = [type_name(part) for part in parts if part is not ...]
        if origin is tuple and ... not in parts and len(inner) > 1:
            return f"({', '.join(inner)})"
        return f"list of {inner[0]}" if inner else "list"
    if origin is dict or annotation is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "options"
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _yaml(value: Any) -> str:
    """A default on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------- the JSON schema of a study file


def schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a study file: every key, every registered step with its options, your own by module."""
    from pydantic.json_schema import GenerateJsonSchema, models_json_schema

    class OneOrMore(GenerateJsonSchema):
        """A list with a validator before it takes one value for a list of one."""

        def function_before_schema(self, schema: Any) -> Any:
            inner = super().function_before_schema(schema)
            branches = inner.get("anyOf", [inner])
            single = [branch["items"] for branch in branches if isinstance(branch.get("items"), dict)]
            return {"anyOf": [*single, *branches]} if single else inner

    from gnomon.config import StudyFile

    steps: dict[str, type[BaseModel]] = {name: find("step", name) for name in sorted(table("step"))}  # type: ignore[misc]
    refs, definitions = models_json_schema(
        [(cls, "validation") for cls in (*dict.fromkeys(steps.values()), StudyFile)],
        ref_template="#/$defs/{model}",
        schema_generator=OneOrMore,
    )
    defs: dict[str, Any] = dict(definitions.get("$defs", {}))
    top = defs.pop(refs[StudyFile, "validation"]["$ref"].rsplit("/", 1)[-1])
    entry = defs.pop("Entry")
    common = {"as": entry["properties"]["name"], "from": entry["properties"]["source"],
              "model": entry["properties"]["model"], "adapter": entry["properties"]["adapter"]}  # fmt: skip
    common["as"] = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$", "description": "The folder's name."}
    forms: list[dict[str, Any]] = [{"enum": list(steps)}]
    for name, cls in steps.items():
        ref = refs[cls, "validation"]
        may_be_bare = not any(info.is_required() for info in cls.model_fields.values())
        options = {"anyOf": [ref, {"type": "null"}]} if may_be_bare else ref
        forms.append(_entry({name: options | {"description": first_line(table("step")[name])}}, name, common))
    own = {"type": "object", "patternProperties": {"^[A-Za-z_][\\w.]*:\\w+$": {"type": ["object", "null"]}},
           "properties": common, "additionalProperties": False, "minProperties": 1,
           "description": "A step of your own: module:Class."}  # fmt: skip
    forms += [own, {"type": "string", "pattern": "^[A-Za-z_][\\w.]*:\\w+$"}]
    said = "What is done, in order; each step reads what earlier ones wrote."
    top["properties"]["steps"] = {"type": "array", "minItems": 1, "items": {"anyOf": forms}, "description": said}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "title": "gnomon study", "$defs": defs}


def _entry(options: dict[str, Any], name: str, common: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": options | common, "required": [name], "additionalProperties": False}
