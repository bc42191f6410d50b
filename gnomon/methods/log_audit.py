"""Older results of patched features as JSON: checkpoints (what was found) and response logs (what was answered).

    checkpoint  {"results": [{"feature": "L29-2374", "layer": 29, "feature_id": 2374, "is_causal": true,
                              "cohen_d": 0.41, ...}]}, or the bare list
    log         [{"feature": "L29-2374", "condition": "safe_baseline", "trial": 0, "response": "..."}]

Each record is checked by itself (fields, types, the name against layer and feature_id), then the whole: causal
features by layer, every logged feature under all conditions with enough trials, nothing twice, and the join, by exact
name, of causal features and logs. A file is held only while it is read; what stays is a line a checkpoint record and
the trial numbers of the logs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.errors import UserError
from gnomon.latents import Latent
from gnomon.methods.audit_checks import Check, Coverage, Level, coverage, coverage_checks, shown, six_conditions

CHECKPOINT = {"feature": str, "layer": int, "feature_id": int, "is_causal": bool, "cohen_d": float}
LOG = {"feature": str, "condition": str, "trial": int, "response": str}
KINDS = {"checkpoint": CHECKPOINT, "log": LOG}
WANTED = {str: "a text", int: "a whole number", bool: "true or false", float: "a number"}
NAMED = 20
"""Faults that are written out, of a file; all are counted."""
_BASELINE = re.compile(r"(.+)_baseline")
_PATCH = re.compile(r"(.+)_with_(.+)_patch")


@dataclass
class LogAudit:
    """Feed it the files' contents (`add`), then read `checks`."""

    trials: int = 30
    """Trials wanted of each feature and condition."""
    conditions: tuple[str, ...] | None = None
    """Conditions wanted of each logged feature; unless given, the six that the logs' own names speak of."""
    files: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    """First checkpoint record of each feature, as it stands in its file."""
    repeated: list[str] = field(default_factory=list)
    """Features that stand in the checkpoints twice, saying the same."""
    unnamed: list[str] = field(default_factory=list)
    """Features whose name tells no layer."""
    no_d: list[str] = field(default_factory=list)
    asked: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    """Trials by feature and condition."""
    twice: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)
    """Responses without a word, by feature."""
    wrong: int = 0
    """Faults of records and files."""

    # ---------------------------------------------------------------- one file

    def add(self, file: str, content: Any) -> None:
        """Take in the content of one JSON file; what is wrong with it is noted by record."""
        before, records, kind = self.wrong, self._records(content), ""
        if records is None:
            self._error(file, "", f"is {_kind(content)}; wanted a list of records, or an object with a list `results`")
        else:
            kind = self._which(file, records)
        for i, record in enumerate(records or () if kind else ()):
            where = f"record {i}"
            if self._sound(file, where, record, KINDS[kind]):
                (self._checkpoint if kind == "checkpoint" else self._log)(file, where, record)
        self.files.append({"file": file, "kind": kind or "unknown", "records": len(records or ()),
                           "errors": self.wrong - before})  # fmt: skip

    def unreadable(self, file: str, why: str) -> None:
        """Note a file that is no JSON."""
        self._error(file, "", why)
        self.files.append({"file": file, "kind": "unreadable", "records": 0, "errors": 1})

    @staticmethod
    def _records(content: Any) -> list[Any] | None:
        if isinstance(content, Mapping):
            content = next((content[k] for k in ("results", "responses") if isinstance(content.get(k), list)), None)
        return content if isinstance(content, list) else None

    def _which(self, file: str, records: Sequence[Any]) -> str:
        """Which kind of file it is, by the fields of its first record that has any; notes a file that is neither."""
        first = next((r for r in records if isinstance(r, Mapping) and r), None)
        fits = {k: len(set(fields) & set(first or ()) - {"feature"}) for k, fields in KINDS.items()}
        if first is None:
            self._error(file, "", "has no records" if not records else f"holds {_kind(records[0])}, no records")
        elif fits["checkpoint"] == fits["log"]:
            names = ", ".join(shown(str(k), 20) for k in list(first)[:6])
            self._error(file, "record 0", f"has the fields {names}; wanted {', '.join(CHECKPOINT)} (a checkpoint) or "
                        f"{', '.join(LOG)} (a response log)")  # fmt: skip
        else:
            return max(fits, key=lambda k: fits[k])
        return ""

    def _sound(self, file: str, where: str, record: Any, fields: Mapping[str, type]) -> bool:
        """Whether a record has every field with a value of its type; a null cohen_d or response is none, no error."""
        if not isinstance(record, Mapping):
            return self._error(file, where, f"is {_kind(record)}; wanted an object")
        for name, kind in fields.items():
            if name not in record:
                return self._error(file, where, f"has no field {name!r}")
            value = record[name]
            if value is None and name in ("cohen_d", "response"):
                continue
            taken = (int, float) if kind is float else kind
            if not isinstance(value, taken) or (kind is not bool and isinstance(value, bool)):
                return self._error(file, where, f"has {name} {_value(value)}; wanted {WANTED[kind]}")
            if kind is str and name != "response" and not str(value).strip():
                return self._error(file, where, f"has an empty {name}")
        return True

    def _error(self, file: str, where: str, problem: str) -> bool:
        self.wrong += 1
        if sum(e["file"] == file for e in self.errors[-NAMED:]) < NAMED:
            self.errors.append({"file": file, "record": where, "problem": problem})
        return False

    def _checkpoint(self, file: str, where: str, record: Mapping[str, Any]) -> None:
        name, d = str(record["feature"]), record["cohen_d"]
        try:
            latent = Latent.parse(name)
        except UserError:
            latent = None
        if latent is None:
            self.unnamed.append(name)
        elif (latent.site.layer, latent.index) != (record["layer"], record["feature_id"]) or name != name.strip():
            self._error(file, where, f"is named {shown(name)!r}, with layer {record['layer']} and feature_id "
                        f"{record['feature_id']}")  # fmt: skip
            return
        earlier = self.found.get(name)
        if earlier is None:
            self.found[name] = dict(record)
            if no_number(d):
                self.no_d.append(name)
            return
        for key in ("is_causal", "layer", "feature_id", "cohen_d"):
            if earlier[key] != record[key] and not (key == "cohen_d" and no_number(d) and no_number(earlier[key])):
                self._error(file, where, f"says {key} {record[key]!r} of {shown(name)}; an earlier one says "
                            f"{earlier[key]!r}")  # fmt: skip
                return
        self.repeated.append(name)

    def _log(self, file: str, where: str, record: Mapping[str, Any]) -> None:
        feature, condition, trial = record["feature"], record["condition"], record["trial"]
        seen = self.asked.setdefault((feature, condition), set())
        if trial in seen:
            self.twice[feature, condition, trial] += 1
        seen.add(trial)
        if not (record["response"] or "").strip():
            self.empty[feature] += 1

    # ---------------------------------------------------------------- the whole

    @property
    def causal(self) -> list[str]:
        return [name for name, record in self.found.items() if record["is_causal"]]

    @property
    def logged(self) -> list[str]:
        return list(dict.fromkeys(feature for feature, _ in self.asked))

    def wanted_conditions(self) -> tuple[str, ...]:
        """The given conditions; else the six of the two classes in the logs' names; else all that were found."""
        if self.conditions is not None:
            return self.conditions
        names = list(dict.fromkeys(condition for _, condition in self.asked))
        classes: list[str] = []
        for name in names:
            if patched := _PATCH.fullmatch(name):
                classes += patched.groups()
            elif bare := _BASELINE.fullmatch(name):
                classes.append(bare[1])
        known = sorted(set(classes), key=classes.index)
        return six_conditions(known) if len(known) == 2 else tuple(names)

    def joined(self) -> list[str]:
        """Causal features that have logs, by exact name."""
        logged = set(self.logged)
        return [name for name in self.causal if name in logged]

    def only_checkpoints(self) -> list[str]:
        logged = set(self.logged)
        return [name for name in self.causal if name not in logged]

    def only_logs(self) -> list[str]:
        """Logged features that no checkpoint names."""
        return [name for name in self.logged if name not in self.found]

    def checks(self) -> list[Check]:
        """Every check, a line each."""
        out = [Check("records", "fail" if self.wrong else "ok", self.wrong, 0, self._first_error())]
        if self.found:
            again = f"{len(self.repeated)} features stand twice and say the same" if self.repeated else "none twice"
            out.append(Check("features twice", "warn" if self.repeated else "ok", len(self.repeated), 0, again))
            out.append(_named("no effect size", self.no_d, "features have a cohen_d that is no finite number; they "
                              "are left out of the strongest"))  # fmt: skip
            out.append(_named("names", self.unnamed, "features have a name that tells no layer and latent (L29-2374)"))
            causal = len(self.causal)
            out.append(Check("causal features", "ok" if causal else "warn", causal, None,
                             f"{causal} of {len(self.found)} features are causal"))  # fmt: skip
        if self.asked:
            out += self._log_checks()
        return [*out, *self._join()]

    def _log_checks(self) -> list[Check]:
        wanted, logged = self.wanted_conditions(), self.logged
        others = {c for _, c in self.asked} - set(wanted)
        said = f"{len(wanted)} conditions: {', '.join(shown(c) for c in wanted[:8])}"
        if others:
            said += f"; besides: {', '.join(sorted(shown(c) for c in others)[:6])}"
        odd = len(wanted) != 6 and self.conditions is None
        repeats = [shown(" ".join(map(str, key))) for key in self.twice]
        return [
            Check("six conditions", "warn" if odd or others else "ok", len(wanted), 6, said),
            *coverage_checks(self.covered(), len(logged), self.trials),
            Check("trials twice", "fail" if self.twice else "ok", sum(self.twice.values()), 0,
                  f"{sum(self.twice.values())} records repeat a feature, condition and trial, such as {repeats[0]}"
                  if repeats else "every feature, condition and trial stands once"),
            Check("empty responses", "warn" if self.empty else "ok", sum(self.empty.values()), 0,
                  f"{sum(self.empty.values())} responses of {len(self.empty)} features are empty" if self.empty
                  else "no response is empty"),
        ]  # fmt: skip

    def covered(self) -> Coverage:
        """Conditions and trials of every logged feature."""
        counts = {key: len(trials) for key, trials in self.asked.items()}
        return coverage(counts, self.logged, self.wanted_conditions(), self.trials)

    def _join(self) -> list[Check]:
        if not self.found and not self.asked:
            return [Check("join", "fail", 0, None, "no sound record was read")]
        if not self.found or not self.asked:
            lacks = "checkpoints" if not self.found else "response logs"
            return [Check("join", "warn", 0, None, f"no {lacks} were read: nothing to join")]
        both, alone, unknown = self.joined(), self.only_checkpoints(), self.only_logs()
        detail = f"{len(both)} of {len(self.causal)} causal features have response logs"
        if alone:
            detail += f"; without: {_some(alone)}"
        if unknown:
            detail += f"; logged, in no checkpoint: {_some(unknown)}"
        loose = {_loose(name) for name in alone} & {_loose(name) for name in unknown}
        if loose:
            detail += f"; {len(loose)} would join but for case, spaces or leading zeros: write the names alike"
        level: Level = "fail" if not both else "warn" if alone or unknown else "ok"
        return [Check("join", level, len(both), len(self.causal), detail)]

    def _first_error(self) -> str:
        if not self.errors:
            return f"{sum(f['records'] for f in self.files)} records of {len(self.files)} files are sound"
        first = self.errors[0]
        said = " ".join(part for part in (shown(first["file"], 300), first["record"], first["problem"]) if part)
        return f"{self.wrong} faults; the first: {said}"


def no_number(d: Any) -> bool:
    """Whether an effect size is missing, NaN, infinite, or a whole number too large for any."""
    try:
        return d is None or not math.isfinite(d)
    except OverflowError:
        return True


def _named(check: str, names: Sequence[str], what: str) -> Check:
    some = f" ({_some(names)})" if names else ""
    return Check(check, "warn" if names else "ok", len(names), 0, f"{len(names)} {what}{some}")


def _some(names: Sequence[str], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(shown(n) for n in names[:count]) + more


def _loose(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s_]+", "", name).lower())


def _value(value: Any) -> str:
    return _kind(value) if isinstance(value, dict | list) else shown(repr(value), 40)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
