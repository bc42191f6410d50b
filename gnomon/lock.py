"""One run a study, on local and on network disks.

Two locks, for neither is enough everywhere. `flock` on `.lock` is the kernel's: it goes with its process, and on a
local disk it decides. Network disks keep it to one host, or have none; so a file `.lock.owner` says who works here
(host, boot, pid, its start time) and is touched every BEAT seconds. An owner of this host is asked after by its pid and
start time; one of another host counts as dead after SILENCE seconds without a touch, by the disk's own clock.

A dead owner's file is removed by whoever makes `.lock.dead-TOKEN` first: each owner has a token of its own, which names
its burial, so that of any number of takers one removes it, and none can remove a file that it did not find dead.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gnomon.disk import disk_error
from gnomon.errors import UserError
from gnomon.mounts import network

BEAT, SILENCE = 30.0, 300.0
"""Seconds between two signs of life, and without one until an owner elsewhere counts as dead."""
PATIENCE = 3.0
"""Seconds that a lock is tried for while its owner seems to be gone, or has not said yet who it is."""
OWNER, BURIAL = ".lock.owner", ".lock.dead-"


class Lock:
    """A study that this process has for itself, until `release`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token, self.lost = folder, uuid.uuid4().hex, ""
        self.taken_from = ""
        """Who left the lock behind, in words; "" where nobody did."""
        self._file: IO[str] | None = None
        self._burials: list[Path] = []
        self._stop, self._noting = threading.Event(), threading.Lock()

    def acquire(self) -> None:
        """Take it, or raise the UserError that names who has it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.folder / ".lock", "a+")  # noqa: SIM115 - held for the run's length
            held = self._flock(self._file)
            self._claim(self.folder / OWNER, held and not network(self.folder))
            for old in self.folder.glob(f"{BURIAL}*"):
                old.unlink(missing_ok=True)
            threading.Thread(target=self._beat, name="gnomon-lock", daemon=True).start()
        except OSError as error:
            self._give_up()
            raise disk_error(Path(error.filename or self.folder), error) from error
        except BaseException:
            self._give_up()
            raise

    def release(self) -> None:
        """Give it back; right also where another run has taken it meanwhile."""
        self._stop.set()
        try:
            with self._noting:  # no beat may bring the file back
                if _read(self.folder / OWNER).get("token") == self.token:
                    (self.folder / OWNER).unlink(missing_ok=True)
        except OSError:
            pass  # the disk is away: the next run finds this one's process gone
        finally:
            if self._file is not None:
                self._file.close()

    def check(self) -> None:
        """UserError where another run has taken the lock, since this one gave no sign of life for minutes.

        Looks at the disk: a process that was stopped, or whose host slept, has not beaten yet when it goes on.
        """
        if self._file is not None and not self._file.closed:
            self._look()
        if self.lost:
            raise UserError(
                f"{self.folder} was taken over by {self.lost} while this run stood still",
                "one run a study at a time",
                "let that run finish; what this one finished is kept",
            )

    def _give_up(self) -> None:
        for burial in self._burials:
            with suppress(OSError):
                burial.unlink(missing_ok=True)
        self.release()

    def _flock(self, file: IO[str]) -> bool:
        """Take flock: True where it is held, False where the disk has none or a dead owner of another host keeps it."""
        import fcntl

        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    return False
            owner = self.folder / OWNER
            gone = owner.exists() and _dead(owner, _read(owner), False)
            if gone and network(self.folder):
                return False
            if (owner.exists() and not gone) or time.monotonic() > until:
                raise _refusal(self.folder, owner)
            time.sleep(0.05)  # it is being taken this moment, or a child of a dead owner has still to end

    def _claim(self, note: Path, proven: bool) -> None:
        """Make `note` ours. `proven`: whoever made it is dead if it is of this boot, for its flock is gone."""
        while not _make(note, _me(self.token)):
            owner = _read(note)
            if not note.exists():
                continue
            if not _dead(note, owner, proven):
                raise _refusal(self.folder, note)
            burial = note.with_name(BURIAL + (owner.get("token") or _nameless(note)))
            self._claim(burial, proven)
            self._burials.append(burial)
            if _read(note) == owner:  # still the one that was found dead: nobody but us may remove it now
                self.taken_from = _words(owner) if note.name == OWNER else self.taken_from
                note.unlink(missing_ok=True)

    def _look(self) -> None:
        """Touch the owner's file, or put it back where it has gone; note who has it where that is another."""
        note = self.folder / OWNER
        with self._noting:
            if self._stop.is_set() or self.lost:
                return
            owner = _read(note)
            with suppress(OSError):  # the disk is full or away for a while: the next time may pass
                if owner.get("token") == self.token:
                    os.utime(note)
                elif owner:
                    self.lost = _words(owner)
                elif not note.exists():  # deleted by hand, or by a taker that stood still in the middle
                    _make(note, _me(self.token))

    def _beat(self) -> None:
        """Give signs of life until released; stop the run where another has taken it."""
        while not self._stop.wait(BEAT):
            self._look()
            if self.lost:
                os.kill(os.getpid(), signal.SIGINT)  # it also ends a wait of the main thread
                return


