"""Fixtures that many test files share."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a background job's children would inherit a deaf ear
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smollm2():
    """The real SmolLM2-135M-Instruct, float32 on the CPU, loaded once for all tests."""
    import gnomon

    return gnomon.load_model("smollm2-135m", device="cpu", check=False)
