"""The page: complete, self-contained, the same for the same folders, and honest about what is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from browser import outside_resources
from report_study import build, step
from report_tables import HOSTILE

from gnomon.errors import UserError
from gnomon.report.html import build_report, plotly_js
from gnomon.report.resolve import check
from gnomon.report.sections import summarise
from gnomon.store import Study

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(folder):
    return body(build_report(folder, strict=True))


def body(path: Path) -> str:
    """The page without the chart library (a third of a million words that are nobody's)."""
    return path.read_text(encoding="utf-8").replace(plotly_js(), "")


class Outline(HTMLParser):
    """Headings, ids, links into the page, text, and elements left open."""

    VOID = ("meta", "link", "input", "br", "img", "path", "circle")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"][1:]] if tag == "a" and given.get("href", "").startswith("#") else []
        self.levels += [int(tag[1])] if re.fullmatch(r"h[1-6]", tag) else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_sections_come_in_the_promised_order(outline):
    order = ["top", "findings", "criteria", "toc-title", "step-generate", "step-audit", "step-probe", "step-intervene",
             "limits", "ledger", "configuration", "reproduce"]  # fmt: skip
    places = [outline.ids.index(i) for i in order]
    assert places == sorted(places)


def test_the_document_is_whole(outline):
    assert outline.wrong == []
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.links) <= set(outline.ids)
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(outline.levels, outline.levels[1:], strict=False))


@pytest.mark.parametrize(
    "words",
    [
        "What does SmolLM2 know about its own answers?", "240 answers on capitals from smollm2-135m, 21 November 2025.",
        "30 layers, width 576, float32, cpu", "fit 96, tune 48, test 96", "with AUROC .79 [.72, .85] on test (p < .001",
        "measured .791 [.720, .851], n = 96", "bound ≥ .6", "undecided", "measured .110, no interval (n too small)",
        "Six coefficients were tried on tune.", "The test split was read 2 times (probe 1, intervene 1)",
        "11 of 240 answers (4.6%) could not be parsed", "One model (smollm2-135m) with seed 0", "chosen coefficient",
        "gnomon run examples/demo.yaml --out studies/demo", "- generate: {task: capitals, n: 240}", "2.13.0", "8.0 GB",
        "11 files", "kept from an earlier run", "1 min 33 s", "Where the questions come from.",
    ],
)  # fmt: skip
def test_the_page_says(outline, words):
    assert words in re.sub(r"\s+", " ", outline.text)


def test_every_number_of_a_headline_names_its_cell(page):
    findings = page[page.index('id="findings"') : page.index('id="criteria"')]
    assert findings.count('class="ref"') == 13
    assert (
        "probe/scores.value where predictor=&#39;difference&#39;, control=&#39;&#39;, metric=&#39;auroc&#39;"
        in findings
    )


def test_nothing_reads_nan(outline):
    assert not re.search(r"\bnan\b|\bNaN\b|\bNone\b|\binf\b", outline.text)


def test_hostile_transcripts_are_text(page, outline):
    for text in (*HOSTILE[:3], HOSTILE[5], HOSTILE[8]):
        assert text in outline.text  # the parser reads back exactly what the model wrote
    assert page.count("<script") == 3 + 6  # the page's own: early, plotly, main; and one data element a chart
    assert "<img" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "x" * 20_001 not in page
    assert "40,000 more characters" in page


def test_a_hostile_title_and_run_json_are_text(tmp_path):
    folder = build(tmp_path, "</title><script>alert(1)</script> \x00\u202e {{ 7*7 }}")
    run = json.loads((folder / "run.json").read_text())
    run["versions"] = {"<b>": "</pre><script>x</script>", "lone": "\ud800"}
    run["criteria"] = [{"name": "<i>", "text": '"><script>', "verdict": "<s>", "bound": "\ud800"}]
    (folder / "run.json").write_text(json.dumps(run))
    page = body(build_report(folder))
    assert page.count("<script") == 3 + 6
    assert "<i>&" not in page
    assert "</title><script>alert(1)</script> [NUL][U+202E] {{ 7*7 }}" in Outline(page).text


def test_nothing_is_fetched_and_only_its_own_scripts_may_run(page):
    assert outside_resources(page) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src &#39;none&#39;" in policy
    assert policy.count("sha256-") == 3
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert "unsafe-eval" not in policy


def test_it_is_small_and_the_same_each_time(folder):
    path = build_report(folder)
    first = path.read_bytes()
    assert path == folder / "report.html"
    assert len(first) < 6_000_000
    assert build_report(folder).read_bytes() == first
    assert list(folder.glob("*.tmp")) + list(folder.glob(".*.tmp")) == []


def test_a_page_without_figures_leaves_the_chart_library_out(tmp_path):
    step(tmp_path, "audit", "report_steps:Audit", {"checks": pd.DataFrame({"check": ["a"]})})
    path = build_report(tmp_path)
    assert path.stat().st_size < 100_000
    assert "No criteria were stated beforehand" in path.read_text()


