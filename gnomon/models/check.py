"""`gnomon check`: the model is proved, never guessed.

The full check takes seconds; `require` runs its quick part at every load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gnomon.errors import UserError
from gnomon.sites import COMPONENTS
from gnomon.types import Site

if TYPE_CHECKING:
    from gnomon.models.model import Model

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""Largest difference allowed, relative to the largest number compared. Float64 is loose because Hugging Face computes
norms and some softmaxes in float32 whatever the model's dtype; float32 because depth multiplies the last digit."""


@dataclass(frozen=True)
class CheckResult:
    """One law, whether it holds, and the number that shows it (a relative difference where it is one)."""

    name: str
    passed: bool
    value: float
    detail: str = ""


@dataclass(frozen=True)
class _Shift:
    """An edit for checks: adds a fixed pattern, scaled by strength and by each vector's own size."""

    site: Site
    strength: float = 1.0
    where: str | tuple[int, ...] = "all"

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        wave = torch.cos(torch.arange(x.shape[-1], device=x.device, dtype=torch.float32)).to(x.dtype)
        return x + self.strength * wave * x.abs().mean(-1, keepdim=True)


@dataclass(frozen=True)
class _Raise:
    """An edit that fails, to see whether the hooks go."""

    site: Site
    strength: float = 1.0
    where: str = "all"

    def edit(self, x: Any, rows: Any, positions: Any) -> Any:
        raise ZeroDivisionError("on purpose")


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """max |a - b| / max |b|."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30))


def _prompts(model: Model) -> list[list[int]]:
    """Four token lists of different lengths, the same on every machine."""
    ids = model.encode_text("The capital of Kenya is Nairobi, and two and three make five.") or [0]
    ids = [i for i in ids if i not in model.stop_ids] * 3
    return [ids[:13], ids[3:8], ids[1:20], ids[:2]]


def hooks_left(model: Model) -> int:
    """How many of our hooks, replaced forwards and attention switches remain on the model: 0 between calls."""
    count = 0
    for module in model.hf.modules():
        owned = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        count += sum(getattr(hook, "__module__", "").startswith("gnomon.") for hook in owned)
        replaced = module.__dict__.get("forward")  # accelerate puts its own there, for good
        count += getattr(replaced, "__module__", "").startswith("gnomon.")
    return count + (model.body.config._attn_implementation == "gnomon")


def _streams(model: Model, prompts: Sequence[Sequence[int]], layers: Sequence[int]) -> CheckResult:
    """resid_pre + attn_out + mlp_out = resid_post, and resid_mid between them, at every block."""
    parts = ("resid_pre", "attn_out", "mlp_out", "resid_post", *(() if model.parallel else ("resid_mid",)))
    out = model.forward(prompts, read=[Site(part, layer) for layer in layers for part in parts])
    worst, where = 0.0, 0
    for layer in layers:
        pre, attention, mlp, post = (out.values(Site(part, layer)) for part in parts[:4])
        gap = _gap(pre + attention + mlp, post)
        if not model.parallel:
            gap = max(gap, _gap(pre + attention, out.values(Site("resid_mid", layer))))
        if gap > worst:
            worst, where = gap, layer
    return CheckResult("streams add up", worst <= TOLERANCE[model.dtype], worst, f"worst at layer {where}")


def _reference(model: Model, prompts: Sequence[Sequence[int]]) -> CheckResult:
    """Logits of our padded batch equal Hugging Face's own, one unpadded prompt at a time."""
    ours = model.forward(prompts, logits="all").logits
    worst = 0.0
    with torch.no_grad():
        for row, prompt in enumerate(prompts):
            theirs = model.hf(torch.tensor([list(prompt)], device=model.device), use_cache=False).logits[0]
            worst = max(worst, _gap(ours[row, : len(prompt)], theirs))
    return CheckResult("logits equal Hugging Face's", worst <= TOLERANCE[model.dtype], worst)


def _facts(model: Model, prompts: Sequence[Sequence[int]]) -> CheckResult:
    """With norms from the family's row (kind, eps, gain, bias) in place of the modules', the logits stay the same."""
    plain = model.forward(prompts[:2], logits="last").logits
    with model.exact():
        ours = model.forward(prompts[:2], logits="last").logits
    gap = _gap(ours, plain)
    return CheckResult("norms are what the table says", gap <= TOLERANCE[model.dtype], gap)


def _edits(model: Model, prompts: Sequence[Sequence[int]], sites: Sequence[Site]) -> list[CheckResult]:
    """An edit at every site changes the logits; strength 0 does not change a bit."""
    prompts = prompts[:2]
    plain = model.forward(prompts, logits="last").logits
    least, deaf = float("inf"), ""
    for site in sites:
        changed = _gap(model.forward(prompts, edit=[_Shift(site)], logits="last").logits, plain)
        if changed < least:
            least, deaf = changed, str(site)
    same = model.forward(prompts, edit=[_Shift(site, 0.0) for site in sites], logits="last").logits
    moved = float((same - plain).abs().max())
    return [
        CheckResult("an edit changes the logits", least > 0, least, f"least at {deaf}"),
        CheckResult("strength 0 changes nothing", moved == 0, moved),
    ]


