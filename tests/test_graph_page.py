"""The graph's page: whole by itself, hostile tokens are text, drawn and walked through in a real browser."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gnomon.methods.graph_page import script_json
from tests import chain_study as chain
from tests.browser import need_chromium, outside_resources, screenshot, visit


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page") / "study"
    made = chain.Made(classes=("safe <b>", "risky & co"))
    return chain.integrated(root, chain.whole(root, made), title="<img src=x onerror=alert(3)>").path / "graph.html"


def data_of(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    return json.loads(found[1])


def test_it_needs_nothing_from_outside_and_no_text_is_markup(page):
    text = page.read_text()
    assert outside_resources(text) == []
    assert "<script>alert" not in text
    assert "onerror=alert(2)>" not in text
    assert "<img" not in text
    assert len(re.findall(r"<script", text)) == 2  # its data, and its own
    assert len(re.findall(r"</script", text)) == 2
    assert "@data@" not in text
    ET.parse(page.with_name("graph.svg"))  # well-formed, hostile names and all
    assert "<b>" not in page.with_name("graph.svg").read_text()


def test_every_feature_and_pathway_is_in_it(page):
    data = data_of(page)
    assert len(data["nodes"]) == 15
    assert len(data["edges"]) == 150
    assert data["kinds"] == ["total", "dark", "mediated"]
    node = next(n for n in data["nodes"] if n["name"] == "L15-10")
    assert len(node["conditions"]) == 4
    assert [t[0] for t in node["tokens"]][:2] == ["␣<script>alert(1)</script>", "\\u202egnp."]
    source, target, kind, attribution, *_ = data["edges"][0]
    assert (data["nodes"][source]["site"], data["nodes"][target]["site"]) == ("resid_post.9", "resid_post.15")
    assert data["kinds"][kind] == "dark"
    assert isinstance(attribution, float)


def test_json_in_a_script_cannot_end_it():
    assert not set("<>&") & set(script_json({"a": "</script><!-- & \u2028"}))
    with pytest.raises(ValueError):
        script_json({"a": float("nan")})


ACT = """
window.addEventListener("load", function () {
  var out = [], root = document.documentElement, panel = document.getElementById("panel");
  function node(name) {
    return [].filter.call(document.querySelectorAll(".node"), function (g) { return g.textContent === name; })[0];
  }
  function press(key) {
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: key, bubbles: true }));
  }
  function set(id, value, event) {
    var field = document.getElementById(id);
    if (field.type === "checkbox") field.checked = value; else field.value = value;
    field.dispatchEvent(new Event(event || "change"));
  }
  function count() { return root.dataset.nodes + "/" + root.dataset.edges; }
  out.push(count());
  node("L15-10").dispatchEvent(new MouseEvent("click", { bubbles: true }));
  out.push(panel.querySelector("h2").textContent, panel.querySelectorAll("table").length,
    panel.textContent.indexOf("\\x3cscript>alert(1)\\x3c/script>") > 0, panel.querySelectorAll("script, img").length,
    document.querySelectorAll(".edge.lit").length);
  panel.querySelector(".jump").click();
  out.push(panel.querySelector("h2").textContent, document.activeElement.textContent);
  press("ArrowUp");
  out.push(document.activeElement.textContent);
  press("Enter");
  out.push(panel.querySelector("h2").textContent);
  press("Escape"); press("ArrowLeft");
  out.push(document.activeElement.textContent !== "L15-10", document.querySelectorAll(".node.picked").length);
  set("validated", true);
  out.push(count());
  set("validated", false); set("kind", 2);
  out.push(count());
  set("strongest", 0, "input");
  out.push(count());
  document.getElementById("theme").click();
  out.push(root.getAttribute("data-theme"), document.documentElement.scrollWidth <= window.innerWidth);
  root.setAttribute("data-acted", out.join(";"));
});
"""


def test_it_is_drawn_clicked_filtered_and_walked_through_by_keys(page, tmp_path):
    """The test's own script presses the buttons, in a copy whose policy lets it in."""
    need_chromium()
    text = re.sub(r"&#x27;sha256-[^&]*&#x27;", "&#x27;unsafe-inline&#x27;", page.read_text())
    copy = tmp_path / "acted.html"
    copy.write_text(text.replace("</body>", f"<script>{ACT}</script></body>"))
    seen = visit(copy, width=1280, height=800, wait_ms=3000)
    assert seen.errors == []
    drawn, name, tables, asis, made, lit, jumped, focused, up, entered, moved, picked, valid, dark, one, theme, fits = (
        seen.root["data-acted"].split(";")
    )
    assert (drawn, name) == ("15/50", "L15-10")
    assert int(tables) >= 4  # patches, both sides, tokens
    assert (asis, made) == ("true", "0")
    assert lit == "10"
    assert jumped == focused == "L9-10"  # its strongest source
    assert up == entered == "L15-10"  # the nearest of the row above
    assert (moved, picked) == ("true", "0")
    assert valid == "6/4"
    assert dark == "15/50"
    assert one == "15/1"
    assert (theme, fits) == ("dark", "true")


@pytest.mark.parametrize("place", ["%E0%A4%A", "constructor"])
def test_an_address_that_names_no_feature_opens_the_page_all_the_same(page, tmp_path, place):
    need_chromium()
    copy = tmp_path / "there.html"
    go = f'<script>location.hash = "{place}";</script>'
    text = re.sub(r"&#x27;sha256-[^&]*&#x27;", "&#x27;unsafe-inline&#x27;", page.read_text())
    copy.write_text(text.replace("<noscript>", go + "<noscript>"))
    seen = visit(copy, wait_ms=3000)
    assert seen.errors == []
    assert seen.root["data-ready"] == "yes"
    assert "Choose a feature" in seen.dom


def test_rings_are_drawn_over_their_neighbours(page):
    need_chromium()
    circles = re.findall(r'<circle class="(ring|point)"', visit(page, wait_ms=3000).dom)
    assert circles[:9] == ["point"] * 9  # what is not causal stands first
    assert circles.count("ring") == 6
    drawn = page.with_name("graph.svg").read_text()
    assert drawn.index('class="ring"') > drawn.index(">L21-13<")


def test_it_opens_by_its_own_policy_without_pathways_in_the_dark(tmp_path):
    need_chromium()
    root = tmp_path / "study"
    made = chain.integrated(root, chain.whole(root, chain.Made(edges=False)))
    seen = visit(made.path / "graph.html", dark=True, width=1280, height=800, wait_ms=3000)
    assert seen.errors == []
    assert (seen.root["data-ready"], seen.root["data-nodes"], seen.root["data-edges"]) == ("yes", "15", "0")
    assert "No pathway was kept" in seen.dom
    shot = screenshot(made.path / "graph.html", tmp_path / "graph.png", width=1280, height=800)
    assert shot.stat().st_size > 15_000  # a blank page of that size takes under 8 kB
