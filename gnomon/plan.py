"""The plan of a run, before any work: every step checked, its inputs found, costed, fingerprinted, and decided on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gnomon.config import Entry, Loaded
from gnomon.decide import decide
from gnomon.errors import UserError, unknown
from gnomon.fingerprints import identity, sha
from gnomon.lineage import Node, offers, outside, resolve
from gnomon.planned import Plan, Planned
from gnomon.step import Planning, Step


def plan_study(loaded: Loaded, out: Path, remake: Sequence[str] = (), verify: bool = False) -> Plan:
    """Plan a study before any work: inputs found, every step checked, costs, fingerprints, and what each needs doing.

    Nothing is written. `verify` reads every byte of what would be kept; a folder with damage is repaired. Raises
    UserError for whatever cannot work: a missing input, a step's own check, a model that is not there, another study's
    damaged folder, a `remake` that names no step.
    """
    names = [entry.name for entry in loaded.study.steps]
    for name in remake:
        if name not in names:
            raise unknown("step in --remake", name, names)
    steps: list[Planned] = []
    for entry, step in zip(loaded.study.steps, loaded.steps, strict=True):
        try:
            planned = _plan(loaded, out, entry, step, [p.node for p in steps])
        except UserError as error:
            raise named(entry.name, error) from None
        planned.forced, planned.verify = entry.name in remake, verify
        steps.append(planned)
    for planned in steps:
        decide(planned, {p.node.path: p for p in steps}, out)
    return Plan(loaded, out, tuple(steps))


def named(name: str, error: UserError) -> UserError:
    """The same error, saying which step it is about."""
    begin = (f"step '{name}'", f"{name}:", f"{name}.", f"step {name!r}")
    return error if error.got.startswith(begin) else UserError(f"step '{name}': {error.got}", error.wanted, error.do)


def _plan(loaded: Loaded, out: Path, entry: Entry, step: Step, earlier: list[Node]) -> Planned:
    """Find one step's inputs, check it, cost it, fingerprint it."""
    spec = loaded.study.spec(entry)

    def find_outside(text: str) -> Node:
        return outside(text, [out, loaded.folder])

    kinds = resolve(entry.name, step, entry.source, earlier, find_outside)
    known = {node.name: node for node in earlier}
    by_option: dict[str, Node] = {}
    for option, name in step.needs().items():
        if name in known:
            by_option[option] = known[name]
        elif "/" in name:
            by_option[option] = find_outside(name)
        else:
            raise unknown(f"step in {entry.name}.{option}: no earlier step is called", name, known)
    nodes = {kind: found[0] for kind, found in kinds.items()} | {node.name: node for node in by_option.values()}
    nodes |= {node.name: node for kind in step.gathers for node in kinds.get(kind, ())}
    costs = {key: node.cost for key, node in nodes.items()}
    if "activations" in kinds:
        sites = tuple(dict.fromkeys(site for node in kinds["activations"] for site in node.cost.sites))
        costs["activations"] = replace(costs["activations"], sites=sites)
    options = {key: node.options for key, node in nodes.items()}
    planning = Planning(spec, loaded.study.seed, costs, options, {key: node.weights for key, node in nodes.items()})
    step.check(planning)
    cost = step.cost(planning)
    writes = tuple(kind for kind in step.writes if kind != "activations" or cost.sites)
    options = step.model_dump(mode="json")
    weights = str(spec.facts()["fingerprint"]) if step.uses_model else ""
    node = Node(entry.name, out / entry.name, entry.step, writes, cost=cost, options=options, weights=weights)
    node.offers = offers(node, kinds)
    planned = Planned(entry, step, spec, node, kinds, by_option, {}, planning)
    planned.identity = identity(planned, loaded.study.seed)
    node.fingerprint = sha(planned.identity)
    return planned
