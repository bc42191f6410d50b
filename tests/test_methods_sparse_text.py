"""Sparse text: pursuit against least squares, atoms, controls, the agreement test, clusters, and mining."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.errors import UserError
from gnomon.methods.mining import clauses, mine, phrases_of
from gnomon.methods.phrases import curated, parse, unique
from gnomon.methods.polysemantic import best_cut, clusters, line_distance, polysemantic, silhouette, tree_cuts
from gnomon.methods.sparse_text import (
    agreement_p,
    decompose,
    isotropic_cosines,
    mixed_atoms,
    random_atoms,
    reconstruct,
    standardised_p,
    top_rows,
    unit_atoms,
)
from gnomon.nulls import benjamini_hochberg, p_value


def test_atoms_are_centred_rows_of_length_one():
    """Rows, not columns: the reference implementation normalises each dimension over the texts."""
    raw = np.random.default_rng(0).standard_normal((50, 12)) * np.arange(1, 13) + 7
    atoms = unit_atoms(raw)
    assert np.linalg.norm(atoms, axis=1) == pytest.approx(np.ones(50), abs=1e-12)
    centred = raw - raw.mean(0)
    cosine = (atoms * centred).sum(1) / np.linalg.norm(centred, axis=1)
    assert cosine == pytest.approx(np.ones(50), abs=1e-12)
    assert not np.allclose(np.linalg.norm(atoms, axis=0), 1)
    same = np.concatenate([raw, raw.mean(0, keepdims=True)])
    assert not unit_atoms(same)[-1].any(), "a phrase at the mean has no direction"


def test_pursuit_is_greedy_least_squares():
    """Against a plain loop: the atom most correlated with the residual, then all coefficients refitted."""
    rng = np.random.default_rng(1)
    atoms, targets = unit_atoms(rng.standard_normal((60, 25))), rng.standard_normal((5, 25))
    found = decompose(atoms, targets, 8)
    for i, target in enumerate(targets / np.linalg.norm(targets, axis=1, keepdims=True)):
        chosen: list[int] = []
        residual = target
        for step in range(8):
            chosen.append(int(np.abs(atoms @ residual).argmax()))
            solution = np.linalg.lstsq(atoms[chosen].T, target, rcond=None)[0]
            x = solution @ atoms[chosen]
            residual = target - x
            assert found.cosine[i, step] == pytest.approx(x @ target / np.linalg.norm(x), abs=1e-9)
        assert found.phrases[i].tolist() == chosen
        assert found.coefficients[i] == pytest.approx(solution, abs=1e-9)
        assert found.reconstruction[i] == pytest.approx(x, abs=1e-9)
    other, cosine = reconstruct(atoms, targets, 8)
    assert other == pytest.approx(found.reconstruction, abs=1e-9)
    assert cosine == pytest.approx(found.cosine[:, -1], abs=1e-9)


def test_planted_phrases_are_found_with_their_signs_and_a_target_of_zeros_has_none():
    rng = np.random.default_rng(2)
    atoms = unit_atoms(rng.standard_normal((100, 80)))
    targets = np.stack([3 * atoms[7] - 2 * atoms[40] + atoms[11], atoms[5], np.zeros(80)])
    found = decompose(atoms, targets, 5)
    assert found.phrases[0, :3].tolist() == [7, 40, 11]
    assert np.sign(found.coefficients[0, :3]).tolist() == [1, -1, 1]
    assert found.cosine[:2, -1] == pytest.approx(1.0)
    assert found.phrases[1].tolist()[0] == 5
    assert found.phrases[2].tolist() == [-1] * 5
    assert np.isnan(found.cosine[2]).all()
    assert not found.reconstruction[2].any()
    assert found.needed(0.999).tolist() == [3, 1, 0]
    assert np.isnan(reconstruct(atoms, targets, 5)[1][2])


def test_random_atoms_reach_the_cosine_that_was_measured():
    """400 isotropic atoms in 576 dimensions, 32 of them: .51 (METHODS)."""
    found = isotropic_cosines(400, 576, 32, 40, 0)
    assert found.mean() == pytest.approx(0.51, abs=0.015)
    assert found.std() < 0.04


def test_mixtures_have_the_lexicons_covariance_and_nothing_else_of_it():
    rng = np.random.default_rng(3)
    flat = rng.standard_normal((40, 5)) @ rng.standard_normal((5, 30))
    atoms = unit_atoms(flat)
    mixed = next(mixed_atoms(atoms, rng, 1))
    assert mixed.shape == atoms.shape
    assert np.linalg.matrix_rank(np.concatenate([atoms, mixed]), tol=1e-8) == 5
    target = flat[:3] - flat.mean(0)
    assert reconstruct(mixed, target, 5)[1] == pytest.approx(np.ones(3)), "five mixtures span it"
    assert (reconstruct(random_atoms(40, 30, rng), target, 5)[1] < 0.95).all()


def test_a_random_lexicon_is_one_of_its_mixtures():
    """A lexicon that means nothing does not beat its control, in the median over many directions."""
    p = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        atoms, targets = random_atoms(60, 50, rng), rng.standard_normal((20, 50))
        mixed = [np.median(reconstruct(a, targets, 6)[1]) for a in mixed_atoms(atoms, rng, 19)]
        p.append(p_value(float(np.median(reconstruct(atoms, targets, 6)[1])), np.array(mixed)))
    assert np.mean(np.array(p) <= 0.05) <= 0.15
    assert 0.35 <= np.mean(p) <= 0.7


def test_standardised_p_is_uniform_on_nulls_and_small_for_a_planted_one():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(200):
        values = rng.standard_normal((40, 20)) * rng.gamma(2, 1, (40, 1)) + 5 * rng.standard_normal((40, 1))
        hits += benjamini_hochberg(standardised_p(values[:, 0], values[:, 1:])).min() <= 0.05
    assert hits <= 19
    null = rng.standard_normal((40, 19))
    p = standardised_p(np.where(np.arange(40) < 5, 8.0, 0.0), null)
    assert (p[:5] < 0.005).all()
    assert (p[5:] > 0.2).all()
    assert np.isnan(standardised_p(np.array([1.0, np.nan]), np.zeros((2, 5)))).all()


def agreements(seed: int, planted: float, neurons: int = 12, n: int = 90) -> np.ndarray:
    """q of each neuron: prompts in pairs; `planted` moves a neuron's top prompts towards its reconstruction."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n // 2), 2)
    p = []
    for _ in range(neurons):
        projection = np.repeat(rng.standard_normal(n // 2), 2) + 0.1 * rng.standard_normal(n)
        top = top_rows(projection, 20)
        cosine = 0.1 * np.repeat(rng.standard_normal(n // 2), 2) + 0.05 * rng.standard_normal(n) + planted * top
        p.append(agreement_p(cosine, top, groups, 499, seed)[1])
    return benjamini_hochberg(np.array(p))


def test_agreement_is_found_where_planted_and_rarely_where_not():
    """Prompts of one problem are alike; shuffling rows and not groups would find agreement where there is none."""
    assert sum(agreements(seed, 0.0).min() <= 0.05 for seed in range(200)) <= 19
    assert np.mean([(agreements(seed, 0.15) <= 0.05).mean() for seed in range(10)]) >= 0.8
    value, p = agreement_p(np.arange(10.0), np.zeros(10, dtype=bool), np.arange(10), 99, 0)
    assert np.isnan([value, p]).all()


def cloud(rng: np.random.Generator, kind: str, k: int = 20, d: int = 12) -> np.ndarray:
    if kind == "two":
        x = 0.6 * rng.standard_normal((k, d))
        x[: k // 2, 0] += 4
        x[k // 2 :, 1] -= 4
        return x
    x = rng.standard_normal((k, d)) * np.linspace(3, 0.3, d)
    if kind == "line":  # one direction, both signs
        x = 0.4 * rng.standard_normal((k, d))
        x[:, 0] += 5 * rng.choice([-1.0, 1.0], k)
    return x


def test_two_planted_clusters_are_found_and_one_cloud_is_not():
    rng = np.random.default_rng(5)
    p = {}
    for kind in ("two", "cloud", "line"):
        found = [clusters(x @ x.T, 4, 19, rng) for x in (cloud(rng, kind) for _ in range(40))]
        p[kind] = standardised_p(np.array([f.silhouette for f in found]), np.stack([f.null for f in found]))
        if kind == "two":
            assert np.mean([f.count == 2 for f in found]) >= 0.8
            assert np.mean([f.largest == 0.5 for f in found]) >= 0.8
    assert (benjamini_hochberg(p["two"]) <= 0.05).mean() >= 0.8
    assert (p["cloud"] <= 0.05).mean() <= 0.1
    assert (p["line"] <= 0.05).mean() <= 0.1, "an effect and its opposite are one line"


def test_silhouette_equals_scikit_learns():
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(6)
    x = rng.standard_normal((25, 6))
    distance = line_distance(x @ x.T)
    assert np.allclose(np.diag(distance), 0)
    labels = rng.integers(0, 3, 25)
    labels[0] = 7  # alone in its cluster
    assert silhouette(distance, labels) == pytest.approx(silhouette_score(distance, labels, metric="precomputed"))
    count, value, largest = best_cut(distance, 4)
    assert 2 <= count <= 4
    assert 0 < largest < 1
    assert value <= 1


def test_cuts_of_a_tree_are_scipys():
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import pdist

    rng = np.random.default_rng(3)
    for n in (2, 3, 4, 9, 40):
        tree = linkage(pdist(rng.standard_normal((n, 5))), "average")
        for most in range(1, n):
            found = tree_cuts(tree, most)
            assert [len(np.unique(labels)) for labels in found] == list(range(2, most + 1))
            for labels, theirs in zip(found, cut_tree(tree, range(2, most + 1)).T, strict=True):
                assert len({*zip(labels, theirs, strict=True)}) == len(np.unique(labels)) == labels.max() + 1


def test_the_rule_of_polysemanticity():
    q = np.array([0.01, 0.01, 0.01, 0.5, np.nan])
    evr = np.array([0.3, 0.9, 0.9, 0.1, 0.1])
    needed = np.array([3, 0, 4, 0, 0])
    assert polysemantic(q, evr, needed, 0.5, 16).tolist() == [True, True, False, False, False]
    assert polysemantic(q, evr, np.full(5, 17), 0.5, 16).tolist() == [True, True, True, False, False]


def test_mistakes_are_named():
    atoms = unit_atoms(np.random.default_rng(0).standard_normal((10, 6)))
    with pytest.raises(UserError, match="m is 11 phrases; at most the lexicon's 10"):
        decompose(atoms, np.ones((1, 6)), 11)
    with pytest.raises(UserError, match="width 6 and effects of width 7"):
        decompose(atoms, np.ones((1, 7)), 3)
    with pytest.raises(UserError, match="same embedding"):
        unit_atoms(np.ones((5, 4)))
    with pytest.raises(UserError, match="NaN"):
        unit_atoms(np.full((5, 4), np.nan))
    with pytest.raises(UserError, match="at least 2"):
        unit_atoms(np.ones((1, 4)))


# ---------------------------------------------------------------- words


def test_clauses_end_at_marks_and_numbers():
    assert clauses("The box has 12 red apples, a well-known fact - Tom's.\nNext") == [
        ["the", "box", "has"], ["red", "apples"], ["a", "well-known", "fact"], ["tom's"], ["next"],
    ]  # fmt: skip


def test_phrases_have_no_function_word_at_their_edges():
    found = phrases_of("The number of red apples is what we want", 3)
    assert found == {"number", "number of red", "red", "red apples", "apples", "want"}


def test_mining_counts_documents_and_drops_what_never_stands_alone():
    documents = ["the square root is", "a square root", "the square root of it", "banana banana banana", "banana"]
    assert mine(documents, fewest=2) == [("square root", 3), ("banana", 2)]
    assert mine([*documents, "a square", "that square"], fewest=2)[1] == ("square", 5)
    assert mine(documents, fewest=4) == []
    assert mine(documents, fewest=2, common=0.5) == [("banana", 2)]
    assert mine(documents, most=1, fewest=2) == [("square root", 3)]


def test_the_curated_list_is_a_few_hundred_phrases_in_topics():
    phrases = curated()
    assert 300 <= len(phrases) <= 400
    assert len(unique(phrases)) == len(phrases), "no phrase is there twice"
    topics = {p.topic for p in phrases}
    assert len(topics) >= 15
    assert "" not in topics
    assert all(p.source == "curated" and len(p.text) < 50 for p in phrases)
    assert [(p.text, p.topic) for p in parse("a  b\n# t\n\n c\n", "file")] == [("a b", ""), ("c", "t")]
