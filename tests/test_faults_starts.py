"""Twenty double starts of one study: exactly one run goes on, the other is refused by the name of the first."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from gnomon.store import Study
from tests.faults_life import Ordeal, reference, refused, same
from tests.faults_study import cut

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("turn", range(4))
def test_two_starts_at_once(tmp_path: Path, workers: int, turn: int):
    """Of an empty folder, and of one that a killed run left."""
    content, whole, _ = reference()
    ordeal = Ordeal(tmp_path / "a", cut(content, "capture") | {"executor": {"local": {"workers": workers}}})
    if turn % 2:
        dead = ordeal.start()
        assert dead.wait("generate", 3)
        assert ordeal.killed(dead, signal.SIGKILL)
    won, _ = refused(ordeal.start(), ordeal.start())
    assert won.end() == 0, won.text()
    ordeal.look(won)
    ordeal.finish(whole)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("step", "shards"), [("generate", 0), ("generate", 4), ("capture", 2)])
def test_a_start_while_a_run_works(tmp_path: Path, workers: int, step: str, shards: int):
    content, whole, _ = reference()
    ordeal = Ordeal(tmp_path / "a", cut(content, "capture") | {"executor": {"local": {"workers": workers}}})
    first = ordeal.start()
    assert first.wait(step, shards)
    won, lost = refused(first, ordeal.start())
    assert won is first
    assert "begin" in lost.journal.read_text()
    assert '"step"' not in lost.journal.read_text(), "the refused run began a step"
    assert first.end() == 0, first.text()
    ordeal.look(first)
    ordeal.proved(whole)


@pytest.mark.parametrize("turn", range(4))
def test_a_start_while_a_run_is_stopped_and_again_when_it_is_dead(tmp_path: Path, turn: int):
    """A run that hangs (SIGSTOP) keeps its study; once it is killed, two takers at once: one gets it."""
    content, whole, _ = reference()
    ordeal = Ordeal(tmp_path / "a", cut(content, "capture"))
    first = ordeal.start()
    assert first.wait("generate", random.Random(turn).randint(1, 8))
    os.kill(first.process.pid, signal.SIGSTOP)
    second = ordeal.start()
    assert second.end() == 2, second.text()
    assert f"pid {first.process.pid}" in second.text()
    assert ordeal.killed(first, signal.SIGKILL)
    won, _ = refused(ordeal.start(), ordeal.start())
    assert won.end() == 0, won.text()
    ordeal.look(won)
    ordeal.finish(whole)


def test_studies_beside_each_other_do_not_meet(tmp_path: Path):
    content, whole, _ = reference()
    both = [Ordeal(tmp_path / name, cut(content, "generate")) for name in "ab"]
    lives = [ordeal.start() for ordeal in both]
    assert [life.end() for life in lives] == [0, 0]
    for ordeal in both:
        same(Study(ordeal.out)["generate"], whole["generate"])
