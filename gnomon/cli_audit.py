"""`gnomon audit FILES`: are older checkpoints and response logs whole, and do they join? `log_audit` does the work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gnomon.errors import UserError

SUFFIXES = (".json", ".jsonl")


def audit_command(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints and response logs (.json, .jsonl), or folders.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the validation as JSON to this file.")] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials of each feature and condition.")] = 30,
    conditions: Annotated[
        str | None, typer.Option("--conditions", help="Those wanted, by commas [the six of the logs' two classes].")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Causal features of each layer that --write keeps.")] = 50,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write the causal features with the largest |cohen_d| here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the validation as JSON.")] = False,
) -> None:
    """Audit older results: records, conditions, trials, the join of features and responses; exit 1 if a check fails."""
    from gnomon.disk import write_json
    from gnomon.exports.folder import strict
    from gnomon.methods.log_audit import LogAudit
    from gnomon.methods.log_validation import strongest, validation
    from gnomon.text import table

    wanted = None if conditions is None else tuple(dict.fromkeys(c.strip() for c in conditions.split(",") if c.strip()))
    if wanted == ():
        raise UserError(f"--conditions {conditions!r}", "names with commas between them")
    paths = list(_found(files))
    _writable(out, write, paths, force)
    audit = LogAudit(trials, wanted)
    for path in paths:
        content, why = _read(path)
        audit.unreadable(str(path), why) if why else audit.add(str(path), content)
    made = strict(validation(audit))
    failed = any(c["level"] == "fail" for c in made["checks"])
    if as_json:
        typer.echo(json.dumps(made, indent=2))
    else:
        shown = [(c["level"], c["check"], f"{c['value']:g}", c["detail"]) for c in made["checks"]]
        typer.echo(table(shown, ("level", "check", "value", "detail")))
        layers = made["causal_by_layer"]
        typer.echo("causal features by layer: " + (", ".join(f"{k}: {n}" for k, n in layers.items()) or "none"))
    if out is not None:
        write_json(out, made)
        typer.echo(f"wrote {out}", err=True)
    if write is not None and not failed:
        kept = strict(strongest(audit, top))
        write_json(write, kept)
        typer.echo(f"wrote {write}: {len(kept)} features", err=True)
    elif write is not None:
        typer.echo(f"{write} is not written: a check failed", err=True)
    if failed:
        raise typer.Exit(1)


def _found(files: Sequence[Path]) -> Iterator[Path]:
    """Every file once, folders searched. UserError for what is not there, and a folder without JSON."""
    seen: set[Path] = set()
    for given in files:
        if not given.exists():
            raise UserError(f"no file or folder {given}")
        inside = [given]
        if given.is_dir():
            inside = sorted(p for p in given.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            if not inside:
                raise UserError(f"no {' or '.join(SUFFIXES)} file in the folder {given}")
        for path in inside:
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _writable(out: Path | None, write: Path | None, paths: Sequence[Path], force: bool) -> None:
    """Refuse before the work what could not be written after it."""
    asked = [p for p in (out, write) if p is not None]
    if len({p.resolve() for p in asked}) < len(asked):
        raise UserError(f"--out and --write are both {out}", "two files")
    for path in asked:
        if path.resolve() in {p.resolve() for p in paths}:
            raise UserError(f"{path} is one of the audited files", "another name")
        if path.is_dir():
            raise UserError(f"{path} is a folder", "a file's name")
        if path.exists() and not force:
            raise UserError(f"{path} exists", "a new name", "or say --force")
        near = next(p for p in path.resolve().parents if p.exists())
        if not near.is_dir() or not os.access(near, os.W_OK):
            raise UserError(f"nothing can be written to {near}", "a writable folder")


def _read(path: Path) -> tuple[Any, str]:
    """(content, "") of a JSON file, or (None, why not)."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix != ".jsonl":
            return json.loads(text), ""
        out = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    out.append(json.loads(line))
                except json.JSONDecodeError as error:
                    return None, f"line {number} is no JSON: {error.msg} (column {error.colno})"
        return out, ""
    except json.JSONDecodeError as error:
        return None, f"is no JSON: {error.msg} (line {error.lineno}, column {error.colno})"
    except UnicodeDecodeError as error:
        return None, f"is no UTF-8 text (byte {error.start})"
    except (ValueError, RecursionError) as error:
        return None, f"cannot be read as JSON: {str(error)[:100]}"
    except OSError as error:
        return None, f"cannot be read: {error.strerror or error}"
