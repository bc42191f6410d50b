"""Latents of a dictionary that are active in one text: their rows, gathered, so that the dictionary can be let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.dictionaries.base import SparseDictionary
from gnomon.errors import UserError
from gnomon.methods.feature_latents import ACTIVE, calm
from gnomon.types import Site


@dataclass(frozen=True, eq=False)
class Active:
    """The latents of one dictionary that are active in one text of T tokens.

    `index [u]`: their numbers, ascending. `slots [T, k]`: which of them each token has, as places in `index`;
    `z [T, k]`: their activations, 0 where a token has fewer than k. `encoder`, `decoder` `[u, d]`, `bias [u]`: rows.
    """

    site: Site
    index: np.ndarray
    slots: Any
    z: Any
    encoder: Any
    decoder: Any
    bias: Any

    def rebuilt(self, x: Any, positions: Any) -> Any:
        """What the active latents stand for at some positions, `[m, d]`, as a function of `x [m, d]`; no bias."""
        import torch

        on = torch.zeros(len(x), len(self.index), dtype=self.encoder.dtype, device=x.device)
        on.scatter_add_(1, self.slots[positions], (self.z[positions] > 0).to(on.dtype))
        pre = x.to(on.dtype) @ self.encoder.T + self.bias
        return ((pre * on) @ self.decoder).to(x.dtype)

    def along(self, gradient: Any) -> Any:
        """Gradients `[targets, T, d]` along the decoder rows of each token's active latents: `[targets, T, k]`."""
        import torch

        rows = self.decoder[self.slots]  # [T, k, d]
        return torch.einsum("ctd,tkd->ctk", gradient.to(rows.dtype), rows) * (self.z > 0)

    def of(self, latent: int, values: Any) -> tuple[np.ndarray, Any]:
        """Positions at which `latent` is active `[m]`, and there `values [..., T, k]` as `[..., m]`."""
        at = np.searchsorted(self.index, latent)
        if at >= len(self.index) or self.index[at] != latent:
            return np.zeros(0, np.int64), values[..., 0, :0]
        tokens, places = ((self.slots == int(at)) & (self.z > 0)).nonzero(as_tuple=True)
        return tokens.cpu().numpy(), values[..., tokens, places]

    def summed(self, values: Any) -> np.ndarray:
        """`values [..., T, k]` summed over tokens, by latent: `[..., u]` float64."""
        import torch

        flat = values.double().flatten(-2)
        out = torch.zeros(*flat.shape[:-1], len(self.index), dtype=torch.float64, device=flat.device)
        return out.index_add_(-1, self.slots.flatten(), flat).cpu().numpy()


def active_latents(
    dictionary: SparseDictionary, x: Any, positions: Sequence[int] | None = None, masked: bool = True
) -> Active:
    """What is active in one text, of its activations `x [T, d]`; nothing on massive tokens unless `masked` is false.

    `positions`: only these tokens. UserError where the dictionary is of another width, or what it makes is not finite.
    """
    import torch

    if x.shape[-1] != dictionary.d_model:
        raise UserError(
            f"a dictionary of width {dictionary.d_model} ({dictionary.name or dictionary.site})",
            f"one of the width of {dictionary.site}: {x.shape[-1]}", "a dictionary of this model and site",
        )  # fmt: skip
    with torch.no_grad():
        x = x.detach()
        z = dictionary.encode(x)
        if not bool(torch.isfinite(z).all()):
            raise UserError(f"latents of {dictionary.site} that are not finite", "finite activations and weights")
        keep = torch.tensor(calm(x.float().cpu().numpy()) if masked else np.ones(len(x), bool), device=x.device)
        if positions is not None:
            here = torch.zeros_like(keep)
            here[list(positions)] = True
            keep = keep & here
        on = (z > ACTIVE) & keep[:, None]
        index = on.any(0).nonzero()[:, 0]
        own, mask = z[:, index], on[:, index]
        width = int(mask.sum(1).max()) if len(index) else 0
        slots = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        kept = torch.where(mask, own, torch.zeros_like(own)).gather(1, slots)
        w = dictionary._tensors(x)
        return Active(
            dictionary.site, index.cpu().numpy(), slots, kept, w["encoder"][:, index].T.contiguous(),
            w["decoder"][index], w["encoder_bias"][index],
        )  # fmt: skip
