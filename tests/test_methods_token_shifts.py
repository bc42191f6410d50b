"""token_exact and token_shifts: oracles, exactness by enumeration, families, sizes, and the null and power rule."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import binomtest, chi2_contingency, fisher_exact

from benchmarks.token_nulls import bursty, injected, usual
from gnomon.methods.token_counts import Corpus, readable
from gnomon.methods.token_exact import flips, strata
from gnomon.methods.token_families import Comparison, Setting, judge
from gnomon.methods.token_shifts import (
    Samples,
    adjusted,
    attainable,
    chance,
    compared,
    log_odds,
    paired,
    sizes,
    unpaired,
)
from gnomon.nulls import benjamini_hochberg


def counts_of(rows: list[list[int]]) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows))


def apart(rng: np.random.Generator, n: int = 60, words: int = 120) -> Samples:
    at = np.arange(n).astype(str)
    return unpaired(sparse.csr_array(bursty(rng, n, words, 40.0, (10, 50))), np.arange(n) < n // 2, at, at)


def same_prompts(rng: np.random.Generator, n: int = 30, words: int = 120) -> Samples:
    counts = sparse.csr_array(bursty(rng, 2 * n, words, 40.0, (10, 50), np.tile(np.arange(n), 2)))
    return paired(counts[:n], counts[n:], np.arange(n).astype(str))


def several_a_prompt(rng: np.random.Generator, n: int = 24, words: int = 60) -> Samples:
    prompt = np.repeat(np.arange(n), 4)
    counts = sparse.csr_array(bursty(rng, len(prompt), words, 30.0, (10, 40), prompt))
    return unpaired(counts, rng.random(len(prompt)) < 0.5, prompt.astype(str), prompt.astype(str))


# ---------------------------------------------------------------- exact tests


def test_one_unit_is_fishers_exact_test():
    rng = np.random.default_rng(0)
    for _ in range(25):
        n, m = (int(v) for v in rng.integers(1, 60, size=2))
        a, b = int(rng.integers(0, n + 1)), int(rng.integers(0, m + 1))
        test = strata(np.array([[a + b]]), np.array([n + m]), np.array([n]))
        assert test.p(np.array([a]))[0] == pytest.approx(fisher_exact([[a, n - a], [b, m - b]])[1], abs=1e-9)
        possible = range(max(0, a + b - m), min(n, a + b) + 1)
        least = min(float(fisher_exact([[k, n - k], [a + b - k, m - a - b + k]])[1]) for k in possible)  # pyright: ignore
        assert test.least[0] == pytest.approx(least, rel=1e-6)


def test_a_huge_difference_has_a_tiny_p_and_not_one():
    test = strata(np.array([[1000], [0]]), np.array([2000, 4]), np.array([1000, 2]))
    assert 0 < test.p(np.array([1000]))[0] < 1e-300


def test_units_are_the_permutation_test_within_them():
    """Every way of swapping sides within two prompts, counted out."""
    held, side = np.array([1, 1, 0, 0, 1, 0, 0]), np.array([1, 1, 0, 0, 1, 0, 0], dtype=bool)
    unit = np.array([0, 0, 0, 0, 1, 1, 1])
    hits = np.array([[2], [1]])
    test = strata(hits, np.array([4, 3]), np.array([2, 1]))
    ways = [
        int(held[:4][list(a[:2])].sum() + held[4:][list(b[:1])].sum())
        for a in permutations(range(4)) for b in permutations(range(3))
    ]  # fmt: skip
    values, share = np.unique(ways, return_counts=True)
    share = share / share.sum()
    observed = held[side].sum()
    mine = share[values == observed][0]
    assert test.p(np.array([observed]))[0] == pytest.approx(share[share <= mine * (1 + 1e-9)].sum())
    samples = Samples(sparse.csr_array(held[:, None]), side, unit.astype(str), unit, "within")
    assert compared(samples, 1).p[0] == pytest.approx(test.p(np.array([observed]))[0])


def test_units_whose_responses_all_agree_change_nothing():
    part = strata(np.array([[3]]), np.array([9]), np.array([4]))
    more = strata(np.array([[3], [5], [0], [2]]), np.array([9, 5, 4, 6]), np.array([4, 2, 2, 6]))
    assert more.p(np.array([3 + 2 + 2])) == pytest.approx(part.p(np.array([3])))
    assert more.least == pytest.approx(part.least)


def test_flips_of_single_pairs_are_mcnemars_exact_test():
    rng = np.random.default_rng(1)
    d = rng.integers(-1, 2, size=(40, 30))
    test = flips(d)
    for v, p in enumerate(test.p(d.sum(axis=0))):
        up, down = int((d[:, v] > 0).sum()), int((d[:, v] < 0).sum())
        assert p == pytest.approx(binomtest(up, up + down).pvalue, abs=1e-12)


def test_flips_of_groups_are_every_choice_of_signs():
    d = np.array([3, -1, 2, 1, -2, 0, 1])
    every = np.array([np.dot(s, np.abs(d)) for s in product((-1, 1), repeat=len(d))])
    expected = (np.abs(every) >= abs(d.sum())).mean()
    assert flips(d[:, None]).p(np.array([d.sum()]))[0] == pytest.approx(expected)
    assert flips(d[:, None]).least[0] == pytest.approx((np.abs(every) >= np.abs(d).sum()).mean())


def test_pairs_of_one_group_count_together():
    one, none = counts_of([[1]] * 12), counts_of([[0]] * 12)
    apart_p = compared(paired(one, none, np.arange(12).astype(str))).p[0]
    together = compared(paired(one, none, np.repeat(np.arange(3), 4).astype(str))).p[0]
    assert apart_p == pytest.approx(2 * 0.5**12)
    assert together == pytest.approx(2 * 0.5**3)


# ---------------------------------------------------------------- designs


def test_the_design_follows_from_the_data():
    rng, n = np.random.default_rng(2), 120
    counts, side = sparse.csr_array(rng.integers(0, 3, size=(n, 4))), rng.random(n) < 0.5
    own = np.arange(n).astype(str)
    assert unpaired(counts, side, own, own).design == "fisher"
    four = np.repeat(np.arange(n // 4), 4).astype(str)
    within = unpaired(counts, side, four, four)
    assert within.design == "within"
    codes = np.unique(within.unit, return_inverse=True)[1]
    mixed = np.bincount(codes, weights=within.side)
    assert (mixed > 0).all()
    assert (mixed < np.bincount(codes)).all()
    assert unpaired(counts, side, four, own).design == "within"  # prompts of their own, groups that have both sides
    same = np.repeat(side[: n // 4], 4)
    thinned = unpaired(counts, same, four, four)
    assert (thinned.design, thinned.counts.shape) == ("fisher", (n // 4, 4))
    assert "one response a group: 30 of 120" in thinned.note


def test_samples_of_one_prompt_are_no_independent_responses():
    """Each prompt has a topic word in all its samples, and prompts are of one class: repeats must not count."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(60):
        topic, prompt = rng.random((16, 40)) < 0.4, np.repeat(np.arange(16), 10)
        found = compared(
            unpaired(sparse.csr_array(topic[prompt].astype(int)), prompt < 8, prompt.astype(str), prompt.astype(str))
        )
        hits += int((adjusted(found.p, found.least, 0.05) <= 0.05).any())
    assert hits <= 6


