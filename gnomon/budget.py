"""What a plan costs, said before any work, and refused where the machine or `limits:` cannot pay for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from gnomon.aside import parked, stamped
from gnomon.errors import UserError
from gnomon.machine import free_device_memory, free_memory, memory_bytes
from gnomon.needs import Change, advice, needs, workers
from gnomon.nulls import detectable_auroc
from gnomon.planned import BACK, KEEP, REPAIR, RESUME, Plan, Planned, total_cost
from gnomon.step import Cost
from gnomon.text import duration, size
from gnomon.timing import CALIBRATED, EARLIER, Estimate, estimates, rates, threads

COLUMNS = ("step", "what", "rows", "tokens", "disk", "RAM", "GPU", "time", "why")


def refuse(plan: Plan) -> None:
    """Raise UserError where the steps to be made need more disk, memory or time than there is or `limits:` allow.

    It names the step and what to change in it. A limit that is given stands for what is free at the moment.
    """
    todo = plan.to_do()
    if not todo:
        return
    _refuse_disk(plan, todo)
    refuse_memory(plan)
    _refuse_time(plan, todo)


def _refuse_disk(plan: Plan, todo: list[Planned]) -> None:
    wanted, limit = total_cost(todo).disk_bytes, plan.loaded.study.limits.disk_gb
    there = sum(min(planned.node.cost.disk_bytes, _there(plan, planned)) for planned in todo)
    parent = next(p for p in (plan.out, *plan.out.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    most = min(free + there, limit * 1e9) if limit is not None else free + there
    if wanted <= most:
        return
    largest = max(todo, key=lambda planned: planned.node.cost.disk_bytes)
    own = largest.node.cost.disk_bytes
    do = advice(plan, largest, lambda change: change.cost.disk_bytes, own, most - (wanted - own))
    do = f"most is step '{largest.name}' with {size(own)}" + (f": {do}" if do else "")
    if limit is not None and wanted > limit * 1e9:
        raise UserError(f"the plan needs {size(wanted)} of disk", f"limits allow {limit:g} GB", do)
    raise UserError(f"the study will write {size(wanted - there)}, but {parent} has {size(free) or '0 B'} left",
                    "", f"free some space or choose another --out; {do}")  # fmt: skip


def _there(plan: Plan, planned: Planned) -> int:
    """Bytes of a step that a stopped run or a mended folder left, and that are not written again."""
    if planned.action == REPAIR and planned.broken is not None:
        return folder_size(planned.broken)
    folders = (plan.out / f".{planned.name}.partial", parked(plan.out, planned.name, planned.fingerprint))
    ours = (folder for folder in folders if stamped(folder) == planned.fingerprint)
    return folder_size(next(ours, plan.out / ".none")) if planned.action == RESUME else 0


def refuse_memory(plan: Plan) -> None:
    """Raise UserError where a step to be made needs more memory than there is or `limits:` allow."""
    for planned in plan.to_do():
        _refuse_memory(plan, planned)


def _refuse_memory(plan: Plan, planned: Planned) -> None:
    limits, need = plan.loaded.study.limits, needs(plan, planned)
    many = f", {need.workers} workers" if need.workers > 1 else ""
    what = f"step '{planned.name}'"
    uses = f" with {planned.spec.name} in {planned.spec.dtype}{many}" if planned.step.uses_model else ""

    def do(now: int, most: float, gpu: bool) -> str:
        def bytes_of(change: Change) -> int:
            return change.needs.gpu if gpu else change.needs.ram

        return advice(plan, planned, bytes_of, now, most) or "choose a smaller model, or a larger machine"

    if limits.ram_gb is not None and need.ram > limits.ram_gb * 1e9:
        raise UserError(f"the plan needs {size(need.ram)} of memory ({what}{uses})",
                        f"limits allow {limits.ram_gb:g} GB", do(need.ram, limits.ram_gb * 1e9, False))  # fmt: skip
    if limits.gpu_gb is not None and need.gpu > limits.gpu_gb * 1e9:
        raise UserError(f"the plan needs {size(need.gpu)} of a GPU's memory ({what}{uses})",
                        f"limits allow {limits.gpu_gb:g} GB", do(need.gpu, limits.gpu_gb * 1e9, True))  # fmt: skip
    total = memory_bytes()
    if total and need.ram > total:
        raise UserError(f"{what} needs about {size(need.ram)} of memory{uses}, but this machine has {size(total)}", "",
                        do(need.ram, total, False))  # fmt: skip
    free = free_memory() if limits.ram_gb is None else None
    if free is not None and need.ram > free:
        raise UserError(
            f"{what} needs about {size(need.ram)} of memory{uses}, but {size(free) or '0 B'} are free here", "",
            f"{do(need.ram, free, False)}; or end what else runs, or say in limits.ram_gb how much may be used",
        )  # fmt: skip
    spread = planned.spec.device_map != "none"  # what does not fit goes to other devices and to main memory
    free = free_device_memory(planned.spec.device) if limits.gpu_gb is None and need.gpu and not spread else None
    if free is not None and need.gpu > free:
        raise UserError(
            f"{what} needs about {size(need.gpu)} of a GPU's memory{uses}, but {size(free) or '0 B'} are free on it",
            "",
            f"{do(need.gpu, free, True)}; or end what else runs there, or say in limits.gpu_gb how much may be used",
        )  # fmt: skip


def _refuse_time(plan: Plan, todo: list[Planned]) -> None:
    minutes = plan.loaded.study.limits.minutes
    if minutes is None:
        return
    times = {name: estimate for name, estimate in estimates(plan).items() if estimate.seconds is not None}
    known = sum(estimate.seconds or 0.0 for estimate in times.values())
    if known > minutes * 60:
        slowest = max(times, key=lambda name: times[name].seconds or 0.0)
        by = ", ".join(dict.fromkeys(estimate.by for estimate in times.values()))
        raise UserError(
            f"the study will take about {duration(known)}, going by {by} on this machine",
            f"limits.minutes is {minutes:g}",
            f"raise the limit or lower n; step '{slowest}' takes {duration(times[slowest].seconds or 0.0)} of it",
        )


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """The plan as a table, a line a step in the order of COLUMNS, and a last line of sums."""
    out = []
    times = estimates(plan)
    todo = plan.to_do()
    peaks = {planned.name: needs(plan, planned) for planned in todo}
    for planned in plan.steps:
        cost, idle = planned.node.cost, planned.action in (KEEP, BACK)
        peak = peaks.get(planned.name)
        out.append((
            planned.name, planned.action, f"{cost.rows:,}" if cost.rows else "", _tokens(cost), size(cost.disk_bytes),
            size(peak.ram) if peak else "", size(peak.gpu) if peak else "", "" if idle else _time(times[planned.name]),
            planned.reason,
        ))  # fmt: skip
    cost = total_cost(todo)
    time = sum(estimate.seconds or 0.0 for estimate in times.values())
    unknown_steps = sum(estimate.seconds is None for estimate in times.values())
    words = f"{len(todo)} of {len(plan.steps)} steps to make"
    words += f"; no earlier run tells the time of {unknown_steps}" if unknown_steps else ""
    ram = max((peak.ram for peak in peaks.values()), default=0)
    gpu = max((peak.gpu for peak in peaks.values()), default=0)
    out.append(("to do", "", "", _tokens(cost), size(cost.disk_bytes), size(ram), size(gpu),
                duration(time) if time else "", words))  # fmt: skip
    return out


def _time(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return "unknown"
    return ("~" if estimate.by == CALIBRATED else "") + duration(estimate.seconds)


def shown(plan: Plan) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """`rows` and their headers for a terminal: the GPU's column only where a step needs one."""
    lines, at = rows(plan), COLUMNS.index("GPU")
    if any(line[at] for line in lines):
        return lines, COLUMNS
    return [line[:at] + line[at + 1 :] for line in lines], COLUMNS[:at] + COLUMNS[at + 1 :]


