"""What makes two runs of a step the same.

fingerprint = sha256 of: step and its version, options (`identity()`), seed, the model's own fingerprint where the step
uses one, the fingerprints of what it reads, a user step's source. Not in it: executor, library versions, device.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gnomon.disk import plain
from gnomon.errors import UserError
from gnomon.planned import Planned
from gnomon.store import Artifact

INPUTS = "_done/inputs"
"""In a step's folder: the contents of what its shards are made of."""


def identity(planned: Planned, seed: int) -> dict[str, Any]:
    """What makes two runs of a step the same, as plain JSON."""
    step, spec = planned.step, planned.spec
    out: dict[str, Any] = {"step": planned.entry.step, "version": step.version, "options": step.identity()}
    out["seed"] = seed
    if step.uses_model:
        out["model"] = {"weights": spec.facts()["fingerprint"], "dtype": spec.dtype, "attention": spec.attention}
    if ":" in planned.entry.step:
        out["source"] = _source(type(step))
    out["inputs"] = {key: node.fingerprint for key, (_, node) in planned.sources().items()}
    return json.loads(json.dumps(out, default=plain))


def _source(cls: type) -> str:
    """sha256 of the file that a user's own step is written in."""
    try:
        path = inspect.getsourcefile(cls)
        text = Path(path).read_bytes() if path else b""
    except (OSError, TypeError):
        text = b""
    if not text:
        raise UserError(f"the source of {cls.__qualname__} is not in a file", "a class in a .py file")
    return hashlib.sha256(text).hexdigest()


def sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def content(artifact: Artifact) -> str:
    """One hash over a folder's files, clocked tables aside: two folders of the same bytes agree on it."""
    files, tables = artifact.meta.get("files", {}), artifact.meta.get("clocked", ())
    return sha({name: record["sha256"] for name, record in files.items() if not is_clocked(name, tables)})[:16]


def is_clocked(file: str, tables: Collection[str]) -> bool:
    """Whether a file belongs to one of the tables that a step declares as `clocked`."""
    return file.partition("/")[0].removesuffix(".parquet") in tables


def contents(planned: Planned) -> dict[str, str]:
    """What the files of everything that a step reads are, by the input's key."""
    return {key: content(Artifact(node.path)) for key, (_, node) in planned.sources().items()}


def recorded(folder: Path) -> dict[str, str]:
    """What the inputs of a half-made step's shards were, by key; {} where nobody noted it."""
    with suppress(OSError, ValueError):
        value = json.loads((folder / INPUTS).read_text())
        return value if isinstance(value, dict) else {}
    return {}


def moved(planned: Planned, was: Mapping[str, str | None], now: Mapping[str, str]) -> list[str]:
    """Names of the inputs whose files are not what they were; one that either side does not know is none of them."""
    keys = [key for key in planned.sources() if was.get(key) and now.get(key) and was[key] != now[key]]
    return list(dict.fromkeys(planned.sources()[key][1].name for key in keys))


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What changed between two identities, in words: "option n changed 40 -> 60"."""
    said: list[str] = []
    if old.get("version") != new.get("version"):
        said.append(f"the step's version changed {old.get('version')} -> {new.get('version')}")
    if old.get("source") != new.get("source"):
        said.append("its source changed")
    for path, before, after in _changes(old.get("options", {}), new.get("options", {})):
        said.append(f"option {path} changed {before} -> {after}")
    if old.get("seed") != new.get("seed"):
        said.append(f"the seed changed {old.get('seed')} -> {new.get('seed')}")
    models = [identity.get("model") or {} for identity in (old, new)]
    for key in dict.fromkeys([*models[0], *models[1]]):
        before, after = models[0].get(key), models[1].get(key)
        if before != after:
            said.append("the model changed" if key == "weights" else f"{key} changed {before} -> {after}")
    if set(old.get("inputs", {})) != set(new.get("inputs", {})):
        said.append("it reads other steps")
    return "; ".join(said)


def _changes(old: Any, new: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Leaves that differ between two trees: (dotted path, before, after)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [c for k in keys for c in _changes(old.get(k), new.get(k), f"{path}.{k}" if path else str(k))]
    if old == new:
        return []
    before, after = (json.dumps(v, default=plain, ensure_ascii=False).strip('"') for v in (old, new))
    return [(path, *(t if len(t) <= 60 else t[:57] + "..." for t in (before, after)))]  # type: ignore[list-item]
