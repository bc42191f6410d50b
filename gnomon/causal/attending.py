"""Where the answer looks: shares of attention from the answer's tokens to the parts of the prompt, under edits.

    share(layer, part) = mean over heads of sum over the part's tokens of the attention weight

read at two tokens of the row's own, unedited text: the last of the prompt (it writes the first token of the answer) and
the last of the response. The same tokens are run with and without the edit, so a share can only move by the edit.
Cost: one pass over the response's tokens a condition; the prompt's are run once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gnomon.causal.items import kept
from gnomon.causal.options import CausalOptions
from gnomon.causal.pick import pick, records
from gnomon.causal.worker import CLEAN, Condition
from gnomon.errors import UserError
from gnomon.halving import marked, run_halving
from gnomon.methods.effects import ratio
from gnomon.step import ModelSpec
from gnomon.writer import Writer

Spans = dict[str, tuple[int, int]]
SCHEMA = pa.schema(
    [("condition", pa.string()), ("row", pa.int64()), ("position", pa.string()), ("part", pa.string()),
     ("layer", pa.int64()), ("tokens", pa.int64()), ("value", pa.float64())]
)  # fmt: skip
ATTENTION = pa.schema(
    [("position", pa.string()), ("part", pa.string()), ("scope", pa.string()), ("layer", pa.int64()),
     ("condition", pa.string()), ("value", pa.float64()), ("ci_low", pa.float64()), ("ci_high", pa.float64()),
     ("n", pa.int64()), ("tokens", pa.float64()), ("missing", pa.int64())]
)  # fmt: skip
"""scope: mean (over layers; layer -1), layer, difference (of two conditions, by layer). condition: before | steered |
random | steered - before | random - before | steered - random. tokens: mean number of the part's tokens; missing: rows
whose prompt does not hold the part, or that have no response."""
POSITIONS = ("last_prompt", "last")


def parts_of(options: CausalOptions, table: pd.DataFrame) -> dict[int, dict[str, str]] | None:
    """Row -> texts of its parts, from meta `parts`; None where attention is off, or unasked for and without parts."""
    if options.attention is False:
        return None
    out = {}
    for row, meta in zip(table["row"].tolist(), table["meta"], strict=True):
        parts = json.loads(meta or "{}").get("parts") or {}
        named = {str(k): v for k, v in parts.items() if isinstance(v, str) and v}
        if named:
            out[int(row)] = named
    if not out and options.attention:
        raise UserError(
            "attention: true, and no row names the parts of its prompt",
            'a task whose examples have meta {"parts": {"problem": text, "tests": text}}',
        )
    return out or None


def spans(ids: Sequence[int], prompt: str, parts: Mapping[str, str], decode: Callable[[Sequence[int]], str]) -> Spans:
    """part -> [first, last + 1) of the prompt's tokens that hold any of its text; a part that is not there is left out.

    A part's last occurrence counts (worked examples come before the question). `decode` keeps special tokens.
    """
    ends = [len(decode(ids[: k + 1])) for k in range(len(ids))]
    at = decode(ids).find(prompt)
    if at < 0:
        return {}
    starts, out = [0, *ends[:-1]], {}
    for name, text in parts.items():
        first = prompt.rfind(text) if text else -1
        if first < 0:
            continue
        a, b = at + first, at + first + len(text)
        inside = [k for k in range(len(ids)) if starts[k] < b and ends[k] > a]
        if inside:
            out[name] = (inside[0], inside[-1] + 1)
    return out


@dataclass(frozen=True)
class Looks:
    """One shard: rows (dictionaries) with the texts of their parts, under conditions."""

    rows: tuple[dict[str, Any], ...]
    parts: tuple[Mapping[str, str], ...]
    conditions: tuple[Condition, ...]


def shards(
    table: pd.DataFrame, parts: Mapping[int, Mapping[str, str]], conditions: Sequence[Condition], size: int
) -> list[Looks]:
    """Shards of at most `size` rows of similar length, each under all conditions."""
    here = table.loc[np.asarray(table["row"].isin(list(parts)))].sort_values(["prompt_len", "row"])
    rows = records(here, ["row", "token_ids", "prompt_len", "prompt"])
    cut = [rows[a : a + size] for a in range(0, len(rows), size)]
    return [Looks(tuple(some), tuple(parts[r["row"]] for r in some), tuple(conditions)) for some in cut]


@dataclass
class Attender:
    """Reads attention rows of every layer at the two tokens, under each condition."""

    spec: ModelSpec
    path: str
    place: Any
    """Where the conditions edit."""

    def open(self) -> None:
        """Load the model."""
        self.model = self.spec.load()

    def __call__(self, shard: tuple[int, Looks]) -> None:
        """Write one shard of table `attended`."""
        from gnomon.models.tokens import decode

        index, part = shard
        texts = [[int(i) for i in r["token_ids"]] for r in part.rows]
        prompts = [int(r["prompt_len"]) for r in part.rows]
        found = [
            spans(text[:n], str(r["prompt"]), names, lambda ids: decode(self.model.tokenizer, ids, special=True))
            for text, n, r, names in zip(texts, prompts, part.rows, part.parts, strict=True)
        ]

        def looked(at: Sequence[int]) -> list[dict[str, Any]]:
            own = [texts[i] for i in at], [prompts[i] for i in at]
            prefix, lines = self._prefix(*own), []
            for condition in part.conditions:
                for position, rows, weights in self._read(*own, condition, prefix, at):
                    for slot, i in ((slot, at[row]) for slot, row in enumerate(rows)):
                        for name, (a, b) in found[i].items():
                            first = {"condition": condition.name, "row": int(part.rows[i]["row"]),
                                     "position": position, "part": name, "tokens": b - a}  # fmt: skip
                            lines += [
                                first | {"layer": layer, "value": float(w[slot, :, a:b].sum(-1).mean())}
                                for layer, w in enumerate(weights)
                            ]
            return lines

        halved: list[int] = []
        lines = run_halving(looked, range(len(texts)), halved)
        files = Writer.attach(self.path).shard(index)
        files.table("attended", pa.Table.from_pylist(lines, schema=SCHEMA))
        files.finish(marked(halved))

    def _prefix(self, texts: list[list[int]], prompts: list[int]) -> Any:
        """Keys and values of the prompts before their last token; None where an edit may touch them."""
        if any(kept(self.place, n) < n - 1 for n in prompts) or min(prompts) < 2:
            return None
        cache = self.model.new_cache()
        self.model.forward([t[: n - 1] for t, n in zip(texts, prompts, strict=True)], cache=cache)
        return cache

    def _read(
        self, texts: list[list[int]], prompts: list[int], condition: Condition, prefix: Any, at: Sequence[int]
    ) -> list[tuple[str, list[int], list[np.ndarray]]]:
        """(position, rows that have it, weights `[rows, heads, keys]` a layer); `at`: their numbers in the shard."""
        from gnomon.models.replay import SharedPrefix

        out = []
        for position in POSITIONS:
            rows = [i for i, t in enumerate(texts) if position == "last_prompt" or len(t) > prompts[i]]
            if not rows:
                continue
            ends = [prompts[i] if position == "last_prompt" else len(texts[i]) for i in rows]
            begin = [prompts[i] - 1 if prefix is not None else 0 for i in rows]
            made = self.model.forward(
                [texts[i][a:b] for i, a, b in zip(rows, begin, ends, strict=True)], edit=condition.edits,
                cache=None if prefix is None else SharedPrefix(prefix, rows), patterns=range(self.model.n_layers),
                pattern_at="last", prompt_lens=[prompts[i] for i in rows],
                rows=[at[i] for i in rows],
            )  # fmt: skip
            weights = [made.patterns[layer][:, :, 0].float().cpu().numpy() for layer in range(self.model.n_layers)]
            out.append((position, rows, weights))
        return out


def attention_table(
    attended: pd.DataFrame, table: pd.DataFrame, arms: Sequence[str], weights: np.ndarray
) -> pd.DataFrame:
    """Rows of `ATTENTION`: shares before and under the first of `arms`, the others' mean as the random control, and
    paired differences, with intervals over groups (`weights [draws, n]`, in the order of `table`)."""
    rows = table["row"].tolist()
    lines: list[dict[str, Any]] = []
    layers = [-1, *sorted({int(layer) for layer in attended["layer"]})]
    for position in POSITIONS:
        for part in sorted(set(attended["part"])):
            here = pick(attended, position=position, part=part)
            if not len(here):
                continue
            wide = here.pivot(index="row", columns=["condition", "layer"], values="value")
            known = np.array([row in wide.index for row in rows])
            drawn = weights[:, known]
            drawn = drawn[drawn.sum(1) > 0]
            size = float(np.mean(here.drop_duplicates("row")["tokens"]))
            wide = wide.loc[[row for row in rows if row in wide.index]]
            for layer in layers:
                some = layers[1:] if layer < 0 else [layer]

                def share(name: str, wide: pd.DataFrame = wide, some: Sequence[int] = some) -> np.ndarray:
                    return wide[[(name, x) for x in some]].to_numpy().mean(1)

                before, steered = share(CLEAN.name), share(arms[0])
                random = np.mean([share(name) for name in arms[1:]], axis=0)
                series = {
                    "before": before, "steered": steered, "random": random, "steered - before": steered - before,
                    "random - before": random - before, "steered - random": steered - random,
                }  # fmt: skip
                values = np.stack(list(series.values()), axis=1)
                value, low, high = ratio(values, np.ones((len(values), 1)), drawn)
                lines += [
                    {"position": position, "part": part, "layer": layer, "condition": name,
                     "scope": "mean" if layer < 0 else "difference" if " - " in name else "layer", "value": value[i],
                     "ci_low": low[i], "ci_high": high[i], "n": len(values), "tokens": size,
                     "missing": len(rows) - len(values)}
                    for i, name in enumerate(series)
                ]  # fmt: skip
    return pd.DataFrame(lines, columns=ATTENTION.names)
