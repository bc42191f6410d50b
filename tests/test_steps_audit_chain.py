"""audit below the chain: separated, patched and traced features join and are complete, or each defect is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gnomon.methods.audit_checks import Check
from gnomon.methods.chain_audit import patch_checks, pathway_checks, separation_checks
from gnomon.report.resolve import check as unresolved
from gnomon.step import Context, Inputs, ModelSpec
from gnomon.steps.audit import Audit, chain
from gnomon.store import Artifact
from gnomon.writer import Writer
from tests.chain_study import Made, patched, pathways, separations, whole

SMALL = Made(sites=("resid_post.9", "resid_post.15"), per_layer=3)
Tables = dict[str, list[dict[str, Any]]]


def tables() -> Tables:
    return copy.deepcopy({"separations": separations(SMALL), **patched(SMALL), **pathways(SMALL)})


def checked(given: Tables) -> dict[str, Check]:
    frame = {name: pd.DataFrame(lines) for name, lines in given.items()}
    found = [
        *separation_checks("features", frame["separations"]),
        *patch_checks("patch", frame["causal"], frame["responses"], frame["separations"]),
        *pathway_checks("pathways", frame["pathways"], frame["separations"], frame["causal"]),
    ]
    return {c.check: c for c in found}


def test_a_sound_chain_raises_nothing_but_the_lowest_site(tmp_path):
    levels = {name: c.level for name, c in checked(tables()).items()}
    assert levels.pop("pathways: causal features traced") == "warn"  # nothing lies below the lowest site
    assert set(levels.values()) == {"ok"}
    assert len(levels) == 16


def responses(given: Tables, name: str, condition: str = "safe_with_risky_patch") -> list[dict[str, Any]]:
    return [r for r in given["responses"] if r["name"] == name and r["condition"] == condition]


def _dropped(name: str, condition: str) -> Callable[[Tables], None]:
    def change(given: Tables) -> None:
        given["responses"] = [r for r in given["responses"] if (r["name"], r["condition"]) != (name, condition)]

    return change


def _unlogged(given: Tables) -> None:
    given["responses"] = [r for r in given["responses"] if r["name"] != "L9-10"]


def _first(table: str, **values: Any) -> Callable[[Tables], None]:
    return lambda given: given[table][0].update(values)


@pytest.mark.parametrize(
    ("check", "level", "says", "change"),
    [
        ("features: name", "fail", "such as L9-99", _first("separations", name="L9-99")),
        ("features: latents twice", "fail", "1 of 7", lambda t: t["separations"].append(t["separations"][0])),
        ("features: no effect size", "warn", "1 of 6", _first("separations", d=float("nan"))),
        ("patch: name", "fail", "such as L9-11", _first("causal", name="L9-11")),
        ("patch: features twice", "fail", "1 of 7", lambda t: t["causal"].append(t["causal"][0])),
        ("patch: join features", "fail", "5 of 6 join; 1 features are in no separations: L9-10",
         lambda t: t["separations"].pop(0)),
        ("patch: class means", "fail", "1 of 6 features were set to other means", _first("causal", second_mean=9.0)),
        ("patch: responses of causal features", "fail", "3 of 4 join; 1 causal features have none: L9-10", _unlogged),
        ("patch: responses of others", "warn", "such as L9-10", lambda t: t["causal"].pop(0)),
        ("patch: six conditions", "fail", "1 conditions are missing, such as L9-11: safe prompts set to risky",
         _dropped("L9-11", "safe_with_risky_patch")),
        ("patch: six conditions", "fail", "1 conditions are missing, all of a baseline", _dropped("", "safe_baseline")),
        ("patch: trials", "fail", "1 conditions have other trials than their baseline, such as L9-11: safe prompts",
         lambda t: t["responses"].remove(responses(t, "L9-11")[4])),
        ("patch: trials", "fail", "such as L9-11: safe prompts set to risky",
         lambda t: responses(t, "L9-11")[4].update(trial=77)),
        ("patch: trials twice", "fail", "1 of", lambda t: t["responses"].append(responses(t, "L9-11")[4])),
        ("pathways: source_name", "fail", "such as L9-98", _first("pathways", source_name="L9-98")),
        ("pathways: target_name", "fail", "such as L9-98", _first("pathways", target_name="L9-98")),
        ("pathways: pathways twice", "fail", "1 of", lambda t: t["pathways"].append(t["pathways"][0])),
        ("pathways: downward", "fail", "1 of", _first("pathways", source_layer=20)),
        ("pathways: join features", "warn", "1 targets are in no separations: L15-12",
         lambda t: t["separations"].pop()),
        ("pathways: causal features traced", "warn", "1 of 4 join; 3 causal features", lambda t: t.update(
            pathways=[e for e in t["pathways"] if e["target_name"] != "L15-10"])),
    ],
)  # fmt: skip
def test_a_planted_defect_is_found(check, level, says, change):
    given = tables()
    change(given)
    found = checked(given)[check]
    assert found.level == level
    assert says in found.detail


def test_one_class_alone_is_not_six_conditions():
    given = tables()
    given["responses"] = [r for r in given["responses"] if r["prompt"] == r["patch"] == "safe" or not r["patch"]]
    given["responses"] = [r for r in given["responses"] if r["prompt"] == "safe"]
    assert checked(given)["patch: six conditions"].level == "fail"


def audited(folder: Path, steps: dict[str, Artifact]) -> Artifact:
    writer = Writer(folder, "audit", "audit")
    kinds = ("generations", "features", "causal_features", "pathways")
    inputs = Inputs({k: [steps[k]] for k in kinds if k in steps})
    Audit().run(inputs, writer, Context(folder, ModelSpec("none")))
    return writer.commit({"step": "audit"})


def test_the_step_checks_what_stands_above_it(tmp_path):
    steps = whole(tmp_path, SMALL)
    artifact = audited(tmp_path, steps)
    lines = artifact.table("checks").set_index("check")
    assert lines.loc["patch_features: six conditions", "level"] == "ok"
    assert lines.loc["patch_features: join features", "detail"] == "6 of 6 join"
    assert lines.loc["pathways: causal features traced", "value"] == 2
    assert unresolved(Audit().summary(artifact), artifact) == []
    alone = audited(tmp_path / "alone", {"generations": steps["generations"]})
    assert not alone.table("checks")["check"].str.contains(":").any()


def test_tables_are_joined_to_those_that_they_were_made_of(tmp_path):
    """With several steps of a kind, each is checked against the one it read; against none that it did not."""
    one = whole(tmp_path / "one", SMALL)
    other = whole(tmp_path / "other", Made(sites=SMALL.sites, per_layer=1))
    path = other["features"].path / "meta.json"
    path.write_text(path.read_text().replace("fingerprint of features", "fingerprint of others"))
    foreign = Artifact(other["features"].path)
    both = {c.check for c in chain(Inputs({"features": [foreign, one["features"]],
                                           "causal_features": [one["causal_features"]]}))}  # fmt: skip
    assert "patch_features: join features" in both
    none = {c.check: c for c in chain(Inputs({"features": [foreign], "causal_features": [one["causal_features"]]}))}
    assert "patch_features: join features" not in none
    assert none["patch_features: six conditions"].level == "ok"
