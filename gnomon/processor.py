"""The processor: its name and the instruction set that decides floating point; for executors too."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "fma", "asimd", "sve", "bf16")


@cache
def cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; {} where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def processor() -> str:
    """The processor's name."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """The architecture, then those of INSTRUCTIONS that the processor has."""
    flags = set((cpuinfo().get("flags") or cpuinfo().get("Features") or "").split())
    return [platform.machine(), *(name for name in INSTRUCTIONS if name in flags)]
