"""Answering and capturing in one pass: 32 prompts of mixed length, 24 new tokens each, greedy.

Ours: the worker of the step `generate` (batches ordered by length, KV cache, resid_post of every block at last_prompt
and last, answers graded), all but the files. Peers: Hugging Face `generate` with `output_hidden_states=True`, in the
order of the data set and on our own batches; and the two passes that most code makes: `generate`, then prompt and
answer once more through the whole model with hooks. All decode the same number of tokens at the same batch size.

Ours also feeds the last new token, whose activations `last` names; Hugging Face's `generate` never does. Its hidden
states end after the final norm.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import peers, setting
from benchmarks.processes import begin_peak, measured, peak_above
from benchmarks.timing import Row, cpu_row, interleave, main

PROMPTS, NEW, BATCH = 32, 24, 16


def rows(runs: int) -> Iterator[Row]:
    """The rows of this benchmark."""
    here = load()
    hf, tokens = here.model.hf, here.tokens
    own = [[row.tokens.tolist() for row in batch] for shard in here.shards for batch in shard]
    order = [row.index for shard in here.shards for batch in shard for row in batch]
    natural = list(peers.in_order(tokens, BATCH))
    said: dict[str, list[list[int]]] = {}

    def see(job: str, result: Any) -> None:
        said[job] = result[0] if job != "own batches" else [result[0][order.index(i)] for i in range(len(order))]

    jobs = {
        "ours": lambda: setting.generate_in_memory(here, NEW),
        "one pass": lambda: peers.one_pass(hf, natural, NEW),
        "own batches": lambda: peers.one_pass(hf, own, NEW),
        "two passes": lambda: peers.two_pass(hf, tokens, NEW, BATCH),
    }
    warm = setting.load(2)
    setting.generate_in_memory(warm, 2)
    peers.two_pass(hf, warm.tokens, 2, BATCH)
    times = interleave(jobs, runs, see)
    same = {job: sum(a == b for a, b in zip(said["ours"], texts, strict=True)) for job, texts in said.items()}
    count = f"{sum(map(len, tokens))} prompt and {PROMPTS * NEW} new tokens"
    note = f"{count}; {same['one pass']} of {PROMPTS} answers alike"
    yield cpu_row(
        "generate and capture / HF generate, hidden states", times["ours"], times["one pass"], 1.05, note=note
    )
    yield cpu_row(
        "generate and capture / HF generate, hidden states, our batches", times["ours"], times["own batches"], 1.05,
        note=f"{same['own batches']} of {PROMPTS} answers alike",
    )  # fmt: skip
    yield cpu_row(
        "HF generate and a second full forward / generate and capture", times["ours"], times["two passes"], 1.8, ">=",
        note=f"{same['two passes']} of {PROMPTS} answers alike",
    )  # fmt: skip
    ours, theirs = (measured("generate", "--peak", job) for job in ("ours", "two"))
    yield Row(
        "peak memory of generate and capture / of two passes", ours["above"] / theirs["above"], 0.6, runs=1,
        ours=ours["above"], theirs=theirs["above"], unit="bytes",
        note=f"highest resident set above the loaded model's ({ours['baseline'] / 2**20:.0f} MiB)",
    )  # fmt: skip


def load() -> setting.Setting:
    """The prompts, planned in batches as `generate` does; no end token ends an answer."""
    here = setting.load(PROMPTS, batch_size=BATCH)
    setting.never_stop(here.model)
    return here


def peak(job: str) -> dict[str, int]:
    """Bytes that a job needs above the loaded and warmed-up model."""
    here = load()
    hf = here.model.hf
    peers.generate(hf, [here.tokens[0][:8]], 2, hidden=False)
    baseline = begin_peak()
    result = setting.generate_in_memory(here, NEW) if job == "ours" else peers.two_pass(hf, here.tokens, NEW, BATCH)
    found = peak_above(baseline)
    del result
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        import json

        print(json.dumps(peak(sys.argv[2])))
    else:
        main(rows)
