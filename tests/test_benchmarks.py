"""The benchmarks measure what they say: rows and goals, interleaving, peers that compute the same values."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest

from benchmarks import peers, results, setting
from benchmarks.__main__ import run
from benchmarks.prompts import padding, prompts
from benchmarks.timing import Row, Times, cpu_row, interleave
from tests.tiny import tiny_folder


def test_a_row_is_met_by_its_sense_and_an_unmeasured_one_misses():
    assert Row("a", 0.6, 0.6).met is True
    assert Row("a", 0.61, 0.6).met is False
    assert Row("a", 1.79, 1.8, ">=").met is False
    assert Row("a", 1.8, 1.8, ">=").met is True
    assert Row("a", 3.0, None).met is None
    assert Row("a", None, 0.6).met is False
    assert Row("a", float("nan"), 0.6, ">=").met is False


def test_a_row_survives_json_with_the_promised_keys():
    row = Row("a / b", 0.5, 0.6, "<=", 3, 1.0, 2.0, note="n")
    values = json.loads(row.json())
    assert {"name", "ratio", "goal", "met", "runs"} <= values.keys()
    assert values["met"] is True
    assert Row.read(row.json()) == row
    assert json.loads(Row("a", float("nan"), 1.0).json())["ratio"] is None


def test_jobs_alternate_and_the_least_repeat_counts():
    order: list[str] = []

    def busy(name: str):
        def job() -> str:
            order.append(name)
            until = time.process_time() + (0.05 if order.count(name) == 1 else 0.01)
            while time.process_time() < until:
                pass
            return name

        return job

    seen: list[tuple[str, str]] = []
    times = interleave({"a": busy("a"), "b": busy("b")}, 3, lambda name, result: seen.append((name, result)))
    assert order == ["a", "b"] * 3
    assert seen == [("a", "a"), ("b", "b")]
    assert times["a"].least == min(times["a"].cpu) < times["a"].cpu[0]


def test_a_speed_up_is_theirs_over_ours():
    ours, theirs = Times([2.0, 1.0], [1.0, 1.0]), Times([3.0, 4.0], [1.0, 1.0])
    assert cpu_row("a", ours, theirs, 0.6).ratio == pytest.approx(1 / 3)
    assert cpu_row("a", ours, theirs, 1.8, ">=").ratio == pytest.approx(3)


def test_prompts_are_the_same_everywhere_and_of_mixed_length():
    assert prompts(128)[:20] == prompts(20)
    lengths = [len(text.split()) for text in prompts(128)]
    assert min(lengths) >= 9
    assert max(lengths) > 2.5 * np.median(lengths)
    assert len(set(prompts(128))) == 128


def test_padding_of_one_size_and_of_given_sizes():
    assert padding([1, 3, 2], 2) == pytest.approx((3 * 2 + 2) / 6)
    assert padding([1, 3, 2], [1, 2]) == pytest.approx((1 + 3 * 2) / 6)


@pytest.fixture(scope="module")
def tiny():
    here = setting.load(6, str(tiny_folder("llama")), batch_size=4, shard_rows=4)
    before = here.model.stop_ids
    setting.never_stop(here.model)
    yield here
    here.model.stop_ids = before


@pytest.mark.parametrize("body", [False, True])
def test_the_hooks_peer_keeps_the_values_that_we_capture(tiny, body):
    ours = setting.capture_in_memory(tiny, setting.texts_of(tiny))
    theirs = peers.capture(tiny.model.hf, tiny.tokens, 4, body=body)
    for layer in range(tiny.model.n_layers):
        a, b = setting.values_in_order(tiny, ours, layer), np.concatenate(theirs[layer])
        assert a.shape == b.shape == (sum(map(len, tiny.tokens)), tiny.model.d_model)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_what_goes_to_disk_is_what_is_kept_in_memory(tiny, tmp_path):
    stems = setting.write_generation(tiny, tmp_path / "source")
    folder = setting.capture_to_disk(tiny, tmp_path / "source", stems, tmp_path / "study")
    kept = setting.capture_in_memory(tiny, setting.texts_of(tiny))
    for number, gather in enumerate(kept):
        written = np.load(folder / f"activations/resid_post.1@all/{number:05d}.npy")
        assert written.tobytes() == np.concatenate(gather.parts[tiny.sites[1], "all"]).tobytes()


def test_every_side_decodes_the_same_tokens_and_keeps_the_same_activations(tiny):
    new, hf = 5, tiny.model.hf
    said, gathers = setting.generate_in_memory(tiny, new)
    once, states = peers.one_pass(hf, list(peers.in_order(tiny.tokens, 4)), new)
    twice, hooked = peers.two_pass(hf, tiny.tokens, new, 4)
    assert said == once == twice
    assert {len(row) for row in said} == {new}
    index = {row.row: row.index for shard in tiny.shards for batch in shard for row in batch}
    for place, position in enumerate(("last_prompt", "last")):
        for layer, site in enumerate(tiny.sites):
            whole = np.concatenate(hooked[layer])
            for gather in gathers:
                ours = np.concatenate(gather.parts[site, position])
                theirs = np.stack([whole[index[row], place] for row in gather.rows[position]])
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    first = np.concatenate([batch[0, :, 0] for batch in states])
    np.testing.assert_allclose(first, np.concatenate(hooked[0])[:, 0], rtol=1e-3, atol=1e-4)


def test_a_benchmark_that_fails_misses_its_goal(capfd):
    found = run("no_such_benchmark", sys.executable, 1, 1, 60)
    assert [row.met for row in found] == [False]
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["met"] is False


def test_the_page_names_what_was_missed():
    text = results.markdown([Row("a / b", 0.5, 0.6), Row("c / d", 2.0, 1.0)], 60.0, 1, (0.1, 1.0))
    assert "1 of 2 goals missed: c / d" in text
    assert "| a / b | 0.500 | <= 0.6 | yes |" in text
    assert "| c / d | 2.000 | <= 1 | **no** |" in text
    assert "torch" in text
    assert "Every goal is met" in results.markdown([Row("a", 0.5, 0.6)], 1.0, 1, (0.0, 0.0))
