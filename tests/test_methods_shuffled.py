"""Shuffled-label directions, massive tokens, energy; neutral texts and unrelated facts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.methods.neutral import neutral_texts, unrelated_items
from gnomon.methods.shuffled import (
    difference,
    energy_removed,
    shuffled_differences,
    unmasked,
    variance_share,
)


def data(seed: int = 0, n: int = 200, d: int = 32):
    rng = np.random.default_rng(seed)
    scales = 1 / np.arange(1, d + 1)  # a few directions hold most of the variance, as in a model
    labels = rng.random(n) < 0.4
    planted = rng.standard_normal(d)
    x = 100 + rng.standard_normal((n, d)) * scales + np.outer(labels, planted)
    return x, labels, planted


def test_difference_equals_numpy():
    x, labels, _ = data()
    wanted = x[labels].mean(0) - x[~labels].mean(0)
    assert np.allclose(difference(x, labels), wanted, atol=1e-5)
    assert np.allclose(shuffled_differences(x, labels, None, 3)[0], wanted, atol=1e-5)


def test_a_planted_direction_is_found_and_shuffled_ones_are_not_it():
    x, labels, planted = data()
    made = shuffled_differences(x, labels, None, 50)
    cosine = made @ planted / np.linalg.norm(made, axis=1) / np.linalg.norm(planted)
    assert cosine[0] > 0.95
    assert np.abs(cosine[1:]).mean() < 0.3
    assert np.linalg.norm(made[1:], axis=1).max() < np.linalg.norm(made[0]) / 2
    assert len(np.unique(made[1:].round(6), axis=0)) == 50


def test_groups_move_together():
    """Labels that are the same in each group stay so: a shuffle can only be one of the swaps of whole groups."""
    x, _, _ = data(n=40)
    groups = np.repeat(np.arange(10), 4)
    labels = np.isin(groups, (0, 3, 7))
    made = shuffled_differences(x, labels, groups, 30, seed=1)[1:]
    within = x - np.where(labels[:, None], x[labels].mean(0), x[~labels].mean(0))
    means = within.reshape(10, 4, -1).mean(1)

    possible = np.array([
        means[list(c)].mean(0) - means[[i for i in range(10) if i not in c]].mean(0)
        for c in combinations(range(10), 3)
    ])  # fmt: skip
    assert all(np.abs(possible - d).max(1).min() < 1e-4 for d in made)


def test_shuffled_directions_carry_more_variance_than_isotropic_ones():
    x, labels, _ = data()
    x = x - np.where(labels[:, None], x[labels].mean(0), x[~labels].mean(0))
    shuffled = shuffled_differences(x, labels, None, 40)[1:]
    isotropic = np.random.default_rng(0).standard_normal((40, x.shape[1]))
    assert variance_share(x, shuffled).mean() > 5 * variance_share(x, isotropic).mean()


def test_one_class_is_refused():
    x, labels, _ = data()
    for one in (np.ones_like(labels), np.zeros_like(labels)):
        with pytest.raises(UserError, match="rows of both classes"):
            shuffled_differences(x, one, None, 2)


def test_energy_and_variance():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 8)) + 3 * np.eye(8)[0]
    basis = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    assert energy_removed(x, basis).sum() == pytest.approx(1)
    assert variance_share(x, basis).sum() == pytest.approx(1)
    u = 7 * np.eye(8)[:1]  # its length does not matter
    removed = x - np.outer(x[:, 0], np.eye(8)[0])
    assert energy_removed(x, u)[0] == pytest.approx(1 - (removed**2).sum() / (x**2).sum())
    to_mean = energy_removed(x, u, x.mean(0) @ np.eye(8)[0])[0]
    assert to_mean == pytest.approx(x[:, 0].var() * len(x) / (x**2).sum())
    assert to_mean < energy_removed(x, u)[0] / 5


def test_massive_tokens_are_left_out_of_the_unit():
    x = np.ones((9, 4))
    x[2] *= 50
    keep, unit = unmasked(x)
    assert keep.tolist() == [i != 2 for i in range(9)]
    assert unit == pytest.approx(2.0)
    with pytest.raises(UserError, match="no tokens"):
        unmasked(np.zeros((0, 4)))


def test_neutral_texts_and_unrelated_items():
    texts = neutral_texts(40)
    assert len(set(texts)) == 40
    assert all(25 <= len(text.split()) <= 60 and "\n" not in text for text in texts)
    assert neutral_texts(3) == texts[:3]
    with pytest.raises(UserError, match="0 to 40"):
        neutral_texts(41)
    every = unrelated_items(36)
    assert len(every) == len(set(every)) == 36
    assert all(answer and " " not in answer and not prompt.endswith(" ") for prompt, answer in every)
    words = unrelated_items(36, numbers=False)
    assert len(words) == 28
    assert not any(c.isdigit() for prompt, _ in words for c in prompt)
    assert len(unrelated_items(6)) == 6
