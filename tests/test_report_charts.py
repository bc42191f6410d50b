"""Charts and tables show what the table holds: bands where there are intervals, gaps where there are none."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from report_study import step

from gnomon.blocks import Figure, Table, Tokens
from gnomon.errors import UserError
from gnomon.report.charts import chart
from gnomon.report.tables import mark_of, table_view, token_view

SWEEP = pd.DataFrame({
    "layer": [2, 0, 1, 3, 4] * 2,
    "predictor": ["difference"] * 5 + ["shuffled"] * 5,
    "value": [0.7, 0.5, 0.6, np.nan, 0.8, 0.5, 0.49, 0.51, 0.5, 0.52],
    "ci_low": [0.6, 0.4, np.nan, np.nan, 0.7] + [0.4] * 5,
    "ci_high": [0.8, 0.6, np.nan, np.nan, 0.9] + [0.6] * 5,
    "n": [40] * 10,
})  # fmt: skip


@pytest.fixture
def artifact(tmp_path):
    rows = pd.DataFrame({
        "id": range(9), "label": [True] * 6 + [False, None, False], "prompt": [f"q{i}" for i in range(9)],
        "text": [f"a{i}" for i in range(9)], "target": "t", "answer": ["a"] * 8 + [None],
    })  # fmt: skip
    grid = pd.DataFrame([{"x": x, "y": f"s{y}", "z": x - y} for x in (3, 1, 2) for y in (0, 1)])
    return step(tmp_path, "s", "x:Y", {"sweep": SWEEP, "answers": rows, "grid": grid})


def bands(c):
    return [t for t in c.data if t.get("fill") == "toself"]


def line(**more):
    settings = {"color": "predictor", "low": "ci_low", "high": "ci_high", **more}
    return Figure("line", "sweep", "layer", "value", **settings)


def test_a_line_is_ordered_by_x_and_leaves_out_what_is_missing(artifact):
    claim = next(t for t in chart(line(), artifact).data if t["name"] == "difference" and "fill" not in t)
    assert claim["x"] == [0, 1, 2, 4]
    assert claim["y"] == [0.5, 0.6, 0.7, 0.8]


def test_the_band_stops_where_there_is_no_interval(artifact):
    band = bands(chart(line(where={"predictor": "difference"}), artifact))[0]
    assert band["x"] == [0, 0, None, 2, 4, 4, 2]
    assert band["y"] == [0.4, 0.6, None, 0.6, 0.7, 0.9, 0.8]
    assert "no interval" in chart(line(), artifact).data[2]["hovertext"][1]


def test_controls_are_grey_and_the_claim_is_not(artifact):
    colours = {t["name"]: t["line"]["color"] for t in chart(line(), artifact).data if "fill" not in t}
    assert colours == {"difference": "@s0", "shuffled": "@muted"}
    alone = chart(line(where={"predictor": "shuffled"}), artifact)
    assert alone.data[1]["line"]["color"] == "@s0"  # nothing to set it apart from


def test_bars_have_error_bars_and_many_names_lie_down(artifact):
    upright = chart(
        Figure("bar", "sweep", "predictor", "value", where={"layer": 2}, low="ci_low", high="ci_high"), artifact
    )
    assert upright.data[0]["orientation"] == "v"
    assert upright.data[0]["error_y"]["array"] == pytest.approx([0.1, 0.1])
    assert upright.data[0]["error_y"]["arrayminus"] == pytest.approx([0.1, 0.1])
    table = pd.DataFrame({"name": [f"component {i}" for i in range(15)], "value": np.arange(15.0)})
    many = step(artifact.path.parent, "many", "x:Y", {"t": table})
    lying = chart(Figure("bar", "t", "name", "value"), many)
    assert lying.data[0]["orientation"] == "h"
    assert lying.data[0]["y"][0] == "component 0"
    assert lying.data[0]["x"] == list(range(15))


def test_a_histogram_counts_every_value_once_in_shared_bins(artifact):
    c = chart(Figure("histogram", "sweep", "value", "", color="predictor"), artifact)
    assert [sum(t["y"]) for t in c.data] == [4, 5]
    assert c.data[0]["x"] == c.data[1]["x"]


def test_a_heat_map_puts_each_value_in_its_cell(artifact):
    c = chart(Figure("heatmap", "grid", "x", "y", value="z"), artifact)
    assert c.data[0]["x"] == ["1", "2", "3"]
    assert c.data[0]["y"] == ["s0", "s1"]
    assert c.data[0]["z"] == [[1, 2, 3], [0, 1, 2]]
    with pytest.raises(UserError, match="several rows"):
        chart(Figure("heatmap", "sweep", "predictor", "predictor", value="value"), artifact)


def test_the_reference_line_and_the_text_alternative(artifact):
    c = chart(line(reference=0.5, reference_label="chance <b>", y_title="AUROC"), artifact)
    assert c.layout["shapes"][0]["y0"] == c.layout["shapes"][0]["y1"] == 0.5
    assert c.layout["annotations"][0]["text"] == "chance &lt;b&gt;"
    for words in ("Line chart of AUROC over layer", "2 series", "difference", "highest at 4", "9 points"):
        assert words in c.description


def test_the_data_table_holds_what_is_drawn(artifact):
    c = chart(line(), artifact)
    assert c.headers == ["predictor", "layer", "value", "ci_low", "ci_high"]
    assert len(c.rows) == c.total == 9
    assert c.rows[0] == ["difference", "0", ".500", ".400", ".600"]
    assert ["difference", "1", ".600", "no interval", "no interval"] in c.rows  # n = 40: size is not the reason


def test_no_chart_holds_nan(artifact):
    def numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list | tuple):
            return [n for v in value for n in numbers(v)]
        return [value] if isinstance(value, float) else []

    for block in (line(), Figure("scatter", "sweep", "layer", "value"), Figure("histogram", "sweep", "value", "")):
        c = chart(block, artifact)
        assert all(math.isfinite(n) for n in numbers([c.data, c.layout]))


@pytest.mark.parametrize(
    "block",
    [
        Figure("line", "sweep", "layer", "valu"), Figure("bar", "sweep", "layer", "predictor"),
        Figure("histogram", "sweep", "predictor", ""), Figure("heatmap", "grid", "x", "y"),
        Figure("line", "sweeps", "layer", "value"), line(where={"lair": 3}),
    ],
)  # fmt: skip
def test_a_figure_that_cannot_be_drawn_is_refused(artifact, block):
    with pytest.raises(UserError):
        chart(block, artifact)


def test_no_rows_make_an_empty_chart(artifact):
    for kind in ("line", "bar", "scatter", "histogram"):
        c = chart(
            Figure(kind, "sweep", "value" if kind == "histogram" else "layer", "value", where={"layer": 9}), artifact
        )
        assert c.total == 0
        assert "no data" in c.description


def test_a_large_table_is_thinned_and_the_figure_says_so(tmp_path):
    n = 50_000
    table = pd.DataFrame({"x": np.arange(n), "y": np.sin(np.arange(n)), "name": [f"c{i}" for i in range(n)]})
    large = step(tmp_path, "large", "x:Y", {"t": table})
    c = chart(Figure("scatter", "t", "x", "y"), large)
    assert len(c.data[0]["x"]) == 4000
    assert (c.data[0]["x"][0], c.data[0]["x"][-1]) == (0, 49_999)
    assert c.note == "4,000 of 50,000 rows are drawn, evenly chosen along the table."
    assert c.total == n
    assert sum(chart(Figure("histogram", "t", "y", ""), large).data[0]["y"]) == n  # counts are never thinned
    assert chart(Figure("bar", "t", "name", "y"), large).data[0]["y"][-1] == "c119"


def test_columns_that_a_block_does_not_show_are_not_read(artifact, monkeypatch):
    asked = []
    whole = type(artifact).table

    def spy(self, name, columns=None):
        asked.append(sorted(columns))
        return whole(self, name, columns)

    monkeypatch.setattr(type(artifact), "table", spy)
    token_view(Tokens("answers", where={"id": 3}), artifact)
    chart(Figure("line", "sweep", "layer", "value"), artifact)
    assert asked == [["answer", "id", "label", "prompt", "target", "text"], ["layer", "n", "value"]]


# ---------------------------------------------------------------- tables


def test_a_table_merges_the_interval_and_says_how_many_rows_there_are(artifact):
    view = table_view(Table("sweep", columns=["layer", "value", "ci_low", "ci_high"], sort="value", descending=True,
                            limit=3, labels={"layer": "block"}), artifact)  # fmt: skip
    assert view.headers == ["block", "value [95% interval]"]
    assert [(r[0].text, r[1].text, r[1].aside) for r in view.rows] == [
        ("4", ".800", "[.700, .900]"), ("2", ".700", "[.600, .800]"), ("1", ".600", "no interval")
    ]  # fmt: skip
    assert (view.total, view.source) == (10, "s/sweep")


def test_missing_cells_and_formats(artifact):
    view = table_view(Table("sweep", where={"layer": 3}, formats={"value": ".1%"}), artifact)
    assert view.headers == ["layer", "predictor", "value [95% interval]", "n"]
    assert view.rows[0][2].text == "–"
    assert view.rows[1][2].text == "50.0%"
    assert view.numeric == [True, False, True, True]


@pytest.mark.parametrize("block", [Table("sweep", sort="valu"), Table("sweep", columns=["nope"]), Table("nope")])
def test_a_table_that_is_not_there_is_refused(artifact, block):
    with pytest.raises(UserError):
        table_view(block, artifact)


def test_lists_and_chips(tmp_path):
    table = pd.DataFrame({
        "level": ["ok", "warn"], "label": [None, True], "ids": [list(range(20)), []], "verdict": ["fail", "undecided"],
    })  # fmt: skip
    view = table_view(Table("t"), step(tmp_path, "s", "x:Y", {"t": table}))
    assert [(c.text, c.tone) for c in view.rows[0]] == [
        ("ok", "good"), ("unparsed", "unsure"), ("0, 1, 2, 3, 4, 5, 6, 7, … (20)", ""), ("fail", "bad")
    ]  # fmt: skip
    assert [c.text for c in view.rows[1]] == ["warn", "right", "", "undecided"]


# ---------------------------------------------------------------- transcripts


def test_transcripts_show_every_mark_in_the_tables_order(artifact):
    view = token_view(Tokens("answers", limit=4), artifact)
    assert [(i.prompt, i.mark) for i in view.items] == [
        ("q0", "right"),
        ("q1", "right"),
        ("q6", "wrong"),
        ("q7", "unparsed"),
    ]
    assert view.counts == [("right", "good", 6), ("wrong", "bad", 2), ("unparsed", "unsure", 1)]
    assert view.total == 9
    assert len(token_view(Tokens("answers", limit=50), artifact).items) == 9


@pytest.mark.parametrize(
    ("label", "mark"),
    [(True, "right"), (False, "wrong"), (None, "unparsed"), (float("nan"), "unparsed"), (1, "right"), (0, "wrong"),
     ("correct", "right"), ("incorrect", "wrong"), ("before", "before")],
)  # fmt: skip
def test_marks(label, mark):
    assert mark_of(label) == mark
