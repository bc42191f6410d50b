"""A study that is killed again and again: start it, strike, look what stands, go on; and what must be true at the end.

At each look: a finished shard (its marker and its files) is never touched again, and no run began more than one shard
a worker that it did not finish. At the end: the files of an uninterrupted run, byte for byte, and nothing beside them.
"""

from __future__ import annotations

import functools
import json
import multiprocessing as mp
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.store import Artifact, Study
from tests.faults_study import STEPS, cut, study
from tests.stepping import data_files
from tests.tiny import tiny_folder

ROOT = Path(__file__).parent.parent
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
LONG = 120.0


@functools.cache
def server() -> Any:
    """Forked children of a process that has loaded everything once."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.faults_child"])
    return context


@dataclass
class Life:
    """One run of the study."""

    process: Any
    journal: Path
    said: Path

    def events(self) -> list[dict[str, Any]]:
        """What it began so far."""
        if not self.journal.is_file():
            return []
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    def end(self, seconds: float = LONG) -> int:
        """Its exit code, when it has ended; a run that hangs is a failure."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"a run did not end in {seconds:.0f} s\n{self.text()}")
        return self.process.exitcode

    def wait(self, step: str, shards: int = 0) -> bool:
        """Wait until it has begun `step` (and so many shards of it); False where it ended without."""
        until = time.monotonic() + LONG
        while time.monotonic() < until:
            events = self.events()
            begun = any(e["event"] == "step" and e["step"] == step for e in events)
            if begun and sum(e["event"] == "shard" and e["step"] == step for e in events) >= shards:
                return True
            if self.process.exitcode is not None:
                return False
            time.sleep(0.002)
        raise AssertionError(f"{step} was not begun\n{self.text()}")

    def at(self) -> str:
        """The step it was in when it ended: `NAME`, `NAME's commit`, or what lies before and after the steps."""
        name = "plan"
        for event in self.events():
            if event["event"] == "step":
                name = event["step"]
            elif event["event"] == "commit":
                name = f"{event['step']}'s commit"
        return name

    def text(self) -> str:
        return self.said.read_text() if self.said.is_file() else ""


@dataclass
class Tally:
    """What was done to studies, and what it cost."""

    kills: Counter[str] = field(default_factory=Counter)
    """By where the run was."""
    signals: Counter[str] = field(default_factory=Counter)
    redone: int = 0
    """Shards that were begun once more."""
    runs: int = 0

    def total(self) -> int:
        return sum(self.kills.values())

    def record(self) -> dict[str, Any]:
        """For the summary at the end of the session."""
        return {"kills": dict(self.kills), "signals": dict(self.signals), "redone": self.redone, "runs": self.runs}


class Ordeal:
    """One study folder and every run of it."""

    def __init__(self, root: Path, content: dict[str, Any], tally: Tally | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.out, self.content, self.tally = root, root / "out", content, tally or Tally()
        self.file = root / "study.yaml"
        self.file.write_text(json.dumps(content))
        self.workers = int(content["executor"]["local"]["workers"])
        self.stamps: dict[str, tuple[int, int]] = {}
        self.done: set[tuple[str, str]] = set()
        self.begun: Counter[tuple[str, int]] = Counter()
        self.lives = 0

    def start(self, strike: Any = None, count: bool = False, report: bool = False, **options: Any) -> Life:
        """Begin a run in a forked process."""
        from tests.faults_child import Orders, live

        self.lives += 1
        self.tally.runs += 1
        journal, said = self.root / f"{self.lives}.journal", self.root / f"{self.lives}.said"
        orders = Orders(
            str(self.file), str(self.out), str(journal), str(said), tuple(options.items()), strike, report, count
        )
        process = server().Process(target=live, args=(orders,))
        process.start()
        return Life(process, journal, said)

    def killed(self, life: Life, number: signal.Signals) -> bool:
        """Send a signal and wait for the end; False where the run was over before. Then look."""
        if life.process.exitcode is None:
            os.kill(life.process.pid, number)
        code = life.end()
        wanted = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 130}[number]
        assert code in (wanted, 0), f"exit code {code} of {number.name}\n{life.text()}"
        self.look(life)
        if code == 0:
            return False
        self.tally.kills[life.at()] += 1
        self.tally.signals[number.name] += 1
        return True

    def struck(self, life: Life) -> bool:
        """Wait for a run that kills itself at a call; False where it never came to that call."""
        code = life.end()
        assert code in (-9, 0), f"exit code {code}\n{life.text()}"
        self.look(life)
        if code == 0:
            return False
        self.tally.kills[life.at()] += 1
        self.tally.signals["SIGKILL at a call"] += 1
        return True

    def look(self, life: Life) -> None:
        """What stood before stands as it was; one shard a worker at most was begun in vain."""
        before, self.done = self.done, set()
        for name in STEPS:
            home = self.out / name if (self.out / name / "meta.json").is_file() else self.out / f".{name}.partial"
            if home.name == name:
                self._unchanged(name, home / "meta.json")
            for marker in sorted((home / "_done").glob("[0-9]*.json")):
                self.done.add((name, marker.stem))
                self._unchanged(f"{name} {marker.stem}", marker)
                for file, record in json.loads(marker.read_text())["files"].items():
                    assert (home / file).stat().st_size == record["bytes"]
                    self._unchanged(f"{name} {file}", home / file)
        assert before <= self.done, f"finished shards are gone: {sorted(before - self.done)[:5]}\n{life.text()}"
        begun = Counter((e["step"], e["index"]) for e in life.events() if e["event"] == "shard")
        again = [key for key in begun if (key[0], f"{key[1]:05d}") in before]
        assert not again, f"finished shards were begun again: {again[:5]}"
        assert max(begun.values(), default=1) == 1
        vain = [key for key in begun if (key[0], f"{key[1]:05d}") not in self.done]
        assert len(vain) <= self.workers, f"{len(vain)} shards were begun in vain: {vain[:5]}"
        self.begun.update(begun)

    def _unchanged(self, what: str, path: Path) -> None:
        about = path.stat()
        now = about.st_mtime_ns, about.st_size
        assert self.stamps.setdefault(what, now) == now, f"{path} was written again"

    def finish(self, whole: Study) -> None:
        """The last run, unhindered; then everything is as in a study that nobody touched."""
        life = self.start()
        assert life.end() == 0, life.text()
        self.look(life)
        self.proved(whole)

    def proved(self, whole: Study) -> None:
        """The same rows and bytes as the uninterrupted run, and nothing left over."""
        study = Study(self.out)
        for entry in self.content["steps"]:
            name = next(key for key in entry if key in STEPS)
            same(study[name], whole[name])
        assert study.verify() == []
        assert study.run["status"] == "finished"
        assert leftovers(self.out) == []
        self.tally.redone += sum(self.begun.values()) - len(self.begun)


