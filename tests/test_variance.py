"""Laws of explained variance on arrays: hand values, oracles, planted shares, order, and nulls that stay null."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, r2_score

from gnomon.methods import surface as law
from gnomon.methods import variance
from gnomon.methods.increment import knows_more
from gnomon.methods.surface_fit import Lasso


def test_deviance_is_the_share_of_the_log_loss_that_is_saved():
    rng = np.random.default_rng(0)
    y, logits = rng.integers(0, 2, 50), rng.normal(size=50)
    p = 1 / (1 + np.exp(-logits))
    want = 1 - log_loss(y, p) / log_loss(y, np.full(50, y.mean()))
    assert float(variance.deviance(logits, y)) == pytest.approx(want, abs=1e-12)
    share = np.log(y.mean() / (1 - y.mean()))
    assert float(variance.deviance(np.full(50, share), y)) == pytest.approx(0, abs=1e-12)
    assert float(variance.deviance(np.where(y, 40.0, -40.0), y)) == pytest.approx(1, abs=1e-12)
    counts = rng.integers(0, 3, 50)
    rows = np.repeat(np.arange(50), counts)
    weighted = variance.deviance(logits, y, counts[None, :].astype(float))
    assert weighted == pytest.approx([variance.deviance(logits[rows], y[rows])], abs=1e-12)
    assert np.isnan(variance.deviance(logits, np.ones(50)))


@pytest.mark.parametrize("binary", [True, False])
def test_columns_are_explained_as_one_by_one(binary):
    rng = np.random.default_rng(0)
    y, f = rng.normal(size=40), rng.normal(size=(40, 3))
    y = (y > 0).astype(float) if binary else y
    want = [float(variance.explained(f[:, i], y)) for i in range(3)]
    np.testing.assert_allclose(variance.explained_columns(f, y), want, atol=1e-12)


def test_numbers_are_scored_by_r2():
    rng = np.random.default_rng(0)
    y, f = rng.normal(size=40), rng.normal(size=40)
    assert float(variance.explained(f, y)) == pytest.approx(r2_score(y, f), abs=1e-12)


def test_the_lasso_meets_its_optimality_conditions():
    """|gradient| is the penalty where a weight stands, and at most the penalty where none does."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 12)) * rng.uniform(0.1, 9, size=12) + 5
    y = 2 * x[:, 0] / x[:, 0].std() - x[:, 3] / x[:, 3].std() + rng.normal(size=120)
    fit = Lasso(x, y, np.arange(120) % 5)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    gradient = z.T @ (y - fit.predict(x)) / 120
    penalty = np.abs(gradient).max()
    assert set(np.flatnonzero(fit.w)) >= {0, 3}
    np.testing.assert_allclose(gradient[fit.w != 0], penalty * np.sign(fit.w[fit.w != 0]), atol=2e-2)
    assert (y - fit.predict(x)).mean() == pytest.approx(0, abs=1e-9)


def test_classes_are_calibrated_and_ignorance_is_the_base_rate():
    rng = np.random.default_rng(1)
    x, folds = rng.normal(size=(2000, 3)), np.arange(2000) % 5
    true = 1.5 * x[:, 0] - 0.7
    y = (rng.random(2000) < 1 / (1 + np.exp(-true))).astype(float)
    fit = Lasso(x, y, folds)
    new = rng.normal(size=(2000, 3))
    assert np.corrcoef(fit.predict(new), 1.5 * new[:, 0] - 0.7)[0, 1] > 0.99
    assert np.abs(fit.predict(new) - (1.5 * new[:, 0] - 0.7)).mean() < 0.25
    ignorant = Lasso(np.zeros((2000, 2)), y, folds)
    np.testing.assert_allclose(ignorant.predict(new[:, :2]), np.log(y.mean() / (1 - y.mean())))