@contextmanager
def study_lock(path: Path) -> Iterator[Lock]:
    """One writer a study: within, nobody else's run writes to it; a second run is refused by host, pid and time."""
    lock = Lock(Path(path))
    lock.acquire()
    try:
        yield lock
    except KeyboardInterrupt:
        lock.check()
        raise
    finally:
        lock.release()


def _me(token: str) -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _process(pid)[1],
        "namespace": _namespace(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": token,
    }  # fmt: skip


def _make(note: Path, content: dict[str, Any]) -> bool:
    """Create a file with its content in one stroke; False where one of that name is there, and another's."""
    temporary = note.with_name(f".{note.name}.{content['token']}.tmp")
    try:
        temporary.write_text(json.dumps(content))
        try:
            os.link(temporary, note)
        except FileExistsError:  # it may be our own: a network disk can say so of a link that it made when asked twice
            return _read(note).get("token") == content["token"]
        except OSError:  # a disk without hard links
            try:
                descriptor = os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            with os.fdopen(descriptor, "w") as file:
                file.write(json.dumps(content))
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _read(note: Path) -> dict[str, Any]:
    """What an owner's file says; {} where there is none, or it does not say it."""
    try:
        value = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _nameless(note: Path) -> str:
    """A name for a file that has no token: no two files in a row have it."""
    try:
        about = note.stat()
    except OSError:
        return "gone"
    return f"{about.st_ino}-{about.st_mtime_ns}"


def _dead(note: Path, owner: dict[str, Any], proven: bool) -> bool:
    """Whether the run that made an owner's file is gone.

    `proven`: its flock is, on a disk of this host; that decides about every run of this boot, and of earlier boots.
    """
    same_host, same_boot = owner.get("host") == socket.gethostname(), owner.get("boot") == _boot()
    if proven and (same_boot or same_host or not owner):
        return True
    if same_host and same_boot and owner.get("namespace") == _namespace():
        pid = owner.get("pid")
        if not isinstance(pid, int):
            return False
        alive, started = _process(pid)
        return not alive or bool(owner.get("started") and started and owner["started"] != started)
    return silence(note) > SILENCE


def silence(note: Path) -> float:
    """Seconds since a file was touched, by the clock of the disk that it is on (hosts' clocks differ)."""
    probe = note.with_name(f".{note.name}.{uuid.uuid4().hex}.tmp")
    try:
        probe.touch()
        with open(note) as file:  # opening asks a network disk anew, where stat may answer from a cache
            return probe.stat().st_mtime - os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _refusal(folder: Path, note: Path) -> UserError:
    owner = _read(note)
    do = "wait for it, or choose another --out"
    words = _words(owner)
    if owner and (owner.get("host"), owner.get("boot")) != (socket.gethostname(), _boot()):
        words += f", last sign of life {max(0, silence(note)):.0f} s ago"
        do += f"; it is taken over {SILENCE / 60:.0f} minutes after its last sign, or delete {note} if it is gone"
    elif not owner and note.exists():
        do += f", or delete {note} if that run is gone"
    return UserError(f"{folder} is being written by {words}", "one run a study at a time", do)


def _words(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run"
    return f"host {owner.get('host')}, pid {owner.get('pid')}, since {owner.get('since')}"


def _process(pid: int) -> tuple[bool, int]:
    """Whether a process lives, and when it began (ticks since the boot; 0 where the system does not tell)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] not in ("Z", "X"), int(fields[19])
    except (OSError, ValueError, IndexError):
        pass  # where /proc hides other users' processes (hidepid), it has none of theirs either
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False, 0
    except OSError:
        return True, 0
    return True, 0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    """The pid name space: a pid of another one says nothing here."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
