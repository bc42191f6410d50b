"""The planted transformer, end to end: its confidence is found where it was put, and nothing where nothing reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import gnomon
from gnomon.causal.pick import first, pick
from gnomon.causal.swap_effects import MOVES, STILL
from gnomon.report.resolve import check, headlines
from gnomon.steps.swap import Swap
from gnomon.store import Study
from tests.planted import KNOWN, LAYER, LAYERS, RIGHT, SIGNS, SURE, carrier, planted_folder

ALL = range(LAYERS)


def study_of(kind: str, root: Path, emergence: bool, **swap: Any) -> Study:
    capture = {"sites": "resid_post.*", "positions": ["last_prompt", "answer"]}
    steps: list[dict] = [
        {"generate": {"task": "tests.planted:Keys", "n": 80, "capture": capture}},
        {
            "confidence": {
                "ask": "self",
                "orders": "normal",
                "content_free": False,
                "capture": capture,
                "question": "Sure?",
                "batch_size": 80,
            },
            "as": "self",
        },
    ]
    if emergence:
        options = {"targets": ["correct", "self"], "of": "self", "permutations": 19, "draws": 200}
        steps.append({"emergence": options})
    few = {"pairs": 8, "test_pairs": 8, "share": 0.5, "draws": 400, "shard_pairs": 8, "batch_size": 16}
    steps.append({"swap": few | swap})
    file = root / f"{kind}.yaml"
    file.write_text(yaml.safe_dump({"model": str(planted_folder(kind)), "device": "cpu", "steps": steps}))  # pyright: ignore
    gnomon.run_study(str(file), out=str(root / kind))
    return Study(root / kind)


@pytest.fixture(scope="module")
def carried(tmp_path_factory) -> Study:
    return study_of("carried", tmp_path_factory.mktemp("carried"), emergence=True, stride=1)


@pytest.fixture(scope="module")
def unread(tmp_path_factory) -> Study:
    return study_of("unread", tmp_path_factory.mktemp("unread"), emergence=True)


@pytest.fixture(scope="module")
def surface(tmp_path_factory) -> Study:
    return study_of("surface", tmp_path_factory.mktemp("surface"), emergence=False, stride=2, answer=False)


def told(study: Study) -> pd.DataFrame:
    """Sign, u, w, label and stated confidence of each row."""
    both = study["generate"].table("generations").merge(study["self"].table("confidence")[["row", "confidence"]])
    sign = [SIGNS.index(text) for text in both["text"]]
    return both.assign(u=SURE[sign], w=KNOWN[sign])


def excess(study: Study, position: str, split: str = "sweep") -> dict[int, tuple[float, str]]:
    part = pick(study["swap"].table("effects"), set=split, measure="confidence", position=position, kind="excess",
                way="both")  # fmt: skip
    return {int(r["layer"]): (float(r["value"]), str(r["verdict"])) for r in part.to_dict("records")}


def test_the_model_states_what_was_planted(carried, unread, surface):
    table = told(carried)
    assert np.array_equal(table["label"].to_numpy(dtype=bool), table["w"].to_numpy() > 0)
    stated = [table["confidence"].to_numpy()[table["u"] == u] for u in SURE]
    assert np.all(np.diff([s.mean() for s in stated]) > 0.02), "surer signs are stated surer"
    assert max(s.std() for s in stated) < 0.03
    assert told(unread)["confidence"].to_numpy().std() < 1e-6
    free = told(surface)
    assert free["confidence"].to_numpy().std() > 0.05
    assert abs(np.corrcoef(free["u"], free["confidence"])[0, 1]) < 0.3


def test_the_carrier_is_where_it_was_written(carried):
    table = told(carried)
    for layer in ALL:
        x = carried["self"].activations(f"resid_post.{layer}@last_prompt").at(table["row"].to_numpy())
        along = x.astype(np.float64) @ carrier()
        if layer >= LAYER:
            assert np.corrcoef(along, table["u"])[0, 1] > 0.99
        else:
            assert np.abs(along).max() < 1e-3


def test_swaps_find_the_layer_and_the_handover(carried):
    for layer, (value, verdict) in excess(carried, "confidence").items():
        assert verdict == (MOVES if layer >= LAYER else STILL), f"layer {layer}"
        assert value == pytest.approx(float(layer >= LAYER), abs=0.02)
    for layer, (value, verdict) in excess(carried, "answer").items():
        assert verdict == (MOVES if layer < LAYER else STILL), f"layer {layer}"
        assert value == pytest.approx(float(layer < LAYER), abs=0.02)
    assert all(verdict == STILL for _, verdict in excess(carried, "random").values())
    depth = carried["swap"].table("depth")
    assert first(depth, statistic="handover")["value"] == LAYER
    up, down = (first(depth, measure="confidence", position=p, statistic="spearman") for p in ("confidence", "answer"))
    assert up["ci_low"] > 0.5
    assert down["ci_high"] < -0.5


def test_test_rows_confirm_it(carried):
    assert excess(carried, "confidence", "test") == {LAYER: (pytest.approx(1, abs=0.02), MOVES)}
    (layer, found), *more = excess(carried, "answer", "test").items()
    assert not more
    assert layer < LAYER
    assert found == (pytest.approx(1, abs=0.02), MOVES)
    assert all(verdict == STILL for _, verdict in excess(carried, "random", "test").values())
    answer = pick(carried["swap"].table("effects"), set="test", measure="answer", position="last_prompt", way="both")
    other = first(answer, kind="other")
    assert other["value"] < -0.9, "the key of another item makes another answer"
    assert first(answer, kind="excess")["verdict"] == STILL, "whichever the donor's confidence"


def test_the_sweep_of_probes_finds_both_layers_and_their_lag(carried):
    table, lags = (carried["emergence"].table(name) for name in ("emergence", "lags"))
    layer = {str(r["target"]): r["value"] for r in pick(table, quantity="emergence").to_dict("records")}
    assert layer == {"correct": RIGHT, "self": LAYER}
    lag = first(lags)
    assert abs(lag["value"]) == LAYER - RIGHT
    assert lag["leads"] == "correct"
    assert min(abs(lag["ci_low"]), abs(lag["ci_high"])) > 0


def test_what_nothing_reads_is_not_found(unread):
    swap = unread["swap"]
    assert len(swap.table("effects")) == len(swap.table("pairs")) == 0
    assert any("There is nothing to swap" in line for line in headlines(unread))
    assert check(Swap().summary(swap), swap) == []
    found = pick(unread["emergence"].table("emergence"), quantity="emergence")
    assert [r["target"] for r in found.to_dict("records") if r["rises"]] == ["correct"]
    assert len(unread["emergence"].table("lags")) == 0


def test_a_confidence_of_the_surface_does_not_move_with_the_answer(surface):
    assert all(verdict == STILL for _, verdict in excess(surface, "answer").values())
    assert all(verdict == STILL for _, verdict in excess(surface, "random").values())
    assert all(verdict == MOVES for _, verdict in excess(surface, "confidence").values()), "block 0 brings it there"
    assert excess(surface, "answer", "test").popitem()[1][1] == STILL


def test_the_section_resolves_and_speaks(carried):
    swap = carried["swap"]
    assert check(Swap().summary(swap), swap) == []
    said = [line for line in headlines(carried) if "A donor's activation" in line]
    assert len(said) == 2
    assert "the last token of the model's own answer" in said[0]
    assert f"the confidence position, layer {LAYER}," in said[1]
    assert all("verdict: moves it; at a random token" in line for line in said)
    assert all("verdict: more than a random token" in line for line in said)
