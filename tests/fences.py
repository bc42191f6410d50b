"""Which fence this machine can put up, for the tests that need one."""

from __future__ import annotations

from functools import cache

import pytest

from gnomon.errors import UserError
from gnomon.tasks.sandbox import Sandbox

BEST = "bwrap+kernel"


@cache
def level() -> str:
    """The best level here; "" where grading is refused (Linux before 5.13, another system)."""
    try:
        with Sandbox() as box:
            return box.level
    except UserError:
        return ""


needs_a_fence = pytest.mark.skipif(not level(), reason="this machine cannot fence programs (Linux 5.13 or later can)")
needs_bubblewrap = pytest.mark.skipif(level() != BEST, reason="bubblewrap (bwrap) is not installed, or not allowed")
