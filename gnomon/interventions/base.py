"""What every edit shares: the vector it carries, where it applies, and several edits in one batch.

An edit is a pure function of the selected activations (types.Intervention). Arithmetic is done in float32 or better
and cast back, so that an ablation in bfloat16 removes what it says it removes. torch is imported when an edit runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gnomon.errors import UserError, unknown
from gnomon.types import Direction, Intervention, Site

PLACES = ("all", "prompt", "generated", "last_prompt")
JOINED = "last_prompt+generated"
"""The tokens that write the answer: the last prompt token (it predicts the first one) and every generated token."""

Where = str | tuple[int, ...]


def places(where: Where) -> tuple[Where, ...]:
    """The places that `where` is made of, those of the prompt first: `last_prompt+generated` is two.

    An intervention has one place; two that share no token, given together, edit both. UserError for two that share
    one: it would be edited twice.
    """
    if isinstance(where, str):
        parts = tuple(where.split("+"))
        for part in parts:
            if part not in PLACES:
                raise unknown("place", part, (*PLACES, JOINED))
        parts = tuple(sorted(parts, key="generated".__eq__))
        if len(parts) > 1 and parts not in (("prompt", "generated"), ("last_prompt", "generated")):
            raise UserError(f"where: {where} would edit a token twice", f"places that share no token, like {JOINED}")
        return parts
    return (where,)


def frozen_vector(vector: Any, name: str) -> np.ndarray:
    """A read-only float32 copy of one vector `[d]`; UserError where it is not one, or not finite."""
    array = np.array(vector, dtype=np.float32, copy=True)
    if array.ndim != 1 or not len(array):
        raise UserError(f"{name} has shape {array.shape}", "one vector [d]")
    if not np.all(np.isfinite(array)):
        raise UserError(f"{name} holds NaN or infinite numbers", "finite numbers")
    array.setflags(write=False)
    return array


def frozen_unit(vector: Any, name: str) -> np.ndarray:
    """The same, at length 1; UserError for a vector of zeros."""
    array = frozen_vector(vector, name).astype(np.float64)
    norm = float(np.linalg.norm(array))
    if norm == 0:
        raise UserError(f"{name} is all zeros", "a vector that points somewhere")
    return frozen_vector(array / norm, name)


def tensor_like(array: np.ndarray, x: Any) -> Any:
    """`array` on x's device, in float32 or x's own wider type."""
    import torch

    return torch.tensor(np.asarray(array), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


@dataclass(frozen=True, eq=False)
class Edit:
    """Site, place and strength, checked when made. `strength` 0 registers no hook; edit() then returns x itself."""

    site: Site
    where: Where = field(default="all", kw_only=True)
    strength: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        where = self.where if isinstance(self.where, str) else tuple(int(i) for i in self.where)
        object.__setattr__(self, "where", where)
        if isinstance(where, str) and where not in PLACES:
            raise unknown("place", where, PLACES)
        if not math.isfinite(self.strength):
            raise UserError(f"strength is {self.strength}", "a finite number")

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        """Apply to selected token vectors `x [m, d]`: same shape, dtype and device; x itself is left alone."""
        if self.strength == 0:
            return x
        import torch

        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide + self.strength * self.change(wide, rows, positions)).to(x.dtype)

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """What strength 1 adds to `x [m, d]` (float32 or wider): a tensor that broadcasts to x."""
        raise NotImplementedError

    @classmethod
    def of(cls, direction: Direction, **options: Any) -> Any:
        """The edit that this class makes of a direction: the same call for every class, here the vector itself."""
        return cls(direction.site, direction.vector, **options)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, eq=False)
class PerRow(Edit):
    """One batch, many conditions: row r of the call gets `edits[which[r]]` (None: nothing).

    This is how 20 control directions are run in one forward: the batch is repeated, and each copy has its own edit.
    """

    edits: tuple[Intervention | None, ...] = field(default=(), kw_only=True)
    which: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), kw_only=True)

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        """Apply each row's own edit."""
        import torch

        owner = torch.tensor(np.asarray(self.which), device=x.device)[rows]
        out = x.clone()
        for i, one in enumerate(self.edits):
            if one is None or one.strength == 0:
                continue
            mine = (owner == i).nonzero()[:, 0]
            if len(mine):
                out[mine] = one.edit(x[mine], rows[mine], positions[mine])
        return out


def per_row(conditions: Sequence[Sequence[Intervention]], which: Sequence[int] | np.ndarray) -> list[Intervention]:
    """Join conditions (each a list of edits) into edits of one batch in which row r runs condition `which[r]`.

    Edits are joined by site and place, in the order in which a condition names them; a condition that names one site
    and place twice gets two joined edits, so that its order is kept.
    """
    which = np.asarray(which, dtype=np.int64)
    slots: dict[tuple[Site, Where, int], list[Intervention | None]] = {}
    for index, edits in enumerate(conditions):
        seen: dict[tuple[Site, Where], int] = {}
        for one in edits:
            place = (one.site, one.where)
            turn = seen[place] = seen.get(place, -1) + 1
            slots.setdefault((*place, turn), [None] * len(conditions))[index] = one
    return [
        PerRow(site, where=where, edits=tuple(edits), which=which)
        for (site, where, _), edits in sorted(slots.items(), key=lambda item: item[0][2])
        if any(one is not None and one.strength != 0 for one in edits)
    ]
