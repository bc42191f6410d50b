"""The page in a real browser, from a file:// address: charts drawn, nothing wrong on the console, nothing run."""

from __future__ import annotations

import re

import pytest
from browser import Visit, need_chromium, print_pdf, visit
from report_study import build

from gnomon.report.html import build_report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    need_chromium()
    return build_report(build(tmp_path_factory.mktemp("browser")))


@pytest.fixture(scope="module")
def seen(report) -> Visit:
    return visit(report)


def test_every_chart_is_drawn_and_nothing_goes_wrong(seen):
    assert seen.errors == []
    assert seen.root["data-charts"] == "6"
    assert len(re.findall(r'<div class="chart js-plotly-plot"[^>]*role="img"', seen.dom)) == 6
    assert seen.dom.count('class="main-svg"') >= 6
    assert '<p class="quiet">This chart could not' not in seen.dom
    assert seen.dom.count('class="trace ') + seen.dom.count('class="point"') > 50


def test_hostile_text_did_not_run(seen):
    assert "owned" not in re.search(r"<title>(.*?)</title>", seen.dom)[1]
    assert seen.root.get("data-errors") is None


def test_dark_is_followed_and_charts_take_its_colours(report, seen):
    dark = visit(report, dark=True)
    assert dark.errors == []
    assert dark.root["data-charts"] == "6"

    def button(v):
        return re.search(r'id="theme"[^>]*>(\w+)<', v.dom)[1]

    assert (button(seen), button(dark)) == ("Dark", "Light")

    def strokes(v):
        return set(re.findall(r"stroke: rgb\(\d+, \d+, \d+\)", v.dom))

    assert "stroke: rgb(31, 102, 173)" in strokes(seen)
    assert "stroke: rgb(106, 174, 240)" in strokes(dark)
    assert "stroke: rgb(31, 102, 173)" not in strokes(dark)


ACT = """
window.addEventListener("load", function () {
  var wait = setInterval(function () {
    var root = document.documentElement;
    if (!root.hasAttribute("data-charts")) return;
    clearInterval(wait);
    var out = [];
    document.getElementById("theme").click();
    out.push(root.getAttribute("data-theme"));
    try { out.push(localStorage.getItem("gnomon-theme")); } catch (refused) { out.push("dark"); }
    var table = document.querySelector("#step-probe div.block table.sortable");
    function column() { return [].map.call(table.tBodies[0].rows, function (r) { return r.cells[3].dataset.key; }); }
    var sort = table.querySelectorAll("thead .sort")[3];
    var before = column().join();
    sort.click(); var down = column().map(Number);
    sort.click(); var up = column().map(Number);
    sort.click();
    function falls(v) { return v.every(function (x, i) { return !i || v[i - 1] >= x; }); }
    out.push(falls(down), falls(up.slice().reverse()), column().join() === before);
    var block = document.querySelector(".tokens");
    function shown() { return block.querySelectorAll(".transcript:not([hidden])").length; }
    out.push(shown());
    block.querySelector(".filter[data-mark=unparsed]").click();
    out.push(shown());
    block.querySelector(".filter[data-mark=unparsed]").click();
    var search = block.querySelector("input");
    search.value = "WINDOW.GNOMON"; search.dispatchEvent(new Event("input"));
    out.push(shown(), block.querySelector(".found").textContent);
    out.push(document.documentElement.scrollWidth <= window.innerWidth);
    setTimeout(function () {
      var lines = [].map.call(document.querySelectorAll(".js-line"), function (l) { return l.style.stroke; });
      out.push(lines.indexOf("rgb(106, 174, 240)") >= 0, lines.indexOf("rgb(31, 102, 173)") < 0);
      root.setAttribute("data-acted", out.join(";"));
    }, 300);
  }, 50);
});
"""


def altered(report, to, old: str, new: str):
    """A copy of the report with something in it replaced once."""
    page = report.read_text(encoding="utf-8")
    assert old in page
    to.write_text(page.replace(old, new, 1), encoding="utf-8")
    return to


def test_toggle_sort_filter_and_search_work_in_a_narrow_window(report, tmp_path):
    """The test's own script presses the buttons, in a copy whose policy lets it in."""
    copy = altered(report, tmp_path / "acted.html", "</body>", f"<script>{ACT}</script></body>")
    altered(copy, copy, "script-src ", "script-src &#39;unsafe-inline&#39; ")
    copy.write_text(re.sub(r"&#39;sha256-[^&]*&#39;", "", copy.read_text(encoding="utf-8")), encoding="utf-8")
    result = visit(copy, width=500)
    assert result.errors == []
    theme, kept, *rest = result.root["data-acted"].split(";")
    assert (theme, kept) == ("dark", "dark")
    sorts, shown, fits, redrawn = rest[:3], rest[3:7], rest[7], rest[8:]
    assert sorts == ["true"] * 3  # falling, rising, as it was
    assert shown == ["40", "11", "2", "2 of 40 match"]
    assert fits == "true"  # nothing sticks out sideways
    assert redrawn == ["true", "true"]  # charts took the other theme's colours


def test_a_foreign_script_is_refused_and_a_chart_that_fails_shows_its_data(report, tmp_path):
    copy = altered(report, tmp_path / "hurt.html", "</footer>", "</footer><script>document.title='owned'</script>")
    altered(copy, copy, '<script type="application/json">{"data"', '<script type="application/json">{"data')
    result = visit(copy)
    assert "owned" not in re.search(r"<title>(.*?)</title>", result.dom)[1]
    assert any("Content Security Policy" in line for line in result.console)
    assert "blocked by policy: script-src" in result.root["data-errors"]
    assert result.root["data-charts"] == "5"
    assert '<p class="quiet">This chart could not be drawn here; its data is below.</p>' in result.dom
    assert result.dom.count('<details class="data" open="">') == 1


def test_it_prints(report, tmp_path):
    pdf = print_pdf(report, tmp_path / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) < 40
