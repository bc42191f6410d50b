"""audit: is this generation fit to stand on? Counts, balance, duplicates, joins, leaks, parse failures, offenders.

Nothing here is a finding about the model. It is what a reviewer asks first, asked of the rows themselves, and each
check says what it saw, its limit, and what to do. Standing below features, patch_features or pathways it also checks
their tables: names, joins, six conditions on the same trials. Cost: one read of these tables, no model.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from gnomon.blocks import Block, Ref, Table, Text, Tokens
from gnomon.errors import UserError
from gnomon.methods.audit_checks import Check, Level
from gnomon.methods.chain_audit import patch_checks, pathway_checks, separation_checks
from gnomon.methods.two_classes import DEFAULT, class_names
from gnomon.rows import counts as counting
from gnomon.stats import MIN_CLASS
from gnomon.step import Context, Inputs, Step
from gnomon.store import Artifact
from gnomon.types import SPLITS
from gnomon.writer import Writer

CHECKS = pa.schema(
    [("check", pa.string()), ("level", pa.string()), ("value", pa.float64()), ("limit", pa.float64()),
     ("ci_low", pa.float64()), ("ci_high", pa.float64()), ("detail", pa.string())]
)  # fmt: skip
OFFENDERS = pa.schema(
    [("kind", pa.string()), ("row", pa.int64()), ("example_id", pa.string()), ("prompt", pa.string()),
     ("target", pa.string()), ("answer", pa.string()), ("text", pa.string()), ("label", pa.bool_()),
     ("why", pa.string())]
)  # fmt: skip
SUMMARY = pa.schema([("name", pa.string()), ("value", pa.float64())])
TITLES = {"unparsed": "Not parsed", "cut off": "Cut off", "longest": "Longest answers"}
KEY = ["example_id", "sample", "temperature", "round", "condition"]


class Audit(Step):
    """Check an earlier generation before anything is concluded from it."""

    name: ClassVar[str] = "audit"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("generations",)
    optional: ClassVar[tuple[str, ...]] = ("activations", "features", "causal_features", "pathways")
    gathers: ClassVar[tuple[str, ...]] = ("features", "causal_features", "pathways")
    writes: ClassVar[tuple[str, ...]] = ("audit",)
    uses_model: ClassVar[bool] = False

    max_unparsed: float = Field(default=0.1, ge=0, le=1)
    """Warn above this share of answers that could not be parsed."""
    max_cut: float = Field(default=0.2, ge=0, le=1)
    """Warn above this share of answers cut off at the token limit."""
    max_majority: float = Field(default=0.9, ge=0.5, le=1)
    """Warn where one class (correct or incorrect, safe or risky) holds more than this share of the parsed answers."""
    max_same_answer: float = Field(default=0.5, ge=0, le=1)
    """Warn where one answer makes up more than this share of all parsed answers: the model may be repeating itself."""
    min_class: int = Field(default=MIN_CLASS, ge=1)
    """Warn where a split has fewer rows of a class: under 20 there is no interval."""
    offenders: int = Field(default=3, ge=0)
    """Worst rows shown of each kind: unparsed, cut off, longest; a row is shown once."""
    strict: bool = False
    """Stop the study at a failed check (a leak, a broken join, an empty class) instead of writing it down."""

    def run(self, inputs: Inputs, out: Writer, ctx: Context) -> None:
        rows = inputs.generations()
        names = class_names(None, inputs["generations"])
        checks = [*self.checks(rows, names), *joins(inputs, rows), *chain(inputs)]
        for line in checks:
            if line.level != "ok":
                ctx.log.warning("%s: %s", line.check, line.detail)
        failed = [c for c in checks if c.level == "fail"]
        if failed and self.strict:
            raise UserError(f"audit failed: {failed[0].detail}", "", "mend it, or set audit.strict: false")
        answers = rows.sort_values("row").drop_duplicates(["example_id", "sample", "temperature"], keep="last")
        out.table("checks", pa.Table.from_pylist([c.row() for c in checks], schema=CHECKS))
        out.table("counts", counting.counts(answers))
        out.table("difficulty", counting.difficulty(answers))
        out.table("offenders", pa.Table.from_pylist(self.worst(rows), schema=OFFENDERS))
        levels = {"checks": len(checks), "warned": sum(c.level == "warn" for c in checks), "failed": len(failed)}
        out.table("summary", pa.Table.from_pylist([{"name": k, "value": v} for k, v in levels.items()], schema=SUMMARY))

    def checks(self, rows: pd.DataFrame, names: tuple[str, str] = DEFAULT) -> list[Check]:
        """Every check that the table alone can answer; `rows` is a generations table, `names` those of label true and
        label false. UserError for an empty one."""
        if not len(rows):
            raise UserError("the generation has no rows", "at least one answer", "raise generate.n")
        return [
            *identities(rows), *leaks(rows), *self._classes(rows, names),
            self._rate("unparsed answers", counting.labelled(rows, None), rows, self.max_unparsed,
                       "could not be parsed and count as neither right nor wrong; look at the offenders below"),
            self._rate("answers cut off", np.asarray(rows["finish"]) == "length", rows, self.max_cut,
                       "reached the token limit; raise generate.max_new_tokens"),
            self._same(rows),
        ]  # fmt: skip

    def _rate(self, name: str, hit: np.ndarray, rows: pd.DataFrame, limit: float, what: str) -> Check:
        found = counting.share(hit, np.asarray(rows["group"]))
        level: Level = "warn" if found.value > limit else "ok"
        detail = f"{int(hit.sum())} of {len(hit)} answers {what}" if hit.any() else f"none of {len(hit)} answers"
        return Check(name, level, found.value, limit, detail, found.low, found.high)

    def _classes(self, rows: pd.DataFrame, names: tuple[str, str]) -> list[Check]:
        out: list[Check] = []
        right, wrong = counting.labelled(rows, True), counting.labelled(rows, False)
        parsed = int(right.sum() + wrong.sum())
        if not right.any() or not wrong.any():
            none = names[0] if not right.any() else names[1]
            other = "another task or model" if names != DEFAULT else (
                "an easier task" if none == names[0] else "a harder task")  # fmt: skip
            return [Check("empty class", "fail", 0, 1, f"no {none} answer: there are no two classes; choose {other}")]
        found = counting.share(right[right | wrong], np.asarray(rows["group"])[right | wrong])
        share, name = max((right.sum() / parsed, names[0]), (wrong.sum() / parsed, names[1]))
        detail = f"{share:.0%} of the parsed answers are {name}; always saying so would be that accurate"
        low, high = (found.low, found.high) if name == names[0] else (1 - found.high, 1 - found.low)
        level: Level = "warn" if share > self.max_majority else "ok"
        out.append(Check("class balance", level, share, self.max_majority, detail, low, high))
        for split in SPLITS:
            here = np.asarray(rows["split"]) == split
            if not here.any():
                out.append(Check(f"split {split}", "warn", 0, 1, f"split {split!r} is empty; see generate.splits"))
                continue
            counts = {names[0]: int((here & right).sum()), names[1]: int((here & wrong).sum())}
            name, least = min(counts.items(), key=lambda item: item[1])
            few = least < self.min_class
            detail = f"{counts[names[0]]} {names[0]} and {counts[names[1]]} {names[1]} rows in split {split!r}"
            if few:
                detail += f"; {self.min_class} {name} ones are needed for an interval; raise generate.n"
            out.append(Check(f"split {split}", "warn" if few else "ok", least, self.min_class, detail))
        return out

    def _same(self, rows: pd.DataFrame) -> Check:
        answers = rows["answer"].dropna()
        if not len(answers):
            return Check("one answer for all", "fail", 0, None, "no answer could be parsed")
        top, count = Counter(answers).most_common(1)[0]
        share, target = count / len(answers), float(np.mean(np.asarray(rows["target"]) == top))
        level: Level = "warn" if share > max(self.max_same_answer, 2 * target) else "ok"
        detail = f"the commonest answer, {str(top)[:40]!r}, is given {share:.0%} of the time"
        return Check("one answer for all", level, share, self.max_same_answer, detail)

    def worst(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """Rows worth a look: unparsed, cut off, and the longest responses."""
        length = np.array([len(text) for text in rows["text"]])
        kinds = {
            "unparsed": np.flatnonzero(counting.labelled(rows, None)),
            "cut off": np.flatnonzero(np.asarray(rows["finish"]) == "length"),
            "longest": np.argsort(-length, kind="stable"),
        }
        out: list[dict[str, Any]] = []
        shown: set[int] = set()
        for kind, found in kinds.items():
            places = [int(i) for i in found if int(i) not in shown][: self.offenders]
            shown.update(places)
            for line in rows.iloc[places].to_dict("records"):
                kept = {k: line[k] for k in ("row", "example_id", "prompt", "target", "text")}
                kept["answer"] = None if pd.isna(line["answer"]) else line["answer"]
                label = None if pd.isna(line["label"]) else bool(line["label"])
                out.append(kept | {"kind": kind, "why": line["reason"] or "", "label": label})
        return out

    def summary(self, artifact: Artifact) -> list[Block]:
        refs = {name: Ref("summary", {"name": name}, "value", ",.0f") for name in ("checks", "warned", "failed")}
        table = artifact.table("checks")
        out: list[Block] = [Text("{checks} checks: {failed} failed, {warned} warned.", refs)]
        out += [Text(f"{line['check']}: {line['detail']}", kind="warning")
                for line in table.to_dict("records") if line["level"] != "ok"]  # fmt: skip
        out.append(Table("checks", "Checks", ("check", "level", "value", "limit", "detail"), limit=40))
        kinds = list(dict.fromkeys(artifact.table("offenders")["kind"]))
        out += [Tokens("offenders", TITLES[kind], where={"kind": kind}, extra=("why",), limit=self.offenders)
                for kind in kinds]  # fmt: skip
        return out


def several(rows: pd.DataFrame, key: str, column: str) -> list[str]:
    """Values of `key` that stand with more than one value of `column`."""
    seen: dict[str, set[str]] = {}
    for name, value in zip(rows[key], rows[column], strict=True):
        seen.setdefault(str(name), set()).add(str(value))
    return [name for name, values in seen.items() if len(values) > 1]


def identities(rows: pd.DataFrame) -> list[Check]:
    """Rows that stand twice; prompts that stand under two names; one prompt with two right answers."""
    first = rows.loc[np.asarray(rows["round"]) == 0]
    again = len(rows) - len(rows.drop_duplicates(KEY))
    twice, torn = len(several(first, "prompt_hash", "example_id")), len(several(first, "prompt_hash", "target"))
    moved = len(several(first, "example_id", "prompt_hash"))
    out = [
        Check("duplicate rows", "fail" if again else "ok", again, 0,
              f"{again} rows repeat an example, sample and temperature" if again else "every row stands once"),
        Check("duplicate prompts", "warn" if twice else "ok", twice, 0,
              f"{twice} prompts have several ids; give them one group" if twice else "every prompt stands once"),
        Check("one prompt an example", "fail" if moved else "ok", moved, 0,
              f"{moved} examples were asked in different words in different rows" if moved
              else "all rows of an example share its prompt"),
    ]  # fmt: skip
    if torn:
        out.append(Check("contradicting targets", "fail", torn, 0, f"{torn} prompts have several right answers"))
    return out


def leaks(rows: pd.DataFrame) -> list[Check]:
    """Groups, and identical prompts, that stand in two splits: what is learnt on one would be known on the other."""
    used = rows.loc[(np.asarray(rows["split"]) != "") & (np.asarray(rows["round"]) == 0)]
    out = []
    for name, column, do in (
        ("groups in two splits", "group", "paraphrases and samples of one problem belong on one side"),
        ("prompts in two splits", "prompt_hash", "give the repeated prompts one group"),
    ):
        bad = several(used, column, "split")
        detail = f"{len(bad)} {name}, such as {bad[0][:60]!r}; {do}" if bad else f"no {name}"
        out.append(Check(name, "fail" if bad else "ok", len(bad), 0, detail))
    return out


def joins(inputs: Inputs, rows: pd.DataFrame) -> list[Check]:
    """Captured activations against the rows they claim to be of: the same generation, rows that exist, each once."""
    source, out = inputs["generations"], []
    known = set(rows["row"])
    for artifact in inputs.all("activations"):
        problems: list[str] = []
        recorded = artifact.meta.get("inputs", {}).get("generations")
        if (
            artifact.path != source.path
            and isinstance(recorded, dict)
            and recorded.get("fingerprint") != source.fingerprint
        ):
            problems.append(f"{artifact.name} was captured from another generation")
        positions: dict[str, Any] = {p: s for s, p in reversed(artifact.sites())}
        for position, site in positions.items():
            held = np.asarray(artifact.activations(site, position).rows)
            strange = [int(r) for r in held if int(r) not in known]
            if strange:
                problems.append(f"{artifact.name}@{position} holds row {strange[0]}, which the generation lacks")
            if len(np.unique(held)) != len(held):
                problems.append(f"{artifact.name}@{position} holds a row twice")
        detail = "; ".join(problems) or f"activations of {artifact.name} join the answers row by row"
        out.append(Check(f"join {artifact.name}", "fail" if problems else "ok", len(problems), 0, detail))
    return out


def chain(inputs: Inputs) -> list[Check]:
    """Checks of separated, patched and traced features, each against the tables that it was made of."""
    out: list[Check] = []
    for artifact in inputs.all("features"):
        if "separations" in artifact.tables():
            out += separation_checks(artifact.name, artifact.table("separations"))
    for artifact in inputs.all("causal_features"):
        apart = made_of(artifact, "features", "separations", inputs)
        out += patch_checks(artifact.name, artifact.table("causal"), artifact.table("responses"), apart)
    for artifact in inputs.all("pathways"):
        apart = made_of(artifact, "features", "separations", inputs)
        causal = made_of(artifact, "causal_features", "causal", inputs)
        out += pathway_checks(artifact.name, artifact.table("pathways"), apart, causal)
    return out


def made_of(artifact: Artifact, kind: str, table: str, inputs: Inputs) -> pd.DataFrame | None:
    """That table of the step that `artifact` was made of; None where it read none, or is not here."""
    recorded = artifact.meta.get("inputs", {}).get(kind)
    for one in inputs.all(kind):
        same = isinstance(recorded, dict) and recorded.get("fingerprint") == one.fingerprint
        if same and table in one.tables():
            return one.table(table)
    return None
