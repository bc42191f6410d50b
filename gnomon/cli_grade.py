"""`gnomon grade`: grades programs as a service for other programs, one JSON object a line."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from gnomon.errors import UserError

FIELDS = ("code", "tests", "entry", "setup", "id")


def gnomon_grade(
    cpu_seconds: Annotated[float, typer.Option(help="Processor seconds of one program, all its threads.")] = 10.0,
    wall_seconds: Annotated[
        float | None, typer.Option(help="Seconds on the clock [2 x cpu-seconds + 10].", show_default=False)
    ] = None,
    memory_mb: Annotated[int, typer.Option(help="MiB of address space.")] = 512,
    output_kb: Annotated[int, typer.Option(help="KiB that a program may write to stdout and stderr.")] = 64,
    files: Annotated[int, typer.Option(help="Open file descriptors.")] = 32,
    threads: Annotated[int, typer.Option(help="Threads at once.")] = 32,
    unsandboxed: Annotated[
        bool, typer.Option("--unsandboxed", help="Run the programs with no fence at all; every verdict says so.")
    ] = False,
) -> None:
    """Grade Python programs: reads {"code", "tests", "entry"} a line, writes {"verdict", "reason", "cpu_s"} a line.

    `tests`: asserts, as a text or a list of texts, or a check(candidate) with `entry`. Optional: "setup", run before
    the tests; "id", given back.
    """
    from gnomon.tasks.sandbox import Limits, Sandbox

    limits = Limits(cpu_seconds, wall_seconds, memory_mb, output_kb, files, threads)
    with Sandbox(limits, unsandboxed=unsandboxed) as sandbox:
        level = sandbox.level
        if level != "bwrap+kernel":
            typer.echo(f"sandbox: {level}", err=True)
        for line in sys.stdin.buffer:
            if line.strip():
                sys.stdout.write(json.dumps(answer(sandbox, line)) + "\n")
                sys.stdout.flush()


def answer(sandbox: Any, line: bytes) -> dict[str, Any]:
    """The reply to one line; a line that cannot be graded is infra with its reason."""
    given: Any = None
    try:
        given = json.loads(line)
        found = sandbox.grade(*_job(given))
        out = {"verdict": found.verdict, "reason": found.reason, "cpu_s": found.cpu_s, "stderr": found.stderr,
               "level": found.level}  # fmt: skip
    except (ValueError, RecursionError, UserError) as error:
        out = {"verdict": "infra", "reason": str(error)[:500], "cpu_s": 0.0}
    if isinstance(given, dict) and "id" in given:
        out["id"] = given["id"]
    return out


def _job(given: Any) -> tuple[str, str | list[str], str | None, str]:
    if not isinstance(given, dict):
        raise UserError(f"a line holds {type(given).__name__}", 'a JSON object {"code", "tests", "entry"}')
    unknown = sorted(set(given) - set(FIELDS))
    missing = [name for name in ("code", "tests") if name not in given]
    if unknown or missing:
        raise UserError(
            f"unknown field {unknown[0]!r}" if unknown else f"no field {missing[0]!r}",
            f"fields are {', '.join(FIELDS)}",
        )
    tests, entry, setup = given["tests"], given.get("entry"), given.get("setup") or ""
    texts = isinstance(tests, str) or (isinstance(tests, list) and all(isinstance(one, str) for one in tests))
    if not isinstance(given["code"], str) or not texts or not isinstance(setup, str):
        raise UserError("code, tests or setup are not texts", "tests may be a list of texts")
    if entry is not None and not isinstance(entry, str):
        raise UserError(f"entry is {entry!r}", "a name, or nothing")
    return given["code"], tests, entry or None, setup
