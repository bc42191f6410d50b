"""Edges between dictionary latents: gradients of a target latent by way of every source latent that is active.

    G = dz_v[t] / dx_a[s] . d_u          A = sum_s z_u[s] G          u: source at site a, v: target at site b after a

with z_v[t] = x_b[t] . e_v + b_v, the pre-activation, which is the activation where v is active. -A predicts what taking
u away does to v, sum (z' - z) G what setting it to z' does. Kinds, by what lies strictly between a and b and has a
dictionary (x^ its reconstruction from the latents that are active, sg stops the gradient):

    total      nothing is replaced
    mediated   every x becomes x^ + sg(x - x^), less what passes by all of them (0 where one is of the whole stream)
    dark       every x becomes sg(x^) + (x - x^): through what the dictionaries leave over
    mixed      total - mediated - dark, where two or more lie between; with one between it is 0

Values never change, only gradients. Massive tokens have no latents here. Sources: Marks et al. 2024 (arXiv 2403.19647),
Ge et al. 2024 (arXiv 2405.13868); one forward a kind, and chunks of targets in one batched backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gnomon.dictionaries.base import SparseDictionary
from gnomon.errors import UserError
from gnomon.halving import in_halves
from gnomon.paths.active import Active
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

KINDS = ("total", "mediated", "dark", "mixed")
CHUNK = 16
"""Targets of one batched backward."""
_ORDER = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
_STREAM = ("resid_pre", "resid_mid", "resid_post")
Mode = Literal["total", "mediated", "dark", "cut"]


def depth(site: Site | str) -> tuple[int, int]:
    """Where a site stands on the way up: an edge goes from a smaller to a larger one."""
    site = Site.parse(site)
    return (-1, 0) if site.component == "embed" else (site.layer, _ORDER.index(site.component))


def between(source: Site, target: Site, sites: Sequence[Site]) -> list[Site]:
    """Those of `sites` that lie strictly between two."""
    return [s for s in sites if depth(source) < depth(s) < depth(target)]


@dataclass(frozen=True, eq=False)
class Target:
    """Latent `index` at `site`, read at token `position`: x . encoder + bias."""

    site: Site
    index: int
    position: int
    encoder: Any
    """`[d]`."""
    bias: float

    @classmethod
    def of(cls, dictionary: SparseDictionary, index: int, position: int, like: Any) -> Target:
        """Of a dictionary, on the device and in the precision of `like`. UserError for a latent that is not there."""
        if not 0 <= index < dictionary.d_sae:
            raise UserError(f"latent {index} of {dictionary.site}", f"0 to {dictionary.d_sae - 1}")
        w = dictionary._tensors(like)
        column = w["encoder"][:, index].clone()
        return cls(dictionary.site, int(index), int(position), column, float(w["encoder_bias"][index]))


@dataclass(eq=False)
class _Passing:
    """An edit that changes no value: what passes on is the same, its gradient is that of the mode. `seen`: x before."""

    site: Site
    mode: Mode
    active: Sequence[Active | None]
    where: str = "all"
    strength: float = 1.0
    seen: Any = field(default=None)

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        import torch

        self.seen = x
        if self.mode == "total":
            return x
        if self.mode == "cut":
            return _leaf(x.detach())
        parts = []
        for row, active in enumerate(self.active):
            mine = rows == row
            here = x[mine]
            parts.append(torch.zeros_like(here) if active is None else active.rebuilt(here, positions[mine]))
        through = torch.cat(parts)  # rows come in order
        if self.mode == "dark":
            through = x - through
        return _leaf(x.detach() + (through - through.detach()))


def _leaf(x: Any) -> Any:
    """x, of which gradients can be asked though nothing below it has any: it may itself be a source."""
    return x if x.requires_grad else x.requires_grad_()


def gradients(
    model: Model,
    texts: Sequence[Sequence[int]],
    active: Sequence[Mapping[Site, Active]],
    targets: Sequence[Sequence[Target]],
    mode: Mode = "total",
    chunk: int = CHUNK,
    sources: Sequence[Site] | None = None,
    halved: list[int] | None = None,
) -> list[dict[Site, Any]]:
    """dz_v[t] / dx_a[s] . d_u for every target v of a text and every latent u active in it, in one mode.

    Args:
        texts: token lists, run as one batch.
        active: of each text, what is active at every site that has a dictionary (all sites of all texts alike).
        targets: of each text.
        mode: total; mediated and dark as above, not yet less what passes by; cut: what passes by every dictionary.
        sources: sites of sources; all that have a dictionary unless given.
        halved: where a chunk of targets that does not fit is noted; it then runs in halves.

    Returns:
        For each text, by site: `[targets of the text, T, k]`, as `Active.slots`. A site that is below no target is left
        out; of one that is below some only, the others have 0.
    """
    import torch

    sites = sorted({s for one in active for s in one} | {t.site for some in targets for t in some}, key=depth)
    passing = {s: _Passing(s, mode if any(s in a for a in active) else "total", [a.get(s) for a in active])
               for s in sites}  # fmt: skip
    top = max((depth(t.site) for some in targets for t in some), default=(-1, 0))
    read = [s for s in (sites if sources is None else sorted(sources, key=depth)) if depth(s) < top]
    found = model.forward(texts, read=read, edit=[p for p in passing.values() if depth(p.site) <= top], grad=True,
                          stop=min(top[0] + 1, model.n_layers))  # fmt: skip
    starts = found.offsets
    most = max((len(some) for some in targets), default=0)
    acts = [found.acts[s] for s in read]
    out: list[dict[Site, list[Any]]] = [{s: [] for s in read} for _ in texts]
    with torch.enable_grad():
        values = [[_value(passing[t.site].seen, int(starts[i]), t) for t in some] for i, some in enumerate(targets)]
        joined = [torch.stack([some[c] for some in values if c < len(some)]).sum() for c in range(most)]
    for start in range(0, most, chunk):
        parts = in_halves(lambda some: (len(some), _backward(some, acts)), joined[start : start + chunk], halved)
        part = [_whole([(n, g[k]) for n, g in parts]) for k in range(len(read))]
        for i, some in enumerate(targets):
            here = max(0, min(len(some) - start, chunk))
            for s, g in zip(read, part, strict=True):
                one = active[i].get(s)
                if one is None or not here:
                    continue
                length = found.lengths[i]
                zero = torch.zeros(here, *one.z.shape, dtype=one.z.dtype, device=one.z.device)
                out[i][s].append(zero if g is None else one.along(g[:here, i, :length]))
    return [{s: torch.cat(parts) for s, parts in one.items() if parts} for one in out]


def _value(seen: Any, start: int, target: Target) -> Any:
    """The target's pre-activation as a scalar of the graph."""
    return seen[start + target.position].to(target.encoder.dtype) @ target.encoder + target.bias


