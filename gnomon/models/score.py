"""Log-probabilities of given continuations, teacher-forced: vocabulary logits only where they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from gnomon.errors import UserError
from gnomon.halving import run_halving
from gnomon.models.batching import plan
from gnomon.types import Intervention, Progress

if TYPE_CHECKING:
    from gnomon.models.model import Model

LOGIT_ROWS = 256
"""Most positions whose vocabulary logits exist at once."""


def logprobs(
    model: Model,
    tokens: Sequence[Sequence[int]],
    prompt_lens: Sequence[int],
    edit: Sequence[Intervention] = (),
    batch_size: int = 16,
    progress: Progress | None = None,
    halved: list[int] | None = None,
) -> list[np.ndarray]:
    """log p(token | everything before it) of the tokens from prompt_lens[i] on, `[continuation]` float32 each.

    Rows are batched by length; edits are told rows by their index in `tokens`. A batch that does not fit runs in halves
    (`halved` as in `halving.run_halving`). UserError where a prompt has no token
    or is longer than its row.
    """
    for row, prompt in zip(tokens, prompt_lens, strict=True):
        if not 1 <= prompt <= len(row):
            raise UserError(f"a row of {len(row)} tokens with a prompt of {prompt}", "a prompt of at least one token")
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(tokens)
    lengths = [len(row) for row in tokens]

    def score(some: Sequence[int]) -> list[None]:
        resid = model.forward(
            [tokens[i] for i in some], edit=edit, prompt_lens=[prompt_lens[i] for i in some], rows=some
        ).resid
        assert resid is not None
        spans = [(slot, range(prompt_lens[i], lengths[i])) for slot, i in enumerate(some)]
        slots = torch.tensor([slot for slot, span in spans for _ in span], dtype=torch.long, device=model.device)
        before = torch.tensor([at - 1 for _, span in spans for at in span], dtype=torch.long, device=model.device)
        target = torch.tensor(
            [tokens[i][at] for i, (_, span) in zip(some, spans, strict=True) for at in span],
            dtype=torch.long,
            device=model.device,
        )
        found = _chosen(model, resid[slots, before], target)
        for i, values in zip(some, np.split(found, np.cumsum([len(span) for _, span in spans])[:-1]), strict=True):
            out[i] = values
        return []

    for batch in (b for shard in plan(lengths, batch_size, shard_rows=max(1, len(tokens))) for b in shard):
        run_halving(score, batch, halved)
        if progress is not None:
            progress(len(batch))
    return out


def _chosen(model: Model, resid: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    parts: list[torch.Tensor] = []
    with torch.no_grad():
        for begin in range(0, len(target), LOGIT_ROWS):
            logits = model.logits_from(resid[begin : begin + LOGIT_ROWS]).float()
            chosen = logits.gather(1, target[begin : begin + LOGIT_ROWS, None])[:, 0]
            parts.append(chosen - torch.logsumexp(logits, -1))
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0, np.float32)
