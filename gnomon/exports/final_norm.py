"""The final norm, found again from a study's own numbers: no model is loaded, and what does not fit is not used.

Step second_order keeps the norm's output y at each read position; a capture of the last layer keeps its input x there.
For every dimension j, y_j = gain_j * x^_j + bias_j with x^ = x / rms(x), or (x - mean) / sd. Gain and bias come from
half of the rows by least squares and must give back the other half within `CLOSE` of its largest value. The norm's
epsilon is left out: the check would see it where it mattered. Cost: one pass over [rows, d].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnomon.store import Artifact
from gnomon.types import Activations

CLOSE = 1e-4
FEWEST = 8


@dataclass(frozen=True)
class FinalNorm:
    """gain * x^ + bias, `[d]` each; `error` is the largest difference on the rows held out, over the largest value."""

    gain: np.ndarray
    bias: np.ndarray
    centred: bool
    error: float
    rows: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Rows `[m, d]` through the norm, float64 inside."""
        return scaled(np.asarray(x, np.float64), self.centred) * self.gain + self.bias


def scaled(x: np.ndarray, centred: bool) -> np.ndarray:
    """x / rms(x) of rows `[m, d]`, centred before where asked."""
    x = x - x.mean(-1, keepdims=True) if centred else x
    size = np.sqrt((x**2).mean(-1, keepdims=True))
    return x / np.where(size > 0, size, 1)


def recover(x: np.ndarray, y: np.ndarray) -> FinalNorm | None:
    """The norm that takes `x` [m, d] to `y` [m, d], RMSNorm tried before LayerNorm; None where neither does."""
    if len(x) < FEWEST or x.shape != y.shape:
        return None
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    most = np.abs(y[1::2]).max()
    for centred in (False, True):
        unit = scaled(x, centred)
        fit, out = unit[::2], y[::2]
        shift, level = (fit.mean(0), out.mean(0)) if centred else (np.zeros(x.shape[1]), np.zeros(x.shape[1]))
        power = ((fit - shift) ** 2).sum(0)
        gain = ((fit - shift) * (out - level)).sum(0) / np.where(power > 0, power, 1)
        bias = level - gain * shift
        error = float(np.abs(unit[1::2] * gain + bias - y[1::2]).max() / most) if most > 0 else np.inf
        if error <= CLOSE:
            return FinalNorm(gain, bias, centred, error, len(x))
    return None


def norm_of(second: Artifact | None, acts: Activations) -> FinalNorm | None:
    """The final norm from the second-order step's `output` and a ragged capture; None where they do not fit."""
    if second is None or "output" not in second.arrays() or acts.offsets is None:
        return None
    table, known = second.table("rows"), set(np.asarray(acts.rows).tolist())
    inputs, places = [], []
    for index, row, at in zip(table["index"], table["row"], table["read_at"], strict=True):
        values = acts.row(int(row)) if int(row) in known else np.zeros((0, acts.d))
        if int(at) < len(values):
            inputs.append(np.asarray(values[int(at)], np.float64))
            places.append(int(index))
    return recover(np.stack(inputs), np.asarray(second.array("output")[places])) if inputs else None
