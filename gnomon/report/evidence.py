"""What the evidence is worth: criteria with their verdicts, reads of the test split, and the limits of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.report.formats import SMALL_CLASS, interval, is_missing, number, short
from gnomon.report.rows import columns, read, records
from gnomon.report.sections import Section
from gnomon.report.tables import SIZES, VERDICTS, no_interval_rows
from gnomon.store import Artifact, Study


@dataclass(frozen=True)
class Criterion:
    """A rule stated before the run, and what became of it: pass, fail, or undecided by the interval."""

    name: str
    text: str
    verdict: str
    tone: str
    value: str
    bound: str


@dataclass(frozen=True)
class LedgerEntry:
    """One read of the test split, from a step's ledger."""

    step: str
    rows: str
    why: str


@dataclass(frozen=True)
class Limit:
    """One limit of the evidence; `step` names the step that stated it, "" for the general ones."""

    text: str
    step: str = ""
    anchor: str = ""


def criteria(run: Mapping[str, Any]) -> list[Criterion]:
    """The study's criteria with value, interval and verdict, as run.json holds them."""
    out = []
    for i, c in enumerate(run.get("criteria") or []):
        verdict, bound = str(c.get("verdict") or "undecided"), c.get("bound")
        out.append(Criterion(
            str(c.get("name") or f"criterion {i + 1}"), str(c.get("text") or ""), verdict,
            VERDICTS.get(verdict, "unsure"), _measured(c),
            "" if is_missing(bound) else bound if isinstance(bound, str) else short(format(bound, "g")),
        ))  # fmt: skip
    return out


def _measured(c: Mapping[str, Any]) -> str:
    """A criterion's value with its interval, or what was lacking: `measured .79 [.72, .85], n = 96`."""
    detail = str(c.get("detail") or "")
    if is_missing(c.get("value")):
        return f"not measured: {detail}" if detail else "not measured"
    parts = ["measured " + number(c["value"], ".3f")]
    if not is_missing(c.get("ci_low")) and not is_missing(c.get("ci_high")):
        parts[0] += " " + interval(c["ci_low"], c["ci_high"], ".3f")
    else:
        parts.append(detail or interval(None, None, row=c))
    if not is_missing(c.get("n")):
        parts.append(f"n = {number(c['n'], '', 'n')}")
    return ", ".join(parts)


def reads_of_test(study: Study) -> list[LedgerEntry]:
    """Every read of the test split, in the study's order."""
    return [
        LedgerEntry(artifact.name, number(entry.get("rows"), "", "n"), str(entry.get("why") or ""))
        for artifact in study
        for entry in artifact.meta.get("ledger") or []
        if entry.get("split", "test") == "test"
    ]


def limits(study: Study, sections: Sequence[Section]) -> list[Limit]:
    """What the steps themselves say limits their evidence, then what holds of any study of this kind."""
    own = [Limit(s.text, x.title, x.anchor) for x in sections for s in x.sentences("limit")]
    return own + [Limit(text) for text in (*_sizes(study), *_reads(study), *_scope(study))]


def _sizes(study: Study) -> list[str]:
    out = []
    for artifact in study:
        out += _unparsed_and_small(artifact)
        for table in artifact.tables():
            if not {"ci_low", "ci_high", "n"} <= set(columns(artifact, table)):
                continue
            rows = read(artifact, table, ("ci_low", "ci_high", *SIZES))
            lacking = no_interval_rows(rows)
            if lacking:
                out.append(
                    f"{artifact.name}/{table}: {lacking:,} of {len(rows):,} rows rest on fewer than {SMALL_CLASS} "
                    "examples of a class and get no interval."
                )
    return out


def _unparsed_and_small(artifact: Artifact) -> list[str]:
    """From a generation's table of counts: classes too small in test, and answers that nothing could be read from."""
    if "counts" not in artifact.tables() or not {"split", "label", "n"} <= set(columns(artifact, "counts")):
        return []
    n = {(str(r["split"]), str(r["label"])): int(r["n"] or 0) for r in records(read(artifact, "counts"))}
    out = [
        f"{artifact.name}: split test has {n['test', label]} {label} answers, under the {SMALL_CLASS} that an interval "
        "needs."
        for label in ("correct", "incorrect")
        if n.get(("test", label), SMALL_CLASS) < SMALL_CLASS
    ]
    total = sum(v for (split, _), v in n.items() if split == "all")
    unparsed = n.get(("all", "unparsed"), 0)
    if unparsed and total:
        share = number(unparsed / total, ".1%")
        out.append(
            f"{artifact.name}: {unparsed:,} of {total:,} answers ({share}) could not be parsed. They are counted, "
            "left out of every right-or-wrong comparison, and never taken for wrong."
        )
    return out


def _reads(study: Study) -> list[str]:
    by_step: dict[str, int] = {}
    for entry in reads_of_test(study):
        by_step[entry.step] = by_step.get(entry.step, 0) + 1
    if not by_step:
        return []
    times = sum(by_step.values())
    each = ", ".join(f"{name} {count}" for name, count in by_step.items())
    return [
        f"The test split was read {times} time{'' if times == 1 else 's'} ({each}); the ledger below lists each read. "
        "Choices are made on fit and tune; every further look at test makes its numbers a little less independent."
    ]


def _scope(study: Study) -> list[str]:
    run = study.run
    model = run.get("model") or {}
    name = model.get("name") if isinstance(model, dict) else model
    seed = run.get("seed")
    out = []
    if name:
        with_seed = "" if is_missing(seed) else f" with seed {seed}"
        out.append(
            f"One model ({name}){with_seed}, on the prompts below as they are worded: nothing here says how another "
            "model, another wording or another task would do."
        )
    stated = run.get("criteria") or []
    if not stated:
        out.append("No criteria were stated beforehand, so the findings are exploratory: no verdict is given.")
    elif any(str(c.get("verdict")) == "undecided" for c in stated):
        out.append("Undecided criteria are neither passed nor failed: their interval contains the bound.")
    return out