# ---------------------------------------------------------------- families


def test_only_tests_that_could_reach_alpha_are_corrected_for():
    rng = np.random.default_rng(4)
    for _ in range(50):
        least = rng.choice([1.0, 0.25, 0.03, 1e-3, 1e-6], size=rng.integers(1, 60))
        tested = attainable(least, 0.05)
        k = next(k for k in range(1, 100) if (least <= 0.05 / k).sum() <= k)
        assert (tested == (least <= 0.05 / k)).all()
        p = np.minimum(least * rng.uniform(1, 5, size=len(least)), 1)
        q = adjusted(p, least, 0.05)
        assert np.isnan(q[~tested]).all()
        assert q[tested] == pytest.approx(benjamini_hochberg(p[tested]))
    assert not attainable(np.array([0.2, 0.5]), 0.05).any()


def null_and_power(draw, runs: int = 200, powered: int = 40) -> tuple[int, float]:
    hits = found = 0
    for seed in range(runs):
        rng = np.random.default_rng([5, seed])
        samples = draw(rng)
        test = compared(samples)
        hits += int((adjusted(test.p, test.least, 0.05) <= 0.05).any())
        if seed < powered:
            test = compared(injected(samples, rng))
            q = adjusted(test.p, test.least, 0.05)
            found += int((q[test.columns == samples.counts.shape[1]] <= 0.05).any())  # pyright: ignore
    return hits, found / powered


