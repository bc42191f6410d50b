"""What step neurons reads off the model: activations, gradient x activation, and real ablations, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gnomon.errors import UserError
from gnomon.halving import marked, run_halving
from gnomon.lens.ablate import single_neuron_effects
from gnomon.lens.gradient import counted, products
from gnomon.lens.readout import Readout, margin, target_logit, target_logprob
from gnomon.lens.texts import ReadText
from gnomon.methods.shuffled import MASSIVE
from gnomon.step import ModelSpec
from gnomon.types import Site
from gnomon.writer import Shard, Writer

if TYPE_CHECKING:
    from gnomon.models.model import Model

ReadoutName = Literal["logprob", "logit", "margin"]
READOUTS = {"logprob": target_logprob, "logit": target_logit, "margin": margin}


def readout_of(name: ReadoutName, model: Model, texts: Sequence[ReadText]) -> Readout:
    """The readout of each text's right answer; UserError where a text's answer is not what comes next."""
    missing = sum(text.target_token < 0 for text in texts)
    if missing:
        raise UserError(
            f"the right answer does not come next in {missing} of {len(texts)} rows (words stand before it)",
            "position: before_answer",
        )
    return READOUTS[name](model, [text.target_token for text in texts])


@dataclass(frozen=True)
class Measured:
    """A shard of texts whose activations are wanted; `gradient`: and gradient x activation and moments (fit)."""

    texts: tuple[ReadText, ...]
    gradient: bool


@dataclass(frozen=True)
class Ablated:
    """A shard: texts in which single neurons of one layer are really set to zero, one at a time."""

    texts: tuple[ReadText, ...]
    layer: int
    neurons: tuple[int, ...]


@dataclass
class NeuronWorker:
    """One worker for all stages, so that their shards share one numbering."""

    spec: ModelSpec
    path: str
    layers: tuple[int, ...]
    readout: ReadoutName
    last_k: int | None
    largest: bool
    """Keep the largest activation over the counted tokens, where the AUROC asks for it, instead of the last one."""
    batch_size: int

    def open(self) -> None:
        """Load the model."""
        self.model = self.spec.load()

    def __call__(self, shard: tuple[int, Measured | Ablated]) -> None:
        """Do one shard and write its files."""
        index, work = shard
        self.halved: list[int] = []
        files = Writer.attach(self.path).shard(index)
        if isinstance(work, Ablated):
            self.ablate(work, files)
        else:
            self.measure(work, files)
        files.finish(marked(self.halved))

    def ablate(self, work: Ablated, files: Shard) -> None:
        """`part/real` `[texts, neurons]`: the readout after minus before."""
        readout = readout_of(self.readout, self.model, work.texts)
        tokens = [text.tokens for text in work.texts]
        found = single_neuron_effects(
            self.model, tokens, work.layer, work.neurons, readout, last_k=self.last_k, halved=self.halved
        )
        files.array("part/real", found[..., 0])

    def measure(self, work: Measured, files: Shard) -> None:
        """`part/act [texts, layers, d_mlp]` for the AUROC; for fit texts also `read` (at the read position, times the
        scale of a norm after the MLP), `final_scale [texts]`, `output [texts, d]`, `grad_act`, and `moments`
        `[layers, 3, d_mlp]` with `counts [layers]`."""
        parts: dict[str, list[np.ndarray]] = {}
        moments, counts = np.zeros((len(self.layers), 3, self.model.d_mlp)), np.zeros(len(self.layers), np.int64)
        for start in range(0, len(work.texts), self.batch_size):
            batch = work.texts[start : start + self.batch_size]
            for found, extra in run_halving(lambda some: [self.batch(some, work.gradient)], batch, self.halved):
                for name, value in found.items():
                    parts.setdefault(name, []).append(value)
                if work.gradient:
                    moments += extra["moments"]
                    counts += extra["counts"]
        for name, values in parts.items():
            files.array(f"part/{name}", np.concatenate(values))
        if work.gradient:
            files.array("part/moments", moments)
            files.array("part/counts", counts)

    def batch(
        self, texts: Sequence[ReadText], gradient: bool
    ) -> tuple[dict[str, np.ndarray], Mapping[str, np.ndarray]]:
        """One batch: arrays of its texts, and sums over its tokens."""
        import torch

        model, layers = self.model, self.layers
        last = Site("resid_post", model.n_layers - 1)
        sites = [Site("mlp_post", layer) for layer in layers]
        stream = [Site("resid_post", layer) for layer in layers] if gradient else []
        post = bool(model.body.family.ln2_post)
        names = ["ln_final", *(f"ln2_post.{layer}" for layer in layers if post)] if gradient else []
        out = model.forward(
            [t.tokens for t in texts], read=list(dict.fromkeys([*sites, *stream, last])), grad=gradient,
            norm_scales=names,
        )  # fmt: skip
        lengths = torch.tensor(out.lengths, device=model.device)
        at, ends = torch.arange(len(texts), device=model.device), lengths - 1
        acts = [out.acts[site] for site in sites]
        keep = counted(lengths, acts[0].shape[1], self.last_k)
        with torch.no_grad():
            if self.largest:
                own = [a.masked_fill(~keep[..., None], -torch.inf).amax(1) for a in acts]
            else:
                own = [a[at, ends] for a in acts]
        arrays = {"act": _numpy(torch.stack(own, 1))}
        if not gradient:
            return arrays, {}
        x = out.acts[last][at, ends]
        with torch.enable_grad():
            value = readout_of(self.readout, model, texts)(x, at)
        every = products(value.sum(), acts, lengths, self.last_k)
        arrays["grad_act"] = _numpy(torch.stack([p.sum(1) for p in every], 1))
        read = torch.stack([a[at, ends] for a in acts], 1).detach()
        if post:
            scales = [out.norm_scales[f"ln2_post.{layer}"][at, ends] for layer in layers]
            read = read * torch.stack(scales, 1)[..., None].to(read.dtype)
        arrays["read"] = _numpy(read)
        arrays["final_scale"] = _numpy(out.norm_scales["ln_final"][at, ends])
        arrays["output"] = _numpy(model.norm("ln_final").apply(x))
        return arrays, self._moments(acts, [out.acts[s] for s in stream], keep, lengths)

    def _moments(self, acts: Sequence[Any], stream: Sequence[Any], keep: Any, lengths: Any) -> dict[str, np.ndarray]:
        """Sums over counted tokens, without those whose stream is over five times their own text's median norm."""
        import torch

        sums, counts = [], []
        for act, resid in zip(acts, stream, strict=True):
            norms, calm = resid.detach().norm(dim=-1), keep.clone()
            for i, n in enumerate(lengths.tolist()):
                calm[i] &= norms[i] <= MASSIVE * norms[i, :n].median()
            chosen = act.detach()[calm].double()
            sums.append(torch.stack([chosen.abs().sum(0), chosen.sum(0), chosen.pow(2).sum(0)]))
            counts.append(int(calm.sum()))
        return {"moments": torch.stack(sums).cpu().numpy(), "counts": np.array(counts, np.int64)}


def _numpy(x: Any) -> np.ndarray:
    return x.detach().float().cpu().numpy()
