"""Strict reading: YAML 1.2 with line numbers, and options that must be exactly of their type.

Duplicate keys, merge keys and tags are refused; `yes` is text, `true` is not 1, `1e-3` is a number, a date is text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gnomon.errors import UserError, nearest

MAX_TEXT, MAX_VALUES, MAX_DEPTH = 2_000_000, 50_000, 100
"""Characters and values of a YAML file, and how deep they may lie: what aliases repeat counts each time."""
Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Parsed:
    """Plain Python values (dict, list, str, int, float, bool, None) and the line each path stands on, from 1."""

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)


def read_yaml(text: str, source: str = "") -> Parsed:
    """Read one YAML 1.2 document; every fault is a UserError that names `source` and the line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    where = f"{source}, " if source else ""
    if len(text) > MAX_TEXT:
        raise UserError(f"{where}{len(text)} characters", f"a YAML file of at most {MAX_TEXT}")
    if _open_brackets(text) > 5 * MAX_DEPTH:  # the reader takes its time, and then the stack, for these
        raise UserError(f"{where}values nested too deeply", "a YAML file")
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{where}{line}{error.problem or error.context}", "a YAML file") from None
    except YAMLError as error:
        raise UserError(f"{where}{' '.join(str(error).split())}", "a YAML file") from None
    except RecursionError:
        raise UserError(f"{where}values nested too deeply", "a YAML file") from None
    lines: dict[Path, int] = {}
    return Parsed(None if node is None else _build(node, (), lines, where, ()), lines)


def _open_brackets(text: str) -> int:
    """The most brackets that are open at once, those in texts counted too."""
    steps = (1 if c in "[{" else -1 for c in text if c in "[]{}")
    return max(accumulate(steps), default=0)


def read_value(text: str) -> Any:
    """Read one value as YAML, as an override gives it: `40`, `1e-3`, `[a, b]`, `null`, `resid_post.*`."""
    return read_yaml(text).value


def _build(node: Any, path: Path, lines: dict[Path, int], where: str, open_nodes: tuple[int, ...]) -> Any:
    """Turn a YAML node into plain Python, noting the line of every path."""
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(lines) > MAX_VALUES or len(path) > MAX_DEPTH:
        what = f"more than {MAX_VALUES} values" if len(lines) > MAX_VALUES else "values nested too deeply"
        raise UserError(f"{where}line {line}: {what}", "a study file", "an alias stands for all that it repeats")
    if id(node) in open_nodes:
        raise UserError(f"{where}line {line}: a value that contains itself", "a plain tree of values")
    inside = (*open_nodes, id(node))
    tag = str(node.tag or "")
    if tag == f"{_TAG}map":
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, at = key_node.value, key_node.start_mark.line + 1
            if str(key_node.tag) == f"{_TAG}merge":
                raise UserError(f"{where}line {at}: merge keys (<<) are not YAML 1.2", "", "write the keys out")
            if str(key_node.tag) not in (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value"):
                shown = repr(key) if isinstance(key, str) else "of a mapping"
                raise UserError(f"{where}line {at}: the key {shown} is no text", "a name", "put it into quotes")
            if key in out:
                first = lines[(*path, key)]
                raise UserError(
                    f"{where}line {at}: {key!r} is given twice (first on line {first})", "", "keep one of them"
                )
            lines[(*path, key)] = at
            out[key] = _build(value_node, (*path, key), lines, where, inside)
        return out
    if tag == f"{_TAG}seq":
        return [_build(item, (*path, i), lines, where, inside) for i, item in enumerate(node.value)]
    try:
        return _scalar(tag, node.value)
    except ValueError:
        raise UserError(f"{where}line {line}: cannot read {node.value!r} as {tag.removeprefix(_TAG)}") from None
    except KeyError:
        raise UserError(f"{where}line {line}: the tag {tag!r} is not known here", "plain YAML values") from None


def _scalar(tag: str, text: str) -> Any:
    match tag.removeprefix(_TAG):
        case "str" | "timestamp" | "value":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            digits = text.replace("_", "")
            return int(digits, 0) if digits.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else int(digits)
        case "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf")
                         .lower().replace(".nan", "nan"))  # fmt: skip
    raise KeyError(tag)