def test_columns_find_their_block():
    rng = np.random.default_rng(0)
    names = ("words", "difficulty", "max_prob", "entropy", "margin", "mean_logprob", "prompt_len", "constant")
    offered = {name: rng.normal(size=30) for name in names} | {"constant": np.ones(30)}
    blocks, dropped = law.partition(offered, "entropy", law.BLOCKS)
    assert {b: set(c) for b, c in blocks.items()} == {
        "surface": {"words", "prompt_len"}, "difficulty": {"difficulty"},
        "output": {"max_prob", "margin", "mean_logprob"},
    }  # fmt: skip
    assert "entropy: it is the target" in dropped
    assert "constant: the same everywhere" in dropped
    some, left = law.partition({"words": offered["words"]}, "correct", ("surface", "output"))
    assert set(some) == {"surface"}
    assert "block output: nothing in it" in left


SETTING = law.Setting(permutations=3, draws=200, order=("surface", "output", "internal"))


def split(n: int, setting: law.Setting = SETTING):
    groups = np.arange(n)
    where = np.where(groups % 5 < 3, "fit", "test")
    return groups, *law.parts_of(groups, where, None, False, setting)


def told(y, columns, score, setting=SETTING):
    """Rows of the table for blocks of one column each and a given internal score."""
    groups, parts, inner = split(len(y), setting)
    (train, new), probes = parts[0], None
    if score is not None:
        probes = [law.Internal(0, 0.0, score[train], score[new])]
    blocks = {name: {name: values} for name, values in columns.items()}
    found = law.explain(y, groups, blocks, probes, parts, inner, setting)
    lines = variance.score_rows(found, setting, "test")
    return found, {(r["block"], r["kind"], r["metric"]): r for r in lines}


def test_planted_shares_are_found_and_increments_add_up():
    rng = np.random.default_rng(0)
    a, b, c, e = rng.normal(size=(4, 3000))
    found, rows = told(a + b + e, {"surface": a, "output": b}, c)
    for block, share in (("surface", 1 / 3), ("output", 1 / 3), ("internal", 0)):
        for kind in ("alone", "adds"):
            row = rows[block, kind, "r2"]
            assert row["value"] == pytest.approx(share, abs=0.04), (block, kind)
            assert row["ci_low"] - 0.01 <= share <= row["ci_high"] + 0.01
            assert abs(row["control"]) < 0.4 if kind == "alone" else abs(row["control"]) < 0.01
    assert rows["output", "adds", "r2"]["p"] == pytest.approx(1 / 4)  # the least that 3 swaps can say
    added = sum(rows[block, "adds", "r2"]["value"] for block in found.order)
    assert added == pytest.approx(rows["internal", "together", "r2"]["value"], abs=1e-12)
    assert rows["internal", "together", "r2"]["value"] == pytest.approx(
        r2_score(found.y, found.together["internal"]), abs=1e-12
    )


def test_what_two_blocks_share_is_the_earlier_ones():
    rng = np.random.default_rng(0)
    a, e = rng.normal(size=(2, 1000))
    columns = {"surface": a, "output": a + 0.05 * rng.normal(size=1000)}
    _, rows = told(a + 0.5 * e, columns, None)
    assert rows["surface", "adds", "r2"]["value"] > 0.75
    assert abs(rows["output", "adds", "r2"]["value"]) < 0.02
    assert rows["output", "alone", "r2"]["value"] > 0.75
    turned = law.Setting(permutations=3, draws=200, order=("output", "surface"))
    _, rows = told(a + 0.5 * e, columns, None, turned)
    assert abs(rows["surface", "adds", "r2"]["value"]) < 0.02


def test_a_bend_is_the_blocks_own():
    """A question's length may matter in the middle only; the block finds that without the activations."""
    rng = np.random.default_rng(0)
    a, e = rng.normal(size=(2, 800))
    _, rows = told(a**2 + 0.5 * e, {"surface": a}, None)
    assert rows["surface", "alone", "r2"]["value"] > 0.75


def test_classes_get_deviance_and_auroc():
    rng = np.random.default_rng(0)
    a, c = rng.normal(size=(2, 1200))
    y = (a + 2 * c + rng.logistic(size=1200) > 0).astype(float)
    _, rows = told(y, {"surface": a}, c)
    assert rows["internal", "adds", "deviance"]["ci_low"] > 0.1
    assert rows["internal", "adds", "auroc"]["ci_low"] > 0.1
    assert rows["internal", "partial", "partial"]["ci_low"] > 0.3
    assert rows["surface", "alone", "auroc"]["control"] == pytest.approx(0.5, abs=0.02)
    thin = np.r_[np.ones(10), np.zeros(1190)]
    _, rows = told(thin, {"surface": a}, c)
    assert np.isnan(rows["internal", "adds", "deviance"]["ci_low"])
    assert "correct rows" in rows["internal", "adds", "deviance"]["note"]


