"""Comparisons of a family tested together: q over all of them, effect sizes of the tokens that lead, chance beside.

A token is found where its q over the family is at most alpha, the interval of its log-odds lies beside 0, and both
point the same way. A comparison with a `note` concludes nothing: its numbers are there, nothing in it is found, and it
is no member of the family that q is taken over (a patch that breaks the text shifts hundreds of tokens, beside which
others would pass too easily).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon.methods.token_counts import readable
from gnomon.methods.token_shifts import Samples, Sizes, Tested, adjusted, chance, compared, sizes

CLASSES, PATCHES, CONTROLS = "classes", "patches", "controls"
FAMILIES = (CLASSES, PATCHES, CONTROLS)
NAMES = {"fisher": "Fisher", "within": "within-prompt permutation", "paired": "sign flips"}


@dataclass(frozen=True)
class Comparison:
    """Two sides of responses and what they are called."""

    family: str
    condition: str
    against: str
    samples: Samples
    name: str = ""
    matches: str = ""
    note: str = ""
    options_words: bool = False
    rises: float = 1.0
    """1 where the patch raises the latent, -1 where it lowers it."""

    @property
    def where(self) -> dict[str, str]:
        """The columns by which its rows are known."""
        return {
            "comparison": self.family, "name": self.name, "matches": self.matches, "condition": self.condition,
            "against": self.against,
        }  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """How tokens are judged; the step's options."""

    alpha: float = 0.05
    min_count: int = 5
    prior: float = 0.1
    draws: int = 1000
    shuffles: int = 19
    keep: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """One comparison: `changes [vocabulary]`, the change of the rate of every token looked at, `columns` their place in
    the corpus, and the rows of its tables."""

    comparison: Comparison
    columns: np.ndarray
    changes: np.ndarray
    tokens: list[dict[str, Any]]
    line: dict[str, Any]


def judge(
    comparisons: Sequence[Comparison], ids: np.ndarray, setting: Setting, advance: Callable[[int], None] | None = None
) -> tuple[list[Judged], dict[str, Any]]:  # fmt: skip
    """Every comparison of one family, and the family's own row. `ids [vocabulary]`: the token id of each column."""
    tested = []
    for one in comparisons:
        tested.append(compared(one.samples, setting.min_count))
        if advance is not None:
            advance(1)
    sure = np.array([not c.note for c in comparisons], dtype=bool)
    q: list[np.ndarray] = [np.zeros(0)] * len(tested)
    luck = np.zeros(0, dtype=np.int64)
    for members in (np.flatnonzero(sure).tolist(), np.flatnonzero(~sure).tolist()):
        if members:
            mine = [tested[i] for i in members]
            ends = np.cumsum([len(t.columns) for t in mine])
            names = np.repeat(_names([comparisons[i] for i in members]), [len(t.columns) for t in mine])
            p, least = np.concatenate([t.p for t in mine]), np.concatenate([t.least for t in mine])
            for i, part in zip(members, np.split(adjusted(p, least, setting.alpha, names), ends[:-1]), strict=True):
                q[i] = part
            if not len(luck):
                luck = chance(mine, setting.alpha, setting.shuffles, setting.seed, names)
    out = [_judged(one, t, own, ids, setting) for one, t, own in zip(comparisons, tested, q, strict=True)]
    counted = np.concatenate([own for own, ok in zip(q, sure, strict=True) if ok or not sure.any()] or [np.zeros(0)])
    return out, _family(comparisons, out, counted, luck, setting)


def _names(comparisons: Sequence[Comparison]) -> np.ndarray:
    """A number for the feature (or random latent) of each."""
    place: dict[tuple[str, str], int] = {}
    return np.array([place.setdefault((c.name, c.matches), len(place)) for c in comparisons], dtype=np.int64)


