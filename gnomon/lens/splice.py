"""A dictionary spliced into the model: the activation replaced by its reconstruction, and the loss after it.

    loss recovered = (L_ablated - L_spliced) / (L_ablated - L_clean), ablated to zero or to the mean

1 is what the model itself does, 0 what is left without the site. Massive activations are handed on as they are: no
dictionary is made for them, and the model breaks without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.interventions.base import Edit
from gnomon.interventions.patch import Patch
from gnomon.stats import Interval, bootstrap
from gnomon.types import Intervention, Progress, Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

ABLATIONS = ("zero", "mean")


@dataclass(frozen=True, eq=False)
class Splice(Edit):
    """Replace the activation by `rebuild(x)`, where its norm is at most `most`."""

    rebuild: Callable[[Any], Any]
    most: float = float("inf")

    def change(self, x: Any, rows: Any, positions: Any) -> Any:
        """rebuild(x) - x, `[m, d]`; 0 for massive tokens."""
        change = self.rebuild(x).to(x.dtype) - x
        return change * (x.norm(dim=-1, keepdim=True) <= self.most)


def conditions(
    site: Site, rebuilders: Mapping[str, Callable[[Any], Any]], mean: np.ndarray, most: float = float("inf")
) -> dict[str, tuple[Intervention, ...]]:
    """What is compared: the clean run, every reconstruction spliced in, zero and mean ablation.

    All of them leave massive tokens alone, so they change the same tokens.
    """
    out: dict[str, tuple[Intervention, ...]] = {"clean": ()}
    out |= {name: (Splice(site, rebuild, most),) for name, rebuild in rebuilders.items()}
    ablated = {"zero": Patch(site, np.zeros_like(mean)), "mean": Patch(site, mean)}
    return out | {name: (Splice(site, _set_to(patch.values), most),) for name, patch in ablated.items()}


def _set_to(values: np.ndarray) -> Callable[[Any], Any]:
    def rebuild(x: Any) -> Any:
        import torch

        return torch.tensor(values, dtype=x.dtype, device=x.device).expand_as(x)

    return rebuild


def text_losses(
    model: Model, texts: Sequence[Sequence[int]], edits: Mapping[str, Sequence[Intervention]], batch_size: int = 8,
    progress: Progress | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:  # fmt: skip
    """Summed next-token loss of each text under each condition `[texts]` (nats), and how many tokens were predicted.

    Texts of one token predict nothing and must be left out before.
    """
    out = {}
    for name, edit in edits.items():
        found = model.logprobs(texts, [1] * len(texts), list(edit), batch_size=batch_size)
        out[name] = np.array([-float(np.asarray(row, np.float64).sum()) for row in found])
        if progress is not None:
            progress(len(texts))
    return out, np.array([len(text) - 1 for text in texts], dtype=np.float64)


def mean_loss(losses: np.ndarray, counts: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> Interval:
    """Loss a token over all texts, resampled by group."""
    return bootstrap(lambda w: (w @ losses) / np.maximum(w @ counts, 1), groups, draws, seed)


def recovered(
    losses: Mapping[str, np.ndarray], name: str, ablation: str, groups: np.ndarray, draws: int, seed: int
) -> Interval:
    """Loss recovered by `name` against `ablation`, resampled by group; NaN where ablating costs nothing."""
    clean, spliced, ablated = losses["clean"], losses[name], losses[ablation]

    def share(w: np.ndarray) -> np.ndarray:
        harm = w @ (ablated - clean)
        return np.divide(w @ (ablated - spliced), harm, out=np.full(len(w), np.nan), where=harm > 1e-9)

    return bootstrap(share, groups, draws, seed)
