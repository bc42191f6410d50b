"""Further tables of step tokens, beside TOKENS and LOGITS of `chain_tables`."""

from __future__ import annotations

import pyarrow as pa

TEXT, NUMBER, WHOLE, FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()

COMPARISONS = pa.schema(
    [("comparison", TEXT), ("name", TEXT), ("matches", TEXT), ("condition", TEXT), ("against", TEXT), ("n", WHOLE),
     ("against_n", WHOLE), ("groups", WHOLE), ("vocabulary", WHOLE), ("tested", WHOLE), ("found", WHOLE),
     ("found_alone", WHOLE), ("test", TEXT), ("design", TEXT), ("options_words", FLAG), ("note", TEXT)]
)  # fmt: skip
"""One row a comparison. vocabulary: tokens in at least min_count responses; tested: those that could reach alpha;
found_alone: with q over this comparison alone; options_words: the responses are options of the question, chosen and not
written; note: why nothing is concluded."""
FAMILIES = pa.schema(
    [("comparison", TEXT), ("comparisons", WHOLE), ("concluded", WHOLE), ("names", WHOLE), ("names_found", WHOLE),
     ("vocabulary", WHOLE), ("tested", WHOLE), ("found", WHOLE), ("per_name", NUMBER), ("chance", NUMBER),
     ("chance_share", NUMBER), ("shuffles", WHOLE), ("alpha", NUMBER), ("least_q", NUMBER), ("note", TEXT)]
)  # fmt: skip
"""One row a family (classes, patches, controls), over which q is taken, of the comparisons that may conclude. names:
features (random latents), names_found: those with a token found; per_name: tokens found for each; chance: tokens with q
at most alpha when the sides are swapped at random, on average over `shuffles`; chance_share: swaps with any."""
LENS = pa.schema(
    [("name", TEXT), ("site", TEXT), ("vocabulary", WHOLE), ("found", WHOLE), ("named", WHOLE), ("share", NUMBER),
     ("chance", NUMBER), ("correlation", NUMBER), ("other", NUMBER), ("note", TEXT)]
)  # fmt: skip
"""One row a feature: how far what its decoder row writes is what its patch writes. named: tokens found that are among
those its row raises or lowers most; chance: share of all tokens compared that are; correlation: Spearman's, over tokens
and conditions, of the lens's effect (turned round where the patch lowers the latent) and the change of the token's
rate; other: the same with the decoder rows of the other features."""
FACTS = pa.schema([("fact", TEXT), ("value", NUMBER), ("text", TEXT)])
