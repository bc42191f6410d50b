"""Replay of pathways on SmolLM2, 9 -> 15: one sweep of many patches, against a forward each and a batch of copies.

A text of 96 tokens; every patch adds a vector of its own to resid_post.9 at the last token, and resid_post.15 is read
there. Ours includes the clean pass of the text. A forward a patch runs the whole model, as hooks on it do; the batch of
copies runs from the embedding to the layer that is read, 32 copies at once. Both are timed on a few patches and set
beside ours by the patch. Rows without a goal: patches at the last 16 tokens, and what 1,000 features take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import setting
from benchmarks.prompts import prompts
from benchmarks.timing import Row, Times, interleave, main
from gnomon.machine import peak_memory, reset_peak
from gnomon.models.sweep import SitePatch, Sweep
from gnomon.types import Site

TOKENS = 96
LOW, HIGH = Site("resid_post", 9), Site("resid_post", 15)
PATCHES, MANY, LONG = 64, 640, 16
ALONE, COPIES = 4, 32
ROWS, CONTROLS, PATHWAYS, FEATURES = 8, 5, 25, 1550


@dataclass(frozen=True)
class PerRowAdd:
    """Each copy of a text gets its own delta at its own positions: what a batch of copies needs."""

    patches: Sequence[SitePatch]
    site: Site
    where: str = "all"
    strength: float = 1.0

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        """Add them."""
        out = x.clone()
        for r, patch in enumerate(self.patches):
            for at, delta in zip(patch.positions, patch.delta, strict=True):
                out[(rows == r) & (positions == at)] += delta
        return out


def replay_part(runs: int) -> Iterator[Row]:
    """The rows of this benchmark."""
    model = setting.load(4).model
    tokens = model.encode_text(" ".join(prompts(16)))[:TOKENS]
    noise = torch.Generator().manual_seed(0)

    def made(n: int, tail: int) -> list[SitePatch]:
        places = tuple(range(TOKENS - tail, TOKENS))
        return [SitePatch(LOW, places, torch.randn(tail, model.d_model, generator=noise), (HIGH,)) for _ in range(n)]

    few, many, long = made(PATCHES, 1), made(MANY, 1), made(PATCHES, LONG)
    Sweep(model, tokens, [LOW, HIGH]).run(few)
    reset_peak()
    Sweep(model, tokens, [LOW, HIGH]).run(many)
    memory = peak_memory()["peak_memory_bytes"]

    def swept(some: list[SitePatch]) -> list[torch.Tensor]:
        return [one[HIGH] for one in Sweep(model, tokens, [LOW, HIGH]).run(some)]

    def batched() -> list[torch.Tensor]:
        some = few[:COPIES]
        out = model.forward([tokens] * COPIES, read=[HIGH], edit=[PerRowAdd(some, LOW)])
        return list(out.acts[HIGH][:, -1])

    def alone() -> list[torch.Tensor]:
        return [
            model.forward([tokens], read=[HIGH], edit=[PerRowAdd([p], LOW)], stop=model.n_layers).acts[HIGH][0, -1]
            for p in few[:ALONE]
        ]

    jobs = {"few": lambda: swept(few), "batched": batched, "alone": alone, "many": lambda: swept(many),
            "long": lambda: swept(long)}  # fmt: skip
    seen: dict[str, list[torch.Tensor]] = {}
    times = interleave(jobs, runs, lambda name, result: seen.update({name: result}))
    apart = max(_apart(seen["few"][: len(seen[name])], seen[name]) for name in ("batched", "alone"))
    note = f"{PATCHES} patches at the last token of {TOKENS}, the clean pass included; values within {apart:.0e}"
    each = {name: times[name].least / count
            for name, count in (("few", PATCHES), ("batched", COPIES), ("alone", ALONE), ("many", MANY),
                                ("long", PATCHES))}  # fmt: skip

    def row(name: str, ours: str, theirs: str, goal: float | None, note: str) -> Row:
        spread = max(times[ours].spread, times[theirs].spread)
        return Row(name, each[theirs] / each[ours], goal, ">=", runs, 1e3 * each[ours], 1e3 * each[theirs],
                   "cpu ms a patch", f"{note}; repeats within {spread:.2f}x")  # fmt: skip

    yield row("replay: batched from the embedding / one sweep", "few", "batched", 10, note)
    yield row("replay: one forward a patch / one sweep", "few", "alone", 30, note)
    yield row("replay: batched from the embedding / one sweep, many patches", "many", "batched", None,
              f"{MANY} patches at the last token")  # fmt: skip
    yield row("replay: batched from the embedding / one sweep, long tails", "long", "batched", None,
              f"{PATCHES} patches at the last {LONG} tokens")  # fmt: skip
    seconds = _seconds(times["many"], 1000)
    whole = _seconds(times["many"], FEATURES) * ROWS * (1 + CONTROLS)
    yield Row(f"replay: 1,000 features x {PATHWAYS} pathways in a text each", None, None, "<=", runs, seconds, None,
              "cpu s", f"the process takes {1e-6 * memory:.0f} MB, the model included; {FEATURES:,d} "
              f"features x {PATHWAYS} pathways x {ROWS} rows with {CONTROLS} random latents each: "
              f"{whole / 3600:.1f} h of one core")  # fmt: skip


def _seconds(many: Times, features: int) -> float:
    """Processor time of `features` targets with PATHWAYS patches each in one text."""
    return many.least / MANY * features * PATHWAYS


def _apart(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    x, y = torch.stack(list(a)), torch.stack(list(b))
    return float((x - y).abs().max() / y.abs().max())


if __name__ == "__main__":
    main(replay_part)
