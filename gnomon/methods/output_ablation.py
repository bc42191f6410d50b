"""Ablating neurons' second-order effects in output space: arithmetic on the effects, no forward pass.

With phi_n(x) a neuron's effect on the final norm's output at the read position, and mean_n its mean over fit rows:

    y'(x) = y(x) + sum_n (replacement_n(x) - phi_n(x)),     logits' = cap(y' W_U + b_U)

    full             replacement = mean_n                                        what the neurons say of single rows
    significant      mean_n on the rows of the neuron's significant set only
    insignificant    mean_n on all other rows
    kept SHARE       mean_n on all but the SHARE of rows of largest |phi - mean|: the functional curve
    rank1            mean_n + <phi - mean_n, pc> pc                              pc: unit first principal component
    text             the same with the unit text reconstruction of pc

Significant set: rows with |phi - mean| at or above the k-th largest of the FIT rows, k = max(20, 2 % of them).
Controls: as many rows of the same neuron drawn at random; a random unit direction in place of pc. Attention and norm
scales stay as they were, and only the token after the read position is predicted. Source: Gandelsman, Efros &
Steinhardt 2024 (arXiv 2406.04341), sections 3-4; thresholds from fit rows and the controls are ours. Cost: rows * heads
* d a neuron for its effects, rows * d * (conditions + controls) for the sums, rows * d * vocabulary a condition to read
it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gnomon.errors import UserError

LEAST, SHARE = 20, 0.02
"""The significant set: max(LEAST, SHARE of the fit rows) of them pass."""
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Shares of rows kept of the functional curve; 0 is the full mean ablation, 1 changes nothing."""


@dataclass(frozen=True)
class Neuron:
    """One neuron: coef `[N, R]`, basis `[R, d]`, its unit component pc `[d]`, and text `[d]` or None."""

    coef: np.ndarray
    basis: np.ndarray
    pc: np.ndarray
    text: np.ndarray | None = None


@dataclass(frozen=True)
class Setting:
    """What all neurons share. `fit` `[N]` bool; `rows`: indices that are ablated (the same order comes back);
    `shares` of the curve; how many random `controls` of each kind, 0 for none; the seed of their draws."""

    fit: np.ndarray
    rows: np.ndarray
    shares: Sequence[float] = SHARES
    controls: int = 19
    curve_controls: int = 5
    least: int = LEAST
    top_share: float = SHARE
    seed: int = 0


@dataclass
class Changes:
    """y' - y of each condition `[rows, d]`; of a control `[draws, rows, d]`; `significant` `[S, N]` bool, all rows."""

    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    controls: dict[str, np.ndarray] = field(default_factory=dict)
    significant: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))


def significant_rows(n_fit: int, least: int = LEAST, share: float = SHARE) -> int:
    """How many fit rows pass the threshold: max(least, share of them), at most all of them."""
    return min(n_fit, max(least, int(np.ceil(share * n_fit))))


def threshold(fit_norms: np.ndarray, count: int) -> float:
    """The `count`-th largest of the fit rows' norms; infinite for 0, so that nothing passes."""
    if count <= 0:
        return float("inf")
    return float(np.sort(fit_norms)[-min(count, len(fit_norms))])


def centred(neuron: Neuron, fit: np.ndarray) -> np.ndarray:
    """phi - (mean over fit rows) `[N, d]` float64 of one neuron."""
    coef = np.asarray(neuron.coef, dtype=np.float64)
    return (coef - coef[fit].mean(0)) @ np.asarray(neuron.basis, dtype=np.float64)


def kept_name(share: float) -> str:
    """What a point of the curve is called."""
    return f"kept {share:g}"