@pytest.mark.parametrize("draw", [apart, same_prompts, several_a_prompt])
def test_the_null_and_power_rule(draw):
    hits, power = null_and_power(draw, 200 if draw is not several_a_prompt else 100)
    assert hits <= (19 if draw is not several_a_prompt else 9)
    assert power >= 0.8


def test_several_comparisons_are_one_family():
    """Ten null comparisons with the same baselines; one has a planted token."""
    rng = np.random.default_rng(6)
    made = [same_prompts(rng) for _ in range(9)] + [injected(same_prompts(rng), rng)]
    wide = [np.pad(s.counts.toarray(), ((0, 0), (0, int(i < 9)))) for i, s in enumerate(made)]
    family = [
        Comparison(
            "patches",
            "with",
            "without",
            Samples(sparse.csr_array(c), s.side, s.group, s.unit, "paired"),
            name=f"L1-{i}",
        )
        for i, (s, c) in enumerate(zip(made, wide, strict=True))
    ]
    judged, line = judge(family, np.arange(121) + 1000, Setting(draws=200, shuffles=19))
    found = [(r["name"], r["token_id"]) for j in judged for r in j.tokens if r["found"]]
    assert ("L1-9", 1120) in found
    assert len(found) <= 2
    assert line["comparisons"] == 10
    assert line["chance"] < 0.5
    planted = next(r for r in judged[9].tokens if r["token_id"] == 1120)
    assert planted["ci_low"] > 0
    assert planted["q"] >= planted["q_own"] >= planted["p"]


def shared_baseline(seed: int, features: int, shifted: int = 0, note: str = "") -> list[Comparison]:
    """Null features against the same 30 unpatched responses; one more, the last, writes `shifted` tokens of its own."""
    rng, n, words, at = np.random.default_rng([12, seed]), 30, 80, np.arange(30).astype(str)
    base, none = bursty(rng, n, words, 60.0, (40, 80)), np.zeros((n, shifted), dtype=np.int64)
    out = []
    for k in range(features + bool(shifted)):
        own = (rng.random((n, shifted)) < 0.7).astype(np.int64) if k == features else none
        sides = [np.hstack([a, b]) for a, b in ((bursty(rng, n, words, 60.0, (40, 80)), own), (base, none))]
        samples = paired(sparse.csr_array(sides[0]), sparse.csr_array(sides[1]), at)
        out.append(Comparison("patches", "with", "without", samples, f"L1-{k}", note=note if k == features else ""))
    return out


def hit(comparisons: list[Comparison]) -> set[str]:
    judged, _ = judge(comparisons, np.arange(1000), Setting(draws=200, shuffles=0, keep=1))
    return {j.comparison.name for j in judged if j.line["found"]}


@pytest.mark.parametrize("note", ["", "the patch breaks parsing"])
def test_a_feature_that_shifts_much_carries_no_feature_that_shifts_nothing(note):
    """Over pooled tokens, hundreds true of one feature let null tokens of the others pass: 7 runs of 10."""
    runs = [hit(shared_baseline(seed, 6, 120, note)) for seed in range(10)]
    assert sum("L1-6" in found for found in runs) == (0 if note else 10)
    assert sum(bool(found - {"L1-6"}) for found in runs) <= 2


