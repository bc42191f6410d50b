"""Numbers, intervals, p-values, times and sizes read the same everywhere, and nothing reads nan."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from gnomon.report.formats import MISSING, NO_INTERVAL, interval, moment, number, p_value, seconds, size


@pytest.mark.parametrize(
    ("value", "spec", "column", "text"),
    [
        (0.7912, ".2f", "value", ".79"),
        (0.7912, ".3f", "value", ".791"),
        (-0.0181, ".3f", "value", "-.018"),
        (-0.0004, ".3f", "value", ".000"),
        (0.87, "+.2f", "value", "+.87"),
        (1.0, ".3f", "value", "1.000"),
        (240.0, ".3f", "value", "240"),
        (96, ".3f", "n", "96"),
        (96.0, "", "n", "96"),
        (12345, "", "n", "12,345"),
        (20.0, "", "layer", "20"),
        (0.5375, ".1%", "share", "53.8%"),
        (0.005, ".1%", "share", "0.5%"),
        (4.0, "+.3g", "coefficient", "+4"),
        (7.0, "d", "n", "7"),
        (0.00001, "", "value", "1.0e-05"),
        (1234.5, "", "value", "1,234" if round(1234.5) == 1234 else "1,235"),
        (0.0002, ".3f", "p", "<.001"),
        (0.0, "", "q", "<.001"),
        (True, ".3f", "selected", "yes"),
        ("resid_post.20", ".3f", "site", "resid_post.20"),
        (np.float32(0.25), ".2f", "value", ".25"),
    ],
)
def test_number(value, spec, column, text):
    assert number(value, spec, column) == text


@pytest.mark.parametrize("value", [None, float("nan"), np.float32("nan"), math.inf, -math.inf, pd.NA, pd.NaT])
def test_what_is_missing_is_never_printed_as_a_number(value):
    for spec in ("", ".3f", ".1%", "d"):
        assert number(value, spec) == MISSING


@pytest.mark.parametrize(
    ("p", "text"), [(0.0, "<.001"), (0.00099, "<.001"), (0.005, ".005"), (0.05, ".050"), (0.21, ".21"), (1.0, "1.00")]
)
def test_p_values_are_never_zero(p, text):
    assert p_value(p) == text


def test_intervals():
    assert interval(0.7203, 0.8511, ".2f") == "[.72, .85]"
    assert interval(-0.5, 0.25, ".1%") == "[-50.0%, 25.0%]"


@pytest.mark.parametrize("low", [None, float("nan")])
def test_a_missing_interval_says_why(low):
    assert interval(low, 0.8) == NO_INTERVAL == "no interval (n too small)"
    assert interval(low, 0.8, row={"n": 19}) == interval(low, 0.8, row={"rows": 19}) == NO_INTERVAL
    assert interval(low, 0.8, row={"rows": 28}) == "no interval"  # enough rows: none was computed
    assert interval(low, 0.8, row={"n": 300, "n_pos": 12}) == NO_INTERVAL
    assert interval(low, 0.8, row={"n": 300, "n_pos": 290}) == NO_INTERVAL  # the smaller class is what counts
    assert interval(low, 0.8, row={"n": 300, "n_pos": 150}) == "no interval"  # enough rows: no false reason


@pytest.mark.parametrize(
    ("value", "text"), [(0.31, "0.3 s"), (42, "42 s"), (59.6, "1 min 00 s"), (192, "3 min 12 s"), (7500, "2 h 05 min")]
)
def test_seconds(value, text):
    assert seconds(value) == text


def test_sizes_and_moments():
    assert [size(v) for v in (37, 12_000, 3_400_000, 812_000_000, 1_200_000_000, None)] == [
        "37 B", "12 kB", "3.4 MB", "812 MB", "1.2 GB", ""
    ]  # fmt: skip
    assert moment("2025-11-21T03:40:12+00:00") == "21 November 2025, 03:40 UTC"
    assert moment(0) == "1 January 1970, 00:00 UTC"
    assert moment("yesterday") == "yesterday"
    assert moment(None) == ""
