"""The two classes of a study's labels: what they are called, and whether there are enough of them to conclude anything.

Label true is the first class, false the second: correct and incorrect, unless the task (its `classes`) or a step's
option says otherwise. Nothing is concluded from fewer than 20 rows of a class in the split that is spoken of, nor
where under 80% of the answers could be parsed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from gnomon.errors import UserError
from gnomon.stats import MIN_CLASS
from gnomon.store import Artifact

DEFAULT = ("correct", "incorrect")
UNDECIDED = ("rounds used up",)
"""Reasons of rows whose answers were read, but that are of neither class."""
MIN_PARSED = 0.8


def _two_names(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if value is not None and (len(value) != 2 or len(set(value)) < 2 or not all(v.strip() for v in value)):
        raise UserError(f"classes: {list(value)}", "two different names: of label true, of label false",
                        "classes: [safe, risky]")  # fmt: skip
    return value


Classes = Annotated[tuple[str, ...] | None, AfterValidator(_two_names)]
"""A step's option: names of the classes of label true and label false."""


def class_names(option: Sequence[str] | None, generation: Artifact) -> tuple[str, str]:
    """(first, second): the option's names, else those that the generation's task gave, else correct and incorrect."""
    if option is not None:
        return str(option[0]), str(option[1])
    if "settings" in generation.tables():
        said = generation.table("settings")
        found = dict(zip(said["setting"], said["value"], strict=True)).get("classes")
        if found:
            first, second = json.loads(found)
            return str(first), str(second)
    return DEFAULT


def judged(table: Any) -> list[bool | None]:
    """Labels of the rows of a generations table, None where one could not be parsed; rows that are UNDECIDED are left
    out: a game that went on to its last round was read, and is no unparsed answer."""
    return [
        None if label is None or label != label else bool(label)
        for label, reason in zip(table["label"], table["reason"], strict=True)
        if reason not in UNDECIDED
    ]


def shortfall(labels: Any, names: tuple[str, str] = DEFAULT, where: str = "", minimum: int = MIN_CLASS) -> str:
    """Why nothing may be concluded from these labels (True, False, or missing), in words; "" where they are enough.

    Two reasons: under MIN_PARSED of the rows parsed; fewer than `minimum` rows of a class.
    """
    values = [None if v is None or v != v else bool(v) for v in labels]
    at = f" in {where}" if where else ""
    if not values:
        return f"no rows{at}"
    parsed = float(np.mean([v is not None for v in values]))
    if parsed < MIN_PARSED:
        return f"only {parsed:.0%} of the answers{at} could be parsed; {MIN_PARSED:.0%} are needed"
    counts = {names[0]: values.count(True), names[1]: values.count(False)}
    name, least = min(counts.items(), key=lambda item: item[1])
    if least < minimum:
        return f"{least} {name} rows{at}; {minimum} are needed"
    return ""