def output_changes(neurons: Iterable[Neuron], setting: Setting) -> Changes:
    """Sum over neurons of (replacement - phi) under every condition and control.

    Raises:
        UserError: fewer than 2 fit rows, or a component that is not a unit vector of the effects' width.
    """
    n_fit = int(np.asarray(setting.fit).sum())
    if n_fit < 2:
        raise UserError(f"neuron effects of {n_fit} fit rows", "at least 2", "raise generate.n")
    out, passed = Changes(), []
    k = significant_rows(n_fit, setting.least, setting.top_share)
    for index, neuron in enumerate(neurons):
        x = centred(neuron, setting.fit)
        pc = _unit(neuron.pc, x.shape[1])
        norms = np.linalg.norm(x, axis=1)
        mask = (norms >= threshold(norms[setting.fit], k)) & (norms > 0)  # no later head, no effect
        passed.append(mask)
        rng = np.random.default_rng([setting.seed, 1009, index])
        _conditions(out, setting, x[setting.rows], norms, mask[setting.rows], pc, neuron.text)
        _controls(out, setting, x[setting.rows], norms, mask[setting.rows], rng)
    out.significant = np.array(passed, dtype=bool)
    return out


def _unit(vector: np.ndarray, d: int) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float64)
    if vector.shape != (d,):
        raise UserError(f"a component of shape {vector.shape} for effects of width {d}", f"({d},)")
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 0 else vector


def _add(into: dict[str, np.ndarray], name: str, change: np.ndarray) -> None:
    if name in into:
        into[name] += change
    else:
        into[name] = np.array(change, dtype=np.float64)


def _conditions(
    out: Changes, s: Setting, x: np.ndarray, norms: np.ndarray, mask: np.ndarray, pc: np.ndarray, text: Any
) -> None:
    _add(out.conditions, "full", -x)
    _add(out.conditions, "significant", -x * mask[:, None])
    _add(out.conditions, "insignificant", -x * ~mask[:, None])
    _add(out.conditions, "rank1", (x @ pc)[:, None] * pc - x)
    if text is not None:
        t = _unit(text, x.shape[1])
        _add(out.conditions, "text", (x @ t)[:, None] * t - x)
    for share in s.shares:
        _add(out.conditions, kept_name(share), -x * ~_kept(s, norms, share)[:, None])


def _kept(s: Setting, norms: np.ndarray, share: float) -> np.ndarray:
    """Which ablated rows keep their effect when the cut lets `share` of the fit rows pass."""
    cut = threshold(norms[s.fit], round(share * int(s.fit.sum()))) if share < 1 else -np.inf
    return norms[s.rows] >= cut


def _controls(
    out: Changes, s: Setting, x: np.ndarray, norms: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> None:
    d = x.shape[1]
    if s.controls:
        some = shuffled_rows(mask, s.controls, rng)
        _add(out.controls, "random_pairs", -x[None] * some[:, :, None])
        u = rng.standard_normal((s.controls, d))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        _add(out.controls, "random_direction", (u @ x.T)[:, :, None] * u[:, None, :] - x[None])
    for share in s.shares if s.curve_controls else ():
        if 0 < share < 1:
            some = shuffled_rows(_kept(s, norms, share), s.curve_controls, rng)
            _add(out.controls, kept_name(share), -x[None] * ~some[:, :, None])


def shuffled_rows(mask: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """As many rows as `mask [n]` names, at random: `[draws, n]` bool."""
    return rng.permuted(np.broadcast_to(mask, (draws, len(mask))), axis=1)


# ---------------------------------------------------------------- reading the output


@dataclass(frozen=True)
class Unembedding:
    """W_U `[d, vocab]`, b_U `[vocab]`, and the family's soft cap of logits."""

    weight: np.ndarray
    bias: np.ndarray
    cap: float | None = None

    def logits(self, y: np.ndarray) -> np.ndarray:
        """Logits `[n, vocab]` float32 of final-norm outputs `y [n, d]`."""
        out = y.astype(np.float32) @ self.weight + self.bias
        return out if self.cap is None else np.tanh(out / self.cap) * self.cap

    def read(self, y: np.ndarray, targets: np.ndarray, chunk: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each row's target token, and 1.0 where it is the likeliest: both `[n]` float64.

        NaN where the target is -1 (no right token is known at the read position).
        """
        logprob, right = np.full(len(y), np.nan), np.full(len(y), np.nan)
        known = np.flatnonzero(np.asarray(targets) >= 0)
        for start in range(0, len(known), chunk):
            rows = known[start : start + chunk]
            logits = self.logits(y[rows]).astype(np.float64)
            own = logits[np.arange(len(rows)), targets[rows]]
            top = logits.max(axis=1)
            logprob[rows] = own - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
            right[rows] = logits.argmax(axis=1) == targets[rows]
        return logprob, right