def standing(plan: Plan) -> list[str]:
    """What the predicted times stand on, in sentences."""
    by: dict[str, list[str]] = {}
    for name, estimate in estimates(plan).items():
        by.setdefault(estimate.by, []).append(name)
    out = []
    if names := by.get(EARLIER):
        out.append(f"time of {', '.join(names)}: by an earlier run in this study on this machine")
    if names := by.get(CALIBRATED):
        told: dict[str, str] = {}
        for planned in plan.to_do():
            found = rates(plan, planned) if planned.name in names else None
            if found is not None:
                said = f"{found.prefill:,.0f} tokens/s of prompts in batches of {found.shape.replace('x', ' x ')}"
                said += f", {found.decode:,.0f} tokens/s written" if found.decode else ""
                said += f", {size(found.write)}/s to disk" if found.write else ""
                said += ", measured while other work kept the processor busy" if found.busy else ""
                told.setdefault(planned.spec.name, said)
        each, count = threads(plan), workers(plan)
        with_ = f"{count} worker{'s' * (count > 1)} of {each} thread{'s' * (each > 1)}"
        said = "; ".join(f"{name}: {words}" for name, words in told.items())
        out.append(f"time of {', '.join(names)}: about, by a calibration on this machine ({with_}; {said})")
    if names := by.get(""):
        out.append(f"time of {', '.join(names)}: unknown before a first run")
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
