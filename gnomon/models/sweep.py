"""Many small patches of one text in one pass up the blocks: what each does to activations above it.

    x_s[p] <- x_s[p] + delta[p]   for the positions p of a patch;   read: activations of higher sites at one position

Three things are never run twice: the blocks below a patch, the tokens before its first position (their keys and values
are those of the clean pass), and the tokens behind the position that is read. What is left of every patch, a tail of
tokens through a few blocks, is laid end to end in one sequence, each patch joining it at its own layer and leaving it
after its last read: a token sees the clean keys before its own patch's first position, and its own patch's tail. So
there is no padding, and the clean keys are held once whatever the number of patches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gnomon.errors import UserError
from gnomon.halving import in_halves
from gnomon.models.devices import Carried
from gnomon.models.forward import _norms
from gnomon.models.freeze import Attention, attending
from gnomon.models.hooks import Taps, registered
from gnomon.models.layout import Layout
from gnomon.models.packed import Packed
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

ROOM = 128
"""Tokens in one pass up the blocks, at most (a longer tail goes alone): fewer waste the processor, and attention costs
their square. Between 64 and 512 the time a patch differs by a fifth on a CPU core."""
_DEPTH = ("embed", "resid_pre", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
_STREAM = ("embed", "resid_pre", "resid_post")


@dataclass(frozen=True, eq=False)
class SitePatch:
    """`delta [positions, d]` is added at `site` to the tokens `positions` (ascending); `reads`: sites to look at."""

    site: Site
    positions: tuple[int, ...]
    delta: torch.Tensor
    reads: tuple[Site, ...]


def _depth(site: Site) -> tuple[int, int]:
    return site.layer, _DEPTH.index(site.component)


def _stream_index(site: Site) -> int:
    """The block before which a stream's value stands: resid_post.3 is what enters block 4."""
    return site.layer + (site.component == "resid_post")


@dataclass(frozen=True, eq=False)
class _Add:
    """The deltas of all patches that edit one site inside a block, `[tokens of the pack, d]`."""

    site: Site
    delta: torch.Tensor
    where: str = "all"
    strength: float = 1.0

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        return (x + self.delta).to(x.dtype)


@dataclass(eq=False)
class _Riding:
    """One patch on its way up."""

    number: int
    patch: SitePatch
    first: int
    entry: int
    """The block whose input it joins."""
    inside: bool
    """Its delta is added inside block `entry`, not to the stream in front of it."""
    done: int
    """The block before which it leaves."""


