"""Blocks are plain frozen values, light to import, and every kind of them has its place on the page."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import pytest

from gnomon.blocks import Block, Figure, Heat, Page, Ref, Table, Text, Tokens
from gnomon.report.charts import DRAW
from gnomon.report.html import environment
from gnomon.report.sections import Sentence

EXAMPLES = (Text("t"), Table("t"), Figure("line", "t", "x", "y"), Tokens("t"), Heat("t"), Page("p.html"), Ref("t", {}))


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda b: type(b).__name__)
def test_blocks_are_frozen_values(block):
    first = dataclasses.fields(block)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(block, first, "other")
    assert block == dataclasses.replace(block)


def test_every_kind_of_block_is_covered_here():
    assert {type(b) for b in EXAMPLES} - {Ref} == set(get_args(Block))


def test_every_kind_of_figure_can_be_drawn():
    assert set(get_args(get_type_hints(Figure)["kind"])) == set(DRAW)


def test_every_kind_of_text_has_a_place_on_the_page():
    source: Any = environment().get_template("blocks.html").module
    for kind in get_args(get_type_hints(Text)["kind"]):
        html = str(source.text(Sentence(kind, [("words & ", ""), (".79 [.72, .85]", "scores.value")])))
        assert "words &amp; " in html
        assert ".79" in html
        assert kind in ("text",) or f'class="{kind}"' in html or f'class="note {kind}"' in html


def test_blocks_import_neither_numpy_nor_torch():
    code = "import sys, gnomon.blocks; print([m for m in ('numpy', 'pandas', 'torch', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
