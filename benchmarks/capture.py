"""Capturing resid_post of every block at every token of 128 mixed-length prompts, teacher-forced.

Ours: the worker of the step `capture` (sorted batches, no attention mask, no vocabulary logits). In memory, the values
are kept as ragged float32 arrays, checked to be finite. Peers: Hugging Face forward hooks on padded batches of 8 in
the order of the data set, values kept ragged too; with vocabulary logits, as one calls a model, and with the body only.
The bare body runs our own batches and keeps nothing. To disk: the worker's shards with sha256, fsync and markers,
against the hooks and `np.save` of each padded batch, for the first 48 prompts. With a CUDA device, its share of peak.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import capture_gpu, peers, setting
from benchmarks.prompts import padding
from benchmarks.timing import Row, cpu_row, interleave, main

BATCH = 8
FEW = 48
"""Prompts that go to disk: one shard."""
LAYERS = (0, 14, 29)
"""Blocks whose values are compared between the two sides."""


def rows(runs: int) -> Iterator[Row]:
    """The rows of this benchmark."""
    import torch

    gpu = torch.cuda.is_available()
    here, few = setting.load(128), setting.load(FEW)
    hf, tokens = here.model.hf, here.tokens
    shards = setting.texts_of(here)
    batches = [[text.tokens for text in batch] for shard in shards for batch in shard]
    lengths = [len(row) for row in tokens]
    seen: dict[str, Any] = {}

    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as name:
        folder = Path(name)
        stems = setting.write_generation(few, folder / "source")

        def to_disk() -> int:
            written = setting.capture_to_disk(few, folder / "source", stems, folder / "ours")
            size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
            shutil.rmtree(written)
            return size

        def hooks_to_disk() -> int:
            (folder / "theirs").mkdir()
            size = peers.capture_to_disk(hf, few.tokens, folder / "theirs", BATCH)
            shutil.rmtree(folder / "theirs")
            return size

        def see(job: str, result: Any) -> None:
            if job == "ours":
                seen[job] = [setting.values_in_order(here, result, layer) for layer in LAYERS]
            elif job == "hooks":
                seen[job] = [np.concatenate(result[layer]) for layer in LAYERS]
            else:
                seen[job] = result

        jobs = {
            "ours": lambda: setting.capture_in_memory(here, shards),
            "bare": lambda: peers.bare(hf, batches),
            "body": lambda: peers.capture(hf, tokens, BATCH, body=True),
            "hooks": lambda: peers.capture(hf, tokens, BATCH),
            "disk": to_disk,
            "hooks disk": hooks_to_disk,
        }
        setting.capture_in_memory(few, setting.texts_of(few))
        peers.capture(hf, tokens[:BATCH], BATCH)
        times = interleave(jobs, runs, see)

    apart = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(seen["ours"], seen["hooks"], strict=True))
    ours = padding([len(row) for batch in batches for row in batch], [len(batch) for batch in batches])
    per_token = 1e3 * times["ours"].least / sum(lengths)
    note = (
        f"{sum(lengths)} tokens, {per_token:.2f} cpu ms a token; padded/real {ours:.2f} against "
        f"{padding(lengths, BATCH):.2f}; values differ by at most {apart:.0e} of their largest"
        f"{'' if gpu else '; no CUDA device, so its share of peak is not measured'}"
    )
    yield cpu_row("capture / HF forward hooks", times["ours"], times["hooks"], 0.6, note=note)
    yield cpu_row("capture / HF hooks, body only", times["ours"], times["body"], 0.75)
    yield cpu_row("capture / bare body on our batches", times["ours"], times["bare"], 1.1)
    yield cpu_row("capture to disk / HF hooks and np.save", times["disk"], times["hooks disk"], None,
                  note=f"the first {FEW} prompts")  # fmt: skip
    yield Row(
        "capture on disk / ragged bytes", seen["disk"] / few.value_bytes, 1.02, runs=1, ours=seen["disk"],
        theirs=few.value_bytes, unit="bytes", note=f"np.save of padded batches: {seen['hooks disk']} bytes",
    )  # fmt: skip
    if gpu:
        yield capture_gpu.row()


if __name__ == "__main__":
    main(rows)