class Sweep:
    """A text, run once clean and then as often as wanted with patches.

    Args:
        model: the model.
        tokens: the text.
        sites: every site that is patched or read; `clean[site] [at + 1, d]` holds its clean values.
        at: the position that is read (default: the last token). Later tokens change nothing there and are not run.

    Raises:
        UserError: a position outside the text, a site that the model lacks, or a head's site.
    """

    def __init__(self, model: Model, tokens: Sequence[int], sites: Sequence[Site | str], at: int | None = None) -> None:
        self.model, self.at = model, len(tokens) - 1 if at is None else at
        if not 0 <= self.at < len(tokens):
            raise UserError(f"position {self.at} of a text of {len(tokens)} tokens", "a token of the text")
        self.sites = model.sites(sites)
        if not self.sites or any(site.head is not None for site in self.sites):
            raise UserError(f"sites {[str(s) for s in self.sites]}", "sites of whole layers, one at least")
        last = max(_stream_index(site) - (site.component in _STREAM) for site in self.sites)
        streams = [Site("resid_pre", layer) for layer in range(last + 1)]
        self._cache = model.new_cache()
        out = model.forward([list(tokens[: self.at + 1])], read=[*streams, *self.sites], cache=self._cache)
        assert out.resid is not None
        self._streams = [out.acts[site][0] for site in streams] + [out.resid[0]]
        self.clean: Mapping[Site, torch.Tensor] = {site: out.acts[site][0] for site in self.sites}
        rotary = model.body._rotary(out.resid, torch.arange(self.at + 1, device=model.device)[None])
        self._rotary = [tuple(part[0].to(model.device) for part in pair) for pair in rotary]

    def run(
        self, patches: Sequence[SitePatch], room: int = ROOM, halved: list[int] | None = None
    ) -> list[dict[Site, torch.Tensor]]:
        """What stands at each patch's reads at position `at` once it is made: one `{site: [d]}` a patch, in order.

        `room`: tokens that ride together at most; results do not depend on it beyond rounding. Patches that do not fit
        into memory together ride in halves (`halving.in_halves`). UserError for a patch
        behind the position that is read, of another width, or of which something is read below it.
        """
        riding = sorted((self._ride(i, patch) for i, patch in enumerate(patches)), key=lambda r: (r.entry, -r.first))
        out: list[dict[Site, torch.Tensor]] = [{} for _ in patches]
        for pack in self._packs(riding, room):
            with self._setting() as attention:
                in_halves(lambda some, attention=attention: self._up(some, attention, out), pack, halved)
        return out

    # ---------------------------------------------------------------- preparing

    def _ride(self, number: int, patch: SitePatch) -> _Riding:
        at = patch.positions
        if not at or list(at) != sorted(set(at)) or at[0] < 0 or at[-1] > self.at:
            raise UserError(f"a patch at positions {list(at)}", f"ascending ones from 0 to {self.at}, which is read")
        if tuple(patch.delta.shape) != (len(at), self.model.site_shape(patch.site)):
            raise UserError(f"a patch {tuple(patch.delta.shape)} at {patch.site}",
                            f"{(len(at), self.model.site_shape(patch.site))}")  # fmt: skip
        known = set(self.sites)
        if not patch.reads or not known.issuperset((patch.site, *patch.reads)):
            raise UserError(f"a patch of {patch.site} read at {[str(s) for s in patch.reads]}",
                            "sites that the sweep was made with")  # fmt: skip
        below = [site for site in patch.reads if _depth(site) < _depth(patch.site)]
        if below:
            raise UserError(f"{below[0]} is read under a patch of {patch.site}", "a site above the patch")
        entry, inside = self._entry(patch)
        done = max(_stream_index(s) if s.component in _STREAM else s.layer + 1 for s in patch.reads)
        return _Riding(number, patch, at[0], entry, inside, done)

    def _entry(self, patch: SitePatch) -> tuple[int, bool]:
        """Where a patch joins, and whether inside that block. What a block adds to the stream last joins behind it."""
        site = patch.site
        if site.component in _STREAM:
            return _stream_index(site), False
        last = site.component == "mlp_out" or (site.component == "attn_out" and self.model.parallel)
        beyond = all(s.layer > site.layer or s.component == "resid_post" for s in patch.reads)
        return (site.layer + 1, False) if last and beyond else (site.layer, True)

    def _packs(self, riding: Sequence[_Riding], room: int) -> Iterator[list[_Riding]]:
        pack: list[_Riding] = []
        used = 0
        for one in riding:
            size = self.at - one.first + 1
            if pack and used + size > room:
                yield pack
                pack, used = [], 0
            pack.append(one)
            used += size
        if pack:
            yield pack

    @contextlib.contextmanager
    def _setting(self) -> Iterator[Attention | None]:
        """No graph; in exact mode norms and softmax in the model's own precision, as `Model.forward` does."""
        model = self.model
        eager = model.body.config._attn_implementation == "eager"
        attention = Attention(explicit=True) if model.is_exact and eager else None
        norms = _norms(model, frozenset()) or contextlib.nullcontext()
        with torch.no_grad(), norms, attending(model.body, attention):
            yield attention

    # ---------------------------------------------------------------- going up

    def _up(self, pack: Sequence[_Riding], attention: Attention | None, out: list[dict[Site, torch.Tensor]]) -> None:
        x = self._streams[0].new_empty(1, 0, self.model.d_model)
        aboard: list[_Riding] = []
        place: Packed | None = None
        for layer in range(min(r.entry for r in pack), max(r.done for r in pack) + 1):
            joining = [r for r in pack if r.entry == layer]
            if joining:
                x = torch.cat([x, *(self._tail(r, layer)[None] for r in joining)], dim=1)
                aboard, place = [*aboard, *joining], None
            ends = self._ends(aboard)
            for r, end in zip(aboard, ends, strict=True):
                for site in r.patch.reads:
                    if site.component in _STREAM and _stream_index(site) == layer:
                        out[r.number][site] = x[0, end].clone()
            leaving = [r for r in aboard if r.done == layer]
            if leaving:
                stay = torch.tensor([r.done != layer for r in aboard for _ in range(self._size(r))], device=x.device)
                x, place = x[:, stay], None
                aboard = [r for r in aboard if r.done != layer]
            if not aboard:
                continue
            place = place or Packed(self.model.body, self._cache, [r.first for r in aboard], self.at)
            x = self._block(layer, x, aboard, place, attention, out)

    def _size(self, r: _Riding) -> int:
        return self.at - r.first + 1

    def _ends(self, aboard: Sequence[_Riding]) -> list[int]:
        ends, total = [], 0
        for r in aboard:
            total += self._size(r)
            ends.append(total - 1)
        return ends

    def _tail(self, r: _Riding, layer: int) -> torch.Tensor:
        """The clean stream before block `layer` from the patch's first position on, the delta in it."""
        tail = self._streams[layer][r.first :]
        return tail if r.inside else (tail + self._spread(r, tail)).to(tail.dtype)

    def _spread(self, r: _Riding, like: torch.Tensor) -> torch.Tensor:
        """The patch's delta on every token of its tail, `[tokens, d]`, float32 or wider."""
        wide = torch.promote_types(like.dtype, torch.float32)
        out = torch.zeros(self._size(r), r.patch.delta.shape[1], dtype=wide, device=like.device)
        index = torch.tensor(r.patch.positions, device=like.device) - r.first
        out[index] = r.patch.delta.to(device=like.device, dtype=wide)
        return out

    def _block(
        self, layer: int, x: torch.Tensor, aboard: Sequence[_Riding], place: Packed, attention: Attention | None,
        out: list[dict[Site, torch.Tensor]],
    ) -> torch.Tensor:  # fmt: skip
        """Run one block on the pack, with the patches made and read inside it."""
        body = self.model.body
        inner = [(r, s) for r in aboard for s in r.patch.reads if s.component not in _STREAM and s.layer == layer]
        layout = Layout([x.shape[1]], x.shape[1], x.device)
        taps = Taps([s for _, s in inner], self._edits(layer, x, aboard), self.model.d_head, layout)
        if attention is not None:
            attention.masks = place.masks
        extra: dict[str, Any] = {body.family.cache_argument: place.keys}
        if self._rotary:
            extra["position_embeddings"] = tuple(part[place.positions][None] for part in self._rotary[layer])
        with registered(body, taps):
            made = body.block(layer, x, place.given[layer], extra, Carried()).to(self.model.device)
        ends = dict(zip((id(r) for r in aboard), self._ends(aboard), strict=True))
        for r, site in inner:
            out[r.number][site] = taps.values[site][0, ends[id(r)]].clone()
        return made

    def _edits(self, layer: int, x: torch.Tensor, aboard: Sequence[_Riding]) -> list[_Add]:
        edits = []
        for site in dict.fromkeys(r.patch.site for r in aboard if r.inside and r.entry == layer):
            width = self.model.site_shape(site)
            parts = [
                self._spread(r, x) if r.inside and r.entry == layer and r.patch.site == site
                else x.new_zeros(self._size(r), width)
                for r in aboard
            ]  # fmt: skip
            edits.append(_Add(site, torch.cat(parts)))
        return edits