def write_yaml(value: Any) -> str:
    """Plain Python as YAML that `read_yaml` gives back unchanged; keys keep their order."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[attr-defined]  # set by name in ruamel's representer
    yaml.width = 10**6
    yaml.allow_unicode = True
    out = io.StringIO()
    yaml.dump(value, out)
    return out.getvalue()


# ---------------------------------------------------------------- options against a pydantic model


def build(cls: type[M], options: Mapping[str, Any], name: str, at: Callable[[Path], str] | None = None) -> M:
    """Make a `cls` of plain options, strictly; every mistake becomes one UserError.

    Args:
        name: what the user calls it ("generate"): a mistake reads "generate.n is 'forty'".
        at: where a path was written ("line 7", "override generate.n=forty"), or "".
    """
    try:
        made = cls.model_validate(dict(options))
    except ValidationError as error:
        raise explain(error, cls, options, name, at) from None
    except UserError as error:
        got = error.got if error.got.startswith(name) else f"{name}: {error.got}"
        raise UserError(got, error.wanted, error.do) from None
    for path, given, wanted in _converted(options, made.model_dump(mode="json")):
        where = f" ({at(path)})" if at and at(path) else ""
        raise UserError(f"{dotted(name, path)} is {json.dumps(given)}{where}", f"wanted: {wanted}")
    return made


def _converted(given: Any, made: Any, path: Path = ()) -> list[tuple[Path, Any, str]]:
    """Leaves that pydantic turned into another kind of value: true into 1, 1 into true, "40" into 40.

    pydantic's own strict mode refuses a list for a tuple once a validator has run before, so the kinds are compared
    afterwards.
    """
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        return [f for key in given if key in made for f in _converted(given[key], made[key], (*path, key))]
    if isinstance(given, list | tuple) and isinstance(made, list) and len(given) == len(made):
        return [f for i, (g, m) in enumerate(zip(given, made, strict=True)) for f in _converted(g, m, (*path, i))]
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if type(given) not in kinds or type(made) not in kinds or type(given) is type(made):
        return []
    numbers = (int, float)
    return [] if type(given) in numbers and type(made) in numbers else [(path, given, kinds[type(made)])]


def explain(
    error: ValidationError, cls: type[BaseModel], options: Any, name: str, at: Callable[[Path], str] | None = None
) -> UserError:
    """Turn pydantic's findings into one UserError: option, what it was, what it should be, where it was written."""
    grouped: dict[Path, list[Any]] = {}
    for item in error.errors(include_url=False):
        extra = item["type"] in ("extra_forbidden", "missing") and isinstance(item["loc"][-1], str)
        path = _real(item["loc"][:-1] if extra else item["loc"], options)
        grouped.setdefault((*path, item["loc"][-1]) if extra else path, []).append(item)
    # a union that fails inside one branch also fails as a whole: the deeper finding says more
    outer = {path for path in grouped if any(len(o) > len(path) and o[: len(path)] == path for o in grouped)}
    mistakes = [_mistake(path, items, cls, options, name, at) for path, items in grouped.items() if path not in outer]
    if len(mistakes) == 1:
        return mistakes[0]
    listed = "".join(f"\n  - {mistake}" for mistake in mistakes)
    return UserError(f"{len(mistakes)} mistakes in {name or 'the study file'}:{listed}")


