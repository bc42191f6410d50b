"""Training a small TopK dictionary on activations (Gao et al. 2024, arXiv 2406.04093, sections 2 and A).

    x' = s (x - c)                        c: geometric median, s = sqrt(d) / median |x - c|, both of the fit tokens
    pre = x' W_enc + b_enc,  z = relu of the k largest,  x'^ = sum of z_i W_dec[i] + b_dec
    loss = |x'^ - x'|^2 / |x' - mean|^2 + aux * |e^ - e|^2 / |e|^2

e = x' - x'^ is what is left, e^ its reconstruction by the aux_k largest of the dead latents (those that fired on no
token for `dead_after` tokens). Decoding gathers k rows a token instead of multiplying by all. Decoder rows have length
1: the part of a gradient along its row is taken off, and rows are made 1 again after each step. The decoder starts at
random, the encoder as its transpose. Cost of a step: 4 B n d multiply-adds (encode, and its gradient).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gnomon.errors import UserError

ADAM = (0.9, 0.999, 1e-8)
WEIGHTS = ("encoder", "encoder_bias", "decoder", "decoder_bias")
CURVE = ("step", "tokens", "explained_variance", "aux_loss", "dead", "lr")


@dataclass(frozen=True)
class Training:
    """How a dictionary is trained."""

    latents: int
    k: int
    steps: int
    batch: int = 1024
    lr: float = 1e-3
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    decay: float = 0.3
    """Share of the steps, at the end, in which it falls to 0."""
    aux_k: int = 64
    aux: float = 1 / 32
    dead_after: int = 20_000
    """Tokens without firing after which a latent is dead."""
    log_every: int = 20
    seed: int = 0


@dataclass
class State:
    """All that training needs to go on: arrays only, so that it is kept as one file.

    weights, first and second moments by name; `idle [n]`: tokens since each latent last fired; `curve`: lines of CURVE.
    """

    weights: dict[str, np.ndarray]
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]
    idle: np.ndarray
    step: int = 0
    curve: list[tuple[float, ...]] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """Error, variance and auxiliary loss since the curve's last line."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The state as named arrays."""
        out = {f"{kind}.{k}": v for kind in ("weights", "first", "second") for k, v in getattr(self, kind).items()}
        curve = np.array(self.curve, dtype=np.float64).reshape(-1, len(CURVE))
        return out | {"idle": self.idle, "step": np.array([self.step], np.int64), "curve": curve, "sums": self.sums}

    @staticmethod
    def of(arrays: dict[str, np.ndarray]) -> State:
        """The inverse of `arrays`."""
        w, first, second = ({k: arrays[f"{kind}.{k}"] for k in WEIGHTS} for kind in ("weights", "first", "second"))
        curve = [tuple(float(v) for v in line) for line in arrays["curve"]]
        return State(w, first, second, arrays["idle"], int(arrays["step"][0]), curve, arrays["sums"])


@dataclass(frozen=True)
class Scaling:
    """x' = scale * (x - centre); centre `[d]`."""

    centre: np.ndarray
    scale: float


