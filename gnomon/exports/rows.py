"""The rows of an export: one graded answer an example, those of the second-order step where the study has one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from gnomon.errors import UserError
from gnomon.store import Artifact, Study
from gnomon.types import SPLITS, Activations, Site

COLUMNS = ("row", "example_id", "group", "split", "difficulty", "sample", "round", "temperature", "condition", "prompt",
           "prompt_len", "token_ids", "text", "answer", "label", "reason", "target")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One split's rows, in the order of every array of that split; `index` is their place in second_order/rows."""

    split: str
    prefix: str
    """`{dataset}_{split}_{model}`."""
    table: pd.DataFrame
    index: np.ndarray | None

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> pd.Series:
        return cast(pd.Series, self.table[name])

    @property
    def labels(self) -> np.ndarray:
        """`[N]` int64: 1 right, 0 wrong."""
        return np.array([int(bool(v)) for v in self.column("label")], dtype=np.int64)

    @property
    def rows(self) -> np.ndarray:
        return np.asarray(self.column("row"), dtype=np.int64)


def generation_of(study: Study, second: Artifact | None) -> Artifact | None:
    """The generation that the second-order step read, else the study's first one."""
    made = [a for a in study if "generations" in a.tables()]
    read = ((second.meta.get("inputs") or {}) if second is not None else {}).get("generations")
    wanted = read.get("fingerprint") if isinstance(read, dict) else None
    return next((a for a in made if wanted and a.fingerprint == wanted), made[0] if made else None)


def name_part(text: str, default: str) -> str:
    """A name as a part of a file name: its last path component, odd characters as dashes."""
    last = re.split(r"[/:\\]", str(text).rstrip("/"))[-1]
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or default


def dataset_of(generation: Artifact | None) -> str:
    task: Any = generation.options.get("task") if generation is not None else None
    if isinstance(task, Mapping):
        task = task.get("name") or next(iter(task), "")
    return name_part(task or "", "data")


def model_of(study: Study, *artifacts: Artifact | None) -> str:
    known: list[Any] = [study.run.get("model"), *(a.meta.get("model") for a in artifacts if a is not None)]
    names = [m.get("name") if isinstance(m, Mapping) else m for m in known]
    return name_part(next((str(n) for n in names if n), ""), "model")


def parts_of(generation: Artifact | None, second: Artifact | None, model: str) -> list[Part]:
    """The rows of each split that has some, in order. UserError where the two steps are not of the same rows."""
    dataset = dataset_of(generation)
    table = _answers(generation) if generation is not None else None
    places: pd.DataFrame | None = None
    if second is not None:
        places = second.table("rows").sort_values("index")
        table = _joined(places, table, second)
    if table is None:
        return []
    out = []
    for split in SPLITS:
        mask = np.asarray(table["split"] == split)
        if mask.any():
            mine = table.loc[mask].reset_index(drop=True)
            index = None if places is None else np.asarray(mine["index"], dtype=np.int64)
            out.append(Part(split, f"{dataset}_{split}_{model}", mine, index))
    return out


def _answers(generation: Artifact) -> pd.DataFrame:
    """One graded answer an example: its first; in the order of the data set's rows."""
    table = generation.table("generations", COLUMNS)
    graded = table.loc[np.asarray(table["label"].notna())].sort_values("row", kind="stable")
    return graded.drop_duplicates("example_id").reset_index(drop=True)


def _joined(places: pd.DataFrame, answers: pd.DataFrame | None, second: Artifact) -> pd.DataFrame:
    """The rows of the second-order step in its own order, with what the generation knows of them."""
    if answers is None:
        return places
    keys = ["row", *[c for c in places.columns if c not in answers.columns]]
    joined = places[keys].merge(answers, on="row", how="inner", validate="one_to_one")
    if len(joined) < len(places):
        raise UserError(
            f"{second.name} holds {len(places) - len(joined)} rows that the generation lacks", "the same rows",
            "run the study again, so that both are of one generation",
        )  # fmt: skip
    return joined.sort_values("index")


# ---------------------------------------------------------------- padding


def padded_tokens(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[N, max_len]` int64, padded with 0 on the right, and the mask `[N, max_len]` int64 (1: a real token)."""
    rows = [np.asarray(ids, dtype=np.int64) for ids in part.column("token_ids")]
    width = max((len(r) for r in rows), default=0)
    tokens, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for i, ids in enumerate(rows):
        tokens[i, : len(ids)], mask[i, : len(ids)] = ids, 1
    return tokens, mask


def last_site(artifacts: Iterable[Artifact], position: str, part: Part) -> tuple[Artifact, Activations] | None:
    """resid_post of the last captured layer at `position`, from a step that captured all of the part's rows."""
    best: tuple[int, Artifact, Activations] | None = None
    for artifact in artifacts:
        for site, where in artifact.sites():
            if site.component == "resid_post" and where == position and (best is None or site.layer > best[0]):
                values = artifact.activations(Site("resid_post", site.layer), position)
                if np.isin(part.rows, values.rows).all():
                    best = (site.layer, artifact, values)
    return None if best is None else (best[1], best[2])


def padded_stream(
    acts: Activations, part: Part, width: int, norm: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """`[N, width, d]` float32: each row's tokens, through `norm`, then zeros. N * width * d * 4 bytes are held."""
    out = np.zeros((len(part), width, acts.d), np.float32)
    for i, row in enumerate(part.rows.tolist()):
        values = acts.row(row)
        if len(values) > width:
            raise UserError(f"row {row} has {len(values)} captured tokens and {width} written ones", "the same tokens")
        out[i, : len(values)] = values if norm is None else norm(values)
    return out
