"""What writing costs beside computing: one shard of every token of every block, checked, hashed and synced.

Ours: 48 prompts captured by the worker of `capture`; the same values then written as a shard, hashed, and read back
through an artifact. The goals are the project's own: disk must not be what one waits for.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import setting
from benchmarks.timing import Row, cpu_row, interleave, main
from gnomon.store import Artifact
from gnomon.writer import Writer

PROMPTS = 48
SITE = "resid_post.15@all"


def rows(runs: int) -> Iterator[Row]:
    """The rows of this benchmark."""
    here = setting.load(PROMPTS)
    shards = setting.texts_of(here)
    setting.capture_in_memory(here, shards)
    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as name:
        study = Path(name)
        parts = setting.capture_in_memory(here, shards)
        blocks = [np.concatenate(parts[0].parts[site, "all"]) for site in here.sites]

        def write() -> None:
            shutil.rmtree(study / ".capture.partial", ignore_errors=True)
            shard = Writer(study, "capture", "benchmark").shard(0)
            gather = setting.copy_of(parts[0])
            gather.write(shard)
            shard.finish()

        def digest() -> None:
            for block in blocks:
                hashlib.sha256(memoryview(block.reshape(-1).view(np.uint8))).digest()

        write()
        artifact = Writer(study, "capture", "benchmark").commit({"step": "capture", "model": here.model.describe()})
        plain = study / "plain.npy"
        np.save(plain, blocks[15])

        def read_ours() -> Any:
            return np.asarray(Artifact(artifact.path).activations(SITE).values)

        def again(job: Any) -> Any:
            return lambda: [job() for _ in range(20)][-1]

        jobs = {
            "capture": lambda: setting.capture_in_memory(here, shards),
            "write": write,
            "hash": digest,
            "read": again(read_ours),
            "load": again(lambda: np.load(plain)),
        }
        times = interleave(jobs, runs)
    size = f"{here.value_bytes / 2**20:.0f} MiB"
    yield cpu_row(
        "check, hash, write and sync a shard / capturing it", times["write"], times["capture"], 0.1, note=size
    )
    yield cpu_row("sha256 of a shard / capturing it", times["hash"], times["capture"], 0.05, note=size)
    yield cpu_row("read one site through an artifact / np.load", times["read"], times["load"], None, note="20 times")


if __name__ == "__main__":
    main(rows)
