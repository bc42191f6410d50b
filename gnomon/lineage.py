"""Who reads what: each kind of a step's inputs is matched to the earlier folders that hold it.

Without `from`, a kind comes from the one earlier step that writes it; where there are several, from the one made of
the same generation, then from what the steps that option `using` names wrote or were made of; where that does not
decide, the study file must say `from:`. A step named by `from` gives what it writes, and beyond that what it was itself
made of. `activations` gathers a generation and all captures of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gnomon.errors import UserError, nearest, unknown
from gnomon.registry import recorded
from gnomon.step import Cost, Step
from gnomon.store import Artifact

WRITERS = {"generations": "generate", "directions": "probe", "scores": "probe", "layers": "layer_ablation",
           "effects": "intervene", "audit": "audit", "confidence": "confidence"}  # fmt: skip


@dataclass(eq=False)
class Node:
    """A step's folder that is there, or will be."""

    name: str
    """As the study file names it: a step's name, or ../other-study/step."""
    path: Path
    step: str
    writes: tuple[str, ...]
    fingerprint: str = ""
    cost: Cost = field(default_factory=Cost)
    options: Mapping[str, Any] = field(default_factory=dict)
    offers: dict[str, list[Node]] = field(default_factory=dict)
    """By kind: the folders it stands for when `from` names it."""
    external: bool = False
    weights: str = ""
    """Fingerprint of the model that ran in it; "" where none did."""

    @property
    def roots(self) -> set[Path]:
        """The generations that it comes from."""
        return {node.path for node in self.offers.get("generations", [])} or {self.path}


def offers(node: Node, kinds: Mapping[str, Sequence[Node]]) -> dict[str, list[Node]]:
    """What a step stands for when it is named: what it writes, then what it was made of."""
    out = {kind: list(nodes) for kind, nodes in kinds.items()}
    for kind in node.writes:
        # a capture presents its generation's sites and its own, not those of other captures
        before = [n for g in kinds.get("generations", ()) for n in g.offers.get("activations", [])]
        out[kind] = _unique([*before, node]) if kind == "activations" else [node]
    return out


def outside(text: str, bases: Sequence[Path]) -> Node:
    """The node of another study's folder, `../other-study/step`, looked for from each of `bases` in turn."""
    for base in bases:
        path = (base / Path(text).expanduser()).resolve()
        if (path / "meta.json").is_file():
            return _committed(text, path)
    raise UserError(f"no finished step at {text}", f"looked from {' and '.join(map(str, bases))}", "run that study")


def _committed(name: str, path: Path) -> Node:
    """The node of a folder on disk, with what it was made of (its neighbours)."""
    artifact = Artifact(path)
    meta = artifact.meta
    step: Any = None if "writes" in meta else recorded("step", str(meta.get("step")))
    writes = tuple(meta["writes"] if step is None else step.writes)
    saved: dict[str, Any] = {k: v for k, v in meta.get("cost", {}).items() if k in Cost.__dataclass_fields__}
    cost = replace(Cost(**saved), sites=tuple(f"{site}@{position}" for site, position in artifact.sites()))
    node = Node(name, path, str(meta.get("step")), writes, artifact.fingerprint, cost, artifact.options, external=True,
                weights=str((meta.get("model") or {}).get("fingerprint", "")))  # fmt: skip
    kinds: dict[str, list[Node]] = {}
    for key, record in meta.get("inputs", {}).items():
        neighbour = (path.parent / record["name"]).resolve()
        if record.get("kind") and (neighbour / "meta.json").is_file():
            kinds.setdefault(str(record["kind"]), []).append(_committed(f"{Path(name).parent}/{key}", neighbour))
    node.offers = offers(node, kinds)
    return node