def _judged(one: Comparison, t: Tested, q: np.ndarray, ids: np.ndarray, setting: Setting) -> Judged:
    alone = adjusted(t.p, t.least, setting.alpha)
    order = np.lexsort((ids[t.columns], t.p))
    hits = q <= setting.alpha
    shown = order[hits[order] | (np.arange(len(order)) < setting.keep)]
    own = zlib.crc32("|".join(one.where.values()).encode())
    size = sizes(one.samples, t.columns[shown], setting.prior, setting.draws, setting.seed + own)
    side = one.samples.side
    n, m = int(side.sum()), int((~side).sum())
    rate, other = size.count / max(n, 1), size.against / max(m, 1)
    sure = np.sign(size.log_odds) * np.where(size.log_odds > 0, size.low, size.high) > 0
    sure &= np.sign(rate - other) == np.sign(size.log_odds)
    found = hits[shown] & sure & (not one.note)
    rows = _rows(one, t, shown, ids, (n, m), size, q, alone, found)
    both = _rates(t, side)
    held = one.samples
    line = one.where | {
        "n": n, "against_n": m, "groups": len(np.unique(held.group)), "vocabulary": len(t.columns),
        "tested": int(np.isfinite(q).sum()), "found": int(found.sum()),
        "found_alone": int((found | ((alone[shown] <= setting.alpha) & sure & (not one.note))).sum()),
        "test": NAMES[held.design], "design": held.note, "options_words": one.options_words, "note": one.note,
    }  # fmt: skip
    return Judged(one, t.columns, both, rows, line)


def _rates(t: Tested, side: np.ndarray) -> np.ndarray:
    """Rate of the condition less the other's, of every token looked at."""
    counts: Any = t.samples.counts
    present = counts[:, t.columns] > 0
    weight = side / max(side.sum(), 1) - ~side / max((~side).sum(), 1)
    return np.asarray(present.T @ weight).reshape(-1)


def _rows(
    one: Comparison, t: Tested, shown: np.ndarray, ids: np.ndarray, n: tuple[int, int], size: Sizes, q: Any, alone: Any,
    found: np.ndarray,
) -> list[dict[str, Any]]:  # fmt: skip
    return [
        one.where | {
            "token": "", "shown": "", "token_id": int(ids[t.columns[v]]), "count": int(size.count[i]),
            "against_count": int(size.against[i]), "n": n[0], "against_n": n[1],
            "rate": float(size.count[i] / max(n[0], 1)), "against_rate": float(size.against[i] / max(n[1], 1)),
            "log_odds": float(size.log_odds[i]), "ci_low": float(size.low[i]), "ci_high": float(size.high[i]),
            "z": float(size.z[i]), "p": float(t.p[v]), "q": _known(q[v]), "q_own": _known(alone[v]),
            "evidence": float(-np.log10(t.p[v])), "lens": None, "test": NAMES[one.samples.design],
            "found": bool(found[i]), "note": one.note,
        }
        for i, v in enumerate(shown.tolist())
    ]  # fmt: skip


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _family(
    comparisons: Sequence[Comparison], out: Sequence[Judged], q: np.ndarray, luck: np.ndarray, setting: Setting
) -> dict[str, Any]:  # fmt: skip
    names = {(c.name, c.matches) for c in comparisons}
    hit = {(j.comparison.name, j.comparison.matches) for j in out if j.line["found"]}
    found = sum(j.line["found"] for j in out)
    notes = list(dict.fromkeys(c.note for c in comparisons if c.note))
    return {
        "comparison": comparisons[0].family if comparisons else "", "comparisons": len(comparisons),
        "concluded": sum(not c.note for c in comparisons), "names": len(names), "names_found": len(hit),
        "vocabulary": len(q), "tested": int(np.isfinite(q).sum()),
        "found": found, "per_name": found / max(len(names), 1),
        "chance": float(luck.mean()) if len(luck) else None,
        "chance_share": float((luck > 0).mean()) if len(luck) else None, "shuffles": len(luck),
        "alpha": setting.alpha, "least_q": float(np.nanmin(q)) if np.isfinite(q).any() else None,
        "note": "; ".join(notes),
    }  # fmt: skip


def name_tokens(rows: Sequence[dict[str, Any]], strings: Callable[[list[int]], list[str]]) -> None:
    """Write `token` and `shown` of each row, in place; `strings` decodes token ids."""
    ids = sorted({r["token_id"] for r in rows})
    text = dict(zip(ids, strings(ids), strict=True))
    for r in rows:
        r["token"] = text[r["token_id"]]
        r["shown"] = readable(r["token"])
