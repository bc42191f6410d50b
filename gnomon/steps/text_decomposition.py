"""Text decomposition: each neuron's direction as a sparse sum of phrases, and whether the phrases say anything.

The direction is PC1 of the neuron's effects (step pca), the atoms are the lexicon's embeddings (step lexicon), centred
and then each made unit; orthogonal matching pursuit takes m of them. Formulas, sources and costs:
`methods/sparse_text.py` and `methods/polysemantic.py`. Beside every cosine: what isotropic atoms and random mixtures
of the same phrases reach.

Agreement of phrases and prompts, on test rows, which chose neither:

    statistic   mean over the k test rows of largest projection of  cos(text reconstruction, e_i)
                 e_i = output_i - mean output over fit - (phi_i - mean phi): the final-norm output at the read position
                 without the neuron's own second-order effect, which lies along its direction by construction
    null        which rows are the top ones is shuffled, by group; q by Benjamini-Hochberg over the neurons
    control     the same reconstruction on the top rows of the other neurons
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from gnomon.blocks import Block
from gnomon.errors import UserError
from gnomon.methods.effect_pca import explained
from gnomon.methods.effects import weights_of
from gnomon.methods.polysemantic import clusters, polysemantic
from gnomon.methods.sparse_text import (
    Sparse,
    agreement_p,
    check_sizes,
    cosines,
    decompose,
    isotropic_cosines,
    mixed_atoms,
    reconstruct,
    standardised_p,
    top_rows,
    unit_atoms,
)
from gnomon.methods.text_tables import (
    COUNTS,
    NEURONS,
    OVERALL,
    PHRASES,
    PROMPTS,
    Measured,
    agreement_draws,
    agreement_null,
    counts,
    ends,
    mean_of,
    named,
    others,
    phrase_rows,
    prompt_rows,
    unit,
)
from gnomon.nulls import benjamini_hochberg, p_value
from gnomon.step import Context, Cost, Inputs, Planning, Step
from gnomon.store import Artifact
from gnomon.writer import Writer

ALPHA = 0.05


class TextDecomposition(Step):
    """Each neuron's direction as a sparse sum of phrases, with the controls that say what such a sum is worth."""

    name: ClassVar[str] = "text_decomposition"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("second_order", "pca", "lexicon")
    optional: ClassVar[tuple[str, ...]] = ("generations",)
    writes: ClassVar[tuple[str, ...]] = ("text",)
    uses_model: ClassVar[bool] = False

    m: int = Field(default=32, ge=1)
    """Phrases of each neuron."""
    reach: float = Field(default=0.8, gt=0, lt=1)
    """The cosine whose number of phrases is counted (`needed`)."""
    top: int = Field(default=20, ge=2)
    """Test rows of largest projection that the phrases are compared with (at most half of the test rows)."""
    control_draws: int = Field(default=39, ge=19)
    """Random mixtures of the lexicon that every neuron is decomposed into, and clouds beside its clusters. With D
    of them one neuron alone reaches a q of 1 / D at best, so 39 and not 19."""
    isotropic_draws: int = Field(default=199, ge=19)
    """Lexicons of isotropic vectors, one random direction each: their cosine is the same for every neuron."""
    permutations: int = Field(default=999, ge=99)
    """Shuffles of the rows in the test of agreement."""
    max_clusters: int = Field(default=4, ge=2)
    """Clusters of effects that are looked for at most."""
    max_evr: float = Field(default=0.5, gt=0, le=1)
    """A neuron with clusters is called polysemantic where PC1 explains less than this of its largest effects..."""
    many_phrases: int = Field(default=16, ge=1)
    """... or where more than this many phrases are needed for `reach`."""
    draws: int = Field(default=1000, ge=200)
    """Bootstrap draws of an interval (test rows, by group)."""

    def check(self, plan: Planning) -> None:
        rows = plan.inputs.get("lexicon", Cost()).rows
        exact = not plan.source_options.get("lexicon", {}).get("mine")
        if rows and exact and self.m > rows:
            raise UserError(f"m is {self.m} phrases", f"at most the lexicon's {rows}", "lower m, or give more phrases")

    def cost(self, plan: Planning) -> Cost:
        rows, phrases = (plan.inputs.get(kind, Cost()).rows for kind in ("second_order", "lexicon"))
        width = int(plan.model.facts()["d_model"])
        held = 600 * self.control_draws * width + 4096 * rows + phrases * (phrases + width)
        return Cost(disk_bytes=600 * (4 * width + 64 * self.m), memory_bytes=8 * held)

    # ---------------------------------------------------------------- the work

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        source, pca, lexicon = inputs["second_order"], inputs["pca"], inputs["lexicon"]
        _same_model(source, lexicon)
        rows = source.table("rows").sort_values("index").reset_index(drop=True)
        neurons = pca.table("neurons").sort_values("index").reset_index(drop=True)
        phrases = lexicon.table("phrases").sort_values("index")["phrase"].tolist()
        embeddings, targets = lexicon.array("embeddings"), np.asarray(pca.array("pca"), dtype=np.float64)
        check_sizes(len(phrases), embeddings.shape[1], self.m, targets.shape[1])
        test = ctx.split(rows, "test", "text_decomposition: agreement with prompts").index.to_numpy()
        if len(test) < 4:
            raise UserError(f"text_decomposition has {len(test)} rows in test", "at least 4", "raise generate.n")
        zero = np.asarray(~targets.any(axis=1))
        if zero.all():
            raise UserError(f"all {len(zero)} neurons have an effect of zero", "a neuron with an effect")
        atoms = unit_atoms(embeddings)
        found = decompose(atoms, targets, self.m)
        rng = np.random.default_rng([ctx.seed, 53])
        mixtures = mixed_atoms(atoms, rng, self.control_draws)
        controls = [reconstruct(mixture, targets, self.m) for mixture in mixtures]
        isotropic = isotropic_cosines(len(atoms), atoms.shape[1], self.m, self.isotropic_draws, ctx.seed)
        mixed = np.stack([cosine for _, cosine in controls])
        vectors = np.stack([vector for vector, _ in controls]).astype(np.float32)
        measured = self._measure(source, pca, rows, neurons, test, found, vectors, zero, ctx)
        norms = np.asarray(pca.array("norms"), dtype=np.float64)[:, test]
        weights = weights_of(np.asarray(rows["group"])[test], self.draws, ctx.seed)
        drawn = explained(measured.along.T, norms.T, weights)
        table = self._neurons(neurons, phrases, found, isotropic, mixed, measured, norms, drawn, zero)
        out.array("reconstruction", found.reconstruction.astype(np.float32))
        out.table("phrases", phrase_rows(neurons, phrases, found), PHRASES)
        out.table("neurons", table, NEURONS)
        groups = np.asarray(rows["group"])[test]
        overall = self._overall(table, isotropic, mixed, measured, drawn, weights, groups, len(phrases), ctx.seed)
        out.table("overall", overall, OVERALL)
        out.table("counts", counts(table, self.max_evr, self.many_phrases, ALPHA), COUNTS)
        generations = inputs.generations() if "generations" in inputs else None
        projection = np.asarray(pca.array("projection"))[:, test]
        out.table("prompts", prompt_rows(neurons, rows.iloc[test], projection, measured, generations), PROMPTS)

    def _measure(
        self, source: Artifact, pca: Artifact, rows: pd.DataFrame, neurons: pd.DataFrame, test: np.ndarray,
        found: Sparse, mixed: np.ndarray, zero: np.ndarray, ctx: Context,
    ) -> Measured:  # fmt: skip
        """Agreement, held-out shares and clusters, a neuron at a time."""
        fit = np.flatnonzero(rows["split"] == "fit")
        output = np.asarray(source.array("output"), dtype=np.float64)
        embedded = output[test] - output[fit].mean(0)
        projection, norms, tops = (np.asarray(pca.array(name)) for name in ("projection", "norms", "top"))
        groups, k = np.asarray(rows["group"])[test], min(self.top, len(test) // 2)
        out = Measured.empty(len(neurons), len(test), len(mixed))
        with ctx.progress("text decomposition", len(neurons)) as advance:
            for layer in neurons["layer"].drop_duplicates().tolist():
                coefs, bases = source.array(f"coef_layer{layer}"), source.array(f"basis_layer{layer}")
                here = neurons.loc[(neurons["layer"] == layer) & ~zero]
                for i, slot in zip(here.index.tolist(), here["slot"].tolist(), strict=True):
                    coef = np.asarray(coefs[:, slot], dtype=np.float64)
                    basis = np.asarray(bases[slot], dtype=np.float64)
                    coef = coef - coef[fit].mean(0)
                    without = embedded - coef[test] @ basis
                    out.cosine[i] = cosines(without, found.reconstruction[i])
                    out.top[i] = top_rows(projection[i, test], k)
                    marks = (out.cosine[i], out.top[i], groups, self.permutations, ctx.seed)
                    out.columns["agreement"][i], out.columns["p"][i] = agreement_p(*marks)
                    out.along[i] = coef[test] @ (basis @ unit(found.reconstruction[i][None])[0])
                    control = coef[test] @ (basis @ unit(mixed[:, i]).T)
                    out.mixed[:, i] = explained(
                        control, np.repeat(norms[i, test][:, None], len(mixed), 1), np.ones((1, len(test)))
                    )[0]
                    effects = coef[tops[i]] @ basis
                    seed = np.random.default_rng([ctx.seed, 59, i])
                    if len(effects) >= 4:
                        cut = clusters(effects @ effects.T, self.max_clusters, len(mixed), seed)
                        out.columns["silhouette"][i], out.columns["clusters"][i] = cut.silhouette, cut.count
                        out.columns["largest_cluster"][i], out.silhouettes[i] = cut.largest, cut.null
                    advance(1)
        return out

    def _neurons(
        self, neurons: pd.DataFrame, phrases: list[str], found: Sparse, isotropic: np.ndarray, mixed: np.ndarray,
        measured: Measured, norms: np.ndarray, drawn: np.ndarray, zero: np.ndarray,
    ) -> pd.DataFrame:  # fmt: skip
        low = high = np.full(len(neurons), np.nan)
        if len(drawn):
            low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        needed = found.needed(self.reach)
        p_mixed = standardised_p(found.cosine[:, -1], mixed.T)
        p_clusters = standardised_p(measured.columns["silhouette"], measured.silhouettes)
        q_clusters = benjamini_hochberg(p_clusters)
        clustered = np.nan_to_num(q_clusters, nan=1.0) <= ALPHA
        found_clusters = pd.Series(np.where(clustered, np.nan_to_num(measured.columns["clusters"], nan=1), 1)).astype(
            "Int64"
        )
        many = polysemantic(q_clusters, np.asarray(neurons["evr"]), needed, self.max_evr, self.many_phrases, ALPHA)
        return pd.DataFrame({
            "index": neurons["index"], "layer": neurons["layer"], "neuron": neurons["neuron"],
            "phrases": [named(found, i, phrases) for i in range(len(neurons))], "cosine": found.cosine[:, -1],
            "random_cosine": isotropic.mean(), "random_high": np.quantile(isotropic, 0.975),
            "mixed_cosine": mixed.mean(0), "mixed_high": mixed.max(0), "p_mixed": p_mixed,
            "q_mixed": benjamini_hochberg(p_mixed), "needed": pd.Series(needed).astype("Int64").mask(needed == 0),
            "test_share": explained(measured.along.T, norms.T, np.ones((1, norms.shape[1])))[0], "ci_low": low,
            "ci_high": high, "mixed_test_share": measured.mixed.mean(0), "agreement": measured.columns["agreement"],
            "agreement_other": others(measured), "p": measured.columns["p"],
            "q": benjamini_hochberg(measured.columns["p"]), "evr": neurons["evr"],
            "clusters": found_clusters.mask(zero), "silhouette": measured.columns["silhouette"],
            "null_silhouette": measured.silhouettes.mean(1), "p_clusters": p_clusters, "q_clusters": q_clusters,
            "largest_cluster": measured.columns["largest_cluster"], "polysemantic": many & ~zero, "zero": zero,
            "n": norms.shape[1],
        })  # fmt: skip

    def _overall(
        self, table: pd.DataFrame, isotropic: np.ndarray, mixed: np.ndarray, measured: Measured, drawn: np.ndarray,
        weights: np.ndarray, groups: np.ndarray, lexicon: int, seed: int,
    ) -> pd.DataFrame:  # fmt: skip
        live = ~np.asarray(table["zero"])
        share, n = np.median(table["test_share"][live]), int(table["n"].iloc[0])
        middle = float(np.median(table["cosine"][live]))
        agreement = float(np.mean(table["agreement"][live]))
        medians = np.median(drawn[:, live], axis=1) if len(drawn) else np.zeros(0)
        means = agreement_draws(measured, live, weights)
        shuffled = agreement_null(measured, live, groups, self.permutations, seed)
        rows = [
            ("cosine", "isotropic", middle, np.zeros(0), isotropic, isotropic),
            ("cosine", "mixtures", middle, np.zeros(0), *[np.median(mixed[:, live], axis=1)] * 2),
            ("test_share", "mixtures", share, medians, *[np.median(measured.mixed[:, live], axis=1)] * 2),
            ("agreement", "shuffled rows", agreement, means, shuffled, shuffled),
            ("agreement", "other neurons", agreement, means, np.asarray(table["agreement_other"])[live], np.zeros(0)),
        ]
        return pd.DataFrame([
            {"measure": measure, "against": against, "value": value, **ends(ci, "ci"), "control": mean_of(control),
             **ends(control, "control"), "p": p_value(value, null), "neurons": int(live.sum()), "n": n, "m": self.m,
             "lexicon": lexicon}
            for measure, against, value, ci, control, null in rows
        ])  # fmt: skip

    def summary(self, artifact: Artifact) -> list[Block]:
        from gnomon.methods.text_blocks import text_blocks

        return text_blocks(artifact)


def _same_model(source: Artifact, lexicon: Artifact) -> None:
    """Refuse effects and phrases of two models (of equal width, else the sizes say it)."""
    made = [a.meta.get("model", {}).get("fingerprint") for a in (source, lexicon)]
    if all(made) and made[0] != made[1]:
        raise UserError(
            f"{lexicon.name} was embedded by another model than {source.name}'s effects are of", "one model for both",
            "give both steps the same model and adapter",
        )  # fmt: skip
