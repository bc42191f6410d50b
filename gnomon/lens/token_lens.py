"""What a feature's decoder row writes directly, beside what its patch makes the model write.

    effect(token) = W_U[:, token] . (gain * C d)        (gnomon/methods/logit_lens: the final norm's scale left out)

It says nothing of what later layers make of the feature, so at early sites it is a poor guide; whether it agrees with
the tokens that the patch moves is measured: Spearman's correlation of effect and change of rate, beside the same with
the decoder rows of the other features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon.errors import UserError
from gnomon.latents import Latent
from gnomon.lens.feature_sources import Source
from gnomon.methods.logit_lens import extremes, token_effects
from gnomon.methods.token_families import Judged

if TYPE_CHECKING:
    from gnomon.models.model import Model

SIDES = {"top": "raised", "bottom": "lowered"}
FEWEST = 10
"""Tokens under which no correlation is given."""


class TokenLens:
    """Effects of features on every token, `effects[name] [d_vocab]`; `missing[name]`: why a feature has none."""

    def __init__(self, model: Model, names: Sequence[str], sources: Sequence[Source]) -> None:
        self.model, self.effects, self.missing = model, dict[str, np.ndarray](), dict[str, str]()
        by_site = {source.site: source for source in sources}
        wanted: dict[str, list[Latent]] = {}
        for name in names:
            latent = Latent.parse(name)
            wanted.setdefault(str(latent.site), []).append(latent)
        norm = model.norm("ln_final")
        unembed, gain = model.unembed.float().cpu().numpy(), norm.gain.float().cpu().numpy()
        for site, latents in wanted.items():
            if site not in by_site:
                self.missing |= {str(latent): f"no dictionary at {site} is given" for latent in latents}
                continue
            if latents[0].site.component in ("mlp_post", "z"):
                self.missing |= {str(latent): f"{site} is not in the residual stream" for latent in latents}
                continue
            dictionary = by_site[site].load()
            if dictionary.d_model != model.d_model:
                raise UserError(
                    f"the dictionary {by_site[site].name} at {site} is {dictionary.d_model} wide",
                    f"{model.d_model}, the width of {model.name}", "a dictionary of this model",
                )  # fmt: skip
            for latent in latents:
                row = dictionary.direction(latent.index).vector
                self.effects[str(latent)] = token_effects(row, unembed, gain, norm.kind == "layernorm")

    def rows(self, k: int, found: Mapping[str, set[int]]) -> list[dict[str, Any]]:
        """Table `logits`: the `k` tokens that each feature raises and lowers most."""
        out = []
        for name, effects in self.effects.items():
            latent = Latent.parse(name)
            out += [
                {"name": name, "site": str(latent.site), "feature": latent.index, "side": SIDES[side], "rank": rank,
                 "token": "", "shown": "", "token_id": token, "effect": float(effects[token]),
                 "found": token in found.get(name, set())}
                for side, rank, token in extremes(effects, min(k, len(effects)))
            ]  # fmt: skip
        return out

    def summary(
        self, names: Sequence[str], judged: Sequence[Judged], ids: np.ndarray, found: Mapping[str, set[int]], k: int
    ) -> list[dict[str, Any]]:
        """Table `lens`: how far lens and patch agree, one row a feature."""
        out = []
        for name in names:
            mine = [j for j in judged if j.comparison.name == name]
            tokens = np.concatenate([ids[j.columns] for j in mine]) if mine else np.zeros(0, dtype=np.int64)
            looked, hits = set(tokens.tolist()), found.get(name, set())
            row = {"name": name, "site": str(Latent.parse(name).site), "vocabulary": len(looked), "found": len(hits),
                   "named": None, "share": None, "chance": None, "correlation": None, "other": None,
                   "note": self.missing.get(name, "")}  # fmt: skip
            if name in self.effects:
                said = {t for _, _, t in extremes(self.effects[name], min(k, len(self.effects[name])))}
                row |= {"named": len(said & hits), "share": len(said & hits) / len(hits) if hits else None,
                        "chance": len(said & looked) / len(looked) if looked else None}  # fmt: skip
                own = _agreement(mine, tokens, self.effects[name])
                rest = [_agreement(mine, tokens, e) for other, e in self.effects.items() if other != name]
                rest = [r for r in rest if r is not None]
                row |= {"correlation": own, "other": float(np.mean(rest)) if own is not None and rest else None}
                if own is None and mine:
                    row["note"] = f"under {FEWEST} tokens that change: no correlation"
            out.append(row)
        return out


def _agreement(mine: Sequence[Judged], tokens: np.ndarray, effects: np.ndarray) -> float | None:
    """Spearman's correlation of effect, turned by the patch's sense, and change of rate, over tokens that change."""
    from scipy.stats import spearmanr

    if not mine:
        return None
    change = np.concatenate([j.changes for j in mine])
    said = np.concatenate([np.full(len(j.changes), j.comparison.rises) for j in mine]) * effects[tokens]
    moved = change != 0
    if moved.sum() < FEWEST or np.ptp(change[moved]) == 0 or np.ptp(said[moved]) == 0:
        return None
    return float(spearmanr(said[moved], change[moved]).statistic)  # pyright: ignore[reportAttributeAccessIssue]
