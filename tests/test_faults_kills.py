"""Hundreds of kills at random moments, at exact calls, of one process and of three: nothing is lost, doubled or redone.

`make test-faults` runs this and prints how many there were, and what they cost.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnomon.store import Study
from tests.faults_calls import Strike
from tests.faults_life import ROOT, SIGNALS, Life, Ordeal, Tally, prepared, random_kills, reference, same
from tests.faults_study import STEPS, cut

pytestmark = pytest.mark.faults
EACH = {"generate": 16, "capture": 16, "train_dictionary": 8, "features": 14, "patch_features": 14}
"""Random kills of a test; each step has two."""


@pytest.fixture
def tally(record_property: Callable[[str, object], None]):
    """What a test did goes into the session's summary."""
    made = Tally()
    yield made
    record_property("faults", json.dumps(made.record()))


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_killed_at_random_moments(tmp_path: Path, tally: Tally, step: str, half: int):
    content, whole, seconds = reference()
    draw, turn = random.Random(f"{step} {half}"), 0
    while tally.total() < EACH[step]:
        ordeal = prepared(tmp_path / str(turn), whole, content, step, tally)
        random_kills(ordeal, step, seconds[step], draw, EACH[step] - tally.total())
        ordeal.finish(whole)
        turn += 1
    _counted(tally)


def test_a_whole_study_killed_anywhere(tmp_path: Path, tally: Tally):
    """Also while it plans, between the steps, and while the report is built."""
    content, whole, seconds = reference()
    draw, turn = random.Random("anywhere"), 0
    while tally.total() < 20:
        ordeal = Ordeal(tmp_path / str(turn), content, tally)
        while tally.total() < 20:
            life = ordeal.start(report=True)
            time.sleep(draw.uniform(0, 0.5 + sum(seconds.values()) / 3))
            if not ordeal.killed(life, draw.choice(SIGNALS)):
                break
        ordeal.finish(whole)
        turn += 1
    _counted(tally)


@pytest.mark.parametrize("step", ["generate", "patch_features"])
def test_a_run_of_two_workers_killed_at_random_moments(tmp_path: Path, tally: Tally, step: str):
    content, whole, seconds = reference()
    content = content | {"executor": {"local": {"workers": 2}}}
    ordeal = prepared(tmp_path / "a", whole, content, step, tally)
    random_kills(ordeal, step, seconds[step], random.Random(f"two {step}"), 5)
    ordeal.finish(whole)
    assert tally.redone <= 2 * tally.total()


@pytest.mark.parametrize("step", STEPS)
def test_a_step_killed_at_the_calls_that_make_its_files(tmp_path: Path, tally: Tally, step: str):
    """Before and after renames of folders, and at a dozen other calls spread over the step."""
    content, whole, _ = reference()
    counted = prepared(tmp_path / "counted", whole, content, step)
    life = counted.start(count=True)
    assert life.end() == 0, life.text()
    events = life.events()
    begun = next(i for i, event in enumerate(events) if event["event"] == "step")
    calls = [event for event in events[begun:] if event["event"] == "call"]
    commit = [call for call in calls if call["call"] == "replace" and call["path"] == step]
    assert len(commit) == 1
    draw = random.Random(f"calls {step}")
    strikes = [_strike(commit[0], after=False), _strike(commit[0], after=True)]
    strikes += [_strike(call, after=draw.random() < 0.5) for call in draw.sample(calls, 10)]
    for i, strike in enumerate(strikes):
        ordeal = prepared(tmp_path / str(i), whole, content, step, tally)
        assert ordeal.struck(ordeal.start(strike))
        ordeal.finish(whole)
    _counted(tally)


def test_the_command_line_killed_at_random_moments(tmp_path: Path, tally: Tally):
    """Real processes of the command line, as a user starts them."""
    content, whole, seconds = reference()
    ordeal = Ordeal(tmp_path / "a", cut(content, "capture"), tally)
    draw = random.Random("command line")
    for _ in range(6):
        ordeal.lives += 1
        said = ordeal.root / f"{ordeal.lives}.said"
        life = Life(_Command(ordeal, said), ordeal.root / "none", said)
        _began(ordeal, life, draw.randint(0, 4))
        time.sleep(draw.uniform(0, seconds["generate"] / 5))
        if not ordeal.killed(life, draw.choice(SIGNALS)):
            break
    assert tally.total() >= 4
    ordeal.finish(whole)


class _Command:
    """`gnomon run` of its own, with the face of a multiprocessing process."""

    def __init__(self, ordeal: Ordeal, said: Path) -> None:
        with open(said, "w") as file:
            self.real = subprocess.Popen(
                [sys.executable, "-c", "from gnomon.cli import main; main()", "run", str(ordeal.file), "--out",
                 str(ordeal.out)], stdout=file, stderr=file, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self.pid = self.real.pid

    @property
    def exitcode(self) -> int | None:
        return self.real.poll()

    def join(self, seconds: float | None = None) -> None:
        try:
            self.real.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        self.real.kill()


def _began(ordeal: Ordeal, life: Life, more: int) -> None:
    """Wait until so many more shards are finished, or the run is over."""

    def count() -> int:
        return len(list(ordeal.out.glob("*/_done/0*.json"))) + len(list(ordeal.out.glob(".*/_done/0*.json")))

    first, until = count(), time.monotonic() + 120
    while count() < first + more or not (ordeal.out / ".lock").exists():
        if life.process.exitcode is not None:
            return
        assert time.monotonic() < until, life.text()
        time.sleep(0.005)


def _strike(call: dict[str, Any], after: bool) -> Strike:
    return Strike(call["call"], call["nth"], after=after)


def _counted(tally: Tally) -> None:
    """A kill costs the shard in hand at most."""
    assert tally.redone <= tally.total()


def test_what_is_compared_would_differ(tmp_path: Path):
    """The comparison at the end of every test sees another row, and another number."""
    content, whole, _ = reference()
    ordeal = Ordeal(tmp_path / "a", cut(content, "generate"))
    content = ordeal.content["steps"][0]["generate"]
    for change in ({"n": 112}, {"max_new_tokens": 5}):
        other = Ordeal(tmp_path / str(change), ordeal.content | {"steps": [{"generate": content | change}]})
        life = other.start()
        assert life.end() == 0, life.text()
        with pytest.raises(AssertionError):
            same(Study(other.out)["generate"], whole["generate"])
