"""The work of step train_dictionary: tokens of fit rows and of text, training with checkpoints, quality on the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.items import spread
from gnomon.dictionaries.base import SparseDictionary, canonical
from gnomon.dictionaries.check import require
from gnomon.dictionaries.save import save_dictionary
from gnomon.disk import write_bytes
from gnomon.errors import UserError
from gnomon.halving import run_halving
from gnomon.lens import splice
from gnomon.methods import dictionary_quality as quality
from gnomon.methods import topk_dictionary as topk
from gnomon.methods.neutral import neutral_texts
from gnomon.methods.shuffled import MASSIVE
from gnomon.stats import Interval, bootstrap
from gnomon.step import Context, Inputs
from gnomon.types import Activations, Site
from gnomon.writer import Writer

if TYPE_CHECKING:
    from gnomon.steps.train_dictionary import TrainDictionary

QUALITY = pa.schema(
    [("site", pa.string()), ("split", pa.string()), ("predictor", pa.string()), ("metric", pa.string()),
     ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("tokens", pa.int64()),
     ("rows", pa.int64()), ("groups", pa.int64()), ("note", pa.string())]
)  # fmt: skip
CURVE = pa.schema(
    [("site", pa.string()), ("step", pa.int64()), ("tokens", pa.int64()), ("explained_variance", pa.float64()),
     ("aux_loss", pa.float64()), ("dead", pa.float64()), ("lr", pa.float64())]
)  # fmt: skip
FACTS = pa.schema([("site", pa.string()), ("name", pa.string()), ("value", pa.float64())])
CHECKPOINTS = "_training"
NEUTRAL = 40
LONGEST = 256
"""Tokens of a test row on which the spliced model is measured."""


@dataclass
class Work:
    """One run of the step."""

    step: TrainDictionary
    inputs: Inputs
    out: Writer
    ctx: Context
    position: str

    def run(self, sites: list[str]) -> None:
        """Train and measure a dictionary at each site, write the tables."""
        table = self.inputs.generations()
        rows: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        facts: list[dict[str, Any]] = []
        for site in sites:
            view = self.inputs.activations(site, self.position)
            x, known = self._tokens(view, table)
            state, scale, options = self._trained(site, x)
            dictionary = self._dictionary(site, state, scale, options, known)
            require(dictionary)
            save_dictionary(dictionary, self.out.path / "dictionaries" / site)
            rows += self._quality(site, view, table, x, dictionary, known["massive_norm"])
            curves += [dict(zip(topk.CURVE, line, strict=True)) | {"site": site} for line in state.curve]
            known |= {"steps": options.steps, "latents": options.latents, "k": options.k, "scale": scale.scale}
            facts += [{"site": site, "name": name, "value": float(value)} for name, value in known.items()]
        self.out.table("quality", pa.Table.from_pylist(rows, schema=QUALITY))
        whole = [c | {"step": int(c["step"]), "tokens": int(c["tokens"])} for c in curves]
        self.out.table("curve", pa.Table.from_pylist(whole, schema=CURVE))
        self.out.table("facts", pa.Table.from_pylist(facts, schema=FACTS))
        self.out.scratch(CHECKPOINTS)

    # ---------------------------------------------------------------- tokens

    def _tokens(self, view: Activations, table: pd.DataFrame) -> tuple[np.ndarray, dict[str, Any]]:
        """Unmasked tokens to train on `[tokens, d]` float32, and what is known of them."""
        fit = self._held(view, self.ctx.split(table, "fit", "train_dictionary"))
        x, most = self._some(view, fit), self.step.tokens
        own = len(x)
        if self.step.text and own < most:
            x = np.concatenate([x, self._read_text(view.site, most - own)])
        if len(x) < 2 * self.step.k:
            raise UserError(
                f"train_dictionary has {len(x)} tokens at {view.site}", f"at least {2 * self.step.k}",
                "capture position all, raise generate.n, or give text",
            )  # fmt: skip
        norms = _norms(x)
        largest = MASSIVE * float(np.median(norms))
        keep = norms <= largest
        return x if keep.all() else x[keep], {
            "tokens": int(keep.sum()), "tokens_of_rows": own, "masked": int((~keep).sum()), "fit_rows": len(fit),
            "massive_norm": largest,
        }  # fmt: skip

    def _some(self, view: Activations, part: pd.DataFrame) -> np.ndarray:
        """At most `tokens` tokens of some rows, drawn evenly, `[tokens, d]` float32: the others are not read."""
        rows = part["row"].tolist()
        lengths = np.ones(len(rows), dtype=np.int64)
        if view.offsets is not None:
            lengths = np.diff(view.offsets)[np.searchsorted(view.rows, rows)]
        ends = np.cumsum(lengths)
        total = int(lengths.sum())
        chosen = np.arange(total)
        if total > self.step.tokens:
            rng = np.random.default_rng([self.ctx.seed, 86028121])
            chosen = np.sort(rng.permutation(total)[: self.step.tokens])
        out, cuts = np.empty((len(chosen), view.d), np.float32), np.searchsorted(chosen, np.r_[0, ends])
        for row, start, a, b in zip(rows, ends - lengths, cuts[:-1], cuts[1:], strict=True):
            out[a:b] = np.atleast_2d(view.row(int(row)))[chosen[a:b] - start]
        return out

    def _texts(self, view: Activations, part: pd.DataFrame) -> Iterator[np.ndarray]:
        """Activations of each row of `part` that has the position, `[tokens, d]` float32."""
        for row in self._held(view, part)["row"].tolist():
            yield np.atleast_2d(np.asarray(view.row(int(row)), dtype=np.float32))

    def _calm(self, view: Activations, part: pd.DataFrame, most: float) -> Iterator[np.ndarray]:
        """The same without massive tokens; a row at a time."""
        for x in self._texts(view, part):
            yield x[_norms(x) <= most]

    def _held(self, view: Activations, part: pd.DataFrame) -> pd.DataFrame:
        return part.loc[np.isin(np.asarray(part["row"]), np.asarray(view.rows))]

    def _read_text(self, site: Site, most: int) -> np.ndarray:
        """Activations of the first `most` tokens of the text, cut into pieces, `[tokens, d]`."""
        model, path, size = self.ctx.model(), self.step._file(), self.step.context
        if path is None:
            pieces = [model.tokenize(text)[:size] for text in neutral_texts(NEUTRAL)]
        else:
            try:  # about 8 characters a token at most: what is beyond is not tokenised
                with open(path, encoding="utf-8") as file:
                    ids = model.encode_text(file.read(8 * most))[:most]
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is no UTF-8 text ({error})", "a text file") from None
            pieces = [ids[a : a + size] for a in range(0, len(ids), size)]
        pieces = [piece for piece in pieces if piece]
        found, n = [], 0
        with self.ctx.progress(f"read text at {site}", len(pieces)) as advance:
            for start in range(0, len(pieces), self.step.batch_size):
                batch = pieces[start : start + self.step.batch_size]
                parts = run_halving(lambda some: [model.forward(some, read=[site]).values(site)], batch, None)
                found += [part.float().cpu().numpy() for part in parts]
                n += sum(map(len, parts))
                advance(len(batch))
                if n >= most:
                    break
        if not found:
            raise UserError(f"train_dictionary.text: {self.step.text} holds no text", "a text file with words in it")
        return np.concatenate(found)[:most]

    # ---------------------------------------------------------------- training

    def _trained(self, site: str, x: np.ndarray) -> tuple[topk.State, topk.Scaling, topk.Training]:
        """The trained state, gone on with from the last checkpoint where there is one."""
        from safetensors.numpy import load, save

        size = min(self.step.batch, len(x))
        steps = self.step.steps or max(1, round(self.step.epochs * (len(x) // size)))
        options = topk.Training(
            self.step.latents, self.step.k, steps, self.step.batch, self.step.lr, aux_k=self.step.aux_k,
            dead_after=self.step.dead_after, log_every=max(1, steps // 50), seed=self.ctx.seed,
        )  # fmt: skip
        path, scale = self.out.path / CHECKPOINTS / f"{site}.safetensors", topk.scaling(x)
        state = topk.State.of(load(path.read_bytes())) if path.is_file() else None
        if state is not None:
            self.ctx.log.info("train_dictionary: %s goes on at step %d of %d", site, state.step, steps)

        def keep(now: topk.State) -> None:
            write_bytes(path, save(now.arrays()))

        began = time.perf_counter()
        with self.ctx.progress(f"train dictionary at {site}", steps) as advance:
            advance(0 if state is None else state.step)
            state = topk.train(x, options, scale, state, keep, self.step.checkpoint_every, advance)
        self.ctx.log.info("train_dictionary: %s, %d tokens, %.1f s", site, len(x), time.perf_counter() - began)
        return state, scale, options

    def _dictionary(
        self, site: str, state: topk.State, scale: topk.Scaling, options: topk.Training, known: dict[str, Any]
    ) -> SparseDictionary:
        """The trained weights in canonical form: pre = s (x - c) W + b, x^ = (z W_dec + b_dec) / s + c."""
        w, c = state.weights, scale.centre.astype(np.float64)
        encoder = w["encoder"].T
        bias = w["encoder_bias"].astype(np.float64) - scale.scale * (c @ encoder.astype(np.float64))
        base = w["decoder_bias"].astype(np.float64) + scale.scale * c
        facts = {"model_name": self.ctx.model_spec.name, "trained_tokens": known["tokens"], "position": self.position,
                 "expected_l0": options.k}  # fmt: skip
        return canonical(
            site, encoder, bias, w["decoder"], base, input_scale=scale.scale, activation="topk", k=options.k,
            name=f"{self.step.name} {site}", format="gnomon", meta=facts,
        )  # fmt: skip

    # ---------------------------------------------------------------- quality

    def _quality(
        self, site: str, view: Activations, table: pd.DataFrame, x: np.ndarray, one: SparseDictionary, most: float
    ) -> list[dict[str, Any]]:
        """Explained variance, L0 and dead share by split, beside PCA, random directions and the mean; then the loss."""
        mean, components = quality.principal(x, self.step.k)
        rebuild = {
            "dictionary": lambda y: _rebuilt(one, y)[0], "pca": quality.by_components(mean, components),
            "random": quality.by_random_rows(x, mean, self.step.latents, self.step.k, self.ctx.seed),
            "mean": lambda y: np.broadcast_to(mean, y.shape),
        }  # fmt: skip
        out: list[dict[str, Any]] = []
        fires = np.zeros(one.d_sae, bool)
        for start in range(0, len(x), 4096):
            fires |= _rebuilt(one, x[start : start + 4096])[1].any(0)
        for split in ("tune", "test"):
            part = self._held(view, self.ctx.split(table, split, f"train_dictionary: quality at {site}"))
            if not len(part):
                continue
            sums, groups = quality.text_sums(self._calm(view, part, most), rebuild, view.d), np.asarray(part["group"])
            size = {"site": site, "split": split, "tokens": int(sums.count.sum()), "rows": len(part),
                    "groups": len(np.unique(groups))}  # fmt: skip
            for name in rebuild:
                value = quality.explained_interval(sums, name, groups, self.step.draws, self.ctx.seed)
                out.append(size | _cell(name, "explained_variance", value))
            active = np.array([float(_rebuilt(one, y)[1].sum()) for y in self._calm(view, part, most)])
            l0 = _ratio(active, sums.count, groups, self.step.draws, self.ctx.seed)
            out += [size | _cell("dictionary", "l0", l0)]
            out += [size | _cell("dictionary", "dead", Interval(float((~fires).mean()), note="of all fit tokens"))]
        return out + self._losses(site, table, one, mean, components, most)

    def _losses(
        self, site: str, table: pd.DataFrame, one: SparseDictionary, mean: np.ndarray, components: np.ndarray,
        most: float,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Loss of the model's next tokens on test rows with the site rebuilt, and the share of it recovered."""
        if not self.step.loss_rows:
            return []
        test = self.ctx.split(table, "test", f"train_dictionary: loss with {site} rebuilt")
        rows = spread(test.loc[[len(ids) > 1 for ids in test["token_ids"]]], self.step.loss_rows)
        texts = [[int(i) for i in ids][:LONGEST] for ids in rows["token_ids"]]
        if len(texts) < 2:
            return []
        model = self.ctx.model()
        rebuild = {"dictionary": lambda y: one.decode(one.encode(y)), "pca": _torch_components(mean, components)}
        edits = splice.conditions(Site.parse(site), rebuild, mean.astype(np.float32), most)
        with self.ctx.progress(f"splice {site}", len(texts) * len(edits)) as advance:
            losses, counts = splice.text_losses(model, texts, edits, self.step.batch_size, advance)
        groups, draws, seed = np.asarray(rows["group"]), self.step.draws, self.ctx.seed
        size = {"site": site, "split": "test", "tokens": int(counts.sum()), "rows": len(texts),
                "groups": len(np.unique(groups))}  # fmt: skip
        out = [size | _cell(n, "loss", splice.mean_loss(v, counts, groups, draws, seed)) for n, v in losses.items()]
        for name in rebuild:
            for ablation, metric in (("zero", "loss_recovered"), ("mean", "loss_recovered_from_mean")):
                value = splice.recovered(losses, name, ablation, groups, draws, seed)
                out.append(size | _cell(name, metric, value))
        return out


