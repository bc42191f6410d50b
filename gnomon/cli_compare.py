"""`gnomon compare A B`: what it takes and prints; `comparison` does the work."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gnomon.errors import UserError

if TYPE_CHECKING:
    from gnomon.store import Artifact

TABLES = ("models", "pairing", "comparison", "flips", "similarity", "transfer", "choices")
"""What --json gives."""


def compare_command(
    a: Annotated[Path, typer.Argument(help="The base: a study's folder, or STUDY/STEP of a generation.")],
    b: Annotated[Path, typer.Argument(help="What is compared with it: differences are B minus A.")],
    options: Annotated[
        list[str] | None, typer.Argument(help="Options of step compare: rows=all, sites=resid_post.*, ...")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out, and count, questions that one side lacks.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the tables in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The tables as JSON.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of draws and shuffles.")] = 0,
) -> None:
    """Compare two generations of the same questions: accuracy, calibration, confidence, activations, probes.

    For two models, adapters or prompts: questions are paired, and each difference has its interval and test. To see
    what was asked differently of the same study made twice, and which cells moved, use `gnomon diff`.
    """
    from gnomon.comparison import compare_folders

    given = dict(_option(text) for text in options or [])
    if allow_missing:
        given["allow_missing"] = True
    if out is not None:
        _say(compare_folders(a, b, given, out, seed), as_json, out)
        return
    with tempfile.TemporaryDirectory(prefix="gnomon-compare-") as folder:
        _say(compare_folders(a, b, given, Path(folder) / "compare", seed), as_json, None)


def _option(text: str) -> tuple[str, Any]:
    from gnomon.strict import read_value

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"option {text!r}", "key=value", "such as rows=all")
    return key.strip().removeprefix("compare."), read_value(value)


def _say(done: Artifact, as_json: bool, out: Path | None) -> None:
    from gnomon.cli_show import section, sentences

    if not as_json:
        typer.echo("\n\n".join([section(done), *([f"kept in {out}"] if out is not None else [])]))
        return
    from gnomon.exports.folder import strict

    facts = {name: done.table(name).to_dict("records") for name in TABLES}
    said = [{"kind": kind, "text": text} for kind, text in sentences(done)]
    typer.echo(json.dumps(strict({"findings": said, **facts}), indent=2, ensure_ascii=False))