def test_null_features_that_share_a_baseline_are_rarely_found():
    """Of 20 null runs at most 3 have a hit (at .05: 1 expected, P(> 3) = .016)."""
    assert sum(bool(hit(shared_baseline(100 + seed, 4))) for seed in range(20)) <= 3


def test_q_by_features_and_then_by_their_tokens():
    p = np.array([1e-6, 2e-3, 0.5, 0.02, 0.9, 0.8])
    names, least = np.array([0, 0, 0, 1, 1, 2]), np.full(6, 1e-9)
    within = [3e-6, 3e-3, 0.5, 0.04, 0.9, 0.8]  # Benjamini-Hochberg in each; Simes' p are 3e-6, .04 and .8
    expected = np.minimum(np.maximum(3 * np.array(within), [9e-6] * 3 + [0.06] * 2 + [0.8]), 1)  # one of 3 is found
    assert adjusted(p, least, 0.05, names) == pytest.approx(expected)
    assert adjusted(p, least, 0.05, np.zeros(6, dtype=int)) == pytest.approx(benjamini_hochberg(p))


def test_within_groups_samples_of_one_prompt_count_once():
    """Two prompts a group, one of each class, five samples of each, and words that belong to a prompt: no finding."""
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng([13, seed])
        prompt, side = np.repeat(np.arange(60), 5), np.repeat(np.arange(60) % 2 == 0, 5)
        words = (rng.random((60, 40)) < 0.4)[prompt].astype(np.int64)
        samples = unpaired(sparse.csr_array(words), side, (prompt // 2).astype(str), prompt.astype(str))
        assert samples.design == "within"
        assert len(samples.side) == 60
        found = compared(samples)
        hits += int((adjusted(found.p, found.least, 0.05) <= 0.05).any())
    assert hits <= 5


def test_a_comparison_that_may_not_conclude_finds_nothing():
    rng = np.random.default_rng(7)
    planted = injected(apart(rng), rng)
    ids = np.arange(121)
    open_, _ = judge([Comparison("classes", "a", "b", planted)], ids, Setting(draws=200, shuffles=0))
    shut, line = judge([Comparison("classes", "a", "b", planted, note="too few")], ids, Setting(draws=200, shuffles=0))
    assert open_[0].line["found"] >= 1
    assert shut[0].line["found"] == shut[0].line["found_alone"] == 0
    assert line["note"] == "too few"
    assert [r["p"] for r in shut[0].tokens] == [r["p"] for r in open_[0].tokens]


def test_swaps_keep_prompts_and_pairs():
    """Under random swaps of the sides p is the null's: rarely small, and its statistic keeps its margins."""
    rng = np.random.default_rng(8)
    for draw in (apart, same_prompts, several_a_prompt):
        test = compared(injected(draw(rng), rng))
        p = test.shuffled(200, 1)
        assert p.shape == (200, len(test.columns))
        assert (p <= 0.05).mean() <= 0.05
        assert (p[:, -1] <= 0.05).mean() <= 0.1
        assert test.p[-1] < 1e-3
        assert chance([test], 0.05, 20, 1).mean() < 0.3


# ---------------------------------------------------------------- sizes


def test_log_odds_by_hand():
    y1, n1, y2, n2, prior, total = 7.0, 100.0, 2.0, 120.0, 0.5, 10.0
    d, z = log_odds(np.array([y1]), n1, np.array([y2]), n2, np.array([prior]), total)
    by_hand = np.log(7.5 / (100 + 10 - 7.5)) - np.log(2.5 / (120 + 10 - 2.5))
    assert d[0] == pytest.approx(by_hand, abs=1e-12)
    assert z[0] == pytest.approx(by_hand / np.sqrt(1 / 7.5 + 1 / 2.5), abs=1e-12)


def test_sizes_of_a_small_table():
    counts = counts_of([[2, 1, 0], [1, 0, 3], [0, 2, 1], [0, 1, 0]])
    at = np.arange(4).astype(str)
    samples = unpaired(counts, np.array([True, True, False, False]), at, at)
    size = sizes(samples, np.arange(3), prior=0.5, draws=0)
    assert size.count.tolist() == [2, 1, 1]
    assert size.against.tolist() == [0, 2, 1]
    prior = 0.5 * 4 * np.array([3, 4, 4]) / 11
    expected, _ = log_odds(np.array([3, 1, 3]), 7.0, np.array([0, 3, 1]), 4.0, prior, 2.0)
    assert size.log_odds == pytest.approx(expected)
    assert np.isnan(size.low).all()


def test_the_interval_resamples_groups_and_covers():
    rng, covered, n = np.random.default_rng(9), 0, 80
    at, counts = np.arange(n).astype(str), counts_of([[0]])
    for i in range(40):
        own = rng.random(n) < np.where(np.arange(n) < 40, 0.5, 0.25)
        counts = sparse.csr_array(np.stack([own * rng.integers(1, 4, size=n), np.full(n, 10)], axis=1))
        size = sizes(unpaired(counts, np.arange(n) < 40, at, at), np.array([0]), 0.01, 300, i)
        true = np.log((0.5 * 2) / 10) - np.log((0.25 * 2) / 10)
        covered += int(size.low[0] <= true <= size.high[0])
    assert covered >= 33
    tight = sizes(unpaired(counts, np.arange(80) < 40, at, at), np.array([0]), 0.01, 300, 0)
    wide = sizes(Samples(counts, np.arange(80) < 40, (np.arange(80) // 20).astype(str), at, "fisher"), np.array([0]),
                 0.01, 300, 0)  # fmt: skip
    assert wide.low[0] != tight.low[0]


def test_a_prompts_topic_is_no_effect_within_prompts():
    """A word that every sample of a prompt holds, in prompts that are mostly of one class."""
    prompt = np.repeat(np.arange(40), 5)
    side = np.where(prompt < 20, np.arange(200) % 5 > 0, np.arange(200) % 5 == 0)
    counts = sparse.csr_array(np.stack([(prompt < 20) * 1, np.full(200, 5)], axis=1))
    samples = unpaired(counts, side, prompt.astype(str), prompt.astype(str))
    assert samples.design == "within"
    assert abs(sizes(samples, np.array([0]), draws=0).log_odds[0]) < 1e-9
    assert compared(samples).p[0] == pytest.approx(1.0)


# ---------------------------------------------------------------- the usual test, and tokens as text


def test_the_usual_test_is_scipys_chi_square_and_fails():
    rng = np.random.default_rng(10)
    samples = unpaired(sparse.csr_array(bursty(rng, 60)), np.arange(60) < 30, *[np.arange(60).astype(str)] * 2)
    one, two = samples.counts.toarray()[:30].sum(axis=0), samples.counts.toarray()[30:].sum(axis=0)
    n, m = one.sum(), two.sum()
    kept = {
        v for v in range(len(one)) if one[v] + two[v]
        and abs(np.log((one[v] + 1) / (two[v] + 1))) > 0.5
        and chi2_contingency([[one[v], n - one[v]], [two[v], m - two[v]]])[1] < 0.05  # pyright: ignore
    }  # fmt: skip
    assert set(usual(samples).tolist()) == kept
    assert len(kept) > 10
    test = compared(samples)
    assert not (adjusted(test.p, test.least, 0.05) <= 0.05).any()


def test_texts_are_counted_once_and_found_again():
    corpus = Corpus(["b a b", "", "c", "b a b"], lambda text: [ord(c) for c in text if c != " "])
    assert corpus.tokens.tolist() == [97, 98, 99]
    assert corpus.of(["c", "b a b", ""]).toarray().tolist() == [[0, 0, 1], [1, 2, 0], [0, 0, 0]]


def test_tokens_can_be_read():
    assert readable(" the") == "\u2423the"
    assert readable("\n\t") == "\u23ce\u21e5"
    assert readable("\x1b[2J\u202e") == "\\x1b[2J\\u202e"
    assert readable("") == "(empty)"
