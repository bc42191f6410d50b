"""train_dictionary: a small TopK dictionary of a site's own activations, for models that nobody trained one for.

The training is in `gnomon/methods/topk_dictionary.py` (Gao et al. 2024, arXiv 2406.04093), the quality in
`gnomon/methods/dictionary_quality.py` and `gnomon/lens/splice.py`. Trained on the tokens of fit rows (and of a text, if
one is given); measured on tune and test rows beside PCA of k components, random directions of the same number, and the
mean. Cost: 4 x tokens x epochs x latents x width multiply-adds, beside which the model is cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from gnomon.blocks import Block, Figure, Ref, Table, Text
from gnomon.disk import file_sha256
from gnomon.errors import UserError, unknown
from gnomon.rows.options import OptionalTexts
from gnomon.step import Context, Cost, Inputs, Planning, Step, expand_positions
from gnomon.store import Artifact
from gnomon.types import Site
from gnomon.writer import Writer

ORDER = ("all", "response", "last", "last_prompt", "answer")
"""Positions in the order in which one is taken: the more tokens the better."""
NEUTRAL = 2200
"""Tokens of the neutral paragraphs, about."""


class TrainDictionary(Step):
    """Train a TopK sparse autoencoder on captured activations, and measure it on rows that it has not seen."""

    name: ClassVar[str] = "train_dictionary"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations", "activations")
    writes: ClassVar[tuple[str, ...]] = ("dictionary",)

    sites: OptionalTexts = None
    """Sites, one dictionary each; every site captured at the position, unless given."""
    position: str = ""
    """Whose tokens: all, response, last, ...; the one with the most tokens that was captured, unless given."""
    latents: int = Field(default=4096, ge=2)
    """Latents of a dictionary."""
    k: int = Field(default=32, ge=1)
    """Latents that a token keeps."""
    tokens: int = Field(default=200_000, ge=2)
    """Most tokens that are trained on, of rows and text together."""
    text: str = ""
    """More text to train on where rows are few: a local text file, or `neutral` (the paragraphs that come with gnomon).
    Its tokens run through the model and join the fit side."""
    context: int = Field(default=256, ge=2)
    """Tokens of a piece of that text."""
    epochs: float = Field(default=5.0, gt=0)
    """Times that every token is seen."""
    steps: int = Field(default=0, ge=0)
    """Training steps; 0 takes as many as `epochs` need."""
    batch: int = Field(default=512, ge=2)
    """Tokens of a step."""
    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate (Adam); it rises over the first 5% of the steps and falls to 0 over the last 30%."""
    aux_k: int = Field(default=64, ge=0)
    """Dead latents that help to rebuild what is left of a token; 0 leaves dead latents dead."""
    dead_after: int = Field(default=20_000, ge=1)
    """Tokens without firing after which a latent is dead."""
    checkpoint_every: int = Field(default=100, ge=0)
    """Steps between checkpoints, from which a stopped training goes on; 0 keeps the last one only."""
    loss_rows: int = Field(default=32, ge=0)
    """Test rows on which the dictionary is spliced into the model; 0 leaves the loss out."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval."""
    batch_size: int = Field(default=8, ge=1)
    """Texts in a batch of the model."""

    def identity(self) -> dict[str, Any]:
        path = self._file()
        return super().identity() | {"text_sha256": file_sha256(path) if path is not None else None}

    def _file(self) -> Path | None:
        """The text file; UserError where there is none."""
        if self.text in ("", "neutral"):
            return None
        path = Path(self.text).expanduser()
        if not path.is_file():
            raise UserError(f"train_dictionary.text: no file at {self.text}", "a text file, or neutral")
        return path

    def check(self, plan: Planning) -> None:
        if self.k > self.latents:
            raise UserError(f"train_dictionary.k is {self.k}", f"at most latents, which is {self.latents}")
        if self.position:
            expand_positions([self.position])
        self._file()
        source = plan.inputs.get("activations")
        if source is not None and source.sites:
            self.candidates([tuple(s.split("@")) for s in source.sites], int(plan.model.facts()["n_layers"]))
        rows = plan.inputs.get("generations")
        for split in ("fit", "test"):
            if rows is not None and rows.splits and not rows.splits.get(split):
                raise UserError(f"train_dictionary needs rows in split {split!r}", "fit and test")

    def candidates(self, captured: list[tuple[str, ...]], n_layers: int) -> tuple[list[str], str]:
        """The sites to train and the position whose tokens are taken; UserError for what was not captured."""
        there = {p for _, p in captured}
        position = self.position or next((p for p in ORDER if p in there), "")
        sites = sorted({s for s, p in captured if p == position}, key=lambda s: Site.parse(s))
        wanted = sites if self.sites is None else [str(s) for s in Site.expand(self.sites, n_layers)]
        for site in wanted:
            if site not in sites:
                known = [f"{s}@{p}" for s, p in captured]
                raise unknown("activations to train on", f"{site}@{position}", known)
        if not wanted:
            raise UserError(
                f"no activations were captured at position {position or 'any'}", "tokens to train on",
                "add capture: {sites: resid_post.15, positions: [all]} to generate",
            )  # fmt: skip
        return wanted, position

    def cost(self, plan: Planning) -> Cost:
        facts, source = plan.model.facts(), plan.inputs.get("generations", Cost())
        d, captured = int(facts["d_model"]), plan.inputs.get("activations", Cost()).sites
        pairs = [tuple(s.split("@")) for s in captured]
        count = len(self.candidates(pairs, int(facts["n_layers"]))[0]) if pairs else len(self.sites or ("one",))
        text = min(self.tokens, NEUTRAL) if self.text == "neutral" else self.tokens if self.text else 0
        length = (source.prompt_tokens + source.new_tokens) / source.rows if source.rows else 100
        weights = 4 * (2 * self.latents * d + self.latents + d)
        return Cost(
            rows=source.rows,
            forward_tokens=int(count * (text + self.loss_rows * length * 5)),
            disk_bytes=count * 4 * weights,
            memory_bytes=int(4 * self.tokens * d + 6 * weights + 12 * self.batch * self.latents),
            splits=source.splits,
            notes=(
                f"{count} with {self.latents} latents, each trained on at most {self.tokens:,d} tokens, "
                f"{self.epochs:g} times",
            ),
        )

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        from gnomon.lens.dictionary_training import Work

        captured = [(str(site), position) for site, position in inputs.sites()]
        sites, position = self.candidates(captured, int(ctx.model_spec.facts()["n_layers"]))
        Work(self, inputs, out, ctx, position).run(sites)

    def summary(self, artifact: Artifact) -> list[Block]:
        """Quality on test beside the controls, the training curve, what it was trained on."""
        quality = artifact.table("quality")
        blocks: list[Block] = []
        for site in quality["site"].drop_duplicates().tolist():
            blocks.append(_headline(site, quality.loc[quality["site"] == site]))
        wanted = ["explained_variance", "l0", "dead", "loss", "loss_recovered", "loss_recovered_from_mean"]
        position = artifact.options.get("position") or "the longest that was captured"
        return [
            *blocks,
            Text(
                "Trained on tokens of fit rows only; position: " + str(position) + ". Massive activations (norm over 5 "
                "times the median) are left out of training and measuring, and handed on unchanged where the "
                "dictionary is spliced in. Intervals resample groups of rows.",
                kind="method",
            ),
            Table(
                "quality",
                "Quality",
                ["site", "split", "predictor", "metric", "value", "ci_low", "ci_high", "tokens", "groups"],
                where={"metric": wanted},
                limit=60,
            ),
            Figure(
                "line",
                "curve",
                "tokens",
                "explained_variance",
                "Explained variance while training",
                color="site",
                x_title="tokens seen",
                y_title="of the batches since the last point",
            ),
            Figure(
                "line",
                "curve",
                "tokens",
                "dead",
                "Dead latents while training",
                color="site",
                x_title="tokens seen",
                y_title="share",
            ),
            Table("facts", "Training", limit=40, formats={"value": ",.6g"}),
            Text(
                "A dictionary of few tokens knows these texts: its latents need not be those of one trained on "
                "billions. PCA of k components uses the same k for every token, so it is a lower rival than it looks.",
                kind="limit",
            ),
        ]


def _headline(site: str, quality: Any) -> Text:
    def ref(predictor: str, metric: str, form: str = ".3f", ci: bool = True) -> Ref:
        where = {"site": site, "split": "test", "predictor": predictor, "metric": metric}
        return Ref("quality", where, "value", form, ci)

    refs = {"ev": ref("dictionary", "explained_variance"), "pca": ref("pca", "explained_variance"),
            "random": ref("random", "explained_variance"), "l0": ref("dictionary", "l0", ".1f", False),
            "dead": ref("dictionary", "dead", ".1%", False)}  # fmt: skip
    text = (
        f"At {site} the dictionary explains {{ev}} of the variance of test tokens (95% interval) with {{l0}} latents a "
        "token; PCA with as many components {pca}, random directions {random}. {dead} of its latents fire on no "
        "training token."
    )
    if (quality["metric"] == "loss_recovered").any():
        refs |= {"loss": ref("dictionary", "loss_recovered"), "pca_loss": ref("pca", "loss_recovered")}
        text += " Spliced into the model it recovers {loss} of the loss that zero ablation costs, PCA {pca_loss}."
    return Text(text, refs, "headline")
