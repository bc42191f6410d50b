"""One batch through the model: read, edit, gradients, frozen patterns and norm scales."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gnomon.errors import UserError
from gnomon.models import freeze as freezing
from gnomon.models.body import NORMS
from gnomon.models.cache import KVCache
from gnomon.models.hooks import Taps, registered
from gnomon.models.layout import Layout
from gnomon.types import Intervention, Site

if TYPE_CHECKING:
    from gnomon.models.model import Logits, Model, Out


def forward(
    model: Model,
    tokens: Sequence[Sequence[int]] | torch.Tensor,
    read: Sequence[Site],
    edit: Sequence[Intervention],
    *,
    grad: bool,
    freeze: Sequence[str],
    logits: Logits,
    cache: KVCache | None,
    patterns: Sequence[int],
    pattern_at: str | Sequence[int],
    norm_scales: Sequence[str],
    start: tuple[int, torch.Tensor] | None,
    stop: int | None,
    prompt_lens: Sequence[int] | None,
    rows: Sequence[int] | None,
) -> Out:
    """Run one batch, right-padded, without an attention mask where causality needs none.

    Args:
        tokens: a list of token lists, or `[rows, width]`. Rows keep their order; batch rows of similar length.
        read: sites to return. Only as many blocks run as the reads, logits, patterns and scales need.
        edit: interventions, in order; strength 0 does nothing. `prompt_lens` (default: everything is prompt) gives
            "prompt", "generated" and "last_prompt" their meaning; `rows` replaces the row numbers edits are told.
        grad: build a graph from the first block that is read or edited (else from the embedding), so that
            `torch.autograd.grad` of anything returned by anything read works. Weights need no gradient.
        freeze: "pattern", "norm_scale", "gate": held constant in that graph.
        logits: "none", "last", "all", positions for every row, or a list of positions for each row.
        cache: a `new_cache()` to fill, or a filled one to continue from (tokens are then the new ones only). With
            `grad` a filled cache is a prefix that is read and not extended.
        patterns: layers whose attention rows are returned; pattern_at: "last" real token, "all", or one position a
            row (counted within this chunk).
        norm_scales: "ln1.3", "ln2.0", "ln1_post.3", "ln2_post.3", "ln_final".
        start: (layer, resid_pre of that layer `[rows, width, d_model]`): only blocks from there on run, so a prefix
            that an edit does not touch is not run again. `tokens` still give the lengths.
        stop: run only blocks before this one, whatever is read.
    """
    from gnomon.models.model import Out

    ids, counts = model.batch(tokens)
    starts = shifts = None
    if cache is not None:
        cache.begin(len(counts), ids.shape[1], model.device)
        starts, shifts = cache.lengths, cache.shifts
    layout = Layout(counts, ids.shape[1], model.device, starts, prompt_lens, rows, shifts)
    if grad and any(site.head is not None for site in read):
        raise UserError("a gradient at one head's z", "z of the whole layer", "read z.L and slice its gradient")
    frozen = freezing.check_freezes(freeze)
    attention = _attention(model, layout, patterns, pattern_at, "pattern" in frozen)
    taps = Taps(read, edit, model.d_head, layout)
    scales: dict[str, torch.Tensor] = {}
    last = _stop(model, taps, stop, logits != "none", patterns, norm_scales)
    with freezing.entered(
        contextlib.nullcontext() if grad else torch.no_grad(),
        torch.enable_grad() if grad else None,
        _norms(model, frozen),
        registered(model.body, taps),
        _gates(model) if "gate" in frozen else None,
        *_scale_hooks(model, norm_scales, scales),
        freezing.attending(model.body, attention),
    ):
        resid = _run(model, ids, layout, taps, start, last, cache, attention, grad)
        found = _logits(model, resid, layout, logits)
        if "ln_final" in norm_scales and logits == "none":
            scales["ln_final"] = model.body.norm("ln_final").scale(resid).squeeze(-1)
    if cache is not None and not (grad and cache.get_seq_length()):
        cache.advance(counts)
    maps = {k: v.to(model.device) for k, v in attention.patterns.items()} if attention is not None else {}
    return Out(taps.values, counts, found, maps, scales, cache, resid)


def _stop(
    model: Model, taps: Taps, stop: int | None, logits: bool, patterns: Sequence[int], scales: Sequence[str]
) -> int:
    """How many blocks have to run: all for logits or when nothing is asked, else up to the last one read."""
    if stop is not None:
        if not 0 <= stop <= model.n_layers:
            raise UserError(f"stop is {stop}", f"a block count from 0 to {model.n_layers}")
        return stop
    asked = [taps.last_layer, *patterns, *(int(name.partition(".")[2] or model.n_layers) for name in scales)]
    if logits or not (taps.reads or patterns or scales):
        return model.n_layers
    return min(max(asked) + 1, model.n_layers)


def _run(
    model: Model,
    ids: torch.Tensor,
    layout: Layout,
    taps: Taps,
    start: tuple[int, torch.Tensor] | None,
    stop: int,
    cache: KVCache | None,
    attention: Any,
    grad: bool,
) -> torch.Tensor:
    run = partial(model.body.run, layout=layout, taps=taps, cache=cache, attention=attention)
    first = 0
    if start is not None:
        first, x = start
        if not 0 <= first <= model.n_layers or x.shape != (*ids.shape, model.d_model):
            raise UserError(
                f"start at block {first} with {tuple(x.shape)}",
                f"a block from 0 to {model.n_layers} and its resid_pre {(*ids.shape, model.d_model)}",
            )
    else:
        with torch.no_grad():
            x = model.body.embed(ids, layout)
    if grad and not x.requires_grad:
        entry = min(max(taps.first_layer or 0, first), stop)
        if entry > first:  # nothing before this block is read or edited: no graph is needed there
            with torch.no_grad():
                x = model.body.run(x, layout, None, first, entry, cache, attention)
        x = x.detach().requires_grad_()
        if start is None and entry == 0:
            x = taps.visit("embed", 0, x)
        return run(x, first=entry, stop=stop)
    if start is None:
        x = taps.visit("embed", 0, x)
    return run(x, first=first, stop=stop)


def _logits(model: Model, resid: torch.Tensor, layout: Layout, wanted: Logits) -> Any:
    if isinstance(wanted, str):
        match wanted:
            case "none":
                return None
            case "all":
                return model.body.logits(resid)
            case "last":
                ends = torch.tensor(layout.counts, device=resid.device) - 1
                return model.body.logits(resid[torch.arange(len(ends), device=resid.device), ends])
        raise UserError(f"logits {wanted!r}", "none, last, all, or positions")
    nested = [list(p) if isinstance(p, Sequence) else p for p in wanted]
    if all(isinstance(p, int) for p in nested):
        return model.body.logits(resid[:, nested])
    if len(nested) != resid.shape[0] or not all(isinstance(p, list) for p in nested):
        raise UserError(f"logits for {len(nested)} lists of positions", f"one list for each of {resid.shape[0]} rows")
    chosen = [resid[row, positions] for row, positions in enumerate(nested)]
    return list(model.body.logits(torch.cat(chosen)).split([len(c) for c in chosen]))


def _attention(
    model: Model, layout: Layout, layers: Sequence[int], at: str | Sequence[int], frozen: bool
) -> freezing.Attention | None:
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise UserError(f"the pattern of layer {layer}", f"layers are 0 to {model.n_layers - 1}")
    eager = model.body.config._attn_implementation == "eager"
    explicit = frozen or (model.is_exact and eager)
    if not (layers or explicit):
        return None
    if isinstance(at, str):
        if at not in ("last", "all"):
            raise UserError(f"pattern_at {at!r}", "last, all, or one position a row")
        slots = [count - 1 for count in layout.counts] if at == "last" else None
    else:
        slots = list(at)
        if len(slots) != len(layout.counts) or any(not 0 <= s < layout.width for s in slots):
            raise UserError(f"pattern_at {slots}", f"one position below {layout.width} for each of the rows")
    rows = None if slots is None else torch.tensor(slots, device=layout.device)[:, None]
    # a model that runs eager attention keeps doing so (by our hand) while its patterns are read
    return freezing.Attention(frozenset(layers), rows, explicit or eager, frozen)


def _norms(model: Model, frozen: frozenset[str]) -> Any:
    body, freeze = model.body, "norm_scale" in frozen
    if not (freeze or model.is_exact):
        return None
    chosen = body.stream_norms()
    if not model.is_exact:
        return freezing.norms_replaced(chosen, freeze)
    return freezing.entered(
        freezing.norms_replaced(chosen, freeze), freezing.norms_replaced(body.head_norms(), frozen=False)
    )


def _gates(model: Model) -> Any:
    family = model.body.family
    modules = [block.get_submodule(family.activation) for block in model.body.blocks]
    return freezing.hooks_on(modules, freezing.gate_frozen(family.gated))


def _scale_hooks(model: Model, names: Sequence[str], out: dict[str, torch.Tensor]) -> list[Any]:
    contexts: list[Any] = []
    for name in names:
        kind, _, layer = name.partition(".")
        if kind == "ln_final" and not layer:
            module: nn.Module = model.body.final_norm
        elif kind in NORMS and layer.isdigit():
            model.norm(kind, int(layer))  # UserError where the family or the layer lacks it
            module = model.body.part(int(layer), kind)
        else:
            raise UserError(f"unknown norm {name!r}", f"{', '.join(n + '.LAYER' for n in NORMS)} or ln_final")
        contexts.append(freezing.hooks_on([module], _store_scale(model, module, name, out), before=True))
    return contexts


def _store_scale(model: Model, module: nn.Module, name: str, out: dict[str, torch.Tensor]) -> Callable[..., None]:
    norm = model.body.facts(module)

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        out[name] = norm.scale(args[0]).squeeze(-1).to(model.device)

    return hook
