"""The demo study, small, on the real model: from questions to a report in a browser; a second run keeps every step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import gnomon
from gnomon.report.html import build_report
from gnomon.report.resolve import check, headlines
from gnomon.report.sections import summarise
from tests.browser import need_chromium, outside_resources, visit

DEMO = Path(__file__).parent.parent / "examples" / "demo.yaml"
SMALL = [
    "generate.n=80", "generate.capture.sites=[resid_post.10, resid_post.20]", "layer_ablation.max_rows=4",
    "layer_ablation.fit_rows=4", "layer_ablation.modes=[mean]", "intervene.max_rows=8",
    "intervene.coefficients=[0.1, 0.4]", "intervene.tune_rows=4", "intervene.generate_rows=2",
    "intervene.neutral_texts=2", "intervene.unrelated_items=2", "intervene.fit_rows=8",
]  # fmt: skip
STEPS = ["generate", "audit", "probe", "layer_ablation", "intervene"]
COLUMNS = [
    "generation", "site", "position", "predictor", "control", "split", "metric", "value", "ci_low", "ci_high", "n",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return gnomon.run_study(DEMO, tmp_path_factory.mktemp("studies") / "demo", SMALL)


def test_every_step_is_made_and_whole(study):
    assert study.names() == STEPS
    assert study.verify() == []
    rows = study["generate"].table("generations")
    assert len(rows) == 80
    assert list(rows["row"]) == list(range(80))


def test_activations_are_the_models_own(study, smollm2):
    row = study["generate"].table("generations").iloc[7]
    prompt = [int(t) for t in row["token_ids"]][: int(row["prompt_len"])]
    out = smollm2.forward([prompt], read=["resid_post.20"])
    alone = next(iter(out.acts.values()))[0, -1].numpy()
    kept = study.activations("resid_post.20@last_prompt").row(7)
    assert np.abs(alone - kept).max() <= 1e-4 * np.abs(alone).max()


def test_scores_have_the_columns_that_readers_rely_on(study):
    scores = study["probe"].table("scores")
    assert set(COLUMNS) <= set(scores.columns)
    assert {"", "shuffled", "random"} <= set(scores["control"])
    assert {"baselines", "increment"} <= set(scores["predictor"])
    assert study["probe"].directions()[0].d == 576


def test_every_number_of_every_headline_is_a_cell(study):
    assert len(headlines(study)) >= 4
    for artifact in study:
        assert check(summarise(artifact).blocks, artifact) == [], artifact.name


def test_reads_of_test_are_in_the_ledger(study):
    reads = [line for artifact in study for line in artifact.meta["ledger"]]
    assert reads
    assert all(line["rows"] > 0 and line["why"] for line in reads)


def test_the_report_opens_in_a_browser_without_errors(study):
    need_chromium()
    page = build_report(study.path, strict=True)
    assert outside_resources(page.read_text()) == []
    seen = visit(page)
    assert seen.errors == []
    assert int(seen.root["data-charts"]) >= 6


def test_a_second_run_keeps_every_step_and_a_changed_option_remakes_its_step(study, tmp_path):
    copy = tmp_path / "demo"
    shutil.copytree(study.path, copy)
    again = gnomon.run_study(DEMO, copy, SMALL)
    assert all(step["kept"] for step in again.run["steps"])
    before = {a.name: a.fingerprint for a in study}
    changed = gnomon.run_study(DEMO, copy, [*SMALL, "audit.max_cut=0.3"])
    after = {a.name: a.fingerprint for a in changed}
    assert [n for n in STEPS if before[n] != after[n]] == ["audit"]


def test_the_record_says_what_ran(study):
    run = json.loads((study.path / "run.json").read_text())
    assert run["model"]["n_layers"] == 30
    assert {"torch", "transformers"} <= set(run["versions"])
    assert run["criteria"][0]["verdict"] in ("pass", "fail", "undecided")
