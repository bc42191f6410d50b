"""Laws of gnomon diff: it finds what was planted, by its key and interval, and is silent where nothing moved."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gnomon.cli import app
from gnomon.console import Screen
from gnomon.diffs.cells import interval_of, key_columns
from gnomon.diffs.studies import Diff, Difference, StepDiff, diff
from gnomon.diffs.tables import TableDiff
from gnomon.errors import UserError
from gnomon.run import run_study
from gnomon.store import Artifact
from gnomon.writer import Writer

COUNT, MEAN, MORE = (f"tests.fake_steps:{name}" for name in ("Count", "Mean", "More"))
STUDY: dict[str, Any] = {"steps": [{COUNT: {"n": 12, "width": 3}}, {MEAN: {}}]}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[str, Path]:
    """A study, a copy of it, the same with another seed, another option, and a step more."""
    root = tmp_path_factory.mktemp("diff")
    run_study(STUDY, root / "a", screen=Screen(terminal=False))
    for name in ("same", "option", "far", "more"):
        shutil.copytree(root / "a", root / name)
    for name, overrides in {"seed": ("seed=1",), "option": ("mean.add=0.05",), "far": ("mean.add=5",)}.items():
        run_study(STUDY, root / name, overrides, screen=Screen(terminal=False))
    run_study({"steps": [*STUDY["steps"], {MORE: {}}]}, root / "more", screen=Screen(terminal=False))
    return {path.name: path for path in root.iterdir()}


def step(found: Diff, name: str) -> StepDiff:
    return next(s for s in found.steps if s.name == name)


def tabled(folder: Path, frame: pd.DataFrame, name: str = "t", array: np.ndarray | None = None) -> Artifact:
    writer = Writer(folder, "s", "f" * 64)
    writer.table(name, frame)
    if array is not None:
        writer.array("numbers", array)
    return writer.commit({"step": "none", "options": {}})


def tables(tmp_path: Path, a: pd.DataFrame, b: pd.DataFrame, **options: Any) -> TableDiff:
    one, two = (tabled(tmp_path / side, frame).path for side, frame in (("a", a), ("b", b)))
    return step(diff(one, two, **options), "s").numbers.tables[0]


# ---------------------------------------------------------------- studies


def test_the_same_study_twice_has_nothing_to_tell(studies):
    found = diff(studies["a"], studies["same"])
    assert found.same_numbers
    assert all(s.same_files and not s.differences for s in found.steps)
    assert found.study == []


def test_another_seed_is_told_and_the_numbers_it_moved(studies):
    found = diff(studies["a"], studies["seed"])
    assert not found.same_numbers
    assert Difference("setting", "seed", 0, 1) in found.study
    assert Difference("seed", "seed", 0, 1) in step(found, "count").differences
    assert any(d.kind == "input" and d.name == "generations" for d in step(found, "mean").differences)
    rows = step(found, "count").numbers.tables[0]
    assert (rows.table, rows.rows, rows.moved, rows.keys) == ("generations", (12, 12), 12, ("split", "row"))
    arrays = {array.array: array for array in step(found, "count").numbers.arrays}
    assert set(arrays) == {"activations/resid_post.1@last"}
    assert (arrays["activations/resid_post.1@last"].largest or 0) > 0.1


@pytest.mark.parametrize(("other", "outside"), [("option", False), ("far", True)])
def test_a_headline_moves_within_or_outside_its_interval(studies, other, outside):
    found = diff(studies["a"], studies[other])
    assert step(found, "count").same_numbers
    mean = step(found, "mean")
    assert [(d.kind, d.name) for d in mean.differences] == [("option", "add")]
    (headline,) = mean.headlines
    assert headline.source.startswith("scores.value where metric='mean'")
    assert (headline.b or 0) - (headline.a or 0) == pytest.approx(mean.differences[0].b)
    assert headline.outside is outside
    moved = {(m.where["metric"], m.column): m for m in mean.numbers.tables[0].moves}
    assert moved["mean", "value"].outside is outside
    assert moved["thin", "value"].outside is None  # it has no interval
    assert mean.numbers.tables[0].outside == int(outside)


def test_a_step_of_one_side_makes_the_numbers_differ(studies):
    found = diff(studies["more"], studies["a"])
    assert step(found, "more").there == "a"
    assert not found.same_numbers
    assert step(diff(studies["a"], studies["more"]), "more").there == "b"


def test_machine_versions_and_code_are_told_but_are_no_numbers(studies, tmp_path):
    other = shutil.copytree(studies["a"], tmp_path / "b")
    for file in (other / "run.json", other / "count" / "meta.json"):
        record = json.loads(file.read_text())
        record["versions"]["torch"] = "0.1"
        record["machine"]["processor"] = "abacus"
        file.write_text(json.dumps(record))
    found = diff(studies["a"], other)
    assert found.same_numbers
    kinds = {(d.kind, d.name) for d in step(found, "count").differences}
    assert kinds == {("versions", "torch"), ("machine", "processor")}
    said = CliRunner().invoke(app, ["diff", str(studies["a"]), str(other)])
    assert said.exit_code == 0
    assert said.output.count("abacus") == 1, "told once, not for every step"


def test_steps_are_compared_by_themselves_and_only_with_steps(studies):
    found = diff(studies["a"] / "mean", studies["far"] / "mean")
    assert [s.name for s in found.steps] == ["mean"]
    with pytest.raises(UserError, match=r"is a step, .* is not; two of a kind"):
        diff(studies["a"] / "mean", studies["a"])
    with pytest.raises(UserError, match="no study at"):
        diff(studies["a"], studies["a"] / "nothing")


# ---------------------------------------------------------------- rows, cells, intervals


def test_rows_are_matched_by_what_names_them_whatever_their_order(tmp_path):
    a = pd.DataFrame({"row": [0, 1, 2], "id": ["x", "y", "z"], "n": [5, 5, 5], "value": [1.0, 2.0, 3.0]})
    b = pd.DataFrame({"row": [0, 1, 2], "id": ["z", "w", "x"], "n": [5, 5, 5], "value": [3.0, 9.0, 1.5]})
    found = tables(tmp_path, a, b)
    assert found.keys == ("id",)
    assert (found.only_a, found.only_b) == (1, 1)
    moved = [(m.where, m.column, m.a, m.b) for m in found.moves if m.column == "value"]
    assert moved == [({"id": "x"}, "value", 1.0, 1.5)]


def test_key_columns_are_names_and_settings_not_what_was_found():
    a = pd.DataFrame({"n": [9, 8, 7, 6], "text": list("abcd"), "site": ["s", "s", "t", "t"],
                      "coefficient": [1.0, 2.0, 1.0, 2.0], "value": [0.1, 0.2, 0.3, 0.4]})  # fmt: skip
    assert key_columns([a]) == ["site", "coefficient"]
    assert key_columns([a.iloc[:2], a.iloc[2:]]) == ["coefficient"]
    assert key_columns([a.iloc[:1]]) == []


def test_rows_that_nothing_tells_apart_are_matched_in_their_order(tmp_path):
    a = pd.DataFrame({"name": ["x", "x"], "share": [0.25, 0.75]})
    found = tables(tmp_path, a, a.assign(share=[0.25, 0.8]))
    assert [(m.a, m.b) for m in found.moves] == [(0.75, 0.8)]


def test_missing_cells_lists_and_texts_are_compared(tmp_path):
    a = pd.DataFrame({"row": [0, 1, 2], "text": ["a", None, "c"], "value": [np.nan, 1.0, 2.0],
                      "ids": [[1, 2], [3], []], "label": [True, None, False]})  # fmt: skip
    same = tables(tmp_path / "1", a, a.astype({"row": "int32"}))  # other bytes, the same cells
    assert (same.moved, same.only_a, same.cells) == (0, 0, 12)
    b = a.assign(text=["a", "b", "c"], value=[np.nan, np.nan, 2.0], ids=[[1, 2], [3, 4], []], label=[True, None, None])
    found = tables(tmp_path / "2", a, b)
    assert {(m.where["row"], m.column) for m in found.moves} == {(1, "text"), (1, "value"), (1, "ids"), (2, "label")}


def test_a_tolerance_forgives_last_digits_only(tmp_path):
    a = pd.DataFrame({"name": ["x", "y"], "value": [1.0, 2.0], "ids": [[1.0], [2.0]]})
    b = pd.DataFrame({"name": ["x", "y"], "value": [1.0 + 1e-9, 2.1], "ids": [[1.0 + 1e-9], [2.0]]})
    assert tables(tmp_path / "1", a, b).moved == 3
    assert [m.where["name"] for m in tables(tmp_path / "2", a, b, tolerance=1e-6).moves] == ["y"]


def test_nothing_is_near_infinity_and_a_list_is_no_number(tmp_path):
    a = pd.DataFrame({"name": ["x", "y"], "value": [1.0, np.inf], "ids": [[1.0], [2.0, 3.0]]})
    b = a.assign(value=[np.inf, np.inf], ids=[[np.inf], [2.0, 3.0]])
    found = tables(tmp_path / "1", a, b, tolerance=0.5)
    assert {(m.where["name"], m.column) for m in found.moves} == {("x", "value"), ("x", "ids")}
    assert tables(tmp_path / "2", a, a.assign(ids=[1.0, 2.0])).moved == 2
    lists = tables(tmp_path / "3", a.drop(columns=["name", "value"]), b.drop(columns=["name", "value"]))
    assert (lists.rows, lists.moved) == ((2, 2), 1)


def test_numbers_beside_nan_are_still_measured(tmp_path):
    frame, x = pd.DataFrame({"name": ["x"]}), np.array([1.0, np.nan, np.inf])
    others = (x, x + 0.5, np.array([1.0, 1.0, np.inf]), x * (1 + 1e-9))
    paths = [tabled(tmp_path / f"{i}", frame, array=array).path for i, array in enumerate(others)]
    assert step(diff(paths[0], paths[1]), "s").numbers.arrays[0].largest == 0.5
    assert step(diff(paths[0], paths[2]), "s").numbers.arrays[0].largest == np.inf
    assert step(diff(paths[0], paths[3], tolerance=1e-6), "s").numbers.arrays == []


def test_moves_outside_come_first_and_only_some_are_kept(tmp_path):
    a = pd.DataFrame(
        {"name": list("abc"), "value": [1.0, 1.0, 1.0], "ci_low": [0.0, 0.9, 0.5], "ci_high": [9.0, 1.1, 1.5]}
    )
    b = a.assign(value=[8.0, 1.2, 1.4])
    found = tables(tmp_path, a, b, most=2)
    assert (found.moved, found.outside) == (3, 1)
    assert [(m.where["name"], m.outside, m.interval) for m in found.moves] == [
        ("b", True, (0.9, 1.1)), ("a", False, (0.0, 9.0)),
    ]  # fmt: skip


def test_which_interval_is_whose():
    assert interval_of("share", ["split", "n", "share", "ci_low", "ci_high"]) == ("ci_low", "ci_high")
    assert interval_of("n", ["split", "n", "share", "ci_low", "ci_high"]) == ("", "")
    columns = ["value", "ci_low", "ci_high", "excess", "excess_low", "excess_high"]
    assert interval_of("value", columns) == ("ci_low", "ci_high")
    assert interval_of("excess", columns) == ("excess_low", "excess_high")


def test_columns_and_tables_of_one_side_are_told(tmp_path):
    a = pd.DataFrame({"name": ["x"], "value": [1.0]})
    found = tables(tmp_path / "1", a, a.assign(extra=1))
    assert found.columns == ("extra",)
    assert not found.same
    one, two = tabled(tmp_path / "a", a), tabled(tmp_path / "b", a, "other")
    names = {t.table: t.rows for t in step(diff(one.path, two.path), "s").numbers.tables}
    assert names == {"t": (1, None), "other": (None, 1)}


def test_arrays_are_told_by_their_largest_difference(tmp_path):
    frame = pd.DataFrame({"name": ["x"]})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    folders = [tabled(tmp_path / f"{i}", frame, array=array).path for i, array in enumerate((x, x + 0.5, x[:1]))]
    assert step(diff(folders[0], folders[1]), "s").numbers.arrays[0].largest == 0.5
    other = step(diff(folders[0], folders[2]), "s").numbers.arrays[0]
    assert (other.shapes, other.largest) == (([2, 3], [1, 3]), None)


# ---------------------------------------------------------------- the command


def test_the_command_says_it_and_its_exit_code_tells(studies):
    said = CliRunner().invoke(app, ["diff", str(studies["a"]), str(studies["far"])])
    assert said.exit_code == 1
    for text in ("option add", "headline numbers that moved", "outside A's interval", "the numbers differ"):
        assert text in said.output
    assert CliRunner().invoke(app, ["diff", str(studies["a"]), str(studies["same"])]).exit_code == 0
    assert CliRunner().invoke(app, ["diff", str(studies["a"]), "nowhere"]).exit_code == 2
    assert CliRunner().invoke(app, ["diff", str(studies["a"]), str(studies["a"]), "--tolerance", "2"]).exit_code == 2


def test_json_is_whole_and_torch_is_not_loaded(studies):
    code = (
        "import sys, tests.fake_steps; from gnomon.cli import app\n"
        "try: app(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    )
    here = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, "diff", str(studies["a"]), str(studies["far"]), "--json"], cwd=here,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    facts = json.loads(done.stdout, parse_constant=lambda text: pytest.fail(text))
    assert facts["same_numbers"] is False
    assert facts["steps"][1]["headlines"][0]["outside"] is True
