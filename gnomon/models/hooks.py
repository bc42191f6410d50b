"""Reading and editing activations inside the unmodified Hugging Face model, with hooks that are always removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gnomon.models.layout import Layout, Selection
from gnomon.types import Intervention, Site

if TYPE_CHECKING:
    from gnomon.models.body import Body

Key = tuple[str, int]
IN_LOOP = ("embed", "resid_pre", "resid_post")
"""Sites that the loop over blocks sees itself; the others need a hook inside the block."""


class Taps:
    """What is read and edited during one call: `visit` is called with every activation that somebody asked for.

    Edits at one site apply in the order given; a read at an edited site sees the edited value. `keep` shortens what
    is stored (`x[:, -1:]`, say); `layout` says which slots are real tokens and may change between steps.
    """

    def __init__(
        self,
        read: Sequence[Site],
        edit: Sequence[Intervention],
        d_head: int,
        layout: Layout | None = None,
        keep: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.d_head, self.layout, self.keep = d_head, layout, keep
        self.reads: dict[Key, list[Site]] = {}
        self.edits: dict[Key, list[Intervention]] = {}
        self.values: dict[Site, torch.Tensor] = {}
        for site in dict.fromkeys(read):
            self.reads.setdefault((site.component, site.layer), []).append(site)
        for intervention in edit:
            if intervention.strength != 0:
                site = intervention.site
                self.edits.setdefault((site.component, site.layer), []).append(intervention)
        self.keys = self.reads.keys() | self.edits.keys()

    @property
    def first_layer(self) -> int | None:
        """The first block whose activations are read or edited; None where there is none."""
        return min((layer for _, layer in self.keys), default=None)

    @property
    def last_layer(self) -> int:
        """The last block that has to run for the reads; -1 where the embedding is enough."""
        return max((-1 if c == "embed" else layer for c, layer in self.reads), default=-1)

    def visit(self, component: str, layer: int, x: torch.Tensor, in_place: bool = False) -> torch.Tensor:
        """Edit `x [rows, width, d]`, store what is read, return the edited tensor (x itself where `in_place`).

        Edits and reads see the layout's device, wherever x is.
        """
        key = (component, layer)
        for intervention in self.edits.get(key, ()):
            x = self._edited(x, intervention, in_place)
        reads = self.reads.get(key, ())
        home = x.device if self.layout is None else self.layout.device
        seen = x
        if reads and home != x.device and x.requires_grad and torch.is_grad_enabled():
            seen = x.to(home)  # what is handed out lies on the way to everything above it
            x = x.copy_(seen.to(x.device)) if in_place else seen.to(x.device)
        for site in reads:
            kept = seen if self.keep is None else self.keep(seen)
            self.values[site] = (kept if site.head is None else kept[..., self._head(site)]).to(home)
        return x

    def _head(self, site: Site) -> slice:
        assert site.head is not None
        return slice(site.head * self.d_head, (site.head + 1) * self.d_head)

    def _edited(self, x: torch.Tensor, intervention: Intervention, in_place: bool) -> torch.Tensor:
        assert self.layout is not None
        selection = self.layout.select(intervention.where)
        if selection is None:
            return x
        columns = slice(None) if intervention.site.head is None else self._head(intervention.site)
        flat = x.view(-1, x.shape[-1]) if in_place else x.reshape(-1, x.shape[-1])
        index = None if selection.index is None else selection.index.to(x.device)
        old = flat[:, columns] if index is None else flat[:, columns].index_select(0, index)
        if in_place:
            old = old.clone()  # an edit may keep its input for a backward pass, and x is about to be overwritten
        new = self._called(intervention, old.to(self.layout.device), selection).to(x.device)
        if not in_place and index is None and intervention.site.head is None:
            return new.view(x.shape)
        out = flat if in_place else flat.clone()
        if index is None:
            out[:, columns] = new
        else:
            out[index, columns] = new
        return x if in_place else out.view(x.shape)

    @staticmethod
    def _called(intervention: Intervention, old: torch.Tensor, selection: Selection) -> torch.Tensor:
        new = intervention.edit(old, selection.rows, selection.positions)
        if _kind(new) != _kind(old):
            raise ValueError(
                f"{type(intervention).__name__} at {intervention.site} returned {_kind(new)}; "
                f"an edit keeps shape, dtype and device: {_kind(old)}"
            )
        return new


def _kind(x: Any) -> tuple[Any, ...]:
    return (tuple(x.shape), x.dtype, x.device) if isinstance(x, torch.Tensor) else (type(x).__name__,)


@contextmanager
def registered(body: Body, taps: Taps) -> Iterator[None]:
    """Hook the blocks for the sites of `taps` that lie inside them; every hook is gone on exit, also by exception."""
    handles: list[Any] = []
    try:
        for component, layer in sorted(taps.keys):
            if component not in IN_LOOP:
                handles.append(_hook(body, taps, component, layer))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(body: Body, taps: Taps, component: str, layer: int) -> Any:
    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (taps.visit(component, layer, args[0]), *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        return taps.visit(component, layer, out)

    def stream(module: nn.Module, args: tuple[Any, ...]) -> None:
        # The block holds this very tensor as its skip connection, so an edit in place reaches both branches exactly.
        taps.visit(component, layer, args[0], in_place=True)

    match component:
        case "z":
            return body.part(layer, "o_proj").register_forward_pre_hook(before)
        case "mlp_post":
            return body.part(layer, "down_proj").register_forward_pre_hook(before)
        case "resid_mid":
            return body.part(layer, "ln2").register_forward_pre_hook(stream)
        case "attn_out" | "mlp_out":
            return body.part(layer, component).register_forward_hook(after)
    raise ValueError(f"no hook for {component}")