def same(mine: Artifact, whole: Artifact) -> None:
    """Equal bytes of every table and array; every row once."""
    here, there = data_files(mine), data_files(whole)
    assert sorted(here) == sorted(there), f"{mine.name}: {sorted(set(here) ^ set(there))[:5]}"
    differ = [name for name in here if here[name] != there[name]]
    assert not differ, f"{mine.name}: {differ[:5]}"
    if "generations" in mine.tables():
        assert sorted(mine.table("generations")["row"]) == list(range(len(whole.table("generations"))))


def leftovers(out: Path) -> list[str]:
    """Files that no finished study has."""
    found = [*out.rglob("*.tmp"), *out.glob(".*.partial"), *out.glob(".old/*")]
    return sorted(str(path.relative_to(out)) for path in found)


def prepared(root: Path, whole: Study, content: dict[str, Any], last: str, tally: Tally | None = None) -> Ordeal:
    """An ordeal whose steps before `last` are there already: what is killed is `last`."""
    ordeal = Ordeal(root, cut(content, last), tally)
    ordeal.out.mkdir()
    for name in STEPS[: STEPS.index(last)]:
        shutil.copytree(whole.path / name, ordeal.out / name)
    shutil.copy(whole.path / "run.json", ordeal.out / "run.json")
    return ordeal


@functools.cache
def reference(rows: int = 120) -> tuple[dict[str, Any], Study, dict[str, float]]:
    """The study, an uninterrupted run of it, and how long each step took."""
    root = Path(tempfile.mkdtemp(prefix="gnomon-faults-", dir=tiny_folder("llama").parent))
    content = study(str(tiny_folder("llama")), rows)
    ordeal = Ordeal(root, content)
    life = ordeal.start()
    assert life.end() == 0, life.text()
    whole = Study(ordeal.out)
    return content, whole, {name: float(whole[name].meta["seconds"]) for name in STEPS}


def random_kills(ordeal: Ordeal, step: str, seconds: float, draw: random.Random, most: int) -> int:
    """Kill runs of `step` at random moments, until it is finished or `most` kills were done; returns the kills.

    A step in shards dies a little after it began its first to fourth one, so that a study is killed many times.
    """
    kills, every = 0, len(list((reference()[1].path / step / "_done").glob("[0-9]*.json")))
    while kills < most:
        life = ordeal.start()
        if not life.wait(step, draw.randint(0, 3) if every else 0):
            assert life.end() == 0, life.text()
            ordeal.look(life)
            break
        time.sleep(draw.uniform(0, 2 * seconds / every if every else seconds))
        if not ordeal.killed(life, draw.choice(SIGNALS)):
            break
        kills += 1
    return kills


def refused(first: Life, second: Life) -> tuple[Life, Life]:
    """(the run that goes on, the one that was refused), once one was; the message names host and process."""
    import time

    until = time.monotonic() + 60
    while time.monotonic() < until:
        for lost, won in ((first, second), (second, first)):
            if lost.process.exitcode == 2:
                assert f"is being written by host {socket.gethostname()}, pid {won.process.pid}, since" in lost.text()
                return won, lost
            assert lost.process.exitcode in (None, 0), lost.text()
        time.sleep(0.01)
    raise AssertionError(f"neither was refused\n{first.text()}\n{second.text()}")