def _rebuilt(one: SparseDictionary, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The reconstruction `[tokens, d]` and which latents fire `[tokens, n]`."""
    import torch

    with torch.no_grad():
        z = one.encode(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))
        return one.decode(z).numpy(), (z > quality.ACTIVE).numpy()


def _norms(x: np.ndarray) -> np.ndarray:
    """Length of each row in float64, `[tokens]`, without a copy of all of them."""
    parts = [np.linalg.norm(x[a : a + 8192].astype(np.float64), axis=1) for a in range(0, len(x), 8192)]
    return np.concatenate([np.zeros(0), *parts])


def _torch_components(mean: np.ndarray, components: np.ndarray) -> Any:
    def rebuild(x: Any) -> Any:
        import torch

        base, rows = (torch.tensor(a, dtype=x.dtype, device=x.device) for a in (mean, components))
        return base + ((x - base) @ rows.T) @ rows

    return rebuild


def _ratio(top: np.ndarray, bottom: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> Interval:
    return bootstrap(lambda w: (w @ top) / np.maximum(w @ bottom, 1), groups, draws, seed)


def _cell(predictor: str, metric: str, value: Interval) -> dict[str, Any]:
    return {"predictor": predictor, "metric": metric, "value": value.value, "ci_low": value.low, "ci_high": value.high,
            "note": value.note}  # fmt: skip
