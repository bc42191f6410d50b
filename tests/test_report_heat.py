"""Heat blocks: colour follows a token's value and is not the only sign of it; nothing acts as markup."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import report_heat  # noqa: F401 - a report imports no module that only a folder names
from browser import need_chromium, outside_resources, visit
from report_study import step
from report_tables import HOSTILE

from gnomon.blocks import Heat
from gnomon.errors import UserError
from gnomon.report.heat import MOST_TOKENS, heat_view, token_html
from gnomon.report.html import build_report, environment
from gnomon.report.resolve import check

TOKENS = ["Tom", " has", " ", "1", "2", " apples", ".\n", "\n", "\tHow", " many", "?", ""]
VALUES = [0.5, -1.0, 0.25, 2.0, -0.04, np.nan, 0.0, 1.0, -0.5, 0.1, -2.0, 0.3]


def tables(cases: int = 3) -> dict[str, pd.DataFrame]:
    """`cases` texts of the same tokens; case k's values are 10^k times as large; cases are listed last first."""
    heat = pd.concat([
        pd.DataFrame({"case": k, "position": range(len(TOKENS)), "token": TOKENS,
                      "value": np.array(VALUES) * 10.0 ** (k % 3)})
        for k in range(cases)
    ])  # fmt: skip
    about = pd.DataFrame({
        "case": range(cases)[::-1], "layer": 3, "neuron": 41,
        "kind": [("top", "right", "wrong")[k % 3] for k in range(cases)],
        "label": [(True, False, None)[k % 3] for k in range(cases)], "prompt": "Tom has 12 apples.\nHow many?",
        "score": np.linspace(-1, 1, cases),
    })  # fmt: skip
    return {"heat": heat, "cases": about}


BLOCK = Heat(
    "heat", "Cases", cases="cases", extra=("layer", "neuron", "kind", "label", "score", "prompt"), caption="By token."
)


@pytest.fixture
def artifact(tmp_path):
    return step(tmp_path, "metrics", "report_heat:Metrics", tables())


def first(view):
    return {t.title.split("token ")[1].split(")")[0].split(":")[0]: t for t in view.items[-1].tokens}


def test_colour_follows_sign_and_size(artifact):
    view = heat_view(BLOCK, artifact)
    assert [c.name for c in view.items] == ["case 2", "case 1", "case 0"]  # the order of the cases table
    tokens = first(view)
    assert (tokens["3"].tone, tokens["3"].share) == ("up", 100)
    assert (tokens["10"].tone, tokens["10"].share) == ("down", 100)
    assert (tokens["1"].tone, tokens["1"].share) == ("down", 50)  # equal strength of colour is equal size
    assert (tokens["0"].tone, tokens["0"].share) == ("up", 25)
    assert {tokens[i].tone for i in ("4", "5", "6")} == {""}  # too small to see, missing, none
    assert tokens["3"].title == "+2.000 (token 3)"
    assert tokens["5"].title == "token 5: no value"


def test_each_case_has_its_own_scale_and_its_strongest_tokens_in_words(artifact):
    view = heat_view(BLOCK, artifact)
    assert [c.most for c in view.items] == ["200.0", "20.00", "2.000"]
    shares = [[t.share for t in c.tokens] for c in view.items]
    assert shares[0] == shares[1] == shares[2]
    strongest = view.items[-1].strongest
    assert [value for _, value in strongest] == ["+2.000", "-2.000", "-1.000", "+1.000", "+.500", "-.500"]


def test_what_is_known_of_a_case_stands_above_it(artifact):
    case = heat_view(BLOCK, artifact).items[0]
    assert case.facts == [("layer", "3"), ("neuron", "41"), ("kind", "top"), ("score", "-1.000")]
    assert case.long == [("prompt", "Tom has 12 apples.\nHow many?")]
    assert (case.mark, case.tone) == ("right", "good")


def test_conditions_hold_in_the_table_that_has_their_column(artifact):
    assert [c.name for c in heat_view(Heat("heat", cases="cases", where={"kind": "top"}), artifact).items] == ["case 2"]
    late = heat_view(Heat("heat", cases="cases", where={"position": [3, 10]}), artifact)
    assert [len(c.tokens) for c in late.items] == [2, 2, 2]
    alone = heat_view(Heat("heat", limit=2), artifact)
    assert ([c.name for c in alone.items], alone.total) == (["case 0", "case 1"], 3)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (Heat("heap"), "did you mean 'heat'"),
        (Heat("heat", value="valeu"), "did you mean 'value'"),
        (Heat("heat", token="tokens"), "did you mean 'token'"),
        (Heat("heat", case="casse"), "did you mean 'case'"),
        (Heat("heat", cases="casess"), "did you mean 'cases'"),
        (Heat("heat", cases="cases", extra=("nueron",)), "did you mean 'neuron'"),
        (Heat("heat", extra=("neuron",)), "a table in `cases`"),
        (Heat("heat", cases="cases", where={"positoin": 1}), "did you mean 'position'"),
        (Heat("heat", value="token"), "numbers to colour by"),
        (Heat("heat", cases="heat"), "one row a case"),
    ],
)
def test_what_is_not_there_is_refused_as_for_other_blocks(artifact, block, said):
    with pytest.raises(UserError, match=re.escape(said)):
        heat_view(block, artifact)
    assert len(check([block], artifact)) == 1


def test_a_block_that_is_right_has_no_problems(artifact):
    assert check([BLOCK], artifact) == []


def render(view) -> str:
    return str(environment().get_template("blocks.html").module.heat(view, "h"))