def _batching(model: Model, prompts: Sequence[Sequence[int]]) -> CheckResult:
    """Neither the batch, nor its padding, nor a cache that holds rows of different lengths moves the activations."""
    site = Site("resid_post", model.n_layers - 1)
    together = model.forward(prompts, read=[site])
    worst = 0.0
    for row, prompt in enumerate(prompts):
        alone = model.forward([prompt], read=[site]).acts[site][0]
        worst = max(worst, _gap(together.acts[site][row, : len(prompt)], alone))
    cache = model.new_cache()
    model.forward([prompt[:-1] for prompt in prompts], cache=cache, stop=model.n_layers)
    continued = model.forward([prompt[-1:] for prompt in prompts], read=[site], cache=cache).acts[site][:, 0]
    ends = torch.stack([together.acts[site][row, len(prompt) - 1] for row, prompt in enumerate(prompts)])
    worst = max(worst, _gap(continued, ends))
    return CheckResult("batch, padding and cache change nothing", worst <= TOLERANCE[model.dtype], worst)


def _decoding(model: Model, prompts: Sequence[Sequence[int]]) -> CheckResult:
    """Under a steering edit, cached decoding gives the activations and tokens of an uncached forward."""
    site, edit = Site("resid_post", model.n_layers - 1), _Shift(Site("resid_post", model.n_layers // 2), 0.5)
    made = model.generate(prompts, max_new_tokens=6, read=[site], positions=["last"], edit=[edit])
    texts = [[*prompt, *row.token_ids] for prompt, row in zip(prompts, made.rows, strict=True)]
    lens = [len(prompt) for prompt in prompts]
    again = model.forward(texts, read=[site], edit=[edit], prompt_lens=lens)
    ends = torch.stack([again.acts[site][row, len(text) - 1] for row, text in enumerate(texts)])
    gap = _gap(made.acts[site].last(), ends)
    scored = model.logprobs(texts, lens, edit=[edit])
    for row, logprobs in zip(made.rows, scored, strict=True):
        if len(logprobs):
            gap = max(gap, float(abs(row.logprobs - logprobs).max()) / 10)
    return CheckResult("cached and uncached decoding agree under steering", gap <= TOLERANCE[model.dtype], gap)


def _hooks_gone(model: Model, prompts: Sequence[Sequence[int]], sites: Sequence[Site]) -> CheckResult:
    """No hook, no replaced forward and no attention switch stays behind a call that fails in the middle."""
    for site in sites:
        try:
            model.forward(
                prompts[:1],
                read=[s for s in sites if s.head is None],
                edit=[_Raise(site)],
                grad=True,
                freeze=("pattern", "norm_scale", "gate"),
                logits="last",
            )
        except ZeroDivisionError:
            continue
        return CheckResult("hooks are gone after an exception", False, 1, f"the edit at {site} was not called")
    left = hooks_left(model)
    return CheckResult("hooks are gone after an exception", left == 0, left)


def _all_sites(model: Model, layers: Sequence[int]) -> list[Site]:
    names = [c for c in COMPONENTS if c != "embed" and not (c == "resid_mid" and model.parallel)]
    heads = [Site("z", layer, model.n_heads - 1) for layer in layers]
    return [Site("embed"), *(Site(name, layer) for layer in layers for name in names), *heads]


def check_model(model: Model) -> list[CheckResult]:
    """Every law, on four short prompts; sites at the first, middle and last block, streams at every block."""
    prompts = _prompts(model)
    layers = sorted({0, model.n_layers // 2, model.n_layers - 1})
    sites = _all_sites(model, layers)
    return [
        _streams(model, prompts, range(model.n_layers)),
        _reference(model, prompts),
        _facts(model, prompts),
        *_edits(model, prompts, sites),
        _batching(model, prompts),
        _decoding(model, prompts),
        _hooks_gone(model, prompts, sites),
    ]


def quick_check(model: Model) -> list[CheckResult]:
    """The part that every load runs, on one short prompt: streams, Hugging Face's logits, an edit, hooks gone."""
    prompts, site = _prompts(model)[1:2], Site("resid_post", model.n_layers // 2)
    return [
        _streams(model, prompts, range(model.n_layers)),
        _reference(model, prompts),
        _edits(model, prompts, [site])[0],
        _hooks_gone(model, prompts, [site]),
    ]


def require(model: Model) -> None:
    """Run the quick check; UserError naming what does not hold."""
    failed = [result for result in quick_check(model) if not result.passed]
    if failed:
        said = "; ".join(f"{r.name}: {r.value:.2g} {r.detail}".strip() for r in failed)
        raise UserError(
            f"{model.name} ({model.family}) is not the model that its family's table says ({said})",
            "every check to pass",
            f"run `gnomon check {model.name}`",
        )
