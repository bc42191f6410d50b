"""`labels_from`: the labels of an earlier generation, joined on prompt hash and sample; other prompts are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from gnomon.errors import UserError
from gnomon.rows.plan import Reused, Row, Shard

COLUMNS = ("example_id", "prompt_hash", "sample", "temperature", "label", "reason")


def relabel(shards: Sequence[Shard], earlier: pd.DataFrame, source: str) -> list[Shard]:
    """The plan with every row's label taken from the `earlier` rows (`COLUMNS`) of step `source`.

    A prompt asked at several temperatures is matched by temperature too, one that several examples share (with other
    choices, say) by the example's id. Raises UserError, with counts and the first mismatch, where rows find no partner,
    or two whose labels differ.
    """
    by_prompt: dict[tuple[str, int], list[tuple[float, str, Reused]]] = {}
    hashes: dict[str, str] = {}
    for example, prompt_hash, sample, temperature, label, reason in earlier[list(COLUMNS)].itertuples(index=False):
        reused = Reused(None if pd.isna(label) else bool(label), str(reason or ""), source)
        by_prompt.setdefault((prompt_hash, int(sample)), []).append((float(temperature), str(example), reused))
        hashes.setdefault(str(example), prompt_hash)
    lost: list[Row] = []
    torn: list[Row] = []

    def partner(row: Row) -> Row:
        found = by_prompt.get((row.example.prompt_hash, row.sample), [])
        if len(found) > 1:
            found = [one for one in found if one[0] == row.temperature] or found
            found = [one for one in found if one[1] == row.example.id] or found
        if not found:
            lost.append(row)
            return row
        if len({reused.label for _, _, reused in found}) > 1:
            torn.append(row)
        return replace(row, reused=found[0][2])

    out = [[[partner(row) for row in batch] for batch in shard] for shard in shards]
    total = sum(len(batch) for shard in out for batch in shard)
    if lost:
        raise _mismatch(lost, total, hashes, source)
    if torn:
        row = torn[0]
        raise UserError(
            f"labels_from {source}: {len(torn)} of {total} rows have several labels there; the first is example "
            f"{row.example.id!r}, sample {row.sample}, temperature {row.temperature:g}",
            "one answer for each prompt, sample and temperature",
        )
    return out


def _mismatch(lost: Sequence[Row], total: int, hashes: dict[str, str], source: str) -> UserError:
    row = lost[0]
    there = hashes.get(row.example.id)
    if there is None:
        why = "which it does not hold"
    elif there == row.example.prompt_hash:
        why = f"of which it has no sample {row.sample}"
    else:
        why = f"whose prompt hash is {row.example.prompt_hash} here and {there} there"
    return UserError(
        f"labels_from {source}: {len(lost)} of {total} rows have no label there; the first is example "
        f"{row.example.id!r}, {why}",
        "the same prompts (compared by their hashes) and samples",
        "give both the same task, style, n and samples, or leave labels_from out",
    )
