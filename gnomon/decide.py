"""What is done with each step of a plan: kept, brought back, resumed, made, remade - and why, said beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnomon.errors import UserError
from gnomon.fingerprints import content, difference
from gnomon.planned import BACK, KEEP, MAKE, REMAKE, RESUME, Planned
from gnomon.store import META, Artifact
from gnomon.writer import Writer


def decide(planned: Planned, plan: Mapping[Path, Planned], out: Path) -> None:
    """Set the action and the reason of a step, whose inputs are decided already.

    Raises UserError where a folder that would be kept lacks a file, or has one of another size.
    """
    planned.conditional = False
    if planned.forced:
        planned.action, planned.reason = REMAKE, "asked for by --remake"
        return
    remade = ""
    for action in (KEEP, BACK):
        planned.action = action
        if not (planned.folder / META).is_file() or Artifact(planned.folder).fingerprint != planned.fingerprint:
            continue
        artifact = Artifact(planned.folder)
        others = _stale(planned, artifact, plan)
        if others:
            remade = f"the files of {', '.join(others)} are not those it was made of"
            continue
        _whole(artifact, planned.name)
        waiting = [node.name for _, node in planned.sources().values() if _is_remade(node.path, plan)]
        planned.conditional = bool(waiting)
        planned.reason = _why_kept(planned, waiting)
        return
    current, partial = out / planned.name, out / f".{planned.name}.partial"
    if (partial / "fingerprint").is_file() and (partial / "fingerprint").read_text() == planned.fingerprint:
        shards = len(Writer.attach(partial).done())
        planned.action, planned.reason = RESUME, f"{shards} shards are there" if shards else "it was begun before"
    elif not (current / META).is_file():
        planned.action, planned.reason = MAKE, remade or "new"
    else:
        planned.action, planned.reason = REMAKE, remade or _why_remade(planned, Artifact(current).meta)


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


def _stale(planned: Planned, artifact: Artifact, plan: Mapping[Path, Planned]) -> list[str]:
    """Names of the inputs whose files are not those a folder was made of (those still to be made are asked later)."""
    out: dict[str, None] = {}
    for key, (_, node) in planned.sources().items():
        recorded = artifact.meta.get("inputs", {}).get(key, {}).get("content")
        folder = plan[node.path].folder if node.path in plan else node.path
        if recorded is None or _is_remade(node.path, plan) or not (folder / META).is_file():
            continue
        if content(Artifact(folder)) != recorded:
            out[node.name] = None
    return list(out)


def _is_remade(path: Path, plan: Mapping[Path, Planned]) -> bool:
    """True where the plan makes this folder anew, or may have to."""
    return path in plan and (plan[path].action not in (KEEP, BACK) or plan[path].conditional)


def _whole(artifact: Artifact, name: str) -> None:
    """A cheap look (sizes, no hashes) at a folder that is kept."""
    for file, record in artifact.meta.get("files", {}).items():
        path = artifact.path / file
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            found = f"{path.stat().st_size} bytes instead of {record['bytes']}" if path.is_file() else "missing"
            raise UserError(
                f"step '{name}': {artifact.path.name}/{file} is {found}",
                "the files that were written",
                f"make the step anew with --remake {name}",
            )
