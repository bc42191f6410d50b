"""Similarity of activations: laws of CKA and cosines, the textbook estimator as an oracle, coverage, the null."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.methods.similarity import COLUMNS, Pairs, debiased_cka, linear_cka, row_cosines, similarity


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(noise(d, d, seed=9))[0]


def related(n: int = 60, p: int = 30, q: int = 40, shared: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    hidden = noise(n, shared, seed=seed)
    x = hidden @ noise(shared, p, seed=100) + 0.5 * noise(n, p, seed=seed + 1000)
    return x + 3.0, hidden @ noise(shared, q, seed=101) + 0.5 * noise(n, q, seed=seed + 2000)


def by(rows: list[dict], measure: str, control: str = "") -> dict:
    return next(r for r in rows if r["measure"] == measure and r["control"] == control)


def textbook(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased CKA by Song et al. (2012), eq. 5, written out."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n, one = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return float((np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("of", [linear_cka, debiased_cka])
def test_a_side_is_like_itself_however_it_is_turned_shifted_or_scaled(of):
    x, y = related()
    assert of(x, x) == pytest.approx(1, abs=1e-12)
    assert of(x, 7 * x @ rotation(30) + 5) == pytest.approx(1, abs=1e-9)
    assert of(0.1 * x @ rotation(30) - 2, y) == pytest.approx(of(x, y), abs=1e-9)
    assert of(x, y) == pytest.approx(of(y, x), abs=1e-12)
    stretched = x * np.linspace(0.1, 3, 30)
    assert of(x, stretched) < 0.99  # a law of rotations only


def test_plain_cka_is_the_ratio_of_cross_covariances():
    x, y = related()
    a, b = x - x.mean(0), y - y.mean(0)
    wanted = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert linear_cka(x, y) == pytest.approx(wanted, rel=1e-12)


def test_debiased_cka_is_the_textbook_estimator():
    x, y = related()
    assert debiased_cka(x, y) == pytest.approx(textbook(x, y), rel=1e-9)


def test_sums_over_distinct_groups_are_what_a_loop_over_them_gives():
    x, y = related(10, 5, 6)
    which, counts = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 5]), np.array([1.0, 2, 0, 1, 1, 3])

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        w, n, g = counts[which], len(k), which
        totals, norms = np.zeros(3), np.zeros(3)
        for i in range(n):
            for j in range(n):
                if g[i] == g[j]:
                    continue
                totals[0] += w[i] * w[j] * k[i, j] * m[i, j]
                norms[0] += w[i] * w[j]
                for q in range(n):
                    if g[q] in (g[i], g[j]):
                        continue
                    totals[1] += w[i] * w[j] * w[q] * k[i, j] * m[i, q]
                    norms[1] += w[i] * w[j] * w[q]
                    for r in range(n):
                        if g[r] not in (g[i], g[j], g[q]):
                            totals[2] += w[i] * w[j] * w[q] * w[r] * k[i, j] * m[q, r]
                            norms[2] += w[i] * w[j] * w[q] * w[r]
        return float((totals / norms) @ [1, -2, 1])

    pairs = Pairs(x, y, which)
    k, m = pairs.grams
    wanted = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert pairs.debiased(counts[None])[0] == pytest.approx(wanted, rel=1e-9)


def test_noise_of_many_dimensions_is_no_likeness_once_debiased():
    plain, debiased = [], []
    for seed in range(30):
        x, y = noise(40, 200, seed=seed), noise(40, 200, seed=seed + 500)
        plain.append(linear_cka(x, y))
        debiased.append(debiased_cka(x, y))
    assert np.mean(plain) > 0.75
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / np.sqrt(30)


def test_samples_of_one_question_are_no_evidence_of_likeness():
    # what the rows of a group share differs between the sides: without groups it would look like likeness
    which = np.repeat(np.arange(15), 4)
    values = []
    for seed in range(20):
        x, y = (noise(15, 50, seed=seed + s)[which] + 0.1 * noise(60, 50, seed=seed + s + 1) for s in (0, 700))
        values.append((debiased_cka(x, y), debiased_cka(x, y, which)))
    whole, apart = np.mean(values, axis=0)
    assert whole > 0.15
    assert abs(apart) < 0.06


def test_cosines_row_by_row():
    x = noise(50, 8) + 4
    assert row_cosines(x, 3 * x) == pytest.approx(np.ones(50))
    assert row_cosines(x, -x) == pytest.approx(-np.ones(50))
    y = noise(50, 8, seed=3) + 4
    assert row_cosines(x, y).mean() > 0.9  # both are near their shared mean
    assert abs(row_cosines(x, y, centred=True).mean()) < 0.2


def test_counts_are_copies_of_rows():
    x, y = related(12, 5, 6)
    counts = np.array([2, 0, 1, 3, 1, 1, 0, 2, 1, 1, 1, 1])
    copies = np.repeat(np.arange(12), counts)
    assert Pairs(x, y).plain(counts[None])[0] == pytest.approx(linear_cka(x[copies], y[copies]), rel=1e-9)


# ---------------------------------------------------------------- intervals and the null


def test_rows_have_intervals_and_a_shuffled_pairing_beside_them():
    x, y = related()
    rows = similarity(x, y, np.arange(60) // 2, draws=200, shuffles=99)
    assert {r["measure"] for r in rows} == {"cka", "cka_plain"}  # of other widths there is no cosine
    assert all(set(r) == set(COLUMNS) for r in rows)
    for measure in ("cka", "cka_plain"):
        own, null = by(rows, measure), by(rows, measure, "shuffled")
        assert own["ci_low"] < own["value"] < own["ci_high"]
        assert (own["groups"], own["n"]) == (30, 60)
        assert own["p"] == pytest.approx(0.01)
        assert null["ci_high"] < own["ci_low"]
    assert abs(by(rows, "cka", "shuffled")["value"]) < 0.05
    assert similarity(x, y, np.arange(60) // 2, draws=200, shuffles=99) == rows


def test_unrelated_sides_are_found_unlike():
    p = [by(similarity(noise(40, 12, seed=s), noise(40, 12, seed=s + 50), draws=50, shuffles=99), "cka")["p"]
         for s in range(20)]  # fmt: skip
    assert sum(v <= 0.05 for v in p) <= 4
    assert np.mean(p) > 0.3


def test_the_interval_of_debiased_cka_covers():
    true = debiased_cka(*related(2500, seed=77))
    hits = 0
    for seed in range(40):
        own = by(similarity(*related(80, seed=seed), draws=200, shuffles=1, seed=seed, measures=("cka",)), "cka")
        hits += own["ci_low"] <= true <= own["ci_high"]
    assert hits >= 33


def test_what_never_varies_has_no_value_and_says_why():
    x, flat = noise(20, 6), np.full((20, 6), 2.5) * (1 + 1e-9 * noise(20, 6, seed=1))
    for row in similarity(x, flat, draws=50, shuffles=9, measures=("cka", "cka_plain")):
        assert np.isnan([row["value"], row["ci_low"]]).all()
    assert "never varies" in by(similarity(x, flat, draws=50, shuffles=9), "cka")["note"]
    few = by(similarity(x[:6], x[:6], np.repeat([0, 1, 2], 2), draws=50, shuffles=9), "cka")
    assert np.isnan(few["value"])
    assert few["note"] == "fewer than four groups"
    zeros = x.copy()
    zeros[3] = 0
    assert np.isnan(by(similarity(x, zeros, draws=50, shuffles=9), "cosine")["value"])


def test_groups_that_cannot_be_shuffled_are_said():
    which = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    assert "shuffled pairing" in by(similarity(noise(21, 5), noise(21, 5), which, draws=50, shuffles=9), "cka")["note"]


@pytest.mark.parametrize("sides", [(noise(5, 3), noise(6, 3)), (noise(5), noise(5)), (noise(0, 3), noise(0, 3))])
def test_sides_of_other_rows_are_refused(sides):
    with pytest.raises(UserError, match="activations"):
        similarity(*sides)
    with pytest.raises(UserError, match="groups"):
        similarity(noise(5, 3), noise(5, 3), np.arange(4))


@pytest.mark.parametrize("debiased", [True, False])
def test_a_shuffle_is_the_measure_of_rows_put_in_another_order(debiased):
    x, y = related()
    which, order = np.arange(60) // 3, np.arange(60).reshape(20, 3)[::-1].ravel()
    of = (lambda b: Pairs(x, b, which).debiased()) if debiased else (lambda b: Pairs(x, b, which).plain())
    assert Pairs(x, y, which).shuffled(order[None], debiased) == pytest.approx(of(y[order]), rel=1e-9)
