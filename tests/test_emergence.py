"""Laws of emergence and lag on arrays: planted layers are found, equal ones are not told apart, nulls stay null."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon import stats
from gnomon.methods import emergence as law
from gnomon.methods.folds import grouped_folds
from gnomon.methods.linear import fitter

LAYERS = 7


def planted(seed: int, n: int, first: dict[str, int], strength: float = 3.0, layers: int = LAYERS, d: int = 10):
    """Activations `[layers, n, d]` that hold each target from its layer on, and the targets."""
    rng = np.random.default_rng(seed)
    x, targets = rng.normal(size=(layers, n, d)), []
    for i, (name, layer) in enumerate(first.items()):
        y = rng.normal(size=n)
        x[layer:, :, i] += strength * y
        targets.append(law.Target(name, y))
    return x, targets


def found(x, targets, setting: law.Setting, groups=None) -> list[law.Emergence]:
    n = x.shape[1]
    groups = np.arange(n) if groups is None else groups
    folds = grouped_folds(groups, 5, setting.seed)
    curves = law.curves(lambda i: x[i], len(x), targets, groups, folds, setting)
    weights = stats.group_weights(groups, setting.draws, [setting.seed, 1])
    halves = law.half_weights(groups, 20, [setting.seed, 2])
    return [law.emergence(c, np.arange(len(x), dtype=float), weights, halves, setting) for c in curves]


QUICK = law.Setting(permutations=19, draws=200)


def test_the_first_layer_at_the_share_of_the_peak():
    above = np.array([[0.0, 0.2, 0.89, 0.9, 1.0, 0.95], [0.5, 0.5, 0.1, 0.0, 0.0, 0.0], [-1.0, -0.1, -0.2, -1, -1, -1]])
    np.testing.assert_array_equal(law.first_at(above), [3, 0, np.nan])
    np.testing.assert_array_equal(law.first_at(above, 0.2), [1, 0, np.nan])
    np.testing.assert_array_equal(law.first_at(above, 1.0), [4, 0, np.nan])


@pytest.mark.parametrize("binary", [True, False])
def test_columns_are_scored_as_one_by_one(binary):
    rng = np.random.default_rng(0)
    scores, y, folds = rng.normal(size=(90, 4)).round(1), rng.normal(size=(90, 4)).round(1), np.arange(90) % 3
    y = (y > 0).astype(float) if binary else y
    one = stats.auroc if binary else stats.spearman
    want = [float(one(scores[:, i], y[:, i] > 0 if binary else y[:, i], None, folds)) for i in range(4)]
    np.testing.assert_allclose(law.ranked(scores, y, folds, binary), want, atol=1e-12)


def test_a_curve_is_the_cross_validated_probe_of_each_layer():
    """What stands beside a target (shuffles, other targets) does not change its own scores."""
    x, targets = planted(1, 60, {"a": 1, "b": 2}, layers=3)
    y = targets[1].y.copy()
    y[::7] = np.nan
    targets = [targets[0], law.Target("b", y), law.Target("c", (targets[0].y > 0).astype(float))]
    groups = np.arange(60) // 2
    folds = grouped_folds(groups, 5, 0)
    curves = law.curves(lambda i: x[i], 3, targets, groups, folds, law.Setting(permutations=19, classes="logistic"))
    for curve, kind in zip(curves, ("ridge", "ridge", "logistic"), strict=True):
        rows = curve.target.rows
        for layer in range(3):
            scores, _ = fitter(kind, x[layer][rows]).out_of_fold(curve.target.y[rows][:, None], folds[rows])
            close = 1e-3 if kind == "logistic" else 1e-9  # iterated, and stopped when all columns are there
            np.testing.assert_allclose(curve.scores[layer], scores[:, 0], atol=close)
        assert curve.null.shape == (3, 19)
    assert [c.target.metric.name for c in curves] == ["spearman", "spearman", "auroc"]


def test_planted_layers_are_found_with_their_lag():
    hits = covered = 0
    for seed in range(6):
        x, targets = planted(seed, 120, {"late": 4, "early": 1})
        late, early = found(x, targets, law.Setting(permutations=19, draws=200, seed=seed))
        assert late.rises
        assert early.rises
        interval, p, which = law.lag(late, early)
        hits += which == "second"
        covered += interval.low <= 3 <= interval.high
        assert law.lag(early, late)[2] in ("first", "undecided")
        if which == "second":
            assert p < 0.05
    assert hits >= 5
    assert covered >= 5


def scored(rng, y, signal, noise) -> law.Curve:
    """A curve of made-up out-of-fold scores, one layer a `signal`; layers share half of their noise."""
    shared = rng.normal(size=len(y))
    scores = np.stack([s * y + noise * (shared + rng.normal(size=len(y))) / np.sqrt(2) for s in signal])
    folds = np.zeros(len(y), dtype=int)
    null = rng.normal(scale=1 / np.sqrt(len(y)), size=(len(signal), 19))
    values = law.ranked(scores.T, np.repeat(y[:, None], len(signal), axis=1), folds, False)
    return law.Curve(law.Target("t", y), scores, folds, values, null - null.mean(axis=1, keepdims=True))


def test_equal_layers_are_not_told_apart_however_unequal_the_noise():
    """60 runs of one true layer and two noises: a verdict in at most 7."""
    rng, hits = np.random.default_rng(3), 0
    signal = np.r_[np.zeros(2), np.ones(3)]
    for _ in range(60):
        weights = stats.group_weights(np.arange(60), 100, rng)
        halves = law.half_weights(np.arange(60), 2, rng)
        one, two = (
            law.emergence(scored(rng, rng.normal(size=60), signal, noise), np.arange(5.0), weights, halves, QUICK)
            for noise in (0.7, 2.0)
        )
        hits += law.lag(one, two)[2] in ("first", "second")
    assert hits <= 7


def test_shuffled_targets_do_not_rise():
    rises = 0
    for seed in range(40):
        x, targets = planted(seed, 50, {"a": 9}, layers=3, d=5)  # planted beyond the last layer: nowhere
        curve = law.curves(lambda i, x=x: x[i], 3, targets, np.arange(50), np.arange(50) % 5, QUICK)[0]
        rises += curve.p_max <= 0.05
    assert rises <= 6


def test_what_never_rises_has_no_layer_and_no_lag():
    x, targets = planted(0, 100, {"there": 1, "nowhere": LAYERS})
    there, nowhere = found(x, targets, QUICK)
    assert there.rises
    assert not nowhere.rises
    assert np.isnan(nowhere.first)
    interval, p, which = law.lag(there, nowhere)
    assert which == "none"
    assert "nowhere never above its null" in interval.note
    assert np.isnan(interval.value)
    assert np.isnan(p)


def test_a_thin_class_has_a_layer_without_an_interval():
    x, targets = planted(0, 100, {"a": 1, "b": 3})
    thin = law.Target("thin", (targets[0].y > np.sort(targets[0].y)[-12]).astype(float))
    few, many = found(x, [thin, targets[1]], QUICK)
    assert few.rises
    assert "11 correct rows" in few.note
    assert np.isnan(few.interval.low)
    assert law.lag(few, many)[2] == "undecided"


def test_halves_are_halves_of_groups():
    groups = np.repeat(np.arange(10), 3)
    halves = law.half_weights(groups, 50, 0)
    assert set(np.unique(halves)) == {0.0, 1.0}
    assert (halves.sum(axis=1) == 15).all()
    assert (halves.reshape(50, 10, 3).std(axis=2) == 0).all()
    assert len(np.unique(halves, axis=0)) > 30


def test_held_out_scores_are_those_of_the_probe_of_all_training_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=60)
    folds, new = np.arange(60) % 5, rng.normal(size=(8, 5))
    shuffles = np.stack([rng.permutation(y) for _ in range(3)], axis=1)
    own, others = law.held_out(x, y, new, folds, shuffles, "ridge", (10.0, 100.0))
    model = fitter("ridge", x, (10.0, 100.0))
    _, penalty = model.out_of_fold(y[:, None], folds)
    np.testing.assert_allclose(own, model.probe(y, float(penalty[0])).scores(new), atol=1e-9)
    assert others.shape == (8, 3)
