"""A reference is exactly one cell, and a headline's numbers are references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from report_study import build, step

from gnomon.blocks import Figure, Ref, Table, Text, Tokens
from gnomon.errors import UserError
from gnomon.report.resolve import check, headlines, pieces, render_text, resolve, typed_numbers, value
from gnomon.report.rows import select
from gnomon.store import Study

SCORES = pd.DataFrame({
    "site": ["resid_post.3", "resid_post.20", "resid_post.20", "resid_post.20"],
    "layer": [3, 20, 20, 20],
    "control": ["", "", "shuffled", None],
    "value": [0.61, 0.7912, 0.4821, np.nan],
    "ci_low": [0.5, 0.7203, np.nan, np.nan],
    "ci_high": [0.7, 0.8511, np.nan, np.nan],
    "n": [96, 96, 96, 14],
    "n_pos": [55, 55, 55, 6],
    "p": [0.2, 0.0004, 0.5, np.nan],
    "coefficient": np.array([0.1, 0.1, 2.0, 2.0], dtype=np.float32),
})  # fmt: skip


@pytest.fixture
def artifact(tmp_path):
    return step(tmp_path, "probe", "report_steps:Probe", {"scores": SCORES})


def at(control: str | None = "", site: str = "resid_post.20", **more):
    return Ref("scores", {"site": site, "control": control}, **more)


def test_one_cell_with_its_interval(artifact):
    assert value(artifact, at()) == 0.7912
    assert resolve(artifact, at()) == ".791"
    assert resolve(artifact, at(format=".2f", ci=True)) == ".79 [.72, .85]"
    assert resolve(artifact, at(column="site")) == "resid_post.20"
    assert resolve(artifact, at(column="n")) == "96"


def test_no_interval_is_said_in_words(artifact):
    assert resolve(artifact, at(None, ci=True)) == "not available no interval (n too small)"
    assert resolve(artifact, at("shuffled", ci=True)) == ".482 no interval"


def test_none_matches_missing_and_floats_match_in_their_own_width(artifact):
    assert value(artifact, at(None, column="n")) == 14
    where = {"coefficient": 0.1, "layer": 3}
    assert value(artifact, Ref("scores", where)) == 0.61


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        (at("random"), ["matches 0 rows", "no row has control='random'", "shuffled"]),
        (Ref("scores", {"layer": 20}), ["matches 3 rows", "exactly one", "control"]),
        (Ref("scores", {}), ["matches 4 rows"]),
        (Ref("scores", {"layr": 20}), ["layr", "did you mean 'layer'"]),
        (at(column="valu"), ["valu", "did you mean 'value'"]),
        (Ref("score", {}), ["score", "did you mean 'scores'"]),
        (Ref("scores", {"layer": "20", "control": ""}), ["matches 0 rows", "no row has layer='20'"]),
    ],
)
def test_anything_but_one_row_is_refused_and_says_why(artifact, ref, said):
    with pytest.raises(UserError) as error:
        resolve(artifact, ref)
    for words in said:
        assert words in str(error.value)


def test_an_interval_that_the_table_cannot_have_is_refused(tmp_path):
    bare = step(tmp_path, "bare", "x:Y", {"t": pd.DataFrame({"value": [1.5]})})
    assert resolve(bare, Ref("t", {})) == "1.500"
    with pytest.raises(UserError, match="ci_low"):
        resolve(bare, Ref("t", {}, ci=True))


def test_sentences(artifact):
    block = Text("AUROC {a} (p = {p}), {{braces}} and {a}.", {"a": at(ci=True), "p": at(column="p")})
    assert render_text(block, artifact) == "AUROC .791 [.720, .851] (p < .001), {braces} and .791 [.720, .851]."
    assert [p.text for p in pieces(block, artifact) if p.ref] == [".791 [.720, .851]", ".001", ".791 [.720, .851]"]
    assert render_text(Text("p = {p}", {"p": at("shuffled", column="p")}), artifact) == "p = .50"


def test_a_name_without_a_reference_is_refused(artifact):
    with pytest.raises(UserError, match="did you mean 'auroc'"):
        render_text(Text("AUROC {aurc}", {"auroc": at()}), artifact)


def test_a_cell_with_braces_is_not_read_again(tmp_path):
    odd = step(tmp_path, "odd", "x:Y", {"t": pd.DataFrame({"value": ["{a} {{x}}"]})})
    assert render_text(Text("said {a}", {"a": Ref("t", {})}), odd) == "said {a} {{x}}"


def test_select_takes_lists_and_nulls(artifact):
    assert len(select(artifact, "scores", {"control": ["shuffled", ""]})) == 3
    assert len(select(artifact, "scores", {"control": ["shuffled", None]})) == 2
    assert len(select(artifact, "scores", {"site": "nowhere"})) == 0


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("AUROC {a} [95% interval] at {site}", []),
        ("GPT-2 at resid_post.20 with {a}", []),
        ("AUROC .79 on test", [".79"]),
        ("right on 62% of 240 answers", ["62%", "240"]),
        ("-0.5 and 1,200", ["-0.5", "1,200"]),
    ],
)
def test_numbers_typed_into_a_headline_are_found(text, typed):
    assert typed_numbers(Text(text, kind="headline")) == typed
    assert typed_numbers(Text(text)) == []  # other texts may name a setting


def test_check_finds_what_is_wrong_with_a_section(artifact):
    good = [
        Text("AUROC {a}", {"a": at(ci=True)}, kind="headline"),
        Table("scores"),
        Figure("line", "scores", "layer", "value"),
    ]
    assert check(good, artifact) == []
    bad = [
        Text("AUROC .79", kind="headline"), Text("{a}", {"a": Ref("scores", {})}), Table("scors"),
        Table("scores", columns=["vale"]), Figure("bar", "scores", "layer", "site"), Tokens("scores"),
    ]  # fmt: skip
    problems = check(bad, artifact)
    assert len(problems) == len(bad)
    assert all(p.startswith("probe: ") for p in problems)


def test_headlines_come_in_the_studys_order_with_numbers_in_place(tmp_path):
    folder = build(tmp_path)
    lines = headlines(folder)
    assert lines == headlines(Study(folder))
    assert len(lines) == 4
    assert lines[1] == (
        "The difference in means at resid_post.20 tells right from wrong answers with AUROC .79 [.72, .85] on test "
        "(p < .001 against shuffled labels, which reach .48)."
    )
    assert not any("{" in line or "nan" in line for line in lines)


def test_a_headline_without_its_cells_is_withheld_and_logged(tmp_path, caplog):
    step(tmp_path, "bent", "report_steps:Bent", {"checks": pd.DataFrame({"check": ["a"], "detail": ["b"]})})
    assert headlines(tmp_path) == ["A sentence that stands."]
    assert "a headline of step bent is withheld: unknown column of bent/checks 'value'" in caplog.text
