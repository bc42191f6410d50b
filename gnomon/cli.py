"""The command line. Every command is a thin call of what Python has too; nothing heavy is imported before it is needed.

Exit codes: 0 done; 1 a criterion of the study file failed (or, of `check`, `doctor` and `show --verify`, something is
not as it should be); 2 a mistake that the user can mend; 130 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gnomon.cli_audit import audit_command
from gnomon.cli_check import check_model_command
from gnomon.cli_compare import compare_command
from gnomon.cli_dictionary import check_dictionary
from gnomon.cli_diff import diff_command
from gnomon.cli_doctor import doctor_command
from gnomon.cli_grade import gnomon_grade
from gnomon.cli_pack import pack_command, unpack_command
from gnomon.errors import UserError

app = typer.Typer(
    name="gnomon",
    help="Find, test and explain what a language model knows about its own answers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a criterion failed, 2 a mistake to mend, 130 stopped (the same command goes on).",
)
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides: generate.n=40, seed=1, probe.folds=3, ...")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The study's folder [studies/NAME].")]
Level = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error; run.log holds everything.")]
Remake = Annotated[list[str] | None, typer.Option("--remake", help="Make this step anew though nothing changed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and what it costs; do nothing.")]
Calibrate = Annotated[
    bool, typer.Option("--calibration/--no-calibration", help="--dry-run: measure the speed here first, <= 30 s.")
]
Verify = Annotated[bool, typer.Option("--verify", help="Read every byte that is kept; mend the shards that changed.")]
_settings = {"debug": False}


def main() -> None:
    """The entry point of `gnomon`."""
    signal.signal(signal.SIGTERM, _stop)
    app()


def _stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose UserError is one message (exit 2) and whose interrupt is quiet (exit 130)."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            if _settings["debug"]:
                raise
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of a pipe has gone: nobody is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return run


def _version(wanted: bool) -> None:
    if wanted:
        import gnomon

        typer.echo(f"gnomon {gnomon.__version__}")
        raise typer.Exit


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of every command."""
    _settings["debug"] = debug


@app.command()
@guarded
def demo(overrides: Overrides = None, out: Out = None, dry_run: DryRun = False, calibration: Calibrate = True,
         remake: Remake = None, log_level: Level = "info") -> None:  # fmt: skip
    """Run the demo: SmolLM2-135M answers questions, and its activations are asked whether it will be right."""
    out = out or Path("studies") / "demo"
    _run(demo_file(), out, overrides or [], dry_run, calibration, remake or [], log_level, judged=False)


@app.command()
@guarded
def run(
    study: Annotated[Path, typer.Argument(help="A study file (YAML); studies/NAME/study.yaml goes on with a study.")],
    overrides: Overrides = None,
    out: Out = None,
    dry_run: DryRun = False,
    calibration: Calibrate = True,
    remake: Remake = None,
    verify: Verify = False,
    log_level: Level = "info",
) -> None:
    """Run a study file. Steps that stand in its folder already are kept; a stopped run goes on where it stopped."""
    _run(study, out, overrides or [], dry_run, calibration, remake or [], log_level, verify=verify)


def _run(study: Path, out: Path | None, overrides: list[str], dry_run: bool, calibrate: bool, remake: list[str],
         level: str, judged: bool = True, verify: bool = False) -> None:  # fmt: skip
    """Plan or run, then say what was found; exit 1 where it is `judged` and a criterion failed."""
    from gnomon.run import run_study

    if dry_run:
        from gnomon.cli_plan import show_plan

        show_plan(study, out, overrides, remake, calibrate, verify)
        return
    from gnomon.cli_show import findings

    try:
        done = run_study(study, out, overrides, remake=remake, verify=verify, log_level=level)
    except KeyboardInterrupt:
        typer.echo(f"stopped; what is finished is kept. Go on with:\n  {_again(study, out, overrides)}", err=True)
        raise typer.Exit(130) from None
    typer.echo(findings(done))
    if judged and any(criterion["verdict"] == "fail" for criterion in done.run.get("criteria", [])):
        raise typer.Exit(1)


def _again(study: Path, out: Path | None, overrides: list[str]) -> str:
    import shlex

    return shlex.join(["gnomon", "run", str(study), *(["--out", str(out)] if out else []), *overrides])


app.command("check")(guarded(check_model_command))
app.command("check-dictionary")(guarded(check_dictionary))
app.command("grade")(guarded(gnomon_grade))
app.command("compare")(guarded(compare_command))
app.command("diff")(guarded(diff_command))
app.command("pack")(guarded(pack_command))
app.command("unpack")(guarded(unpack_command))
app.command("audit")(guarded(audit_command))
app.command("doctor")(guarded(doctor_command))


