"""Does what a model says of its confidence beat item difficulty and its own output confidence? Rows of `increments`.

    auroc        of the signal, and of what it is held against (control "against")
    difference   AUROC(signal) - AUROC(difficulty), - AUROC(best output signal), paired
    increment    AUROC(logistic[cheap, signal]) - AUROC(logistic[cheap]), cheap: difficulty and all output signals
    partial      correlation of signal and correctness given the cheap ones (0 for a signal that only repeats them)

The combination is learned on fit (`baselines.combine`; a stated signal has seen no label, so it needs no folds of its
own) and applied to test; the best stated and the best output signal are chosen by AUROC on fit and tune. Below
`nested_below` groups all of it is redone in grouped cross-validation over every row, pairs compared within folds,
intervals of what was fitted or chosen anew widened by sqrt(1 + k n_test / n_train) (Nadeau & Bengio 2003).

Verdict, fixed beforehand: `beats` where the interval lies above 0, `does not` where it ends below `smallest`, else
`undecided`; of an increment by the rule that all steps share (`increment.knows_more`), with the partial correlation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from gnomon import nulls, stats
from gnomon.methods.baselines import Combined, residuals
from gnomon.methods.calibration_rivals import BOTH, TOGETHER, Bases, Options, Part, Problem, best, held_out
from gnomon.methods.calibration_signals import intervals, minus, spread
from gnomon.methods.folds import grouped_folds, map_threads
from gnomon.methods.increment import knows_more

BEST = "best stated"
BEATS, NOT, UNDECIDED = "beats", "does not", "undecided"
COLUMNS = ("signal", "choice", "over", "against", "split", "metric", "control", "value", "ci_low", "ci_high", "p", "q",
           "n", "n_pos", "groups", "selected", "verdict", "note")  # fmt: skip


def increment_rows(of: Problem, options: Options, nested: bool) -> list[dict[str, Any]]:
    """Lines of every claim and of the best one, on test, and by cross-validation where `nested`."""
    every = np.arange(len(of.y))
    dev, test = every[of.split != "test"], every[of.split == "test"]
    fit = every[of.split == "fit"]
    chosen = best(of.claims, of.y, dev)
    if chosen is None:
        return []
    out: list[dict[str, Any]] = _nested(of, options, every) if nested else []
    bases: Bases = {}
    for signal in of.claims:
        with threadpool_limits(limits=1):  # the last bits must not depend on the number of cores
            part = held_out(of, signal, fit, dev, test, options, bases)
        more = {f"probe {p.name}": (p.name, p.values[part.rows]) for p in of.probes}
        part = replace(part, against={**part.against, **more})
        made = _lines(of, [part], signal.name, signal.name, "test", False, options)
        out += [line | {"signal": BEST, "selected": not nested} for line in made] if signal is chosen else []
        out += made
    _adjust(out)
    return out


def _nested(of: Problem, options: Options, every: np.ndarray) -> list[dict[str, Any]]:
    k = options.folds
    fold = grouped_folds(of.groups, k, options.seed + 1, of.level)

    def work(i: int) -> tuple[dict[str, Part], str]:
        train, new = every[fold != i], every[fold == i]
        bases: Bases = {}
        parts = {s.name: held_out(of, s, train, train, new, options, bases) for s in of.claims}
        chosen = best(of.claims, of.y, train)
        return parts, chosen.name if chosen is not None else ""

    found = map_threads(work, range(k))
    out: list[dict[str, Any]] = []
    picks = [chosen for _, chosen in found]
    names = [f"{n} in {picks.count(n)}" for n in dict.fromkeys(picks)]
    if len(names) > 1:
        picked = [parts[chosen] for parts, chosen in found]
        out += _lines(of, picked, BEST, f"{', '.join(names)} of {k} folds", "cv", True, options)
    for signal in of.claims:
        made = _lines(of, [parts[signal.name] for parts, _ in found], signal.name, signal.name, "cv", False, options)
        out += [line | {"signal": BEST, "selected": True} for line in made] if {signal.name} == set(picks) else []
        out += made
    return out


class _Line:
    """Lines of one signal on one set of held-out rows, folds one after the other; all intervals share their draws."""

    def __init__(self, of: Problem, parts: Sequence[Part], where: Mapping[str, Any], options: Options) -> None:
        self.parts, self.where, self.o = parts, where, options
        rows = np.concatenate([p.rows for p in parts])
        self.y, self.groups = of.y[rows], of.groups[rows]
        self.fold = np.repeat(np.arange(len(parts)), [len(p.rows) for p in parts])
        self.values = np.concatenate([p.values for p in parts])
        self.wide = float(np.sqrt(1 + len(parts) / (len(parts) - 1))) if len(parts) > 1 else 1.0
        self.thin = stats.thin_class(self.y, str(where["split"]), "calibration")
        self.statistics: dict[str, stats.Statistic] = {}
        self.found: dict[str, stats.Interval] = {}
        self.out: list[dict[str, Any]] = []

    def ask(self, name: str, values: np.ndarray, here: np.ndarray) -> None:
        """An AUROC that is wanted, over the rows `here [n]`."""
        v, y, fold = values[here], self.y[here], self.fold[here]
        all_rows = bool(here.all())
        self.statistics[name] = lambda w: stats.auroc(v, y, w if all_rows else w[:, here], fold)

    def answer(self) -> None:
        self.found = intervals(self.statistics, self.groups, 1 if self.thin else self.o.draws, self.o.seed)

    def add(self, metric: str, found: stats.Interval, here: np.ndarray, wide: bool, **more: Any) -> stats.Interval:
        """A line; `wide`: something was fitted or chosen anew in each fold."""
        by = self.wide if wide else 1.0
        low, high = (found.value + by * (end - found.value) for end in (found.low, found.high))
        if self.thin and more.get("control") != "shuffled":
            found = stats.Interval(found.value, note=self.thin)
        else:
            least = 0.0 if metric == "auroc" else -1.0
            found = replace(
                found, low=max(low, least), high=min(high, 1.0), draws=found.value + by * (found.draws - found.value)
            )
        note = "; ".join(t for t in (found.note, more.pop("note", "")) if t)
        self.out.append({
            **dict.fromkeys(COLUMNS, ""), "p": found.p_above_zero if metric != "auroc" else np.nan, "q": np.nan,
            **self.where, "metric": metric, "value": float(found.value), "ci_low": float(found.low),
            "ci_high": float(found.high), "n": int(here.sum()), "n_pos": int(self.y[here].sum()),
            "groups": len(np.unique(self.groups[here])), "note": note, **more,
        })  # fmt: skip
        return found


def _lines(
    of: Problem, parts: Sequence[Part], name: str, choice: str, split: str, selected: bool, options: Options
) -> list[dict[str, Any]]:
    where = {"signal": name, "choice": choice, "split": split, "selected": selected}
    line = _Line(of, parts, where, options)
    every = np.ones(len(line.y), dtype=bool)
    if not line.y.any() or line.y.all():
        line.add("auroc", stats.Interval(np.nan, note="one outcome only: no pair to compare"), every, False)
        return line.out
    overs = {}
    for over in [o for o in parts[0].against if all(o in p.against for p in parts)]:
        other = np.concatenate([p.against[over][1] for p in parts])
        here = np.isfinite(other)
        if line.y[here].any() and not line.y[here].all():
            overs[over] = here
            line.ask(f"against {over}", other, here)
            line.ask(f"own {over}", line.values, here)
    line.ask("own", line.values, every)
    whole = [p.combined for p in parts if p.combined is not None]
    fields = Combined.__dataclass_fields__ if len(whole) == len(parts) else {}
    joined = Combined(*(np.concatenate([getattr(c, f) for c in whole]) for f in fields)) if fields else None
    if joined is not None:
        line.ask("together", joined.both, every)
        s, e = residuals(joined, line.y)
        line.statistics["partial"] = lambda w: _correlation(s, e, w)
    line.answer()
    mixed = len({p.choice for p in parts}) > 1
    labels = nulls.permuted(line.y.astype(np.int8), line.groups, options.permutations, [options.seed, 41])
    null = nulls.auroc_columns(line.values, labels, line.fold)
    p = nulls.p_value(line.found["own"].value, null)
    line.add("auroc", line.found["own"], every, mixed, p=p)
    line.add("auroc", spread(null), every, False, control="shuffled", p=p,
             note=f"mean and 95% range of {len(null)} shuffles of labels by group")  # fmt: skip
    for over, here in overs.items():
        names = [p.against[over][0] for p in parts]
        told = [f"{n} in {names.count(n)}" for n in dict.fromkeys(names)]
        against = names[0] if len(told) == 1 else f"{', '.join(told)} of {len(names)} folds"
        wide = mixed or over == BOTH or len(told) > 1
        more: dict[str, Any] = {"over": over, "against": against}
        line.add("auroc", line.found[f"against {over}"], here, wide, control="against", **more)
        found = line.add(
            "difference",
            minus(line.found[f"own {over}"], line.found[f"against {over}"]),
            here,
            wide,
            note="paired",
            **more,
        )
        line.out[-1]["verdict"] = verdict(found, options.smallest)
    if joined is not None and BOTH in overs:
        more = {"over": BOTH, "against": TOGETHER}
        line.add("auroc", line.found["together"], every, True, control="together", note="cheap ones and signal", **more)
        gain = line.add(
            "increment",
            minus(line.found["together"], line.found[f"against {BOTH}"]),
            every,
            True,
            note="paired",
            **more,
        )
        at, note = line.out[-1], "correlation given the cheap ones"
        rest = line.add("partial", line.found["partial"], every, True, note=note, **more)
        at["verdict"] = verdict(gain, options.smallest, rest)
    return line.out


def _correlation(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Of residuals, about zero: `[draws]`."""
    top, bottom = w @ (a * b), np.sqrt((w @ a**2) * (w @ b**2))
    return np.divide(top, bottom, out=np.full(len(w), np.nan), where=bottom > 0)


def verdict(found: stats.Interval, smallest: float, partial: stats.Interval | None = None) -> str:
    """What an interval of a difference says; of an increment with the partial correlation beside it."""
    if partial is not None:
        one, other = ({"ci_low": i.low, "ci_high": i.high} for i in (found, partial))
        return {"yes": BEATS, "no": NOT, "undecided": UNDECIDED}[knows_more(one, other, smallest)]
    if not np.isfinite(found.low):
        return UNDECIDED
    return BEATS if found.low > 0 else NOT if found.high < smallest else UNDECIDED


def _adjust(rows: list[dict[str, Any]]) -> None:
    """Benjamini-Hochberg over the signals of each split, comparison and metric; the best one is none of its own."""
    family: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["signal"] != BEST and row["control"] == "" and np.isfinite(row["p"]):
            family.setdefault((row["split"], row["over"], row["metric"]), []).append(row)
    for members in family.values():
        adjusted = nulls.benjamini_hochberg(np.array([m["p"] for m in members]))
        for member, q in zip(members, adjusted, strict=True):
            member["q"] = float(q)
