"""Overrides on the command line: `generate.n=40`, `seed=1`, `steps.0.capture.sites=resid_post.3`.

The left side names a step (by its `as`, or its number under `steps`), then an option, or a key of the study file; the
right side is read as YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gnomon.entries import Keys
from gnomon.errors import UserError, unknown
from gnomon.strict import read_value

_ENTRY = {"as": "name", "from": "source", "model": "model", "adapter": "adapter"}


def apply(data: dict[str, Any], text: str, lines: dict[Keys, str], fields: Sequence[str]) -> None:
    """Set one override in a study's plain data (entries in the shape of `config.Entry`), noting where it came from.

    `fields` are the study file's own keys.
    """
    left, equals, right = text.partition("=")
    parts = left.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"override {text!r}", "key=value", "such as generate.n=40 or seed=1")
    try:
        value = read_value(right)
    except UserError as error:
        raise UserError(f"override {text!r}: {error.got}", error.wanted, error.do) from None
    path = _locate(data, parts, text, fields)
    if path[0] == "steps" and len(path) == 3 and path[2] == "options" and value is None:
        value = {}
    _set(data, path, value, text)
    for known in [k for k in lines if k[: len(path)] == path]:
        del lines[known]
    lines[path] = f"override {text}"


def _locate(data: dict[str, Any], parts: Sequence[str], text: str, fields: Sequence[str]) -> Keys:
    """The path of an override's left side in the data."""
    entries: list[dict[str, Any]] = data["steps"]
    names = [str(entry["name"]) for entry in entries]
    head, rest = parts[0], list(parts[1:])
    if head == "steps":
        if not rest:
            raise UserError(f"override {text!r} replaces all steps", "one step's option", "edit the study file")
        head, rest = rest[0], rest[1:]
        if head not in names and not (head.isdigit() and int(head) < len(names)):
            raise unknown(f"step in override {text!r}:", head, [*names, *map(str, range(len(names)))])
        index = names.index(head) if head in names else int(head)
    elif head in names:
        index = names.index(head)
    elif head in fields:
        return (head, *_numbers(data.get(head), rest, text))
    else:
        raise unknown(f"step or key in override {text!r}:", head, [*names, *fields])
    if rest and rest[0] in _ENTRY:
        return ("steps", index, _ENTRY[rest[0]], *rest[1:])
    return ("steps", index, "options", *_numbers(entries[index]["options"], rest, text))


def _numbers(value: Any, parts: Sequence[str], text: str) -> Keys:
    """Turn the parts that index a list into whole numbers; what stands in the way of a deeper key is named."""
    path: list[str | int] = []
    for part in parts:
        if isinstance(value, list | tuple):
            if not part.isdigit() or int(part) >= len(value):
                raise UserError(f"override {text!r}: {part!r} is no item of a list of {len(value)}",
                                f"a number from 0 to {len(value) - 1}")  # fmt: skip
            path.append(int(part))
            value = value[int(part)]
        elif isinstance(value, dict) or value is None:
            path.append(part)
            value = value.get(part) if isinstance(value, dict) else None
        else:
            raise UserError(f"override {text!r}: {part!r} lies inside {value!r}, which is no mapping", "",
                            f"set the whole, {text.split('.' + part)[0]}={{{part}: ...}}")  # fmt: skip
    return tuple(path)


def _set(data: Any, path: Keys, value: Any, text: str) -> None:
    """Set a value, making the mappings on the way where there are none."""
    for here, part in enumerate(path[:-1]):
        child = data[part] if isinstance(part, int) else data.get(part)
        if isinstance(child, tuple):
            child = list(child)
        elif child is None:
            child = {}
        elif isinstance(child, dict):
            child = dict(child)  # a mapping given in Python stays as its owner left it
        if not isinstance(child, dict | list):
            raise UserError(f"override {text!r} sets a key inside {path[here]!r}, which is {child!r}", "a mapping")
        data[part] = child
        data = child
    data[path[-1]] = value
