"""`gnomon doctor`: is this machine fit to work on?"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def doctor_command(
    folder: Annotated[Path, typer.Argument(help="Where studies will lie.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="No forward pass, no sandbox, no speed of writing.")] = False,
) -> None:
    """Try what a study needs: packages, torch, devices, memory, disk, sandbox, a forward. Exit 1: one is broken."""
    from gnomon.doctor import examine
    from gnomon.text import printable

    clock = time.perf_counter()
    findings = examine(folder, quick)
    broken = [finding.name for finding in findings if finding.state == "bad"]
    seconds = round(time.perf_counter() - clock, 1)
    if as_json:
        said = {"ok": not broken, "seconds": seconds, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
    else:
        lines = [(f.state, f.name, printable(f.found) + (f"\n{'':6}-> {printable(f.do)}" if f.do else ""))
                 for f in findings]  # fmt: skip
        widths = max(len(f.name) for f in findings)
        for state, name, words in lines:
            typer.echo(f"{state.ljust(4)}  {name.ljust(widths)}  {words}")
        doubts = sum(finding.state == "warn" for finding in findings)
        typer.echo(f"\n{len(broken)} broken, {doubts} to look at, {len(findings) - len(broken) - doubts} well")
    if broken:
        raise typer.Exit(1)
