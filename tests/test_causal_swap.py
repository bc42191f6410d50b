"""swap: the vector exchanged is that of an edited run; who is paired with whom; effects of planted numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gnomon.causal.pick import pick, records
from gnomon.causal.swap_effects import (
    EFFECTS,
    KINDS,
    MORE,
    MOVES,
    NO_MORE,
    STILL,
    chosen_layers,
    depth_rows,
    effect_rows,
    handover,
    rank_correlations,
    tail,
)
from gnomon.causal.swap_items import RANDOM, SWAPS, Exchange, Read, View, random_place
from gnomon.causal.swap_pairs import PAIRS, both_ways, pairs_of
from gnomon.causal.swap_texts import Clean, donated
from gnomon.interventions.patch import Patch
from gnomon.types import Site
from tests.tiny import tiny_model

LETTERS = ((65,), (66, 67), (68,))
TEXTS = ((65, 70), (66,), (68, 71, 72))
VALUES = (0.1, 0.5, 0.9)


def views(lengths: tuple[int, ...], read: Read, seed: int = 0) -> list[View]:
    rng = np.random.default_rng(seed)
    return [View(tuple(int(t) for t in rng.integers(3, 250, size=n)), read, {"end": n - 1}) for n in lengths]


READS = {
    "letters": Read(LETTERS, VALUES),
    "texts": Read(TEXTS, VALUES, (2, 1, 3)),
    "answer": Read(score_from=5),
}


def direct(model: Any, view: View, layer: int, at: int, vector: torch.Tensor) -> float:
    """The same by whole forward passes with an edit, each text alone."""
    edit = [Patch(Site("resid_post", layer), vector.numpy(), where=(at,))]

    def logp(tokens: list[int]) -> torch.Tensor:
        return torch.log_softmax(model.forward([tokens], edit=edit, logits="all").logits[0].double(), -1)

    tokens, read = list(view.tokens), view.read
    if not read.options:
        rows = logp(tokens)
        return float(torch.stack([rows[i - 1, tokens[i]] for i in range(read.score_from, len(tokens))]).mean().exp())
    if not read.lengths:
        last = logp(tokens)[-1]
        scores = torch.stack([torch.logsumexp(last[list(ids)], 0) for ids in read.options])
    else:
        found = []
        for ids, length in zip(read.options, read.lengths, strict=True):
            rows = logp([*tokens, *ids])
            said = [rows[len(tokens) - 1 + k, t] for k, t in enumerate(ids)]
            found.append(torch.stack(said).sum() / length)
        scores = torch.stack(found)
    return float(torch.softmax(scores, 0) @ torch.tensor(read.values, dtype=torch.float64))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("kind", READS)
def test_a_swap_is_the_edited_run(family: str, kind: str):
    model = tiny_model(family)
    own, givers = views((9, 14, 12), READS[kind]), views((8, 11, 10), READS[kind], seed=1)
    layers = [0, 2, 3]
    batch = Clean(model, own, layers)
    held = {10 + i: (v,) for i, v in enumerate(givers)}
    vectors, clean = donated(model, held, [(10 + i, 0, 4) for i in range(3)], layers)
    for i, view in enumerate(givers):
        again = model.forward([list(view.run)], read=[Site("resid_post", 2)]).acts[Site("resid_post", 2)][0, 4]
        assert torch.allclose(vectors[10 + i, 0, 4][1], again, atol=1e-5)
        assert clean[10 + i, 0] == pytest.approx(float(Clean(model, [view], layers).values[0]), abs=1e-6)
    rows, at = [0, 1, 2], [3, 2, 4]
    for number, layer in enumerate(layers):
        one = [vectors[10 + i, 0, 4][number] for i in range(3)]
        two = [one[2], one[0], one[1]]
        found = batch.swapped(rows, at, layer, [one, two])
        assert found.shape == (2, 3)
        for copy, vector in enumerate((one, two)):
            for i in rows:
                wanted = direct(model, own[i], layer, at[i], vector[i])
                assert found[copy, i] == pytest.approx(wanted, abs=2e-5), (layer, copy, i)
        if layer < 3:  # behind the last block no other token reads it
            assert np.abs(found - batch.values[None]).max() > 1e-5, "the swaps did something"
    later = batch.swapped([2, 0], [at[2], at[0]], 2, [[vectors[10, 0, 4][1], vectors[11, 0, 4][1]]])
    wanted = direct(model, own[2], 2, at[2], vectors[10, 0, 4][1])
    assert later[0, 0] == pytest.approx(wanted, abs=2e-5), "an earlier swap left the clean run as it was"


def test_ones_own_vector_changes_nothing_and_the_last_one_is_the_outcome():
    model = tiny_model("llama")
    own = views((9, 12, 9), READS["letters"])
    batch = Clean(model, own, [1, 3])
    vectors, clean = donated(model, {i: (v,) for i, v in enumerate(own)},
                             [(0, 0, 4), (1, 0, 4), (0, 0, 8), (1, 0, 11), (2, 0, 8)], [1, 3])  # fmt: skip
    same = batch.swapped([0, 1], [4, 4], 1, [[vectors[0, 0, 4][0], vectors[1, 0, 4][0]]])
    assert np.allclose(same[0], batch.values[:2], atol=1e-6)
    last = batch.swapped([0, 1, 2], [8, 11, 8], 3, [[vectors[1, 0, 11][1], vectors[2, 0, 8][1], vectors[0, 0, 8][1]]])
    assert np.allclose(last[0], [clean[1, 0], clean[2, 0], clean[0, 0]], atol=1e-6)
    assert len({round(v, 4) for v in clean.values()}) == 3


# ---------------------------------------------------------------- who with whom


def items(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "row": np.arange(n), "group": [f"g{i}" for i in range(n)], "confidence": rng.random(n),
        "prompt_len": rng.integers(10, 60, size=n), "answer_len": rng.integers(1, 4, size=n),
        "answer": [f"a{i}" for i in range(n)],
    })  # fmt: skip


def test_pairs_are_of_the_two_ends_alike_in_length_and_each_item_once():
    table = items()
    pairs = pairs_of(table, 0.5, 8, 0.02)
    assert ["set", *pairs.columns] == PAIRS.names
    assert len(pairs) == 8
    ranked = table.sort_values("confidence")["row"].tolist()
    assert set(pairs["high"]) <= set(ranked[-20:])
    assert set(pairs["low"]) <= set(ranked[:20])
    assert pairs["high"].is_unique
    assert pairs["low"].is_unique
    for column, kind in (("high_control", ranked[-20:]), ("low_control", ranked[:20])):
        assert pairs[column].is_unique
        assert set(pairs[column]) <= set(kind)
    everybody = pairs[["high", "low", "high_control", "low_control"]].to_numpy()
    assert len(np.unique(everybody)) == everybody.size, "nobody is in two pairs"
    size = table.set_index("row")["prompt_len"]
    unmatched = np.abs(size.loc[ranked[-20:]].to_numpy()[:, None] - size.loc[ranked[:20]].to_numpy()[None]).mean()
    assert pairs["length_difference"].mean() < unmatched / 3
    assert np.allclose(pairs["gap"], pairs["high_confidence"] - pairs["low_confidence"])


def test_one_row_stands_for_a_group_and_equal_answers_are_avoided():
    table = items(60).assign(group=[f"g{i // 3}" for i in range(60)])
    pairs = pairs_of(table, 0.5, 30, 0.001)
    assert set(pairs["high"]) | set(pairs["low"]) <= set(range(0, 60, 3))
    table = items(40).assign(answer=lambda t: np.where(np.arange(40) % 2, "Paris", " paris "))
    alike = pairs_of(table, 0.3, 6, 0.02)
    assert np.all(alike["same_answer"] == 1)
    table = items(40).assign(answer=np.where(np.arange(40) % 2, "Paris", "Rome"), prompt_len=20, answer_len=1)
    mixed = pairs_of(table, 0.3, 4, 0.02)
    assert np.all(mixed["same_answer"] == 0), "there are enough of both answers"


def test_nobody_to_swap():
    table = items()
    assert len(pairs_of(table.assign(confidence=0.444), 0.3, 8, 0.02)) == 0
    assert len(pairs_of(table.head(4), 0.5, 8, 0.02)) == 0, "two of a kind make one pair, and a donor each"
    assert len(pairs_of(table.head(8), 0.5, 8, 1e-9)) == 2
    few = table.assign(confidence=np.where(np.arange(40) < 5, 0.9, 0.1))
    assert len(pairs_of(few, 0.5, 8, 0.02)) == 0, "the donors of the sure ones' kind would be unsure"
    near = table.assign(confidence=0.5 + table["confidence"] * 0.01)
    assert len(pairs_of(near, 0.3, 8, 0.02)) == 0
    assert len(pairs_of(near, 0.3, 8, 0.001)) == 6


def test_a_pair_is_swapped_both_ways_beside_donors_of_ones_own_kind():
    up, down = both_ways({"pair": 3, "high": 7, "low": 2, "high_control": 9, "low_control": 4})
    assert up == Exchange(3, "up", 2, (("other", 7), ("same", 4)))
    assert down == Exchange(3, "down", 7, (("other", 2), ("same", 9)))


def test_a_random_place_is_equally_far_from_the_end_and_none_of_the_named_ones():
    read = Read(LETTERS, VALUES)
    texts = [View((1,) * n, read, {"confidence": n - 1, "answer": n - 4}) for n in (9, 12, 30)]
    drawn = set()
    for row in range(200):
        at = random_place(texts, 0, row)
        assert at is not None
        back = {len(v.tokens) - 1 - i for v, i in zip(texts, at, strict=True)}
        assert len(back) == 1
        assert min(at) >= 1
        assert back & {0, 3} == set()
        drawn |= back
        assert at == random_place(texts, 0, row)
    assert drawn == {1, 2, 4, 5, 6, 7}
    assert random_place([View((1, 1), read, {"confidence": 1})], 0, 0) is None


# ---------------------------------------------------------------- effects


def swaps(
    effect: dict[str, list[float]], pairs: int = 12, noise: float = 0.02, seed: int = 0, measure: str = "confidence",
    anyway: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """Swaps whose donors of other confidence move a share `effect[position][layer]` of the gap, and all donors the
    share `anyway`, plus noise."""
    rng = np.random.default_rng(seed)
    lines = []
    for position, by_layer in effect.items():
        for layer, share in enumerate(by_layer):
            for pair in range(pairs):
                ends = np.random.default_rng([seed, pair]).uniform([0.6, 0.1], [0.9, 0.4])
                for way, own, other in (("up", ends[1], ends[0]), ("down", ends[0], ends[1])):
                    drift = anyway * (other - own)
                    for donors, to in (("other", share * (other - own) + drift), ("same", drift)):
                        lines.append({
                            "set": "sweep", "measure": measure, "position": position, "layer": layer, "pair": pair,
                            "way": way, "donors": donors, "recipient": 2 * pair + (way == "up"), "donor": 0, "at": 1,
                            "donor_at": 1, "before": own, "after": own + to + noise * rng.normal(),
                            "donor_value": other if donors == "other" else own,
                        })  # fmt: skip
    return pd.DataFrame(lines, columns=SWAPS.names)


def test_planted_shares_are_found_with_their_verdicts():
    planted = {"answer": [0.9, 0.7, 0.0, 0.0], "confidence": [0.0, 0.0, 1.0, 1.0], RANDOM: [0.0] * 4}
    table = effect_rows(swaps(planted), "sweep", 0.1, 500, 0)
    assert list(table.columns) == EFFECTS.names
    assert set(table["kind"]) == set(KINDS)
    for position, by_layer in planted.items():
        for layer, share in enumerate(by_layer):
            for kind in ("excess", "beyond") if position != RANDOM else ("excess",):
                line = pick(table, position=position, layer=layer, kind=kind, way="both").iloc[0]
                assert line["value"] == pytest.approx(share, abs=0.06)
                assert line["verdict"] == ((MOVES, STILL) if kind == "excess" else (MORE, NO_MORE))[not share]
                assert line["ci_low"] <= line["value"] <= line["ci_high"]
                assert line["pairs"] == 12
                assert line["n"] == 24
    sure = pick(table, position="answer", layer=0, kind="other")
    assert sorted(sure["way"]) == ["both", "down", "up"]
    assert np.allclose(sure["value"], 0.9, atol=0.1), "an unsure recipient goes up, a sure one down: both toward"
    assert chosen_layers(table) == {("confidence", "answer"): 0, ("confidence", "confidence"): 2}


def test_what_any_donor_does_is_no_effect():
    table = effect_rows(swaps({"answer": [0.0, 0.5], RANDOM: [0.0] * 2}, anyway=0.4), "sweep", 0.1, 500, 0)
    kinds = {(r["layer"], r["kind"]): r for r in records(pick(table, position="answer", way="both"))}
    assert kinds[0, "other"]["value"] == pytest.approx(0.4, abs=0.05)
    assert kinds[0, "same"]["value"] == pytest.approx(0.4, abs=0.05)
    assert kinds[0, "excess"]["value"] == pytest.approx(0.0, abs=0.05)
    assert kinds[0, "excess"]["verdict"] == STILL
    assert kinds[1, "other"]["value"] == pytest.approx(0.9, abs=0.05)
    assert kinds[1, "excess"]["value"] == pytest.approx(0.5, abs=0.05)
    assert kinds[1, "excess"]["verdict"] == MOVES


def test_q_is_of_claims_and_random_places_are_a_family_of_their_own():
    table = effect_rows(swaps({"answer": [0.5, 0.0], RANDOM: [0.0] * 2}, noise=0.1), "sweep", 0.05, 500, 0)
    own = pick(table, kind="excess", way="both", position="answer")
    p = own["p"].to_numpy(dtype=float)
    assert own["q"].to_numpy(dtype=float) == pytest.approx([min(1.0, 2 * p[0]), p[1]])
    assert np.isnan(pick(table, kind=["other", "same"])["q"].to_numpy(dtype=float)).all()
    assert np.isnan(pick(table, way="up")["q"].to_numpy(dtype=float)).all()


def test_of_answers_the_change_is_what_counts_either_way():
    made = swaps({"last_prompt": [0.0, 0.0], RANDOM: [0.0, 0.0]}, measure="answer")
    down = np.asarray((made["donors"] == "other") & (made["position"] == "last_prompt") & (made["layer"] == 1))
    made["after"] = made["after"] - 0.3 * down
    table = effect_rows(made.assign(donor_value=np.nan), "sweep", 0.05, 500, 0)
    line = pick(table, position="last_prompt", layer=1, kind="excess", way="both").iloc[0]
    assert line["value"] == pytest.approx(-0.3, abs=0.03)
    assert line["shift"] == pytest.approx(line["value"])
    assert line["verdict"] == MOVES
    assert pick(table, position="last_prompt", layer=0, kind="excess", way="both").iloc[0]["verdict"] == STILL
    assert chosen_layers(table)["answer", "last_prompt"] == 1


def by_donor(n: int, most: int, studies: int) -> pd.DataFrame:
    """Swaps in which each donor moves whoever receives it, whatever its confidence. A layer is a study of its own."""
    rng, lines, table = np.random.default_rng(n), [], items(n)
    stated, moves = table["confidence"].to_numpy(), rng.normal(size=(studies, n)) / 5
    for pair in records(pairs_of(table, 0.3, most, 0.02)):
        for swap in both_ways(pair):
            own = stated[swap.recipient]
            for donors, donor in swap.donors:
                shared = {
                    "set": "test", "measure": "confidence", "position": "answer", "pair": swap.pair, "way": swap.way,
                    "donors": donors, "recipient": swap.recipient, "donor": donor, "at": 1, "donor_at": 1,
                    "before": own, "donor_value": stated[donor],
                }  # fmt: skip
                after = own + moves[:, donor] + 0.02 * rng.normal(size=studies)
                lines += [shared | {"layer": k, "after": value} for k, value in enumerate(after)]
    return pd.DataFrame(lines, columns=SWAPS.names)


@pytest.mark.parametrize(("n", "most"), [(60, 9), (120, 16)])
def test_null_swaps_move_nothing_and_intervals_cover(n: int, most: int):
    found = pick(effect_rows(by_donor(n, most, 200), "test", 0.0, 400, 0), kind="excess", way="both")
    assert set(found["pairs"]) == {most}
    assert (found["p"].to_numpy(dtype=float) <= 0.05).sum() <= 19  # of 200, at a rate of .05
    covers = (found["ci_low"].to_numpy(dtype=float) <= 0) & (found["ci_high"].to_numpy(dtype=float) >= 0)
    assert covers.sum() >= 181
    assert MOVES not in set(found["verdict"])


def test_a_vector_that_carries_all_of_it_has_share_one_whoever_the_control_donors_are():
    made = swaps({"answer": [1.0]}, noise=0.0)
    same = np.asarray(made["donors"] == "same")
    near = made["before"] + 0.07
    made.loc[same, "donor_value"], made.loc[same, "after"] = near[same], near[same]
    line = pick(effect_rows(made, "sweep", 0.1, 200, 0), kind="excess", way="up").iloc[0]
    assert (line["value"], line["ci_low"], line["ci_high"]) == pytest.approx((1, 1, 1))


def test_few_pairs_have_wide_intervals_and_no_verdict():
    assert tail(10_000) == pytest.approx(0.025, abs=1e-4)
    assert tail(8) == pytest.approx(0.0057, abs=1e-4)
    for pairs, effect, wanted in ((5, 0.9, "undecided"), (5, 0.0, "undecided"), (6, 0.9, MOVES), (6, 0.0, STILL)):
        table = effect_rows(swaps({"answer": [effect]}, pairs), "test", 0.1, 1000, 0)
        assert set(pick(table, kind="excess", way="both")["verdict"]) == {wanted}


def test_depth_follows_the_effect_and_rounding_errors_have_none():
    planted = {"answer": [1, 0.7, 0.4, 0.1, 0.0], "confidence": [0, 0.2, 0.3, 0.6, 1.0], RANDOM: [0.0] * 5}
    table = depth_rows(swaps(planted, noise=0.01), 300, 0)
    found = {(r["position"], r["statistic"]): r["value"] for r in records(table)}
    assert found["answer", "spearman"] == pytest.approx(-1.0)
    assert found["confidence", "spearman"] == pytest.approx(1.0)
    assert found["answer to confidence", "handover"] == 3
    still = records(pick(depth_rows(swaps(planted, noise=1e-9), 300, 0), position=RANDOM))
    assert np.isnan([still[0]["value"], still[0]["ci_low"], still[0]["ci_high"]]).all()
    curves = np.array([[0.0, 0.5, 0.5, 1.0], [1.0, 0.0, 0.5, 0.2], [0.0, np.nan, 1.0, 2.0], [0.1, 0.1, 0.1, 0.1]])
    from scipy.stats import spearmanr

    wanted = [float(np.asarray(spearmanr(c, np.arange(4)))[0]) for c in curves[:2]]
    assert rank_correlations(curves)[:2] == pytest.approx(wanted)
    assert np.isnan(rank_correlations(curves)[2:]).all()


def test_the_handover_is_where_the_confidence_position_stays_ahead():
    assert handover(np.array([1, 1, 0.2, 0]), np.array([0, 0.5, 0.6, 1]), (0, 4, 8, 12)) == 8
    assert handover(np.array([1, 0, 1, 0]), np.array([0, 1, 0, 1]), (0, 4, 8, 12)) == 12
    assert np.isnan(handover(np.array([1, 1]), np.array([0, 0]), (0, 1)))
