"""The study of examples/second_order.yaml on a second family: a GPT-2 trained here, the line `model` changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gnomon
from gnomon.report.html import build_report
from gnomon.store import Study
from tests.browser import outside_resources
from tests.small_gpt2 import trained

EXAMPLE = Path(__file__).parent.parent / "examples" / "second_order.yaml"
FEWER = [
    "neurons.check_rows=4", "neurons.check_neurons=120", "neurons.permutations=199", "pca.control_draws=19",
    "neuron_ablation.model_rows=16", "neuron_ablation.fit_rows=8", "edit.tune_rows=16", "edit.max_rows=40",
    "edit.generate_rows=8", "edit.neutral_texts=4", "edit.unrelated_items=6", "edit.coefficients=[0.5, 1.0]",
    "layer_ablation.max_rows=16", "text_decomposition.m=8", "text_decomposition.isotropic_draws=40",
    "text_decomposition.permutations=499",
]  # fmt: skip
"""Fewer rows than the example's defaults; no option that names a layer or the family."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder, share = trained()
    assert 0.4 <= share <= 0.85, f"the small GPT-2 learned {share:.0%} of the sums"
    out = tmp_path_factory.mktemp("studies") / "second_family"
    return gnomon.run_study(EXAMPLE, out, [f"model={folder}", *FEWER])


def test_every_step_is_made_on_the_second_family(study: Study):
    assert study.names()[-1] == "metrics"
    assert len(study.names()) == 13
    assert study.verify() == []
    assert study["generate"].meta["model"]["family"] == "gpt2"
    share = study["generate"].table("generations")["label"].astype(float).mean()
    assert 0.35 < share < 0.9


def test_gradients_tell_what_random_neurons_do(study: Study):
    checks = study["neurons"].table("checks")
    random = checks[(checks["chosen"] == "random") & (checks["measure"] == "pearson")]
    assert random["value"].median() > 0.8  # three layers; how it was trained differs by processor
    worth = study["second_order"].table("checks")
    assert np.isfinite(worth.loc[worth["score"] == "second", "value"]).all()


def test_the_last_layer_is_left_out(study: Study):
    kept = study["second_order"].table("layers")
    assert kept["mass"].iloc[-1] == 0
    assert not kept["kept"].iloc[-1]
    assert sorted(study["second_order"].table("neurons")["layer"].unique()) == kept.loc[kept["kept"], "layer"].tolist()


def test_each_criterion_has_a_verdict(study: Study):
    metrics = study["metrics"].table("metrics")
    judged = metrics[metrics["goal"].notna()]
    assert len(judged) >= 3
    assert set(judged["verdict"]) <= {"pass", "fail", "undecided", "not measured"}


def test_its_report_is_whole(study: Study):
    page = build_report(study.path, strict=True)
    assert outside_resources(Path(page).read_text()) == []