def resolve(
    label: str, step: Step, source: Any, earlier: Sequence[Node], find_outside: Callable[[str], Node]
) -> dict[str, list[Node]]:
    """The folders that `step` (called `label`) reads, by kind; `source` is what its entry says under `from`.

    Raises UserError where a kind is missing, where several steps write it and `from` does not say which, where a named
    step is unknown, comes later or holds nothing that is read.
    """
    wanted = [*step.reads, *(kind for kind in step.optional if kind not in step.reads)]
    chosen: dict[str, list[Node]] = {}

    def pick(name: str) -> Node:
        known = {node.name: node for node in earlier}
        if name in known:
            return known[name]
        if "/" in name:
            return find_outside(name)
        raise UserError(
            f"step {label!r} says from: {name}, but no earlier step has that name",
            nearest(name, known),
            f"earlier steps: {', '.join(known) or 'none'}",
        )

    if isinstance(source, Mapping):
        for kind, names in source.items():
            if kind not in wanted:
                raise unknown(f"kind in {label}'s from:", kind, wanted)
            for name in [names] if isinstance(names, str) else names:
                found = _offered(pick(name), kind, earlier)
                if not found:
                    raise UserError(f"step {label!r} wants {kind} from {name!r}, which holds none", "a step with some")
                chosen[kind] = _unique([*chosen.get(kind, []), *found])
    elif source is not None:
        nodes = [pick(name) for name in ([source] if isinstance(source, str) else source)]
        for node in nodes:
            if not any(_offered(node, kind, earlier) for kind in wanted):
                raise UserError(
                    f"step {label!r} says from: {node.name}, which holds nothing it reads",
                    f"it reads {', '.join(wanted) or 'nothing'}",
                    "take the line away or name another step",
                )
        for kind in wanted:
            # what a named step wrote itself goes before what another was made of
            writers = [n for n in nodes if kind in n.writes or (kind == "activations" and "generations" in n.writes)]
            found = _unique([n for node in writers or nodes for n in _offered(node, kind, earlier)])
            if found:
                chosen[kind] = found
    names = {name for key, name in step.needs().items() if key.split(".")[0] == "using"}
    used = [node for node in earlier if node.name in names]
    for kind in sorted(wanted, key=lambda k: (k == "activations", k != "generations")):
        if kind not in chosen:
            required = kind in step.reads
            if kind in step.gathers:
                chosen[kind] = _gathered(label, kind, earlier, chosen, required)
            else:
                chosen[kind] = _implicit(label, kind, earlier, chosen, used, required)
        many = len(chosen[kind]) > 1 and kind != "activations"
        if many and kind not in (*step.several, *step.gathers):
            names = ", ".join(node.name for node in chosen[kind])
            raise UserError(f"step {label!r} is given {kind} from {names}", "one of them: this step reads one")
    _of_one_generation(label, step, chosen)
    return {kind: chosen[kind] for kind in wanted if chosen[kind]}


def _implicit(
    label: str, kind: str, earlier: Sequence[Node], chosen: Mapping[str, list[Node]], used: Sequence[Node],
    required: bool,
) -> list[Node]:  # fmt: skip
    """What a kind comes from where `from` does not say it; `used` are the steps that option `using` names."""
    owners = [node for node in earlier if kind in node.writes]
    generations = chosen.get("generations", [])
    same = [n for n in owners if n.roots & {g.path for g in generations}]
    if kind == "activations":
        if generations:
            return _unique([*(n for g in generations for n in g.offers.get(kind, [])), *same]) or _missing(
                label, kind, required, earlier
            )
        if len({root for node in owners for root in node.roots}) <= 1:
            return owners or _missing(label, kind, required, earlier)
    if not owners:
        return _missing(label, kind, required, earlier)
    if len(owners) > 1 and len(same) == 1:
        owners = same
    if len(owners) > 1:
        named = [node for node in used if kind in node.writes] or used
        found = _unique([n for node in named for n in _offered(node, kind, earlier)])
        owners = found if len(found) == 1 else owners
    if len(owners) > 1:
        names = [node.name for node in owners]
        raise UserError(
            f"step {label!r} reads {kind!r}, which {', '.join(names[:-1])} and {names[-1]} all write",
            "one of them",
            f"say from: {names[-1]}  or  from: {{{kind}: {names[-1]}}}",
        )
    return owners


def _gathered(
    label: str, kind: str, earlier: Sequence[Node], chosen: Mapping[str, list[Node]], required: bool
) -> list[Node]:
    """Every earlier step that wrote a kind about the generations that were chosen (about any, where none were)."""
    generations = {g.path for g in chosen.get("generations", [])}
    owners = [node for node in earlier if kind in node.writes and (not generations or node.roots & generations)]
    return _unique(owners) or _missing(label, kind, required, earlier)


def _of_one_generation(label: str, step: Step, chosen: Mapping[str, list[Node]]) -> None:
    """Refuse what `from` names where it is about other answers than those that are read: rows are joined by number."""
    own = {node.path.resolve() for node in chosen.get("generations", [])}
    for kind in step.gathers:
        for node in chosen.get(kind, []):
            if own and not own & {path.resolve() for path in node.roots}:
                raise UserError(
                    f"step {label!r} is given {kind} from {node.name}, which was made of another generation",
                    f"{kind} about {chosen['generations'][0].name}", "name that generation, or leave this one out",
                )  # fmt: skip


def _missing(label: str, kind: str, required: bool, earlier: Sequence[Node]) -> list[Node]:
    if not required:
        return []
    if kind == "activations":
        generate = next((n.name for n in reversed(earlier) if "generations" in n.writes), "generate")
        do = f"add capture to {generate!r} or put 'capture' above it"
    else:
        do = f"put {WRITERS[kind]!r} above it" if kind in WRITERS else "put a step that writes them above it"
    raise UserError(f"step {label!r} reads {kind!r} but no earlier step writes them", "", do)


def _offered(node: Node, kind: str, earlier: Sequence[Node]) -> list[Node]:
    """What a named step gives of a kind; a generation brings all earlier captures of it."""
    found = node.offers.get(kind, [])
    if kind == "activations" and "generations" in node.writes:
        return _unique([*found, *(n for n in earlier if kind in n.writes and node.path in n.roots)])
    return found


def _unique(nodes: Sequence[Node]) -> list[Node]:
    return list({node.path: node for node in nodes}.values())