def _mistake(
    path: Path, items: Sequence[Any], cls: type[BaseModel], options: Any, name: str, at: Callable[[Path], str] | None
) -> UserError:
    written = at(path) if at else ""
    where = f" ({written})" if written else ""
    kinds = {item["type"] for item in items}
    known = _fields(cls.model_json_schema(), path[:-1]) if path else []
    owner = dotted(name, path[:-1]) or "the study file"
    if kinds == {"missing"} and _real(path, options) != path:
        return UserError(f"{owner} lacks {path[-1]!r}", _describe(cls, path), f"add {path[-1]} to {owner}")
    if "extra_forbidden" in kinds:
        inside = _anywhere(str(path[-1]), cls)
        hint = f"it belongs into {inside!r}" if inside else nearest(path[-1], known)
        return UserError(
            f"unknown {'option' if name else 'key'} {path[-1]!r} of {owner}{where}",
            hint,
            f"known: {', '.join(known) or 'none'}",
        )
    value = _get(options, path)
    wanted = " or ".join(dict.fromkeys(_wanted(item) for item in items))
    shown = json.dumps(value, default=str)
    return UserError(
        f"{dotted(name, path)} is {shown if len(shown) < 120 else shown[:117] + '...'}{where}", f"wanted: {wanted}"
    )


def _wanted(item: Any) -> str:
    text = str(item["msg"])
    for start in ("Input should be ", "Value error, ", "Assertion failed, "):
        text = text.removeprefix(start)
    if item["type"] == "missing":
        return "a longer list"
    words = {"a valid integer": "a whole number", "a valid string": "text", "a valid boolean": "true or false",
             "a valid number": "a number", "a valid array": "a list", "a valid tuple": "a list",
             "a valid list": "a list", "an object": "a mapping", "a valid dictionary": "a mapping"}  # fmt: skip
    return next((words[start] for start in words if text.startswith(start)), text)


def dotted(name: str, path: Path) -> str:
    """`generate`, ("capture", "sites", 0) -> `generate.capture.sites.0`."""
    return ".".join(str(part) for part in (name, *path) if str(part))


def _real(loc: Sequence[Any], options: Any) -> Path:
    """The part of pydantic's location that exists in the options: names of union branches are dropped."""
    path: list[str | int] = []
    value = options
    for part in loc:
        inside = part in value if isinstance(value, Mapping) else isinstance(value, list) and part in range(len(value))
        if inside:
            value = value[part]
            path.append(part)
    return tuple(path)


def _get(options: Any, path: Path) -> Any:
    for part in path:
        options = options[part]
    return options


def refuse_infinite(options: Any, name: str) -> None:
    """Raise UserError for a NaN or an infinite number anywhere in plain values."""
    for path, number in _numbers(options):
        if not math.isfinite(number):
            raise UserError(f"{dotted(name, path)} is {number}", "a finite number")


def _numbers(value: Any, path: Path = ()) -> list[tuple[Path, float]]:
    """Every float in a tree of plain values."""
    if isinstance(value, float):
        return [(path, value)]
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [found for key, item in items for found in _numbers(item, (*path, key))]


def _branches(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A schema with references followed and unions opened."""
    if "$ref" in schema:
        schema = root.get("$defs", {})[schema["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in schema or "oneOf" in schema:
        return [b for option in schema.get("anyOf", schema.get("oneOf", ())) for b in _branches(option, root)]
    return [schema]


def _fields(schema: Mapping[str, Any], path: Path) -> list[str]:
    """Names of the options at a path of a JSON schema."""
    level = _branches(schema, schema)
    for part in path:
        below: list[Mapping[str, Any]] = []
        for branch in level:
            inner = branch.get("items") if isinstance(part, int) else branch.get("properties", {}).get(part)
            inner = inner or branch.get("additionalProperties")
            if isinstance(inner, Mapping):
                below += _branches(inner, schema)
        level = below
    return list(dict.fromkeys(name for branch in level for name in branch.get("properties", {})))


def _describe(cls: type[BaseModel], path: Path) -> str:
    """The first sentence of a top-level option's own description."""
    info = cls.model_fields.get(str(path[-1])) if len(path) == 1 else None
    return (info.description or "").strip().split("\n")[0] if info else ""


def _anywhere(key: str, cls: type[BaseModel]) -> str:
    """The option inside which that name is known: `sites` belongs into `capture`; "" where none is."""
    schema = cls.model_json_schema()
    return next((name for name in cls.model_fields if key in _fields(schema, (name,))), "")
