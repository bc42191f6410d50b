"""Hostile text can neither act as markup, nor break the file, nor hide or reorder what is around it."""

from __future__ import annotations

import json
import re

import pytest
from report_tables import HOSTILE

from gnomon.report.escape import chart_text, clean, clip, name_of, script_json, visible

ALL = [*HOSTILE, "<b>\x00<i>\u202e</b>", "lone \ud800 surrogate \udfff", "\x85\x9b c1", "﷐￾", ""]


@pytest.mark.parametrize("text", ALL, ids=range(len(ALL)))
def test_visible_text_has_no_markup_of_its_own_and_encodes(text):
    html = str(visible(text))
    assert set(re.findall(r"</?[\w!]+", html)) <= {"<span", "</span"}
    html.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)


def test_text_and_whitespace_are_kept():
    assert str(visible("  a\n\tb <i> & 'q' \"")) == "  a\n\tb &lt;i&gt; &amp; &#39;q&#39; &#34;"
    assert str(visible("👩\u200d👩 نیم\u200cفاصله")) == "👩\u200d👩 نیم\u200cفاصله"  # joiners are part of the writing


def test_what_cannot_be_seen_is_named():
    html = str(visible("a\x00b\u202ec\ud800d\u200be"))
    assert re.sub(r"<[^>]+>", "|", html) == "a|NUL|b|U+202E|c|U+D800|d|U+200B|e"
    assert "right-to-left override" in html
    assert [name_of(c) for c in "\r\x1b\x7f\x85"] == ["CR", "ESC", "DEL", "U+0085"]


def test_huge_text_is_cut_and_says_how_much_is_left_out():
    html = str(visible("<" * 3_000_000))
    assert len(html) < 100_000
    assert "2,980,000 more characters" in html


def test_clean_and_clip():
    assert clean("a\x00\u202e\ud800b\n") == "a[NUL][U+202E][U+D800]b\n"
    assert clip("abcdef", 4) == "abc…"
    assert clip("abcd", 4) == "abcd"


@pytest.mark.parametrize("text", ALL, ids=range(len(ALL)))
def test_json_in_a_script_element_cannot_end_it(text):
    out = str(script_json({"t": text, "n": [float("nan"), 1.5, float("inf")]}))
    assert out.isascii()
    assert not re.search(r"[<>&\x00-\x1f]", out)
    assert json.loads(out) == {"t": text, "n": [None, 1.5, None]}


def test_chart_labels_carry_no_markup_and_stay_on_one_line():
    assert chart_text("<b>x</b>\n&amp; y") == "&lt;b&gt;x&lt;/b&gt; &amp;amp; y"
    assert len(chart_text("y" * 500)) <= 60
