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

    `end` None: of the final norm's output (what the unembedding multiplies); else of resid_post of that layer.
    UserError where the width is another model's.
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
    """Log-probability of each text's own target token; UserError for a token outside the vocabulary."""

    def log_p(logits: Any, own: Any) -> Any:
        import torch

        return torch.log_softmax(logits, -1).gather(1, own)

    return _of_logits("target_logprob", model, targets, log_p)


def target_logit(model: Model, targets: Sequence[int]) -> Readout:
    """Logit of each text's own target token less the mean logit of the vocabulary; UserError as above."""
    return _of_logits("target_logit", model, targets, lambda x, own: x.gather(1, own) - x.mean(-1, keepdim=True))


def margin(model: Model, targets: Sequence[int]) -> Readout:
    """Logit of each text's own target token less that of its strongest competitor; UserError as above."""

    def over_best(logits: Any, own: Any) -> Any:
        others = logits.scatter(1, own, -float("inf"))
        return logits.gather(1, own) - others.max(-1, keepdim=True).values

    return _of_logits("margin", model, targets, over_best)


def _of_logits(name: str, model: Model, targets: Sequence[int], function: Callable[[Any, Any], Any]) -> Readout:
    """A readout of logits `[m, d_vocab]` (float32 or wider) and target tokens `[m, 1]`."""
    wrong = [t for t in targets if not 0 <= t < model.d_vocab]
    if wrong:
        raise UserError(f"target token {wrong[0]}, outside the vocabulary", f"tokens 0 to {model.d_vocab - 1}")

    def read(resid: Any, which: Any) -> Any:
        import torch

        own = torch.as_tensor(list(targets), device=resid.device)[which]
        logits = model.logits_from(resid)
        return function(logits.to(torch.promote_types(logits.dtype, torch.float32)), own[:, None])

    return Readout(name, model.n_layers - 1, read)
