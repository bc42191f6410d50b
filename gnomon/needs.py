"""Peak memory that a step will need, of the machine and of a device, and what to change where that is too much.

ram = the run's own process + workers x (a process + the model + what the step holds); with one worker the run's process
does the work itself. On a CUDA device the weights pass through a process's memory only while they are loaded, and
gpu = workers that share the device x (the model + what the step holds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from gnomon.errors import UserError
from gnomon.machine import accelerators
from gnomon.models.memory import BYTES
from gnomon.planned import Plan, Planned
from gnomon.step import Cost, ModelSpec, Step
from gnomon.text import size

PROCESS = 575_000_000
"""Bytes of a process that runs a model, without its weights and batches: torch, transformers, gnomon, a tokenizer and
what they set up (574 MB measured of a generation in batches of one; Linux, CPU build)."""
PLAIN = 150_000_000
"""Bytes of one without torch (134 MB measured)."""
LOADING = 1.11
"""Peak while a model is loaded, over its weights (598 MB for 538 MB measured)."""
BATCHES = ("batch_size", "batch_tokens", "chunk")
"""Options that say how much is worked on at once."""


@dataclass(frozen=True)
class Needs:
    """Bytes at a step's peak."""

    ram: int
    """Of one machine: the run's process and its workers."""
    gpu: int
    """Of one device; 0 where the model is on the CPU."""
    workers: int


def workers(plan: Plan) -> int:
    """Worker processes on one machine; an executor that chooses the number hears what the largest step takes."""
    using = [p for p in plan.to_do() if p.step.uses_model]
    most = max((PROCESS + _weights(p.step, p.spec) + p.node.cost.memory_bytes for p in using), default=0)
    return plan.loaded.executor.processes(most)


def needs(plan: Plan, planned: Planned) -> Needs:
    """What one step of the plan needs at its peak."""
    return _needs(plan, planned.step, planned.spec, planned.node.cost, workers(plan))


def _weights(step: Step, spec: ModelSpec) -> int:
    return int(spec.facts()["memory_bytes"]) if step.uses_model else 0


def _needs(plan: Plan, step: Step, spec: ModelSpec, cost: Cost, count: int) -> Needs:
    weights, own = _weights(step, spec), cost.memory_bytes
    if not step.uses_model:
        return Needs(PLAIN + own, 0, 1)
    driver, loading, devices = PROCESS if count > 1 else 0, int(LOADING * weights), accelerators(spec.device)
    if spec.device_map != "none":
        each = devices if count == 1 else max(1, getattr(plan.loaded.executor, "gpus", 1))
        on_device, here = _spread(spec, weights, each if devices else 0)
        sharing = -(-count * each // devices) if devices else 0
        own_ram = 0 if devices else own
        return Needs(driver + count * (PROCESS + here + own_ram), sharing * (on_device + own), count)
    if not devices:
        return Needs(driver + count * (PROCESS + max(loading, weights + own)), 0, count)
    return Needs(driver + count * (PROCESS + loading), -(-count // devices) * (weights + own), count)


def _spread(spec: ModelSpec, weights: int, devices: int) -> tuple[int, int]:
    """Bytes of a model's weights on the fullest of the `devices` that it is spread over, and in main memory.

    Where `max_memory` is given, each place takes no more than it says, and the disk what is over.
    """
    most = dict(spec.max_memory)
    rooms = [int(size) for name, size in most.items() if name != "cpu"] if most else [weights] * devices
    rooms = rooms[:devices]
    full = min(-(-weights // len(rooms)), max(rooms)) if rooms else 0
    rest = max(0, weights - sum(rooms))
    return full, min(rest, int(most.get("cpu", 0 if most else rest)))


@dataclass(frozen=True)
class Change:
    """Another way to write the study: in words, with what the step would then cost and need."""

    kind: str
    words: str
    cost: Cost
    needs: Needs


def changes(plan: Plan, planned: Planned) -> Iterator[Change]:
    """Ways to make a step smaller, the mildest of each kind first: batch, workers, dtype, what is kept, n."""
    count = workers(plan)
    for kind, words, step, spec, fewer in _variants(planned, count):
        try:
            cost = step.cost(replace(planned.planning, model=spec))
        except UserError:  # too small for the step: fewer questions than splits, say
            continue
        yield Change(kind, words, cost, _needs(plan, step, spec, cost, fewer))


def _variants(planned: Planned, count: int) -> Iterator[tuple[str, str, Step, ModelSpec, int]]:
    step, spec, name = planned.step, planned.spec, planned.name
    for option in BATCHES:
        value = getattr(step, option, None)
        while isinstance(value, int) and value > 1:
            value //= 2
            yield option, f"{name}.{option}={value}", step.model_copy(update={option: value}), spec, count
    fewer = count
    while fewer > 1:
        fewer //= 2
        yield "workers", f"{fewer} worker{'s' * (fewer > 1)}", step, spec, fewer
    if step.uses_model and BYTES[spec.dtype] > 2:
        yield "dtype", "dtype=bfloat16", step, replace(spec, dtype="bfloat16"), count
    for kind, words, smaller in _captures(planned):
        yield kind, words, smaller, spec, count
    n = getattr(step, "n", None) or planned.node.cost.rows
    while "n" in type(step).model_fields and n > 1:
        n //= 2
        yield "n", f"{name}.n={n}", step.model_copy(update={"n": n}), spec, count


def _captures(planned: Planned) -> Iterator[tuple[str, str, Step]]:
    """The step with smaller numbers on disk, with fewer positions, and with fewer sites."""
    step: Any = planned.step
    inner = getattr(step, "capture", None)
    kept: Any = step if inner is None and {"sites", "positions"} <= set(type(step).model_fields) else inner
    if not isinstance(getattr(kept, "positions", None), tuple):
        return
    name = planned.name if kept is step else f"{planned.name}.capture"

    def having(update: dict[str, Any]) -> Step:
        changed = kept.model_copy(update=update)
        return changed if kept is step else step.model_copy(update={"capture": changed})

    if getattr(kept, "dtype", "") == "float32":
        yield "stored", f"{name}.dtype=float16", having({"dtype": "float16"})
    for position in kept.positions if len(kept.positions) > 1 else ():
        rest = tuple(p for p in kept.positions if p != position)
        yield "positions", f"{name}.positions without {position}", having({"positions": rest})
    sites = list(dict.fromkeys(site.partition("@")[0] for site in planned.node.cost.sites))
    while len(sites) > 1:
        sites = sites[1::2]
        yield "sites", f"{name}.sites of {len(sites)} ({sites[0]}, ...)", having({"sites": tuple(sites)})


def advice(plan: Plan, planned: Planned, bytes_of: Callable[[Change], int], now: int, most: float) -> str:
    """What to change in a step so that `bytes_of` it, `now` too much, is at most `most`: with numbers, a way a kind."""
    fits: dict[str, str] = {}
    best: Change | None = None
    for change in changes(plan, planned):
        then = bytes_of(change)
        if then >= now:
            continue
        if then <= most:
            fits.setdefault(change.kind, f"{change.words} would need {size(then)}")
        if best is None or then < bytes_of(best):
            best = change
    if fits:
        return "; ".join(fits.values())
    if best is None:
        return ""
    return f"no single change is enough; the most is saved by {best.words}, which would need {size(bytes_of(best))}"
