"""Output-space ablation: conditions equal those of materialised vectors; planted effects recover, nulls do not."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.methods.ablation_rows import Table, all_rows
from gnomon.methods.output_ablation import (
    Neuron,
    Setting,
    Unembedding,
    centred,
    kept_name,
    output_changes,
    significant_rows,
    threshold,
)

N, R, D = 90, 5, 12
FIT = np.arange(N) < 50
TEST = np.arange(50, N)


def neurons(seed: int = 0, count: int = 3, offset: float = 4.0) -> list[Neuron]:
    """Effects with a large mean: forgetting to take it off changes every number."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        pc, text = rng.normal(size=(2, D))
        coef = rng.normal(size=(N, R)) + offset
        out.append(Neuron(coef, rng.normal(size=(R, D)), pc / np.linalg.norm(pc), text))
    return out


def phi(neuron: Neuron) -> np.ndarray:
    return np.stack([sum(c * b for c, b in zip(row, neuron.basis, strict=True)) for row in neuron.coef])


def test_conditions_equal_replacing_materialised_vectors():
    many = neurons()
    found = output_changes(many, Setting(FIT, TEST, shares=(0.0, 0.2, 1.0), controls=2, least=10))
    wanted = {name: np.zeros((len(TEST), D)) for name in found.conditions}
    for i, neuron in enumerate(many):
        own = phi(neuron)
        mean = own[:50].mean(0)
        norm = np.linalg.norm(own - mean, axis=1)
        cut = np.sort(norm[:50])[::-1][9]
        fifth = np.sort(norm[:50])[::-1][9]  # .2 of 50 rows
        assert np.array_equal(found.significant[i], norm >= cut)
        unit = neuron.text / np.linalg.norm(neuron.text)
        for r, row in enumerate(TEST):
            x = own[row]
            rank1 = mean + ((x - mean) @ neuron.pc) * neuron.pc
            text = mean + ((x - mean) @ unit) * unit
            wanted["full"][r] += mean - x
            wanted["significant"][r] += (mean - x) if norm[row] >= cut else 0
            wanted["insignificant"][r] += 0 if norm[row] >= cut else (mean - x)
            wanted["rank1"][r] += rank1 - x
            wanted["text"][r] += text - x
            wanted["kept 0"][r] += mean - x
            wanted["kept 0.2"][r] += 0 if norm[row] >= fifth else (mean - x)
    for name, change in wanted.items():
        assert np.allclose(found.conditions[name], change, atol=1e-10), name
    assert np.allclose(found.conditions["kept 1"], 0)
    assert np.allclose(found.conditions["significant"] + found.conditions["insignificant"], found.conditions["full"])


def test_the_threshold_and_the_mean_are_of_fit_rows_alone():
    """Test rows that are a hundred times larger change neither the cut nor the mean."""
    one = neurons(count=1)[0]
    loud = np.array(one.coef)
    loud[TEST] = 100 * loud[TEST]
    before = output_changes([one], Setting(FIT, TEST, controls=0, curve_controls=0, least=10))
    after = output_changes(
        [Neuron(loud, one.basis, one.pc)], Setting(FIT, TEST, controls=0, curve_controls=0, least=10)
    )
    assert np.array_equal(before.significant[:, FIT], after.significant[:, FIT])
    assert before.significant[0, FIT].sum() == 10
    assert after.significant[0, TEST].all()
    assert np.allclose(centred(one, FIT)[FIT], centred(Neuron(loud, one.basis, one.pc), FIT)[FIT])
    assert np.allclose(centred(one, FIT)[FIT].mean(0), 0)


def test_controls_are_matched():
    """As many pairs of the same neuron; random directions keep 1/d of the variance and no more."""
    many = neurons(count=1)
    setting = Setting(FIT, TEST, shares=(0.3,), controls=200, curve_controls=4, least=10)
    found = output_changes(many, setting)
    x = centred(many[0], FIT)[TEST]
    pairs = found.controls["random_pairs"]
    touched = np.abs(pairs).max(-1) > 0
    assert (touched.sum(1) == found.significant[0, TEST].sum()).all()
    assert len(np.unique(touched, axis=0)) > 150
    assert np.allclose(pairs[3][touched[3]], -x[touched[3]])
    kept = x[None] + found.controls["random_direction"]
    assert (kept**2).sum() / (200 * (x**2).sum()) == pytest.approx(1 / D, rel=0.15)
    own = np.abs(found.conditions["kept 0.3"]).max(-1) == 0
    assert ((np.abs(found.controls["kept 0.3"]).max(-1) == 0).sum(1) == own.sum()).all()
    again = output_changes(many, setting)
    assert all(np.array_equal(found.controls[k], again.controls[k]) for k in found.controls)


