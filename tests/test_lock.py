"""One run a study: refused by name, a dead owner's lock taken over by exactly one, on local and on network disks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gnomon import lock, mounts
from gnomon.errors import UserError
from gnomon.lock import OWNER, Lock, study_lock

ROOT = Path(__file__).parent.parent


def note(folder: Path, age: float = 0.0, **changes: Any) -> Path:
    """An owner's file as another run would have left it, last touched `age` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / OWNER
    path.write_text(json.dumps(lock._me("f" * 32) | changes))
    touched = time.time() - age
    os.utime(path, (touched, touched))
    return path


def owner(folder: Path) -> dict[str, Any]:
    return json.loads((folder / OWNER).read_text())


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught, study_lock(folder):
        pass
    return str(caught.value)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch):
    """A disk that other hosts write to."""
    monkeypatch.setattr(lock, "network", lambda path: True)


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    def none(*_: object) -> None:
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ---------------------------------------------------------------- refused by name


def test_a_second_run_is_refused_by_name_and_a_later_one_is_not(tmp_path: Path):
    with study_lock(tmp_path / "study"):
        said = refused(tmp_path / "study")
        assert f"is being written by host {socket.gethostname()}, pid {os.getpid()}, since" in said
        assert "one run a study" in said
        assert refused(tmp_path / "study") == said, "a refused start must not harm the lock"
        heard: list[str] = []
        thread = threading.Thread(target=lambda: heard.append(refused(tmp_path / "study")))
        thread.start()
        thread.join()
        assert heard == [said]
    assert not (tmp_path / "study" / OWNER).exists()
    with study_lock(tmp_path / "study") as held:
        assert held.taken_from == ""
    assert sorted(p.name for p in (tmp_path / "study").iterdir()) == [".lock"]


def test_without_flock_the_owners_file_decides(tmp_path: Path, no_flock: None, dead_pid: int):
    with study_lock(tmp_path):
        assert f"pid {os.getpid()}" in refused(tmp_path)
    assert not (tmp_path / OWNER).exists()
    note(tmp_path, pid=dead_pid)
    with study_lock(tmp_path) as held:
        assert owner(tmp_path)["pid"] == os.getpid()
        assert f"pid {dead_pid}" in held.taken_from


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert f"cannot write {tmp_path / 'file'}" in refused(tmp_path / "file")


# ---------------------------------------------------------------- who is dead


def test_a_reused_pid_is_not_taken_for_its_owner(tmp_path: Path, away: None):
    note(tmp_path, started=1)  # this very process, but begun at another time
    with study_lock(tmp_path):
        pass
    note(tmp_path)
    assert f"pid {os.getpid()}" in refused(tmp_path)


def test_a_zombie_is_dead(tmp_path: Path, away: None):
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while lock._process(process.pid)[0]:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, 0)  # it is there still: nobody has waited for it
    note(tmp_path, pid=process.pid)
    with study_lock(tmp_path):
        pass
    process.wait()


