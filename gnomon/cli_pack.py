"""`gnomon pack` and `gnomon unpack`: what they take and print; `packing` and `unpacking` do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gnomon.errors import UserError
from gnomon.text import size


def pack_command(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    out: Annotated[Path | None, typer.Argument(help="The file [STUDY.tar.zst here].")] = None,
    activations: Annotated[bool, typer.Option("--activations", help="Take the activations along too.")] = False,
) -> None:
    """Pack a study into one file: configuration, record, log, tables, directions, dictionaries, report."""
    from gnomon.packing import pack

    done = pack(study, out, activations)
    typer.echo(f"{done.path}: {done.files} files, {size(done.bytes)} in {size(done.packed_bytes)}")
    if done.left_out:
        typer.echo(f"left out: {size(done.left_out_bytes)} of activations in {done.left_out} files (--activations)")
    for note in done.notes:
        typer.echo(f"note: {note}")


def unpack_command(
    file: Annotated[Path, typer.Argument(help="A file that gnomon pack made.")],
    folder: Annotated[Path | None, typer.Argument(help="The study's new folder [the file's name, here].")] = None,
    most_gb: Annotated[
        float | None, typer.Option("--most-gb", help="How far it may grow [50 times its size, at least 0.27 GB].")
    ] = None,
) -> None:
    """Make a study's folder again from a pack; what is not as gnomon packs it is refused, and nothing is left."""
    from gnomon.unpacking import unpack

    if most_gb is not None and not 0 < most_gb < 1e6:
        raise UserError(f"--most-gb {most_gb}", "a number of GB above 0")
    done = unpack(file, folder, most_gb)
    typer.echo(f"{done.path}: {len(done.steps)} steps, {done.files} files, {size(done.bytes)}")
    if done.left_out:
        typer.echo(f"left out when it was packed: {size(done.left_out_bytes)} of activations")
    typer.echo(f"look at it: gnomon show {done.path}; gnomon report {done.path}")
