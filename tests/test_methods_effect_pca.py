"""PCA from the coefficients' Gram matrix: identities in float64 against the materialised effects, signs, and zeros."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.methods.effect_pca import explained, gram_norms, neuron_pca, shuffled_heads, top_count

SIZES = [(300, 261, 64, 20), (200, 27, 24, 20), (120, 9, 48, 20), (90, 5, 3, 30), (80, 40, 12, 25)]
"""N, R, d, k: more heads than dimensions and fewer, more rows than heads and fewer."""


def effects(n: int, r: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients with a mean, a basis with dependent rows where R > d, and which rows are fit."""
    rng = np.random.default_rng(seed)
    coef = rng.standard_normal((n, r)) * rng.gamma(1.0, 1.0, r) + rng.standard_normal(r)
    return coef, rng.standard_normal((r, d)), rng.random(n) < 0.6


@pytest.mark.parametrize(("n", "r", "d", "k"), SIZES)
def test_it_equals_the_svd_of_the_materialised_effects(n, r, d, k):
    coef, basis, fit = effects(n, r, d)
    found = neuron_pca(coef, basis, fit, k)
    phi = coef @ basis
    mean = phi[fit].mean(0)
    centred = phi - mean
    norms = np.linalg.norm(centred, axis=1)
    top = np.flatnonzero(fit)[np.argsort(-norms[fit], kind="stable")[:k]]
    _, s, v = np.linalg.svd(centred[top], full_matrices=False)
    scale = np.abs(phi).max()
    assert found.top.tolist() == top.tolist()
    assert np.abs(found.norms - norms).max() <= 1e-12 * scale
    assert np.abs(found.pc - v[0] * np.sign(v[0] @ found.pc)).max() <= 1e-12
    assert np.linalg.norm(found.pc) == pytest.approx(1.0, abs=1e-12)
    assert np.abs(found.mean - mean).max() <= 1e-12 * scale
    assert np.abs(found.mean - coef[fit].mean(0) @ basis).max() <= 1e-12 * scale
    assert np.abs(found.projection - centred @ found.pc).max() <= 1e-12 * scale
    assert found.evr == pytest.approx(s[0] ** 2 / (s**2).sum(), rel=1e-12)
    along = (centred[fit] @ v[0]) ** 2
    assert found.evr_all == pytest.approx(along.sum() / (norms[fit] ** 2).sum(), rel=1e-12)
    assert found.participation == pytest.approx((s**2).sum() ** 2 / (s**4).sum(), rel=1e-12)
    assert not found.zero


def test_only_fit_rows_choose():
    """Other rows may hold anything: mean, top rows and component stay to the last bit."""
    coef, basis, fit = effects(150, 12, 20)
    other = np.where(fit[:, None], coef, 1000 * coef[::-1])
    a, b = neuron_pca(coef, basis, fit, 20), neuron_pca(other, basis, fit, 20)
    for name in ("pc", "mean", "top"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert (a.evr, a.evr_all) == (b.evr, b.evr_all)
    assert fit[a.top].all()


def test_the_majority_of_the_top_rows_is_positive():
    rng = np.random.default_rng(0)
    for seed in range(20):
        coef, basis, fit = effects(100, 6, 10, seed)
        coef[:, 0] += 8 * (rng.random(100) < 0.3) * (1 if seed % 2 else -1)
        found = neuron_pca(coef, basis, fit, 21)
        assert found.positive > 0.5
        assert found.positive == (found.projection[found.top] > 0).mean()
        assert np.allclose(neuron_pca(-coef, basis, fit, 21).pc, -found.pc), "the effects' sign is the component's"


def test_a_planted_direction_is_found_and_explains_what_was_given_to_it():
    rng = np.random.default_rng(1)
    basis = np.eye(30)
    coef = 0.5 * rng.standard_normal((400, 30))
    planted = rng.standard_normal(30)
    planted /= np.linalg.norm(planted)
    coef += np.outer(6 * rng.gamma(2.0, 1.0, 400), planted)
    found = neuron_pca(coef, basis, np.arange(400) < 200, 20)
    assert abs(found.pc @ planted) > 0.99
    assert found.evr > 0.95
    test = np.arange(200, 400)
    held = explained(found.projection[test], found.norms[test], np.ones((1, 200)))[0]
    assert 0.8 < held < found.evr
    null = neuron_pca(shuffled_heads(coef, np.zeros(400), rng), basis, np.arange(400) < 200, 20)
    assert null.evr < 0.6


def test_shuffled_heads_keep_each_head_and_each_split():
    coef, _, fit = effects(60, 7, 5)
    out = shuffled_heads(coef, fit, np.random.default_rng(0))
    for rows in (fit, ~fit):
        assert np.array_equal(np.sort(out[rows], axis=0), np.sort(coef[rows], axis=0))
    assert not np.allclose(out, coef)
    order = [np.argsort(np.argsort(out[fit, r])).tolist() for r in range(7)]
    assert len({tuple(o) for o in order}) > 1, "heads are shuffled apart from each other"


def test_an_effect_that_does_not_vary_is_zero_and_says_so():
    coef, basis, fit = effects(60, 7, 5)
    for c, b in ((0 * coef, basis), (coef, 0 * basis), (coef[:, :0], basis[:0]), (np.ones((60, 7)) * 0.1, basis)):
        found = neuron_pca(c, b, fit, 20)
        assert found.zero
        assert not found.pc.any()
        assert np.isnan([found.evr, found.evr_all, found.positive]).all()
        assert not found.norms.any()
    assert not neuron_pca(1e-9 * coef, basis, fit, 20).zero, "small is not zero"


def test_explained_weighs_rows():
    rng = np.random.default_rng(0)
    projection, norms = rng.random((30, 4)), 1 + rng.random((30, 4))
    weights = np.zeros((2, 30))
    weights[0, :10], weights[1, 5] = 1, 3
    found = explained(projection, norms, weights)
    assert found[0] == pytest.approx((projection[:10] ** 2).sum(0) / (norms[:10] ** 2).sum(0))
    assert found[1] == pytest.approx(projection[5] ** 2 / norms[5] ** 2)
    assert np.isnan(explained(np.zeros(30), np.zeros(30), weights)).all()
    coef, basis, _ = effects(40, 6, 9)
    assert gram_norms(coef, basis @ basis.T) == pytest.approx(np.linalg.norm(coef @ basis, axis=1), rel=1e-12)


def test_mistakes_are_named():
    coef, basis, fit = effects(40, 7, 5)
    with pytest.raises(UserError, match="15 rows in fit; at least k = 20"):
        top_count(15)
    assert (top_count(100), top_count(5000), top_count(20)) == (20, 100, 20)
    with pytest.raises(UserError, match="3 rows in fit"):
        neuron_pca(coef, basis, np.arange(40) < 3, 20)
    with pytest.raises(UserError, match="NaN"):
        neuron_pca(np.where(coef > 1, np.nan, coef), basis, fit, 5)
    with pytest.raises(UserError, match=r"\[N, R\]"):
        neuron_pca(coef, basis[:3], fit, 5)
