"""`gnomon audit FILES`: sound files join; every planted fault is found and named; junk is no traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gnomon.cli import app
from gnomon.methods.audit_checks import coverage, shown, six_conditions

SIX = six_conditions(("safe", "risky"))
LATENTS = ((29, 2374, 0.4), (29, 11, -0.9), (29, 5, 0.1), (26, 1069, 0.7), (3, 7, 2.0))
Records = list[dict[str, Any]]


def checkpoint() -> Records:
    """Five features, all causal but L3-7."""
    return [{"feature": f"L{a}-{i}", "layer": a, "feature_id": i, "is_causal": a != 3, "cohen_d": d, "note": "kept"}
            for a, i, d in LATENTS]  # fmt: skip


def log(feature: str, trials: int = 3) -> Records:
    return [{"feature": feature, "condition": c, "trial": t, "response": "I stop."} for c in SIX for t in range(trials)]


class Files:
    """A folder of sound files; a change is made to the records before they are written."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint()
        self.logs = {r["feature"]: log(r["feature"]) for r in self.checkpoint if r["is_causal"]}

    def write(self) -> Files:
        (self.folder / "logs").mkdir(exist_ok=True)
        (self.folder / "checkpoint.json").write_text(json.dumps({"results": self.checkpoint, "seed": 1}))
        for name, records in self.logs.items():
            (self.folder / "logs" / f"{name}.json").write_text(json.dumps(records))
        return self

    def audit(self, *more: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, the validation, what was printed."""
        found = CliRunner().invoke(
            app, ["audit", str(self.folder / "checkpoint.json"), str(self.folder / "logs"), "--trials", "3", "--out",
                  str(self.folder / "v.json"), "--force", *more],
        )  # fmt: skip
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        made = json.loads((self.folder / "v.json").read_text()) if (self.folder / "v.json").exists() else {}
        return found.exit_code, made, found.output


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


def levels(made: dict[str, Any]) -> dict[str, str]:
    return {c["check"]: c["level"] for c in made["checks"]}


def detail(made: dict[str, Any], check: str) -> str:
    return next(c["detail"] for c in made["checks"] if c["check"] == check)


def test_sound_files_join_and_are_counted(files):
    code, made, printed = files.write().audit()
    assert code == 0
    assert made["validated"] is True
    assert set(levels(made).values()) == {"ok"}
    assert made["causal_by_layer"] == {"26": 1, "29": 3}
    assert made["features_by_layer"] == {"3": 1, "26": 1, "29": 3}
    assert made["joinable_features"] == ["L26-1069", "L29-11", "L29-2374", "L29-5"]
    assert (made["causal_features"], made["checkpoint_features"], made["response_features"]) == (4, 5, 4)
    assert made["conditions"] == list(SIX)
    assert made["trials"] == {"wanted": 3, "min": 3, "median": 3.0, "max": 3}
    assert {f["kind"] for f in made["files"]} == {"checkpoint", "log"}
    assert "4 of 4 causal features have response logs" in printed
    assert "29: 3" in printed


def test_the_strongest_of_each_layer_are_written_as_they_stand(files, tmp_path):
    files.checkpoint[0]["cohen_d"] = float("nan")
    out = tmp_path / "causal_features.json"
    assert files.write().audit("--write", str(out), "--top", "1")[0] == 0
    kept = json.loads(out.read_text())
    assert [(r["feature"], r["note"]) for r in kept] == [("L26-1069", "kept"), ("L29-11", "kept")]
    code, made, _ = files.audit("--write", str(out), "--top", "9")
    assert [r["feature"] for r in json.loads(out.read_text())] == ["L26-1069", "L29-11", "L29-5"]
    assert (code, made["without_cohen_d"], levels(made)["no effect size"]) == (0, ["L29-2374"], "warn")
    bare = CliRunner().invoke(app, ["audit", str(out), "--json"])
    assert (bare.exit_code, json.loads(bare.stdout)["causal_by_layer"]) == (0, {"26": 1, "29": 2})


def _field(name: str, value: Any) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files.checkpoint[1][name] = value

    return change


def _logged(change: Callable[[Records], Any]) -> Callable[[Files], None]:
    return lambda files: change(files.logs["L29-11"])


def _gone(files: Files) -> None:
    del files.checkpoint[1]["is_causal"]


def _renamed(files: Files) -> None:
    for records in files.logs.values():
        for r in records:
            r["feature"] = r["feature"].lower() + " "


def _torn(files: Files) -> None:
    files.checkpoint.append(files.checkpoint[1] | {"is_causal": False})


@pytest.mark.parametrize(
    ("check", "level", "says", "change"),
    [
        ("records", "fail", "record 1 has no field 'is_causal'", _gone),
        ("records", "fail", "record 1 has is_causal 'true'; wanted true or false", _field("is_causal", "true")),
        ("records", "fail", "record 1 has is_causal 1; wanted true or false", _field("is_causal", 1)),
        ("records", "fail", "record 1 has layer 29.0; wanted a whole number", _field("layer", 29.0)),
        ("records", "fail", "record 1 has layer True; wanted a whole number", _field("layer", True)),
        ("records", "fail", "record 1 has cohen_d a list; wanted a number", _field("cohen_d", [1])),
        ("records", "fail", "record 1 has an empty feature", _field("feature", " ")),
        ("records", "fail", "is named 'L29-11', with layer 28 and feature_id 11", _field("layer", 28)),
        ("records", "fail", "is named 'L29-11', with layer 29 and feature_id 12", _field("feature_id", 12)),
        ("records", "fail", "says is_causal False of L29-11; an earlier one says True", _torn),
        ("records", "fail", "record 0 has no field 'condition'", _logged(lambda r: r[0].pop("condition"))),
        ("records", "fail", "record 2 has trial '2'; wanted a whole number", _logged(lambda r: r[2].update(trial="2"))),
        ("records", "fail", "record 4 is a text; wanted an object", _logged(lambda r: r.__setitem__(4, "x"))),
        ("names", "warn", "1 features have a name that tells no layer", _field("feature", "latent eleven")),
        ("no effect size", "warn", "(L29-11)", _field("cohen_d", None)),
        ("conditions", "fail", "such as L29-11: safe_with_risky_patch",
         _logged(lambda r: r.__delitem__(slice(6, 9)))),
        ("trials", "warn", "2 to 3 trials a feature and condition (median 3); 1 cells have under 3, such as L29-11, "
         "safe_baseline: 2", _logged(lambda r: r.pop(0))),
        ("trials twice", "fail", "1 records repeat a feature, condition and trial, such as L29-11 safe_baseline 1",
         _logged(lambda r: r.append(r[1]))),
        ("empty responses", "warn", "2 responses of 1 features are empty",
         _logged(lambda r: (r[3].update(response=" \n"), r[5].update(response=None)))),
        ("six conditions", "warn", "besides: calm", _logged(lambda r: r.append(r[1] | {"condition": "calm"}))),
        ("join", "warn", "3 of 4 causal features have response logs; without: L29-11",
         lambda f: f.logs.pop("L29-11")),
        ("join", "warn", "logged, in no checkpoint: L1-1", lambda f: f.logs.update({"L1-1": log("L1-1")})),
        ("join", "fail", "4 would join but for case, spaces or leading zeros", _renamed),
        ("causal features", "warn", "0 of 5 features are causal",
         lambda f: [r.update(is_causal=False) for r in f.checkpoint]),
        ("features twice", "warn", "1 features stand twice", lambda f: f.checkpoint.append(f.checkpoint[1])),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found_and_named(files, check, level, says, change):
    change(files)
    code, made, printed = files.write().audit()
    assert levels(made)[check] == level
    assert says in detail(made, check)
    assert says in printed
    failed = "fail" in levels(made).values()
    assert code == int(failed)
    assert made["validated"] is not failed
    assert (level == "fail") <= failed


def test_conditions_can_be_given_and_are_read_from_the_names(files):
    for records in files.logs.values():
        for r in records:
            r["condition"] = r["condition"].replace("safe", "calm down")
    assert files.write().audit()[1]["conditions"][0] == "calm down_baseline"
    given = files.audit("--conditions", "calm down_baseline, other")[1]
    assert given["conditions"] == ["calm down_baseline", "other"]
    assert given["missing_conditions"]["L29-11"] == ["other"]
    assert files.audit("--conditions", " , ")[0] == 2
    found = coverage({("a", "x"): 2}, ["a", "b"], ["x", "y"], 3)
    assert found.missing == {"a": ["y"], "b": ["x", "y"]}
    assert found.short == {"a": {"x": 2}}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("junk.json", b'{"results": [', "is no JSON: Expecting value (line 1"),
        ("deep.json", b"[" * 100_000, "cannot be read as JSON"),
        ("latin.json", "[\u00e9]".encode("latin-1"), "is no UTF-8 text (byte 1)"),
        ("text.json", b'"a text"', "is a text; wanted a list of records"),
        ("null.json", b"null", "is null; wanted a list"),
        ("empty.json", b"[]", "has no records"),
        ("numbers.json", b"[1, 2]", "holds a number, no records"),
        ("other.json", b'[{"a": 1, "feature": "L1-1"}]', "record 0 has the fields a, feature; wanted feature, layer"),
        ("lines.jsonl", b'{"feature": 1}\n{', "line 2 is no JSON"),
        ("long.json", b"[" + b"9" * 5000 + b"]", ""),
        ("hostile.json", b'[{"feature": "L1-\\u001b[2J\\ud800", "condition": "c", "trial": "t", "response": ""}]',
         "has trial 't'"),
        ("nested.json", b'[{"feature": ' + b"[" * 900 + b"]" * 900 + b', "condition": 1, "trial": 1}]', "has feature"),
    ],
)  # fmt: skip
def test_junk_is_named_and_the_other_files_are_read(files, name, content, says):
    files.write()
    (files.folder / "logs" / name).write_bytes(content)
    code, made, printed = files.audit()
    assert code == 1
    assert levels(made)["join"] == "ok"
    assert name in printed
    assert says in detail(made, "records")
    assert "\x1b" not in printed
    assert not made["validated"]


def test_names_are_printed_harmlessly():
    assert shown("L1-2\x1b[2J\ud800\n") == "L1-2\\x1b[2J\\ud800\\n"
    assert shown("a" * 100) == "a" * 57 + "..."


def test_an_effect_size_too_large_for_a_number_is_none(files, tmp_path):
    files.checkpoint[0]["cohen_d"] = 10**400
    code, made, _ = files.write().audit("--write", str(tmp_path / "causal.json"))
    assert (code, made["without_cohen_d"]) == (0, ["L29-2374"])
    assert "L29-2374" not in (tmp_path / "causal.json").read_text()


def test_a_byte_order_mark_and_lines_of_json_are_read(tmp_path):
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in log("L1-1"))
    (tmp_path / "log.jsonl").write_text(text.replace("stop", "st\u2028op") + "\n", encoding="utf-8-sig")
    found = CliRunner().invoke(app, ["audit", str(tmp_path), "--trials", "3", "--json"])
    made = json.loads(found.stdout)
    assert found.exit_code == 0
    assert levels(made)["join"] == "warn"  # no checkpoints: nothing to join
    assert made["response_features"] == 1
    assert made["validated"] is False  # no check failed, and no join was made


def test_what_cannot_be_written_is_refused_before_the_work(files, tmp_path):
    files.write()
    source = str(tmp_path / "checkpoint.json")

    def refused(*arguments: str) -> str:
        found = CliRunner().invoke(app, ["audit", source, *arguments])
        assert found.exit_code == 2
        return found.output

    (tmp_path / "there.json").write_text("{}")
    assert "exists; a new name" in refused("--out", str(tmp_path / "there.json"))
    assert "exists; a new name" in refused("--write", str(tmp_path / "there.json"))
    assert (tmp_path / "there.json").read_text() == "{}"
    assert "one of the audited files" in refused("--out", source, "--force")
    assert "are both" in refused("--out", str(tmp_path / "x"), "--write", str(tmp_path / "x"))
    assert "is a folder" in refused("--out", str(tmp_path), "--force")
    assert "no file or folder" in refused(str(tmp_path / "nowhere.json"))
    (tmp_path / "bare").mkdir()
    assert "no .json or .jsonl file" in refused(str(tmp_path / "bare"))
    assert CliRunner().invoke(app, ["audit", source, "--trials", "0"]).exit_code == 2
    files.checkpoint[0].pop("layer")
    code, _, printed = files.write().audit("--write", str(tmp_path / "causal.json"))
    assert code == 1
    assert not (tmp_path / "causal.json").exists()
    assert "is not written: a check failed" in printed
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert "nothing can be written" in refused("--out", str(tmp_path / "locked" / "v.json"))


def test_a_file_given_twice_is_read_once(files):
    files.write()
    again = str(files.folder / "logs" / "L29-11.json")
    code, made, _ = files.audit(again, str(files.folder / "logs"))
    assert (code, levels(made)["trials twice"]) == (0, "ok")
    assert len(made["files"]) == 5