@app.command("list")
@guarded
def list_names(
    kind: Annotated[str | None, typer.Argument(help="tasks, steps, models, interventions, ...")] = None,
    name: Annotated[
        str | None, typer.Argument(help="One of them: its options, their defaults and what they do.")
    ] = None,
) -> None:
    """List what a study file can name; with a NAME, all of its options."""
    from gnomon.cli_list import listing

    typer.echo(listing(kind, name))


@app.command()
@guarded
def show(
    path: Annotated[Path, typer.Argument(help="A study's folder, or STUDY/STEP.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file again; exit 1 where one differs.")] = False,
    examples: Annotated[
        int | None, typer.Option("--examples", help="Show this many answers: question, options, confidence.")
    ] = None,
    arrays: Annotated[bool, typer.Option("--arrays", help="Check every array: shape, type, size, finite.")] = False,
) -> None:
    """Show a study or one of its steps: what was done, what lies there, what was found."""
    from gnomon import cli_arrays, cli_examples
    from gnomon.cli_show import describe, render
    from gnomon.repair import problems

    found = problems(path) if verify else []
    try:
        facts: dict[str, Any] = describe(path)
    except UserError as error:
        if not found:
            raise
        facts = {"path": str(path), "error": str(error)}  # too broken to describe: what is wrong is still said
    if verify:
        facts["problems"] = found
    if examples is not None:
        facts["examples"] = cli_examples.examples(path, examples)
    if arrays:
        facts["array_checks"] = cli_arrays.arrays(path)
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str) if as_json else render(facts))
    if facts.get("problems"):
        raise typer.Exit(1)


@app.command()
@guarded
def report(study: Annotated[Path, typer.Argument(help="A study's folder.")]) -> None:
    """Write the report of a study again, from its folders (no model is loaded)."""
    from gnomon.report.html import build_report

    typer.echo(build_report(study))


@app.command()
@guarded
def export(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    layout: Annotated[
        str, typer.Option("--layout", help="Whose file names: second-order, pva, neuronpedia, introspection, pathways.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder [STUDY/exports/LAYOUT].")] = None,
) -> None:
    """Write a study's results under the file names that older tools expect (no model is loaded)."""
    from gnomon.exports import export_study

    typer.echo(export_study(study, layout, out).report())


@app.command()
@guarded
def clean(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do not ask.")] = False,
) -> None:
    """Remove what a study no longer needs: results replaced by other options, half-made steps, leftovers."""
    from gnomon.cleaning import leftovers, remove
    from gnomon.text import size

    found = leftovers(study)
    for path, count in found:
        typer.echo(f"{size(count) or '0 B':>8}  {path.relative_to(study)}")
    total = size(sum(count for _, count in found)) or "0 B"
    if not found or dry_run:
        typer.echo(f"{total} to free" if found else "nothing to remove")
        return
    if not force:
        if not sys.stdin.isatty():
            raise UserError("nobody is there to ask", "a terminal", "say --force, or look with --dry-run")
        typer.confirm(f"remove these ({total})?", abort=True)
    remove(study, [path for path, _ in found])
    typer.echo(f"freed {total}")


@app.command()
@guarded
def schema() -> None:
    """Print the JSON schema of a study file, for editors that complete and check it."""
    from gnomon.describe import schema as make

    typer.echo(json.dumps(make(), indent=2, ensure_ascii=False))


@app.command("audit-claim")
@guarded
def audit_claim(
    study: Annotated[Path, typer.Argument(help="The folder of a finished study whose rows the claim is tested on.")],
    direction: Annotated[Path, typer.Option("--direction", help="A .npy of one vector (with or without its .json).")],
    overrides: Overrides = None,
    site: Annotated[str | None, typer.Option("--site", help="Where it lives: resid_post.15.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The new step's name [claim_FILE].")] = None,
    log_level: Level = "info",
) -> None:
    """Put anybody's direction through all controls on a study's own rows, and print a one-page verdict."""
    from gnomon.claims import audit

    typer.echo(audit(study, direction, site, name, overrides or [], log_level))


def demo_file() -> Path:
    """The packaged demo study; in a checkout, examples/demo.yaml itself."""
    import gnomon

    package = Path(gnomon.__file__).parent
    places = (package / "data" / "demo.yaml", package.parent / "examples" / "demo.yaml")
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UserError("the demo's study file is not installed", str(places[0]), "install gnomon anew")
    return found


if __name__ == "__main__":
    main()
