"""What a plan costs, said before any work, and refused where the machine or `limits:` cannot pay for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnomon.errors import UserError
from gnomon.machine import machine, memory_bytes
from gnomon.nulls import detectable_auroc
from gnomon.planned import BACK, KEEP, Plan, Planned, total_cost
from gnomon.step import Cost
from gnomon.store import META, Artifact
from gnomon.text import duration, size

COLUMNS = ("step", "what", "rows", "tokens", "disk", "memory", "time", "why")


def refuse(plan: Plan) -> None:
    """Raise UserError where the steps to be made need more disk, memory or time than there is or `limits:` allow."""
    todo = plan.to_do()
    if not todo:
        return
    limits, cost = plan.loaded.study.limits, total_cost(todo)
    _over("disk", cost.disk_bytes, limits.disk_gb, "lower n, the sites or the positions captured")
    parent = next(p for p in (plan.out, *plan.out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if cost.disk_bytes > free:
        raise UserError(f"the study will write {size(cost.disk_bytes)}, but {parent} has {size(free)} left",
                        "", "free some space, choose another --out, or capture fewer sites")  # fmt: skip
    for planned in todo:
        needed = memory(planned)
        _over(f"memory (step '{planned.name}')", needed, limits.ram_gb, "lower batch_size or choose a smaller dtype")
        if memory_bytes() and needed > memory_bytes() and planned.spec.device in ("auto", "cpu"):
            raise UserError(
                f"step '{planned.name}' needs about {size(needed)} of memory with {planned.spec.name} in "
                f"{planned.spec.dtype}, but this machine has {size(memory_bytes())}",
                "a model that fits",
                "choose a smaller model, dtype: bfloat16, or a smaller batch_size",
            )
    times = [seconds(plan, planned) for planned in todo]
    known = sum(t for t in times if t is not None)
    if limits.minutes is not None and known > limits.minutes * 60:
        raise UserError(
            f"the study will take about {duration(known)}, going by earlier runs in {plan.out}",
            f"limits.minutes is {limits.minutes:g}",
            "raise the limit or lower n",
        )


def _over(what: str, needed: int, limit_gb: float | None, do: str) -> None:
    if limit_gb is not None and needed > limit_gb * 1e9:
        raise UserError(f"the plan needs {size(needed)} of {what}", f"limits allow {limit_gb:g} GB", do)


def memory(planned: Planned) -> int:
    """Bytes of memory that a step will need: its own, and the model's weights where it uses the model."""
    own = planned.node.cost.memory_bytes
    if not planned.step.uses_model:
        return own
    return own + int(planned.spec.facts()["memory_bytes"])


def seconds(plan: Plan, planned: Planned) -> float | None:
    """Predicted seconds of a step, from an earlier run of it in this study on the same machine and model, or None."""
    units = _units(planned.node.cost)
    rates = []
    for path in [*plan.out.glob(f"*/{META}"), *plan.out.glob(f".old/*/{META}")]:
        meta = Artifact(path.parent).meta
        same = meta.get("step") == planned.entry.step and meta.get("machine") == machine()
        same &= meta.get("identity", {}).get("model") == planned.identity.get("model")
        done = _units(Cost(**_known(meta.get("cost", {}))))
        if same and done and meta.get("seconds"):
            rates.append((meta.get("finished", ""), float(meta["seconds"]) / done))
    return max(rates)[1] * units if rates and units else None


def _known(cost: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cost.items() if key in Cost.__dataclass_fields__}


def _units(cost: Cost) -> int:
    """What a step's time grows with: tokens through the model, or rows."""
    return cost.forward_tokens or cost.prompt_tokens + cost.new_tokens or cost.rows


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """The plan as a table, a line a step in the order of COLUMNS, and a last line of sums."""
    out = []
    for planned in plan.steps:
        cost, idle = planned.node.cost, planned.action in (KEEP, BACK)
        time = None if idle else seconds(plan, planned)
        out.append((
            planned.name, planned.action, f"{cost.rows:,}" if cost.rows else "", _tokens(cost),
            size(cost.disk_bytes), "" if idle else size(memory(planned)), duration(time) if time is not None else "",
            planned.reason,
        ))  # fmt: skip
    todo = plan.to_do()
    cost = total_cost(todo)
    known = [seconds(plan, planned) for planned in todo]
    time = sum(t for t in known if t is not None)
    unknown_steps = sum(t is None for t in known)
    words = f"{len(todo)} of {len(plan.steps)} steps to make"
    words += f"; no earlier run tells the time of {unknown_steps}" if unknown_steps else ""
    peak = max((memory(planned) for planned in todo), default=0)
    out.append(
        ("to do", "", "", _tokens(cost), size(cost.disk_bytes), size(peak), duration(time) if time else "", words)
    )
    return out


def _tokens(cost: Cost) -> str:
    tokens = cost.forward_tokens or cost.prompt_tokens + cost.new_tokens
    return f"{tokens:,}" if tokens else ""


def notes(plan: Plan) -> list[str]:
    """What the steps want said beforehand, and the smallest effect that the chosen number of rows can show."""
    out = [f"{planned.name}: {note}" for planned in plan.steps for note in planned.node.cost.notes]
    for planned in plan.steps:
        if "scores" not in planned.node.writes:
            continue
        test = _test_rows(planned)
        if test >= 4:
            area = detectable_auroc(test // 2, test - test // 2)
            out.append(
                f"{planned.name}: with {test} rows in test, half of them right, an AUROC under {area:.3f} will "
                "probably not be told from chance (power .8); unbalanced classes need more"
            )
    return out


def _test_rows(planned: Planned) -> int:
    """Rows of the test split that a step will judge on."""
    splits = [planned.node.cost.splits, *(node.cost.splits for node in planned.kinds.get("generations", []))]
    return next((int(s["test"]) for s in splits if s.get("test")), 0)


def folder_size(path: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
