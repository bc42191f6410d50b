"""What is watched while a neuron is taken away: a number of the residual stream at a text's last token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError

if TYPE_CHECKING:
    from gnomon.models.model import Model


@dataclass(frozen=True)
class Readout:
    """`readout(resid [m, d], which [m]) -> [m, K]`, of resid_post of layer `end` at the last token of text `which`."""

    name: str
    end: int
    function: Callable[[Any, Any], Any]

    def __call__(self, resid: Any, which: Any) -> Any:
        return self.function(resid, which)


def projection(model: Model, vector: np.ndarray, end: int | None = None) -> Readout:
    """Along a direction `[d]`, or one of its own for every text `[texts, d]`.

    `end` None: of the final norm's output (what the unembedding multiplies); else of resid_post of that layer. UserError
    where the width is another model's.
    """
    import torch

    wide = torch.promote_types(model.dtype, torch.float32)
    u = torch.from_numpy(np.array(vector)).to(model.device, wide)
    if u.shape[-1] != model.d_model:
        raise UserError(f"a direction of {u.shape[-1]} numbers", f"{model.d_model}, the d_model of {model.name}")

    def along(resid: Any, which: Any) -> Any:
        y = model.norm("ln_final").apply(resid) if end is None else resid
        own = u if u.ndim == 1 else u[which]
        return (y.to(u.dtype) * own).sum(-1, keepdim=True)

    return Readout("projection", model.n_layers - 1 if end is None else end, along)


def target_logprob(model: Model, targets: Sequence[int]) -> Readout:
    """Log-probability of each text's own target token."""

    def log_p(resid: Any, which: Any) -> Any:
        import torch

        own = torch.as_tensor(list(targets), device=resid.device)[which]
        logits = model.logits_from(resid)
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1).gather(
            1, own[:, None]
        )

    return Readout("target_logprob", model.n_layers - 1, log_p)


def target_logit(model: Model, targets: Sequence[int]) -> Readout:
    """Logit of each text's own target token less the mean logit of the vocabulary."""

    def logit(resid: Any, which: Any) -> Any:
        import torch

        own = torch.as_tensor(list(targets), device=resid.device)[which]
        logits = model.logits_from(resid)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.gather(1, own[:, None]) - logits.mean(-1, keepdim=True)

    return Readout("target_logit", model.n_layers - 1, logit)