def test_how_many_rows_are_significant():
    assert significant_rows(600) == 20
    assert significant_rows(5000) == 100
    assert significant_rows(12) == 12
    assert threshold(np.array([1.0, 3.0, 2.0]), 2) == 2.0
    assert threshold(np.array([1.0]), 0) == np.inf
    nothing = Neuron(np.zeros((N, 0)), np.zeros((0, D)), np.zeros(D))  # the last layer has no later heads
    assert not output_changes([nothing], Setting(FIT, TEST, controls=0)).significant.any()


def test_reading_the_output_equals_a_softmax_by_hand():
    rng = np.random.default_rng(1)
    W, b, y = rng.normal(size=(D, 30)), rng.normal(size=30), rng.normal(size=(7, D))
    targets = np.array([0, 1, 2, 3, -1, 5, 6])
    for cap in (None, 3.0):
        logprob, right = Unembedding(W.astype(np.float32), b.astype(np.float32), cap).read(y, targets, chunk=3)
        logits = y @ W + b
        logits = logits if cap is None else cap * np.tanh(logits / cap)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for i, t in enumerate(targets):
            if t < 0:
                assert np.isnan(logprob[i])
                assert np.isnan(right[i])
            else:
                assert logprob[i] == pytest.approx(np.log(p[i, t]), abs=1e-5)
                assert right[i] == (p[i].argmax() == t)


def table(accuracy: np.ndarray, groups: np.ndarray | None = None) -> Table:
    groups = np.arange(len(accuracy)) if groups is None else groups
    return Table("output", "test", {"accuracy": accuracy}, groups, 400, 0)


def test_recovered_fractions_need_a_drop():
    n = 80
    base, full, half = np.ones(n), np.zeros(n), (np.arange(n) % 2).astype(float)
    rows, _ = all_rows(table(base), {"full": {"accuracy": full}, "rank1": {"accuracy": half}}, {}, {})
    assert rows[0]["change"] == -1
    assert np.isnan(rows[0]["recovered"])
    assert rows[1]["recovered"] == 0.5
    assert rows[1]["recovered_low"] < 0.5 < rows[1]["recovered_high"]
    barely = base.copy()
    barely[0] = 0
    rows, _ = all_rows(table(base), {"full": {"accuracy": barely}, "rank1": {"accuracy": base}}, {}, {})
    assert np.isnan(rows[1]["recovered"])
    assert "does not exclude 0" in rows[1]["note"]


def test_no_change_at_all_still_has_an_interval():
    """40 rows that did not change do not show that accuracy drops by less than a point."""
    rows, _ = all_rows(table(np.ones(40)), {"full": {"accuracy": np.ones(40)}}, {}, {})
    assert rows[0]["ci_low"] < -0.05
    assert rows[0]["change"] == 0
    rows, _ = all_rows(table(np.ones(40), np.arange(40) // 20), {"full": {"accuracy": np.ones(40)}}, {}, {})
    assert rows[0]["ci_low"] < -0.5, "two groups say less than forty"


def test_rows_without_a_target_are_left_out():
    base = np.array([1.0, 1.0, np.nan, 0.0])
    rows, _ = all_rows(table(base), {"full": {"accuracy": np.array([0.0, 1.0, np.nan, 0.0])}}, {}, {})
    assert rows[0]["n"] == 3
    assert rows[0]["change"] == pytest.approx(-1 / 3)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="at least 2"):
        output_changes(neurons(), Setting(np.arange(N) < 1, TEST))
    wrong = Neuron(np.ones((N, R)), np.ones((R, D)), np.ones(D + 1))
    with pytest.raises(UserError, match="width 12"):
        output_changes([wrong], Setting(FIT, TEST))
    assert kept_name(0.05) == "kept 0.05"
