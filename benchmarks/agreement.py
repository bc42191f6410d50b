"""Gradient x activation against really setting single neurons to zero, on SmolLM2 at layers 3, 15 and 26.

The step `neurons` does it: 102 neurons drawn at random and 102 of the highest rank, a third of each a layer, each set
to zero at every token of 9 texts (sums of one and two digits after two worked ones), 306 pairs a layer and kind. What
is watched is the log-probability of the right answer's first digit. A row is the worst of the three layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import gnomon
from benchmarks.timing import Row, main

STUDY = {
    "model": "smollm2-135m", "device": "cpu",
    "steps": [
        {"generate": {"task": {"sums": {"digits": "1-2", "style": "prefix", "shots": 2}}, "n": 160}},
        {"neurons": {"layers": [3, 15, 26], "check_neurons": 204, "check_rows": 9, "auroc": "none"}},
    ],
}  # fmt: skip
GOALS = {"pearson": (0.95, ">="), "spearman": (0.9, ">="), "slope": (0.1, "<=")}


def rows(runs: int) -> Iterator[Row]:
    """Six rows: Pearson, Spearman and the slope's distance from 1, for random neurons and for those of high rank."""
    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
        checks = gnomon.run_study(STUDY, Path(folder) / "study")["neurons"].table("checks")
    for kind, name in (("random", "random neurons"), ("rank", "neurons of high rank")):
        for measure, (goal, sense) in GOALS.items():
            here = checks[(checks["chosen"] == kind) & (checks["measure"] == measure)].sort_values("layer")
            values = here["value"].tolist()
            worst = max(abs(v - 1) for v in values) if measure == "slope" else min(values)
            each = ", ".join(
                f"layer {layer}: {v:.3f} [{low:.3f}, {high:.3f}]"
                for layer, v, low, high in zip(here["layer"], values, here["ci_low"], here["ci_high"], strict=True)
            )
            label = "|slope - 1|" if measure == "slope" else measure.capitalize()
            yield Row(f"gradient x activation / real ablation: {label}, {name}", worst, goal, sense, 1,  # pyright: ignore
                      unit="", note=f"{each}; {int(here['n'].iloc[0])} pairs a layer")  # fmt: skip


if __name__ == "__main__":
    main(rows)
