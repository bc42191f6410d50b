"""How long the steps of a plan will take, and what that stands on: an earlier run in the study, or a calibration.

An earlier run: seconds x units now / units then; the units of a step are its tokens through the model, else its rows.
A calibration: a generation that was tried on a few of its batches takes seconds x all rows / tried rows; other steps

    (forward - new) / prefill + new / decode + bytes / write

with `new` the tokens that are written one at a time. Workers divide both; the model's loading is added once. Where a
generation's answers turned out shorter than `max_new_tokens`, the steps that read them are costed with that.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from gnomon import calibration, machine
from gnomon.errors import UserError
from gnomon.needs import workers
from gnomon.planned import Plan, Planned
from gnomon.step import Cost, Planning
from gnomon.store import META, Artifact

EARLIER, CALIBRATED, UNKNOWN = "an earlier run", "a calibration", ""
BATCH = 16
"""Rows together in steps that do not say it."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step, None where nothing tells them, and what they stand on."""

    seconds: float | None
    by: str = UNKNOWN
    tokens: int = 0
    """Tokens that it was reckoned with."""


def estimates(plan: Plan) -> dict[str, Estimate]:
    """Predicted time of every step that is to be made, by name."""
    out: dict[str, Estimate] = {}
    shorter: dict[str, float] = {}
    loaded = False
    for planned in plan.steps:
        if share := _share_of_answer(plan, planned):
            shorter[planned.name] = share
        if planned not in plan.to_do():
            continue
        found = earlier(plan, planned)
        if found is None and planned.step.uses_model:
            found = _calibrated(plan, planned, _cost(planned, shorter), loaded)
            loaded |= found is not None
        out[planned.name] = found or Estimate(None)
    return out


# ---------------------------------------------------------------- by an earlier run


def earlier(plan: Plan, planned: Planned) -> Estimate | None:
    """By an earlier run of the step in this study, on the same machine, device and model."""
    units = _units(planned.node.cost)
    rates = []
    for path in [*plan.out.glob(f"*/{META}"), *plan.out.glob(f".old/*/{META}")]:
        try:
            meta = Artifact(path.parent).meta
        except UserError:  # not one of ours, or broken: the plan says so where it matters
            continue
        same = meta.get("step") == planned.entry.step and meta.get("machine") == machine.machine()
        same &= meta.get("identity", {}).get("model") == planned.identity.get("model")
        done = _units(Cost(**_known(meta.get("cost", {}))))
        if same and done and meta.get("seconds"):
            lanes = _lanes(meta.get("executor"), meta.get("threads"))
            rates.append((meta.get("finished", ""), float(meta["seconds"]) * lanes / done))
    if not rates or not units:
        return None
    return Estimate(max(rates)[1] * units / _lanes(plan.loaded.study.executor, threads(plan)), EARLIER, units)


def _lanes(executor: Any, count: Any) -> float:
    """Threads at work together, as far as a study file tells; 1 where it does not."""
    options: Any = next(iter(executor.values()), {}) if isinstance(executor, Mapping) else {}
    many = options.get("workers", 1) if isinstance(options, Mapping) else 1
    return float(many if isinstance(many, int) else 1) * float(count if isinstance(count, int) else 1)


def _known(cost: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cost.items() if key in Cost.__dataclass_fields__}


def _units(cost: Cost) -> int:
    """What a step's time grows with: tokens through the model, or rows."""
    return cost.forward_tokens or cost.prompt_tokens + cost.new_tokens or cost.rows


# ---------------------------------------------------------------- by a calibration


def threads(plan: Plan) -> int:
    """Threads of each process of the run."""
    return plan.loaded.study.threads or machine.default_threads(workers(plan))


