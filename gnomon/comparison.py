"""`gnomon compare`: the step compare on two finished folders, without a study file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gnomon.errors import UserError
from gnomon.rows.compared import made_of
from gnomon.step import Context, Inputs, ModelSpec
from gnomon.steps.compare import Compare
from gnomon.store import META, Artifact, Study
from gnomon.strict import build
from gnomon.writer import Writer


def compare_folders(
    a: str | Path, b: str | Path, options: dict[str, Any] | None = None, out: str | Path = "compare", seed: int = 0
) -> Artifact:
    """Compare the generations in two folders and return the step's folder, `out`.

    Args:
        a, b: a study's folder with one generation, or a generation's own folder. Captures and confidence passes
            of them are found beside them.
        options: of step compare; its names of passes are those beside each generation.

    UserError for folders without a generation or with several, and for whatever the step refuses.
    """
    sides = [generation_in(Path(folder)) for folder in (a, b)]
    labels = [str(side.path.resolve()) for side in sides]
    step = build(Compare, {"a": labels[0], "b": labels[1], **(options or {})}, "compare")
    named = dict(zip(labels, sides, strict=True))
    beside = [[x for x in _beside(side) if made_of(x) == side.path.resolve()] for side in sides]
    for couple in step.confidence:
        for name, around in zip(couple, beside, strict=True):
            named |= {x.name: x for x in around if x.name == name}
    if any(x == y for x, y in step.confidence):
        raise UserError("confidence: a pass is compared with one of its own name", "leave `confidence` out: passes "
                        "that ask the same are found")  # fmt: skip
    every = [x for around in beside for x in around]
    inputs = Inputs({"confidence": [x for x in every if "confidence" in x.tables()],
                     "activations": [x for x in every if x.meta.get("step") == "capture"]}, named)  # fmt: skip
    writer = _writer(Path(out))
    ctx = Context(writer.study, ModelSpec(""), seed, log=logging.getLogger("gnomon.compare"))
    step.run(inputs, writer, ctx)
    reads = {side: {"name": label, "kind": "", "fingerprint": x.fingerprint}
             for side, label, x in zip("ab", labels, sides, strict=True)}  # fmt: skip
    return writer.commit({
        "step": "compare", "name": writer.name, "version": step.version, "options": step.model_dump(mode="json"),
        "writes": list(step.writes), "inputs": reads, "ledger": ctx.ledger, "seed": seed, "model": {},
    })  # fmt: skip


def generation_in(folder: Path) -> Artifact:
    """The generation that a folder is, or the only one of a study's folder."""
    if (folder / META).is_file():
        found = Artifact(folder)
        if "generations" in found.tables():
            return found
        origin = made_of(found)
        do = f"compare {origin}" if origin is not None else ""
        raise UserError(f"{folder} is step {found.meta.get('step')}, which holds no answers", "a generation", do)
    study = Study(folder)
    made = [x for x in study if "generations" in x.tables()]
    if len(made) != 1:
        names = ", ".join(str(folder / x.name) for x in made)
        raise UserError(
            f"{folder} has {f'{len(made)} generations' if made else 'no generation'}",
            "one",
            f"name one of {names}" if made else "",
        )
    return made[0]


def _beside(side: Artifact) -> list[Artifact]:
    """The finished steps in the same study."""
    return [Artifact(p.parent) for p in sorted(side.path.resolve().parent.glob(f"*/{META}")) if p.parent.name[0] != "."]


def _writer(out: Path) -> Writer:
    """A fresh writer for the folder; only an earlier comparison is replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        known = (out / META).is_file() and Artifact(out).meta.get("step") == "compare"
        if not known:
            raise UserError(
                f"{out} holds other things", "a new or empty folder, or an earlier comparison", "choose --out"
            )
    elif out.is_dir():
        out.rmdir()
    return Writer(out.resolve().parent, out.resolve().name, "compare")