@pytest.mark.parametrize("who", [
    {"host": "elsewhere", "boot": "x"}, {"boot": "x"}, {"namespace": "pid:[1]"}, {"host": "elsewhere"},
])  # fmt: skip
def test_one_that_cannot_be_asked_after_is_dead_after_minutes_of_silence(tmp_path: Path, away: None, who: Any):
    note(tmp_path, lock.SILENCE - 60, **{"pid": 1, **who})
    said = refused(tmp_path)
    assert f"host {who.get('host', socket.gethostname())}, pid 1" in said
    if "boot" in who:
        assert "last sign of life 240 s ago" in said or "last sign of life 241 s ago" in said
        assert f"or delete {tmp_path / OWNER}" in said
    note(tmp_path, lock.SILENCE + 60, **{"pid": 1, **who})
    with study_lock(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()


def test_on_a_local_disk_a_free_flock_proves_that_the_owner_is_gone(tmp_path: Path):
    for who in ({"namespace": "pid:[1]"}, {"host": "container-7"}, {"boot": "before the restart"}):
        note(tmp_path, 0, **who)
        with study_lock(tmp_path):
            pass
    note(tmp_path, host="elsewhere", boot="x")  # another kernel, whose flock this one may not see
    assert "host elsewhere" in refused(tmp_path)
    (tmp_path / OWNER).write_text("not ours")
    with study_lock(tmp_path):
        pass


def test_a_file_that_says_nothing_is_waited_for_on_a_network_disk(tmp_path: Path, away: None):
    path = note(tmp_path)
    path.write_text("")
    assert f"delete {path}" in refused(tmp_path)
    os.utime(path, (1, 1))
    with study_lock(tmp_path):
        pass


def test_a_network_disk_that_keeps_a_dead_hosts_flock_is_taken_over_all_the_same(tmp_path: Path, away: None):
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        note(tmp_path, age=10, host="elsewhere", boot="x")
        assert "host elsewhere" in refused(tmp_path)
        note(tmp_path, age=lock.SILENCE + 1, host="elsewhere", boot="x")
        with study_lock(tmp_path) as held:
            assert "host elsewhere" in held.taken_from


def test_the_age_is_by_the_disks_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = note(tmp_path, age=100)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a host whose clock is wrong
    assert 99 < lock.silence(path) < 102


def test_file_systems_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert mounts.file_system(tmp_path)
    table = f"a / ext4 rw\nb {tmp_path}/with\\040space nfs4 rw\nc {tmp_path}/x fuse.sshfs rw\nd {tmp_path}/x/y xfs rw\n"
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: table if str(self) == "/proc/mounts" else real(self))
    assert mounts.file_system(tmp_path / "with space" / "s") == "nfs4"
    assert [mounts.network(tmp_path / p) for p in ("with space", "x/s", "x/y/s", "z")] == [True, True, False, False]


# ---------------------------------------------------------------- signs of life


def test_the_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with study_lock(tmp_path):
        os.utime(tmp_path / OWNER, (1, 1))
        until = time.monotonic() + 10
        while (tmp_path / OWNER).stat().st_mtime < 2:
            assert time.monotonic() < until, "no beat"
            time.sleep(0.01)


def test_a_run_that_was_taken_over_stops_and_leaves_the_other_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)

    def work() -> None:
        with study_lock(tmp_path):
            note(tmp_path, host="elsewhere", pid=7, token="e" * 32)
            time.sleep(10)

    with pytest.raises(UserError, match="was taken over by host elsewhere, pid 7"):
        work()
    assert owner(tmp_path)["host"] == "elsewhere"


def test_a_commit_is_refused_at_once_after_a_takeover_that_no_beat_has_seen(tmp_path: Path):
    with study_lock(tmp_path) as held:
        held.check()
        note(tmp_path, host="elsewhere", pid=7, token="e" * 32)  # while this process was stopped
        with pytest.raises(UserError, match="was taken over by host elsewhere, pid 7"):
            held.check()
    assert owner(tmp_path)["host"] == "elsewhere"


def test_an_owners_file_that_went_is_put_back_and_not_after_the_release(tmp_path: Path):
    with study_lock(tmp_path) as held:
        (tmp_path / OWNER).unlink()
        held.check()
        assert owner(tmp_path)["token"] == held.token
    held._look()
    assert not (tmp_path / OWNER).exists()


def test_a_lock_that_fails_to_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(RuntimeError), study_lock(tmp_path):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock"]


def test_a_process_that_proc_hides_is_not_dead(monkeypatch: pytest.MonkeyPatch, dead_pid: int):
    """hidepid: another user's process has no folder in /proc, and signals to it are refused."""

    def kill(pid: int, number: int) -> None:
        raise ProcessLookupError if pid == dead_pid else PermissionError

    real = Path.read_text

    def hidden(self: Path, *a: Any, **k: Any) -> str:
        if self.name == "stat" and self.parent.name != "self":
            raise FileNotFoundError
        return real(self, *a, **k)

    monkeypatch.setattr(Path, "read_text", hidden)
    monkeypatch.setattr(os, "kill", kill)
    assert lock._process(os.getppid()) == (True, 0)
    assert lock._process(dead_pid) == (False, 0)


