"""Tables by which the steps from separated features to causal pathways hand on to each other.

The two classes are those of the generation's labels: `first` is label true (correct, safe), `second` label false
(incorrect, risky). A feature's `name` (see `gnomon.latents`) is the key of every join. Rates are of the first class.
"""

from __future__ import annotations

import pyarrow as pa

TEXT, NUMBER, WHOLE, FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()

SEPARATIONS = pa.schema(
    [("name", TEXT), ("site", TEXT), ("layer", WHOLE), ("feature", WHOLE), ("rank", WHOLE), ("fit_d", NUMBER),
     ("d", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("fit_separation", NUMBER), ("separation", NUMBER),
     ("separation_low", NUMBER), ("separation_high", NUMBER), ("first", TEXT), ("second", TEXT),
     ("first_mean", NUMBER), ("second_mean", NUMBER), ("first_rate", NUMBER), ("second_rate", NUMBER), ("sd", NUMBER),
     ("general_rate", NUMBER), ("n_first", WHOLE), ("n_second", WHOLE), ("test_first", WHOLE), ("test_second", WHOLE),
     ("position", TEXT), ("dictionary", TEXT), ("link", TEXT), ("note", TEXT)]
)  # fmt: skip
"""`features/separations`: the latents of each site with the largest |fit_d|, by rank. fit_d: Cohen's d, first minus
second, on fit (where it was chosen); d with ci: the same on test. first_mean, second_mean: class means on fit, inactive
rows counted as 0; *_rate: share of a class's fit rows in which it is active; sd: pooled, on fit."""
EFFECTS = pa.schema(
    [("name", TEXT), ("kind", TEXT), ("matches", TEXT), ("site", TEXT), ("layer", WHOLE), ("feature", WHOLE),
     ("condition", TEXT), ("prompt", TEXT), ("patch", TEXT), ("set_to", NUMBER), ("measure", TEXT),
     ("baseline", NUMBER), ("value", NUMBER), ("change", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER),
     ("effect", NUMBER), ("p", NUMBER), ("q", NUMBER), ("n", WHOLE), ("unparsed", NUMBER),
     ("rate_baseline", NUMBER), ("rate", NUMBER), ("matched_effect", NUMBER), ("note", TEXT)]
)  # fmt: skip
"""`patch_features/effects`: one row a feature (kind feature, or control with the feature it `matches`) and patched
condition, against the same prompts and seeds unpatched. measure: rate (of the first class) or margin (log-likelihood of
first over second option, nats); effect: Cohen's h of a rate, change over the baseline's sd of a margin; matched_effect:
the same over the trials that random latents were run on (p and q of those are not computed). set_to of a control: what
the feature it stands for is set to; its own row is moved as far."""
CAUSAL = pa.schema(
    [("name", TEXT), ("site", TEXT), ("layer", WHOLE), ("feature", WHOLE), ("d", NUMBER), ("first_mean", NUMBER),
     ("second_mean", NUMBER), ("condition", TEXT), ("measure", TEXT), ("change", NUMBER), ("ci_low", NUMBER),
     ("ci_high", NUMBER), ("effect", NUMBER), ("p", NUMBER), ("q", NUMBER), ("control_change", NUMBER),
     ("control_p", NUMBER), ("control_q", NUMBER), ("ratio", NUMBER), ("controls", WHOLE), ("way", TEXT),
     ("is_causal", FLAG), ("verdict", TEXT), ("n", WHOLE), ("note", TEXT)]
)  # fmt: skip
"""`patch_features/causal`: one row a feature, of its strongest condition. control_change: mean |change| of its matched
random latents there; ratio: its largest |effect| over the median of theirs; control_p: share of all random latents (and
itself) whose own such ratio is as large, control_q by Benjamini-Hochberg over the features; way: toward the class whose
mean it was set to, or away from it. Where nothing may be concluded, is_causal is false and the verdict says so."""
RESPONSES = pa.schema(
    [("name", TEXT), ("kind", TEXT), ("matches", TEXT), ("condition", TEXT), ("prompt", TEXT), ("patch", TEXT),
     ("trial", WHOLE), ("row", WHOLE), ("example_id", TEXT), ("group", TEXT), ("seed", WHOLE), ("outcome", FLAG),
     ("margin", NUMBER), ("text", TEXT), ("activation", NUMBER), ("set_to", NUMBER)]
)  # fmt: skip
"""`patch_features/responses`: one row a condition and trial. outcome: true the first class, false the second, null
unparsed; text: what was chosen, or written; activation: the latent's before the patch, at the last prompt token.
Baselines belong to no feature: they stand once, with name ""."""
PATHWAYS = pa.schema(
    [("source_site", TEXT), ("source", WHOLE), ("source_name", TEXT), ("source_layer", WHOLE), ("target_site", TEXT),
     ("target", WHOLE), ("target_name", TEXT), ("target_layer", WHOLE), ("kind", TEXT), ("gradient", NUMBER),
     ("attribution", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER), ("share", NUMBER), ("rank", WHOLE),
     ("prompts", WHOLE), ("same_sign", NUMBER)]
)  # fmt: skip
"""`pathways/pathways`: one row an edge and kind (total, mediated, dark, mixed). attribution: mean over the target's
prompts of the sum over source positions of z_u G; gradient: activation-weighted mean of G; share: attribution over the
target's mean activation; rank: among the target's sources by |share| of the total; same_sign: share of prompts."""
PROMPTS = pa.schema(
    [("name", TEXT), ("site", TEXT), ("feature", WHOLE), ("rank", WHOLE), ("row", WHOLE), ("example_id", TEXT),
     ("split", TEXT), ("label", FLAG), ("position", WHOLE), ("activation", NUMBER), ("prompt", TEXT)]
)  # fmt: skip
"""`pathways/prompts`: the rows in which each target was traced: those where it is strongest, one a group."""
REPLAY = pa.schema(
    [("source_site", TEXT), ("source", WHOLE), ("source_name", TEXT), ("source_layer", WHOLE), ("target_site", TEXT),
     ("target", WHOLE), ("target_name", TEXT), ("target_layer", WHOLE), ("control", FLAG), ("matches", TEXT),
     ("what", TEXT), ("pathway", WHOLE), ("row", WHOLE), ("example_id", TEXT), ("group", TEXT), ("split", TEXT),
     ("position", WHOLE), ("source_activation", NUMBER), ("set_to", NUMBER), ("target_activation", NUMBER),
     ("predicted", NUMBER), ("measured", NUMBER)]
)  # fmt: skip
"""`replay/replay`: one row a pathway (or control: a random latent as active, standing for the source `matches`) and
held-out row; `what` says which in words, `pathway` is the pathway's number (its line in table agreement).
source_activation: summed over the positions that are patched; predicted: sum over these of (set_to - z_u) G; measured:
the change of the target's pre-activation, which is its activation where it stays active."""
AGREEMENT = pa.schema(
    [("scope", TEXT), ("source_name", TEXT), ("target_name", TEXT), ("source_layer", WHOLE), ("target_layer", WHOLE),
     ("n", WHOLE), ("slope", NUMBER), ("slope_low", NUMBER), ("slope_high", NUMBER), ("r2", NUMBER),
     ("pearson", NUMBER), ("pearson_low", NUMBER), ("pearson_high", NUMBER), ("spearman", NUMBER),
     ("spearman_low", NUMBER), ("spearman_high", NUMBER), ("sign", NUMBER), ("predicted", NUMBER),
     ("measured", NUMBER), ("measured_low", NUMBER), ("measured_high", NUMBER), ("control_measured", NUMBER),
     ("ratio", NUMBER), ("controls", WHOLE), ("p", NUMBER), ("q", NUMBER), ("validated", FLAG), ("note", TEXT)]
)  # fmt: skip
"""`replay/agreement`: scope pathway (one row each), all (every pathway), controls (every random latent), and one row a
pair of layers (layers, and layer controls). measured: mean change, counted as of a source that goes down;
control_measured: mean over its matched random latents of |mean change|; ratio: |measured| over that; p: share of all
random latents (and itself) whose own ratio to the other controls of their pathway is as large, each latent counted
once; q: Benjamini-Hochberg over the pathways."""
TOKENS = pa.schema(
    [("comparison", TEXT), ("name", TEXT), ("matches", TEXT), ("condition", TEXT), ("against", TEXT), ("token", TEXT),
     ("shown", TEXT), ("token_id", WHOLE), ("count", WHOLE), ("against_count", WHOLE), ("n", WHOLE),
     ("against_n", WHOLE), ("rate", NUMBER), ("against_rate", NUMBER), ("log_odds", NUMBER), ("ci_low", NUMBER),
     ("ci_high", NUMBER), ("z", NUMBER), ("p", NUMBER), ("q", NUMBER), ("q_own", NUMBER), ("evidence", NUMBER),
     ("lens", NUMBER), ("test", TEXT), ("found", FLAG), ("note", TEXT)]
)  # fmt: skip
"""`tokens/tokens`: one row a comparison and token. comparison: classes, patches, or controls (patches of the random
latents that stand for the feature `matches`). shown: the token with its spaces visible. count: responses in which the
token stands; rate: their share; log_odds: Monroe's, condition over against, with the cluster bootstrap's interval; q:
over the family, features first and then their tokens, q_own over this comparison, null where the counts could not
reach alpha; evidence: -log10 p; lens: what the feature's decoder row does to the token's logit; found: q at most alpha
and the interval beside 0."""
LOGITS = pa.schema(
    [("name", TEXT), ("site", TEXT), ("feature", WHOLE), ("side", TEXT), ("rank", WHOLE), ("token", TEXT),
     ("shown", TEXT), ("token_id", WHOLE), ("effect", NUMBER), ("found", FLAG)]
)  # fmt: skip
"""`tokens/logits`: what a feature's decoder row raises and lowers (`side`: raised, lowered) through the final norm's
gain and the unembedding, by rank from 1. found: the token's presence also shifts under the feature's patch."""
INTEGRATED = pa.schema(
    [("name", TEXT), ("site", TEXT), ("layer", WHOLE), ("feature", WHOLE), ("separation", NUMBER),
     ("separation_low", NUMBER), ("separation_high", NUMBER), ("d", NUMBER), ("ci_low", NUMBER), ("ci_high", NUMBER),
     ("first_mean", NUMBER), ("second_mean", NUMBER), ("is_causal", FLAG), ("verdict", TEXT), ("condition", TEXT),
     ("change", NUMBER), ("change_low", NUMBER), ("change_high", NUMBER), ("q", NUMBER), ("control_change", NUMBER),
     ("upstream", WHOLE), ("downstream", WHOLE), ("validated", WHOLE), ("strongest_upstream", TEXT),
     ("strongest_downstream", TEXT), ("pearson", NUMBER), ("control_pearson", NUMBER), ("tokens", TEXT),
     ("raises", TEXT), ("lowers", TEXT), ("link", TEXT), ("note", TEXT)]
)  # fmt: skip
"""`integrate/features`: one row a feature that any step names; null where no step says it."""
