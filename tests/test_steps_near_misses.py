"""Near misses: planted pairs are found and said to be so, shuffled labels are not, and test rows are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.methods.nearest import difference, flip_rate, nearest
from gnomon.nulls import p_value, permuted
from gnomon.report.resolve import check, headlines
from gnomon.step import Context, Inputs, ModelSpec
from gnomon.steps.near_misses import NearMisses
from gnomon.writer import Writer
from tests.synthetic import Planted, rows, save

WORDS = ("apple", "brook", "cliff", "dough", "ember", "frost", "grove", "hinge", "ivory", "jolly", "knoll", "lemon")


def question(k: int, odd: bool) -> str:
    """Pairs share all but the last number."""
    a, b = WORDS[k % 12], WORDS[(k // 12 + 5 * k) % 12]
    return f"Question: A {a} and a {b} weigh {100 + 37 * k} together. How much is {'nine' if odd else 'four'} of them?"


def study(folder: Path, kind: str, n: int = 240):
    """Pairs (2k, 2k + 1) in one split: `flip` answers one of each wrong, `cluster` both alike, `random` by chance."""
    table, _ = rows(Planted(n=n, d=4, layers=1))
    rng = np.random.default_rng(3)
    pair = np.arange(n) // 2
    table["prompt"] = [question(int(k), bool(i % 2)) for i, k in enumerate(pair)]
    order = np.array(["fit", "tune", "test"])[rng.integers(0, 3, n // 2)]
    table["split"] = order[pair]
    coin = rng.random(n // 2) < 0.5
    table["label"] = {
        "flip": np.arange(n) % 2 == 0, "cluster": coin[pair], "random": rng.random(n) < 0.5, "all": np.ones(n, bool),
    }[kind]  # fmt: skip
    return save(folder, table, {}, "generate")


def run(folder: Path, kind: str, **options):
    source = study(folder, kind)
    step, writer = NearMisses(**options), Writer(folder, "near_misses", "f")
    ctx = Context(folder, ModelSpec("no model is loaded"), 0, None)
    step.run(Inputs({"generations": [source]}, None), writer, ctx)
    meta = {"step": step.name, "name": step.name, "options": step.model_dump(mode="json"), "version": step.version}
    return writer.commit({**meta, "ledger": ctx.ledger, "writes": list(step.writes)}), source


def rate(artifact, name: str = "nearest wrong"):
    return artifact.table("rates").set_index("name").loc[name]


def test_planted_flips_are_found(tmp_path: Path):
    artifact, source = run(tmp_path, "flip")
    found = rate(artifact)
    assert found["value"] > 0.95
    assert found["p"] <= 0.002
    assert rate(artifact, "shuffled")["ci_high"] < found["value"]
    pairs = artifact.table("pairs")
    assert len(pairs) == 50
    assert (pairs["near_row"] + 1 == pairs["row"]).mean() > 0.95
    assert set(pairs["changed"]) == {"four -> nine"}
    assert (np.diff(pairs["similarity"]) <= 0).all()
    assert pairs["row"].is_unique
    splits = source.table("generations").set_index("row")["split"]
    assert set(splits[pairs["row"]]) == set(splits[pairs["near_row"]]) == {"fit", "tune"}
    assert artifact.meta["ledger"] == []  # test was never read


def test_like_questions_that_share_their_fate_lie_below_the_shuffles(tmp_path: Path):
    artifact, _ = run(tmp_path, "cluster")
    assert rate(artifact)["value"] < 0.1 < rate(artifact, "shuffled")["ci_low"]
    assert rate(artifact)["p"] <= 0.002


def test_labels_by_chance_are_no_finding(tmp_path: Path):
    artifact, _ = run(tmp_path, "random")
    assert rate(artifact)["p"] > 0.05
    assert rate(artifact, "shuffled")["ci_low"] <= rate(artifact)["value"] <= rate(artifact, "shuffled")["ci_high"]


def test_two_hundred_null_runs_have_few_hits():
    rng = np.random.default_rng(0)
    near, _ = nearest([question(i // 2, bool(i % 2)) for i in range(60)], np.arange(60))
    hits = 0
    for i in range(200):
        labels = rng.random(60) < 0.5
        null = flip_rate(permuted(labels, np.arange(60), 99, i), near)
        hits += p_value(float(flip_rate(labels[:, None], near)[0]), null, "two-sided") <= 0.05
    assert hits <= 19


def test_the_section_resolves_and_speaks(tmp_path: Path):
    artifact, _ = run(tmp_path, "flip", most=5)
    assert check(NearMisses(most=5).summary(artifact), artifact) == []
    said = next(line for line in headlines(tmp_path) if "right answers" in line)
    assert "(middle 95% of the shuffles; p = .001)" in said or "p < .001" in said
    assert len(artifact.table("pairs")) == 5


def test_one_class_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="0 wrong answers in fit and tune"):
        run(tmp_path, "all")


def test_a_question_is_never_its_own_groups_neighbour():
    texts = ["one two three", "one two three!", "one two nine", "zzz"]
    assert nearest(texts, np.arange(4))[0].tolist() == [1, 0, 0, -1]  # zzz shares nothing
    assert nearest(texts, np.array([0, 0, 1, 2]))[0].tolist()[:3] == [2, 2, 0]
    assert nearest(texts, np.zeros(4))[0].tolist() == [-1] * 4
    assert nearest(["alone"], np.zeros(1))[0].tolist() == [-1]


def test_the_rate_is_of_right_rows_whose_neighbour_is_wrong():
    labels = np.array([[1, 0, 1, 1], [0, 1, 0, 0]], bool).T  # one right row in three; then one of one
    assert flip_rate(labels, np.array([1, 0, 0, 0])).tolist() == [pytest.approx(1 / 3), 1.0]
    assert flip_rate(labels, np.array([-1, 0, 0, 0])).tolist() == [0.0, 1.0]  # without a neighbour: not counted


def test_what_differs_is_said_in_words():
    assert difference("add 48 and 2", "add 49 and 2") == "48 -> 49"
    assert difference("a b", "a b c") == "(nothing) -> c"
    assert len(difference("x " * 99, "y " * 99)) == 60