def scaling(x: np.ndarray) -> Scaling:
    """Geometric median of `x [tokens, d]` (Weiszfeld, at most 10,000 tokens) and the factor to a length of sqrt(d)."""
    some = np.asarray(x[:: max(1, len(x) // 10_000)], dtype=np.float64)
    centre = some.mean(0)
    for _ in range(20):
        weight = 1 / np.maximum(np.linalg.norm(some - centre, axis=1), 1e-8)
        centre = (some * weight[:, None]).sum(0) / weight.sum()
    length = float(np.median(np.linalg.norm(some - centre, axis=1)))
    if not length > 0:
        raise UserError("all activations are the same vector", "activations that vary", "another site or position")
    return Scaling(centre.astype(np.float32), math.sqrt(x.shape[1]) / length)


def start(d: int, options: Training) -> State:
    """Random unit decoder rows, the encoder their transpose, biases 0."""
    rows = np.random.default_rng([options.seed, 15485863]).standard_normal((options.latents, d))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    weights = {"encoder": rows.copy(), "decoder": rows, "encoder_bias": np.zeros(options.latents, np.float32),
               "decoder_bias": np.zeros(d, np.float32)}  # fmt: skip
    first, second = ({k: np.zeros_like(v) for k, v in weights.items()} for _ in range(2))
    return State(weights, first, second, np.zeros(options.latents, np.int64))


def learning_rate(step: int, options: Training) -> float:
    """Linear up, constant, linear down to 0 at the last step."""
    up, down = options.warm_up * options.steps, options.decay * options.steps
    return options.lr * min(1.0, (step + 1) / max(up, 1), (options.steps - step) / max(down, 1))


def tokens_of(step: int, tokens: int, options: Training) -> np.ndarray:
    """Which tokens a step sees: consecutive parts of one shuffle after another, each by its own seed."""
    size = min(options.batch, tokens)
    each = tokens // size
    order = np.random.default_rng([options.seed, 32452843, step // each]).permutation(tokens)
    return order[(step % each) * size : (step % each + 1) * size]


def train(
    x: np.ndarray,
    options: Training,
    scale: Scaling,
    state: State | None = None,
    keep: Callable[[State], None] | None = None,
    keep_every: int = 0,
    progress: Callable[[int], None] | None = None,
) -> State:
    """Train on `x [tokens, d]` (raw, massive tokens left out) from `state` on; the same bytes whenever it was cut.

    Args:
        x: float32, memory-mapped or not; a step gathers its own tokens.
        state: where an earlier call stood; None starts anew.
        keep: called with the state every `keep_every` steps and at the end.
        progress: called with the number of steps done.

    Raises:
        UserError: fewer tokens than a batch of k needs, or a loss that is no longer finite.
    """
    import torch

    d = x.shape[1]
    if not 1 <= options.k <= options.latents:
        raise UserError(f"k = {options.k} of {options.latents} latents", f"1 to {options.latents}")
    if len(x) < 2:
        raise UserError(f"a dictionary is trained on {len(x)} tokens", "many more", "capture more rows, or give text")
    state = start(d, options) if state is None else state
    groups = (state.weights, state.first, state.second)
    w, first, second = ({k: torch.from_numpy(np.array(v)) for k, v in group.items()} for group in groups)
    idle = torch.from_numpy(np.array(state.idle))
    centre, curve = torch.from_numpy(scale.centre), list(state.curve)
    sums = np.array(state.sums)

    def now(step: int) -> State:
        a, b, c = ({k: v.numpy().copy() for k, v in group.items()} for group in (w, first, second))
        return State(a, b, c, idle.numpy().copy(), step, list(curve), sums.copy())

    for step in range(state.step, options.steps):
        index = tokens_of(step, len(x), options)
        batch = (torch.from_numpy(np.asarray(x[np.sort(index)], dtype=np.float32)) - centre) * scale.scale
        grads, error, variance, aux = _gradients(w, batch, idle, options)
        if not math.isfinite(error):
            raise UserError(
                f"training diverged at step {step}", "a finite loss", f"a learning rate below {options.lr:g}"
            )
        _adam(w, grads, first, second, step + 1, learning_rate(step, options))
        sums += (error, variance, aux)
        done = step + 1
        if done % options.log_every == 0 or done == options.steps:
            dead = float((idle > options.dead_after).float().mean())
            since = options.log_every if done % options.log_every == 0 else done % options.log_every
            curve.append((done, done * len(index), 1 - sums[0] / max(sums[1], 1e-30), sums[2] / since, dead,
                          learning_rate(step, options)))  # fmt: skip
            sums[:] = 0
        if keep is not None and (done == options.steps or (keep_every and done % keep_every == 0)):
            keep(now(done))
        if progress is not None:
            progress(1)
    return now(options.steps)


def _gradients(w: dict[str, Any], x: Any, idle: Any, options: Training) -> tuple[dict[str, Any], float, float, float]:
    """Gradients of the loss on a batch `x [B, d]`, its error, variance and auxiliary loss; `idle` counts on."""
    import torch

    pre = torch.addmm(w["encoder_bias"], x, w["encoder"].T)
    values, at = pre.topk(options.k, dim=-1)
    z = values.clamp_min(0)
    made = _gathered(z, at, w["decoder"]) + w["decoder_bias"]
    left = x - made
    error, variance = float(left.square().sum()), float((x - x.mean(0)).square().sum())
    fired = torch.zeros(len(idle), dtype=torch.bool)
    fired[at[z > 0]] = True
    idle += len(x)
    idle[fired] = 0
    back = left * (-2.0 / max(variance, 1e-30))  # of the loss by x'^, [B, d]
    spread = torch.zeros_like(pre)
    decoder = _scatter(z, at, back, options.latents)
    spread.scatter_(1, at, _rows(w["decoder"], at, back) * (z > 0))
    dead = (idle > options.dead_after).nonzero()[:, 0]
    aux = 0.0
    if len(dead) and options.aux_k:
        count = min(options.aux_k, len(dead))
        best, where = pre[:, dead].topk(count, dim=-1)
        best, where = best.clamp_min(0), dead[where]
        guess = _gathered(best, where, w["decoder"])
        missing, whole = left - guess, max(error, 1e-30)
        share = options.aux * min(1.0, len(dead) / options.aux_k)
        aux = share * float(missing.square().sum()) / whole
        pull = missing * (-2.0 * share / whole)
        decoder += _scatter(best, where, pull, options.latents)
        spread.scatter_(1, where, _rows(w["decoder"], where, pull) * (best > 0))
    decoder -= (decoder * w["decoder"]).sum(1, keepdim=True) * w["decoder"]
    grads = {"encoder": spread.T @ x, "encoder_bias": spread.sum(0), "decoder": decoder, "decoder_bias": back.sum(0)}
    return grads, error, variance, aux


def _gathered(z: Any, at: Any, rows: Any) -> Any:
    """sum_j z[b, j] rows[at[b, j]], `[B, d]`: k rows a token are read, not all."""
    from torch.nn.functional import embedding_bag

    return embedding_bag(at, rows, per_sample_weights=z, mode="sum")


def _rows(rows: Any, at: Any, back: Any) -> Any:
    """rows[at[b, j]] . back[b], `[B, k]`, in parts: the gathered rows of a whole batch would be [B, k, d]."""
    import torch

    parts = zip(at.split(256), back.split(256), strict=True)
    return torch.cat([torch.bmm(rows[a], b[:, :, None])[:, :, 0] for a, b in parts])


def _scatter(z: Any, at: Any, back: Any, n: int) -> Any:
    """The decoder's gradient: out[i] = sum of z[b, j] back[b] over at[b, j] = i, `[n, d]`."""
    import torch

    tokens = torch.arange(len(z)).repeat_interleave(z.shape[1])
    sparse = torch.sparse_coo_tensor(
        torch.stack([at.reshape(-1), tokens]), z.reshape(-1), (n, len(z)), check_invariants=False
    )
    return torch.sparse.mm(sparse, back)


def _adam(
    w: dict[str, Any], grads: dict[str, Any], first: dict[str, Any], second: dict[str, Any], t: int, lr: float
) -> None:
    """One step of Adam; decoder rows are made of length 1 again."""
    a, b, eps = ADAM
    for name in WEIGHTS:
        g = grads[name]
        first[name].mul_(a).add_(g, alpha=1 - a)
        second[name].mul_(b).addcmul_(g, g, value=1 - b)
        size = (second[name] / (1 - b**t)).sqrt_().add_(eps)
        w[name].addcdiv_(first[name], size, value=-lr / (1 - a**t))
    w["decoder"].div_(w["decoder"].norm(dim=1, keepdim=True).clamp_min(1e-12))
