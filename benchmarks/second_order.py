"""Second-order effects of MLP neurons: factored, against a faithful materialising port.

Both sides start from the same factors (attention rows, norm scales, activations) of 24 prompts, captured in one forward
pass, in batches of 8 of similar length; the read position is each prompt's last token, the layer the middle one. The
port does a whole layer once (minutes), and that run serves both its rows; everything else is repeated. `all layers'
scores` is set beside the capture of the factors themselves. Errors are max |a - b| / max |b|, on 4 prompts and 64
neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import materialised, setting
from benchmarks.timing import Row, Times, cpu_row, cpu_seconds, interleave, main
from gnomon.lens.lens import Lens
from gnomon.methods import second_order as so

PROMPTS = 24
BATCH = 8
FEW = 100
LAYER = 15
PORT = "port run once, its vectors projected chunk by chunk"


def rows(runs: int) -> Iterator[Row]:
    """The rows of this benchmark."""
    here = setting.load(PROMPTS)
    tokens = sorted(here.tokens, key=len)
    batches = [tokens[a : a + BATCH] for a in range(0, len(tokens), BATCH)]
    lens, layers = Lens(here.model), list(range(here.model.n_layers - 1))
    circuit, width = lens.circuit, here.model.d_mlp
    u = torch.tensor(np.random.default_rng(0).standard_normal(here.model.d_model), dtype=torch.float32)
    factors = [lens.capture(batch, layers) for batch in batches]
    few = torch.arange(FEW)

    def ours_vectors(neurons: Any) -> list[torch.Tensor]:
        base = so.basis(circuit, LAYER, neurons)
        return [so.effects(so.coefs(circuit, part, LAYER, neurons), base) for part in factors]

    def ours_scores(which: list[int]) -> list[torch.Tensor]:
        m = so.pulled(circuit, u[None], min(which))
        out = []
        for layer in which:
            own = m[(layer - min(which)) * here.model.n_heads :]
            beta = so.betas(circuit, layer, own)
            out += [so.scores(circuit, part, layer, own, beta=beta) for part in factors]
        return out

    seen: dict[str, Any] = {}
    jobs = {
        "few": lambda: ours_vectors(few),
        "few port": lambda: materialised.chunks(circuit, factors, LAYER, FEW),
        "layer": lambda: ours_vectors(slice(None)),
        "scores": lambda: ours_scores([LAYER]),
        "all scores": lambda: ours_scores(layers),
        "capture": lambda: [lens.capture(batch, layers) for batch in batches],
    }
    ours_scores([LAYER])
    times = interleave(jobs, runs, lambda job, result: seen.update({job: result}))
    apart = max(_apart(a, b) for a, b in zip(seen["few"], seen["few port"], strict=True))
    port = once(lambda: materialised.chunks(circuit, factors, LAYER, width, u))
    count = f"{PROMPTS} prompts, {sum(map(len, tokens))} tokens, layer {LAYER}"
    yield cpu_row("second order: port / vectors of 100 neurons", times["few"], times["few port"], 20, ">=",
                  note=f"{count}; values differ by at most {apart:.0e} of their largest")  # fmt: skip
    yield cpu_row("second order: port / a layer's vectors", times["layer"], port, 100, ">=", note=PORT)
    yield cpu_row("second order: port / a layer's scores", times["scores"], port, 1000, ">=", note=PORT)
    yield cpu_row("second order: scores of all layers / capture of their factors", times["all scores"],
                  times["capture"], 0.25, note=f"{len(layers) * width} neurons")  # fmt: skip
    coef = sum(so.coefs(circuit, part, LAYER, few).nbytes for part in factors)
    vectors = sum(one.nbytes for one in seen["few"])
    early = len(circuit.later(3)) / here.model.d_model
    yield Row("second order: coefficients / vectors in memory", coef / vectors, 0.25, runs=1, ours=coef, theirs=vectors,
              unit="bytes", note=f"layer {LAYER}; {early:.2f} at layer 3, which has more later heads")  # fmt: skip
    yield from errors(here.spec, tokens[:: len(tokens) // 4][:4])


def once(job: Any) -> Times:
    """One timed run."""
    import time

    out, cpu, wall = Times(), cpu_seconds(), time.perf_counter()
    job()
    out.cpu.append(cpu_seconds() - cpu)
    out.wall.append(time.perf_counter() - wall)
    return out


def errors(spec: Any, tokens: list[list[int]]) -> Iterator[Row]:
    """Factored effects and scores against the port's, in float32 and, computed exactly, in float64."""
    from dataclasses import replace

    for dtype, goal in (("float32", 1e-5), ("float64", 1e-12)):
        model = replace(spec, dtype=dtype).load()
        with model.exact():
            lens, worst = Lens(model), 0.0
            factors = lens.capture(tokens, [3, LAYER, 26])
            u = lens.direction(np.random.default_rng(0).standard_normal((1, model.d_model)))
            for layer in (3, LAYER, 26):
                some = torch.arange(64)
                want = materialised.vectors(lens.circuit, factors, layer, range(64))
                base, coef = so.basis(lens.circuit, layer, some), so.coefs(lens.circuit, factors, layer, some)
                score = so.scores(lens.circuit, factors, layer, so.pulled(lens.circuit, u, layer), some)[0]
                worst = max(worst, _apart(so.effects(coef, base), want), _apart(score, want @ u[0]))
        yield Row(f"second order: error in {dtype}", worst, goal, runs=1, unit="of the largest value",
                  note="effects and scores at layers 3, 15 and 26")  # fmt: skip


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


if __name__ == "__main__":
    main(rows)