def jobs(plan: Plan) -> list[calibration.Job]:
    """What a calibration has to measure for the plan and is not known: a job a model, in its largest step's shape."""
    chosen: dict[Any, tuple[int, Planned]] = {}
    for planned in plan.to_do():
        tokens = _units(planned.node.cost) if _tokens(planned.node.cost) else 0
        best = chosen.get(planned.spec)
        if planned.step.uses_model and tokens and earlier(plan, planned) is None and (best is None or tokens > best[0]):
            chosen[planned.spec] = tokens, planned
    out = []
    for spec in chosen:
        tried = next((p for p in plan.to_do() if p.spec == spec and _can_try(p) and earlier(plan, p) is None), None)
        shape = tried or chosen[spec][1]
        job = calibration.Job(spec, threads(plan), *_shape(shape), str(_parent(plan)))
        if tried is not None:
            options = tried.step.model_dump(mode="json")
            job = replace(job, step=tried.entry.step, options=options, seed=plan.loaded.study.seed,
                          fingerprint=tried.fingerprint)  # fmt: skip
        if calibration.wanted(job):
            out.append(job)
    return out


def _parent(plan: Plan) -> Any:
    return next(p for p in (plan.out, *plan.out.absolute().parents) if p.exists())


def _can_try(planned: Planned) -> bool:
    """A generation with questions of its own."""
    return callable(getattr(planned.step, "planned", None)) and getattr(planned.step, "task", None) is not None


def _tokens(cost: Cost) -> int:
    return cost.forward_tokens or cost.prompt_tokens + cost.new_tokens


def _shape(planned: Planned) -> tuple[int, int]:
    """Rows of a batch, and the length of its prompts as a power of two."""
    source = (
        planned.node.cost if planned.node.cost.prompt_tokens else planned.planning.inputs.get("generations", Cost())
    )
    length = calibration.power_of_two(source.prompt_tokens / source.rows if source.rows else 32)
    batch = getattr(planned.step, "batch_size", None)
    if not isinstance(batch, int):
        together = getattr(planned.step, "batch_tokens", None)
        batch = together // length if isinstance(together, int) else BATCH
    return max(1, batch), length


def rates(plan: Plan, planned: Planned) -> calibration.Rates | None:
    """What an earlier calibration tells of a step's model here."""
    return calibration.known(planned.spec, threads(plan), *_shape(planned))


def _calibrated(plan: Plan, planned: Planned, cost: Cost, loaded: bool) -> Estimate | None:
    found = rates(plan, planned)
    if found is None or not _tokens(cost) or not found.prefill:
        return None
    count, load = workers(plan), 0.0 if loaded else found.load
    trial = found.trials.get(planned.fingerprint)
    if trial is not None:
        seconds = trial["seconds"] * trial["of"] / trial["rows"]
        return Estimate(load + seconds / count, CALIBRATED, _tokens(cost))
    new = cost.new_tokens if cost.prompt_tokens and found.decode else 0
    new = min(new, _tokens(cost))
    seconds = (_tokens(cost) - new) / found.prefill + (new / found.decode if new else 0.0)
    seconds = seconds / count + (cost.disk_bytes / found.write if found.write else 0.0)
    return Estimate(load + seconds, CALIBRATED, _tokens(cost))


# ---------------------------------------------------------------- how long answers are


def _share_of_answer(plan: Plan, planned: Planned) -> float:
    """Of the tokens that a generation may write at most, the share that its answers have; 0 where nothing tells."""
    most = planned.node.cost.new_tokens
    if not _can_try(planned) or not most:
        return 0.0
    if planned not in plan.to_do():
        with suppress(UserError, LookupError, ValueError):
            totals = Artifact(planned.folder).table("totals")
            return min(1.0, dict(zip(totals["name"], totals["value"], strict=True))["response_tokens"] / most)
        return 0.0
    found = rates(plan, planned)
    trial = found.trials.get(planned.fingerprint) if found is not None else None
    return min(1.0, trial["new_tokens"] * trial["of"] / trial["rows"] / most) if trial else 0.0


def _cost(planned: Planned, shorter: Mapping[str, float]) -> Cost:
    """The step's cost, with the answers that it reads as long as they are."""
    names = {kind: nodes[0].name for kind, nodes in planned.kinds.items()}
    names |= {node.name: node.name for node in planned.named.values()}
    inputs = {
        key: replace(cost, new_tokens=int(cost.new_tokens * shorter.get(names.get(key, key), 1.0)))
        for key, cost in planned.planning.inputs.items()
    }
    planning: Planning = replace(planned.planning, inputs=inputs)
    return planned.step.cost(planning)
