"""A few of the kills, double starts and failing calls that tests/test_faults_*.py do by the hundred."""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gnomon.report.html
from gnomon.console import Screen
from gnomon.errors import UserError
from gnomon.run import run_study
from gnomon.store import Study
from tests.faults_calls import Strike, striking
from tests.faults_life import Ordeal, Tally, prepared, random_kills, reference, refused
from tests.faults_study import cut
from tests.test_run import BASIC


@pytest.mark.parametrize(("step", "kills"), [("generate", 2), ("patch_features", 3)])
def test_killed_at_random_moments_a_study_ends_as_one_that_was_not(tmp_path: Path, step: str, kills: int):
    content, whole, seconds = reference()
    ordeal = prepared(tmp_path / "a", whole, content, step, Tally())
    random_kills(ordeal, step, seconds[step], random.Random(f"short {step}"), kills)
    ordeal.finish(whole)
    assert ordeal.tally.total() > 0
    assert ordeal.tally.redone <= ordeal.tally.total()


def test_of_two_starts_one_goes_on_and_a_dead_runs_study_is_taken_over_once(tmp_path: Path):
    content, whole, _ = reference()
    ordeal = Ordeal(tmp_path / "a", cut(content, "generate"))
    first, _ = refused(ordeal.start(), ordeal.start())
    assert first.wait("generate", 2)
    assert ordeal.killed(first, signal.SIGKILL)
    won, _ = refused(ordeal.start(), ordeal.start())
    assert won.end() == 0, won.text()
    ordeal.look(won)
    ordeal.finish(whole)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """Runs a study of numbers without its report, with a strike or none."""
    monkeypatch.setattr(gnomon.report.html, "build_report", lambda folder: folder)

    def run(out: Path, strike: Strike | None = None, tell: Any = None) -> Study:
        with striking(out, strike, tell):
            return run_study(BASIC, out, screen=Screen(terminal=False), log_level="error")

    return run


@pytest.mark.parametrize(("number", "on"), [(errno.ENOSPC, True), (errno.EIO, False)], ids=["full", "io"])
def test_whichever_call_fails_is_a_users_error_and_the_next_run_ends_alike(
    tmp_path: Path, plain: Callable[..., Study], number: int, on: bool
):
    calls: list[dict[str, Any]] = []

    def tell(event: str, **call: Any) -> None:
        if os.path.basename(call["path"]) != "opened":  # the fake step's own file
            calls.append(call)

    files = {step.name: step.meta["files"] for step in plain(tmp_path / "whole", None, tell)}
    assert {call["call"] for call in calls} == {"replace", "fsync", "open"}
    for call in random.Random(number).sample(calls, 6):
        out = tmp_path / f"{call['call']}-{call['nth']}"
        with pytest.raises(UserError, match="cannot"):
            plain(out, Strike(call["call"], call["nth"], number, on=on))
        assert {step.name: step.meta["files"] for step in plain(out)} == files
