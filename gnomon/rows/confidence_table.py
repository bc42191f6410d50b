"""The table `confidence`: one line a generation row that was asked how sure it is, in the order of the rows."""

from __future__ import annotations

import pyarrow as pa

CONFIDENCE = pa.schema(
    [
        ("row", pa.int64()),  # the generation's row: what it is joined by, and axis 0 of the pass's own activations
        ("example_id", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("sample", pa.int64()),
        ("temperature", pa.float64()),  # of the answer that is asked about
        ("ask", pa.string()),  # self, other, p_true, verbalised, consistency
        ("prompt", pa.string()),  # as the tokenizer got it
        ("prompt_hash", pa.string()),
        ("prompt_len", pa.int64()),  # tokens
        ("token_ids", pa.list_(pa.int64())),  # prompt, and what was said or chosen
        ("text", pa.string()),  # what was said; of choices the likeliest one's letter or text
        ("parsed", pa.string()),  # the stated bin or number; null where none could be read
        ("confidence", pa.float64()),  # 0 to 1: expected over the bins, or the number; null where none could be read
        ("choices", pa.list_(pa.string())),  # the bins in ascending order
        ("logits", pa.list_(pa.float64())),  # of each bin: log-sum-exp over its token variants, mean of the orders
        ("probs", pa.list_(pa.float64())),  # renormalised over the bins, mean of the orders
        ("mass", pa.float64()),  # probability of all bins together before that
        ("entropy", pa.float64()),  # nats, of probs
        ("margin", pa.float64()),  # best logit minus second
        ("normal", pa.float64()),  # expected confidence with the bins in ascending order
        ("reversed", pa.float64()),  # and in descending order; null where that was not asked
        ("answer_token", pa.int64()),  # index into token_ids of the last token of the model's own answer; null if alone
        ("confidence_token", pa.int64()),  # index of the token whose next-token distribution is the confidence
        ("meta", pa.string()),  # JSON
    ]
)