def test_a_score_that_repeats_the_output_is_not_beyond_it():
    """40 runs of an internal score that is the output's confidence and noise: `beyond` in at most 5 (2 of 200 seen)."""
    setting = law.Setting(permutations=1, draws=200, order=("output", "internal"))
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b, e = rng.normal(size=(3, 80))
        _, rows = told(a + e, {"output": a}, a + 0.5 * b, setting)
        said = variance.verdict(rows["internal", "adds", "r2"], rows["internal", "partial", "partial"], 0.02)
        hits += said == "beyond"
    assert hits <= 5


def test_a_score_that_knows_more_is_beyond():
    setting, hits = law.Setting(permutations=1, draws=200, order=("output", "internal")), 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        a, b, e = rng.normal(size=(3, 150))
        _, rows = told(a + b + 0.7 * e, {"output": a}, b, setting)
        hits += (
            variance.verdict(rows["internal", "adds", "r2"], rows["internal", "partial", "partial"], 0.02) == "beyond"
        )
    assert hits >= 8


def test_the_verdict_goes_by_the_intervals():
    def said(low, high, partial=0.1):
        rest = {"ci_low": partial, "ci_high": partial + 0.2}
        return variance.verdict({"ci_low": low, "ci_high": high}, rest, 0.02)

    assert said(0.01, 0.1) == "beyond"
    assert said(0.01, 0.1, partial=-0.1) == "undecided"
    assert said(0.01, 0.1, partial=np.nan) == "undecided"
    assert said(-0.01, 0.1) == "undecided"
    assert said(-0.01, 0.015, partial=-0.1) == "nothing"
    assert said(0.0, 0.0, partial=-0.1) == "nothing"
    assert said(0.0, 0.0) == "undecided"  # left out of the combination, though it correlates given the others
    assert said(-0.01, 0.015, partial=-0.4) == "nothing"
    below = {"ci_low": -0.3, "ci_high": -0.1}
    assert knows_more({"ci_low": 0.01, "ci_high": 0.1}, below) == "undecided"
    assert knows_more({"ci_low": 0.01, "ci_high": 0.1}, below, either=True) == "yes"
    assert knows_more({"ci_low": -0.01, "ci_high": 0.01}, below, either=True) == "undecided"
    assert knows_more(None, below) == "undecided"
    assert said(np.nan, np.nan) == "undecided"


def test_the_best_candidate_is_chosen_on_training_rows():
    """Held-out rows of one candidate are made to look perfect: it is not chosen for that."""
    rng = np.random.default_rng(0)
    n = 150
    y = rng.normal(size=n)
    good, bad = rng.normal(size=(2, n, 6))
    good[:, 0] += 2 * y
    _, parts, inner = split(n)
    bad[parts[0][1], 0] = 50 * y[parts[0][1]]
    x = [bad, good]
    (chosen,) = law.internal(lambda c: x[c], 2, [y], parts, inner, (10.0, 100.0))
    assert chosen[0].candidate == 1
    assert chosen[0].train.shape == (len(parts[0][0]),)
    assert np.corrcoef(chosen[0].new, y[parts[0][1]])[0, 1] > 0.7
    assert np.corrcoef(chosen[0].train, y[parts[0][0]])[0, 1] < 0.95  # out of fold, not fitted to these rows


def test_parts_keep_groups_whole():
    groups = np.repeat(np.arange(30), 3)
    parts, inner = law.parts_of(groups, np.full(90, "fit"), None, True, law.Setting())
    assert len(parts) == 5
    assert sorted(np.concatenate([new for _, new in parts])) == list(range(90))
    for (train, new), folds in zip(parts, inner, strict=True):
        assert not set(groups[train]) & set(groups[new])
        assert all(len(set(folds[groups[train] == g])) == 1 for g in set(groups[train]))