def test_a_disk_that_says_of_our_own_link_that_it_is_there_does_not_refuse_us(tmp_path: Path, monkeypatch):
    real = os.link

    def twice(*arguments: Any) -> None:  # the first answer was lost, and the request sent again
        real(*arguments)
        raise FileExistsError

    monkeypatch.setattr(os, "link", twice)
    with study_lock(tmp_path) as held:
        assert owner(tmp_path)["token"] == held.token


# ---------------------------------------------------------------- two takers at once

RACE = """
import sys, time, os
from pathlib import Path
from gnomon import lock
from gnomon.errors import UserError
import fcntl
if sys.argv[2] == "network":
    lock.network = lambda path: True
    fcntl.flock = lambda *a: None   # each believes that it has it: another host each
folder, rounds, takers = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
children, held = [], []
done, end = os.pipe(), os.pipe()
for number in range(takers):
    pid = os.fork()
    if pid == 0:
        os.close(end[1])
        for i in range(rounds):
            study = folder / str(i)
            while time.time() < float(sys.argv[5]) + 0.03 * i:
                time.sleep(0.0003)
            mine = lock.Lock(study)
            try:
                mine.acquire()
            except UserError as error:
                (study / f"refused-{number}").write_text(str(error))
                continue
            (study / f"won-{number}").write_text(mine.taken_from)
            held.append(mine)
        os.write(done[1], b"x")
        os.read(end[0], 1)  # a process that ends lets others take over, and rightly so
        os._exit(0)
    children.append(pid)
for _ in range(takers):
    os.read(done[0], 1)
os.close(end[1])
codes = [os.waitpid(pid, 0)[1] for pid in children]
sys.exit(max(codes))
"""


@pytest.mark.parametrize("kind", ["network", "local"])
def test_of_many_takers_at_once_exactly_one_wins(tmp_path: Path, kind: str):
    rounds, takers = 10, 4
    for i in range(rounds):
        note(tmp_path / str(i), age=lock.SILENCE + 1, host="elsewhere", boot="x")
    arguments = [str(tmp_path), kind, str(rounds), str(takers), str(time.time() + 0.8)]
    done = subprocess.run([sys.executable, "-c", RACE, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for i in range(rounds):
        names = sorted(p.name for p in (tmp_path / str(i)).iterdir() if p.name.startswith(("won", "refused")))
        assert len(names) == takers, names
        assert sum(name.startswith("won") for name in names) == 1, names
        assert not list((tmp_path / str(i)).glob(".lock.dead-*"))
    assert any("pid" in p.read_text() for p in tmp_path.glob("*/refused-*"))


def test_a_taker_that_died_while_burying_does_not_block_the_next(tmp_path: Path, away: None, dead_pid: int):
    note(tmp_path, pid=dead_pid, token="a" * 32)
    burial = tmp_path / f"{lock.BURIAL}{'a' * 32}"
    burial.write_text(json.dumps(lock._me("b" * 32) | {"pid": dead_pid}))
    with study_lock(tmp_path):
        assert owner(tmp_path)["pid"] == os.getpid()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock"]
    note(tmp_path, pid=dead_pid, token="a" * 32)
    burial.write_text(json.dumps(lock._me("b" * 32)))  # one that lives
    assert f"pid {os.getpid()}" in refused(tmp_path)


def test_a_slow_taker_does_not_remove_the_lock_of_a_quick_one(tmp_path: Path, away: None, dead_pid: int, monkeypatch):
    note(tmp_path, pid=dead_pid)
    quick, real = Lock(tmp_path), lock._dead
    judged: list[bool] = []

    def slowly(*arguments: Any) -> bool:
        if judged:
            return real(*arguments)
        judged.append(real(*arguments))
        monkeypatch.setattr(fcntl, "flock", lambda *a: None)
        quick.acquire()  # between the slow one's look and its deed
        return judged[0]

    monkeypatch.setattr(lock, "_dead", slowly)
    assert f"pid {os.getpid()}" in refused(tmp_path)
    assert judged == [True]
    assert owner(tmp_path)["token"] == quick.token
    assert not list(tmp_path.glob(".lock.dead-*"))
    quick.release()
