"""Fixtures that many test files share."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: a process a core, each with one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a background job's children would inherit a deaf ear
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2():
    """The real SmolLM2-135M-Instruct, float32 on the CPU, loaded once for all tests."""
    import gnomon

    return gnomon.load_model("smollm2-135m", device="cpu", check=False)


collect_ignore = [] if find_spec("ray") else ["test_executors_ray.py"]
"""An extra that need not be there; `make test-ray` installs it."""

LONGEST = (
    "test_second_family", "test_study", "test_sandbox_hostile", "test_probing", "test_faults_short",
    "test_steps_second_order",
)  # fmt: skip
"""Files of tests that take longest begin first, so that no process ends with one alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the order within a file, and of the others, stays."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the long fault tests did to studies, in all."""
    kills, signals, redone = Counter[str](), Counter[str](), 0
    for report in terminalreporter.getreports(""):  # a test's record is complete when it is torn down
        for name, value in report.user_properties:
            if name == "faults" and report.when == "teardown":
                record = json.loads(value)
                kills.update(record["kills"])
                signals.update(record["signals"])
                redone += record["redone"]
    if kills:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{sum(kills.values())} kills, {redone} shards begun once more")
        for counts in (kills, signals):
            terminalreporter.write_line("  ".join(f"{name} {n}" for name, n in counts.most_common()))
