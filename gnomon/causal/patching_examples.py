"""What was written under the strongest feature's patches, beside what the same prompts and noise gave without."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.pick import pick, records

EXAMPLES = pa.schema(
    [("name", pa.string()), ("condition", pa.string()), ("trial", pa.int64()), ("row", pa.int64()),
     ("example_id", pa.string()), ("prompt", pa.string()), ("text", pa.string()), ("outcome", pa.bool_()),
     ("before", pa.string()), ("outcome_before", pa.bool_())]
)  # fmt: skip


def examples(responses: pd.DataFrame, causal: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """Table `examples`: trials of the strongest feature (causal ones first), those that changed first."""
    size = causal["effect"].abs().fillna(0.0).to_numpy(dtype=np.float64)
    order = np.lexsort((-size, ~causal["is_causal"].to_numpy(dtype=bool)))
    name = str(causal["name"].tolist()[int(order[0])])
    prompts = dict(zip(drawn["row"].tolist(), drawn["prompt"].tolist(), strict=True))
    before = {row["row"]: row for row in records(pick(responses, kind="baseline"))}
    lines = []
    for row in records(pick(responses, kind="feature", name=name)):
        was = before[row["row"]]
        changed = 0 if was["outcome"] != row["outcome"] else 1 if was["text"] != row["text"] else 2
        lines.append((changed, row["trial"], {
            "name": name, "condition": row["condition"], "trial": row["trial"], "row": row["row"],
            "example_id": row["example_id"], "prompt": prompts[row["row"]], "text": row["text"],
            "outcome": row["outcome"], "before": was["text"], "outcome_before": was["outcome"],
        }))  # fmt: skip
    lines.sort(key=lambda line: line[:2])
    return pd.DataFrame([line for _, _, line in lines], columns=EXAMPLES.names)