def test_an_empty_table_and_a_case_without_tokens(tmp_path):
    empty = step(tmp_path, "empty", "x:Y", {"heat": tables()["heat"].head(0), "cases": tables()["cases"].head(0)})
    view = heat_view(BLOCK, empty)
    assert (view.items, view.total) == ([], 0)
    assert "No rows." in render(view)
    some = step(tmp_path, "some", "x:Y", tables() | {"heat": tables()["heat"].query("case == 1")})
    html = render(heat_view(BLOCK, some))
    assert html.count("No tokens.") == 2
    flat = step(
        tmp_path, "flat", "x:Y", {"heat": pd.DataFrame({"case": 0, "token": ["a", "b"], "value": [0.0, np.nan]})}
    )
    html = render(heat_view(Heat("heat"), flat))
    assert "every value is 0 or missing" in html
    assert 'class="up"' not in html


def test_whitespace_and_empty_tokens_can_be_seen():
    def text(token):
        return re.sub(r"<[^>]+>", "", str(token_html(token)))

    assert text(" apples") == " apples"  # a word keeps its space as it is
    assert text(".\n") == ".⏎\n"
    assert text("\tHow") == "⇥\tHow"
    assert text("   ") == "···"
    assert text(" " * 40) == "·×40"
    assert text("") == "empty"
    assert text("a\u202eb\x00") == "aU+202EbNUL"


@pytest.mark.parametrize("token", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_token_is_text(token):
    html = str(token_html(token))
    assert set(re.findall(r"</?[\w!]+", html)) <= {"<span", "</span"}
    assert len(html) < 3000
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)


def test_a_strong_newline_does_not_break_the_list_of_the_strongest(tmp_path):
    table = pd.DataFrame({"case": 0, "token": ["a", ".\n\n"], "value": [0.1, 2.0]})
    case = heat_view(Heat("heat"), step(tmp_path, "lines", "x:Y", {"heat": table})).items[0]
    assert str(case.tokens[1].html).count("\n") == 2
    listed = str(case.strongest[0][0].html)
    assert "\n" not in listed
    assert listed.count("⏎") == 2


def test_a_long_text_shows_its_end_and_says_what_is_left_out(tmp_path):
    n = MOST_TOKENS + 77
    table = pd.DataFrame({"case": "long", "token": [f" t{i}" for i in range(n)], "value": np.linspace(3, 1, n)})
    view = heat_view(Heat("heat"), step(tmp_path, "long", "x:Y", {"heat": table}))
    assert len(view.items[0].tokens) == MOST_TOKENS
    assert view.items[0].tokens[-1].title.endswith(f"(token {n - 1})")
    assert view.items[0].strongest[0][0].title.endswith("(token 0)")  # also where it is left out above
    assert "77 earlier tokens" in render(view)


# ---------------------------------------------------------------- the page


def page_study(folder, cases: int = 12):
    made = tables(cases)
    extra = pd.DataFrame({"case": 0, "position": range(len(HOSTILE)), "token": HOSTILE, "value": 1.0})
    made["heat"] = pd.concat([made["heat"], extra])
    made["cases"].loc[made["cases"]["case"] == 0, "prompt"] = HOSTILE[0]
    step(folder, "metrics", "report_heat:Metrics", made)
    return folder


def test_the_page_holds_it_all_escaped_and_small(tmp_path):
    path = build_report(page_study(tmp_path), strict=True)
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 150_000  # no chart library, no script of its own
    assert page.count("<script") == 2
    assert "<img" not in page
    assert outside_resources(page) == []
    assert page.count('<article class="transcript heat-case">') == 12
    assert "9 more cases" in page
    assert '<span class="up" style="--w:100%" title="+2.000 (token 3)">1</span>' in page
    assert '<span class="down" style="--w:50%" title="-1.000 (token 1)"> has</span>' in page
    assert "<code>metrics/heat</code>" in page


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_keeps_its_contrast_on_the_strongest_colours_of_both_themes():
    source, _, _ = environment().loader.get_source(environment(), "style.css")
    for theme in ("light", "dark"):
        body = source.split(f"{{% macro {theme}() %}}")[1].split("{% endmacro %}")[0]
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", body))
        for hue in ("warm", "cool"):
            assert contrast(colours["text"], colours[hue]) >= 4.5, (theme, hue)
        # the two hues weigh the same: neither sign looks stronger
        assert abs(contrast(colours["paper"], colours["warm"]) / contrast(colours["paper"], colours["cool"]) - 1) < 0.1


PROBE = """
window.addEventListener("load", function () {
  var text = document.querySelector(".heat-text");
  var strong = getComputedStyle(text.querySelector('[style="--w:100%"].up'));
  var weak = getComputedStyle(text.querySelector('[style="--w:25%"].up'));
  var below = getComputedStyle(text.querySelector(".down"));
  var out = [strong.backgroundColor !== weak.backgroundColor, strong.borderBottomStyle, below.borderBottomStyle,
             text.clientHeight < 340, document.documentElement.scrollWidth <= window.innerWidth,
             document.querySelectorAll(".heat-case").length, document.title !== "owned"];
  document.documentElement.setAttribute("data-heat", out.join(";"));
});
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser_colours_differ_by_size_and_lines_by_sign(tmp_path, dark):
    need_chromium()
    path = build_report(page_study(tmp_path))
    page = path.read_text(encoding="utf-8").replace("</body>", f"<script>{PROBE}</script></body>")
    page = re.sub(r"&#39;sha256-[^&]*&#39;", "", page.replace("script-src ", "script-src &#39;unsafe-inline&#39; ", 1))
    path.write_text(page, encoding="utf-8")
    seen = visit(path, dark=dark, width=500)
    assert seen.errors == []
    assert seen.root["data-heat"] == "true;solid;dashed;true;true;12;true"
