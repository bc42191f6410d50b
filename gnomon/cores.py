"""What of this machine a process may use: physical cores and memory, a container's limits counted."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def physical_cores() -> int:
    """Physical cores that this process may use (hyperthreads share one; a container's share counts)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    siblings = set()
    for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list"):
        try:
            siblings.add(path.read_text())
        except OSError:
            continue
    cores = min(allowed, len(siblings) or allowed)
    with suppress(OSError, ValueError):  # no such file, or "max": no container limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return max(1, cores)


def peak_memory_bytes() -> int:
    """The most memory that this process has had since it began, or since the peak was reset (see `machine`)."""
    import resource

    with suppress(OSError, StopIteration, ValueError):  # not Linux
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_bytes() -> int:
    """Memory that a process can have here: physical, or the container's limit; 0 where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    with suppress(OSError, ValueError):  # no such file, or "max": no container limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total
