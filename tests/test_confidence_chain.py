"""generate -> self, other -> confidence_directions, self_other, intervene in one study, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gnomon
from gnomon.errors import UserError
from gnomon.report.resolve import headlines
from gnomon.types import Site
from tests.tiny import tiny_folder

QUICK = {"shuffles": 99, "draws": 200, "folds": 3, "share": 0.4}


def study(*steps: dict) -> dict:
    asked = {"capture": {"sites": "resid_post.1-2", "positions": ["last_prompt"]}, "content_free": False}
    return {
        "model": str(tiny_folder("gpt2", n_positions=512)), "device": "cpu",
        "steps": [
            {"generate": {"task": "own_tasks:Letters", "n": 40, "batch_size": 20,
                          "capture": {"sites": "resid_post.1-2", "positions": ["last"]}}},
            {"confidence": {"ask": "self", "orders": "normal", **asked}, "as": "mine"},
            {"confidence": {"ask": "other", "orders": "normal", **asked}, "as": "theirs"},
            *steps,
        ],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """`own_tasks:Letters` is importable, as in a folder where a study is run from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_passes_are_compared_and_their_directions_are_there_to_be_steered(tmp_path):
    steer = {"using": "confidence_directions", "direction": 2, "kinds": ["steer"], "coefficients": [1]}
    steps = [{"confidence_directions": {**QUICK, "random": 19}}, {"self_other": QUICK}, {"intervene": steer}]
    out = gnomon.run_study(study(*steps), out=tmp_path / "study", log_level="error")
    found, compared = out["confidence_directions"], out["self_other"]
    told = out["mine"].table("confidence")
    assert set(found.table("sweep")["layer"]) == {1, 2}
    assert set(found.table("scores")["place"]) == {"answer", "confidence"}
    assert found.table("facts").set_index("fact").loc["rows", "value"] == told["confidence"].notna().sum()
    for direction in found.directions():
        assert direction.meta["position"] in ("last", "last_prompt")
        assert direction.site in [Site("resid_post", layer) for layer in (1, 2)]
    assert found.directions()[2].name in " ".join(headlines(tmp_path / "study"))  # steered along
    both = set(told["row"]) & set(out["theirs"].table("confidence")["row"])
    assert compared.table("facts").set_index("fact").loc["rows", "value"] == len(both)
    cka = compared.table("similarity").query("measure == 'cka' and control == ''")
    assert np.isfinite(cka["value"]).all()
    page = (tmp_path / "study" / "report.html").read_text()
    for words in ("High against low stated confidence by layer", "Likeness of the two passes by layer"):
        assert words in page


def test_a_pass_without_activations_is_refused_in_the_plan(tmp_path):
    steps = study({"self_other": {"b": "p_true"}})
    with pytest.raises(UserError, match="confidence pass"):
        gnomon.run_study(steps, out=tmp_path / "study", log_level="error")
    assert not (tmp_path / "study" / "generate").exists()