def _whole(parts: Sequence[tuple[int, Any]]) -> Any:
    """Gradients of a chunk `[values, *act.shape]` from those of its parts (how many values, theirs or None)."""
    import torch

    like = next((g for _, g in parts if g is not None), None)
    if like is None:
        return None
    return torch.cat([like.new_zeros(n, *like.shape[1:]) if g is None else g for n, g in parts])


def _backward(values: Sequence[Any], acts: Sequence[Any]) -> list[Any]:
    """Gradients of several scalars by several tensors in one backward: `[values, *act.shape]` each, None where none."""
    import torch

    if not acts or not any(v.requires_grad for v in values):
        return [None] * len(acts)
    stacked = torch.stack(list(values))
    if len(values) == 1:
        found = torch.autograd.grad(stacked[0], acts, retain_graph=True, allow_unused=True)
        return [None if g is None else g[None] for g in found]
    eye = torch.eye(len(values), dtype=stacked.dtype, device=stacked.device)
    return list(torch.autograd.grad(stacked, acts, eye, retain_graph=True, allow_unused=True, is_grads_batched=True))


def by_kind(
    model: Model,
    texts: Sequence[Sequence[int]],
    active: Sequence[Mapping[Site, Active]],
    targets: Sequence[Sequence[Target]],
    kinds: Sequence[str] = ("total",),
    chunk: int = CHUNK,
    halved: list[int] | None = None,
) -> dict[str, list[dict[Site, Any]]]:
    """Gradients of every kind asked for (see `gradients`): by kind, of each text, by source site.

    NaN where a kind says nothing: mediated and dark with no dictionary between, mixed with fewer than two, all of them
    for a site that is not below that target. Sites below no target are left out.
    """
    import torch

    sites = sorted({s for one in active for s in one}, key=depth)
    pairs = {(s, t.site) for some in targets for t in some for s in sites}
    lie = {pair: between(*pair, sites) for pair in pairs}
    split = any(lie.values()) and bool(set(kinds) - {"total"})
    around = split and any(b and not any(s.component in _STREAM for s in b) for b in lie.values())
    asked: dict[Mode, bool] = {
        "total": "total" in kinds or ("mixed" in kinds and split),
        "mediated": split and bool({"mediated", "mixed"} & set(kinds)),
        "dark": split and bool({"dark", "mixed"} & set(kinds)),
        "cut": around and bool({"mediated", "mixed"} & set(kinds)),
    }
    modes: list[Mode] = [mode for mode, used in asked.items() if used]
    found = {mode: gradients(model, texts, active, targets, mode, chunk, None, halved) for mode in modes}
    out: dict[str, list[dict[Site, Any]]] = {kind: [] for kind in kinds}
    for i, some in enumerate(targets):
        here = next(iter(found.values()), [{}] * len(texts))[i] if found else {}
        for kind in kinds:
            by_site = {}
            for s in here:
                value = _of_kind(kind, {mode: found[mode][i][s] for mode in modes}, here[s])
                least = {"total": 0, "mixed": 2}.get(kind, 1)
                silent = [len(lie[s, t.site]) < least or depth(s) >= depth(t.site) for t in some]
                silent = torch.tensor(silent, device=value.device)[:, None, None]
                by_site[s] = torch.where(silent, torch.nan, value)
            out[kind].append(by_site)
    return out


def _of_kind(kind: str, g: Mapping[str, Any], like: Any) -> Any:
    import torch

    if kind in ("total", "dark"):
        return g.get(kind, torch.full_like(like, torch.nan))
    if "mediated" not in g:
        return torch.full_like(like, torch.nan)
    mediated = g["mediated"] - g["cut"] if "cut" in g else g["mediated"]
    return mediated if kind == "mediated" else g["total"] - mediated - g["dark"]
