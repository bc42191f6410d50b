"""`gnomon run --dry-run`: the plan of a study and what it will cost, said before any work."""

from __future__ import annotations

import time
from pathlib import Path

import typer


def show_plan(study: Path, out: Path | None, overrides: list[str], remake: list[str], calibrate: bool = True,
              verify: bool = False) -> None:  # fmt: skip
    """Print the plan with its costs; what cannot be paid for is still an error.

    Nothing is written into the study's folder. With `calibrate` the speed of models that no earlier run or calibration
    tells is measured first, at most half a minute a model, and kept in the cache folder.
    """
    from rich.console import Console

    from gnomon import budget, calibration, criteria, timing
    from gnomon.config import load
    from gnomon.plan import plan_study
    from gnomon.run import folder_of
    from gnomon.text import duration, table

    loaded = load(study, overrides)
    plan = plan_study(loaded, folder_of(loaded, out), remake, verify)
    unmeasured = timing.jobs(plan)
    if calibrate and unmeasured:
        budget.refuse_memory(plan)  # what will not fit cannot be measured either
    for job in unmeasured if calibrate else ():
        typer.echo(
            f"calibrating {job.spec.name}: how fast it runs here, measured once and kept "
            f"(at most {calibration.LIMIT:.0f} s; --no-calibration skips it)",
            err=True,
        )
        clock = time.monotonic()
        with Console(stderr=True).status(f"measuring {job.spec.name}"):  # moves on a terminal alone
            wrong = calibration.measure(job)
        typer.echo(f"calibrated in {duration(time.monotonic() - clock)}", err=True)
        if wrong:
            typer.echo(f"warning: {job.spec.name} could not be calibrated: {wrong}", err=True)
    typer.echo(f"{loaded.study.title or plan.out.name}: {loaded.study.model} in {loaded.study.dtype} -> {plan.out}\n")
    lines, columns = budget.shown(plan)
    typer.echo(table(lines, columns))
    for note in [*budget.standing(plan), *budget.notes(plan)]:
        typer.echo(f"note: {note}")
    for criterion in loaded.study.criteria:
        typer.echo(f"criterion: {criteria.text(criterion)}")
    for doubt in criteria.check(plan):
        typer.echo(f"warning: {doubt}")
    budget.refuse(plan)