def test_every_reference_of_the_study_resolves(folder):
    problems = [line for artifact in Study(folder) for line in check(summarise(artifact).blocks, artifact)]
    assert problems == []


# ---------------------------------------------------------------- sections that cannot be made


@pytest.fixture
def odd(tmp_path, folder):
    table = pd.DataFrame({"check": ["kept row"], "detail": ["<b>d</b>"]})
    for name, kind, version in (("missing", "no_such_module:Step", 1), ("newer", "report_steps:Audit", 9),
                                ("failing", "report_steps:Failing", 1), ("unknown", "prob", 1),
                                ("options", "report_steps:Audit", 1), ("bent", "report_steps:Bent", 1)):  # fmt: skip
        options = {"gone": 1} if name == "options" else {}
        step(tmp_path, name, kind, {"checks": table}, version=version, options=options)
    return tmp_path


def test_a_step_that_cannot_speak_for_itself_shows_its_tables_and_says_why(odd):
    text = re.sub(r"\s+", " ", Outline(body(build_report(odd))).text)
    assert text.count("kept row") == 5  # all but bent, whose class speaks
    for words in ("no module that a folder names is imported", "version 9 of this step, and version 1 is installed",
                  "ZeroDivisionError: a step of the user's own that fails <b>here</b>", "did you mean 'probe'",
                  "ValidationError"):  # fmt: skip
        assert words in text


def test_a_block_without_its_cells_is_withheld_and_the_rest_stands(odd):
    text = re.sub(r"\s+", " ", Outline(body(build_report(odd))).text)
    assert text.count("Something belongs here that this study's tables do not support") == 3
    assert "reference checks.value where check='none'" not in text  # the column is wrong before the row is
    assert text.count("A sentence that stands.") == 2  # among the findings, and in its section


def test_strict_refuses_instead(odd):
    with pytest.raises(UserError):
        build_report(odd, strict=True)
    assert not (odd / "report.html").exists()


def test_an_unfinished_run_says_so(tmp_path):
    folder = build(tmp_path)
    run = json.loads((folder / "run.json").read_text())
    run["steps"].append({"name": "later", "step": "probe", "action": "waiting"})
    (folder / "run.json").write_text(json.dumps(run | {"status": "interrupted"}))
    text = Outline(body(build_report(folder))).text
    assert "The run is interrupted" in text
    assert "Steps without results: later." in text


def test_where_each_step_was_computed_is_told(tmp_path):
    folder = build(tmp_path)
    name = Study(folder).names()[0]
    path = folder / name / "meta.json"
    more = {"device": "cpu", "workers": 2, "threads": 1, "hosts": {"node-a": 3, "node-b": 1}, "tries": [{}, {}, {}]}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    run = json.loads((folder / "run.json").read_text())
    run |= {"source": {"commit": "0a1b2c", "sha256": ""}, "model": {"name": "tiny", "max_memory": []}}
    (folder / "run.json").write_text(json.dumps(run))
    page = body(build_report(folder))
    assert "cpu, 2 workers x 1 thread, on node-a, node-b, begun 3 times" in Outline(page).text
    assert "<dt>commit</dt><dd>0a1b2c</dd>" in page
    assert "<dt>sha256</dt>" not in page
    assert "max_memory" not in page


def test_a_folder_without_run_json_still_has_a_report(tmp_path):
    folder = build(tmp_path)
    (folder / "run.json").unlink()
    (folder / "study.yaml").unlink()
    text = Outline(body(build_report(folder))).text
    assert "with AUROC .79 [.72, .85] on test" in text
    assert "None were stated before the run" in text


def test_no_study_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError):
        build_report(tmp_path / "nowhere")
    with pytest.raises(UserError):
        build_report(tmp_path)


def test_neither_torch_nor_plotly_is_imported(folder):
    code = (
        "import sys, report_steps; from gnomon.report.html import build_report;"
        "from gnomon.report.resolve import headlines;"
        f"build_report({str(folder)!r}, strict=True); headlines({str(folder)!r});"
        "print([m for m in ('torch', 'transformers', 'plotly.graph_objects') if m in sys.modules])"
    )
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_rows_that_a_later_generation_joined_are_counted_once(tmp_path: Path):
    from gnomon.report.html import about
    from gnomon.store import Study
    from tests import synthetic

    def answers() -> str:
        return about(Study(tmp_path))["sentence"]

    for name in ("first", "later"):
        made = synthetic.make_generation(tmp_path, n=40, name=name)
        counts = [{"split": "all", "label": label, "n": 20, "share": 0.5} for label in ("correct", "incorrect")]
        pd.DataFrame(counts).to_parquet(made.path / "counts.parquet")
    assert "80 answers" in answers()
    meta = json.loads((tmp_path / "later" / "meta.json").read_text())
    (tmp_path / "later" / "meta.json").write_text(json.dumps(meta | {"options": {"append": ["first"]}}))
    assert "40 answers" in answers()
