"""What is done with each step of a plan - kept, brought back, repaired, resumed, made, remade - and why."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gnomon.aside import parked, stamped
from gnomon.errors import UserError
from gnomon.fingerprints import content, difference, moved, recorded
from gnomon.planned import BACK, KEEP, MAKE, REMAKE, REPAIR, RESUME, Planned
from gnomon.repair import Damage, damage, summary
from gnomon.store import LEFT_OUT, META, Artifact
from gnomon.writer import Writer


def decide(planned: Planned, plan: Mapping[Path, Planned], out: Path) -> None:
    """Set the action and the reason of a step, whose inputs are decided already.

    Raises UserError where a step that needs work reads another study's folder that is damaged.
    """
    planned.conditional, planned.broken = False, None
    _choose(planned, plan, out)
    if planned.action not in (KEEP, BACK):
        _whole_inputs(planned)
        _inputs_are_here(planned, plan)


def _choose(planned: Planned, plan: Mapping[Path, Planned], out: Path) -> None:
    if planned.forced:
        planned.action, planned.reason = REMAKE, "asked for by --remake"
        return
    remade, now = "", _contents(planned, plan)
    for action in (KEEP, BACK):
        planned.action = action
        folder = planned.folder
        if not _is(folder, planned.fingerprint):
            continue
        found = _damage(planned, folder)
        made_of = recorded(folder)
        if not found or found[0].file != META:
            made_of = {key: one.get("content") for key, one in Artifact(folder).meta.get("inputs", {}).items()}
        others = moved(planned, made_of, now)
        if others:
            remade = f"the files of {', '.join(others)} are not those it was made of"
            continue
        if found:
            planned.action, planned.reason, planned.broken = REPAIR, summary(found), folder
            return
        waiting = [node.name for _, node in planned.sources().values() if _is_remade(node.path, plan)]
        planned.conditional = bool(waiting)
        planned.reason = _why_kept(planned, waiting)
        return
    shards = _begun(planned, out, now)
    if shards is not None:
        planned.action, planned.reason = RESUME, f"{shards} shards are there" if shards else "it was begun before"
        return
    planned.action, planned.reason = MAKE, remade or "new"
    with suppress(UserError):  # none there, or its record is broken: it is made as if it were new
        meta = Artifact(out / planned.name).meta
        planned.action, planned.reason = REMAKE, remade or _why_remade(planned, meta)


def _is(folder: Path, fingerprint: str) -> bool:
    """Whether a folder is the finished step of a fingerprint, by meta.json, or by the stamp where that is broken."""
    with suppress(UserError):
        return Artifact(folder).fingerprint == fingerprint
    return stamped(folder) == fingerprint


def _damage(planned: Planned, folder: Path) -> list[Damage]:
    """What is wrong with a folder that would be kept: by sizes, or once by every byte where the plan verifies."""
    if not planned.verify:
        return damage(folder)
    if folder not in planned.looked:
        planned.looked[folder] = damage(folder, hashed=True)
    return planned.looked[folder]


def _begun(planned: Planned, out: Path, now: Mapping[str, str]) -> int | None:
    """Finished shards of a half-made step of this fingerprint, also of one that waits for its options to come back.

    Shards that were made of other files of an input do not count: they will go.
    """
    for partial in (out / f".{planned.name}.partial", parked(out, planned.name, planned.fingerprint)):
        if stamped(partial) == planned.fingerprint and not moved(planned, recorded(partial), now):
            return len(Writer.attach(partial).done())
    return None


def _whole_inputs(planned: Planned) -> None:
    """Refuse to work from another study's folder with files missing: only a run of that study mends them."""
    for _, node in planned.sources().values():
        if node.external and (found := damage(node.path, planned.verify)):
            raise UserError(
                f"step '{planned.name}' reads {node.name}, whose {summary(found)}", "the files that were written",
                f"mend them there: gnomon run {node.path.parent / 'study.yaml'} --verify",
            )  # fmt: skip


def _inputs_are_here(planned: Planned, plan: Mapping[Path, Planned]) -> None:
    """Refuse to work from activations that were left out of a pack, unless they are made anew before."""
    for key, (kind, node) in planned.sources().items():
        folder = plan[node.path].folder if node.path in plan else node.path
        # `using` lends directions and tables, which are never left out; `transfer_to` is read at the sites themselves
        reads = kind == "activations" or key.removeprefix("option ").split(".")[0] == "transfer_to"
        if not reads or _is_remade(node.path, plan) or not (folder / META).is_file():
            continue
        if Artifact(folder).left_out:
            do = "" if node.external else f"gnomon run ... --remake {node.name} makes them again"
            raise UserError(f"step '{planned.name}' reads activations of {node.name}: {LEFT_OUT}", "", do)


def _why_kept(planned: Planned, waiting: list[str]) -> str:
    if waiting:
        return f"unless the files of {', '.join(dict.fromkeys(waiting))} turn out different"
    if planned.action == BACK:
        return "it was made before with these options"
    return "same options, inputs and model" if planned.step.uses_model else "same options and inputs"


def _why_remade(planned: Planned, meta: Mapping[str, Any]) -> str:
    """What differs from the folder that stands there."""
    words = difference(meta.get("identity", {}), planned.identity)
    recorded = {key: record.get("fingerprint") for key, record in meta.get("inputs", {}).items()}
    sources = planned.sources().items()
    changed = [node.name for key, (_, node) in sources if recorded.get(key, node.fingerprint) != node.fingerprint]
    follows = f"follows {', '.join(dict.fromkeys(changed))}" if changed else ""
    return "; ".join(text for text in (words, follows) if text) or "its fingerprint changed"


def _contents(planned: Planned, plan: Mapping[Path, Planned]) -> dict[str, str]:
    """What the files of its inputs are, by key; those that are still to be made are not known yet."""
    out = {}
    for key, (_, node) in planned.sources().items():
        folder = plan[node.path].folder if node.path in plan else node.path
        if not _is_remade(node.path, plan) and (folder / META).is_file():
            out[key] = content(Artifact(folder))
    return out


def _is_remade(path: Path, plan: Mapping[Path, Planned]) -> bool:
    """True where the plan makes this folder anew, or may have to."""
    return path in plan and (plan[path].action not in (KEEP, BACK) or plan[path].conditional)
