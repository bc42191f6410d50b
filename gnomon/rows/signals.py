"""Everything that could tell how sure the model is of an answer, as columns beside the answers, joined by row.

Output signals are read from the answer itself (probabilities, entropy), stated ones from confidence passes, difficulty
from the question. Every column is turned so that larger means surer. Nothing is fitted, no model is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from gnomon.errors import UserError, unknown
from gnomon.step import Inputs
from gnomon.store import Artifact


@dataclass(frozen=True)
class Signal:
    """A column of the joined table. `probability`: its values are claims of being right, between 0 and 1."""

    name: str
    text: str
    """What a report calls it."""
    kind: Literal["output", "stated", "difficulty"]
    probability: bool = False
    source: str = ""
    """The confidence step that it comes from."""


OUTPUT = (
    Signal("max_prob", "probability of the first answer token, or of the chosen option", "output", True),
    Signal("mean_prob", "geometric mean of the answer's token probabilities", "output", True),
    Signal("margin", "margin of the two best (logits, or option scores)", "output"),
    Signal("negative_entropy", "minus the entropy of the first answer token, or of the options", "output"),
)
EASE = Signal("ease", "minus the item's difficulty", "difficulty")
TAKEN = tuple(s.name for s in (*OUTPUT, EASE))


def passes(inputs: Inputs) -> dict[str, Artifact]:
    """The confidence passes that a step reads, by step name.

    UserError for two of one name (of two studies), and for one whose rows are not the questions of the generation.
    """
    found: dict[str, Artifact] = {}
    for artifact in inputs.all("confidence"):
        if artifact.name in found:
            raise UserError(f"two confidence passes are called {artifact.name!r}", "a name of its own for each")
        found[artifact.name] = artifact
    if found and "generations" in inputs:
        asked = inputs["generations"].table("generations", ("row", "example_id")).set_index("row")["example_id"]
        for name, artifact in found.items():
            told = artifact.table("confidence", ("row", "example_id"))
            if not np.array_equal(asked.reindex(told["row"]).to_numpy(), told["example_id"].to_numpy()):
                raise UserError(
                    f"{name} asked about other questions than {inputs['generations'].name} has in those rows",
                    "a pass over this generation as it is now", "run the pass again",
                )  # fmt: skip
    return found


def pass_called(inputs: Inputs, wanted: str) -> Artifact:
    """The pass of that step name, or else the one that asks for it (self, other, ...); UserError for none or two."""
    found = passes(inputs)
    if wanted in found:
        return found[wanted]
    asking = [artifact for artifact in found.values() if artifact.options.get("ask") == wanted]
    if len(asking) > 1:
        names = ", ".join(a.name for a in asking)
        raise UserError(f"several confidence passes ask for {wanted!r}: {names}", "the name of one of these steps")
    if not asking:
        raise unknown("confidence pass", wanted, [*found, *(str(a.options.get("ask")) for a in found.values())])
    return asking[0]


def stated(artifact: Artifact, rows: np.ndarray | Sequence[int]) -> np.ndarray:
    """Confidence `[n]`, 0 to 1, that a pass has for these generation rows; NaN where it has none."""
    table = artifact.table("confidence", ("row", "confidence"))
    return table.set_index("row")["confidence"].reindex(np.asarray(rows)).to_numpy(dtype=np.float64)


def signals(inputs: Inputs) -> tuple[pd.DataFrame, list[Signal]]:
    """The generations with one column for each signal, and what the signals are; unknown everywhere is left out.

    Rows are those of the generations table in ascending order (all columns are kept), one round of an episode a row.
    """
    table = inputs.generations()
    numbers = {name: np.asarray(pd.to_numeric(table[name]), dtype=np.float64)
               for name in ("max_prob", "mean_logprob", "margin", "entropy", "difficulty")}  # fmt: skip
    found: list[tuple[Signal, np.ndarray]] = [
        (OUTPUT[0], numbers["max_prob"]),
        (OUTPUT[1], np.exp(numbers["mean_logprob"])),
        (OUTPUT[2], numbers["margin"]),
        (OUTPUT[3], -numbers["entropy"]),
        (EASE, -numbers["difficulty"]),
    ]
    for name, artifact in passes(inputs).items():
        if name in TAKEN or name in table:
            raise UserError(
                f"a confidence pass is called {name!r}", "a name that no other column has", f"as: {name}_pass"
            )
        ask = str(artifact.options.get("ask", ""))
        text = {"self": "stated confidence", "other": "stated confidence in another's answer", "p_true": "P(True)",
                "verbalised": "number in words", "consistency": "agreement of samples"}.get(ask, ask)  # fmt: skip
        found.append((Signal(name, text, "stated", True, name), stated(artifact, np.asarray(table["row"]))))
    kept = [(signal, values) for signal, values in found if np.isfinite(values).any()]
    columns = pd.DataFrame({signal.name: values for signal, values in kept}, index=table.index)
    return pd.concat([table.drop(columns=[c for c in columns if c in table]), columns], axis=1), [s for s, _ in kept]
